/* A process beside the one that serves, which may take over from it: how it comes, and in which ways it goes. */
#include "untrusted/daemon/incoming.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/fakes/assertions.h"
#include "tests/unit/daemon/host.h"

struct outcome {
    bool answered;
    struct err result;
};

static struct host host;
static struct guest source, target;
static struct outcome outcome;

static int open_host(void **state)
{
    (void)state;
    host_open(&host);
    source = (struct guest){.host = &host, .line = -1};
    target = (struct guest){.host = &host, .line = -1};
    return 0;
}

static int close_host(void **state)
{
    (void)state;
    guest_end(&source);
    guest_end(&target);
    host_close(&host);
    return 0;
}

static void keep_outcome(void *ctx, struct err result, const char *reason, struct instance *instance)
{
    struct outcome *out = ctx;
    (void)reason, (void)instance;
    assert_false(out->answered);
    *out = (struct outcome){true, result};
}

static bool is_answered(void *ctx)
{
    return ((struct outcome *)ctx)->answered;
}

static void commit(void)
{
    guest_send_commit(&source);
    guest_expect_anchored(&source);
}

/* With a state. */
static void make(void)
{
    guest_make(&host, &source);
    commit();
}

static void start_incoming(void)
{
    outcome = (struct outcome){0};
    incoming_start(host.instance, NULL, NULL, keep_outcome, &outcome);
}

static void expect_outcome(uint16_t code)
{
    host_until(&host, is_answered, &outcome);
    assert_int_equal(outcome.result.code, code);
}

/* A process that waits for its client. */
static void make_ready(void)
{
    start_incoming();
    guest_accept(&host, &target);
    guest_hello(&target, false);
    guest_serve(&target);
    expect_outcome(ERR_NONE);
    assert_true(incoming_is_ready(host.instance));
}

static bool has_no_incoming(void *ctx)
{
    return !((struct host *)ctx)->instance->incoming;
}

/* The instance goes on as if there had been no other process. */
static void assert_undisturbed(void)
{
    host_until(&host, has_no_incoming, &host);
    assert_string_equal(instance_state(host.instance), "running");
    guest_send_commit(&source);
    guest_expect_anchored(&source);
    assert_int_equal(host.instance->row.epoch, 0);
}

static void take_over(void)
{
    guest_redeem(&target, 1, 1);
    (void)fake_instance_hear(&target.enclave, guest_expect(&target, WIRE_PEER), PEER_REDEEMED);
    target.version = 1;
}

/* The process target is the instance's now, and commits. */
static void assert_taken_over(void)
{
    assert_null(host.instance->incoming);
    assert_true(host_told(&host, "taken-over"));
    assert_string_equal(instance_state(host.instance), "running");
    guest_send_commit(&target);
    guest_expect_anchored(&target);
    assert_int_equal(host.instance->row.epoch, 0);
    assert_int_equal(host.instance->row.start, 2);
}

static void it_takes_over_and_the_other_one_is_fenced(void **state)
{
    (void)state;
    make();
    make_ready();
    guest_send_commit(&source); /* which goes on meanwhile */
    guest_expect_anchored(&source);
    guest_redeem(&target, 1, 2);
    assert_int_equal(guest_expect_closed(&source), ERR_FENCED);
    (void)fake_instance_hear(&target.enclave, guest_expect(&target, WIRE_PEER), PEER_REDEEMED);
    target.version = 2;
    assert_taken_over();
    guest_end(&source);
    host_run(&host, 300000);
    assert_string_equal(instance_state(host.instance), "running");
    assert_false(guest_comes(&host, 300000));
}

static void what_has_taken_over_is_rebuilt_like_any_other(void **state)
{
    (void)state;
    make();
    make_ready();
    take_over();
    assert_taken_over();
    guest_end(&source);
    guest_end(&target);
    guest_accept(&host, &source);
    assert_true(source.rebuilt);
    guest_hello(&source, false);
    guest_serve(&source);
    assert_int_equal(source.version, 2);
}

static void one_that_dies_before_its_hello_changes_nothing(void **state)
{
    (void)state;
    make();
    start_incoming();
    guest_accept(&host, &target);
    guest_end(&target);
    expect_outcome(ERR_PEER_CLOSED);
    assert_undisturbed();
}

static void one_that_dies_before_it_is_ready_changes_nothing(void **state)
{
    (void)state;
    make();
    start_incoming();
    guest_accept(&host, &target);
    guest_hello(&target, false);
    guest_prove(&target);
    guest_end(&target);
    expect_outcome(ERR_PEER_CLOSED);
    assert_undisturbed();
}

static void one_that_dies_when_it_is_ready_makes_place_for_another(void **state)
{
    (void)state;
    make();
    make_ready();
    guest_end(&target);
    assert_undisturbed();
    make_ready();
    guest_redeem(&target, 1, 2);
    (void)fake_instance_hear(&target.enclave, guest_expect(&target, WIRE_PEER), PEER_REDEEMED);
    target.version = 2;
    assert_taken_over();
}

static void a_second_hello_is_the_end_of_it(void **state)
{
    (void)state;
    make();
    make_ready();
    const struct hello_instance hello = {.id = host.instance->row.id};
    assert_ok(wire_send_hello_instance(target.stream, &hello));
    assert_int_equal(guest_expect_closed(&target), ERR_PROTOCOL);
    assert_undisturbed();
}

static void a_second_connection_of_it_is_refused(void **state)
{
    (void)state;
    make();
    make_ready();
    struct guest twin = {.host = &host, .line = target.line};
    guest_reconnect(&twin);
    guest_hello(&twin, false);
    assert_int_equal(guest_expect_closed(&twin), ERR_VERB_STATE);
    twin.line = -1;
    guest_end(&twin);
    assert_true(incoming_is_ready(host.instance));
    take_over();
    assert_taken_over();
}

static void one_that_says_it_serves_is_refused(void **state)
{
    (void)state;
    make();
    start_incoming();
    guest_accept(&host, &target);
    const struct hello_instance hello = {.serving = true, .id = host.instance->row.id, .start = 1};
    assert_ok(wire_send_hello_instance(target.stream, &hello));
    assert_int_equal(guest_expect_closed(&target), ERR_VERB_STATE);
    guest_end(&target);
    expect_outcome(ERR_PEER_CLOSED);
    assert_undisturbed();
}

static void what_only_a_holder_says_is_not_heard(void **state)
{
    (void)state;
    static const uint8_t receipt[PEER_RECEIPT_SIZE];
    const struct span body = span_of(receipt, sizeof receipt);
    make();
    make_ready();
    assert_ok(wire_send(target.stream, WIRE_RECEIPT, &body, 1));
    assert_int_equal(guest_expect_closed(&target), ERR_PROTOCOL);
    assert_undisturbed();
    guest_end(&target);
    make_ready();
    target.version = 2;
    guest_send_commit(&target);
    assert_int_equal(guest_expect_closed(&target), ERR_PROTOCOL);
    assert_undisturbed();
}

static void an_export_that_was_taken_back_is_the_end_of_it(void **state)
{
    (void)state;
    make();
    make_ready();
    guest_send_commit(&source);
    guest_expect_anchored(&source);
    guest_redeem(&target, 1, 1);
    assert_int_equal(guest_expect_closed(&target), ERR_FENCED);
    assert_undisturbed();
}

static void it_is_stopped(void **state)
{
    (void)state;
    make();
    struct outcome stopped = {0};
    incoming_stop(host.instance, keep_outcome, &stopped);
    assert_err(stopped.result, VERB_STATE); /* there is none */
    make_ready();
    stopped = (struct outcome){0};
    incoming_stop(host.instance, keep_outcome, &stopped);
    assert_true(stopped.answered);
    assert_ok(stopped.result);
    (void)guest_expect_closed(&target);
    assert_undisturbed();
}

static void a_stop_while_it_is_started_answers_both(void **state)
{
    (void)state;
    struct outcome stopped = {0};
    make();
    start_incoming();
    guest_accept(&host, &target);
    guest_hello(&target, false);
    (void)guest_expect(&target, WIRE_PEER); /* it is attached */
    incoming_stop(host.instance, keep_outcome, &stopped);
    assert_ok(stopped.result);
    expect_outcome(ERR_VERB_STATE);
    assert_undisturbed();
}

static void there_is_one_at_a_time_and_none_without_a_state(void **state)
{
    (void)state;
    guest_make(&host, &source);
    start_incoming();
    expect_outcome(ERR_VERB_STATE);
    commit();
    make_ready();
    start_incoming();
    expect_outcome(ERR_VERB_STATE);
    assert_true(incoming_is_ready(host.instance));
    take_over();
    assert_taken_over();
}

/* Whoever waits for the end of the one before is told that there is another one. */
static void it_takes_over_while_the_other_one_is_stopped(void **state)
{
    (void)state;
    make();
    make_ready();
    host_stop(&host);
    (void)guest_expect(&source, WIRE_STOP);
    take_over();
    host_await_answer(&host);
    assert_err(host.result, VERB_STATE);
    assert_taken_over();
}

static void it_takes_over_behind_a_receipt(void **state)
{
    (void)state;
    make();
    make_ready();
    host_stop(&host);
    guest_receipt(&source);
    guest_end(&source);
    host_await_answer(&host);
    assert_ok(host.result);
    assert_string_equal(instance_state(host.instance), "stopped");
    take_over();
    assert_taken_over();
}

static void it_takes_over_while_the_other_one_dies(void **state)
{
    (void)state;
    make();
    make_ready();
    guest_redeem(&target, 1, 1);
    guest_end(&source);
    (void)fake_instance_hear(&target.enclave, guest_expect(&target, WIRE_PEER), PEER_REDEEMED);
    target.version = 1;
    host_run(&host, 300000);
    assert_taken_over();
    assert_false(guest_comes(&host, 300000)); /* nothing is rebuilt */
}

/* Neither is declared dead before there is nobody left. */
static void one_that_dies_when_it_takes_over_is_followed_by_a_rebuilt_one(void **state)
{
    (void)state;
    make();
    make_ready();
    guest_redeem(&target, 1, 1);
    assert_int_equal(guest_expect_closed(&source), ERR_FENCED);
    guest_end(&source);
    guest_end(&target);
    guest_accept(&host, &source);
    assert_true(source.rebuilt);
    guest_hello(&source, false);
    guest_serve(&source);
    assert_int_equal(source.version, 1);
    assert_int_equal(host.instance->row.epoch, 1);
}

static void it_does_not_outlive_vtpmd(void **state)
{
    (void)state;
    make();
    make_ready();
    host_restart(&host, NULL);
    guest_reconnect(&source);
    const struct hello_instance serving = {.serving = true, .id = source.enclave.id, .start = 1};
    assert_ok(wire_send_hello_instance(source.stream, &serving));
    guest_say(&source, fake_instance_resume(&source.enclave));
    guest_say(&source, fake_instance_confirm(&source.enclave, guest_expect(&source, WIRE_PEER)));
    (void)guest_expect(&source, WIRE_ASK_HEALTH);
    guest_reconnect(&target);
    guest_hello(&target, false);
    assert_int_not_equal(guest_expect_closed(&target), ERR_NONE);
    assert_undisturbed();
}

static void it_ends_with_the_instance(void **state)
{
    (void)state;
    static const uint8_t nobody[ED25519_SIGNATURE_SIZE];
    make();
    make_ready();
    host.answered = false;
    act_delete(host.instance, true, nobody, host_done, &host);
    (void)guest_expect(&source, WIRE_STOP);
    guest_receipt(&source);
    guest_end(&source);
    host_await_answer(&host);
    assert_ok(host.result);
    (void)guest_expect_closed(&target);
    host_run(&host, 100000);
}

int main(void)
{
#define INCOMING_TEST(test) cmocka_unit_test_setup_teardown(test, open_host, close_host)
    const struct CMUnitTest tests[] = {
        INCOMING_TEST(it_takes_over_and_the_other_one_is_fenced),
        INCOMING_TEST(what_has_taken_over_is_rebuilt_like_any_other),
        INCOMING_TEST(one_that_dies_before_its_hello_changes_nothing),
        INCOMING_TEST(one_that_dies_before_it_is_ready_changes_nothing),
        INCOMING_TEST(one_that_dies_when_it_is_ready_makes_place_for_another),
        INCOMING_TEST(a_second_hello_is_the_end_of_it),
        INCOMING_TEST(a_second_connection_of_it_is_refused),
        INCOMING_TEST(one_that_says_it_serves_is_refused),
        INCOMING_TEST(what_only_a_holder_says_is_not_heard),
        INCOMING_TEST(an_export_that_was_taken_back_is_the_end_of_it),
        INCOMING_TEST(it_is_stopped),
        INCOMING_TEST(a_stop_while_it_is_started_answers_both),
        INCOMING_TEST(there_is_one_at_a_time_and_none_without_a_state),
        INCOMING_TEST(it_takes_over_while_the_other_one_is_stopped),
        INCOMING_TEST(it_takes_over_behind_a_receipt),
        INCOMING_TEST(it_takes_over_while_the_other_one_dies),
        INCOMING_TEST(one_that_dies_when_it_takes_over_is_followed_by_a_rebuilt_one),
        INCOMING_TEST(it_does_not_outlive_vtpmd),
        INCOMING_TEST(it_ends_with_the_instance),
    };
    return cmocka_run_group_tests_name("incoming", tests, NULL, NULL);
}
