/*
 * The commands of a TPM that the anchor is made of, beside the session (session.h): what is sent, and what is known
 * beforehand of the answers. Names of the specification are kept (TPM 2.0 Library, Parts 2 and 3).
 */
#pragma once

#include "trusted/anchor/anchor.h"
#include "trusted/anchor/session.h"

/* Where the salting key stays, for every anchor on one TPM: their templates are the same, so the key is. */
#define ANCHOR_KEY_HANDLE UINT32_C(0x8140564d)

#define TPM_RC_HANDLE_1   UINT32_C(0x18b) /* nothing is at the first handle */
#define TPM_RC_BAD_AUTH_1 UINT32_C(0x9a2) /* the first session's HMAC is wrong: another authValue or Name */

/* Authorised by the owner's password. ERR_NO_SPACE */
struct err tpm_create_primary(struct span owner_auth, struct writer *out);
struct err tpm_make_persistent(struct span owner_auth, uint32_t key, struct writer *out);
struct err tpm_flush(uint32_t handle, struct writer *out);
struct err tpm_read_public(struct writer *out);

/*
 * What followed the header of the answer to tpm_read_public. ERR_ANCHOR_IDENTITY unless it is the public area of a key
 * as tpm_create_primary makes them: made inside a TPM, restricted, not to leave it. ERR_CRYPTO.
 */
struct err tpm_key_parse(const struct crypto *crypto, struct reader *answer, uint8_t out_name[ANCHOR_NAME_SIZE],
                         struct p256_point *out);

#define NV_PUBLIC_SIZE 14u
#define NV_DEFINE_SIZE (2u + ANCHOR_AUTH_SIZE + 2u + NV_PUBLIC_SIZE)
#define NV_ANSWER_SIZE (2u + ANCHOR_VALUE_SIZE) /* of the answer to NV_Read */

/* The Name of the anchor's index before and after its first write. ERR_CRYPTO */
struct err nv_name(const struct crypto *crypto, uint32_t nv_index, bool written, uint8_t out[ANCHOR_NAME_SIZE]);

/* A command with the bytes that it points to. */
struct nv_command {
    struct tpm_command command;
    uint8_t handles[2 * 4];
    uint8_t names[2 * ANCHOR_NAME_SIZE];
    uint8_t parameters[NV_DEFINE_SIZE];
};

/* owner_auth and config have to outlive the command. */
struct err nv_define(const struct anchor_config *config, struct span owner_auth, struct nv_command *out);
struct err nv_extend(const struct anchor_config *config, const uint8_t data[SHA256_SIZE], struct nv_command *out);
struct err nv_read(const struct anchor_config *config, struct nv_command *out);
