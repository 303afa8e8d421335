/* front.sock with a fake enclave, a fake vtpmd, and front-ends that are honest or not. */
#include "tests/fakes/assertions.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/instance/rig.h"
#include "untrusted/instance/gate.h"

static struct rig rig;
static struct gate *gate;
static int listener;
static struct sockaddr_un address;
static socklen_t address_size;
static struct x25519_key share;
static struct link front_link;
static int front;
static struct wire_stream *stream;

static int connect_front(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, address_size), 0);
    return fd;
}

static struct wire_frame next_frame(struct wire_stream *from)
{
    struct wire_frame frame = {0};
    for (int i = 0; i < 2000 && !frame.kind; i++) {
        assert_ok(wire_receive(from, &frame));
        if (!frame.kind) rig_run_for(&rig, 1000);
    }
    return frame;
}

static void send_record(uint8_t verb, const struct writer *record)
{
    assert_ok(wire_send_record(stream, verb, writer_span(record)));
}

static enum link_event receive_record(uint8_t *plaintext, size_t *out_size)
{
    uint8_t verb = 0;
    struct span record;
    enum link_event event = LINK_ENDED;
    const struct wire_frame frame = next_frame(stream);
    assert_int_equal(frame.kind, WIRE_RECORD);
    assert_ok(wire_parse_record(frame.body, &verb, &record));
    assert_ok(link_receive(&front_link, record, &event, plaintext, out_size));
    return event;
}

static void open_front(void)
{
    front = connect_front();
    assert_ok(wire_stream_open(front, WIRE_BODY_MAX, &stream));
}

static void finish(void)
{
    uint8_t bytes[RECORD_MAX];
    size_t size = 0;
    struct writer record = writer_of(bytes, sizeof bytes);
    const struct link_told told = rig_told(&rig);
    const struct link_keys keys = {.own = &share, .peer = told.enclave_share};
    assert_ok(link_open(&rig.crypto, LINK_HOST, &told.binding, &keys, &front_link));
    assert_ok(link_finish(&front_link, &record));
    send_record(0, &record);
    assert_int_equal(receive_record(bytes, &size), LINK_FINISHED);
    rig_expect_health(&rig, HEALTH_SERVING);
}

static void send_request(uint8_t verb)
{
    uint8_t bytes[RECORD_MAX];
    const uint8_t request[4] = {verb};
    struct writer record = writer_of(bytes, sizeof bytes);
    assert_ok(link_send(&front_link, span_of(request, sizeof request), &record));
    send_record(verb, &record);
}

static int set_up(void **state)
{
    (void)state;
    const struct sockaddr_un nameless = {.sun_family = AF_UNIX};
    struct service_options options = rig_begin(&rig, false);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    address_size = sizeof address;
    front = -1;
    assert_int_equal(bind(listener, (const struct sockaddr *)&nameless, sizeof nameless.sun_family), 0);
    assert_int_equal(listen(listener, 5), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &address_size), 0);
    assert_ok(x25519_generate(&rig.crypto, &share));
    memcpy(rig.front_share, share.public, sizeof rig.front_share);
    assert_ok(gate_open(rig.event, listener, &gate));
    options.separate_front = true;
    options.front = gate_front(gate);
    assert_ok(service_open(&options, &rig.service));
    gate_attach(gate, rig.service);
    rig_connect(&rig);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    wire_stream_close(&stream);
    if (front >= 0) close(front);
    link_close(&front_link);
    gate_close(&gate);
    rig_end(&rig);
    return close(listener);
}

static void a_front_end_asks_and_is_answered(void **state)
{
    (void)state;
    uint8_t plaintext[RECORD_MAX];
    size_t size = 0;
    rig_start(&rig);
    open_front();
    finish();
    send_request(K2_COMMAND);
    assert_int_equal(receive_record(plaintext, &size), LINK_DATA);
    assert_int_equal(size, 4 + 12);
    assert_int_equal(plaintext[0], 0);
}

static void nobody_is_heard_before_the_enclave_is_named(void **state)
{
    (void)state;
    rig_admit(&rig);
    open_front();
    assert_int_equal(send(front, "garbage!garbage!", 16, MSG_NOSIGNAL), 16);
    rig_run_for(&rig, 20000);
    assert_int_equal(rig.number[INSTANCE_RECORD], 0);
}

static void a_second_front_end_is_told_and_closed(void **state)
{
    (void)state;
    uint8_t plaintext[RECORD_MAX];
    size_t size = 0;
    struct err why;
    bool cure = true;
    struct wire_stream *second = NULL;
    rig_start(&rig);
    open_front();
    finish();
    int fd = connect_front();
    assert_ok(wire_stream_open(fd, WIRE_BODY_MAX, &second));
    const struct wire_frame frame = next_frame(second);
    assert_int_equal(frame.kind, WIRE_FAILED);
    assert_ok(wire_parse_failed(frame.body, &why, &cure));
    assert_int_equal(why.code, ERR_STATE_LOCKED);
    assert_false(cure);
    wire_stream_close(&second);
    close(fd);
    send_request(K2_COMMAND);
    assert_int_equal(receive_record(plaintext, &size), LINK_DATA);
}

static void expect_orderly_end(uint64_t version, int code)
{
    rig_expect_commit(&rig, version);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    rig_expect(&rig, WIRE_RECEIPT);
    rig_recorded(&rig);
    rig_assert_ended(&rig, code);
}

static void a_front_end_that_goes_takes_the_tpm_with_it_in_order(void **state)
{
    (void)state;
    rig_start(&rig);
    open_front();
    finish();
    shutdown(front, SHUT_RDWR);
    expect_orderly_end(1, SERVICE_AGAIN);
}

static void a_front_end_may_go_while_a_commit_is_under_way(void **state)
{
    (void)state;
    rig_start(&rig);
    open_front();
    finish();
    rig.stores = true;
    send_request(K2_COMMAND);
    rig_expect_commit(&rig, 1);
    shutdown(front, SHUT_RDWR);
    rig_expect_nothing(&rig);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    expect_orderly_end(2, SERVICE_AGAIN);
}

static void one_that_goes_before_it_finished_leaves_nothing(void **state)
{
    (void)state;
    rig_start(&rig);
    int early = connect_front();
    rig_run_for(&rig, 20000);
    close(early);
    rig_run_for(&rig, 20000);
    open_front();
    finish();
}

static void one_that_was_named_and_never_comes_is_not_waited_for_for_ever(void **state)
{
    (void)state;
    rig_start(&rig);
    rig_run_for(&rig, RIG_TIMEOUT_USEC * 3 / 2);
    expect_orderly_end(1, SERVICE_AGAIN);
}

static void a_record_that_is_none_of_the_session_ends_it_in_order(void **state)
{
    (void)state;
    struct err why;
    bool cure = false;
    uint8_t garbage[64] = {RECORD_DATA};
    const struct writer record = {.start = garbage, .size = sizeof garbage};
    rig_start(&rig);
    open_front();
    finish();
    send_record(K2_COMMAND, &record);
    const struct wire_frame frame = next_frame(stream);
    assert_int_equal(frame.kind, WIRE_FAILED);
    assert_ok(wire_parse_failed(frame.body, &why, &cure));
    assert_true(cure);
    expect_orderly_end(1, SERVICE_AGAIN);
}

static void frames_that_are_not_a_front_ends_close_it(void **state)
{
    (void)state;
    rig_start(&rig);
    open_front();
    finish();
    assert_ok(wire_send(stream, WIRE_STOP, NULL, 0));
    expect_orderly_end(1, SERVICE_AGAIN);
}

static void a_second_request_before_the_first_is_answered_closes_it(void **state)
{
    (void)state;
    rig_start(&rig);
    open_front();
    finish();
    rig.stores = true;
    send_request(K2_COMMAND);
    rig_expect_commit(&rig, 1);
    send_request(K2_COMMAND);
    rig_expect_nothing(&rig);
    rig_peer(&rig, RECORD_DATA, RIG_ANCHORED);
    expect_orderly_end(2, SERVICE_AGAIN);
    assert_int_equal(rig.number[INSTANCE_RECORD], 2);
}

static void an_enclave_that_is_lost_is_told(void **state)
{
    (void)state;
    struct err why;
    bool cure = false;
    rig_start(&rig);
    open_front();
    finish();
    rig.fault = FAIL(SGX_FAULT);
    send_request(K2_COMMAND);
    const struct wire_frame frame = next_frame(stream);
    assert_int_equal(frame.kind, WIRE_FAILED);
    assert_ok(wire_parse_failed(frame.body, &why, &cure));
    assert_true(cure);
    rig_expect_health(&rig, HEALTH_BROKEN);
    shutdown(front, SHUT_RDWR);
    rig_run_for(&rig, 20000);
    rig_assert_ended(&rig, SERVICE_AGAIN);
}

static void shutdown_of_the_client_ends_the_process(void **state)
{
    (void)state;
    rig_start(&rig);
    open_front();
    finish();
    assert_ok(wire_send(stream, WIRE_SHUTDOWN, NULL, 0));
    shutdown(front, SHUT_WR);
    expect_orderly_end(1, SERVICE_ENDED);
}

#define GATE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        GATE_TEST(a_front_end_asks_and_is_answered),
        GATE_TEST(nobody_is_heard_before_the_enclave_is_named),
        GATE_TEST(a_second_front_end_is_told_and_closed),
        GATE_TEST(a_front_end_that_goes_takes_the_tpm_with_it_in_order),
        GATE_TEST(a_front_end_may_go_while_a_commit_is_under_way),
        GATE_TEST(one_that_goes_before_it_finished_leaves_nothing),
        GATE_TEST(one_that_was_named_and_never_comes_is_not_waited_for_for_ever),
        GATE_TEST(a_record_that_is_none_of_the_session_ends_it_in_order),
        GATE_TEST(frames_that_are_not_a_front_ends_close_it),
        GATE_TEST(a_second_request_before_the_first_is_answered_closes_it),
        GATE_TEST(an_enclave_that_is_lost_is_told),
        GATE_TEST(shutdown_of_the_client_ends_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
