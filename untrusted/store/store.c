#include "untrusted/store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "abi/blob.h"
#include "base/bytes.h"

#define TEXT_OF(number) #number
#define TEXT(number)    TEXT_OF(number)
#define APPLICATION_ID  TEXT(STORE_APPLICATION_ID)
#define SCHEMA_VERSION  TEXT(STORE_SCHEMA_VERSION)
#define FILE_NAME       "vtpm.db"
#define NEW_FILE_NAME   "vtpm.db.new"
#define PATH_SIZE       4096u

#define MAKE_SNAPSHOTS                                                                                                 \
    "CREATE TABLE snapshots(id BLOB NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, created INTEGER NOT NULL," \
    " sealed BLOB NOT NULL, PRIMARY KEY(id, name));"

static const char schema[] =
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE rows(slot INTEGER PRIMARY KEY, id BLOB NOT NULL, version INTEGER NOT NULL, blob BLOB NOT NULL);"
    "CREATE TABLE states(id BLOB PRIMARY KEY, version INTEGER NOT NULL, blob BLOB NOT NULL);"
    "CREATE TABLE settings(id BLOB PRIMARY KEY, json TEXT NOT NULL);"
    "CREATE TABLE processes(id BLOB PRIMARY KEY, boot_id TEXT NOT NULL, pid INTEGER NOT NULL,"
    " start_time INTEGER NOT NULL);" MAKE_SNAPSHOTS "PRAGMA application_id=" APPLICATION_ID ";"
    "PRAGMA user_version=" SCHEMA_VERSION ";";

/* From schema 1, which had no snapshots. */
static const char upgrade[] = "BEGIN IMMEDIATE;" MAKE_SNAPSHOTS "PRAGMA user_version=" SCHEMA_VERSION "; COMMIT;";

/* Exclusively locked from the first read to the end, so that WAL needs no shared memory. */
static const char manners[] = "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
                              "PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA journal_size_limit=8388608;"
                              "BEGIN IMMEDIATE; COMMIT;";

enum statement {
    BEGIN,
    COMMIT,
    ROLLBACK,
    PUT_META,
    GET_META,
    PUT_ROW,
    EACH_ROW,
    PUT_STATE,
    DROP_STATE,
    GET_STATE,
    GET_STORED,
    TAKE_SNAPSHOT,
    GET_SNAPSHOT,
    EACH_SNAPSHOT,
    DROP_SNAPSHOT,
    DROP_SNAPSHOTS,
    PUT_SETTINGS,
    GET_SETTINGS,
    DROP_SETTINGS,
    PUT_PROCESS,
    GET_PROCESS,
    DROP_PROCESS,
    STATEMENT_COUNT
};

static const char *const statements[STATEMENT_COUNT] = {
    [BEGIN] = "BEGIN IMMEDIATE",
    [COMMIT] = "COMMIT",
    [ROLLBACK] = "ROLLBACK",
    [PUT_META] = "INSERT OR REPLACE INTO meta(name, value) VALUES(?, ?)",
    [GET_META] = "SELECT value FROM meta WHERE name = ?",
    [PUT_ROW] = "INSERT OR REPLACE INTO rows(slot, id, version, blob) VALUES(?, ?, ?, ?)",
    [EACH_ROW] = "SELECT slot, id, version, blob FROM rows ORDER BY slot",
    [PUT_STATE] = "INSERT OR REPLACE INTO states(id, version, blob) VALUES(?, ?, ?)",
    [DROP_STATE] = "DELETE FROM states WHERE id = ?",
    [GET_STATE] = "SELECT blob FROM states WHERE id = ? AND version = ?",
    [GET_STORED] = "SELECT blob, version FROM states WHERE id = ?",
    [TAKE_SNAPSHOT] =
        ("INSERT OR IGNORE INTO snapshots(id, name, version, created, sealed)"
         " SELECT id, ?2, version, CAST(strftime('%s', 'now') AS INTEGER), blob FROM states WHERE id = ?1"),
    [GET_SNAPSHOT] = "SELECT sealed, version, created FROM snapshots WHERE id = ? AND name = ?",
    [EACH_SNAPSHOT] = "SELECT sealed, version, created, name FROM snapshots WHERE id = ? ORDER BY version, name",
    [DROP_SNAPSHOT] = "DELETE FROM snapshots WHERE id = ? AND name = ?",
    [DROP_SNAPSHOTS] = "DELETE FROM snapshots WHERE id = ?",
    [PUT_SETTINGS] = "INSERT OR REPLACE INTO settings(id, json) VALUES(?, ?)",
    [GET_SETTINGS] = "SELECT json FROM settings WHERE id = ?",
    [DROP_SETTINGS] = "DELETE FROM settings WHERE id = ?",
    [PUT_PROCESS] = "INSERT OR REPLACE INTO processes(id, boot_id, pid, start_time) VALUES(?, ?, ?, ?)",
    [GET_PROCESS] = "SELECT boot_id, pid, start_time FROM processes WHERE id = ?",
    [DROP_PROCESS] = "DELETE FROM processes WHERE id = ?",
};

struct store {
    sqlite3 *db;
    sqlite3_stmt *statements[STATEMENT_COUNT];
    char error[160]; /* what SQLite said when a transaction was rolled back */
};

static void close_db(sqlite3 **db)
{
    (void)sqlite3_close(*db);
}

static struct err path_of(const char *directory, const char *name, char out_path[PATH_SIZE])
{
    int size = snprintf(out_path, PATH_SIZE, "%s/%s", directory, name);
    ENSURE(size > 0 && (size_t)size < PATH_SIZE, TOO_LARGE);
    return OK;
}

static struct err err_of(int code)
{
    switch (code & 0xFF) {
    case SQLITE_OK:
    case SQLITE_DONE:
    case SQLITE_ROW:
        return OK;
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
        return FAIL(STORE_FOREIGN);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return FAIL(STORE_BUSY);
    case SQLITE_NOMEM:
        return FAIL(NO_MEMORY);
    default:
        return FAIL(STORE_IO);
    }
}

/* --- making it --------------------------------------------------------------------------------------------------- */

static struct err sync_directory(const char *directory)
{
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ENSURE(fd >= 0, STORE_IO);
    int result = fsync(fd);
    close(fd);
    ENSURE(result == 0, STORE_IO);
    return OK;
}

static struct err build(const char *path)
{
    sqlite3 *db DEFER(close_db) = NULL;
    /* SQLite gives its other files the mode of this one. */
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ENSURE(fd >= 0, STORE_IO);
    close(fd);
    TRY(err_of(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL)));
    TRY(err_of(sqlite3_exec(db, "PRAGMA synchronous=FULL; BEGIN", NULL, NULL, NULL)));
    TRY(err_of(sqlite3_exec(db, schema, NULL, NULL, NULL)));
    return err_of(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL));
}

struct err store_init(const char *directory)
{
    char path[PATH_SIZE];
    char new_path[PATH_SIZE];
    TRY(path_of(directory, FILE_NAME, path));
    TRY(path_of(directory, NEW_FILE_NAME, new_path));
    ENSURE(access(path, F_OK) != 0, STORE_EXISTS);
    ENSURE(errno == ENOENT, STORE_IO);
    /* Left by an attempt that was cut off; it has never had the name that counts. */
    ENSURE(unlink(new_path) == 0 || errno == ENOENT, STORE_IO);
    TRY(build(new_path));
    int linked = link(new_path, path);
    ENSURE(linked == 0 || errno != EEXIST, STORE_EXISTS);
    ENSURE(linked == 0, STORE_IO);
    ENSURE(unlink(new_path) == 0, STORE_IO);
    return sync_directory(directory);
}

/* --- opening it --------------------------------------------------------------------------------------------------- */

static struct err expect(sqlite3 *db, const char *question, const char *answer)
{
    sqlite3_stmt *statement = NULL;
    TRY(err_of(sqlite3_prepare_v2(db, question, -1, &statement, NULL)));
    struct err result = err_of(sqlite3_step(statement));
    const char *text = result.code ? NULL : (const char *)sqlite3_column_text(statement, 0);
    if (!result.code && (!text || strcmp(text, answer) != 0)) result = FAIL(STORE_FOREIGN);
    (void)sqlite3_finalize(statement);
    return result;
}

static struct err bring_up(sqlite3 *db)
{
    struct err result = expect(db, "PRAGMA user_version", SCHEMA_VERSION);
    return result.code == ERR_STORE_FOREIGN ? err_of(sqlite3_exec(db, upgrade, NULL, NULL, NULL)) : result;
}

/* Before anything is written. */
static struct err expect_known_schema(sqlite3 *db)
{
    struct err result = expect(db, "PRAGMA user_version", SCHEMA_VERSION);
    return result.code == ERR_STORE_FOREIGN ? expect(db, "PRAGMA user_version", "1") : result;
}

static struct err open_checked(struct store *store, const char *path)
{
    /* With its mutex: a backup that is given up may be ended on another thread than the one that writes. */
    TRY(err_of(sqlite3_open_v2(path, &store->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_FULLMUTEX, NULL)));
    (void)sqlite3_extended_result_codes(store->db, 1);
    (void)sqlite3_db_config(store->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    TRY(err_of(sqlite3_exec(store->db, "PRAGMA locking_mode=EXCLUSIVE", NULL, NULL, NULL)));
    TRY(expect(store->db, "PRAGMA application_id", APPLICATION_ID));
    TRY(expect_known_schema(store->db));
    TRY(err_of(sqlite3_exec(store->db, manners, NULL, NULL, NULL)));
    TRY(expect(store->db, "PRAGMA quick_check(1)", "ok"));
    TRY(bring_up(store->db));
    for (size_t i = 0; i < STATEMENT_COUNT; i++) {
        int code =
            sqlite3_prepare_v3(store->db, statements[i], -1, SQLITE_PREPARE_PERSISTENT, &store->statements[i], NULL);
        ENSURE(code != SQLITE_ERROR, STORE_FOREIGN); /* a table or a column is not there */
        TRY(err_of(code));
    }
    return OK;
}

struct err store_open(const char *directory, struct store **out_store)
{
    char path[PATH_SIZE];
    TRY(path_of(directory, FILE_NAME, path));
    ENSURE(access(path, F_OK) == 0 || errno != ENOENT, STORE_MISSING);
    struct store *store = calloc(1, sizeof *store);
    ENSURE(store, NO_MEMORY);
    struct err result = open_checked(store, path);
    if (result.code) {
        store_close(&store);
        return result;
    }
    *out_store = store;
    return OK;
}

void store_close(struct store **store)
{
    if (!*store) return;
    for (size_t i = 0; i < STATEMENT_COUNT; i++)
        (void)sqlite3_finalize((*store)->statements[i]);
    (void)sqlite3_close((*store)->db);
    free(*store);
    *store = NULL;
}

const char *store_error(const struct store *store)
{
    return store->error;
}

struct sqlite3 *store_handle(struct store *store)
{
    return store->db;
}

/* --- statements --------------------------------------------------------------------------------------------------- */

static sqlite3_stmt *ready(struct store *store, enum statement which)
{
    sqlite3_stmt *statement = store->statements[which];
    (void)sqlite3_reset(statement);
    (void)sqlite3_clear_bindings(statement);
    return statement;
}

static sqlite3_stmt *ready_id(struct store *store, enum statement which, const struct instance_id *id)
{
    sqlite3_stmt *statement = ready(store, which);
    (void)sqlite3_bind_blob(statement, 1, id->bytes, sizeof id->bytes, SQLITE_STATIC);
    return statement;
}

/* An empty blob is a value, not NULL. */
static void bind_span(sqlite3_stmt *statement, int index, struct span bytes)
{
    (void)sqlite3_bind_blob64(statement, index, bytes.size ? (const void *)bytes.data : "", bytes.size, SQLITE_STATIC);
}

/* A bind that failed leaves a NULL, which no column takes. */
static struct err run(struct store *store, sqlite3_stmt *statement)
{
    int code = sqlite3_step(statement);
    struct err result = err_of(code);
    if (result.code) (void)snprintf(store->error, sizeof store->error, "%s", sqlite3_errmsg(store->db));
    (void)sqlite3_reset(statement);
    /* Once it was open, whatever goes wrong is about reading and writing. */
    ENSURE(result.code != ERR_STORE_BUSY && result.code != ERR_STORE_FOREIGN, STORE_IO);
    return result;
}

/* out_found stays false, without an error, when there is no such row; the statement then needs no reset. */
static struct err fetch(struct store *store, sqlite3_stmt *statement, bool *out_found)
{
    int code = sqlite3_step(statement);
    if (code == SQLITE_ROW) {
        *out_found = true;
        return OK;
    }
    struct err result = err_of(code);
    if (result.code) (void)snprintf(store->error, sizeof store->error, "%s", sqlite3_errmsg(store->db));
    (void)sqlite3_reset(statement);
    ENSURE(!result.code, STORE_IO);
    return OK;
}

static struct err copy_column(sqlite3_stmt *statement, int column, uint8_t **out_blob, size_t *out_size)
{
    const void *blob = sqlite3_column_blob(statement, column);
    size_t size = (size_t)sqlite3_column_bytes(statement, column);
    uint8_t *copy = malloc(size + 1);
    ENSURE(copy, NO_MEMORY);
    if (size) memcpy(copy, blob, size);
    copy[size] = 0; /* a text ends there */
    *out_blob = copy;
    *out_size = size;
    return OK;
}

static struct err read_one(struct store *store, sqlite3_stmt *statement, struct err missing, uint8_t **out_blob,
                           size_t *out_size)
{
    bool found = false;
    TRY(fetch(store, statement, &found));
    if (!found) return missing;
    struct err result = copy_column(statement, 0, out_blob, out_size);
    (void)sqlite3_reset(statement);
    return result;
}

/* --- the ledger's commit ------------------------------------------------------------------------------------------ */

static struct err put_meta(struct store *store, const char *name, struct span value)
{
    sqlite3_stmt *statement = ready(store, PUT_META);
    (void)sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
    bind_span(statement, 2, value);
    return run(store, statement);
}

static struct err put_row(struct store *store, const struct store_row *row)
{
    ENSURE(row->version <= INT64_MAX, BAD_VALUE);
    sqlite3_stmt *statement = ready(store, PUT_ROW);
    (void)sqlite3_bind_int64(statement, 1, row->slot);
    (void)sqlite3_bind_blob(statement, 2, row->id.bytes, sizeof row->id.bytes, SQLITE_STATIC);
    (void)sqlite3_bind_int64(statement, 3, (int64_t)row->version);
    bind_span(statement, 4, row->blob);
    TRY(run(store, statement));
    if (row->version) return OK;
    TRY(run(store, ready_id(store, DROP_STATE, &row->id)));
    return run(store, ready_id(store, DROP_SNAPSHOTS, &row->id));
}

static const struct store_row *row_of(const struct store_batch *batch, const struct instance_id *id)
{
    for (size_t i = 0; i < batch->row_count; i++)
        if (memcmp(batch->rows[i].id.bytes, id->bytes, sizeof id->bytes) == 0) return &batch->rows[i];
    return NULL;
}

static sqlite3_stmt *ready_snapshot(struct store *store, enum statement which, const struct instance_id *id,
                                    const char *name)
{
    sqlite3_stmt *statement = ready_id(store, which, id);
    (void)sqlite3_bind_text(statement, 2, name, -1, SQLITE_STATIC);
    return statement;
}

static struct err put_state(struct store *store, const struct store_batch *batch, const struct store_state *state)
{
    const struct store_row *row = row_of(batch, &state->id);
    ENSURE(row && row->version == state->version && state->version > 0, BAD_VALUE);
    if (state->replaced_as) TRY(run(store, ready_snapshot(store, TAKE_SNAPSHOT, &state->id, state->replaced_as)));
    sqlite3_stmt *statement = ready_id(store, PUT_STATE, &state->id);
    (void)sqlite3_bind_int64(statement, 2, (int64_t)state->version);
    bind_span(statement, 3, state->blob);
    return run(store, statement);
}

static struct err put_batch(struct store *store, const struct store_batch *batch)
{
    TRY(put_meta(store, "head", batch->head));
    if (batch->master.size) TRY(put_meta(store, "master", batch->master));
    for (size_t i = 0; i < batch->row_count; i++)
        TRY(put_row(store, &batch->rows[i]));
    for (size_t i = 0; i < batch->state_count; i++)
        TRY(put_state(store, batch, &batch->states[i]));
    return run(store, ready(store, COMMIT));
}

struct err store_commit(struct store *store, const struct store_batch *batch)
{
    TRY(run(store, ready(store, BEGIN)));
    struct err result = put_batch(store, batch);
    if (result.code && !sqlite3_get_autocommit(store->db)) {
        sqlite3_stmt *rollback = ready(store, ROLLBACK);
        (void)sqlite3_step(rollback); /* store_error keeps what came before */
        (void)sqlite3_reset(rollback);
    }
    return result;
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

static struct err read_meta(struct store *store, const char *name, uint8_t **out_blob, size_t *out_size)
{
    sqlite3_stmt *statement = ready(store, GET_META);
    (void)sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
    return read_one(store, statement, FAIL(STATE_MISSING), out_blob, out_size);
}

struct err store_read_master(struct store *store, uint8_t **out_blob, size_t *out_size)
{
    return read_meta(store, "master", out_blob, out_size);
}

struct err store_read_head(struct store *store, uint8_t **out_blob, size_t *out_size)
{
    return read_meta(store, "head", out_blob, out_size);
}

struct err store_write_recovery(struct store *store, struct span record)
{
    return put_meta(store, "recovery", record);
}

struct err store_read_recovery(struct store *store, uint8_t **out_record, size_t *out_size)
{
    return read_meta(store, "recovery", out_record, out_size);
}

struct err store_read_stored(struct store *store, const struct instance_id *id, uint64_t *out_version,
                             uint8_t **out_blob, size_t *out_size)
{
    bool found = false;
    sqlite3_stmt *statement = ready_id(store, GET_STORED, id);
    TRY(fetch(store, statement, &found));
    ENSURE(found, STATE_MISSING);
    struct err result = copy_column(statement, 0, out_blob, out_size);
    *out_version = (uint64_t)sqlite3_column_int64(statement, 1);
    (void)sqlite3_reset(statement);
    return result;
}

struct err store_read_state(struct store *store, const struct instance_id *id, uint64_t version, uint8_t **out_blob,
                            size_t *out_size)
{
    sqlite3_stmt *statement = ready_id(store, GET_STATE, id);
    (void)sqlite3_bind_int64(statement, 2, (int64_t)version);
    return read_one(store, statement, FAIL(STATE_MISSING), out_blob, out_size);
}

static struct err row_from(sqlite3_stmt *statement, struct store_row *out_row)
{
    int64_t slot = sqlite3_column_int64(statement, 0);
    int64_t version = sqlite3_column_int64(statement, 2);
    ENSURE(slot >= 0 && slot <= UINT32_MAX && version >= 0, STORE_FOREIGN);
    ENSURE(sqlite3_column_bytes(statement, 1) == (int)sizeof out_row->id.bytes, STORE_FOREIGN);
    out_row->slot = (uint32_t)slot;
    memcpy(out_row->id.bytes, sqlite3_column_blob(statement, 1), sizeof out_row->id.bytes);
    out_row->version = (uint64_t)version;
    out_row->blob = span_of(sqlite3_column_blob(statement, 3), (size_t)sqlite3_column_bytes(statement, 3));
    return OK;
}

struct err store_each_row(struct store *store, void *ctx, struct err (*row)(void *ctx, const struct store_row *row))
{
    sqlite3_stmt *statement = ready(store, EACH_ROW);
    struct err result = OK;
    while (!result.code) {
        bool found = false;
        TRY(fetch(store, statement, &found));
        if (!found) return OK;
        struct store_row current = {0};
        result = row_from(statement, &current);
        if (!result.code) result = row(ctx, &current);
    }
    (void)sqlite3_reset(statement);
    return result;
}

/* --- snapshots ---------------------------------------------------------------------------------------------------- */

size_t store_state_size(struct span stored)
{
    struct reader r = reader_of(stored);
    struct span skipped;
    uint32_t sealed = 0;
    if (read_span(&r, BLOB_MAGIC_SIZE + 2 * sizeof(uint16_t), &skipped).code || read_u32(&r, &sealed).code)
        return stored.size;
    const uint64_t size = (uint64_t)BLOB_HEADER_SIZE + sealed + BLOB_TAG_SIZE;
    return size < stored.size ? (size_t)size : stored.size;
}

static struct err expect_none(struct store *store, const struct instance_id *id, const char *name)
{
    bool found = false;
    sqlite3_stmt *statement = ready_snapshot(store, GET_SNAPSHOT, id, name);
    TRY(fetch(store, statement, &found));
    (void)sqlite3_reset(statement);
    ENSURE(!found, SNAPSHOT_EXISTS);
    return OK;
}

struct err store_snapshot_take(struct store *store, const struct instance_id *id, const char *name)
{
    TRY(expect_none(store, id, name));
    TRY(run(store, ready_snapshot(store, TAKE_SNAPSHOT, id, name)));
    ENSURE(sqlite3_changes(store->db) == 1, STATE_MISSING);
    return OK;
}

struct err store_snapshot_read(struct store *store, const struct instance_id *id, const char *name,
                               uint64_t *out_version, uint64_t *out_created, uint8_t **out_blob, size_t *out_size)
{
    bool found = false;
    sqlite3_stmt *statement = ready_snapshot(store, GET_SNAPSHOT, id, name);
    TRY(fetch(store, statement, &found));
    ENSURE(found, NO_SNAPSHOT);
    struct err result = copy_column(statement, 0, out_blob, out_size);
    *out_version = (uint64_t)sqlite3_column_int64(statement, 1);
    *out_created = (uint64_t)sqlite3_column_int64(statement, 2);
    (void)sqlite3_reset(statement);
    return result;
}

static struct err snapshot_from(sqlite3_stmt *statement, struct store_snapshot *out)
{
    const char *name = (const char *)sqlite3_column_text(statement, 3);
    ENSURE(name, NO_MEMORY);
    *out = (struct store_snapshot){
        .name = name,
        .version = (uint64_t)sqlite3_column_int64(statement, 1),
        .created = (uint64_t)sqlite3_column_int64(statement, 2),
        .blob = span_of(sqlite3_column_blob(statement, 0), (size_t)sqlite3_column_bytes(statement, 0))};
    return OK;
}

struct err store_each_snapshot(struct store *store, const struct instance_id *id, void *ctx,
                               struct err (*fn)(void *ctx, const struct store_snapshot *snapshot))
{
    sqlite3_stmt *statement = ready_id(store, EACH_SNAPSHOT, id);
    struct err result = OK;
    while (!result.code) {
        bool found = false;
        TRY(fetch(store, statement, &found));
        if (!found) return OK;
        struct store_snapshot current;
        result = snapshot_from(statement, &current);
        if (!result.code) result = fn(ctx, &current);
    }
    (void)sqlite3_reset(statement);
    return result;
}

struct err store_snapshot_delete(struct store *store, const struct instance_id *id, const char *name)
{
    TRY(run(store, ready_snapshot(store, DROP_SNAPSHOT, id, name)));
    ENSURE(sqlite3_changes(store->db) == 1, NO_SNAPSHOT);
    return OK;
}

/* --- settings and processes --------------------------------------------------------------------------------------- */

struct err store_read_settings(struct store *store, const struct instance_id *id, char **out_json)
{
    uint8_t *text = NULL;
    size_t size = 0;
    TRY(read_one(store, ready_id(store, GET_SETTINGS, id), FAIL(NO_INSTANCE), &text, &size));
    *out_json = (char *)text;
    return OK;
}

struct err store_write_settings(struct store *store, const struct instance_id *id, const char *json)
{
    sqlite3_stmt *statement = ready_id(store, PUT_SETTINGS, id);
    (void)sqlite3_bind_text(statement, 2, json, -1, SQLITE_STATIC);
    return run(store, statement);
}

struct err store_read_process(struct store *store, const struct instance_id *id, struct store_process *out)
{
    bool found = false;
    sqlite3_stmt *statement = ready_id(store, GET_PROCESS, id);
    TRY(fetch(store, statement, &found));
    ENSURE(found, NO_INSTANCE);
    const char *boot_id = (const char *)sqlite3_column_text(statement, 0);
    (void)snprintf(out->boot_id, sizeof out->boot_id, "%s", boot_id ? boot_id : "");
    out->pid = (pid_t)sqlite3_column_int64(statement, 1);
    out->start_time = (uint64_t)sqlite3_column_int64(statement, 2);
    (void)sqlite3_reset(statement);
    return OK;
}

struct err store_write_process(struct store *store, const struct instance_id *id, const struct store_process *process)
{
    sqlite3_stmt *statement = ready_id(store, PUT_PROCESS, id);
    (void)sqlite3_bind_text(statement, 2, process->boot_id, -1, SQLITE_STATIC);
    (void)sqlite3_bind_int64(statement, 3, process->pid);
    (void)sqlite3_bind_int64(statement, 4, (int64_t)process->start_time);
    return run(store, statement);
}

struct err store_forget(struct store *store, const struct instance_id *id)
{
    TRY(run(store, ready_id(store, DROP_SETTINGS, id)));
    return run(store, ready_id(store, DROP_PROCESS, id));
}
