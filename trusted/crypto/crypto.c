/*
 * Guarantees: no file, no environment variable and no error string is read; the generator is never left with host bytes
 * alone. Not guaranteed: anything about libcrypto's own seeding, which draws from getrandom (trusted/runtime).
 */
#include "trusted/crypto/crypto.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include "base/bytes.h"
#include "base/memory.h"
#include "trusted/crypto/hkdf.h"
#include "trusted/runtime/entropy.h"

#define PROCESSOR_ENTROPY_SIZE 64u
#define SEED_SIZE              48u /* what CTR_DRBG with AES-256 takes in (SP 800-90A, table 3) */
#define HOST_ENTROPY_MAX       64u

/*
 * libtpms asks for digests by these names (EVP_get_digestbyname). Registering them alone, instead of everything that
 * OPENSSL_INIT_ADD_ALL_* would, keeps some hundred table entries out of the enclave's heap.
 */
static struct err add_digests(void)
{
    ENSURE(EVP_add_digest(EVP_sha1()) == 1, CRYPTO);
    ENSURE(EVP_add_digest(EVP_sha256()) == 1, CRYPTO);
    ENSURE(EVP_add_digest(EVP_sha384()) == 1, CRYPTO);
    ENSURE(EVP_add_digest(EVP_sha512()) == 1, CRYPTO);
    return OK;
}

static void free_kdf(EVP_KDF **kdf)
{
    EVP_KDF_free(*kdf);
}

static void free_crypto(struct crypto *crypto)
{
    EVP_CIPHER_free(crypto->aes_256_gcm);
    EVP_KDF_CTX_free(crypto->hkdf_sha256);
}

static struct err new_hkdf(EVP_KDF_CTX **out)
{
    EVP_KDF *kdf DEFER(free_kdf) = EVP_KDF_fetch(NULL, OSSL_KDF_NAME_HKDF, NULL);
    ENSURE(kdf, CRYPTO);
    EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf); /* holds a reference to kdf */
    ENSURE(ctx, CRYPTO);
    char digest[] = "SHA256";
    OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
                           OSSL_PARAM_construct_end()};
    if (EVP_KDF_CTX_set_params(ctx, params) != 1) {
        EVP_KDF_CTX_free(ctx);
        return FAIL(CRYPTO);
    }
    *out = ctx;
    return OK;
}

struct err crypto_init(struct crypto *out)
{
    const uint64_t options = OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_LOAD_CRYPTO_STRINGS |
                             OPENSSL_INIT_NO_ADD_ALL_CIPHERS | OPENSSL_INIT_NO_ADD_ALL_DIGESTS | OPENSSL_INIT_NO_ATEXIT;
    ENSURE(OPENSSL_init_crypto(options, NULL) == 1, CRYPTO);
    TRY(add_digests());
    struct crypto crypto = {0};
    crypto.aes_256_gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    struct err hkdf = new_hkdf(&crypto.hkdf_sha256);
    if (!crypto.aes_256_gcm || hkdf.code) {
        free_crypto(&crypto);
        return FAIL(CRYPTO);
    }
    *out = crypto;
    return OK;
}

struct seed {
    uint8_t bytes[SEED_SIZE];
};

struct seed_input {
    uint8_t bytes[2 * PROCESSOR_ENTROPY_SIZE + HOST_ENTROPY_MAX];
};

static void wipe_seed(struct seed *seed)
{
    wipe(seed, sizeof *seed);
}

static void wipe_seed_input(struct seed_input *input)
{
    wipe(input, sizeof *input);
}

struct err crypto_seed(const struct crypto *crypto, struct span host_entropy)
{
    static const char label[] = "vtpm entropy";
    struct seed_input input DEFER(wipe_seed_input) = {0};
    entropy_fill(input.bytes, PROCESSOR_ENTROPY_SIZE);
    size_t size = PROCESSOR_ENTROPY_SIZE + entropy_seed(input.bytes + PROCESSOR_ENTROPY_SIZE, PROCESSOR_ENTROPY_SIZE);
    struct writer host = writer_of(input.bytes + size, HOST_ENTROPY_MAX);
    TRY(write_span(&host, host_entropy));
    size += host.size;

    struct seed seed DEFER(wipe_seed) = {0};
    TRY(hkdf_sha256(crypto, span_of(input.bytes, size), span_empty(), span_of(label, sizeof label - 1), seed.bytes,
                    sizeof seed.bytes));
    /* Each reseeding draws from getrandom besides; the private and public generators follow the primary one. */
    RAND_add(seed.bytes, sizeof seed.bytes, sizeof seed.bytes);
    ENSURE(RAND_status() == 1, CRYPTO);
    return OK;
}
