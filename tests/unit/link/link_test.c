#include "tests/fakes/assertions.h"

#include <string.h>

#include "tests/fakes/link_pair.h"

static struct link_pair pair;
static uint8_t record[RECORD_MAX];
static enum link_event event;
static struct span plaintext;

static int open_pair(void **state)
{
    (void)state;
    link_pair_init(&pair, LINK_K2_NAMED);
    assert_ok(link_pair_open_host(&pair, pair.enclave_key.public));
    assert_ok(link_pair_open_enclave(&pair, pair.host_key.public));
    return 0;
}

static int establish_pair(void **state)
{
    (void)state;
    link_pair_init(&pair, LINK_K2_NAMED);
    link_pair_establish(&pair);
    return 0;
}

static int close_pair(void **state)
{
    (void)state;
    link_pair_close(&pair);
    return 0;
}

static struct span finish_of(struct link *link)
{
    struct writer w = writer_of(record, sizeof record);
    assert_ok(link_finish(link, &w));
    return writer_span(&w);
}

static void assert_closed(const struct link *link)
{
    static const struct link zeros;
    assert_memory_equal(link, &zeros, sizeof zeros);
}

static void every_kind_carries_data_both_ways(void **state)
{
    (void)state;
    for (enum link_kind kind = LINK_K1; kind <= LINK_K2_ENROLLED; kind++) {
        link_pair_init(&pair, kind);
        link_pair_establish(&pair);
        assert_ok(link_pair_hear(&pair.enclave, link_pair_say(&pair.host, span_of("question", 8), record), &event,
                                 &plaintext));
        assert_int_equal(event, LINK_DATA);
        assert_int_equal(plaintext.size, 8);
        assert_memory_equal(plaintext.data, "question", 8);
        assert_ok(
            link_pair_hear(&pair.host, link_pair_say(&pair.enclave, span_of("answer", 6), record), &event, &plaintext));
        assert_memory_equal(plaintext.data, "answer", 6);
        link_pair_close(&pair);
    }
}

static void nothing_can_be_sent_before_both_finishes(void **state)
{
    (void)state;
    uint8_t other[RECORD_MAX];
    struct writer w = writer_of(other, sizeof other);
    assert_err(link_send(&pair.host, span_of("x", 1), &w), LINK_ORDER);
    struct span finish = finish_of(&pair.host);
    assert_err(link_send(&pair.host, span_of("x", 1), &w), LINK_ORDER);
    assert_ok(link_pair_hear(&pair.enclave, finish, &event, &plaintext));
    assert_err(link_send(&pair.enclave, span_of("x", 1), &w), LINK_ORDER);
    assert_err(link_send_final(&pair.enclave, &w), LINK_ORDER);
    assert_int_equal(w.size, 0);
    assert_ok(link_pair_hear(&pair.host, finish_of(&pair.enclave), &event, &plaintext));
    assert_ok(link_send(&pair.host, span_of("x", 1), &w));
}

static void finish_is_sent_once(void **state)
{
    (void)state;
    struct writer w = writer_of(record, sizeof record);
    finish_of(&pair.host);
    assert_err(link_finish(&pair.host, &w), LINK_ORDER);
}

static void a_finish_without_room_can_be_sent_later(void **state)
{
    (void)state;
    struct writer w = writer_of(record, RECORD_OVERHEAD);
    assert_err(link_finish(&pair.host, &w), NO_SPACE);
    assert_ok(link_pair_hear(&pair.enclave, finish_of(&pair.host), &event, &plaintext));
    assert_int_equal(event, LINK_FINISHED);
    assert_int_equal(plaintext.size, 0);
}

/* The record authenticates, so whoever made it has the keys of the records but not the right transcript MAC. */
static void a_finish_with_another_mac_closes_the_link(void **state)
{
    (void)state;
    pair.host.own_finish[31] ^= 1;
    assert_err(link_pair_hear(&pair.enclave, finish_of(&pair.host), &event, &plaintext), AUTHENTICATION);
    assert_closed(&pair.enclave);
}

static void a_finish_of_another_size_closes_the_link(void **state)
{
    (void)state;
    uint8_t longer[SHA256_SIZE + 1] = {0};
    struct writer w = writer_of(record, sizeof record);
    memcpy(longer, pair.host.own_finish, SHA256_SIZE);
    assert_ok(record_seal(&pair.host.records, RECORD_FINISH, span_of(longer, sizeof longer), &w));
    assert_err(link_pair_hear(&pair.enclave, writer_span(&w), &event, &plaintext), AUTHENTICATION);
}

/* A share of small order in place of the other end's; both ends refuse it. */
static void a_share_of_small_order_opens_nothing(void **state)
{
    (void)state;
    static const uint8_t small[X25519_SIZE] = {1};
    link_pair_close(&pair);
    assert_err(link_pair_open_host(&pair, small), AUTHENTICATION);
    assert_err(link_pair_open_enclave(&pair, small), AUTHENTICATION);
    assert_closed(&pair.host);
    assert_closed(&pair.enclave);
}

static void an_enrolled_key_of_small_order_opens_nothing(void **state)
{
    (void)state;
    link_pair_close(&pair);
    link_pair_init(&pair, LINK_K2_ENROLLED);
    memset(pair.enrolled.public, 0, X25519_SIZE);
    assert_err(link_pair_open_enclave(&pair, pair.host_key.public), AUTHENTICATION);
}

static void an_enrolled_key_belongs_to_its_kind_alone(void **state)
{
    (void)state;
    struct link link = {0};
    struct link_keys keys = {.own = &pair.enclave_key, .peer = pair.host_key.public, .enrolled = pair.enrolled.public};
    assert_err(link_open(&pair.crypto, LINK_ENCLAVE, &pair.binding, &keys, &link), BAD_VALUE);
    pair.binding.kind = LINK_K2_ENROLLED;
    keys.enrolled = NULL;
    assert_err(link_open(&pair.crypto, LINK_ENCLAVE, &pair.binding, &keys, &link), BAD_VALUE);
}

static void a_second_handshake_on_a_live_link_is_refused(void **state)
{
    (void)state;
    assert_err(link_pair_open_enclave(&pair, pair.enrolled.public), LINK_ORDER);
    assert_ok(link_pair_hear(&pair.enclave, link_pair_say(&pair.host, span_of("x", 1), record), &event, &plaintext));
}

/* h says what the link is for: one bit of difference in what the two ends believe, and there is no link. */
static void every_part_of_the_binding_matters(void **state)
{
    (void)state;
    struct link_binding honest = pair.binding;
    struct {
        const char *what;
        void *where;
    } parts[] = {
        {"kind", &pair.binding.kind},
        {"instance", &pair.binding.instance.bytes[15]},
        {"epoch", (uint8_t *)&pair.binding.epoch + 7},
        {"start", (uint8_t *)&pair.binding.start + 7},
        {"manager", &pair.binding.manager[31]},
        {"program", &pair.binding.program[31]},
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        link_pair_close(&pair);
        assert_ok(link_pair_open_host(&pair, pair.enclave_key.public));
        *(uint8_t *)parts[i].where ^= i == 0 ? LINK_K2_NAMED ^ LINK_K1 : 0x80;
        assert_ok(link_pair_open_enclave(&pair, pair.host_key.public));
        if (link_pair_hear(&pair.enclave, finish_of(&pair.host), &event, &plaintext).code != ERR_LINK_RECORD)
            fail_msg("%s", parts[i].what);
        pair.binding = honest;
    }
}

static void final_is_the_orderly_end(void **state)
{
    (void)state;
    struct writer w = writer_of(record, sizeof record);
    assert_err(link_transport_ended(&pair.enclave), LINK_TRUNCATED);
    assert_ok(link_send_final(&pair.host, &w));
    assert_ok(link_pair_hear(&pair.enclave, writer_span(&w), &event, &plaintext));
    assert_int_equal(event, LINK_ENDED);
    assert_ok(link_transport_ended(&pair.enclave));
    assert_err(link_send(&pair.host, span_of("x", 1), &w), LINK_CLOSED);
    assert_err(link_transport_ended(&pair.host), LINK_TRUNCATED);
}

static void a_link_that_failed_was_not_ended(void **state)
{
    (void)state;
    assert_err(link_pair_hear(&pair.enclave, span_of("?", 1), &event, &plaintext), LINK_RECORD);
    assert_closed(&pair.enclave);
    assert_err(link_transport_ended(&pair.enclave), LINK_TRUNCATED);
}

static void a_closed_link_does_nothing(void **state)
{
    (void)state;
    struct link link = {0};
    struct writer w = writer_of(record, sizeof record);
    assert_err(link_finish(&link, &w), LINK_CLOSED);
    assert_err(link_send(&link, span_of("x", 1), &w), LINK_CLOSED);
    assert_err(link_send_final(&link, &w), LINK_CLOSED);
    assert_err(link_pair_hear(&link, span_of("x", 1), &event, &plaintext), LINK_CLOSED);
    link_close(&link);
}

int main(void)
{
#define OPENED(test)      cmocka_unit_test_setup_teardown(test, open_pair, close_pair)
#define ESTABLISHED(test) cmocka_unit_test_setup_teardown(test, establish_pair, close_pair)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_carries_data_both_ways),
        OPENED(nothing_can_be_sent_before_both_finishes),
        OPENED(finish_is_sent_once),
        OPENED(a_finish_without_room_can_be_sent_later),
        OPENED(a_finish_with_another_mac_closes_the_link),
        OPENED(a_finish_of_another_size_closes_the_link),
        OPENED(a_share_of_small_order_opens_nothing),
        OPENED(an_enrolled_key_of_small_order_opens_nothing),
        OPENED(an_enrolled_key_belongs_to_its_kind_alone),
        ESTABLISHED(a_second_handshake_on_a_live_link_is_refused),
        OPENED(every_part_of_the_binding_matters),
        ESTABLISHED(final_is_the_orderly_end),
        ESTABLISHED(a_link_that_failed_was_not_ended),
        OPENED(a_closed_link_does_nothing),
    };
    return cmocka_run_group_tests_name("link", tests, NULL, NULL);
}
