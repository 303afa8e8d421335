/*
 * What a TPM computes with keys that are derived from the seeds of a given state. Linked twice: with the fast path and
 * without; fast_path_test.py lets each make what the other must agree with.
 *
 *   key_results make            writes a new permanent state to standard output
 *   key_results results STATE   prints lines "public|rsassa|zgen KEY ... HEX", which must be equal in both, and
 *                               "cipher|signature KEY ... HEX", which are random and for the other to check
 *   key_results check STATE     reads the latter from standard input, prints "good ..." or "bad ..." for each
 *   key_results time STATE      prints the shortest time that an RSA-2048 and an ECDSA P-256 signature took, in ns
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/fakes/tpm_commands.h"
#include "trusted/tpm/tpm.h"

static struct tpm tpm;
static uint8_t response_buffer[4096];

struct key {
    const char *name;
    uint32_t hierarchy;
    uint16_t rsa_bits;
    uint16_t curve;
    enum tpm_key_use use;
};

static const struct key keys[] = {
    {"owner-rsa2048", TPM_RH_OWNER, 2048, 0, TPM_KEY_SIGN},
    {"endorsement-rsa2048", TPM_RH_ENDORSEMENT, 2048, 0, TPM_KEY_SIGN},
    {"platform-rsa2048", TPM_RH_PLATFORM, 2048, 0, TPM_KEY_SIGN},
    {"owner-rsa3072", TPM_RH_OWNER, 3072, 0, TPM_KEY_SIGN},
    {"owner-rsa1024", TPM_RH_OWNER, 1024, 0, TPM_KEY_SIGN},
    {"owner-rsa2048-decrypt", TPM_RH_OWNER, 2048, 0, TPM_KEY_DECRYPT},
    {"endorsement-rsa3072-decrypt", TPM_RH_ENDORSEMENT, 3072, 0, TPM_KEY_DECRYPT},
    {"owner-p256", TPM_RH_OWNER, 0, TPM_ECC_NIST_P256, TPM_KEY_SIGN},
    {"owner-p384", TPM_RH_OWNER, 0, TPM_ECC_NIST_P384, TPM_KEY_SIGN},
    {"owner-p521", TPM_RH_OWNER, 0, TPM_ECC_NIST_P521, TPM_KEY_SIGN},
    {"platform-p256", TPM_RH_PLATFORM, 0, TPM_ECC_NIST_P256, TPM_KEY_SIGN},
    {"owner-p256-decrypt", TPM_RH_OWNER, 0, TPM_ECC_NIST_P256, TPM_KEY_DECRYPT},
    {"owner-p384-decrypt", TPM_RH_OWNER, 0, TPM_ECC_NIST_P384, TPM_KEY_DECRYPT},
    {"owner-p521-decrypt", TPM_RH_OWNER, 0, TPM_ECC_NIST_P521, TPM_KEY_DECRYPT},
    {"endorsement-p256-decrypt", TPM_RH_ENDORSEMENT, 0, TPM_ECC_NIST_P256, TPM_KEY_DECRYPT},
};
#define KEY_COUNT (sizeof keys / sizeof keys[0])

static const uint8_t digest[64] = "digests are as good as random bytes, and these are as good as";
static const uint8_t secret[32] = "thirty-two bytes of a secret....";

_Noreturn static void fail(const char *what, unsigned code)
{
    fprintf(stderr, "%s: 0x%x\n", what, code);
    exit(2);
}

static struct span try(const struct tpm_message *message)
{
    struct writer w = writer_of(response_buffer, sizeof response_buffer);
    struct err err = tpm_command(&tpm, 0, tpm_message_span(message), &w);
    if (err.code) fail("tpm_command", err.code);
    return writer_span(&w);
}

static struct span run(const struct tpm_message *message)
{
    struct span response = try(message);
    uint32_t code = tpm_response_code(response);
    if (code) fail("response", code);
    return response;
}

static void print(const char *kind, const struct key *key, unsigned detail, struct span bytes)
{
    printf("%s %s %u ", kind, key->name, detail);
    for (size_t i = 0; i < bytes.size; i++)
        printf("%02x", bytes.data[i]);
    printf("\n");
}

static struct span create(const struct key *key, uint32_t *out_handle)
{
    struct tpm_message m;
    if (key->rsa_bits)
        tpm_create_primary_rsa(&m, key->hierarchy, key->rsa_bits, key->use);
    else
        tpm_create_primary_ecc(&m, key->hierarchy, key->curve, key->use);
    struct span response = run(&m);
    *out_handle = tpm_response_handle(response);
    struct span parameters = tpm_response_parameters(response, 1);
    return tpm_take_2b(&parameters);
}

static void flush(uint32_t handle)
{
    struct tpm_message m;
    tpm_flush(&m, handle);
    run(&m);
}

static void signatures(const struct key *key, uint32_t handle)
{
    static const size_t sizes[] = {20, 32, 48, 64};
    struct tpm_message m;
    for (size_t i = 0; i < 4; i++) {
        if (key->rsa_bits) {
            tpm_sign(&m, handle, TPM_ALG_RSASSA, span_of(digest, sizes[i]));
            print("rsassa", key, (unsigned)sizes[i], tpm_response_parameters(run(&m), 0));
            tpm_sign(&m, handle, TPM_ALG_RSAPSS, span_of(digest, sizes[i]));
        } else {
            tpm_sign(&m, handle, TPM_ALG_ECDSA, span_of(digest, sizes[i]));
        }
        print("signature", key, (unsigned)sizes[i], tpm_response_parameters(run(&m), 0));
    }
}

static void ciphertext(const struct key *key, uint32_t handle, uint16_t scheme)
{
    struct tpm_message m;
    tpm_rsa_encrypt(&m, handle, scheme, span_of(secret, sizeof secret));
    struct span parameters = tpm_response_parameters(run(&m), 0);
    print("cipher", key, scheme, tpm_take_2b(&parameters));
}

/* The key's own public point serves as the other side's: unique is the last field of the public area. */
static void zgen(const struct key *key, uint32_t handle, struct span public)
{
    size_t coordinate = key->curve == TPM_ECC_NIST_P256 ? 32 : key->curve == TPM_ECC_NIST_P384 ? 48 : 66;
    size_t size = 2 * (2 + coordinate);
    uint8_t point[2 + 2 * 68];
    struct tpm_message m;
    if (public.size < size) fail("public area", (unsigned)public.size);
    struct writer w = writer_of(point, sizeof point);
    struct err err = write_be16(&w, (uint16_t)size);
    if (!err.code) err = write_bytes(&w, public.data + public.size - size, size);
    if (err.code) fail("point", err.code);
    tpm_ecdh_zgen(&m, handle, writer_span(&w));
    print("zgen", key, 0, tpm_response_parameters(run(&m), 0));
}

static void results_of(const struct key *key)
{
    uint32_t handle = 0;
    uint8_t public[1024];
    struct span area = create(key, &handle);
    memcpy(public, area.data, area.size);
    area.data = public;
    print("public", key, 0, area);
    if (key->use == TPM_KEY_SIGN) {
        signatures(key, handle);
    } else if (key->rsa_bits) {
        ciphertext(key, handle, TPM_ALG_OAEP);
        ciphertext(key, handle, TPM_ALG_RSAES);
    } else {
        zgen(key, handle, area);
    }
    flush(handle);
}

static bool check_cipher(uint32_t handle, unsigned scheme, struct span bytes)
{
    struct tpm_message m;
    tpm_rsa_decrypt(&m, handle, (uint16_t)scheme, bytes);
    struct span response = try(&m);
    if (tpm_response_code(response)) return false;
    struct span parameters = tpm_response_parameters(response, 0);
    struct span text = tpm_take_2b(&parameters);
    return text.size == sizeof secret && memcmp(text.data, secret, sizeof secret) == 0;
}

static bool check_signature(uint32_t handle, unsigned size, struct span bytes)
{
    struct tpm_message m;
    tpm_verify(&m, handle, span_of(digest, size), bytes);
    return tpm_response_code(try(&m)) == 0;
}

static size_t from_hex(const char *hex, uint8_t *out, size_t capacity)
{
    size_t size = strlen(hex) / 2;
    if (size > capacity) fail("hex", (unsigned)size);
    for (size_t i = 0; i < size; i++) {
        unsigned byte = 0;
        if (sscanf(hex + 2 * i, "%2x", &byte) != 1) fail("hex", (unsigned)i);
        out[i] = (uint8_t)byte;
    }
    return size;
}

static void check_line(const char *kind, const char *name, unsigned detail, struct span bytes)
{
    static const struct key *loaded; /* lines of one key follow each other */
    static uint32_t handle;
    const struct key *key = NULL;
    for (size_t i = 0; i < KEY_COUNT; i++)
        if (strcmp(keys[i].name, name) == 0) key = &keys[i];
    if (!key) fail(name, 0);
    if (key != loaded) {
        if (loaded) flush(handle);
        create(key, &handle);
        loaded = key;
    }
    bool good =
        strcmp(kind, "cipher") == 0 ? check_cipher(handle, detail, bytes) : check_signature(handle, detail, bytes);
    printf("%s %s %s %u\n", good ? "good" : "bad", kind, name, detail);
}

static void check(void)
{
    static char kind[16], name[64], hex[2048];
    static uint8_t bytes[1024];
    unsigned detail = 0;
    while (scanf("%15s %63s %u %2047s", kind, name, &detail, hex) == 4)
        check_line(kind, name, detail, span_of(bytes, from_hex(hex, bytes, sizeof bytes)));
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void time_signing(const char *name, const struct tpm_message *command)
{
    uint64_t shortest = UINT64_MAX;
    for (int i = 0; i < 40; i++) {
        uint64_t start = now();
        run(command);
        uint64_t taken = now() - start;
        if (taken < shortest) shortest = taken;
    }
    printf("%s %llu\n", name, (unsigned long long)shortest);
}

static void times(void)
{
    struct tpm_message m;
    uint32_t handle = 0;
    tpm_create_primary_rsa(&m, TPM_RH_OWNER, 2048, TPM_KEY_SIGN);
    handle = tpm_response_handle(run(&m));
    tpm_sign(&m, handle, TPM_ALG_RSASSA, span_of(digest, 32));
    time_signing("RSA-2048", &m);
    tpm_create_primary_ecc(&m, TPM_RH_OWNER, TPM_ECC_NIST_P256, TPM_KEY_SIGN);
    handle = tpm_response_handle(run(&m));
    tpm_sign(&m, handle, TPM_ALG_ECDSA, span_of(digest, 32));
    time_signing("P-256", &m);
}

static void make(void)
{
    struct span permanent;
    struct tpm_message m;
    struct err err = tpm_power_on_new(&tpm);
    if (err.code) fail("tpm_power_on_new", err.code);
    tpm_startup(&m, TPM_SU_CLEAR);
    run(&m);
    if (!tpm_take_commit(&tpm, &permanent)) fail("commit", 0);
    fwrite(permanent.data, 1, permanent.size, stdout);
}

static void open_state(const char *path)
{
    static uint8_t state[65536];
    struct tpm_message m;
    FILE *file = fopen(path, "rb");
    if (!file) fail(path, 0);
    size_t size = fread(state, 1, sizeof state, file);
    fclose(file);
    struct err err = tpm_power_on(&tpm, span_of(state, size));
    if (err.code) fail("tpm_power_on", err.code);
    tpm_startup(&m, TPM_SU_CLEAR);
    run(&m);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "make") == 0) {
        make();
        return 0;
    }
    if (argc != 3) fail("usage: key_results make | results STATE | check STATE | time STATE", 0);
    open_state(argv[2]);
    if (strcmp(argv[1], "check") == 0) {
        check();
        return 0;
    }
    if (strcmp(argv[1], "time") == 0) {
        times();
        return 0;
    }
    /* Twice, because the second time finds some keys kept ready, and has driven others out. */
    for (int round = 0; round < 2; round++)
        for (size_t i = 0; i < KEY_COUNT; i++)
            results_of(&keys[i]);
    return 0;
}
