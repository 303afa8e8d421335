/*
 * Not on the path of a command: each call fetches. A private key is 32 random bytes for both curves (RFC 7748, 5; RFC
 * 8032, 5.1.5); libcrypto cleanses its own copies.
 */
#include "crypto/curve.h"

#include <string.h>

#include <openssl/evp.h>
#include <openssl/rand.h>

#include "base/memory.h"

_Static_assert(X25519_SIZE == ED25519_PRIVATE_SIZE && X25519_SIZE == ED25519_PUBLIC_SIZE, "one size of raw keys");

static void free_key(EVP_PKEY **key)
{
    EVP_PKEY_free(*key);
}

static void free_key_ctx(EVP_PKEY_CTX **ctx)
{
    EVP_PKEY_CTX_free(*ctx);
}

static void free_digest_ctx(EVP_MD_CTX **ctx)
{
    EVP_MD_CTX_free(*ctx);
}

static EVP_PKEY *private_key(const char *curve, const uint8_t bytes[X25519_SIZE])
{
    return EVP_PKEY_new_raw_private_key_ex(NULL, curve, NULL, bytes, X25519_SIZE);
}

static EVP_PKEY *public_key(const char *curve, const uint8_t bytes[X25519_SIZE])
{
    return EVP_PKEY_new_raw_public_key_ex(NULL, curve, NULL, bytes, X25519_SIZE);
}

static struct err derive_public(const char *curve, const uint8_t private[X25519_SIZE], uint8_t out[X25519_SIZE])
{
    size_t size = X25519_SIZE;
    EVP_PKEY *key DEFER(free_key) = private_key(curve, private);
    ENSURE(key && EVP_PKEY_get_raw_public_key(key, out, &size) == 1, CRYPTO);
    return OK;
}

struct err x25519_generate(const struct crypto *crypto, struct x25519_key *out)
{
    (void)crypto;
    ENSURE(RAND_priv_bytes(out->private, sizeof out->private) == 1, CRYPTO);
    return derive_public("X25519", out->private, out->public);
}

struct err x25519_shared(const struct crypto *crypto, const uint8_t private[X25519_SIZE],
                         const uint8_t peer[X25519_SIZE], uint8_t out[X25519_SIZE])
{
    (void)crypto;
    size_t size = X25519_SIZE;
    EVP_PKEY *own DEFER(free_key) = private_key("X25519", private);
    EVP_PKEY *other DEFER(free_key) = public_key("X25519", peer);
    ENSURE(own && other, CRYPTO);
    EVP_PKEY_CTX *ctx DEFER(free_key_ctx) = EVP_PKEY_CTX_new_from_pkey(NULL, own, NULL);
    ENSURE(ctx && EVP_PKEY_derive_init(ctx) == 1 && EVP_PKEY_derive_set_peer(ctx, other) == 1, CRYPTO);
    /* What is left to fail is libcrypto's check of the result for zeros (RFC 7748, 6.1). */
    if (EVP_PKEY_derive(ctx, out, &size) != 1) {
        wipe(out, X25519_SIZE);
        return FAIL(AUTHENTICATION);
    }
    return OK;
}

struct err ed25519_generate(const struct crypto *crypto, struct ed25519_key *out)
{
    (void)crypto;
    ENSURE(RAND_priv_bytes(out->private, sizeof out->private) == 1, CRYPTO);
    return derive_public("ED25519", out->private, out->public);
}

struct err ed25519_sign(const struct crypto *crypto, const struct ed25519_key *key, struct span message,
                        uint8_t out[ED25519_SIGNATURE_SIZE])
{
    (void)crypto;
    size_t size = ED25519_SIGNATURE_SIZE;
    EVP_PKEY *signer DEFER(free_key) = private_key("ED25519", key->private);
    EVP_MD_CTX *ctx DEFER(free_digest_ctx) = EVP_MD_CTX_new();
    ENSURE(signer && ctx && EVP_DigestSignInit_ex(ctx, NULL, NULL, NULL, NULL, signer, NULL) == 1 &&
               EVP_DigestSign(ctx, out, &size, message.data, message.size) == 1,
           CRYPTO);
    return OK;
}

struct err ed25519_verify(const struct crypto *crypto, const uint8_t public[ED25519_PUBLIC_SIZE], struct span message,
                          const uint8_t signature[ED25519_SIGNATURE_SIZE])
{
    (void)crypto;
    EVP_PKEY *signer DEFER(free_key) = public_key("ED25519", public);
    EVP_MD_CTX *ctx DEFER(free_digest_ctx) = EVP_MD_CTX_new();
    ENSURE(signer && ctx && EVP_DigestVerifyInit_ex(ctx, NULL, NULL, NULL, NULL, signer, NULL) == 1, CRYPTO);
    ENSURE(EVP_DigestVerify(ctx, signature, ED25519_SIGNATURE_SIZE, message.data, message.size) == 1, AUTHENTICATION);
    return OK;
}
