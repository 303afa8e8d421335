#include "tests/fakes/assertions.h"

#include "trusted/anchor/anchor.h"

static struct crypto crypto;
static uint8_t request[ANCHOR_EXCHANGE_MAX];
static const uint8_t zeros[ANCHOR_VALUE_SIZE];

static struct anchor *defined(struct writer *w)
{
    struct anchor *anchor;
    *w = writer_of(request, sizeof request);
    assert_ok(anchor_define(&crypto, ANCHOR_FILE, 0, span_empty(), w, &anchor));
    return anchor;
}

static void a_new_anchor_reads_what_the_file_says(void **state)
{
    (void)state;
    static const uint8_t expected[ANCHOR_FILE_REQUEST_SIZE] = {ANCHOR_FILE_READ};
    static const uint8_t value[ANCHOR_VALUE_SIZE] = "what the file says";
    struct anchor_state there = {0};
    struct writer w;
    struct anchor *anchor = defined(&w);
    assert_int_equal(w.size, sizeof expected);
    assert_memory_equal(request, expected, sizeof expected);
    assert_ok(anchor_answer(anchor, span_of(value, sizeof value), &w, &there));
    assert_true(there.done);
    assert_memory_equal(there.value, value, sizeof value);
    anchor_close(&anchor);
    assert_null(anchor);
}

static void a_move_asks_for_the_next_value_of_the_chain(void **state)
{
    (void)state;
    /* printf '%64s' | tr ' ' '\0' | sha256sum */
    static const uint8_t next[] = {0xf5, 0xa5, 0xfd, 0x42, 0xd1, 0x6a, 0x20, 0x30, 0x27, 0x98, 0xef,
                                   0x6e, 0xd3, 0x09, 0x97, 0x9b, 0x43, 0x00, 0x3d, 0x23, 0x20, 0xd9,
                                   0xf0, 0xe8, 0xea, 0x98, 0x31, 0xa9, 0x27, 0x59, 0xfb, 0x4b};
    struct anchor_state there = {0};
    struct writer w;
    struct anchor *anchor = defined(&w);
    assert_ok(anchor_answer(anchor, span_of(zeros, sizeof zeros), &w, &there));
    w = writer_of(request, sizeof request);
    assert_ok(anchor_move(anchor, zeros, zeros, &w));
    assert_int_equal(w.size, ANCHOR_FILE_REQUEST_SIZE);
    assert_int_equal(request[0], ANCHOR_FILE_MOVE);
    assert_memory_equal(request + 8, zeros, sizeof zeros);
    assert_memory_equal(request + 8 + ANCHOR_VALUE_SIZE, next, sizeof next);
    assert_err(anchor_move(anchor, zeros, zeros, &w), CALL_STATE);
    assert_err(anchor_read(anchor, &w), CALL_STATE);
    assert_ok(anchor_answer(anchor, span_of(next, sizeof next), &w, &there));
    assert_err(anchor_answer(anchor, span_of(next, sizeof next), &w, &there), CALL_STATE);
    anchor_close(&anchor);
}

static void an_answer_of_another_size_ends_it(void **state)
{
    (void)state;
    static const uint8_t long_one[ANCHOR_VALUE_SIZE + 1];
    static const size_t sizes[] = {0, ANCHOR_VALUE_SIZE - 1, ANCHOR_VALUE_SIZE + 1};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct anchor_state there = {0};
        struct writer w;
        struct anchor *anchor = defined(&w);
        assert_err(anchor_answer(anchor, span_of(long_one, sizes[i]), &w, &there), ANCHOR_ANSWER);
        assert_false(there.done);
        assert_err(anchor_read(anchor, &w), CALL_STATE);
        anchor_close(&anchor);
    }
}

static void a_configuration_survives_its_encoding(void **state)
{
    (void)state;
    uint8_t bytes[ANCHOR_CONFIG_SIZE];
    struct anchor_config config = {.kind = ANCHOR_FILE}, read;
    struct writer w = writer_of(bytes, sizeof bytes);
    assert_ok(anchor_config_write(&config, &w));
    assert_int_equal(w.size, sizeof bytes);
    struct reader r = reader_of(writer_span(&w));
    assert_ok(anchor_config_parse(&r, &read));
    assert_ok(reader_end(&r));
    assert_memory_equal(&read, &config, sizeof config);
}

static void a_configuration_that_was_never_written_is_refused(void **state)
{
    (void)state;
    uint8_t bytes[ANCHOR_CONFIG_SIZE];
    struct anchor_config config = {.kind = ANCHOR_FILE}, read;
    struct writer w = writer_of(bytes, sizeof bytes);
    assert_ok(anchor_config_write(&config, &w));
    assert_err(anchor_config_write(&config, &w), NO_SPACE);
    for (size_t i = 0; i < sizeof bytes; i++) {
        struct reader r = reader_of(span_of(bytes, i));
        assert_err(anchor_config_parse(&r, &read), TRUNCATED);
        bytes[i] ^= 0x80;
        r = reader_of(span_of(bytes, sizeof bytes));
        assert_err(anchor_config_parse(&r, &read), BAD_VALUE);
        bytes[i] ^= 0x80;
    }
}

static void only_a_tpm_has_an_index_and_an_owner(void **state)
{
    (void)state;
    struct anchor *anchor;
    struct writer w = writer_of(request, sizeof request);
    assert_err(anchor_define(&crypto, ANCHOR_FILE, 0x01c00001, span_empty(), &w, &anchor), BAD_VALUE);
    assert_err(anchor_define(&crypto, ANCHOR_FILE, 0, span_of("owner", 5), &w, &anchor), BAD_VALUE);
    assert_err(anchor_define(&crypto, (enum anchor_kind)3, 0, span_empty(), &w, &anchor), BAD_VALUE);
    assert_int_equal(w.size, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_anchor_reads_what_the_file_says),
        cmocka_unit_test(a_move_asks_for_the_next_value_of_the_chain),
        cmocka_unit_test(an_answer_of_another_size_ends_it),
        cmocka_unit_test(a_configuration_survives_its_encoding),
        cmocka_unit_test(a_configuration_that_was_never_written_is_refused),
        cmocka_unit_test(only_a_tpm_has_an_index_and_an_owner),
    };
    if (crypto_init(&crypto).code) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
