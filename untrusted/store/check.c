#include "untrusted/store/check.h"

#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "abi/blob.h"
#include "base/bytes.h"
#include "link/recovery.h"
#include "untrusted/store/store.h"

#define ROWS_A_STEP    64
#define IDS_A_STEP     256
#define SIZE_OF_HEADER "128" /* BLOB_HEADER_SIZE, in SQL */
#define LABEL_MAX      63u

const char store_cure_whole[] = "vtpmd refuses the store as it is: put a whole backup in its place";
const char store_cure_state[] =
    "this instance does not start, the others do: put a whole backup in the store's place, or delete the instance";
static const char cure_row[] =
    "vtpmd refuses the store if the row is not the sealed one: put a whole backup in its place";
static const char cure_harmless[] = "nothing uses it: no instance is harmed";

enum phase { OF_FILE, OF_PAGES, OF_META, OF_ROWS, OF_STATES, OF_SNAPSHOTS, OF_SETTINGS, OF_DONE };

struct header {
    uint16_t format, kind;
    uint32_t size;
    struct instance_id id;
    uint64_t epoch, version, number;
    uint8_t manager[32];
};

struct store_check {
    sqlite3 *db;
    bool alone;
    bool has_snapshots; /* not in schema 1 */
    int64_t last_snapshot;
    struct store_check_listener listener;
    struct store_checked checked;
    enum phase phase;
    size_t page_table; /* the next one whose pages are checked */
    struct header head;
    bool has_head;
    int64_t last_slot;
    struct instance_id *ids; /* of the rows; sorted once all are there */
    size_t id_count, id_capacity;
    uint8_t last_id[INSTANCE_ID_SIZE];
    bool has_last_id;
    uint64_t done, all;
};

/* --- findings ------------------------------------------------------------------------------------------------------
 */

static void make_printable(char *text)
{
    for (; *text; text++)
        if (*text < 0x20 || *text > 0x7e) *text = '?';
}

static void tell(struct store_check *c, const char *subject, const char *cure, const char *format, va_list arguments)
{
    struct store_finding finding = {.cure = cure};
    (void)snprintf(finding.subject, sizeof finding.subject, "%s", subject);
    (void)vsnprintf(finding.fault, sizeof finding.fault, format, arguments);
    make_printable(finding.subject);
    make_printable(finding.fault);
    c->checked.findings++;
    c->listener.found(c->listener.ctx, &finding);
}

void store_check_tell(struct store_check *check, const char *subject, const char *cure, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    tell(check, subject, cure, format, arguments);
    va_end(arguments);
}

static void tell_unreadable(struct store_check *c, const char *what)
{
    store_check_tell(c, "the store", store_cure_whole, "%s cannot be read: %s", what, sqlite3_errmsg(c->db));
}

/* --- SQL -----------------------------------------------------------------------------------------------------------
 */

static void close_statement(sqlite3_stmt **statement)
{
    (void)sqlite3_finalize(*statement);
}

/* NULL: told already. */
static sqlite3_stmt *prepare(struct store_check *c, const char *sql, const char *what)
{
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(c->db, sql, -1, &statement, NULL) == SQLITE_OK) return statement;
    tell_unreadable(c, what);
    return NULL;
}

static int64_t number_of(struct store_check *c, const char *sql)
{
    sqlite3_stmt *statement DEFER(close_statement) = NULL;
    if (sqlite3_prepare_v2(c->db, sql, -1, &statement, NULL) != SQLITE_OK) return -1;
    return sqlite3_step(statement) == SQLITE_ROW ? sqlite3_column_int64(statement, 0) : -1;
}

static struct span column(sqlite3_stmt *statement, int index)
{
    const void *bytes = sqlite3_column_blob(statement, index);
    return span_of(bytes, (size_t)sqlite3_column_bytes(statement, index));
}

/* --- the file ------------------------------------------------------------------------------------------------------
 */

static void check_file(struct store_check *c)
{
    int64_t application = number_of(c, "PRAGMA application_id");
    int64_t schema = number_of(c, "PRAGMA user_version");
    c->phase = OF_DONE;
    if (application < 0)
        tell_unreadable(c, "the file");
    else if (application != STORE_APPLICATION_ID)
        store_check_tell(c, "the store", "name the vtpm.db of a state directory",
                         "the application id is %#llx: this is not a store of vtpmd", (long long)application);
    else if (schema > STORE_SCHEMA_VERSION)
        store_check_tell(c, "the store", "use the vtpmd and vtpmctl of the release that wrote it, or a later one",
                         "its schema is of version %lld, and this release knows version %d", (long long)schema,
                         STORE_SCHEMA_VERSION);
    else if (schema < 1)
        store_check_tell(c, "the store", store_cure_whole, "its schema is of version %lld, which was never released",
                         (long long)schema);
    else
        c->phase = OF_PAGES;
    c->has_snapshots = schema > 1;
}

static void check_pages(struct store_check *c)
{
    static const char *const tables[] = {"(meta)", "(rows)", "(states)", "(settings)", "(processes)", "(snapshots)"};
    const size_t count = c->alone ? 1 : sizeof tables / sizeof tables[0] - !c->has_snapshots;
    char sql[64];
    (void)snprintf(sql, sizeof sql, "PRAGMA integrity_check%s", c->alone ? "(1000)" : tables[c->page_table]);
    sqlite3_stmt *statement DEFER(close_statement) = prepare(c, sql, "the database");
    int code = statement ? SQLITE_ROW : SQLITE_DONE;
    while (statement && (code = sqlite3_step(statement)) == SQLITE_ROW) {
        const char *said = (const char *)sqlite3_column_text(statement, 0);
        if (said && strcmp(said, "ok") != 0)
            store_check_tell(c, "the store", store_cure_whole, "SQLite's integrity check says: %s", said);
    }
    if (code != SQLITE_DONE) tell_unreadable(c, "the database");
    if (++c->page_table == count) c->phase = OF_META;
}

/* --- headers -------------------------------------------------------------------------------------------------------
 */

static struct err read_header(struct span bytes, struct header *h)
{
    struct reader r = reader_of(bytes);
    struct span skipped;
    TRY(read_span(&r, BLOB_MAGIC_SIZE, &skipped));
    TRY(read_u16(&r, &h->format));
    TRY(read_u16(&r, &h->kind));
    TRY(read_u32(&r, &h->size));
    TRY(read_bytes(&r, h->id.bytes, sizeof h->id.bytes));
    TRY(read_u64(&r, &h->epoch));
    TRY(read_u64(&r, &h->version));
    TRY(read_u64(&r, &h->number));
    TRY(read_span(&r, 8, &skipped));
    return read_bytes(&r, h->manager, sizeof h->manager);
}

/* What is said of a blob: whose, and what is to be done if it is wrong. */
struct about {
    const char *subject, *record, *cure;
};

/* start: the header's bytes, as far as they are there; size: of the whole blob. */
static bool check_blob(struct store_check *c, const struct about *about, enum blob_kind kind, struct span start,
                       int64_t size, struct header *out_header)
{
    const uint32_t around = BLOB_HEADER_SIZE + BLOB_TAG_SIZE + (kind == BLOB_MASTER ? BLOB_KEYREQUEST_SIZE : 0);
    const char *fault = NULL;
    struct header h;
    if (start.size < BLOB_MAGIC_SIZE || memcmp(start.data, BLOB_MAGIC, BLOB_MAGIC_SIZE) != 0)
        fault = "is no sealed record: it does not begin as one";
    else if (size < (int64_t)around || read_header(start, &h).code)
        fault = "is cut off: it is shorter than a header";
    else if (h.format != BLOB_FORMAT)
        fault = "has a format that this release does not read";
    else if (h.kind != kind)
        fault = "is a record of another kind";
    else if (size != (int64_t)around + h.size)
        fault = "is cut off or has bytes added: its header says another size";
    if (fault) {
        store_check_tell(c, about->subject, about->cure, "%s %s", about->record, fault);
        return false;
    }
    *out_header = h;
    return true;
}

/* The size that the header says, if it is there and the blob is not smaller. */
static int64_t first_size(struct span start, int64_t size)
{
    struct header h;
    if (read_header(start, &h).code) return size;
    const int64_t first = (int64_t)BLOB_HEADER_SIZE + h.size + BLOB_TAG_SIZE;
    return first < size ? first : size;
}

/* What lies behind a sealed state: nothing else than its volatile part, whole. bytes_sql: of a row number, from an offset. */
static void check_behind(struct store_check *c, const struct about *state, const struct header *of_state,
                         const char *bytes_sql, int64_t row, int64_t offset, int64_t size)
{
    char record[sizeof(((struct store_finding *)0)->fault)];
    struct header h;
    (void)snprintf(record, sizeof record, "what lies behind %s", state->record);
    const struct about about = {state->subject, record, state->cure};
    sqlite3_stmt *statement DEFER(close_statement) = prepare(c, bytes_sql, record);
    if (!statement) return;
    (void)sqlite3_bind_int64(statement, 1, offset + 1);
    (void)sqlite3_bind_int64(statement, 2, row);
    if (sqlite3_step(statement) != SQLITE_ROW)
        tell_unreadable(c, record);
    else if (check_blob(c, &about, BLOB_VOLATILE, column(statement, 0), size - offset, &h) &&
             memcmp(&h.id, &of_state->id, sizeof h.id) != 0)
        store_check_tell(c, state->subject, state->cure, "%s is of another instance", record);
}

/* What is stored as one: a state, and its volatile part if there is one. */
static bool check_sealed(struct store_check *c, const struct about *about, struct span start, int64_t size,
                         const char *bytes_sql, int64_t row, struct header *out_header)
{
    const int64_t first = first_size(start, size);
    if (!check_blob(c, about, BLOB_STATE, start, first, out_header)) return false;
    if (first < size) check_behind(c, about, out_header, bytes_sql, row, first, size);
    return true;
}

/* --- head and master -----------------------------------------------------------------------------------------------
 */

static bool read_meta(struct store_check *c, const char *name, const char *record, enum blob_kind kind, bool silently,
                      struct header *out_header)
{
    static const char sql[] = "SELECT substr(value, 1, " SIZE_OF_HEADER
                              "), length(value) FROM meta WHERE name = ? AND typeof(value) = 'blob'";
    sqlite3_stmt *statement DEFER(close_statement) = NULL;
    bool fine = sqlite3_prepare_v2(c->db, sql, -1, &statement, NULL) == SQLITE_OK;
    if (fine) (void)sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
    int code = fine ? sqlite3_step(statement) : SQLITE_ERROR;
    if (code == SQLITE_ROW) {
        const struct about about = {"the store", record, store_cure_whole};
        return check_blob(c, &about, kind, column(statement, 0), sqlite3_column_int64(statement, 1), out_header);
    }
    if (silently) return false;
    if (code == SQLITE_DONE)
        store_check_tell(c, "the store", store_cure_whole, "%s is missing", record);
    else
        tell_unreadable(c, record);
    return false;
}

/* It is for the worst day, when nobody can put it right any more. */
static void check_recovery(struct store_check *c)
{
    static const char sql[] = "SELECT value FROM meta WHERE name = 'recovery'";
    static const char cure[] = "its holders cannot bring the trust domain back with this store: keep the file "
                               "recovery-record of vtpmd --init, and a backup that has no such finding";
    sqlite3_stmt *statement DEFER(close_statement) = NULL;
    struct recovery_record record;
    int code =
        sqlite3_prepare_v2(c->db, sql, -1, &statement, NULL) == SQLITE_OK ? sqlite3_step(statement) : SQLITE_ERROR;
    if (code == SQLITE_DONE) return;
    if (code != SQLITE_ROW) {
        tell_unreadable(c, "the recovery record");
        return;
    }
    const struct span bytes = span_of(sqlite3_column_blob(statement, 0), (size_t)sqlite3_column_bytes(statement, 0));
    if (recovery_parse(bytes, &record).code)
        store_check_tell(c, "the store", cure, "the recovery record is damaged");
    else if (c->has_head && memcmp(&record.domain, &c->head.id, sizeof record.domain) != 0)
        store_check_tell(c, "the store", cure, "the recovery record is of another trust domain");
}

static void check_meta(struct store_check *c)
{
    struct header master;
    bool has_master = read_meta(c, "master", "the master secret", BLOB_MASTER, false, &master);
    c->has_head = read_meta(c, "head", "the ledger's head", BLOB_LEDGER_HEAD, false, &c->head);
    c->phase = OF_ROWS;
    check_recovery(c);
    if (!has_master || !c->has_head) return;
    if (memcmp(&master.id, &c->head.id, sizeof master.id) != 0)
        store_check_tell(c, "the store", store_cure_whole,
                         "the ledger's head and the master secret are of two trust domains");
    if (memcmp(master.manager, c->head.manager, sizeof master.manager) != 0)
        store_check_tell(c, "the store", store_cure_whole,
                         "the ledger's head and the master secret were sealed by two manager images");
}

/* --- rows ----------------------------------------------------------------------------------------------------------
 */

static const char rows_sql[] = "SELECT r.slot, r.id, r.version, substr(r.blob, 1, " SIZE_OF_HEADER
                               "), length(r.blob), s.id IS NOT NULL, s.version,"
                               " substr(s.blob, 1, " SIZE_OF_HEADER "), length(s.blob),"
                               " CASE WHEN json_valid(t.json) THEN json_extract(t.json, '$.label') END, s.rowid "
                               "FROM rows r LEFT JOIN states s ON s.id = r.id LEFT JOIN settings t ON t.id = r.id "
                               "WHERE r.slot > ? ORDER BY r.slot LIMIT ?";

enum column { SLOT, ID, VERSION, ROW, ROW_SIZE, HAS_STATE, STATE_VERSION, STATE, STATE_SIZE, LABEL, STATE_ROW };

struct subject {
    struct instance_id id;
    char text[sizeof(((struct store_finding *)0)->subject)];
};

static bool is_label(const char *text)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t size = text ? strlen(text) : 0;
    return size > 0 && size <= LABEL_MAX && strspn(text, allowed) == size;
}

static void name_subject(const char *label, struct subject *out)
{
    char id[ID_TEXT_SIZE];
    id_format(&out->id, id);
    if (is_label(label))
        (void)snprintf(out->text, sizeof out->text, "%s (%s)", label, id);
    else
        (void)snprintf(out->text, sizeof out->text, "%s", id);
}

static struct err keep_id(struct store_check *c, const struct instance_id *id)
{
    if (c->id_count == c->id_capacity) {
        size_t capacity = c->id_capacity ? 2 * c->id_capacity : 256;
        struct instance_id *ids = realloc(c->ids, capacity * sizeof *ids);
        ENSURE(ids, NO_MEMORY);
        c->ids = ids;
        c->id_capacity = capacity;
    }
    c->ids[c->id_count++] = *id;
    return OK;
}

static void check_slot(struct store_check *c, int64_t slot)
{
    if (slot != c->last_slot + 1) {
        char subject[64];
        (void)snprintf(subject, sizeof subject, "slot %lld", (long long)c->last_slot + 1);
        store_check_tell(c, subject, store_cure_whole, "%llu rows of the ledger are missing before slot %lld",
                         (unsigned long long)(slot - c->last_slot - 1), (long long)slot);
    }
    c->last_slot = slot;
}

static void note_manager(struct store_check *c, const struct header *h)
{
    if (c->has_head && memcmp(h->manager, c->head.manager, sizeof h->manager) != 0) c->checked.other_manager++;
}

static void check_row_blob(struct store_check *c, sqlite3_stmt *row, const struct subject *subject, struct header *h,
                           bool *out_fine)
{
    const struct about about = {subject->text, "its row", cure_row};
    *out_fine = check_blob(c, &about, BLOB_LEDGER_ROW, column(row, ROW), sqlite3_column_int64(row, ROW_SIZE), h);
    if (!*out_fine) return;
    note_manager(c, h);
    if (memcmp(&h->id, &subject->id, sizeof h->id) != 0)
        store_check_tell(c, subject->text, store_cure_whole, "its row is the row of another instance");
    if (h->number != (uint64_t)sqlite3_column_int64(row, SLOT))
        store_check_tell(c, subject->text, store_cure_whole, "its row was made for slot %llu and lies in slot %lld",
                         (unsigned long long)h->number, (long long)sqlite3_column_int64(row, SLOT));
    if (c->has_head && h->version > c->head.version)
        store_check_tell(c, subject->text, store_cure_whole,
                         "its row is of ledger version %llu, and the ledger's head of the older version %llu",
                         (unsigned long long)h->version, (unsigned long long)c->head.version);
}

static void check_versions(struct store_check *c, const char *subject, int64_t row, int64_t state)
{
    if (state < row)
        store_check_tell(c, subject, store_cure_state,
                         "its state is older than its row: version %lld, and the row names %lld", (long long)state,
                         (long long)row);
    if (state > row)
        store_check_tell(c, subject, store_cure_state,
                         "its row is older than its state: it names version %lld, and the state has %lld",
                         (long long)row, (long long)state);
}

static void check_state(struct store_check *c, sqlite3_stmt *row, const struct subject *subject,
                        const struct header *of_row)
{
    const int64_t version = sqlite3_column_int64(row, VERSION);
    const int64_t stored = sqlite3_column_int64(row, STATE_VERSION);
    static const char bytes_sql[] = "SELECT substr(blob, ?, " SIZE_OF_HEADER ") FROM states WHERE rowid = ?";
    const struct about about = {subject->text, "its state", store_cure_state};
    struct header h;
    if (!sqlite3_column_int(row, HAS_STATE)) {
        if (version > 0)
            store_check_tell(c, subject->text, store_cure_state, "its state is missing: the row names version %lld",
                             (long long)version);
        return;
    }
    c->checked.states++;
    if (version == 0)
        store_check_tell(c, subject->text, cure_harmless, "there is a state, and its row says that it has none");
    else
        check_versions(c, subject->text, version, stored);
    if (!check_sealed(c, &about, column(row, STATE), sqlite3_column_int64(row, STATE_SIZE), bytes_sql,
                      sqlite3_column_int64(row, STATE_ROW), &h))
        return;
    note_manager(c, &h);
    if (memcmp(&h.id, &subject->id, sizeof h.id) != 0)
        store_check_tell(c, subject->text, store_cure_state, "its state is the state of another instance");
    if (h.version > (uint64_t)stored) /* lower: an older one was put back on purpose */
        store_check_tell(c, subject->text, store_cure_state,
                         "its state says that it is version %llu, and lies there as %lld",
                         (unsigned long long)h.version, (long long)stored);
    if (of_row && h.epoch > of_row->epoch)
        store_check_tell(c, subject->text, store_cure_whole,
                         "its row is older than its state: epoch %llu, and the state has %llu",
                         (unsigned long long)of_row->epoch, (unsigned long long)h.epoch);
}

static struct err check_row(struct store_check *c, sqlite3_stmt *row)
{
    const int64_t slot = sqlite3_column_int64(row, SLOT);
    struct subject subject;
    struct header h;
    bool fine = false;
    c->done++;
    c->checked.rows++;
    check_slot(c, slot);
    const struct span id = column(row, ID);
    if (id.size != sizeof subject.id.bytes) {
        (void)snprintf(subject.text, sizeof subject.text, "slot %lld", (long long)slot);
        store_check_tell(c, subject.text, store_cure_whole, "its row has no instance's id");
        return OK;
    }
    memcpy(subject.id.bytes, id.data, id.size);
    name_subject((const char *)sqlite3_column_text(row, LABEL), &subject);
    check_row_blob(c, row, &subject, &h, &fine);
    check_state(c, row, &subject, fine ? &h : NULL);
    return keep_id(c, &subject.id);
}

static int compare_ids(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct instance_id));
}

static void end_rows(struct store_check *c)
{
    if (c->id_count) qsort(c->ids, c->id_count, sizeof *c->ids, compare_ids);
    for (size_t i = 1; i < c->id_count; i++) {
        char id[ID_TEXT_SIZE];
        if (compare_ids(&c->ids[i - 1], &c->ids[i]) != 0) continue;
        id_format(&c->ids[i], id);
        store_check_tell(c, id, store_cure_whole, "two rows of the ledger have this id");
    }
    c->phase = OF_STATES;
}

static struct err check_rows(struct store_check *c)
{
    int code = SQLITE_ROW;
    int taken = 0;
    /* As of this slice: rows are never newer than the head they were stored with. */
    if (c->has_head) c->has_head = read_meta(c, "head", "the ledger's head", BLOB_LEDGER_HEAD, true, &c->head);
    sqlite3_stmt *statement DEFER(close_statement) = prepare(c, rows_sql, "the ledger's rows");
    c->phase = OF_DONE; /* without the rows nothing can be said of the rest */
    if (!statement) return OK;
    (void)sqlite3_bind_int64(statement, 1, c->last_slot);
    (void)sqlite3_bind_int(statement, 2, ROWS_A_STEP);
    for (; (code = sqlite3_step(statement)) == SQLITE_ROW; taken++)
        TRY(check_row(c, statement));
    if (code != SQLITE_DONE)
        tell_unreadable(c, "the ledger's rows and their states");
    else if (taken == ROWS_A_STEP)
        c->phase = OF_ROWS;
    else
        end_rows(c);
    return OK;
}

/* --- what has no row -----------------------------------------------------------------------------------------------
 */

/* A row that was made since the rows were read lies behind them. */
static bool has_newer_row(struct store_check *c, const struct instance_id *id)
{
    sqlite3_stmt *statement DEFER(close_statement) = NULL;
    if (sqlite3_prepare_v2(c->db, "SELECT 1 FROM rows WHERE slot > ? AND id = ?", -1, &statement, NULL) != SQLITE_OK)
        return false;
    (void)sqlite3_bind_int64(statement, 1, c->last_slot);
    (void)sqlite3_bind_blob(statement, 2, id->bytes, sizeof id->bytes, SQLITE_STATIC);
    return sqlite3_step(statement) == SQLITE_ROW;
}

static bool has_row(struct store_check *c, const struct instance_id *id)
{
    return (c->id_count && bsearch(id, c->ids, c->id_count, sizeof *c->ids, compare_ids)) || has_newer_row(c, id);
}

static void check_orphan(struct store_check *c, struct span bytes, const char *what)
{
    struct instance_id id;
    char text[ID_TEXT_SIZE];
    c->done++;
    memcpy(id.bytes, bytes.data, bytes.size);
    memcpy(c->last_id, id.bytes, sizeof c->last_id);
    if (has_row(c, &id)) return;
    id_format(&id, text);
    store_check_tell(c, text, cure_harmless, "there are %s of it, and the ledger has no row of it", what);
}

static void check_orphans(struct store_check *c, const char *sql, const char *what, enum phase next)
{
    int code = SQLITE_ROW;
    int taken = 0;
    sqlite3_stmt *statement DEFER(close_statement) = prepare(c, sql, what);
    if (!statement) {
        c->phase = next;
        return;
    }
    (void)sqlite3_bind_blob(statement, 1, c->last_id, c->has_last_id ? (int)sizeof c->last_id : 0, SQLITE_STATIC);
    (void)sqlite3_bind_int(statement, 2, IDS_A_STEP);
    for (; (code = sqlite3_step(statement)) == SQLITE_ROW; taken++)
        check_orphan(c, column(statement, 0), what);
    if (code != SQLITE_DONE) tell_unreadable(c, what);
    c->has_last_id = code == SQLITE_DONE && taken == IDS_A_STEP;
    if (!c->has_last_id) c->phase = next;
}

/* --- snapshots -----------------------------------------------------------------------------------------------------
 */

static const char snapshots_sql[] =
    "SELECT n.rowid, n.id, n.name, n.version, substr(n.sealed, 1, " SIZE_OF_HEADER "), length(n.sealed),"
    " CASE WHEN json_valid(t.json) THEN json_extract(t.json, '$.label') END "
    "FROM snapshots n LEFT JOIN settings t ON t.id = n.id WHERE n.rowid > ? ORDER BY n.rowid LIMIT ?";

enum snapshot_column { NUMBER, OF_ID, NAME, OF_VERSION, SEALED, SEALED_SIZE, OF_LABEL };

static void check_snapshot(struct store_check *c, sqlite3_stmt *row)
{
    static const char cure[] = "this snapshot cannot be gone back to: delete it";
    static const char bytes_sql[] = "SELECT substr(sealed, ?, " SIZE_OF_HEADER ") FROM snapshots WHERE rowid = ?";
    const char *name = (const char *)sqlite3_column_text(row, NAME);
    const int64_t version = sqlite3_column_int64(row, OF_VERSION);
    const struct span id = column(row, OF_ID);
    struct subject subject;
    struct header h;
    char record[LABEL_MAX + 32];
    c->done++;
    c->last_snapshot = sqlite3_column_int64(row, NUMBER);
    c->checked.snapshots++;
    (void)snprintf(record, sizeof record, "its snapshot %.*s", (int)LABEL_MAX, name ? name : "");
    if (id.size != sizeof subject.id.bytes) {
        store_check_tell(c, "the store", cure_harmless, "there is a snapshot, %s, without an instance's id", record);
        return;
    }
    memcpy(subject.id.bytes, id.data, id.size);
    name_subject((const char *)sqlite3_column_text(row, OF_LABEL), &subject);
    if (!has_row(c, &subject.id))
        store_check_tell(c, subject.text, cure_harmless, "there is %s, and the ledger has no row of it", record);
    const struct about about = {subject.text, record, cure};
    if (!check_sealed(c, &about, column(row, SEALED), sqlite3_column_int64(row, SEALED_SIZE), bytes_sql,
                      c->last_snapshot, &h))
        return;
    if (memcmp(&h.id, &subject.id, sizeof h.id) != 0)
        store_check_tell(c, subject.text, cure, "%s is the state of another instance", record);
    if (h.version > (uint64_t)version)
        store_check_tell(c, subject.text, cure, "%s says that it is version %llu, and lies there as %lld", record,
                         (unsigned long long)h.version, (long long)version);
}

static void check_snapshots(struct store_check *c)
{
    int code = SQLITE_ROW;
    int taken = 0;
    sqlite3_stmt *statement DEFER(close_statement) =
        c->has_snapshots ? prepare(c, snapshots_sql, "the snapshots") : NULL;
    c->phase = OF_SETTINGS;
    if (!statement) return;
    (void)sqlite3_bind_int64(statement, 1, c->last_snapshot);
    (void)sqlite3_bind_int(statement, 2, ROWS_A_STEP);
    for (; (code = sqlite3_step(statement)) == SQLITE_ROW; taken++)
        check_snapshot(c, statement);
    if (code != SQLITE_DONE)
        tell_unreadable(c, "the snapshots");
    else if (taken == ROWS_A_STEP)
        c->phase = OF_SNAPSHOTS;
}

/* --- the whole -----------------------------------------------------------------------------------------------------
 */

struct err store_check_open(struct sqlite3 *db, bool alone, const struct store_check_listener *listener,
                            struct store_check **out_check)
{
    struct store_check *c = calloc(1, sizeof *c);
    ENSURE(c, NO_MEMORY);
    *c = (struct store_check){.db = db, .alone = alone, .listener = *listener, .last_slot = -1};
    *out_check = c;
    return OK;
}

struct err store_check_step(struct store_check *check, bool *out_done)
{
    static const char states[] = "SELECT id FROM states WHERE id > ? AND length(id) = 16 ORDER BY id LIMIT ?";
    static const char settings[] = "SELECT id FROM settings WHERE id > ? AND length(id) = 16 ORDER BY id LIMIT ?";
    switch (check->phase) {
    case OF_FILE:
        check_file(check);
        break;
    case OF_PAGES:
        check_pages(check);
        break;
    case OF_META:
        check_meta(check);
        int64_t all = number_of(check, "SELECT (SELECT count(*) FROM rows) + (SELECT count(*) FROM states) +"
                                       " (SELECT count(*) FROM settings)");
        if (check->has_snapshots) all += number_of(check, "SELECT count(*) FROM snapshots");
        check->all = all > 0 ? (uint64_t)all : 0;
        break;
    case OF_ROWS:
        TRY(check_rows(check));
        break;
    case OF_STATES:
        check_orphans(check, states, "states", OF_SNAPSHOTS);
        break;
    case OF_SNAPSHOTS:
        check_snapshots(check);
        break;
    case OF_SETTINGS:
        check_orphans(check, settings, "settings", OF_DONE);
        break;
    case OF_DONE:
        break;
    }
    *out_done = check->phase == OF_DONE;
    return OK;
}

void store_check_progress(const struct store_check *check, uint64_t *out_done, uint64_t *out_all)
{
    *out_all = check->all > check->done ? check->all : check->done;
    *out_done = check->done;
}

const struct store_checked *store_checked(const struct store_check *check)
{
    return &check->checked;
}

void store_check_close(struct store_check **check)
{
    if (!*check) return;
    free((*check)->ids);
    free(*check);
    *check = NULL;
}
