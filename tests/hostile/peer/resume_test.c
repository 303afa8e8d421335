/* Resuming a session that was cut: a host without the resumption key, and starts that are not the recorded one. */
#include "tests/fakes/assertions.h"

#include <string.h>

#include "tests/fakes/peer_pair.h"

static struct peer_pair pair, other;

static int init_pair(void **state)
{
    (void)state;
    peer_pair_init(&pair);
    peer_pair_init(&other);
    return 0;
}

static int close_pair(void **state)
{
    (void)state;
    peer_pair_close(&pair);
    peer_pair_close(&other);
    return 0;
}

static void assert_nothing_left(const struct peer *peer)
{
    static const struct peer zeros;
    assert_memory_equal(peer, &zeros, sizeof zeros);
}

static void accept_pair(struct peer_pair *p)
{
    assert_ok(peer_pair_resume(p));
    assert_ok(peer_pair_accept(p));
}

/* The one who answers believes otherwise about one thing. Neither end begins the records. */
static void each_thing_that_both_know_matters(void **state)
{
    (void)state;
    struct {
        const char *what;
        uint8_t *where;
    } known[] = {
        {"epoch", (uint8_t *)&pair.resumption.epoch},
        {"holder", &pair.resumption.holder[31]},
        {"resumption key", &pair.resumption.key[31]},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        assert_ok(peer_pair_resume(&pair));
        *known[i].where ^= 1;
        assert_ok(peer_pair_accept(&pair));
        *known[i].where ^= 1;
        if (peer_pair_confirm(&pair).code != ERR_AUTHENTICATION) fail_msg("%s at the instance", known[i].what);
        assert_nothing_left(&pair.instance);

        accept_pair(&pair);
        assert_ok(peer_pair_confirm(&pair));
        *known[i].where ^= 1;
        if (peer_pair_check_confirmation(&pair).code != ERR_AUTHENTICATION)
            fail_msg("%s at the manager", known[i].what);
        *known[i].where ^= 1;
        assert_nothing_left(&pair.manager);
    }
}

static void a_start_that_is_not_the_recorded_one_is_fenced(void **state)
{
    (void)state;
    for (int newer = -1; newer <= 1; newer += 2) {
        assert_ok(peer_pair_resume(&pair));
        pair.resumption.start += (uint64_t)newer;
        assert_err(peer_pair_accept(&pair), FENCED);
        pair.resumption.start -= (uint64_t)newer;
        assert_nothing_left(&pair.manager);
    }
}

static void a_resume_of_another_instance_is_refused(void **state)
{
    (void)state;
    assert_ok(peer_pair_resume(&pair));
    pair.resume.start[4] ^= 1;
    assert_err(peer_pair_accept(&pair), STATE_OTHER_INSTANCE);
}

/* It says the number of the recorded start, and is of the one before: what it knows is not what the manager knows. */
static void a_fenced_copy_that_lies_about_its_start_proves_nothing(void **state)
{
    (void)state;
    other.resumption.start--;
    assert_ok(peer_pair_resume(&other));
    struct writer w = writer_of(other.resume.start + 20, 8);
    assert_ok(write_u64(&w, pair.resumption.start));
    memcpy(pair.resume.start, other.resume.start, other.resume.size);
    pair.resume.size = other.resume.size;
    assert_ok(peer_pair_accept(&pair));
    memcpy(other.accept.start, pair.accept.start, pair.accept.size);
    other.accept.size = pair.accept.size;
    assert_err(peer_pair_confirm(&other), AUTHENTICATION);
}

static void each_byte_of_a_resume_matters(void **state)
{
    (void)state;
    assert_ok(peer_pair_resume(&pair));
    for (size_t i = 0; i < pair.resume.size; i++) {
        struct peer instance = pair.instance; /* no records yet: a copy is another one */
        pair.resume.start[i] ^= 0x10;
        struct err err = peer_pair_accept(&pair);
        if (err.code == ERR_NONE) {
            struct writer w = writer_of(pair.bytes[5], PEER_MESSAGE_MAX);
            err = peer_confirm(&pair.crypto, &pair.resumption, &instance, writer_span(&pair.accept), &w);
        }
        if (err.code == ERR_NONE) fail_msg("byte %zu", i);
        pair.resume.start[i] ^= 0x10;
    }
}

static void each_byte_of_an_acceptance_matters(void **state)
{
    (void)state;
    accept_pair(&pair);
    for (size_t i = 0; i < pair.accept.size; i++) {
        struct peer instance = pair.instance;
        struct writer w = writer_of(pair.bytes[5], PEER_MESSAGE_MAX);
        pair.accept.start[i] ^= 0x10;
        struct err err = peer_confirm(&pair.crypto, &pair.resumption, &instance, writer_span(&pair.accept), &w);
        if (err.code == ERR_NONE) fail_msg("byte %zu", i);
        assert_int_equal(w.size, 0);
        assert_nothing_left(&instance);
        pair.accept.start[i] ^= 0x10;
    }
}

static void each_byte_of_a_confirmation_matters(void **state)
{
    (void)state;
    accept_pair(&pair);
    assert_ok(peer_pair_confirm(&pair));
    for (size_t i = 0; i < pair.confirm.size; i++) {
        struct peer manager = pair.manager;
        pair.confirm.start[i] ^= 0x10;
        struct err err = peer_check_confirmation(&pair.crypto, &pair.resumption, &manager, writer_span(&pair.confirm));
        if (err.code == ERR_NONE) fail_msg("byte %zu", i);
        assert_nothing_left(&manager);
        pair.confirm.start[i] ^= 0x10;
    }
    assert_ok(peer_pair_check_confirmation(&pair));
}

static void messages_that_are_cut_or_longer_are_refused(void **state)
{
    (void)state;
    for (int change = -1; change <= 1; change += 2) {
        const uint16_t expected = change < 0 ? ERR_TRUNCATED : ERR_TRAILING;
        assert_ok(peer_pair_resume(&pair));
        pair.resume.size += (size_t)change;
        assert_int_equal(peer_pair_accept(&pair).code, expected);
        accept_pair(&pair);
        pair.accept.size += (size_t)change;
        assert_int_equal(peer_pair_confirm(&pair).code, expected);
        accept_pair(&pair);
        assert_ok(peer_pair_confirm(&pair));
        pair.confirm.size += (size_t)change;
        assert_int_equal(peer_pair_check_confirmation(&pair).code, expected);
    }
}

static void a_replayed_acceptance_is_of_another_exchange(void **state)
{
    (void)state;
    accept_pair(&pair);
    assert_ok(peer_pair_confirm(&pair));
    assert_ok(peer_pair_resume(&pair));
    assert_err(peer_pair_confirm(&pair), AUTHENTICATION);
}

static void a_replayed_confirmation_is_of_another_exchange(void **state)
{
    (void)state;
    peer_pair_reestablish(&pair);
    assert_ok(peer_pair_accept(&pair)); /* the RESUME of before, once more */
    assert_err(peer_pair_check_confirmation(&pair), AUTHENTICATION);
    assert_nothing_left(&pair.manager);
}

static void a_second_confirmation_ends_the_session(void **state)
{
    (void)state;
    peer_pair_reestablish(&pair);
    assert_err(peer_pair_check_confirmation(&pair), LINK_ORDER);
    assert_nothing_left(&pair.manager);
}

/* The host sends the manager's own MAC back as the instance's. */
static void a_reflected_mac_confirms_nothing(void **state)
{
    (void)state;
    accept_pair(&pair);
    assert_ok(peer_pair_confirm(&pair));
    memcpy(pair.confirm.start + 4, pair.accept.start + 4 + PEER_NONCE_SIZE + X25519_SIZE, SHA256_SIZE);
    assert_err(peer_pair_check_confirmation(&pair), AUTHENTICATION);
}

/* A manager that has not heard CONFIRM neither speaks nor listens. */
static void nothing_is_said_before_the_confirmation(void **state)
{
    (void)state;
    struct writer w = writer_of(pair.bytes[0], PEER_MESSAGE_MAX);
    enum peer_word word;
    struct span fields;
    uint8_t plaintext[PEER_MESSAGE_MAX];
    accept_pair(&pair);
    assert_err(peer_send(&pair.manager, PEER_LEASE, span_empty(), &w), LINK_CLOSED);
    assert_ok(peer_pair_confirm(&pair));
    assert_ok(peer_send(&pair.instance, PEER_COMMIT, span_empty(), &w));
    assert_err(peer_receive(&pair.manager, writer_span(&w), &word, plaintext, &fields), LINK_CLOSED);
}

/* With the resumption key of a memory dump made later, and all that was said: the ephemeral keys are missing. */
static void the_resumption_key_alone_opens_no_old_session(void **state)
{
    (void)state;
    struct writer w = writer_of(pair.bytes[0], PEER_MESSAGE_MAX);
    enum peer_word word;
    struct span fields;
    uint8_t plaintext[PEER_MESSAGE_MAX];
    peer_pair_reestablish(&pair);
    assert_ok(peer_send(&pair.manager, PEER_PROVISION, span_of("secret", 6), &w));
    /* The same RESUME and ACCEPT, and another private key than the one that is gone. */
    assert_ok(peer_pair_resume(&other));
    other.instance.transcript = pair.instance.transcript;
    other.instance.step = PEER_RESUMING;
    memcpy(other.accept.start, pair.accept.start, pair.accept.size);
    other.accept.size = pair.accept.size;
    assert_err(peer_pair_confirm(&other), AUTHENTICATION);
    assert_err(peer_receive(&other.instance, writer_span(&w), &word, plaintext, &fields), LINK_CLOSED);
}

static void shares_of_small_order_are_refused(void **state)
{
    (void)state;
    assert_ok(peer_pair_resume(&pair));
    memset(pair.resume.start + pair.resume.size - X25519_SIZE, 0, X25519_SIZE);
    assert_err(peer_pair_accept(&pair), AUTHENTICATION);
    accept_pair(&pair);
    memset(pair.accept.start + 4 + PEER_NONCE_SIZE, 0, X25519_SIZE);
    assert_err(peer_pair_confirm(&pair), AUTHENTICATION);
}

int main(void)
{
#define PAIR(test) cmocka_unit_test_setup_teardown(test, init_pair, close_pair)
    const struct CMUnitTest tests[] = {
        PAIR(each_thing_that_both_know_matters),
        PAIR(a_start_that_is_not_the_recorded_one_is_fenced),
        PAIR(a_resume_of_another_instance_is_refused),
        PAIR(a_fenced_copy_that_lies_about_its_start_proves_nothing),
        PAIR(each_byte_of_a_resume_matters),
        PAIR(each_byte_of_an_acceptance_matters),
        PAIR(each_byte_of_a_confirmation_matters),
        PAIR(messages_that_are_cut_or_longer_are_refused),
        PAIR(a_replayed_acceptance_is_of_another_exchange),
        PAIR(a_replayed_confirmation_is_of_another_exchange),
        PAIR(a_second_confirmation_ends_the_session),
        PAIR(a_reflected_mac_confirms_nothing),
        PAIR(nothing_is_said_before_the_confirmation),
        PAIR(the_resumption_key_alone_opens_no_old_session),
        PAIR(shares_of_small_order_are_refused),
    };
    return cmocka_run_group_tests_name("resume", tests, NULL, NULL);
}
