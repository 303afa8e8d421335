#include "tests/fakes/assertions.h"

#include <string.h>

#include "crypto/aead.h"
#include "crypto/hkdf.h"
#include "trusted/state/blob.h"

static struct crypto crypto;
static const struct blob_header header = {
    .kind = BLOB_STATE,
    .id = {"instance under "},
    .epoch = 3,
    .version = 7,
    .number = 1234567890,
    .manager = "the manager's MRENCLAVE is here",
};
static const uint8_t root[BLOB_ROOT_SIZE] = "root of the states under test";
static const uint8_t plaintext[] = "what only the enclave may know";

static struct span root_span(void)
{
    return span_of(root, sizeof root);
}

static struct span seal(uint8_t *out, size_t capacity)
{
    struct writer w = writer_of(out, capacity);
    assert_ok(blob_seal(&crypto, root_span(), &header, span_empty(), span_of(plaintext, sizeof plaintext), &w));
    return writer_span(&w);
}

static void what_was_sealed_opens(void **state)
{
    (void)state;
    uint8_t bytes[1024];
    struct blob opened;
    assert_ok(blob_open(&crypto, root_span(), seal(bytes, sizeof bytes), BLOB_STATE, &opened));
    assert_int_equal(opened.plaintext_size, sizeof plaintext);
    assert_memory_equal(opened.plaintext, plaintext, sizeof plaintext);
    assert_int_equal(opened.header.kind, header.kind);
    assert_memory_equal(&opened.header.id, &header.id, sizeof header.id);
    assert_int_equal(opened.header.epoch, header.epoch);
    assert_int_equal(opened.header.version, header.version);
    assert_int_equal(opened.header.number, header.number);
    assert_memory_equal(opened.header.manager, header.manager, sizeof header.manager);
    blob_free(&opened);
    assert_null(opened.plaintext);
}

static void an_empty_plaintext_opens(void **state)
{
    (void)state;
    uint8_t bytes[1024];
    struct blob opened;
    struct writer w = writer_of(bytes, sizeof bytes);
    assert_ok(blob_seal(&crypto, root_span(), &header, span_empty(), span_empty(), &w));
    assert_int_equal(w.size, blob_size(BLOB_STATE, 0));
    assert_ok(blob_open(&crypto, root_span(), writer_span(&w), BLOB_STATE, &opened));
    assert_int_equal(opened.plaintext_size, 0);
    blob_free(&opened);
}

static void the_layout_is_that_of_the_format(void **state)
{
    (void)state;
    static const uint8_t zeros[8];
    uint8_t bytes[1024];
    struct span blob = seal(bytes, sizeof bytes);
    assert_int_equal(blob.size, 128 + sizeof plaintext + 16);
    assert_int_equal(blob.size, blob_size(BLOB_STATE, sizeof plaintext));
    assert_memory_equal(bytes, "VTPMSEAL\1\0\1\0\37\0\0\0", 16);
    assert_memory_equal(bytes + 16, header.id.bytes, 16);
    assert_memory_equal(bytes + 32, "\3\0\0\0\0\0\0\0", 8);
    assert_memory_equal(bytes + 40, "\7\0\0\0\0\0\0\0", 8);
    assert_memory_equal(bytes + 48, "\xd2\x02\x96\x49\0\0\0\0", 8);
    assert_memory_equal(bytes + 56, zeros, 8);
    assert_memory_equal(bytes + 64, header.manager, 32);
}

/* By hand, from the page that describes it: another implementation opens what this one seals. */
static void the_key_is_that_of_the_format(void **state)
{
    (void)state;
    uint8_t bytes[1024], opened[sizeof plaintext];
    struct span blob = seal(bytes, sizeof bytes);
    struct aead_key key;
    assert_ok(
        hkdf_sha256(&crypto, root_span(), span_of(bytes + 96, 32), span_of("vtpm blob\1\0\1\0", 13), &key, sizeof key));
    assert_ok(aead_open(&crypto, &key, span_of(bytes, 128), span_of(bytes + 128, sizeof plaintext),
                        bytes + blob.size - 16, opened));
    assert_memory_equal(opened, plaintext, sizeof plaintext);
}

static void the_roots_are_those_of_the_format(void **state)
{
    (void)state;
    uint8_t of_state[BLOB_ROOT_SIZE], of_ledger[BLOB_ROOT_SIZE], expected[BLOB_ROOT_SIZE];
    struct span salt = span_of(header.manager, sizeof header.manager);
    assert_ok(blob_state_root(&crypto, root, header.manager, of_state));
    assert_ok(hkdf_sha256(&crypto, root_span(), salt, span_of("vtpm state", 10), expected, sizeof expected));
    assert_memory_equal(of_state, expected, sizeof expected);
    assert_ok(blob_ledger_root(&crypto, root, header.manager, of_ledger));
    assert_ok(hkdf_sha256(&crypto, root_span(), salt, span_of("vtpm ledger", 11), expected, sizeof expected));
    assert_memory_equal(of_ledger, expected, sizeof expected);
}

static void a_state_root_depends_on_the_manager(void **state)
{
    (void)state;
    uint8_t other[SGX_HASH_SIZE] = {1}, first[BLOB_ROOT_SIZE], second[BLOB_ROOT_SIZE];
    assert_ok(blob_state_root(&crypto, root, header.manager, first));
    assert_ok(blob_state_root(&crypto, root, other, second));
    assert_memory_not_equal(first, second, sizeof first);
}

static void two_seals_of_one_state_have_nothing_in_common(void **state)
{
    (void)state;
    uint8_t first[1024], second[1024];
    seal(first, sizeof first);
    seal(second, sizeof second);
    assert_memory_not_equal(first + BLOB_OFFSET_RANDOM, second + BLOB_OFFSET_RANDOM, BLOB_RANDOM_SIZE);
    assert_memory_not_equal(first + BLOB_HEADER_SIZE, second + BLOB_HEADER_SIZE, sizeof plaintext);
}

static void an_output_too_small_gets_nothing(void **state)
{
    (void)state;
    uint8_t bytes[1024];
    struct writer w = writer_of(bytes, blob_size(BLOB_STATE, sizeof plaintext) - 1);
    assert_err(blob_seal(&crypto, root_span(), &header, span_empty(), span_of(plaintext, sizeof plaintext), &w),
               NO_SPACE);
    assert_int_equal(w.size, 0);
}

static void a_state_too_large_for_the_format_is_refused(void **state)
{
    (void)state;
    static uint8_t large[BLOB_PLAINTEXT_MAX + 1], bytes[STATE_MAX + 1];
    struct writer w = writer_of(bytes, sizeof bytes);
    assert_err(blob_seal(&crypto, root_span(), &header, span_empty(), span_of(large, sizeof large), &w), TOO_LARGE);
    assert_ok(blob_seal(&crypto, root_span(), &header, span_empty(), span_of(large, sizeof large - 1), &w));
    assert_int_equal(w.size, STATE_MAX);
}

static void another_root_opens_nothing(void **state)
{
    (void)state;
    uint8_t bytes[1024], other[BLOB_ROOT_SIZE] = "another root";
    struct blob opened = {0};
    struct span blob = seal(bytes, sizeof bytes);
    assert_err(blob_open(&crypto, span_of(other, sizeof other), blob, BLOB_STATE, &opened), STATE_ALTERED);
    assert_null(opened.plaintext);
}

/* A row is not a state, whatever its header is made to say: the kind makes the key. */
static void one_kind_does_not_open_as_another(void **state)
{
    (void)state;
    uint8_t bytes[1024];
    struct blob opened;
    struct span blob = seal(bytes, sizeof bytes);
    assert_err(blob_open(&crypto, root_span(), blob, BLOB_LEDGER_ROW, &opened), STATE_FORMAT);
    bytes[BLOB_OFFSET_KIND] = BLOB_LEDGER_ROW;
    assert_err(blob_open(&crypto, root_span(), blob, BLOB_LEDGER_ROW, &opened), STATE_ALTERED);
}

static void a_peek_reads_what_is_not_authenticated_yet(void **state)
{
    (void)state;
    uint8_t bytes[1024];
    struct blob_header peeked;
    struct span blob = seal(bytes, sizeof bytes);
    bytes[blob.size - 1] ^= 1;
    assert_ok(blob_peek(blob, BLOB_STATE, &peeked));
    assert_int_equal(peeked.version, header.version);
    assert_memory_equal(peeked.manager, header.manager, sizeof header.manager);
}

static const struct blob_header master = {.kind = BLOB_MASTER, .id = {"trust domain   "}, .version = 1};
static const uint8_t device_key[SGX_KEY_SIZE] = "from EGETKEY";

static struct span seal_master(uint8_t *out, size_t capacity)
{
    uint8_t keyrequest[BLOB_KEYREQUEST_SIZE] = "KEYREQUEST";
    struct writer w = writer_of(out, capacity);
    assert_ok(blob_seal(&crypto, span_of(device_key, sizeof device_key), &master,
                        span_of(keyrequest, sizeof keyrequest), span_of(plaintext, sizeof plaintext), &w));
    return writer_span(&w);
}

static void a_master_carries_its_key_request(void **state)
{
    (void)state;
    uint8_t bytes[1024];
    struct blob_header peeked;
    struct blob opened;
    struct span blob = seal_master(bytes, sizeof bytes);
    assert_int_equal(blob.size, 128 + 512 + sizeof plaintext + 16);
    assert_ok(blob_peek(blob, BLOB_MASTER, &peeked));
    assert_int_equal(blob_keyrequest(blob).size, BLOB_KEYREQUEST_SIZE);
    assert_memory_equal(blob_keyrequest(blob).data, "KEYREQUEST\0", 11);
    assert_ok(blob_open(&crypto, span_of(device_key, sizeof device_key), blob, BLOB_MASTER, &opened));
    assert_memory_equal(opened.plaintext, plaintext, sizeof plaintext);
    blob_free(&opened);
}

static void a_masters_key_request_is_authenticated(void **state)
{
    (void)state;
    uint8_t bytes[1024];
    struct blob opened;
    struct span blob = seal_master(bytes, sizeof bytes);
    for (size_t i = 0; i < BLOB_KEYREQUEST_SIZE; i++) {
        bytes[BLOB_HEADER_SIZE + i] ^= 1;
        assert_err(blob_open(&crypto, span_of(device_key, sizeof device_key), blob, BLOB_MASTER, &opened),
                   STATE_ALTERED);
        bytes[BLOB_HEADER_SIZE + i] ^= 1;
    }
}

static void only_a_master_has_a_key_request(void **state)
{
    (void)state;
    uint8_t bytes[2048], keyrequest[BLOB_KEYREQUEST_SIZE] = {0};
    struct writer w = writer_of(bytes, sizeof bytes);
    assert_err(blob_seal(&crypto, root_span(), &header, span_of(keyrequest, sizeof keyrequest), span_empty(), &w),
               BAD_VALUE);
    assert_err(blob_seal(&crypto, root_span(), &master, span_empty(), span_empty(), &w), BAD_VALUE);
    assert_int_equal(w.size, 0);
}

static int init(void **state)
{
    (void)state;
    return crypto_init(&crypto).code;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_sealed_opens),
        cmocka_unit_test(an_empty_plaintext_opens),
        cmocka_unit_test(the_layout_is_that_of_the_format),
        cmocka_unit_test(the_key_is_that_of_the_format),
        cmocka_unit_test(the_roots_are_those_of_the_format),
        cmocka_unit_test(a_state_root_depends_on_the_manager),
        cmocka_unit_test(two_seals_of_one_state_have_nothing_in_common),
        cmocka_unit_test(an_output_too_small_gets_nothing),
        cmocka_unit_test(a_state_too_large_for_the_format_is_refused),
        cmocka_unit_test(another_root_opens_nothing),
        cmocka_unit_test(one_kind_does_not_open_as_another),
        cmocka_unit_test(a_peek_reads_what_is_not_authenticated_yet),
        cmocka_unit_test(a_master_carries_its_key_request),
        cmocka_unit_test(a_masters_key_request_is_authenticated),
        cmocka_unit_test(only_a_master_has_a_key_request),
    };
    return cmocka_run_group_tests_name("blob", tests, init, NULL);
}
