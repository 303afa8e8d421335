/* SIGSTRUCT: making it, and the checks that EINIT makes on it (SDM volume 3D, EINIT "Operation"). */
#pragma once

#include "abi/sgx.h"
#include "base/err.h"

/*
 * EINIT's own checks of a SIGSTRUCT: header, vendor, reserved bytes, exponent (ERR_SGX_SIG_STRUCT); the RSA-3072
 * signature by Q1 and Q2, without dividing (ERR_SGX_SIGNATURE).
 */
struct err sigstruct_verify(const struct sgx_sigstruct *sigstruct);

/* EINIT's comparison with the enclave: ENCLAVEHASH, ATTRIBUTES and MISCSELECT under their masks. */
struct err sigstruct_matches(const struct sgx_sigstruct *sigstruct, const struct sgx_secs *secs,
                             const uint8_t mrenclave[SGX_HASH_SIZE]);

/* Both of them, in EINIT's order; with an error, out_field names what is wrong. */
struct err sigstruct_examine(const struct sgx_sigstruct *sigstruct, const struct sgx_secs *secs,
                             const uint8_t mrenclave[SGX_HASH_SIZE], const char **out_field);

/* MRSIGNER: SHA-256 over MODULUS as stored. */
struct err sigstruct_mrsigner(const struct sgx_sigstruct *sigstruct, uint8_t out_mrsigner[SGX_HASH_SIZE]);

/* The 256 bytes that the signature covers. */
void sigstruct_message(const struct sgx_sigstruct *sigstruct, uint8_t out_message[2 * SGX_SIGNED_PART_SIZE]);
