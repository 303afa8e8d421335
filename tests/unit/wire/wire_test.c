/* Frames over a socket pair: whole or not at all, and strictly what wire.h says. */
#include "tests/fakes/assertions.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "abi/call.h"
#include "abi/peer.h"
#include "link/record.h"
#include "untrusted/wire/pass.h"
#include "untrusted/wire/wire.h"

static int fds[2];
static struct wire_stream *near;
static struct wire_stream *far;

static int open_pair(void **state)
{
    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    assert_ok(wire_stream_open(fds[0], WIRE_BODY_MAX, &near));
    assert_ok(wire_stream_open(fds[1], WIRE_BODY_MAX, &far));
    return 0;
}

static int close_pair(void **state)
{
    (void)state;
    wire_stream_close(&near);
    wire_stream_close(&far);
    close(fds[0]);
    return close(fds[1]);
}

static struct span receive(enum wire_kind kind)
{
    struct wire_frame frame = {0};
    assert_ok(wire_receive(far, &frame));
    assert_int_equal(frame.kind, kind);
    return frame.body;
}

static void receive_nothing(void)
{
    struct wire_frame frame = {.kind = WIRE_STOP};
    assert_ok(wire_receive(far, &frame));
    assert_int_equal(frame.kind, 0);
}

static void put(const void *bytes, size_t size)
{
    assert_int_equal(send(fds[0], bytes, size, MSG_NOSIGNAL), size);
}

static void hellos_come_as_they_were_said(void **state)
{
    (void)state;
    const struct hello_instance said = {.serving = true,
                                        .separate_front = true,
                                        .id = {"0123456789abcde"},
                                        .start = UINT64_C(0x1122334455667788),
                                        .front_share = "a share"};
    struct hello_instance heard = {0};
    struct instance_id id;
    uint8_t share[X25519_SIZE];
    assert_ok(wire_send_hello_instance(near, &said));
    assert_ok(wire_parse_hello_instance(receive(WIRE_HELLO_INSTANCE), &heard));
    assert_true(heard.serving && heard.separate_front);
    assert_memory_equal(heard.id.bytes, said.id.bytes, sizeof said.id.bytes);
    assert_true(heard.start == said.start);
    assert_memory_equal(heard.front_share, said.front_share, sizeof said.front_share);
    assert_ok(wire_send_hello_front(near, &said.id, said.front_share));
    assert_ok(wire_parse_hello_front(receive(WIRE_HELLO_FRONT), &id, share));
    assert_memory_equal(id.bytes, said.id.bytes, sizeof id.bytes);
    assert_memory_equal(share, said.front_share, sizeof share);
}

static void a_link_comes_as_it_was_said(void **state)
{
    (void)state;
    const struct link_told said = {.binding = {.kind = LINK_K2_ENROLLED,
                                               .instance = {"0123456789abcde"},
                                               .epoch = 3,
                                               .start = 9,
                                               .manager = "manager",
                                               .program = "program"},
                                   .enclave_share = "share"};
    struct link_told heard;
    assert_ok(wire_send_link(near, &said));
    assert_ok(wire_parse_link(receive(WIRE_LINK), &heard));
    assert_int_equal(heard.binding.kind, LINK_K2_ENROLLED);
    assert_true(heard.binding.epoch == 3 && heard.binding.start == 9);
    assert_memory_equal(heard.binding.manager, said.binding.manager, LINK_MRENCLAVE_SIZE);
    assert_memory_equal(heard.binding.program, said.binding.program, LINK_MRENCLAVE_SIZE);
    assert_memory_equal(heard.enclave_share, said.enclave_share, X25519_SIZE);
}

static void commit_and_state(void **state)
{
    (void)state;
    uint64_t version = 0;
    struct span sealed;
    struct span message;
    assert_ok(wire_send_commit(near, 5, span_of("state", 5), span_of("message", 7)));
    assert_ok(wire_parse_commit(receive(WIRE_COMMIT), &version, &sealed, &message));
    assert_int_equal(version, 5);
    assert_int_equal(sealed.size, 5);
    assert_memory_equal(message.data, "message", 7);
    assert_ok(wire_send_state(near, 0, span_empty()));
    assert_ok(wire_parse_state(receive(WIRE_STATE), &version, &sealed));
    assert_true(version == 0 && sealed.size == 0);
    assert_ok(wire_send_state(near, 8, span_of("state", 5)));
    assert_ok(wire_parse_state(receive(WIRE_STATE), &version, &sealed));
    assert_true(version == 8 && sealed.size == 5);
}

static void refusals_health_and_records(void **state)
{
    (void)state;
    const struct health_told said = {HEALTH_TPM_FAILURE, 12, 3};
    struct health_told heard;
    struct err why;
    uint8_t verb = 0;
    bool cure = false;
    struct span record;
    assert_ok(wire_send_refused(near, FAIL(FENCED)));
    assert_ok(wire_parse_refused(receive(WIRE_REFUSED), &why));
    assert_int_equal(why.code, ERR_FENCED);
    assert_ok(wire_send_health(near, &said));
    assert_ok(wire_parse_health(receive(WIRE_HEALTH), &heard));
    assert_true(heard.health == said.health && heard.commands == 12 && heard.commits == 3);
    assert_ok(wire_send_record(near, K2_RESET, span_of("record", 6)));
    assert_ok(wire_parse_record(receive(WIRE_RECORD), &verb, &record));
    assert_true(verb == K2_RESET && record.size == 6);
    assert_ok(wire_send_failed(near, FAIL(ENCLAVE_DEAD), true));
    assert_ok(wire_parse_failed(receive(WIRE_FAILED), &why, &cure));
    assert_true(why.code == ERR_ENCLAVE_DEAD && cure);
}

static void a_stop_and_its_refusal(void **state)
{
    (void)state;
    static const enum stop_mode modes[] = {STOP_OFF, STOP_SUSPEND};
    uint8_t body[9] = {0};
    enum stop_mode mode = 0;
    struct err why = OK;
    for (size_t i = 0; i < 2; i++) {
        assert_ok(wire_send_stop(near, modes[i]));
        assert_ok(wire_parse_stop(receive(WIRE_STOP), &mode));
        assert_int_equal(mode, modes[i]);
    }
    assert_ok(wire_send_stop_refused(near, FAIL(TPM_FAILED)));
    assert_ok(wire_parse_stop_refused(receive(WIRE_STOP_REFUSED), &why));
    assert_int_equal(why.code, ERR_TPM_FAILED);
    assert_err(wire_parse_stop_refused(span_of(body, 2), &why), PROTOCOL);
    assert_err(wire_parse_stop_refused(span_of("\1\0\0", 3), &why), PROTOCOL);
    assert_err(wire_parse_stop(span_empty(), &mode), PROTOCOL);
    for (unsigned first = 0; first < 256; first++) {
        body[0] = (uint8_t)first;
        const bool known = first == STOP_OFF || first == STOP_SUSPEND;
        assert_int_equal(wire_parse_stop(span_of(body, 8), &mode).code, known ? 0 : ERR_PROTOCOL);
    }
    body[0] = STOP_OFF;
    assert_err(wire_parse_stop(span_of(body, 7), &mode), PROTOCOL);
    assert_err(wire_parse_stop(span_of(body, 9), &mode), PROTOCOL);
    for (size_t i = 1; i < 8; i++) {
        body[i] = 1;
        assert_err(wire_parse_stop(span_of(body, 8), &mode), PROTOCOL);
        body[i] = 0;
    }
}

/* The largest state with its volatile part, and the largest message. */
static void a_commit_has_room_for_all_that_is_sealed(void **state)
{
    (void)state;
    uint8_t *sealed = calloc(1, STATE_MAX);
    uint8_t message[PEER_MESSAGE_MAX] = {0};
    struct wire_frame frame = {0};
    uint64_t version = 0;
    struct span heard;
    struct span said;
    assert_ok(wire_send_commit(near, 5, span_of(sealed, STATE_MAX), span_of(message, sizeof message)));
    for (int n = 0; n < 1000 && !frame.kind; n++) {
        assert_ok(wire_flush(near));
        assert_ok(wire_receive(far, &frame));
    }
    assert_ok(wire_parse_commit(frame.body, &version, &heard, &said));
    assert_true(version == 5 && heard.size == STATE_MAX && said.size == PEER_MESSAGE_MAX);
    free(sealed);
}

static void a_frame_that_comes_byte_by_byte_is_delivered_whole(void **state)
{
    (void)state;
    const uint8_t frame[] = {3, 0, 0, 0, WIRE_PEER, 0, 0, 0, 'a', 'b', 'c'};
    for (size_t i = 0; i < sizeof frame; i++) {
        receive_nothing();
        put(frame + i, 1);
    }
    assert_memory_equal(receive(WIRE_PEER).data, "abc", 3);
    receive_nothing();
}

static void frames_that_come_together_are_delivered_one_by_one(void **state)
{
    (void)state;
    for (size_t i = 0; i < 100; i++) {
        const struct span body = span_of("0123456789", i % 10 + 1);
        assert_ok(wire_send(near, WIRE_PEER, &body, 1));
    }
    for (size_t i = 0; i < 100; i++)
        assert_int_equal(receive(WIRE_PEER).size, i % 10 + 1);
    receive_nothing();
}

static void what_the_socket_does_not_take_is_sent_later_in_order(void **state)
{
    (void)state;
    uint8_t *large = malloc(200000);
    memset(large, 7, 200000);
    for (uint64_t i = 1; i <= 2; i++)
        assert_ok(wire_send_state(near, i, span_of(large, 200000)));
    assert_true(wire_pending(near));
    for (uint64_t i = 1; i <= 2; i++) {
        struct wire_frame frame = {0};
        uint64_t version = 0;
        struct span body;
        for (int n = 0; n < 1000 && !frame.kind; n++) {
            assert_ok(wire_flush(near));
            assert_ok(wire_receive(far, &frame));
        }
        assert_ok(wire_parse_state(frame.body, &version, &body));
        assert_true(version == i && body.size == 200000);
        assert_memory_equal(body.data, large, 200000);
    }
    assert_false(wire_pending(near));
    free(large);
}

/* Who does not read cannot make the sender keep any amount. */
static void too_much_queued_is_refused_and_the_stream_stays_whole(void **state)
{
    (void)state;
    uint8_t *large = calloc(1, 200000);
    struct err result = OK;
    unsigned sent = 0;
    for (; !result.code && sent < 100; sent++)
        result = wire_send_state(near, 1, span_of(large, 200000));
    assert_int_equal(result.code, ERR_TOO_LARGE);
    sent--;
    for (unsigned i = 0; i < sent;) {
        struct wire_frame frame = {0};
        assert_ok(wire_flush(near));
        assert_ok(wire_receive(far, &frame));
        if (frame.kind) i++;
    }
    receive_nothing();
    free(large);
}

static void what_is_no_frame_ends_the_connection(void **state)
{
    (void)state;
    static const uint8_t rows[][WIRE_HEADER_SIZE] = {
        {0, 0, 0, 0, 0},                          /* no kind */
        {0, 0, 0, 0, WIRE_RECORDED + 1},          /* unknown */
        {0, 0, 0, 0, WIRE_STOP, 1},               /* padding */
        {0, 0, 0, 0, WIRE_STOP, 0, 0, 1},         /* padding */
        {9, 0, 0, 0, WIRE_STOP},                  /* larger than the kind */
        {1, 4, 0, 0, WIRE_PEER},                  /* the same */
        {0xff, 0xff, 0xff, 0xff, WIRE_COMMIT},    /* huge */
        {1, 0x10, 4, 0, WIRE_COMMIT},             /* one more than there is room for */
        {0x29, 0x20, 0, 0, WIRE_RECORD, 0, 0, 0}, /* one more than a record */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct wire_frame frame;
        put(rows[i], sizeof rows[i]);
        struct err result = wire_receive(far, &frame);
        if (result.code != ERR_PROTOCOL) fail_msg("row %zu: %d", i, result.code);
        result = wire_receive(far, &frame);
        if (result.code != ERR_PROTOCOL) fail_msg("row %zu, again: %d", i, result.code);
        close_pair(NULL);
        open_pair(NULL);
    }
}

static void a_frame_that_is_cut_off_is_not_delivered(void **state)
{
    (void)state;
    const uint8_t cut[] = {3, 0, 0, 0, WIRE_PEER, 0, 0, 0, 'a', 'b'};
    struct wire_frame frame;
    put(cut, sizeof cut);
    shutdown(fds[0], SHUT_WR);
    assert_err(wire_receive(far, &frame), PEER_CLOSED);
}

static void sending_to_nobody(void **state)
{
    (void)state;
    shutdown(fds[1], SHUT_RDWR);
    assert_err(wire_send(near, WIRE_STOP, NULL, 0), PEER_CLOSED);
}

/* Every body that is one byte too short or too long, or has a byte set that must be zero. */
static void bodies_are_parsed_strictly(void **state)
{
    (void)state;
    uint8_t bytes[137] = {0};
    struct hello_instance hello;
    struct link_told told;
    struct instance_id id;
    uint8_t share[X25519_SIZE];
    struct err why;
    bool cure;
    uint8_t verb;
    uint64_t version;
    struct span one;
    struct span two;
    struct health_told health;
    bytes[0] = WIRE_VERSION;
    bytes[2] = bytes[3] = 1;
    assert_ok(wire_parse_hello_instance(span_of(bytes, 64), &hello));
    assert_err(wire_parse_hello_instance(span_of(bytes, 63), &hello), PROTOCOL);
    assert_err(wire_parse_hello_instance(span_of(bytes, 65), &hello), PROTOCOL);
    for (size_t i = 0; i < 8; i++) {
        bytes[i] += 2;
        assert_err(wire_parse_hello_instance(span_of(bytes, 64), &hello), PROTOCOL);
        bytes[i] -= 2;
    }
    bytes[2] = bytes[3] = 0;
    assert_ok(wire_parse_hello_front(span_of(bytes, 56), &id, share));
    assert_err(wire_parse_hello_front(span_of(bytes, 55), &id, share), PROTOCOL);
    bytes[7] = 1;
    assert_err(wire_parse_hello_front(span_of(bytes, 56), &id, share), PROTOCOL);
    bytes[7] = 0;
    bytes[0] = LINK_K2_NAMED;
    assert_ok(wire_parse_link(span_of(bytes, 136), &told));
    assert_err(wire_parse_link(span_of(bytes, 137), &told), PROTOCOL);
    bytes[0] = LINK_K1;
    assert_err(wire_parse_link(span_of(bytes, 136), &told), PROTOCOL);
    bytes[0] = 0;
    assert_err(wire_parse_refused(span_of(bytes, 2), &why), PROTOCOL);
    assert_err(wire_parse_failed(span_of(bytes, 8), &why, &cure), PROTOCOL);
    assert_err(wire_parse_health(span_of(bytes, 24), &health), PROTOCOL);
    assert_err(wire_parse_record(span_of(bytes, 8), &verb, &one), PROTOCOL);
    bytes[0] = K2_VERB_MAX + 1;
    assert_err(wire_parse_record(span_of(bytes, 9), &verb, &one), PROTOCOL);
    bytes[0] = 1;
    assert_ok(wire_parse_state(span_of(bytes, 8), &version, &one)); /* lost: the enclave refuses it */
    bytes[8] = 200;                                                 /* a state that is larger than the frame */
    assert_err(wire_parse_commit(span_of(bytes, 100), &version, &one, &two), PROTOCOL);
    bytes[8] = 88; /* no message */
    assert_err(wire_parse_commit(span_of(bytes, 100), &version, &one, &two), PROTOCOL);
    bytes[8] = 87;
    assert_ok(wire_parse_commit(span_of(bytes, 100), &version, &one, &two));
}

static void a_descriptor_is_passed(void **state)
{
    (void)state;
    int pair[2];
    int passed = -1;
    uint8_t what = 0;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    assert_ok(pass_send(pair[0], 7, fds[0]));
    assert_ok(pass_receive(pair[1], &what, &passed));
    assert_int_equal(what, 7);
    assert_true(passed >= 0);
    close(passed);
    assert_ok(pass_send(pair[0], 8, -1));
    assert_ok(pass_receive(pair[1], &what, &passed));
    assert_true(what == 8 && passed == -1);
    assert_int_equal(send(pair[0], "ab", 2, 0), 2);
    assert_err(pass_receive(pair[1], &what, &passed), PROTOCOL);
    close(pair[0]);
    assert_err(pass_receive(pair[1], &what, &passed), PEER_CLOSED);
    close(pair[1]);
}

#define WIRE_TEST(name) cmocka_unit_test_setup_teardown(name, open_pair, close_pair)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WIRE_TEST(hellos_come_as_they_were_said),
        WIRE_TEST(a_link_comes_as_it_was_said),
        WIRE_TEST(commit_and_state),
        WIRE_TEST(refusals_health_and_records),
        WIRE_TEST(a_stop_and_its_refusal),
        WIRE_TEST(a_commit_has_room_for_all_that_is_sealed),
        WIRE_TEST(a_frame_that_comes_byte_by_byte_is_delivered_whole),
        WIRE_TEST(frames_that_come_together_are_delivered_one_by_one),
        WIRE_TEST(what_the_socket_does_not_take_is_sent_later_in_order),
        WIRE_TEST(too_much_queued_is_refused_and_the_stream_stays_whole),
        WIRE_TEST(what_is_no_frame_ends_the_connection),
        WIRE_TEST(a_frame_that_is_cut_off_is_not_delivered),
        WIRE_TEST(sending_to_nobody),
        WIRE_TEST(bodies_are_parsed_strictly),
        WIRE_TEST(a_descriptor_is_passed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
