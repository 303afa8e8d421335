/* The front with well-behaved clients: what is asked, who is next, what is answered. */
#include "tests/fakes/assertions.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fakes/fake_front.h"

static struct fake_front f;

static int open_front(void **state)
{
    (void)state;
    fake_front_open(&f);
    return 0;
}

static int close_front(void **state)
{
    (void)state;
    fake_front_close(&f);
    return 0;
}

static const uint8_t command[] = {0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7b, 0xab, 0xcd};
static const uint8_t failure[] = {0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x01};
static const uint8_t framed[] = {0, 0, 0, 8, 3, 0, 0, 0, 12, 0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7b, 0xab, 0xcd};

static void expect(int fd, const void *bytes, size_t size)
{
    uint8_t received[RESPONSE_MAX];
    fake_front_pump(&f);
    assert_int_equal(client_receive(fd, received, sizeof received), size);
    assert_memory_equal(received, bytes, size);
}

static void expect_size(int fd, size_t size)
{
    uint8_t received[RESPONSE_MAX];
    fake_front_pump(&f);
    assert_int_equal(client_receive(fd, received, sizeof received), size);
}

static void ask(int fd, const void *bytes, size_t size, const void *answer, size_t answer_size)
{
    client_send(fd, bytes, size);
    expect(fd, answer, answer_size);
}

static void a_command_reaches_the_tpm_and_its_response_the_client(void **state)
{
    (void)state;
    int fd = fake_front_connect(&f, DATA);
    f.response_size = 12;
    ask(fd, command, sizeof command, (const uint8_t[]){0x80, 1, 0, 0, 0, 12, 0, 0, 0, 0, 0xab, 0xcd}, 12);
    assert_int_equal(f.verb, FRONT_COMMAND);
    assert_int_equal(f.locality, 0);
    assert_int_equal(f.command_size, sizeof command);
    assert_memory_equal(f.command, command, sizeof command);
    assert_true(fake_front_memory_is_wiped(&f));
    close(fd);
}

/* --- what QEMU does --- */

static const uint8_t set_datafd[] = {0, 0, 0, 0x10};
static const uint8_t success[] = {0, 0, 0, 0};

static void pass(int control, const void *bytes, size_t size, const int *fds, size_t count)
{
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(4 * sizeof(int))];
    } buffer = {0};
    struct iovec part = {(void *)(uintptr_t)bytes, size};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &buffer, .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    buffer.aligned = (struct cmsghdr){CMSG_LEN(count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(&buffer.aligned), fds, count * sizeof(int));
    assert_int_equal(sendmsg(control, &message, 0), size);
    for (size_t i = 0; i < count; i++)
        close(fds[i]);
}

/* The client's end of a data connection that was passed. */
static int pass_one(int control)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    pass(control, set_datafd, sizeof set_datafd, &pair[1], 1);
    return pair[0];
}

static void a_passed_descriptor_is_a_data_connection(void **state)
{
    (void)state;
    int control = fake_front_connect(&f, CONTROL);
    int data = pass_one(control);
    expect(control, success, sizeof success);
    f.response_size = 12;
    ask(data, command, sizeof command, (const uint8_t[]){0x80, 1, 0, 0, 0, 12, 0, 0, 0, 0, 0xab, 0xcd}, 12);
    const uint8_t locality[] = {0, 0, 0, 5, 3, 0, 0, 0};
    ask(control, locality, sizeof locality, success, sizeof success);
    client_send(data, command, sizeof command);
    expect_size(data, 12);
    assert_int_equal(f.locality, 3);
    close(data);
    close(control);
}

/* QEMU, which gives up when it finds the data channel taken, says SHUTDOWN as it ends. */
static void another_machine_does_not_switch_off_the_first_ones_tpm(void **state)
{
    (void)state;
    static const uint8_t requests[][8] = {{0, 0, 0, 3}, {0, 0, 0, 0x0e}, {0, 0, 0, 2, 0, 0, 0, 0}};
    static const size_t sizes[] = {4, 4, 8};
    int control = fake_front_connect(&f, CONTROL);
    int data = pass_one(control);
    expect(control, success, sizeof success);
    int other = fake_front_connect(&f, CONTROL);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        ask(other, requests[i], sizes[i], (const uint8_t[]){0, 0, 0, 9}, 4);
    assert_int_equal(f.count, 0);
    ask(control, requests[1], sizes[1], success, sizeof success);
    assert_int_equal(f.count, 1);
    close(control); /* the machine has gone: it is anybody's */
    fake_front_pump(&f);
    ask(other, requests[2], sizes[2], success, sizeof success);
    close(data);
    close(other);
}

/* --- what follows a message, in pieces --- */

static const uint8_t stop[] = {0, 0, 0, 0x0e};
static const uint8_t init[] = {0, 0, 0, 2, 0, 0, 0, 1};

/* SET_STATEBLOB of size bytes, all of them value. */
static void give_blob(int control, uint8_t type, size_t size, uint8_t value, size_t piece)
{
    static uint8_t request[16 + BLOB_MAX];
    const uint8_t head[16] = {
        [3] = 0x0d, [11] = type, [13] = (uint8_t)(size >> 16), (uint8_t)(size >> 8), (uint8_t)size};
    memcpy(request, head, sizeof head);
    memset(request + sizeof head, value, size);
    for (size_t sent = 0; sent < sizeof head + size; sent += piece) {
        size_t left = sizeof head + size - sent;
        client_send(control, request + sent, left < piece ? left : piece);
        fake_front_pump(&f);
    }
    expect(control, success, sizeof success);
}

static void blobs_are_kept_for_the_next_reset_and_used_once(void **state)
{
    (void)state;
    int control = fake_front_connect(&f, CONTROL);
    ask(control, stop, sizeof stop, success, sizeof success);
    give_blob(control, 2, 5000, 'v', 16); /* QEMU writes head and body apart */
    give_blob(control, 1, 70000, 'x', 9000);
    give_blob(control, 1, 60000, 'p', 9000); /* in the other's place */
    f.count = 0;
    ask(control, init, sizeof init, success, sizeof success);
    assert_int_equal(f.count, 1);
    assert_int_equal(f.verb, FRONT_RESET);
    assert_int_equal(f.command_size, 65000);
    for (size_t i = 0; i < 65000; i++)
        assert_int_equal(f.command[i], i < 60000 ? 'p' : 'v');
    ask(control, init, sizeof init, success, sizeof success);
    assert_int_equal(f.command_size, 0);
    close(control);
}

static void a_blob_of_nothing_forgets_it(void **state)
{
    (void)state;
    int control = fake_front_connect(&f, CONTROL);
    ask(control, stop, sizeof stop, success, sizeof success);
    give_blob(control, 1, 100, 'p', 200);
    give_blob(control, 1, 0, 0, 200);
    give_blob(control, 3, 0, 0, 200); /* a TPM 2.0 has none, and QEMU may say so */
    ask(control, init, sizeof init, success, sizeof success);
    assert_int_equal(f.command_size, 0);
    close(control);
}

static void a_client_that_stops_in_a_blob_is_closed(void **state)
{
    (void)state;
    const uint8_t head[16] = {[3] = 0x0d, [11] = 1, [15] = 100};
    uint8_t byte;
    int control = fake_front_connect(&f, CONTROL);
    ask(control, stop, sizeof stop, success, sizeof success);
    client_send(control, head, sizeof head);
    fake_front_pump(&f);
    fake_front_pass_time(&f, FRONT_STALL_USEC);
    assert_int_equal(client_receive(control, &byte, 1), -1);
    close(control);
}

static void who_gave_a_blob_is_not_handed_over(void **state)
{
    (void)state;
    struct front_session sessions[FRONT_CONNECTIONS_MAX];
    uint8_t byte;
    int data = fake_front_connect(&f, DATA);
    int control = fake_front_connect(&f, CONTROL);
    ask(control, stop, sizeof stop, success, sizeof success);
    give_blob(control, 1, 100, 'p', 200);
    assert_int_equal(front_hand_over(f.front, sessions), 1);
    assert_int_equal(client_receive(control, &byte, 1), -1);
    assert_int_equal(client_receive(data, &byte, 1), 0);
    close(sessions[0].fd);
    close(control);
    close(data);
}

static void who_is_in_the_middle_of_something_is_not_handed_over(void **state)
{
    (void)state;
    struct front_session sessions[FRONT_CONNECTIONS_MAX];
    const uint8_t hash[12] = {[3] = 0x07, [7] = 100};
    uint8_t byte;
    int control = fake_front_connect(&f, CONTROL);
    client_send(control, hash, sizeof hash);
    fake_front_pump(&f);
    assert_int_equal(front_hand_over(f.front, sessions), 0);
    assert_int_equal(client_receive(control, &byte, 1), -1);
    close(control);
}

static void a_reset_that_was_refused_and_left_switches_nothing_on(void **state)
{
    (void)state;
    uint8_t response[20];
    int control = fake_front_connect(&f, CONTROL);
    int data = fake_front_connect(&f, DATA);
    ask(control, stop, sizeof stop, success, sizeof success);
    f.outcome = FAIL(LEASE);
    client_send(control, init, sizeof init);
    fake_front_pump(&f);
    close(control);
    fake_front_pump(&f);
    usleep(20000); /* until it is asked again */
    fake_front_pump(&f);
    f.count = 0;
    client_send(data, command, sizeof command);
    fake_front_pump(&f);
    assert_int_equal(f.count, 0);
    assert_int_equal(client_receive(data, response, sizeof response), 10);
    close(data);
}

static void what_is_hashed_comes_in_parts_and_is_answered_once(void **state)
{
    (void)state;
    static uint8_t request[8 + 9000] = {[3] = 0x07, [6] = 9000 >> 8, [7] = 9000 & 0xff};
    memset(request + 8, 'h', 9000);
    int control = fake_front_connect(&f, CONTROL);
    client_send(control, request, sizeof request);
    expect(control, success, sizeof success);
    assert_int_equal(f.verb, FRONT_HASH_DATA);
    assert_in_range(f.count, 3, 9);
    uint8_t more;
    assert_int_equal(client_receive(control, &more, 1), 0);
    ask(control, (const uint8_t[]){0, 0, 0, 7, 0, 0, 0, 0}, 8, success, sizeof success); /* of nothing */
    close(control);
}

static void a_part_that_fails_is_answered_behind_the_last_one(void **state)
{
    (void)state;
    static const uint8_t request[8 + 9000] = {[3] = 0x07, [6] = 9000 >> 8, [7] = 9000 & 0xff};
    int control = fake_front_connect(&f, CONTROL);
    f.outcome = FAIL(TPM);
    f.failing = 1;
    client_send(control, request, sizeof request);
    expect(control, (const uint8_t[]){0, 0, 1, 1}, 4);
    assert_int_equal(f.count, 1); /* the rest was not hashed */
    f.outcome = OK;
    ask(control, (const uint8_t[]){0, 0, 0, 8}, 4, success, sizeof success);
    close(control);
}

static void an_answer_larger_than_a_buffer_is_sent_whole(void **state)
{
    (void)state;
    static uint8_t export[4 + 2 * 200000];
    const uint32_t size = 200000;
    const uint8_t request[16] = {[3] = 0x0c, [11] = 1};
    static uint8_t received[16 + 200000];
    memcpy(export, &size, sizeof size);
    memset(export + 4, 'p', size);
    f.export = span_of(export, sizeof export);
    int control = fake_front_connect(&f, CONTROL);
    assert_int_equal(setsockopt(control, SOL_SOCKET, SO_RCVBUF, &(int){4096}, sizeof(int)), 0);
    client_send(control, request, sizeof request);
    size_t got = 0;
    for (int tries = 0; got < sizeof received && tries < 1000; tries++) {
        fake_front_pump(&f);
        ssize_t some = client_receive(control, received + got, sizeof received - got);
        assert_true(some >= 0);
        got += (size_t)some;
    }
    assert_int_equal(got, sizeof received);
    assert_memory_equal(
        received, ((const uint8_t[16]){[9] = 3, [10] = 0x0d, [11] = 0x40, [13] = 3, [14] = 0x0d, [15] = 0x40}), 16);
    assert_memory_equal(received + 16, export + 4, size);
    ask(control, (const uint8_t[]){0, 0, 0, 9}, 4, success, sizeof success); /* and goes on */
    close(control);
}

static void there_is_one_at_a_time(void **state)
{
    (void)state;
    const uint8_t busy[] = {0, 0, 0, 0x1f};
    int control = fake_front_connect(&f, CONTROL);
    int first = pass_one(control);
    expect(control, success, sizeof success);
    int second = pass_one(control);
    expect(control, busy, sizeof busy);
    uint8_t byte = 0;
    assert_int_equal(client_receive(second, &byte, 1), 0); /* kept until something takes it or the client goes */
    close(first);
    fake_front_pump(&f);
    int third = pass_one(control);
    expect(control, success, sizeof success);
    assert_int_equal(client_receive(second, &byte, 1), -1);
    client_send(third, command, sizeof command);
    expect_size(third, 10);
    close(second);
    close(third);
    close(control);
}

static void a_descriptor_that_is_none_or_no_socket_is_harmless(void **state)
{
    (void)state;
    const uint8_t none[] = {0, 0, 0, 3};
    int control = fake_front_connect(&f, CONTROL);
    ask(control, set_datafd, sizeof set_datafd, none, sizeof none);
    int pipes[2];
    uint8_t answer[4];
    assert_int_equal(pipe(pipes), 0);
    pass(control, set_datafd, sizeof set_datafd, &pipes[0], 1);
    fake_front_pump(&f);
    assert_int_equal(client_receive(control, answer, 4), 4);
    (void)!write(pipes[1], "x", 1);
    fake_front_pump(&f);
    close(pipes[1]);
    fake_front_pump(&f);
    int data = pass_one(control);
    expect(control, success, sizeof success);
    client_send(data, command, sizeof command);
    expect_size(data, 10);
    close(data);
    close(control);
}

/* Descriptors that nobody asked for are closed again, on every channel. */
static void descriptors_do_not_pile_up(void **state)
{
    (void)state;
    int control = fake_front_connect(&f, CONTROL);
    int data = fake_front_connect(&f, DATA);
    int before = dup(0);
    for (unsigned i = 0; i < 50; i++) {
        const uint8_t cancel[] = {0, 0, 0, 9};
        int fds[4] = {dup(0), dup(0), dup(0), dup(0)};
        int others[2] = {dup(0), dup(0)};
        pass(control, cancel, sizeof cancel, fds, 4);
        expect(control, success, sizeof success);
        pass(data, command, sizeof command, others, 2);
        expect_size(data, 10);
    }
    close(control);
    close(data);
    fake_front_pump(&f);
    int after = dup(0);
    assert_true(after <= before + 2);
    close(before);
    close(after);
}

static void establishment_is_the_tpms_answer(void **state)
{
    (void)state;
    const uint8_t get[] = {0, 0, 0, 4};
    const uint8_t reset[] = {0, 0, 0, 0x0b, 1, 0, 0, 0};
    int control = fake_front_connect(&f, CONTROL);
    ask(control, get, sizeof get, (const uint8_t[]){0, 0, 0, 0, 1, 0, 0, 0}, 8);
    ask(control, reset, sizeof reset, success, sizeof success);
    assert_int_equal(f.verb, FRONT_RESET_ESTABLISHED);
    assert_int_equal(f.locality, 1);
    f.outcome = FAIL(BAD_VALUE);
    ask(control, reset, sizeof reset, (const uint8_t[]){0, 0, 0, 0x3d}, 4);
    f.outcome = FAIL(LINK_CLOSED);
    ask(control, get, sizeof get, (const uint8_t[]){0, 0, 1, 1, 0, 0, 0, 0}, 8); /* QEMU waits for eight */
    f.outcome = OK;
    int data = fake_front_connect(&f, DATA); /* and the TPM is on as before */
    client_send(data, command, sizeof command);
    expect_size(data, 10);
    assert_int_equal(f.verb, FRONT_COMMAND);
    close(data);
    close(control);
}

static void a_connection_lasts(void **state)
{
    (void)state;
    int fd = fake_front_connect(&f, DATA);
    for (unsigned i = 1; i <= 100; i++) {
        client_send(fd, command, sizeof command);
        expect_size(fd, 10);
        assert_int_equal(f.count, i);
    }
    close(fd);
}

static void a_connection_for_each_command(void **state)
{
    (void)state;
    for (unsigned i = 1; i <= 300; i++) {
        int fd = fake_front_connect(&f, DATA);
        client_send(fd, command, sizeof command);
        expect_size(fd, 10);
        close(fd);
    }
    assert_int_equal(f.count, 300);
}

static void a_connection_without_data_is_harmless(void **state)
{
    (void)state;
    for (int i = 0; i < 10; i++)
        close(fake_front_connect(&f, DATA));
    fake_front_pump(&f);
    assert_int_equal(f.count, 0);
}

static void pipelined_commands_are_answered_in_order(void **state)
{
    (void)state;
    uint8_t many[5 * sizeof command];
    uint8_t received[5 * 11];
    for (uint8_t i = 0; i < 5; i++) {
        memcpy(many + i * sizeof command, command, sizeof command);
        many[(i + 1) * sizeof command - 1] = i;
    }
    f.response_size = 11;
    int fd = fake_front_connect(&f, DATA);
    client_send(fd, many, sizeof many);
    fake_front_pump(&f);
    assert_int_equal(client_receive(fd, received, sizeof received), sizeof received);
    for (uint8_t i = 0; i < 5; i++)
        assert_int_equal(received[i * 11u + 10u], i);
    close(fd);
}

static void one_request_at_a_time_and_first_come_first_served(void **state)
{
    (void)state;
    int fds[5];
    f.hold = true;
    f.response_size = 11;
    for (uint8_t i = 0; i < 5; i++) {
        uint8_t own[sizeof command];
        memcpy(own, command, sizeof own);
        own[sizeof own - 1] = i;
        fds[i] = fake_front_connect(&f, DATA);
        client_send(fds[i], own, sizeof own);
        fake_front_pump(&f);
    }
    for (uint8_t i = 0; i < 5; i++) {
        assert_int_equal(f.count, i + 1);
        assert_int_equal(f.command[sizeof command - 1], i);
        fake_front_release(&f);
        expect_size(fds[i], 11);
        close(fds[i]);
    }
}

static void a_flooding_client_waits_behind_the_others(void **state)
{
    (void)state;
    uint8_t many[20 * sizeof command];
    for (size_t i = 0; i < 20; i++)
        memcpy(many + i * sizeof command, command, sizeof command);
    f.hold = true;
    int flooder = fake_front_connect(&f, DATA);
    int other = fake_front_connect(&f, DATA);
    client_send(flooder, many, sizeof many);
    fake_front_pump(&f);
    client_send(other, command, sizeof command);
    fake_front_pump(&f);
    fake_front_release(&f); /* the flooder's first */
    fake_front_release(&f); /* the other's */
    expect_size(other, 10);
    f.hold = false;
    fake_front_release(&f);
    close(flooder);
    close(other);
}

static void an_eager_client_has_some_turns_before_the_others(void **state)
{
    (void)state;
    int eager = fake_front_connect(&f, DATA);
    int other = fake_front_connect(&f, DATA);
    fake_front_pump(&f);
    f.eager_fd = eager;
    f.eager = 19;
    client_send(eager, command, sizeof command);
    assert_int_equal(sd_event_run(f.event, 0), 1);
    assert_int_equal(f.count, 8);
    client_send(other, command, sizeof command);
    assert_true(sd_event_run(f.event, 0) > 0 && sd_event_run(f.event, 0) > 0);
    uint8_t received[RESPONSE_MAX];
    assert_int_equal(client_receive(other, received, sizeof received), 10);
    assert_in_range(f.count, 9, 17);
    expect_size(eager, 200);
    close(eager);
    close(other);
}

static void the_control_channel_sets_the_locality(void **state)
{
    (void)state;
    int control = fake_front_connect(&f, CONTROL);
    int data = fake_front_connect(&f, DATA);
    ask(control, (const uint8_t[]){0, 0, 0, 5, 4}, 5, (const uint8_t[4]){0}, 4);
    client_send(data, command, sizeof command);
    expect_size(data, 10);
    assert_int_equal(f.locality, 4);
    close(control);
    close(data);
}

static void channels_have_a_locality_each(void **state)
{
    (void)state;
    int control = fake_front_connect(&f, CONTROL);
    int mssim = fake_front_connect(&f, MSSIM_COMMAND);
    ask(control, (const uint8_t[]){0, 0, 0, 5, 4}, 5, (const uint8_t[4]){0}, 4);
    client_send(mssim, framed, sizeof framed);
    expect_size(mssim, 18);
    assert_int_equal(f.locality, 3);
    int data = fake_front_connect(&f, DATA);
    client_send(data, command, sizeof command);
    expect_size(data, 10);
    assert_int_equal(f.locality, 4);
    close(control);
    close(mssim);
    close(data);
}

static void a_framed_command_gets_a_framed_response(void **state)
{
    (void)state;
    const uint8_t response[] = {0, 0, 0, 10, 0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0};
    int fd = fake_front_connect(&f, DATA);
    ask(fd, framed, sizeof framed, response, sizeof response);
    close(fd);
}

static void a_framed_command_sets_the_locality_of_the_next(void **state)
{
    (void)state;
    int fd = fake_front_connect(&f, DATA);
    client_send(fd, framed, sizeof framed);
    expect_size(fd, 18);
    client_send(fd, command, sizeof command);
    expect_size(fd, 10);
    assert_int_equal(f.locality, 3);
    close(fd);
}

static void cancel_is_answered_while_a_command_runs(void **state)
{
    (void)state;
    int data = fake_front_connect(&f, DATA);
    int control = fake_front_connect(&f, CONTROL);
    f.hold = true;
    client_send(data, command, sizeof command);
    fake_front_pump(&f);
    ask(control, (const uint8_t[]){0, 0, 0, 9}, 4, (const uint8_t[4]){0}, 4);
    fake_front_release(&f);
    expect_size(data, 10);
    close(data);
    close(control);
}

static void a_command_without_a_lease_is_asked_for_again(void **state)
{
    (void)state;
    uint8_t received[RESPONSE_MAX];
    int fd = fake_front_connect(&f, DATA);
    f.refusal = FAIL(LEASE);
    client_send(fd, command, sizeof command);
    while (f.count < 3)
        assert_true(sd_event_run(f.event, UINT64_MAX) > 0);
    assert_int_equal(client_receive(fd, received, sizeof received), 0);
    f.refusal = OK;
    f.response_size = 12;
    while (f.count < 4)
        assert_true(sd_event_run(f.event, UINT64_MAX) > 0);
    expect(fd, (const uint8_t[]){0x80, 1, 0, 0, 0, 12, 0, 0, 0, 0, 0xab, 0xcd}, 12);
    assert_memory_equal(f.command, command, sizeof command);
    close(fd);
}

static void a_command_that_gets_no_lease_is_to_be_retried(void **state)
{
    (void)state;
    int fd = fake_front_connect(&f, DATA);
    f.refusal = FAIL(LEASE);
    for (int i = 0; i < 2; i++) {
        client_send(fd, command, sizeof command);
        fake_front_pass_time(&f, FRONT_LEASE_USEC);
        expect(fd, (const uint8_t[]){0x80, 1, 0, 0, 0, 10, 0, 0, 0x09, 0x22}, 10);
    }
    assert_int_equal(f.count, 4);
    close(fd);
}

static void a_client_that_leaves_without_a_lease_holds_up_nobody(void **state)
{
    (void)state;
    int fd = fake_front_connect(&f, DATA);
    int other = fake_front_connect(&f, DATA);
    f.refusal = FAIL(LEASE);
    client_send(fd, command, sizeof command);
    fake_front_pump(&f);
    close(fd);
    f.refusal = OK;
    client_send(other, command, sizeof command);
    while (f.count < 2)
        assert_true(sd_event_run(f.event, UINT64_MAX) > 0);
    expect_size(other, 10);
    close(other);
}

static void a_stopped_tpm_fails_swtpm_commands(void **state)
{
    (void)state;
    int data = fake_front_connect(&f, DATA);
    int control = fake_front_connect(&f, CONTROL);
    ask(control, (const uint8_t[]){0, 0, 0, 0x0e}, 4, (const uint8_t[4]){0}, 4);
    assert_int_equal(f.verb, FRONT_POWER_OFF);
    ask(data, command, sizeof command, failure, sizeof failure);
    assert_int_equal(f.count, 1);
    ask(control, (const uint8_t[]){0, 0, 0, 2, 0, 0, 0, 0}, 8, (const uint8_t[4]){0}, 4);
    assert_int_equal(f.verb, FRONT_RESET);
    client_send(data, command, sizeof command);
    expect_size(data, 10);
    assert_int_equal(f.count, 3);
    close(data);
    close(control);
}

static void a_simulator_without_power_gives_an_empty_response(void **state)
{
    (void)state;
    int port = fake_front_connect(&f, MSSIM_COMMAND);
    int platform = fake_front_connect(&f, MSSIM_PLATFORM);
    ask(platform, (const uint8_t[]){0, 0, 0, 2}, 4, (const uint8_t[4]){0}, 4);
    ask(port, framed, sizeof framed, (const uint8_t[8]){0}, 8);
    ask(platform, (const uint8_t[]){0, 0, 0, 1}, 4, (const uint8_t[4]){0}, 4);
    assert_int_equal(f.verb, FRONT_POWER_ON);
    client_send(port, framed, sizeof framed);
    expect_size(port, 18);
    close(port);
    close(platform);
}

static void a_reset_that_fails_is_told_and_leaves_the_tpm_off(void **state)
{
    (void)state;
    int data = fake_front_connect(&f, DATA);
    int control = fake_front_connect(&f, CONTROL);
    int platform = fake_front_connect(&f, MSSIM_PLATFORM);
    f.outcome = FAIL(STORE_IO);
    ask(control, (const uint8_t[]){0, 0, 0, 2, 0, 0, 0, 0}, 8, (const uint8_t[]){0, 0, 1, 1}, 4);
    ask(data, command, sizeof command, failure, sizeof failure);
    ask(platform, (const uint8_t[]){0, 0, 0, 17}, 4, (const uint8_t[]){0, 0, 0, 1}, 4);
    close(data);
    close(control);
    close(platform);
}

static void a_simulators_session_ends_when_the_client_says_so(void **state)
{
    (void)state;
    uint8_t byte = 0;
    int fd = fake_front_connect(&f, MSSIM_COMMAND);
    client_send(fd, (const uint8_t[]){0, 0, 0, 20}, 4);
    fake_front_pump(&f);
    assert_int_equal(client_receive(fd, &byte, 1), -1);
    close(fd);
}

static void a_half_closed_client_gets_its_response(void **state)
{
    (void)state;
    uint8_t received[20];
    int fd = fake_front_connect(&f, DATA);
    client_send(fd, command, sizeof command);
    shutdown(fd, SHUT_WR);
    fake_front_pump(&f);
    assert_int_equal(client_receive(fd, received, sizeof received), 10);
    assert_int_equal(client_receive(fd, received, sizeof received), -1);
    close(fd);
}

static void idle_connections_and_a_waiting_reset_are_handed_over(void **state)
{
    (void)state;
    struct front_session sessions[FRONT_CONNECTIONS_MAX];
    uint8_t byte = 0;
    int idle = fake_front_connect(&f, DATA);
    int half = fake_front_connect(&f, DATA);
    int control = fake_front_connect(&f, CONTROL);
    client_send(half, command, 5);
    f.hold = true;
    client_send(control, (const uint8_t[]){0, 0, 0, 2, 0, 0, 0, 0}, 8);
    fake_front_pump(&f);
    assert_int_equal(front_hand_over(f.front, sessions), 2);
    f.open_requests = 0;
    fake_front_close(&f);
    assert_int_equal(client_receive(half, &byte, 1), -1);

    fake_front_open(&f);
    for (size_t i = 0; i < 2; i++)
        assert_ok(front_adopt(f.front, &sessions[i]));
    front_done(f.front, OK, span_empty());
    expect(control, (const uint8_t[4]){0}, 4);
    client_send(idle, command, sizeof command);
    expect_size(idle, 10);
    close(idle);
    close(half);
    close(control);
}

static void a_session_of_no_endpoint_is_not_adopted(void **state)
{
    (void)state;
    const struct front_session session = {.fd = dup(0), .endpoint = ENDPOINT_COUNT};
    assert_err(front_adopt(f.front, &session), BAD_VALUE);
    assert_int_equal(close(session.fd), -1);
}

/* --- what a user of swtpm asks for --- */

static void behave(struct front_manners manners)
{
    front_behave(f.front, &manners);
}

static void a_tpm_that_is_off_is_on_after_init(void **state)
{
    (void)state;
    behave((struct front_manners){.off = true});
    int data = fake_front_connect(&f, DATA);
    int control = fake_front_connect(&f, CONTROL);
    ask(data, command, sizeof command, failure, sizeof failure);
    assert_int_equal(f.count, 0);
    ask(control, init, sizeof init, success, sizeof success);
    client_send(data, command, sizeof command);
    expect_size(data, 10);
    assert_int_equal(f.count, 2);
    close(data);
    close(control);
}

static void the_tpm_is_started_before_the_first_command(void **state)
{
    (void)state;
    const uint8_t startup[] = {0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x44, 0, 1};
    behave((struct front_manners){.starts_up = true, .from_saved = true});
    int data = fake_front_connect(&f, DATA);
    f.hold = true;
    client_send(data, command, sizeof command);
    fake_front_pump(&f);
    assert_int_equal(f.command_size, sizeof startup);
    assert_memory_equal(f.command, startup, sizeof startup);
    fake_front_release(&f);
    assert_memory_equal(f.command, command, sizeof command);
    fake_front_release(&f);
    expect_size(data, 10);
    assert_int_equal(f.count, 2);
    close(data);
}

static void a_tpm_12_is_started_in_its_own_words(void **state)
{
    (void)state;
    const uint8_t startup[] = {0x00, 0xc1, 0, 0, 0, 12, 0, 0, 0, 0x99, 0, 1};
    behave((struct front_manners){.starts_up = true, .of_12 = true});
    int data = fake_front_connect(&f, DATA);
    client_send(data, command, sizeof command);
    f.hold = true;
    fake_front_pump(&f);
    assert_int_equal(f.command_size, sizeof startup);
    assert_memory_equal(f.command, startup, sizeof startup);
    fake_front_release(&f);
    fake_front_release(&f);
    close(data);
}

static void the_end_of_a_data_connection_may_be_the_end(void **state)
{
    (void)state;
    behave((struct front_manners){.terminates = true});
    int silent = fake_front_connect(&f, DATA);
    int control = fake_front_connect(&f, CONTROL);
    int data = fake_front_connect(&f, DATA);
    client_send(data, command, sizeof command);
    expect_size(data, 10);
    close(silent);
    close(control);
    fake_front_pump(&f);
    assert_int_equal(f.verb, FRONT_COMMAND);
    close(data);
    fake_front_pump(&f);
    assert_int_equal(f.verb, FRONT_SHUTDOWN);
    assert_int_equal(f.count, 2);
}

static void a_response_may_end_its_connection(void **state)
{
    (void)state;
    uint8_t byte = 0;
    behave((struct front_manners){.disconnects = true});
    int data = fake_front_connect(&f, DATA);
    client_send(data, command, sizeof command);
    expect_size(data, 10);
    assert_int_equal(client_receive(data, &byte, 1), -1);
    close(data);
}

static void a_client_that_was_there_before_is_served_until_it_goes(void **state)
{
    (void)state;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    assert_ok(front_connected(f.front, &protocol_stream, 5, pair[1]));
    assert_ok(front_connected(f.front, &protocol_control, 5, -1)); /* one that has gone, or will be handed over */
    client_send(pair[0], command, sizeof command);
    expect_size(pair[0], 10);
    close(pair[0]);
    fake_front_pump(&f);
    assert_int_equal(f.verb, FRONT_SHUTDOWN);
}

#define FRONT_TEST(name) cmocka_unit_test_setup_teardown(name, open_front, close_front)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FRONT_TEST(a_command_reaches_the_tpm_and_its_response_the_client),
        FRONT_TEST(a_passed_descriptor_is_a_data_connection),
        FRONT_TEST(there_is_one_at_a_time),
        FRONT_TEST(another_machine_does_not_switch_off_the_first_ones_tpm),
        FRONT_TEST(blobs_are_kept_for_the_next_reset_and_used_once),
        FRONT_TEST(a_blob_of_nothing_forgets_it),
        FRONT_TEST(a_client_that_stops_in_a_blob_is_closed),
        FRONT_TEST(who_gave_a_blob_is_not_handed_over),
        FRONT_TEST(who_is_in_the_middle_of_something_is_not_handed_over),
        FRONT_TEST(a_reset_that_was_refused_and_left_switches_nothing_on),
        FRONT_TEST(what_is_hashed_comes_in_parts_and_is_answered_once),
        FRONT_TEST(a_part_that_fails_is_answered_behind_the_last_one),
        FRONT_TEST(an_answer_larger_than_a_buffer_is_sent_whole),
        FRONT_TEST(a_descriptor_that_is_none_or_no_socket_is_harmless),
        FRONT_TEST(descriptors_do_not_pile_up),
        FRONT_TEST(establishment_is_the_tpms_answer),
        FRONT_TEST(a_connection_lasts),
        FRONT_TEST(a_connection_for_each_command),
        FRONT_TEST(a_connection_without_data_is_harmless),
        FRONT_TEST(pipelined_commands_are_answered_in_order),
        FRONT_TEST(one_request_at_a_time_and_first_come_first_served),
        FRONT_TEST(a_flooding_client_waits_behind_the_others),
        FRONT_TEST(an_eager_client_has_some_turns_before_the_others),
        FRONT_TEST(the_control_channel_sets_the_locality),
        FRONT_TEST(channels_have_a_locality_each),
        FRONT_TEST(a_framed_command_gets_a_framed_response),
        FRONT_TEST(a_framed_command_sets_the_locality_of_the_next),
        FRONT_TEST(cancel_is_answered_while_a_command_runs),
        FRONT_TEST(a_command_without_a_lease_is_asked_for_again),
        FRONT_TEST(a_command_that_gets_no_lease_is_to_be_retried),
        FRONT_TEST(a_client_that_leaves_without_a_lease_holds_up_nobody),
        FRONT_TEST(a_stopped_tpm_fails_swtpm_commands),
        FRONT_TEST(a_simulator_without_power_gives_an_empty_response),
        FRONT_TEST(a_reset_that_fails_is_told_and_leaves_the_tpm_off),
        FRONT_TEST(a_simulators_session_ends_when_the_client_says_so),
        FRONT_TEST(a_half_closed_client_gets_its_response),
        FRONT_TEST(idle_connections_and_a_waiting_reset_are_handed_over),
        FRONT_TEST(a_session_of_no_endpoint_is_not_adopted),
        FRONT_TEST(a_tpm_that_is_off_is_on_after_init),
        FRONT_TEST(the_tpm_is_started_before_the_first_command),
        FRONT_TEST(a_tpm_12_is_started_in_its_own_words),
        FRONT_TEST(the_end_of_a_data_connection_may_be_the_end),
        FRONT_TEST(a_response_may_end_its_connection),
        FRONT_TEST(a_client_that_was_there_before_is_served_until_it_goes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
