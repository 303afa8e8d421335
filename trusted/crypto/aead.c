/* Guarantees: nothing of a plaintext that did not authenticate is left in the caller's memory. */
#include "trusted/crypto/aead.h"

#include <limits.h>
#include <string.h>

#include <openssl/evp.h>

#include "base/memory.h"

void aead_key_wipe(struct aead_key *key)
{
    wipe(key, sizeof *key);
}

static void free_ctx(EVP_CIPHER_CTX **ctx)
{
    EVP_CIPHER_CTX_free(*ctx); /* cleanses the key schedule */
}

/* Every length goes to libcrypto as an int. */
static struct err check_sizes(struct span aad, struct span text)
{
    ENSURE(aad.size <= INT_MAX && text.size <= INT_MAX, TOO_LARGE);
    return OK;
}

static bool start(EVP_CIPHER_CTX *ctx, const struct crypto *crypto, const struct aead_key *key, struct span aad,
                  int encrypt)
{
    int written = 0;
    return EVP_CipherInit_ex2(ctx, crypto->aes_256_gcm, key->key, key->iv, encrypt, NULL) == 1 &&
           (aad.size == 0 || EVP_CipherUpdate(ctx, NULL, &written, aad.data, (int)aad.size) == 1);
}

static bool run(EVP_CIPHER_CTX *ctx, struct span in, uint8_t *out)
{
    int written = 0;
    return in.size == 0 || EVP_CipherUpdate(ctx, out, &written, in.data, (int)in.size) == 1;
}

static bool finish(EVP_CIPHER_CTX *ctx)
{
    uint8_t none[1] = {0}; /* GCM has no last block, but libcrypto wants a place for it */
    int written = 0;
    return EVP_CipherFinal_ex(ctx, none, &written) == 1;
}

struct err aead_seal(const struct crypto *crypto, const struct aead_key *key, struct span aad, struct span plaintext,
                     uint8_t *out_ciphertext, uint8_t out_tag[AEAD_TAG_SIZE])
{
    TRY(check_sizes(aad, plaintext));
    EVP_CIPHER_CTX *ctx DEFER(free_ctx) = EVP_CIPHER_CTX_new();
    ENSURE(ctx, CRYPTO);
    bool sealed = start(ctx, crypto, key, aad, 1) && run(ctx, plaintext, out_ciphertext) && finish(ctx) &&
                  EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG_SIZE, out_tag) == 1;
    if (!sealed) {
        wipe(out_ciphertext, plaintext.size);
        return FAIL(CRYPTO);
    }
    return OK;
}

struct err aead_open(const struct crypto *crypto, const struct aead_key *key, struct span aad, struct span ciphertext,
                     const uint8_t tag[AEAD_TAG_SIZE], uint8_t *out_plaintext)
{
    TRY(check_sizes(aad, ciphertext));
    EVP_CIPHER_CTX *ctx DEFER(free_ctx) = EVP_CIPHER_CTX_new();
    ENSURE(ctx, CRYPTO);
    uint8_t expected[AEAD_TAG_SIZE];
    memcpy(expected, tag, sizeof expected);
    bool ready = start(ctx, crypto, key, aad, 0) && run(ctx, ciphertext, out_plaintext) &&
                 EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, AEAD_TAG_SIZE, expected) == 1;
    bool authentic = ready && finish(ctx);
    if (!authentic) wipe(out_plaintext, ciphertext.size);
    ENSURE(ready, CRYPTO);
    ENSURE(authentic, AUTHENTICATION);
    return OK;
}
