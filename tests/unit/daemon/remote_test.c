/* The other vtpmd's admin.sock, from the client's end: what is no answer, what comes unasked, and in which ways it ends. */
#include "untrusted/daemon/remote.h"

#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fakes/assertions.h"

#define GREETING "{\"vtpm\":{\"version\":\"0\",\"api\":1}}\n"
#define LONGEST  65536u

static struct remote *remote;
static sd_event *event;
static int far; /* the test's end */

/* What was told. */
static struct {
    unsigned answers, ends;
    struct err result;
    char reason[128];
    bool has_value;
    int fd;
    bool asks;   /* again, when it is answered */
    bool closes; /* when it is told anything */
} heard;

static void ask(void);

static void on_answer(void *ctx, struct err result, const char *reason, const json_t *value, int fd)
{
    (void)ctx;
    heard.answers++;
    heard.result = result;
    (void)snprintf(heard.reason, sizeof heard.reason, "%s", reason ? reason : "");
    heard.has_value = json_is_object(value);
    if (heard.fd >= 0) close(heard.fd);
    heard.fd = fd;
    if (heard.closes) remote_close(&remote);
    if (heard.asks) ask();
    heard.asks = false;
}

static void on_ended(void *ctx)
{
    (void)ctx;
    heard.ends++;
    if (heard.closes) remote_close(&remote);
}

static int open_remote(void **state)
{
    (void)state;
    int pair[2];
    memset(&heard, 0, sizeof heard);
    heard.fd = -1;
    assert_true(sd_event_new(&event) >= 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    far = pair[1];
    assert_ok(remote_open(event, pair[0], on_ended, NULL, &remote));
    return 0;
}

static int close_remote(void **state)
{
    (void)state;
    remote_close(&remote);
    remote_close(&remote); /* safe on NULL */
    if (far >= 0) close(far);
    if (heard.fd >= 0) close(heard.fd);
    sd_event_unref(event);
    return 0;
}

static void ask(void)
{
    assert_ok(remote_ask(remote, "show", json_pack("{s:s}", "instance", "one"), on_answer));
}

static void turn(void)
{
    for (unsigned i = 0; i < 8; i++)
        assert_true(sd_event_run(event, 0) >= 0);
}

static void say(const char *text)
{
    assert_int_equal(send(far, text, strlen(text), MSG_NOSIGNAL), strlen(text));
    turn();
}

/* With the writing end of a pipe, of which the reading one is returned. */
static int say_with_pipe(const char *text)
{
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.aligned = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
    struct iovec part = {(void *)(uintptr_t)text, strlen(text)};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    int pipe_ends[2];
    assert_int_equal(pipe2(pipe_ends, O_CLOEXEC), 0);
    memcpy(CMSG_DATA(&control.aligned), &pipe_ends[1], sizeof pipe_ends[1]);
    assert_int_equal(sendmsg(far, &message, MSG_NOSIGNAL), strlen(text));
    close(pipe_ends[1]);
    turn();
    return pipe_ends[0];
}

/* Nobody has the other end any more. */
static bool is_over(int fd)
{
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    return poll(&wait, 1, 0) == 1 && (wait.revents & POLLHUP);
}

static void assert_answered(unsigned answers, uint16_t code)
{
    assert_int_equal(heard.answers, answers);
    assert_int_equal(heard.result.code, code);
}

static void a_question_is_one_line_and_answered_once(void **state)
{
    (void)state;
    char line[128] = "";
    say(GREETING);
    ask();
    assert_true(recv(far, line, sizeof line - 1, MSG_DONTWAIT) > 0);
    assert_string_equal(line, "{\"execute\":\"show\",\"arguments\":{\"instance\":\"one\"}}\n");
    assert_int_equal(heard.answers, 0);
    say("{\"return\":{\"id\":\"x\"}}\n");
    assert_answered(1, ERR_NONE);
    assert_true(heard.has_value);
    assert_int_equal(heard.fd, -1);
    assert_int_equal(heard.ends, 0);
}

static void the_greeting_may_come_behind_the_question(void **state)
{
    (void)state;
    ask();
    say(GREETING);
    assert_int_equal(heard.answers, 0);
    say("{\"return\":{}}\n");
    assert_answered(1, ERR_NONE);
}

static void an_answer_may_come_byte_by_byte(void **state)
{
    (void)state;
    ask();
    for (const char *next = GREETING "{\"return\":{}}\n"; *next; next++)
        say((char[]){*next, '\0'});
    assert_answered(1, ERR_NONE);
}

static void an_error_comes_with_its_words(void **state)
{
    (void)state;
    ask();
    say("{\"error\":{\"class\":\"NO_INSTANCE\",\"code\":160,\"desc\":\"one: there is none\"}}\n");
    assert_answered(1, ERR_NO_INSTANCE);
    assert_string_equal(heard.reason, "one: there is none");
    assert_false(heard.has_value);
    ask();
    say("{\"error\":{\"code\":65535,\"desc\":7}}\n");
    assert_answered(2, 65535);
    assert_string_equal(heard.reason, "");
}

static void what_is_no_answer_is_the_end(void **state)
{
    static const char *const lines[] = {
        "\n",
        "no JSON\n",
        "{\n",
        "[]\n",
        "\"return\"\n",
        "{}\n",
        "{\"return\":1}\n",
        "{\"return\":[]}\n",
        "{\"return\":null}\n",
        "{\"return\":{},\"return\":{}}\n",
        "{\"return\":{}} more\n",
        "{\"error\":{}}\n",
        "{\"error\":1}\n",
        "{\"error\":{\"code\":0}}\n",
        "{\"error\":{\"code\":-1}}\n",
        "{\"error\":{\"code\":65536}}\n",
        "{\"error\":{\"code\":\"160\"}}\n",
        "{\"event\":\"started\"}\n",
        "{\"return\":{\"\xff\":1}}\n",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        if (i) open_remote(state);
        ask();
        say(lines[i]);
        assert_answered(1, ERR_PROTOCOL);
        assert_int_equal(heard.ends, 0);
        /* Nothing more is heard, and nothing can be asked. */
        say("{\"return\":{}}\n");
        assert_answered(1, ERR_PROTOCOL);
        assert_err(remote_ask(remote, "show", json_object(), on_answer), PEER_CLOSED);
        if (i + 1 < sizeof lines / sizeof *lines) close_remote(state);
    }
}

static void an_answer_that_nobody_asked_for_is_the_end(void **state)
{
    (void)state;
    say(GREETING);
    say("{\"return\":{}}\n");
    assert_int_equal(heard.answers, 0);
    assert_int_equal(heard.ends, 1);
    assert_err(remote_ask(remote, "show", json_object(), on_answer), PEER_CLOSED);
}

static void a_second_answer_is_the_end(void **state)
{
    (void)state;
    ask();
    say("{\"return\":{}}\n{\"error\":{\"code\":160}}\n");
    assert_answered(1, ERR_NONE);
    assert_int_equal(heard.ends, 1);
}

/* The line that is there already answers what is asked from within the answer before. */
static void it_may_be_asked_again_from_within_an_answer(void **state)
{
    (void)state;
    heard.asks = true;
    ask();
    say("{\"return\":{}}\n{\"error\":{\"code\":160}}\n");
    assert_answered(2, ERR_NO_INSTANCE);
    assert_int_equal(heard.ends, 0);
}

static void it_may_be_closed_from_within_whatever_it_tells(void **state)
{
    static const char *const lines[] = {"{\"return\":{}}\n{\"return\":{}}\n", "no JSON\n"};
    for (size_t i = 0; i < 4; i++) {
        if (i) open_remote(state);
        heard.closes = true;
        if (i < 2) ask();
        say(lines[i % 2]);
        assert_null(remote);
        assert_int_equal(heard.answers, i < 2);
        assert_int_equal(heard.ends, i >= 2);
        if (i < 3) close_remote(state);
    }
}

static void its_end_is_an_answer_or_told(void **state)
{
    ask();
    shutdown(far, SHUT_WR);
    turn();
    assert_answered(1, ERR_PEER_CLOSED);
    assert_string_equal(heard.reason, "the other vtpmd has ended, or its connection has");
    assert_int_equal(heard.ends, 0);
    close_remote(state);
    open_remote(state);
    say(GREETING);
    close(far);
    far = -1;
    turn();
    assert_int_equal(heard.answers, 0);
    assert_int_equal(heard.ends, 1);
    assert_err(remote_ask(remote, "show", json_object(), on_answer), PEER_CLOSED);
}

static void a_line_that_does_not_end_within_what_a_line_may_have_is_the_end(void **state)
{
    static char line[LONGEST + 2];
    (void)state;
    memset(line, ' ', sizeof line - 1);
    ask();
    say(line);
    turn();
    assert_answered(1, ERR_PEER_CLOSED);
}

static void the_longest_line_is_an_answer(void **state)
{
    static char line[LONGEST + 1];
    (void)state;
    memset(line, ' ', sizeof line - 1);
    memcpy(line, "{\"return\":{}}", 13);
    line[LONGEST - 1] = '\n';
    ask();
    say(line);
    turn();
    assert_answered(1, ERR_NONE);
}

/* It reads nothing, or does not take a whole request. */
static void one_that_takes_nothing_is_not_waited_for(void **state)
{
    (void)state;
    char *text = malloc(4u << 20);
    assert_non_null(text);
    memset(text, 'a', (4u << 20) - 1);
    text[(4u << 20) - 1] = '\0';
    assert_err(remote_ask(remote, "show", json_pack("{s:s}", "instance", text), on_answer), PEER_CLOSED);
    free(text);
    shutdown(far, SHUT_RD);
    assert_err(remote_ask(remote, "show", json_object(), on_answer), PEER_CLOSED);
    assert_int_equal(heard.answers, 0);
}

static void a_descriptor_goes_with_the_answer(void **state)
{
    (void)state;
    ask();
    const int kept = say_with_pipe("{\"return\":{}}\n");
    assert_answered(1, ERR_NONE);
    assert_true(heard.fd >= 0);
    assert_false(is_over(kept));
    close(heard.fd);
    heard.fd = -1;
    assert_true(is_over(kept));
    close(kept);
}

static void of_several_descriptors_the_last_one_is_kept(void **state)
{
    (void)state;
    ask();
    const int first = say_with_pipe("{\"return\"");
    const int second = say_with_pipe(":{}}\n");
    assert_answered(1, ERR_NONE);
    assert_true(is_over(first));
    assert_false(is_over(second));
    close(first);
    close(second);
}

static void descriptors_that_no_answer_takes_are_closed_with_it(void **state)
{
    ask();
    const int half = say_with_pipe("{\"return\"");
    assert_false(is_over(half));
    close_remote(state);
    assert_true(is_over(half));
    close(half);
    open_remote(state);
    ask();
    const int wrong = say_with_pipe("{\"return\":1}\n");
    assert_answered(1, ERR_PROTOCOL);
    close(heard.fd);
    heard.fd = -1;
    assert_true(is_over(wrong));
    close(wrong);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_remote, close_remote)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_question_is_one_line_and_answered_once),
        TEST(the_greeting_may_come_behind_the_question),
        TEST(an_answer_may_come_byte_by_byte),
        TEST(an_error_comes_with_its_words),
        TEST(what_is_no_answer_is_the_end),
        TEST(an_answer_that_nobody_asked_for_is_the_end),
        TEST(a_second_answer_is_the_end),
        TEST(it_may_be_asked_again_from_within_an_answer),
        TEST(it_may_be_closed_from_within_whatever_it_tells),
        TEST(its_end_is_an_answer_or_told),
        TEST(a_line_that_does_not_end_within_what_a_line_may_have_is_the_end),
        TEST(the_longest_line_is_an_answer),
        TEST(one_that_takes_nothing_is_not_waited_for),
        TEST(a_descriptor_goes_with_the_answer),
        TEST(of_several_descriptors_the_last_one_is_kept),
        TEST(descriptors_that_no_answer_takes_are_closed_with_it),
    };
    return cmocka_run_group_tests_name("remote", tests, NULL, NULL);
}
