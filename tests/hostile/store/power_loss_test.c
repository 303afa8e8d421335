/*
 * Power loss under the store: every disk that one may leave behind (disk.h) opens, is whole, and has every batch whose
 * commit was answered; the one under way is there wholly or not at all.
 */
#include "tests/fakes/assertions.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/hostile/store/disk.h"
#include "untrusted/store/store.h"

#define INSTANCES   24u
#define BATCHES     160u
#define REOPENED_AT 80u
#define LARGE_AT    154u
#define LARGE_SIZE  400000u /* of each instance: the log passes the size to which the store cuts it */
#define ROW_SIZE    150u
#define IMAGES      260u
#define IMAGES_LONG 2500u
#define CONTROLS    60u
#define UNTOLD      SIZE_MAX

struct held {
    uint64_t version; /* 0: no state */
    size_t size;
};

static char home[64];
static char image_directory[80];
static uint64_t seed;
/* After so many batches. */
static struct held held[BATCHES + 1][INSTANCES];
/* In events: [n] is when the n-th batch was begun, and when its success was told; from 1. */
static size_t begun_at[BATCHES + 2];
static size_t told_at[BATCHES + 2];

/* --- batches ------------------------------------------------------------------------------------------------------ */

static struct instance_id id_of(unsigned instance)
{
    struct instance_id id;
    memset(id.bytes, (int)instance + 1, sizeof id.bytes);
    return id;
}

/* Bytes that tell whose they are, and where in the blob. */
static void fill(uint8_t *out, size_t size, unsigned instance, uint64_t version)
{
    for (size_t at = 0; at < size; at += sizeof(uint64_t)) {
        uint64_t word = (version << 40 ^ (uint64_t)instance << 32 ^ at) * 0x9E3779B97F4A7C15u;
        memcpy(out + at, &word, size - at < sizeof word ? size - at : sizeof word);
    }
}

static size_t any_state_size(void)
{
    static const size_t sizes[] = {200, 3000, 17000, 60000, 130000};
    return sizes[disk_random(sizeof sizes / sizeof *sizes)] + disk_random(100);
}

static void choose(unsigned batch)
{
    memcpy(held[batch], held[batch - 1], sizeof held[batch]);
    unsigned count = batch == LARGE_AT ? INSTANCES : 1 + (unsigned)disk_random(6);
    unsigned first = (unsigned)disk_random(INSTANCES);
    for (unsigned i = 0; i < count; i++) {
        struct held *one = &held[batch][(first + i) % INSTANCES];
        bool dropped = batch != LARGE_AT && disk_random(12) == 0;
        one->version = dropped ? 0 : batch;
        one->size = batch == LARGE_AT ? LARGE_SIZE : any_state_size();
    }
}

static struct err commit(struct store *store, unsigned batch)
{
    static uint8_t states[INSTANCES][LARGE_SIZE];
    static uint8_t blobs[INSTANCES][ROW_SIZE];
    struct store_row rows[INSTANCES];
    struct store_state written[INSTANCES];
    struct store_batch whole = {.head = span_of(&batch, sizeof batch), .rows = rows, .states = written};
    for (unsigned i = 0; i < INSTANCES; i++) {
        const struct held *now = &held[batch][i];
        if (memcmp(now, &held[batch - 1][i], sizeof *now) == 0) continue;
        fill(blobs[i], ROW_SIZE, i, now->version);
        rows[whole.row_count++] = (struct store_row){i, id_of(i), now->version, span_of(blobs[i], ROW_SIZE)};
        if (!now->version) continue;
        fill(states[i], now->size, i, now->version);
        written[whole.state_count++] =
            (struct store_state){.id = id_of(i), .version = now->version, .blob = span_of(states[i], now->size)};
    }
    return store_commit(store, &whole);
}

/* A store is opened for the first time, written to, closed and opened once more, and never closed again. */
static struct store *work(void)
{
    struct store *store = NULL;
    assert_ok(store_open(home, &store));
    for (unsigned batch = 1; batch <= BATCHES; batch++) {
        if (batch == REOPENED_AT) {
            store_close(&store);
            assert_ok(store_open(home, &store));
        }
        choose(batch);
        begun_at[batch] = disk_event_count();
        assert_ok(commit(store, batch));
        told_at[batch] = disk_event_count();
    }
    begun_at[BATCHES + 1] = told_at[BATCHES + 1] = UNTOLD;
    return store;
}

/* --- the recording ------------------------------------------------------------------------------------------------ */

/* In memory where the machine has room for it: an image is read once. */
static int make_home(void)
{
    static const char *const places[] = {"/dev/shm", "/tmp"};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        (void)snprintf(home, sizeof home, "%s/vtpm-power-loss-XXXXXX", places[i]);
        if (!mkdtemp(home)) continue;
        (void)snprintf(image_directory, sizeof image_directory, "%s/image", home);
        return mkdir(image_directory, 0700);
    }
    return -1;
}

static int record(void **state)
{
    (void)state;
    const char *wanted = getenv("CHECK_SEED");
    seed = wanted ? strtoull(wanted, NULL, 10) : (uint64_t)time(NULL);
    printf("# seed %llu\n", (unsigned long long)seed);
    disk_seed(seed);
    if (make_home() != 0 || store_init(home).code) return -1;
    disk_record(home);
    struct store *store = work();
    size_t count = disk_event_count();
    store_close(&store);
    disk_record_end();
    print_message("# %zu events until the last commit, %zu with the close\n", count, disk_event_count());
    return 0;
}

static int forget(void **state)
{
    (void)state;
    char command[100];
    disk_forget();
    (void)snprintf(command, sizeof command, "rm -rf %s", home);
    return system(command);
}

static void the_recording_has_what_a_power_loss_can_cut(void **state)
{
    (void)state;
    size_t counts[DISK_NAMES][DISK_KINDS] = {0};
    size_t directory_syncs = 0;
    size_t checkpoints = 0;
    for (size_t i = 0; i < disk_event_count(); i++) {
        const struct disk_event *event = disk_event(i);
        if (event->kind == DISK_SYNC_DIRECTORY) directory_syncs++;
        counts[event->name][event->kind] += event->kind != DISK_SYNC_DIRECTORY;
        checkpoints += event->kind == DISK_SYNC && event->name == DISK_DB;
    }
    print_message("# %zu checkpoints, %zu syncs of the log, %zu cuts of it, %zu syncs of the directory\n", checkpoints,
                  counts[DISK_WAL][DISK_SYNC], counts[DISK_WAL][DISK_RESIZE], directory_syncs);
    assert_true(checkpoints >= 5);
    assert_true(counts[DISK_WAL][DISK_SYNC] >= BATCHES);
    assert_true(counts[DISK_WAL][DISK_RESIZE] >= 1);
    assert_int_equal(counts[DISK_WAL][DISK_CREATE], 2);
    assert_int_equal(counts[DISK_WAL][DISK_REMOVE], 2);
    assert_true(counts[DISK_JOURNAL][DISK_CREATE] >= 1);
    assert_true(directory_syncs >= 3);
}

/* --- what is in an image ------------------------------------------------------------------------------------------ */

struct rows {
    const struct held *held;
    unsigned count;
};

static struct err check_row(void *ctx, const struct store_row *row)
{
    struct rows *rows = ctx;
    uint8_t wanted[ROW_SIZE];
    ENSURE(row->slot < INSTANCES && row->version == rows->held[row->slot].version, STATE_OLD);
    ENSURE(row->version || rows->held[row->slot].size, STATE_NOT_RECORDED);
    fill(wanted, sizeof wanted, row->slot, row->version);
    ENSURE(row->blob.size == ROW_SIZE && memcmp(row->blob.data, wanted, ROW_SIZE) == 0, STATE_ALTERED);
    rows->count++;
    return OK;
}

static struct err check_state(struct store *store, unsigned instance, const struct held *wanted)
{
    static uint8_t bytes[LARGE_SIZE];
    const struct instance_id id = id_of(instance);
    uint64_t version = 0;
    uint8_t *blob = NULL;
    size_t size = 0;
    struct err result = store_read_stored(store, &id, &version, &blob, &size);
    if (!wanted->version) return result.code == ERR_STATE_MISSING ? OK : FAIL(STATE_NOT_RECORDED);
    TRY(result);
    fill(bytes, wanted->size, instance, wanted->version);
    bool same = version == wanted->version && size == wanted->size && memcmp(blob, bytes, size) == 0;
    free(blob);
    ENSURE(same, STATE_ALTERED);
    return OK;
}

/* Exactly what was there after batch. */
static struct err check_batch(struct store *store, unsigned batch)
{
    struct rows rows = {held[batch], 0};
    unsigned wanted = 0;
    TRY(store_each_row(store, &rows, check_row));
    for (unsigned i = 0; i < INSTANCES; i++) {
        wanted += held[batch][i].size != 0;
        TRY(check_state(store, i, &held[batch][i]));
    }
    ENSURE(rows.count == wanted, STATE_MISSING);
    return OK;
}

static struct err read_batch(struct store *store, unsigned *out_batch)
{
    uint8_t *head = NULL;
    size_t size = 0;
    *out_batch = 0;
    struct err result = store_read_head(store, &head, &size);
    if (result.code == ERR_STATE_MISSING) return OK;
    TRY(result);
    memcpy(out_batch, head, sizeof *out_batch);
    free(head);
    ENSURE(size == sizeof *out_batch && *out_batch <= BATCHES, STATE_ALTERED);
    return OK;
}

static int is_ok(void *ctx, int columns, char **texts, char **column_names)
{
    (void)column_names;
    *(bool *)ctx = columns == 1 && strcmp(texts[0], "ok") == 0;
    return 0;
}

/* Opens the image with the system's own VFS. On success out_batch is the last batch that is in it. */
static struct err check_image(unsigned *out_batch)
{
    struct store *store DEFER(store_close) = NULL;
    bool ok = false;
    TRY(store_open(image_directory, &store));
    int code = sqlite3_exec(store_handle(store), "PRAGMA integrity_check", is_ok, &ok, NULL);
    ENSURE(code == SQLITE_OK && ok, STORE_FOREIGN);
    TRY(read_batch(store, out_batch));
    return check_batch(store, *out_batch);
}

/* --- crashes ------------------------------------------------------------------------------------------------------ */

static int by_size(const void *one, const void *other)
{
    const size_t a = *(const size_t *)one;
    const size_t b = *(const size_t *)other;
    return (a > b) - (a < b);
}

/* In some batch, or the first opening, or the end; one in three right before or behind a sync. */
static size_t any_point(void)
{
    unsigned batch = (unsigned)disk_random(BATCHES + 1);
    size_t first = batch ? begun_at[batch] : 4; /* behind the file that was there */
    size_t last = batch < BATCHES ? begun_at[batch + 1] : disk_event_count();
    size_t point = first + disk_random(last - first + 1);
    if (disk_random(3)) return point;
    while (point < disk_event_count() && disk_event(point)->kind != DISK_SYNC)
        point++;
    return point < disk_event_count() ? point + disk_random(2) : point;
}

static unsigned told_before(size_t point)
{
    unsigned batch = 0;
    while (told_at[batch + 1] <= point)
        batch++;
    return batch;
}

struct tally {
    unsigned lost;      /* opens, and lacks what was answered */
    unsigned bad;       /* does not open, or is torn */
    unsigned under_way; /* has the batch that was not answered yet */
};

static void crash(const struct disk *disk, size_t point, struct tally *tally)
{
    const unsigned told = told_before(point);
    unsigned batch = 0;
    disk_write_image(disk, image_directory);
    struct err result = check_image(&batch);
    bool begun = begun_at[told + 1] < point;
    tally->under_way += !result.code && batch == told + 1;
    if (!result.code && (batch == told || (begun && batch == told + 1))) return;
    if (result.code || batch > told)
        tally->bad++;
    else
        tally->lost++;
    if (tally->bad + tally->lost == 1)
        print_message("# the first: after event %zu, %u batches answered, %u there, error %u\n", point, told, batch,
                      result.code);
}

static struct tally crash_at_random(unsigned count, bool without_syncs)
{
    static size_t points[IMAGES_LONG];
    struct tally tally = {0};
    struct disk *disk DEFER(disk_free) = disk_new(without_syncs);
    for (unsigned i = 0; i < count; i++)
        points[i] = any_point();
    qsort(points, count, sizeof *points, by_size);
    for (unsigned i = 0; i < count; i++) {
        disk_advance(disk, points[i]);
        crash(disk, points[i], &tally);
    }
    print_message("# %u images: %u lost, %u bad, %u with the batch under way\n", count, tally.lost, tally.bad,
                  tally.under_way);
    return tally;
}

static void no_power_loss_loses_or_tears_what_was_answered(void **state)
{
    (void)state;
    const char *all = getenv("CHECK_LONG");
    struct tally tally = crash_at_random(all && strcmp(all, "1") == 0 ? IMAGES_LONG : IMAGES, false);
    assert_int_equal(tally.lost, 0);
    assert_int_equal(tally.bad, 0);
    assert_true(tally.under_way > 0);
}

/* The control: these images and this reading of them do tell. */
static void a_disk_that_ignores_syncs_loses_what_was_answered(void **state)
{
    (void)state;
    assert_true(crash_at_random(CONTROLS, true).lost > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_recording_has_what_a_power_loss_can_cut),
        cmocka_unit_test(no_power_loss_loses_or_tears_what_was_answered),
        cmocka_unit_test(a_disk_that_ignores_syncs_loses_what_was_answered),
    };
    return cmocka_run_group_tests(tests, record, forget);
}
