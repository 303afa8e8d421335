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
    uint8_t bytes[OWNER_ACT_SIZE], nothing[SHA256_SIZE];
    struct writer w = writer_of(bytes, sizeof bytes);
    assert_ok(hash_sha256(fake_instance_crypto(), NULL, 0, nothing));
    assert_ok(write_bytes(&w, label, sizeof label));
    assert_ok(write_u16(&w, act->verb));
    assert_ok(write_u16(&w, 0));
    assert_ok(write_u32(&w, 0));
    assert_ok(write_bytes(&w, act->domain, sizeof act->domain));
    assert_ok(write_bytes(&w, act->id.bytes, sizeof act->id.bytes));
    assert_ok(write_u64(&w, act->epoch));
    assert_ok(write_bytes(&w, act->nonce, sizeof act->nonce));
    assert_ok(write_bytes(&w, act->manager, sizeof act->manager));
    assert_ok(write_bytes(&w, nothing, sizeof nothing));
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
        OWNER_TEST(a_uuid_that_is_an_id_is_no_label),
        OWNER_TEST(a_uuid_that_was_a_label_is_none_again),
    };
    return cmocka_run_group_tests_name("owner", tests, NULL, NULL);
}
