#include "tests/fakes/assertions.h"

#include <string.h>

#include "tests/fakes/runtime.h"
#include "trusted/runtime/sgx.h"
#include "trusted/state/blob.h"

static struct crypto crypto;
static const struct blob_identity identity = {.instance = "instance under ", .version = 7, .time = 1234567890};
static const uint8_t plaintext[] = "what only the enclave may know";

static struct blob_sealer new_sealer(void)
{
    static const struct sgx_targetinfo nobody;
    static const uint8_t no_data[SGX_REPORTDATA_SIZE];
    struct sgx_report own;
    struct blob_sealer sealer;
    sgx_ereport(&nobody, no_data, &own);
    assert_ok(blob_sealer_init(&crypto, &own, &sealer));
    return sealer;
}

static struct span seal(const struct blob_sealer *sealer, uint8_t *out, size_t capacity)
{
    struct writer w = writer_of(out, capacity);
    assert_ok(blob_seal(&crypto, sealer, &identity, span_of(plaintext, sizeof plaintext), &w));
    return writer_span(&w);
}

static void a_later_life_opens_what_was_sealed(void **state)
{
    (void)state;
    uint8_t bytes[1024];
    struct blob_sealer first = new_sealer(), second = new_sealer();
    struct span blob = seal(&first, bytes, sizeof bytes);
    struct blob_state opened;
    assert_ok(blob_open(&crypto, &second, blob, identity.instance, &opened));
    assert_int_equal(opened.plaintext_size, sizeof plaintext);
    assert_memory_equal(opened.plaintext, plaintext, sizeof plaintext);
    assert_memory_equal(opened.identity.instance, identity.instance, INSTANCE_ID_SIZE);
    assert_int_equal(opened.identity.version, identity.version);
    assert_int_equal(opened.identity.time, identity.time);
    blob_state_free(&opened);
}

static void each_life_has_a_root_key_of_its_own(void **state)
{
    (void)state;
    struct blob_sealer first = new_sealer(), second = new_sealer();
    assert_memory_not_equal(first.root, second.root, sizeof first.root);
    assert_memory_equal(first.device_tag, second.device_tag, sizeof first.device_tag);
}

static void the_layout_is_that_of_the_format(void **state)
{
    (void)state;
    uint8_t bytes[1024];
    struct blob_sealer sealer = new_sealer();
    struct span blob = seal(&sealer, bytes, sizeof bytes);
    assert_int_equal(blob.size, BLOB_HEADER_SIZE + sizeof plaintext + BLOB_TAG_SIZE);
    assert_int_equal(blob.size, blob_size(sizeof plaintext));
    assert_memory_equal(bytes, BLOB_MAGIC "\0\0\1\0\37\0\0\0", 16);
    assert_memory_equal(bytes + BLOB_OFFSET_INSTANCE, identity.instance, INSTANCE_ID_SIZE);
    assert_memory_equal(bytes + BLOB_OFFSET_VERSION, "\7\0\0\0\0\0\0\0", 8);
    assert_memory_equal(bytes + BLOB_OFFSET_MRENCLAVE, fake_processor.MRENCLAVE, SGX_HASH_SIZE);
    assert_memory_equal(bytes + BLOB_OFFSET_DEVICE_TAG, sealer.device_tag, BLOB_DEVICE_TAG_SIZE);
    assert_memory_equal(bytes + BLOB_OFFSET_KEYREQUEST, &sealer.request, sizeof sealer.request);
}

static void two_seals_of_one_state_have_nothing_in_common(void **state)
{
    (void)state;
    uint8_t first[1024], second[1024];
    struct blob_sealer sealer = new_sealer();
    seal(&sealer, first, sizeof first);
    seal(&sealer, second, sizeof second);
    assert_memory_not_equal(first + BLOB_OFFSET_RANDOM, second + BLOB_OFFSET_RANDOM, BLOB_RANDOM_SIZE);
    assert_memory_not_equal(first + BLOB_HEADER_SIZE, second + BLOB_HEADER_SIZE, sizeof plaintext);
}

static void an_output_too_small_gets_nothing(void **state)
{
    (void)state;
    uint8_t bytes[1024];
    struct blob_sealer sealer = new_sealer();
    struct writer w = writer_of(bytes, blob_size(sizeof plaintext) - 1);
    assert_err(blob_seal(&crypto, &sealer, &identity, span_of(plaintext, sizeof plaintext), &w), NO_SPACE);
    assert_int_equal(w.size, 0);
}

static void a_state_too_large_for_the_format_is_refused(void **state)
{
    (void)state;
    static uint8_t large[BLOB_PLAINTEXT_MAX + 1], bytes[STATE_MAX + 1];
    struct blob_sealer sealer = new_sealer();
    struct writer w = writer_of(bytes, sizeof bytes);
    assert_err(blob_seal(&crypto, &sealer, &identity, span_of(large, sizeof large), &w), TOO_LARGE);
    assert_ok(blob_seal(&crypto, &sealer, &identity, span_of(large, sizeof large - 1), &w));
    assert_int_equal(w.size, STATE_MAX);
}

static void newer_firmware_and_image_version_open_older_state(void **state)
{
    (void)state;
    uint8_t bytes[1024];
    struct blob_sealer sealer = new_sealer();
    struct span blob = seal(&sealer, bytes, sizeof bytes);
    fake_processor.CPUSVN[0]++;
    fake_processor.ISVSVN++;
    struct blob_sealer newer = new_sealer();
    struct blob_state opened;
    assert_ok(blob_open(&crypto, &newer, blob, identity.instance, &opened));
    blob_state_free(&opened);
}

static void another_allowed_xfrm_opens_the_state(void **state)
{
    (void)state;
    uint8_t bytes[1024];
    struct blob_sealer sealer = new_sealer();
    struct span blob = seal(&sealer, bytes, sizeof bytes);
    fake_processor.XFRM |= SGX_XFRM_AVX;
    struct blob_sealer wider = new_sealer();
    struct blob_state opened;
    assert_ok(blob_open(&crypto, &wider, blob, identity.instance, &opened));
    blob_state_free(&opened);
}

static int init(void **state)
{
    (void)state;
    return crypto_init(&crypto).code;
}

static int reset(void **state)
{
    (void)state;
    fake_runtime_reset();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_later_life_opens_what_was_sealed, reset),
        cmocka_unit_test_setup(each_life_has_a_root_key_of_its_own, reset),
        cmocka_unit_test_setup(the_layout_is_that_of_the_format, reset),
        cmocka_unit_test_setup(two_seals_of_one_state_have_nothing_in_common, reset),
        cmocka_unit_test_setup(an_output_too_small_gets_nothing, reset),
        cmocka_unit_test_setup(a_state_too_large_for_the_format_is_refused, reset),
        cmocka_unit_test_setup(newer_firmware_and_image_version_open_older_state, reset),
        cmocka_unit_test_setup(another_allowed_xfrm_opens_the_state, reset),
    };
    return cmocka_run_group_tests_name("blob", tests, init, NULL);
}
