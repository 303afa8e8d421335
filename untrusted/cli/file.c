#include "untrusted/cli/file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void file_close(struct file *file)
{
    free(file->data);
    *file = (struct file){0};
}

static void fd_close(int *fd)
{
    if (*fd >= 0) (void)close(*fd);
}

static bool read_all(int fd, struct file *file)
{
    size_t done = 0;
    while (done < file->size) {
        ssize_t got = read(fd, file->data + done, file->size - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return false;
        if (got == 0) break; /* somebody cut it meanwhile: what is there is read */
        done += (size_t)got;
    }
    file->size = done;
    return true;
}

struct err file_read(const char *path, size_t limit, struct file *out_file, struct explanation *why)
{
    int fd DEFER(fd_close) = open(path, O_RDONLY | O_CLOEXEC);
    struct stat stat;
    if (fd < 0 || fstat(fd, &stat) != 0) return explain(why, FAIL(SYSTEM), "%s: %s", path, strerror(errno));
    if (!S_ISREG(stat.st_mode)) return explain(why, FAIL(SYSTEM), "%s: not a regular file", path);
    if ((uint64_t)stat.st_size > limit)
        return explain(why, FAIL(TOO_LARGE), "%s: %lld bytes; at most %zu are expected here", path,
                       (long long)stat.st_size, limit);
    struct file file DEFER(file_close) = {.data = malloc((size_t)stat.st_size + 1), .size = (size_t)stat.st_size};
    ENSURE(file.data, NO_MEMORY);
    if (!read_all(fd, &file)) return explain(why, FAIL(SYSTEM), "%s: %s", path, strerror(errno));
    *out_file = file;
    file.data = NULL;
    return OK;
}

static bool write_all(int fd, struct span bytes)
{
    while (bytes.size > 0) {
        ssize_t done = write(fd, bytes.data, bytes.size);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return false;
        bytes = span_of(bytes.data + done, bytes.size - (size_t)done);
    }
    return true;
}

/* A rename is durable once its directory is. */
static bool sync_directory_of(const char *path)
{
    char copy[PATH_MAX];
    (void)snprintf(copy, sizeof copy, "%s", path);
    int fd DEFER(fd_close) = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd >= 0 && fsync(fd) == 0;
}

static bool write_then_rename(int fd, const char *temporary, const char *path, struct span bytes)
{
    mode_t mask = umask(0);
    (void)umask(mask);
    return fchmod(fd, 0666 & ~mask) == 0 && write_all(fd, bytes) && fsync(fd) == 0 && rename(temporary, path) == 0;
}

struct err file_replace(const char *path, struct span bytes, struct explanation *why)
{
    char temporary[PATH_MAX];
    int length = snprintf(temporary, sizeof temporary, "%s.XXXXXX", path);
    if (length < 0 || (size_t)length >= sizeof temporary)
        return explain(why, FAIL(SYSTEM), "%s: %s", path, strerror(ENAMETOOLONG));
    int fd DEFER(fd_close) = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0) return explain(why, FAIL(SYSTEM), "%s: %s", path, strerror(errno));
    if (!write_then_rename(fd, temporary, path, bytes)) {
        struct err err = explain(why, FAIL(SYSTEM), "%s: %s", path, strerror(errno));
        (void)unlink(temporary);
        return err;
    }
    if (!sync_directory_of(path)) return explain(why, FAIL(SYSTEM), "%s: %s", path, strerror(errno));
    return OK;
}
