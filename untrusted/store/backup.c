#include "untrusted/store/backup.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct store_backup {
    sqlite3 *target;
    sqlite3_backup *backup;
    char error[160];
};

static struct err note(struct store_backup *b, int code)
{
    (void)snprintf(b->error, sizeof b->error, "%s", sqlite3_errmsg(b->target));
    ENSURE((code & 0xFF) != SQLITE_NOMEM, NO_MEMORY);
    return FAIL(STORE_IO);
}

static struct err begin(struct store_backup *b, sqlite3 *source, const char *path)
{
    int code = sqlite3_open_v2(path, &b->target, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (code != SQLITE_OK) return note(b, code);
    /* A copy that is cut off is thrown away: nothing has to be undone in it. */
    code = sqlite3_exec(b->target, "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE",
                        NULL, NULL, NULL);
    if (code != SQLITE_OK) return note(b, code);
    b->backup = sqlite3_backup_init(b->target, "main", source, "main");
    return b->backup ? OK : note(b, sqlite3_errcode(b->target));
}

struct err store_backup_open(struct sqlite3 *source, const char *path, struct store_backup **out_backup)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ENSURE(fd >= 0 || errno != EEXIST, STORE_EXISTS);
    ENSURE(fd >= 0, STORE_IO);
    close(fd);
    struct store_backup *b = calloc(1, sizeof *b);
    struct err result = b ? begin(b, source, path) : FAIL(NO_MEMORY);
    if (result.code) {
        store_backup_close(&b);
        (void)unlink(path);
        return result;
    }
    *out_backup = b;
    return OK;
}

struct err store_backup_step(struct store_backup *backup, int pages, bool *out_done)
{
    int code = sqlite3_backup_step(backup->backup, pages);
    *out_done = code == SQLITE_DONE;
    return code == SQLITE_OK || code == SQLITE_DONE ? OK : note(backup, code);
}

void store_backup_progress(const struct store_backup *backup, uint64_t *out_done, uint64_t *out_all)
{
    int all = sqlite3_backup_pagecount(backup->backup);
    int left = sqlite3_backup_remaining(backup->backup);
    *out_all = all > 0 ? (uint64_t)all : 0;
    *out_done = all > left ? (uint64_t)(all - left) : 0;
}

const char *store_backup_error(const struct store_backup *backup)
{
    return backup->error;
}

void store_backup_close(struct store_backup **backup)
{
    if (!*backup) return;
    (void)sqlite3_backup_finish((*backup)->backup);
    (void)sqlite3_close((*backup)->target);
    free(*backup);
    *backup = NULL;
}
