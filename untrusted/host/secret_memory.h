/*
 * Memory that the kernel's reading interfaces refuse, to root too: memfd_secret(2).
 *
 * Guarantees: the descriptor is closed before the memory is handed out, because whoever gets hold of an open one
 * (pidfd_getfd) reads everything through it; the memory is not in core dumps and not in a forked child; a page that
 * faults lies before and behind a block. It does not guard against code in this process, nor against a debugger that
 * makes this process read it, nor against a kernel that was changed.
 *
 * The kernel counts every mapped byte against RLIMIT_MEMLOCK, touched or not (CAP_IPC_LOCK is exempt).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct secret_memory {
    void *data;
    size_t size; /* bytes, a multiple of a page; the guard pages come on top */
};

/*
 * Allocates zeroed memory of at least size bytes. ordinary: the operator accepted memory without this protection; the
 * guards, DONTFORK and DONTDUMP stay. ERR_NO_SECRET_MEMORY, ERR_MEMLOCK, ERR_NO_MEMORY.
 */
struct err secret_memory_open(size_t size, bool ordinary, struct secret_memory *out_memory);

/* Wipes and unmaps. Safe on a zeroed structure. */
void secret_memory_close(struct secret_memory *memory);

/*
 * Parts, for a caller that lays out an address range itself. The descriptor has size bytes of secret memory; the
 * caller maps all of it and closes the descriptor at once. ERR_NO_SECRET_MEMORY, ERR_NO_MEMORY.
 */
struct err secret_memory_descriptor(size_t size, int *out_fd);

/* Maps size bytes from offset of such a descriptor, read-write, over what is at address. ERR_MEMLOCK, ERR_NO_MEMORY. */
struct err secret_memory_map_at(int fd, size_t offset, void *address, size_t size);

/* Overwrites the pages of a range that were ever touched; the others are zero already, or not mapped. */
void secret_memory_wipe_touched(void *data, size_t size);
