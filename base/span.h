/* Bytes that somebody else owns. A span never owns, never allocates and is never NULL with a size. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct span {
    const uint8_t *data;
    size_t size; /* bytes */
};

static inline struct span span_of(const void *data, size_t size)
{
    return (struct span){.data = data, .size = size};
}

static inline struct span span_empty(void)
{
    return (struct span){0};
}
