#include "tests/fakes/assertions.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "untrusted/anchor/anchor_host.h"

#define SLOT_SIZE 4096

static char directory[64];
static char path[80];
static struct anchor_host *anchor;

static int make(void **state)
{
    (void)state;
    strcpy(directory, "/tmp/vtpm-anchor-XXXXXX");
    if (!mkdtemp(directory)) return -1;
    (void)snprintf(path, sizeof path, "%s/anchor", directory);
    return anchor_file_make(path).code || anchor_host_open(ANCHOR_FILE, path, &anchor).code;
}

static int unmake(void **state)
{
    (void)state;
    char command[100];
    anchor_host_close(&anchor);
    (void)snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

static void open_again(void)
{
    anchor_host_close(&anchor);
    assert_ok(anchor_host_open(ANCHOR_FILE, path, &anchor));
}

static void assert_refused(const char *word)
{
    anchor_host_close(&anchor);
    assert_err(anchor_host_open(ANCHOR_FILE, path, &anchor), ANCHOR_IO);
    assert_non_null(strstr(anchor_host_error(anchor), word));
}

/* A value is 32 times the same byte here. The error of the exchange; out: the byte of the answer. */
static struct err exchange(uint64_t verb, int from, int to, uint8_t *out)
{
    uint8_t request[ANCHOR_FILE_REQUEST_SIZE];
    uint8_t answer[ANCHOR_EXCHANGE_MAX];
    size_t size = 0;
    memcpy(request, &verb, sizeof verb);
    memset(request + 8, from, ANCHOR_VALUE_SIZE);
    memset(request + 8 + ANCHOR_VALUE_SIZE, to, ANCHOR_VALUE_SIZE);
    TRY(anchor_host_exchange(anchor, span_of(request, sizeof request), answer, &size));
    assert_int_equal(size, ANCHOR_VALUE_SIZE);
    for (size_t i = 1; i < size; i++)
        assert_int_equal(answer[i], answer[0]);
    *out = answer[0];
    return OK;
}

static uint8_t value(void)
{
    uint8_t byte = 0xFF;
    assert_ok(exchange(ANCHOR_FILE_READ, 0, 0, &byte));
    return byte;
}

static uint8_t move(int from, int to)
{
    uint8_t byte = 0xFF;
    assert_ok(exchange(ANCHOR_FILE_MOVE, from, to, &byte));
    return byte;
}

static void spoil(off_t offset)
{
    int fd = open(path, O_RDWR);
    uint8_t byte = 0;
    assert_int_equal(pread(fd, &byte, 1, offset), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
    close(fd);
}

static void a_new_one_has_zeros_and_is_the_owners_alone(void **state)
{
    (void)state;
    struct stat status;
    assert_int_equal(value(), 0);
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
}

static void a_move_is_there_after_opening_it_again(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++) {
        assert_int_equal(move(i, i + 1), i + 1);
        open_again();
        assert_int_equal(value(), i + 1);
    }
}

static void a_move_from_another_value_changes_nothing(void **state)
{
    (void)state;
    assert_int_equal(move(0, 1), 1);
    assert_int_equal(move(0, 2), 1);
    assert_int_equal(move(2, 3), 1);
    open_again();
    assert_int_equal(value(), 1);
}

static void a_move_that_is_asked_again_has_its_answer(void **state)
{
    (void)state;
    assert_int_equal(move(0, 1), 1);
    assert_int_equal(move(0, 1), 1);
}

/* The slots begin with 0, 0, so the first move is written into the first one. */
static void a_torn_slot_leaves_the_value_before(void **state)
{
    (void)state;
    for (off_t place = 0; place < 88; place += 29) {
        anchor_host_close(&anchor);
        assert_int_equal(unlink(path), 0);
        assert_ok(anchor_file_make(path));
        open_again();
        assert_int_equal(move(0, 1), 1);
        assert_int_equal(move(1, 2), 2);
        spoil(SLOT_SIZE + place);
        open_again();
        assert_int_equal(value(), 1);
        assert_int_equal(move(1, 3), 3);
        open_again();
        assert_int_equal(value(), 3);
    }
}

static void one_with_no_whole_slot_is_refused_and_left_as_it_is(void **state)
{
    (void)state;
    assert_int_equal(move(0, 1), 1);
    spoil(20);
    spoil(SLOT_SIZE + 20);
    assert_refused("damaged");
    errno = 1;
    assert_err(anchor_file_make(path), ANCHOR_IO);
    spoil(20);
    open_again();
    assert_int_equal(value(), 1);
}

static void one_of_another_size_is_refused(void **state)
{
    (void)state;
    assert_int_equal(truncate(path, SLOT_SIZE), 0);
    assert_refused("damaged");
    assert_int_equal(truncate(path, 0), 0);
    assert_refused("damaged");
}

static void a_missing_one_is_refused_and_not_made(void **state)
{
    (void)state;
    assert_int_equal(unlink(path), 0);
    assert_refused("No such file");
    assert_int_equal(access(path, F_OK), -1);
}

static void a_symbolic_link_is_refused(void **state)
{
    (void)state;
    char other[96];
    (void)snprintf(other, sizeof other, "%s.other", path);
    assert_int_equal(rename(path, other), 0);
    assert_int_equal(symlink(other, path), 0);
    assert_refused("symbolic");
}

static void two_do_not_have_it_at_once(void **state)
{
    (void)state;
    struct anchor_host *second = NULL;
    assert_err(anchor_host_open(ANCHOR_FILE, path, &second), STORE_BUSY);
    anchor_host_close(&second);
    assert_int_equal(move(0, 1), 1);
}

static void making_it_again_leaves_a_fresh_one_and_refuses_a_used_one(void **state)
{
    (void)state;
    anchor_host_close(&anchor);
    assert_ok(anchor_file_make(path));
    open_again();
    assert_int_equal(move(0, 1), 1);
    assert_err(anchor_file_make(path), STORE_BUSY);
    anchor_host_close(&anchor);
    assert_err(anchor_file_make(path), STORE_EXISTS);
    open_again();
    assert_int_equal(value(), 1);
}

static void what_is_no_request_is_refused(void **state)
{
    (void)state;
    uint8_t byte = 0;
    uint8_t answer[ANCHOR_EXCHANGE_MAX];
    uint8_t request[ANCHOR_FILE_REQUEST_SIZE + 1] = {ANCHOR_FILE_READ};
    size_t size = 0;
    assert_err(exchange(0, 0, 0, &byte), BAD_VALUE);
    assert_err(exchange(3, 0, 0, &byte), BAD_VALUE);
    assert_err(exchange(ANCHOR_FILE_MOVE | 0x100, 0, 1, &byte), BAD_VALUE);
    assert_err(exchange(ANCHOR_FILE_READ, 0, 1, &byte), BAD_VALUE);
    assert_err(anchor_host_exchange(anchor, span_of(request, sizeof request), answer, &size), TRAILING);
    assert_err(anchor_host_exchange(anchor, span_of(request, sizeof request - 2), answer, &size), TRUNCATED);
    assert_int_equal(value(), 0);
}

/* As a full disk would, a limit on the size of files makes writing the second slot fail. */
static void a_write_that_fails_leaves_the_value_and_can_be_tried_again(void **state)
{
    (void)state;
    uint8_t byte = 0;
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(move(0, 1), 1);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &(struct rlimit){SLOT_SIZE, before.rlim_max}), 0);
    struct err result = exchange(ANCHOR_FILE_MOVE, 1, 2, &byte);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_err(result, ANCHOR_IO);
    assert_non_null(strstr(anchor_host_error(anchor), "writing"));
    assert_int_equal(value(), 1);
    assert_int_equal(move(1, 2), 2);
    open_again();
    assert_int_equal(value(), 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make, unmake)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_new_one_has_zeros_and_is_the_owners_alone),
        TEST(a_move_is_there_after_opening_it_again),
        TEST(a_move_from_another_value_changes_nothing),
        TEST(a_move_that_is_asked_again_has_its_answer),
        TEST(a_torn_slot_leaves_the_value_before),
        TEST(one_with_no_whole_slot_is_refused_and_left_as_it_is),
        TEST(one_of_another_size_is_refused),
        TEST(a_missing_one_is_refused_and_not_made),
        TEST(a_symbolic_link_is_refused),
        TEST(two_do_not_have_it_at_once),
        TEST(making_it_again_leaves_a_fresh_one_and_refuses_a_used_one),
        TEST(what_is_no_request_is_refused),
        TEST(a_write_that_fails_leaves_the_value_and_can_be_tried_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
