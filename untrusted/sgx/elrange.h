/*
 * The addresses of an enclave. They lie below ELRANGE_LIMIT, where neither the kernel nor the loader puts anything by
 * itself: below all mappings, even with an unlimited stack or the legacy layout, below a position-independent program
 * and its heap. So one compare tells an enclave's address from one of the host's code.
 */
#pragma once

#include "base/err.h"

#define ELRANGE_LIMIT (UINT64_C(20) << 40)

/* Reserves size bytes, a power of two, at a multiple of size and without any permission. ERR_NO_MEMORY, ERR_SYSTEM. */
struct err elrange_reserve(uint64_t size, uint64_t *out_base);

/*
 * From now on a system call of the calling thread from below ELRANGE_LIMIT kills the process (SIGSYS): syscall user
 * dispatch, which neither another thread nor a child has. The process's own code could end it. ERR_SANDBOX.
 */
struct err elrange_confine_thread(void);
