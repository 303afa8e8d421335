/*
 * Does what lies in a store fit together? Everything that can be seen without a key.
 *
 * Seen: the application id, the schema's version, SQLite's own integrity check; that head and master are there; for each
 * row, state, snapshot, head and master the header (magic, format, kind, size, id, version, slot), where that of a state
 * may be older than what it is stored as, since one goes back on purpose; that nothing lies behind a state but its
 * volatile part; that the recovery record, if there is one, is one of this trust domain; that slots have no gap, rows have their states in the version that they name, and states, snapshots and
 * settings have rows. A store of schema 1 is looked at as it is.
 * Not seen: whether a record is authentic, and whether it is the newest. Only the manager enclave can tell the first, and
 * only the anchor the second. A header is believed here because a wrong one is found by the enclave.
 *
 * Guarantees: all findings are told, in the order of the store; the store may be written between two steps, and nothing
 * that is right at each moment is then called wrong. The work grows with n log n of its instances.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/id.h"

struct sqlite3;
struct store_check;

struct store_finding {
    char subject[ID_TEXT_SIZE + 72]; /* printable: "the store", "slot 3", "web1 (id)", an id */
    char fault[224];                 /* printable */
    const char *cure;
};

struct store_check_listener {
    void *ctx;
    void (*found)(void *ctx, const struct store_finding *finding);
};

struct store_checked {
    uint64_t rows;
    uint64_t states;
    uint64_t snapshots;
    uint64_t other_manager; /* rows and states that another manager sealed than the head: so it is after an upgrade */
    uint64_t findings;
};

/* alone: nobody waits for the database, so all of its pages may be looked at at once. ERR_NO_MEMORY. */
struct err store_check_open(struct sqlite3 *db, bool alone, const struct store_check_listener *listener,
                            struct store_check **out_check);

/* A slice of the work: some dozens of instances, or the pages of one table. ERR_NO_MEMORY. */
struct err store_check_step(struct store_check *check, bool *out_done);
void store_check_progress(const struct store_check *check, uint64_t *out_done, uint64_t *out_all);
const struct store_checked *store_checked(const struct store_check *check);
void store_check_close(struct store_check **check);

/* For whoever compares with the manager: what is told to be found by the same listener. format: of the fault. */
void store_check_tell(struct store_check *check, const char *subject, const char *cure, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

extern const char store_cure_whole[]; /* vtpmd refuses the store */
extern const char store_cure_state[]; /* one instance does not start */
