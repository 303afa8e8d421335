/*
 * What vtpmd keeps: one SQLite database (STATE_DIRECTORY/vtpm.db), WAL, synchronous=FULL, exclusively locked.
 *
 *   meta       'master', 'head': the blobs of kind MASTER and LEDGER_HEAD; 'recovery': the recovery record, if there is one
 *   rows       slot -> id, blob of kind LEDGER_ROW
 *   states     id -> version, sealed state
 *   snapshots  id, name -> version, when it was made, a copy of what `states` had
 *   settings   id -> the operator's JSON: on which sockets an instance is served, as whom. Nothing trusts it.
 *   processes  id -> what vtpmd knows of the process that serves it, to tell a dead one from a living one
 *
 * Guarantees: a transaction that was committed is durable and whole, through a crash at any instruction (as far as
 * SQLite, the file system and the disk keep their promises); what it reads back is what was written or an error; two
 * processes never have it open. It sees ciphertext only. Not guaranteed: that the file is the newest there ever was.
 *
 * Versions: application_id says that the file is a store at all, user_version which schema it has. store_open takes
 * its own schema, and brings schema 1, which had no snapshots, up to it. A release that changes the schema raises
 * STORE_SCHEMA_VERSION by one, and its store_open brings an older one up to it, in one transaction, before any blob is
 * read; it never takes a newer one, and nothing is ever brought down. What is inside the blobs has a format of its own
 * (abi/blob.h), which the schema does not follow.
 *
 * Calls block; those that write are made on a thread of their own (daemon/committer.h). One thread at a time.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/id.h"
#include "base/span.h"

#define STORE_APPLICATION_ID 1448235085 /* of every store there is: never to be changed */
#define STORE_SCHEMA_VERSION 2

struct store;
struct sqlite3;

/* Makes the database, durable on success; it must not exist. ERR_STORE_EXISTS, ERR_STORE_IO. */
struct err store_init(const char *directory);

/* ERR_STORE_MISSING, ERR_STORE_FOREIGN (application id, schema version, damage), ERR_STORE_BUSY, ERR_STORE_IO. */
struct err store_open(const char *directory, struct store **out_store);
void store_close(struct store **store);

/* For check.h and backup.h, under the same rule: one thread at a time. */
struct sqlite3 *store_handle(struct store *store);

/* What SQLite said of the last error, for the log. */
const char *store_error(const struct store *store);

struct store_row {
    uint32_t slot;
    struct instance_id id;
    uint64_t version; /* of the instance's state; 0: it has none */
    struct span blob;
};

struct store_state {
    struct instance_id id;
    uint64_t version;
    struct span blob;
    const char *
        replaced_as; /* the state that it replaces, if there is one, becomes a snapshot of this name; NULL: it is gone */
};

/* One commit of the ledger: MANAGER_EFFECT_STORE of abi/manager.h with the states that belong to it. */
struct store_batch {
    struct span head;
    struct span master; /* size 0: unchanged */
    const struct store_row *rows;
    size_t row_count;
    const struct store_state *states;
    size_t state_count;
};

/*
 * In one transaction: head, master, rows, states; and removes the states and the snapshots of rows whose version is 0
 * (an instance that was deleted, or that never had a state and so no snapshot). A state is written
 * only if its row in the same batch has its version; ERR_BAD_VALUE else. A row whose state is not there is stored all the
 * same: whose state is lost finds out at its own start, and does not hold up the others. ERR_STORE_IO: nothing was
 * changed; the same batch may be tried again.
 */
struct err store_commit(struct store *store, const struct store_batch *batch);

/* For the start: blobs are malloc'ed, the caller's. ERR_STATE_MISSING, ERR_NO_MEMORY, ERR_STORE_IO. */
struct err store_read_master(struct store *store, uint8_t **out_blob, size_t *out_size);
struct err store_read_head(struct store *store, uint8_t **out_blob, size_t *out_size);
struct err store_read_state(struct store *store, const struct instance_id *id, uint64_t version, uint8_t **out_blob,
                            size_t *out_size);
/* Whatever version is there, for a check. Errors as above. */
struct err store_read_stored(struct store *store, const struct instance_id *id, uint64_t *out_version,
                             uint8_t **out_blob, size_t *out_size);
/* The recovery record (link/recovery.h), which is made once; durable on success. ERR_STORE_IO; reading as above. */
struct err store_write_recovery(struct store *store, struct span record);
struct err store_read_recovery(struct store *store, uint8_t **out_record, size_t *out_size);
/* Calls row for each row, by slot; an error of row ends it and is returned. */
struct err store_each_row(struct store *store, void *ctx, struct err (*row)(void *ctx, const struct store_row *row));

/*
 * What is in a stored state is the sealed state, and behind it the sealed volatile state if it was suspended; the store
 * keeps both as one. This is the size of the first alone, the one that a row's digest is over, as its header says; all of
 * it if it says more than there is, or nothing that can be read.
 */
size_t store_state_size(struct span stored);

/* A copy of what was stored as the newest state. */
struct store_snapshot {
    const char *name;
    uint64_t version; /* that the state was stored as; its header may have a lower one (after a revert) */
    uint64_t created; /* host's clock, seconds since 1970 */
    struct span blob; /* as it was stored: store_state_size */
};

/* Copies the present state of an instance, whatever its version; durable on success. name: a label, the caller's to check.
 * ERR_STATE_MISSING, ERR_SNAPSHOT_EXISTS (it is left as it is), ERR_STORE_IO. */
struct err store_snapshot_take(struct store *store, const struct instance_id *id, const char *name);
/* The blob is malloc'ed, the caller's.
 * ERR_NO_SNAPSHOT, ERR_NO_MEMORY, ERR_STORE_IO. */
struct err store_snapshot_read(struct store *store, const struct instance_id *id, const char *name,
                               uint64_t *out_version, uint64_t *out_created, uint8_t **out_blob, size_t *out_size);
/* Calls fn for each snapshot of an instance, by version, then by name; what it is given is valid until it returns, and it
 * makes no call on the store. An error of fn ends it and is returned. ERR_NO_MEMORY, ERR_STORE_IO. */
struct err store_each_snapshot(struct store *store, const struct instance_id *id, void *ctx,
                               struct err (*fn)(void *ctx, const struct store_snapshot *snapshot));
/* ERR_NO_SNAPSHOT, ERR_STORE_IO. */
struct err store_snapshot_delete(struct store *store, const struct instance_id *id, const char *name);

/* The operator's settings of an instance: a NUL-terminated string, malloc'ed. ERR_NO_INSTANCE. */
struct err store_read_settings(struct store *store, const struct instance_id *id, char **out_json);
struct err store_write_settings(struct store *store, const struct instance_id *id, const char *json);

struct store_process {
    char boot_id[37]; /* /proc/sys/kernel/random/boot_id */
    pid_t pid;
    uint64_t start_time; /* field 22 of /proc/PID/stat */
};

/* ERR_NO_INSTANCE if none is known. */
struct err store_read_process(struct store *store, const struct instance_id *id, struct store_process *out);
struct err store_write_process(struct store *store, const struct instance_id *id, const struct store_process *process);

/* Settings and process of a deleted instance. */
struct err store_forget(struct store *store, const struct instance_id *id);
