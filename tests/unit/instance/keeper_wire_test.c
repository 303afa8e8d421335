#include "tests/fakes/assertions.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "untrusted/instance/keeper_wire.h"
#include "untrusted/wire/pass.h"

static int worker;
static int keeper;

static int open_pair(void **state)
{
    (void)state;
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return -1;
    worker = pair[0];
    keeper = pair[1];
    return 0;
}

static int close_pair(void **state)
{
    (void)state;
    close(keeper);
    return close(worker);
}

static void words_without_fields(void **state)
{
    (void)state;
    struct keeper_message message;
    assert_ok(keeper_send_ready(worker));
    assert_ok(keeper_receive(keeper, &message));
    assert_int_equal(message.kind, KEEPER_READY);
    assert_ok(keeper_send_disconnected(worker));
    assert_ok(keeper_receive(keeper, &message));
    assert_int_equal(message.kind, KEEPER_DISCONNECTED);
}

static void a_word_with_a_descriptor_is_refused_and_closes_it(void **state)
{
    (void)state;
    struct keeper_message message;
    int pipes[2];
    uint8_t byte = 0;
    assert_int_equal(pipe(pipes), 0);
    assert_ok(pass_send(worker, KEEPER_READY, pipes[1]));
    close(pipes[1]);
    assert_err(keeper_receive(keeper, &message), BAD_VALUE);
    assert_int_equal(read(pipes[0], &byte, 1), 0); /* nobody has the other end any more */
    close(pipes[0]);
}

static void all_sessions_are_handed_over(void **state)
{
    (void)state;
    struct front_session sessions[FRONT_CONNECTIONS_MAX];
    struct keeper_message message;
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    for (uint8_t i = 0; i < FRONT_CONNECTIONS_MAX; i++)
        sessions[i] = (struct front_session){.fd = pipes[1], .endpoint = i, .waits = i == 5};
    assert_ok(keeper_send_hand_over(worker, sessions, FRONT_CONNECTIONS_MAX));
    assert_ok(keeper_receive(keeper, &message));
    assert_int_equal(message.kind, KEEPER_HAND_OVER);
    assert_int_equal(message.session_count, FRONT_CONNECTIONS_MAX);
    for (uint8_t i = 0; i < FRONT_CONNECTIONS_MAX; i++) {
        uint8_t byte = 0;
        assert_int_equal(message.sessions[i].endpoint, i);
        assert_int_equal(message.sessions[i].waits, i == 5);
        assert_int_equal(write(message.sessions[i].fd, &i, 1), 1);
        assert_int_equal(read(pipes[0], &byte, 1), 1);
        assert_int_equal(byte, i);
        close(message.sessions[i].fd);
    }
    close(pipes[0]);
    close(pipes[1]);
}

static void nobody_may_be_left_to_hand_over(void **state)
{
    (void)state;
    struct keeper_message message;
    assert_ok(keeper_send_hand_over(worker, NULL, 0));
    assert_ok(keeper_receive(keeper, &message));
    assert_int_equal(message.kind, KEEPER_HAND_OVER);
    assert_int_equal(message.session_count, 0);
}

static void a_worker_that_is_gone(void **state)
{
    (void)state;
    struct keeper_message message;
    shutdown(worker, SHUT_RDWR);
    assert_ok(keeper_receive(keeper, &message));
    assert_int_equal(message.kind, KEEPER_GONE);
}

static void nonsense_is_refused(void **state)
{
    (void)state;
    const struct {
        uint8_t bytes[200];
        size_t size;
    } rows[] = {
        {{0}, 1},
        {{4}, 1},
        {{KEEPER_READY}, 2},
        {{KEEPER_READY}, 17},
        {{KEEPER_DISCONNECTED}, 2},
        {{KEEPER_HAND_OVER, 0, 0}, 3},
        {{KEEPER_HAND_OVER}, 200},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct keeper_message message;
        assert_int_equal(send(worker, rows[i].bytes, rows[i].size, 0), rows[i].size);
        struct err result = keeper_receive(keeper, &message);
        if (result.code != ERR_BAD_VALUE && result.code != ERR_TRUNCATED && result.code != ERR_TRAILING)
            fail_msg("row %zu: %d", i, result.code);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(words_without_fields, open_pair, close_pair),
        cmocka_unit_test_setup_teardown(a_word_with_a_descriptor_is_refused_and_closes_it, open_pair, close_pair),
        cmocka_unit_test_setup_teardown(all_sessions_are_handed_over, open_pair, close_pair),
        cmocka_unit_test_setup_teardown(nobody_may_be_left_to_hand_over, open_pair, close_pair),
        cmocka_unit_test_setup_teardown(a_worker_that_is_gone, open_pair, close_pair),
        cmocka_unit_test_setup_teardown(nonsense_is_refused, open_pair, close_pair),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
