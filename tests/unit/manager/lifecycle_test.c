/* Every verb in every state, through K1: what the table in lifecycle.c says is what happens. */
#include "tests/fakes/assertions.h"

#include <string.h>

#include "tests/unit/manager/rig.h"

static struct rig rig;
static struct fake_instance fake;

static int begin(void **state)
{
    (void)state;
    rig_identities("the manager image", "the instance image");
    rig_open(&rig);
    return 0;
}

static int finish(void **state)
{
    (void)state;
    rig_end(&rig);
    struct rig_shared *shared = rig.shared;
    memset(&rig, 0, sizeof rig);
    rig.shared = shared;
    return 0;
}

/* A new instance that is brought into a state; its receipt, for STOPPED. */
static struct ledger_row bring_to(enum manager_instance_state state, uint8_t receipt[PEER_RECEIPT_SIZE])
{
    static uint64_t number;
    static const uint8_t no_digest[SHA256_SIZE];
    struct ledger_row row;
    char label[] = {'n', (char)('a' + number / 26 % 26), (char)('a' + number % 26), '\0'};
    number++;
    assert_int_equal(rig_create(&rig, label, NULL, NULL, &row), ERR_NONE);
    fake = (struct fake_instance){.id = row.id};
    fake.provision.start = 1;
    assert_ok(ed25519_generate(fake_instance_crypto(), &fake.holder));
    if (state == MANAGER_ALLOWED) assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &row.id, NULL), ERR_NONE);
    if (state == MANAGER_HELD || state == MANAGER_STOPPED_STATE) rig_serve(&rig, &row.id, 1000 + number, &fake);
    if (state == MANAGER_STOPPED_STATE) assert_int_equal(rig_stop(&rig, &fake), ERR_NONE);
    if (state == MANAGER_DELETED) assert_int_equal(rig_delete(&rig, &row.id, NULL), ERR_NONE);
    fake_instance_receipt(&fake, 0, no_digest, receipt);
    row = rig_row(&rig, &row.id);
    assert_int_equal(row.state, state);
    return row;
}

static uint16_t do_verb(enum manager_verb verb, const struct ledger_row *row, const uint8_t receipt[PEER_RECEIPT_SIZE])
{
    static uint64_t channel = 5000;
    switch (verb) {
    case MANAGER_ATTACH:
        return rig_attach(&rig, &row->id, ++channel);
    case MANAGER_REATTACH:
        return rig_reattach(&rig, &row->id, ++channel);
    case MANAGER_STOPPED:
        return rig_stopped(&rig, receipt);
    case MANAGER_DELETE:
        return rig_delete(&rig, &row->id, NULL);
    default:
        return rig_on(&rig, verb, &row->id, NULL);
    }
}

#define STATE_COUNT (MANAGER_DELETED + 1)

static const struct {
    enum manager_verb verb;
    struct {
        uint16_t code;
        uint8_t next; /* 0: as it was */
    } expected[STATE_COUNT];
} rules[] = {
    {MANAGER_START_INSTANCE,
     {[MANAGER_PROVISIONED] = {0, MANAGER_ALLOWED},
      [MANAGER_STOPPED_STATE] = {0, MANAGER_ALLOWED},
      [MANAGER_ALLOWED] = {0, MANAGER_ALLOWED},
      [MANAGER_HELD] = {ERR_HELD, 0},
      [MANAGER_DELETED] = {ERR_DELETED, 0}}},
    {MANAGER_ATTACH,
     {[MANAGER_PROVISIONED] = {ERR_VERB_STATE, 0},
      [MANAGER_STOPPED_STATE] = {ERR_VERB_STATE, 0},
      [MANAGER_HELD] = {ERR_HELD, 0},
      [MANAGER_DELETED] = {ERR_DELETED, 0}}},
    {MANAGER_REATTACH,
     {[MANAGER_PROVISIONED] = {ERR_FENCED, 0},
      [MANAGER_STOPPED_STATE] = {ERR_FENCED, 0},
      [MANAGER_ALLOWED] = {ERR_FENCED, 0},
      [MANAGER_DELETED] = {ERR_DELETED, 0}}},
    {MANAGER_STOPPED,
     {[MANAGER_PROVISIONED] = {ERR_VERB_STATE, 0},
      [MANAGER_STOPPED_STATE] = {ERR_VERB_STATE, 0},
      [MANAGER_ALLOWED] = {ERR_VERB_STATE, 0},
      [MANAGER_HELD] = {0, MANAGER_STOPPED_STATE},
      [MANAGER_DELETED] = {ERR_DELETED, 0}}},
    {MANAGER_DECLARE_DEAD,
     {[MANAGER_PROVISIONED] = {ERR_VERB_STATE, 0},
      [MANAGER_STOPPED_STATE] = {ERR_VERB_STATE, 0},
      [MANAGER_ALLOWED] = {0, MANAGER_STOPPED_STATE},
      [MANAGER_HELD] = {0, MANAGER_STOPPED_STATE},
      [MANAGER_DELETED] = {ERR_DELETED, 0}}},
    {MANAGER_CHALLENGE, {[MANAGER_DELETED] = {ERR_DELETED, 0}}},
    {MANAGER_DELETE,
     {[MANAGER_PROVISIONED] = {0, MANAGER_DELETED},
      [MANAGER_STOPPED_STATE] = {0, MANAGER_DELETED},
      [MANAGER_ALLOWED] = {0, MANAGER_DELETED},
      [MANAGER_HELD] = {ERR_HELD, 0},
      [MANAGER_DELETED] = {ERR_DELETED, 0}}},
    {MANAGER_SHOW, {{0}}},
};

static void each_verb_in_each_state(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        for (enum manager_instance_state state = MANAGER_PROVISIONED; state <= MANAGER_DELETED; state++) {
            uint8_t receipt[PEER_RECEIPT_SIZE];
            struct ledger_row row = bring_to(state, receipt);
            uint8_t next = rules[i].expected[state].next ? rules[i].expected[state].next : state;
            assert_int_equal(do_verb(rules[i].verb, &row, receipt), rules[i].expected[state].code);
            struct ledger_row after = rig_row(&rig, &row.id);
            assert_int_equal(after.state, next);
            if (next == state) assert_memory_equal(&after, &row, sizeof row);
            fake_instance_close(&fake);
        }
    }
}

static void a_declared_death_is_counted_and_raises_the_epoch(void **state)
{
    (void)state;
    uint8_t receipt[PEER_RECEIPT_SIZE];
    static const uint8_t nobody[32];
    struct ledger_row row = bring_to(MANAGER_HELD, receipt);
    assert_int_equal(rig_on(&rig, MANAGER_DECLARE_DEAD, &row.id, &row), ERR_NONE);
    assert_int_equal(row.epoch, 1);
    assert_int_equal(row.deaths, 1);
    assert_memory_equal(row.holder, nobody, sizeof nobody);
    assert_int_equal(rig_closed(&rig, &fake), ERR_FENCED);
    fake_instance_close(&fake);
}

static void calling_off_a_start_declares_nobody_dead(void **state)
{
    (void)state;
    uint8_t receipt[PEER_RECEIPT_SIZE];
    struct ledger_row row = bring_to(MANAGER_ALLOWED, receipt);
    struct span proof = rig_challenged(&rig, &row.id, 9000, &fake);
    (void)proof;
    assert_int_equal(rig_on(&rig, MANAGER_DECLARE_DEAD, &row.id, &row), ERR_NONE);
    assert_int_equal(row.epoch, 0);
    assert_int_equal(row.deaths, 0);
    assert_int_equal(rig_closed(&rig, &fake), ERR_FENCED);
    fake_instance_close(&fake);
}

static void an_unknown_id_is_no_instance(void **state)
{
    (void)state;
    static const struct instance_id nobody = {.bytes = "no such instance"};
    uint8_t receipt[PEER_RECEIPT_SIZE];
    static const uint8_t no_digest[SHA256_SIZE];
    struct ledger_row row = {.id = nobody};
    fake = (struct fake_instance){.id = nobody};
    assert_ok(ed25519_generate(fake_instance_crypto(), &fake.holder));
    fake_instance_receipt(&fake, 0, no_digest, receipt);
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        assert_int_equal(do_verb(rules[i].verb, &row, receipt), ERR_NO_INSTANCE);
}

int main(void)
{
#define LIFECYCLE_TEST(test) cmocka_unit_test_setup_teardown(test, begin, finish)
    const struct CMUnitTest tests[] = {
        LIFECYCLE_TEST(each_verb_in_each_state),
        LIFECYCLE_TEST(a_declared_death_is_counted_and_raises_the_epoch),
        LIFECYCLE_TEST(calling_off_a_start_declares_nobody_dead),
        LIFECYCLE_TEST(an_unknown_id_is_no_instance),
    };
    return cmocka_run_group_tests_name("lifecycle", tests, NULL, NULL);
}
