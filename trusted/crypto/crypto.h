/*
 * libcrypto as the enclave uses it: initialised without configuration, files or environment, its algorithms fetched
 * once. Fetching walks tables and takes locks, so nothing on the path of a command does it through this room.
 */
#pragma once

#include <openssl/types.h>

#include "base/err.h"
#include "base/span.h"

struct crypto {
    EVP_CIPHER *aes_256_gcm;
    EVP_KDF_CTX *hkdf_sha256; /* holds the digest and, between two calls, no secret */
};

/*
 * Before any other call into libcrypto and after cpuid_set_hints. ERR_CRYPTO. There is no way back: libcrypto's own
 * globals live as long as the enclave, and so does what crypto owns once this has succeeded.
 */
struct err crypto_init(struct crypto *out);

/*
 * Stirs fresh randomness of the processor, mixed with bytes from the host, into libcrypto's generator. The host's bytes
 * can add to it and never take away: they go through HKDF together with the processor's. ERR_CRYPTO.
 */
struct err crypto_seed(const struct crypto *crypto, struct span host_entropy);
