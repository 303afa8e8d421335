#include "tests/fakes/assertions.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "untrusted/daemon/config.h"

static char path[40];
static char log_text[2048];

static int make_file(void **state)
{
    (void)state;
    strcpy(path, "/tmp/vtpmd-conf-XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0) return -1;
    return close(fd);
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

/* Loads with what was logged in log_text. */
static struct err load(const char *text, char *const options[], size_t count, struct config *config)
{
    char *argv[16] = {(char *)"vtpmd", (char *)"--config", path};
    int pair[2];
    enum config_action action = CONFIG_HELP;
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    for (size_t i = 0; i < count; i++)
        argv[3 + i] = options[i];
    assert_int_equal(pipe(pair), 0);
    int saved = dup(STDERR_FILENO);
    dup2(pair[1], STDERR_FILENO);
    struct err result = config_load(3 + (int)count, argv, &action, config);
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(pair[1]);
    ssize_t got = read(pair[0], log_text, sizeof log_text - 1);
    log_text[got > 0 ? got : 0] = 0;
    close(pair[0]);
    if (!result.code) assert_int_equal(action, CONFIG_RUN);
    return result;
}

static void assert_complaint(const char *text, const char *line, const char *word)
{
    struct config config = {0};
    char place[80];
    assert_err(load(text, NULL, 0, &config), CONFIG);
    (void)snprintf(place, sizeof place, "%s:%s: ", path, line);
    assert_non_null(strstr(log_text, place));
    assert_non_null(strstr(log_text, word));
}

static void nothing_given_is_the_defaults(void **state)
{
    (void)state;
    struct config config = {0};
    assert_ok(load("", NULL, 0, &config));
    assert_string_equal(config.state_dir, "/var/lib/vtpm");
    assert_string_equal(config.run_dir, "/run/vtpm");
    assert_int_equal(config.commit_timeout, 20);
    assert_true(config.rebuild);
    assert_false(config.ordinary_memory);
    assert_false(config.init);
    assert_null(config.user);
    assert_int_equal(config.anchor, ANCHOR_FILE);
    assert_string_equal(config.anchor_file, "/var/lib/vtpm/anchor");
    assert_string_equal(config.anchor_tpm, "device:/dev/tpmrm0");
    assert_int_equal(config.anchor_nv_index, 0x01800100);
    assert_int_equal(config.anchor_rate, 0);
    assert_int_equal(config.commit_rate, 0);
    config_free(&config);
}

static void the_file_is_read(void **state)
{
    (void)state;
    struct config config = {0};
    assert_ok(load("# all of it\n\n  state-dir = /a/b c  \nrun-dir=/r\ncpu = /c\nmanager-image = /m\n"
                   "device = software\n"
                   "instance-image = /i\ninstance-program = /p\nuser = nobody\nadmin-group = adm\n"
                   "commit-timeout = 7\nrebuild = manual\nordinary-memory = yes",
                   NULL, 0, &config));
    assert_string_equal(config.state_dir, "/a/b c");
    assert_string_equal(config.run_dir, "/r");
    assert_string_equal(config.cpu, "/c");
    assert_int_equal(config.device, DEVICE_SOFTWARE);
    assert_string_equal(config.manager_image, "/m");
    assert_string_equal(config.instance_image, "/i");
    assert_string_equal(config.instance_program, "/p");
    assert_string_equal(config.user, "nobody");
    assert_string_equal(config.admin_group, "adm");
    assert_int_equal(config.commit_timeout, 7);
    assert_false(config.rebuild);
    assert_true(config.ordinary_memory);
    config_free(&config);
}

static void the_anchor_is_chosen(void **state)
{
    (void)state;
    struct config config = {0};
    char *const options[] = {(char *)"--state-dir", (char *)"/o"};
    assert_ok(load("anchor = tpm\nanchor-tpm = swtpm:path=/t\nanchor-nv-index = 0x01800200\n", options, 2, &config));
    assert_int_equal(config.anchor, ANCHOR_TPM);
    assert_string_equal(config.anchor_file, "/o/anchor");
    assert_string_equal(config.anchor_tpm, "swtpm:path=/t");
    assert_int_equal(config.anchor_nv_index, 0x01800200);
    assert_int_equal(config.anchor_rate, 10);
    assert_int_equal(config.commit_rate, 5);
    config_free(&config);
    assert_ok(load("anchor = tpm\nanchor-rate = 0\ncommit-rate = 7\nanchor-file = /p/a\n", NULL, 0, &config));
    assert_int_equal(config.anchor_rate, 0);
    assert_int_equal(config.commit_rate, 7);
    assert_string_equal(config.anchor_file, "/p/a");
    config_free(&config);
}

static void options_go_before_the_file(void **state)
{
    (void)state;
    struct config config = {0};
    char *const options[] = {(char *)"--state-dir", (char *)"/o", (char *)"--init", (char *)"--ordinary-memory"};
    assert_ok(load("state-dir = /f\nrun-dir = /r\n", options, 4, &config));
    assert_string_equal(config.state_dir, "/o");
    assert_string_equal(config.run_dir, "/r");
    assert_int_equal(config.device, DEVICE_AUTO);
    assert_true(config.init);
    assert_true(config.ordinary_memory);
    config_free(&config);
}

static void errors_name_the_line(void **state)
{
    (void)state;
    assert_complaint("run-dir = /r\n\n# x\nspeed = 3\n", "4", "speed");
    assert_complaint("run-dir = /r\nrun-dir = /s\n", "2", "before");
    assert_complaint("\nrun-dir /r\n", "2", "key = value");
    assert_complaint("run-dir =\n", "1", "no value");
    assert_complaint("state-dir = here\n", "1", "here");
    assert_complaint("device = hardware\n", "1", "auto, sgx or software");
    assert_complaint("\n\ncommit-timeout = 0\n", "3", "3600");
    assert_complaint("commit-timeout = 5x\n", "1", "3600");
    assert_complaint("commit-timeout = -1\n", "1", "3600");
    assert_complaint("rebuild = maybe\n", "1", "automatic");
    assert_complaint("anchor = disk\n", "1", "file or tpm");
    assert_complaint("anchor-file = here\n", "1", "here");
    assert_complaint("\nanchor-nv-index = 25166080\n", "2", "0x01800000");
    assert_complaint("anchor-nv-index = 0x01c00000\n", "1", "0x01bfffff");
    assert_complaint("anchor-rate = 10001\n", "1", "10000");
    assert_complaint("commit-rate = -1\n", "1", "10000");
    assert_complaint("ordinary-memory = 1\n", "1", "yes or no");
    assert_complaint("\nuser = no-such-user\n", "2", "no-such-user");
    assert_complaint("user = root\n", "1", "not root");
    assert_complaint("\nadmin-group = no-such-group\n", "2", "no-such-group");
}

static void a_line_without_end_is_refused(void **state)
{
    (void)state;
    static char text[10000];
    memset(text, '#', sizeof text - 1);
    assert_complaint(text, "1", "too long");
}

static void options_are_checked_as_the_file_is(void **state)
{
    (void)state;
    struct config config = {0};
    char *const relative[] = {(char *)"--run-dir", (char *)"here"};
    char *const unknown[] = {(char *)"--speed"};
    char *const stray[] = {(char *)"stray"};
    char *const file_only[] = {(char *)"--rebuild", (char *)"manual"};
    assert_err(load("", relative, 2, &config), USAGE);
    assert_non_null(strstr(log_text, "--run-dir"));
    assert_err(load("", unknown, 1, &config), USAGE);
    assert_err(load("", stray, 1, &config), USAGE);
    assert_err(load("", file_only, 2, &config), USAGE);
}

static void a_file_that_was_named_must_be_there(void **state)
{
    (void)state;
    struct config config = {0};
    enum config_action action = CONFIG_RUN;
    char *argv[] = {(char *)"vtpmd", (char *)"--config", (char *)"/nonexistent/vtpmd.conf", NULL};
    assert_err(config_load(3, argv, &action, &config), CONFIG);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_file, remove_file)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(nothing_given_is_the_defaults),
        TEST(the_file_is_read),
        TEST(the_anchor_is_chosen),
        TEST(options_go_before_the_file),
        TEST(errors_name_the_line),
        TEST(a_line_without_end_is_refused),
        TEST(options_are_checked_as_the_file_is),
        TEST(a_file_that_was_named_must_be_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
