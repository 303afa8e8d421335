#include "tests/fakes/assertions.h"

#include <string.h>

#include "untrusted/daemon/effects.h"

static uint8_t bytes[4096];
static struct effects effects;

static void begin(struct writer *w)
{
    *w = writer_of(bytes, sizeof bytes);
    assert_ok(write_u64(w, 0));
}

static void put(struct writer *w, uint32_t kind, struct span payload)
{
    uint8_t *padding = NULL;
    assert_ok(write_u32(w, kind));
    assert_ok(write_u32(w, (uint32_t)payload.size));
    assert_ok(write_span(w, payload));
    assert_ok(write_zeros(w, (8 - payload.size % 8) % 8, &padding));
}

static struct span end(const struct writer *w)
{
    uint32_t size = (uint32_t)(w->size - 8);
    memcpy(bytes + 4, &size, sizeof size);
    return writer_span(w);
}

/* A record with one effect. */
static struct span record(uint32_t kind, struct span payload)
{
    struct writer w;
    begin(&w);
    put(&w, kind, payload);
    return end(&w);
}

static struct err parse(struct span output)
{
    bool parsed = false;
    struct err result = effects_parse(output, &effects, &parsed);
    if (!result.code) assert_true(parsed);
    return result;
}

static uint8_t store_bytes[512];

static struct span store_payload(void)
{
    struct writer w = writer_of(store_bytes, sizeof store_bytes);
    assert_ok(write_u64(&w, 9));
    assert_ok(write_u32(&w, 1));
    assert_ok(write_u32(&w, 0));
    assert_ok(write_u32(&w, 4));
    assert_ok(write_bytes(&w, "head", 4));
    assert_ok(write_u32(&w, 0));
    assert_ok(write_u32(&w, 5));
    assert_ok(write_bytes(&w, "0123456789abcdef", 16));
    assert_ok(write_u64(&w, 77));
    assert_ok(write_u32(&w, 3));
    assert_ok(write_bytes(&w, "row", 3));
    return writer_span(&w);
}

static uint8_t anchor_bytes[17 + ANCHOR_EXCHANGE_MAX];

static struct span anchor_payload(uint64_t number, uint64_t kind, size_t request_size)
{
    memcpy(anchor_bytes, &number, sizeof number);
    memcpy(anchor_bytes + 8, &kind, sizeof kind);
    memset(anchor_bytes + 16, 'r', request_size);
    return span_of(anchor_bytes, 16 + request_size);
}

static struct span store_and_anchor(uint64_t number)
{
    struct writer w;
    begin(&w);
    put(&w, MANAGER_EFFECT_STORE, store_payload());
    put(&w, MANAGER_EFFECT_ANCHOR, anchor_payload(number, ANCHOR_TPM, 5));
    return end(&w);
}

static void a_store_has_its_parts(void **state)
{
    (void)state;
    assert_ok(parse(store_and_anchor(9)));
    assert_int_equal(effects.count, 2);
    assert_int_equal(effects.list[0].number, 9);
    assert_memory_equal(effects.head.data, "head", 4);
    assert_int_equal(effects.master.size, 0);
    assert_int_equal(effects.row_count, 1);
    assert_int_equal(effects.rows[0].slot, 5);
    assert_int_equal(effects.rows[0].version, 77);
    assert_memory_equal(effects.rows[0].blob.data, "row", 3);
    assert_int_equal(effects.list[1].number, 9);
    assert_int_equal(effects.list[1].anchor, ANCHOR_TPM);
    assert_int_equal(effects.list[1].bytes.size, 5);
}

static void every_cut_of_a_record_is_refused(void **state)
{
    (void)state;
    const struct span whole = store_and_anchor(9);
    for (size_t size = 0; size < whole.size; size++)
        assert_true(parse(span_of(whole.data, size)).code);
}

static void a_second_store_is_refused(void **state)
{
    (void)state;
    struct writer w;
    begin(&w);
    put(&w, MANAGER_EFFECT_STORE, store_payload());
    put(&w, MANAGER_EFFECT_STORE, store_payload());
    put(&w, MANAGER_EFFECT_ANCHOR, anchor_payload(9, ANCHOR_FILE, 5));
    assert_err(parse(end(&w)), BAD_VALUE);
}

static void a_store_comes_with_its_exchange_behind_it(void **state)
{
    (void)state;
    struct writer w;
    assert_err(parse(record(MANAGER_EFFECT_STORE, store_payload())), BAD_VALUE);
    assert_err(parse(store_and_anchor(8)), BAD_VALUE);
    begin(&w);
    put(&w, MANAGER_EFFECT_ANCHOR, anchor_payload(9, ANCHOR_FILE, 5));
    put(&w, MANAGER_EFFECT_STORE, store_payload());
    assert_err(parse(end(&w)), BAD_VALUE);
}

static void an_exchange_is_checked(void **state)
{
    (void)state;
    struct writer w;
    assert_ok(parse(record(MANAGER_EFFECT_ANCHOR, anchor_payload(9, ANCHOR_FILE, ANCHOR_EXCHANGE_MAX))));
    assert_err(parse(record(MANAGER_EFFECT_ANCHOR, anchor_payload(9, ANCHOR_FILE, ANCHOR_EXCHANGE_MAX + 1))),
               TOO_LARGE);
    assert_err(parse(record(MANAGER_EFFECT_ANCHOR, anchor_payload(9, ANCHOR_FILE, 0))), BAD_VALUE);
    assert_err(parse(record(MANAGER_EFFECT_ANCHOR, anchor_payload(9, 0, 5))), BAD_VALUE);
    assert_err(parse(record(MANAGER_EFFECT_ANCHOR, anchor_payload(9, 3, 5))), BAD_VALUE);
    assert_err(parse(record(MANAGER_EFFECT_ANCHOR, anchor_payload(9, ANCHOR_FILE | 0x100, 5))), BAD_VALUE);
    begin(&w);
    put(&w, MANAGER_EFFECT_ANCHOR, anchor_payload(9, ANCHOR_FILE, 5));
    put(&w, MANAGER_EFFECT_ANCHOR, anchor_payload(9, ANCHOR_FILE, 5));
    assert_err(parse(end(&w)), BAD_VALUE);
}

static void padding_kinds_and_sizes_are_strict(void **state)
{
    (void)state;
    struct span send = record(MANAGER_EFFECT_SEND, span_of("12345678m", 9));
    assert_ok(parse(send));
    bytes[send.size - 1] = 1;
    assert_err(parse(send), BAD_VALUE);
    assert_err(parse(record(99, span_of("x", 1))), BAD_VALUE);
    assert_err(parse(record(0, span_of("x", 1))), BAD_VALUE);
    assert_err(parse(record(MANAGER_EFFECT_SEND, span_of("12345678", 8))), BAD_VALUE);
    assert_err(parse(record(MANAGER_EFFECT_LINK, span_of(store_bytes, 65))), TRAILING);
    assert_err(parse(record(MANAGER_EFFECT_CLOSE, span_of("12345678\0\0\0\0\0\0\0\0", 16))), BAD_VALUE);
    assert_ok(parse(record(MANAGER_EFFECT_CLOSE, span_of("12345678\1\0\0\0\0\0\0\0", 16))));
    assert_err(parse(record(MANAGER_EFFECT_CLOSE, span_of("12345678\1\0\0\0\0\0\0\1", 16))), BAD_VALUE);
}

static void the_handlers_code_is_told_from_a_broken_record(void **state)
{
    (void)state;
    bool parsed = false;
    static const uint8_t refused[8] = {160, 0, 0, 0, 0, 0, 0, 0};
    static const uint8_t broken[9] = {160, 0, 0, 0, 1, 0, 0, 0, 7};
    assert_err(effects_parse(span_of(refused, sizeof refused), &effects, &parsed), NO_INSTANCE);
    assert_true(parsed);
    assert_true(effects_parse(span_of(broken, sizeof broken), &effects, &parsed).code);
    assert_false(parsed);
}

static void a_row_is_checked(void **state)
{
    (void)state;
    uint8_t row_bytes[MANAGER_ROW_SIZE] = {7, 0, 0, 0, MANAGER_HELD, 1, 0, 1};
    row_bytes[sizeof row_bytes - 8] = PEER_LOCKOUT_TIME;
    struct manager_row row;
    struct reader r = reader_of(span_of(row_bytes, sizeof row_bytes));
    assert_ok(effects_read_row(&r, &row));
    assert_int_equal(r.left, 0);
    assert_int_equal(row.slot, 7);
    assert_true(row.has_owner);
    assert_false(row.has_front_key);
    row_bytes[4] = MANAGER_MOVED + 1;
    r = reader_of(span_of(row_bytes, sizeof row_bytes));
    assert_err(effects_read_row(&r, &row), BAD_VALUE);
    row_bytes[4] = MANAGER_HELD;
    memset(row_bytes + 24, 'a', MANAGER_LABEL_SIZE); /* no end */
    r = reader_of(span_of(row_bytes, sizeof row_bytes));
    assert_err(effects_read_row(&r, &row), BAD_VALUE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_store_has_its_parts),
        cmocka_unit_test(every_cut_of_a_record_is_refused),
        cmocka_unit_test(a_second_store_is_refused),
        cmocka_unit_test(a_store_comes_with_its_exchange_behind_it),
        cmocka_unit_test(an_exchange_is_checked),
        cmocka_unit_test(padding_kinds_and_sizes_are_strict),
        cmocka_unit_test(the_handlers_code_is_told_from_a_broken_record),
        cmocka_unit_test(a_row_is_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
