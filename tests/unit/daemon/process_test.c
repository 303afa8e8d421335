#include "tests/fakes/assertions.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "untrusted/daemon/process.h"

static char sh[] = "/bin/sh";
static char dash_c[] = "-c";

static void count_end(void *ctx)
{
    (*(unsigned *)ctx)++;
}

static void a_process_is_known_again(void **state)
{
    (void)state;
    struct store_process first, second;
    assert_ok(process_identify(getpid(), &first));
    assert_ok(process_identify(getpid(), &second));
    assert_memory_equal(&first, &second, sizeof first);
    assert_int_equal(strlen(first.boot_id), 36);
    assert_true(first.start_time > 0);
    assert_err(process_identify(0x3fffff, &first), NO_INSTANCE);
}

static void its_end_is_seen_once_and_it_is_reaped(void **state)
{
    (void)state;
    static char script[] = "exit 0";
    char *argv[] = {sh, dash_c, script, NULL};
    sd_event *event = NULL;
    struct store_process identity;
    struct process *process = NULL;
    unsigned ends = 0;
    assert_true(sd_event_new(&event) >= 0);
    assert_ok(process_spawn(argv, NULL, 0, &identity));
    assert_ok(process_watch(event, &identity, count_end, &ends, &process));
    for (unsigned i = 0; i < 50 && !ends; i++)
        (void)sd_event_run(event, 100000);
    (void)sd_event_run(event, 10000);
    assert_int_equal(ends, 1);
    assert_int_equal(waitpid(identity.pid, NULL, WNOHANG), -1);
    process_close(&process);
    sd_event_unref(event);
}

static void another_process_of_that_number_is_not_it(void **state)
{
    (void)state;
    sd_event *event = NULL;
    struct store_process identity;
    struct process *process = NULL;
    unsigned ends = 0;
    assert_true(sd_event_new(&event) >= 0);
    assert_ok(process_identify(getppid(), &identity));
    identity.start_time--;
    assert_err(process_watch(event, &identity, count_end, &ends, &process), NO_INSTANCE);
    identity.start_time++;
    identity.boot_id[0] ^= 1;
    assert_err(process_watch(event, &identity, count_end, &ends, &process), NO_INSTANCE);
    assert_null(process);
    sd_event_unref(event);
}

static void it_inherits_nothing_it_should_not(void **state)
{
    (void)state;
    /* The mask is read before the shell runs any other program: a shell may block signals itself around a fork. */
    static char script[] = "exec 2>/dev/null; while read -r name value; do [ $name != SigBlk: ] || mask=$value; done "
                           "</proc/$$/status; [ \"$mask\" = 0000000000000000 ] || exit 4; "
                           "for f in 3 4 5 6 7 8 9; do [ -e /proc/self/fd/$f ] && exit 1; done; "
                           "[ \"$(readlink /proc/$$/fd/0)\" = /dev/null ] || exit 2; "
                           "[ \"$(readlink /proc/$$/fd/1)\" = /dev/null ] || exit 3; "
                           "[ \"$(cut -d' ' -f6 /proc/$$/stat)\" = $$ ] || exit 5";
    char *argv[] = {sh, dash_c, script, NULL};
    struct store_process identity;
    sigset_t blocked, old;
    sigfillset(&blocked);
    int leaked = open("/dev/null", O_RDONLY);
    assert_int_equal(dup2(leaked, 7), 7);
    sigprocmask(SIG_BLOCK, &blocked, &old);
    struct err result = process_spawn(argv, NULL, 0, &identity);
    sigprocmask(SIG_SETMASK, &old, NULL);
    assert_ok(result);
    int status = 0;
    assert_int_equal(waitpid(identity.pid, &status, 0), identity.pid);
    assert_int_equal(status, 0);
    close(leaked);
    close(7);
}

static void it_has_the_descriptors_that_it_is_given(void **state)
{
    (void)state;
    static char script[] = "[ \"$(readlink /proc/$$/fd/3)\" = / ] && [ \"$(readlink /proc/$$/fd/4)\" = /tmp ] && "
                           "[ ! -e /proc/$$/fd/5 ]";
    char *argv[] = {sh, dash_c, script, NULL};
    struct store_process identity;
    int fds[2] = {fcntl(open("/", O_RDONLY), F_DUPFD_CLOEXEC, PROCESS_LOWEST_FD),
                  fcntl(open("/tmp", O_RDONLY), F_DUPFD_CLOEXEC, PROCESS_LOWEST_FD)};
    assert_ok(process_spawn(argv, fds, 2, &identity));
    int status = 0;
    assert_int_equal(waitpid(identity.pid, &status, 0), identity.pid);
    assert_int_equal(status, 0);
}

static void a_program_that_is_not_there_is_an_error(void **state)
{
    (void)state;
    static char name[] = "/nonexistent";
    char *argv[] = {name, NULL};
    struct store_process identity;
    assert_err(process_spawn(argv, NULL, 0, &identity), SYSTEM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_process_is_known_again),
        cmocka_unit_test(its_end_is_seen_once_and_it_is_reaped),
        cmocka_unit_test(another_process_of_that_number_is_not_it),
        cmocka_unit_test(it_inherits_nothing_it_should_not),
        cmocka_unit_test(it_has_the_descriptors_that_it_is_given),
        cmocka_unit_test(a_program_that_is_not_there_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
