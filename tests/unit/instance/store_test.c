/*
 * The state file: what is refused, and that every crash and every error leaves a whole state. The system calls that
 * store.c makes are wrapped, so that each can fail, or kill the process, before or after it has taken place.
 */
#include "tests/fakes/assertions.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "untrusted/instance/store.h"

/* --- system calls that fail on demand --- */

static int calls_until_fault; /* 0: none is planned; 1: the next call */
static int fault_errno;       /* 0: the process is killed */
static bool fault_afterwards; /* the call takes place first */
static bool blind;            /* a file that is looked for is not there yet */
static bool no_exchange;      /* the file system does not know RENAME_EXCHANGE and RENAME_NOREPLACE */

static bool is_faulty(void)
{
    return calls_until_fault > 0 && --calls_until_fault == 0;
}

static int fail_now(void)
{
    if (fault_errno == 0) kill(getpid(), SIGKILL);
    errno = fault_errno;
    return -1;
}

#define WRAP(type, name, parameters, arguments)                                                                        \
    type __real_##name parameters;                                                                                     \
    type __wrap_##name parameters;                                                                                     \
    type __wrap_##name parameters                                                                                      \
    {                                                                                                                  \
        bool faulty = is_faulty();                                                                                     \
        if (faulty && !fault_afterwards) return fail_now();                                                            \
        type result = __real_##name arguments;                                                                         \
        return faulty ? fail_now() : result;                                                                           \
    }

WRAP(ssize_t, pwrite64, (int fd, const void *data, size_t size, off_t offset), (fd, data, size, offset))
WRAP(int, ftruncate64, (int fd, off_t size), (fd, size))
WRAP(int, fdatasync, (int fd), (fd))
WRAP(int, fsync, (int fd), (fd))
WRAP(int, renameat, (int from, const char *old, int to, const char *new), (from, old, to, new))
WRAP(int, unlinkat, (int fd, const char *name, int flags), (fd, name, flags))

int __real_renameat2(int from, const char *old, int to, const char *new, unsigned flags);
int __wrap_renameat2(int from, const char *old, int to, const char *new, unsigned flags);

int __wrap_renameat2(int from, const char *old, int to, const char *new, unsigned flags)
{
    if (no_exchange) {
        errno = EINVAL;
        return -1;
    }
    bool faulty = is_faulty();
    if (faulty && !fault_afterwards) return fail_now();
    int result = __real_renameat2(from, old, to, new, flags);
    return faulty ? fail_now() : result;
}

int __real_faccessat(int fd, const char *name, int mode, int flags);
int __wrap_faccessat(int fd, const char *name, int mode, int flags);

int __wrap_faccessat(int fd, const char *name, int mode, int flags)
{
    if (!blind) return __real_faccessat(fd, name, mode, flags);
    errno = ENOENT;
    return -1;
}

/* --- the directory --- */

static const struct instance_id id = {.bytes = {0xaa, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}};
#define NAME "aa010203-0405-0607-0809-0a0b0c0d0e0f"

static char path[64];
static int directory_fd;

static int make_directory(void **state)
{
    (void)state;
    strcpy(path, "/tmp/store-test-XXXXXX");
    if (!mkdtemp(path)) return -1;
    directory_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    calls_until_fault = fault_errno = 0;
    fault_afterwards = no_exchange = blind = false;
    return directory_fd < 0;
}

static int remove_directory(void **state)
{
    (void)state;
    calls_until_fault = 0;
    DIR *directory = opendir(path);
    for (struct dirent *entry; directory && (entry = readdir(directory));)
        if (entry->d_name[0] != '.') __real_unlinkat(directory_fd, entry->d_name, 0);
    closedir(directory);
    close(directory_fd);
    return rmdir(path);
}

static unsigned file_count(void)
{
    unsigned count = 0;
    DIR *directory = opendir(path);
    for (struct dirent *entry; (entry = readdir(directory));)
        if (entry->d_name[0] != '.') count++;
    closedir(directory);
    return count;
}

static void write_file(const char *name, size_t size)
{
    int fd = openat(directory_fd, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    for (size_t i = 0; i < size; i++)
        assert_int_equal(write(fd, "x", 1), 1);
    close(fd);
}

static struct span text(const char *bytes)
{
    return span_of(bytes, strlen(bytes));
}

static void assert_file(const char *content)
{
    char bytes[100];
    int fd = openat(directory_fd, NAME ".vtpm", O_RDONLY);
    assert_true(fd >= 0);
    ssize_t size = read(fd, bytes, sizeof bytes);
    close(fd);
    assert_int_equal(size, strlen(content));
    assert_memory_equal(bytes, content, (size_t)size);
}

static struct store *created(const char *content)
{
    struct store *store = NULL;
    assert_ok(store_create(directory_fd, &id, text(content), &store));
    return store;
}

/* --- what is refused --- */

static void a_missing_state_stays_missing(void **state)
{
    (void)state;
    struct store *store = NULL;
    assert_err(store_open(directory_fd, &id, &store), STATE_MISSING);
    assert_int_equal(file_count(), 0);
}

static void a_state_that_exists_is_not_overwritten(void **state)
{
    (void)state;
    struct store *store = created("first");
    store_close(&store);
    assert_err(store_create(directory_fd, &id, text("second"), &store), STATE_EXISTS);
    assert_file("first");
}

static void a_state_that_appears_meanwhile_is_not_overwritten(void **state)
{
    (void)state;
    struct store *store = NULL;
    blind = true;
    write_file(NAME ".vtpm", 3);
    assert_err(store_create(directory_fd, &id, text("second"), &store), STATE_EXISTS);
    no_exchange = true; /* then the name is given by link(2) */
    assert_err(store_create(directory_fd, &id, text("second"), &store), STATE_EXISTS);
    assert_file("xxx");
}

static void a_second_process_is_refused(void **state)
{
    (void)state;
    struct store *store = created("one");
    struct store *second = NULL;
    assert_err(store_open(directory_fd, &id, &second), STATE_LOCKED);
    store_close(&store);
    assert_ok(store_open(directory_fd, &id, &second));
    store_close(&second);
}

static void a_state_of_an_impossible_size_is_refused(void **state)
{
    (void)state;
    struct store *store = NULL;
    write_file(NAME ".vtpm", 0);
    assert_err(store_open(directory_fd, &id, &store), STATE_CUT);
    int fd = openat(directory_fd, NAME ".vtpm", O_WRONLY);
    assert_int_equal(__real_ftruncate64(fd, STATE_MAX + 1), 0);
    close(fd);
    assert_err(store_open(directory_fd, &id, &store), STATE_CUT);
}

static void a_link_in_the_states_place_is_refused(void **state)
{
    (void)state;
    struct store *store = NULL;
    write_file("elsewhere", 5);
    assert_int_equal(symlinkat("elsewhere", directory_fd, NAME ".vtpm"), 0);
    assert_err(store_open(directory_fd, &id, &store), STATE_IO);
}

static void nothing_is_left_of_a_creation_that_failed(void **state)
{
    (void)state;
    struct store *store = NULL;
    calls_until_fault = 2; /* the write */
    fault_errno = ENOSPC;
    assert_err(store_create(directory_fd, &id, text("first"), &store), STATE_IO);
    assert_int_equal(errno, ENOSPC);
    assert_int_equal(file_count(), 0);
}

/* --- commits --- */

static void the_last_commit_is_what_is_read(void **state)
{
    (void)state;
    struct store *store = created("one");
    assert_false(store_creates_files(store));
    assert_ok(store_commit(store, text("second")));
    assert_file("second");
    assert_ok(store_commit(store, text("3")));
    assert_file("3");
    store_close(&store);
    assert_ok(store_open(directory_fd, &id, &store));
    assert_int_equal(store_state(store).size, 1);
    assert_memory_equal(store_state(store).data, "3", 1);
    store_close(&store);
}

static void without_exchange_a_plain_rename_does(void **state)
{
    (void)state;
    no_exchange = true;
    struct store *store = created("one");
    assert_true(store_creates_files(store));
    assert_ok(store_commit(store, text("second")));
    assert_file("second");
    assert_ok(store_commit(store, text("3")));
    assert_file("3");
    store_close(&store);
}

static void a_state_larger_than_any_is_refused(void **state)
{
    (void)state;
    static uint8_t large[STATE_MAX + 1];
    struct store *store = created("one");
    assert_err(store_commit(store, span_of(large, sizeof large)), TOO_LARGE);
    assert_ok(store_commit(store, span_of(large, STATE_MAX)));
    store_close(&store);
}

/* Each system call of a commit fails once; trying again succeeds. */
static void every_error_can_be_tried_again(void **state)
{
    (void)state;
    const int errors[] = {ENOSPC, EIO, EROFS};
    for (int variant = 0; variant < 6; variant++) {
        no_exchange = variant & 1;
        fault_errno = errors[variant / 2];
        for (int call = 1; call < 10; call++) {
            struct store *store = created("one");
            calls_until_fault = call;
            struct err result = store_commit(store, text("second"));
            bool reached = calls_until_fault == 0;
            calls_until_fault = 0;
            if (reached) {
                assert_err(result, STATE_IO);
                assert_int_equal(errno, fault_errno);
                assert_ok(store_commit(store, text("second")));
            }
            assert_file("second");
            assert_ok(store_commit(store, text("the third")));
            assert_file("the third");
            store_close(&store);
            __real_unlinkat(directory_fd, NAME ".vtpm", 0);
            if (!reached) break;
            assert_true(call < 9);
        }
    }
}

/* The spare may still be the state on disk: it must not be written to before the exchange is durable. */
static void the_spare_is_left_alone_until_the_exchange_is_durable(void **state)
{
    (void)state;
    char bytes[10] = {0};
    struct store *store = created("one");
    fault_errno = EIO;
    calls_until_fault = 5; /* pwrite, ftruncate, fdatasync, renameat2, fsync */
    assert_err(store_commit(store, text("second")), STATE_IO);
    assert_ok(store_commit(store, text("second")));
    assert_file("second");
    int fd = openat(directory_fd, NAME ".spare", O_RDONLY);
    assert_int_equal(read(fd, bytes, sizeof bytes), 3);
    assert_memory_equal(bytes, "one", 3);
    close(fd);
    store_close(&store);
}

/* A process that dies at any system call of a commit leaves the old state or the new one, and it can be opened. */
static void every_crash_leaves_a_whole_state(void **state)
{
    (void)state;
    for (int variant = 0; variant < 4; variant++) {
        no_exchange = variant & 1;
        for (int call = 1; call < 10; call++) {
            struct store *store = created("the old state");
            store_close(&store);
            pid_t child = fork();
            if (child == 0) {
                if (store_open(directory_fd, &id, &store).code) _exit(1);
                fault_afterwards = variant & 2;
                fault_errno = 0;
                calls_until_fault = call;
                _exit(store_commit(store, text("new")).code ? 1 : 0);
            }
            int status = 0;
            assert_int_equal(waitpid(child, &status, 0), child);
            bool completed = WIFEXITED(status);
            if (completed) assert_int_equal(WEXITSTATUS(status), 0);
            assert_ok(store_open(directory_fd, &id, &store));
            struct span found = store_state(store);
            bool is_new = found.size == 3 && memcmp(found.data, "new", 3) == 0;
            bool is_old = found.size == 13 && memcmp(found.data, "the old state", 13) == 0;
            assert_true(is_new || (is_old && !completed));
            store_close(&store);
            __real_unlinkat(directory_fd, NAME ".vtpm", 0);
            if (completed) break;
            assert_true(call < 9);
        }
    }
}

/* The same for the first state: it is there whole, or it is not there. */
static void every_crash_of_a_creation_leaves_a_state_or_none(void **state)
{
    (void)state;
    for (int variant = 0; variant < 4; variant++) {
        no_exchange = variant & 1;
        for (int call = 1; call < 20; call++) {
            struct store *store = NULL;
            pid_t child = fork();
            if (child == 0) {
                fault_afterwards = variant & 2;
                fault_errno = 0;
                calls_until_fault = call;
                _exit(store_create(directory_fd, &id, text("first"), &store).code ? 1 : 0);
            }
            int status = 0;
            assert_int_equal(waitpid(child, &status, 0), child);
            struct err result = store_open(directory_fd, &id, &store);
            if (!result.code) {
                assert_memory_equal(store_state(store).data, "first", 5);
                store_close(&store);
            } else {
                assert_int_equal(result.code, ERR_STATE_MISSING);
                assert_false(WIFEXITED(status));
            }
            __real_unlinkat(directory_fd, NAME ".vtpm", 0);
            __real_unlinkat(directory_fd, NAME ".spare", 0);
            if (WIFEXITED(status)) break;
            assert_true(call < 19);
        }
    }
}

#define STORE_TEST(name) cmocka_unit_test_setup_teardown(name, make_directory, remove_directory)

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(a_missing_state_stays_missing),
        STORE_TEST(a_state_that_exists_is_not_overwritten),
        STORE_TEST(a_state_that_appears_meanwhile_is_not_overwritten),
        STORE_TEST(a_second_process_is_refused),
        STORE_TEST(a_state_of_an_impossible_size_is_refused),
        STORE_TEST(a_link_in_the_states_place_is_refused),
        STORE_TEST(nothing_is_left_of_a_creation_that_failed),
        STORE_TEST(the_last_commit_is_what_is_read),
        STORE_TEST(without_exchange_a_plain_rename_does),
        STORE_TEST(a_state_larger_than_any_is_refused),
        STORE_TEST(every_error_can_be_tried_again),
        STORE_TEST(the_spare_is_left_alone_until_the_exchange_is_durable),
        STORE_TEST(every_crash_leaves_a_whole_state),
        STORE_TEST(every_crash_of_a_creation_leaves_a_state_or_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
