/* HKDF with SHA-256 (RFC 5869). */
#pragma once

#include "base/err.h"
#include "base/span.h"
#include "crypto/crypto.h"

#define HKDF_SHA256_MAX (255u * 32u)

/*
 * Derives out_size bytes, at most HKDF_SHA256_MAX, from key. An empty salt is the RFC's salt of zeros; info,
 * which keeps one use of a key from another, must not be empty. The caller wipes out. Constant time in the bytes of
 * key. ERR_BAD_VALUE, ERR_TOO_LARGE, ERR_CRYPTO; out is all zeros after the last.
 */
struct err hkdf_sha256(const struct crypto *crypto, struct span key, struct span salt, struct span info, void *out,
                       size_t out_size);
