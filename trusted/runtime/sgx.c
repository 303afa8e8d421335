#include "trusted/runtime/sgx.h"

#include <string.h>

#include "base/memory.h"
#include "trusted/runtime/panic.h"

/* entry.S: ENCLU with these registers; returns RAX. */
uint64_t enclu(uint32_t leaf, void *rbx, const void *rcx, void *rdx);

struct aligned_reportdata {
    uint8_t bytes[SGX_REPORTDATA_SIZE];
} __attribute__((aligned(SGX_REPORTDATA_ALIGNMENT)));

struct aligned_key {
    uint8_t bytes[SGX_KEY_SIZE];
} __attribute__((aligned(16)));

void sgx_ereport(const struct sgx_targetinfo *target, const uint8_t reportdata[SGX_REPORTDATA_SIZE],
                 struct sgx_report *out_report)
{
    struct sgx_targetinfo own_target = *target; /* the caller's may be anywhere; ENCLU wants them aligned */
    struct aligned_reportdata own_reportdata;
    memcpy(own_reportdata.bytes, reportdata, sizeof own_reportdata.bytes);
    memset(out_report, 0, sizeof *out_report);
    enclu(SGX_EREPORT, &own_target, &own_reportdata, out_report);
}

struct err sgx_egetkey(const struct sgx_keyrequest *request, uint8_t out_key[SGX_KEY_SIZE])
{
    struct sgx_keyrequest own_request = *request;
    struct aligned_key key = {0};
    uint64_t code = enclu(SGX_EGETKEY, &own_request, &key, NULL);
    switch (code) {
    case SGX_SUCCESS:
        memcpy(out_key, key.bytes, sizeof key.bytes);
        wipe(&key, sizeof key);
        return OK;
    case SGX_INVALID_ATTRIBUTE:
        return FAIL(SGX_ATTRIBUTE);
    case SGX_INVALID_CPUSVN:
        return FAIL(SGX_CPUSVN);
    case SGX_INVALID_ISVSVN:
        return FAIL(SGX_ISVSVN);
    case SGX_INVALID_KEYNAME:
        return FAIL(SGX_KEYNAME);
    default:
        panic(PANIC_INVARIANT);
    }
}
