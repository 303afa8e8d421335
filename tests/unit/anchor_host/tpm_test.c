/*
 * Against a real swtpm in the place of the chip.
 */
#include "tests/fakes/assertions.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "untrusted/anchor/anchor_host.h"

static char directory[64];
static char tcti[128];
static pid_t swtpm;
static struct anchor_host *anchor;

/* TPM2_GetRandom of 8 bytes */
static const uint8_t get_random[] = {0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7B, 0, 8};

static void start_swtpm(void)
{
    char server[128], control[128], state[128];
    (void)snprintf(server, sizeof server, "type=unixio,path=%s/tpm", directory);
    (void)snprintf(control, sizeof control, "type=unixio,path=%s/tpm.ctrl", directory);
    (void)snprintf(state, sizeof state, "dir=%s", directory);
    (void)unlink(server + 17);
    (void)unlink(control + 17);
    swtpm = fork();
    assert_true(swtpm >= 0);
    if (swtpm == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC); /* its words would cut lines of TAP */
        dup2(nowhere, STDOUT_FILENO);
        dup2(nowhere, STDERR_FILENO);
        execlp("swtpm", "swtpm", "socket", "--tpm2", "--server", server, "--ctrl", control, "--tpmstate", state,
               "--flags", "not-need-init,startup-clear", (char *)NULL);
        _exit(127);
    }
    for (unsigned i = 0; i < 1000 && (access(server + 17, F_OK) != 0 || access(control + 17, F_OK) != 0); i++)
        usleep(10000);
}

static void end_swtpm(void)
{
    kill(swtpm, SIGKILL);
    assert_int_equal(waitpid(swtpm, NULL, 0), swtpm);
}

static int make(void **state)
{
    (void)state;
    strcpy(directory, "/tmp/vtpm-anchor-XXXXXX");
    if (!mkdtemp(directory)) return -1;
    (void)snprintf(tcti, sizeof tcti, "swtpm:path=%s/tpm", directory);
    start_swtpm();
    return anchor_host_open(ANCHOR_TPM, tcti, &anchor).code;
}

static int unmake(void **state)
{
    (void)state;
    char command[100];
    anchor_host_close(&anchor);
    end_swtpm();
    (void)snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

static struct err exchange(struct span request, uint8_t answer[ANCHOR_EXCHANGE_MAX], size_t *out_size)
{
    return anchor_host_exchange(anchor, request, answer, out_size);
}

static void assert_random(uint8_t out[8])
{
    uint8_t answer[ANCHOR_EXCHANGE_MAX];
    size_t size = 0;
    assert_ok(exchange(span_of(get_random, sizeof get_random), answer, &size));
    assert_int_equal(size, 20);
    assert_memory_equal(answer + 6, "\0\0\0\0\0\x8", 6);
    memcpy(out, answer + 12, 8);
}

static void a_command_is_carried_and_its_response_comes_back(void **state)
{
    (void)state;
    uint8_t first[8], second[8];
    assert_random(first);
    assert_random(second);
    assert_memory_not_equal(first, second, sizeof first);
}

static void a_refusal_of_the_tpm_is_a_response(void **state)
{
    (void)state;
    static const uint8_t unknown[] = {0x80, 0x01, 0, 0, 0, 10, 0, 0, 0xFF, 0xFF};
    uint8_t answer[ANCHOR_EXCHANGE_MAX];
    size_t size = 0;
    assert_ok(exchange(span_of(unknown, sizeof unknown), answer, &size));
    assert_int_equal(size, 10);
    assert_memory_equal(answer + 6, "\0\0\x1\x43", 4); /* TPM_RC_COMMAND_CODE */
}

static void without_a_tpm_it_fails_and_goes_on_when_it_is_back(void **state)
{
    (void)state;
    uint8_t answer[ANCHOR_EXCHANGE_MAX];
    uint8_t random[8];
    size_t size = 0;
    assert_random(random);
    end_swtpm();
    for (int i = 0; i < 2; i++) {
        assert_err(exchange(span_of(get_random, sizeof get_random), answer, &size), ANCHOR_IO);
        assert_non_null(strstr(anchor_host_error(anchor), tcti));
    }
    start_swtpm();
    assert_random(random);
}

static void what_is_no_command_is_refused(void **state)
{
    (void)state;
    static const uint8_t large[ANCHOR_EXCHANGE_MAX + 1] = {0x80, 0x01};
    uint8_t answer[ANCHOR_EXCHANGE_MAX];
    size_t size = 0;
    assert_err(exchange(span_of(get_random, 9), answer, &size), BAD_VALUE);
    assert_err(exchange(span_of(large, sizeof large), answer, &size), BAD_VALUE);
}

static void a_tcti_that_there_is_not_is_told(void **state)
{
    (void)state;
    uint8_t answer[ANCHOR_EXCHANGE_MAX];
    size_t size = 0;
    anchor_host_close(&anchor);
    assert_ok(anchor_host_open(ANCHOR_TPM, "nothing:of-the-kind", &anchor));
    assert_err(exchange(span_of(get_random, sizeof get_random), answer, &size), ANCHOR_IO);
    assert_non_null(strstr(anchor_host_error(anchor), "nothing:of-the-kind: connecting"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make, unmake)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_command_is_carried_and_its_response_comes_back),
        TEST(a_refusal_of_the_tpm_is_a_response),
        TEST(without_a_tpm_it_fails_and_goes_on_when_it_is_back),
        TEST(what_is_no_command_is_refused),
        TEST(a_tcti_that_there_is_not_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
