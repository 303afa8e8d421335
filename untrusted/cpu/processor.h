/*
 * The processor of the software device: what ECREATE, EADD, EINIT, EREPORT and EGETKEY of an SGX processor decide and
 * compute, over plain structures, without I/O.
 *
 * Guarantees: an enclave that passed EINIT obeys the rules that the SDM sets for its SECS, pages, TCS and SIGSTRUCT; a
 * key depends on every input that the SDM names for it and on the device secret; a REPORT verifies only with the
 * REPORT key of the enclave that it is made for, on a processor with the same device secret.
 * Not here: KSS, CET, AEX-Notify, SGX2 and the provisioning attribute. A processor that lacks them treats their
 * fields as reserved, and so does this one. There is one CPUSVN, and no other is an "older" one.
 *
 * The measurement is the caller's (untrusted/sgx/measure.h), so that equal enclaves need one only.
 */
#pragma once

#include <stdbool.h>

#include "abi/sgx.h"
#include "base/err.h"

#define PROCESSOR_SECRET_SIZE 32u
#define PROCESSOR_SIZE_MAX    (UINT64_C(1) << 30)  /* largest ELRANGE, bytes */
#define PROCESSOR_EPC_MAX     (UINT64_C(64) << 20) /* largest sum of added pages, bytes */
#define PROCESSOR_TCS_MAX     16u
#define PROCESSOR_MISCSELECT  UINT32_C(1) /* EXINFO */
#define PROCESSOR_FLAGS       (SGX_FLAGS_DEBUG | SGX_FLAGS_MODE64BIT)

/* CPU_CPUSVN. */
extern const uint8_t processor_cpusvn[16];

/* What is fused into a processor. The caller keeps it in secret memory. */
struct processor {
    uint8_t seal_fuses[PROCESSOR_SECRET_SIZE];
    uint8_t provision_fuses[PROCESSOR_SECRET_SIZE];
    uint8_t report_keyid[32]; /* of this start */
};

struct processor_tcs {
    uint64_t ossa; /* bytes from the base */
    uint32_t nssa;
};

/* One enclave. Zeroed before ECREATE; ended by processor_enclave_close. */
struct processor_enclave {
    struct sgx_secs secs;
    uint8_t *pages; /* one for each page of ELRANGE; 0: none was added. Gone after EINIT */
    uint64_t added; /* bytes */
    uint32_t tcs_count;
    struct processor_tcs tcs[PROCESSOR_TCS_MAX];
};

/* Derives the fuses from the device secret, separated by purpose. ERR_CRYPTO. */
struct err processor_start(struct processor *processor, const uint8_t secret[PROCESSOR_SECRET_SIZE],
                           const uint8_t report_keyid[32]);

/* host_xcr0: what XGETBV says. ERR_SGX_SECS, ERR_TOO_LARGE, ERR_NO_MEMORY. */
struct err processor_ecreate(struct processor_enclave *enclave, const struct sgx_secs *secs, uint64_t host_xcr0);

/* One page. content is 4096 bytes, or NULL for zeros. ERR_SGX_SECINFO, ERR_TOO_LARGE (the EPC is full). */
struct err processor_eadd(struct processor_enclave *enclave, uint64_t offset, const struct sgx_secinfo *secinfo,
                          const uint8_t *content);

/*
 * Checks the SIGSTRUCT, compares it with the enclave, and fixes its identity. ERR_SGX_SIG_STRUCT, ERR_SGX_SIGNATURE,
 * ERR_SGX_MEASUREMENT, ERR_SGX_ATTRIBUTE; ERR_SGX_SECINFO: a TCS names SSA frames that are not read-write pages.
 */
struct err processor_einit(struct processor_enclave *enclave, const struct sgx_sigstruct *sigstruct,
                           const uint8_t mrenclave[SGX_HASH_SIZE]);

/* out_report: SGX_REPORT_SIZE bytes are written. ERR_SGX_FAULT is #GP. */
struct err processor_ereport(const struct processor *processor, const struct processor_enclave *enclave,
                             const struct sgx_targetinfo *target, const uint8_t reportdata[SGX_REPORTDATA_SIZE],
                             uint8_t out_report[SGX_REPORT_SIZE]);

/* out_rax: 0, or EGETKEY's error code; the key is written only with 0. ERR_SGX_FAULT is #GP. */
struct err processor_egetkey(const struct processor *processor, const struct processor_enclave *enclave,
                             const struct sgx_keyrequest *request, uint32_t *out_rax, uint8_t out_key[SGX_KEY_SIZE]);

void processor_enclave_close(struct processor_enclave *enclave);

/* AES-128-CMAC, RFC 4493. ERR_CRYPTO. */
struct err processor_cmac(const uint8_t key[SGX_KEY_SIZE], const void *data, size_t size, uint8_t out_mac[16]);
