/*
 * Recovery keys: m of n X25519 keys, named once at the first start of a trust domain, whose holders can together bring it
 * back on another processor or another anchor. docs/protocol.md, "Recovery".
 *
 * The recovery record, which the first manager makes; it is no secret:
 *
 *     0  u8[16]  "vtpm recovery v1"
 *    16  u8[16]  trust domain
 *    32  u8 m, u8 n, u8[6] 0
 *    40  u8[32]  random: salt
 *    72  n times u8[32] a holder's key, then sealed to it: that holder's share of the recovery secret
 *        u8[32]  the master secret, encrypted, u8[16] tag
 *
 * The recovery secret is 32 random bytes, and share i (from 1, in the order of the keys) is what Shamir's scheme makes of
 * each of them over GF(2^8), polynomial 0x11b.
 *
 *   key || iv of the master secret = HKDF-SHA-256(recovery secret, salt, info = "vtpm recovery master"); AAD: all before
 *
 * A share is sealed to a key P as u8[32] ephemeral key E, u8[32] ciphertext, u8[16] tag:
 *
 *   key || iv = HKDF-SHA-256(X25519(E, P), salt = E || P, info = label || u8 i)
 *
 *   label "vtpm recovery share",  AAD = bytes 0 to 71 of the record   in the record
 *   label "vtpm recovery answer", AAD = the whole request             in an answer
 *
 * The request, which a manager makes that is to take the domain over:
 *   u8[16] "vtpm recover v1\0", u8[16] trust domain, u8[32] key that is the enclave's alone, u8[32] its MRENCLAVE
 * The answer of a holder:
 *   u8[16] "vtpm share v1\0\0\0", u8 i, u8[7] 0, the share sealed to the request's key
 *
 * Guarantees: fewer than m shares say nothing of the secret; a share that was altered, or is for another request, record
 * or holder does not open. Not guaranteed: that the request's key is an enclave's. Until there are quotes, whoever answers
 * believes the host that brought the request.
 */
#pragma once

#include "base/bytes.h"
#include "base/id.h"
#include "crypto/aead.h"
#include "crypto/curve.h"
#include "link/link.h"

#define RECOVERY_KEYS_MAX     8u
#define RECOVERY_SECRET_SIZE  32u
#define RECOVERY_HEAD_SIZE    72u
#define RECOVERY_SEALED_SIZE  (X25519_SIZE + RECOVERY_SECRET_SIZE + AEAD_TAG_SIZE)
#define RECOVERY_HOLDER_SIZE  (X25519_SIZE + RECOVERY_SEALED_SIZE)
#define RECOVERY_MASTER_SIZE  (RECOVERY_SECRET_SIZE + AEAD_TAG_SIZE)
#define RECOVERY_RECORD_MAX   (RECOVERY_HEAD_SIZE + RECOVERY_KEYS_MAX * RECOVERY_HOLDER_SIZE + RECOVERY_MASTER_SIZE)
#define RECOVERY_REQUEST_SIZE (16u + INSTANCE_ID_SIZE + X25519_SIZE + LINK_MRENCLAVE_SIZE)
#define RECOVERY_ANSWER_SIZE  (16u + 8u + RECOVERY_SEALED_SIZE)

/* How many of how many. count 0: there is no recovery. */
struct recovery_rule {
    uint8_t threshold;
    uint8_t count;
};

/* ERR_BAD_VALUE. */
struct err recovery_check_rule(const struct recovery_rule *rule);

/* Parsed; points into the bytes. */
struct recovery_record {
    struct recovery_rule rule;
    struct instance_id domain;
    struct span head;
    struct span salt;
    struct span holders;
    struct span before_master;
    struct span master; /* encrypted, and its tag */
};

/* ERR_TRUNCATED, ERR_TRAILING, ERR_BAD_VALUE. */
struct err recovery_parse(struct span bytes, struct recovery_record *out);

struct recovery_request {
    struct instance_id domain;
    uint8_t key[X25519_SIZE];
    uint8_t manager[LINK_MRENCLAVE_SIZE];
};

struct err recovery_write_request(const struct recovery_request *request, struct writer *out);
struct err recovery_read_request(struct span bytes, struct recovery_request *out);

/* A share of the secret. The caller wipes it. */
struct recovery_share {
    uint8_t index;
    uint8_t value[RECOVERY_SECRET_SIZE];
};

void recovery_share_wipe(struct recovery_share *share);

/* In the record: for the holder of a key. ERR_CRYPTO, ERR_NO_SPACE. */
struct err recovery_seal_share(const struct crypto *crypto, const struct recovery_share *share,
                               const uint8_t holder[X25519_SIZE], struct span head, struct writer *out);
/* The holder's part: opens his share and seals it to the key of the request. ERR_KEY_UNUSABLE: the key is none of the
 * record's; ERR_BAD_VALUE: the request is for another domain; ERR_AUTHENTICATION, ERR_CRYPTO. */
struct err recovery_answer(const struct crypto *crypto, const struct recovery_record *record,
                           const struct x25519_key *holder, struct span request, struct writer *out);
/* The enclave's part. ERR_TRUNCATED, ERR_TRAILING, ERR_BAD_VALUE, ERR_AUTHENTICATION, ERR_CRYPTO. The caller wipes out. */
struct err recovery_open_answer(const struct crypto *crypto, const struct x25519_key *own, struct span request,
                                struct span answer, struct recovery_share *out);

/* Of the master secret, from the recovery secret. ERR_CRYPTO. The caller wipes out. */
struct err recovery_master_key(const struct crypto *crypto, const uint8_t secret[RECOVERY_SECRET_SIZE],
                               struct span salt, struct aead_key *out);
