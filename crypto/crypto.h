/*
 * libcrypto as every program of ours uses it: initialised without configuration, files or environment, its algorithms
 * fetched once. Fetching walks tables and takes locks, so nothing on the path of a command does it through this room.
 */
#pragma once

#include <openssl/types.h>

#include "base/err.h"
#include "base/span.h"

struct crypto {
    EVP_CIPHER *aes_256_gcm;
    EVP_MD *sha256;
    EVP_MD *sha512;
    EVP_MAC *hmac;
    EVP_MAC *cmac;
    EVP_KDF_CTX *hkdf_sha256; /* holds the digest and, between two calls, no secret */
};

/*
 * Before any other call into libcrypto and, in an enclave, after cpuid_set_hints. ERR_CRYPTO. There is no way back:
 * libcrypto's own globals live as long as the program, and so does what crypto owns once this has succeeded.
 */
struct err crypto_init(struct crypto *out);
