#include "tests/fakes/assertions.h"

#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "untrusted/store/store.h"

#define STATE_SIZE 20000u

static char directory[64];
static char file[80];

static int make_directory(void **state)
{
    (void)state;
    strcpy(directory, "/tmp/vtpm-store-XXXXXX");
    if (!mkdtemp(directory)) return -1;
    (void)snprintf(file, sizeof file, "%s/vtpm.db", directory);
    return 0;
}

static int remove_directory(void **state)
{
    (void)state;
    char command[100];
    (void)snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

static struct instance_id id_of(uint8_t n)
{
    struct instance_id id;
    memset(id.bytes, n, sizeof id.bytes);
    return id;
}

/* One commit of instance n: version v everywhere, in bytes that tell it. */
static struct err commit(struct store *store, uint8_t n, uint64_t version, size_t state_size)
{
    static uint8_t bytes[STATE_SIZE];
    uint8_t head[8];
    memcpy(head, &version, sizeof head);
    memset(bytes, (int)version, sizeof bytes);
    const struct store_row row = {n, id_of(n), version, span_of(head, sizeof head)};
    const struct store_state state = {.id = id_of(n), .version = version, .blob = span_of(bytes, state_size)};
    const struct store_batch batch = {.head = span_of(head, sizeof head),
                                      .rows = &row,
                                      .row_count = 1,
                                      .states = &state,
                                      .state_count = version ? 1 : 0};
    return store_commit(store, &batch);
}

static struct store *fresh(void)
{
    struct store *store = NULL;
    assert_ok(store_init(directory));
    assert_ok(store_open(directory, &store));
    return store;
}

static uint64_t head_of(struct store *store)
{
    uint8_t *head = NULL;
    size_t size = 0;
    uint64_t number = 0;
    assert_ok(store_read_head(store, &head, &size));
    assert_int_equal(size, sizeof number);
    memcpy(&number, head, sizeof number);
    free(head);
    return number;
}

static void assert_state(struct store *store, uint8_t n, uint64_t version, size_t wanted)
{
    const struct instance_id id = id_of(n);
    uint8_t *state = NULL;
    size_t size = 0;
    assert_ok(store_read_state(store, &id, version, &state, &size));
    assert_int_equal(size, wanted);
    for (size_t i = 0; i < size; i++)
        assert_int_equal(state[i], (uint8_t)version);
    free(state);
}

static void what_was_committed_reads_back_after_a_reopen(void **state)
{
    (void)state;
    struct store *store = fresh();
    const struct store_batch batch = {.head = span_of("\1\0\0\0\0\0\0\0", 8), .master = span_of("master", 6)};
    assert_ok(store_commit(store, &batch));
    assert_ok(commit(store, 3, 7, STATE_SIZE));
    store_close(&store);
    assert_null(store);
    assert_ok(store_open(directory, &store));
    uint8_t *master = NULL;
    size_t size = 0;
    assert_ok(store_read_master(store, &master, &size)); /* a batch without one leaves it */
    assert_memory_equal(master, "master", 6);
    free(master);
    assert_int_equal(head_of(store), 7);
    assert_state(store, 3, 7, STATE_SIZE);
    store_close(&store);
}

static void a_missing_store_is_said_to_be_missing(void **state)
{
    (void)state;
    struct store *store = NULL;
    assert_err(store_open(directory, &store), STORE_MISSING);
}

static void init_replaces_nothing(void **state)
{
    (void)state;
    struct store *store = fresh();
    assert_ok(commit(store, 1, 5, 10));
    store_close(&store);
    assert_err(store_init(directory), STORE_EXISTS);
    assert_ok(store_open(directory, &store));
    assert_int_equal(head_of(store), 5);
    store_close(&store);
}

static void an_init_that_was_cut_off_is_begun_anew(void **state)
{
    (void)state;
    char path[100];
    (void)snprintf(path, sizeof path, "%s.new", file);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_int_equal(write(fd, "half", 4), 4);
    close(fd);
    struct store *store = fresh();
    store_close(&store);
}

static void nobody_else_may_read_the_files(void **state)
{
    (void)state;
    static const char *const names[] = {"", "-wal"};
    struct store *store = fresh();
    assert_ok(commit(store, 1, 1, 10));
    for (size_t i = 0; i < 2; i++) {
        char path[100];
        struct stat status;
        (void)snprintf(path, sizeof path, "%s%s", file, names[i]);
        assert_int_equal(stat(path, &status), 0);
        assert_int_equal(status.st_mode & 0777, 0600);
    }
    store_close(&store);
}

static void a_second_process_is_refused(void **state)
{
    (void)state;
    struct store *store = fresh();
    pid_t child = fork();
    if (child == 0) {
        struct store *other = NULL;
        _exit(store_open(directory, &other).code == ERR_STORE_BUSY ? 0 : 1);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_ok(commit(store, 1, 1, 10));
    store_close(&store);
}

static void a_foreign_database_is_refused(void **state)
{
    (void)state;
    static const char *const changes[] = {"PRAGMA application_id=1", "PRAGMA user_version=3", "DROP TABLE states"};
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        sqlite3 *db = NULL;
        struct store *store = NULL;
        (void)unlink(file);
        assert_ok(store_init(directory));
        assert_int_equal(sqlite3_open(file, &db), SQLITE_OK);
        assert_int_equal(sqlite3_exec(db, changes[i], NULL, NULL, NULL), SQLITE_OK);
        sqlite3_close(db);
        assert_err(store_open(directory, &store), STORE_FOREIGN);
    }
}

static void a_file_that_is_no_database_is_refused(void **state)
{
    (void)state;
    struct store *store = NULL;
    char page[4096];
    memset(page, 'x', sizeof page);
    int fd = open(file, O_CREAT | O_WRONLY, 0600);
    assert_int_equal(write(fd, page, sizeof page), sizeof page);
    close(fd);
    assert_err(store_open(directory, &store), STORE_FOREIGN);
}

static void a_damaged_file_is_refused(void **state)
{
    (void)state;
    struct store *store = fresh();
    for (uint8_t n = 1; n < 60; n++)
        assert_ok(commit(store, n, n, 3000));
    store_close(&store);
    int fd = open(file, O_WRONLY);
    char garbage[3 * 4096];
    memset(garbage, 0xA5, sizeof garbage);
    assert_int_equal(pwrite(fd, garbage, sizeof garbage, 4096), sizeof garbage);
    close(fd);
    assert_err(store_open(directory, &store), STORE_FOREIGN);
}

static void a_state_without_its_row_is_not_stored(void **state)
{
    (void)state;
    struct store *store = fresh();
    assert_ok(commit(store, 1, 1, 10));
    const struct store_row row = {1, id_of(1), 2, span_of("row", 3)};
    const struct store_state wrong = {.id = id_of(1), .version = 3, .blob = span_of("state", 5)};
    const struct store_state other = {.id = id_of(2), .version = 2, .blob = span_of("state", 5)};
    struct store_batch batch = {
        .head = span_of("\2", 1), .rows = &row, .row_count = 1, .states = &wrong, .state_count = 1};
    assert_err(store_commit(store, &batch), BAD_VALUE);
    batch.states = &other;
    assert_err(store_commit(store, &batch), BAD_VALUE);
    assert_int_equal(head_of(store), 1);
    assert_state(store, 1, 1, 10);
    store_close(&store);
}

/* The host of one instance may lose its state; that must not hold up the others. */
static void a_row_whose_state_is_lost_is_stored_all_the_same(void **state)
{
    (void)state;
    struct store *store = fresh();
    uint8_t *blob = NULL;
    size_t size = 0;
    assert_ok(commit(store, 1, 1, 10));
    const struct store_row row = {1, id_of(1), 2, span_of("row", 3)};
    const struct store_batch batch = {.head = span_of("\2\0\0\0\0\0\0\0", 8), .rows = &row, .row_count = 1};
    assert_ok(store_commit(store, &batch));
    const struct instance_id id = id_of(1);
    assert_err(store_read_state(store, &id, 2, &blob, &size), STATE_MISSING);
    store_close(&store);
}

static void a_row_may_change_beside_a_state_that_stays(void **state)
{
    (void)state;
    struct store *store = fresh();
    assert_ok(commit(store, 1, 1, 10));
    const struct store_row row = {1, id_of(1), 1, span_of("another row", 11)};
    const struct store_batch batch = {.head = span_of("\2\0\0\0\0\0\0\0", 8), .rows = &row, .row_count = 1};
    assert_ok(store_commit(store, &batch));
    assert_state(store, 1, 1, 10);
    store_close(&store);
}

static void version_0_removes_the_states(void **state)
{
    (void)state;
    struct store *store = fresh();
    uint8_t *bytes = NULL;
    size_t size = 0;
    const struct instance_id id = id_of(1);
    assert_ok(commit(store, 1, 1, 10));
    assert_ok(commit(store, 1, 0, 0));
    assert_err(store_read_state(store, &id, 1, &bytes, &size), STATE_MISSING);
    store_close(&store);
}

static struct err count_row(void *ctx, const struct store_row *row)
{
    uint32_t *next = ctx;
    assert_int_equal(row->slot, *next);
    assert_int_equal(row->version, row->slot);
    (*next)++;
    return row->slot == 4 ? FAIL(CRYPTO) : OK;
}

static void rows_come_by_slot_and_an_error_ends_them(void **state)
{
    (void)state;
    struct store *store = fresh();
    for (uint8_t n = 6; n > 0; n--)
        assert_ok(commit(store, n, n, 10));
    uint32_t next = 1;
    assert_err(store_each_row(store, &next, count_row), CRYPTO);
    assert_int_equal(next, 5);
    store_close(&store);
}

static void settings_and_processes_are_kept_and_forgotten(void **state)
{
    (void)state;
    struct store *store = fresh();
    const struct instance_id id = id_of(9);
    const struct store_process process = {"01234567-89ab-cdef-0123-456789abcdef", 4711, UINT64_C(1) << 60};
    struct store_process read = {0};
    char *json = NULL;
    assert_err(store_read_settings(store, &id, &json), NO_INSTANCE);
    assert_err(store_read_process(store, &id, &read), NO_INSTANCE);
    assert_ok(store_write_settings(store, &id, "{\"a\":1}"));
    assert_ok(store_write_settings(store, &id, "{\"a\":2}"));
    assert_ok(store_write_process(store, &id, &process));
    assert_ok(store_read_settings(store, &id, &json));
    assert_string_equal(json, "{\"a\":2}");
    free(json);
    assert_ok(store_read_process(store, &id, &read));
    assert_string_equal(read.boot_id, process.boot_id);
    assert_int_equal(read.pid, process.pid);
    assert_true(read.start_time == process.start_time);
    assert_ok(store_forget(store, &id));
    assert_err(store_read_settings(store, &id, &json), NO_INSTANCE);
    assert_err(store_read_process(store, &id, &read), NO_INSTANCE);
    store_close(&store);
}

static void a_full_disk_changes_nothing_and_the_commit_can_be_repeated(void **state)
{
    (void)state;
    struct store *store = fresh();
    struct rlimit old;
    assert_ok(commit(store, 1, 1, 100));
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    const struct rlimit small = {.rlim_cur = 16 * 1024, .rlim_max = old.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    struct err refused = commit(store, 1, 2, STATE_SIZE);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(refused.code, ERR_STORE_IO);
    assert_true(strlen(store_error(store)) > 0);
    assert_int_equal(head_of(store), 1);
    assert_state(store, 1, 1, 100);
    assert_ok(commit(store, 1, 2, STATE_SIZE));
    assert_state(store, 1, 2, STATE_SIZE);
    store_close(&store);
}

/* Commits versions without end; shared[0] is the last one that was answered. */
static _Noreturn void commit_for_ever(volatile uint64_t *answered)
{
    struct store *store = NULL;
    if (store_open(directory, &store).code) _exit(1);
    for (uint64_t version = *answered + 1;; version++) {
        if (commit(store, 1, version, 500 + version % 7 * 2000).code) _exit(2);
        *answered = version;
    }
}

static void a_kill_at_any_moment_loses_nothing_that_was_answered(void **state)
{
    (void)state;
    volatile uint64_t *answered = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct store *store = fresh();
    store_close(&store);
    srand(1);
    for (unsigned round = 0; round < 25 || (*answered <= 20 && round < 500); round++) { /* more where a disk is slow */
        pid_t child = fork();
        if (child == 0) commit_for_ever(answered);
        nanosleep(&(struct timespec){.tv_nsec = 5000000L + rand() % 20000000}, NULL);
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, NULL, 0), child);
        uint64_t promised = *answered;
        if (promised == 0) continue;
        assert_ok(store_open(directory, &store));
        uint64_t head = head_of(store);
        assert_true(head == promised || head == promised + 1); /* durable, and the answer did not get out */
        assert_state(store, 1, head, 500 + head % 7 * 2000);
        store_close(&store);
        *answered = head;
    }
    assert_true(*answered > 20);
    munmap((void *)(uintptr_t)answered, 4096);
}

/* --- snapshots ---------------------------------------------------------------------------------------------------- */

struct seen {
    size_t count;
    struct store_snapshot snapshots[4];
    char names[4][16];
};

static struct err see(void *ctx, const struct store_snapshot *snapshot)
{
    struct seen *seen = ctx;
    assert_true(seen->count < 4);
    for (size_t i = 0; i < snapshot->blob.size; i++)
        assert_int_equal(snapshot->blob.data[i], (uint8_t)snapshot->version);
    (void)snprintf(seen->names[seen->count], sizeof seen->names[0], "%s", snapshot->name);
    seen->snapshots[seen->count++] = *snapshot;
    return seen->count == 4 ? FAIL(TOO_LARGE) : OK;
}

static struct seen snapshots_of(struct store *store, uint8_t n)
{
    const struct instance_id id = id_of(n);
    struct seen seen = {0};
    assert_ok(store_each_snapshot(store, &id, &seen, see));
    return seen;
}

static void a_snapshot_keeps_what_is_replaced(void **state)
{
    (void)state;
    const uint64_t before = (uint64_t)time(NULL);
    const struct instance_id id = id_of(1);
    uint64_t version = 0;
    uint64_t created = 0;
    uint8_t *blob = NULL;
    size_t size = 0;
    struct store *store = fresh();
    assert_err(store_snapshot_take(store, &id, "early"), STATE_MISSING);
    assert_ok(commit(store, 1, 7, 3000));
    assert_ok(store_snapshot_take(store, &id, "seven"));
    assert_ok(commit(store, 1, 8, 4000));
    store_close(&store);
    assert_ok(store_open(directory, &store));
    assert_err(store_snapshot_take(store, &id, "seven"), SNAPSHOT_EXISTS);
    assert_ok(store_snapshot_read(store, &id, "seven", &version, &created, &blob, &size));
    assert_true(version == 7 && size == 3000 && blob[0] == 7 && blob[2999] == 7);
    assert_true(created >= before && created <= (uint64_t)time(NULL));
    free(blob);
    assert_state(store, 1, 8, 4000);
    assert_err(store_snapshot_read(store, &id, "eight", &version, &created, &blob, &size), NO_SNAPSHOT);
    store_close(&store);
}

static void snapshots_come_by_version_and_are_an_instance_s_own(void **state)
{
    (void)state;
    const struct instance_id one = id_of(1);
    const struct instance_id two = id_of(2);
    struct seen seen = {0};
    struct store *store = fresh();
    assert_ok(commit(store, 2, 5, 10));
    assert_ok(store_snapshot_take(store, &two, "z"));
    assert_ok(commit(store, 1, 9, 20));
    assert_ok(store_snapshot_take(store, &one, "z"));
    assert_ok(commit(store, 1, 10, 30));
    assert_ok(store_snapshot_take(store, &one, "b"));
    assert_ok(store_snapshot_take(store, &one, "a"));
    seen = snapshots_of(store, 1);
    assert_int_equal(seen.count, 3);
    assert_string_equal(seen.names[0], "z");
    assert_string_equal(seen.names[1], "a");
    assert_string_equal(seen.names[2], "b");
    assert_true(seen.snapshots[0].version == 9 && seen.snapshots[0].blob.size == 20);
    assert_true(seen.snapshots[2].version == 10 && seen.snapshots[2].blob.size == 30);
    assert_int_equal(snapshots_of(store, 2).count, 1);
    assert_ok(store_snapshot_take(store, &one, "d"));
    seen = (struct seen){0};
    assert_err(store_each_snapshot(store, &one, &seen, see), TOO_LARGE); /* the fourth one's error */
    assert_ok(store_snapshot_delete(store, &one, "z"));
    assert_err(store_snapshot_delete(store, &one, "z"), NO_SNAPSHOT);
    assert_int_equal(snapshots_of(store, 1).count, 3);
    assert_int_equal(snapshots_of(store, 2).count, 1);
    store_close(&store);
}

/* What a revert does: the state it replaces is kept, in the same transaction; and it never replaces a snapshot. */
static void what_a_commit_replaces_may_be_kept(void **state)
{
    (void)state;
    struct store *store = fresh();
    const struct instance_id one = id_of(1);
    assert_ok(commit(store, 1, 9, 20));
    struct store_row row = {1, one, 9, span_of("row", 3)};
    struct store_state with = {.id = one, .version = 9, .blob = span_of("older", 5), .replaced_as = "replaced-9"};
    struct store_batch batch = {
        .head = span_of("\0\0\0\0\0\0\0\0", 8), .rows = &row, .row_count = 1, .states = &with, .state_count = 1};
    row.version = 10;
    assert_err(store_commit(store, &batch), BAD_VALUE);
    assert_int_equal(snapshots_of(store, 1).count, 0);
    with.version = 10;
    assert_ok(store_commit(store, &batch));
    struct seen seen = snapshots_of(store, 1);
    assert_int_equal(seen.count, 1);
    assert_string_equal(seen.names[0], "replaced-9");
    assert_true(seen.snapshots[0].version == 9 && seen.snapshots[0].blob.size == 20);
    assert_ok(commit(store, 1, 11, 30));
    row.version = with.version = 12;
    assert_ok(store_commit(store, &batch));
    assert_true(snapshots_of(store, 1).snapshots[0].version == 9);
    assert_int_equal(snapshots_of(store, 1).count, 1);
    store_close(&store);
}

static void snapshots_go_with_their_instance_and_in_its_commit(void **state)
{
    (void)state;
    const struct instance_id one = id_of(1);
    const struct instance_id two = id_of(2);
    struct store *store = fresh();
    assert_ok(commit(store, 1, 3, 10));
    assert_ok(commit(store, 2, 4, 10));
    assert_ok(store_snapshot_take(store, &one, "a"));
    assert_ok(store_snapshot_take(store, &one, "b"));
    assert_ok(store_snapshot_take(store, &two, "a"));
    const struct store_row rows[] = {{1, one, 0, span_of("row", 3)}, {2, two, 5, span_of("row", 3)}};
    const struct store_state refused = {
        .id = two, .version = 6, .blob = span_of("state", 5)}; /* not the row's version: the batch fails */
    struct store_batch batch = {
        .head = span_of("\0\0\0\0\0\0\0\0", 8), .rows = rows, .row_count = 2, .states = &refused, .state_count = 1};
    assert_err(store_commit(store, &batch), BAD_VALUE);
    assert_int_equal(snapshots_of(store, 1).count, 2);
    batch.state_count = 0;
    assert_ok(store_commit(store, &batch));
    assert_int_equal(snapshots_of(store, 1).count, 0);
    assert_int_equal(snapshots_of(store, 2).count, 1);
    store_close(&store);
}

static void a_store_without_snapshots_is_brought_up(void **state)
{
    (void)state;
    const struct instance_id id = id_of(3);
    struct store *store = fresh();
    sqlite3 *db = NULL;
    assert_ok(commit(store, 3, 7, 100));
    store_close(&store);
    assert_int_equal(sqlite3_open(file, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "DROP TABLE snapshots; PRAGMA user_version=1", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    for (unsigned time = 0; time < 2; time++) {
        assert_ok(store_open(directory, &store));
        assert_int_equal(snapshots_of(store, 3).count, time);
        assert_state(store, 3, 7, 100);
        if (time == 0) assert_ok(store_snapshot_take(store, &id, "a"));
        store_close(&store);
    }
}

static void the_size_of_a_state_is_what_its_header_says(void **state)
{
    (void)state;
    uint8_t bytes[400] = "VTPMSEAL";
    bytes[12] = 100; /* 128 + 100 + 16 */
    assert_int_equal(store_state_size(span_of(bytes, sizeof bytes)), 244);
    assert_int_equal(store_state_size(span_of(bytes, 244)), 244);
    assert_int_equal(store_state_size(span_of(bytes, 200)), 200);
    assert_int_equal(store_state_size(span_of(bytes, 15)), 15);
    memset(bytes + 12, 0xff, 4);
    assert_int_equal(store_state_size(span_of(bytes, sizeof bytes)), sizeof bytes);
    assert_int_equal(store_state_size(span_empty()), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_directory, remove_directory)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_was_committed_reads_back_after_a_reopen),
        TEST(a_missing_store_is_said_to_be_missing),
        TEST(init_replaces_nothing),
        TEST(an_init_that_was_cut_off_is_begun_anew),
        TEST(nobody_else_may_read_the_files),
        TEST(a_second_process_is_refused),
        TEST(a_foreign_database_is_refused),
        TEST(a_file_that_is_no_database_is_refused),
        TEST(a_damaged_file_is_refused),
        TEST(a_state_without_its_row_is_not_stored),
        TEST(a_row_whose_state_is_lost_is_stored_all_the_same),
        TEST(a_row_may_change_beside_a_state_that_stays),
        TEST(version_0_removes_the_states),
        TEST(rows_come_by_slot_and_an_error_ends_them),
        TEST(settings_and_processes_are_kept_and_forgotten),
        TEST(a_snapshot_keeps_what_is_replaced),
        TEST(snapshots_come_by_version_and_are_an_instance_s_own),
        TEST(what_a_commit_replaces_may_be_kept),
        TEST(snapshots_go_with_their_instance_and_in_its_commit),
        TEST(a_store_without_snapshots_is_brought_up),
        TEST(the_size_of_a_state_is_what_its_header_says),
        TEST(a_full_disk_changes_nothing_and_the_commit_can_be_repeated),
        TEST(a_kill_at_any_moment_loses_nothing_that_was_answered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
