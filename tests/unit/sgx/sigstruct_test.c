/* SIGSTRUCT: the signer against vectors, and what EINIT must refuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>

#include "tests/unit/sgx/sample.h"
#include "untrusted/cli/signature.h"
#include "untrusted/sgx/image.h"
#include "untrusted/sgx/sigstruct.h"

struct vector {
    uint8_t mrenclave[SGX_HASH_SIZE];
    uint8_t sigstruct[SGX_HASH_SIZE]; /* SHA-256 of the whole SIGSTRUCT */
};

static const struct vector vectors[] = {
    {{0x3E, 0xB9, 0x24, 0xAE, 0x27, 0xDA, 0x02, 0x38, 0x99, 0x7D, 0x7C, 0x1E, 0x28, 0x58, 0xC7, 0x43,
      0x62, 0x09, 0x54, 0x77, 0xC1, 0xDD, 0x14, 0xF3, 0xBA, 0x1C, 0xC2, 0xC2, 0x4D, 0x1F, 0x37, 0x9D},
     {0xD3, 0xD0, 0xB3, 0xEA, 0x57, 0x26, 0x7E, 0x41, 0xC4, 0xE3, 0x83, 0xB3, 0x21, 0xD9, 0x6B, 0x38,
      0x31, 0x9C, 0x67, 0xBB, 0x66, 0xAA, 0x9B, 0x22, 0x7E, 0x43, 0x01, 0x8A, 0xDC, 0xB7, 0xE4, 0x16}},
    {{0x0F, 0xA5, 0xE8, 0x10, 0xA9, 0x30, 0x61, 0x80, 0x01, 0x12, 0xD4, 0x15, 0xEE, 0xDB, 0xBE, 0xCD,
      0x71, 0xFD, 0xC9, 0x96, 0xC1, 0xEE, 0x61, 0xAB, 0x0E, 0xD0, 0x34, 0x28, 0x99, 0xCC, 0x8C, 0x72},
     {0x8C, 0x57, 0x8E, 0x6D, 0xE7, 0x27, 0xE3, 0x07, 0xCC, 0xB1, 0xAF, 0x9B, 0xA6, 0xAF, 0xFC, 0x4E,
      0x71, 0xB1, 0x02, 0x98, 0x36, 0x31, 0x60, 0xE6, 0x2E, 0x8E, 0xE9, 0x4B, 0xED, 0xC9, 0x30, 0x1C}},
    {{0x92, 0xDE, 0xC2, 0x8A, 0xCB, 0xB1, 0x56, 0x71, 0xDE, 0x46, 0xE4, 0x0A, 0xA6, 0x41, 0x03, 0xBB,
      0x3A, 0x09, 0x70, 0x9A, 0x4C, 0x3F, 0x06, 0x90, 0xAB, 0x7A, 0x32, 0x76, 0x11, 0xA1, 0xF1, 0xF3},
     {0x3D, 0xB7, 0xB2, 0x9D, 0x2F, 0x07, 0xE6, 0xDA, 0x72, 0xCB, 0xAA, 0x57, 0xC7, 0x7C, 0xD5, 0xE3,
      0x3C, 0x6B, 0x4D, 0xAE, 0x42, 0xAB, 0x22, 0x2A, 0xA0, 0x3F, 0x32, 0x3A, 0x0B, 0x91, 0x01, 0xA2}},
};

static const uint8_t mrsigner_of_sample_key[SGX_HASH_SIZE] = {
    0x9A, 0x01, 0xAB, 0x8E, 0x52, 0xF4, 0x3B, 0x74, 0x89, 0xE9, 0x56, 0x3F, 0xE7, 0xE7, 0x0F, 0x66,
    0x5E, 0x38, 0x4C, 0xCD, 0x0B, 0x83, 0xD0, 0x55, 0xBE, 0x0E, 0xCA, 0x02, 0xCD, 0x9B, 0xCE, 0x50};

/* A validly signed SIGSTRUCT, with masks that leave DEBUG and the AVX family open */
static void make(const uint8_t mrenclave[SGX_HASH_SIZE], struct sgx_sigstruct *out_sigstruct)
{
    struct identity identity = {
        .attributes = {.FLAGS = SGX_FLAGS_MODE64BIT, .XFRM = SGX_XFRM_LEGACY},
        .isvprodid = 7,
        .isvsvn = 3,
        .date = 0x20250101,
    };
    memcpy(identity.mrenclave, mrenclave, sizeof identity.mrenclave);
    signature_prepare(&identity, out_sigstruct);
    out_sigstruct->ATTRIBUTEMASK.FLAGS = ~SGX_FLAGS_DEBUG;
    out_sigstruct->ATTRIBUTEMASK.XFRM = UINT64_C(0xFFFFFFFFFFFFFF1B);
    EVP_PKEY *key = sample_key();
    assert_int_equal(signature_sign(out_sigstruct, key).code, ERR_NONE);
    EVP_PKEY_free(key);
}

static struct sgx_secs secs_of(const struct sgx_sigstruct *s)
{
    return (struct sgx_secs){.ATTRIBUTES = s->ATTRIBUTES, .MISCSELECT = s->MISCSELECT};
}

static void signing_gives_the_vectors_byte_for_byte(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        struct sgx_sigstruct s;
        uint8_t hash[SGX_HASH_SIZE];
        make(vectors[i].mrenclave, &s);
        assert_int_equal(EVP_Digest(&s, sizeof s, hash, NULL, EVP_sha256(), NULL), 1);
        assert_memory_equal(hash, vectors[i].sigstruct, sizeof hash);
    }
}

static void mrsigner_is_the_hash_of_the_modulus_as_stored(void **state)
{
    (void)state;
    struct sgx_sigstruct s;
    uint8_t mrsigner[SGX_HASH_SIZE];
    make(vectors[0].mrenclave, &s);
    assert_int_equal(sigstruct_mrsigner(&s, mrsigner).code, ERR_NONE);
    assert_memory_equal(mrsigner, mrsigner_of_sample_key, sizeof mrsigner);
}

static void message_is_the_two_signed_parts(void **state)
{
    (void)state;
    struct sgx_sigstruct s;
    uint8_t message[2 * SGX_SIGNED_PART_SIZE];
    make(vectors[0].mrenclave, &s);
    sigstruct_message(&s, message);
    assert_memory_equal(message, &s, 128);
    assert_memory_equal(message + 128, (const uint8_t *)&s + 900, 128);
}

static void valid_one_is_accepted(void **state)
{
    (void)state;
    struct sgx_sigstruct s;
    make(vectors[1].mrenclave, &s);
    assert_int_equal(sigstruct_verify(&s).code, ERR_NONE);
}

static void every_changed_byte_is_refused(void **state)
{
    (void)state;
    struct sgx_sigstruct s;
    make(vectors[1].mrenclave, &s);
    for (size_t i = 0; i < sizeof s; i++) {
        struct sgx_sigstruct changed = s;
        ((uint8_t *)&changed)[i] ^= 0x20;
        if (sigstruct_verify(&changed).code == ERR_NONE) fail_msg("byte %zu was changed, and it verifies", i);
    }
}

struct change {
    const char *name;
    size_t offset;
    uint16_t expected;
};

static const struct change changes[] = {
    {"HEADER", offsetof(struct sgx_sigstruct, HEADER), ERR_SGX_SIG_STRUCT},
    {"VENDOR", offsetof(struct sgx_sigstruct, VENDOR), ERR_SGX_SIG_STRUCT},
    {"DATE", offsetof(struct sgx_sigstruct, DATE), ERR_SGX_SIGNATURE},
    {"HEADER2", offsetof(struct sgx_sigstruct, HEADER2), ERR_SGX_SIG_STRUCT},
    {"SWDEFINED", offsetof(struct sgx_sigstruct, SWDEFINED), ERR_SGX_SIGNATURE},
    {"reserved1", offsetof(struct sgx_sigstruct, reserved1) + 83, ERR_SGX_SIG_STRUCT},
    {"MODULUS", offsetof(struct sgx_sigstruct, MODULUS), ERR_SGX_SIGNATURE},
    {"EXPONENT", offsetof(struct sgx_sigstruct, EXPONENT), ERR_SGX_SIG_STRUCT},
    {"SIGNATURE", offsetof(struct sgx_sigstruct, SIGNATURE), ERR_SGX_SIGNATURE},
    {"MISCSELECT", offsetof(struct sgx_sigstruct, MISCSELECT), ERR_SGX_SIGNATURE},
    {"CET_ATTRIBUTES without CET", offsetof(struct sgx_sigstruct, CET_ATTRIBUTES), ERR_SGX_SIG_STRUCT},
    {"CET_ATTRIBUTES_MASK without CET", offsetof(struct sgx_sigstruct, CET_ATTRIBUTES_MASK), ERR_SGX_SIG_STRUCT},
    {"reserved2", offsetof(struct sgx_sigstruct, reserved2), ERR_SGX_SIG_STRUCT},
    {"ISVFAMILYID without KSS", offsetof(struct sgx_sigstruct, ISVFAMILYID), ERR_SGX_SIG_STRUCT},
    {"ENCLAVEHASH", offsetof(struct sgx_sigstruct, ENCLAVEHASH), ERR_SGX_SIGNATURE},
    {"reserved3", offsetof(struct sgx_sigstruct, reserved3) + 15, ERR_SGX_SIG_STRUCT},
    {"ISVEXTPRODID without KSS", offsetof(struct sgx_sigstruct, ISVEXTPRODID) + 15, ERR_SGX_SIG_STRUCT},
    {"ISVSVN", offsetof(struct sgx_sigstruct, ISVSVN), ERR_SGX_SIGNATURE},
    {"reserved4", offsetof(struct sgx_sigstruct, reserved4) + 11, ERR_SGX_SIG_STRUCT},
    {"Q1", offsetof(struct sgx_sigstruct, Q1), ERR_SGX_SIGNATURE},
    {"Q2", offsetof(struct sgx_sigstruct, Q2), ERR_SGX_SIGNATURE},
};

static void change_is_refused_in_the_words_of_einit(void **state)
{
    const struct change *change = *state;
    struct sgx_sigstruct s;
    make(vectors[1].mrenclave, &s);
    ((uint8_t *)&s)[change->offset] ^= 1;
    assert_int_equal(sigstruct_verify(&s).code, change->expected);
}

static void modulus_of_fewer_bits_is_refused(void **state)
{
    (void)state;
    struct sgx_sigstruct s;
    make(vectors[1].mrenclave, &s);
    s.MODULUS[SGX_RSA_SIZE - 1] &= 0x7F;
    assert_int_equal(sigstruct_verify(&s).code, ERR_SGX_SIGNATURE);
}

static BIGNUM *number(const uint8_t bytes[SGX_RSA_SIZE])
{
    return BN_lebin2bn(bytes, SGX_RSA_SIZE, NULL);
}

static void store(BIGNUM *value, uint8_t out_bytes[SGX_RSA_SIZE])
{
    assert_int_equal(BN_bn2lebinpad(value, out_bytes, SGX_RSA_SIZE), SGX_RSA_SIZE);
    BN_free(value);
}

/* Q1 - 1 and Q2 + SIGNATURE give the same padded message, by way of a remainder above the modulus. */
static void quotients_that_only_cancel_out_are_refused(void **state)
{
    (void)state;
    struct sgx_sigstruct s;
    make(vectors[1].mrenclave, &s);
    BIGNUM *q1 = number(s.Q1), *q2 = number(s.Q2), *signature = number(s.SIGNATURE);
    assert_true(BN_sub_word(q1, 1));
    assert_true(BN_add(q2, q2, signature));
    BN_free(signature);
    store(q1, s.Q1);
    store(q2, s.Q2);
    assert_int_equal(sigstruct_verify(&s).code, ERR_SGX_SIGNATURE);
}

/* The padded message of s, raised to the private exponent of a key that is a byte too short */
static void sign_with_short_key(const struct sgx_sigstruct *s, BIGNUM *n, BIGNUM *d,
                                uint8_t out_signature[SGX_RSA_SIZE])
{
    static const char digest_info[] = "3031300d060960864801650304020105000420";
    uint8_t message[2 * SGX_SIGNED_PART_SIZE], digest[SGX_HASH_SIZE];
    sigstruct_message(s, message);
    assert_int_equal(EVP_Digest(message, sizeof message, digest, NULL, EVP_sha256(), NULL), 1);
    char text[2 * SGX_RSA_SIZE + 1] = "0001";
    memset(text + 4, 'f', sizeof text - 5);
    char *info = text + 2 * (SGX_RSA_SIZE - 19 - SGX_HASH_SIZE);
    memcpy(info - 2, "00", 2);
    memcpy(info, digest_info, 38);
    for (size_t i = 0; i < sizeof digest; i++)
        (void)snprintf(info + 38 + 2 * i, 3, "%02x", digest[i]);
    BIGNUM *padded = NULL;
    BN_CTX *pool = BN_CTX_new();
    assert_int_equal(BN_hex2bn(&padded, text), 2 * SGX_RSA_SIZE);
    assert_true(BN_mod_exp(padded, padded, d, n, pool));
    assert_int_equal(BN_bn2binpad(padded, out_signature, SGX_RSA_SIZE), SGX_RSA_SIZE);
    BN_free(padded);
    BN_CTX_free(pool);
}

static void modulus_of_fewer_bits_with_its_own_signature_is_refused(void **state)
{
    (void)state;
    struct sgx_sigstruct s;
    uint8_t signature[SGX_RSA_SIZE];
    make(vectors[1].mrenclave, &s);
    EVP_PKEY *key = sample_short_key();
    BIGNUM *n = NULL, *d = NULL;
    assert_int_equal(EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_N, &n), 1);
    assert_int_equal(EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_D, &d), 1);
    sign_with_short_key(&s, n, d, signature);
    assert_int_equal(signature_attach(&s, key, signature).code, ERR_SGX_SIGNATURE);
    BN_free(n);
    BN_free(d);
    EVP_PKEY_free(key);
}

static void signature_of_another_message_is_not_attached(void **state)
{
    (void)state;
    struct sgx_sigstruct s, other;
    make(vectors[0].mrenclave, &s);
    make(vectors[1].mrenclave, &other);
    uint8_t signature[SGX_RSA_SIZE];
    for (size_t i = 0; i < sizeof signature; i++)
        signature[i] = other.SIGNATURE[SGX_RSA_SIZE - 1 - i];
    const struct sgx_sigstruct before = s;
    EVP_PKEY *key = sample_key();
    assert_int_equal(signature_attach(&s, key, signature).code, ERR_SGX_SIGNATURE);
    EVP_PKEY_free(key);
    assert_memory_equal(&s, &before, sizeof s);
}

static void matching_enclave_is_accepted(void **state)
{
    (void)state;
    struct sgx_sigstruct s;
    make(vectors[0].mrenclave, &s);
    const struct sgx_secs secs = secs_of(&s);
    assert_int_equal(sigstruct_matches(&s, &secs, vectors[0].mrenclave).code, ERR_NONE);
}

static void other_pages_do_not_match(void **state)
{
    (void)state;
    struct sgx_sigstruct s;
    make(vectors[0].mrenclave, &s);
    const struct sgx_secs secs = secs_of(&s);
    assert_int_equal(sigstruct_matches(&s, &secs, vectors[1].mrenclave).code, ERR_SGX_MEASUREMENT);
}

static void masked_flag_does_not_match(void **state)
{
    (void)state;
    struct sgx_sigstruct s;
    make(vectors[0].mrenclave, &s);
    struct sgx_secs secs = secs_of(&s);
    secs.ATTRIBUTES.FLAGS |= SGX_FLAGS_PROVISIONKEY;
    assert_int_equal(sigstruct_matches(&s, &secs, vectors[0].mrenclave).code, ERR_SGX_ATTRIBUTE);
}

static void flag_outside_the_mask_matches(void **state)
{
    (void)state;
    struct sgx_sigstruct s;
    make(vectors[0].mrenclave, &s);
    struct sgx_secs secs = secs_of(&s);
    secs.ATTRIBUTES.FLAGS |= SGX_FLAGS_DEBUG;
    assert_int_equal(sigstruct_matches(&s, &secs, vectors[0].mrenclave).code, ERR_NONE);
}

static void debug_does_not_match_what_vtpm_sign_states(void **state)
{
    (void)state;
    struct identity identity = {.attributes = {.FLAGS = SGX_FLAGS_MODE64BIT, .XFRM = SGX_XFRM_LEGACY}};
    struct sgx_sigstruct s;
    signature_prepare(&identity, &s);
    struct sgx_secs secs = secs_of(&s);
    secs.ATTRIBUTES.FLAGS |= SGX_FLAGS_DEBUG;
    assert_int_equal(sigstruct_matches(&s, &secs, identity.mrenclave).code, ERR_SGX_ATTRIBUTE);
}

static void masked_xfrm_does_not_match(void **state)
{
    (void)state;
    struct sgx_sigstruct s;
    make(vectors[0].mrenclave, &s);
    struct sgx_secs secs = secs_of(&s);
    secs.ATTRIBUTES.XFRM |= SGX_XFRM_PKRU;
    assert_int_equal(sigstruct_matches(&s, &secs, vectors[0].mrenclave).code, ERR_SGX_ATTRIBUTE);
}

static void masked_miscselect_does_not_match(void **state)
{
    (void)state;
    struct sgx_sigstruct s;
    make(vectors[0].mrenclave, &s);
    struct sgx_secs secs = secs_of(&s);
    secs.MISCSELECT = 1;
    assert_int_equal(sigstruct_matches(&s, &secs, vectors[0].mrenclave).code, ERR_SGX_ATTRIBUTE);
}

static void masked_cet_attribute_does_not_match(void **state)
{
    (void)state;
    struct sgx_sigstruct s;
    make(vectors[0].mrenclave, &s);
    s.CET_ATTRIBUTES_MASK = 0xFF;
    struct sgx_secs secs = secs_of(&s);
    secs.CET_ATTRIBUTES = 1;
    assert_int_equal(sigstruct_matches(&s, &secs, vectors[0].mrenclave).code, ERR_SGX_ATTRIBUTE);
}

static const struct CMUnitTest fixed_tests[] = {
    cmocka_unit_test(signing_gives_the_vectors_byte_for_byte),
    cmocka_unit_test(mrsigner_is_the_hash_of_the_modulus_as_stored),
    cmocka_unit_test(message_is_the_two_signed_parts),
    cmocka_unit_test(valid_one_is_accepted),
    cmocka_unit_test(every_changed_byte_is_refused),
    cmocka_unit_test(modulus_of_fewer_bits_is_refused),
    cmocka_unit_test(signature_of_another_message_is_not_attached),
    cmocka_unit_test(matching_enclave_is_accepted),
    cmocka_unit_test(other_pages_do_not_match),
    cmocka_unit_test(masked_flag_does_not_match),
    cmocka_unit_test(flag_outside_the_mask_matches),
    cmocka_unit_test(debug_does_not_match_what_vtpm_sign_states),
    cmocka_unit_test(masked_xfrm_does_not_match),
    cmocka_unit_test(masked_miscselect_does_not_match),
    cmocka_unit_test(masked_cet_attribute_does_not_match),
    cmocka_unit_test(quotients_that_only_cancel_out_are_refused),
    cmocka_unit_test(modulus_of_fewer_bits_with_its_own_signature_is_refused),
};
#define FIXED_TESTS (sizeof fixed_tests / sizeof *fixed_tests)
#define CHANGES     (sizeof changes / sizeof *changes)

int main(void)
{
    struct CMUnitTest tests[FIXED_TESTS + CHANGES];
    memcpy(tests, fixed_tests, sizeof fixed_tests);
    for (size_t i = 0; i < CHANGES; i++)
        tests[FIXED_TESTS + i] = (struct CMUnitTest){
            .name = changes[i].name,
            .test_func = change_is_refused_in_the_words_of_einit,
            .initial_state = (void *)(uintptr_t)&changes[i],
        };
    return cmocka_run_group_tests_name("sigstruct", tests, NULL, NULL);
}
