#include "tests/hostile/store/disk.h"

#include <assert.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECTOR    512u
#define FILES_MAX 16u
#define NO_FILE   FILES_MAX

static const char *const names[DISK_NAMES] = {"vtpm.db", "vtpm.db-wal", "vtpm.db-journal"};

static struct {
    sqlite3_vfs vfs;
    sqlite3_vfs *below;
    int (*open_directory)(const char *path, int *out_fd);
    bool directory_synced; /* since the call began */
    struct disk_event *events;
    size_t count;
    size_t capacity;
    unsigned file_of[DISK_NAMES];
    unsigned file_count;
} recorder;

/* --- randomness --------------------------------------------------------------------------------------------------- */

static uint64_t random_state;

void disk_seed(uint64_t seed)
{
    random_state = seed;
}

/* SplitMix64 */
uint64_t disk_random(uint64_t limit)
{
    uint64_t z = random_state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) % limit;
}

/* --- the recorder ------------------------------------------------------------------------------------------------- */

struct recorded_file {
    sqlite3_file base;
    unsigned file;
    enum disk_name name;
    sqlite3_file *below; /* in the bytes behind this */
};

static sqlite3_file *below(sqlite3_file *file)
{
    return ((struct recorded_file *)file)->below;
}

static void add(struct disk_event event, const void *data)
{
    if (recorder.count == recorder.capacity) {
        recorder.capacity = recorder.capacity ? 2 * recorder.capacity : 4096;
        recorder.events = realloc(recorder.events, recorder.capacity * sizeof *recorder.events);
        assert(recorder.events);
    }
    if (data) {
        event.data = malloc(event.size);
        assert(event.data);
        memcpy(event.data, data, event.size);
    }
    recorder.events[recorder.count++] = event;
}

static void add_of(sqlite3_file *file, enum disk_event_kind kind, sqlite3_int64 offset, size_t size, const void *data)
{
    const struct recorded_file *recorded = (const struct recorded_file *)file;
    add((struct disk_event){kind, recorded->file, recorded->name, (size_t)offset, size, NULL}, data);
}

static void add_directory_sync(void)
{
    if (recorder.directory_synced) add((struct disk_event){.kind = DISK_SYNC_DIRECTORY}, NULL);
}

/* The only use that the VFS below has for a descriptor of a directory is to sync it. */
static int open_directory(const char *path, int *out_fd)
{
    recorder.directory_synced = true;
    return recorder.open_directory(path, out_fd);
}

static enum disk_name name_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    assert(slash);
    enum disk_name name = 0;
    while (name < DISK_NAMES && strcmp(slash + 1, names[name]) != 0)
        name++;
    assert(name < DISK_NAMES);
    return name;
}

static int file_close(sqlite3_file *file)
{
    return below(file)->pMethods->xClose(below(file));
}

static int file_read(sqlite3_file *file, void *out, int size, sqlite3_int64 offset)
{
    return below(file)->pMethods->xRead(below(file), out, size, offset);
}

static int file_write(sqlite3_file *file, const void *data, int size, sqlite3_int64 offset)
{
    int code = below(file)->pMethods->xWrite(below(file), data, size, offset);
    if (code == SQLITE_OK) add_of(file, DISK_WRITE, offset, (size_t)size, data);
    return code;
}

static int file_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    int code = below(file)->pMethods->xTruncate(below(file), size);
    if (code == SQLITE_OK) add_of(file, DISK_RESIZE, size, 0, NULL);
    return code;
}

static int file_sync(sqlite3_file *file, int flags)
{
    recorder.directory_synced = false;
    int code = below(file)->pMethods->xSync(below(file), flags);
    if (code == SQLITE_OK) add_of(file, DISK_SYNC, 0, 0, NULL);
    add_directory_sync();
    return code;
}

static int file_size(sqlite3_file *file, sqlite3_int64 *out_size)
{
    return below(file)->pMethods->xFileSize(below(file), out_size);
}

static int file_lock(sqlite3_file *file, int lock)
{
    return below(file)->pMethods->xLock(below(file), lock);
}

static int file_unlock(sqlite3_file *file, int lock)
{
    return below(file)->pMethods->xUnlock(below(file), lock);
}

static int file_reserved(sqlite3_file *file, int *out)
{
    return below(file)->pMethods->xCheckReservedLock(below(file), out);
}

static int file_control(sqlite3_file *file, int op, void *argument)
{
    return below(file)->pMethods->xFileControl(below(file), op, argument);
}

static int file_sector_size(sqlite3_file *file)
{
    return below(file)->pMethods->xSectorSize(below(file));
}

static int file_characteristics(sqlite3_file *file)
{
    return below(file)->pMethods->xDeviceCharacteristics(below(file));
}

/* Version 1: neither shared memory nor a mapped file. */
static const sqlite3_io_methods methods = {
    .iVersion = 1,
    .xClose = file_close,
    .xRead = file_read,
    .xWrite = file_write,
    .xTruncate = file_truncate,
    .xSync = file_sync,
    .xFileSize = file_size,
    .xLock = file_lock,
    .xUnlock = file_unlock,
    .xCheckReservedLock = file_reserved,
    .xFileControl = file_control,
    .xSectorSize = file_sector_size,
    .xDeviceCharacteristics = file_characteristics,
};

static int vfs_open(sqlite3_vfs *vfs, const char *path, sqlite3_file *file, int flags, int *out_flags)
{
    (void)vfs;
    struct recorded_file *recorded = (struct recorded_file *)file;
    recorded->base.pMethods = NULL;
    recorded->below = (sqlite3_file *)(recorded + 1);
    recorded->name = name_of(path);
    int code = recorder.below->xOpen(recorder.below, path, recorded->below, flags, out_flags);
    if (code != SQLITE_OK) return code;
    unsigned *current = &recorder.file_of[recorded->name];
    if (*current == NO_FILE) {
        *current = recorder.file_count++;
        assert(*current < FILES_MAX);
        add((struct disk_event){.kind = DISK_CREATE, .file = *current, .name = recorded->name}, NULL);
    }
    recorded->file = *current;
    recorded->base.pMethods = &methods;
    return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *path, int sync_directory)
{
    (void)vfs;
    recorder.directory_synced = false;
    const enum disk_name name = name_of(path);
    int code = recorder.below->xDelete(recorder.below, path, sync_directory);
    if (code == SQLITE_OK) {
        add((struct disk_event){.kind = DISK_REMOVE, .file = recorder.file_of[name], .name = name}, NULL);
        recorder.file_of[name] = NO_FILE;
    }
    add_directory_sync();
    return code;
}

static void read_whole(const char *path, struct disk_event *out_event)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t size = lseek(fd, 0, SEEK_END);
    assert(fd >= 0 && size > 0);
    out_event->size = (size_t)size;
    out_event->data = malloc(out_event->size);
    ssize_t got = pread(fd, out_event->data, out_event->size, 0);
    assert(got == size);
    close(fd);
}

/* The recording begins with how the file that is there came to be. */
static void add_first_file(const char *directory)
{
    char path[256];
    struct disk_event write = {.kind = DISK_WRITE};
    (void)snprintf(path, sizeof path, "%s/%s", directory, names[DISK_DB]);
    read_whole(path, &write);
    add((struct disk_event){.kind = DISK_CREATE}, NULL);
    add(write, NULL);
    add((struct disk_event){.kind = DISK_SYNC}, NULL);
    add((struct disk_event){.kind = DISK_SYNC_DIRECTORY}, NULL);
}

void disk_record(const char *directory)
{
    for (enum disk_name name = 0; name < DISK_NAMES; name++)
        recorder.file_of[name] = name == DISK_DB ? 0 : NO_FILE;
    recorder.file_count = 1;
    add_first_file(directory);
    recorder.below = sqlite3_vfs_find(NULL);
    recorder.vfs = *recorder.below;
    recorder.vfs.zName = "recorder";
    recorder.vfs.szOsFile += (int)sizeof(struct recorded_file);
    recorder.vfs.xOpen = vfs_open;
    recorder.vfs.xDelete = vfs_delete;
    sqlite3_vfs *unix_vfs = recorder.below;
    recorder.open_directory = (int (*)(const char *, int *))unix_vfs->xGetSystemCall(unix_vfs, "openDirectory");
    int code = unix_vfs->xSetSystemCall(unix_vfs, "openDirectory", (sqlite3_syscall_ptr)open_directory);
    assert(recorder.open_directory && code == SQLITE_OK);
    code = sqlite3_vfs_register(&recorder.vfs, 1);
    assert(code == SQLITE_OK);
}

void disk_record_end(void)
{
    (void)recorder.below->xSetSystemCall(recorder.below, "openDirectory", NULL);
    (void)sqlite3_vfs_unregister(&recorder.vfs);
    (void)sqlite3_vfs_register(recorder.below, 1);
}

void disk_forget(void)
{
    for (size_t i = 0; i < recorder.count; i++)
        free(recorder.events[i].data);
    free(recorder.events);
    memset(&recorder, 0, sizeof recorder);
}

size_t disk_event_count(void)
{
    return recorder.count;
}

const struct disk_event *disk_event(size_t index)
{
    return &recorder.events[index];
}

/* --- the disk ----------------------------------------------------------------------------------------------------- */

struct content {
    uint8_t *bytes;
    size_t size;
    size_t capacity; /* multiple of SECTOR */
};

struct list {
    size_t *values;
    size_t count;
    size_t capacity;
};

struct disk {
    bool without_syncs;
    size_t event_count;
    struct content durable[FILES_MAX];
    struct list pending[FILES_MAX];  /* the events since the last sync */
    struct list entries[DISK_NAMES]; /* the file, or NO_FILE: the durable one, then each since */
};

static void list_add(struct list *list, size_t value)
{
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? 2 * list->capacity : 64;
        list->values = realloc(list->values, list->capacity * sizeof *list->values);
        assert(list->values);
    }
    list->values[list->count++] = value;
}

static void reserve(struct content *content, size_t size)
{
    size = (size + SECTOR - 1) / SECTOR * SECTOR;
    if (size <= content->capacity) return;
    size_t capacity = size > 2 * content->capacity ? size : 2 * content->capacity;
    content->bytes = realloc(content->bytes, capacity);
    assert(content->bytes);
    memset(content->bytes + content->capacity, 0, capacity - content->capacity);
    content->capacity = capacity;
}

static size_t end_of(const struct disk_event *event)
{
    return event->offset + event->size;
}

static void apply(struct content *content, const struct disk_event *event)
{
    reserve(content, end_of(event));
    if (event->kind == DISK_WRITE) {
        memcpy(content->bytes + event->offset, event->data, event->size);
        if (end_of(event) > content->size) content->size = end_of(event);
    } else {
        if (event->offset < content->size) memset(content->bytes + event->offset, 0, content->size - event->offset);
        content->size = event->offset;
    }
}

static void sync_file(struct disk *disk, unsigned file)
{
    struct list *pending = &disk->pending[file];
    for (size_t i = 0; i < pending->count; i++)
        apply(&disk->durable[file], disk_event(pending->values[i]));
    pending->count = 0;
}

static void sync_directory(struct disk *disk)
{
    for (enum disk_name name = 0; name < DISK_NAMES; name++) {
        struct list *entry = &disk->entries[name];
        entry->values[0] = entry->values[entry->count - 1];
        entry->count = 1;
    }
}

static void take(struct disk *disk, size_t index)
{
    /* The recording's own head, the file that was there, is durable on any disk. */
    const bool synced = !disk->without_syncs || index < 4;
    const struct disk_event *event = disk_event(index);
    switch (event->kind) {
    case DISK_WRITE:
    case DISK_RESIZE:
        list_add(&disk->pending[event->file], index);
        break;
    case DISK_SYNC:
        if (synced) sync_file(disk, event->file);
        break;
    case DISK_CREATE:
        list_add(&disk->entries[event->name], event->file);
        break;
    case DISK_REMOVE:
        list_add(&disk->entries[event->name], NO_FILE);
        break;
    case DISK_SYNC_DIRECTORY:
        if (synced) sync_directory(disk);
        break;
    case DISK_KINDS:
        break;
    }
}

struct disk *disk_new(bool without_syncs)
{
    struct disk *disk = calloc(1, sizeof *disk);
    assert(disk);
    disk->without_syncs = without_syncs;
    for (enum disk_name name = 0; name < DISK_NAMES; name++)
        list_add(&disk->entries[name], NO_FILE);
    return disk;
}

void disk_free(struct disk **disk)
{
    for (unsigned i = 0; i < FILES_MAX; i++) {
        free((*disk)->durable[i].bytes);
        free((*disk)->pending[i].values);
    }
    for (enum disk_name name = 0; name < DISK_NAMES; name++)
        free((*disk)->entries[name].values);
    free(*disk);
    *disk = NULL;
}

void disk_advance(struct disk *disk, size_t event_count)
{
    while (disk->event_count < event_count)
        take(disk, disk->event_count++);
}

/* --- images ------------------------------------------------------------------------------------------------------- */

/* How one power loss treats what was not synced. */
struct loss {
    bool ordered;    /* what came before cut arrived, in order; else each sector has a fate of its own */
    size_t cut;      /* event */
    uint64_t chance; /* 1 in so many that a sector arrives no more */
    bool garbage;    /* in sectors that the file has and that never arrived; else zeros */
};

static struct loss any_loss(size_t event_count, const struct list *pending)
{
    static const uint64_t chances[] = {2, 8, 64};
    struct loss loss = {.cut = event_count};
    switch (disk_random(4)) {
    case 0: /* nothing, all, or a part of one file's */
        loss.ordered = true;
        if (disk_random(2)) loss.cut = pending->count ? pending->values[disk_random(pending->count)] : 0;
        if (!disk_random(3)) loss.cut = 0;
        return loss;
    default:
        loss.chance = chances[disk_random(sizeof chances / sizeof *chances)];
        loss.garbage = disk_random(2);
        return loss;
    }
}

static void fill(uint8_t *bytes, size_t size, bool garbage)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = garbage ? (uint8_t)disk_random(256) : 0;
}

static size_t any_size(size_t durable, const struct list *pending)
{
    size_t chosen = durable;
    size_t size = durable;
    for (size_t i = 0; i < pending->count; i++) {
        const struct disk_event *event = disk_event(pending->values[i]);
        size_t after = event->kind == DISK_RESIZE || end_of(event) > size ? end_of(event) : size;
        if (after != size && disk_random(2)) chosen = after;
        size = after;
    }
    return disk_random(2) ? size : chosen;
}

/* A sector takes the writes to it in their order, up to the one that comes too late. */
static void scatter(struct content *content, const struct list *pending, const struct loss *loss)
{
    uint8_t *late = calloc(content->capacity / SECTOR + 1, 1);
    assert(late);
    for (size_t i = 0; i < pending->count; i++) {
        const struct disk_event *event = disk_event(pending->values[i]);
        size_t end = event->kind == DISK_WRITE ? end_of(event) : content->capacity;
        for (size_t at = event->offset; at < end;) {
            size_t next = (at / SECTOR + 1) * SECTOR < end ? (at / SECTOR + 1) * SECTOR : end;
            uint8_t *too_late = &late[at / SECTOR];
            if (!*too_late) *too_late = disk_random(loss->chance) == 0;
            if (!*too_late && event->kind == DISK_WRITE)
                memcpy(content->bytes + at, event->data + (at - event->offset), next - at);
            else if (!*too_late)
                memset(content->bytes + at, 0, next - at);
            at = next;
        }
    }
    free(late);
}

static struct content image_of(const struct content *durable, const struct list *pending, const struct loss *loss)
{
    struct content content = {0};
    size_t most = durable->size;
    for (size_t i = 0; i < pending->count; i++)
        if (end_of(disk_event(pending->values[i])) > most) most = end_of(disk_event(pending->values[i]));
    reserve(&content, most + SECTOR);
    if (durable->size) memcpy(content.bytes, durable->bytes, durable->size);
    content.size = durable->size;
    if (!loss->ordered) {
        fill(content.bytes + content.size, content.capacity - content.size, loss->garbage);
        scatter(&content, pending, loss);
        content.size = any_size(durable->size, pending);
    }
    for (size_t i = 0; loss->ordered && i < pending->count && pending->values[i] < loss->cut; i++)
        apply(&content, disk_event(pending->values[i]));
    return content;
}

static void write_file(const char *path, const struct content *content)
{
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    ssize_t put = write(fd, content->size ? (const void *)content->bytes : "", content->size);
    assert(fd >= 0 && put == (ssize_t)content->size);
    close(fd);
}

void disk_write_image(const struct disk *disk, const char *directory)
{
    const struct loss loss = any_loss(disk->event_count, &disk->pending[disk_random(recorder.file_count)]);
    for (enum disk_name name = 0; name < DISK_NAMES; name++) {
        char path[256];
        const struct list *entry = &disk->entries[name];
        (void)snprintf(path, sizeof path, "%s/%s", directory, names[name]);
        (void)unlink(path);
        size_t file = entry->values[loss.ordered && loss.cut ? entry->count - 1 : disk_random(entry->count)];
        if (file == NO_FILE) continue;
        struct content content = image_of(&disk->durable[file], &disk->pending[file], &loss);
        write_file(path, &content);
        free(content.bytes);
    }
}
