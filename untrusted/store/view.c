#include "untrusted/store/view.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

/* The bytes that SQLite locks (its file format, "File Locking"): whoever reads has a read lock on these. */
#define SHARED_FIRST (0x40000000 + 2)
#define SHARED_SIZE  510

static void close_fd(int *fd)
{
    if (*fd >= 0) (void)close(*fd);
}

static struct err lock(int fd)
{
    struct flock shared = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = SHARED_FIRST, .l_len = SHARED_SIZE};
    if (fcntl(fd, F_SETLK, &shared) == 0) return OK;
    ENSURE(errno != EAGAIN && errno != EACCES, STORE_BUSY);
    return FAIL(SYSTEM);
}

static struct err join(char out_path[STORE_VIEW_PATH], const char *first, const char *second)
{
    int size = snprintf(out_path, STORE_VIEW_PATH, "%s%s", first, second);
    ENSURE(size > 0 && (size_t)size < STORE_VIEW_PATH, TOO_LARGE);
    return OK;
}

static struct err copy(const char *from, const char *to)
{
    int source DEFER(close_fd) = open(from, O_RDONLY | O_CLOEXEC);
    int target DEFER(close_fd) = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ENSURE(source >= 0 && target >= 0, SYSTEM);
    ssize_t copied = 0;
    while ((copied = sendfile(target, source, NULL, 1u << 20)) > 0)
        ;
    ENSURE(copied == 0, SYSTEM);
    return OK;
}

static struct err copy_with_log(const char *file, const char *log, struct store_view *view,
                                char out_copy[STORE_VIEW_PATH])
{
    char copied_log[STORE_VIEW_PATH];
    const char *temporary = getenv("TMPDIR");
    char name[STORE_VIEW_PATH];
    TRY(join(name, temporary && *temporary ? temporary : "/tmp", "/vtpm-store-XXXXXX"));
    ENSURE(mkdtemp(name), SYSTEM);
    memcpy(view->directory, name, sizeof name);
    TRY(join(out_copy, view->directory, "/vtpm.db"));
    TRY(join(copied_log, out_copy, "-wal"));
    TRY(copy(log, copied_log));
    return copy(file, out_copy);
}

/* Without a log the file alone is the store: immutable, because it is locked here. */
static struct err open_immutable(const char *file, sqlite3 **out_db)
{
    char *quoted = sqlite3_mprintf("%s", "file:");
    for (const char *next = file; quoted && *next; next++) {
        bool plain = (*next >= 'a' && *next <= 'z') || (*next >= 'A' && *next <= 'Z') ||
                     (*next >= '0' && *next <= '9') || strchr("/._-", *next);
        quoted = sqlite3_mprintf(plain ? "%z%c" : "%z%%%02x", quoted, (unsigned char)*next);
    }
    quoted = quoted ? sqlite3_mprintf("%z?immutable=1", quoted) : NULL;
    ENSURE(quoted, NO_MEMORY);
    int code = sqlite3_open_v2(quoted, out_db, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX, NULL);
    sqlite3_free(quoted);
    ENSURE(code == SQLITE_OK, SYSTEM);
    return OK;
}

static struct err open_db(const char *file, struct store_view *view)
{
    char log[STORE_VIEW_PATH];
    char copied[STORE_VIEW_PATH];
    struct stat stat_of_log;
    TRY(join(log, file, "-wal"));
    if (stat(log, &stat_of_log) != 0) {
        ENSURE(errno == ENOENT, SYSTEM);
        return open_immutable(file, &view->db);
    }
    if (stat_of_log.st_size == 0) return open_immutable(file, &view->db);
    TRY(copy_with_log(file, log, view, copied));
    ENSURE(sqlite3_open_v2(copied, &view->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) == SQLITE_OK, SYSTEM);
    return OK;
}

struct err store_view_open(const char *file, struct store_view *out_view)
{
    *out_view = (struct store_view){.fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    struct stat stat_of_file;
    ENSURE(out_view->fd >= 0 || errno != ENOENT, STORE_MISSING);
    ENSURE(out_view->fd >= 0 && fstat(out_view->fd, &stat_of_file) == 0, SYSTEM);
    ENSURE(S_ISREG(stat_of_file.st_mode), STORE_FOREIGN);
    TRY(lock(out_view->fd));
    TRY(open_db(file, out_view));
    (void)sqlite3_extended_result_codes(out_view->db, 1);
    (void)sqlite3_db_config(out_view->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    (void)sqlite3_exec(out_view->db, "PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA query_only=ON", NULL,
                       NULL, NULL);
    return OK;
}

static void remove_copy(const char *directory)
{
    static const char *const names[] = {"/vtpm.db", "/vtpm.db-wal", "/vtpm.db-shm", ""};
    char path[STORE_VIEW_PATH];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!join(path, directory, names[i]).code) (void)remove(path);
}

void store_view_close(struct store_view *view)
{
    (void)sqlite3_close(view->db);
    close_fd(&view->fd);
    if (view->directory[0]) remove_copy(view->directory);
    *view = (struct store_view){.fd = -1};
}
