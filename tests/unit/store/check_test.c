#include "tests/fakes/assertions.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "abi/blob.h"
#include "base/bytes.h"
#include "link/recovery.h"
#include "untrusted/store/backup.h"
#include "untrusted/store/check.h"
#include "untrusted/store/store.h"
#include "untrusted/store/view.h"

#define PLAIN_SIZE 300u /* of what a record would hold */
#define SEALED_MAX (BLOB_HEADER_SIZE + BLOB_KEYREQUEST_SIZE + PLAIN_SIZE + BLOB_TAG_SIZE)

static char directory[64];
static char file[80];
static char copy[80];
static struct store *store;

static int make(void **state)
{
    (void)state;
    strcpy(directory, "/tmp/vtpm-check-XXXXXX");
    if (!mkdtemp(directory)) return -1;
    (void)snprintf(file, sizeof file, "%s/vtpm.db", directory);
    (void)snprintf(copy, sizeof copy, "%s/copy.db", directory);
    return store_init(directory).code || store_open(directory, &store).code;
}

static int unmake(void **state)
{
    (void)state;
    char command[100];
    store_close(&store);
    (void)snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

/* --- a store whose headers are right, and whose ciphertexts are none ------------------------------------------------ */

static struct instance_id id_of(uint32_t n)
{
    /* Not in the order of the slots */
    struct instance_id id = {{(uint8_t)(n * 167), (uint8_t)(n >> 8), (uint8_t)n}};
    return id;
}

static struct span record(uint8_t bytes[SEALED_MAX], enum blob_kind kind, uint32_t n, uint64_t version)
{
    const struct instance_id domain = {{0xD0}};
    const struct instance_id id = kind != BLOB_LEDGER_HEAD && kind != BLOB_MASTER ? id_of(n) : domain;
    struct writer w = writer_of(bytes, SEALED_MAX);
    uint8_t *zeros = NULL;
    assert_ok(write_bytes(&w, BLOB_MAGIC, BLOB_MAGIC_SIZE));
    assert_ok(write_u16(&w, BLOB_FORMAT));
    assert_ok(write_u16(&w, kind));
    assert_ok(write_u32(&w, PLAIN_SIZE));
    assert_ok(write_bytes(&w, id.bytes, sizeof id.bytes));
    assert_ok(write_u64(&w, 0));
    assert_ok(write_u64(&w, version));
    assert_ok(write_u64(&w, kind == BLOB_LEDGER_ROW ? n : 0));
    assert_ok(write_zeros(&w, BLOB_HEADER_SIZE - w.size, &zeros));
    assert_ok(write_zeros(&w, (kind == BLOB_MASTER ? BLOB_KEYREQUEST_SIZE : 0) + PLAIN_SIZE + BLOB_TAG_SIZE, &zeros));
    return writer_span(&w);
}

/* One commit of instance n, whose state then has that version; the ledger's is the sum of all. */
static void commit(uint32_t n, uint64_t version)
{
    static uint64_t ledger;
    static uint8_t bytes[4][SEALED_MAX];
    ledger++;
    const struct store_row row = {n, id_of(n), version, record(bytes[0], BLOB_LEDGER_ROW, n, ledger)};
    const struct store_state state = {
        .id = id_of(n), .version = version, .blob = record(bytes[1], BLOB_STATE, n, version)};
    const struct store_batch batch = {.head = record(bytes[2], BLOB_LEDGER_HEAD, 0, ledger),
                                      .master = record(bytes[3], BLOB_MASTER, 0, 0),
                                      .rows = &row,
                                      .row_count = 1,
                                      .states = &state,
                                      .state_count = version ? 1 : 0};
    assert_ok(store_commit(store, &batch));
}

static void sql(const char *text)
{
    assert_int_equal(sqlite3_exec(store_handle(store), text, NULL, NULL, NULL), SQLITE_OK);
}

/* Many commits in less time: nobody pulls the plug here. */
static void fill(uint32_t first, uint32_t end)
{
    sql("PRAGMA synchronous=OFF");
    for (uint32_t n = first; n < end; n++)
        commit(n, n % 3); /* every third one was never started */
}

/* --- the check ------------------------------------------------------------------------------------------------------ */

struct told {
    size_t count;
    struct store_finding first, last;
};

static void found(void *ctx, const struct store_finding *finding)
{
    struct told *told = ctx;
    if (told->count++ == 0) told->first = *finding;
    told->last = *finding;
}

/* between: done after each step, with the number of steps so far. */
static struct store_checked check(struct sqlite3 *db, struct told *told, void (*between)(unsigned steps))
{
    const struct store_check_listener listener = {told, found};
    struct store_check *checking = NULL;
    *told = (struct told){0};
    assert_ok(store_check_open(db, false, &listener, &checking));
    bool done = false;
    for (unsigned steps = 1; !done; steps++) {
        uint64_t checked = 0;
        uint64_t all = 0;
        assert_ok(store_check_step(checking, &done));
        store_check_progress(checking, &checked, &all);
        assert_true(checked <= all);
        assert_true(steps < 2000);
        if (between) between(steps);
    }
    struct store_checked result = *store_checked(checking);
    assert_int_equal(result.findings, told->count);
    store_check_close(&checking);
    return result;
}

static void finds(size_t count, const char *fault)
{
    struct told told;
    (void)check(store_handle(store), &told, NULL);
    if (told.count != count)
        fail_msg("%zu findings, the first: %s, the last: %s", told.count, told.first.fault, told.last.fault);
    if (fault && !strstr(told.first.fault, fault)) fail_msg("it says: %s", told.first.fault);
}

/* It is for the day when nothing else is left, so it is looked at before. */
static void the_recovery_record_is_looked_at(void **state)
{
    (void)state;
    static const uint8_t label[16] = "vtpm recovery v1";
    uint8_t bytes[RECOVERY_HEAD_SIZE + RECOVERY_HOLDER_SIZE + RECOVERY_MASTER_SIZE] = {0};
    fill(0, 2);
    finds(0, NULL);
    memcpy(bytes, label, sizeof label);
    bytes[16] = 0xD0; /* the domain of record() */
    bytes[32] = bytes[33] = 1;
    assert_ok(store_write_recovery(store, span_of(bytes, sizeof bytes)));
    finds(0, NULL);
    assert_ok(store_write_recovery(store, span_of(bytes, sizeof bytes - 1)));
    finds(1, "damaged");
    bytes[16] = 0xD1;
    assert_ok(store_write_recovery(store, span_of(bytes, sizeof bytes)));
    finds(1, "another trust domain");
}

static void snapshots_are_counted(void **state)
{
    (void)state;
    struct told told;
    const struct instance_id id = id_of(1);
    fill(0, 3);
    assert_ok(store_snapshot_take(store, &id, "one"));
    assert_ok(store_snapshot_take(store, &id, "two"));
    assert_int_equal(check(store_handle(store), &told, NULL).snapshots, 2);
}

static void an_empty_store_has_no_head_and_no_master(void **state)
{
    (void)state;
    finds(2, "the master secret is missing");
}

static void many_instances_are_clean(void **state)
{
    (void)state;
    struct told told;
    fill(0, 1000);
    struct store_checked checked = check(store_handle(store), &told, NULL);
    assert_int_equal(checked.rows, 1000);
    assert_int_equal(checked.states, 666);
    assert_int_equal(told.count, 0);
}

static void write_meanwhile(unsigned steps)
{
    commit(steps, 100 + steps);            /* one that was looked at, or will be */
    commit(1000 + steps, steps);           /* a new one */
    if (steps % 2) commit(998 - steps, 0); /* deleted */
    struct instance_id id = id_of(1000 + steps);
    assert_ok(store_write_settings(store, &id, "{\"label\":\"new\"}"));
}

static void what_is_written_meanwhile_is_not_called_wrong(void **state)
{
    (void)state;
    struct told told;
    fill(0, 1001);
    (void)check(store_handle(store), &told, write_meanwhile);
    if (told.count) fail_msg("%s: %s", told.first.subject, told.first.fault);
}

static void every_orphan_is_told(void **state)
{
    (void)state;
    fill(0, 1000);
    sql("DELETE FROM rows WHERE slot >= 200");
    finds(533, "states of it, and the ledger has no row");
    sql("DELETE FROM states; UPDATE rows SET version = 0");
    sql("INSERT INTO settings SELECT randomblob(16), '{' FROM (WITH RECURSIVE n(i) AS"
        " (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 700) SELECT i FROM n)");
    finds(700, "settings of it, and the ledger has no row");
}

static void slots_are_without_gap_and_ids_are_single(void **state)
{
    (void)state;
    fill(0, 10);
    sql("DELETE FROM rows WHERE slot = 0 OR slot = 3 OR slot = 6"); /* those have no states */
    finds(3, "1 rows of the ledger are missing before slot 1");
    sql("UPDATE rows SET id = (SELECT id FROM rows WHERE slot = 1) WHERE slot = 9");
    finds(6, NULL); /* the blob names another one, its state has another version, there are two of it */
    sql("UPDATE rows SET id = x'01' WHERE slot = 9");
    finds(4, NULL);
}

static void a_label_is_shown_if_it_is_one(void **state)
{
    (void)state;
    struct told told;
    const struct instance_id id = id_of(1);
    static const struct {
        const char *json, *subject;
    } cases[] = {
        {"{\"label\":\"web1\"}", "web1 (a7000100-0000-0000-0000-000000000000)"},
        {"{\"label\":\"\\u001b[2J\"}", "a7000100-0000-0000-0000-000000000000"},
        {"{\"label\":", "a7000100-0000-0000-0000-000000000000"},
        {"{\"label\":[1]}", "a7000100-0000-0000-0000-000000000000"},
    };
    fill(0, 2);
    sql("DELETE FROM states");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_ok(store_write_settings(store, &id, cases[i].json));
        (void)check(store_handle(store), &told, NULL);
        assert_int_equal(told.count, 1);
        assert_string_equal(told.first.subject, cases[i].subject);
    }
}

static void another_manager_is_counted_and_no_finding(void **state)
{
    (void)state;
    struct told told;
    fill(0, 3);
    sql("UPDATE states SET blob = CAST(substr(blob, 1, 64) || zeroblob(31) || x'01' || substr(blob, 97) AS BLOB)"
        " WHERE version = 2");
    struct store_checked checked = check(store_handle(store), &told, NULL);
    assert_int_equal(told.count, 0);
    assert_int_equal(checked.other_manager, 1);
    sql("UPDATE meta SET value = CAST(substr(value, 1, 64) || zeroblob(31) || x'01' || substr(value, 97) AS BLOB)"
        " WHERE name = 'master'");
    finds(1, "sealed by two manager images");
}

/* Stores it as the state of instance n, as it is. */
static void replace_state(uint32_t n, uint64_t version, struct span sealed)
{
    static uint8_t bytes[2][SEALED_MAX];
    const struct store_row row = {n, id_of(n), version, record(bytes[0], BLOB_LEDGER_ROW, n, 1)};
    const struct store_state state = {.id = id_of(n), .version = version, .blob = sealed};
    const struct store_batch batch = {.head = record(bytes[1], BLOB_LEDGER_HEAD, 0, UINT64_C(1) << 40),
                                      .rows = &row,
                                      .row_count = 1,
                                      .states = &state,
                                      .state_count = 1};
    assert_ok(store_commit(store, &batch));
}

static void a_state_may_be_older_than_its_row_but_not_newer(void **state)
{
    (void)state;
    uint8_t bytes[SEALED_MAX];
    fill(0, 3);
    replace_state(1, 9, record(bytes, BLOB_STATE, 1, 4));
    finds(0, NULL);
    replace_state(1, 9, record(bytes, BLOB_STATE, 1, 10));
    finds(1, "its state says that it is version 10, and lies there as 9");
}

/* A state of instance 1 and behind it size bytes of a record. */
static void replace_both(enum blob_kind kind, uint32_t of, size_t size)
{
    static uint8_t both[2 * SEALED_MAX];
    uint8_t bytes[SEALED_MAX];
    const struct span first = record(bytes, BLOB_STATE, 1, 5);
    memcpy(both, first.data, first.size);
    memcpy(both + first.size, record(bytes, kind, of, 5).data, size < SEALED_MAX ? size : SEALED_MAX);
    replace_state(1, 5, span_of(both, first.size + size));
}

static void behind_a_state_lies_its_volatile_part_or_nothing(void **state)
{
    (void)state;
    const size_t whole = BLOB_HEADER_SIZE + PLAIN_SIZE + BLOB_TAG_SIZE;
    static const struct {
        enum blob_kind kind;
        uint32_t of;
        int more;
        const char *fault;
    } cases[] = {
        {BLOB_VOLATILE, 1, 1, "what lies behind its state is cut off or has bytes added"},
        {BLOB_VOLATILE, 1, -1, "what lies behind its state is cut off or has bytes added"},
        {BLOB_STATE, 1, 0, "what lies behind its state is a record of another kind"},
        {BLOB_VOLATILE, 2, 0, "what lies behind its state is of another instance"},
    };
    const struct instance_id id = id_of(1);
    fill(0, 3);
    replace_both(BLOB_VOLATILE, 1, whole);
    assert_ok(store_snapshot_take(store, &id, "suspended"));
    finds(0, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        replace_both(cases[i].kind, cases[i].of, (size_t)((int)whole + cases[i].more));
        finds(1, cases[i].fault);
    }
    replace_both(BLOB_VOLATILE, 1, 3);
    finds(1, "what lies behind its state is no sealed record");
}

static void snapshots_are_checked_as_states_are(void **state)
{
    (void)state;
    static const struct {
        const char *change, *fault;
        size_t count;
    } cases[] = {
        {"UPDATE snapshots SET sealed = substr(sealed, 1, 200) WHERE name = 'n99'",
         "its snapshot n99 is cut off or has bytes added", 1},
        {"UPDATE snapshots SET sealed = (SELECT sealed FROM snapshots WHERE name = 'other'), version = 2 WHERE name = "
         "'n99'",
         "its snapshot n99 is the state of another instance", 1},
        {"UPDATE snapshots SET version = 0 WHERE name = 'n99'",
         "its snapshot n99 says that it is version 1, and lies there as 0", 1},
        {"UPDATE snapshots SET sealed = CAST(sealed || x'00' AS BLOB) WHERE name = 'n99'",
         "what lies behind its snapshot n99 is no sealed record", 1},
        {"UPDATE snapshots SET id = randomblob(16) WHERE name = 'n99'",
         "there is its snapshot n99, and the ledger has no row", 2},
        {"UPDATE snapshots SET id = x'01' WHERE name = 'n99'", "without an instance's id", 1},
        {"UPDATE snapshots SET version = 9 WHERE name = 'n99'", NULL, 0},
    };
    const struct instance_id one = id_of(1);
    const struct instance_id two = id_of(2);
    fill(0, 3);
    for (unsigned i = 0; i < 100; i++) { /* more than one slice */
        char name[8];
        (void)snprintf(name, sizeof name, "n%u", i);
        assert_ok(store_snapshot_take(store, &one, name));
    }
    assert_ok(store_snapshot_take(store, &two, "other"));
    finds(0, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sql("SAVEPOINT before");
        sql(cases[i].change);
        finds(cases[i].count, cases[i].fault);
        sql("ROLLBACK TO before; RELEASE before");
    }
}

static int count_call(void *ctx)
{
    ++*(uint64_t *)ctx;
    return 0;
}

static uint64_t work(void)
{
    uint64_t calls = 0;
    struct told told;
    sqlite3_progress_handler(store_handle(store), 100, count_call, &calls);
    (void)check(store_handle(store), &told, NULL);
    sqlite3_progress_handler(store_handle(store), 0, NULL, NULL);
    return calls;
}

static void ten_times_the_instances_are_ten_times_the_work(void **state)
{
    (void)state;
    fill(0, 1000);
    const uint64_t thousand = work();
    fill(1000, 10000);
    assert_true(thousand > 0 && work() < 15 * thousand);
    sql("DELETE FROM rows WHERE slot < 9000"); /* and if nothing is right */
    assert_true(work() < 15 * thousand);
}

/* --- the file ------------------------------------------------------------------------------------------------------- */

static void another_schema_is_refused_and_left_as_it_is(void **state)
{
    (void)state;
    static const struct {
        const char *change, *fault;
    } cases[] = {
        {"PRAGMA user_version=3", "of version 3, and this release knows version 2"},
        {"PRAGMA user_version=0", "of version 0, which was never released"},
        {"PRAGMA user_version=2; PRAGMA application_id=5", "this is not a store of vtpmd"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct store_view view;
        sqlite3 *db = NULL;
        struct told told;
        store_close(&store);
        assert_int_equal(sqlite3_open(file, &db), SQLITE_OK);
        assert_int_equal(sqlite3_exec(db, cases[i].change, NULL, NULL, NULL), SQLITE_OK);
        sqlite3_close(db);
        assert_err(store_open(directory, &store), STORE_FOREIGN);
        assert_ok(store_view_open(file, &view));
        (void)check(view.db, &told, NULL);
        assert_int_equal(told.count, 1);
        if (!strstr(told.first.fault, cases[i].fault)) fail_msg("it says: %s", told.first.fault);
        store_view_close(&view);
    }
}

static void a_store_of_schema_1_is_looked_at_as_it_is(void **state)
{
    (void)state;
    struct store_view view;
    sqlite3 *db = NULL;
    struct told told;
    fill(0, 3);
    store_close(&store);
    assert_int_equal(sqlite3_open(file, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "DROP TABLE snapshots; PRAGMA user_version=1", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_ok(store_view_open(file, &view));
    struct store_checked checked = check(view.db, &told, NULL);
    if (told.count) fail_msg("%s: %s", told.first.subject, told.first.fault);
    assert_int_equal(checked.rows, 3);
    store_view_close(&view);
}

static void a_view_is_of_a_store_that_nobody_has(void **state)
{
    (void)state;
    struct store_view view;
    struct told told;
    fill(0, 2);
    assert_err(store_view_open(copy, &view), STORE_MISSING);
    store_view_close(&view);
    assert_err(store_view_open(directory, &view), STORE_FOREIGN);
    store_view_close(&view);
    pid_t other = fork(); /* a process has no quarrel with its own locks */
    assert_true(other >= 0);
    if (other == 0) _exit(store_view_open(file, &view).code == ERR_STORE_BUSY ? 0 : 1);
    int status = 0;
    assert_int_equal(waitpid(other, &status, 0), other);
    assert_int_equal(status, 0);
    store_close(&store);
    assert_ok(store_view_open(file, &view));
    (void)check(view.db, &told, NULL);
    assert_int_equal(told.count, 0);
    assert_int_not_equal(sqlite3_exec(view.db, "DELETE FROM rows", NULL, NULL, NULL), SQLITE_OK);
    store_view_close(&view);
    assert_ok(store_open(directory, &store));
}

/* --- the copy ------------------------------------------------------------------------------------------------------- */

static void a_copy_has_what_was_committed_while_it_was_made(void **state)
{
    (void)state;
    struct store_backup *backup = NULL;
    struct store_view view;
    struct stat stat_of_copy;
    struct told told;
    fill(0, 300);
    const struct instance_id id = id_of(1);
    assert_ok(store_snapshot_take(store, &id, "a"));
    assert_ok(store_backup_open(store_handle(store), copy, &backup));
    unsigned steps = 0;
    for (bool done = false; !done; steps++) {
        uint64_t copied = 0;
        uint64_t all = 0;
        commit(steps, 50 + steps); /* in pages that were copied */
        commit(300 + steps, 1);    /* in new ones */
        assert_ok(store_backup_step(backup, 10, &done));
        store_backup_progress(backup, &copied, &all);
        assert_true(copied <= all);
    }
    store_backup_close(&backup);
    assert_true(steps > 5);
    assert_int_equal(stat(copy, &stat_of_copy), 0);
    assert_int_equal(stat_of_copy.st_mode & 0777, 0600);
    assert_ok(store_view_open(copy, &view));
    struct store_checked checked = check(view.db, &told, NULL);
    if (told.count) fail_msg("%s: %s", told.first.subject, told.first.fault);
    assert_int_equal(checked.rows, 300 + steps);
    sqlite3_stmt *snapshot = NULL;
    assert_int_equal(sqlite3_prepare_v2(view.db, "SELECT name FROM snapshots", -1, &snapshot, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(snapshot), SQLITE_ROW);
    assert_string_equal((const char *)sqlite3_column_text(snapshot, 0), "a");
    sqlite3_finalize(snapshot);
    store_view_close(&view);
}

static void a_copy_replaces_no_file(void **state)
{
    (void)state;
    struct store_backup *backup = NULL;
    fill(0, 1);
    assert_err(store_backup_open(store_handle(store), file, &backup), STORE_EXISTS);
    assert_null(backup);
    finds(0, NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make, unmake)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_empty_store_has_no_head_and_no_master),
        TEST(the_recovery_record_is_looked_at),
        TEST(snapshots_are_counted),
        TEST(many_instances_are_clean),
        TEST(what_is_written_meanwhile_is_not_called_wrong),
        TEST(every_orphan_is_told),
        TEST(slots_are_without_gap_and_ids_are_single),
        TEST(a_label_is_shown_if_it_is_one),
        TEST(a_state_may_be_older_than_its_row_but_not_newer),
        TEST(behind_a_state_lies_its_volatile_part_or_nothing),
        TEST(snapshots_are_checked_as_states_are),
        TEST(another_manager_is_counted_and_no_finding),
        TEST(ten_times_the_instances_are_ten_times_the_work),
        TEST(another_schema_is_refused_and_left_as_it_is),
        TEST(a_store_of_schema_1_is_looked_at_as_it_is),
        TEST(a_view_is_of_a_store_that_nobody_has),
        TEST(a_copy_has_what_was_committed_while_it_was_made),
        TEST(a_copy_replaces_no_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
