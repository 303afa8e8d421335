/*
 * Enclaves that are not the one that was admitted ask for an instance's keys (E2), two enclaves want to be one instance
 * (S6), and the host crosses channels. Nobody but the recorded holder gets or changes anything.
 */
#include "tests/fakes/assertions.h"

#include <string.h>

#include "tests/fakes/runtime.h"
#include "tests/unit/manager/rig.h"

static struct rig rig;
static struct ledger_row row;
static struct fake_instance first;
static struct fake_instance second;

static int begin(void **state)
{
    (void)state;
    fake_runtime_reset();
    rig_identities("the manager image", "the instance image");
    rig_open(&rig);
    assert_int_equal(rig_create(&rig, "web1", NULL, NULL, &row), ERR_NONE);
    return 0;
}

static int finish(void **state)
{
    (void)state;
    fake_instance_close(&first);
    fake_instance_close(&second);
    rig_end(&rig);
    struct rig_shared *shared = rig.shared;
    memset(&rig, 0, sizeof rig);
    rig.shared = shared;
    return 0;
}

static void expect_refused(const struct fake_instance *fake, uint16_t code)
{
    uint16_t told = 0;
    assert_int_equal(rig_closed(&rig, fake), code);
    rig_event(&rig, MANAGER_REFUSED, &told);
    assert_int_equal(told, code);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_SEND), 0);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_STATE), 0);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_STORE), 0);
}

/* E2: what proves itself is what the processor says it is. */
static void prove_as(uint16_t expected)
{
    assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &row.id, NULL), ERR_NONE);
    struct span proof = rig_challenged(&rig, &row.id, 1, &first);
    assert_int_equal(rig_say(&rig, &first, proof), ERR_NONE);
    expect_refused(&first, expected);
    assert_int_equal(rig_row(&rig, &row.id).state, MANAGER_ALLOWED);
    assert_int_equal(rig_row(&rig, &row.id).start, 0);
}

static void another_enclave_is_refused(void **state)
{
    (void)state;
    fake_processor.MRENCLAVE[0] ^= 1;
    prove_as(ERR_PEER_IDENTITY);
}

/* U1: whoever signed it. */
static void an_image_signed_by_a_key_found_on_the_host_is_refused(void **state)
{
    (void)state;
    memcpy(fake_processor.MRENCLAVE, "an enclave that prints its keys", 31);
    fake_processor.ISVSVN = 9;
    prove_as(ERR_PEER_IDENTITY);
}

static void a_manager_that_poses_as_an_instance_is_refused(void **state)
{
    (void)state;
    fake_processor.ISVPRODID = PRODID_MANAGER;
    prove_as(ERR_PEER_IDENTITY);
}

static void an_enclave_of_another_processor_is_refused(void **state)
{
    (void)state;
    fake_processor.secret[3] ^= 1; /* the manager's process has the other one already */
    prove_as(ERR_PEER_REPORT);
}

static void something_without_a_report_is_refused(void **state)
{
    (void)state;
    assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &row.id, NULL), ERR_NONE);
    struct span proof = rig_challenged(&rig, &row.id, 1, &first);
    uint8_t forged[PEER_MESSAGE_MAX];
    memcpy(forged, proof.data, proof.size);
    memset(forged + proof.size - SGX_REPORT_SIZE, 0, SGX_REPORT_SIZE);
    assert_int_equal(rig_say(&rig, &first, span_of(forged, proof.size)), ERR_NONE);
    expect_refused(&first, ERR_PEER_REPORT);
}

static void each_changed_byte_of_a_proof_is_refused(void **state)
{
    (void)state;
    assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &row.id, NULL), ERR_NONE);
    size_t size = 1;
    for (size_t i = 0; i < size; i++) {
        struct span proof = rig_challenged(&rig, &row.id, 1 + i, &first);
        size = proof.size;
        first.message[i] ^= 0x80;
        assert_int_equal(rig_say(&rig, &first, proof), ERR_NONE);
        if (!rig_closed(&rig, &first)) fail_msg("byte %zu of PROOF", i);
        fake_instance_close(&first);
    }
    assert_int_equal(rig_row(&rig, &row.id).state, MANAGER_ALLOWED);
}

static void a_proof_for_another_challenge_is_refused(void **state)
{
    (void)state;
    uint8_t kept[PEER_MESSAGE_MAX];
    assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &row.id, NULL), ERR_NONE);
    struct span proof = rig_challenged(&rig, &row.id, 1, &first);
    const size_t size = proof.size;
    memcpy(kept, proof.data, size);
    rig_challenged(&rig, &row.id, 2, &second);
    assert_int_equal(rig_say(&rig, &second, span_of(kept, size)), ERR_NONE);
    expect_refused(&second, ERR_PEER_TRANSCRIPT);
}

static void nobody_is_challenged_without_a_start(void **state)
{
    (void)state;
    assert_int_equal(rig_attach(&rig, &row.id, 1), ERR_VERB_STATE);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_SEND), 0);
}

/* S6: both were challenged for the same start. One proof is recorded. */
static void of_two_enclaves_one_is_admitted(void **state)
{
    (void)state;
    assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &row.id, NULL), ERR_NONE);
    struct span proof = rig_challenged(&rig, &row.id, 1, &first);
    struct span late = rig_challenged(&rig, &row.id, 2, &second);
    assert_int_equal(rig_say(&rig, &first, proof), ERR_NONE);
    fake_instance_admit(&first, rig_sent(&rig, &first, 0), rig_sent(&rig, &first, 1));
    assert_int_equal(rig_say(&rig, &second, late), ERR_NONE);
    expect_refused(&second, ERR_HELD);
    rig_commit(&rig, &first, 1, 0x11);
}

/* The same while the first one's start is not durable yet. */
static void of_two_enclaves_one_is_admitted_in_one_store_too(void **state)
{
    (void)state;
    assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &row.id, NULL), ERR_NONE);
    struct span proof = rig_challenged(&rig, &row.id, 1, &first);
    struct span late = rig_challenged(&rig, &row.id, 2, &second);
    rig.hold_stores = true;
    assert_int_equal(rig_say(&rig, &first, proof), ERR_NONE);
    assert_int_equal(rig_say(&rig, &second, late), ERR_NONE);
    expect_refused(&second, ERR_HELD);
    rig_store(&rig);
    fake_instance_admit(&first, rig_sent(&rig, &first, 0), rig_sent(&rig, &first, 1));
    assert_int_equal(rig_row(&rig, &row.id).start, 1);
}

static void a_second_start_while_held_is_refused(void **state)
{
    (void)state;
    rig_serve(&rig, &row.id, 1, &first);
    assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &row.id, NULL), ERR_HELD);
    assert_int_equal(rig_attach(&rig, &row.id, 2), ERR_HELD);
    rig_reopen(&rig); /* in another life of the manager too */
    assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &row.id, NULL), ERR_HELD);
    assert_int_equal(rig_attach(&rig, &row.id, 2), ERR_HELD);
}

/* S6: declared dead, and alive: it gets nothing any more, on its old session, by resuming or with its receipt. */
static void a_fenced_enclave_gets_nothing(void **state)
{
    (void)state;
    uint8_t digest[SHA256_SIZE] = {0x77};
    uint8_t receipt[PEER_RECEIPT_SIZE];
    rig_serve(&rig, &row.id, 1, &first);
    rig_commit(&rig, &first, 1, 0x11);
    assert_int_equal(rig_on(&rig, MANAGER_DECLARE_DEAD, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_closed(&rig, &first), ERR_FENCED);
    struct span commit = fake_instance_commit(&first, 2, digest);
    assert_int_equal(rig_say(&rig, &first, commit), ERR_LINK_CLOSED);
    assert_int_equal(rig_reattach(&rig, &row.id, 3), ERR_FENCED);

    rig_serve(&rig, &row.id, 2, &second);
    assert_int_equal(second.provision.epoch, 1);
    first.channel = 4;
    assert_int_equal(rig_reattach(&rig, &row.id, 4), ERR_NONE);
    assert_int_equal(rig_say(&rig, &first, fake_instance_resume(&first)), ERR_NONE);
    expect_refused(&first, ERR_FENCED);
    fake_instance_receipt(&first, 1, digest, receipt);
    assert_int_equal(rig_stopped(&rig, receipt), ERR_RECEIPT);
    rig_commit(&rig, &second, 2, 0x22);
    assert_int_equal(rig_row(&rig, &row.id).version, 2);
}

/*
 * It knows the instance's root key as the holder does, and claims the holder's start, epoch and public key, which are no
 * secrets. What it does not have is the resumption key of that start.
 */
static void a_fenced_enclave_cannot_resume_as_the_holder(void **state)
{
    (void)state;
    uint8_t accept[PEER_MESSAGE_MAX];
    rig_serve(&rig, &row.id, 1, &first);
    assert_int_equal(rig_on(&rig, MANAGER_DECLARE_DEAD, &row.id, NULL), ERR_NONE);
    rig_serve(&rig, &row.id, 2, &second);
    assert_memory_equal(first.provision.root_key, second.provision.root_key, sizeof first.provision.root_key);
    struct peer_resumption claimed = {
        .instance = row.id, .epoch = second.provision.epoch, .start = second.provision.start};
    memcpy(claimed.holder, second.holder.public, sizeof claimed.holder);
    memcpy(claimed.key, first.provision.resumption_key, sizeof claimed.key);

    struct writer w = writer_of(first.message, sizeof first.message);
    peer_close(&first.peer);
    first.channel = 3;
    assert_ok(peer_resume(fake_instance_crypto(), &claimed, &first.peer, &w));
    assert_int_equal(rig_reattach(&rig, &row.id, 3), ERR_NONE);
    assert_int_equal(rig_say(&rig, &first, writer_span(&w)), ERR_NONE);
    struct span answer = rig_sent(&rig, &first, 0);
    memcpy(accept, answer.data, answer.size);
    w = writer_of(first.message, sizeof first.message);
    assert_err(peer_confirm(fake_instance_crypto(), &claimed, &first.peer, span_of(accept, answer.size), &w),
               AUTHENTICATION);

    /* It goes on in spite of that. */
    uint8_t confirm[4 + SHA256_SIZE] = {PEER_CONFIRM};
    assert_int_equal(rig_say(&rig, &first, span_of(confirm, sizeof confirm)), ERR_NONE);
    expect_refused(&first, ERR_AUTHENTICATION);
    rig_commit(&rig, &second, 1, 0x22);
}

static void a_resume_for_another_instance_than_the_channels_is_refused(void **state)
{
    (void)state;
    struct ledger_row other;
    assert_int_equal(rig_create(&rig, "web2", NULL, NULL, &other), ERR_NONE);
    rig_serve(&rig, &row.id, 1, &first);
    rig_serve(&rig, &other.id, 2, &second);
    first.channel = 3;
    assert_int_equal(rig_reattach(&rig, &other.id, 3), ERR_NONE);
    assert_int_equal(rig_say(&rig, &first, fake_instance_resume(&first)), ERR_NONE);
    expect_refused(&first, ERR_STATE_OTHER_INSTANCE);
    rig_commit(&rig, &second, 1, 0x22);
}

/* S6: the word of a dead holder, recorded before it was declared dead, is not said to it afterwards. */
static void what_was_owed_to_a_fenced_enclave_is_not_said(void **state)
{
    (void)state;
    uint8_t digest[SHA256_SIZE] = {0x77};
    rig_serve(&rig, &row.id, 1, &first);
    rig.hold_stores = true;
    assert_int_equal(rig_say(&rig, &first, fake_instance_commit(&first, 1, digest)), ERR_NONE);
    assert_int_equal(rig_on(&rig, MANAGER_DECLARE_DEAD, &row.id, NULL), RIG_NOT_ANSWERED);
    assert_int_equal(rig_closed(&rig, &first), ERR_FENCED);
    rig_store(&rig);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_SEND), 0);
    rig_store(&rig);
    assert_int_equal(rig_answer(&rig, NULL), ERR_NONE);
}

static void messages_of_one_session_are_nothing_to_another(void **state)
{
    (void)state;
    struct ledger_row other;
    assert_int_equal(rig_create(&rig, "web2", NULL, NULL, &other), ERR_NONE);
    rig_serve(&rig, &row.id, 1, &first);
    rig_serve(&rig, &other.id, 2, &second);
    uint8_t digest[SHA256_SIZE] = {0x77};
    struct span commit = fake_instance_commit(&first, 1, digest);
    assert_int_equal(rig_say(&rig, &second, commit), ERR_NONE);
    expect_refused(&second, ERR_LINK_RECORD);
    assert_int_equal(rig_row(&rig, &other.id).version, 0);
    assert_int_equal(rig_row(&rig, &row.id).version, 0);
}

static void a_replayed_commit_ends_the_session(void **state)
{
    (void)state;
    uint8_t digest[SHA256_SIZE] = {0x77};
    rig_serve(&rig, &row.id, 1, &first);
    struct span commit = fake_instance_commit(&first, 1, digest);
    assert_int_equal(rig_say(&rig, &first, commit), ERR_NONE);
    assert_int_equal(rig_say(&rig, &first, commit), ERR_NONE);
    expect_refused(&first, ERR_LINK_RECORD);
    assert_int_equal(rig_row(&rig, &row.id).version, 1);
}

static void messages_out_of_turn_end_the_channel(void **state)
{
    (void)state;
    static const uint8_t kinds[] = {0,          RECORD_FINISH, RECORD_DATA, RECORD_FINAL, PEER_CHALLENGE,
                                    PEER_ADMIT, PEER_RESUME,   PEER_ACCEPT, PEER_CONFIRM, 255};
    assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &row.id, NULL), ERR_NONE);
    for (size_t i = 0; i < sizeof kinds; i++) {
        const uint8_t message[64] = {kinds[i]};
        rig_challenged(&rig, &row.id, 10 + i, &first);
        assert_int_equal(rig_say(&rig, &first, span_of(message, sizeof message)), ERR_NONE);
        expect_refused(&first, ERR_LINK_ORDER);
        fake_instance_close(&first);
    }
    rig_challenged(&rig, &row.id, 5, &first);
    assert_int_equal(rig_say(&rig, &first, span_empty()), ERR_NONE);
    expect_refused(&first, ERR_TRUNCATED);
}

int main(void)
{
#define ADMISSION_TEST(test) cmocka_unit_test_setup_teardown(test, begin, finish)
    const struct CMUnitTest tests[] = {
        ADMISSION_TEST(another_enclave_is_refused),
        ADMISSION_TEST(an_image_signed_by_a_key_found_on_the_host_is_refused),
        ADMISSION_TEST(a_manager_that_poses_as_an_instance_is_refused),
        ADMISSION_TEST(an_enclave_of_another_processor_is_refused),
        ADMISSION_TEST(something_without_a_report_is_refused),
        ADMISSION_TEST(each_changed_byte_of_a_proof_is_refused),
        ADMISSION_TEST(a_proof_for_another_challenge_is_refused),
        ADMISSION_TEST(nobody_is_challenged_without_a_start),
        ADMISSION_TEST(of_two_enclaves_one_is_admitted),
        ADMISSION_TEST(of_two_enclaves_one_is_admitted_in_one_store_too),
        ADMISSION_TEST(a_second_start_while_held_is_refused),
        ADMISSION_TEST(a_fenced_enclave_gets_nothing),
        ADMISSION_TEST(a_fenced_enclave_cannot_resume_as_the_holder),
        ADMISSION_TEST(a_resume_for_another_instance_than_the_channels_is_refused),
        ADMISSION_TEST(what_was_owed_to_a_fenced_enclave_is_not_said),
        ADMISSION_TEST(messages_of_one_session_are_nothing_to_another),
        ADMISSION_TEST(a_replayed_commit_ends_the_session),
        ADMISSION_TEST(messages_out_of_turn_end_the_channel),
    };
    return cmocka_run_group_tests_name("admission", tests, NULL, NULL);
}
