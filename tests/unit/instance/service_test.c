/*
 * The service with a fake enclave and a fake vtpmd, asked through the front's own interface: a socket of swtpm's data
 * channel and one of its control channel.
 */
#include "tests/fakes/assertions.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/instance/rig.h"
#include "untrusted/front/tunnel.h"

static struct rig rig;
static struct front *front;
static struct tunnel *tunnel;
static void *pool;
static int data;
static int control;
static unsigned links;

/* --- the front-end in this process, as the worker puts it together --- */

static struct err on_named(void *ctx, const struct link_told *told)
{
    (void)ctx;
    return tunnel_bind(tunnel, told);
}

static void on_record(void *ctx, struct span record)
{
    (void)ctx;
    tunnel_receive(tunnel, record);
}

static void on_failed(void *ctx, struct err why)
{
    (void)ctx;
    tunnel_fail(tunnel, why);
}

static void send_record(void *ctx, uint8_t verb, struct span record)
{
    (void)ctx;
    struct err result = service_record(rig.service, verb, record);
    if (result.code) tunnel_fail(tunnel, result);
}

static void on_linked(void *ctx)
{
    (void)ctx;
    links++;
    service_serving(rig.service);
}

static void on_relink(void *ctx)
{
    (void)ctx;
    service_relink(rig.service);
}

static void on_shutdown(void *ctx)
{
    (void)ctx;
    service_stop(rig.service);
}

static int connected_to(const struct protocol *protocol)
{
    const struct sockaddr_un nameless = {.sun_family = AF_UNIX};
    struct sockaddr_un address;
    socklen_t size = sizeof address;
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(listener, (const struct sockaddr *)&nameless, sizeof nameless.sun_family), 0);
    assert_int_equal(listen(listener, 5), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    assert_int_equal(connect(client, (const struct sockaddr *)&address, size), 0);
    assert_ok(front_listen(front, protocol, 0, listener));
    return client;
}

static void open_service_as(bool awaiting_reset, bool incoming)
{
    struct service_options options = rig_begin(&rig, awaiting_reset);
    options.incoming = incoming;
    const struct tunnel_options link = {
        .crypto = &rig.crypto,
        .transport = {NULL, send_record, on_linked, on_relink, on_shutdown},
        .instance = rig.id,
        .awaiting_reset = awaiting_reset,
    };
    tunnel = calloc(1, sizeof *tunnel);
    pool = calloc(1, POOL_MEMORY_SIZE);
    assert_ok(tunnel_open(&link, tunnel));
    const struct front_owner owner = tunnel_owner(tunnel);
    assert_ok(front_open(rig.event, &owner, pool, &front));
    tunnel_attach(tunnel, front);
    options.front = (struct service_front){NULL, on_named, on_record, on_failed};
    memcpy(options.front_share, tunnel->own.public, sizeof options.front_share);
    assert_ok(service_open(&options, &rig.service));
    links = 0;
    data = connected_to(&protocol_stream);
    control = connected_to(&protocol_control);
    rig_connect(&rig);
}

static void open_service(bool awaiting_reset)
{
    open_service_as(awaiting_reset, false);
}

static int set_up_blank(void **state)
{
    (void)state;
    open_service(false);
    return 0;
}

static int set_up(void **state)
{
    (void)state;
    open_service(false);
    rig_start(&rig);
    rig_expect_health(&rig, HEALTH_SERVING);
    assert_int_equal(links, 1);
    return 0;
}

static int set_up_incoming(void **state)
{
    (void)state;
    open_service_as(false, true);
    rig_start(&rig);
    rig_expect_health(&rig, HEALTH_SERVING);
    return 0;
}

static int set_up_after_a_death(void **state)
{
    (void)state;
    open_service(true);
    rig_start(&rig);
    rig_expect_health(&rig, HEALTH_AWAITING_RESET);
    return 0;
}

static bool is_zero(const void *memory, size_t size)
{
    const uint8_t *bytes = memory;
    for (size_t i = 0; i < size; i++)
        if (bytes[i]) return false;
    return true;
}

/* Nothing of a command or a response is left in the memory that is guarded. */
static int tear_down(void **state)
{
    (void)state;
    close(data);
    close(control);
    front_close(&front);
    const bool wiped = is_zero(tunnel->plaintext, sizeof tunnel->plaintext) && is_zero(pool, POOL_MEMORY_SIZE);
    tunnel_close(tunnel);
    rig_end(&rig);
    free(tunnel);
    free(pool);
    return wiped ? 0 : -1;
}

static const uint8_t command[] = {0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7b, 0, 8};
static const uint8_t reply[] = {0x80, 0x01, 0, 0, 0, 12, 0, 0, 0, 0, 'o', 'k'};
static const uint8_t failure[] = {0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x01};
static const uint8_t cmd_init[] = {0, 0, 0, 2, 0, 0, 0, 0};
static const uint8_t cmd_shutdown[] = {0, 0, 0, 3};
static const uint8_t cmd_stop[] = {0, 0, 0, 0x0e};
static const uint8_t success[] = {0, 0, 0, 0};

static void say(int fd, const void *bytes, size_t size)
{
    assert_int_equal(send(fd, bytes, size, MSG_NOSIGNAL), size);
}

/* Waits for an answer, at most five seconds. */
static void hear(int fd, const void *bytes, size_t size)
{
    uint8_t received[64];
    ssize_t count = -1;
    for (int i = 0; i < 5000 && count < 0; i++) {
        rig_run_for(&rig, 1000);
        count = recv(fd, received, sizeof received, 0);
    }
    assert_int_equal(count, size);
    assert_memory_equal(received, bytes, size);
}

static void hear_nothing(int fd)
{
    uint8_t byte = 0;
    assert_int_equal(recv(fd, &byte, 1, 0), -1);
    assert_int_equal(errno, EAGAIN);
}

#define SAY(fd, question) say(fd, question, sizeof(question))
#define ASK(fd, question, answer)                                                                                      \
    do {                                                                                                               \
        say(fd, question, sizeof(question));                                                                           \
        hear(fd, answer, sizeof(answer));                                                                              \
    } while (0)

static void reset(void)
{
    SAY(control, cmd_init);
    rig_expect_peer(&rig, RECORD_DATA, RIG_ASK);
    hear_nothing(control);
    rig_peer(&rig, RECORD_DATA, RIG_LEASE);
    hear(control, success, sizeof success);
}

/* --- commands and commits --- */

static void a_command_that_changes_nothing_is_answered_at_once(void **state)
{
    (void)state;
    const unsigned calls = rig.calls;
    ASK(data, command, reply);
    assert_int_equal(rig.calls, calls + 1);
    rig_expect_nothing(&rig);
}

static void an_answer_waits_until_its_state_is_recorded(void **state)
{
    (void)state;
    rig.stores = true;
    SAY(data, command);
    rig_expect_commit(&rig, 1);
    rig_expect_nothing(&rig);
    hear_nothing(data);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    hear(data, reply, sizeof reply);
}

static void many_commits(void **state)
{
    (void)state;
    rig.stores = true;
    for (unsigned i = 1; i <= 200; i++) {
        SAY(data, command);
        rig_expect_commit(&rig, i);
        rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
        hear(data, reply, sizeof reply);
    }
}

static void after_the_timeout_everything_fails_and_the_enclave_is_left_alone(void **state)
{
    (void)state;
    rig.stores = true;
    SAY(data, command);
    rig_expect_commit(&rig, 1);
    hear(data, failure, sizeof failure);
    rig_expect_health(&rig, HEALTH_BROKEN);
    const unsigned calls = rig.calls;
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    ASK(data, command, failure);
    ASK(data, command, failure);
    assert_int_equal(rig.calls, calls);
    hear_nothing(data);
}

/* The timer that the first commit set runs out in the middle of the second. */
static void the_timeout_is_of_each_commit(void **state)
{
    (void)state;
    rig.stores = true;
    SAY(data, command);
    rig_expect_commit(&rig, 1);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    hear(data, reply, sizeof reply);
    rig_run_for(&rig, RIG_TIMEOUT_USEC * 3 / 4);
    SAY(data, command);
    rig_expect_commit(&rig, 2);
    rig_run_for(&rig, RIG_TIMEOUT_USEC / 2);
    hear_nothing(data);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    hear(data, reply, sizeof reply);
}

static void health_counts_commands_and_commits(void **state)
{
    (void)state;
    struct health_told told;
    ASK(data, command, reply);
    rig.stores = true;
    SAY(data, command);
    rig_expect_commit(&rig, 1);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    hear(data, reply, sizeof reply);
    assert_ok(wire_send(rig.daemon, WIRE_ASK_HEALTH, NULL, 0));
    assert_ok(wire_parse_health(rig_expect(&rig, WIRE_HEALTH), &told));
    assert_int_equal(told.health, HEALTH_SERVING);
    assert_int_equal(told.commands, 2);
    assert_int_equal(told.commits, 1);
}

static void a_tpm_in_failure_mode_is_reported(void **state)
{
    (void)state;
    rig.fails = true;
    ASK(data, command, reply);
    rig_expect_health(&rig, HEALTH_TPM_FAILURE);
}

/* --- an enclave that is lost --- */

static void a_reset_of_a_lost_tpm_asks_for_a_new_process(void **state)
{
    (void)state;
    rig.fault = FAIL(SGX_FAULT);
    ASK(data, command, failure);
    SAY(control, cmd_init);
    rig_run_for(&rig, 20000);
    hear_nothing(control);
    rig_assert_ended(&rig, SERVICE_REBUILD);
}

static void an_enclave_that_faults_is_not_entered_again(void **state)
{
    (void)state;
    const unsigned calls = rig.calls;
    rig.fault = FAIL(SGX_FAULT);
    ASK(data, command, failure);
    rig.fault = OK;
    ASK(data, command, failure);
    assert_int_equal(rig.calls, calls + 1);
}

/* Between the LINK of vtpmd and the front-end's first record: nobody is served, so nobody would ever reset it. */
static void an_enclave_that_is_lost_before_it_serves_is_replaced(void **state)
{
    (void)state;
    const struct link_told told = rig_told(&rig);
    rig_admit(&rig);
    rig.fault = FAIL(SGX_FAULT);
    assert_ok(wire_send_link(rig.daemon, &told));
    rig_run_for(&rig, 20000);
    assert_int_equal(links, 0);
    rig_assert_ended(&rig, SERVICE_AGAIN);
}

static void a_lost_tpm_can_be_stopped(void **state)
{
    (void)state;
    rig.fault = FAIL(SGX_FAULT);
    ASK(data, command, failure);
    ASK(control, cmd_stop, success);
    ASK(data, command, failure);
    SAY(control, cmd_init);
    rig_run_for(&rig, 20000);
    rig_assert_ended(&rig, SERVICE_REBUILD);
}

static void a_lost_tpm_ends_without_a_receipt(void **state)
{
    (void)state;
    rig.fault = FAIL(SGX_FAULT);
    ASK(data, command, failure);
    service_stop(rig.service);
    rig_assert_ended(&rig, SERVICE_FAILED);
}

static void reset_stop_and_start(void **state)
{
    (void)state;
    reset();
    SAY(control, cmd_stop);
    rig_expect_commit(&rig, 1);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    hear(control, success, sizeof success);
    ASK(control, cmd_stop, success);
    rig_expect_nothing(&rig);
    reset();
    ASK(data, command, reply);
}

static void a_tpm_that_died_under_its_client_fails_until_the_client_resets_it(void **state)
{
    (void)state;
    ASK(data, command, failure);
    assert_int_equal(rig.last_verb, 0);
    SAY(control, cmd_init);
    rig_expect_peer(&rig, RECORD_DATA, RIG_ASK);
    rig_peer(&rig, RECORD_DATA, RIG_LEASE);
    hear(control, success, sizeof success);
    rig_expect_health(&rig, HEALTH_SERVING);
    ASK(data, command, reply);
}

/* --- the end --- */

static void stop_shuts_down_in_order_and_delivers_the_receipt(void **state)
{
    (void)state;
    assert_ok(wire_send_stop(rig.daemon, STOP_OFF));
    rig_expect_commit(&rig, 1);
    assert_int_equal(rig.stop_mode, INSTANCE_STOP_OFF);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    assert_int_equal(rig_expect(&rig, WIRE_RECEIPT).size, PEER_RECEIPT_SIZE);
    rig_recorded(&rig);
    rig_assert_ended(&rig, SERVICE_ENDED);
}

static void stop_lets_the_running_commit_finish(void **state)
{
    (void)state;
    rig.stores = true;
    SAY(data, command);
    rig_expect_commit(&rig, 1);
    service_stop(rig.service);
    service_stop(rig.service);
    rig_expect_nothing(&rig);
    hear_nothing(data);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    hear(data, reply, sizeof reply);
    rig_expect_commit(&rig, 2);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    rig_expect(&rig, WIRE_RECEIPT);
    rig_recorded(&rig);
    rig_assert_ended(&rig, SERVICE_ENDED);
}

static void expect_stop_refused(uint16_t code)
{
    struct err why = OK;
    assert_ok(wire_parse_stop_refused(rig_expect(&rig, WIRE_STOP_REFUSED), &why));
    assert_int_equal(why.code, code);
}

static void a_suspend_ends_in_order(void **state)
{
    (void)state;
    assert_ok(wire_send_stop(rig.daemon, STOP_SUSPEND));
    rig_expect_commit(&rig, 1);
    assert_int_equal(rig.stop_mode, INSTANCE_STOP_SUSPEND);
    SAY(data, command);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    assert_int_equal(rig_expect(&rig, WIRE_RECEIPT).size, PEER_RECEIPT_SIZE);
    rig_recorded(&rig);
    rig_assert_ended(&rig, SERVICE_ENDED);
    assert_int_equal(rig.number[INSTANCE_STOP], 1);
}

static void a_suspend_that_the_enclave_refuses_changes_nothing(void **state)
{
    (void)state;
    rig.no_suspend = FAIL(TPM_FAILED);
    for (unsigned time = 1; time <= 2; time++) {
        assert_ok(wire_send_stop(rig.daemon, STOP_SUSPEND));
        expect_stop_refused(ERR_TPM_FAILED);
        assert_int_equal(rig.number[INSTANCE_STOP], time);
        ASK(data, command, reply);
    }
    rig_run_for(&rig, 2 * RIG_TIMEOUT_USEC); /* no end is awaited any more */
    ASK(data, command, reply);
    service_stop(rig.service);
    rig_expect_commit(&rig, 1);
    assert_int_equal(rig.stop_mode, INSTANCE_STOP_OFF);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    rig_expect(&rig, WIRE_RECEIPT);
    rig_recorded(&rig);
    rig_assert_ended(&rig, SERVICE_ENDED);
}

static void a_suspend_waits_for_the_running_commit(void **state)
{
    (void)state;
    rig.stores = true;
    rig.no_suspend = FAIL(TPM_FAILED);
    SAY(data, command);
    rig_expect_commit(&rig, 1);
    assert_ok(wire_send_stop(rig.daemon, STOP_SUSPEND));
    rig_expect_nothing(&rig);
    assert_int_equal(rig.number[INSTANCE_STOP], 0);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    hear(data, reply, sizeof reply);
    expect_stop_refused(ERR_TPM_FAILED);
    rig.stores = false;
    ASK(data, command, reply);
}

/* It would take its TPM for dead, and the suspend is refused. */
static void a_front_end_sees_no_failure_while_a_suspend_waits(void **state)
{
    (void)state;
    rig.stores = true;
    rig.no_suspend = FAIL(TPM_FAILED);
    SAY(data, command);
    rig_expect_commit(&rig, 1);
    SAY(control, cmd_init); /* waits for the first, and is asked as soon as that is answered */
    assert_ok(wire_send_stop(rig.daemon, STOP_SUSPEND));
    rig_expect_nothing(&rig);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    rig_expect_peer(&rig, RECORD_DATA, RIG_ASK);
    hear(data, reply, sizeof reply);
    rig_peer(&rig, RECORD_DATA, RIG_LEASE);
    hear(control, success, sizeof success);
    expect_stop_refused(ERR_TPM_FAILED);
    rig.stores = false;
    ASK(data, command, reply);
}

static void a_stop_goes_before_a_suspend_that_waits(void **state)
{
    (void)state;
    rig.stores = true;
    SAY(data, command);
    rig_expect_commit(&rig, 1);
    assert_ok(wire_send_stop(rig.daemon, STOP_SUSPEND));
    rig_expect_nothing(&rig);
    service_stop(rig.service);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    rig_expect_commit(&rig, 2);
    assert_int_equal(rig.stop_mode, INSTANCE_STOP_OFF);
}

static void a_lost_enclave_is_not_suspended(void **state)
{
    (void)state;
    rig.fault = FAIL(SGX_FAULT);
    assert_ok(wire_send_stop(rig.daemon, STOP_SUSPEND));
    expect_stop_refused(ERR_SGX_FAULT);
    rig_expect_health(&rig, HEALTH_BROKEN);
    assert_ok(wire_send_stop(rig.daemon, STOP_SUSPEND));
    expect_stop_refused(ERR_ENCLAVE_DEAD);
    ASK(data, command, failure);
    assert_int_equal(rig.number[INSTANCE_STOP], 1);
}

static void a_tpm_that_owes_its_machine_a_failure_is_not_suspended(void **state)
{
    (void)state;
    assert_ok(wire_send_stop(rig.daemon, STOP_SUSPEND));
    expect_stop_refused(ERR_TPM_FAILED);
    assert_int_equal(rig.number[INSTANCE_STOP], 0);
    ASK(data, command, failure);
}

static void what_is_not_on_is_not_suspended(void **state)
{
    (void)state;
    (void)rig_expect(&rig, WIRE_HELLO_INSTANCE);
    assert_ok(wire_send_stop(rig.daemon, STOP_SUSPEND));
    expect_stop_refused(ERR_VERB_STATE);
    rig_expect_nothing(&rig);
}

static void stop_without_an_answer_of_vtpmd_ends_and_says_so(void **state)
{
    (void)state;
    service_stop(rig.service);
    rig_run_for(&rig, 2 * RIG_TIMEOUT_USEC);
    rig_assert_ended(&rig, SERVICE_FAILED);
}

static void a_receipt_is_kept_until_vtpmd_is_back(void **state)
{
    (void)state;
    struct hello_instance hello;
    service_stop(rig.service);
    rig_expect_commit(&rig, 1);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    shutdown(rig.daemon_fd, SHUT_RD); /* it does not take what is sent */
    rig_run_for(&rig, 20000);
    rig_hang_up(&rig);
    rig_run_for(&rig, 20000);
    assert_int_equal(rig.disconnected, 1);
    rig_connect(&rig);
    assert_ok(wire_parse_hello_instance(rig_expect(&rig, WIRE_HELLO_INSTANCE), &hello));
    assert_true(hello.serving);
    assert_int_equal(hello.start, RIG_START);
    assert_int_equal(rig_expect(&rig, WIRE_RECEIPT).size, PEER_RECEIPT_SIZE);
    rig_recorded(&rig);
    rig_assert_ended(&rig, SERVICE_ENDED);
}

/* Ends the connection, and takes the receipt on the next one. */
static void take_receipt_again(void)
{
    rig_hang_up(&rig);
    rig_run_for(&rig, 20000);
    rig_connect(&rig);
    rig_expect(&rig, WIRE_HELLO_INSTANCE);
    assert_int_equal(rig_expect(&rig, WIRE_RECEIPT).size, PEER_RECEIPT_SIZE);
}

static void a_receipt_is_said_again_until_it_is_recorded(void **state)
{
    (void)state;
    service_stop(rig.service);
    rig_expect_commit(&rig, 1);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    assert_int_equal(rig_expect(&rig, WIRE_RECEIPT).size, PEER_RECEIPT_SIZE);
    rig_expect_nothing(&rig);
    take_receipt_again();
    take_receipt_again();
    rig_recorded(&rig);
    rig_assert_ended(&rig, SERVICE_ENDED);
}

static void that_there_is_no_holder_any_more_ends_it_too(void **state)
{
    (void)state;
    service_stop(rig.service);
    rig_expect_commit(&rig, 1);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    rig_expect(&rig, WIRE_RECEIPT);
    take_receipt_again();
    assert_ok(wire_send_refused(rig.daemon, FAIL(FENCED)));
    rig_assert_ended(&rig, SERVICE_ENDED);
}

static void a_receipt_that_is_refused_ends_as_a_failure(void **state)
{
    (void)state;
    service_stop(rig.service);
    rig_expect_commit(&rig, 1);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    rig_expect(&rig, WIRE_RECEIPT);
    assert_ok(wire_send_refused(rig.daemon, FAIL(RECEIPT)));
    rig_assert_ended(&rig, SERVICE_FAILED);
}

static void nothing_is_recorded_that_was_not_said(void **state)
{
    (void)state;
    rig_recorded(&rig);
    rig_run_for(&rig, 20000);
    assert_int_equal(rig.disconnected, 1);
}

static void a_receipt_that_nobody_takes_ends_as_a_failure(void **state)
{
    (void)state;
    service_stop(rig.service);
    rig_expect_commit(&rig, 1);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    shutdown(rig.daemon_fd, SHUT_RD);
    rig_run_for(&rig, 2 * RIG_TIMEOUT_USEC);
    rig_assert_ended(&rig, SERVICE_FAILED);
}

static void a_clients_shutdown_is_answered_when_the_tpm_is_off(void **state)
{
    (void)state;
    SAY(control, cmd_shutdown);
    rig_expect_commit(&rig, 1);
    hear_nothing(control);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    hear(control, success, sizeof success);
    rig_expect_commit(&rig, 2);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    rig_expect(&rig, WIRE_RECEIPT);
    rig_recorded(&rig);
    rig_assert_ended(&rig, SERVICE_ENDED);
}

static void what_comes_behind_a_shutdown_is_not_begun(void **state)
{
    (void)state;
    const uint8_t refused[] = {0, 0, 1, 1};
    const int second = connected_to(&protocol_control);
    SAY(control, cmd_shutdown);
    rig_expect_commit(&rig, 1);
    SAY(second, cmd_init);
    SAY(data, command);
    rig_run_for(&rig, 20000);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    hear(control, success, sizeof success);
    hear(second, refused, sizeof refused);
    hear(data, failure, sizeof failure);
    close(second);
}

/* --- vtpmd comes and goes --- */

static void a_state_that_is_opened_anew_may_have_to_be_recorded_first(void **state)
{
    (void)state;
    rig.load_stores = true;
    rig_start(&rig);
    rig_expect_health(&rig, HEALTH_SERVING);
    ASK(data, command, reply);
}

/* --- one that is to take over --- */

static void an_incoming_one_ends_with_its_connection(void **state)
{
    (void)state;
    rig_hang_up(&rig);
    rig_assert_ended(&rig, SERVICE_FAILED);
    assert_int_equal(rig.disconnected, 0);
}

static void an_incoming_one_has_no_receipt_to_give(void **state)
{
    (void)state;
    service_stop(rig.service);
    rig_assert_ended(&rig, SERVICE_ENDED);
    assert_int_equal(rig.number[INSTANCE_STOP], 0);
}

static void an_incoming_one_is_not_suspended(void **state)
{
    (void)state;
    const uint8_t body[8] = {STOP_SUSPEND};
    const struct span part = span_of(body, sizeof body);
    assert_ok(wire_send(rig.daemon, WIRE_STOP, &part, 1));
    rig_expect(&rig, WIRE_STOP_REFUSED);
    assert_int_equal(rig.number[INSTANCE_STOP], 0);
}

static void an_incoming_one_does_not_begin_anew(void **state)
{
    (void)state;
    rig.fault = FAIL(SGX_FAULT);
    ASK(data, command, failure);
    SAY(control, cmd_init);
    rig_assert_ended(&rig, SERVICE_FAILED);
}

static void what_has_taken_over_is_a_holder_like_any_other(void **state)
{
    (void)state;
    rig.stores = true;
    SAY(data, command);
    rig_expect_commit(&rig, 1);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    hear(data, reply, sizeof reply);
    rig_hang_up(&rig);
    rig_run_for(&rig, 10000);
    assert_int_equal(rig.disconnected, 1);
    service_stop(rig.service);
    assert_int_equal(rig.number[INSTANCE_STOP], 1);
}

static void a_connection_that_is_lost_before_link_ends_the_enclave(void **state)
{
    (void)state;
    rig_admit(&rig);
    rig_hang_up(&rig);
    rig_run_for(&rig, 20000);
    rig_assert_ended(&rig, SERVICE_AGAIN);
    assert_int_equal(rig.disconnected, 0);
}

static void reconnect(void)
{
    struct hello_instance hello;
    rig_connect(&rig);
    assert_ok(wire_parse_hello_instance(rig_expect(&rig, WIRE_HELLO_INSTANCE), &hello));
    assert_true(hello.serving);
    assert_int_equal(hello.start, RIG_START);
    rig_expect_peer(&rig, PEER_RESUME, 0);
    rig_expect_health(&rig, HEALTH_SERVING);
}

static void while_vtpmd_is_away_reading_goes_on(void **state)
{
    (void)state;
    rig_hang_up(&rig);
    rig_run_for(&rig, 20000);
    assert_int_equal(rig.disconnected, 1);
    ASK(data, command, reply);
    reconnect();
    ASK(data, command, reply);
}

static void a_commit_under_way_is_said_again(void **state)
{
    (void)state;
    rig.stores = true;
    SAY(data, command);
    rig_expect_commit(&rig, 1);
    rig_hang_up(&rig);
    rig_run_for(&rig, 20000);
    reconnect();
    rig_peer(&rig, PEER_ACCEPT, 0);
    rig_expect_peer(&rig, PEER_CONFIRM, 0);
    rig_expect_commit(&rig, 1);
    hear_nothing(data);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    hear(data, reply, sizeof reply);
}

static void a_commit_that_begins_while_vtpmd_is_away_is_said_when_it_is_back(void **state)
{
    (void)state;
    rig.stores = true;
    rig_hang_up(&rig);
    rig_run_for(&rig, 20000);
    SAY(data, command);
    rig_run_for(&rig, 20000);
    reconnect();
    rig_peer(&rig, PEER_ACCEPT, 0);
    rig_expect_peer(&rig, PEER_CONFIRM, 0);
    rig_expect_commit(&rig, 1);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    hear(data, reply, sizeof reply);
}

static void a_refusal_that_is_final_ends_the_process(void **state)
{
    (void)state;
    assert_ok(wire_send_refused(rig.daemon, FAIL(FENCED)));
    rig_run_for(&rig, 20000);
    rig_assert_ended(&rig, SERVICE_FAILED);
}

static void another_refusal_is_tried_again(void **state)
{
    (void)state;
    assert_ok(wire_send_refused(rig.daemon, FAIL(STORE_BUSY)));
    rig_run_for(&rig, 20000);
    assert_int_equal(rig.disconnected, 1);
    ASK(data, command, reply);
}

/* --- a vtpmd that does not keep to the protocol --- */

static void link_twice(void **state)
{
    (void)state;
    struct link_told told = rig_told(&rig);
    assert_ok(wire_send_link(rig.daemon, &told));
    ASK(data, command, reply);
    rig_expect_nothing(&rig);
    told.binding.epoch++;
    assert_ok(wire_send_link(rig.daemon, &told));
    rig_expect_closed(&rig);
    assert_int_equal(links, 1);
    assert_int_equal(rig.disconnected, 1);
    ASK(data, command, reply);
}

static void frames_in_the_wrong_order_end_the_connection(void **state)
{
    (void)state;
    const struct link_told told = rig_told(&rig);
    rig_expect(&rig, WIRE_HELLO_INSTANCE);
    assert_ok(wire_send_link(rig.daemon, &told));
    rig_expect_closed(&rig);
    rig_assert_ended(&rig, SERVICE_AGAIN);
    assert_int_equal(rig.number[INSTANCE_LOAD], 0);
}

static void a_second_state_ends_the_connection(void **state)
{
    (void)state;
    assert_ok(wire_send_state(rig.daemon, 0, span_empty()));
    rig_expect_closed(&rig);
    assert_int_equal(rig.number[INSTANCE_LOAD], 1);
    ASK(data, command, reply);
}

static void nonsense_ends_the_connection_and_nothing_else(void **state)
{
    (void)state;
    static const uint8_t rows[][16] = {
        {0xff, 0xff, 0xff, 0xff, WIRE_PEER},           /* huge */
        {9, 0, 0, 0, WIRE_STOP, 0, 0, 0, 1},           /* more than the kind has */
        {8, 0, 0, 0, WIRE_STOP, 0, 0, 0, 3},           /* no such stop */
        {0, 0, 0, 0, 99},                              /* no kind */
        {0, 0, 0, 0, WIRE_STOP, 1},                    /* padding */
        {0, 0, 0, 0, WIRE_HELLO_FRONT},                /* not vtpmd's */
        {0, 0, 0, 0, WIRE_PEER},                       /* empty */
        {2, 0, 0, 0, WIRE_PEER, 0, 0, 0, 'x', 'y'},    /* the enclave refuses it */
        {3, 0, 0, 0, WIRE_STATE, 0, 0, 0, 'x', 'y', 1} /* cut off */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(send(rig.daemon_fd, rows[i], sizeof rows[i], MSG_NOSIGNAL), sizeof rows[i]);
        rig_expect_closed(&rig);
        assert_int_equal(rig.disconnected, i + 1);
        ASK(data, command, reply);
        reconnect();
    }
}

#define SERVICE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define BLANK_TEST(name)   cmocka_unit_test_setup_teardown(name, set_up_blank, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SERVICE_TEST(a_command_that_changes_nothing_is_answered_at_once),
        SERVICE_TEST(an_answer_waits_until_its_state_is_recorded),
        SERVICE_TEST(many_commits),
        cmocka_unit_test_setup_teardown(an_incoming_one_ends_with_its_connection, set_up_incoming, tear_down),
        cmocka_unit_test_setup_teardown(an_incoming_one_has_no_receipt_to_give, set_up_incoming, tear_down),
        cmocka_unit_test_setup_teardown(an_incoming_one_is_not_suspended, set_up_incoming, tear_down),
        cmocka_unit_test_setup_teardown(an_incoming_one_does_not_begin_anew, set_up_incoming, tear_down),
        cmocka_unit_test_setup_teardown(what_has_taken_over_is_a_holder_like_any_other, set_up_incoming, tear_down),
        SERVICE_TEST(after_the_timeout_everything_fails_and_the_enclave_is_left_alone),
        SERVICE_TEST(the_timeout_is_of_each_commit),
        SERVICE_TEST(health_counts_commands_and_commits),
        SERVICE_TEST(a_tpm_in_failure_mode_is_reported),
        SERVICE_TEST(a_reset_of_a_lost_tpm_asks_for_a_new_process),
        SERVICE_TEST(an_enclave_that_faults_is_not_entered_again),
        BLANK_TEST(an_enclave_that_is_lost_before_it_serves_is_replaced),
        SERVICE_TEST(a_lost_tpm_can_be_stopped),
        SERVICE_TEST(a_lost_tpm_ends_without_a_receipt),
        SERVICE_TEST(reset_stop_and_start),
        cmocka_unit_test_setup_teardown(a_tpm_that_died_under_its_client_fails_until_the_client_resets_it,
                                        set_up_after_a_death, tear_down),
        SERVICE_TEST(stop_shuts_down_in_order_and_delivers_the_receipt),
        SERVICE_TEST(stop_lets_the_running_commit_finish),
        SERVICE_TEST(a_suspend_ends_in_order),
        SERVICE_TEST(a_suspend_that_the_enclave_refuses_changes_nothing),
        SERVICE_TEST(a_suspend_waits_for_the_running_commit),
        SERVICE_TEST(a_front_end_sees_no_failure_while_a_suspend_waits),
        SERVICE_TEST(a_stop_goes_before_a_suspend_that_waits),
        SERVICE_TEST(a_lost_enclave_is_not_suspended),
        cmocka_unit_test_setup_teardown(a_tpm_that_owes_its_machine_a_failure_is_not_suspended, set_up_after_a_death,
                                        tear_down),
        BLANK_TEST(what_is_not_on_is_not_suspended),
        SERVICE_TEST(stop_without_an_answer_of_vtpmd_ends_and_says_so),
        SERVICE_TEST(a_receipt_is_kept_until_vtpmd_is_back),
        SERVICE_TEST(a_receipt_is_said_again_until_it_is_recorded),
        SERVICE_TEST(that_there_is_no_holder_any_more_ends_it_too),
        SERVICE_TEST(a_receipt_that_is_refused_ends_as_a_failure),
        SERVICE_TEST(nothing_is_recorded_that_was_not_said),
        SERVICE_TEST(a_receipt_that_nobody_takes_ends_as_a_failure),
        SERVICE_TEST(a_clients_shutdown_is_answered_when_the_tpm_is_off),
        SERVICE_TEST(what_comes_behind_a_shutdown_is_not_begun),
        BLANK_TEST(a_state_that_is_opened_anew_may_have_to_be_recorded_first),
        BLANK_TEST(a_connection_that_is_lost_before_link_ends_the_enclave),
        SERVICE_TEST(while_vtpmd_is_away_reading_goes_on),
        SERVICE_TEST(a_commit_under_way_is_said_again),
        SERVICE_TEST(a_commit_that_begins_while_vtpmd_is_away_is_said_when_it_is_back),
        SERVICE_TEST(a_refusal_that_is_final_ends_the_process),
        SERVICE_TEST(another_refusal_is_tried_again),
        SERVICE_TEST(link_twice),
        BLANK_TEST(frames_in_the_wrong_order_end_the_connection),
        SERVICE_TEST(a_second_state_ends_the_connection),
        SERVICE_TEST(nonsense_ends_the_connection_and_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
