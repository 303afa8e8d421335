#include "untrusted/cpu/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "untrusted/host/secret_memory.h"

#define SALT_SIZE      32u
#define CHECK_SIZE     32u
#define PASSPHRASE_MAX 1024u
#define SCRYPT_N       (UINT64_C(1) << 17) /* 128 MiB and about half a second, once at start */
#define SCRYPT_R       8u
#define SCRYPT_P       1u
#define SCRYPT_MEMORY  (UINT64_C(192) << 20)

static void close_fd(const int *fd)
{
    if (*fd >= 0) close(*fd);
}

static struct err parse_passphrase(const char *text, struct secret_place *out_place)
{
    char *end = NULL;
    errno = 0;
    long fd = strtol(text, &end, 10);
    ENSURE(errno == 0 && end != text && fd >= 0 && fd <= INT_MAX, USAGE);
    ENSURE(strncmp(end, ",salt=", 6) == 0 && end[6] != '\0', USAGE);
    *out_place = (struct secret_place){.kind = SECRET_PASSPHRASE, .path = end + 6, .fd = (int)fd};
    return OK;
}

struct err secret_parse(const char *text, struct secret_place *out_place)
{
    if (strncmp(text, "passphrase:", 11) == 0) return parse_passphrase(text + 11, out_place);
    struct secret_place place = {.fd = -1};
    if (strncmp(text, "file:", 5) == 0)
        place = (struct secret_place){.kind = SECRET_FILE, .path = text + 5, .fd = -1};
    else if (strncmp(text, "credential:", 11) == 0)
        place = (struct secret_place){.kind = SECRET_CREDENTIAL, .path = text + 11, .fd = -1};
    ENSURE(place.path && place.path[0] != '\0', USAGE);
    ENSURE(place.kind != SECRET_CREDENTIAL || !strchr(place.path, '/'), USAGE);
    *out_place = place;
    return OK;
}

/* Exactly size bytes from a file that nobody else may read. */
static struct err read_private(const char *path, void *out, size_t size)
{
    struct stat status;
    int fd DEFER(close_fd) = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    ENSURE(fd >= 0 || errno != ENOENT, SECRET_MISSING);
    ENSURE(fd >= 0 && fstat(fd, &status) == 0, SECRET_UNUSABLE);
    ENSURE(S_ISREG(status.st_mode) && (status.st_mode & 077) == 0, SECRET_UNUSABLE);
    ENSURE(status.st_uid == geteuid() || status.st_uid == 0, SECRET_UNUSABLE);
    ENSURE(status.st_size == (off_t)size, SECRET_UNUSABLE);
    ENSURE(read(fd, out, size) == (ssize_t)size, SECRET_UNUSABLE);
    return OK;
}

static struct err sync_directory(const char *path)
{
    char directory[PATH_MAX];
    const char *slash = strrchr(path, '/');
    int size = snprintf(directory, sizeof directory, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
    ENSURE(size > 0 && (size_t)size < sizeof directory, TOO_LARGE);
    int fd DEFER(close_fd) = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ENSURE(fd >= 0 && fsync(fd) == 0, SYSTEM);
    return OK;
}

static struct err write_private(const char *path, const void *data, size_t size)
{
    int fd DEFER(close_fd) = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    ENSURE(fd >= 0 || errno != EEXIST, SECRET_EXISTS);
    ENSURE(fd >= 0, SYSTEM);
    if (write(fd, data, size) == (ssize_t)size && fsync(fd) == 0) return sync_directory(path);
    unlink(path);
    return FAIL(SYSTEM);
}

/* In secret memory: a passphrase, and what scrypt makes of it. */
struct passphrase_memory {
    char passphrase[PASSPHRASE_MAX];
    uint8_t derived[PROCESSOR_SECRET_SIZE + CHECK_SIZE];
};

static struct err read_passphrase(int fd, char *out_text, size_t *out_size)
{
    size_t size = 0;
    while (size < PASSPHRASE_MAX) {
        ssize_t count = read(fd, out_text + size, PASSPHRASE_MAX - size);
        if (count < 0 && errno == EINTR) continue;
        ENSURE(count >= 0, SYSTEM);
        if (count == 0) break;
        size += (size_t)count;
        if (memchr(out_text, '\n', size)) break;
    }
    const char *newline = memchr(out_text, '\n', size);
    if (newline) size = (size_t)(newline - out_text);
    ENSURE(size > 0, PASSPHRASE);
    ENSURE(size < PASSPHRASE_MAX, TOO_LARGE);
    *out_size = size;
    return OK;
}

static struct err stretch(int fd, const uint8_t salt[SALT_SIZE], struct passphrase_memory *memory)
{
    size_t size = 0;
    TRY(read_passphrase(fd, memory->passphrase, &size));
    int done = EVP_PBE_scrypt(memory->passphrase, size, salt, SALT_SIZE, SCRYPT_N, SCRYPT_R, SCRYPT_P, SCRYPT_MEMORY,
                              memory->derived, sizeof memory->derived);
    ENSURE(done == 1, CRYPTO);
    return OK;
}

static struct err create_salt(const struct secret_place *place)
{
    uint8_t file[SALT_SIZE + CHECK_SIZE];
    struct secret_memory secret DEFER(secret_memory_close) = {0};
    TRY(secret_memory_open(sizeof(struct passphrase_memory), place->ordinary_memory, &secret));
    struct passphrase_memory *memory = secret.data;
    ENSURE(getrandom(file, SALT_SIZE, 0) == SALT_SIZE, SYSTEM);
    TRY(stretch(place->fd, file, memory));
    memcpy(file + SALT_SIZE, memory->derived + PROCESSOR_SECRET_SIZE, CHECK_SIZE);
    return write_private(place->path, file, sizeof file);
}

static struct err load_passphrase(const struct secret_place *place, uint8_t out_secret[PROCESSOR_SECRET_SIZE])
{
    uint8_t file[SALT_SIZE + CHECK_SIZE];
    struct secret_memory secret DEFER(secret_memory_close) = {0};
    TRY(read_private(place->path, file, sizeof file));
    TRY(secret_memory_open(sizeof(struct passphrase_memory), place->ordinary_memory, &secret));
    struct passphrase_memory *memory = secret.data;
    TRY(stretch(place->fd, file, memory));
    ENSURE(ct_equal(memory->derived + PROCESSOR_SECRET_SIZE, file + SALT_SIZE, CHECK_SIZE), PASSPHRASE);
    memcpy(out_secret, memory->derived, PROCESSOR_SECRET_SIZE);
    return OK;
}

static struct err create_file(const struct secret_place *place)
{
    struct secret_memory secret DEFER(secret_memory_close) = {0};
    TRY(secret_memory_open(PROCESSOR_SECRET_SIZE, place->ordinary_memory, &secret));
    ENSURE(getrandom(secret.data, PROCESSOR_SECRET_SIZE, 0) == PROCESSOR_SECRET_SIZE, SYSTEM);
    return write_private(place->path, secret.data, PROCESSOR_SECRET_SIZE);
}

struct err secret_create(const struct secret_place *place)
{
    switch (place->kind) {
    case SECRET_FILE:
        return create_file(place);
    case SECRET_PASSPHRASE:
        return create_salt(place);
    case SECRET_CREDENTIAL:
        break;
    }
    return FAIL(USAGE);
}

static struct err load_credential(const struct secret_place *place, uint8_t out_secret[PROCESSOR_SECRET_SIZE])
{
    char path[PATH_MAX];
    const char *directory = getenv("CREDENTIALS_DIRECTORY");
    ENSURE(directory, SECRET_MISSING);
    int size = snprintf(path, sizeof path, "%s/%s", directory, place->path);
    ENSURE(size > 0 && (size_t)size < sizeof path, TOO_LARGE);
    return read_private(path, out_secret, PROCESSOR_SECRET_SIZE);
}

struct err secret_load(const struct secret_place *place, uint8_t out_secret[PROCESSOR_SECRET_SIZE])
{
    switch (place->kind) {
    case SECRET_FILE:
        return read_private(place->path, out_secret, PROCESSOR_SECRET_SIZE);
    case SECRET_CREDENTIAL:
        return load_credential(place, out_secret);
    case SECRET_PASSPHRASE:
        break;
    }
    return load_passphrase(place, out_secret);
}

const char *secret_meaning(const struct secret_place *place)
{
    switch (place->kind) {
    case SECRET_FILE:
        return "a file: whoever copies this host's disk or a full backup of it can open every sealed state";
    case SECRET_CREDENTIAL:
        return "a systemd credential: as safe as systemd-creds keeps it (see its --with-key=)";
    case SECRET_PASSPHRASE:
        break;
    }
    return "a passphrase: whoever copies this host's disk can only guess it";
}
