#include "untrusted/instance/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STORE_NAME_SIZE (ID_TEXT_SIZE + 8u)
#define LOCK_TRIES      100u
#define LOCK_PAUSE_USEC 10000u

struct store {
    int directory_fd; /* the caller's */
    int lock_fd;
    int state_fd;
    int spare_fd;
    size_t spare_size; /* bytes in the file */
    bool exchanges;    /* the file system knows RENAME_EXCHANGE */
    bool renamed;      /* the names were changed, but that is not durable yet */
    size_t size;       /* bytes of the state */
    uint8_t state[STATE_MAX];
    char state_name[STORE_NAME_SIZE];
    char spare_name[STORE_NAME_SIZE];
    char probe_name[STORE_NAME_SIZE]; /* exists only while exchanging names is tried out */
    char lock_name[STORE_NAME_SIZE];
};

static struct err store_new(int directory_fd, const struct instance_id *id, struct store **out_store)
{
    struct store *store = calloc(1, sizeof *store);
    ENSURE(store, NO_MEMORY);
    char text[ID_TEXT_SIZE];
    id_format(id, text);
    store->directory_fd = directory_fd;
    store->lock_fd = store->state_fd = store->spare_fd = -1;
    store->exchanges = true;
    snprintf(store->state_name, sizeof store->state_name, "%s.vtpm", text);
    snprintf(store->spare_name, sizeof store->spare_name, "%s.spare", text);
    snprintf(store->probe_name, sizeof store->probe_name, "%s.probe", text);
    snprintf(store->lock_name, sizeof store->lock_name, "%s.lock", text);
    *out_store = store;
    return OK;
}

static void close_fd(int *fd)
{
    int saved = errno;
    if (*fd >= 0) close(*fd);
    *fd = -1;
    errno = saved;
}

void store_close(struct store **store)
{
    if (!*store) return;
    close_fd(&(*store)->spare_fd);
    close_fd(&(*store)->state_fd);
    close_fd(&(*store)->lock_fd);
    free(*store);
    *store = NULL;
}

/*
 * An open file description's lock: it goes with the process, however that ends. One that was killed may take a moment
 * to be gone.
 */
static struct err take_lock(struct store *store)
{
    store->lock_fd = openat(store->directory_fd, store->lock_name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    ENSURE(store->lock_fd >= 0, STATE_IO);
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    for (unsigned tries = LOCK_TRIES; fcntl(store->lock_fd, F_OFD_SETLK, &whole) != 0; tries--) {
        ENSURE(errno == EAGAIN || errno == EACCES, STATE_IO);
        ENSURE(tries > 0, STATE_LOCKED);
        usleep(LOCK_PAUSE_USEC);
    }
    return OK;
}

static struct err write_durably(int fd, struct span state, size_t *size)
{
    size_t done = 0;
    while (done < state.size) {
        ssize_t written = pwrite(fd, state.data + done, state.size - done, (off_t)done);
        if (written < 0 && errno == EINTR) continue;
        ENSURE(written > 0, STATE_IO);
        done += (size_t)written;
    }
    if (*size != state.size) {
        ENSURE(ftruncate(fd, (off_t)state.size) == 0, STATE_IO);
        *size = state.size;
    }
    ENSURE(fdatasync(fd) == 0, STATE_IO);
    return OK;
}

static struct err create_empty(const struct store *store, const char *name, int *out_fd)
{
    ENSURE(unlinkat(store->directory_fd, name, 0) == 0 || errno == ENOENT, STATE_IO);
    *out_fd = openat(store->directory_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    ENSURE(*out_fd >= 0, STATE_IO);
    return OK;
}

static struct err create_spare(struct store *store)
{
    TRY(create_empty(store, store->spare_name, &store->spare_fd));
    store->spare_size = 0;
    return OK;
}

static bool unsupported(int error)
{
    return error == EINVAL || error == ENOSYS || error == EOPNOTSUPP;
}

/*
 * Whether the file system can exchange names is known before the process loses the right to create files, and not tried
 * on the state: two empty files change places, and the second one is the spare.
 */
static struct err prepare_spare(struct store *store)
{
    int directory = store->directory_fd;
    int probe_fd = -1;
    TRY(create_spare(store));
    TRY(create_empty(store, store->probe_name, &probe_fd));
    store->exchanges = renameat2(directory, store->probe_name, directory, store->spare_name, RENAME_EXCHANGE) == 0;
    struct err result = store->exchanges || unsupported(errno) ? OK : FAIL(STATE_IO);
    if (store->exchanges) {
        int first = store->spare_fd;
        store->spare_fd = probe_fd;
        probe_fd = first;
    }
    close_fd(&probe_fd);
    TRY(result);
    ENSURE(unlinkat(directory, store->probe_name, 0) == 0, STATE_IO);
    return OK;
}

static struct err exchange_names(struct store *store)
{
    int directory = store->directory_fd;
    if (store->exchanges) {
        ENSURE(renameat2(directory, store->spare_name, directory, store->state_name, RENAME_EXCHANGE) == 0, STATE_IO);
        int old = store->state_fd;
        store->state_fd = store->spare_fd;
        store->spare_fd = old;
        store->spare_size = store->size;
        return OK;
    }
    ENSURE(renameat(directory, store->spare_name, directory, store->state_name) == 0, STATE_IO);
    close_fd(&store->state_fd);
    store->state_fd = store->spare_fd;
    store->spare_fd = -1;
    return OK;
}

struct err store_commit(struct store *store, struct span state)
{
    ENSURE(state.size > 0 && state.size <= sizeof store->state, TOO_LARGE);
    if (!store->renamed) {
        if (store->spare_fd < 0) TRY(create_spare(store));
        /* Whole again after an error: pages that a failed write-back dropped are marked clean. */
        TRY(write_durably(store->spare_fd, state, &store->spare_size));
        TRY(exchange_names(store));
        store->renamed = true;
        store->size = state.size;
        if (state.data != store->state) memcpy(store->state, state.data, state.size);
    }
    ENSURE(fsync(store->directory_fd) == 0, STATE_IO);
    store->renamed = false;
    return OK;
}

static struct err open_state(struct store *store)
{
    close_fd(&store->state_fd);
    store->state_fd = openat(store->directory_fd, store->state_name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    ENSURE(store->state_fd >= 0 || errno != ENOENT, STATE_MISSING);
    ENSURE(store->state_fd >= 0, STATE_IO);
    return OK;
}

static struct err read_state(struct store *store)
{
    struct stat status;
    ENSURE(fstat(store->state_fd, &status) == 0, STATE_IO);
    ENSURE(S_ISREG(status.st_mode) && status.st_size > 0 && status.st_size <= (off_t)sizeof store->state, STATE_CUT);
    size_t size = (size_t)status.st_size;
    ENSURE(pread(store->state_fd, store->state, size, 0) == (ssize_t)size, STATE_IO);
    store->size = size;
    return OK;
}

static struct err store_load(struct store *store)
{
    TRY(open_state(store)); /* before the lock, so that a missing state leaves no file behind */
    TRY(take_lock(store));
    TRY(open_state(store)); /* again: whoever held the lock may have exchanged it */
    TRY(read_state(store));
    /* A process that died may have left an exchange that is not durable: then the spare is the state on disk. */
    ENSURE(fsync(store->state_fd) == 0 && fsync(store->directory_fd) == 0, STATE_IO);
    return prepare_spare(store);
}

struct err store_open(int directory_fd, const struct instance_id *id, struct store **out_store)
{
    struct store *store = NULL;
    TRY(store_new(directory_fd, id, &store));
    struct err result = store_load(store);
    if (result.code) {
        store_close(&store);
        return result;
    }
    *out_store = store;
    return OK;
}

static struct err name_first_state(struct store *store)
{
    int directory = store->directory_fd;
    if (renameat2(directory, store->spare_name, directory, store->state_name, RENAME_NOREPLACE) == 0) return OK;
    ENSURE(errno != EEXIST, STATE_EXISTS);
    ENSURE(unsupported(errno), STATE_IO);
    /* A link never replaces either. */
    if (linkat(directory, store->spare_name, directory, store->state_name, 0) != 0) {
        ENSURE(errno != EEXIST, STATE_EXISTS);
        return FAIL(STATE_IO);
    }
    ENSURE(unlinkat(directory, store->spare_name, 0) == 0, STATE_IO);
    return OK;
}

static struct err store_make(struct store *store, struct span state)
{
    ENSURE(state.size > 0 && state.size <= sizeof store->state, TOO_LARGE);
    ENSURE(faccessat(store->directory_fd, store->state_name, F_OK, AT_SYMLINK_NOFOLLOW) != 0, STATE_EXISTS);
    ENSURE(errno == ENOENT, STATE_IO);
    TRY(take_lock(store));
    TRY(create_spare(store));
    TRY(write_durably(store->spare_fd, state, &store->spare_size));
    TRY(name_first_state(store));
    ENSURE(fsync(store->directory_fd) == 0, STATE_IO);
    store->state_fd = store->spare_fd;
    store->spare_fd = -1;
    store->size = state.size;
    memcpy(store->state, state.data, state.size);
    return prepare_spare(store);
}

static void remove_leftovers(const struct store *store)
{
    (void)unlinkat(store->directory_fd, store->spare_name, 0);
    (void)unlinkat(store->directory_fd, store->probe_name, 0);
    (void)unlinkat(store->directory_fd, store->lock_name, 0);
}

struct err store_create(int directory_fd, const struct instance_id *id, struct span state, struct store **out_store)
{
    struct store *store = NULL;
    TRY(store_new(directory_fd, id, &store));
    struct err result = store_make(store, state);
    if (result.code) {
        int saved = errno;
        if (result.code == ERR_STATE_IO) remove_leftovers(store);
        store_close(&store);
        errno = saved;
        return result;
    }
    *out_store = store;
    return OK;
}

struct span store_state(const struct store *store)
{
    return span_of(store->state, store->size);
}

bool store_creates_files(const struct store *store)
{
    return !store->exchanges;
}
