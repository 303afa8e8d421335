/*
 * One side of an exchange between two managers of one processor: a question and an answer, each with a REPORT over all
 * that was said, and something sealed in the answer.
 *
 * Guarantees: what is sealed opens with the private key of the other side of this very transcript, and nowhere else. Who
 * that side is, is for the REPORT that is over the transcript.
 */
#pragma once

#include "abi/sgx.h"
#include "base/bytes.h"
#include "crypto/curve.h"

#define SIDE_NONCE_SIZE 32u

/* What it says of itself, before its REPORT. */
struct side {
    uint8_t nonce[SIDE_NONCE_SIZE];
    uint8_t share[X25519_SIZE];
};

/* Fresh ones. The caller wipes out_own. ERR_CRYPTO. */
struct err side_draw(const struct crypto *crypto, struct x25519_key *out_own, struct side *out);
/* ERR_NO_SPACE; ERR_TRUNCATED. */
struct err side_write(const struct side *side, struct writer *out);
struct err side_read(struct reader *r, struct side *out);

/* The transcript is a REPORTDATA. label: text of the protocol. */
struct side_session {
    const struct crypto *crypto;
    const struct x25519_key *own;
    const uint8_t *peer; /* share of the other side */
    const uint8_t *transcript;
    const char *label;
};

/* Appends the ciphertext and its tag. ERR_NO_SPACE, ERR_CRYPTO. */
struct err side_seal(const struct side_session *session, struct span plaintext, struct writer *out);
/* out: room for sealed.size bytes. ERR_TRUNCATED, ERR_AUTHENTICATION, ERR_CRYPTO. */
struct err side_open(const struct side_session *session, struct span sealed, uint8_t *out, size_t *out_size);
