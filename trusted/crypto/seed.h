/* The randomness that libcrypto draws inside an enclave. */
#pragma once

#include "base/err.h"
#include "base/span.h"
#include "crypto/crypto.h"

/*
 * Stirs fresh randomness of the processor, mixed with bytes from the host, into libcrypto's generator. The host's bytes
 * can add to it and never take away: they go through HKDF together with the processor's. ERR_CRYPTO.
 */
struct err crypto_seed(const struct crypto *crypto, struct span host_entropy);
