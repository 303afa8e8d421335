/* The parent of the process that serves: it connects where it was told to, and takes one byte at a time. */
#include "tests/fakes/assertions.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "untrusted/front/connector.h"
#include "untrusted/front/remote.h"
#include "untrusted/wire/pass.h"

static char directory[] = "/tmp/vtpm-connector-XXXXXX";
static char daemon_path[64];
static char instance_path[64];

static int listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 1), 0);
    return fd;
}

static int run(int (*child)(void *ctx, int fd))
{
    const struct connector_paths paths = {daemon_path, instance_path};
    return connector_run(&paths, child, NULL);
}

/* In the child: asks, and says whether a connection came. */
static int ask(int fd, enum remote_peer peer)
{
    uint8_t what = 0;
    int passed = -1;
    if (pass_send(fd, (uint8_t)peer, -1).code) return 100;
    if (pass_receive(fd, &what, &passed).code || what != (uint8_t)peer) return 101;
    return passed >= 0;
}

static int child_asks_for_both(void *ctx, int fd)
{
    (void)ctx;
    return 10 * ask(fd, REMOTE_DAEMON) + ask(fd, REMOTE_INSTANCE);
}

static int child_asks_before_vtpmd_is_there(void *ctx, int fd)
{
    (void)ctx;
    uint8_t what = 0;
    int passed = -1;
    if (pass_send(fd, REMOTE_DAEMON, -1).code) return 100;
    usleep(200000);
    (void)listen_at(daemon_path);
    return !pass_receive(fd, &what, &passed).code && what == REMOTE_DAEMON && passed >= 0 ? 42 : 101;
}

static int child_sends(int fd, uint8_t what, int passed)
{
    uint8_t answer = 0;
    if (pass_send(fd, what, passed).code) return 100;
    usleep(2000000); /* it is killed meanwhile */
    return pass_receive(fd, &answer, &passed).code ? 101 : 102;
}

static int child_sends_nonsense(void *ctx, int fd)
{
    (void)ctx;
    return child_sends(fd, 9, -1);
}

static int child_sends_a_descriptor(void *ctx, int fd)
{
    (void)ctx;
    return child_sends(fd, REMOTE_DAEMON, 0);
}

static int child_is_ready_twice(void *ctx, int fd)
{
    (void)ctx;
    (void)pass_send(fd, REMOTE_READY, -1).code;
    return child_sends(fd, REMOTE_READY, -1);
}

static void it_connects_to_both(void **state)
{
    (void)state;
    int daemon = listen_at(daemon_path);
    int instance = listen_at(instance_path);
    assert_int_equal(run(child_asks_for_both), 11);
    close(daemon);
    close(instance);
}

static void an_instance_that_cannot_be_reached_is_told_at_once(void **state)
{
    (void)state;
    int daemon = listen_at(daemon_path);
    assert_int_equal(run(child_asks_for_both), 10);
    close(daemon);
}

static void for_vtpmd_it_tries_again_until_it_is_there(void **state)
{
    (void)state;
    assert_int_equal(run(child_asks_before_vtpmd_is_there), 42);
}

static void a_child_that_sends_nonsense_is_ended(void **state)
{
    (void)state;
    assert_int_equal(run(child_sends_nonsense), EXIT_FAILURE);
    assert_int_equal(run(child_sends_a_descriptor), EXIT_FAILURE);
    int output = dup(STDOUT_FILENO); /* it says that it is ready, which is no line of TAP */
    fflush(stdout);
    assert_non_null(freopen("/dev/null", "w", stdout));
    int code = run(child_is_ready_twice);
    fflush(stdout);
    assert_int_equal(dup2(output, STDOUT_FILENO), STDOUT_FILENO);
    close(output);
    assert_int_equal(code, EXIT_FAILURE);
}

static int remove_sockets(void **state)
{
    (void)state;
    (void)unlink(daemon_path);
    (void)unlink(instance_path);
    return 0;
}

static int make_directory(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(directory));
    (void)snprintf(daemon_path, sizeof daemon_path, "%s/daemon", directory);
    (void)snprintf(instance_path, sizeof instance_path, "%s/instance", directory);
    return 0;
}

static int remove_directory(void **state)
{
    (void)state;
    return rmdir(directory);
}

int main(void)
{
    sigset_t mask;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(it_connects_to_both, remove_sockets),
        cmocka_unit_test_teardown(an_instance_that_cannot_be_reached_is_told_at_once, remove_sockets),
        cmocka_unit_test_teardown(for_vtpmd_it_tries_again_until_it_is_there, remove_sockets),
        cmocka_unit_test_teardown(a_child_that_sends_nonsense_is_ended, remove_sockets),
    };
    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    return cmocka_run_group_tests_name("connector", tests, make_directory, remove_directory);
}
