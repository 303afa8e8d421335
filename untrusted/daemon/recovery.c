#include "untrusted/daemon/recovery.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "untrusted/host/key_file.h"
#include "untrusted/host/log.h"

#define PATH_SIZE 4096u

struct err recovery_read_keys(const struct config *config, struct manager_recovery *out_recovery)
{
    struct manager_recovery recovery = {.rule = {config->recovery_threshold, config->recovery_key_count}};
    for (unsigned i = 0; i < config->recovery_key_count; i++) {
        const char *path = config->recovery_keys[i];
        struct err result = key_file_public(path, "X25519", recovery.keys[i]);
        if (result.code)
            log_line(LOG_LEVEL_ERROR, "--recovery-key %s: %s", path,
                     result.code == ERR_SYSTEM ? strerror(errno)
                                               : "holds no public key of X25519 in PEM (openssl genpkey -algorithm "
                                                 "X25519 makes a private one, openssl pkey -pubout its public half)");
        ENSURE(!result.code, CONFIG);
        for (unsigned j = 0; j < i; j++) {
            if (memcmp(recovery.keys[i], recovery.keys[j], X25519_SIZE) != 0) continue;
            log_line(LOG_LEVEL_ERROR, "--recovery-key %s: the same key as %s", path, config->recovery_keys[j]);
            return FAIL(CONFIG);
        }
    }
    *out_recovery = recovery;
    return OK;
}

/* --- files --------------------------------------------------------------------------------------------------------- */

static void close_fd(int *fd)
{
    if (*fd >= 0) (void)close(*fd);
}

static struct err write_file(const struct config *config, const char *name, struct span bytes)
{
    char path[PATH_SIZE];
    (void)snprintf(path, sizeof path, "%s/%s", config->state_dir, name);
    int fd DEFER(close_fd) = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    bool written = fd >= 0 && write(fd, bytes.data, bytes.size) == (ssize_t)bytes.size && fsync(fd) == 0;
    if (!written) log_line(LOG_LEVEL_ERROR, "%s: %s", path, strerror(errno));
    ENSURE(written, SYSTEM);
    return OK;
}

struct err recovery_keep_record(const struct config *config, struct store *store, struct span record)
{
    TRY(store_write_recovery(store, record));
    return write_file(config, "recovery-record", record);
}

static struct err read_answer(const char *path, uint8_t out_answer[RECOVERY_ANSWER_SIZE])
{
    uint8_t bytes[RECOVERY_ANSWER_SIZE + 1];
    int fd DEFER(close_fd) = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    ENSURE(fd >= 0, SYSTEM);
    ENSURE(read(fd, bytes, sizeof bytes) == (ssize_t)RECOVERY_ANSWER_SIZE, BAD_VALUE);
    memcpy(out_answer, bytes, RECOVERY_ANSWER_SIZE);
    return OK;
}

/* --- the holders ---------------------------------------------------------------------------------------------------- */

/* The next line of standard input, without its newline. */
static struct err read_path(char out_path[PATH_SIZE])
{
    ENSURE(fgets(out_path, PATH_SIZE, stdin), PEER_CLOSED);
    out_path[strcspn(out_path, "\n")] = 0;
    return OK;
}

/* *out_taken: it was one that the manager did not have. */
static struct err offer(struct manager *manager, const char *path, bool *out_taken)
{
    uint8_t answer[RECOVERY_ANSWER_SIZE];
    struct err result = read_answer(path, answer);
    bool readable = !result.code;
    *out_taken = false;
    if (readable) result = manager_share(manager, span_of(answer, sizeof answer));
    *out_taken = !result.code;
    if (*out_taken) return OK;
    log_line(LOG_LEVEL_ERROR, "%s: %s", path,
             result.code == ERR_SYSTEM           ? strerror(errno)
             : !readable                         ? "this is no answer of a holder: it has another size"
             : result.code == ERR_BAD_VALUE      ? "this is no answer of a holder, or this holder has answered already"
             : result.code == ERR_AUTHENTICATION ? "it does not authenticate: it is for another request, or was altered"
                                                 : err_sentence(result));
    return !readable || result.code == ERR_BAD_VALUE || result.code == ERR_AUTHENTICATION ? OK : result;
}

static struct err collect(struct manager *manager, const struct recovery_rule *rule)
{
    char path[PATH_SIZE];
    for (unsigned count = 0; count < rule->threshold;) {
        bool taken = false;
        struct err result = read_path(path);
        if (result.code)
            log_line(LOG_LEVEL_ERROR, "%u of %u answers were given: nothing was recovered, and nothing was changed",
                     count, (unsigned)rule->threshold);
        TRY(result);
        if (!*path) continue;
        TRY(offer(manager, path, &taken));
        if (!taken) continue;
        log_line(LOG_LEVEL_NOTICE, "%s: taken, %u of %u", path, ++count, (unsigned)rule->threshold);
    }
    return OK;
}

static void free_bytes(uint8_t **bytes)
{
    free(*bytes);
}

struct err recovery_ask_holders(const struct config *config, struct store *store, struct manager *manager,
                                const struct manager_anchor *anchor)
{
    uint8_t *record DEFER(free_bytes) = NULL;
    uint8_t *head DEFER(free_bytes) = NULL;
    size_t record_size = 0;
    size_t head_size = 0;
    struct recovery_record parsed;
    struct manager_message request;
    struct err result = store_read_recovery(store, &record, &record_size);
    if (result.code == ERR_STATE_MISSING)
        log_line(LOG_LEVEL_ERROR,
                 "this trust domain was made without recovery keys (vtpmd --init --recovery-key): what "
                 "its processor and its anchor kept is gone with them");
    TRY(result);
    TRY(store_read_head(store, &head, &head_size));
    const struct span bytes = span_of(record, record_size);
    TRY(recovery_parse(bytes, &parsed));
    TRY(write_file(config, "recovery-record", bytes));
    TRY(manager_start_recover(manager, anchor, bytes, span_of(head, head_size), &request));
    TRY(write_file(config, "recovery-request", span_of(request.bytes, request.size)));
    log_line(LOG_LEVEL_NOTICE,
             "%u of %u holders have to answer %s/recovery-request, with recovery-record beside it: vtpm-sign "
             "recovery-answer; then the paths of their answers are read from standard input, one in a line",
             (unsigned)parsed.rule.threshold, (unsigned)parsed.rule.count, config->state_dir);
    return collect(manager, &parsed.rule);
}
