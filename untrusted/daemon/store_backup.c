/* vtpmctl store backup, vtpmd's half. The file has lost its name before its first byte is written: whatever happens, its
 * room on the disk is free again when the last of vtpmd and vtpmctl has closed it. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "untrusted/daemon/store_work.h"
#include "untrusted/host/log.h"
#include "untrusted/store/backup.h"

#define PAGES_A_STEP 256
#define PATH_SIZE    4096u

struct copying {
    struct supervisor *supervisor;
    struct store_work_listener listener;
    struct store_backup *backup;
    int fd;
    bool done;
    struct err result; /* of the last step: an error is not the committer's to try again */
    char path[PATH_SIZE];
    char reason[REASON_SIZE];
};

static void fail(struct copying *c, struct err result, const char *said)
{
    c->result = result;
    (void)snprintf(c->reason, sizeof c->reason, "the copy in the state directory: %.140s", said);
}

static void begin(struct copying *c, struct store *store)
{
    (void)unlink(c->path); /* left by a vtpmd that was killed between the two calls below */
    struct err result = store_backup_open(store_handle(store), c->path, &c->backup);
    if (result.code) {
        fail(c, result, "no file can be made there");
        return;
    }
    c->fd = open(c->path, O_RDONLY | O_CLOEXEC);
    (void)unlink(c->path);
    if (c->fd < 0) fail(c, FAIL(STORE_IO), "the file cannot be opened");
}

static struct err run_step(void *ctx, struct store *store, struct anchor_host *anchor)
{
    (void)anchor;
    struct copying *c = ctx;
    if (!c->backup && !c->result.code) begin(c, store);
    if (c->result.code) return OK;
    struct err result = store_backup_step(c->backup, PAGES_A_STEP, &c->done);
    if (result.code) fail(c, result, store_backup_error(c->backup));
    if (c->done || result.code) store_backup_close(&c->backup); /* its last pages are in the file then */
    return OK;
}

static void end(struct copying *c, struct err result, const char *reason)
{
    const struct store_work_listener listener = c->listener;
    char text[REASON_SIZE];
    int fd = result.code ? -1 : c->fd;
    (void)snprintf(text, sizeof text, "%s", reason ? reason : err_sentence(result));
    off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
    if (result.code && c->fd >= 0) close(c->fd);
    store_backup_close(&c->backup);
    free(c);
    listener.done(listener.ctx, result, text, result.code ? NULL : json_pack("{s:I}", "size", (json_int_t)size), fd);
}

static void on_step(void *ctx, struct err result);

static void submit(struct copying *c)
{
    struct err result = committer_submit(c->supervisor->committer, &(struct committer_job){c, run_step, on_step});
    if (result.code) end(c, result, NULL);
}

static void on_step(void *ctx, struct err result)
{
    struct copying *c = ctx;
    if (result.code || c->result.code) {
        end(c, result.code ? result : c->result, result.code ? "vtpmd ends" : c->reason);
        return;
    }
    if (c->done) {
        end(c, OK, NULL);
        return;
    }
    uint64_t done = 0;
    uint64_t all = 0;
    store_backup_progress(c->backup, &done, &all);
    c->listener.progress(c->listener.ctx, done, all);
    submit(c);
}

struct err store_work_backup(struct supervisor *supervisor, const struct store_work_listener *listener)
{
    struct copying *c = calloc(1, sizeof *c);
    ENSURE(c, NO_MEMORY);
    *c = (struct copying){.supervisor = supervisor, .listener = *listener, .fd = -1};
    (void)snprintf(c->path, sizeof c->path, "%s/vtpm.db.copy", supervisor->config->state_dir);
    struct err result = committer_submit(supervisor->committer, &(struct committer_job){c, run_step, on_step});
    if (result.code) free(c);
    return result;
}
