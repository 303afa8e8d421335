/* admin.sock with a whole vtpmd behind it: what is no request, and clients that flood or read nothing. */
#include "tests/unit/daemon/host.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fakes/assertions.h"

static struct host host;
static struct admin *admin;

static int open_admin(void **state)
{
    (void)state;
    host_open(&host);
    admin = host_open_admin(&host);
    return 0;
}

/* What a client asked for has to be over: main.c ends the supervisor first. */
static int close_admin(void **state)
{
    (void)state;
    admin_close(&admin);
    host_close(&host);
    return 0;
}

/* The next line; "" at the end of the connection. */
static const char *read_line(int fd)
{
    static char line[65536];
    size_t size = 0;
    for (unsigned i = 0; i < 1000; i++) {
        char byte = 0;
        ssize_t got = read(fd, &byte, 1);
        if (got == 0) return "";
        if (got < 0) {
            assert_true(sd_event_run(host.supervisor.event, 10000) >= 0);
            continue;
        }
        i = 0;
        if (byte == '\n') break;
        line[size++] = byte;
        assert_true(size < sizeof line);
    }
    line[size] = 0;
    assert_true(size > 0);
    return line;
}

static void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static int greeted(void)
{
    int fd = host_connect_admin(&host);
    assert_non_null(strstr(read_line(fd), "\"vtpm\""));
    return fd;
}

static void what_is_no_request_is_answered_with_an_error(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "[]\n",
        "{}\n",
        "{\"execute\":1}\n",
        "{\"execute\":\"nothing\"}\n",
        "{\"execute\":\"version\",\"execute\":\"version\"}\n",
        "{\"execute\":\"show\"}\n",
        "{\"execute\":\"show\",\"arguments\":{\"instance\":\"a\",\"more\":1}}\n",
        "{\"execute\":\"create\",\"arguments\":{\"label\":\"../up\"}}\n",
        "{\"execute\":\"create\",\"arguments\":{\"label\":\"a\",\"listen\":[]}}\n",
        "{\"execute\":\"create\",\"arguments\":{\"label\":\"a\",\"listen\":[\"swtpm:unix:relative\"]}}\n",
        "{\"execute\":\"delete\",\"arguments\":{\"instance\":\"nobody\"}}\n",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        int fd = greeted();
        say(fd, lines[i]);
        assert_non_null(strstr(read_line(fd), "\"error\""));
        close(fd);
    }
    assert_int_equal(host.supervisor.roster.count, 0);
}

static void what_is_no_json_or_too_long_ends_the_connection(void **state)
{
    (void)state;
    static char flood[70000];
    int fd = greeted();
    say(fd, "}{\n");
    assert_non_null(strstr(read_line(fd), "\"error\""));
    assert_string_equal(read_line(fd), "");
    close(fd);
    memset(flood, ' ', sizeof flood);
    fd = greeted();
    assert_true(send(fd, flood, sizeof flood, MSG_NOSIGNAL) > 65536);
    assert_non_null(strstr(read_line(fd), "65536"));
    close(fd);
}

static void many_requests_at_once_are_answered_in_their_order(void **state)
{
    (void)state;
    char line[64];
    int fd = greeted();
    for (int i = 0; i < 100; i++) {
        (void)snprintf(line, sizeof line, "{\"execute\":\"version\",\"id\":%d}\n", i);
        say(fd, line);
    }
    for (int i = 0; i < 100; i++) {
        (void)snprintf(line, sizeof line, "\"id\":%d}", i);
        assert_non_null(strstr(read_line(fd), line));
    }
    close(fd);
}

/* What is answered in one turn of the loop. */
static void one_that_floods_gets_a_few_answers_in_a_turn(void **state)
{
    (void)state;
    int fd = greeted();
    char bytes[65536];
    static const char request[] = "{\"execute\":\"version\"}\n";
    for (size_t i = 0; i < 1000; i++)
        memcpy(bytes + i * (sizeof request - 1), request, sizeof request - 1);
    assert_int_equal(send(fd, bytes, 1000 * (sizeof request - 1), MSG_NOSIGNAL), 1000 * (sizeof request - 1));
    assert_true(sd_event_run(host.supervisor.event, 10000) >= 0);
    ssize_t got = read(fd, bytes, sizeof bytes);
    assert_true(got > 0);
    unsigned answers = 0;
    for (ssize_t i = 0; i < got; i++)
        answers += bytes[i] == '\n';
    assert_in_range(answers, 1, 16);
    close(fd);
}

static void one_that_reads_nothing_holds_up_nobody(void **state)
{
    (void)state;
    int stalled = greeted();
    for (int i = 0; i < 100000; i++) {
        static const char request[] = "{\"execute\":\"status\"}\n";
        if (send(stalled, request, sizeof request - 1, MSG_NOSIGNAL) < 0) {
            host_run(&host, 20000);
            if (send(stalled, request, sizeof request - 1, MSG_NOSIGNAL) < 0) break;
        }
    }
    int fd = greeted();
    say(fd, "{\"execute\":\"version\"}\n");
    assert_non_null(strstr(read_line(fd), "\"return\""));
    close(fd);
    close(stalled);
}

static void more_clients_than_there_are_places_are_turned_away(void **state)
{
    (void)state;
    int fds[64];
    for (size_t i = 0; i < 64; i++)
        fds[i] = greeted();
    int one_more = host_connect_admin(&host);
    assert_string_equal(read_line(one_more), "");
    close(one_more);
    close(fds[0]);
    host_run(&host, 50000);
    fds[0] = greeted();
    for (size_t i = 0; i < 64; i++)
        close(fds[i]);
}

static void a_client_that_goes_leaves_what_it_asked_for(void **state)
{
    (void)state;
    int fd = greeted();
    say(fd, "{\"execute\":\"create\",\"arguments\":{\"label\":\"one\",\"start\":false}}\n");
    host_run(&host, 1000);
    close(fd);
    host_run(&host, 300000);
    assert_int_equal(host.supervisor.roster.count, 1);
}

static bool is_forgotten(void *ctx)
{
    const unsigned *descriptors = ctx;
    return host_count_descriptors() == *descriptors;
}

static bool is_served(void *ctx)
{
    const struct host *one = ctx;
    return one->instance->phase == PHASE_SERVING;
}

/* As much as is read while a request of its own is under way, and more. */
static void a_client_that_floods_and_goes_is_forgotten_before_it_is_answered(void **state)
{
    (void)state;
    static char flood[65536];
    struct guest guest;
    int fd = greeted();
    memset(flood, '\n', sizeof flood);
    say(fd, "{\"execute\":\"create\",\"arguments\":{\"label\":\"one\"}}\n");
    guest_accept(&host, &guest);
    host.instance = host.supervisor.roster.list[0];
    guest_hello(&guest, false);
    while (send(fd, flood, sizeof flood, MSG_NOSIGNAL) > 0)
        host_run(&host, 1);
    unsigned descriptors = host_count_descriptors() - 2;
    close(fd);
    host_until(&host, is_forgotten, &descriptors);
    guest_serve(&guest);
    host_until(&host, is_served, &host);
    guest_end(&guest);
}

static void whoever_subscribed_is_told(void **state)
{
    (void)state;
    int fd = greeted();
    say(fd, "{\"execute\":\"create\",\"arguments\":{\"label\":\"one\",\"start\":false}}\n");
    assert_non_null(strstr(read_line(fd), "\"provisioned\""));
    say(fd, "{\"execute\":\"subscribe\",\"arguments\":{\"since\":1}}\n");
    assert_non_null(strstr(read_line(fd), "\"return\""));
    assert_non_null(strstr(read_line(fd), "\"created\""));
    close(fd);
}

/* The arguments that the owner signs: as many as the act has, and no others. */
static void each_act_has_its_own_challenge(void **state)
{
    (void)state;
    static const struct {
        const char *arguments;
        const char *expected;
    } asked[] = {
        {"\"verb\":\"delete\"", "\"arguments\":\"\""},
        {"\"verb\":\"set-owner\",\"owner\":null", "\"arguments\":\"00000000"},
        {"\"verb\":\"clone\",\"label\":\"two\"", "\"arguments\":\"74776f00"},
        {"\"verb\":\"revert\",\"snapshot\":\"none\"", "NO_SNAPSHOT"},
        {"\"verb\":\"revert\"", "BAD_VALUE"},
        {"\"verb\":\"delete\",\"snapshot\":\"none\"", "BAD_VALUE"},
        {"\"verb\":\"set-owner\"", "BAD_VALUE"},
        {"\"verb\":\"clone\"", "BAD_VALUE"},
        {"\"verb\":\"clone\",\"label\":\"two\",\"owner\":null", "BAD_VALUE"},
        {"\"verb\":\"stop\"", "BAD_VALUE"},
    };
    int fd = greeted();
    say(fd, "{\"execute\":\"create\",\"arguments\":{\"label\":\"one\",\"start\":false}}\n");
    assert_non_null(strstr(read_line(fd), "\"provisioned\""));
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        char line[256];
        (void)snprintf(line, sizeof line, "{\"execute\":\"challenge\",\"arguments\":{\"instance\":\"one\",%s}}\n",
                       asked[i].arguments);
        say(fd, line);
        assert_non_null(strstr(read_line(fd), asked[i].expected));
    }
    close(fd);
}

static void what_is_no_snapshot_is_said(void **state)
{
    (void)state;
    static const struct {
        const char *request;
        const char *expected;
    } asked[] = {
        {"\"snapshots\",\"arguments\":{\"instance\":\"one\"}", "\"snapshots\":[]"},
        {"\"snapshot\",\"arguments\":{\"instance\":\"one\",\"name\":\"a\"}", "one: the instance's state is missing"},
        {"\"state\",\"arguments\":{\"instance\":\"one\"}", "one: the instance's state is missing"},
        {"\"snapshot\",\"arguments\":{\"instance\":\"one\",\"name\":\"../a\"}", "LABEL_BAD"},
        {"\"snapshot\",\"arguments\":{\"instance\":\"one\",\"name\":\"before-version-1\"}", "LABEL_BAD"},
        {"\"snapshot-delete\",\"arguments\":{\"instance\":\"one\",\"name\":\"a\"}",
         "one: the instance has no snapshot"},
        {"\"revert\",\"arguments\":{\"instance\":\"one\",\"snapshot\":\"a\"}", "NO_SNAPSHOT"},
        {"\"snapshots\",\"arguments\":{\"instance\":\"two\"}", "NO_INSTANCE"},
        {"\"suspend\",\"arguments\":{\"instance\":\"one\"}", "VERB_STATE"},
        {"\"declare-dead\",\"arguments\":{\"instance\":\"one\"}", "VERB_STATE"},
    };
    int fd = greeted();
    say(fd, "{\"execute\":\"create\",\"arguments\":{\"label\":\"one\",\"start\":false,\"lockout-heals\":\"never\"}}\n");
    assert_non_null(strstr(read_line(fd), "\"lockout-heals\":\"never\""));
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        char line[256];
        (void)snprintf(line, sizeof line, "{\"execute\":%s}\n", asked[i].request);
        say(fd, line);
        assert_non_null(strstr(read_line(fd), asked[i].expected));
    }
    say(fd, "{\"execute\":\"create\",\"arguments\":{\"label\":\"two\",\"lockout-heals\":\"soon\"}}\n");
    assert_non_null(strstr(read_line(fd), "BAD_VALUE"));
    say(fd, "{\"execute\":\"create\",\"arguments\":{\"label\":\"two\",\"tpm\":\"1.3\"}}\n");
    assert_non_null(strstr(read_line(fd), "\"two: tpm is 2.0 or 1.2\""));
    say(fd, "{\"execute\":\"create\",\"arguments\":{\"label\":\"two\",\"snapshots\":\"yes\"}}\n");
    assert_non_null(strstr(read_line(fd), "snapshots is refused or allowed"));
    say(fd, "{\"execute\":\"create\",\"arguments\":{\"label\":\"tree\",\"snapshots\":\"allowed\",\"start\":false}}\n");
    assert_non_null(strstr(read_line(fd), "\"snapshots\":\"allowed\""));
    say(fd, "{\"execute\":\"create\",\"arguments\":{\"label\":\"old\",\"tpm\":\"1.2\",\"start\":false}}\n");
    assert_non_null(strstr(read_line(fd), "\"tpm\":\"1.2\""));
    say(fd, "{\"execute\":\"snapshot\",\"arguments\":{\"instance\":\"old\",\"name\":\"a\"}}\n");
    assert_non_null(strstr(read_line(fd), "TPM_FAMILY"));
    say(fd, "{\"execute\":\"clone\",\"arguments\":{\"instance\":\"one\",\"label\":\"two\",\"start\":false}}\n");
    assert_non_null(strstr(read_line(fd), "\"origin\":\"clone\""));
    close(fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_admin, close_admin)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_no_request_is_answered_with_an_error),
        TEST(what_is_no_json_or_too_long_ends_the_connection),
        TEST(many_requests_at_once_are_answered_in_their_order),
        TEST(one_that_floods_gets_a_few_answers_in_a_turn),
        TEST(one_that_reads_nothing_holds_up_nobody),
        TEST(more_clients_than_there_are_places_are_turned_away),
        TEST(a_client_that_goes_leaves_what_it_asked_for),
        TEST(a_client_that_floods_and_goes_is_forgotten_before_it_is_answered),
        TEST(whoever_subscribed_is_told),
        TEST(each_act_has_its_own_challenge),
        TEST(what_is_no_snapshot_is_said),
    };
    return cmocka_run_group_tests_name("admin", tests, NULL, NULL);
}
