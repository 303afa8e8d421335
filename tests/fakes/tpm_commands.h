/* Bytes of the TPM commands that tests send (TPM 2.0 Library, Part 3), and the few fields that they read back. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/span.h"

#define TPM_RH_OWNER       0x40000001u
#define TPM_RH_ENDORSEMENT 0x4000000bu
#define TPM_RH_NULL        0x40000007u
#define TPM_RH_PLATFORM    0x4000000cu
#define TPM_RH_LOCKOUT     0x4000000au
#define TPM_SU_CLEAR       0u
#define TPM_SU_STATE       1u

#define TPM_ECC_NIST_P256  3u
#define TPM_ECC_NIST_P384  4u
#define TPM_ECC_NIST_P521  5u

#define TPM_ALG_RSASSA     0x14u
#define TPM_ALG_RSAES      0x15u
#define TPM_ALG_RSAPSS     0x16u
#define TPM_ALG_OAEP       0x17u
#define TPM_ALG_ECDSA      0x18u
#define TPM_ALG_NULL       0x10u

enum tpm_key_use { TPM_KEY_SIGN, TPM_KEY_DECRYPT };

/* A command that is being built; 4096 bytes are enough for each, and running out aborts. */
struct tpm_message {
    uint8_t bytes[4096];
    size_t size;
};

struct span tpm_message_span(const struct tpm_message *message);

void tpm_startup(struct tpm_message *out, uint16_t type);
void tpm_shutdown(struct tpm_message *out, uint16_t type);
void tpm_self_test(struct tpm_message *out);
void tpm_get_random(struct tpm_message *out, uint16_t size);
void tpm_read_clock(struct tpm_message *out);
void tpm_pcr_extend(struct tpm_message *out, uint32_t pcr);
void tpm_create_primary_rsa(struct tpm_message *out, uint32_t hierarchy, uint16_t bits, enum tpm_key_use use);
void tpm_create_primary_ecc(struct tpm_message *out, uint32_t hierarchy, uint16_t curve, enum tpm_key_use use);
void tpm_sign(struct tpm_message *out, uint32_t key, uint16_t scheme, struct span digest);
void tpm_verify(struct tpm_message *out, uint32_t key, struct span digest, struct span signature);
/* scheme is TPM_ALG_OAEP with SHA-256, or TPM_ALG_RSAES. */
void tpm_rsa_encrypt(struct tpm_message *out, uint32_t key, uint16_t scheme, struct span text);
void tpm_rsa_decrypt(struct tpm_message *out, uint32_t key, uint16_t scheme, struct span ciphertext);
/* point is a marshalled TPM2B_ECC_POINT. */
void tpm_ecdh_zgen(struct tpm_message *out, uint32_t key, struct span point);
void tpm_flush(struct tpm_message *out, uint32_t handle);
void tpm_evict_control(struct tpm_message *out, uint32_t object, uint32_t persistent);
void tpm_read_public(struct tpm_message *out, uint32_t object);
void tpm_nv_define(struct tpm_message *out, uint32_t index, uint16_t size);
void tpm_nv_write(struct tpm_message *out, uint32_t index, struct span data);
void tpm_nv_read(struct tpm_message *out, uint32_t index, uint16_t size);
void tpm_clear_lockout(struct tpm_message *out, const char *auth);
/* TPM2_DictionaryAttackParameters; times are s. */
void tpm_da_parameters(struct tpm_message *out, uint32_t tries, uint32_t recovery, uint32_t lockout_recovery);
void tpm_get_property(struct tpm_message *out, uint32_t property);

/* An index with these TPMA_NV and this authValue. */
void tpm_nv_define_as(struct tpm_message *out, uint32_t index, uint16_t size, uint32_t attributes, const char *auth);
void tpm_nv_undefine(struct tpm_message *out, uint32_t index);
void tpm_nv_increment(struct tpm_message *out, uint32_t index);
/* With the index's own authValue. */
void tpm_nv_read_with(struct tpm_message *out, uint32_t index, uint16_t size, const char *auth);
void tpm_clear(struct tpm_message *out);
void tpm_clock_set(struct tpm_message *out, uint64_t clock);
void tpm_pcr_read(struct tpm_message *out, uint32_t pcr);
/* A policy session, unsalted and unbound. */
void tpm_start_policy(struct tpm_message *out);
void tpm_policy_auth_value(struct tpm_message *out, uint32_t session);
void tpm_policy_digest(struct tpm_message *out, uint32_t session);
void tpm_context_save(struct tpm_message *out, uint32_t handle);
/* context is what TPM2_ContextSave answered. */
void tpm_context_load(struct tpm_message *out, struct span context);
void tpm_ecdh_keygen(struct tpm_message *out, uint32_t key);
void tpm_ec_ephemeral(struct tpm_message *out, uint16_t curve);
/* Audits TPM2_GetRandom from now on. */
void tpm_audit_get_random(struct tpm_message *out);
void tpm_get_audit_digest(struct tpm_message *out);

/* The response's code; UINT32_MAX if it is too short to have one. */
uint32_t tpm_response_code(struct span response);
/* The handle behind the response's header. */
uint32_t tpm_response_handle(struct span response);
/* Everything behind the header, and behind parameterSize for a response with sessions, without the sessions. */
struct span tpm_response_parameters(struct span response, size_t handles);
/* The content of the TPM2B that parameters begin with; they move on behind it. */
struct span tpm_take_2b(struct span *parameters);
