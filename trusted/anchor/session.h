/*
 * A salted HMAC session with a TPM: SHA-256, salt by ECDH over P-256, AES-128-CFB for a secret first parameter (TPM 2.0
 * Library, Part 1, 18 "Session-based authorizations", 19, 21, annex C). Names of the specification are kept.
 *
 * Guarantees: what session_answer gives out was answered by whoever holds the private part of the key that the session
 * was salted to, to the very command that was written last; nothing of an answer is used before its HMAC was checked.
 * Lengths are exact: an answer of another length is none.
 */
#pragma once

#include <stdbool.h>

#include "base/bytes.h"
#include "base/err.h"
#include "crypto/crypto.h"
#include "crypto/hash.h"

#define SESSION_NONCE_SIZE 32u
#define SESSION_AUTH_MAX   64u /* bytes of an authValue */
#define TPM_HEADER_SIZE    10u /* tag, size, code */
#define P256_SIZE          32u

enum tpm_tag {
    TPM_ST_NO_SESSIONS = 0x8001,
    TPM_ST_SESSIONS = 0x8002,
};

struct tpm_session {
    uint32_t handle; /* 0: there is none */
    uint8_t sessionKey[SHA256_SIZE];
    uint8_t nonceCaller[SESSION_NONCE_SIZE];
    uint8_t nonceTPM[SESSION_NONCE_SIZE];
};

/* A public key; big-endian. */
struct p256_point {
    uint8_t x[P256_SIZE], y[P256_SIZE];
};

/* A command whose one session authorises its first handle. */
struct tpm_command {
    uint32_t commandCode;
    struct span handles; /* as they are sent */
    struct span names;   /* of the handles, in a row */
    struct span authValue;
    struct span parameters;
    bool decrypt; /* the first parameter is a secret TPM2B */
};

struct err tpm_command_header(enum tpm_tag tag, size_t size, uint32_t commandCode, struct writer *out);
/*
 * Checks the header of an answer and hands out what follows it. An answer with an error (*out_code not 0) has to be a
 * bare header. Nothing of it is authenticated. ERR_ANCHOR_ANSWER.
 */
struct err tpm_answer_header(struct span answer, enum tpm_tag tag, struct reader *out, uint32_t *out_code);

/* TPM2_StartAuthSession: draws nonce and salt. ERR_ANCHOR_ANSWER if key is no point, ERR_NO_SPACE, ERR_CRYPTO. */
struct err session_start(const struct crypto *crypto, struct tpm_session *session, uint32_t tpmKey,
                         const struct p256_point *key, struct writer *out);
/* What followed the header of the answer. ERR_ANCHOR_ANSWER, ERR_CRYPTO. */
struct err session_started(const struct crypto *crypto, struct tpm_session *session, struct reader *answer);

/* Writes the command, with a nonce drawn for it. ERR_NO_SPACE, ERR_CRYPTO. */
struct err session_command(const struct crypto *crypto, struct tpm_session *session, const struct tpm_command *command,
                           struct writer *out);
/*
 * What followed the header of the answer to it; out_parameters of size bytes are its parameters. ERR_ANCHOR_ANSWER,
 * ERR_CRYPTO; nothing is written to out_parameters then.
 */
struct err session_answer(const struct crypto *crypto, struct tpm_session *session, const struct tpm_command *command,
                          struct reader *answer, void *out_parameters, size_t size);
