/* An instance that moves from one manager of a trust domain to another, and home again (docs/adr/0025-members.md). */
#include "tests/fakes/assertions.h"

#include <string.h>

#include "tests/unit/manager/rig.h"
#include "trusted/state/blob.h"

static struct rig home, away;
static struct ledger_row row, moved;
static struct fake_instance holder, candidate;

static struct instance_id domain_of(struct rig *rig)
{
    struct instance_id domain;
    struct span status = {0};
    assert_int_equal(rig_ask(rig, MANAGER_STATUS, span_empty(), &status), ERR_NONE);
    assert_int_equal(status.size, MANAGER_STATUS_SIZE);
    memcpy(domain.bytes, status.data, sizeof domain.bytes);
    return domain;
}

static struct instance_id member_of(struct rig *rig)
{
    struct instance_id member;
    struct span status = {0};
    assert_int_equal(rig_ask(rig, MANAGER_STATUS, span_empty(), &status), ERR_NONE);
    memcpy(member.bytes, status.data + MANAGER_STATUS_SIZE - sizeof member.bytes, sizeof member.bytes);
    return member;
}

static int begin(void **state)
{
    (void)state;
    rig_identities("the manager image", "the instance image");
    rig_open(&home);
    rig_open(&away);
    assert_int_equal(rig_member(&away, &home, MEMBER_JOIN, NULL, NULL), ERR_NONE);
    assert_int_equal(rig_create(&home, "web1", NULL, NULL, &row), ERR_NONE);
    rig_serve(&home, &row.id, 7, &holder);
    rig_commit(&home, &holder, 1, 0x11);
    return 0;
}

static int finish(void **state)
{
    (void)state;
    fake_instance_close(&holder);
    fake_instance_close(&candidate);
    rig_forget(&home);
    rig_forget(&away);
    return 0;
}

static void stop(void)
{
    assert_int_equal(rig_stop(&home, &holder), ERR_NONE);
}

/* As it goes if nothing goes wrong; the row at to. */
static struct ledger_row move(struct rig *from, struct rig *to)
{
    struct ledger_row arrived;
    assert_int_equal(rig_member(to, from, MEMBER_LOOK, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(to, from, MEMBER_MOVE, &row.id, &arrived), ERR_NONE);
    assert_int_equal(rig_member(to, from, MEMBER_CONFIRM, &row.id, NULL), ERR_NONE);
    return arrived;
}

/* ---- members ---- */

static void who_joins_is_of_the_domain_and_a_member_of_its_own(void **state)
{
    (void)state;
    const struct instance_id domain = domain_of(&home);
    const struct instance_id before = member_of(&away);
    struct instance_id now = domain_of(&away);
    assert_memory_equal(&now, &domain, sizeof domain);
    const struct instance_id other = member_of(&home);
    assert_memory_not_equal(&before, &other, sizeof before);
    rig_reopen(&away);
    now = domain_of(&away);
    assert_memory_equal(&now, &domain, sizeof domain);
    now = member_of(&away);
    assert_memory_equal(&now, &before, sizeof before);
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &row.id, NULL), ERR_NONE);
}

static void the_one_that_made_the_domain_needs_no_more_to_be_stored(void **state)
{
    (void)state;
    rig_reopen(&home);
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &row.id, NULL), ERR_NONE);
    assert_int_equal(away.disk.master.size, home.disk.master.size + DOMAIN_KEY_SIZE);
}

static void a_join_is_answered_when_it_is_anchored(void **state)
{
    (void)state;
    static struct rig other;
    struct rig_message question = {0};
    struct rig_message answer = {0};
    rig_open(&other);
    const struct instance_id before = domain_of(&other);
    assert_int_equal(rig_member_ask(&other, MEMBER_JOIN, NULL, &question), ERR_NONE);
    assert_int_equal(rig_member_answer(&home, &question, &answer), ERR_NONE);
    other.hold_stores = true;
    assert_int_equal(rig_member_take(&other, NULL, &answer, NULL), RIG_NOT_ANSWERED);
    other.hold_stores = false;
    rig_reopen(&other); /* it was never stored */
    struct instance_id now = domain_of(&other);
    assert_memory_equal(&now, &before, sizeof now);
    assert_int_equal(rig_member(&other, &home, MEMBER_JOIN, NULL, NULL), ERR_NONE);
    now = domain_of(&other);
    const struct instance_id domain = domain_of(&home);
    assert_memory_equal(&now, &domain, sizeof now);
    rig_forget(&other);
}

static void whoever_has_had_an_instance_or_has_recovery_keys_does_not_join(void **state)
{
    (void)state;
    static struct rig other;
    rig_open(&other);
    struct ledger_row own;
    assert_int_equal(rig_create(&other, "db1", NULL, NULL, &own), ERR_NONE);
    assert_int_equal(rig_member(&other, &home, MEMBER_JOIN, NULL, NULL), ERR_NOT_EMPTY);
    assert_int_equal(rig_delete(&other, &own.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&other, &home, MEMBER_JOIN, NULL, NULL), ERR_NOT_EMPTY);
    rig_forget(&other);
    other.recovery = (struct recovery_rule){.threshold = 1, .count = 1};
    assert_ok(x25519_generate(fake_instance_crypto(), &other.holders[0]));
    rig_open(&other);
    assert_int_equal(rig_member(&other, &home, MEMBER_JOIN, NULL, NULL), ERR_NOT_EMPTY);
    rig_forget(&other);
}

/* ---- one that is stopped ---- */

static void a_stopped_instance_moves_with_all_that_its_row_says(void **state)
{
    (void)state;
    stop();
    const struct ledger_row before = rig_row(&home, &row.id);
    moved = move(&home, &away);
    assert_int_equal(moved.state, MANAGER_STOPPED_STATE);
    assert_int_equal(moved.start, before.start + 1);
    struct ledger_row expected = before;
    expected.slot = moved.slot;
    expected.start = moved.start;
    assert_memory_equal(&moved, &expected, sizeof moved);
    const struct ledger_row shown = rig_row(&away, &row.id);
    assert_memory_equal(&shown, &moved, sizeof shown);
    rig_serve(&away, &row.id, 3, &candidate);
    assert_memory_equal(candidate.provision.root_key, holder.provision.root_key, BLOB_ROOT_SIZE);
    assert_memory_equal(candidate.provision.digest, before.digest, sizeof before.digest);
    assert_int_equal(candidate.provision.mode, PEER_MODE_OPEN);
    rig_commit(&away, &candidate, 2, 0x22);
}

static void one_that_was_never_started_moves(void **state)
{
    (void)state;
    assert_int_equal(rig_create(&home, "web2", NULL, NULL, &row), ERR_NONE);
    moved = move(&home, &away);
    assert_int_equal(moved.state, MANAGER_PROVISIONED);
    rig_serve(&away, &row.id, 3, &candidate);
    assert_int_equal(candidate.provision.mode, PEER_MODE_NEW);
}

static void what_was_suspended_moves_and_is_resumed_there(void **state)
{
    (void)state;
    memset(holder.suspended, 0x55, sizeof holder.suspended);
    rig_commit(&home, &holder, 2, 0x22);
    stop();
    moved = move(&home, &away);
    assert_memory_equal(moved.suspended, holder.suspended, sizeof holder.suspended);
    rig_serve(&away, &row.id, 3, &candidate);
    assert_int_equal(candidate.provision.mode, PEER_MODE_RESUME);
}

static void where_it_was_it_is_told_where_it_is_and_not_started(void **state)
{
    (void)state;
    stop();
    (void)move(&home, &away);
    const struct ledger_row left = rig_row(&home, &row.id);
    const struct instance_id member = member_of(&away);
    assert_int_equal(left.state, MANAGER_MOVED);
    assert_memory_equal(left.holder, &member, sizeof member);
    assert_int_equal(left.version, 0); /* the host removes the state */
    static const enum manager_verb refused[] = {MANAGER_START_INSTANCE, MANAGER_DECLARE_DEAD, MANAGER_CHALLENGE};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        assert_int_equal(rig_on(&home, refused[i], &row.id, NULL), ERR_MOVED);
    assert_int_equal(rig_delete(&home, &row.id, NULL), ERR_MOVED);
    assert_int_equal(rig_attach(&home, &row.id, 9), ERR_MOVED);
    assert_int_equal(rig_attach_incoming(&home, &row.id, 9), ERR_NO_INSTANCE);
    assert_int_equal(rig_create(&home, "web1", NULL, NULL, NULL), ERR_LABEL_TAKEN);
    rig_reopen(&home);
    assert_int_equal(rig_on(&home, MANAGER_START_INSTANCE, &row.id, NULL), ERR_MOVED);
}

static void it_moves_home_into_its_own_place(void **state)
{
    (void)state;
    stop();
    (void)move(&home, &away);
    rig_serve(&away, &row.id, 3, &candidate);
    rig_commit(&away, &candidate, 2, 0x22);
    assert_int_equal(rig_stop(&away, &candidate), ERR_NONE);
    moved = move(&away, &home);
    assert_int_equal(moved.slot, row.slot);
    assert_int_equal(moved.version, 2);
    assert_int_equal(moved.start, 4);
    assert_int_equal(rig_row(&away, &row.id).state, MANAGER_MOVED);
    rig_reopen(&home);
    fake_instance_close(&holder);
    rig_serve(&home, &row.id, 1, &holder);
    rig_commit(&home, &holder, 3, 0x33);
    assert_int_equal(rig_stop(&home, &holder), ERR_NONE);
    moved = move(&home, &away);
    assert_int_equal(moved.start, 6);
}

static void deleted_there_it_stays_moved_here(void **state)
{
    (void)state;
    stop();
    (void)move(&home, &away);
    assert_int_equal(rig_delete(&away, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&home, &away, MEMBER_LOOK, &row.id, NULL), ERR_DELETED);
    assert_int_equal(rig_on(&home, MANAGER_START_INSTANCE, &row.id, NULL), ERR_MOVED);
}

/* Else its key would stay where it was. */
static void deleted_there_before_it_was_confirmed_it_is_confirmed_still(void **state)
{
    (void)state;
    stop();
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&away, &home, MEMBER_MOVE, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_delete(&away, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &row.id, NULL), ERR_DELETED); /* told, and not taken */
    rig_reopen(&away);
    assert_int_equal(rig_member(&away, &home, MEMBER_CONFIRM, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &row.id, NULL), ERR_MOVED); /* there is nothing to tell */
}

static void one_that_is_held_or_about_to_start_does_not_move(void **state)
{
    (void)state;
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&away, &home, MEMBER_MOVE, &row.id, NULL), ERR_HELD);
    stop();
    assert_int_equal(rig_on(&home, MANAGER_START_INSTANCE, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &row.id, NULL), ERR_VERB_STATE);
    assert_int_equal(rig_member(&away, &home, MEMBER_MOVE, &row.id, NULL), ERR_VERB_STATE);
    assert_int_equal(rig_row(&home, &row.id).state, MANAGER_ALLOWED);
}

static void a_label_that_is_taken_there_is_found_before_anything_is_decided(void **state)
{
    (void)state;
    stop();
    assert_int_equal(rig_create(&away, "web1", NULL, NULL, NULL), ERR_NONE);
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &row.id, NULL), ERR_LABEL_TAKEN);
    assert_int_equal(rig_member(&away, &home, MEMBER_MOVE, &row.id, NULL), ERR_VERB_STATE);
    assert_int_equal(rig_row(&home, &row.id).state, MANAGER_STOPPED_STATE);
}

/* ---- stores, and ends of either manager ---- */

/* Else it could be fetched by nobody any more. */
static void a_label_that_is_given_away_meanwhile_keeps_it_out_as_long_as_that_instance_lives(void **state)
{
    (void)state;
    static const char label[] = "11111111-2222-4333-8444-555555555555"; /* which is given once */
    struct ledger_row other;
    struct rig_message question = {0};
    assert_int_equal(rig_create(&home, label, NULL, NULL, &moved), ERR_NONE);
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &moved.id, NULL), ERR_NONE);
    assert_int_equal(rig_member_ask(&away, MEMBER_MOVE, &moved.id, &question), ERR_NONE);
    assert_int_equal(rig_member_answer(&home, &question, NULL), ERR_NONE);
    rig_reopen(&away);
    assert_int_equal(rig_create(&away, label, NULL, NULL, &other), ERR_NONE);
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &moved.id, NULL), ERR_LABEL_TAKEN);
    assert_int_equal(rig_delete(&away, &other.id, NULL), ERR_NONE);
    assert_int_equal(rig_create(&away, label, NULL, NULL, NULL), ERR_LABEL_TAKEN);
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &moved.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&away, &home, MEMBER_MOVE, &moved.id, NULL), ERR_NONE);
    rig_reopen(&away);
    assert_int_equal(rig_row(&away, &moved.id).state, MANAGER_PROVISIONED);
}

static void nothing_is_told_before_the_move_is_anchored(void **state)
{
    (void)state;
    struct rig_message question = {0};
    stop();
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member_ask(&away, MEMBER_MOVE, &row.id, &question), ERR_NONE);
    home.hold_stores = true;
    assert_int_equal(rig_member_answer(&home, &question, NULL), RIG_NOT_ANSWERED);
    rig_keep(&home); /* stored is not enough */
    struct span results = {0};
    assert_int_equal(rig_answer(&home, &results), RIG_NOT_ANSWERED);
    assert_int_equal(rig_exchange(&home), ERR_NONE);
    assert_int_equal(rig_answer(&home, &results), ERR_NONE);
    struct rig_message answer = {.size = results.size};
    memcpy(answer.bytes, results.data, results.size);
    assert_int_equal(rig_member_take(&away, &row.id, &answer, &moved), ERR_NONE);
}

static void a_source_that_dies_before_that_goes_on_as_it_was(void **state)
{
    (void)state;
    struct rig_message question = {0};
    stop();
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member_ask(&away, MEMBER_MOVE, &row.id, &question), ERR_NONE);
    home.hold_stores = true;
    assert_int_equal(rig_member_answer(&home, &question, NULL), RIG_NOT_ANSWERED);
    home.hold_stores = false;
    rig_reopen(&home);
    fake_instance_close(&holder);
    rig_serve(&home, &row.id, 1, &holder);
    assert_int_equal(rig_member(&away, &home, MEMBER_MOVE, &row.id, NULL), ERR_FENCED); /* it is a start older */
}

static void a_source_that_dies_behind_it_tells_the_same_again(void **state)
{
    (void)state;
    struct rig_message question = {0};
    stop();
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member_ask(&away, MEMBER_MOVE, &row.id, &question), ERR_NONE);
    assert_int_equal(rig_member_answer(&home, &question, NULL), ERR_NONE); /* and it is lost */
    rig_reopen(&home);
    assert_int_equal(rig_on(&home, MANAGER_START_INSTANCE, &row.id, NULL), ERR_MOVED);
    assert_int_equal(rig_member(&away, &home, MEMBER_MOVE, &row.id, &moved), ERR_NONE);
    rig_serve(&away, &row.id, 3, &candidate);
    assert_memory_equal(candidate.provision.root_key, holder.provision.root_key, BLOB_ROOT_SIZE);
}

static void a_target_that_dies_before_it_has_recorded_it_gets_it_again(void **state)
{
    (void)state;
    stop();
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &row.id, NULL), ERR_NONE);
    away.hold_stores = true;
    assert_int_equal(rig_member(&away, &home, MEMBER_MOVE, &row.id, NULL), RIG_NOT_ANSWERED);
    away.hold_stores = false;
    rig_reopen(&away);
    assert_int_equal(rig_on(&away, MANAGER_SHOW, &row.id, NULL), ERR_NO_INSTANCE);
    moved = move(&home, &away);
    rig_serve(&away, &row.id, 3, &candidate);
    assert_memory_equal(candidate.provision.root_key, holder.provision.root_key, BLOB_ROOT_SIZE);
}

static void a_target_confirms_what_is_anchored_and_no_sooner(void **state)
{
    (void)state;
    struct rig_message question = {0};
    stop();
    assert_int_equal(rig_member_ask(&away, MEMBER_CONFIRM, &row.id, &question), ERR_NO_INSTANCE);
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &row.id, NULL), ERR_NONE);
    away.hold_stores = true;
    assert_int_equal(rig_member(&away, &home, MEMBER_MOVE, &row.id, NULL), RIG_NOT_ANSWERED);
    assert_int_equal(rig_member_ask(&away, MEMBER_CONFIRM, &row.id, &question), RIG_NOT_ANSWERED);
    away.hold_stores = false;
    rig_store(&away);
    assert_int_equal(rig_member(&away, &home, MEMBER_CONFIRM, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&away, &home, MEMBER_CONFIRM, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &row.id, NULL), ERR_MOVED); /* there is no key any more */
}

/* ---- one that runs ---- */

/* A candidate at the target, which has what the holder exported. */
static void admit(uint64_t channel)
{
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_attach_incoming(&away, &row.id, channel), ERR_NONE);
    fake_instance_open(&candidate, &row.id, channel);
    assert_int_equal(rig_say(&away, &candidate, fake_instance_prove(&candidate, rig_sent(&away, &candidate, 0))),
                     ERR_NONE);
    fake_instance_admit(&candidate, rig_sent(&away, &candidate, 0), rig_sent(&away, &candidate, 1));
    assert_int_equal(rig_say(&away, &candidate, fake_instance_ready(&candidate)), ERR_NONE);
    assert_int_equal(rig_closed(&away, &candidate), 0);
}

static uint16_t redeem(uint64_t start, uint64_t version)
{
    uint8_t fields[PEER_REDEEM_SIZE];
    struct writer w = writer_of(fields, sizeof fields);
    assert_ok(write_u64(&w, 0));
    assert_ok(write_u64(&w, start));
    assert_ok(write_u64(&w, version));
    assert_int_equal(rig_say(&away, &candidate, fake_instance_say(&candidate, PEER_REDEEM, writer_span(&w))), ERR_NONE);
    return rig_closed(&away, &candidate);
}

static void a_candidate_is_told_what_opens_exports_and_no_other_key(void **state)
{
    (void)state;
    uint8_t expected[BLOB_ROOT_SIZE];
    admit(5);
    assert_int_equal(candidate.provision.mode, PEER_MODE_INCOMING);
    assert_int_equal(candidate.provision.start, 2);
    assert_ok(blob_export_root(fake_instance_crypto(), holder.provision.root_key, home.MRENCLAVE, expected));
    assert_memory_equal(candidate.provision.root_key, expected, sizeof expected);
    assert_int_equal(rig_row(&home, &row.id).state, MANAGER_HELD);
    rig_commit(&home, &holder, 2, 0x22); /* which goes on */
    assert_int_equal(rig_on(&away, MANAGER_SHOW, &row.id, NULL), ERR_NO_INSTANCE);
}

static void its_first_command_moves_the_instance_and_fences_the_holder(void **state)
{
    (void)state;
    uint16_t code = ERR_SYSTEM;
    admit(5);
    rig_commit(&home, &holder, 2, 0x22); /* with the export */
    assert_int_equal(redeem(1, 2), 0);
    assert_memory_equal(rig_event(&away, MANAGER_REDEEMING, &code).data, ((const uint8_t[8]){5}), 8);
    assert_int_equal(rig_count(&away, MANAGER_EFFECT_SEND), 0);

    struct rig_message question = {0};
    struct rig_message answer = {0};
    assert_int_equal(rig_member_ask(&away, MEMBER_MOVE, &row.id, &question), ERR_NONE);
    assert_int_equal(rig_member_answer(&home, &question, &answer), ERR_NONE);
    assert_int_equal(rig_closed(&home, &holder), ERR_FENCED);
    away.hold_stores = true;
    assert_int_equal(rig_member_take(&away, &row.id, &answer, NULL), RIG_NOT_ANSWERED);
    assert_int_equal(rig_count(&away, MANAGER_EFFECT_SEND), 0); /* nothing before it is anchored */
    away.hold_stores = false;
    rig_store(&away);
    struct span fields = fake_instance_hear(&candidate, rig_sent(&away, &candidate, 0), PEER_REDEEMED);
    assert_memory_equal(fields.data, holder.provision.root_key, BLOB_ROOT_SIZE);
    assert_memory_equal(rig_event(&away, MANAGER_REDEEMED, &code).data, ((const uint8_t[8]){5}), 8);

    moved = rig_row(&away, &row.id);
    assert_int_equal(moved.state, MANAGER_HELD);
    assert_int_equal(moved.start, 2);
    assert_memory_equal(moved.holder, candidate.holder.public, 32);
    rig_commit(&away, &candidate, 3, 0x33);
    assert_int_equal(rig_member(&away, &home, MEMBER_CONFIRM, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_reattach(&home, &row.id, 8), ERR_MOVED);
}

static void a_holder_that_goes_on_first_keeps_it(void **state)
{
    (void)state;
    admit(5);
    rig_commit(&home, &holder, 2, 0x22); /* with the export, */
    rig_commit(&home, &holder, 3, 0x33); /* and without */
    assert_int_equal(redeem(1, 2), 0);
    assert_int_equal(rig_member(&away, &home, MEMBER_MOVE, &row.id, NULL), ERR_FENCED);
    rig_commit(&home, &holder, 4, 0x44);
    assert_int_equal(rig_on(&away, MANAGER_SHOW, &row.id, NULL), ERR_NO_INSTANCE);
}

static void a_candidate_that_is_gone_by_then_leaves_it_stopped_there(void **state)
{
    (void)state;
    struct rig_message question = {0};
    struct rig_message answer = {0};
    admit(5);
    assert_int_equal(redeem(1, 1), 0);
    assert_int_equal(rig_member_ask(&away, MEMBER_MOVE, &row.id, &question), ERR_NONE);
    assert_int_equal(rig_member_answer(&home, &question, &answer), ERR_NONE);
    assert_int_equal(rig_ask(&away, MANAGER_DETACH, span_of(&candidate.channel, 8), NULL), ERR_NONE);
    assert_int_equal(rig_member_take(&away, &row.id, &answer, &moved), ERR_NONE);
    assert_int_equal(moved.state, MANAGER_STOPPED_STATE);
    fake_instance_close(&candidate);
    rig_serve(&away, &row.id, 6, &candidate);
    rig_commit(&away, &candidate, 2, 0x22);
}

/* Of what a candidate was told as it came, nothing is true any more if another row is looked at in between. */
static void a_candidate_of_an_earlier_look_takes_over_nothing(void **state)
{
    (void)state;
    admit(5);
    assert_int_equal(rig_on(&home, MANAGER_DECLARE_DEAD, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &row.id, NULL), ERR_NONE);
    assert_int_equal(redeem(1, 1), ERR_FENCED);
    moved = move(&home, &away);
    assert_int_equal(moved.state, MANAGER_STOPPED_STATE);
    assert_int_equal(moved.epoch, 1);
}

static void a_candidate_of_before_another_start_fences_nobody(void **state)
{
    (void)state;
    admit(5);
    stop();
    fake_instance_close(&holder);
    rig_serve(&home, &row.id, 8, &holder);
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &row.id, NULL), ERR_NONE);
    assert_int_equal(redeem(1, 1), ERR_FENCED);
    rig_commit(&home, &holder, 2, 0x22);
}

/* The manager of the target dies between the move and its own record, and its candidate with it. */
static void what_was_moved_to_a_candidate_that_died_is_fetched_as_stopped(void **state)
{
    (void)state;
    struct rig_message question = {0};
    admit(5);
    assert_int_equal(redeem(1, 1), 0);
    assert_int_equal(rig_member_ask(&away, MEMBER_MOVE, &row.id, &question), ERR_NONE);
    assert_int_equal(rig_member_answer(&home, &question, NULL), ERR_NONE);
    rig_reopen(&away);
    moved = move(&home, &away);
    assert_int_equal(moved.state, MANAGER_STOPPED_STATE);
    fake_instance_close(&candidate);
    rig_serve(&away, &row.id, 1, &candidate);
    rig_commit(&away, &candidate, 2, 0x22);
}

int main(void)
{
#define MOVE_TEST(test) cmocka_unit_test_setup_teardown(test, begin, finish)
    const struct CMUnitTest tests[] = {
        MOVE_TEST(who_joins_is_of_the_domain_and_a_member_of_its_own),
        MOVE_TEST(the_one_that_made_the_domain_needs_no_more_to_be_stored),
        MOVE_TEST(a_join_is_answered_when_it_is_anchored),
        MOVE_TEST(whoever_has_had_an_instance_or_has_recovery_keys_does_not_join),
        MOVE_TEST(a_stopped_instance_moves_with_all_that_its_row_says),
        MOVE_TEST(one_that_was_never_started_moves),
        MOVE_TEST(what_was_suspended_moves_and_is_resumed_there),
        MOVE_TEST(where_it_was_it_is_told_where_it_is_and_not_started),
        MOVE_TEST(it_moves_home_into_its_own_place),
        MOVE_TEST(deleted_there_it_stays_moved_here),
        MOVE_TEST(deleted_there_before_it_was_confirmed_it_is_confirmed_still),
        MOVE_TEST(one_that_is_held_or_about_to_start_does_not_move),
        MOVE_TEST(a_label_that_is_taken_there_is_found_before_anything_is_decided),
        MOVE_TEST(a_label_that_is_given_away_meanwhile_keeps_it_out_as_long_as_that_instance_lives),
        MOVE_TEST(nothing_is_told_before_the_move_is_anchored),
        MOVE_TEST(a_source_that_dies_before_that_goes_on_as_it_was),
        MOVE_TEST(a_source_that_dies_behind_it_tells_the_same_again),
        MOVE_TEST(a_target_that_dies_before_it_has_recorded_it_gets_it_again),
        MOVE_TEST(a_target_confirms_what_is_anchored_and_no_sooner),
        MOVE_TEST(a_candidate_is_told_what_opens_exports_and_no_other_key),
        MOVE_TEST(its_first_command_moves_the_instance_and_fences_the_holder),
        MOVE_TEST(a_holder_that_goes_on_first_keeps_it),
        MOVE_TEST(a_candidate_that_is_gone_by_then_leaves_it_stopped_there),
        MOVE_TEST(a_candidate_of_an_earlier_look_takes_over_nothing),
        MOVE_TEST(a_candidate_of_before_another_start_fences_nobody),
        MOVE_TEST(what_was_moved_to_a_candidate_that_died_is_fetched_as_stopped),
    };
    return cmocka_run_group_tests_name("move", tests, NULL, NULL);
}
