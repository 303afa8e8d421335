#include "untrusted/cli/ctl_store.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "untrusted/cli/ctl_text.h"
#include "untrusted/store/backup.h"
#include "untrusted/store/check.h"
#include "untrusted/store/view.h"

#define DEFAULT_STATE_DIR "/var/lib/vtpm"
#define GREETING_SECONDS  10u
#define PAGES_A_STEP      1024
#define BYTES_A_STEP      (1u << 20)

static void json_close(json_t **value)
{
    json_decref(*value);
}

static void close_fd(int *fd)
{
    if (*fd >= 0) (void)close(*fd);
}

/* --- progress ------------------------------------------------------------------------------------------------------
 */

struct bar {
    const char *what;
    bool shown; /* standard error is a terminal that a person looks at */
};

static void draw(const struct bar *bar, uint64_t done, uint64_t all)
{
    if (bar->shown)
        (void)fprintf(stderr, "\r%s: %llu of %llu\033[K", bar->what, (unsigned long long)done, (unsigned long long)all);
}

static void wipe_bar(const struct bar *bar)
{
    if (bar->shown) (void)fputs("\r\033[K", stderr);
}

static void on_progress(void *ctx, const json_t *progress)
{
    json_int_t done = json_integer_value(json_object_get(progress, "done"));
    json_int_t all = json_integer_value(json_object_get(progress, "of"));
    if (done >= 0 && all >= 0) draw(ctx, (uint64_t)done, (uint64_t)all);
}

static struct bar bar_of(const struct ctl_store *store, const char *what)
{
    return (struct bar){what, !store->json && isatty(STDERR_FILENO)};
}

/* --- which store ---------------------------------------------------------------------------------------------------
 */

/* True if vtpmd is asked; then the connection is open. Without anybody who listens, and without a name, the store is where
 * vtpmd has it by default. */
static struct err find_daemon(const struct ctl_store *store, bool named, bool *out_asked, struct explanation *why)
{
    *out_asked = false;
    if (named) return OK;
    struct err result = ctl_open(store->socket, GREETING_SECONDS, store->ctl, why);
    if (store->ctl->outcome == CTL_ABSENT) {
        store->ctl->outcome = CTL_FINE;
        *why = (struct explanation){0};
        return OK;
    }
    *out_asked = !result.code;
    return result;
}

static struct err open_view(const char *path, struct store_view *out_view, struct explanation *why)
{
    struct err result = store_view_open(path, out_view);
    int number = errno;
    if (result.code == ERR_STORE_BUSY)
        return explain(
            why, result,
            "%s: a vtpmd has this store open; ask it (the command without a file and without --state-dir), or "
            "stop it first",
            path);
    if (result.code == ERR_STORE_MISSING)
        return explain(why, result, "%s: there is no such file; name one, or --state-dir", path);
    if (result.code == ERR_STORE_FOREIGN) return explain(why, result, "%s: not a regular file", path);
    if (result.code == ERR_SYSTEM) return explain(why, result, "%s: %s", path, strerror(number));
    return result;
}

static struct err path_in(const char *directory, char out_path[PATH_MAX], struct explanation *why)
{
    int size = snprintf(out_path, PATH_MAX, "%s/vtpm.db", directory ? directory : DEFAULT_STATE_DIR);
    if (size < 0 || size >= PATH_MAX) return explain(why, FAIL(USAGE), "--state-dir: the path is too long");
    return OK;
}

/* --- check ---------------------------------------------------------------------------------------------------------
 */

static void found(void *ctx, const struct store_finding *finding)
{
    (void)json_array_append_new(
        ctx, json_pack("{s:s, s:s, s:s}", "subject", finding->subject, "fault", finding->fault, "cure", finding->cure));
}

static void close_view(struct store_view *view)
{
    store_view_close(view);
}

static void close_check(struct store_check **check)
{
    store_check_close(check);
}

static struct err check_all(struct store_check *check, const struct bar *bar)
{
    for (bool done = false; !done;) {
        uint64_t checked = 0;
        uint64_t all = 0;
        TRY(store_check_step(check, &done));
        store_check_progress(check, &checked, &all);
        draw(bar, checked, all);
    }
    return OK;
}

/* The answer in the form of store-check of the admin API. */
static struct err check_file(const char *path, const struct bar *bar, json_t **out_answer, struct explanation *why)
{
    struct store_view view DEFER(close_view) = {.fd = -1};
    struct store_check *check DEFER(close_check) = NULL;
    json_t *findings DEFER(json_close) = json_array();
    const struct store_check_listener listener = {findings, found};
    TRY(open_view(path, &view, why));
    TRY(store_check_open(view.db, true, &listener, &check));
    TRY(check_all(check, bar));
    const struct store_checked *checked = store_checked(check);
    *out_answer =
        json_pack("{s:s, s:O, s:I, s:I, s:I, s:I, s:n}", "file", path, "findings", findings, "rows",
                  (json_int_t)checked->rows, "states", (json_int_t)checked->states, "snapshots",
                  (json_int_t)checked->snapshots, "other-manager", (json_int_t)checked->other_manager, "compared");
    ENSURE(*out_answer, NO_MEMORY);
    return OK;
}

static void show_findings(const json_t *answer)
{
    const json_t *findings = json_object_get(answer, "findings");
    for (size_t i = 0; i < json_array_size(findings); i++) {
        const json_t *finding = json_array_get(findings, i);
        printf("%s: %s\n  %s\n", shown_member(finding, "subject").text, shown_member(finding, "fault").text,
               shown_member(finding, "cure").text);
    }
    printf("%s: %s instances, %s states, %s snapshots, %zu findings\n",
           json_object_get(answer, "file") ? shown_member(answer, "file").text : "the store of the vtpmd that runs",
           shown_member(answer, "rows").text, shown_member(answer, "states").text,
           shown_member(answer, "snapshots").text, json_array_size(findings));
    if (json_integer_value(json_object_get(answer, "other-manager")) > 0)
        printf(
            "%s records were sealed by another manager image than the ledger's head: so it is after an upgrade, until "
            "each is written again\n",
            shown_member(answer, "other-manager").text);
}

static void show_limits(const json_t *answer)
{
    if (json_is_integer(json_object_get(answer, "compared")))
        printf("compared with the manager's rows, version and SHA-256: %s instances\n",
               shown_member(answer, "compared").text);
    else
        puts("not verified: whether the records are authentic, and whether they are the newest. The first only the "
             "manager "
             "enclave can tell, when vtpmd starts; the second only the anchor");
    if (json_integer_value(json_object_get(answer, "busy")) > 0)
        printf("written to at each look, and so not compared: %s instances\n", shown_member(answer, "busy").text);
}

static struct err tell(const struct ctl_store *store, const json_t *answer, struct explanation *why)
{
    const json_t *findings = json_object_get(answer, "findings");
    if (!json_is_array(findings)) {
        store->ctl->outcome = CTL_LOST;
        return explain(why, FAIL(PROTOCOL), "%s: vtpmd's answer has no findings", store->socket);
    }
    if (store->json) {
        shown_json(answer, JSON_INDENT(2), stdout);
    } else {
        show_findings(answer);
        show_limits(answer);
    }
    if (fflush(stdout) != 0 || ferror(stdout))
        return explain(why, FAIL(SYSTEM), "standard output: %s", strerror(errno));
    if (json_array_size(findings) > 0)
        return explain(why, FAIL(STORE_FOREIGN), "%zu findings", json_array_size(findings));
    return OK;
}

struct err ctl_store_check(const struct ctl_store *store, struct explanation *why)
{
    struct bar bar = bar_of(store, "checking the store");
    json_t *answer DEFER(json_close) = NULL;
    char path[PATH_MAX];
    bool asked = false;
    if (store->file && store->state_dir)
        return explain(why, FAIL(USAGE), "store check: a file, or --state-dir, not both");
    TRY(find_daemon(store, store->file || store->state_dir, &asked, why));
    TRY(path_in(store->state_dir, path, why));
    store->ctl->progress = on_progress;
    store->ctl->progress_ctx = &bar;
    struct err result = asked ? ctl_call(store->ctl, "store-check", json_pack("{s:b}", "progress", 1), store->seconds,
                                         NULL, &answer, why)
                              : check_file(store->file ? store->file : path, &bar, &answer, why);
    wipe_bar(&bar);
    TRY(result);
    return tell(store, answer, why);
}

/* --- backup --------------------------------------------------------------------------------------------------------
 */

/* The bytes of vtpmd's copy, which has no name. */
static struct err take_copy(const struct ctl_store *store, const char *temporary, struct bar *bar,
                            struct explanation *why)
{
    int source DEFER(close_fd) = -1;
    json_t *answer DEFER(json_close) = NULL;
    store->ctl->progress = on_progress;
    store->ctl->progress_ctx = bar;
    store->ctl->passed = &source;
    TRY(ctl_call(store->ctl, "store-backup", json_pack("{s:b}", "progress", 1), store->seconds, NULL, &answer, why));
    json_int_t size = json_integer_value(json_object_get(answer, "size"));
    if (source < 0 || size <= 0) {
        store->ctl->outcome = CTL_LOST;
        return explain(why, FAIL(PROTOCOL), "%s: vtpmd's answer has no copy with it", store->socket);
    }
    int target DEFER(close_fd) = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (target < 0) return explain(why, FAIL(SYSTEM), "%s: %s", temporary, strerror(errno));
    bar->what = "writing the copy, bytes";
    off_t done = 0;
    while (done < size) {
        ssize_t copied = sendfile(target, source, &done, BYTES_A_STEP);
        if (copied < 0) return explain(why, FAIL(SYSTEM), "%s: %s", temporary, strerror(errno));
        if (copied == 0) return explain(why, FAIL(SYSTEM), "%s: vtpmd's copy ends early; nothing was kept", temporary);
        draw(bar, (uint64_t)done, (uint64_t)size);
    }
    return OK;
}

static void close_backup(struct store_backup **backup)
{
    store_backup_close(backup);
}

static struct err copy_all(struct store_backup *backup, const struct bar *bar, const char *path,
                           struct explanation *why)
{
    for (bool done = false; !done;) {
        uint64_t copied = 0;
        uint64_t all = 0;
        struct err result = store_backup_step(backup, PAGES_A_STEP, &done);
        if (result.code) return explain(why, result, "%s cannot be copied: %s", path, store_backup_error(backup));
        store_backup_progress(backup, &copied, &all);
        draw(bar, copied, all);
    }
    return OK;
}

static struct err copy_file(const char *path, const char *temporary, const struct bar *bar, struct explanation *why)
{
    struct store_view view DEFER(close_view) = {.fd = -1};
    struct store_backup *backup DEFER(close_backup) = NULL;
    TRY(open_view(path, &view, why));
    struct err result = store_backup_open(view.db, temporary, &backup);
    if (result.code) return explain(why, result, "%s: %s", temporary, strerror(errno));
    return copy_all(backup, bar, path, why);
}

static bool sync_path(const char *path, int flags)
{
    int fd DEFER(close_fd) = open(path, flags | O_RDONLY | O_CLOEXEC);
    return fd >= 0 && fsync(fd) == 0;
}

/* From here on it is the backup. */
static struct err give_name(const char *temporary, const char *file, bool force, struct explanation *why)
{
    char copy[PATH_MAX];
    (void)snprintf(copy, sizeof copy, "%s", file);
    bool fine = sync_path(temporary, 0) && (force ? rename(temporary, file) : link(temporary, file)) == 0;
    if (!fine && errno == EEXIST)
        return explain(why, FAIL(STORE_EXISTS), "%s: there is such a file already; --force replaces it", file);
    if (!fine || !sync_path(dirname(copy), O_DIRECTORY))
        return explain(why, FAIL(SYSTEM), "%s: %s", file, strerror(errno));
    return OK;
}

static struct err write_backup(const struct ctl_store *store, bool asked, const char *path, const char *temporary,
                               struct explanation *why)
{
    struct bar bar = bar_of(store, "copying the store, pages");
    struct err result = asked ? take_copy(store, temporary, &bar, why) : copy_file(path, temporary, &bar, why);
    wipe_bar(&bar);
    if (!result.code) result = give_name(temporary, store->file, store->force, why);
    (void)unlink(temporary);
    return result;
}

struct err ctl_store_backup(const struct ctl_store *store, struct explanation *why)
{
    char path[PATH_MAX];
    char temporary[PATH_MAX];
    struct stat stat_of_file;
    bool asked = false;
    int size = snprintf(temporary, sizeof temporary, "%s.tmp", store->file);
    if (size < 0 || size >= PATH_MAX) return explain(why, FAIL(USAGE), "store backup: the path is too long");
    if (!store->force && lstat(store->file, &stat_of_file) == 0)
        return explain(why, FAIL(STORE_EXISTS), "%s: there is such a file already; --force replaces it", store->file);
    TRY(find_daemon(store, store->state_dir != NULL, &asked, why));
    TRY(path_in(store->state_dir, path, why));
    if (unlink(temporary) != 0 && errno != ENOENT) /* left by a backup that was cut off */
        return explain(why, FAIL(SYSTEM), "%s: %s", temporary, strerror(errno));
    TRY(write_backup(store, asked, path, temporary, why));
    if (lstat(store->file, &stat_of_file) != 0)
        return explain(why, FAIL(SYSTEM), "%s: %s", store->file, strerror(errno));
    json_t *told DEFER(json_close) =
        json_pack("{s:s, s:I}", "file", store->file, "size", (json_int_t)stat_of_file.st_size);
    if (store->json)
        shown_json(told, JSON_INDENT(2), stdout);
    else
        printf("%s: %lld bytes; vtpmctl store check %s verifies it\n", shown_text(store->file).text,
               (long long)stat_of_file.st_size, shown_text(store->file).text);
    if (fflush(stdout) != 0) return explain(why, FAIL(SYSTEM), "standard output: %s", strerror(errno));
    return OK;
}
