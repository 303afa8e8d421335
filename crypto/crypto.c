/* Guarantees: no file, no environment variable and no error string is read. */
#include "crypto/crypto.h"

#include <stdbool.h>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

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
    EVP_MD_free(crypto->sha256);
    EVP_MD_free(crypto->sha512);
    EVP_MAC_free(crypto->hmac);
    EVP_MAC_free(crypto->cmac);
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
    struct crypto crypto = {
        .aes_256_gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL),
        .sha256 = EVP_MD_fetch(NULL, "SHA2-256", NULL),
        .sha512 = EVP_MD_fetch(NULL, "SHA2-512", NULL),
        .hmac = EVP_MAC_fetch(NULL, OSSL_MAC_NAME_HMAC, NULL),
        .cmac = EVP_MAC_fetch(NULL, OSSL_MAC_NAME_CMAC, NULL),
    };
    bool fetched = crypto.aes_256_gcm && crypto.sha256 && crypto.sha512 && crypto.hmac && crypto.cmac;
    if (!fetched || new_hkdf(&crypto.hkdf_sha256).code) {
        free_crypto(&crypto);
        return FAIL(CRYPTO);
    }
    *out = crypto;
    return OK;
}
