/*
 * Power loss under the anchor's file: whatever part of a write the disk has kept, the file opens and has the value before
 * or the new one; once the move was answered, the new one. The writes and syncs are those of the real code.
 */
#include "tests/fakes/assertions.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/hostile/store/disk.h"
#include "untrusted/anchor/anchor_host.h"

#define SECTOR    512u
#define SLOT_SIZE 4096u
#define FILE_SIZE (2 * SLOT_SIZE)
#define USED      88u /* bytes of a slot that are not zero (anchor_host.h) */
#define MOVES     6

/* The file as the disk has it for sure, and the one write that it may have a part of. */
static struct {
    uint8_t durable[FILE_SIZE];
    uint8_t slot[SLOT_SIZE];
    size_t offset;
    bool pending;
    bool write_kept; /* no sync takes it: the control */
} disk;

static char directory[64];
static char path[80];
static char image_path[80];

ssize_t __real_pwrite64(int fd, const void *data, size_t size, off_t offset);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t size, off_t offset);
int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);

ssize_t __wrap_pwrite64(int fd, const void *data, size_t size, off_t offset)
{
    assert_int_equal(size, SLOT_SIZE);
    memcpy(disk.slot, data, size);
    disk.offset = (size_t)offset;
    disk.pending = true;
    return __real_pwrite64(fd, data, size, offset);
}

int __wrap_fdatasync(int fd)
{
    if (disk.pending && !disk.write_kept) {
        memcpy(disk.durable + disk.offset, disk.slot, SLOT_SIZE);
        disk.pending = false;
    }
    return __real_fdatasync(fd);
}

/* --- images ------------------------------------------------------------------------------------------------------- */

static uint8_t exchange(struct anchor_host *anchor, uint64_t verb, uint8_t from, uint8_t to)
{
    uint8_t request[ANCHOR_FILE_REQUEST_SIZE];
    uint8_t answer[ANCHOR_EXCHANGE_MAX];
    uint8_t wanted[ANCHOR_VALUE_SIZE];
    size_t size = 0;
    memcpy(request, &verb, sizeof verb);
    memset(request + 8, from, ANCHOR_VALUE_SIZE);
    memset(request + 8 + ANCHOR_VALUE_SIZE, to, ANCHOR_VALUE_SIZE);
    assert_ok(anchor_host_exchange(anchor, span_of(request, sizeof request), answer, &size));
    memset(wanted, answer[0], sizeof wanted);
    assert_int_equal(size, sizeof wanted);
    assert_memory_equal(answer, wanted, sizeof wanted);
    return answer[0];
}

/* The value of a file with these bytes. A value is 32 times the same byte here. */
static uint8_t value_of(const uint8_t image[FILE_SIZE])
{
    struct anchor_host *anchor DEFER(anchor_host_close) = NULL;
    int fd = open(image_path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, image, FILE_SIZE), FILE_SIZE);
    close(fd);
    assert_ok(anchor_host_open(ANCHOR_FILE, image_path, &anchor));
    return exchange(anchor, ANCHOR_FILE_READ, 0, 0);
}

static void assert_old_or_new(const uint8_t image[FILE_SIZE], uint8_t old)
{
    uint8_t value = value_of(image);
    assert_true(value == old || value == old + 1);
}

static void image_now(uint8_t out_image[FILE_SIZE])
{
    memcpy(out_image, disk.durable, FILE_SIZE);
}

/* As many bytes as arrived, from the front and from the back. */
static void tear_by_bytes(uint8_t old)
{
    uint8_t image[FILE_SIZE];
    for (size_t size = 0; size <= USED; size++) {
        image_now(image);
        memcpy(image + disk.offset, disk.slot, size);
        assert_old_or_new(image, old);
        image_now(image);
        memcpy(image + disk.offset + size, disk.slot + size, SLOT_SIZE - size);
        assert_old_or_new(image, old);
    }
}

/* Sectors at random: as before, new, or what a drive leaves that lost power within one. */
static void tear_by_sectors(uint8_t old, unsigned count)
{
    uint8_t image[FILE_SIZE];
    while (count--) {
        image_now(image);
        for (size_t at = 0; at < SLOT_SIZE; at += SECTOR) {
            uint64_t fate = disk_random(4);
            if (fate < 2) memcpy(image + disk.offset + at, disk.slot + at, SECTOR);
            for (size_t i = 0; fate == 2 && i < SECTOR; i++)
                image[disk.offset + at + i] = (uint8_t)disk_random(256);
        }
        assert_old_or_new(image, old);
    }
}

/* --- tests -------------------------------------------------------------------------------------------------------- */

static int make(void **state)
{
    (void)state;
    memset(&disk, 0, sizeof disk);
    strcpy(directory, "/tmp/vtpm-anchor-XXXXXX");
    if (!mkdtemp(directory)) return -1;
    (void)snprintf(path, sizeof path, "%s/anchor", directory);
    (void)snprintf(image_path, sizeof image_path, "%s/image", directory);
    if (anchor_file_make(path).code) return -1;
    disk.pending = false; /* durable, as anchor_file_make says */
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = read(fd, disk.durable, FILE_SIZE);
    close(fd);
    return got == FILE_SIZE ? 0 : -1;
}

static int unmake(void **state)
{
    (void)state;
    char command[100];
    (void)snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

/* The move that was not synced yet, from the disk and the write as they were while it was under way. */
static void a_torn_move_leaves_the_old_or_the_new_value(void **state)
{
    (void)state;
    const char *all = getenv("CHECK_LONG");
    const unsigned count = all && strcmp(all, "1") == 0 ? 2000 : 100;
    struct anchor_host *anchor DEFER(anchor_host_close) = NULL;
    assert_ok(anchor_host_open(ANCHOR_FILE, path, &anchor));
    for (uint8_t old = 0; old < MOVES; old++) {
        disk.write_kept = true;
        assert_int_equal(exchange(anchor, ANCHOR_FILE_MOVE, old, old + 1), old + 1);
        assert_true(disk.pending);
        assert_int_equal(value_of(disk.durable), old); /* nothing of it arrived */
        tear_by_bytes(old);
        tear_by_sectors(old, count);
        disk.write_kept = false;
        memcpy(disk.durable + disk.offset, disk.slot, SLOT_SIZE);
        disk.pending = false;
        assert_int_equal(value_of(disk.durable), old + 1);
    }
}

static void an_answered_move_is_on_the_disk(void **state)
{
    (void)state;
    struct anchor_host *anchor DEFER(anchor_host_close) = NULL;
    assert_ok(anchor_host_open(ANCHOR_FILE, path, &anchor));
    for (uint8_t old = 0; old < MOVES; old++) {
        assert_int_equal(exchange(anchor, ANCHOR_FILE_MOVE, old, old + 1), old + 1);
        assert_false(disk.pending);
        assert_int_equal(value_of(disk.durable), old + 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_torn_move_leaves_the_old_or_the_new_value, make, unmake),
        cmocka_unit_test_setup_teardown(an_answered_move_is_on_the_disk, make, unmake),
    };
    const char *wanted = getenv("CHECK_SEED");
    uint64_t seed = wanted ? strtoull(wanted, NULL, 10) : (uint64_t)time(NULL);
    printf("# seed %llu\n", (unsigned long long)seed);
    disk_seed(seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
