/*
 * The buffers of the connections, in memory that the caller gives: secret memory, as commands and responses pass
 * through it.
 *
 * Guarantees: a buffer that is handed out is zero from end to end; the one given back last is handed out first, since
 * the first touch of a secret page is dear.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "untrusted/front/protocol.h"

#define POOL_BUFFER_COUNT 16u

struct pool_buffer {
    uint8_t received[RECEIVE_MAX];
    uint8_t response[RESPONSE_MAX]; /* what the client has not taken yet */
};

#define POOL_MEMORY_SIZE (POOL_BUFFER_COUNT * sizeof(struct pool_buffer))

struct pool {
    struct pool_buffer *buffers;
    size_t free_count;
    uint8_t free[POOL_BUFFER_COUNT]; /* indices; the last free_count pushed are free */
};

/* memory: POOL_MEMORY_SIZE zeroed bytes, which stay the caller's. */
void pool_init(struct pool *pool, void *memory);

/* NULL if all are in use. */
struct pool_buffer *pool_take(struct pool *pool);

/* The caller has wiped what it used. *buffer is NULL afterwards; safe on NULL. */
void pool_give(struct pool *pool, struct pool_buffer **buffer);
