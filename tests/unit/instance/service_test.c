/*
 * The service with a fake enclave and a fake disk, asked through the front's own interface: a socket of swtpm's data
 * channel and one of its control channel.
 */
#include "tests/fakes/assertions.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "untrusted/instance/service.h"

/* --- the fake enclave --- */

static struct {
    unsigned calls;
    unsigned last; /* number of the last call */
    bool waiting;  /* a store is under way */
    uint64_t version;
    bool stores;          /* every command changes the state */
    bool replies_at_once; /* a store and its reply in one answer: against the contract */
    struct err fault;     /* of the next call */
} enclave;

static const uint8_t reply[] = {0x80, 0x01, 0, 0, 0, 12, 0, 0, 0, 0, 'o', 'k'};

static struct err write_effect(struct writer *w, uint32_t kind, const void *payload, size_t size)
{
    uint8_t *padding = NULL;
    TRY(write_u32(w, kind));
    TRY(write_u32(w, (uint32_t)size));
    TRY(write_bytes(w, payload, size));
    return write_zeros(w, (8 - size % 8) % 8, &padding);
}

static struct err write_store(struct writer *w)
{
    uint8_t payload[8 + 5] = {0};
    payload[0] = (uint8_t)++enclave.version;
    memcpy(payload + 8, "state", 5);
    enclave.waiting = true;
    return write_effect(w, EFFECT_STORE, payload, sizeof payload);
}

static struct err write_effects(struct writer *w, uint32_t number)
{
    if (number == CALL_STORED) enclave.waiting = false;
    if (number == CALL_TPM_COMMAND && enclave.stores) {
        TRY(write_store(w));
        if (enclave.replies_at_once) return write_effect(w, EFFECT_REPLY, reply, sizeof reply);
        return OK;
    }
    if (number == CALL_TPM_OFF) return write_store(w);
    if (number == CALL_TPM_COMMAND || (number == CALL_STORED && enclave.last == CALL_TPM_COMMAND))
        return write_effect(w, EFFECT_REPLY, reply, sizeof reply);
    return OK;
}

static struct err call(void *ctx, struct span input, uint8_t *output, size_t capacity, size_t *out_size)
{
    (void)ctx;
    const uint32_t number = input.data[0];
    enclave.calls++;
    TRY(enclave.fault);
    assert_true(!enclave.waiting || number == CALL_STORED);
    if (number == CALL_STORED) assert_int_equal(input.data[CALL_RECORD_HEADER_SIZE], enclave.version);
    struct writer w = writer_of(output + CALL_RESULT_HEADER_SIZE, capacity - CALL_RESULT_HEADER_SIZE);
    TRY(write_effects(&w, number));
    enclave.last = number;
    struct writer head = writer_of(output, CALL_RESULT_HEADER_SIZE);
    TRY(write_u32(&head, 0));
    TRY(write_u32(&head, (uint32_t)w.size));
    *out_size = CALL_RESULT_HEADER_SIZE + w.size;
    return OK;
}

/* --- the fake disk, used by the committer's thread --- */

static atomic_uint disk_failures; /* writes that fail from now on */
static atomic_bool disk_stalls;
static atomic_uint disk_writes;

static struct err commit(void *ctx, struct span state)
{
    (void)ctx;
    ENSURE(state.size == 5 && memcmp(state.data, "state", 5) == 0, BAD_VALUE);
    while (atomic_load(&disk_stalls))
        usleep(1000);
    if (atomic_load(&disk_failures)) {
        atomic_fetch_sub(&disk_failures, 1);
        errno = ENOSPC;
        return FAIL(STATE_IO);
    }
    atomic_fetch_add(&disk_writes, 1);
    return OK;
}

/* --- what stands around the service --- */

#define TIMEOUT_USEC UINT64_C(300000)

static sd_event *event;
static struct machine machine;
static struct service *service;
static struct front *front;
static void *memory;
static int data;
static int control;

static void fault(void *ctx, uint16_t *out_vector, uint64_t *out_address)
{
    (void)ctx;
    *out_vector = 14;
    *out_address = 0x1000;
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

static void open_service(bool awaiting_reset)
{
    const struct machine_door door = {.call = call};
    memory = aligned_alloc(8, (MACHINE_MEMORY_SIZE + POOL_MEMORY_SIZE + 7) / 8 * 8);
    assert_non_null(memory);
    memset(memory, 0, MACHINE_MEMORY_SIZE + POOL_MEMORY_SIZE);
    memset(&enclave, 0, sizeof enclave);
    atomic_store(&disk_failures, 0);
    atomic_store(&disk_stalls, false);
    atomic_store(&disk_writes, 0);
    machine_init(&machine, &door, memory);
    assert_true(sd_event_new(&event) >= 0);
    const struct service_options options = {
        .event = event,
        .instance = "test",
        .machine = &machine,
        .target = {.instance = "test", .commit = commit},
        .commit_timeout_usec = TIMEOUT_USEC,
        .awaiting_reset = awaiting_reset,
        .fault = fault,
    };
    assert_ok(service_open(&options, &service));
    const struct front_owner owner = service_owner(service);
    assert_ok(front_open(event, &owner, (uint8_t *)memory + MACHINE_MEMORY_SIZE, &front));
    service_attach(service, front);
    data = connected_to(&protocol_stream);
    control = connected_to(&protocol_control);
}

static int set_up(void **state)
{
    (void)state;
    open_service(false);
    return 0;
}

static int set_up_after_a_death(void **state)
{
    (void)state;
    open_service(true);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    atomic_store(&disk_stalls, false);
    close(data);
    close(control);
    front_close(&front);
    service_close(&service);
    machine_wipe(&machine);
    sd_event_unref(event);
    const uint8_t *bytes = memory;
    int result = 0;
    for (size_t i = 0; i < MACHINE_MEMORY_SIZE + POOL_MEMORY_SIZE; i++)
        if (bytes[i]) result = -1;
    free(memory);
    return result;
}

static void run_for(uint64_t usec)
{
    struct timespec begin;
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    do {
        if (sd_event_get_state(event) == SD_EVENT_FINISHED) return;
        (void)sd_event_run(event, 1000);
        clock_gettime(CLOCK_MONOTONIC, &end);
    } while ((uint64_t)(end.tv_sec - begin.tv_sec) * 1000000 + (uint64_t)end.tv_nsec / 1000 -
                 (uint64_t)begin.tv_nsec / 1000 <
             usec);
}

static const uint8_t command[] = {0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7b, 0, 8};
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
        run_for(1000);
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

#define ASK(fd, question, answer)                                                                                      \
    do {                                                                                                               \
        say(fd, question, sizeof(question));                                                                           \
        hear(fd, answer, sizeof(answer));                                                                              \
    } while (0)

static void assert_ended(int code)
{
    run_for(1000);
    int ended_with = -1;
    assert_true(sd_event_get_exit_code(event, &ended_with) >= 0);
    assert_int_equal(ended_with, code);
}

/* --- tests --- */

static void a_command_that_changes_nothing_is_answered_at_once(void **state)
{
    (void)state;
    ASK(data, command, reply);
    assert_int_equal(enclave.calls, 1);
    assert_int_equal(atomic_load(&disk_writes), 0);
}

static void an_answer_waits_for_its_store(void **state)
{
    (void)state;
    enclave.stores = true;
    atomic_store(&disk_stalls, true);
    say(data, command, sizeof command);
    run_for(50000);
    hear_nothing(data);
    assert_int_equal(enclave.calls, 1);
    atomic_store(&disk_stalls, false);
    hear(data, reply, sizeof reply);
    assert_int_equal(enclave.last, CALL_STORED);
    assert_int_equal(atomic_load(&disk_writes), 1);
}

static void many_commits(void **state)
{
    (void)state;
    enclave.stores = true;
    for (unsigned i = 1; i <= 200; i++) {
        ASK(data, command, reply);
        assert_int_equal(atomic_load(&disk_writes), i);
    }
}

static void a_failed_write_is_tried_again(void **state)
{
    (void)state;
    enclave.stores = true;
    atomic_store(&disk_failures, 3);
    ASK(data, command, reply);
    assert_int_equal(atomic_load(&disk_writes), 1);
}

static void after_the_timeout_everything_fails_and_the_enclave_is_left_alone(void **state)
{
    (void)state;
    enclave.stores = true;
    atomic_store(&disk_stalls, true);
    ASK(data, command, failure);
    atomic_store(&disk_stalls, false);
    run_for(50000);
    const unsigned calls = enclave.calls;
    ASK(data, command, failure);
    ASK(data, command, failure);
    assert_int_equal(enclave.calls, calls);
    hear_nothing(data);
}

static void a_write_that_was_given_up_is_not_tried_again(void **state)
{
    (void)state;
    enclave.stores = true;
    atomic_store(&disk_failures, 1000);
    ASK(data, command, failure);
    atomic_store(&disk_failures, 0);
    run_for(2 * TIMEOUT_USEC);
    assert_int_equal(atomic_load(&disk_writes), 0);
}

/* The timer that the first commit set runs out in the middle of the second. */
static void the_timeout_is_of_each_commit(void **state)
{
    (void)state;
    enclave.stores = true;
    ASK(data, command, reply);
    run_for(TIMEOUT_USEC * 3 / 4);
    atomic_store(&disk_stalls, true);
    say(data, command, sizeof command);
    run_for(TIMEOUT_USEC / 2);
    hear_nothing(data);
    atomic_store(&disk_stalls, false);
    hear(data, reply, sizeof reply);
}

static void a_reset_of_a_lost_tpm_asks_for_a_new_process(void **state)
{
    (void)state;
    enclave.fault = FAIL(SGX_FAULT);
    ASK(data, command, failure);
    say(control, cmd_init, sizeof cmd_init);
    run_for(20000);
    hear_nothing(control);
    assert_ended(SERVICE_REBUILD);
}

static void an_enclave_that_faults_is_not_entered_again(void **state)
{
    (void)state;
    enclave.fault = FAIL(SGX_FAULT);
    ASK(data, command, failure);
    enclave.fault = OK;
    ASK(data, command, failure);
    assert_int_equal(enclave.calls, 1);
}

static void a_reply_beside_its_store_breaks_the_contract(void **state)
{
    (void)state;
    enclave.stores = enclave.replies_at_once = true;
    ASK(data, command, failure);
    ASK(data, command, failure);
    assert_int_equal(enclave.calls, 1);
}

static void a_lost_tpm_can_be_stopped(void **state)
{
    (void)state;
    enclave.fault = FAIL(SGX_FAULT);
    ASK(data, command, failure);
    ASK(control, cmd_stop, success);
    ASK(data, command, failure);
    say(control, cmd_init, sizeof cmd_init);
    run_for(20000);
    assert_ended(SERVICE_REBUILD);
}

static void reset_stop_and_start(void **state)
{
    (void)state;
    ASK(control, cmd_init, success);
    assert_int_equal(enclave.last, CALL_TPM_RESET);
    ASK(control, cmd_stop, success);
    assert_int_equal(enclave.last, CALL_STORED);
    assert_int_equal(atomic_load(&disk_writes), 1);
    ASK(control, cmd_stop, success);
    assert_int_equal(atomic_load(&disk_writes), 1);
    ASK(control, cmd_init, success);
    ASK(data, command, reply);
}

static void a_tpm_that_died_under_its_client_fails_until_the_client_resets_it(void **state)
{
    (void)state;
    ASK(data, command, failure);
    assert_int_equal(enclave.calls, 0);
    ASK(control, cmd_init, success);
    ASK(data, command, reply);
}

static void stop_shuts_down_in_order_and_stores(void **state)
{
    (void)state;
    service_stop(service);
    run_for(50000);
    assert_int_equal(atomic_load(&disk_writes), 1);
    assert_int_equal(enclave.last, CALL_STORED);
    assert_ended(SERVICE_ENDED);
}

static void stop_lets_the_running_commit_finish(void **state)
{
    (void)state;
    enclave.stores = true;
    atomic_store(&disk_stalls, true);
    say(data, command, sizeof command);
    run_for(20000);
    service_stop(service);
    service_stop(service);
    run_for(20000);
    hear_nothing(data);
    atomic_store(&disk_stalls, false);
    hear(data, reply, sizeof reply);
    run_for(50000);
    assert_int_equal(atomic_load(&disk_writes), 2);
    assert_ended(SERVICE_ENDED);
}

static void stop_without_a_disk_ends_and_says_so(void **state)
{
    (void)state;
    atomic_store(&disk_failures, 1000);
    service_stop(service);
    run_for(2 * TIMEOUT_USEC);
    assert_ended(SERVICE_FAILED);
}

static void a_clients_shutdown_is_answered_when_all_is_stored(void **state)
{
    (void)state;
    atomic_store(&disk_stalls, true);
    say(control, cmd_shutdown, sizeof cmd_shutdown);
    run_for(50000);
    hear_nothing(control);
    atomic_store(&disk_stalls, false);
    hear(control, success, sizeof success);
    assert_int_equal(atomic_load(&disk_writes), 1);
    assert_ended(SERVICE_ENDED);
}

static void what_comes_behind_a_shutdown_is_not_begun(void **state)
{
    (void)state;
    const uint8_t refused[] = {0, 0, 1, 1};
    const int second = connected_to(&protocol_control);
    atomic_store(&disk_stalls, true);
    say(control, cmd_shutdown, sizeof cmd_shutdown);
    run_for(20000);
    say(second, cmd_init, sizeof cmd_init);
    say(data, command, sizeof command);
    run_for(20000);
    atomic_store(&disk_stalls, false);
    hear(control, success, sizeof success);
    hear(second, refused, sizeof refused);
    hear(data, failure, sizeof failure);
    close(second);
    assert_int_equal(enclave.last, CALL_STORED);
    assert_ended(SERVICE_ENDED);
}

#define SERVICE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SERVICE_TEST(a_command_that_changes_nothing_is_answered_at_once),
        SERVICE_TEST(an_answer_waits_for_its_store),
        SERVICE_TEST(many_commits),
        SERVICE_TEST(a_failed_write_is_tried_again),
        SERVICE_TEST(after_the_timeout_everything_fails_and_the_enclave_is_left_alone),
        SERVICE_TEST(a_write_that_was_given_up_is_not_tried_again),
        SERVICE_TEST(the_timeout_is_of_each_commit),
        SERVICE_TEST(a_reset_of_a_lost_tpm_asks_for_a_new_process),
        SERVICE_TEST(an_enclave_that_faults_is_not_entered_again),
        SERVICE_TEST(a_reply_beside_its_store_breaks_the_contract),
        SERVICE_TEST(a_lost_tpm_can_be_stopped),
        SERVICE_TEST(reset_stop_and_start),
        cmocka_unit_test_setup_teardown(a_tpm_that_died_under_its_client_fails_until_the_client_resets_it,
                                        set_up_after_a_death, tear_down),
        SERVICE_TEST(stop_shuts_down_in_order_and_stores),
        SERVICE_TEST(stop_lets_the_running_commit_finish),
        SERVICE_TEST(stop_without_a_disk_ends_and_says_so),
        SERVICE_TEST(a_clients_shutdown_is_answered_when_all_is_stored),
        SERVICE_TEST(what_comes_behind_a_shutdown_is_not_begun),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
