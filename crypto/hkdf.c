/*
 * One context serves all calls because a new one would fetch the digest again. After each call its key is replaced by a
 * byte of zero, and libcrypto cleanses the one it replaces.
 */
#include "crypto/hkdf.h"

#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include "base/memory.h"

/* libcrypto takes its inputs as void *, and does not write to them. */
static OSSL_PARAM octets(const char *name, struct span bytes)
{
    union {
        const uint8_t *in;
        void *out;
    } data = {.in = bytes.data ? bytes.data : (const uint8_t *)""};
    return OSSL_PARAM_construct_octet_string(name, data.out, bytes.size);
}

static bool forget_key(EVP_KDF_CTX *ctx)
{
    static const uint8_t nothing[1];
    OSSL_PARAM params[] = {octets(OSSL_KDF_PARAM_KEY, span_of(nothing, sizeof nothing)), OSSL_PARAM_construct_end()};
    return EVP_KDF_CTX_set_params(ctx, params) == 1;
}

struct err hkdf_sha256(const struct crypto *crypto, struct span key, struct span salt, struct span info, void *out,
                       size_t out_size)
{
    ENSURE(info.size > 0, BAD_VALUE); /* libcrypto 3.0 reads beyond an info that is empty when it had one before */
    /* Given in full, so that no release of libcrypto may take an empty salt for the one of the call before. */
    static const uint8_t no_salt[32];
    ENSURE(out_size <= HKDF_SHA256_MAX, TOO_LARGE);
    if (salt.size == 0) salt = span_of(no_salt, sizeof no_salt);
    OSSL_PARAM params[] = {octets(OSSL_KDF_PARAM_KEY, key), octets(OSSL_KDF_PARAM_SALT, salt),
                           octets(OSSL_KDF_PARAM_INFO, info), OSSL_PARAM_construct_end()};
    bool derived = EVP_KDF_derive(crypto->hkdf_sha256, out, out_size, params) == 1;
    bool forgotten = forget_key(crypto->hkdf_sha256);
    if (!derived || !forgotten) {
        wipe(out, out_size);
        return FAIL(CRYPTO);
    }
    return OK;
}
