/*
 * Guarantees besides: a TARGETINFO from outside that the processor would fault on, or that names an enclave that could
 * not pass report_verify either, is refused before EREPORT sees it.
 */
#include "trusted/session/report.h"

#include <string.h>

#include "base/bytes.h"
#include "base/memory.h"
#include "crypto/hash.h"
#include "trusted/runtime/sgx.h"

_Static_assert(offsetof(struct sgx_targetinfo, reserved3) == REPORT_TARGET_SIZE, "what crosses ends at reserved3");
_Static_assert(SGX_KEY_SIZE == 16 && sizeof((struct sgx_report){0}.MAC) == CMAC_SIZE, "AES-128-CMAC");

struct report_key {
    uint8_t bytes[SGX_KEY_SIZE];
};

static void wipe_report_key(struct report_key *key)
{
    wipe(key, sizeof *key);
}

void report_target_of(const struct sgx_report *report, struct sgx_targetinfo *out)
{
    *out = (struct sgx_targetinfo){
        .ATTRIBUTES = report->ATTRIBUTES,
        .CET_ATTRIBUTES = report->CET_ATTRIBUTES,
        .CONFIGSVN = report->CONFIGSVN,
        .MISCSELECT = report->MISCSELECT,
    };
    memcpy(out->MRENCLAVE, report->MRENCLAVE, sizeof out->MRENCLAVE);
    memcpy(out->CONFIGID, report->CONFIGID, sizeof out->CONFIGID);
}

void report_own_target(struct sgx_targetinfo *out)
{
    static const struct sgx_targetinfo nobody;
    static const uint8_t no_data[SGX_REPORTDATA_SIZE];
    struct sgx_report report;
    sgx_ereport(&nobody, no_data, &report);
    report_target_of(&report, out);
}

/* XFRM as our images are signed for: each of them keeps AVX, and AVX-512 with it, or does not. */
static bool attributes_are_ours(const struct sgx_attributes *a)
{
    bool xfrm = a->XFRM == SGX_XFRM_LEGACY || a->XFRM == (SGX_XFRM_LEGACY | SGX_XFRM_AVX) ||
                a->XFRM == (SGX_XFRM_LEGACY | SGX_XFRM_AVX | SGX_XFRM_AVX512);
    return xfrm && a->FLAGS == (SGX_FLAGS_INIT | SGX_FLAGS_MODE64BIT);
}

struct err report_parse_target(struct span bytes, struct sgx_targetinfo *out)
{
    struct sgx_targetinfo target = {0}, ours = {0};
    ENSURE(bytes.size == REPORT_TARGET_SIZE, BAD_VALUE);
    memcpy(&target, bytes.data, REPORT_TARGET_SIZE);
    /* All but these is zero in an enclave of ours. */
    memcpy(ours.MRENCLAVE, target.MRENCLAVE, sizeof ours.MRENCLAVE);
    ours.ATTRIBUTES = target.ATTRIBUTES;
    ENSURE(attributes_are_ours(&target.ATTRIBUTES) && memcmp(&target, &ours, sizeof target) == 0, BAD_VALUE);
    *out = target;
    return OK;
}

static struct err check_mac(const struct crypto *crypto, const struct sgx_report *report)
{
    struct sgx_keyrequest request = {.KEYNAME = SGX_KEYNAME_REPORT};
    struct report_key key DEFER(wipe_report_key) = {0};
    uint8_t mac[CMAC_SIZE];
    memcpy(request.KEYID, report->KEYID, sizeof request.KEYID);
    ENSURE(sgx_egetkey(&request, key.bytes).code == ERR_NONE, CRYPTO);
    TRY(cmac_aes_128(crypto, key.bytes, span_of(report, SGX_REPORT_BODY_SIZE), mac));
    ENSURE(ct_equal(mac, report->MAC, sizeof mac), PEER_REPORT);
    return OK;
}

/* What a REPORT of ours may differ in is copied from it; all else has to be zero, reserved bytes included. */
static bool is_identity(const struct sgx_report *report, const struct report_expected *expected)
{
    struct sgx_report ours = {
        .ATTRIBUTES = report->ATTRIBUTES, .ISVPRODID = expected->ISVPRODID, .ISVSVN = report->ISVSVN};
    memcpy(ours.CPUSVN, report->CPUSVN, sizeof ours.CPUSVN);
    memcpy(ours.MRENCLAVE, expected->MRENCLAVE ? expected->MRENCLAVE : report->MRENCLAVE, sizeof ours.MRENCLAVE);
    memcpy(ours.MRSIGNER, report->MRSIGNER, sizeof ours.MRSIGNER);
    return attributes_are_ours(&report->ATTRIBUTES) &&
           memcmp(report, &ours, offsetof(struct sgx_report, REPORTDATA)) == 0;
}

struct err report_verify(const struct crypto *crypto, struct span bytes, const struct report_expected *expected,
                         struct sgx_report *out)
{
    struct sgx_report report = {0};
    ENSURE(bytes.size == SGX_REPORT_SIZE, TRUNCATED);
    memcpy(&report, bytes.data, SGX_REPORT_SIZE);
    TRY(check_mac(crypto, &report));
    ENSURE(is_identity(&report, expected), PEER_IDENTITY);
    ENSURE(memcmp(report.REPORTDATA, expected->reportdata, sizeof report.REPORTDATA) == 0, PEER_TRANSCRIPT);
    *out = report;
    return OK;
}
