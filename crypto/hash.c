#include "crypto/hash.h"

#include <stdbool.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>

static void free_digest(EVP_MD_CTX **ctx)
{
    EVP_MD_CTX_free(*ctx);
}

static void free_mac(EVP_MAC_CTX **ctx)
{
    EVP_MAC_CTX_free(*ctx); /* cleanses the key */
}

static struct err digest(const EVP_MD *algorithm, const struct span *parts, size_t count, uint8_t *out)
{
    EVP_MD_CTX *ctx DEFER(free_digest) = EVP_MD_CTX_new();
    ENSURE(ctx && EVP_DigestInit_ex2(ctx, algorithm, NULL) == 1, CRYPTO);
    for (size_t i = 0; i < count; i++)
        ENSURE(EVP_DigestUpdate(ctx, parts[i].data, parts[i].size) == 1, CRYPTO);
    ENSURE(EVP_DigestFinal_ex(ctx, out, NULL) == 1, CRYPTO);
    return OK;
}

struct err hash_sha256(const struct crypto *crypto, const struct span *parts, size_t count, uint8_t out[SHA256_SIZE])
{
    return digest(crypto->sha256, parts, count, out);
}

struct err hash_sha512(const struct crypto *crypto, const struct span *parts, size_t count, uint8_t out[SHA512_SIZE])
{
    return digest(crypto->sha512, parts, count, out);
}

/* name and value: what the algorithm is built on. */
static struct err mac(EVP_MAC *algorithm, const char *name, char *value, struct span key, const struct span *parts,
                      size_t count, uint8_t *out, size_t out_size)
{
    EVP_MAC_CTX *ctx DEFER(free_mac) = EVP_MAC_CTX_new(algorithm);
    OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(name, value, 0), OSSL_PARAM_construct_end()};
    ENSURE(ctx && EVP_MAC_init(ctx, key.data, key.size, params) == 1, CRYPTO);
    for (size_t i = 0; i < count; i++)
        ENSURE(EVP_MAC_update(ctx, parts[i].data, parts[i].size) == 1, CRYPTO);
    ENSURE(EVP_MAC_final(ctx, out, NULL, out_size) == 1, CRYPTO);
    return OK;
}

struct err hmac_sha256(const struct crypto *crypto, struct span key, const struct span *parts, size_t count,
                       uint8_t out[SHA256_SIZE])
{
    char name[] = "SHA256";
    return mac(crypto->hmac, OSSL_MAC_PARAM_DIGEST, name, key, parts, count, out, SHA256_SIZE);
}

struct err cmac_aes_128(const struct crypto *crypto, const uint8_t key[16], struct span message, uint8_t out[CMAC_SIZE])
{
    char name[] = "AES-128-CBC";
    return mac(crypto->cmac, OSSL_MAC_PARAM_CIPHER, name, span_of(key, 16), &message, 1, out, CMAC_SIZE);
}
