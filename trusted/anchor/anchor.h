/*
 * The manager's client of the anchor (abi/anchor.h): it makes each request and checks each answer; the host only
 * carries them.
 *
 *   CLOSED ──define──► BUSY ──answer...──► READY          (a new trust domain; the configuration is then to be sealed)
 *   CLOSED ──open────► READY                              (from the sealed configuration)
 *   READY ──read, move──► BUSY ──answer...──► READY       an error of answer: FAILED, for good
 *
 * Guarantees, kind tpm: the value that a read or a move ends with was answered by the pinned TPM about the pinned index
 * after the request was made: each answer's HMAC is checked with nonces drawn here, in a session whose salt only that
 * TPM can open; nobody else knows the index's authValue. Kind file: nothing; the value is what the host says.
 */
#pragma once

#include <stdbool.h>

#include "abi/anchor.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/span.h"
#include "crypto/crypto.h"
#include "crypto/hash.h"

#define ANCHOR_NAME_SIZE 34u /* TPM2B_NAME's content with SHA-256: u16 algorithm, digest */
#define ANCHOR_AUTH_SIZE 32u

/* What is sealed with the master secret; everything but the kind is zeros for a file. */
struct anchor_config {
    enum anchor_kind kind;
    uint32_t nv_index;                    /* TPM_HANDLE, 0x01...... */
    uint8_t index_name[ANCHOR_NAME_SIZE]; /* after the first extend (TPMA_NV_WRITTEN) */
    uint8_t key_name[ANCHOR_NAME_SIZE];   /* of the persistent key that sessions are salted to */
    uint8_t auth[ANCHOR_AUTH_SIZE];       /* of the index; drawn here */
};

#define ANCHOR_CONFIG_SIZE (4u + 4u + 2u * ANCHOR_NAME_SIZE + ANCHOR_AUTH_SIZE)

struct anchor; /* malloc'ed; holds sessions and secrets */

/* What is there after an answer. */
struct anchor_state {
    bool done; /* else a further request was written */
    uint8_t value[ANCHOR_VALUE_SIZE];
};

/* A new anchor; writes the first request. nv_index and owner_auth for a tpm only. ERR_BAD_VALUE, ERR_NO_MEMORY. */
struct err anchor_define(const struct crypto *crypto, enum anchor_kind kind, uint32_t nv_index, struct span owner_auth,
                         struct writer *out_request, struct anchor **out_anchor);

/* crypto is kept. ERR_BAD_VALUE, ERR_NO_MEMORY. */
struct err anchor_open(const struct crypto *crypto, const struct anchor_config *config, struct anchor **out_anchor);
/* Wipes it; NULL is allowed. */
void anchor_close(struct anchor **anchor);

const struct anchor_config *anchor_config(const struct anchor *anchor);

/* A fresh, authenticated read. ERR_CALL_STATE unless READY. */
struct err anchor_read(struct anchor *anchor, struct writer *out_request);

/*
 * from -> SHA-256(from || record_hash), and a fresh read of what is there then, which the caller compares: this
 * function's success says nothing about it. ERR_CALL_STATE unless READY.
 */
struct err anchor_move(struct anchor *anchor, const uint8_t from[ANCHOR_VALUE_SIZE],
                       const uint8_t record_hash[SHA256_SIZE], struct writer *out_request);

/* SHA-256(from || record_hash). ERR_CRYPTO. */
struct err anchor_next(const struct crypto *crypto, const uint8_t from[ANCHOR_VALUE_SIZE],
                       const uint8_t record_hash[SHA256_SIZE], uint8_t out[ANCHOR_VALUE_SIZE]);

/*
 * The answer to the request. Writes the next one unless out->done. ERR_CALL_STATE unless BUSY; ERR_ANCHOR_ANSWER,
 * ERR_ANCHOR_REFUSED, ERR_ANCHOR_IDENTITY.
 */
struct err anchor_answer(struct anchor *anchor, struct span answer, struct writer *out_request,
                         struct anchor_state *out);

/* The configuration's one encoding. ERR_NO_SPACE; ERR_TRUNCATED, ERR_BAD_VALUE. The parser does not want the end. */
struct err anchor_config_write(const struct anchor_config *config, struct writer *out);
struct err anchor_config_parse(struct reader *reader, struct anchor_config *out);
