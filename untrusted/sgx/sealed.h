/* A copy of a file that nobody can change any more: what is parsed, measured and mapped of it are the same bytes. */
#pragma once

#include <stdint.h>

#include "base/err.h"

/* size bytes of the file, in memory, sealed. The descriptor is the caller's and may be written through by nobody. ERR_NO_MEMORY, ERR_SYSTEM. */
struct err sealed_copy(int file_fd, uint64_t size, int *out_fd);

/*
 * Kernels before 6.7 map a descriptor that was opened for writing MAP_SHARED only if it is not sealed against
 * writing, whatever the protection: a copy is opened again read-only. ERR_SYSTEM.
 */
struct err sealed_reopen(int fd, int *out_fd);
