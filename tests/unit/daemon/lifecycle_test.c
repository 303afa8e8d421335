/* What becomes of an instance when its operator, its process and vtpmd itself come and go. */
#include "tests/unit/daemon/host.h"

#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/fakes/assertions.h"
#include "tests/fakes/runtime.h"
#include "untrusted/wire/pass.h"

static struct host host;
static struct guest guest;

static int open_host(void **state)
{
    (void)state;
    host_open(&host);
    guest = (struct guest){.host = &host, .line = -1};
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

static const char *awaited;

static bool is_in_state(void *ctx)
{
    return strcmp(instance_state(((struct host *)ctx)->instance), awaited) == 0;
}

static void await_state(const char *wanted)
{
    awaited = wanted;
    host_until(&host, is_in_state, &host);
}

static bool has_no_process(void *ctx)
{
    return !((struct host *)ctx)->instance->process;
}

/* An instance that is in process guest and serves. */
static void make(void)
{
    host_create(&host, "one", NULL);
    host_until(&host, exists, &host);
    guest_accept(&host, &guest);
    guest_hello(&guest, false);
    guest_serve(&guest);
    host_await_answer(&host);
    assert_ok(host.result);
}

static void lose(void)
{
    guest_end(&guest);
    host_until(&host, has_no_process, &host);
}

static void serve_again(void)
{
    guest_accept(&host, &guest);
    guest_hello(&guest, false);
    guest_serve(&guest);
    await_state("running");
}

static void what_is_created_is_started_and_serves(void **state)
{
    (void)state;
    make();
    assert_string_equal(instance_state(host.instance), "running");
    assert_false(guest.rebuilt);
    assert_true(host_told(&host, "started"));
    guest_send_commit(&guest);
    guest_expect_anchored(&guest);
}

static void one_whose_process_is_lost_is_rebuilt_and_told_so(void **state)
{
    (void)state;
    make();
    lose();
    assert_string_equal(instance_state(host.instance), "failed");
    serve_again();
    assert_true(guest.rebuilt);
    assert_int_equal(host.instance->row.epoch, 1);
    assert_true(host_told(&host, "rebuilt"));
}

static void the_next_enclave_gets_what_was_committed(void **state)
{
    (void)state;
    make();
    assert_string_equal(guest.state, "");
    guest_send_commit(&guest);
    guest_expect_anchored(&guest);
    lose();
    serve_again();
    assert_int_equal(guest.version, 1);
    assert_string_equal(guest.state, "sealed");
}

static void what_was_lost_is_known_after_a_restart_of_vtpmd(void **state)
{
    (void)state;
    make();
    host.config.rebuild = false;
    lose();
    host_start(&host, true);
    await_state("starting");
    guest_accept(&host, &guest);
    assert_true(guest.rebuilt);
    guest_end(&guest); /* not admitted yet */
    host_await_answer(&host);
    host.config.rebuild = true;
    host_restart(&host, NULL);
    guest_accept(&host, &guest);
    assert_true(guest.rebuilt);
}

static void an_orderly_stop_ends_what_was_lost(void **state)
{
    (void)state;
    make();
    lose();
    serve_again();
    assert_true(guest.rebuilt);
    host_stop(&host);
    (void)guest_expect(&guest, WIRE_STOP);
    guest_receipt(&guest);
    await_state("stopped");
    guest_end(&guest);
    host_await_answer(&host);
    assert_ok(host.result);
    host_start(&host, false);
    guest_accept(&host, &guest);
    assert_false(guest.rebuilt);
}

static void change_boot_id(struct host *h)
{
    struct store *store = NULL;
    struct store_process process;
    assert_ok(store_open(h->directory, &store));
    struct instance_id id = guest.enclave.id;
    assert_ok(store_read_process(store, &id, &process));
    process.boot_id[0] = process.boot_id[0] == '0' ? '1' : '0';
    assert_ok(store_write_process(store, &id, &process));
    store_close(&store);
}

static void after_a_boot_of_the_host_no_machine_is_left_to_be_warned(void **state)
{
    (void)state;
    make();
    host_restart(&host, change_boot_id);
    await_state("failed");
    struct guest before = guest;
    guest_accept(&host, &guest);
    assert_false(guest.rebuilt);
    assert_int_equal(host.instance->row.epoch, 1);
    guest_end(&before);
}

static void with_rebuild_manual_it_waits_for_its_operator(void **state)
{
    (void)state;
    make();
    host.config.rebuild = false;
    lose();
    assert_false(guest_comes(&host, 1500000));
    host_start(&host, false);
    assert_true(host.answered);
    assert_err(host.result, HELD);
    host_start(&host, true);
    serve_again();
    host_await_answer(&host);
    assert_ok(host.result);
    assert_true(guest.rebuilt);
}

static void with_rebuild_automatic_an_operator_need_not_declare_what_vtpmd_knows(void **state)
{
    (void)state;
    make();
    lose();
    host_start(&host, false);
    serve_again();
    host_await_answer(&host);
    assert_ok(host.result);
    assert_int_equal(host.instance->row.epoch, 1);
}

static void declaring_a_living_holder_dead_ends_its_process_first(void **state)
{
    (void)state;
    make();
    host_restart(&host, NULL);
    assert_string_equal(instance_state(host.instance), "failed"); /* it does not connect again */
    struct guest before = guest;
    host_start(&host, false);
    assert_err(host.result, HELD);
    host_start(&host, true);
    serve_again();
    host_await_answer(&host);
    assert_ok(host.result);
    assert_int_equal(host.instance->row.epoch, 1);
    guest_end(&before);
}

static void held_rows_stay_held_while_vtpmd_restarts(void **state)
{
    (void)state;
    make();
    guest_send_commit(&guest);
    guest_expect_anchored(&guest);
    host_restart(&host, NULL);
    guest_reconnect(&guest);
    const struct hello_instance hello = {.serving = true, .id = guest.enclave.id, .start = 1};
    assert_ok(wire_send_hello_instance(guest.stream, &hello));
    guest_say(&guest, fake_instance_resume(&guest.enclave));
    guest_say(&guest, fake_instance_confirm(&guest.enclave, guest_expect(&guest, WIRE_PEER)));
    await_state("running");
    assert_true(host_told(&host, "resumed"));
    assert_int_equal(host.instance->row.epoch, 0);
}

static struct err store_nothing(void *ctx, struct store *store, struct anchor_host *anchor)
{
    (void)ctx, (void)store, (void)anchor;
    return OK;
}

static void on_stored(void *ctx, struct err result)
{
    assert_ok(result);
    *(bool *)ctx = true;
}

static bool is_true(void *ctx)
{
    return *(bool *)ctx;
}

/* What was to be stored before this is. */
static void await_store(void)
{
    bool stored = false;
    assert_ok(committer_submit(host.supervisor.committer, &(struct committer_job){&stored, store_nothing, on_stored}));
    host_until(&host, is_true, &stored);
}

/* A vtpmd that begins anew after a suspend of the host meets processes whose enclaves are lost, too. */
static void reconnect_broken(void)
{
    const struct hello_instance hello = {.serving = true, .id = guest.enclave.id, .start = 1};
    const struct health_told broken = {.health = HEALTH_BROKEN};
    guest_reconnect(&guest);
    assert_ok(wire_send_hello_instance(guest.stream, &hello));
    assert_ok(wire_send_health(guest.stream, &broken));
}

static void one_whose_enclave_is_lost_meanwhile_can_be_stopped(void **state)
{
    (void)state;
    make();
    host_restart(&host, NULL);
    reconnect_broken();
    await_state("running");
    assert_false(host_told(&host, "resumed"));
    host_stop(&host);
    (void)guest_expect(&guest, WIRE_STOP);
    guest_end(&guest); /* it has no receipt to give */
    host_await_answer(&host);
    assert_ok(host.result);
    assert_string_equal(instance_state(host.instance), "stopped");
    assert_int_equal(host.instance->row.epoch, 1);
}

static void and_is_once_that_was_asked_for(void **state)
{
    (void)state;
    make();
    host_stop(&host);
    (void)guest_expect(&guest, WIRE_STOP);
    await_store();
    host_restart(&host, NULL);
    reconnect_broken();
    (void)guest_expect(&guest, WIRE_STOP);
    guest_end(&guest);
    await_state("stopped");
}

/* Of a deletion nothing is left. */
static void what_vtpmd_ends_in_is_not_said_to_go_on(void **state)
{
    (void)state;
    static const uint8_t no_signature[ED25519_SIGNATURE_SIZE];
    make();
    host.answered = false;
    act_delete(host.instance, true, no_signature, host_done, &host);
    assert_false(host.answered);
    host_restart(&host, NULL);
    assert_err(host.result, LINK_CLOSED);
    assert_non_null(strstr(host.reason, "ends before this is done"));
    assert_string_not_equal(instance_state(host.instance), "deleted");
}

/* --- ends that no operator asked for --- */

static void end_by_itself(void)
{
    guest_receipt(&guest);
    await_state("stopped");
}

static void what_ended_by_itself_is_started_at_the_next_start_of_vtpmd(void **state)
{
    (void)state;
    make();
    end_by_itself();
    lose();
    assert_false(guest_comes(&host, 300000));
    host_restart(&host, NULL);
    serve_again();
    assert_false(guest.rebuilt);
}

static void what_was_stopped_is_not(void **state)
{
    (void)state;
    make();
    host_stop(&host);
    end_by_itself();
    lose();
    host_restart(&host, NULL);
    assert_false(guest_comes(&host, 300000));
    assert_string_equal(instance_state(host.instance), "stopped");
}

static void the_wish_of_what_ended_by_itself_can_be_withdrawn(void **state)
{
    (void)state;
    make();
    end_by_itself();
    lose();
    host_stop(&host);
    host_await_answer(&host);
    assert_ok(host.result);
    host_stop(&host);
    assert_err(host.result, VERB_STATE);
    host_restart(&host, NULL);
    assert_false(guest_comes(&host, 300000));
}

static void a_stop_is_answered_when_its_process_has_ended(void **state)
{
    (void)state;
    make();
    host_stop(&host);
    end_by_itself();
    host_run(&host, 100000);
    assert_false(host.answered);
    guest_end(&guest);
    host_await_answer(&host);
    assert_ok(host.result);
}

static void a_start_waits_for_the_process_before_it(void **state)
{
    (void)state;
    make();
    end_by_itself();
    host_start(&host, false);
    assert_false(guest_comes(&host, 200000));
    assert_false(host.answered);
    guest_end(&guest);
    serve_again();
    host_await_answer(&host);
    assert_ok(host.result);
}

static bool is_deleted(void *ctx)
{
    return ((struct host *)ctx)->instance->row.state == MANAGER_DELETED;
}

static void a_delete_waits_for_it_too(void **state)
{
    (void)state;
    static const uint8_t nobody[ED25519_SIGNATURE_SIZE];
    make();
    end_by_itself();
    host.answered = false;
    act_delete(host.instance, false, nobody, host_done, &host);
    host_run(&host, 200000);
    assert_false(host.answered);
    guest_end(&guest);
    host_until(&host, is_deleted, &host);
}

static bool awaits_front(void *ctx)
{
    const struct instance *i = ((struct host *)ctx)->instance;
    return i->health == HEALTH_AWAITING_FRONT && i->row.state == MANAGER_ALLOWED && i->act.kind == ACT_NONE;
}

/* As one does whose front-end has gone. */
static void the_process_that_gave_its_receipt_may_start_again(void **state)
{
    (void)state;
    make();
    guest_receipt(&guest);
    guest_reconnect(&guest);
    guest_hello(&guest, true);
    host_until(&host, awaits_front, &host);
    assert_string_equal(instance_state(host.instance), "starting");
}

static void it_may_do_so_later_too(void **state)
{
    (void)state;
    make();
    end_by_itself();
    guest_reconnect(&guest);
    guest_hello(&guest, true);
    host_until(&host, awaits_front, &host);
}

static void but_not_once_its_operator_wants_it_no_more(void **state)
{
    (void)state;
    make();
    end_by_itself();
    host_stop(&host);
    host_await_answer(&host);
    guest_reconnect(&guest);
    guest_hello(&guest, true);
    assert_int_equal(guest_expect_closed(&guest), ERR_VERB_STATE);
}

static void and_no_process_that_vtpmd_does_not_know(void **state)
{
    (void)state;
    char path[128];
    int fd = -1;
    make();
    end_by_itself();
    lose();
    (void)snprintf(path, sizeof path, "%s/daemon.sock", host.directory);
    assert_ok(pass_connect(path, &fd));
    struct guest other = {.host = &host, .line = -1, .fd = fd};
    assert_ok(wire_stream_open(fd, WIRE_BODY_MAX, &other.stream));
    guest_hello(&other, true);
    assert_int_equal(guest_expect_closed(&other), ERR_VERB_STATE);
    guest_end(&other);
}

static void nor_while_its_operator_stops_it(void **state)
{
    (void)state;
    make();
    host_stop(&host);
    end_by_itself();
    guest_reconnect(&guest);
    guest_hello(&guest, true);
    assert_int_equal(guest_expect_closed(&guest), ERR_VERB_STATE);
}

/* --- what goes wrong --- */

static void an_enclave_that_is_refused_fails_the_start_with_the_reason(void **state)
{
    (void)state;
    host_create(&host, "one", NULL);
    host_until(&host, exists, &host);
    guest_accept(&host, &guest);
    guest_hello(&guest, false);
    memcpy(fake_processor.MRENCLAVE, "another enclave", 15);
    guest_prove(&guest);
    assert_int_equal(guest_expect_closed(&guest), ERR_PEER_IDENTITY);
    host_await_answer(&host);
    assert_err(host.result, PEER_IDENTITY);
    assert_string_equal(instance_state(host.instance), "failed");
    assert_non_null(strstr(host.instance->reason, "identity"));
    assert_true(host_told(&host, "refused"));
}

static void a_commit_that_is_refused_is_not_stored(void **state)
{
    (void)state;
    make();
    guest.version = 5; /* not the next one */
    guest_send_commit(&guest);
    assert_int_not_equal(guest_expect_closed(&guest), 0);
    assert_int_equal(host.instance->recorded, 0);
    assert_null(host.instance->held.bytes);
}

static void let_the_disk_fail(bool fails)
{
    struct rlimit limit;
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = fails ? 0 : RLIM_INFINITY;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void while_the_disk_fails_nothing_is_answered_and_then_everything(void **state)
{
    (void)state;
    struct wire_frame frame = {0};
    make();
    let_the_disk_fail(true);
    guest_send_commit(&guest);
    host_run(&host, 300000);
    assert_ok(wire_receive(guest.stream, &frame));
    assert_int_equal(frame.kind, 0);
    let_the_disk_fail(false);
    guest_expect_anchored(&guest);
}

/* The longest wait would be commit-timeout and 30 s: this one is as long as if the former were -29 s. */
static void whoever_asked_is_answered_in_time_and_the_act_goes_on(void **state)
{
    (void)state;
    host.config.commit_timeout = 0u - 29u;
    let_the_disk_fail(true);
    host_create(&host, "one", NULL);
    host_await_answer(&host);
    assert_err(host.result, TIMEOUT);
    assert_non_null(strstr(host.reason, "goes on"));
    let_the_disk_fail(false);
    host_until(&host, exists, &host);
    guest_accept(&host, &guest);
}

static void a_start_that_is_stuck_is_answered_with_how_far_it_is(void **state)
{
    (void)state;
    make();
    end_by_itself();
    lose();
    host.config.commit_timeout = 0u - 29u;
    host_start(&host, false);
    guest_accept(&host, &guest);
    host_await_answer(&host);
    assert_err(host.result, TIMEOUT);
    assert_non_null(strstr(host.reason, "has not connected"));
    assert_string_equal(instance_state(host.instance), "starting");
}

static void a_start_whose_process_ends_is_failed_at_once_and_can_be_repeated(void **state)
{
    (void)state;
    host_create(&host, "one", NULL);
    host_until(&host, exists, &host);
    guest_accept(&host, &guest);
    guest_end(&guest);
    host_await_answer(&host);
    assert_err(host.result, PEER_CLOSED);
    assert_string_equal(instance_state(host.instance), "failed");
    assert_false(guest_comes(&host, 1300000));
    host_start(&host, false);
    serve_again();
}

/* --- who may say what on daemon.sock --- */

static void one_that_does_not_say_who_it_is_is_closed(void **state)
{
    (void)state;
    host_create(&host, "one", NULL);
    host_until(&host, exists, &host);
    guest_accept(&host, &guest);
    host_run(&host, (HELLO_SECONDS - 1) * UINT64_C(1000000));
    struct wire_frame frame = {0};
    assert_ok(wire_receive(guest.stream, &frame));
    assert_int_equal(guest_expect_closed(&guest), 0);
}

static void nothing_is_taken_before_hello(void **state)
{
    (void)state;
    host_create(&host, "one", NULL);
    host_until(&host, exists, &host);
    guest_accept(&host, &guest);
    guest_say(&guest, span_of("anything", 8));
    assert_int_equal(guest_expect_closed(&guest), ERR_PROTOCOL);
}

static void an_instance_that_there_is_not_is_refused(void **state)
{
    (void)state;
    make();
    guest_reconnect(&guest);
    const struct hello_instance hello = {.id = {"nobody"}};
    assert_ok(wire_send_hello_instance(guest.stream, &hello));
    assert_int_equal(guest_expect_closed(&guest), ERR_NO_INSTANCE);
}

static void another_process_does_not_take_a_holders_place(void **state)
{
    (void)state;
    char path[128];
    int fd = -1;
    make();
    (void)snprintf(path, sizeof path, "%s/daemon.sock", host.directory);
    assert_ok(pass_connect(path, &fd));
    struct guest other = {.host = &host, .line = -1, .fd = fd};
    assert_ok(wire_stream_open(fd, WIRE_BODY_MAX, &other.stream));
    guest_hello(&other, false);
    assert_int_equal(guest_expect_closed(&other), ERR_FENCED);
    guest_end(&other);
    guest_send_commit(&guest);
    guest_expect_anchored(&guest);
}

/* vtpmd was killed before it had noted the process, and starts another one. */
static void one_that_was_not_noted_ends_and_the_next_one_serves(void **state)
{
    (void)state;
    host_create(&host, "one", NULL);
    host_until(&host, exists, &host);
    guest_accept(&host, &guest);
    guest_hello(&guest, false);
    (void)guest_expect(&guest, WIRE_PEER);
    host_restart(&host, change_boot_id);
    struct guest stray = guest;
    guest_accept(&host, &guest);
    guest_reconnect(&stray);
    guest_hello(&stray, false);
    assert_int_equal(guest_expect_closed(&stray), ERR_FENCED);
    guest_end(&stray);
    guest_hello(&guest, false);
    guest_serve(&guest);
    await_state("running");
}

/* The disk may have failed when it was to be noted: it comes again. */
static void one_that_serves_waits_for_the_known_one(void **state)
{
    (void)state;
    char path[128];
    int fd = -1;
    make();
    (void)snprintf(path, sizeof path, "%s/daemon.sock", host.directory);
    assert_ok(pass_connect(path, &fd));
    struct guest other = {.host = &host, .line = -1, .fd = fd};
    assert_ok(wire_stream_open(fd, WIRE_BODY_MAX, &other.stream));
    const struct hello_instance hello = {.serving = true, .id = guest.enclave.id, .start = 1};
    assert_ok(wire_send_hello_instance(other.stream, &hello));
    assert_int_equal(guest_expect_closed(&other), ERR_HELD);
    guest_end(&other);
}

static void a_share_is_used_for_one_enclave_only(void **state)
{
    (void)state;
    make();
    assert_false(host.instance->connection->has_share);
}

static void a_front_end_may_not_speak_as_an_instance(void **state)
{
    (void)state;
    static const uint8_t share[X25519_SIZE] = "share";
    make();
    guest_reconnect(&guest);
    assert_ok(wire_send_hello_front(guest.stream, &guest.enclave.id, share));
    guest_receipt(&guest);
    assert_int_equal(guest_expect_closed(&guest), ERR_PROTOCOL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_host, close_host)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_created_is_started_and_serves),
        TEST(one_whose_process_is_lost_is_rebuilt_and_told_so),
        TEST(the_next_enclave_gets_what_was_committed),
        TEST(what_was_lost_is_known_after_a_restart_of_vtpmd),
        TEST(an_orderly_stop_ends_what_was_lost),
        TEST(after_a_boot_of_the_host_no_machine_is_left_to_be_warned),
        TEST(with_rebuild_manual_it_waits_for_its_operator),
        TEST(with_rebuild_automatic_an_operator_need_not_declare_what_vtpmd_knows),
        TEST(declaring_a_living_holder_dead_ends_its_process_first),
        TEST(held_rows_stay_held_while_vtpmd_restarts),
        TEST(one_whose_enclave_is_lost_meanwhile_can_be_stopped),
        TEST(and_is_once_that_was_asked_for),
        TEST(what_vtpmd_ends_in_is_not_said_to_go_on),
        TEST(what_ended_by_itself_is_started_at_the_next_start_of_vtpmd),
        TEST(what_was_stopped_is_not),
        TEST(the_wish_of_what_ended_by_itself_can_be_withdrawn),
        TEST(a_stop_is_answered_when_its_process_has_ended),
        TEST(a_start_waits_for_the_process_before_it),
        TEST(a_delete_waits_for_it_too),
        TEST(the_process_that_gave_its_receipt_may_start_again),
        TEST(it_may_do_so_later_too),
        TEST(but_not_once_its_operator_wants_it_no_more),
        TEST(and_no_process_that_vtpmd_does_not_know),
        TEST(nor_while_its_operator_stops_it),
        TEST(an_enclave_that_is_refused_fails_the_start_with_the_reason),
        TEST(a_commit_that_is_refused_is_not_stored),
        TEST(while_the_disk_fails_nothing_is_answered_and_then_everything),
        TEST(whoever_asked_is_answered_in_time_and_the_act_goes_on),
        TEST(a_start_that_is_stuck_is_answered_with_how_far_it_is),
        TEST(a_start_whose_process_ends_is_failed_at_once_and_can_be_repeated),
        TEST(one_that_does_not_say_who_it_is_is_closed),
        TEST(nothing_is_taken_before_hello),
        TEST(an_instance_that_there_is_not_is_refused),
        TEST(another_process_does_not_take_a_holders_place),
        TEST(one_that_was_not_noted_ends_and_the_next_one_serves),
        TEST(one_that_serves_waits_for_the_known_one),
        TEST(a_share_is_used_for_one_enclave_only),
        TEST(a_front_end_may_not_speak_as_an_instance),
    };
    return cmocka_run_group_tests_name("lifecycle", tests, NULL, NULL);
}
