/* A line on an event loop: whole frames to its owner, a few in a turn, and one end. */
#include "tests/fakes/assertions.h"

#include <sys/socket.h>
#include <unistd.h>

#include "untrusted/wire/line.h"

#define FRAMES 100u

static sd_event *event;
static struct line *near;
static struct wire_stream *far;
static int far_fd;
static unsigned frames;
static unsigned ends;
static unsigned close_at; /* the frame at which the owner closes the line; 0: never */

static void on_frame(void *ctx, const struct wire_frame *frame)
{
    (void)ctx;
    assert_int_equal(frame->kind, WIRE_ASK_HEALTH);
    if (++frames == close_at) line_close(&near);
}

static void on_ended(void *ctx, struct err why)
{
    (void)ctx;
    assert_err(why, PEER_CLOSED);
    ends++;
    line_close(&near);
}

static int open_pair(void **state)
{
    (void)state;
    static const struct line_owner owner = {.frame = on_frame, .ended = on_ended};
    int fds[2];
    frames = ends = close_at = 0;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    assert_true(sd_event_new(&event) >= 0);
    assert_ok(line_open(event, fds[0], 4096, &owner, &near));
    far_fd = fds[1];
    assert_ok(wire_stream_open(far_fd, 4096, &far));
    return 0;
}

static void close_far(void)
{
    if (far) close(far_fd);
    wire_stream_close(&far);
}

static int close_pair(void **state)
{
    (void)state;
    line_close(&near);
    close_far();
    sd_event_unref(event);
    return 0;
}

static void flood(void)
{
    for (unsigned i = 0; i < FRAMES; i++)
        assert_ok(wire_send(far, WIRE_ASK_HEALTH, NULL, 0));
}

static bool turn(void)
{
    int more = sd_event_run(event, 0);
    assert_true(more >= 0);
    return more > 0;
}

static void one_that_floods_gets_a_few_frames_in_a_turn_and_loses_none(void **state)
{
    (void)state;
    flood();
    assert_true(turn());
    assert_in_range(frames, 1, LINE_FRAMES_PER_TURN);
    while (turn())
        ;
    assert_int_equal(frames, FRAMES);
    assert_int_equal(ends, 0);
}

static int count_turn(sd_event_source *source, int fd, uint32_t events, void *ctx)
{
    char byte = 0;
    (void)source, (void)events;
    assert_int_equal(read(fd, &byte, 1), 1);
    *(unsigned *)ctx = frames;
    return 0;
}

static void another_source_has_its_turn_meanwhile(void **state)
{
    (void)state;
    int other[2];
    unsigned before = FRAMES;
    sd_event_source *source = NULL;
    assert_int_equal(pipe(other), 0);
    assert_true(sd_event_add_io(event, &source, other[0], 1, count_turn, &before) >= 0);
    flood();
    assert_true(turn());
    assert_int_equal(write(other[1], "x", 1), 1);
    while (turn())
        ;
    assert_in_range(before, 1, 3 * LINE_FRAMES_PER_TURN);
    sd_event_source_unref(source);
    close(other[0]);
    close(other[1]);
}

static void what_was_said_before_the_end_comes_before_it(void **state)
{
    (void)state;
    flood();
    close_far();
    while (turn())
        ;
    assert_int_equal(frames, FRAMES);
    assert_int_equal(ends, 1);
}

static void its_owner_may_close_it_in_a_frame(void **state)
{
    (void)state;
    close_at = 3;
    flood();
    while (turn())
        ;
    assert_int_equal(frames, 3);
    assert_int_equal(ends, 0);
}

static void what_the_socket_does_not_take_goes_out_later(void **state)
{
    (void)state;
    static const uint8_t bytes[1024];
    const struct span part = {bytes, sizeof bytes};
    unsigned sent = 0;
    unsigned got = 0;
    while (!wire_pending(line_stream(near))) {
        assert_ok(line_sent(near, wire_send(line_stream(near), WIRE_PEER, &part, 1)));
        sent++;
    }
    while (got < sent) {
        struct wire_frame frame = {0};
        assert_ok(wire_receive(far, &frame));
        got += frame.kind != 0;
        (void)turn();
    }
    assert_false(wire_pending(line_stream(near)));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_pair, close_pair)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(one_that_floods_gets_a_few_frames_in_a_turn_and_loses_none),
        TEST(another_source_has_its_turn_meanwhile),
        TEST(what_was_said_before_the_end_comes_before_it),
        TEST(its_owner_may_close_it_in_a_frame),
        TEST(what_the_socket_does_not_take_goes_out_later),
    };
    return cmocka_run_group_tests_name("line", tests, NULL, NULL);
}
