#include "untrusted/front/pool.h"

void pool_init(struct pool *pool, void *memory)
{
    *pool = (struct pool){.buffers = memory, .free_count = POOL_BUFFER_COUNT};
    for (size_t i = 0; i < POOL_BUFFER_COUNT; i++)
        pool->free[i] = (uint8_t)(POOL_BUFFER_COUNT - 1 - i);
}

struct pool_buffer *pool_take(struct pool *pool)
{
    if (pool->free_count == 0) return NULL;
    return &pool->buffers[pool->free[--pool->free_count]];
}

void pool_give(struct pool *pool, struct pool_buffer **buffer)
{
    if (!*buffer) return;
    pool->free[pool->free_count++] = (uint8_t)(*buffer - pool->buffers);
    *buffer = NULL;
}
