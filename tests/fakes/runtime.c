/* Not guaranteed: that key derivation is the processor's; only that what takes part in it does here too. */
#include "tests/fakes/runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/params.h>

#include "abi/call.h"
#include "trusted/runtime/clock.h"
#include "trusted/runtime/cpuid.h"
#include "trusted/runtime/entropy.h"
#include "trusted/runtime/panic.h"
#include "trusted/runtime/sgx.h"

#define NS_PER_S UINT64_C(1000000000)

static const struct fake_processor initial_processor = {
    .secret = "fake fuse secret",
    .CPUSVN = {7, 3},
    .MRENCLAVE = "the image under test",
    .XFRM = SGX_XFRM_LEGACY,
    .ISVSVN = 2,
    .ISVPRODID = PRODID_INSTANCE,
};

struct fake_processor fake_processor;
struct fake_hints fake_hints;
static uint64_t highest_time;

__attribute__((constructor)) void fake_runtime_reset(void)
{
    fake_processor = initial_processor;
    fake_hints = (struct fake_hints){0};
    highest_time = 0;
}

void panic(enum panic_event event)
{
    fprintf(stderr, "panic %d\n", (int)event);
    abort();
}

void entropy_fill(void *out, size_t size)
{
    uint8_t *next = out;
    while (size > 0) {
        ssize_t got = getrandom(next, size, 0);
        if (got <= 0) panic(PANIC_ENTROPY);
        next += got;
        size -= (size_t)got;
    }
}

size_t entropy_seed(void *out, size_t size)
{
    entropy_fill(out, size);
    return size;
}

void cpuid_set_hints(const uint32_t hints[4], uint64_t xfrm)
{
    fake_hints.calls++;
    memcpy(fake_hints.hints, hints, sizeof fake_hints.hints);
    fake_hints.xfrm = xfrm;
}

void clock_advance(uint64_t host_time)
{
    if (host_time > highest_time) highest_time = host_time;
}

uint64_t clock_now(void)
{
    return highest_time;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *out)
{
    (void)clock;
    out->tv_sec = (time_t)(highest_time / NS_PER_S);
    out->tv_nsec = (long)(highest_time % NS_PER_S);
    return 0;
}

/* Of an enclave with this identity: MRENCLAVE, ATTRIBUTES and MISCSELECT, as the processor derives it. */
static void report_key(const struct sgx_targetinfo *who, const uint8_t KEYID[32], uint8_t out_key[SGX_KEY_SIZE])
{
    struct {
        char label[8];
        uint8_t secret[16], MRENCLAVE[SGX_HASH_SIZE], KEYID[32];
        uint64_t FLAGS, XFRM, MISCSELECT;
    } input = {.label = "report"};
    uint8_t full[EVP_MAX_MD_SIZE];
    memcpy(input.secret, fake_processor.secret, sizeof input.secret);
    memcpy(input.MRENCLAVE, who->MRENCLAVE, sizeof input.MRENCLAVE);
    memcpy(input.KEYID, KEYID, sizeof input.KEYID);
    input.FLAGS = who->ATTRIBUTES.FLAGS;
    input.XFRM = who->ATTRIBUTES.XFRM;
    input.MISCSELECT = who->MISCSELECT;
    if (EVP_Digest(&input, sizeof input, full, NULL, EVP_sha256(), NULL) != 1) panic(PANIC_INVARIANT);
    memcpy(out_key, full, SGX_KEY_SIZE);
}

void fake_report_mac(const struct sgx_targetinfo *target, struct sgx_report *report)
{
    char cipher[] = "AES-128-CBC";
    const OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_CIPHER, cipher, 0),
                                 OSSL_PARAM_construct_end()};
    uint8_t key[SGX_KEY_SIZE];
    size_t size = 0;
    memset(report->KEYID, 0x4B, sizeof report->KEYID);
    report_key(target, report->KEYID, key);
    if (!EVP_Q_mac(NULL, "CMAC", NULL, NULL, params, key, sizeof key, (const uint8_t *)report, SGX_REPORT_BODY_SIZE,
                   report->MAC, sizeof report->MAC, &size))
        panic(PANIC_INVARIANT);
}

void sgx_ereport(const struct sgx_targetinfo *target, const uint8_t reportdata[SGX_REPORTDATA_SIZE],
                 struct sgx_report *out_report)
{
    *out_report = (struct sgx_report){
        .ATTRIBUTES = {.FLAGS = SGX_FLAGS_INIT | SGX_FLAGS_MODE64BIT, .XFRM = fake_processor.XFRM},
        .ISVSVN = fake_processor.ISVSVN,
        .ISVPRODID = fake_processor.ISVPRODID,
    };
    memcpy(out_report->CPUSVN, fake_processor.CPUSVN, sizeof out_report->CPUSVN);
    memcpy(out_report->MRENCLAVE, fake_processor.MRENCLAVE, sizeof out_report->MRENCLAVE);
    memcpy(out_report->REPORTDATA, reportdata, SGX_REPORTDATA_SIZE);
    fake_report_mac(target, out_report);
}

static bool cpusvn_is_newer(const uint8_t theirs[16])
{
    for (size_t i = 0; i < 16; i++)
        if (theirs[i] > fake_processor.CPUSVN[i]) return true;
    return false;
}

struct err sgx_egetkey(const struct sgx_keyrequest *request, uint8_t out_key[SGX_KEY_SIZE])
{
    if (request->KEYNAME == SGX_KEYNAME_REPORT) {
        struct sgx_targetinfo self = {
            .ATTRIBUTES = {.FLAGS = SGX_FLAGS_INIT | SGX_FLAGS_MODE64BIT, .XFRM = fake_processor.XFRM}};
        memcpy(self.MRENCLAVE, fake_processor.MRENCLAVE, sizeof self.MRENCLAVE);
        report_key(&self, request->KEYID, out_key);
        return OK;
    }
    ENSURE(request->KEYNAME == SGX_KEYNAME_SEAL, SGX_KEYNAME);
    ENSURE((request->KEYPOLICY & ~SGX_KEYPOLICY_MRENCLAVE) == 0, SGX_ATTRIBUTE);
    ENSURE(request->ISVSVN <= fake_processor.ISVSVN, SGX_ISVSVN);
    ENSURE(!cpusvn_is_newer(request->CPUSVN), SGX_CPUSVN);
    struct {
        struct sgx_keyrequest request;
        uint8_t MRENCLAVE[SGX_HASH_SIZE];
        uint64_t FLAGS, XFRM;
    } input;
    memset(&input, 0, sizeof input);
    input.request = *request;
    input.FLAGS = (SGX_FLAGS_INIT | SGX_FLAGS_MODE64BIT) & request->ATTRIBUTEMASK.FLAGS;
    input.XFRM = fake_processor.XFRM & request->ATTRIBUTEMASK.XFRM;
    if (request->KEYPOLICY & SGX_KEYPOLICY_MRENCLAVE)
        memcpy(input.MRENCLAVE, fake_processor.MRENCLAVE, sizeof input.MRENCLAVE);
    uint8_t mac[EVP_MAX_MD_SIZE];
    if (!HMAC(EVP_sha256(), fake_processor.secret, sizeof fake_processor.secret, (const uint8_t *)&input, sizeof input,
              mac, NULL))
        panic(PANIC_INVARIANT);
    memcpy(out_key, mac, SGX_KEY_SIZE);
    return OK;
}
