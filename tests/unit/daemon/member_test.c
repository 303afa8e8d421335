/*
 * Between two vtpmd: each is a whole one, here and there, and what goes between them passes through the test, which says
 * something else in the other one's place, or nothing, at each step. Whatever was said, what was asked for is answered
 * once, and asking again goes on.
 */
#include "untrusted/daemon/member.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "abi/blob.h"
#include "tests/fakes/assertions.h"
#include "tests/unit/daemon/host.h"
#include "untrusted/daemon/incoming.h"

#define TEXT_MAX 16384u

struct outcome {
    bool answered;
    struct err result;
    char reason[256];
};

static struct host here, there;
static struct admin *admin_here, *admin_there;
static struct host *asker, *asked; /* here and there, unless a test lets others ask */
static struct guest source;        /* there */
static struct guest target;        /* here */
static int line;                   /* the other end of what the asker asks through */
static int through;                /* to the asked */
static struct outcome outcome;
static unsigned descriptors; /* before the hosts */

static void hang_up(int *fd)
{
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

static void keep_outcome(void *ctx, struct err result, const char *reason, struct instance *instance)
{
    struct outcome *out = ctx;
    (void)instance;
    assert_false(out->answered);
    *out = (struct outcome){.answered = true, .result = result};
    (void)snprintf(out->reason, sizeof out->reason, "%s", reason ? reason : "");
}

/* --- lines -------------------------------------------------------------------------------------------------------- */

/* With the descriptor that came along, or -1. "": the connection has ended. */
static void read_line(struct host *turning, int fd, char out[TEXT_MAX], int *out_passed)
{
    size_t size = 0;
    *out_passed = -1;
    for (unsigned turns = 0; turns < 500 && size + 1 < TEXT_MAX;) {
        union {
            struct cmsghdr aligned;
            char bytes[CMSG_SPACE(sizeof(int))];
        } control;
        struct iovec part = {out + size, 1};
        struct msghdr message = {
            .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        const ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (got == 0) break;
        if (got < 0) {
            assert_true(sd_event_run(turning->supervisor.event, 20000) >= 0);
            turns++;
            continue;
        }
        if (CMSG_FIRSTHDR(&message)) memcpy(out_passed, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof *out_passed);
        if (out[size] == '\n') {
            out[size] = '\0';
            return;
        }
        size++;
    }
    assert_int_equal(size, 0);
    *out = '\0';
}

static void send_line(int fd, const char *text, int passed)
{
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.aligned = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
    struct iovec parts[] = {{(void *)(uintptr_t)text, strlen(text)}, {(void *)(uintptr_t) "\n", 1}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    memcpy(CMSG_DATA(&control.aligned), &passed, sizeof passed);
    if (passed >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
    }
    assert_int_equal(sendmsg(fd, &message, MSG_NOSIGNAL), strlen(text) + 1);
}

/* --- what is asked ------------------------------------------------------------------------------------------------ */

/* A new connection to there, of which the test is the other end. */
static int hand_over(int *out_line)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    *out_line = pair[1];
    return pair[0];
}

static int hand_over_anew(void)
{
    hang_up(&line);
    outcome = (struct outcome){0};
    return hand_over(&line);
}

static void ask_join(void)
{
    member_join(&asker->supervisor, hand_over_anew(), keep_outcome, &outcome);
}

static void ask_move(void)
{
    member_move(&asker->supervisor, hand_over_anew(), "one", keep_outcome, &outcome);
}

static void ask_incoming(void)
{
    member_start_incoming(&here.supervisor, hand_over_anew(), "one", NULL, NULL, keep_outcome, &outcome);
}

static bool is_answered(void *ctx)
{
    return ((struct outcome *)ctx)->answered;
}

static void expect_outcome(uint16_t code)
{
    host_until(asker, is_answered, &outcome);
    assert_int_equal(outcome.result.code, code);
}

static void next_question(const char *verb, char out[TEXT_MAX])
{
    int passed = -1;
    read_line(asker, line, out, &passed);
    assert_int_equal(passed, -1);
    assert_non_null(strstr(out, verb));
}

/* What the asked says to it. */
static void ask_there(const char *question, char out[TEXT_MAX], int *out_passed)
{
    send_line(through, question, -1);
    read_line(asked, through, out, out_passed);
}

static void let_through(const char *verb)
{
    char text[TEXT_MAX];
    int passed = -1;
    next_question(verb, text);
    ask_there(text, text, &passed);
    send_line(line, text, passed);
    hang_up(&passed);
}

static void let_through_members(unsigned count)
{
    let_through("\"show\"");
    for (unsigned i = 0; i < count; i++)
        let_through("\"member\"");
}

static bool is_idle(void *ctx)
{
    return !((struct host *)ctx)->supervisor.moves;
}

/* Nothing of it is left, and nothing was answered twice. */
static void assert_idle(void)
{
    host_until(asker, is_idle, asker);
    host_run(asker, 1000);
}

static void join(void)
{
    ask_join();
    let_through("\"member\"");
    expect_outcome(ERR_NONE);
    assert_idle();
}

static void move(void)
{
    ask_move();
    let_through_members(3);
    expect_outcome(ERR_NONE);
    assert_idle();
}

static const struct manager_row *row_of(const struct host *host)
{
    assert_int_equal(host->supervisor.roster.count, 1);
    return &host->supervisor.roster.list[0]->row;
}

static void assert_came(void)
{
    host_run(&there, 100000);
    assert_int_equal(row_of(&here)->state, MANAGER_STOPPED_STATE);
    assert_int_equal(row_of(&here)->version, 1);
    assert_int_equal(row_of(&there)->state, MANAGER_MOVED);
    assert_true(host_told(&here, "arrived"));
    assert_true(host_told(&there, "moved"));
}

/* From now on the one asks the other. */
static void let_ask(struct host *one, struct host *other)
{
    char greeting[TEXT_MAX];
    int passed = -1;
    hang_up(&through);
    asker = one;
    asked = other;
    through = host_connect_admin(other);
    read_line(other, through, greeting, &passed);
}

/* --- the hosts ---------------------------------------------------------------------------------------------------- */

/* There is an instance, "one", with a state, that serves. */
static int open_hosts(void **state)
{
    (void)state;
    line = through = -1;
    descriptors = host_count_descriptors();
    host_open(&there);
    host_open(&here);
    admin_there = host_open_admin(&there);
    admin_here = host_open_admin(&here);
    let_ask(&here, &there);
    source = (struct guest){.host = &there, .line = -1};
    target = (struct guest){.host = &here, .line = -1};
    guest_make(&there, &source);
    guest_send_commit(&source);
    guest_expect_anchored(&source);
    return 0;
}

static int close_hosts(void **state)
{
    (void)state;
    guest_end(&source);
    guest_end(&target);
    admin_close(&admin_here);
    admin_close(&admin_there);
    host_close(&here);
    host_close(&there);
    hang_up(&line);
    hang_up(&through);
    assert_int_equal(host_count_descriptors(), descriptors); /* none is left */
    return 0;
}

static int open_member(void **state)
{
    open_hosts(state);
    join();
    return 0;
}

/* The one there has ended with a receipt. */
static int open_stopped(void **state)
{
    open_member(state);
    host_stop(&there);
    (void)guest_expect(&source, WIRE_STOP);
    guest_receipt(&source);
    guest_end(&source);
    host_await_answer(&there);
    assert_ok(there.result);
    return 0;
}

/* A process here waits for its client. */
static int open_candidate(void **state)
{
    open_member(state);
    ask_incoming();
    let_through_members(1);
    guest_accept(&here, &target);
    here.instance = here.supervisor.roster.list[0];
    guest_hello(&target, false);
    guest_serve(&target);
    expect_outcome(ERR_NONE);
    assert_true(incoming_is_ready(here.instance));
    return 0;
}

/* --- what there may say in place of an answer ---------------------------------------------------------------------- */

#define ZEROS_64     "0000000000000000000000000000000000000000000000000000000000000000"
#define ZEROS_512    ZEROS_64 ZEROS_64 ZEROS_64 ZEROS_64 ZEROS_64 ZEROS_64 ZEROS_64 ZEROS_64
#define ZEROS_2048   ZEROS_512 ZEROS_512 ZEROS_512 ZEROS_512
#define MESSAGE(hex) "{\"return\":{\"id\":\"one\",\"message\":\"" hex "\",\"version\":0}}"

_Static_assert(sizeof ZEROS_2048 - 1 == 2 * PEER_MESSAGE_MAX, "the largest message");

static const char *const nonsense[] = {
    NULL, /* the connection ends */
    "no JSON",
    "{}",
    "{\"return\":1}",
    "{\"return\":{}}",
    "{\"return\":{\"id\":1,\"message\":1,\"version\":0}}",
    MESSAGE(""),
    MESSAGE("0g"),
    MESSAGE("000"),
    MESSAGE("00"),
    MESSAGE(ZEROS_2048),
    MESSAGE(ZEROS_2048 "00"),
    "{\"error\":{\"code\":160,\"desc\":\"there is none\"}}",
    "{\"error\":{\"code\":65535}}",
};
#define NONSENSE_COUNT (sizeof nonsense / sizeof *nonsense)

static void say_nonsense(const char *verb, const char *text)
{
    char question[TEXT_MAX];
    next_question(verb, question);
    if (text)
        send_line(line, text, -1);
    else
        hang_up(&line);
    host_until(&here, is_answered, &outcome);
    assert_idle();
}

static void a_join_that_is_answered_with_nonsense_is_none(void **state)
{
    (void)state;
    struct manager_status before, after;
    host_status(&here, &before);
    for (size_t i = 0; i < NONSENSE_COUNT; i++) {
        ask_join();
        say_nonsense("\"member\"", nonsense[i]);
        assert_true(outcome.result.code);
        assert_true(outcome.reason[0]);
    }
    host_status(&here, &after);
    assert_memory_equal(&before.domain, &after.domain, sizeof before.domain);
    join();
    host_status(&here, &after);
    host_status(&there, &before);
    assert_memory_equal(&before.domain, &after.domain, sizeof before.domain);
}

/* Before MOVE nothing is decided, with it the one there has given it away, and is asked again. */
static void a_move_that_is_answered_with_nonsense_is_asked_for_again(void **state)
{
    (void)state;
    for (size_t i = 0; i < NONSENSE_COUNT; i++) {
        ask_move();
        say_nonsense("\"show\"", nonsense[i]);
        assert_true(outcome.result.code);
    }
    for (unsigned members = 0; members < 2; members++) {
        assert_int_equal(row_of(&there)->state, MANAGER_STOPPED_STATE);
        for (size_t i = 0; i < NONSENSE_COUNT; i++) {
            ask_move();
            let_through_members(members);
            say_nonsense("\"member\"", nonsense[i]);
            assert_true(outcome.result.code);
        }
    }
    assert_int_equal(row_of(&here)->state, MANAGER_MOVED);
    assert_false(host_told(&here, "arrived"));
    move();
    assert_came();
}

/* It has come: what is missing is that it is forgotten there, which is all that is asked for again. */
static void a_confirmation_that_is_answered_with_nonsense_is_an_error_when_it_is_asked_for_again(void **state)
{
    (void)state;
    ask_move();
    let_through_members(2);
    say_nonsense("\"member\"", nonsense[0]);
    assert_ok(outcome.result);
    for (size_t i = 1; i < NONSENSE_COUNT; i++) {
        ask_move();
        let_through_members(0);
        say_nonsense("\"member\"", nonsense[i]);
        /* A message of any content is a confirmation: whoever says so could as well keep the key. */
        assert_true(!outcome.result.code || strstr(outcome.reason, "keeps its key"));
    }
    ask_move();
    let_through_members(0);
    say_nonsense("\"member\"", NULL);
    assert_int_equal(outcome.result.code, ERR_PEER_CLOSED);
    assert_came();
    assert_int_equal(row_of(&there)->version, 1);
    ask_move();
    let_through_members(1);
    expect_outcome(ERR_NONE);
    assert_idle();
    assert_came();
    assert_int_equal(row_of(&there)->version, 0);
}

/* It has come, there keeps its key, and it goes on to a third one. */
static void pass_on_unconfirmed(void)
{
    static struct host third;
    ask_move();
    let_through_members(2);
    say_nonsense("\"member\"", NULL);
    assert_ok(outcome.result);
    host_open(&third);
    let_ask(&third, &here);
    join();
    move();
    assert_int_equal(row_of(&third)->state, MANAGER_STOPPED_STATE);
    let_ask(&here, &there);
    hang_up(&line);
    host_close(&third);
    assert_int_equal(row_of(&here)->state, MANAGER_MOVED);
}

static void what_was_passed_on_before_it_was_confirmed_is_confirmed_when_it_is_asked_for_again(void **state)
{
    (void)state;
    static const char *const unconfirmed[] = {NULL, "{\"error\":{\"code\":160,\"desc\":\"one: there is none\"}}"};
    pass_on_unconfirmed();
    for (size_t i = 0; i < sizeof unconfirmed / sizeof *unconfirmed; i++) {
        ask_move();
        let_through_members(0);
        say_nonsense("\"member\"", unconfirmed[i]);
        assert_true(outcome.result.code);
        assert_true(outcome.reason[0]);
        assert_int_equal(row_of(&there)->version, 1);
    }
    for (unsigned turn = 0; turn < 2; turn++) { /* the second time there is nothing to erase any more */
        ask_move();
        let_through_members(1);
        expect_outcome(ERR_NONE);
        assert_idle();
        assert_int_equal(row_of(&there)->version, 0);
        assert_int_equal(row_of(&here)->state, MANAGER_MOVED);
    }
}

/* One that lives there, of a ledger that was brought back, is no one's to confirm. */
static void what_was_passed_on_and_is_not_shown_as_moved_is_looked_at(void **state)
{
    (void)state;
    json_t *const shown[] = {json_string("stopped"), json_integer(6), NULL};
    pass_on_unconfirmed();
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
        char text[TEXT_MAX];
        int passed = -1;
        ask_move();
        next_question("\"show\"", text);
        ask_there(text, text, &passed);
        json_t *answer = json_loads(text, 0, NULL);
        json_t *row = json_object_get(answer, "return");
        assert_int_equal(shown[i] ? json_object_set_new(row, "state", shown[i]) : json_object_del(row, "state"), 0);
        char *changed = json_dumps(answer, JSON_COMPACT);
        send_line(line, changed, -1);
        free(changed);
        json_decref(answer);
        next_question("\"message\":\"02", text); /* LOOK */
        ask_there(text, text, &passed);
        send_line(line, text, -1);
        expect_outcome(ERR_VERB_STATE);
        assert_idle();
        assert_int_equal(row_of(&there)->version, 1);
    }
}

/* It is asked of itself, or of a ledger that was brought back. */
static void what_lives_here_and_is_not_shown_as_moved_is_not_confirmed(void **state)
{
    (void)state;
    let_ask(&there, &there);
    ask_move();
    let_through("\"show\"");
    expect_outcome(ERR_VERB_STATE);
    assert_non_null(strstr(outcome.reason, "it is here"));
    assert_idle();
    assert_int_equal(row_of(&there)->version, 1);
    let_ask(&here, &there);
    move();
    assert_came();
}

static void what_has_come_is_waited_for_by_no_candidate(void **state)
{
    (void)state;
    move();
    ask_incoming();
    let_through_members(1);
    expect_outcome(ERR_MOVED);
    assert_idle();
    assert_came();
}

/* It was here, and has moved home: what was recorded here then says nothing about what there gives away now. */
static void what_comes_again_and_breaks_off_is_brought_and_not_confirmed(void **state)
{
    (void)state;
    char question[TEXT_MAX];
    int passed = -1;
    move();
    let_ask(&there, &here);
    move();
    let_ask(&here, &there);
    ask_move();
    let_through_members(1);
    next_question("\"member\"", question);
    ask_there(question, question, &passed);
    hang_up(&passed);
    hang_up(&line);
    assert_idle();
    assert_true(outcome.result.code);
    assert_int_equal(row_of(&here)->state, MANAGER_MOVED);
    assert_int_equal(row_of(&there)->state, MANAGER_MOVED);
    admin_close(&admin_here);
    host_restart(&here, NULL);
    move();
    assert_came();
}

static void the_others_words_are_told(void **state)
{
    (void)state;
    ask_move();
    say_nonsense("\"show\"", "{\"error\":{\"code\":160,\"desc\":\"one: there is none\"}}");
    assert_err(outcome.result, NO_INSTANCE);
    assert_string_equal(outcome.reason, "one: there is none");
}

/* An answer is one to the last question only. */
static void an_answer_to_another_question_is_refused(void **state)
{
    (void)state;
    char question[TEXT_MAX], first[TEXT_MAX];
    int passed = -1;
    ask_move();
    let_through("\"show\"");
    next_question("\"member\"", question);
    ask_there(question, first, &passed);
    send_line(line, first, -1);
    say_nonsense("\"member\"", first); /* LOOK's to MOVE */
    assert_true(outcome.result.code);
    ask_move();
    let_through("\"show\"");
    say_nonsense("\"member\"", first); /* to another LOOK */
    assert_true(outcome.result.code);
    assert_int_equal(row_of(&there)->state, MANAGER_STOPPED_STATE);
    move();
    assert_came();
}

static void two_answers_at_once_are_one_too_many(void **state)
{
    (void)state;
    char text[TEXT_MAX];
    int passed = -1;
    ask_move();
    next_question("\"show\"", text);
    ask_there(text, text, &passed);
    send_line(line, text, -1);
    send_line(line, text, -1); /* this one is taken for LOOK's */
    next_question("\"member\"", text);
    host_until(&here, is_answered, &outcome);
    assert_true(outcome.result.code);
    assert_idle();
    move();
    assert_came();
}

/* --- the state that comes with a MOVE ------------------------------------------------------------------------------ */

static int file_of(const void *bytes, size_t size)
{
    const int fd = memfd_create("state", MFD_CLOEXEC);
    assert_true(fd >= 0);
    if (bytes) assert_int_equal(write(fd, bytes, size), size);
    if (!bytes) assert_int_equal(ftruncate(fd, (off_t)size), 0);
    return fd;
}

/* MOVE's answer as it is, but for the version, if it is given, and the descriptor. */
static void move_with(json_t *version, int state, uint16_t code)
{
    char text[TEXT_MAX];
    int passed = -1;
    ask_move();
    let_through_members(1);
    next_question("\"member\"", text);
    ask_there(text, text, &passed);
    assert_true(passed >= 0);
    hang_up(&passed);
    json_t *answer = json_loads(text, 0, NULL);
    if (version) json_object_set_new(json_object_get(answer, "return"), "version", version);
    char *changed = json_dumps(answer, JSON_COMPACT);
    send_line(line, changed, state);
    free(changed);
    json_decref(answer);
    hang_up(&state);
    expect_outcome(code);
    assert_idle();
}

static void a_state_that_is_not_the_recorded_one_is_not_taken(void **state)
{
    (void)state;
    int pipe_ends[2];
    assert_int_equal(pipe(pipe_ends), 0);
    close(pipe_ends[1]);
    move_with(NULL, -1, ERR_PROTOCOL);
    move_with(NULL, pipe_ends[0], ERR_PROTOCOL);
    move_with(NULL, file_of(NULL, 0), ERR_PROTOCOL);
    move_with(NULL, file_of(NULL, STATE_MAX + 1), ERR_PROTOCOL);
    move_with(NULL, file_of(NULL, 6), ERR_STATE_NOT_RECORDED);
    move_with(NULL, file_of("sealed", 5), ERR_STATE_NOT_RECORDED);
    move_with(json_integer(2), file_of("sealed", 6), ERR_STATE_MISSING);
    move_with(json_integer(0), file_of("sealed", 6), ERR_STATE_MISSING);
    move_with(json_integer(-1), file_of("sealed", 6), ERR_PROTOCOL);
    move_with(json_string("1"), file_of("sealed", 6), ERR_STATE_MISSING);
    assert_int_equal(row_of(&here)->state, MANAGER_MOVED);
    move();
    assert_came();
}

/* --- when it breaks off ------------------------------------------------------------------------------------------- */

static void a_silent_one_is_given_up_in_time(void **state)
{
    (void)state;
    char question[TEXT_MAX];
    here.config.commit_timeout = 0u - 29u; /* with what is given beyond it: a second */
    ask_move();
    let_through("\"show\"");
    next_question("\"member\"", question);
    expect_outcome(ERR_TIMEOUT);
    assert_idle();
    ask_join();
    next_question("\"member\"", question);
    expect_outcome(ERR_TIMEOUT);
    assert_idle();
}

static void a_vtpmd_that_ends_answers(void **state)
{
    (void)state;
    char question[TEXT_MAX];
    ask_move();
    let_through("\"show\"");
    next_question("\"member\"", question);
    member_end_all(&here.supervisor);
    assert_true(outcome.answered);
    assert_err(outcome.result, LINK_CLOSED);
    assert_idle();
    move();
    assert_came();
}

static void one_that_is_under_way_is_not_begun_again(void **state)
{
    (void)state;
    struct outcome second = {0};
    int other = -1;
    int passed = -1;
    char text[TEXT_MAX];
    ask_move();
    let_through("\"show\"");
    member_move(&here.supervisor, hand_over(&other), "one", keep_outcome, &second);
    read_line(&here, other, text, &passed);
    ask_there(text, text, &passed);
    send_line(other, text, -1);
    host_until(&here, is_answered, &second);
    assert_err(second.result, VERB_STATE);
    close(other);
    let_through("\"member\"");
    let_through("\"member\"");
    let_through("\"member\"");
    expect_outcome(ERR_NONE);
    assert_idle();
    assert_came();
}

static void what_is_no_question_is_refused(void **state)
{
    (void)state;
    static const char *const questions[] = {"", "00", "0000000000000000", ZEROS_2048};
    for (size_t i = 0; i <= sizeof questions / sizeof *questions; i++) {
        char text[TEXT_MAX];
        char hex[2 * MEMBER_QUESTION_SIZE + 1];
        int passed = -1;
        memset(hex, '3', sizeof hex - 1);
        hex[sizeof hex - 1] = '\0';
        (void)snprintf(text, sizeof text, "{\"execute\":\"member\",\"arguments\":{\"message\":\"%s\"}}",
                       i < sizeof questions / sizeof *questions ? questions[i] : hex);
        ask_there(text, text, &passed);
        assert_non_null(strstr(text, "\"error\""));
        assert_int_equal(passed, -1);
    }
    assert_int_equal(row_of(&there)->state, MANAGER_STOPPED_STATE);
    move();
    assert_came();
}

/* --- of one that runs --------------------------------------------------------------------------------------------- */

static bool has_no_incoming(void *ctx)
{
    return !((struct host *)ctx)->instance->incoming;
}

static void assert_undisturbed(void)
{
    host_until(&here, has_no_incoming, &here);
    assert_idle();
    guest_send_commit(&source);
    guest_expect_anchored(&source);
    assert_int_equal(row_of(&there)->state, MANAGER_HELD);
}

static void a_candidate_takes_over_and_the_one_there_is_fenced(void **state)
{
    (void)state;
    guest_redeem(&target, 1, 1);
    let_through("\"member\"");
    let_through("\"member\"");
    (void)fake_instance_hear(&target.enclave, guest_expect(&target, WIRE_PEER), PEER_REDEEMED);
    assert_int_equal(guest_expect_closed(&source), ERR_FENCED);
    assert_idle();
    target.version = 1;
    guest_send_commit(&target);
    guest_expect_anchored(&target);
    assert_int_equal(row_of(&here)->state, MANAGER_HELD);
    assert_int_equal(row_of(&here)->start, 2);
    host_run(&there, 100000);
    assert_int_equal(row_of(&there)->state, MANAGER_MOVED);
    assert_int_equal(row_of(&there)->version, 0);
}

static void a_candidate_ends_with_the_connection_to_there(void **state)
{
    (void)state;
    hang_up(&line);
    (void)guest_expect_closed(&target);
    assert_undisturbed();
}

static void what_is_said_unasked_while_a_candidate_waits_ends_it(void **state)
{
    (void)state;
    send_line(line, "{\"return\":{}}", -1);
    (void)guest_expect_closed(&target);
    assert_undisturbed();
}

static void a_candidate_that_dies_is_forgotten(void **state)
{
    (void)state;
    char text[TEXT_MAX];
    int passed = -1;
    guest_end(&target);
    assert_undisturbed();
    read_line(&here, line, text, &passed);
    assert_string_equal(text, ""); /* the connection to there is over too */
}

/* It is given away there, and no process may have it: it comes as one that is stopped. */
static void a_candidate_whose_move_breaks_off_is_gone_and_asking_again_goes_on(void **state)
{
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        char question[TEXT_MAX];
        if (i) {
            ask_move();
            let_through_members(1);
        } else {
            guest_redeem(&target, 1, 1);
        }
        next_question("\"member\"", question);
        if (i == 0) {
            char text[TEXT_MAX];
            int passed = -1;
            ask_there(question, text, &passed);
            hang_up(&passed);
            assert_int_equal(guest_expect_closed(&source), ERR_FENCED);
        }
        hang_up(&line);
        assert_idle();
    }
    (void)guest_expect_closed(&target);
    assert_true(has_no_incoming(&here));
    move();
    assert_came();
}

int main(void)
{
#define JOIN_TEST(test)      cmocka_unit_test_setup_teardown(test, open_hosts, close_hosts)
#define STOPPED_TEST(test)   cmocka_unit_test_setup_teardown(test, open_stopped, close_hosts)
#define CANDIDATE_TEST(test) cmocka_unit_test_setup_teardown(test, open_candidate, close_hosts)
    const struct CMUnitTest tests[] = {
        JOIN_TEST(a_join_that_is_answered_with_nonsense_is_none),
        STOPPED_TEST(a_move_that_is_answered_with_nonsense_is_asked_for_again),
        STOPPED_TEST(a_confirmation_that_is_answered_with_nonsense_is_an_error_when_it_is_asked_for_again),
        STOPPED_TEST(what_was_passed_on_before_it_was_confirmed_is_confirmed_when_it_is_asked_for_again),
        STOPPED_TEST(what_was_passed_on_and_is_not_shown_as_moved_is_looked_at),
        STOPPED_TEST(what_lives_here_and_is_not_shown_as_moved_is_not_confirmed),
        STOPPED_TEST(what_has_come_is_waited_for_by_no_candidate),
        STOPPED_TEST(what_comes_again_and_breaks_off_is_brought_and_not_confirmed),
        STOPPED_TEST(the_others_words_are_told),
        STOPPED_TEST(an_answer_to_another_question_is_refused),
        STOPPED_TEST(two_answers_at_once_are_one_too_many),
        STOPPED_TEST(a_state_that_is_not_the_recorded_one_is_not_taken),
        STOPPED_TEST(a_silent_one_is_given_up_in_time),
        STOPPED_TEST(a_vtpmd_that_ends_answers),
        STOPPED_TEST(one_that_is_under_way_is_not_begun_again),
        STOPPED_TEST(what_is_no_question_is_refused),
        CANDIDATE_TEST(a_candidate_takes_over_and_the_one_there_is_fenced),
        CANDIDATE_TEST(a_candidate_ends_with_the_connection_to_there),
        CANDIDATE_TEST(what_is_said_unasked_while_a_candidate_waits_ends_it),
        CANDIDATE_TEST(a_candidate_that_dies_is_forgotten),
        CANDIDATE_TEST(a_candidate_whose_move_breaks_off_is_gone_and_asking_again_goes_on),
    };
    return cmocka_run_group_tests_name("member", tests, NULL, NULL);
}
