/* Making a SIGSTRUCT, in one step with the key at hand or in two with a key that stays elsewhere. */
#pragma once

#include <openssl/evp.h>

#include "abi/sgx.h"
#include "base/err.h"

/* What a signer states about an enclave. Every bit of ATTRIBUTES and MISCSELECT is masked: the host has no choice. */
struct identity {
    uint8_t mrenclave[SGX_HASH_SIZE];
    struct sgx_attributes attributes;
    uint32_t miscselect;
    uint16_t isvprodid;
    uint16_t isvsvn;
    uint32_t date; /* binary-coded decimal 0xYYYYMMDD */
};

/* A SIGSTRUCT with all that the signature covers, and nothing else yet. */
void signature_prepare(const struct identity *identity, struct sgx_sigstruct *out_sigstruct);

/* Signs a prepared SIGSTRUCT; key as key_read_private gives it. ERR_CRYPTO. */
struct err signature_sign(struct sgx_sigstruct *sigstruct, EVP_PKEY *key);

/*
 * Completes a prepared SIGSTRUCT by a signature that was made elsewhere, big-endian, under the public key.
 * ERR_SGX_SIGNATURE, and nothing is changed then, if it is not the signature of this message under this key.
 */
struct err signature_attach(struct sgx_sigstruct *sigstruct, EVP_PKEY *key, const uint8_t signature[SGX_RSA_SIZE]);
