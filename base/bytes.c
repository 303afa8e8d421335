#include "base/bytes.h"

#include <string.h>

static struct err take(struct reader *r, size_t size, const uint8_t **out)
{
    ENSURE(size <= r->left, TRUNCATED);
    *out = r->next;
    if (size) r->next += size; /* an empty span may have no address */
    r->left -= size;
    return OK;
}

static struct err read_little(struct reader *r, size_t size, uint64_t *out)
{
    const uint8_t *bytes = NULL;
    TRY(take(r, size, &bytes));
    uint64_t value = 0;
    for (size_t i = 0; i < size; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    *out = value;
    return OK;
}

static struct err read_big(struct reader *r, size_t size, uint64_t *out)
{
    const uint8_t *bytes = NULL;
    TRY(take(r, size, &bytes));
    uint64_t value = 0;
    for (size_t i = 0; i < size; i++)
        value = value << 8 | bytes[i];
    *out = value;
    return OK;
}

struct err read_u8(struct reader *r, uint8_t *out)
{
    uint64_t value = 0;
    TRY(read_little(r, sizeof *out, &value));
    *out = (uint8_t)value;
    return OK;
}

struct err read_u16(struct reader *r, uint16_t *out)
{
    uint64_t value = 0;
    TRY(read_little(r, sizeof *out, &value));
    *out = (uint16_t)value;
    return OK;
}

struct err read_u32(struct reader *r, uint32_t *out)
{
    uint64_t value = 0;
    TRY(read_little(r, sizeof *out, &value));
    *out = (uint32_t)value;
    return OK;
}

struct err read_u64(struct reader *r, uint64_t *out)
{
    return read_little(r, sizeof *out, out);
}

struct err read_be16(struct reader *r, uint16_t *out)
{
    uint64_t value = 0;
    TRY(read_big(r, sizeof *out, &value));
    *out = (uint16_t)value;
    return OK;
}

struct err read_be32(struct reader *r, uint32_t *out)
{
    uint64_t value = 0;
    TRY(read_big(r, sizeof *out, &value));
    *out = (uint32_t)value;
    return OK;
}

struct err read_bytes(struct reader *r, void *out, size_t size)
{
    const uint8_t *bytes = NULL;
    TRY(take(r, size, &bytes));
    if (size) memcpy(out, bytes, size);
    return OK;
}

struct err read_span(struct reader *r, size_t size, struct span *out)
{
    const uint8_t *bytes = NULL;
    TRY(take(r, size, &bytes));
    *out = span_of(bytes, size);
    return OK;
}

struct err reader_end(const struct reader *r)
{
    ENSURE(r->left == 0, TRAILING);
    return OK;
}

static struct err reserve(struct writer *w, size_t size, uint8_t **out)
{
    ENSURE(size <= w->capacity - w->size, NO_SPACE);
    *out = w->start + w->size;
    w->size += size;
    return OK;
}

static struct err write_little(struct writer *w, uint64_t value, size_t size)
{
    uint8_t *bytes = NULL;
    TRY(reserve(w, size, &bytes));
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
    return OK;
}

static struct err write_big(struct writer *w, uint64_t value, size_t size)
{
    uint8_t *bytes = NULL;
    TRY(reserve(w, size, &bytes));
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(value >> (8 * (size - 1 - i)));
    return OK;
}

struct err write_u8(struct writer *w, uint8_t value)
{
    return write_little(w, value, sizeof value);
}

struct err write_u16(struct writer *w, uint16_t value)
{
    return write_little(w, value, sizeof value);
}

struct err write_u32(struct writer *w, uint32_t value)
{
    return write_little(w, value, sizeof value);
}

struct err write_u64(struct writer *w, uint64_t value)
{
    return write_little(w, value, sizeof value);
}

struct err write_be16(struct writer *w, uint16_t value)
{
    return write_big(w, value, sizeof value);
}

struct err write_be32(struct writer *w, uint32_t value)
{
    return write_big(w, value, sizeof value);
}

struct err write_bytes(struct writer *w, const void *data, size_t size)
{
    uint8_t *bytes = NULL;
    TRY(reserve(w, size, &bytes));
    if (size) memcpy(bytes, data, size);
    return OK;
}

struct err write_span(struct writer *w, struct span bytes)
{
    return write_bytes(w, bytes.data, bytes.size);
}

struct err write_zeros(struct writer *w, size_t size, uint8_t **out)
{
    uint8_t *bytes = NULL;
    TRY(reserve(w, size, &bytes));
    if (size) memset(bytes, 0, size);
    *out = bytes;
    return OK;
}
