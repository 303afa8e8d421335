/* Instances on their channels: admission, commits, leases, resuming. */
#include "tests/fakes/assertions.h"

#include <string.h>

#include "tests/unit/manager/rig.h"

static struct rig rig;
static struct ledger_row row;
static struct fake_instance fake;

static int begin(void **state)
{
    (void)state;
    rig_identities("the manager image", "the instance image");
    rig_open(&rig);
    assert_int_equal(rig_create(&rig, "web1", NULL, NULL, &row), ERR_NONE);
    return 0;
}

static int finish(void **state)
{
    (void)state;
    fake_instance_close(&fake);
    rig_end(&rig);
    struct rig_shared *shared = rig.shared;
    memset(&rig, 0, sizeof rig);
    rig.shared = shared;
    return 0;
}

static void fill(uint8_t digest[SHA256_SIZE], uint8_t byte)
{
    memset(digest, byte, SHA256_SIZE);
}

static void start_asks_for_the_enclave(void **state)
{
    (void)state;
    struct ledger_row started;
    assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &row.id, &started), ERR_NONE);
    assert_int_equal(started.state, MANAGER_ALLOWED);
    assert_int_equal(started.start, 0);
    struct span effect = rig_effect(&rig, MANAGER_EFFECT_CREATE_ENCLAVE, 0);
    const uint64_t first = 1;
    assert_int_equal(effect.size, 16 + 8 + 32);
    assert_memory_equal(effect.data, row.id.bytes, 16);
    assert_memory_equal(effect.data + 16, &first, 8);
    assert_memory_equal(effect.data + 24, rig_image.instance, 32);
}

static void the_first_start_makes_a_tpm(void **state)
{
    (void)state;
    rig_serve(&rig, &row.id, 7, &fake);
    assert_int_equal(fake.provision.mode, PEER_MODE_NEW);
    assert_int_equal(fake.provision.link_kind, LINK_K2_NAMED);
    assert_int_equal(fake.provision.start, 1);
    assert_int_equal(fake.provision.version, 0);
    assert_memory_equal(fake.provision.front_share, "the share of the front-end", 26);
    assert_memory_equal(fake.peer.other_program, rig.MRENCLAVE, 32);
    struct ledger_row now = rig_row(&rig, &row.id);
    assert_int_equal(now.state, MANAGER_HELD);
    assert_int_equal(now.start, 1);
    assert_memory_equal(now.holder, fake.holder.public, 32);
}

/* Until there is a state it waits for one, whatever ended; its origin never changes. */
static void an_imported_instance_never_makes_a_tpm(void **state)
{
    (void)state;
    struct ledger_row imported;
    rig.imports = true;
    assert_int_equal(rig_create(&rig, "moved", NULL, NULL, &imported), ERR_NONE);
    assert_int_equal(imported.origin, MANAGER_ORIGIN_IMPORTED);
    for (uint64_t channel = 7; channel < 9; channel++) {
        rig_serve(&rig, &imported.id, channel, &fake);
        assert_int_equal(fake.provision.mode, PEER_MODE_IMPORT);
        assert_int_equal(fake.provision.version, 0);
        if (channel == 8) rig_commit(&rig, &fake, 1, 0x11);
        assert_int_equal(rig_stop(&rig, &fake), ERR_NONE);
        fake_instance_close(&fake);
    }
    rig_serve(&rig, &imported.id, 9, &fake);
    assert_int_equal(fake.provision.mode, PEER_MODE_OPEN);
    rig_end(&rig);
    rig_reopen(&rig);
    assert_int_equal(rig_row(&rig, &imported.id).origin, MANAGER_ORIGIN_IMPORTED);
    assert_int_equal(rig_row(&rig, &row.id).origin, MANAGER_ORIGIN_HERE);
}

/* REVERT of an instance that has no owner. */
static uint16_t revert(const struct ledger_row *target, uint64_t version)
{
    uint8_t arguments[INSTANCE_ID_SIZE + ED25519_SIGNATURE_SIZE + 8 + 2 * 32] = {0};
    memcpy(arguments, target->id.bytes, INSTANCE_ID_SIZE);
    memcpy(arguments + INSTANCE_ID_SIZE + ED25519_SIGNATURE_SIZE, &version, sizeof version);
    return rig_ask(&rig, MANAGER_REVERT, span_of(arguments, sizeof arguments), NULL);
}

/* And its counters do not go back. */
static void a_tpm_12_is_one_for_good(void **state)
{
    (void)state;
    struct ledger_row old;
    rig.family = PEER_FAMILY_12;
    assert_int_equal(rig_create(&rig, "old", NULL, NULL, &old), ERR_NONE);
    assert_int_equal(old.family, PEER_FAMILY_12);
    rig_serve(&rig, &old.id, 7, &fake);
    assert_int_equal(fake.provision.family, PEER_FAMILY_12);
    rig_commit(&rig, &fake, 1, 0x11);
    assert_int_equal(rig_stop(&rig, &fake), ERR_NONE);
    fake_instance_close(&fake);
    assert_int_equal(revert(&old, 2), ERR_TPM_FAMILY);
    rig_end(&rig);
    rig_reopen(&rig);
    assert_int_equal(rig_row(&rig, &old.id).family, PEER_FAMILY_12);
    assert_int_equal(rig_row(&rig, &row.id).family, PEER_FAMILY_20);
    rig_serve(&rig, &old.id, 8, &fake);
    assert_int_equal(fake.provision.family, PEER_FAMILY_12);
    assert_int_equal(fake.provision.mode, PEER_MODE_OPEN);
}

static void what_is_said_of_snapshots_is_told(void **state)
{
    (void)state;
    struct ledger_row allowed;
    rig.snapshots = PEER_SNAPSHOTS_ALLOWED;
    assert_int_equal(rig_create(&rig, "tree", NULL, NULL, &allowed), ERR_NONE);
    assert_int_equal(allowed.snapshots, PEER_SNAPSHOTS_ALLOWED);
    rig_serve(&rig, &allowed.id, 7, &fake);
    assert_int_equal(fake.provision.snapshots, PEER_SNAPSHOTS_ALLOWED);
    fake_instance_close(&fake);
    rig_end(&rig);
    rig_reopen(&rig);
    assert_int_equal(rig_row(&rig, &allowed.id).snapshots, PEER_SNAPSHOTS_ALLOWED);
    assert_int_equal(rig_row(&rig, &row.id).snapshots, PEER_SNAPSHOTS_REFUSED);
    rig_serve(&rig, &row.id, 8, &fake);
    assert_int_equal(fake.provision.snapshots, PEER_SNAPSHOTS_REFUSED);
}

static void serve_one_that_may_load(struct ledger_row *out)
{
    rig.snapshots = PEER_SNAPSHOTS_ALLOWED;
    assert_int_equal(rig_create(&rig, "tree", NULL, NULL, out), ERR_NONE);
    rig_serve(&rig, &out->id, 7, &fake);
    rig_commit(&rig, &fake, 1, 0x11);
}

static void a_load_is_counted_with_the_record_that_makes_it(void **state)
{
    (void)state;
    struct ledger_row allowed;
    uint16_t code = ERR_SYSTEM;
    uint8_t digest[SHA256_SIZE];
    serve_one_that_may_load(&allowed);
    fake.loads = rig.hold_stores = true;
    fill(digest, 0x22);
    assert_int_equal(rig_say(&rig, &fake, fake_instance_commit(&fake, 2, digest)), ERR_NONE);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_SEND) + rig_count(&rig, MANAGER_EFFECT_RECORD), 0);
    rig.hold_stores = false;
    rig_store(&rig);
    assert_memory_equal(rig_event(&rig, MANAGER_SNAPSHOT_LOADED, &code).data + 8, allowed.id.bytes, INSTANCE_ID_SIZE);
    (void)fake_instance_hear(&fake, rig_sent(&rig, &fake, 0), PEER_ANCHORED);
    rig_commit(&rig, &fake, 2, 0x22); /* said again */
    assert_int_equal(rig_row(&rig, &allowed.id).loads, 1);
    rig_commit(&rig, &fake, 3, 0x33);
    fake.loads = false;
    rig_commit(&rig, &fake, 4, 0x44);
    const struct ledger_row now = rig_row(&rig, &allowed.id);
    assert_int_equal(now.loads, 2);
    assert_int_equal(now.version, 4);
    assert_int_equal(now.epoch, allowed.epoch); /* to which the session is bound */
    rig_end(&rig);
    rig_reopen(&rig);
    assert_int_equal(rig_row(&rig, &allowed.id).loads, 2);
}

static void a_load_that_is_not_allowed_is_not_recorded(void **state)
{
    (void)state;
    uint8_t digest[SHA256_SIZE] = {0x22};
    rig_serve(&rig, &row.id, 7, &fake);
    rig_commit(&rig, &fake, 1, 0x11);
    fake.loads = true;
    assert_int_equal(rig_say(&rig, &fake, fake_instance_commit(&fake, 2, digest)), ERR_NONE);
    assert_int_equal(rig_closed(&rig, &fake), ERR_STATE_OLD);
    assert_int_equal(rig_row(&rig, &row.id).version, 1);
    assert_int_equal(rig_row(&rig, &row.id).loads, 0);
}

/* A holder that dies took no decision of the owner's away, and a new owner's or a revert cuts off what was before. */
static void an_era_ends_with_the_owners_acts_and_not_with_a_death(void **state)
{
    (void)state;
    struct ledger_row allowed;
    serve_one_that_may_load(&allowed);
    assert_int_equal(fake.provision.era, 0);
    fake_instance_close(&fake);
    assert_int_equal(rig_on(&rig, MANAGER_DECLARE_DEAD, &allowed.id, NULL), ERR_NONE);
    rig_serve(&rig, &allowed.id, 8, &fake);
    assert_int_equal(fake.provision.epoch, 1);
    assert_int_equal(fake.provision.era, 0);
    assert_int_equal(rig_stop(&rig, &fake), ERR_NONE);
    fake_instance_close(&fake);
    assert_int_equal(revert(&allowed, 2), ERR_NONE);
    rig_serve(&rig, &allowed.id, 9, &fake);
    assert_int_equal(fake.provision.epoch, 2);
    assert_int_equal(fake.provision.era, 1);
}

static void the_host_is_told_which_state_and_what_the_front_end_needs(void **state)
{
    (void)state;
    assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &row.id, NULL), ERR_NONE);
    struct span proof = rig_challenged(&rig, &row.id, 7, &fake);
    assert_int_equal(rig_say(&rig, &fake, proof), ERR_NONE);
    struct span wanted = rig_effect(&rig, MANAGER_EFFECT_STATE, 0);
    const uint64_t channel = 7, none = 0, start = 1, kind = LINK_K2_NAMED;
    assert_int_equal(wanted.size, 32);
    assert_memory_equal(wanted.data, &channel, 8);
    assert_memory_equal(wanted.data + 8, row.id.bytes, 16);
    assert_memory_equal(wanted.data + 24, &none, 8);
    fake_instance_admit(&fake, rig_sent(&rig, &fake, 0), rig_sent(&rig, &fake, 1));
    assert_int_equal(rig_say(&rig, &fake, fake_instance_ready(&fake)), ERR_NONE);
    uint16_t code = 1;
    struct span told = rig_event(&rig, MANAGER_STARTED, &code);
    assert_int_equal(code, 0);
    assert_int_equal(told.size, 16 + 8 + 8 + 8 + 32 + 32 + 32);
    assert_memory_equal(told.data, row.id.bytes, 16);
    assert_memory_equal(told.data + 24, &start, 8);
    assert_memory_equal(told.data + 32, &kind, 8);
    assert_memory_equal(told.data + 40, "the share of the instance", 25);
    assert_memory_equal(told.data + 72, rig.MRENCLAVE, 32);
    assert_memory_equal(told.data + 104, rig_image.instance, 32);
}

/* The start is recorded and durable before any key is handed over. */
static void nothing_is_handed_over_before_the_start_is_stored(void **state)
{
    (void)state;
    assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &row.id, NULL), ERR_NONE);
    struct span proof = rig_challenged(&rig, &row.id, 7, &fake);
    rig.hold_stores = true;
    assert_int_equal(rig_say(&rig, &fake, proof), ERR_NONE);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_SEND), 0);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_STATE), 0);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_STORE), 1);
    rig_store(&rig);
    fake_instance_admit(&fake, rig_sent(&rig, &fake, 0), rig_sent(&rig, &fake, 1));
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_STATE), 1);
}

static void an_enrolled_front_end_is_told_to_the_instance(void **state)
{
    (void)state;
    static const uint8_t key[32] = "the enrolled front-end key";
    struct ledger_row enrolled;
    assert_int_equal(rig_create(&rig, "enrolled", NULL, key, &enrolled), ERR_NONE);
    rig_serve(&rig, &enrolled.id, 7, &fake);
    assert_int_equal(fake.provision.link_kind, LINK_K2_ENROLLED);
    assert_memory_equal(fake.provision.front_key, key, sizeof key);
}

static void a_commit_is_anchored_when_it_is_stored(void **state)
{
    (void)state;
    uint8_t digest[SHA256_SIZE];
    fill(digest, 0x55);
    rig_serve(&rig, &row.id, 7, &fake);
    rig.hold_stores = true;
    assert_int_equal(rig_say(&rig, &fake, fake_instance_commit(&fake, 1, digest)), ERR_NONE);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_SEND), 0);
    rig_store(&rig);
    fake_instance_hear(&fake, rig_sent(&rig, &fake, 0), PEER_ANCHORED);
    assert_int_equal(rig.disk.rows[0].version, 1);
}

static void a_commit_that_is_said_again_is_answered_again(void **state)
{
    (void)state;
    uint8_t digest[SHA256_SIZE];
    fill(digest, 0x55);
    rig_serve(&rig, &row.id, 7, &fake);
    rig_commit(&rig, &fake, 1, 0x55);
    assert_int_equal(rig_say(&rig, &fake, fake_instance_commit(&fake, 1, digest)), ERR_NONE);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_STORE), 0);
    fake_instance_hear(&fake, rig_sent(&rig, &fake, 0), PEER_ANCHORED);
    rig_commit(&rig, &fake, 2, 0x56);
}

static void any_other_commit_ends_the_channel(void **state)
{
    (void)state;
    static const struct {
        uint64_t version;
        uint8_t digest;
        uint16_t code;
    } wrong[] = {
        {2, 0x99, ERR_STATE_OLD}, {1, 0x11, ERR_STATE_OLD},          {0, 0, ERR_STATE_OLD},
        {4, 0x44, ERR_BAD_VALUE}, {UINT64_MAX, 0x44, ERR_BAD_VALUE},
    };
    uint16_t code = 0;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        uint8_t digest[SHA256_SIZE];
        char label[] = {'n', (char)('0' + i), '\0'};
        struct ledger_row made;
        assert_int_equal(rig_create(&rig, label, NULL, NULL, &made), ERR_NONE);
        rig_serve(&rig, &made.id, 100 + i, &fake);
        rig_commit(&rig, &fake, 1, 0x11);
        rig_commit(&rig, &fake, 2, 0x22);
        fill(digest, wrong[i].digest);
        assert_int_equal(rig_say(&rig, &fake, fake_instance_commit(&fake, wrong[i].version, digest)), ERR_NONE);
        assert_int_equal(rig_closed(&rig, &fake), wrong[i].code);
        struct span told = rig_event(&rig, MANAGER_REFUSED, &code);
        assert_int_equal(code, wrong[i].code);
        assert_memory_equal(told.data + 8, made.id.bytes, 16);
        assert_int_equal(rig_say(&rig, &fake, span_of("x", 1)), ERR_LINK_CLOSED);
        assert_int_equal(rig_row(&rig, &made.id).version, 2);
        fake_instance_close(&fake);
    }
}

static void a_lease_is_the_number_that_was_asked_with(void **state)
{
    (void)state;
    const uint64_t number = 0x1234567890abcdef;
    rig_serve(&rig, &row.id, 7, &fake);
    assert_int_equal(rig_say(&rig, &fake, fake_instance_ask_lease(&fake, number)), ERR_NONE);
    struct span fields = fake_instance_hear(&fake, rig_sent(&rig, &fake, 0), PEER_LEASE);
    assert_int_equal(fields.size, 8);
    assert_memory_equal(fields.data, &number, 8);
}

/* A manager on another copy of the store may have gone on: only the anchor knows (docs/models, LEASE_FROM_MEMORY). */
static void a_lease_waits_for_a_record_that_is_made_after_the_question(void **state)
{
    (void)state;
    rig_serve(&rig, &row.id, 7, &fake);
    rig.hold_stores = true;
    assert_int_equal(rig_create(&rig, "other", NULL, NULL, NULL), RIG_NOT_ANSWERED);
    assert_int_equal(rig_say(&rig, &fake, fake_instance_ask_lease(&fake, 1)), ERR_NONE);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_SEND), 0);
    rig_store(&rig);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_SEND), 0);
    rig_store(&rig);
    fake_instance_hear(&fake, rig_sent(&rig, &fake, 0), PEER_LEASE);
}

static void a_word_of_the_manager_or_a_second_ready_ends_the_channel(void **state)
{
    (void)state;
    rig_serve(&rig, &row.id, 7, &fake);
    assert_int_equal(rig_say(&rig, &fake, fake_instance_ready(&fake)), ERR_NONE);
    assert_int_equal(rig_closed(&rig, &fake), ERR_LINK_ORDER);
    fake_instance_close(&fake);
    assert_int_equal(rig_on(&rig, MANAGER_DECLARE_DEAD, &row.id, NULL), ERR_NONE);
    rig_serve(&rig, &row.id, 8, &fake);
    assert_int_equal(rig_say(&rig, &fake, fake_instance_say(&fake, PEER_LEASE, span_of("12345678", 8))), ERR_NONE);
    assert_int_equal(rig_closed(&rig, &fake), ERR_LINK_ORDER);
}

static void a_receipt_ends_the_start(void **state)
{
    (void)state;
    uint8_t root_key[BLOB_ROOT_SIZE], digest[SHA256_SIZE];
    rig_serve(&rig, &row.id, 7, &fake);
    rig_commit(&rig, &fake, 1, 0x11);
    memcpy(root_key, fake.provision.root_key, sizeof root_key);
    assert_int_equal(rig_stop(&rig, &fake), ERR_NONE);
    struct ledger_row now = rig_row(&rig, &row.id);
    assert_int_equal(now.state, MANAGER_STOPPED_STATE);
    assert_int_equal(now.epoch, 0);
    fake_instance_close(&fake);

    rig_serve(&rig, &row.id, 8, &fake);
    fill(digest, 0x11);
    assert_int_equal(fake.provision.mode, PEER_MODE_OPEN);
    assert_int_equal(fake.provision.start, 2);
    assert_int_equal(fake.provision.version, 1);
    assert_memory_equal(fake.provision.digest, digest, sizeof digest);
    assert_memory_equal(fake.provision.root_key, root_key, sizeof root_key);
    assert_memory_equal(fake.provision.sealed_by, rig.MRENCLAVE, 32);
}

static void only_the_holders_receipt_over_the_newest_state_counts(void **state)
{
    (void)state;
    uint8_t receipt[PEER_RECEIPT_SIZE], digest[SHA256_SIZE];
    struct fake_instance other = {.id = row.id};
    rig_serve(&rig, &row.id, 7, &fake);
    rig_commit(&rig, &fake, 1, 0x11);
    rig_commit(&rig, &fake, 2, 0x22);
    fill(digest, 0x22);
    fake_instance_receipt(&fake, 1, digest, receipt);
    assert_int_equal(rig_stopped(&rig, receipt), ERR_RECEIPT);
    fill(digest, 0x11);
    fake_instance_receipt(&fake, 2, digest, receipt);
    assert_int_equal(rig_stopped(&rig, receipt), ERR_RECEIPT);
    fill(digest, 0x22);
    assert_ok(ed25519_generate(fake_instance_crypto(), &other.holder));
    other.provision = fake.provision;
    fake_instance_receipt(&other, 2, digest, receipt);
    assert_int_equal(rig_stopped(&rig, receipt), ERR_RECEIPT);
    other = fake;
    other.provision.start = 2;
    fake_instance_receipt(&other, 2, digest, receipt);
    assert_int_equal(rig_stopped(&rig, receipt), ERR_RECEIPT);
    other.provision.start = 1;
    other.provision.epoch = 1;
    fake_instance_receipt(&other, 2, digest, receipt);
    assert_int_equal(rig_stopped(&rig, receipt), ERR_RECEIPT);
    assert_int_equal(rig_row(&rig, &row.id).state, MANAGER_HELD);
    assert_int_equal(rig_stop(&rig, &fake), ERR_NONE);
}

/* ---- resuming ---- */

static void resume(uint64_t channel)
{
    fake.channel = channel;
    assert_int_equal(rig_reattach(&rig, &row.id, channel), ERR_NONE);
    assert_int_equal(rig_say(&rig, &fake, fake_instance_resume(&fake)), ERR_NONE);
    assert_int_equal(rig_closed(&rig, &fake), 0);
    struct span confirm = fake_instance_confirm(&fake, rig_sent(&rig, &fake, 0));
    assert_int_equal(rig_say(&rig, &fake, confirm), ERR_NONE);
    assert_int_equal(rig_closed(&rig, &fake), 0);
    uint16_t code = 1;
    struct span told = rig_event(&rig, MANAGER_RESUMED, &code);
    assert_int_equal(code, 0);
    assert_memory_equal(told.data, &channel, 8);
    assert_memory_equal(told.data + 8, row.id.bytes, 16);
}

static void a_holder_resumes_with_a_new_life_of_the_manager(void **state)
{
    (void)state;
    rig_serve(&rig, &row.id, 7, &fake);
    rig_commit(&rig, &fake, 1, 0x11);
    rig_reopen(&rig);
    resume(1);
    rig_commit(&rig, &fake, 2, 0x22);
    assert_int_equal(rig_stop(&rig, &fake), ERR_NONE);
}

/* vtpmd was killed between the record of the commit and its answer, or before the record. */
static void what_was_under_way_is_said_again_after_resuming(void **state)
{
    (void)state;
    uint8_t digest[SHA256_SIZE];
    fill(digest, 0x11);
    rig_serve(&rig, &row.id, 7, &fake);
    rig.hold_stores = true;
    assert_int_equal(rig_say(&rig, &fake, fake_instance_commit(&fake, 1, digest)), ERR_NONE);
    rig.hold_stores = false;
    rig_reopen(&rig); /* that store never was */
    resume(1);
    rig_commit(&rig, &fake, 1, 0x11);
    rig_reopen(&rig); /* this one was */
    resume(1);
    rig_commit(&rig, &fake, 1, 0x11);
    rig_commit(&rig, &fake, 2, 0x22);
}

static void a_resumed_session_ends_the_one_before(void **state)
{
    (void)state;
    struct fake_instance old;
    rig_serve(&rig, &row.id, 7, &fake);
    old = fake;
    fake.peer = (struct peer){0};
    resume(8);
    assert_int_equal(rig_closed(&rig, &old), ERR_LINK_CLOSED);
    assert_int_equal(rig_say(&rig, &old, fake_instance_ask_lease(&old, 1)), ERR_LINK_CLOSED);
    rig_commit(&rig, &fake, 1, 0x11);
    fake_instance_close(&old);
}

static void detach_forgets_the_channel_and_not_the_holder(void **state)
{
    (void)state;
    const uint64_t channel = 7;
    rig_serve(&rig, &row.id, channel, &fake);
    assert_int_equal(rig_ask(&rig, MANAGER_DETACH, span_of(&channel, 8), NULL), ERR_NONE);
    assert_int_equal(rig_say(&rig, &fake, fake_instance_ask_lease(&fake, 1)), ERR_LINK_CLOSED);
    assert_int_equal(rig_ask(&rig, MANAGER_DETACH, span_of(&channel, 8), NULL), ERR_NONE);
    assert_int_equal(rig_row(&rig, &row.id).state, MANAGER_HELD);
    resume(channel);
}

static void a_channel_in_use_is_not_taken_again(void **state)
{
    (void)state;
    rig_serve(&rig, &row.id, 7, &fake);
    assert_int_equal(rig_reattach(&rig, &row.id, 7), ERR_BAD_VALUE);
    assert_int_equal(rig_reattach(&rig, &row.id, 0), ERR_BAD_VALUE);
    assert_int_equal(rig_say(&rig, &fake, fake_instance_ask_lease(&fake, 1)), ERR_NONE);
    assert_int_equal(rig_closed(&rig, &fake), 0);
}

static void there_are_so_many_channels_and_no_more(void **state)
{
    (void)state;
    assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &row.id, NULL), ERR_NONE);
    for (uint64_t channel = 1; channel <= MANAGER_CHANNELS_MAX; channel++)
        assert_int_equal(rig_attach(&rig, &row.id, channel), ERR_NONE);
    assert_int_equal(rig_attach(&rig, &row.id, MANAGER_CHANNELS_MAX + 1), ERR_NO_MEMORY);
    const uint64_t one = 1;
    assert_int_equal(rig_ask(&rig, MANAGER_DETACH, span_of(&one, 8), NULL), ERR_NONE);
    assert_int_equal(rig_attach(&rig, &row.id, MANAGER_CHANNELS_MAX + 1), ERR_NONE);
}

int main(void)
{
#define SESSION_TEST(test) cmocka_unit_test_setup_teardown(test, begin, finish)
    const struct CMUnitTest tests[] = {
        SESSION_TEST(start_asks_for_the_enclave),
        SESSION_TEST(the_first_start_makes_a_tpm),
        SESSION_TEST(an_imported_instance_never_makes_a_tpm),
        SESSION_TEST(a_tpm_12_is_one_for_good),
        SESSION_TEST(what_is_said_of_snapshots_is_told),
        SESSION_TEST(a_load_is_counted_with_the_record_that_makes_it),
        SESSION_TEST(a_load_that_is_not_allowed_is_not_recorded),
        SESSION_TEST(an_era_ends_with_the_owners_acts_and_not_with_a_death),
        SESSION_TEST(the_host_is_told_which_state_and_what_the_front_end_needs),
        SESSION_TEST(nothing_is_handed_over_before_the_start_is_stored),
        SESSION_TEST(an_enrolled_front_end_is_told_to_the_instance),
        SESSION_TEST(a_commit_is_anchored_when_it_is_stored),
        SESSION_TEST(a_commit_that_is_said_again_is_answered_again),
        SESSION_TEST(any_other_commit_ends_the_channel),
        SESSION_TEST(a_lease_is_the_number_that_was_asked_with),
        SESSION_TEST(a_lease_waits_for_a_record_that_is_made_after_the_question),
        SESSION_TEST(a_word_of_the_manager_or_a_second_ready_ends_the_channel),
        SESSION_TEST(a_receipt_ends_the_start),
        SESSION_TEST(only_the_holders_receipt_over_the_newest_state_counts),
        SESSION_TEST(a_holder_resumes_with_a_new_life_of_the_manager),
        SESSION_TEST(what_was_under_way_is_said_again_after_resuming),
        SESSION_TEST(a_resumed_session_ends_the_one_before),
        SESSION_TEST(detach_forgets_the_channel_and_not_the_holder),
        SESSION_TEST(a_channel_in_use_is_not_taken_again),
        SESSION_TEST(there_are_so_many_channels_and_no_more),
    };
    return cmocka_run_group_tests_name("sessions", tests, NULL, NULL);
}
