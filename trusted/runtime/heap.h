/*
 * The enclave's heap: behind malloc and free of its C library.
 *
 * Guarantees: it never grows beyond its section; what it hands out is zero, whatever the host put into its pages, which
 * are not measured; what is freed is wiped; a double free, a free of anything else and a write behind a block's end
 * are found when the block or its neighbour is freed, and panic. A page is touched only when it is needed.
 * Not guaranteed: that a write far beyond a block's end is found.
 */
#pragma once

#include <stddef.h>

/* Zeroed memory aligned to 16 bytes, or NULL. Size 0 gives a block too. The caller frees it. */
void *heap_allocate(size_t size);

/* NULL is allowed. Wipes. */
void heap_free(void *memory);

/* The size that the block was asked for, bytes. */
size_t heap_size(const void *memory);

/* Wipes all that was ever handed out; the heap cannot be used afterwards. */
void heap_wipe(void);
