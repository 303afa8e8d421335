#include "untrusted/swtpm/place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <openssl/evp.h>

#define DIGEST_NAME "vtpm-copied"
#define TEMPORARY   "TMP-00.permall"
#define DIGEST_SIZE 32
#define DIGEST_TEXT (2 * DIGEST_SIZE + 1)
#define UUID_SIZE   36u

static bool path_of(const struct place *place, const char *name, char out_path[PATH_MAX])
{
    const int size = snprintf(out_path, PATH_MAX, "%s/%s", place->directory, name);
    return size > 0 && size < PATH_MAX;
}

static struct err fail(const char *path, struct explanation *why)
{
    return explain(why, FAIL(SYSTEM), "%.300s: %s", path, strerror(errno));
}

/* --- files --- */

/* Bytes, at most size; -1 with errno. */
static ssize_t read_file(const char *path, char *out, size_t size)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return -1;
    const ssize_t got = read(fd, out, size);
    (void)close(fd);
    return got;
}

static bool write_all(int fd, struct span bytes)
{
    for (size_t done = 0; done < bytes.size;) {
        const ssize_t wrote = write(fd, bytes.data + done, bytes.size - done);
        if (wrote < 0 && errno != EINTR) return false;
        if (wrote > 0) done += (size_t)wrote;
    }
    return true;
}

static bool sync_directory(const struct place *place)
{
    const int fd = open(place->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return false;
    const bool synced = fsync(fd) == 0;
    (void)close(fd);
    return synced;
}

/* By rename: whole or not at all. */
static struct err write_file(const struct place *place, const char *name, const char *temporary, struct span bytes,
                             unsigned mode, struct explanation *why)
{
    char path[PATH_MAX];
    char other[PATH_MAX];
    if (!path_of(place, name, path) || !path_of(place, temporary, other))
        return explain(why, FAIL(USAGE), "--tpmstate: the path is too long");
    (void)unlink(other);
    const int fd = open(other, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return fail(other, why);
    const bool written = write_all(fd, bytes) && fchmod(fd, mode) == 0 && fsync(fd) == 0;
    (void)close(fd);
    if (written && rename(other, path) == 0 && sync_directory(place)) return OK;
    return fail(path, why);
}

/* --- the marker --- */

static bool has(const struct place *place, const char *name)
{
    char path[PATH_MAX];
    struct stat status;
    return path_of(place, name, path) && lstat(path, &status) == 0;
}

static struct err check_no_state(const struct place *place, struct explanation *why)
{
    static const char *const names[] = {PLACE_COPY, "tpm2-00.volatilestate"};
    if (has(place, PLACE_COPY_12))
        return explain(why, FAIL(STATE_MISSING),
                       "%.200s holds the state of a TPM 1.2 of swtpm's (" PLACE_COPY_12
                       "), and nothing is made in its place; it cannot be brought here",
                       place->directory);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (has(place, names[i]))
            return explain(why, FAIL(STATE_MISSING),
                           "%.200s holds the state of a TPM of swtpm's (%s), and nothing is made in its place: vtpmctl "
                           "import LABEL --from %.100s brings it here",
                           place->directory, names[i], place->directory);
    return OK;
}

struct err place_open(const char *directory, unsigned mode, bool of_12, struct place *out_place,
                      struct explanation *why)
{
    struct place place = {
        .directory = directory, .mode = mode, .copy = of_12 ? PLACE_COPY_12 : PLACE_COPY, .of_12 = of_12};
    struct stat status;
    struct instance_id id;
    char path[PATH_MAX];
    char text[ID_TEXT_SIZE + 8] = "";
    if (stat(directory, &status) != 0) return fail(directory, why);
    if (!S_ISDIR(status.st_mode)) return explain(why, FAIL(USAGE), "%.200s: not a directory", directory);
    if (!path_of(&place, PLACE_MARKER, path)) return explain(why, FAIL(USAGE), "--tpmstate: the path is too long");
    const ssize_t got = read_file(path, text, sizeof text - 1);
    if (got < 0 && errno != ENOENT) return fail(path, why);
    if (got < 0) {
        TRY(check_no_state(&place, why));
    } else {
        text[strcspn(text, "\n")] = '\0';
        if (id_parse(text, &id).code)
            return explain(why, FAIL(BAD_VALUE), "%.300s: it does not name an instance; nothing is made in its place",
                           path);
        place.has_id = true;
        id_format(&id, place.id);
    }
    *out_place = place;
    return OK;
}

struct err place_mark(struct place *place, const char *id, struct explanation *why)
{
    char text[ID_TEXT_SIZE + 1];
    (void)snprintf(text, sizeof text, "%s\n", id);
    TRY(write_file(place, PLACE_MARKER, PLACE_MARKER ".tmp", span_of(text, strlen(text)), 0644, why));
    (void)snprintf(place->id, sizeof place->id, "%s", id);
    place->has_id = true;
    return OK;
}

void place_forget(const struct place *place)
{
    const char *const names[] = {PLACE_MARKER, DIGEST_NAME, place->copy};
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (path_of(place, names[i], path)) (void)unlink(path);
}

/* --- a label --- */

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool is_uuid(const char *text)
{
    for (size_t i = 0; i < UUID_SIZE; i++) {
        const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (dash ? text[i] != '-' : !is_hex(text[i])) return false;
    }
    return true;
}

static bool is_plain(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* The last names of the path, made plain. */
static void label_of_path(const char *directory, size_t room, char *out)
{
    size_t size = strlen(directory);
    while (size > 0 && !is_plain(directory[size - 1]))
        size--;
    size_t start = size > room ? size - room : 0;
    while (start < size && !is_plain(directory[start]))
        start++;
    size_t used = 0;
    for (size_t i = start; i < size; i++)
        out[used++] = is_plain(directory[i]) || strchr("._-", directory[i]) ? directory[i] : '-';
    out[used] = '\0';
}

void place_label(const char *directory, const char *random, char out_label[PLACE_LABEL_MAX])
{
    char name[PLACE_LABEL_MAX] = "";
    const size_t room = PLACE_LABEL_MAX - 1 - (random ? strlen(random) + 1 : 0);
    for (size_t i = 0; strlen(directory + i) >= UUID_SIZE; i++)
        if (is_uuid(directory + i)) (void)snprintf(name, sizeof name, "%.36s", directory + i);
    if (!*name) label_of_path(directory, room, name);
    if (!*name) (void)strcpy(name, "tpm");
    (void)snprintf(out_label, PLACE_LABEL_MAX, "%.*s%s%s", (int)room, name, random ? "-" : "", random ? random : "");
}

/* --- the copy --- */

static bool digest_text(struct span bytes, char out[DIGEST_TEXT])
{
    unsigned char digest[DIGEST_SIZE];
    if (EVP_Digest(bytes.data, bytes.size, digest, NULL, EVP_sha256(), NULL) != 1) return false;
    for (size_t i = 0; i < DIGEST_SIZE; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", digest[i]);
    return true;
}

/* What is there is what was last written, whose digest it is. */
static bool is_untouched(const struct place *place, const char *path, char digest[DIGEST_TEXT])
{
    static char bytes[1u << 20];
    char expected[DIGEST_TEXT] = "";
    char digest_path[PATH_MAX];
    *digest = '\0';
    const ssize_t got = read_file(path, bytes, sizeof bytes);
    if (got < 0) return errno == ENOENT;
    if (!path_of(place, DIGEST_NAME, digest_path)) return false;
    if (read_file(digest_path, expected, sizeof expected - 1) < 0) return false;
    return digest_text(span_of(bytes, (size_t)got), digest) && strcmp(digest, expected) == 0;
}

static struct err put_aside(const char *path, char out_aside[PATH_MAX], struct explanation *why)
{
    struct tm parts;
    const time_t now = time(NULL);
    char stamp[32];
    (void)strftime(stamp, sizeof stamp, "%Y%m%dT%H%M%SZ", gmtime_r(&now, &parts));
    (void)snprintf(out_aside, PATH_MAX, "%.4000s.foreign-%s", path, stamp);
    return rename(path, out_aside) == 0 ? OK : fail(path, why);
}

struct err place_copy(const struct place *place, struct span state, char out_aside[PATH_MAX], struct explanation *why)
{
    char path[PATH_MAX];
    char digest[DIGEST_TEXT];
    char before[DIGEST_TEXT];
    *out_aside = '\0';
    ENSURE(digest_text(state, digest), CRYPTO);
    if (!path_of(place, place->copy, path)) return explain(why, FAIL(USAGE), "--tpmstate: the path is too long");
    if (!is_untouched(place, path, before)) TRY(put_aside(path, out_aside, why));
    if (!*out_aside && strcmp(before, digest) == 0) return OK;
    /* The digest goes first: what is there when this is cut off is one that differs from it, and nothing is lost. */
    TRY(write_file(place, DIGEST_NAME, DIGEST_NAME ".tmp", span_of(digest, strlen(digest)), 0644, why));
    return write_file(place, place->copy, TEMPORARY, state, place->mode, why);
}

size_t place_copy_size(const struct place *place)
{
    char path[PATH_MAX];
    struct stat status;
    return path_of(place, place->copy, path) && lstat(path, &status) == 0 ? (size_t)status.st_size : 0;
}
