/*
 * Local attestation: REPORTs made and verified inside the enclave (SDM 3D, EREPORT; sealing key "REPORT").
 *
 * Guarantees: a REPORT that verifies was made on this processor for this very enclave, by an enclave of exactly the
 * identity and attributes that the caller names: MRENCLAVE, ISVPRODID, ATTRIBUTES (INIT and MODE64BIT, nothing else;
 * XFRM one of those that our images are signed for), MISCSELECT 0, all KSS and CET fields 0; every bit of REPORTDATA is
 * the caller's. It does not tell two enclaves of one identity apart: the transcript in REPORTDATA has to.
 */
#pragma once

#include "abi/sgx.h"
#include "base/err.h"
#include "base/span.h"
#include "crypto/crypto.h"

/* Bytes of a TARGETINFO that are not reserved; the rest is zero. */
#define REPORT_TARGET_SIZE 128u

/* The TARGETINFO of this enclave itself. */
void report_own_target(struct sgx_targetinfo *out);
/* The TARGETINFO of the enclave that made a REPORT. */
void report_target_of(const struct sgx_report *report, struct sgx_targetinfo *out);
/* From the first REPORT_TARGET_SIZE bytes of one. ERR_BAD_VALUE if an attribute that we never have is asked for. */
struct err report_parse_target(struct span bytes, struct sgx_targetinfo *out);

struct report_expected {
    const uint8_t *MRENCLAVE; /* NULL: any; the caller reads it from the REPORT */
    uint16_t ISVPRODID;
    const uint8_t *reportdata; /* SGX_REPORTDATA_SIZE bytes */
};

/* bytes: SGX_REPORT_SIZE of them. In this order: ERR_TRUNCATED, ERR_PEER_REPORT (the MAC), ERR_PEER_IDENTITY,
 * ERR_PEER_TRANSCRIPT. Also ERR_CRYPTO. */
struct err report_verify(const struct crypto *crypto, struct span bytes, const struct report_expected *expected,
                         struct sgx_report *out);
