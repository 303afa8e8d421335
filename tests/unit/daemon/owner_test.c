/* Suspended instances, declared deaths, snapshots, and what an owner changes of an instance. */
#include "tests/unit/daemon/host.h"

#include <string.h>

#include "tests/fakes/assertions.h"
#include "untrusted/daemon/owner_act.h"

static const uint8_t unsigned_act[ED25519_SIGNATURE_SIZE];

static struct host host;
static struct guest guest;
static struct ed25519_key owner;

static int open_host(void **state)
{
    (void)state;
    host_open(&host);
    guest = (struct guest){.host = &host, .line = -1};
    assert_ok(ed25519_generate(fake_instance_crypto(), &owner));
    return 0;
}

static int close_host(void **state)
{
    (void)state;
    guest_end(&guest);
    host_close(&host);
    return 0;
}

static bool exists(void *ctx)
{
    struct host *h = ctx;
    if (h->supervisor.roster.count) h->instance = h->supervisor.roster.list[0];
    return h->supervisor.roster.count > 0;
}

static bool has_no_process(void *ctx)
{
    const struct instance *instance = ((struct host *)ctx)->instance;
    return !instance->process && !instance->connection;
}

static void serve(void)
{
    guest_accept(&host, &guest);
    guest_hello(&guest, false);
    guest_serve(&guest);
}

/* An instance that is in process guest and serves. */
static void make(void)
{
    host_create(&host, "one", NULL);
    host_until(&host, exists, &host);
    serve();
    host_await_answer(&host);
    assert_ok(host.result);
}

static void make_owned(void)
{
    memcpy(host.owner, owner.public, sizeof host.owner);
    make();
}

static void start_again(void)
{
    host_start(&host, false);
    serve();
    host_await_answer(&host);
    assert_ok(host.result);
}

static void stop(void)
{
    host_stop(&host);
    assert_int_equal(guest_expect(&guest, WIRE_STOP).data[0], STOP_OFF);
    guest_receipt(&guest);
    host_until(&host, has_no_process, (guest_end(&guest), &host));
    host_await_answer(&host);
    assert_ok(host.result);
}

static void commit(const char *sealed)
{
    guest.sealed = sealed;
    guest_send_commit(&guest);
    guest_expect_anchored(&guest);
}

static void begin(void)
{
    host.answered = false;
}

static void expect(struct err result)
{
    host_await_answer(&host);
    assert_int_equal(host.result.code, result.code);
}

/* --- suspend ------------------------------------------------------------------------------------------------------ */

static void suspend(void)
{
    begin();
    act_suspend(host.instance, host_done, &host);
    assert_int_equal(guest_expect(&guest, WIRE_STOP).data[0], STOP_SUSPEND);
}

static void what_is_suspended_stops_and_resumes(void **state)
{
    (void)state;
    make();
    suspend();
    assert_true(host.instance->wanted); /* until it has ended, a vtpmd that begins anew leaves it alone */
    memset(guest.enclave.suspended, 7, sizeof guest.enclave.suspended);
    commit("sealed, and volatile");
    guest_receipt(&guest);
    host_until(&host, has_no_process, (guest_end(&guest), &host));
    expect(OK);
    assert_string_equal(instance_state(host.instance), "stopped");
    assert_true(instance_is_suspended(host.instance));
    assert_false(host.instance->wanted);
    assert_true(host_told(&host, "suspended"));
    assert_false(host_told(&host, "stopped"));
    start_again();
    assert_int_equal(guest.enclave.provision.mode, PEER_MODE_RESUME);
    assert_string_equal(guest.state, "sealed, and volatile");
}

static void one_that_cannot_be_suspended_goes_on(void **state)
{
    (void)state;
    make();
    suspend();
    assert_ok(wire_send_stop_refused(guest.stream, FAIL(TPM_FAILED)));
    expect(FAIL(TPM_FAILED));
    assert_string_equal(instance_state(host.instance), "running");
    assert_true(host.instance->wanted);
    commit("sealed");
    stop();
}

static void one_that_ends_otherwise_is_stopped_and_said_not_to_be_suspended(void **state)
{
    (void)state;
    make();
    suspend();
    guest_receipt(&guest);
    host_until(&host, has_no_process, (guest_end(&guest), &host));
    expect(FAIL(VERB_STATE));
    assert_non_null(strstr(host.reason, "before it was suspended"));
    assert_string_equal(instance_state(host.instance), "stopped");
    assert_false(host.instance->wanted);
}

static void one_that_does_not_serve_is_not_suspended(void **state)
{
    (void)state;
    make();
    stop();
    begin();
    act_suspend(host.instance, host_done, &host);
    expect(FAIL(VERB_STATE));
}

static void a_refusal_that_nobody_waits_for_changes_nothing(void **state)
{
    (void)state;
    make();
    assert_ok(wire_send_stop_refused(guest.stream, FAIL(TPM_FAILED)));
    stop();
}

/* --- declaring dead ----------------------------------------------------------------------------------------------- */

static void a_lost_holder_is_declared_dead_without_a_start(void **state)
{
    (void)state;
    make();
    commit("sealed");
    host.config.rebuild = false;
    host_until(&host, has_no_process, (guest_end(&guest), &host));
    begin();
    act_declare_dead(host.instance, host_done, &host);
    expect(OK);
    assert_string_equal(instance_state(host.instance), "stopped");
    assert_int_equal(host.instance->row.epoch, 1);
    assert_int_equal(host.instance->row.deaths, 1);
    assert_false(host.instance->wanted);
    assert_false(guest_comes(&host, 300000));
    start_again();
    assert_string_equal(guest.state, "sealed");
}

static void one_that_serves_or_has_no_holder_is_not_declared_dead(void **state)
{
    (void)state;
    make();
    begin();
    act_declare_dead(host.instance, host_done, &host);
    expect(FAIL(VERB_STATE));
    assert_string_equal(instance_state(host.instance), "running");
    stop();
    begin();
    act_declare_dead(host.instance, host_done, &host);
    expect(FAIL(VERB_STATE));
    assert_int_equal(host.instance->row.deaths, 0);
}

/* --- snapshots ---------------------------------------------------------------------------------------------------- */

struct looked {
    bool answered;
    struct err result;
    size_t count;
    struct snapshot list[8];
};

static void on_looked(void *ctx, const struct snapshots_answer *answer)
{
    struct looked *looked = ctx;
    looked->answered = true;
    looked->result = answer->result;
    looked->count = answer->count;
    assert_true(answer->count <= 8);
    for (size_t i = 0; i < answer->count; i++)
        looked->list[i] = answer->list[i];
}

static bool has_looked(void *ctx)
{
    return ((struct looked *)ctx)->answered;
}

static struct looked work(enum snapshots_work what, const char *name)
{
    struct looked looked = {0};
    assert_ok(snapshots_work(host.instance, what, name, on_looked, &looked));
    host_until(&host, has_looked, &looked);
    return looked;
}

static void snapshots_are_taken_of_what_runs_and_go_with_it(void **state)
{
    (void)state;
    make();
    assert_err(work(SNAPSHOTS_TAKE, "early").result, STATE_MISSING);
    commit("sealed");
    struct looked taken = work(SNAPSHOTS_TAKE, "a");
    assert_ok(taken.result);
    assert_true(taken.count == 1 && taken.list[0].version == 1 && taken.list[0].size == 6);
    assert_err(work(SNAPSHOTS_TAKE, "a").result, SNAPSHOT_EXISTS);
    commit("sealed again");
    assert_ok(work(SNAPSHOTS_TAKE, "b").result);
    struct looked all = work(SNAPSHOTS_LIST, NULL);
    assert_int_equal(all.count, 2);
    assert_string_equal(all.list[1].name, "b");
    assert_memory_equal(all.list[0].digest, taken.list[0].digest, SHA256_SIZE);
    assert_ok(work(SNAPSHOTS_DELETE, "a").result);
    assert_err(work(SNAPSHOTS_DELETE, "a").result, NO_SNAPSHOT);
    stop();
    begin();
    act_delete(host.instance, false, unsigned_act, host_done, &host);
    expect(OK);
    assert_int_equal(work(SNAPSHOTS_LIST, NULL).count, 0);
}

/* --- revert ------------------------------------------------------------------------------------------------------- */

/* Two states, of which the first is the snapshot "first"; stopped. */
static void make_history(void)
{
    commit("first");
    assert_ok(work(SNAPSHOTS_TAKE, "first").result);
    commit("second");
    stop();
}

static void revert(const char *snapshot, const uint8_t signature[ED25519_SIGNATURE_SIZE])
{
    begin();
    act_revert(host.instance, snapshot, signature, host_done, &host);
}

static void an_older_state_is_put_back_as_a_new_version(void **state)
{
    (void)state;
    make();
    make_history();
    revert("first", unsigned_act);
    expect(OK);
    assert_int_equal(host.instance->row.version, 3);
    assert_int_equal(host.instance->row.epoch, 1);
    assert_true(host.instance->row.reverted);
    assert_true(host_told(&host, "reverted"));
    struct looked all = work(SNAPSHOTS_LIST, NULL);
    assert_int_equal(all.count, 2);
    assert_string_equal(all.list[1].name, "before-version-2");
    assert_int_equal(all.list[1].version, 2);
    assert_memory_equal(host.instance->row.digest, all.list[0].digest, SHA256_SIZE);
    host_restart(&host, NULL);
    start_again();
    assert_int_equal(guest.enclave.provision.mode, PEER_MODE_REVERTED);
    assert_int_equal(guest.version, 3);
    assert_string_equal(guest.state, "first");
    commit("third");
    stop();
    revert("before-version-2", unsigned_act); /* and back */
    expect(OK);
    start_again();
    assert_string_equal(guest.state, "second");
    assert_int_equal(guest.version, 5);
}

static void what_is_refused_changes_nothing(void **state)
{
    (void)state;
    make_owned();
    make_history();
    revert("none", unsigned_act);
    expect(FAIL(NO_SNAPSHOT));
    revert("first", unsigned_act);
    expect(FAIL(OWNER_SIGNATURE));
    assert_int_equal(work(SNAPSHOTS_LIST, NULL).count, 1);
    assert_int_equal(host.instance->row.version, 2);
    start_again();
    assert_string_equal(guest.state, "second");
    revert("first", unsigned_act);
    expect(FAIL(VERB_STATE));
    commit("third"); /* of what was refused nothing is held */
}

static void one_that_may_be_started_by_somebody_is_not_changed(void **state)
{
    (void)state;
    make();
    make_history();
    begin();
    act_start(host.instance, false, false, host_done, &host);
    expect(OK);
    revert("first", unsigned_act);
    expect(FAIL(VERB_STATE));
    begin();
    act_set_owner(host.instance, owner.public, unsigned_act, host_done, &host);
    expect(FAIL(VERB_STATE));
}

/* --- the owner's signature ---------------------------------------------------------------------------------------- */

static void sign(const struct owner_act *act, const struct ed25519_key *key, uint8_t out[ED25519_SIGNATURE_SIZE])
{
    struct manager_status status = {0};
    uint8_t nonce[SHA256_SIZE];
    uint8_t message[OWNER_ACT_SIZE];
    host_status(&host, &status);
    host_challenge(&host, nonce);
    assert_ok(owner_act_message(host.instance, act, &status, span_of(nonce, sizeof nonce), message));
    assert_ok(ed25519_sign(fake_instance_crypto(), key, span_of(message, sizeof message), out));
}

static void the_owner_signs_a_revert(void **state)
{
    (void)state;
    uint8_t signature[ED25519_SIGNATURE_SIZE];
    make_owned();
    make_history();
    const struct looked all = work(SNAPSHOTS_LIST, NULL);
    const struct owner_act act = owner_act_revert(host.instance, &all.list[0]);
    sign(&act, &owner, signature);
    revert("first", signature);
    expect(OK);
    revert("first", signature); /* once */
    expect(FAIL(OWNER_SIGNATURE));
}

static void the_owner_gives_it_to_another_one(void **state)
{
    (void)state;
    static const uint8_t nobody[ED25519_PUBLIC_SIZE];
    uint8_t signature[ED25519_SIGNATURE_SIZE];
    struct ed25519_key heir;
    assert_ok(ed25519_generate(fake_instance_crypto(), &heir));
    make_owned();
    stop();
    begin();
    act_set_owner(host.instance, heir.public, unsigned_act, host_done, &host);
    expect(FAIL(OWNER_SIGNATURE));
    struct owner_act act = owner_act_set_owner(heir.public);
    sign(&act, &owner, signature);
    begin();
    act_set_owner(host.instance, nobody, signature, host_done, &host); /* not what was signed */
    expect(FAIL(OWNER_SIGNATURE));
    sign(&act, &owner, signature);
    begin();
    act_set_owner(host.instance, heir.public, signature, host_done, &host);
    expect(OK);
    assert_memory_equal(host.instance->row.owner, heir.public, sizeof heir.public);
    assert_int_equal(host.instance->row.epoch, 1);
    assert_true(host_told(&host, "owner"));
    act = owner_act_set_owner(nobody);
    sign(&act, &heir, signature);
    begin();
    act_set_owner(host.instance, nobody, signature, host_done, &host);
    expect(OK);
    assert_false(host.instance->row.has_owner);
}

static void a_clone_is_another_instance_of_the_same_owner(void **state)
{
    (void)state;
    uint8_t signature[ED25519_SIGNATURE_SIZE];
    make_owned();
    commit("sealed");
    struct instance *source = host.instance;
    struct create create = {.label = "two", .source = source};
    begin();
    act_create(&host.supervisor, &create, host_done, &host);
    expect(FAIL(OWNER_SIGNATURE));
    const struct owner_act act = owner_act_clone(create.label);
    sign(&act, &owner, signature);
    memcpy(create.signature, signature, sizeof signature);
    begin();
    act_create(&host.supervisor, &create, host_done, &host);
    expect(OK);
    assert_ptr_not_equal(host.instance, source);
    assert_string_equal(host.instance->row.label, "two");
    assert_int_equal(host.instance->row.origin, MANAGER_ORIGIN_CLONE);
    assert_memory_equal(host.instance->row.source.bytes, source->row.id.bytes, INSTANCE_ID_SIZE);
    assert_memory_equal(host.instance->row.owner, owner.public, sizeof owner.public);
    assert_int_equal(host.instance->row.version, 0);
    assert_int_equal(source->row.epoch, 0);
    assert_string_equal(instance_state(source), "running");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_host, close_host)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_suspended_stops_and_resumes),
        TEST(one_that_cannot_be_suspended_goes_on),
        TEST(one_that_ends_otherwise_is_stopped_and_said_not_to_be_suspended),
        TEST(one_that_does_not_serve_is_not_suspended),
        TEST(a_refusal_that_nobody_waits_for_changes_nothing),
        TEST(a_lost_holder_is_declared_dead_without_a_start),
        TEST(one_that_serves_or_has_no_holder_is_not_declared_dead),
        TEST(snapshots_are_taken_of_what_runs_and_go_with_it),
        TEST(an_older_state_is_put_back_as_a_new_version),
        TEST(what_is_refused_changes_nothing),
        TEST(one_that_may_be_started_by_somebody_is_not_changed),
        TEST(the_owner_signs_a_revert),
        TEST(the_owner_gives_it_to_another_one),
        TEST(a_clone_is_another_instance_of_the_same_owner),
    };
    return cmocka_run_group_tests_name("owner", tests, NULL, NULL);
}
