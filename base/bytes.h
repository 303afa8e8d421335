/*
 * Reading and writing records: little-endian, fixed width, no pointer, no padding.
 *
 * Hostile bytes live in a reader until they have been parsed. Neither reader nor writer
 * ever goes past its bounds: a read or write that does not fit returns an error and moves
 * nothing. Big-endian forms exist because TPM structures are big-endian
 * (TPM 2.0 Library, Part 1, 7.4 "Byte order").
 */
#pragma once

#include "base/err.h"
#include "base/span.h"

struct reader {
    const uint8_t *next;
    size_t left; /* bytes */
};

struct writer {
    uint8_t *start;
    size_t size;     /* bytes written */
    size_t capacity; /* bytes */
};

static inline struct reader reader_of(struct span bytes)
{
    return (struct reader){.next = bytes.data, .left = bytes.size};
}

static inline struct writer writer_of(void *start, size_t capacity)
{
    return (struct writer){.start = start, .size = 0, .capacity = capacity};
}

static inline struct span writer_span(const struct writer *w)
{
    return span_of(w->start, w->size);
}

/* ERR_TRUNCATED if fewer bytes are left. Outputs are written only on success. */
struct err read_u8(struct reader *r, uint8_t *out);
struct err read_u16(struct reader *r, uint16_t *out);
struct err read_u32(struct reader *r, uint32_t *out);
struct err read_u64(struct reader *r, uint64_t *out);
struct err read_be16(struct reader *r, uint16_t *out);
struct err read_be32(struct reader *r, uint32_t *out);
/* Copies exactly size bytes to out. */
struct err read_bytes(struct reader *r, void *out, size_t size);
/* Hands out a span of exactly size bytes that still belongs to the reader's memory. */
struct err read_span(struct reader *r, size_t size, struct span *out);
/* ERR_TRAILING unless everything was read. */
struct err reader_end(const struct reader *r);

/* ERR_NO_SPACE if it does not fit; nothing is written then. */
struct err write_u8(struct writer *w, uint8_t value);
struct err write_u16(struct writer *w, uint16_t value);
struct err write_u32(struct writer *w, uint32_t value);
struct err write_u64(struct writer *w, uint64_t value);
struct err write_be16(struct writer *w, uint16_t value);
struct err write_be32(struct writer *w, uint32_t value);
struct err write_bytes(struct writer *w, const void *data, size_t size);
struct err write_span(struct writer *w, struct span bytes);
/* Reserves size zeroed bytes and points out to them. */
struct err write_zeros(struct writer *w, size_t size, uint8_t **out);
