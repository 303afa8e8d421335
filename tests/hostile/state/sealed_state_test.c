/*
 * The host hands the enclave a state that is not the one it stored (S2, S3, S8). Each offer goes to the program, in an
 * enclave of its own, or for every byte of a blob to blob_open, which is where the program takes its answer from.
 */
#include "tests/fakes/assertions.h"

#include <string.h>

#include "tests/fakes/instance_client.h"
#include "tests/fakes/runtime.h"
#include "trusted/runtime/sgx.h"
#include "trusted/state/blob.h"

#define OFFSET_CPUSVN (BLOB_OFFSET_KEYREQUEST + offsetof(struct sgx_keyrequest, CPUSVN))

static struct stored_state stored;
static struct enclave_result result;

/* An honest instance's state, made on the processor as it is now. */
static void create(struct stored_state *out)
{
    struct enclave_process enclave;
    enclave_process_start(&enclave);
    client_create(&enclave, 0, out);
    enclave_process_end(&enclave);
}

static uint16_t offer(const struct stored_state *state)
{
    struct enclave_process enclave;
    enclave_process_start(&enclave);
    client_open(&enclave, 0, state, &result);
    enclave_process_end(&enclave);
    return result.code;
}

static int begin(void **state)
{
    (void)state;
    fake_runtime_reset();
    create(&stored);
    return 0;
}

static void the_stored_state_is_taken(void **state)
{
    (void)state;
    assert_int_equal(offer(&stored), ERR_NONE);
}

/* S2 */
static void a_state_of_another_instance_is_refused(void **state)
{
    (void)state;
    static struct stored_state other;
    create(&other);
    memcpy(other.instance, stored.instance, INSTANCE_ID_SIZE);
    assert_int_equal(offer(&other), ERR_STATE_OTHER_INSTANCE);
}

/* S2, with the header told to say so */
static void a_renamed_state_is_refused(void **state)
{
    (void)state;
    static struct stored_state other;
    create(&other);
    memcpy(other.instance, stored.instance, INSTANCE_ID_SIZE);
    memcpy(other.blob + BLOB_OFFSET_INSTANCE, stored.instance, INSTANCE_ID_SIZE);
    assert_int_equal(offer(&other), ERR_STATE_ALTERED);
}

static void a_state_of_another_image_is_refused(void **state)
{
    (void)state;
    fake_processor.MRENCLAVE[0] ^= 1;
    assert_int_equal(offer(&stored), ERR_STATE_OTHER_IMAGE);
}

/* The other image's name in the header does not help: the key is another. */
static void a_state_made_to_look_like_this_images_is_refused(void **state)
{
    (void)state;
    fake_processor.MRENCLAVE[0] ^= 1;
    memcpy(stored.blob + BLOB_OFFSET_MRENCLAVE, fake_processor.MRENCLAVE, SGX_HASH_SIZE);
    assert_int_equal(offer(&stored), ERR_STATE_OTHER_DEVICE);
}

static void a_state_of_another_device_is_refused(void **state)
{
    (void)state;
    fake_processor.secret[0] ^= 1;
    assert_int_equal(offer(&stored), ERR_STATE_OTHER_DEVICE);
}

/* A security version that this processor never had is another device's. */
static void a_state_of_newer_firmware_is_refused(void **state)
{
    (void)state;
    fake_processor.CPUSVN[0]--;
    assert_int_equal(offer(&stored), ERR_STATE_OTHER_DEVICE);
}

static void a_state_of_a_newer_image_version_is_refused(void **state)
{
    (void)state;
    fake_processor.ISVSVN--;
    assert_int_equal(offer(&stored), ERR_STATE_ALTERED);
}

/* S8: what a blob says when one byte of it is changed. */
static uint16_t expected_code(size_t offset)
{
    if (offset < BLOB_OFFSET_FORMAT) return ERR_STATE_MAGIC;
    if (offset < BLOB_OFFSET_SIZE) return ERR_STATE_FORMAT;
    if (offset < BLOB_OFFSET_INSTANCE) return ERR_STATE_CUT;
    if (offset >= BLOB_OFFSET_MRENCLAVE && offset < BLOB_OFFSET_DEVICE_TAG) return ERR_STATE_OTHER_IMAGE;
    if (offset >= BLOB_OFFSET_DEVICE_TAG && offset < BLOB_OFFSET_RANDOM) return ERR_STATE_OTHER_DEVICE;
    /* the tag is made at the blob's own CPUSVN */
    if (offset >= OFFSET_CPUSVN && offset < OFFSET_CPUSVN + 16) return ERR_STATE_OTHER_DEVICE;
    return ERR_STATE_ALTERED;
}

static struct crypto crypto;
static struct blob_sealer sealer;

static void new_sealer(void)
{
    static const struct sgx_targetinfo nobody;
    static const uint8_t no_data[SGX_REPORTDATA_SIZE];
    struct sgx_report own;
    sgx_ereport(&nobody, no_data, &own);
    assert_ok(blob_sealer_init(&crypto, &own, &sealer));
}

static uint16_t open_here(struct span blob)
{
    struct blob_state opened = {0};
    struct err err = blob_open(&crypto, &sealer, blob, stored.instance, &opened);
    if (!err.code)
        blob_state_free(&opened);
    else
        assert_null(opened.plaintext);
    return err.code;
}

static void each_changed_byte_is_detected(void **state)
{
    (void)state;
    static const uint8_t changes[] = {0x01, 0x80, 0xff};
    new_sealer();
    assert_int_equal(open_here(span_of(stored.blob, stored.size)), ERR_NONE);
    for (size_t offset = 0; offset < stored.size; offset++)
        for (size_t i = 0; i < sizeof changes; i++) {
            stored.blob[offset] ^= changes[i];
            assert_int_equal(open_here(span_of(stored.blob, stored.size)), expected_code(offset));
            stored.blob[offset] ^= changes[i];
        }
    assert_int_equal(open_here(span_of(stored.blob, stored.size)), ERR_NONE);
}

static void the_program_says_what_was_wrong(void **state)
{
    (void)state;
    static const size_t offsets[] = {0,   BLOB_OFFSET_FORMAT,     BLOB_OFFSET_KIND,       BLOB_OFFSET_SIZE,
                                     16,  BLOB_OFFSET_VERSION,    BLOB_OFFSET_TIME,       BLOB_OFFSET_MRENCLAVE,
                                     640, BLOB_OFFSET_DEVICE_TAG, BLOB_OFFSET_KEYREQUEST, 639};
    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        stored.blob[offsets[i]] ^= 1;
        assert_int_equal(offer(&stored), expected_code(offsets[i]));
        assert_null(result.store.data);
        stored.blob[offsets[i]] ^= 1;
    }
}

static void each_cut_is_detected(void **state)
{
    (void)state;
    new_sealer();
    for (size_t size = 0; size < stored.size; size++)
        assert_int_equal(open_here(span_of(stored.blob, size)),
                         size < BLOB_HEADER_SIZE + BLOB_TAG_SIZE ? ERR_STATE_MAGIC : ERR_STATE_CUT);
}

static void added_bytes_are_detected(void **state)
{
    (void)state;
    stored.size++;
    assert_int_equal(offer(&stored), ERR_STATE_CUT);
}

/* A cut with the size in the header made to fit. */
static void a_cut_that_is_covered_up_is_detected(void **state)
{
    (void)state;
    uint32_t size = (uint32_t)(stored.size - BLOB_HEADER_SIZE - BLOB_TAG_SIZE - 1);
    stored.size--;
    struct writer w = writer_of(stored.blob + BLOB_OFFSET_SIZE, sizeof size);
    assert_ok(write_u32(&w, size));
    assert_int_equal(offer(&stored), ERR_STATE_ALTERED);
}

/*
 * A blob whose KEYREQUEST asks for a key that another enclave or a debug enclave could get too. It authenticates,
 * because the test plays that enclave; the request must not even reach EGETKEY.
 */
static uint16_t offer_with_request(void (*change)(struct sgx_keyrequest *))
{
    static uint8_t bytes[1024];
    struct blob_identity identity = {.version = 1};
    new_sealer();
    struct blob_sealer rogue = sealer;
    change(&rogue.request);
    assert_ok(sgx_egetkey(&rogue.request, rogue.root));
    memcpy(identity.instance, stored.instance, INSTANCE_ID_SIZE);
    struct writer w = writer_of(bytes, sizeof bytes);
    assert_ok(blob_seal(&crypto, &rogue, &identity, span_of("rogue", 5), &w));
    return open_here(writer_span(&w));
}

static void leave(struct sgx_keyrequest *request)
{
    (void)request;
}

static void drop_policy(struct sgx_keyrequest *request)
{
    request->KEYPOLICY = 0;
}

static void drop_attributes(struct sgx_keyrequest *request)
{
    request->ATTRIBUTEMASK.FLAGS = 0;
}

static void drop_miscmask(struct sgx_keyrequest *request)
{
    request->MISCMASK = 0;
}

static void set_configsvn(struct sgx_keyrequest *request)
{
    request->CONFIGSVN = 1;
}

static void a_weaker_key_request_is_refused(void **state)
{
    (void)state;
    assert_int_equal(offer_with_request(leave), ERR_NONE);
    assert_int_equal(offer_with_request(drop_policy), ERR_STATE_ALTERED);
    assert_int_equal(offer_with_request(drop_attributes), ERR_STATE_ALTERED);
    assert_int_equal(offer_with_request(drop_miscmask), ERR_STATE_ALTERED);
    assert_int_equal(offer_with_request(set_configsvn), ERR_STATE_ALTERED);
}

/* S9: nothing is made in place of what does not open. */
static void nothing_is_stored_over_a_damaged_state(void **state)
{
    (void)state;
    stored.blob[700] ^= 1;
    assert_int_equal(offer(&stored), ERR_STATE_ALTERED);
    assert_null(result.store.data);
    assert_null(result.instance.data);
}

static int init(void **state)
{
    (void)state;
    return crypto_init(&crypto).code;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_stored_state_is_taken, begin),
        cmocka_unit_test_setup(a_state_of_another_instance_is_refused, begin),
        cmocka_unit_test_setup(a_renamed_state_is_refused, begin),
        cmocka_unit_test_setup(a_state_of_another_image_is_refused, begin),
        cmocka_unit_test_setup(a_state_made_to_look_like_this_images_is_refused, begin),
        cmocka_unit_test_setup(a_state_of_another_device_is_refused, begin),
        cmocka_unit_test_setup(a_state_of_newer_firmware_is_refused, begin),
        cmocka_unit_test_setup(a_state_of_a_newer_image_version_is_refused, begin),
        cmocka_unit_test_setup(each_changed_byte_is_detected, begin),
        cmocka_unit_test_setup(the_program_says_what_was_wrong, begin),
        cmocka_unit_test_setup(each_cut_is_detected, begin),
        cmocka_unit_test_setup(added_bytes_are_detected, begin),
        cmocka_unit_test_setup(a_cut_that_is_covered_up_is_detected, begin),
        cmocka_unit_test_setup(a_weaker_key_request_is_refused, begin),
        cmocka_unit_test_setup(nothing_is_stored_over_a_damaged_state, begin),
    };
    return cmocka_run_group_tests_name("sealed state", tests, init, NULL);
}
