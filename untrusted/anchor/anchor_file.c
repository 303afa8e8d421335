/*
 * The kind file: see anchor_host.h.
 */
#include "untrusted/anchor/anchor_kinds.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <openssl/sha.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"

/*
 * A page each: the kernel writes whole pages and a disk whole sectors, so that the slot that is not written is never in
 * what a cut-off write spoils.
 */
#define SLOT_SIZE  4096u
#define SLOT_COUNT 2u
#define MAGIC      "vtpm anchor v1\0"
#define DIGEST_AT  (sizeof(MAGIC) + 8u + ANCHOR_VALUE_SIZE)

struct anchor_file {
    int fd;
    unsigned slot; /* that has the value */
    uint64_t number;
    uint8_t value[ANCHOR_VALUE_SIZE]; /* durable */
};

static struct err fail(char *reason, const char *what)
{
    (void)snprintf(reason, ANCHOR_REASON_SIZE, "%s: %s", what, strerror(errno));
    return FAIL(ANCHOR_IO);
}

/* --- slots -------------------------------------------------------------------------------------------------------- */

static struct err make_slot(uint64_t number, const uint8_t value[ANCHOR_VALUE_SIZE], uint8_t out_slot[SLOT_SIZE])
{
    struct writer w = writer_of(out_slot, SLOT_SIZE);
    memset(out_slot, 0, SLOT_SIZE);
    TRY(write_bytes(&w, MAGIC, sizeof MAGIC));
    TRY(write_u64(&w, number));
    TRY(write_bytes(&w, value, ANCHOR_VALUE_SIZE));
    SHA256(out_slot, w.size, out_slot + w.size);
    return OK;
}

static bool slot_is_whole(const uint8_t slot[SLOT_SIZE])
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    SHA256(slot, DIGEST_AT, digest);
    return memcmp(slot, MAGIC, sizeof MAGIC) == 0 && memcmp(slot + DIGEST_AT, digest, sizeof digest) == 0;
}

static bool write_slot(int fd, unsigned slot, const uint8_t bytes[SLOT_SIZE])
{
    ssize_t put = pwrite(fd, bytes, SLOT_SIZE, (off_t)slot * SLOT_SIZE);
    if (put == SLOT_SIZE) return true;
    if (put >= 0) errno = ENOSPC;
    return false;
}

static struct err take_slot(struct anchor_file *file, unsigned slot, const uint8_t bytes[SLOT_SIZE])
{
    struct reader r = reader_of(span_of(bytes + sizeof MAGIC, SLOT_SIZE - sizeof MAGIC));
    uint64_t number = 0;
    TRY(read_u64(&r, &number));
    if (number <= file->number) return OK;
    file->number = number;
    file->slot = slot;
    return read_bytes(&r, file->value, sizeof file->value);
}

/* What the page cache has and the disk does not may be lost yet, and is not to be answered. */
static struct err read_slots(struct anchor_file *file, char *reason)
{
    uint8_t slot[SLOT_SIZE];
    struct stat status;
    if (fstat(file->fd, &status) != 0 || fdatasync(file->fd) != 0) return fail(reason, "reading");
    bool sized = S_ISREG(status.st_mode) && status.st_size == SLOT_COUNT * SLOT_SIZE;
    for (unsigned i = 0; sized && i < SLOT_COUNT; i++) {
        if (pread(file->fd, slot, sizeof slot, (off_t)i * SLOT_SIZE) != SLOT_SIZE) return fail(reason, "reading");
        if (slot_is_whole(slot)) TRY(take_slot(file, i, slot));
    }
    if (file->number) return OK;
    errno = 0;
    (void)snprintf(reason, ANCHOR_REASON_SIZE, "it is damaged: no whole slot is in it");
    return FAIL(ANCHOR_IO);
}

/* --- the file ----------------------------------------------------------------------------------------------------- */

static struct err sync_parent(const char *path)
{
    char copy[PATH_MAX];
    ENSURE(strlen(path) < sizeof copy, ANCHOR_IO);
    strcpy(copy, path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ENSURE(fd >= 0, ANCHOR_IO);
    int result = fsync(fd);
    close(fd);
    ENSURE(result == 0, ANCHOR_IO);
    return OK;
}

static struct err fill(int fd)
{
    static const uint8_t nothing[ANCHOR_VALUE_SIZE] = {0};
    uint8_t slot[SLOT_SIZE];
    for (unsigned i = 0; i < SLOT_COUNT; i++) {
        TRY(make_slot(i + 1, nothing, slot));
        ENSURE(write_slot(fd, i, slot), ANCHOR_IO);
    }
    ENSURE(fsync(fd) == 0, ANCHOR_IO);
    return OK;
}

static struct err is_fresh(const char *path)
{
    static const uint8_t nothing[ANCHOR_VALUE_SIZE] = {0};
    char reason[ANCHOR_REASON_SIZE];
    struct anchor_file *file DEFER(anchor_file_close) = NULL;
    TRY(anchor_file_open(path, reason, &file));
    ENSURE(memcmp(file->value, nothing, sizeof nothing) == 0, STORE_EXISTS);
    return OK;
}

/* Whole and durable under another name first: what is cut off leaves no anchor that looks damaged. */
static struct err make_at(const char *path, const char *temporary)
{
    (void)unlink(temporary);
    int fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    ENSURE(fd >= 0, ANCHOR_IO);
    struct err result = fill(fd);
    close(fd);
    if (!result.code && link(temporary, path) != 0) result = errno == EEXIST ? is_fresh(path) : FAIL(ANCHOR_IO);
    int why = errno;
    (void)unlink(temporary);
    errno = why;
    return result;
}

struct err anchor_file_make(const char *path)
{
    char temporary[PATH_MAX];
    if (access(path, F_OK) == 0) return is_fresh(path);
    ENSURE(snprintf(temporary, sizeof temporary, "%s.new", path) < (int)sizeof temporary, ANCHOR_IO);
    TRY(make_at(path, temporary));
    return sync_parent(path);
}

struct err anchor_file_open(const char *path, char *reason, struct anchor_file **out_file)
{
    struct anchor_file *file DEFER(anchor_file_close) = calloc(1, sizeof *file);
    ENSURE(file, NO_MEMORY);
    file->fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (file->fd < 0) return fail(reason, "opening it");
    if (flock(file->fd, LOCK_EX | LOCK_NB) != 0) {
        ENSURE(errno != EWOULDBLOCK, STORE_BUSY);
        return fail(reason, "locking it");
    }
    TRY(read_slots(file, reason));
    *out_file = file;
    file = NULL;
    return OK;
}

void anchor_file_close(struct anchor_file **file)
{
    if (!*file) return;
    if ((*file)->fd >= 0) close((*file)->fd);
    free(*file);
    *file = NULL;
}

/* --- exchanges ---------------------------------------------------------------------------------------------------- */

/* Into the slot that does not have the value. After an error the value is still the one before. */
static struct err set_value(struct anchor_file *file, const uint8_t value[ANCHOR_VALUE_SIZE], char *reason)
{
    const unsigned other = (file->slot + 1) % SLOT_COUNT;
    uint8_t slot[SLOT_SIZE];
    TRY(make_slot(file->number + 1, value, slot));
    if (!write_slot(file->fd, other, slot) || fdatasync(file->fd) != 0) return fail(reason, "writing");
    memcpy(file->value, value, sizeof file->value);
    file->slot = other;
    file->number++;
    return OK;
}

struct err anchor_file_exchange(struct anchor_file *file, struct span request, char *reason, uint8_t *out_answer,
                                size_t *out_size)
{
    static const uint8_t zeros[2 * ANCHOR_VALUE_SIZE] = {0};
    struct reader r = reader_of(request);
    struct span from;
    struct span to;
    uint64_t verb = 0; /* and its padding */
    TRY(read_u64(&r, &verb));
    TRY(read_span(&r, ANCHOR_VALUE_SIZE, &from));
    TRY(read_span(&r, ANCHOR_VALUE_SIZE, &to));
    TRY(reader_end(&r));
    ENSURE(verb == ANCHOR_FILE_READ || verb == ANCHOR_FILE_MOVE, BAD_VALUE);
    ENSURE(verb == ANCHOR_FILE_MOVE || memcmp(from.data, zeros, sizeof zeros) == 0, BAD_VALUE);
    if (verb == ANCHOR_FILE_MOVE && memcmp(file->value, from.data, sizeof file->value) == 0)
        TRY(set_value(file, to.data, reason));
    memcpy(out_answer, file->value, sizeof file->value);
    *out_size = sizeof file->value;
    return OK;
}
