/* untrusted/host: log lines that nobody can forge, secret memory, and what hygiene leaves of a process. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "untrusted/host/hygiene.h"
#include "untrusted/host/log.h"
#include "untrusted/host/secret_memory.h"

/* Standard error as a pipe while write_lines runs; what came out of it. */
static void capture(void (*write_lines)(void), char *out, size_t capacity)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    int saved = dup(STDERR_FILENO);
    dup2(fds[1], STDERR_FILENO);
    write_lines();
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(fds[1]);
    ssize_t size = read(fds[0], out, capacity - 1);
    close(fds[0]);
    assert_true(size >= 0);
    out[size] = '\0';
}

static void write_named(void)
{
    log_open("program");
    log_line(LOG_LEVEL_ERROR, "a %d", 1);
}

static void write_forged(void)
{
    log_open("program");
    log_line(LOG_LEVEL_INFO, "%s", "one\nprogram: two\033[2J\x7F");
}

static void write_long(void)
{
    static char text[5000];
    memset(text, 'x', sizeof text - 1);
    log_open("program");
    log_line(LOG_LEVEL_INFO, "%s", text);
}

static void write_to_journal(void)
{
    struct stat status;
    char stream[64];
    fstat(STDERR_FILENO, &status);
    snprintf(stream, sizeof stream, "%lu:%lu", (unsigned long)status.st_dev, (unsigned long)status.st_ino);
    setenv("JOURNAL_STREAM", stream, 1);
    log_open("program");
    log_line(LOG_LEVEL_WARNING, "b");
    unsetenv("JOURNAL_STREAM");
}

static void line_begins_with_the_program(void **state)
{
    (void)state;
    char text[2048];
    capture(write_named, text, sizeof text);
    assert_string_equal(text, "program: a 1\n");
}

static void journal_gets_the_level(void **state)
{
    (void)state;
    char text[2048];
    capture(write_to_journal, text, sizeof text);
    assert_string_equal(text, "<4>b\n");
}

static void control_characters_cannot_forge_a_line(void **state)
{
    (void)state;
    char text[2048];
    capture(write_forged, text, sizeof text);
    assert_string_equal(text, "program: one?program: two?[2J?\n");
}

static void long_line_is_cut_off(void **state)
{
    (void)state;
    char text[8192];
    capture(write_long, text, sizeof text);
    assert_int_equal(strlen(text), 1024);
    assert_int_equal(text[1023], '\n');
}

static void every_error_has_a_sentence(void **state)
{
    (void)state;
    assert_string_equal(err_sentence(OK), "success");
    assert_non_null(strstr(err_sentence(FAIL(SECRET_MISSING)), "device secret is missing"));
    assert_non_null(strstr(err_sentence((struct err){65535}), "does not know"));
}

static void secret_memory_is_zero_and_writable(void **state)
{
    (void)state;
    struct secret_memory memory = {0};
    assert_int_equal(secret_memory_open(5000, false, &memory).code, 0);
    assert_int_equal(memory.size, 8192);
    uint8_t *bytes = memory.data;
    assert_int_equal(bytes[0] | bytes[8191], 0);
    bytes[8191] = 1;
    secret_memory_close(&memory);
    assert_null(memory.data);
}

static int signal_of_access(ptrdiff_t offset)
{
    int status = 0;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct secret_memory memory = {0};
        signal(SIGSEGV, SIG_DFL);
        if (secret_memory_open(4096, false, &memory).code) _exit(1);
        *((volatile uint8_t *)memory.data + offset) = 1;
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

static void guard_pages_fault(void **state)
{
    (void)state;
    assert_int_equal(signal_of_access(0), 0);
    assert_int_equal(signal_of_access(-1), SIGSEGV);
    assert_int_equal(signal_of_access(4096), SIGSEGV);
}

static void secret_memory_is_not_in_a_child(void **state)
{
    (void)state;
    struct secret_memory memory = {0};
    unsigned char resident = 0;
    int status = 0;
    assert_int_equal(secret_memory_open(4096, false, &memory).code, 0);
    *(volatile uint8_t *)memory.data = 1;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) _exit(mincore(memory.data, 4096, &resident) == 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    secret_memory_close(&memory);
}

static void wipe_clears_touched_pages(void **state)
{
    (void)state;
    struct secret_memory memory = {0};
    assert_int_equal(secret_memory_open(3 * 4096, false, &memory).code, 0);
    uint8_t *bytes = memory.data;
    memset(bytes + 4096, 0x55, 4096);
    secret_memory_wipe_touched(bytes, memory.size);
    for (size_t i = 0; i < memory.size; i++)
        assert_int_equal(bytes[i], 0);
    secret_memory_close(&memory);
}

static void hygiene_in_child(void)
{
    struct rlimit core;
    if (hygiene_apply().code) _exit(1);
    if (prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0) _exit(2);
    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) _exit(3);
    if (getrlimit(RLIMIT_CORE, &core) != 0 || core.rlim_max != 0) _exit(4);
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool gained = page != MAP_FAILED && mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0;
    _exit(gained ? 5 : 0);
}

static void hygiene_closes_the_doors(void **state)
{
    (void)state;
    int status = 0;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) hygiene_in_child();
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 5) {
        print_message("this kernel has no PR_SET_MDWE: memory can still become executable\n");
        skip();
    }
    assert_int_equal(status, 0);
}

/* What an mmap over it that failed has left. */
static void wipe_passes_over_what_is_not_mapped(void **state)
{
    (void)state;
    uint8_t *pages = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(pages, MAP_FAILED);
    memset(pages, 0x5A, 3 * 4096);
    assert_int_equal(munmap(pages + 4096, 4096), 0);
    secret_memory_wipe_touched(pages, 3 * 4096);
    assert_int_equal(pages[0] | pages[2 * 4096], 0);
    munmap(pages, 3 * 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(line_begins_with_the_program),
        cmocka_unit_test(journal_gets_the_level),
        cmocka_unit_test(control_characters_cannot_forge_a_line),
        cmocka_unit_test(long_line_is_cut_off),
        cmocka_unit_test(every_error_has_a_sentence),
        cmocka_unit_test(secret_memory_is_zero_and_writable),
        cmocka_unit_test(guard_pages_fault),
        cmocka_unit_test(secret_memory_is_not_in_a_child),
        cmocka_unit_test(wipe_clears_touched_pages),
        cmocka_unit_test(wipe_passes_over_what_is_not_mapped),
        cmocka_unit_test(hygiene_closes_the_doors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
