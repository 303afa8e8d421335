/*
 * Enclaves that are to take over and lie, or say things again, and a host that ends the manager in the middle of it (S6,
 * S7, S10). What such an enclave may do at all is in tests/unit/manager/takeover_test.c.
 */
#include "tests/fakes/assertions.h"

#include <string.h>

#include "tests/unit/manager/rig.h"

static struct rig rig;
static struct ledger_row row, second_row;
static struct fake_instance holder, candidate, rival, second;

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
    fake_instance_close(&second);
    rig_end(&rig);
    struct rig_shared *shared = rig.shared;
    memset(&rig, 0, sizeof rig);
    rig.shared = shared;
    return 0;
}

static void admit(struct fake_instance *fake, uint64_t channel)
{
    assert_int_equal(rig_attach_incoming(&rig, &row.id, channel), ERR_NONE);
    fake_instance_open(fake, &row.id, channel);
    assert_int_equal(rig_say(&rig, fake, fake_instance_prove(fake, rig_sent(&rig, fake, 0))), ERR_NONE);
    fake_instance_admit(fake, rig_sent(&rig, fake, 0), rig_sent(&rig, fake, 1));
    assert_int_equal(rig_say(&rig, fake, fake_instance_ready(fake)), ERR_NONE);
    assert_int_equal(rig_closed(&rig, fake), 0);
}

static struct span redeem_fields(uint64_t start, uint64_t version, uint8_t out[PEER_REDEEM_SIZE])
{
    struct writer w = writer_of(out, PEER_REDEEM_SIZE);
    assert_ok(write_u64(&w, 0));
    assert_ok(write_u64(&w, start));
    assert_ok(write_u64(&w, version));
    return writer_span(&w);
}

static uint16_t redeem(struct fake_instance *fake, uint64_t start, uint64_t version)
{
    uint8_t fields[PEER_REDEEM_SIZE];
    const struct span message = fake_instance_say(fake, PEER_REDEEM, redeem_fields(start, version, fields));
    assert_int_equal(rig_say(&rig, fake, message), ERR_NONE);
    return rig_closed(&rig, fake);
}

/* The holder is the one that it was, and commits. */
static void assert_undisturbed(uint64_t version)
{
    const struct ledger_row now = rig_row(&rig, &row.id);
    assert_int_equal(now.start, 1);
    assert_memory_equal(now.holder, holder.holder.public, sizeof now.holder);
    rig_commit(&rig, &holder, version, (uint8_t)version);
}

static void the_very_record_of_a_redeem_is_heard_once(void **state)
{
    (void)state;
    uint8_t fields[PEER_REDEEM_SIZE], kept[PEER_MESSAGE_MAX];
    admit(&candidate, 8);
    const struct span message = fake_instance_say(&candidate, PEER_REDEEM, redeem_fields(1, 1, fields));
    const size_t size = message.size;
    memcpy(kept, message.data, size);
    assert_int_equal(rig_say(&rig, &candidate, span_of(kept, size)), ERR_NONE);
    assert_int_equal(rig_row(&rig, &row.id).start, 2);
    assert_int_equal(rig_say(&rig, &candidate, span_of(kept, size)), ERR_NONE);
    assert_int_not_equal(rig_closed(&rig, &candidate), 0);
    assert_int_equal(rig_row(&rig, &row.id).start, 2);
}

/* On the channel of another candidate it is not even a record of that session. */
static void what_one_candidate_says_is_not_said_by_another(void **state)
{
    (void)state;
    uint8_t fields[PEER_REDEEM_SIZE];
    admit(&candidate, 8);
    admit(&rival, 9);
    const struct span message = fake_instance_say(&candidate, PEER_REDEEM, redeem_fields(1, 1, fields));
    assert_int_equal(rig_say(&rig, &rival, message), ERR_NONE);
    assert_int_not_equal(rig_closed(&rig, &rival), 0);
    assert_undisturbed(2);
}

static void who_has_redeemed_does_not_do_it_again(void **state)
{
    (void)state;
    admit(&candidate, 8);
    assert_int_equal(redeem(&candidate, 1, 1), 0);
    (void)fake_instance_hear(&candidate, rig_sent(&rig, &candidate, 0), PEER_REDEEMED);
    assert_int_equal(redeem(&candidate, 2, 1), ERR_LINK_ORDER);
    assert_int_equal(rig_row(&rig, &row.id).start, 2);
}

static void twice_before_it_is_stored_is_once(void **state)
{
    (void)state;
    admit(&candidate, 8);
    rig.hold_stores = true;
    assert_int_equal(redeem(&candidate, 1, 1), 0);
    assert_int_equal(redeem(&candidate, 1, 1), ERR_LINK_ORDER);
    rig.hold_stores = false;
    rig_store(&rig);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_SEND), 0); /* nobody is there to be told the key */
    assert_int_equal(rig_row(&rig, &row.id).start, 2);
}

static void a_redeem_of_another_size_ends_the_channel_and_nothing_else(void **state)
{
    (void)state;
    static const uint8_t bytes[PEER_REDEEM_SIZE + 8];
    static const size_t sizes[] = {0, 1, PEER_REDEEM_SIZE - 1, PEER_REDEEM_SIZE + 1, sizeof bytes};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        admit(&candidate, 8 + i);
        const struct span message = fake_instance_say(&candidate, PEER_REDEEM, span_of(bytes, sizes[i]));
        assert_int_equal(rig_say(&rig, &candidate, message), ERR_NONE);
        assert_int_not_equal(rig_closed(&rig, &candidate), 0);
        fake_instance_close(&candidate);
        assert_undisturbed(2 + i);
    }
}

static void no_number_is_near_enough(void **state)
{
    (void)state;
    static const uint64_t others[][2] = {{UINT64_MAX, 1}, {1, UINT64_MAX}, {UINT64_MAX, UINT64_MAX}, {0, 0}, {2, 1}};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        admit(&candidate, 8 + i);
        assert_int_equal(redeem(&candidate, others[i][0], others[i][1]), ERR_FENCED);
        fake_instance_close(&candidate);
    }
    assert_undisturbed(2);
}

/* Of another instance, whose record is on its way: the next record has this one too, and until then nobody is told. */
static void a_redeem_while_a_store_is_under_way_waits_for_its_own(void **state)
{
    (void)state;
    uint8_t digest[SHA256_SIZE] = {0x22};
    assert_int_equal(rig_create(&rig, "web2", NULL, NULL, &second_row), ERR_NONE);
    rig_serve(&rig, &second_row.id, 20, &second);
    admit(&candidate, 8);
    rig.hold_stores = true;
    assert_int_equal(rig_say(&rig, &second, fake_instance_commit(&second, 1, digest)), ERR_NONE);
    assert_int_equal(redeem(&candidate, 1, 1), 0);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_SEND), 0);
    rig_store(&rig);
    (void)fake_instance_hear(&second, rig_sent(&rig, &second, 0), PEER_ANCHORED);
    for (size_t i = 0; i < rig_count(&rig, MANAGER_EFFECT_SEND); i++)
        assert_int_not_equal(rig_effect(&rig, MANAGER_EFFECT_SEND, i).data[0], candidate.channel);
    rig.hold_stores = false;
    rig_store(&rig);
    (void)fake_instance_hear(&candidate, rig_sent(&rig, &candidate, 0), PEER_REDEEMED);
}

/* The record is durable, and the anchor has not moved: the next life catches up, and the first of the two has it. */
static void a_life_that_ends_between_store_and_anchor_keeps_who_redeemed(void **state)
{
    (void)state;
    admit(&candidate, 8);
    admit(&rival, 9);
    rig.hold_stores = true;
    assert_int_equal(redeem(&candidate, 1, 1), 0);
    assert_int_equal(rig_closed(&rig, &rival), ERR_FENCED);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_SEND), 0);
    rig_keep(&rig);
    rig.hold_stores = false;
    rig_reopen(&rig);
    const struct ledger_row now = rig_row(&rig, &row.id);
    assert_int_equal(now.state, MANAGER_HELD);
    assert_int_equal(now.start, 2);
    assert_memory_equal(now.holder, candidate.holder.public, sizeof now.holder);
    fake_instance_close(&rival);
    admit(&rival, 9);
    assert_int_equal(redeem(&rival, 1, 1), ERR_FENCED);
    assert_int_equal(rig_reattach(&rig, &row.id, 10), ERR_NONE);
    holder.channel = 10;
    assert_int_equal(rig_say(&rig, &holder, fake_instance_resume(&holder)), ERR_NONE);
    assert_int_equal(rig_closed(&rig, &holder), ERR_FENCED);
}

/* Nothing is durable: it was never said. The source goes on, or the other one of the two redeems. */
static void a_life_that_ends_before_the_store_leaves_everything_open(void **state)
{
    (void)state;
    admit(&candidate, 8);
    rig.hold_stores = true;
    assert_int_equal(redeem(&candidate, 1, 1), 0);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_SEND), 0);
    rig.hold_stores = false;
    rig_reopen(&rig);
    assert_int_equal(rig_row(&rig, &row.id).start, 1);
    admit(&rival, 9);
    assert_int_equal(rig_reattach(&rig, &row.id, 10), ERR_NONE);
    holder.channel = 10;
    assert_int_equal(rig_say(&rig, &holder, fake_instance_resume(&holder)), ERR_NONE);
    const struct span accept = rig_sent(&rig, &holder, 0);
    assert_int_equal(rig_say(&rig, &holder, fake_instance_confirm(&holder, accept)), ERR_NONE);
    assert_int_equal(redeem(&rival, 1, 1), 0);
    assert_int_equal(rig_closed(&rig, &holder), ERR_FENCED);
    (void)fake_instance_hear(&rival, rig_sent(&rig, &rival, 0), PEER_REDEEMED);
}

/* A host that puts the store of before back, so that another one could redeem the same export. */
static void the_store_of_before_does_not_open(void **state)
{
    (void)state;
    static struct rig_disk before;
    before = rig.disk;
    admit(&candidate, 8);
    assert_int_equal(redeem(&candidate, 1, 1), 0);
    rig.disk = before;
    rig_boot(&rig);
    uint16_t code = rig_start_open(&rig);
    if (!code) code = rig_rows(&rig);
    if (!code) code = rig_loaded(&rig);
    assert_int_equal(code, ERR_ANCHOR_VALUE);
}

static void an_anchor_that_does_not_move_hands_nothing_over(void **state)
{
    (void)state;
    admit(&candidate, 8);
    rig.hold_stores = true;
    assert_int_equal(redeem(&candidate, 1, 1), 0);
    rig.anchor_stuck = true;
    assert_int_equal(rig_exchange(&rig), ERR_ANCHOR_VALUE);
    assert_int_equal(rig.effect_count, 0);
}

static void a_proof_of_another_candidate_is_refused(void **state)
{
    (void)state;
    uint8_t kept[PEER_MESSAGE_MAX];
    assert_int_equal(rig_attach_incoming(&rig, &row.id, 8), ERR_NONE);
    fake_instance_open(&candidate, &row.id, 8);
    const struct span proof = fake_instance_prove(&candidate, rig_sent(&rig, &candidate, 0));
    const size_t size = proof.size;
    memcpy(kept, proof.data, size);
    assert_int_equal(rig_attach_incoming(&rig, &row.id, 9), ERR_NONE);
    fake_instance_open(&rival, &row.id, 9);
    assert_int_equal(rig_say(&rig, &rival, span_of(kept, size)), ERR_NONE);
    assert_int_not_equal(rig_closed(&rig, &rival), 0);
    assert_int_not_equal(rig_attach_incoming(&rig, &row.id, 8), ERR_NONE); /* which is in use */
    assert_undisturbed(2);
}

int main(void)
{
#define TAKEOVER_TEST(test) cmocka_unit_test_setup_teardown(test, begin, finish)
    const struct CMUnitTest tests[] = {
        TAKEOVER_TEST(the_very_record_of_a_redeem_is_heard_once),
        TAKEOVER_TEST(what_one_candidate_says_is_not_said_by_another),
        TAKEOVER_TEST(who_has_redeemed_does_not_do_it_again),
        TAKEOVER_TEST(twice_before_it_is_stored_is_once),
        TAKEOVER_TEST(a_redeem_of_another_size_ends_the_channel_and_nothing_else),
        TAKEOVER_TEST(no_number_is_near_enough),
        TAKEOVER_TEST(a_redeem_while_a_store_is_under_way_waits_for_its_own),
        TAKEOVER_TEST(a_life_that_ends_between_store_and_anchor_keeps_who_redeemed),
        TAKEOVER_TEST(a_life_that_ends_before_the_store_leaves_everything_open),
        TAKEOVER_TEST(the_store_of_before_does_not_open),
        TAKEOVER_TEST(an_anchor_that_does_not_move_hands_nothing_over),
        TAKEOVER_TEST(a_proof_of_another_candidate_is_refused),
    };
    return cmocka_run_group_tests_name("takeover", tests, NULL, NULL);
}
