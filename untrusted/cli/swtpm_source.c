#include "untrusted/cli/swtpm_source.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "abi/call.h"
#include "base/memory.h"
#include "untrusted/cli/swtpm_state.h"

#define PERMANENT "tpm2-00.permall"
#define IMPORTED  ".imported"
#define MARKER    "vtpm-instance"    /* untrusted/swtpm/place.h */
#define FILE_MAX  (STATE_MAX + 256u) /* a state as large as an instance can have, and what lies around it */

/* What is read, in secret memory. */
struct workspace {
    size_t file_size;
    uint8_t file[FILE_MAX];
    uint8_t state[FILE_MAX];
    size_t secret_size;
    uint8_t secret[SWTPM_SECRET_MAX];
    uint8_t key[SWTPM_KEY_MAX];
};

static void close_fd(const int *fd)
{
    if (*fd >= 0) (void)close(*fd);
}

static void path_of(const struct swtpm_source *source, const char *name, char out_path[PATH_MAX])
{
    (void)snprintf(out_path, PATH_MAX, "%s/%s", source->directory, name);
}

static bool has(const struct swtpm_source *source, const char *name)
{
    char path[PATH_MAX];
    struct stat status;
    path_of(source, name, path);
    return lstat(path, &status) == 0;
}

/* --- what is there --- */

static struct err check_directory(const struct swtpm_source *source, struct explanation *why)
{
    const char *directory = source->directory;
    struct stat status;
    if (stat(directory, &status) != 0) return explain(why, FAIL(SYSTEM), "--from %s: %s", directory, strerror(errno));
    if (!S_ISDIR(status.st_mode))
        return explain(why, FAIL(STATE_MISSING),
                       "--from %s: not a directory; a state that swtpm keeps in a single file (backend-uri=file://) is "
                       "not read",
                       directory);
    if (has(source, MARKER))
        return explain(why, FAIL(STATE_MISSING),
                       "%s: its file " MARKER
                       " names an instance already, and what looks like a state of swtpm's is a copy "
                       "of that instance's sealed state",
                       directory);
    if (has(source, PERMANENT)) return OK;
    if (has(source, "tpm-00.permall"))
        return explain(
            why, FAIL(STATE_MISSING),
            "%s: this is the state of a TPM 1.2; here every TPM is a TPM 2.0, and one cannot become the other",
            directory);
    return explain(why, FAIL(STATE_MISSING),
                   "%s: there is no " PERMANENT "; the directory of swtpm's --tpmstate is wanted", directory);
}

static struct err check_suspended(const struct swtpm_source *source, struct explanation *why)
{
    if (!has(source, "tpm2-00.volatilestate")) return OK;
    return explain(
        why, FAIL(VERB_STATE),
        "%s/tpm2-00.volatilestate is there: the machine was suspended or saved with this TPM running, and would "
        "not find it again as it was. Resume it with swtpm, shut it down, then import",
        source->directory);
}

/* swtpm's own lock, which this keeps. */
static struct err take_lock(struct swtpm_source *source, struct explanation *why)
{
    char path[PATH_MAX];
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    path_of(source, ".lock", path);
    source->lock_fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (source->lock_fd < 0 && errno == ENOENT) return OK;
    if (source->lock_fd < 0) return explain(why, FAIL(SYSTEM), "%s: %s", path, strerror(errno));
    if (fcntl(source->lock_fd, F_SETLK, &lock) == 0) return OK;
    if (errno != EACCES && errno != EAGAIN) return explain(why, FAIL(SYSTEM), "%s: %s", path, strerror(errno));
    if (fcntl(source->lock_fd, F_GETLK, &lock) != 0 || lock.l_type == F_UNLCK) lock.l_pid = 0;
    return explain(why, FAIL(STATE_LOCKED),
                   "%s is locked: a swtpm uses it (process %ld). Shut its machine down, then import", source->directory,
                   (long)lock.l_pid);
}

/* --- reading --- */

static struct err read_into(const char *path, uint8_t *buffer, size_t capacity, size_t *out_size,
                            struct explanation *why)
{
    int fd DEFER(close_fd) = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    size_t size = 0;
    ssize_t got = 1;
    if (fd < 0) return explain(why, FAIL(SYSTEM), "%s: %s", path, strerror(errno));
    while (got > 0 && size < capacity) {
        got = read(fd, buffer + size, capacity - size);
        if (got < 0 && errno == EINTR)
            got = 1;
        else if (got > 0)
            size += (size_t)got;
    }
    if (got < 0) return explain(why, FAIL(SYSTEM), "%s: %s", path, strerror(errno));
    if (size == capacity) return explain(why, FAIL(TOO_LARGE), "%s: more than %zu bytes", path, capacity - 1);
    *out_size = size;
    return OK;
}

static enum swtpm_key_source source_of_key(const struct swtpm_options *options)
{
    if (options->key)
        return options->key_format && strcmp(options->key_format, "binary") == 0 ? SWTPM_KEY_BINARY : SWTPM_KEY_HEX;
    return options->kdf && strcmp(options->kdf, "sha512") == 0 ? SWTPM_PASSWORD_SHA512 : SWTPM_PASSWORD_PBKDF2;
}

static struct err decrypt(const struct swtpm_options *options, const struct swtpm_file *file, const char *path,
                          struct workspace *work, size_t *out_size, struct explanation *why)
{
    struct crypto crypto;
    const char *secret = options->key ? options->key : options->password;
    if (!secret)
        return explain(
            why, FAIL(USAGE),
            "%s is encrypted (AES-%zu): name swtpm's key with --key FILE, or its password with --pwdfile FILE", path,
            8 * file->key_size);
    TRY(crypto_init(&crypto));
    TRY(read_into(secret, work->secret, sizeof work->secret, &work->secret_size, why));
    TRY(swtpm_key_make(secret, source_of_key(options), span_of(work->secret, work->secret_size), file->key_size,
                       work->key, why));
    struct err result = swtpm_file_decrypt(&crypto, file, work->key, work->state, out_size);
    if (result.code == ERR_AUTHENTICATION || result.code == ERR_BAD_VALUE)
        return explain(why, result, "%s does not open with %s: another %s, or a damaged file%s", path, secret,
                       options->key ? "key" : "password or --kdf",
                       options->key ? "" : " (every byte of the password's file counts, a newline at its end too)");
    return result;
}

static struct err read_state(const struct swtpm_options *options, struct swtpm_source *source, struct explanation *why)
{
    struct workspace *work = source->memory.data;
    struct swtpm_file file;
    char path[PATH_MAX];
    path_of(source, PERMANENT, path);
    TRY(read_into(path, work->file, sizeof work->file, &work->file_size, why));
    TRY(swtpm_file_parse(path, span_of(work->file, work->file_size), &file, why));
    source->permanent = file.state;
    if (file.mac.size) {
        size_t size = 0;
        TRY(decrypt(options, &file, path, work, &size, why));
        source->permanent = span_of(work->state, size);
    } else if (options->key || options->password) {
        return explain(why, FAIL(USAGE), "%s is not encrypted: leave --key and --pwdfile out", path);
    }
    if (swtpm_is_permanent_state(source->permanent)) return OK;
    return explain(why, FAIL(BAD_VALUE), "%s: damaged: what it holds is no permanent state of a TPM 2.0", path);
}

/* --- the whole --- */

static bool is_one_of(const char *text, const char *one, const char *other)
{
    return !text || strcmp(text, one) == 0 || strcmp(text, other) == 0;
}

static struct err check_options(const struct swtpm_options *options, struct explanation *why)
{
    if (!options->directory) return explain(why, FAIL(USAGE), "--from is missing: swtpm's state directory");
    if (options->key && options->password) return explain(why, FAIL(USAGE), "either --key or --pwdfile");
    if (options->key_format && !options->key) return explain(why, FAIL(USAGE), "--key-format goes with --key");
    if (options->kdf && !options->password) return explain(why, FAIL(USAGE), "--kdf goes with --pwdfile");
    if (!is_one_of(options->key_format, "hex", "binary"))
        return explain(why, FAIL(USAGE), "--key-format is hex or binary, not %s", options->key_format);
    if (!is_one_of(options->kdf, "pbkdf2", "sha512"))
        return explain(why, FAIL(USAGE), "--kdf is pbkdf2 or sha512, not %s", options->kdf);
    return OK;
}

/* Plaintext of the same file is on this host's disk or was in swtpm's memory: without secret memory it goes on. */
static struct err take_memory(struct swtpm_source *source)
{
    if (!secret_memory_open(sizeof(struct workspace), false, &source->memory).code) return OK;
    return secret_memory_open(sizeof(struct workspace), true, &source->memory);
}

struct err swtpm_source_open(const struct swtpm_options *options, struct swtpm_source *out_source,
                             struct explanation *why)
{
    *out_source = (struct swtpm_source){.directory = options->directory, .lock_fd = -1};
    TRY(check_options(options, why));
    TRY(check_directory(out_source, why));
    TRY(take_lock(out_source, why));
    TRY(check_suspended(out_source, why));
    TRY(take_memory(out_source));
    return read_state(options, out_source, why);
}

void swtpm_source_close(struct swtpm_source *source)
{
    secret_memory_close(&source->memory);
    if (source->lock_fd >= 0) (void)close(source->lock_fd);
    *source = (struct swtpm_source){.lock_fd = -1};
}

struct err swtpm_source_mark(const struct swtpm_source *source, const char *id, struct explanation *why)
{
    char path[PATH_MAX];
    path_of(source, MARKER, path);
    int fd DEFER(close_fd) = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
    char before[PATH_MAX];
    char after[PATH_MAX];
    path_of(source, PERMANENT, before);
    path_of(source, PERMANENT IMPORTED, after);
    if (fd >= 0 && id && dprintf(fd, "%s\n", id) > 0 && fsync(fd) == 0 && rename(before, after) == 0) return OK;
    return explain(why, FAIL(SYSTEM), "the TPM was imported, but %.200s: %s; write %s into that file yourself", path,
                   strerror(errno), id);
}

json_t *swtpm_source_files(const struct swtpm_source *source)
{
    static const char *const names[] = {PERMANENT, PERMANENT IMPORTED, PERMANENT ".bak", "TMP2-00.permall"};
    json_t *files = json_array();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[PATH_MAX];
        path_of(source, names[i], path);
        char *real = has(source, names[i]) ? realpath(path, NULL) : NULL;
        if (real) (void)json_array_append_new(files, json_string(real));
        free(real);
    }
    return files;
}
