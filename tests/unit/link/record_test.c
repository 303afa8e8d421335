#include "tests/fakes/assertions.h"

#include <string.h>

#include "link/record.h"

static struct crypto crypto;
static const uint8_t id[RECORD_SESSION_ID_SIZE] = "a session";
static const struct record_direction there = {.key = {1}, .iv = {2}};
static const struct record_direction back = {.key = {3}, .iv = {4}};
static struct record_session a, b;
static uint8_t record[RECORD_MAX + 1], plaintext[RECORD_PLAINTEXT_MAX + 1];

static int open_sessions(void **state)
{
    (void)state;
    assert_ok(record_session_open(&crypto, id, &there, &back, &a));
    assert_ok(record_session_open(&crypto, id, &back, &there, &b));
    return 0;
}

static int close_sessions(void **state)
{
    (void)state;
    record_session_close(&a);
    record_session_close(&b);
    return 0;
}

static struct span seal(struct record_session *session, enum record_type type, struct span text)
{
    struct writer w = writer_of(record, sizeof record);
    assert_ok(record_seal(session, type, text, &w));
    return writer_span(&w);
}

static struct err open_one(struct record_session *session, struct span bytes, enum record_type *out_type,
                           size_t *out_size)
{
    return record_open(session, bytes, out_type, plaintext, out_size);
}

static void both_directions_carry_records_of_each_type_and_size(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 100, RECORD_PLAINTEXT_MAX};
    static uint8_t text[RECORD_PLAINTEXT_MAX];
    enum record_type type;
    size_t size;
    memset(text, 0x5A, sizeof text);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        assert_ok(open_one(&b, seal(&a, RECORD_DATA, span_of(text, sizes[i])), &type, &size));
        assert_int_equal(type, RECORD_DATA);
        assert_int_equal(size, sizes[i]);
        assert_memory_equal(plaintext, text, size);
        assert_ok(open_one(&a, seal(&b, RECORD_FINISH, span_of(text, sizes[i])), &type, &size));
        assert_int_equal(type, RECORD_FINISH);
        assert_int_equal(size, sizes[i]);
    }
}

static void the_header_is_as_it_is_drawn(void **state)
{
    (void)state;
    static const uint8_t expected[RECORD_HEADER_SIZE] = {2, 0, 0, 0, 5, 0, 0, 0, 0x04, 0x03, 0x02, 0x01};
    a.sent = 0x01020304;
    struct span bytes = seal(&a, RECORD_DATA, span_of("12345", 5));
    assert_int_equal(bytes.size, RECORD_OVERHEAD + 5);
    assert_memory_equal(bytes.data, expected, sizeof expected);
}

static void a_plaintext_above_the_limit_is_refused_and_the_session_goes_on(void **state)
{
    (void)state;
    struct writer w = writer_of(record, sizeof record);
    assert_err(record_seal(&a, RECORD_DATA, span_of(plaintext, RECORD_PLAINTEXT_MAX + 1), &w), TOO_LARGE);
    assert_int_equal(w.size, 0);
    assert_ok(record_seal(&a, RECORD_DATA, span_of("x", 1), &w));
    assert_int_equal(a.sent, 1);
}

static void too_little_room_writes_nothing_and_the_session_goes_on(void **state)
{
    (void)state;
    enum record_type type;
    size_t size;
    struct writer w = writer_of(record, RECORD_OVERHEAD + 4);
    assert_err(record_seal(&a, RECORD_DATA, span_of("12345", 5), &w), NO_SPACE);
    assert_int_equal(w.size, 0);
    assert_ok(record_seal(&a, RECORD_DATA, span_of("1234", 4), &w));
    assert_ok(open_one(&b, writer_span(&w), &type, &size));
}

static void nothing_is_sealed_after_final(void **state)
{
    (void)state;
    struct writer w = writer_of(record, sizeof record);
    seal(&a, RECORD_FINAL, span_empty());
    assert_err(record_seal(&a, RECORD_DATA, span_of("x", 1), &w), LINK_CLOSED);
    assert_err(record_seal(&a, RECORD_FINAL, span_empty(), &w), LINK_CLOSED);
}

/* Half of a session ends; the other half may still say what it has to. */
static void nothing_is_opened_after_final_but_the_other_direction_lives(void **state)
{
    (void)state;
    enum record_type type;
    size_t size;
    assert_ok(open_one(&b, seal(&a, RECORD_FINAL, span_empty()), &type, &size));
    assert_int_equal(type, RECORD_FINAL);
    a.final_sent = false; /* an end that does not keep to it */
    assert_err(open_one(&b, seal(&a, RECORD_DATA, span_of("x", 1)), &type, &size), LINK_CLOSED);
    assert_ok(open_one(&a, seal(&b, RECORD_DATA, span_of("y", 1)), &type, &size));
}

static void the_session_closes_before_a_sequence_number_repeats(void **state)
{
    (void)state;
    enum record_type type;
    size_t size;
    struct writer w = writer_of(record, sizeof record);
    a.sent = b.received = UINT64_MAX - 1;
    assert_ok(open_one(&b, seal(&a, RECORD_DATA, span_of("x", 1)), &type, &size));
    assert_err(record_seal(&a, RECORD_DATA, span_of("x", 1), &w), LINK_CLOSED);
    assert_false(a.open);
    assert_null(a.seal.ctx);
}

/* By somebody who has the keys and does not stop there: one more, and the numbers would begin anew. */
static void the_last_sequence_number_is_not_accepted_either(void **state)
{
    (void)state;
    enum record_type type;
    size_t size;
    struct aead_key key = {.iv = {2, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}};
    uint8_t aad[RECORD_SESSION_ID_SIZE + RECORD_HEADER_SIZE];
    memcpy(key.key, there.key, sizeof key.key);
    memset(record, 0, RECORD_OVERHEAD);
    record[0] = RECORD_DATA;
    memset(record + 8, 0xFF, 8);
    memcpy(aad, id, sizeof id);
    memcpy(aad + sizeof id, record, RECORD_HEADER_SIZE);
    assert_ok(aead_seal(&crypto, &key, span_of(aad, sizeof aad), span_empty(), record, record + RECORD_HEADER_SIZE));
    b.received = UINT64_MAX;
    assert_err(open_one(&b, span_of(record, RECORD_OVERHEAD), &type, &size), LINK_RECORD);
}

static void a_wrong_record_closes_and_wipes_the_session(void **state)
{
    (void)state;
    static const struct record_session zeros;
    enum record_type type;
    size_t size;
    struct writer w = writer_of(record, sizeof record);
    seal(&a, RECORD_DATA, span_of("secret", 6));
    record[RECORD_HEADER_SIZE] ^= 1;
    memset(plaintext, 0xEE, 6);
    assert_err(open_one(&b, span_of(record, RECORD_OVERHEAD + 6), &type, &size), LINK_RECORD);
    assert_memory_equal(plaintext, "\0\0\0\0\0\0", 6);
    assert_memory_equal(&b, &zeros, sizeof b);
    assert_err(record_seal(&b, RECORD_DATA, span_of("x", 1), &w), LINK_CLOSED);
    assert_err(open_one(&b, seal(&a, RECORD_DATA, span_of("x", 1)), &type, &size), LINK_CLOSED);
}

static void a_zeroed_session_is_closed(void **state)
{
    (void)state;
    struct record_session session = {0};
    struct writer w = writer_of(record, sizeof record);
    enum record_type type;
    size_t size;
    assert_err(record_seal(&session, RECORD_DATA, span_empty(), &w), LINK_CLOSED);
    assert_err(open_one(&session, span_empty(), &type, &size), LINK_CLOSED);
    record_session_close(&session);
}

static int init(void **state)
{
    (void)state;
    return crypto_init(&crypto).code;
}

int main(void)
{
#define WITH_SESSIONS(test) cmocka_unit_test_setup_teardown(test, open_sessions, close_sessions)
    const struct CMUnitTest tests[] = {
        WITH_SESSIONS(both_directions_carry_records_of_each_type_and_size),
        WITH_SESSIONS(the_header_is_as_it_is_drawn),
        WITH_SESSIONS(a_plaintext_above_the_limit_is_refused_and_the_session_goes_on),
        WITH_SESSIONS(too_little_room_writes_nothing_and_the_session_goes_on),
        WITH_SESSIONS(nothing_is_sealed_after_final),
        WITH_SESSIONS(nothing_is_opened_after_final_but_the_other_direction_lives),
        WITH_SESSIONS(the_session_closes_before_a_sequence_number_repeats),
        WITH_SESSIONS(the_last_sequence_number_is_not_accepted_either),
        WITH_SESSIONS(a_wrong_record_closes_and_wipes_the_session),
        WITH_SESSIONS(a_zeroed_session_is_closed),
    };
    return cmocka_run_group_tests_name("record", tests, init, NULL);
}
