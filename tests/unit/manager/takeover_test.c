/* An enclave beside the holder that goes on from what it exported: who may, when, and that there is one (rules 6 and 7). */
#include "tests/fakes/assertions.h"

#include <string.h>

#include "tests/unit/manager/rig.h"
#include "trusted/state/blob.h"

static struct rig rig;
static struct ledger_row row;
static struct fake_instance holder, candidate, rival;

static int begin(void **state)
{
    (void)state;
    rig_identities("the manager image", "the instance image");
    rig_open(&rig);
    assert_int_equal(rig_create(&rig, "web1", NULL, NULL, &row), ERR_NONE);
    rig_serve(&rig, &row.id, 7, &holder);
    rig_commit(&rig, &holder, 1, 0x11);
    return 0;
}

static int finish(void **state)
{
    (void)state;
    fake_instance_close(&holder);
    fake_instance_close(&candidate);
    fake_instance_close(&rival);
    rig_end(&rig);
    struct rig_shared *shared = rig.shared;
    memset(&rig, 0, sizeof rig);
    rig.shared = shared;
    return 0;
}

/* As far as PROVISION; what the host is told to give it is nothing. */
static void admit(struct fake_instance *fake, uint64_t channel)
{
    assert_int_equal(rig_attach_incoming(&rig, &row.id, channel), ERR_NONE);
    fake_instance_open(fake, &row.id, channel);
    assert_int_equal(rig_say(&rig, fake, fake_instance_prove(fake, rig_sent(&rig, fake, 0))), ERR_NONE);
    fake_instance_admit(fake, rig_sent(&rig, fake, 0), rig_sent(&rig, fake, 1));
    struct span told = rig_effect(&rig, MANAGER_EFFECT_STATE, 0);
    static const uint8_t none[8];
    assert_memory_equal(told.data + told.size - sizeof none, none, sizeof none);
}

static void become_ready(struct fake_instance *fake)
{
    assert_int_equal(rig_say(&rig, fake, fake_instance_ready(fake)), ERR_NONE);
    assert_int_equal(rig_closed(&rig, fake), 0);
}

static uint16_t redeem(struct fake_instance *fake, uint64_t epoch, uint64_t start, uint64_t version)
{
    uint8_t fields[PEER_REDEEM_SIZE];
    struct writer w = writer_of(fields, sizeof fields);
    assert_ok(write_u64(&w, epoch));
    assert_ok(write_u64(&w, start));
    assert_ok(write_u64(&w, version));
    assert_int_equal(rig_say(&rig, fake, fake_instance_say(fake, PEER_REDEEM, writer_span(&w))), ERR_NONE);
    return rig_closed(&rig, fake);
}

static bool is_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i]) return false;
    return true;
}

static void hear_redeemed(struct fake_instance *fake)
{
    struct span fields = fake_instance_hear(fake, rig_sent(&rig, fake, 0), PEER_REDEEMED);
    assert_int_equal(fields.size, PEER_REDEEMED_SIZE);
    memcpy(fake->provision.resumption_key, fields.data + BLOB_ROOT_SIZE, PEER_RESUMPTION_KEY_SIZE);
}

static void nothing_is_recorded_before_it_redeems(void **state)
{
    (void)state;
    admit(&candidate, 8);
    become_ready(&candidate);
    struct ledger_row now = rig_row(&rig, &row.id);
    assert_int_equal(now.start, 1);
    assert_memory_equal(now.holder, holder.holder.public, 32);
    rig_commit(&rig, &holder, 2, 0x22); /* which goes on */
}

static void it_is_told_what_opens_exports_and_no_other_key(void **state)
{
    (void)state;
    uint8_t expected[BLOB_ROOT_SIZE];
    admit(&candidate, 8);
    const struct fake_provision *told = &candidate.provision;
    assert_int_equal(told->mode, PEER_MODE_INCOMING);
    assert_int_equal(told->start, 2);
    assert_int_equal(told->epoch, 0);
    assert_ok(blob_export_root(fake_instance_crypto(), holder.provision.root_key, rig.MRENCLAVE, expected));
    assert_memory_equal(told->root_key, expected, sizeof expected);
    assert_true(is_zero(told->resumption_key, sizeof told->resumption_key));
    assert_true(is_zero(told->sealed_by, sizeof told->sealed_by));
    assert_true(is_zero(told->digest, sizeof told->digest));
    assert_int_equal(told->version, 0);
    assert_memory_equal(told->front_share, "the share of the front-end", 26);
}

static void the_host_is_told_that_it_is_incoming(void **state)
{
    (void)state;
    admit(&candidate, 8);
    assert_int_equal(rig_say(&rig, &candidate, fake_instance_ready(&candidate)), ERR_NONE);
    uint16_t code = ERR_SYSTEM;
    struct span event = rig_event(&rig, MANAGER_STARTED, &code);
    const uint64_t start = 2;
    assert_int_equal(code, ERR_NONE);
    assert_memory_equal(event.data + 24, &start, sizeof start);
    assert_int_equal(event.data[32], LINK_K2_NAMED);
    assert_int_equal(event.data[33], 1);
}

static void who_redeems_is_the_holder_and_the_other_is_fenced(void **state)
{
    (void)state;
    admit(&candidate, 8);
    become_ready(&candidate);
    assert_int_equal(redeem(&candidate, 0, 1, 1), 0);
    assert_int_equal(rig_closed(&rig, &holder), ERR_FENCED);
    struct span fields = fake_instance_hear(&candidate, rig_sent(&rig, &candidate, 0), PEER_REDEEMED);
    assert_memory_equal(fields.data, holder.provision.root_key, BLOB_ROOT_SIZE);
    uint16_t code = ERR_SYSTEM;
    assert_memory_equal(rig_event(&rig, MANAGER_REDEEMED, &code).data, ((const uint8_t[8]){8}), 8);
    struct ledger_row now = rig_row(&rig, &row.id);
    assert_int_equal(now.state, MANAGER_HELD);
    assert_int_equal(now.start, 2);
    assert_int_equal(now.version, 1);
    assert_memory_equal(now.holder, candidate.holder.public, 32);
    rig_commit(&rig, &candidate, 2, 0x22);
}

static void nothing_is_handed_over_before_that_is_anchored(void **state)
{
    (void)state;
    admit(&candidate, 8);
    become_ready(&candidate);
    rig.hold_stores = true;
    assert_int_equal(redeem(&candidate, 0, 1, 1), 0);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_SEND), 0);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_STORE), 1);
    rig.hold_stores = false;
    rig_store(&rig);
    hear_redeemed(&candidate);
}

static void the_fenced_one_commits_nothing_and_does_not_come_back(void **state)
{
    (void)state;
    uint8_t digest[SHA256_SIZE] = {0x33};
    uint8_t receipt[PEER_RECEIPT_SIZE];
    admit(&candidate, 8);
    become_ready(&candidate);
    assert_int_equal(redeem(&candidate, 0, 1, 1), 0);
    assert_int_equal(rig_say(&rig, &holder, fake_instance_commit(&holder, 2, digest)), ERR_LINK_CLOSED);
    assert_int_equal(rig_reattach(&rig, &row.id, 9), ERR_NONE);
    holder.channel = 9;
    assert_int_equal(rig_say(&rig, &holder, fake_instance_resume(&holder)), ERR_NONE);
    assert_int_equal(rig_closed(&rig, &holder), ERR_FENCED);
    fake_instance_receipt(&holder, 1, digest, receipt);
    assert_int_equal(rig_stopped(&rig, receipt), ERR_RECEIPT);
}

/* Taking back is a commit: the version that was exported is not the newest any more. */
static void an_export_that_was_taken_back_is_refused(void **state)
{
    (void)state;
    admit(&candidate, 8);
    become_ready(&candidate);
    rig_commit(&rig, &holder, 2, 0x22);
    assert_int_equal(redeem(&candidate, 0, 1, 1), ERR_FENCED);
    assert_int_equal(rig_closed(&rig, &holder), 0);
    rig_commit(&rig, &holder, 3, 0x33);
    assert_int_equal(rig_row(&rig, &row.id).start, 1);
}

/* Both words come before either is stored: the first one decides. */
static void of_two_that_decide_at_once_one_does(void **state)
{
    (void)state;
    uint8_t digest[SHA256_SIZE] = {0x22};
    admit(&candidate, 8);
    become_ready(&candidate);
    rig.hold_stores = true;
    assert_int_equal(rig_say(&rig, &holder, fake_instance_commit(&holder, 2, digest)), ERR_NONE);
    assert_int_equal(redeem(&candidate, 0, 1, 1), ERR_FENCED);
    rig.hold_stores = false;
    rig_store(&rig);
    fake_instance_hear(&holder, rig_sent(&rig, &holder, 0), PEER_ANCHORED);
}

static void only_the_very_export_is_redeemed(void **state)
{
    (void)state;
    static const uint64_t others[][3] = {{1, 1, 1}, {0, 2, 1}, {0, 0, 1}, {0, 1, 2}, {0, 1, 0}};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        admit(&candidate, 8 + i);
        become_ready(&candidate);
        assert_int_equal(redeem(&candidate, others[i][0], others[i][1], others[i][2]), ERR_FENCED);
        fake_instance_close(&candidate);
    }
    assert_int_equal(rig_row(&rig, &row.id).start, 1);
}

static void of_two_candidates_one_redeems(void **state)
{
    (void)state;
    admit(&candidate, 8);
    admit(&rival, 9);
    become_ready(&candidate);
    become_ready(&rival);
    assert_int_equal(redeem(&candidate, 0, 1, 1), 0);
    assert_int_equal(rig_closed(&rig, &rival), ERR_FENCED);
}

/* It is no holder: what only one may say ends its channel. */
static void a_candidate_may_say_nothing_else(void **state)
{
    (void)state;
    uint8_t digest[SHA256_SIZE] = {0x22};
    admit(&candidate, 8);
    become_ready(&candidate);
    assert_int_equal(rig_say(&rig, &candidate, fake_instance_commit(&candidate, 2, digest)), ERR_NONE);
    assert_int_equal(rig_closed(&rig, &candidate), ERR_LINK_ORDER);
    fake_instance_close(&candidate);
    admit(&candidate, 9);
    become_ready(&candidate);
    assert_int_equal(rig_say(&rig, &candidate, fake_instance_ask_lease(&candidate, 5)), ERR_NONE);
    assert_int_equal(rig_closed(&rig, &candidate), ERR_LINK_ORDER);
    fake_instance_close(&candidate);
    admit(&candidate, 10);
    assert_int_equal(redeem(&candidate, 0, 1, 1), ERR_LINK_ORDER); /* before READY */
    uint8_t fields[PEER_REDEEM_SIZE] = {0};
    assert_int_equal(rig_say(&rig, &holder, fake_instance_say(&holder, PEER_REDEEM, span_of(fields, sizeof fields))),
                     ERR_NONE);
    assert_int_equal(rig_closed(&rig, &holder), ERR_LINK_ORDER); /* nor may a holder redeem */
}

static void what_was_exported_before_an_orderly_end_is_redeemed(void **state)
{
    (void)state;
    admit(&candidate, 8);
    become_ready(&candidate);
    assert_int_equal(rig_stop(&rig, &holder), ERR_NONE);
    assert_int_equal(rig_row(&rig, &row.id).state, MANAGER_STOPPED_STATE);
    assert_int_equal(redeem(&candidate, 0, 1, 1), 0);
    assert_int_equal(rig_row(&rig, &row.id).state, MANAGER_HELD);
}

static void a_start_that_was_allowed_meanwhile_decides(void **state)
{
    (void)state;
    admit(&candidate, 8);
    become_ready(&candidate);
    assert_int_equal(rig_stop(&rig, &holder), ERR_NONE);
    assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &row.id, NULL), ERR_NONE);
    assert_int_equal(redeem(&candidate, 0, 1, 1), ERR_VERB_STATE);
    assert_int_equal(rig_attach_incoming(&rig, &row.id, 9), ERR_VERB_STATE);
}

static void a_holder_that_was_declared_dead_leaves_nothing_to_redeem(void **state)
{
    (void)state;
    admit(&candidate, 8);
    become_ready(&candidate);
    assert_int_equal(rig_on(&rig, MANAGER_DECLARE_DEAD, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_closed(&rig, &candidate), ERR_FENCED);
    admit(&rival, 9);
    become_ready(&rival);
    assert_int_equal(redeem(&rival, 0, 1, 1), ERR_FENCED); /* another epoch */
}

static void the_holders_new_session_leaves_the_candidate(void **state)
{
    (void)state;
    admit(&candidate, 8);
    become_ready(&candidate);
    assert_int_equal(rig_reattach(&rig, &row.id, 9), ERR_NONE);
    holder.channel = 9;
    assert_int_equal(rig_say(&rig, &holder, fake_instance_resume(&holder)), ERR_NONE);
    struct span accept = rig_sent(&rig, &holder, 0);
    assert_int_equal(rig_say(&rig, &holder, fake_instance_confirm(&holder, accept)), ERR_NONE);
    assert_int_equal(rig_closed(&rig, &candidate), 0);
    assert_int_equal(redeem(&candidate, 0, 1, 1), 0);
}

/* A manager that died between the record and the answer: the one after it knows who holds. */
static void a_new_life_of_the_manager_knows_who_redeemed(void **state)
{
    (void)state;
    admit(&candidate, 8);
    become_ready(&candidate);
    assert_int_equal(redeem(&candidate, 0, 1, 1), 0);
    hear_redeemed(&candidate);
    rig_reopen(&rig);
    assert_int_equal(rig_reattach(&rig, &row.id, 1), ERR_NONE);
    candidate.channel = 1;
    assert_int_equal(rig_say(&rig, &candidate, fake_instance_resume(&candidate)), ERR_NONE);
    struct span accept = rig_sent(&rig, &candidate, 0);
    assert_int_equal(rig_say(&rig, &candidate, fake_instance_confirm(&candidate, accept)), ERR_NONE);
    assert_int_equal(rig_closed(&rig, &candidate), 0);
    rig_commit(&rig, &candidate, 2, 0x22);
}

static void there_is_nothing_to_take_over_before_the_first_start(void **state)
{
    (void)state;
    assert_int_equal(rig_create(&rig, "web2", NULL, NULL, &row), ERR_NONE);
    assert_int_equal(rig_attach_incoming(&rig, &row.id, 9), ERR_VERB_STATE);
}

int main(void)
{
#define TAKEOVER_TEST(test) cmocka_unit_test_setup_teardown(test, begin, finish)
    const struct CMUnitTest tests[] = {
        TAKEOVER_TEST(nothing_is_recorded_before_it_redeems),
        TAKEOVER_TEST(it_is_told_what_opens_exports_and_no_other_key),
        TAKEOVER_TEST(the_host_is_told_that_it_is_incoming),
        TAKEOVER_TEST(who_redeems_is_the_holder_and_the_other_is_fenced),
        TAKEOVER_TEST(nothing_is_handed_over_before_that_is_anchored),
        TAKEOVER_TEST(the_fenced_one_commits_nothing_and_does_not_come_back),
        TAKEOVER_TEST(an_export_that_was_taken_back_is_refused),
        TAKEOVER_TEST(of_two_that_decide_at_once_one_does),
        TAKEOVER_TEST(only_the_very_export_is_redeemed),
        TAKEOVER_TEST(of_two_candidates_one_redeems),
        TAKEOVER_TEST(a_candidate_may_say_nothing_else),
        TAKEOVER_TEST(what_was_exported_before_an_orderly_end_is_redeemed),
        TAKEOVER_TEST(a_start_that_was_allowed_meanwhile_decides),
        TAKEOVER_TEST(a_holder_that_was_declared_dead_leaves_nothing_to_redeem),
        TAKEOVER_TEST(the_holders_new_session_leaves_the_candidate),
        TAKEOVER_TEST(a_new_life_of_the_manager_knows_who_redeemed),
        TAKEOVER_TEST(there_is_nothing_to_take_over_before_the_first_start),
    };
    return cmocka_run_group_tests_name("takeover", tests, NULL, NULL);
}
