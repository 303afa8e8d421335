/* T2, B4: clients that cut, drip, stall, vanish, flood and do not read. */
#include "tests/fakes/assertions.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fakes/fake_front.h"

static struct fake_front f;

static unsigned open_descriptors(void)
{
    unsigned count = 0;
    DIR *directory = opendir("/proc/self/fd");
    assert_non_null(directory);
    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

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
static const uint8_t framed[] = {0, 0, 0, 8, 3, 0, 0, 0, 12, 0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7b, 0xab, 0xcd};
static const uint8_t init[] = {0, 0, 0, 2, 0, 0, 0, 0};

static const struct sample {
    int endpoint;
    const uint8_t *bytes;
    size_t size;
    size_t answer_size;
} samples[] = {
    {DATA, command, sizeof command, 10},
    {DATA, framed, sizeof framed, 18},
    {CONTROL, init, sizeof init, 4},
    {MSSIM_COMMAND, framed, sizeof framed, 18},
};
#define SAMPLE_COUNT (sizeof samples / sizeof samples[0])

static bool is_closed(int fd)
{
    uint8_t bytes[RESPONSE_MAX];
    fake_front_pump(&f);
    ssize_t size = 0;
    while ((size = client_receive(fd, bytes, sizeof bytes)) > 0)
        ;
    return size < 0;
}

static void assert_served(void)
{
    uint8_t response[20];
    int fd = fake_front_connect(&f, DATA);
    client_send(fd, command, sizeof command);
    fake_front_pump(&f);
    assert_int_equal(client_receive(fd, response, sizeof response), 10);
    close(fd);
    fake_front_pump(&f);
}

static void every_truncation_then_gone(void **state)
{
    (void)state;
    unsigned before = open_descriptors();
    for (size_t i = 0; i < SAMPLE_COUNT; i++) {
        for (size_t cut = 0; cut < samples[i].size; cut++) {
            int fd = fake_front_connect(&f, samples[i].endpoint);
            client_send(fd, samples[i].bytes, cut);
            fake_front_pump(&f);
            close(fd);
            fake_front_pump(&f);
        }
    }
    assert_int_equal(f.count, 0);
    assert_int_equal(open_descriptors(), before);
    assert_true(fake_front_memory_is_wiped(&f));
    assert_served();
}

static void byte_by_byte(void **state)
{
    (void)state;
    for (size_t i = 0; i < SAMPLE_COUNT; i++) {
        uint8_t answer[64];
        int fd = fake_front_connect(&f, samples[i].endpoint);
        for (size_t k = 0; k < samples[i].size; k++) {
            assert_int_equal(client_receive(fd, answer, sizeof answer), 0);
            client_send(fd, samples[i].bytes + k, 1);
            fake_front_pump(&f);
        }
        assert_int_equal(client_receive(fd, answer, sizeof answer), samples[i].answer_size);
        close(fd);
    }
}

static void an_oversized_command_is_answered_and_closed(void **state)
{
    (void)state;
    const uint8_t oversized[] = {0x80, 0x01, 0, 0, 0x10, 0x01, 0, 0, 0x01, 0x7b};
    const uint8_t refusal[] = {0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x42};
    uint8_t response[20];
    int fd = fake_front_connect(&f, DATA);
    client_send(fd, oversized, sizeof oversized);
    fake_front_pump(&f);
    assert_int_equal(client_receive(fd, response, sizeof response), sizeof refusal);
    assert_memory_equal(response, refusal, sizeof refusal);
    assert_true(is_closed(fd));
    assert_int_equal(f.count, 0);
    close(fd);
}

static void random_bytes(void **state)
{
    (void)state;
    srandom(1);
    for (unsigned i = 0; i < 20000; i++) {
        uint8_t bytes[64];
        int fd = fake_front_connect(&f, (int)(i % ENDPOINT_COUNT));
        for (size_t k = 0; k < sizeof bytes; k++)
            bytes[k] = (uint8_t)(random() & (k % 4 == 3 ? 0x1f : random() & 1 ? 0 : 0xff));
        client_send(fd, bytes, (size_t)(random() % (long)sizeof bytes));
        fake_front_pump(&f);
        close(fd);
    }
    fake_front_pump(&f);
    assert_true(fake_front_memory_is_wiped(&f));
}

static void half_a_message_is_closed_after_its_time(void **state)
{
    (void)state;
    int fd = fake_front_connect(&f, DATA);
    client_send(fd, command, 5);
    fake_front_pass_time(&f, FRONT_STALL_USEC / 2);
    assert_false(is_closed(fd));
    client_send(fd, command + 5, 1); /* dripping gains no time */
    fake_front_pass_time(&f, FRONT_STALL_USEC / 2 + 1);
    assert_true(is_closed(fd));
    close(fd);
}

static void an_idle_connection_is_not_closed(void **state)
{
    (void)state;
    int idle = fake_front_connect(&f, DATA);
    int half = fake_front_connect(&f, DATA);
    client_send(half, command, 5);
    fake_front_pass_time(&f, 2 * FRONT_STALL_USEC);
    assert_true(is_closed(half));
    assert_false(is_closed(idle));
    close(idle);
    close(half);
}

static void a_slow_reader_is_closed_after_its_time(void **state)
{
    (void)state;
    int size = 1;
    f.response_size = TPM_MESSAGE_MAX;
    int fd = fake_front_connect(&f, DATA);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    unsigned before = 0;
    do { /* until the socket takes no more: then one response waits, and no command runs */
        before = f.count;
        if (send(fd, command, sizeof command, MSG_NOSIGNAL) < 0) break;
        fake_front_pump(&f);
    } while (f.count > before);
    assert_true(f.count < 1000);
    f.response_size = TPM_HEADER_SIZE;
    assert_served();
    fake_front_pass_time(&f, FRONT_STALL_USEC + 1);
    assert_true(is_closed(fd));
    assert_true(fake_front_memory_is_wiped(&f));
    close(fd);
}

static void a_reader_that_wakes_up_gets_everything(void **state)
{
    (void)state;
    uint8_t bytes[TPM_MESSAGE_MAX];
    size_t total = 0;
    f.response_size = TPM_MESSAGE_MAX;
    int fd = fake_front_connect(&f, DATA);
    const unsigned commands = 300;
    for (unsigned i = 0; i < commands; i++) {
        client_send(fd, command, sizeof command);
        fake_front_pump(&f);
    }
    assert_true(f.count < commands);
    for (ssize_t size = 1; size > 0;) {
        fake_front_pump(&f);
        size = client_receive(fd, bytes, sizeof bytes);
        if (size > 0) total += (size_t)size;
    }
    assert_int_equal(total, commands * TPM_MESSAGE_MAX);
    assert_int_equal(f.count, commands);
    close(fd);
}

static void a_client_that_vanishes_while_its_command_runs(void **state)
{
    (void)state;
    f.hold = true;
    int gone = fake_front_connect(&f, DATA);
    int next = fake_front_connect(&f, DATA);
    client_send(gone, command, sizeof command);
    fake_front_pump(&f);
    client_send(next, command, sizeof command);
    close(gone);
    fake_front_pump(&f);
    fake_front_release(&f);
    assert_int_equal(f.count, 2);
    fake_front_release(&f);
    assert_int_equal(client_receive(next, &(uint8_t[20]){0}, 20), 10);
    close(next);
    fake_front_pump(&f);
    assert_true(fake_front_memory_is_wiped(&f));
}

/* The response is nobody's then, least of all his who has got the place since. */
static void a_response_does_not_reach_the_next_in_the_same_place(void **state)
{
    (void)state;
    f.hold = true;
    int gone = fake_front_connect(&f, DATA);
    client_send(gone, command, sizeof command);
    fake_front_pump(&f);
    close(gone);
    fake_front_pump(&f);
    int next = fake_front_connect(&f, DATA);
    client_send(next, command, sizeof command);
    fake_front_pump(&f);
    fake_front_release(&f);
    fake_front_pump(&f);
    assert_int_equal(client_receive(next, &(uint8_t[20]){0}, 20), 0);
    fake_front_release(&f);
    assert_int_equal(client_receive(next, &(uint8_t[20]){0}, 20), 10);
    close(next);
}

static void a_client_that_vanishes_in_the_queue(void **state)
{
    (void)state;
    f.hold = true;
    int fds[3];
    for (int i = 0; i < 3; i++) {
        fds[i] = fake_front_connect(&f, DATA);
        client_send(fds[i], command, sizeof command);
        fake_front_pump(&f);
    }
    close(fds[1]);
    fake_front_pump(&f);
    fake_front_release(&f);
    assert_int_equal(f.verb, FRONT_COMMAND);
    fake_front_release(&f);
    assert_int_equal(f.count, 2);
    assert_int_equal(client_receive(fds[2], &(uint8_t[20]){0}, 20), 10);
    close(fds[0]);
    close(fds[2]);
}

static void a_thousand_connections_that_say_nothing(void **state)
{
    (void)state;
    static int fds[1000];
    unsigned before = open_descriptors();
    for (size_t i = 0; i < 1000; i++) {
        fds[i] = fake_front_connect(&f, (int)(i % ENDPOINT_COUNT));
        fake_front_pump(&f);
    }
    assert_served();
    for (size_t i = 0; i < 1000; i++)
        close(fds[i]);
    fake_front_pump(&f);
    assert_int_equal(open_descriptors(), before);
}

static void a_thousand_half_messages(void **state)
{
    (void)state;
    static int fds[1000];
    for (size_t i = 0; i < 1000; i++) {
        fds[i] = fake_front_connect(&f, DATA);
        client_send(fds[i], command, 1 + i % 11);
        fake_front_pump(&f);
    }
    assert_served();
    for (size_t i = 0; i < 1000; i++)
        close(fds[i]);
    fake_front_pump(&f);
    assert_true(fake_front_memory_is_wiped(&f));
}

static void the_longest_stalled_goes_first(void **state)
{
    (void)state;
    int fds[POOL_BUFFER_COUNT];
    for (size_t i = 0; i < POOL_BUFFER_COUNT; i++) {
        fds[i] = fake_front_connect(&f, DATA);
        client_send(fds[i], command, 5);
        fake_front_pump(&f);
        usleep(1000);
    }
    assert_served();
    assert_true(is_closed(fds[0]));
    for (size_t i = 1; i < POOL_BUFFER_COUNT; i++)
        assert_false(is_closed(fds[i]));
    for (size_t i = 0; i < POOL_BUFFER_COUNT; i++)
        close(fds[i]);
}

static void who_has_spoken_keeps_its_place_against_who_has_not(void **state)
{
    (void)state;
    static int fds[200];
    int honest = fake_front_connect(&f, DATA);
    client_send(honest, command, sizeof command);
    fake_front_pump(&f);
    for (size_t i = 0; i < 200; i++) {
        fds[i] = fake_front_connect(&f, DATA);
        fake_front_pump(&f);
    }
    assert_false(is_closed(honest));
    client_send(honest, command, sizeof command);
    fake_front_pump(&f);
    assert_int_equal(f.count, 2);
    for (size_t i = 0; i < 200; i++)
        close(fds[i]);
    close(honest);
}

/* More commands wait than there are buffers: none is lost, and none is answered twice. */
static void more_clients_than_buffers(void **state)
{
    (void)state;
    int fds[FRONT_CONNECTIONS_MAX];
    f.hold = true;
    for (size_t i = 0; i < FRONT_CONNECTIONS_MAX; i++) {
        fds[i] = fake_front_connect(&f, DATA);
        client_send(fds[i], command, sizeof command);
        fake_front_pump(&f);
    }
    for (size_t i = 0; i < FRONT_CONNECTIONS_MAX; i++) {
        fake_front_release(&f);
        fake_front_pump(&f);
    }
    assert_int_equal(f.count, FRONT_CONNECTIONS_MAX);
    for (size_t i = 0; i < FRONT_CONNECTIONS_MAX; i++) {
        assert_int_equal(client_receive(fds[i], &(uint8_t[20]){0}, 20), 10);
        close(fds[i]);
    }
}

static void a_client_that_starved_and_left_takes_no_buffer(void **state)
{
    (void)state;
    int fds[POOL_BUFFER_COUNT + 2];
    f.hold = true;
    for (size_t i = 0; i < POOL_BUFFER_COUNT + 2; i++) {
        fds[i] = fake_front_connect(&f, DATA);
        client_send(fds[i], command, sizeof command);
        fake_front_pump(&f);
    }
    close(fds[POOL_BUFFER_COUNT]);
    fake_front_pump(&f);
    f.hold = false;
    fake_front_release(&f);
    fake_front_pump(&f);
    assert_int_equal(client_receive(fds[POOL_BUFFER_COUNT + 1], &(uint8_t[20]){0}, 20), 10);
    for (size_t i = 0; i < POOL_BUFFER_COUNT + 2; i++)
        if (i != POOL_BUFFER_COUNT) close(fds[i]);
}

#define FRONT_TEST(name) cmocka_unit_test_setup_teardown(name, open_front, close_front)

/* --- what follows a message, of clients who want each other no good --- */

static const uint8_t stop[] = {0, 0, 0, 0x0e};
static const uint8_t succeeded[4];

static void expect(int fd, const void *bytes, size_t size)
{
    uint8_t answer[64];
    fake_front_pump(&f);
    assert_int_equal(client_receive(fd, answer, sizeof answer), size);
    assert_memory_equal(answer, bytes, size);
}

static void switch_off(int control)
{
    client_send(control, stop, sizeof stop);
    expect(control, succeeded, sizeof succeeded);
}

/* SET_STATEBLOB, its head. */
static void begin_blob(int control, uint8_t type, uint32_t size)
{
    const uint8_t head[16] = {[3] = 0x0d,           [11] = type,  [12] = (uint8_t)(size >> 24), (uint8_t)(size >> 16),
                              (uint8_t)(size >> 8), (uint8_t)size};
    client_send(control, head, sizeof head);
    fake_front_pump(&f);
}

static void give(int control, uint8_t value, size_t size)
{
    uint8_t bytes[1000];
    memset(bytes, value, sizeof bytes);
    for (size_t left = size; left > 0;) {
        const size_t part = left < sizeof bytes ? left : sizeof bytes;
        client_send(control, bytes, part);
        fake_front_pump(&f);
        left -= part;
    }
}

static void reset_with(int control, size_t size)
{
    client_send(control, init, sizeof init);
    expect(control, succeeded, sizeof succeeded);
    assert_int_equal(f.verb, FRONT_RESET);
    assert_int_equal(f.command_size, size);
}

static void a_blob_in_single_bytes_keeps_nobody_waiting(void **state)
{
    (void)state;
    const uint8_t byte = 'b';
    int control = fake_front_connect(&f, CONTROL);
    int others = fake_front_connect(&f, MSSIM_COMMAND);
    switch_off(control);
    begin_blob(control, 1, BLOB_MAX);
    for (size_t i = 0; i < BLOB_MAX; i++) {
        client_send(control, &byte, 1);
        fake_front_pump(&f);
        if (i % 4096 != 0) continue;
        client_send(others, framed, sizeof framed);
        fake_front_pump(&f);
        uint8_t answer[64];
        assert_in_range(client_receive(others, answer, sizeof answer), 1, sizeof answer);
    }
    expect(control, succeeded, sizeof succeeded);
    reset_with(control, BLOB_MAX);
    for (size_t i = 0; i < BLOB_MAX; i += 997)
        assert_int_equal(f.command[i], 'b');
    close(control);
    close(others);
}

static void a_blob_that_is_too_large_is_refused_before_it_comes(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {BLOB_MAX + 1, INT32_MAX, UINT32_MAX};
    static const uint8_t refused[4] = {0, 0, 0, 3};
    int control = fake_front_connect(&f, CONTROL);
    switch_off(control);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        begin_blob(control, 2, sizes[i]);
        expect(control, refused, sizeof refused);
    }
    reset_with(control, 0);
    close(control);
}

/* What one gives never gets into what the other one gives, and only what came last is gone on from. */
static void two_clients_give_a_blob_between_each_other(void **state)
{
    (void)state;
    static const uint8_t failed[4] = {0, 0, 0, 9};
    int one = fake_front_connect(&f, CONTROL);
    int other = fake_front_connect(&f, CONTROL);
    switch_off(one);
    begin_blob(one, 1, 5000);
    give(one, 'a', 1000);
    begin_blob(other, 1, 9000);
    give(other, 'b', 3000);
    give(one, 'a', 4000);
    expect(one, failed, sizeof failed);
    give(other, 'b', 6000);
    expect(other, succeeded, sizeof succeeded);
    reset_with(other, 9000);
    for (size_t i = 0; i < 9000; i++)
        assert_int_equal(f.command[i], 'b');
    close(one);
    close(other);
}

static void a_blob_that_another_client_leaves_in_the_middle_is_none(void **state)
{
    (void)state;
    static const uint8_t failed[4] = {0, 0, 0, 9};
    unsigned before = open_descriptors();
    int one = fake_front_connect(&f, CONTROL);
    int other = fake_front_connect(&f, CONTROL);
    switch_off(one);
    begin_blob(one, 1, 5000);
    give(one, 'a', 4999);
    close(one);
    reset_with(other, 0);
    one = fake_front_connect(&f, CONTROL);
    switch_off(other);
    begin_blob(one, 2, 5000);
    give(one, 'a', 4999);
    reset_with(other, 0); /* and while it is there */
    give(one, 'a', 1);
    expect(one, failed, sizeof failed);
    close(one);
    close(other);
    fake_front_pump(&f);
    assert_int_equal(open_descriptors(), before);
    assert_true(fake_front_memory_is_wiped(&f));
}

/* GET_STATEBLOB to one who does not take it: others are served, and it is closed. */
static void a_blob_that_nobody_reads_keeps_nobody_waiting(void **state)
{
    (void)state;
    static uint8_t export[4 + BLOB_MAX] = {0, 0, BLOB_MAX >> 16, 0};
    const uint8_t get[16] = {[3] = 0x0c, [11] = 1};
    int controls[8];
    f.export = span_of(export, sizeof export);
    for (size_t i = 0; i < sizeof controls / sizeof controls[0]; i++) {
        const int small = 4096;
        controls[i] = fake_front_connect(&f, CONTROL);
        assert_int_equal(setsockopt(controls[i], SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
        client_send(controls[i], get, sizeof get);
        fake_front_pump(&f);
        assert_served();
    }
    fake_front_pass_time(&f, FRONT_STALL_USEC);
    for (size_t i = 0; i < sizeof controls / sizeof controls[0]; i++) {
        assert_true(is_closed(controls[i]));
        close(controls[i]);
    }
    assert_served();
}

/* One that reads slowly gets all of it. */
static void a_blob_is_sent_as_it_is_taken(void **state)
{
    (void)state;
    static uint8_t export[4 + BLOB_MAX] = {0, 0, BLOB_MAX >> 16, 0};
    static uint8_t got[16 + BLOB_MAX];
    const uint8_t get[16] = {[3] = 0x0c, [11] = 1};
    for (size_t i = 4; i < sizeof export; i++)
        export[i] = (uint8_t)(i * 7);
    f.export = span_of(export, sizeof export);
    int control = fake_front_connect(&f, CONTROL);
    client_send(control, get, sizeof get);
    for (size_t done = 0; done < sizeof got;) {
        fake_front_pump(&f);
        ssize_t size = client_receive(control, got + done, sizeof got - done < 1777 ? sizeof got - done : 1777);
        assert_true(size >= 0);
        done += (size_t)size;
    }
    assert_memory_equal(got + 16, export + 4, BLOB_MAX);
    close(control);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FRONT_TEST(every_truncation_then_gone),
        FRONT_TEST(byte_by_byte),
        FRONT_TEST(an_oversized_command_is_answered_and_closed),
        FRONT_TEST(random_bytes),
        FRONT_TEST(half_a_message_is_closed_after_its_time),
        FRONT_TEST(an_idle_connection_is_not_closed),
        FRONT_TEST(a_slow_reader_is_closed_after_its_time),
        FRONT_TEST(a_reader_that_wakes_up_gets_everything),
        FRONT_TEST(a_client_that_vanishes_while_its_command_runs),
        FRONT_TEST(a_response_does_not_reach_the_next_in_the_same_place),
        FRONT_TEST(a_client_that_vanishes_in_the_queue),
        FRONT_TEST(a_thousand_connections_that_say_nothing),
        FRONT_TEST(a_thousand_half_messages),
        FRONT_TEST(the_longest_stalled_goes_first),
        FRONT_TEST(who_has_spoken_keeps_its_place_against_who_has_not),
        FRONT_TEST(more_clients_than_buffers),
        FRONT_TEST(a_client_that_starved_and_left_takes_no_buffer),
        FRONT_TEST(a_blob_in_single_bytes_keeps_nobody_waiting),
        FRONT_TEST(a_blob_that_is_too_large_is_refused_before_it_comes),
        FRONT_TEST(two_clients_give_a_blob_between_each_other),
        FRONT_TEST(a_blob_that_another_client_leaves_in_the_middle_is_none),
        FRONT_TEST(a_blob_that_nobody_reads_keeps_nobody_waiting),
        FRONT_TEST(a_blob_is_sent_as_it_is_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
