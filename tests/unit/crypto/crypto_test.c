#include "tests/fakes/assertions.h"

#include <string.h>

#include <openssl/evp.h>

#include "crypto/aead.h"
#include "crypto/hkdf.h"

static struct crypto crypto;

/* RFC 5869, A.1 */
static const uint8_t rfc_key[22] = {0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b,
                                    0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b};
static const uint8_t rfc_salt[13] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
static const uint8_t rfc_info[10] = {0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9};
static const uint8_t rfc_okm[42] = {0x3c, 0xb2, 0x5f, 0x25, 0xfa, 0xac, 0xd5, 0x7a, 0x90, 0x43, 0x4f, 0x64, 0xd0, 0x36,
                                    0x2f, 0x2a, 0x2d, 0x2d, 0x0a, 0x90, 0xcf, 0x1a, 0x5a, 0x4c, 0x5d, 0xb0, 0x2d, 0x56,
                                    0xec, 0xc4, 0xc5, 0xbf, 0x34, 0x00, 0x72, 0x08, 0xd5, 0xb8, 0x87, 0x18, 0x58, 0x65};
/* The same key with no salt and another info, computed with Python's hmac */
static const uint8_t unsalted_okm[42] = {0x8e, 0x99, 0x15, 0xd6, 0xca, 0x05, 0x6f, 0xe9, 0x3d, 0x29, 0x5b,
                                         0xc5, 0x6c, 0xbf, 0x97, 0x95, 0xf8, 0x34, 0xf0, 0xfb, 0xf8, 0x3a,
                                         0x1b, 0xf3, 0x96, 0xa9, 0x8b, 0x33, 0x78, 0x9a, 0xa7, 0xa9, 0x03,
                                         0xc8, 0x8f, 0x8d, 0xd9, 0xfc, 0xd1, 0xe1, 0x1d, 0xc7};

static void derive_case_1(uint8_t out[42])
{
    assert_ok(hkdf_sha256(&crypto, span_of(rfc_key, 22), span_of(rfc_salt, 13), span_of(rfc_info, 10), out, 42));
}

static void hkdf_gives_the_rfc_answer(void **state)
{
    (void)state;
    uint8_t out[42];
    derive_case_1(out);
    assert_memory_equal(out, rfc_okm, sizeof out);
}

static void hkdf_takes_nothing_from_the_call_before(void **state)
{
    (void)state;
    uint8_t out[42];
    derive_case_1(out);
    assert_ok(hkdf_sha256(&crypto, span_of(rfc_key, 22), span_empty(), span_of("other", 5), out, sizeof out));
    assert_memory_equal(out, unsalted_okm, sizeof out);
    derive_case_1(out);
    assert_memory_equal(out, rfc_okm, sizeof out);
}

static void hkdf_refuses_more_than_it_can_give(void **state)
{
    (void)state;
    static uint8_t out[HKDF_SHA256_MAX + 1];
    assert_ok(hkdf_sha256(&crypto, span_of(rfc_key, 22), span_empty(), span_of("other", 5), out, HKDF_SHA256_MAX));
    assert_err(hkdf_sha256(&crypto, span_of(rfc_key, 22), span_empty(), span_of("other", 5), out, sizeof out),
               TOO_LARGE);
}

static void hkdf_refuses_to_go_without_info(void **state)
{
    (void)state;
    uint8_t out[32];
    assert_err(hkdf_sha256(&crypto, span_of(rfc_key, 22), span_empty(), span_empty(), out, sizeof out), BAD_VALUE);
}

/* The Galois/Counter Mode of Operation (McGrew, Viega), test case 16 */
static const struct aead_key gcm_key = {.key = {0xfe, 0xff, 0xe9, 0x92, 0x86, 0x65, 0x73, 0x1c, 0x6d, 0x6a, 0x8f,
                                                0x94, 0x67, 0x30, 0x83, 0x08, 0xfe, 0xff, 0xe9, 0x92, 0x86, 0x65,
                                                0x73, 0x1c, 0x6d, 0x6a, 0x8f, 0x94, 0x67, 0x30, 0x83, 0x08},
                                        .iv = {0xca, 0xfe, 0xba, 0xbe, 0xfa, 0xce, 0xdb, 0xad, 0xde, 0xca, 0xf8, 0x88}};
static const uint8_t gcm_aad[20] = {0xfe, 0xed, 0xfa, 0xce, 0xde, 0xad, 0xbe, 0xef, 0xfe, 0xed,
                                    0xfa, 0xce, 0xde, 0xad, 0xbe, 0xef, 0xab, 0xad, 0xda, 0xd2};
static const uint8_t gcm_plaintext[60] = {0xd9, 0x31, 0x32, 0x25, 0xf8, 0x84, 0x06, 0xe5, 0xa5, 0x59, 0x09, 0xc5,
                                          0xaf, 0xf5, 0x26, 0x9a, 0x86, 0xa7, 0xa9, 0x53, 0x15, 0x34, 0xf7, 0xda,
                                          0x2e, 0x4c, 0x30, 0x3d, 0x8a, 0x31, 0x8a, 0x72, 0x1c, 0x3c, 0x0c, 0x95,
                                          0x95, 0x68, 0x09, 0x53, 0x2f, 0xcf, 0x0e, 0x24, 0x49, 0xa6, 0xb5, 0x25,
                                          0xb1, 0x6a, 0xed, 0xf5, 0xaa, 0x0d, 0xe6, 0x57, 0xba, 0x63, 0x7b, 0x39};
static const uint8_t gcm_ciphertext[60] = {0x52, 0x2d, 0xc1, 0xf0, 0x99, 0x56, 0x7d, 0x07, 0xf4, 0x7f, 0x37, 0xa3,
                                           0x2a, 0x84, 0x42, 0x7d, 0x64, 0x3a, 0x8c, 0xdc, 0xbf, 0xe5, 0xc0, 0xc9,
                                           0x75, 0x98, 0xa2, 0xbd, 0x25, 0x55, 0xd1, 0xaa, 0x8c, 0xb0, 0x8e, 0x48,
                                           0x59, 0x0d, 0xbb, 0x3d, 0xa7, 0xb0, 0x8b, 0x10, 0x56, 0x82, 0x88, 0x38,
                                           0xc5, 0xf6, 0x1e, 0x63, 0x93, 0xba, 0x7a, 0x0a, 0xbc, 0xc9, 0xf6, 0x62};
static const uint8_t gcm_tag[16] = {0x76, 0xfc, 0x6e, 0xce, 0x0f, 0x4e, 0x17, 0x68,
                                    0xcd, 0xdf, 0x88, 0x53, 0xbb, 0x2d, 0x55, 0x1b};

static struct err open_gcm(struct span ciphertext, uint8_t *out)
{
    return aead_open(&crypto, &gcm_key, span_of(gcm_aad, sizeof gcm_aad), ciphertext, gcm_tag, out);
}

static void aead_seals_to_the_known_answer(void **state)
{
    (void)state;
    uint8_t out[60], tag[16];
    assert_ok(aead_seal(&crypto, &gcm_key, span_of(gcm_aad, sizeof gcm_aad),
                        span_of(gcm_plaintext, sizeof gcm_plaintext), out, tag));
    assert_memory_equal(out, gcm_ciphertext, sizeof out);
    assert_memory_equal(tag, gcm_tag, sizeof tag);
}

static void aead_opens_the_known_answer(void **state)
{
    (void)state;
    uint8_t out[60];
    assert_ok(open_gcm(span_of(gcm_ciphertext, sizeof gcm_ciphertext), out));
    assert_memory_equal(out, gcm_plaintext, sizeof out);
}

static void aead_leaves_zeros_of_what_was_altered(void **state)
{
    (void)state;
    uint8_t altered[60], out[60];
    static const uint8_t zeros[60];
    memcpy(altered, gcm_ciphertext, sizeof altered);
    altered[59] ^= 1;
    assert_err(open_gcm(span_of(altered, sizeof altered), out), AUTHENTICATION);
    assert_memory_equal(out, zeros, sizeof out);
}

static void aead_takes_an_empty_plaintext(void **state)
{
    (void)state;
    uint8_t tag[16], none[1];
    assert_ok(aead_seal(&crypto, &gcm_key, span_of(gcm_aad, sizeof gcm_aad), span_empty(), none, tag));
    assert_ok(aead_open(&crypto, &gcm_key, span_of(gcm_aad, sizeof gcm_aad), span_empty(), tag, none));
    tag[0] ^= 1;
    assert_err(aead_open(&crypto, &gcm_key, span_of(gcm_aad, sizeof gcm_aad), span_empty(), tag, none), AUTHENTICATION);
}

/* libtpms looks them up by these names, and crypto_init keeps libcrypto from adding all there are. */
static void libtpms_digests_are_there_and_no_others(void **state)
{
    (void)state;
    static const char *const names[] = {"sha1", "sha256", "sha384", "sha512"};
    for (size_t i = 0; i < 4; i++)
        assert_non_null(EVP_get_digestbyname(names[i]));
    assert_null(EVP_get_digestbyname("md4"));
}

/* The same message through one cipher after another message: nothing is left of the one before. */
static void a_cipher_gives_the_known_answer_each_time(void **state)
{
    (void)state;
    struct aead_cipher seal = {0}, opener = {0};
    uint8_t out[60], tag[16];
    static const uint8_t other_iv[12] = {1};
    assert_ok(aead_cipher_open(&crypto, gcm_key.key, true, &seal));
    assert_ok(aead_cipher_open(&crypto, gcm_key.key, false, &opener));
    for (int i = 0; i < 3; i++) {
        assert_ok(aead_cipher_seal(&seal, other_iv, span_empty(), span_of("x", i % 2), out, tag));
        assert_ok(aead_cipher_open_message(&opener, other_iv, span_empty(), span_of(out, i % 2), tag, out));
        assert_ok(aead_cipher_seal(&seal, gcm_key.iv, span_of(gcm_aad, sizeof gcm_aad),
                                   span_of(gcm_plaintext, sizeof gcm_plaintext), out, tag));
        assert_memory_equal(out, gcm_ciphertext, sizeof out);
        assert_memory_equal(tag, gcm_tag, sizeof tag);
        assert_ok(aead_cipher_open_message(&opener, gcm_key.iv, span_of(gcm_aad, sizeof gcm_aad),
                                           span_of(gcm_ciphertext, sizeof gcm_ciphertext), gcm_tag, out));
        assert_memory_equal(out, gcm_plaintext, sizeof out);
    }
    aead_cipher_close(&seal);
    aead_cipher_close(&opener);
}

static void a_cipher_goes_on_after_a_message_that_was_altered(void **state)
{
    (void)state;
    struct aead_cipher opener = {0};
    static const uint8_t zeros[60];
    uint8_t out[60], tag[16];
    struct span aad = span_of(gcm_aad, sizeof gcm_aad), ciphertext = span_of(gcm_ciphertext, sizeof gcm_ciphertext);
    memcpy(tag, gcm_tag, sizeof tag);
    tag[15] ^= 0x80;
    assert_ok(aead_cipher_open(&crypto, gcm_key.key, false, &opener));
    assert_err(aead_cipher_open_message(&opener, gcm_key.iv, aad, ciphertext, tag, out), AUTHENTICATION);
    assert_memory_equal(out, zeros, sizeof out);
    assert_ok(aead_cipher_open_message(&opener, gcm_key.iv, aad, ciphertext, gcm_tag, out));
    assert_err(aead_cipher_open_message(&opener, gcm_key.iv, span_empty(), ciphertext, gcm_tag, out), AUTHENTICATION);
    aead_cipher_close(&opener);
}

static void closing_a_closed_cipher_does_nothing(void **state)
{
    (void)state;
    struct aead_cipher cipher = {0};
    aead_cipher_close(&cipher);
    assert_ok(aead_cipher_open(&crypto, gcm_key.key, true, &cipher));
    aead_cipher_close(&cipher);
    aead_cipher_close(&cipher);
    assert_null(cipher.ctx);
}

static int init(void **state)
{
    (void)state;
    return crypto_init(&crypto).code;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hkdf_gives_the_rfc_answer),
        cmocka_unit_test(hkdf_takes_nothing_from_the_call_before),
        cmocka_unit_test(hkdf_refuses_more_than_it_can_give),
        cmocka_unit_test(hkdf_refuses_to_go_without_info),
        cmocka_unit_test(aead_seals_to_the_known_answer),
        cmocka_unit_test(aead_opens_the_known_answer),
        cmocka_unit_test(aead_leaves_zeros_of_what_was_altered),
        cmocka_unit_test(aead_takes_an_empty_plaintext),
        cmocka_unit_test(a_cipher_gives_the_known_answer_each_time),
        cmocka_unit_test(a_cipher_goes_on_after_a_message_that_was_altered),
        cmocka_unit_test(closing_a_closed_cipher_does_nothing),
        cmocka_unit_test(libtpms_digests_are_there_and_no_others),
    };
    return cmocka_run_group_tests_name("crypto", tests, init, NULL);
}
