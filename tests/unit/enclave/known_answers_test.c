/*
 * Known answers from the TPM in the real enclave, where libcrypto was linked with redirections that an ordinary build
 * does not have (enclave/meson.build): AES through AES-NI, a provider cut down, CPUID answered by ourselves.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/sha.h>

#include "base/bytes.h"
#include "tests/hostile/live.h"

#define TPM_ST_NO_SESSIONS  0x8001u
#define TPM_ST_SESSIONS     0x8002u
#define TPM_CC_LoadExternal UINT32_C(0x167)
#define TPM_CC_SelfTest     UINT32_C(0x143)
#define TPM_CC_MAC          UINT32_C(0x155)
#define TPM_CC_Hash         UINT32_C(0x17D)
#define TPM_RH_NULL         UINT32_C(0x40000007)
#define TPM_RS_PW           UINT32_C(0x40000009)
#define TPM_ALG_AES         0x0006u
#define TPM_ALG_SHA256      0x000Bu
#define TPM_ALG_SYMCIPHER   0x0025u
#define TPM_ALG_CMAC        0x003Fu
#define SIGN_WITH_AUTH      UINT32_C(0x00040440) /* sign, noDA, userWithAuth */
#define HEADER_SIZE         10u

static uint8_t command[TPM_BUFFER_MAX];
static struct writer w;
static uint8_t reply[TPM_BUFFER_MAX];

static void put16(uint16_t value)
{
    assert_int_equal(write_be16(&w, value).code, 0);
}

static void put32(uint32_t value)
{
    assert_int_equal(write_be32(&w, value).code, 0);
}

/* A TPM2B: its size, then the bytes. */
static void put_sized(const void *bytes, size_t size)
{
    put16((uint16_t)size);
    assert_int_equal(write_bytes(&w, bytes, size).code, 0);
}

static void begin(uint16_t tag, uint32_t code)
{
    w = writer_of(command, sizeof command);
    put16(tag);
    put32(0); /* the size, later */
    put32(code);
}

/* Runs the command; returns the size of its response, which succeeded. */
static size_t run(void)
{
    struct writer size = writer_of(command + 2, 4);
    assert_int_equal(write_be32(&size, (uint32_t)w.size).code, 0);
    size_t reply_size = live_tpm(&live_of_group, command, w.size, reply);
    assert_memory_equal(reply + 6, "\0\0\0\0", 4);
    return reply_size;
}

/* Loads the key of RFC 4493, 4 as one that makes AES-CMAC; returns its handle's bytes in out. */
static void load_cmac_key(uint8_t out[4])
{
    static const uint8_t key[16] = {0x2B, 0x7E, 0x15, 0x16, 0x28, 0xAE, 0xD2, 0xA6,
                                    0xAB, 0xF7, 0x15, 0x88, 0x09, 0xCF, 0x4F, 0x3C};
    uint8_t seed_and_key[32 + sizeof key] = {0};
    uint8_t unique[SHA256_DIGEST_LENGTH];
    memcpy(seed_and_key + 32, key, sizeof key);
    SHA256(seed_and_key, sizeof seed_and_key, unique);

    begin(TPM_ST_NO_SESSIONS, TPM_CC_LoadExternal);
    put16(2 + 2 + 2 + 32 + 2 + sizeof key); /* TPM2B_SENSITIVE */
    put16(TPM_ALG_SYMCIPHER);
    put_sized(NULL, 0);
    put_sized(seed_and_key, 32);
    put_sized(key, sizeof key);
    put16(2 + 2 + 4 + 2 + 6 + 2 + sizeof unique); /* TPM2B_PUBLIC */
    put16(TPM_ALG_SYMCIPHER);
    put16(TPM_ALG_SHA256);
    put32(SIGN_WITH_AUTH);
    put_sized(NULL, 0);
    put16(TPM_ALG_AES);
    put16(128);
    put16(TPM_ALG_CMAC);
    put_sized(unique, sizeof unique);
    put32(TPM_RH_NULL);
    run();
    memcpy(out, reply + HEADER_SIZE, 4);
}

static void expect_cmac(const uint8_t handle[4], const void *text, size_t size, const uint8_t expected[16])
{
    begin(TPM_ST_SESSIONS, TPM_CC_MAC);
    assert_int_equal(write_bytes(&w, handle, 4).code, 0);
    put32(9);
    put32(TPM_RS_PW);
    put16(0);
    assert_int_equal(write_u8(&w, 0).code, 0);
    put16(0);
    put_sized(text, size);
    put16(TPM_ALG_CMAC);
    run();
    assert_memory_equal(reply + HEADER_SIZE + 4 + 2, expected, 16); /* behind parameterSize and the TPM2B's size */
}

static void aes_cmac_is_that_of_rfc_4493(void **state)
{
    (void)state;
    static const uint8_t text[40] = {0x6B, 0xC1, 0xBE, 0xE2, 0x2E, 0x40, 0x9F, 0x96, 0xE9, 0x3D, 0x7E, 0x11, 0x73, 0x93,
                                     0x17, 0x2A, 0xAE, 0x2D, 0x8A, 0x57, 0x1E, 0x03, 0xAC, 0x9C, 0x9E, 0xB7, 0x6F, 0xAC,
                                     0x45, 0xAF, 0x8E, 0x51, 0x30, 0xC8, 0x1C, 0x46, 0xA3, 0x5C, 0xE4, 0x11};
    static const uint8_t empty[16] = {0xBB, 0x1D, 0x69, 0x29, 0xE9, 0x59, 0x37, 0x28,
                                      0x7F, 0xA3, 0x7D, 0x12, 0x9B, 0x75, 0x67, 0x46};
    static const uint8_t block[16] = {0x07, 0x0A, 0x16, 0xB4, 0x6B, 0x4D, 0x41, 0x44,
                                      0xF7, 0x9B, 0xDD, 0x9D, 0xD0, 0x4A, 0x28, 0x7C};
    static const uint8_t forty[16] = {0xDF, 0xA6, 0x67, 0x47, 0xDE, 0x9A, 0xE6, 0x30,
                                      0x30, 0xCA, 0x32, 0x61, 0x14, 0x97, 0xC8, 0x27};
    uint8_t handle[4];
    load_cmac_key(handle);
    expect_cmac(handle, NULL, 0, empty);
    expect_cmac(handle, text, 16, block);
    expect_cmac(handle, text, 40, forty);
}

static void sha256_is_that_of_fips_180(void **state)
{
    (void)state;
    uint8_t expected[SHA256_DIGEST_LENGTH];
    SHA256((const uint8_t *)"abc", 3, expected);
    begin(TPM_ST_NO_SESSIONS, TPM_CC_Hash);
    put_sized("abc", 3);
    put16(TPM_ALG_SHA256);
    put32(TPM_RH_NULL);
    run();
    assert_memory_equal(reply + HEADER_SIZE + 2, expected, sizeof expected);
}

/* libtpms' own: its generator, every hash, every cipher in every mode, RSA, ECC; answers it knows. */
static void every_algorithm_passes_its_self_test(void **state)
{
    (void)state;
    begin(TPM_ST_NO_SESSIONS, TPM_CC_SelfTest);
    assert_int_equal(write_u8(&w, 1).code, 0);
    assert_int_equal(run(), HEADER_SIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(aes_cmac_is_that_of_rfc_4493),
        cmocka_unit_test(sha256_is_that_of_fips_180),
        cmocka_unit_test(every_algorithm_passes_its_self_test),
    };
    return cmocka_run_group_tests(tests, live_set_up, live_tear_down);
}
