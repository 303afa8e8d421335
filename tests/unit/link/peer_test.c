#include "tests/fakes/assertions.h"

#include <string.h>

#include "tests/fakes/peer_pair.h"

static struct peer_pair pair;
static uint8_t bytes[PEER_MESSAGE_MAX], plaintext[PEER_MESSAGE_MAX];
static enum peer_word word;
static struct span fields;

static int init_pair(void **state)
{
    (void)state;
    peer_pair_init(&pair);
    return 0;
}

static int establish_pair(void **state)
{
    init_pair(state);
    peer_pair_establish(&pair);
    return 0;
}

static int close_pair(void **state)
{
    (void)state;
    peer_pair_close(&pair);
    return 0;
}

static struct span say(struct peer *from, enum peer_word what, const char *text)
{
    struct writer w = writer_of(bytes, sizeof bytes);
    assert_ok(peer_send(from, what, span_of(text, strlen(text)), &w));
    return writer_span(&w);
}

static struct err hear(struct peer *to, struct span message)
{
    return peer_receive(to, message, &word, plaintext, &fields);
}

static void assert_talks(void)
{
    assert_ok(hear(&pair.instance, say(&pair.manager, PEER_PROVISION, "secrets")));
    assert_int_equal(word, PEER_PROVISION);
    assert_int_equal(fields.size, 7);
    assert_memory_equal(fields.data, "secrets", 7);
    assert_ok(hear(&pair.manager, say(&pair.instance, PEER_READY, "")));
    assert_int_equal(word, PEER_READY);
    assert_int_equal(fields.size, 0);
}

static void assert_closed(const struct peer *peer)
{
    static const struct peer zeros;
    assert_memory_equal(peer, &zeros, sizeof zeros);
}

static void two_enclaves_that_prove_themselves_can_talk(void **state)
{
    (void)state;
    peer_pair_establish(&pair);
    assert_talks();
}

static void each_knows_who_the_other_is(void **state)
{
    (void)state;
    assert_memory_equal(pair.manager.other_program, fake_instance_mrenclave, SGX_HASH_SIZE);
    assert_memory_equal(pair.instance.other_program, fake_manager_mrenclave, SGX_HASH_SIZE);
    assert_memory_equal(pair.manager.transcript.holder, pair.holder, sizeof pair.holder);
    assert_int_equal(pair.instance.transcript.start, pair.start);
    assert_memory_equal(pair.instance.transcript.base, pair.base, sizeof pair.base);
}

static void the_ephemeral_keys_are_gone_once_the_records_begin(void **state)
{
    (void)state;
    static const struct x25519_key zeros;
    assert_memory_equal(&pair.manager.own, &zeros, sizeof zeros);
    assert_memory_equal(&pair.instance.own, &zeros, sizeof zeros);
    peer_pair_reestablish(&pair);
    assert_memory_equal(&pair.manager.own, &zeros, sizeof zeros);
    assert_memory_equal(&pair.instance.own, &zeros, sizeof zeros);
}

static void every_exchange_has_shares_and_nonces_of_its_own(void **state)
{
    (void)state;
    struct peer_transcript before = pair.manager.transcript;
    peer_pair_establish(&pair);
    for (size_t i = 0; i < 2; i++) {
        assert_memory_not_equal(before.share[i], pair.manager.transcript.share[i], X25519_SIZE);
        assert_memory_not_equal(before.nonce[i], pair.manager.transcript.nonce[i], PEER_NONCE_SIZE);
    }
}

static void no_word_before_the_session_is_established(void **state)
{
    (void)state;
    struct writer w = writer_of(bytes, sizeof bytes);
    assert_ok(peer_pair_challenge(&pair));
    assert_err(peer_send(&pair.manager, PEER_PROVISION, span_empty(), &w), LINK_CLOSED);
    assert_ok(peer_pair_prove(&pair));
    assert_err(peer_send(&pair.instance, PEER_READY, span_empty(), &w), LINK_CLOSED);
    assert_ok(peer_pair_check_proof(&pair));
    assert_err(peer_send(&pair.manager, PEER_PROVISION, span_empty(), &w), LINK_CLOSED);
    assert_int_equal(w.size, 0);
}

static void a_challenge_for_another_instance_is_refused(void **state)
{
    (void)state;
    struct instance_id other = {.bytes = "another instance"};
    struct writer w = writer_of(bytes, sizeof bytes);
    assert_ok(peer_pair_challenge(&pair));
    assert_err(peer_prove(&pair.crypto, writer_span(&pair.challenge), &other, pair.holder, &pair.instance, &w),
               STATE_OTHER_INSTANCE);
    assert_closed(&pair.instance);
}

static void no_admission_before_the_proof(void **state)
{
    (void)state;
    assert_ok(peer_pair_challenge(&pair));
    assert_err(peer_pair_admit(&pair), LINK_ORDER);
    assert_closed(&pair.manager);
}

static void a_session_of_one_role_does_not_play_the_other(void **state)
{
    (void)state;
    assert_ok(peer_pair_challenge(&pair));
    assert_ok(peer_pair_prove(&pair));
    pair.admit = pair.proof;
    assert_err(peer_check_admission(&pair.crypto, &pair.manager, writer_span(&pair.admit)), LINK_ORDER);
    assert_err(peer_check_proof(&pair.crypto, &pair.instance, writer_span(&pair.proof), fake_instance_mrenclave),
               LINK_ORDER);
}

static void a_session_is_resumed_without_the_processor(void **state)
{
    (void)state;
    memset(fake_processor.secret, 0, sizeof fake_processor.secret); /* no REPORT would verify now */
    peer_pair_reestablish(&pair);
    assert_talks();
    fake_runtime_reset();
}

static void resuming_ends_the_session_before(void **state)
{
    (void)state;
    uint8_t old[PEER_MESSAGE_MAX];
    struct span message = say(&pair.manager, PEER_ANCHORED, "old");
    memcpy(old, message.data, message.size);
    peer_pair_reestablish(&pair);
    assert_err(hear(&pair.instance, span_of(old, message.size)), LINK_RECORD);
}

static void the_two_ways_do_not_mix(void **state)
{
    (void)state;
    assert_ok(peer_pair_resume(&pair));
    assert_err(peer_pair_check_admission(&pair), LINK_ORDER);
    assert_ok(peer_pair_resume(&pair));
    assert_ok(peer_pair_accept(&pair));
    assert_err(peer_pair_admit(&pair), LINK_ORDER);
    assert_ok(peer_pair_challenge(&pair));
    assert_ok(peer_pair_prove(&pair));
    assert_err(peer_pair_confirm(&pair), LINK_ORDER);
    assert_err(peer_pair_check_confirmation(&pair), LINK_ORDER);
}

static void a_word_fits_or_is_not_sent(void **state)
{
    (void)state;
    static const uint8_t much[PEER_MESSAGE_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);
    size_t room = PEER_MESSAGE_MAX - RECORD_OVERHEAD - 8;
    assert_err(peer_send(&pair.manager, PEER_PROVISION, span_of(much, room + 1), &w), NO_SPACE);
    assert_int_equal(w.size, 0);
    assert_ok(peer_send(&pair.manager, PEER_PROVISION, span_of(much, room), &w));
    assert_int_equal(w.size, PEER_MESSAGE_MAX);
    assert_ok(hear(&pair.instance, writer_span(&w)));
    assert_int_equal(fields.size, room);
}

/* They authenticate: an end that says them does not keep to the protocol. */
static void a_record_that_is_no_word_closes_the_session(void **state)
{
    (void)state;
    static const struct {
        enum record_type type;
        const char *text;
        size_t size;
    } wrong[] = {
        {RECORD_DATA, "", 0},
        {RECORD_DATA, "\1\0\0\0\0\0\0", 7},
        {RECORD_DATA, "\0\0\0\0\0\0\0\0", 8},
        {RECORD_DATA, "\12\0\0\0\0\0\0\0", 8}, /* one behind PEER_LOADED */
        {RECORD_DATA, "\1\0\0\0\0\0\0\1", 8},
        {RECORD_FINISH, "\1\0\0\0\0\0\0\0", 8},
        {RECORD_FINAL, "", 0},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        peer_pair_establish(&pair);
        struct writer w = writer_of(bytes, sizeof bytes);
        assert_ok(record_seal(&pair.manager.records, wrong[i].type, span_of(wrong[i].text, wrong[i].size), &w));
        assert_err(hear(&pair.instance, writer_span(&w)), LINK_ORDER);
        assert_closed(&pair.instance);
    }
}

int main(void)
{
#define FRESH(test)       cmocka_unit_test_setup_teardown(test, init_pair, close_pair)
#define ESTABLISHED(test) cmocka_unit_test_setup_teardown(test, establish_pair, close_pair)
    const struct CMUnitTest tests[] = {
        FRESH(two_enclaves_that_prove_themselves_can_talk),
        ESTABLISHED(each_knows_who_the_other_is),
        ESTABLISHED(the_ephemeral_keys_are_gone_once_the_records_begin),
        ESTABLISHED(every_exchange_has_shares_and_nonces_of_its_own),
        FRESH(no_word_before_the_session_is_established),
        FRESH(a_challenge_for_another_instance_is_refused),
        FRESH(no_admission_before_the_proof),
        FRESH(a_session_of_one_role_does_not_play_the_other),
        ESTABLISHED(a_session_is_resumed_without_the_processor),
        ESTABLISHED(resuming_ends_the_session_before),
        FRESH(the_two_ways_do_not_mix),
        ESTABLISHED(a_word_fits_or_is_not_sent),
        FRESH(a_record_that_is_no_word_closes_the_session),
    };
    return cmocka_run_group_tests_name("peer", tests, NULL, NULL);
}
