/* L1 and L2: what a relay between two ends of a link can try. Whatever it is, the link is closed and nothing is read.
 */
#include "tests/fakes/assertions.h"

#include <string.h>

#include "tests/fakes/link_pair.h"

#define TEXT      "TPM2_Unseal says: the secret"
#define TEXT_SIZE (sizeof TEXT - 1)

static struct link_pair pair, other;
static uint8_t bytes[RECORD_MAX + 64], more[RECORD_MAX];
static enum link_event event;
static struct span plaintext;

static int establish(void **state)
{
    (void)state;
    link_pair_init(&pair, LINK_K2_NAMED);
    link_pair_init(&other, LINK_K2_NAMED);
    link_pair_establish(&pair);
    return 0;
}

static int open_only(void **state)
{
    (void)state;
    link_pair_init(&pair, LINK_K2_NAMED);
    link_pair_init(&other, LINK_K2_NAMED);
    assert_ok(link_pair_open_host(&pair, pair.enclave_key.public));
    assert_ok(link_pair_open_enclave(&pair, pair.host_key.public));
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    link_pair_close(&pair);
    link_pair_close(&other);
    return 0;
}

static struct span say(void)
{
    return link_pair_say(&pair.host, span_of(TEXT, TEXT_SIZE), bytes);
}

/* The enclave's end refuses the record, and afterwards what it would have taken before. */
static void assert_refused(struct span record)
{
    static const struct link zeros;
    assert_err(link_pair_hear(&pair.enclave, record, &event, &plaintext), LINK_RECORD);
    assert_memory_equal(&pair.enclave, &zeros, sizeof zeros);
    assert_err(link_pair_hear(&pair.enclave, record, &event, &plaintext), LINK_CLOSED);
}

static void each_byte_altered_in_turn_closes_the_link(void **state)
{
    for (size_t i = 0; i < RECORD_OVERHEAD + TEXT_SIZE; i++)
        for (unsigned bit = 0; bit < 8; bit++) {
            establish(state);
            struct span record = say();
            bytes[i] ^= (uint8_t)(1u << bit);
            assert_refused(record);
            close_all(state);
        }
}

static void each_truncation_closes_the_link(void **state)
{
    for (size_t size = 0; size < RECORD_OVERHEAD + TEXT_SIZE; size++) {
        establish(state);
        assert_refused(span_of(say().data, size));
        close_all(state);
    }
}

static void a_record_with_bytes_added_closes_the_link(void **state)
{
    (void)state;
    struct span record = say();
    bytes[record.size] = 0;
    assert_refused(span_of(bytes, record.size + 1));
}

/* The size says so too, so that the tag would be elsewhere. */
static void a_record_that_claims_another_size_closes_the_link(void **state)
{
    for (int change = -1; change <= 1; change += 2) {
        establish(state);
        struct span record = say();
        bytes[4] = (uint8_t)(bytes[4] + change);
        assert_refused(span_of(bytes, (size_t)((long)record.size + change)));
        close_all(state);
    }
}

static void two_records_at_once_are_none(void **state)
{
    (void)state;
    struct span first = say();
    struct span second = link_pair_say(&pair.host, span_of("x", 1), more);
    memcpy(bytes + first.size, second.data, second.size);
    assert_refused(span_of(bytes, first.size + second.size));
}

static void a_replayed_record_closes_the_link(void **state)
{
    (void)state;
    struct span record = say();
    assert_ok(link_pair_hear(&pair.enclave, record, &event, &plaintext));
    assert_refused(record);
}

static void a_record_that_overtakes_another_closes_the_link(void **state)
{
    (void)state;
    say();
    assert_refused(link_pair_say(&pair.host, span_of("second", 6), more));
}

static void a_reflected_record_closes_the_link(void **state)
{
    (void)state;
    assert_refused(link_pair_say(&pair.enclave, span_of(TEXT, TEXT_SIZE), bytes));
}

/* The same ends, the same instance, the next start. */
static void a_record_of_another_session_closes_the_link(void **state)
{
    (void)state;
    other.binding.start++;
    link_pair_establish(&other);
    assert_refused(link_pair_say(&other.host, span_of(TEXT, TEXT_SIZE), bytes));
}

/* Records of two links whose keys are the same, which no two have: the session id in the AAD alone keeps them apart. */
static void the_session_id_alone_keeps_two_sessions_apart(void **state)
{
    (void)state;
    struct span record = say();
    pair.enclave.records.id[0] ^= 1;
    assert_err(link_pair_hear(&pair.enclave, record, &event, &plaintext), LINK_RECORD);
}

static void nothing_is_taken_after_final(void **state)
{
    (void)state;
    struct writer w = writer_of(more, sizeof more);
    struct span early = say();
    assert_ok(link_pair_hear(&pair.enclave, early, &event, &plaintext));
    assert_ok(link_send_final(&pair.host, &w));
    assert_ok(link_pair_hear(&pair.enclave, writer_span(&w), &event, &plaintext));
    assert_err(link_pair_hear(&pair.enclave, early, &event, &plaintext), LINK_CLOSED);
}

static void a_connection_cut_before_final_is_told_from_an_end(void **state)
{
    (void)state;
    assert_ok(link_pair_hear(&pair.enclave, say(), &event, &plaintext));
    assert_err(link_transport_ended(&pair.enclave), LINK_TRUNCATED);
}

/* An end with the right keys that leaves out the handshake: nothing that it says is taken. */
static void data_before_finish_closes_the_link(void **state)
{
    (void)state;
    pair.host.finish_sent = pair.host.finish_received = true;
    assert_err(link_pair_hear(&pair.enclave, say(), &event, &plaintext), LINK_ORDER);
    assert_err(link_pair_hear(&pair.enclave, say(), &event, &plaintext), LINK_CLOSED);
}

static void final_before_finish_closes_the_link(void **state)
{
    (void)state;
    struct writer w = writer_of(bytes, sizeof bytes);
    pair.host.finish_sent = pair.host.finish_received = true;
    assert_ok(link_send_final(&pair.host, &w));
    assert_err(link_pair_hear(&pair.enclave, writer_span(&w), &event, &plaintext), LINK_ORDER);
    assert_err(link_transport_ended(&pair.enclave), LINK_TRUNCATED);
}

/* The enclave has our FINISH and has not sent its own: who speaks now has not seen that it is the enclave. */
static void data_before_ones_own_finish_closes_the_link(void **state)
{
    (void)state;
    struct writer w = writer_of(more, sizeof more);
    assert_ok(link_finish(&pair.host, &w));
    assert_ok(link_pair_hear(&pair.enclave, writer_span(&w), &event, &plaintext));
    pair.host.finish_received = true;
    assert_err(link_pair_hear(&pair.enclave, say(), &event, &plaintext), LINK_ORDER);
}

static void a_second_finish_closes_the_link(void **state)
{
    (void)state;
    struct writer w = writer_of(bytes, sizeof bytes);
    pair.host.finish_sent = false;
    assert_ok(link_finish(&pair.host, &w));
    assert_err(link_pair_hear(&pair.enclave, writer_span(&w), &event, &plaintext), LINK_ORDER);
}

static void a_reflected_finish_closes_the_link(void **state)
{
    (void)state;
    struct writer w = writer_of(bytes, sizeof bytes);
    assert_ok(link_finish(&pair.enclave, &w));
    assert_refused(writer_span(&w));
}

/* The relay puts a share of its own in the place of the one that it carries, towards one end or both. */
static void a_relay_with_a_share_of_its_own_stands_before_a_closed_door(void **state)
{
    (void)state;
    struct writer w = writer_of(bytes, sizeof bytes);
    const uint8_t *relay = other.enrolled.public;
    link_pair_close(&pair);
    assert_ok(link_pair_open_host(&pair, relay));
    assert_ok(link_pair_open_enclave(&pair, pair.host_key.public)); /* who was told by somebody that it trusts */
    assert_ok(link_finish(&pair.host, &w));
    assert_refused(writer_span(&w));

    /* The enclave knows the share of the host; the relay has the enclave's and a private key of its own. */
    assert_ok(link_pair_open_enclave(&pair, pair.host_key.public));
    other.host_key = other.enrolled;
    assert_ok(link_pair_open_host(&other, pair.enclave_key.public));
    w.size = 0;
    assert_ok(link_finish(&other.host, &w));
    assert_refused(writer_span(&w));
}

/* L2: the front-end of VM A, brought to the instance of VM B by a relay. Each was told of its own partner. */
static void the_front_end_of_one_vm_does_not_reach_the_instance_of_another(void **state)
{
    (void)state;
    struct writer w = writer_of(bytes, sizeof bytes);
    assert_ok(x25519_generate(&other.crypto, &other.host_key));
    assert_ok(x25519_generate(&other.crypto, &other.enclave_key));
    memcpy(other.binding.instance.bytes, "another instance", INSTANCE_ID_SIZE);
    assert_ok(link_pair_open_host(&other, other.enclave_key.public));
    assert_ok(link_finish(&other.host, &w));
    assert_refused(writer_span(&w));
}

/* Even if somebody tells that front-end B's share: the ids differ, and B was told the share of its own front-end. */
static void nor_when_it_is_told_the_others_share(void **state)
{
    (void)state;
    struct writer w = writer_of(bytes, sizeof bytes);
    assert_ok(x25519_generate(&other.crypto, &other.host_key));
    assert_ok(link_pair_open_host(&other, pair.enclave_key.public));
    assert_ok(link_finish(&other.host, &w));
    assert_refused(writer_span(&w));
}

static void a_second_front_end_on_one_instance_fails_and_so_does_its_handshake(void **state)
{
    (void)state;
    struct writer w = writer_of(more, sizeof more);
    assert_ok(x25519_generate(&other.crypto, &other.host_key));
    /* the host asks the enclave to open once more, for the second one's share */
    assert_err(link_pair_open_enclave(&pair, other.host_key.public), LINK_ORDER);
    /* the first is not disturbed by that */
    assert_ok(link_pair_hear(&pair.enclave, say(), &event, &plaintext));
    /* and the second one's own FINISH ends the link, unread */
    assert_ok(link_pair_open_host(&other, pair.enclave_key.public));
    assert_ok(link_finish(&other.host, &w));
    assert_refused(writer_span(&w));
}

/* The owner enrolled a key: whoever the operator names without it gets nowhere, whichever kind it speaks. */
static void without_the_enrolled_private_key_a_named_front_end_fails(void **state)
{
    for (enum link_kind spoken = LINK_K2_NAMED; spoken <= LINK_K2_ENROLLED; spoken++) {
        struct writer w = writer_of(bytes, sizeof bytes);
        link_pair_init(&pair, LINK_K2_ENROLLED);
        link_pair_init(&other, spoken);
        assert_ok(x25519_generate(&other.crypto, &other.enrolled)); /* not the owner's */
        /* The operator names the other's share to the enclave, and the enclave's to the other. */
        assert_ok(x25519_generate(&other.crypto, &other.host_key));
        assert_ok(link_pair_open_enclave(&pair, other.host_key.public));
        assert_ok(link_pair_open_host(&other, pair.enclave_key.public));
        assert_ok(link_finish(&other.host, &w));
        assert_refused(writer_span(&w));
        close_all(state);
    }
}

int main(void)
{
#define ESTABLISHED(test) cmocka_unit_test_setup_teardown(test, establish, close_all)
#define OPENED(test)      cmocka_unit_test_setup_teardown(test, open_only, close_all)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_byte_altered_in_turn_closes_the_link),
        cmocka_unit_test(each_truncation_closes_the_link),
        ESTABLISHED(a_record_with_bytes_added_closes_the_link),
        cmocka_unit_test(a_record_that_claims_another_size_closes_the_link),
        ESTABLISHED(two_records_at_once_are_none),
        ESTABLISHED(a_replayed_record_closes_the_link),
        ESTABLISHED(a_record_that_overtakes_another_closes_the_link),
        ESTABLISHED(a_reflected_record_closes_the_link),
        ESTABLISHED(a_record_of_another_session_closes_the_link),
        ESTABLISHED(the_session_id_alone_keeps_two_sessions_apart),
        ESTABLISHED(nothing_is_taken_after_final),
        ESTABLISHED(a_connection_cut_before_final_is_told_from_an_end),
        OPENED(data_before_finish_closes_the_link),
        OPENED(final_before_finish_closes_the_link),
        OPENED(data_before_ones_own_finish_closes_the_link),
        ESTABLISHED(a_second_finish_closes_the_link),
        OPENED(a_reflected_finish_closes_the_link),
        OPENED(a_relay_with_a_share_of_its_own_stands_before_a_closed_door),
        OPENED(the_front_end_of_one_vm_does_not_reach_the_instance_of_another),
        OPENED(nor_when_it_is_told_the_others_share),
        ESTABLISHED(a_second_front_end_on_one_instance_fails_and_so_does_its_handshake),
        cmocka_unit_test(without_the_enrolled_private_key_a_named_front_end_fails),
    };
    return cmocka_run_group_tests_name("relay", tests, NULL, NULL);
}
