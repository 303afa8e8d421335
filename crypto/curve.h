/*
 * X25519 (RFC 7748) and Ed25519 (RFC 8032).
 *
 * Guarantees: a shared secret that is all zeros, which a peer can force with a point of small order, is refused.
 * Private keys come from libcrypto's generator, which is the enclave's own inside an enclave.
 */
#pragma once

#include "base/err.h"
#include "base/span.h"
#include "crypto/crypto.h"

#define X25519_SIZE            32u
#define ED25519_PUBLIC_SIZE    32u
#define ED25519_PRIVATE_SIZE   32u /* the seed */
#define ED25519_SIGNATURE_SIZE 64u

struct x25519_key {
    uint8_t private[X25519_SIZE];
    uint8_t public[X25519_SIZE];
};

/* ERR_CRYPTO. The caller wipes the key. */
struct err x25519_generate(const struct crypto *crypto, struct x25519_key *out);
/* ERR_AUTHENTICATION for an all-zero result, ERR_CRYPTO; out is all zeros then. The caller wipes out. */
struct err x25519_shared(const struct crypto *crypto, const uint8_t private[X25519_SIZE],
                         const uint8_t peer[X25519_SIZE], uint8_t out[X25519_SIZE]);

struct ed25519_key {
    uint8_t private[ED25519_PRIVATE_SIZE];
    uint8_t public[ED25519_PUBLIC_SIZE];
};

/* ERR_CRYPTO. The caller wipes the key. */
struct err ed25519_generate(const struct crypto *crypto, struct ed25519_key *out);
struct err ed25519_sign(const struct crypto *crypto, const struct ed25519_key *key, struct span message,
                        uint8_t out[ED25519_SIGNATURE_SIZE]);
/* ERR_AUTHENTICATION, ERR_CRYPTO. */
struct err ed25519_verify(const struct crypto *crypto, const uint8_t public[ED25519_PUBLIC_SIZE], struct span message,
                          const uint8_t signature[ED25519_SIGNATURE_SIZE]);
