/*
 * The host puts back another ledger than the one it was told to store: altered (S8), cut, with rows swapped, dropped,
 * doubled, older or another domain's (S1), with a deleted instance in its old row (D1). In each case nothing is opened,
 * and the enclave is of no use afterwards. A whole older ledger is refused by the anchor, and opens with an anchor that is
 * as old: a file that whoever restores the store can restore too.
 */
#include "tests/fakes/assertions.h"

#include <string.h>

#include "tests/fakes/runtime.h"
#include "tests/unit/manager/rig.h"

static struct rig rig;
static struct rig_disk good;
static struct rig_disk older;
static uint8_t older_anchor[ANCHOR_VALUE_SIZE];
static struct ledger_row rows[3];

/* Three instances; in between, the first commits and the third is deleted. */
static int begin(void **state)
{
    (void)state;
    struct fake_instance fake;
    fake_runtime_reset();
    rig_identities("the manager image", "the instance image");
    memset(&rig.disk, 0, sizeof rig.disk);
    rig_open(&rig);
    assert_int_equal(rig_create(&rig, "first", NULL, NULL, &rows[0]), ERR_NONE);
    assert_int_equal(rig_create(&rig, "second", NULL, NULL, &rows[1]), ERR_NONE);
    assert_int_equal(rig_create(&rig, "third", NULL, NULL, &rows[2]), ERR_NONE);
    older = rig.disk;
    memcpy(older_anchor, rig.anchor, sizeof older_anchor);
    rig_serve(&rig, &rows[0].id, 1, &fake);
    rig_commit(&rig, &fake, 1, 0x11);
    assert_int_equal(rig_delete(&rig, &rows[2].id, NULL), ERR_NONE);
    fake_instance_close(&fake);
    good = rig.disk;
    return 0;
}

static int finish(void **state)
{
    (void)state;
    rig_end(&rig);
    return 0;
}

/* What comes of the disk as it is now; the program is RUNNING after success only. */
static uint16_t offer(void)
{
    rig_boot(&rig);
    uint16_t code = rig_start_open(&rig);
    if (code == ERR_NONE) code = rig_rows(&rig);
    if (code == ERR_NONE) code = rig_loaded(&rig);
    static const uint8_t record[64];
    if (code) assert_int_equal(rig_call(&rig, MANAGER_RECORD, span_of(record, sizeof record)), ERR_ENCLAVE_DEAD);
    return code;
}

static void the_stored_ledger_is_taken(void **state)
{
    (void)state;
    assert_int_equal(offer(), ERR_NONE);
}

/* S8 */
static void flip_each_byte(struct rig_blob *blob)
{
    for (size_t i = 0; i < blob->size; i++) {
        blob->bytes[i] ^= 1;
        uint16_t code = offer();
        if (code == ERR_NONE) fail_msg("byte %zu of %zu was changed, and nobody noticed", i, blob->size);
        blob->bytes[i] ^= 1;
    }
    assert_int_equal(offer(), ERR_NONE);
}

static void each_changed_byte_of_the_master_is_detected(void **state)
{
    (void)state;
    flip_each_byte(&rig.disk.master);
}

static void each_changed_byte_of_the_head_is_detected(void **state)
{
    (void)state;
    flip_each_byte(&rig.disk.head);
}

static void each_changed_byte_of_a_row_is_detected(void **state)
{
    (void)state;
    flip_each_byte(&rig.disk.rows[1].blob);
}

static void each_cut_is_detected(void **state)
{
    (void)state;
    struct rig_blob *blobs[] = {&rig.disk.master, &rig.disk.head, &rig.disk.rows[1].blob};
    for (size_t i = 0; i < 3; i++) {
        const size_t size = blobs[i]->size;
        for (size_t cut = 1; cut <= size; cut += cut < 20 ? 1 : 37) {
            blobs[i]->size = size - cut;
            assert_int_not_equal(offer(), ERR_NONE);
        }
        blobs[i]->size = size + 1;
        assert_int_not_equal(offer(), ERR_NONE);
        blobs[i]->size = size;
    }
    assert_int_equal(offer(), ERR_NONE);
}

/* S1, row by row */
static void an_older_row_is_refused(void **state)
{
    (void)state;
    rig.disk.rows[0] = older.rows[0];
    assert_int_equal(offer(), ERR_LEDGER_ROOT);
}

static void an_older_head_is_refused(void **state)
{
    (void)state;
    rig.disk.head = older.head;
    assert_int_not_equal(offer(), ERR_NONE);
}

/* D1 */
static void a_deleted_instance_put_back_in_its_old_row_is_refused(void **state)
{
    (void)state;
    rig.disk.rows[2] = older.rows[2];
    assert_int_equal(offer(), ERR_LEDGER_ROOT);
    rig.disk = good;
    assert_int_equal(offer(), ERR_NONE);
    rig_finish_k1(&rig);
    assert_int_equal(rig_row(&rig, &rows[2].id).state, MANAGER_DELETED);
    assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &rows[2].id, NULL), ERR_DELETED);
}

static void swapped_rows_are_refused(void **state)
{
    (void)state;
    rig.disk.rows[0] = good.rows[1];
    rig.disk.rows[1] = good.rows[0];
    assert_int_equal(offer(), ERR_LEDGER_ROOT);
}

static void a_dropped_row_is_refused(void **state)
{
    (void)state;
    rig.disk.row_count = 2;
    assert_int_equal(offer(), ERR_LEDGER_ROOT);
    rig.disk.rows[1] = good.rows[2];
    assert_int_equal(offer(), ERR_LEDGER_ROOT);
    rig.disk.row_count = 0;
    assert_int_equal(offer(), ERR_LEDGER_ROOT);
}

static void a_doubled_row_is_refused(void **state)
{
    (void)state;
    rig.disk.rows[1] = good.rows[0];
    assert_int_equal(offer(), ERR_LEDGER_ROOT);
    rig.disk = good;
    rig.disk.rows[rig.disk.row_count++] = good.rows[0];
    assert_int_equal(offer(), ERR_LEDGER_ROOT);
}

static void parts_of_another_domain_are_refused(void **state)
{
    (void)state;
    static struct rig_disk foreign;
    rig_open(&rig);
    for (int i = 0; i < 3; i++)
        assert_int_equal(rig_create(&rig, i == 0 ? "a" : i == 1 ? "b" : "c", NULL, NULL, NULL), ERR_NONE);
    foreign = rig.disk;
    rig.disk = good;
    rig.disk.rows[1] = foreign.rows[1];
    assert_int_equal(offer(), ERR_STATE_ALTERED);
    rig.disk = good;
    rig.disk.head = foreign.head;
    assert_int_equal(offer(), ERR_STATE_ALTERED);
    rig.disk = good;
    rig.disk.master = foreign.master;
    assert_int_equal(offer(), ERR_STATE_ALTERED);
}

static void one_kind_of_blob_for_another_is_refused(void **state)
{
    (void)state;
    rig.disk.head = good.rows[0].blob;
    assert_int_not_equal(offer(), ERR_NONE);
    rig.disk = good;
    rig.disk.rows[0].blob = good.head;
    assert_int_not_equal(offer(), ERR_NONE);
    rig.disk = good;
    rig.disk.master = good.head;
    assert_int_not_equal(offer(), ERR_NONE);
}

static void another_image_or_device_opens_nothing(void **state)
{
    (void)state;
    rig_identities("another manager image", "the instance image");
    assert_int_equal(offer(), ERR_LEDGER_OTHER_IMAGE);
    rig_identities("the manager image", "the instance image");
    fake_processor.secret[0] ^= 1;
    assert_int_equal(offer(), ERR_STATE_ALTERED);
    fake_processor.secret[0] ^= 1;
    fake_processor.CPUSVN[0]--; /* sealed under newer firmware than this */
    assert_int_equal(offer(), ERR_STATE_OTHER_DEVICE);
}

/* S1 */
static void a_whole_older_ledger_is_refused(void **state)
{
    (void)state;
    rig.disk = older;
    assert_int_equal(offer(), ERR_ANCHOR_VALUE);
}

/* What an anchor of kind file does not hold: whoever can write it too goes back unseen, and a deleted instance is back. */
static void a_whole_older_ledger_opens_with_its_older_anchor_file(void **state)
{
    (void)state;
    rig.disk = older;
    memcpy(rig.anchor, older_anchor, sizeof older_anchor);
    assert_int_equal(offer(), ERR_NONE);
    rig_finish_k1(&rig);
    assert_int_equal(rig_row(&rig, &rows[2].id).state, MANAGER_PROVISIONED);
}

int main(void)
{
#define LEDGER_TEST(test) cmocka_unit_test_setup_teardown(test, begin, finish)
    const struct CMUnitTest tests[] = {
        LEDGER_TEST(the_stored_ledger_is_taken),
        LEDGER_TEST(each_changed_byte_of_the_master_is_detected),
        LEDGER_TEST(each_changed_byte_of_the_head_is_detected),
        LEDGER_TEST(each_changed_byte_of_a_row_is_detected),
        LEDGER_TEST(each_cut_is_detected),
        LEDGER_TEST(an_older_row_is_refused),
        LEDGER_TEST(an_older_head_is_refused),
        LEDGER_TEST(a_deleted_instance_put_back_in_its_old_row_is_refused),
        LEDGER_TEST(swapped_rows_are_refused),
        LEDGER_TEST(a_dropped_row_is_refused),
        LEDGER_TEST(a_doubled_row_is_refused),
        LEDGER_TEST(parts_of_another_domain_are_refused),
        LEDGER_TEST(one_kind_of_blob_for_another_is_refused),
        LEDGER_TEST(another_image_or_device_opens_nothing),
        LEDGER_TEST(a_whole_older_ledger_is_refused),
        LEDGER_TEST(a_whole_older_ledger_opens_with_its_older_anchor_file),
    };
    return cmocka_run_group_tests_name("ledger", tests, NULL, NULL);
}
