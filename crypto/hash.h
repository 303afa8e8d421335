/* SHA-256 and SHA-512 (FIPS 180-4), HMAC-SHA-256 (RFC 2104), AES-128-CMAC (SP 800-38B), over parts in a row. */
#pragma once

#include "base/err.h"
#include "base/span.h"
#include "crypto/crypto.h"

#define SHA256_SIZE 32u
#define SHA512_SIZE 64u
#define CMAC_SIZE   16u

/* ERR_CRYPTO */
struct err hash_sha256(const struct crypto *crypto, const struct span *parts, size_t count, uint8_t out[SHA256_SIZE]);
struct err hash_sha512(const struct crypto *crypto, const struct span *parts, size_t count, uint8_t out[SHA512_SIZE]);
struct err hmac_sha256(const struct crypto *crypto, struct span key, const struct span *parts, size_t count,
                       uint8_t out[SHA256_SIZE]);
struct err cmac_aes_128(const struct crypto *crypto, const uint8_t key[16], struct span message,
                        uint8_t out[CMAC_SIZE]);
