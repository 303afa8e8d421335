/*
 * Guarantees: nothing of a plaintext that did not authenticate is left in the caller's memory; a message of a cipher
 * costs neither memory nor a fetch.
 */
#include "crypto/aead.h"

#include <limits.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include "base/memory.h"

void aead_key_wipe(struct aead_key *key)
{
    wipe(key, sizeof *key);
}

/* Every length goes to libcrypto as an int. */
static struct err check_sizes(struct span aad, struct span text)
{
    ENSURE(aad.size <= INT_MAX && text.size <= INT_MAX, TOO_LARGE);
    return OK;
}

struct err aead_cipher_open(const struct crypto *crypto, const uint8_t key[AEAD_KEY_SIZE], bool seals,
                            struct aead_cipher *out)
{
    struct aead_cipher cipher DEFER(aead_cipher_close) = {.ctx = EVP_CIPHER_CTX_new()};
    ENSURE(cipher.ctx && EVP_CipherInit_ex2(cipher.ctx, crypto->aes_256_gcm, key, NULL, seals, NULL) == 1, CRYPTO);
    *out = cipher;
    cipher.ctx = NULL; /* now it is the caller's */
    return OK;
}

void aead_cipher_close(struct aead_cipher *cipher)
{
    EVP_CIPHER_CTX_free(cipher->ctx); /* cleanses the key schedule */
    cipher->ctx = NULL;
}

/* params: the tag of a message to be opened, or NULL. Key and direction stay those of aead_cipher_open. */
static bool run(EVP_CIPHER_CTX *ctx, const uint8_t iv[AEAD_IV_SIZE], const OSSL_PARAM *params, struct span aad,
                struct span in, uint8_t *out)
{
    int written = 0;
    return EVP_CipherInit_ex2(ctx, NULL, NULL, iv, -1, params) == 1 &&
           (aad.size == 0 || EVP_CipherUpdate(ctx, NULL, &written, aad.data, (int)aad.size) == 1) &&
           (in.size == 0 || EVP_CipherUpdate(ctx, out, &written, in.data, (int)in.size) == 1);
}

static bool finish(EVP_CIPHER_CTX *ctx)
{
    uint8_t none[1] = {0}; /* GCM has no last block, but libcrypto wants a place for it */
    int written = 0;
    return EVP_CipherFinal_ex(ctx, none, &written) == 1;
}

struct err aead_cipher_seal(struct aead_cipher *cipher, const uint8_t iv[AEAD_IV_SIZE], struct span aad,
                            struct span plaintext, uint8_t *out_ciphertext, uint8_t out_tag[AEAD_TAG_SIZE])
{
    TRY(check_sizes(aad, plaintext));
    OSSL_PARAM tag[] = {OSSL_PARAM_construct_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, out_tag, AEAD_TAG_SIZE),
                        OSSL_PARAM_construct_end()};
    bool sealed = run(cipher->ctx, iv, NULL, aad, plaintext, out_ciphertext) && finish(cipher->ctx) &&
                  EVP_CIPHER_CTX_get_params(cipher->ctx, tag) == 1;
    if (!sealed) {
        wipe(out_ciphertext, plaintext.size);
        return FAIL(CRYPTO);
    }
    return OK;
}

struct err aead_cipher_open_message(struct aead_cipher *cipher, const uint8_t iv[AEAD_IV_SIZE], struct span aad,
                                    struct span ciphertext, const uint8_t tag[AEAD_TAG_SIZE], uint8_t *out_plaintext)
{
    TRY(check_sizes(aad, ciphertext));
    uint8_t expected[AEAD_TAG_SIZE];
    memcpy(expected, tag, sizeof expected);
    const OSSL_PARAM params[] = {
        OSSL_PARAM_construct_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, expected, sizeof expected),
        OSSL_PARAM_construct_end()};
    bool ready = run(cipher->ctx, iv, params, aad, ciphertext, out_plaintext);
    bool authentic = ready && finish(cipher->ctx);
    if (!authentic) wipe(out_plaintext, ciphertext.size);
    ENSURE(ready, CRYPTO);
    ENSURE(authentic, AUTHENTICATION);
    return OK;
}

struct err aead_seal(const struct crypto *crypto, const struct aead_key *key, struct span aad, struct span plaintext,
                     uint8_t *out_ciphertext, uint8_t out_tag[AEAD_TAG_SIZE])
{
    struct aead_cipher cipher DEFER(aead_cipher_close) = {0};
    TRY(aead_cipher_open(crypto, key->key, true, &cipher));
    return aead_cipher_seal(&cipher, key->iv, aad, plaintext, out_ciphertext, out_tag);
}

struct err aead_open(const struct crypto *crypto, const struct aead_key *key, struct span aad, struct span ciphertext,
                     const uint8_t tag[AEAD_TAG_SIZE], uint8_t *out_plaintext)
{
    struct aead_cipher cipher DEFER(aead_cipher_close) = {0};
    TRY(aead_cipher_open(crypto, key->key, false, &cipher));
    return aead_cipher_open_message(&cipher, key->iv, aad, ciphertext, tag, out_plaintext);
}
