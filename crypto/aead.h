/* AES-256-GCM (SP 800-38D). A key and IV pair must never serve two plaintexts. */
#pragma once

#include <stdbool.h>

#include "base/err.h"
#include "base/span.h"
#include "crypto/crypto.h"

#define AEAD_KEY_SIZE 32u
#define AEAD_IV_SIZE  12u
#define AEAD_TAG_SIZE 16u

/* A key that is good for one message; the caller wipes it. */
struct aead_key {
    uint8_t key[AEAD_KEY_SIZE];
    uint8_t iv[AEAD_IV_SIZE];
};

void aead_key_wipe(struct aead_key *key);

/*
 * Encrypts plaintext to out_ciphertext, which is of the same size and may be the same memory, and authenticates it with
 * aad. ERR_TOO_LARGE, ERR_CRYPTO.
 */
struct err aead_seal(const struct crypto *crypto, const struct aead_key *key, struct span aad, struct span plaintext,
                     uint8_t *out_ciphertext, uint8_t out_tag[AEAD_TAG_SIZE]);

/*
 * The reverse. out_plaintext is of the ciphertext's size; it is all zeros unless the result is success.
 * ERR_AUTHENTICATION, ERR_TOO_LARGE, ERR_CRYPTO.
 */
struct err aead_open(const struct crypto *crypto, const struct aead_key *key, struct span aad, struct span ciphertext,
                     const uint8_t tag[AEAD_TAG_SIZE], uint8_t *out_plaintext);

/*
 * One key for many messages, each with an IV of its own that the caller never repeats: the key schedule is made once.
 * A cipher is for one direction. aead_cipher_close wipes it and is safe on a zeroed structure.
 */
struct aead_cipher {
    EVP_CIPHER_CTX *ctx;
};

/* seals: for aead_cipher_seal, else for aead_cipher_open_message. ERR_CRYPTO. */
struct err aead_cipher_open(const struct crypto *crypto, const uint8_t key[AEAD_KEY_SIZE], bool seals,
                            struct aead_cipher *out);
void aead_cipher_close(struct aead_cipher *cipher);

/* As aead_seal and aead_open. */
struct err aead_cipher_seal(struct aead_cipher *cipher, const uint8_t iv[AEAD_IV_SIZE], struct span aad,
                            struct span plaintext, uint8_t *out_ciphertext, uint8_t out_tag[AEAD_TAG_SIZE]);
struct err aead_cipher_open_message(struct aead_cipher *cipher, const uint8_t iv[AEAD_IV_SIZE], struct span aad,
                                    struct span ciphertext, const uint8_t tag[AEAD_TAG_SIZE], uint8_t *out_plaintext);
