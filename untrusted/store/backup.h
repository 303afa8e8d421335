/*
 * A copy of a store into another file, in steps, through the connection that writes the store.
 *
 * Guarantees: what is there after the last step is the store as it was at one moment, the end of that step: what is
 * committed between two steps is in it, whole or not at all. It is no secret: it is ciphertext, as the store is.
 * Not guaranteed: that a manager accepts it later (docs/state-format.md, "Backup and restore").
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct sqlite3;
struct store_backup;

/* Makes the file, of mode 0600; it must not exist. ERR_STORE_EXISTS, ERR_STORE_IO, ERR_NO_MEMORY. */
struct err store_backup_open(struct sqlite3 *source, const char *path, struct store_backup **out_backup);

/* Copies that many pages. ERR_STORE_IO (store_backup_error says more), ERR_NO_MEMORY: the copy is useless. */
struct err store_backup_step(struct store_backup *backup, int pages, bool *out_done);
void store_backup_progress(const struct store_backup *backup, uint64_t *out_done, uint64_t *out_all); /* pages */
const char *store_backup_error(const struct store_backup *backup);

/* Before the source is closed. The caller syncs the file, or removes it if the last step was not done. */
void store_backup_close(struct store_backup **backup);
