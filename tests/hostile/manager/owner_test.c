/* The operator without the owner's signature (O1), and an operator who would like a new instance to pass for another (V1). */
#include "tests/fakes/assertions.h"

#include <ctype.h>
#include <string.h>

#include "tests/unit/manager/rig.h"

static struct rig rig;
static struct ed25519_key owner;
static struct ledger_row row;

static int begin(void **state)
{
    (void)state;
    rig_identities("the manager image", "the instance image");
    rig_open(&rig);
    assert_ok(ed25519_generate(fake_instance_crypto(), &owner));
    assert_int_equal(rig_create(&rig, "owned", owner.public, NULL, &row), ERR_NONE);
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

/* OWNER_ACT as abi/manager.h has it, written down a second time. */
struct act {
    uint16_t verb;
    uint8_t domain[INSTANCE_ID_SIZE];
    struct instance_id id;
    uint64_t epoch;
    uint8_t nonce[32];
    uint8_t manager[SGX_HASH_SIZE];
    struct span arguments;
};

static struct act challenged(const struct ledger_row *target)
{
    struct act act = {.verb = MANAGER_DELETE, .id = target->id, .epoch = target->epoch};
    struct span results;
    assert_int_equal(rig_ask(&rig, MANAGER_STATUS, span_empty(), &results), ERR_NONE);
    memcpy(act.domain, results.data, sizeof act.domain);
    memcpy(act.manager, results.data + sizeof act.domain, sizeof act.manager);
    assert_int_equal(rig_ask(&rig, MANAGER_CHALLENGE, span_of(&target->id, sizeof target->id), &results), ERR_NONE);
    assert_int_equal(results.size, sizeof act.nonce);
    memcpy(act.nonce, results.data, sizeof act.nonce);
    return act;
}

static void sign(const struct ed25519_key *key, const struct act *act, uint8_t out[ED25519_SIGNATURE_SIZE])
{
    static const char label[16] = "vtpm owner v1";
    uint8_t bytes[OWNER_ACT_SIZE], arguments[SHA256_SIZE];
    struct writer w = writer_of(bytes, sizeof bytes);
    assert_ok(hash_sha256(fake_instance_crypto(), &act->arguments, 1, arguments));
    assert_ok(write_bytes(&w, label, sizeof label));
    assert_ok(write_u16(&w, act->verb));
    assert_ok(write_u16(&w, 0));
    assert_ok(write_u32(&w, 0));
    assert_ok(write_bytes(&w, act->domain, sizeof act->domain));
    assert_ok(write_bytes(&w, act->id.bytes, sizeof act->id.bytes));
    assert_ok(write_u64(&w, act->epoch));
    assert_ok(write_bytes(&w, act->nonce, sizeof act->nonce));
    assert_ok(write_bytes(&w, act->manager, sizeof act->manager));
    assert_ok(write_bytes(&w, arguments, sizeof arguments));
    assert_int_equal(w.size, OWNER_ACT_SIZE);
    assert_ok(ed25519_sign(fake_instance_crypto(), key, writer_span(&w), out));
}

static uint16_t delete_with(const struct ed25519_key *key, const struct act *act)
{
    uint8_t signature[ED25519_SIGNATURE_SIZE];
    sign(key, act, signature);
    uint16_t code = rig_delete(&rig, &row.id, signature);
    assert_int_equal(rig_row(&rig, &row.id).state == MANAGER_DELETED, code == ERR_NONE);
    return code;
}

static void the_owner_deletes(void **state)
{
    (void)state;
    struct act act = challenged(&row);
    assert_int_equal(delete_with(&owner, &act), ERR_NONE);
    assert_int_equal(rig_row(&rig, &row.id).epoch, row.epoch + 1);
}

static void the_operator_alone_does_not(void **state)
{
    (void)state;
    assert_int_equal(rig_delete(&rig, &row.id, NULL), ERR_OWNER_SIGNATURE);
    challenged(&row);
    assert_int_equal(rig_delete(&rig, &row.id, NULL), ERR_OWNER_SIGNATURE);
    assert_int_equal(rig_row(&rig, &row.id).state, MANAGER_PROVISIONED);
}

static void another_key_does_not(void **state)
{
    (void)state;
    struct ed25519_key other;
    assert_ok(ed25519_generate(fake_instance_crypto(), &other));
    struct act act = challenged(&row);
    assert_int_equal(delete_with(&other, &act), ERR_OWNER_SIGNATURE);
}

static void a_signature_over_anything_else_does_not(void **state)
{
    (void)state;
    struct act act = challenged(&row);
    act.verb = MANAGER_SHOW;
    assert_int_equal(delete_with(&owner, &act), ERR_OWNER_SIGNATURE);
    act = challenged(&row);
    act.domain[0] ^= 1;
    assert_int_equal(delete_with(&owner, &act), ERR_OWNER_SIGNATURE);
    act = challenged(&row);
    act.epoch++;
    assert_int_equal(delete_with(&owner, &act), ERR_OWNER_SIGNATURE);
    act = challenged(&row);
    act.nonce[31] ^= 1;
    assert_int_equal(delete_with(&owner, &act), ERR_OWNER_SIGNATURE);
    act = challenged(&row);
    act.manager[0] ^= 1;
    assert_int_equal(delete_with(&owner, &act), ERR_OWNER_SIGNATURE);
}

/* The same owner has both, and signed for the other one. */
static void a_signature_for_another_instance_does_not(void **state)
{
    (void)state;
    struct ledger_row other;
    assert_int_equal(rig_create(&rig, "owned-too", owner.public, NULL, &other), ERR_NONE);
    challenged(&row);
    struct act act = challenged(&other);
    assert_int_equal(delete_with(&owner, &act), ERR_OWNER_SIGNATURE);
    act = challenged(&other);
    challenged(&row);
    act.id = row.id; /* with the other one's nonce */
    assert_int_equal(delete_with(&owner, &act), ERR_OWNER_SIGNATURE);
}

static void a_nonce_is_good_once(void **state)
{
    (void)state;
    struct ed25519_key other;
    assert_ok(ed25519_generate(fake_instance_crypto(), &other));
    struct act act = challenged(&row);
    assert_int_equal(delete_with(&other, &act), ERR_OWNER_SIGNATURE);
    assert_int_equal(delete_with(&owner, &act), ERR_OWNER_SIGNATURE); /* used up by the first try */
}

static void a_newer_nonce_ends_the_older_one(void **state)
{
    (void)state;
    struct act old = challenged(&row);
    challenged(&row);
    assert_int_equal(delete_with(&owner, &old), ERR_OWNER_SIGNATURE);
}

static void a_nonce_is_good_in_one_life(void **state)
{
    (void)state;
    struct act act = challenged(&row);
    rig_reopen(&rig);
    assert_int_equal(delete_with(&owner, &act), ERR_OWNER_SIGNATURE);
}

static void a_signature_where_there_is_no_owner_is_refused(void **state)
{
    (void)state;
    assert_int_equal(rig_create(&rig, "operators", NULL, NULL, &row), ERR_NONE);
    struct act act = challenged(&row);
    assert_int_equal(delete_with(&owner, &act), ERR_OWNER_SIGNATURE);
    assert_int_equal(rig_delete(&rig, &row.id, NULL), ERR_NONE);
}

/* ---- what else an owner decides ---- */

#define REVERT_SIZE (8u + SHA256_SIZE + SGX_HASH_SIZE)

/* Asks for it with these arguments; signed: by the owner, over those others. */
static uint16_t act_on(uint16_t verb, const struct ledger_row *target, struct span arguments,
                       const struct span *signed_arguments, struct ledger_row *out)
{
    uint8_t bytes[INSTANCE_ID_SIZE + ED25519_SIGNATURE_SIZE + REVERT_SIZE] = {0};
    uint8_t signature[ED25519_SIGNATURE_SIZE] = {0};
    struct writer w = writer_of(bytes, sizeof bytes);
    struct span results;
    if (signed_arguments) {
        struct ledger_row now = rig_row(&rig, &target->id);
        struct act act = challenged(&now);
        act.verb = verb;
        act.arguments = *signed_arguments;
        sign(&owner, &act, signature);
    }
    assert_ok(write_bytes(&w, target->id.bytes, sizeof target->id.bytes));
    assert_ok(write_bytes(&w, signature, sizeof signature));
    assert_ok(write_span(&w, arguments));
    uint16_t code = rig_ask(&rig, verb, writer_span(&w), &results);
    if (code == ERR_NONE) rig_parse_row(results, out);
    return code;
}

struct revert {
    uint8_t bytes[REVERT_SIZE];
};

static struct revert revert_to(uint64_t version, uint8_t fill)
{
    struct revert revert;
    struct writer w = writer_of(revert.bytes, sizeof revert.bytes);
    assert_ok(write_u64(&w, version));
    memset(revert.bytes + 8, fill, SHA256_SIZE);
    memset(revert.bytes + 8 + SHA256_SIZE, 0xa5, SGX_HASH_SIZE);
    return revert;
}

static void live_through(unsigned versions)
{
    struct fake_instance fake;
    rig_serve(&rig, &row.id, 1, &fake);
    memset(fake.floors, 0x77, sizeof fake.floors);
    for (uint8_t version = 1; version <= versions; version++)
        rig_commit(&rig, &fake, version, version);
    assert_int_equal(rig_stop(&rig, &fake), ERR_NONE);
    fake_instance_close(&fake);
    row = rig_row(&rig, &row.id);
}

static void the_owner_goes_back_and_it_is_seen(void **state)
{
    (void)state;
    struct ledger_row after;
    struct fake_instance fake;
    uint8_t floors[PEER_FLOORS_SIZE];
    memset(floors, 0x77, sizeof floors);
    live_through(2);
    struct revert revert = revert_to(3, 1);
    const struct span arguments = span_of(revert.bytes, sizeof revert.bytes);
    assert_int_equal(act_on(MANAGER_REVERT, &row, arguments, &arguments, &after), ERR_NONE);
    assert_int_equal(after.epoch, row.epoch + 1);
    assert_int_equal(after.version, 3);
    assert_true(after.reverted);
    assert_memory_equal(after.digest, revert.bytes + 8, SHA256_SIZE);
    rig_reopen(&rig);

    rig_serve(&rig, &row.id, 2, &fake);
    assert_int_equal(fake.provision.mode, PEER_MODE_REVERTED);
    assert_int_equal(fake.provision.version, 3);
    assert_memory_equal(fake.provision.digest, revert.bytes + 8, SHA256_SIZE);
    assert_memory_equal(fake.provision.sealed_by, revert.bytes + 8 + SHA256_SIZE, SGX_HASH_SIZE);
    assert_memory_equal(fake.provision.floors, floors, sizeof floors);
    rig_commit(&rig, &fake, 4, 4);
    assert_false(rig_row(&rig, &row.id).reverted);
    assert_int_equal(rig_stop(&rig, &fake), ERR_NONE);
    fake_instance_close(&fake);
    rig_serve(&rig, &row.id, 3, &fake);
    assert_int_equal(fake.provision.mode, PEER_MODE_OPEN);
    fake_instance_close(&fake);
}

static void the_operator_alone_does_not_go_back(void **state)
{
    (void)state;
    struct ledger_row after;
    live_through(2);
    struct revert revert = revert_to(3, 1), other = revert_to(3, 2);
    const struct span arguments = span_of(revert.bytes, sizeof revert.bytes);
    const struct span others = span_of(other.bytes, sizeof other.bytes);
    assert_int_equal(act_on(MANAGER_REVERT, &row, arguments, NULL, &after), ERR_OWNER_SIGNATURE);
    assert_int_equal(act_on(MANAGER_REVERT, &row, arguments, &others, &after), ERR_OWNER_SIGNATURE);
    after = rig_row(&rig, &row.id);
    assert_memory_equal(&after, &row, sizeof row);
}

static void going_back_takes_the_next_version_of_what_has_one(void **state)
{
    (void)state;
    struct ledger_row after;
    struct fake_instance fake;
    struct revert revert = revert_to(1, 1);
    struct span arguments = span_of(revert.bytes, sizeof revert.bytes);
    assert_int_equal(act_on(MANAGER_REVERT, &row, arguments, &arguments, &after), ERR_STATE_MISSING);
    live_through(2);
    for (uint64_t version = 0; version < 6; version++) {
        revert = revert_to(version, 1);
        if (version == 3) continue;
        assert_int_equal(act_on(MANAGER_REVERT, &row, arguments, &arguments, &after), ERR_BAD_VALUE);
    }
    revert = revert_to(3, 1);
    rig_serve(&rig, &row.id, 2, &fake);
    assert_int_equal(act_on(MANAGER_REVERT, &row, arguments, &arguments, &after), ERR_HELD);
    assert_int_equal(rig_stop(&rig, &fake), ERR_NONE);
    fake_instance_close(&fake);
    assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &row.id, NULL), ERR_NONE);
    assert_int_equal(act_on(MANAGER_REVERT, &row, arguments, &arguments, &after), ERR_VERB_STATE);
}

static void an_owner_gives_an_instance_to_another_or_to_the_operator(void **state)
{
    (void)state;
    struct ledger_row after;
    static const uint8_t other[ED25519_PUBLIC_SIZE] = "another owner";
    static const uint8_t nobody[ED25519_PUBLIC_SIZE];
    const struct span arguments = span_of(other, sizeof other), none = span_of(nobody, sizeof nobody);
    assert_int_equal(act_on(MANAGER_SET_OWNER, &row, arguments, NULL, &after), ERR_OWNER_SIGNATURE);
    assert_int_equal(act_on(MANAGER_SET_OWNER, &row, none, &arguments, &after), ERR_OWNER_SIGNATURE);
    assert_int_equal(act_on(MANAGER_SET_OWNER, &row, none, &none, &after), ERR_NONE);
    assert_false(row_has_owner(&after));
    assert_int_equal(after.epoch, row.epoch + 1);
    assert_int_equal(act_on(MANAGER_SET_OWNER, &row, arguments, NULL, &after), ERR_NONE);
    assert_memory_equal(after.owner, other, sizeof other);
    assert_int_equal(after.epoch, row.epoch + 2);
    rig_reopen(&rig);
    assert_int_equal(act_on(MANAGER_SET_OWNER, &row, none, &none, &after), ERR_OWNER_SIGNATURE); /* the former one */
}

static void a_clone_is_another_instance_that_names_its_source(void **state)
{
    (void)state;
    struct ledger_row after, source;
    struct fake_instance fake;
    uint8_t label[MANAGER_LABEL_SIZE] = "copy";
    const struct span arguments = span_of(label, sizeof label);
    live_through(2);
    assert_int_equal(act_on(MANAGER_CLONE, &row, arguments, NULL, &after), ERR_OWNER_SIGNATURE);
    assert_int_equal(act_on(MANAGER_CLONE, &row, arguments, &arguments, &after), ERR_NONE);
    assert_int_equal(after.origin, MANAGER_ORIGIN_CLONE);
    assert_memory_equal(&after.source, &row.id, sizeof row.id);
    assert_memory_equal(after.owner, row.owner, sizeof row.owner);
    assert_int_equal(after.version, 0);
    rig_reopen(&rig);
    source = rig_row(&rig, &row.id);
    assert_int_equal(source.epoch, row.epoch);
    after = rig_row(&rig, &after.id);
    assert_memory_equal(&after.source, &row.id, sizeof row.id);
    rig_serve(&rig, &after.id, 5, &fake);
    assert_int_equal(fake.provision.mode, PEER_MODE_NEW);
    uint8_t root_key[BLOB_ROOT_SIZE];
    memcpy(root_key, fake.provision.root_key, sizeof root_key);
    fake_instance_close(&fake);
    rig_serve(&rig, &row.id, 6, &fake);
    assert_memory_not_equal(fake.provision.root_key, root_key, sizeof root_key);
    fake_instance_close(&fake);
}

/* ---- S7 ---- */

static void a_suspended_state_is_resumed_by_one_start(void **state)
{
    (void)state;
    struct fake_instance fake;
    uint8_t suspended[SHA256_SIZE], none[SHA256_SIZE] = {0};
    memset(suspended, 0x5a, sizeof suspended);
    rig_serve(&rig, &row.id, 1, &fake);
    memcpy(fake.suspended, suspended, sizeof suspended);
    rig_commit(&rig, &fake, 1, 1);
    assert_int_equal(rig_stop(&rig, &fake), ERR_NONE);
    fake_instance_close(&fake);
    rig_reopen(&rig);
    row = rig_row(&rig, &row.id);
    assert_memory_equal(row.suspended, suspended, sizeof suspended);

    rig_serve(&rig, &row.id, 2, &fake);
    assert_int_equal(fake.provision.mode, PEER_MODE_RESUME);
    assert_memory_equal(fake.provision.suspended, suspended, sizeof suspended);
    fake_instance_close(&fake);
    row = rig_row(&rig, &row.id);
    assert_memory_equal(row.suspended, none, sizeof none);
    assert_int_equal(rig_on(&rig, MANAGER_DECLARE_DEAD, &row.id, NULL), ERR_NONE);
    rig_serve(&rig, &row.id, 3, &fake);
    assert_int_equal(fake.provision.mode, PEER_MODE_OPEN);
    assert_memory_equal(fake.provision.suspended, none, sizeof none);
    fake_instance_close(&fake);
}

static void going_back_forgets_what_was_suspended(void **state)
{
    (void)state;
    struct fake_instance fake;
    struct ledger_row after;
    uint8_t none[SHA256_SIZE] = {0};
    rig_serve(&rig, &row.id, 1, &fake);
    memset(fake.suspended, 0x5a, sizeof fake.suspended);
    rig_commit(&rig, &fake, 1, 1);
    assert_int_equal(rig_stop(&rig, &fake), ERR_NONE);
    fake_instance_close(&fake);
    struct revert revert = revert_to(2, 1);
    const struct span arguments = span_of(revert.bytes, sizeof revert.bytes);
    assert_int_equal(act_on(MANAGER_REVERT, &row, arguments, &arguments, &after), ERR_NONE);
    assert_memory_equal(after.suspended, none, sizeof none);
    rig_serve(&rig, &row.id, 2, &fake);
    assert_int_equal(fake.provision.mode, PEER_MODE_REVERTED);
    fake_instance_close(&fake);
}

/* ---- V1 ---- */

static void a_uuid_that_is_an_id_is_no_label(void **state)
{
    (void)state;
    struct ledger_row gone;
    char text[ID_TEXT_SIZE];
    assert_int_equal(rig_create(&rig, "gone", NULL, NULL, &gone), ERR_NONE);
    assert_int_equal(rig_delete(&rig, &gone.id, NULL), ERR_NONE);
    const struct instance_id *ids[] = {&row.id, &gone.id};
    for (size_t i = 0; i < 2; i++) {
        id_format(ids[i], text);
        assert_int_equal(rig_create(&rig, text, NULL, NULL, NULL), ERR_LABEL_TAKEN);
        for (char *c = text; *c; c++)
            *c = (char)toupper(*c);
        assert_int_equal(rig_create(&rig, text, NULL, NULL, NULL), ERR_LABEL_TAKEN);
    }
}

static void a_uuid_that_was_a_label_is_none_again(void **state)
{
    (void)state;
    struct ledger_row made;
    assert_int_equal(rig_create(&rig, "0f5CBE76-31c1-4a6e-9a54-5ff4db0f3a10", NULL, NULL, &made), ERR_NONE);
    assert_string_equal(made.label, "0f5cbe76-31c1-4a6e-9a54-5ff4db0f3a10");
    assert_int_equal(rig_create(&rig, "0f5cbe76-31c1-4a6e-9a54-5ff4db0f3a10", NULL, NULL, NULL), ERR_LABEL_TAKEN);
    assert_int_equal(rig_delete(&rig, &made.id, NULL), ERR_NONE);
    assert_int_equal(rig_create(&rig, "0f5cbe76-31c1-4a6e-9a54-5ff4db0f3a10", NULL, NULL, NULL), ERR_LABEL_TAKEN);
    rig_reopen(&rig);
    assert_int_equal(rig_create(&rig, "0F5CBE76-31C1-4A6E-9A54-5FF4DB0F3A10", NULL, NULL, NULL), ERR_LABEL_TAKEN);
}

int main(void)
{
#define OWNER_TEST(test) cmocka_unit_test_setup_teardown(test, begin, finish)
    const struct CMUnitTest tests[] = {
        OWNER_TEST(the_owner_deletes),
        OWNER_TEST(the_operator_alone_does_not),
        OWNER_TEST(another_key_does_not),
        OWNER_TEST(a_signature_over_anything_else_does_not),
        OWNER_TEST(a_signature_for_another_instance_does_not),
        OWNER_TEST(a_nonce_is_good_once),
        OWNER_TEST(a_newer_nonce_ends_the_older_one),
        OWNER_TEST(a_nonce_is_good_in_one_life),
        OWNER_TEST(a_signature_where_there_is_no_owner_is_refused),
        OWNER_TEST(the_owner_goes_back_and_it_is_seen),
        OWNER_TEST(the_operator_alone_does_not_go_back),
        OWNER_TEST(going_back_takes_the_next_version_of_what_has_one),
        OWNER_TEST(an_owner_gives_an_instance_to_another_or_to_the_operator),
        OWNER_TEST(a_clone_is_another_instance_that_names_its_source),
        OWNER_TEST(a_suspended_state_is_resumed_by_one_start),
        OWNER_TEST(going_back_forgets_what_was_suspended),
        OWNER_TEST(a_uuid_that_is_an_id_is_no_label),
        OWNER_TEST(a_uuid_that_was_a_label_is_none_again),
    };
    return cmocka_run_group_tests_name("owner", tests, NULL, NULL);
}
