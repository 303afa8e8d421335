/* EREPORT and EGETKEY. */
#pragma once

#include "abi/sgx.h"
#include "base/err.h"

/* A REPORT of this enclave for target. */
void sgx_ereport(const struct sgx_targetinfo *target, const uint8_t reportdata[SGX_REPORTDATA_SIZE],
                 struct sgx_report *out_report);

/* ERR_SGX_ATTRIBUTE, ERR_SGX_CPUSVN, ERR_SGX_ISVSVN, ERR_SGX_KEYNAME. The caller wipes out_key. */
struct err sgx_egetkey(const struct sgx_keyrequest *request, uint8_t out_key[SGX_KEY_SIZE]);
