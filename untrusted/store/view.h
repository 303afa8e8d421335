/*
 * A store as it lies on the disk, while no vtpmd has it: for checking and copying it.
 *
 * Guarantees: neither the file nor its directory is changed; what the write-ahead log beside it holds is seen; while the
 * view is open no vtpmd opens the store, and a store that a vtpmd has open is refused. Nothing is checked here.
 */
#pragma once

#include "base/err.h"

#define STORE_VIEW_PATH 4096u

struct sqlite3;

struct store_view {
    struct sqlite3 *db;
    int fd;                          /* holds the lock */
    char directory[STORE_VIEW_PATH]; /* of a copy with its write-ahead log, or "" */
};

/*
 * Not in a process that has this store open: it would lose its lock.
 * A log that was not written back yet is taken into a copy in $TMPDIR or /tmp, which needs as much room as the store.
 * ERR_STORE_MISSING, ERR_STORE_BUSY, ERR_STORE_FOREIGN (no regular file), ERR_TOO_LARGE (the path), ERR_SYSTEM (errno says
 * more). store_view_close in any case.
 */
struct err store_view_open(const char *file, struct store_view *out_view);
void store_view_close(struct store_view *view);
