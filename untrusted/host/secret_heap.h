/*
 * Secret memory for what libcrypto allocates while it is given a key that stays: the key schedules of a link.
 *
 * Guarantees: what libcrypto allocates between begin and end lies in secret memory, whenever it is freed; freed blocks are
 * wiped; when there is no room the allocation fails. What it allocates at other times is the C library's. For one thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

/*
 * Before the first use of libcrypto in this process, once; there is no way back. ordinary: as secret_memory_open.
 * ERR_NO_SECRET_MEMORY, ERR_MEMLOCK, ERR_NO_MEMORY, ERR_CRYPTO (libcrypto has allocated already).
 */
struct err secret_heap_open(bool ordinary);

void secret_heap_begin(void);
void secret_heap_end(void);

/* True if memory is a block of the secret heap. */
bool secret_heap_owns(const void *memory);
