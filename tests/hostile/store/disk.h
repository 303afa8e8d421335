/*
 * What a program did to the disk through SQLite, and the disks that a power loss may have left at any point of it.
 *
 * The recorder is a SQLite VFS around the operating system's own. It keeps every write, change of size, sync, creation
 * and removal of a file, with their bytes, in their order. It offers no shared memory: whoever needs some fails.
 *
 * An image is what was synced, and of the rest whatever a disk and a file system may have kept:
 *
 *   bytes   512-byte sectors on their own, in any order; a sector has its content after any of the writes to it
 *   sizes   any that the file has had since its last sync; sectors that never arrived hold zeros or random bytes
 *   names   a file that was created is there, and one that was removed is gone, for sure only after a sync of the directory
 *
 * Not simulated: a disk that loses or changes what it has said to be durable, and a write that spoils the bytes beside it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum disk_event_kind { DISK_WRITE, DISK_RESIZE, DISK_SYNC, DISK_CREATE, DISK_REMOVE, DISK_SYNC_DIRECTORY, DISK_KINDS };

enum disk_name { DISK_DB, DISK_WAL, DISK_JOURNAL, DISK_NAMES };

struct disk_event {
    enum disk_event_kind kind;
    unsigned file;       /* each creation makes another file, even under the same name */
    enum disk_name name; /* that it was opened, created or removed under */
    size_t offset;       /* of a write; of a resize, the new size */
    size_t size;
    uint8_t *data;
};

/* Random numbers below limit, from the seed of the test. */
uint64_t disk_random(uint64_t limit);
void disk_seed(uint64_t seed);

/* From here on SQLite's default VFS records, in directory, which holds a synced DISK_DB and nothing else. */
void disk_record(const char *directory);
/* Ends it; the events stay. */
void disk_record_end(void);
void disk_forget(void);

size_t disk_event_count(void);
const struct disk_event *disk_event(size_t index);

/* A disk that has been through the first events of the recording. */
struct disk;
/* without_syncs: it takes every sync for done and keeps nothing for it. */
struct disk *disk_new(bool without_syncs);
void disk_free(struct disk **disk);
/* Forward only. */
void disk_advance(struct disk *disk, size_t event_count);
/* One of the images that a power loss now may leave; writes it over the files in directory. */
void disk_write_image(const struct disk *disk, const char *directory);
