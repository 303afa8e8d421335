/*
 * The host hands the enclave a state that is not the one that was recorded (S1, S2, S3, S8, S9). One enclave waits for
 * its state and is offered everything else first; at the end of each test it still takes the right one.
 */
#include "tests/fakes/assertions.h"

#include <string.h>

#include "tests/fakes/instance_client.h"
#include "tests/fakes/runtime.h"
#include "trusted/state/blob.h"

static struct client c;
static struct stored_state offered; /* a copy of the right one, to be changed */

static uint16_t offer(const struct stored_state *state)
{
    uint16_t code = client_load(&c, state);
    if (code) {
        assert_int_equal(c.result.peer_count, 0);
        assert_null(c.result.store.data);
    }
    return code;
}

static void define(uint32_t index)
{
    struct tpm_message m;
    tpm_nv_define(&m, index, 16);
    assert_int_equal(tpm_response_code(client_command(&c, &m)), 0);
}

static void serve(void)
{
    struct tpm_message m;
    client_serve(&c);
    tpm_startup(&m, TPM_SU_CLEAR);
    assert_int_equal(tpm_response_code(client_command(&c, &m)), 0);
}

/* What is wrong in the next life does not matter to the manager: it provisions for the recorded state. */
static int begin(void **state)
{
    (void)state;
    fake_runtime_reset();
    client_open(&c);
    serve();
    define(0x01800001);
    client_restart(&c);
    client_provision(&c);
    offered = c.stored;
    return 0;
}

static int finish(void **state)
{
    (void)state;
    assert_int_equal(offer(&c.stored), ERR_NONE);
    client_carry(&c);
    assert_true(c.manager.ready);
    client_close(&c);
    return 0;
}

static void the_recorded_state_is_taken(void **state)
{
    (void)state; /* finish does it */
}

static void a_missing_state_is_refused(void **state)
{
    (void)state;
    offered.size = 0;
    assert_int_equal(offer(&offered), ERR_STATE_MISSING);
}

/* S2 */
static void a_state_of_another_instance_is_refused(void **state)
{
    (void)state;
    static struct client other;
    client_open(&other);
    client_serve(&other);
    assert_int_equal(offer(&other.stored), ERR_STATE_OTHER_INSTANCE);
    /* with the header told to say so */
    memcpy(other.stored.blob + BLOB_OFFSET_ID, c.manager.known.instance.bytes, INSTANCE_ID_SIZE);
    assert_int_equal(offer(&other.stored), ERR_STATE_ALTERED);
    client_close(&other);
}

static void lives_with(struct stored_state *out_older)
{
    assert_int_equal(offer(&c.stored), ERR_NONE);
    client_carry(&c);
    client_link(&c);
    struct tpm_message m;
    tpm_startup(&m, TPM_SU_CLEAR);
    assert_int_equal(tpm_response_code(client_command(&c, &m)), 0);
    *out_older = c.stored;
}

/* S1: an older state of the same instance, which the very same manager acknowledged once. */
static void an_older_state_is_refused(void **state)
{
    (void)state;
    static struct stored_state older;
    lives_with(&older);
    define(0x01800002);
    client_restart(&c);
    client_provision(&c);
    assert_int_equal(older.version + 1, c.stored.version);
    assert_int_equal(offer(&older), ERR_STATE_OLD);
    /* with the header told that it is the newest */
    memcpy(older.blob + BLOB_OFFSET_VERSION, c.stored.blob + BLOB_OFFSET_VERSION, sizeof(uint64_t));
    assert_int_equal(offer(&older), ERR_STATE_ALTERED);
}

/* The same for one that another manager, before an upgrade, had sealed. */
static void an_older_state_of_another_manager_is_refused(void **state)
{
    (void)state;
    static struct stored_state older;
    lives_with(&older);
    c.manager.MRENCLAVE[0] ^= 1;
    client_restart(&c);
    serve(); /* Startup commits */
    client_restart(&c);
    client_provision(&c);
    assert_int_equal(offer(&older), ERR_STATE_OLD);
}

/* A commit that was never acknowledged is not the newest state, and not an older one. */
static void a_state_that_was_never_recorded_is_refused(void **state)
{
    (void)state;
    static struct stored_state older;
    struct tpm_message m;
    lives_with(&older);
    tpm_nv_define(&m, 0x01800002, 16);
    assert_int_equal(client_request(&c, K2_COMMAND, tpm_message_span(&m)), ERR_NONE);
    assert_int_equal(c.given.version, c.stored.version + 1);
    client_restart(&c);
    client_provision(&c);
    assert_int_equal(offer(&c.given), ERR_STATE_NOT_RECORDED);
}

/* Two copies of one start from one state: equal versions, and only one of them is the recorded one. */
static void the_twin_of_the_recorded_state_is_refused(void **state)
{
    (void)state;
    static struct stored_state older, twin;
    lives_with(&older);
    struct fake_state recorded = c.manager.recorded;
    define(0x01800002);
    twin = c.stored;
    c.manager.recorded = recorded; /* it was recorded nowhere after all */
    c.stored = older;
    client_restart(&c);
    serve();
    assert_int_equal(twin.version, c.stored.version);
    client_restart(&c);
    client_provision(&c);
    assert_int_equal(offer(&twin), ERR_STATE_NOT_RECORDED);
}

/* S8: what a blob says when one byte of it is changed. */
static uint16_t expected_code(size_t offset, uint8_t before, uint8_t after)
{
    if (offset < BLOB_OFFSET_FORMAT) return ERR_STATE_MAGIC;
    if (offset < BLOB_OFFSET_SIZE) return ERR_STATE_FORMAT;
    if (offset < BLOB_OFFSET_ID) return after > before ? ERR_STATE_CUT : ERR_STATE_ALTERED;
    if (offset < BLOB_OFFSET_EPOCH) return ERR_STATE_OTHER_INSTANCE;
    return ERR_STATE_ALTERED; /* the version too: it is not believed before it authenticates */
}

static void each_changed_byte_is_detected(void **state)
{
    (void)state;
    static const uint8_t changes[] = {0x01, 0x80, 0xff};
    for (size_t offset = 0; offset < offered.size; offset++)
        for (size_t i = 0; i < sizeof changes; i++) {
            uint8_t before = c.stored.blob[offset], after = before ^ changes[i];
            offered.blob[offset] = after;
            assert_int_equal(offer(&offered), expected_code(offset, before, after));
            offered.blob[offset] = before;
        }
}

static void each_cut_is_detected(void **state)
{
    (void)state;
    for (size_t size = offered.size - 1; size > 0; size--) {
        offered.size = size;
        assert_int_equal(offer(&offered), size < BLOB_MAGIC_SIZE ? ERR_STATE_MAGIC : ERR_STATE_CUT);
    }
}

/* The state's own size says where it ends: what a host adds is not looked at. */
static void added_bytes_change_nothing(void **state)
{
    (void)state;
    memset(offered.blob + offered.size, 0xff, sizeof offered.blob - offered.size);
    offered.size = sizeof offered.blob;
    offered.blob[c.stored.size - 1] ^= 1;
    assert_int_equal(offer(&offered), ERR_STATE_ALTERED);
    offered.blob[c.stored.size - 1] ^= 1;
    c.stored = offered; /* which finish offers */
}

/* Bytes added, and the size in the header made to take them in. */
static void added_bytes_that_are_covered_up_are_detected(void **state)
{
    (void)state;
    offered.blob[offered.size++] = 0;
    struct writer w = writer_of(offered.blob + BLOB_OFFSET_SIZE, sizeof(uint32_t));
    assert_ok(write_u32(&w, (uint32_t)(offered.size - blob_size(BLOB_STATE, 0))));
    assert_int_equal(offer(&offered), ERR_STATE_ALTERED);
}

/* A cut with the size in the header made to fit. */
static void a_cut_that_is_covered_up_is_detected(void **state)
{
    (void)state;
    offered.size--;
    struct writer w = writer_of(offered.blob + BLOB_OFFSET_SIZE, sizeof(uint32_t));
    assert_ok(write_u32(&w, (uint32_t)(offered.size - blob_size(BLOB_STATE, 0))));
    assert_int_equal(offer(&offered), ERR_STATE_ALTERED);
}

/* A row of the ledger is sealed in the same format, and is no state. */
static void another_kind_of_blob_is_refused(void **state)
{
    (void)state;
    uint8_t root[BLOB_ROOT_SIZE];
    struct blob_header header = {.kind = BLOB_LEDGER_ROW, .id = c.manager.known.instance, .version = c.stored.version};
    assert_ok(blob_state_root(fake_crypto(), c.manager.root_key, c.manager.MRENCLAVE, root));
    memcpy(header.manager, c.manager.MRENCLAVE, sizeof header.manager);
    struct writer w = writer_of(offered.blob, sizeof offered.blob);
    assert_ok(blob_seal(fake_crypto(), span_of(root, sizeof root), &header, span_empty(), span_of("row", 3), &w));
    offered.size = w.size;
    assert_int_equal(offer(&offered), ERR_STATE_FORMAT);
    offered.blob[BLOB_OFFSET_KIND] = BLOB_STATE;
    assert_int_equal(offer(&offered), ERR_STATE_ALTERED);
}

/* Format 0, of the release without a manager. */
static void a_state_of_the_first_release_is_refused(void **state)
{
    (void)state;
    offered.blob[BLOB_OFFSET_FORMAT] = 0;
    assert_int_equal(offer(&offered), ERR_STATE_FORMAT);
}

/* S9: authentic, recorded, and not what libtpms can read: the end of this enclave, and no new TPM. */
static int finish_dead(void **state)
{
    (void)state;
    client_close(&c);
    return 0;
}

static void a_state_that_libtpms_rejects_makes_no_new_tpm(void **state)
{
    (void)state;
    uint8_t root[BLOB_ROOT_SIZE];
    struct blob_header header = {.kind = BLOB_STATE, .id = c.manager.known.instance, .version = c.stored.version};
    memcpy(header.manager, c.manager.MRENCLAVE, sizeof header.manager);
    assert_ok(blob_state_root(fake_crypto(), c.manager.root_key, c.manager.MRENCLAVE, root));
    struct writer w = writer_of(c.stored.blob, sizeof c.stored.blob);
    assert_ok(blob_seal(fake_crypto(), span_of(root, sizeof root), &header, span_empty(), span_of("junk", 4), &w));
    c.stored.size = w.size;
    struct span blob = writer_span(&w);
    assert_ok(hash_sha256(fake_crypto(), &blob, 1, c.manager.recorded.digest));
    client_restart(&c);
    client_provision(&c);
    assert_int_equal(offer(&c.stored), ERR_STATE_REJECTED);
    assert_int_equal(offer(&c.stored), ERR_ENCLAVE_DEAD);
}

int main(void)
{
#define STATE_TEST(test) cmocka_unit_test_setup_teardown(test, begin, finish)
    const struct CMUnitTest tests[] = {
        STATE_TEST(the_recorded_state_is_taken),
        STATE_TEST(a_missing_state_is_refused),
        STATE_TEST(a_state_of_another_instance_is_refused),
        STATE_TEST(an_older_state_is_refused),
        STATE_TEST(an_older_state_of_another_manager_is_refused),
        STATE_TEST(a_state_that_was_never_recorded_is_refused),
        STATE_TEST(the_twin_of_the_recorded_state_is_refused),
        STATE_TEST(each_changed_byte_is_detected),
        STATE_TEST(each_cut_is_detected),
        STATE_TEST(added_bytes_change_nothing),
        STATE_TEST(added_bytes_that_are_covered_up_are_detected),
        STATE_TEST(a_cut_that_is_covered_up_is_detected),
        STATE_TEST(another_kind_of_blob_is_refused),
        STATE_TEST(a_state_of_the_first_release_is_refused),
        cmocka_unit_test_setup_teardown(a_state_that_libtpms_rejects_makes_no_new_tpm, begin, finish_dead),
    };
    return cmocka_run_group_tests_name("sealed state", tests, NULL, NULL);
}
