#include "tests/fakes/exports.h"

#include <string.h>

#include "tests/fakes/assertions.h"

struct span u32_of(uint32_t value, uint8_t out[4])
{
    for (size_t i = 0; i < 4; i++)
        out[i] = (uint8_t)(value >> 8 * i);
    return span_of(out, 4);
}

uint16_t exports_begin(struct client *c, struct bundle *out)
{
    struct reader r = reader_of(client_run(c, K2_EXPORT, span_empty()));
    uint32_t volatile_size = 0;
    if (c->code) return c->code;
    assert_ok(read_u32(&r, &out->permanent_size));
    assert_ok(read_u32(&r, &volatile_size));
    out->size = out->permanent_size + volatile_size;
    assert_in_range(out->size, 1000, sizeof out->bytes);
    return ERR_NONE;
}

void exports_read(struct client *c, struct bundle *out)
{
    assert_int_equal(exports_begin(c, out), ERR_NONE);
    for (size_t offset = 0; offset < out->size;) {
        uint8_t bytes[4];
        struct span part = client_run(c, K2_EXPORT_READ, u32_of((uint32_t)offset, bytes));
        assert_int_equal(c->code, ERR_NONE);
        assert_in_range(part.size, 1, out->size - offset);
        memcpy(out->bytes + offset, part.data, part.size);
        offset += part.size;
    }
}

void exports_open_candidate(const struct client *holder, struct client *out)
{
    memset(out, 0, sizeof *out);
    out->manager = holder->manager;
    out->manager.peer = (struct peer){0};
    out->manager.incoming = true;
    enclave_process_start(&out->enclave);
    client_provision(out);
    assert_int_equal(client_load(out, &out->stored), ERR_NONE);
    client_carry(out);
    assert_true(out->manager.ready);
    client_link(out);
}

uint16_t exports_give_part(struct client *c, uint32_t size, uint32_t offset, struct span part)
{
    uint8_t bytes[K2_PART_HEADER + K2_PART_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);
    assert_ok(write_u32(&w, size));
    assert_ok(write_u32(&w, offset));
    assert_ok(write_span(&w, part));
    (void)client_run(c, K2_BUNDLE, writer_span(&w));
    return c->code;
}

void exports_give(struct client *c, const struct bundle *bundle)
{
    for (size_t offset = 0; offset < bundle->size;) {
        size_t size = bundle->size - offset < K2_PART_MAX ? bundle->size - offset : K2_PART_MAX;
        const struct span part = span_of(bundle->bytes + offset, size);
        assert_int_equal(exports_give_part(c, (uint32_t)bundle->size, (uint32_t)offset, part), ERR_NONE);
        offset += size;
    }
}

uint16_t exports_check(struct client *c)
{
    (void)client_run(c, K2_RESET, span_empty());
    return c->code;
}
