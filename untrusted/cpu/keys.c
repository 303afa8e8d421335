/*
 * EREPORT, EGETKEY and what both derive: the keys of the SDM's table "Key derivation" (volume 3D, EGETKEY "Operation").
 *
 * The derivation function of a processor is not architectural. Here it is HMAC-SHA-256, cut to 16 bytes, under the
 * fuses that the key names, over this encoding; what a key does not depend on is zero in it:
 *
 *   label[16], KEYNAME u16, ISVPRODID u16, ISVSVN u16, KEYPOLICY u16, CPUSVN[16], ATTRIBUTES[16], ATTRIBUTEMASK[16],
 *   MISCSELECT u32, ~MISCMASK u32, MRENCLAVE[32], MRSIGNER[32], KEYID[32], padding[352]
 *
 * The owner epoch and the fuses of a processor are one here: the device secret. Its CONFIGID, CONFIGSVN, ISVFAMILYID
 * and ISVEXTPRODID would always be zero without KSS and are left out.
 *
 * Not guaranteed: that nothing of a key is ever in ordinary memory. While one is being computed, libcrypto holds
 * copies on its heap, which it clears.
 */
#include "untrusted/cpu/processor.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

#include "base/bytes.h"
#include "base/memory.h"
#include "untrusted/sgx/cpu_wire.h"

const uint8_t processor_cpusvn[16] = CPU_CPUSVN;

#define PADDING_SIZE  352u
#define ENCODING_SIZE (16u + 4 * 2u + 16u + 16u + 16u + 2 * 4u + 3 * 32u + PADDING_SIZE)

/* Which inputs a key takes: the columns of the table, but for REPORT's. Versions and ISVPRODID go into all of them. */
struct key_column {
    uint64_t needs; /* ATTRIBUTES.FLAGS that must be set */
    bool masks;     /* ATTRIBUTEMASK and ~MISCMASK */
    bool policy;    /* KEYPOLICY, which then selects among the inputs */
    bool signer;    /* MRSIGNER always */
    bool keyid;
    bool provision; /* under the provisioning fuses only: outlives the owner */
};

static const struct key_column columns[] = {
    [SGX_KEYNAME_EINITTOKEN] = {.needs = SGX_FLAGS_EINITTOKENKEY, .signer = true, .keyid = true},
    [SGX_KEYNAME_PROVISION] = {.needs = SGX_FLAGS_PROVISIONKEY, .masks = true, .signer = true, .provision = true},
    [SGX_KEYNAME_PROVISION_SEAL] = {.needs = SGX_FLAGS_PROVISIONKEY, .masks = true, .policy = true, .signer = true},
    [SGX_KEYNAME_SEAL] = {.masks = true, .policy = true, .keyid = true},
};

/* One column, filled in. */
struct key_input {
    uint16_t keyname, isvprodid, isvsvn, keypolicy;
    uint8_t cpusvn[16];
    struct sgx_attributes attributes, attributemask;
    uint32_t miscselect, not_miscmask;
    uint8_t mrenclave[32], mrsigner[32], keyid[32];
};

/* The top 352 bytes of a decoded SIGSTRUCT signature, which are the same for every signature (PKCS #1 v1.5). */
static struct err write_padding(struct writer *w)
{
    static const uint8_t digest_info[] = {0x00, 0x30, 0x31, 0x30, 0x0D, 0x06, 0x09, 0x60, 0x86, 0x48,
                                          0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20};
    uint8_t *padding = NULL;
    TRY(write_zeros(w, PADDING_SIZE, &padding));
    memset(padding, 0xFF, PADDING_SIZE - sizeof digest_info);
    padding[0] = 0x00;
    padding[1] = 0x01;
    memcpy(padding + PADDING_SIZE - sizeof digest_info, digest_info, sizeof digest_info);
    return OK;
}

static struct err encode(const struct key_input *input, struct writer *w)
{
    static const char label[16] = "vtpm-cpu key 1";
    TRY(write_bytes(w, label, sizeof label));
    TRY(write_u16(w, input->keyname));
    TRY(write_u16(w, input->isvprodid));
    TRY(write_u16(w, input->isvsvn));
    TRY(write_u16(w, input->keypolicy));
    TRY(write_bytes(w, input->cpusvn, sizeof input->cpusvn));
    TRY(write_u64(w, input->attributes.FLAGS));
    TRY(write_u64(w, input->attributes.XFRM));
    TRY(write_u64(w, input->attributemask.FLAGS));
    TRY(write_u64(w, input->attributemask.XFRM));
    TRY(write_u32(w, input->miscselect));
    TRY(write_u32(w, input->not_miscmask));
    TRY(write_bytes(w, input->mrenclave, sizeof input->mrenclave));
    TRY(write_bytes(w, input->mrsigner, sizeof input->mrsigner));
    TRY(write_bytes(w, input->keyid, sizeof input->keyid));
    return write_padding(w);
}

static struct err hmac(const uint8_t key[PROCESSOR_SECRET_SIZE], const void *data, size_t size, uint8_t out[32])
{
    unsigned int out_size = 0;
    ENSURE(HMAC(EVP_sha256(), key, PROCESSOR_SECRET_SIZE, data, size, out, &out_size) && out_size == 32, CRYPTO);
    return OK;
}

static struct err derive(const uint8_t fuses[PROCESSOR_SECRET_SIZE], const struct key_input *input,
                         uint8_t out_key[SGX_KEY_SIZE])
{
    uint8_t encoding[ENCODING_SIZE];
    uint8_t full[32];
    struct writer w = writer_of(encoding, sizeof encoding);
    TRY(encode(input, &w));
    TRY(hmac(fuses, encoding, w.size, full));
    memcpy(out_key, full, SGX_KEY_SIZE);
    wipe(full, sizeof full);
    return OK;
}

struct err processor_start(struct processor *processor, const uint8_t secret[PROCESSOR_SECRET_SIZE],
                           const uint8_t report_keyid[32])
{
    static const char seal[] = "vtpm-cpu seal fuses 1";
    static const char provision[] = "vtpm-cpu provision fuses 1";
    TRY(hmac(secret, seal, sizeof seal, processor->seal_fuses));
    TRY(hmac(secret, provision, sizeof provision, processor->provision_fuses));
    memcpy(processor->report_keyid, report_keyid, sizeof processor->report_keyid);
    return OK;
}

struct err processor_cmac(const uint8_t key[SGX_KEY_SIZE], const void *data, size_t size, uint8_t out_mac[16])
{
    static char cipher[] = "AES-128-CBC";
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_CIPHER, cipher, 0),
        OSSL_PARAM_construct_end(),
    };
    size_t out_size = 0;
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "CMAC", NULL);
    EVP_MAC_CTX *context = mac ? EVP_MAC_CTX_new(mac) : NULL;
    bool done = context && EVP_MAC_init(context, key, SGX_KEY_SIZE, parameters) == 1 &&
                EVP_MAC_update(context, data, size) == 1 && EVP_MAC_final(context, out_mac, &out_size, 16) == 1 &&
                out_size == 16;
    EVP_MAC_CTX_free(context);
    EVP_MAC_free(mac);
    ENSURE(done, CRYPTO);
    return OK;
}

/* The REPORT key of whoever has this identity. */
static struct err derive_report_key(const struct processor *processor, const struct sgx_attributes *attributes,
                                    uint32_t miscselect, const uint8_t mrenclave[32], const uint8_t keyid[32],
                                    uint8_t out_key[SGX_KEY_SIZE])
{
    struct key_input input = {.keyname = SGX_KEYNAME_REPORT, .attributes = *attributes, .miscselect = miscselect};
    memcpy(input.cpusvn, processor_cpusvn, sizeof input.cpusvn);
    memcpy(input.mrenclave, mrenclave, sizeof input.mrenclave);
    memcpy(input.keyid, keyid, sizeof input.keyid);
    return derive(processor->seal_fuses, &input, out_key);
}

static bool all_zero(const void *data, size_t size)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < size; i++)
        if (bytes[i]) return false;
    return true;
}

struct err processor_ereport(const struct processor *processor, const struct processor_enclave *enclave,
                             const struct sgx_targetinfo *target, const uint8_t reportdata[SGX_REPORTDATA_SIZE],
                             uint8_t out_report[SGX_REPORT_SIZE])
{
    ENSURE(target->CET_ATTRIBUTES == 0 && target->reserved1 == 0 && target->CONFIGSVN == 0 &&
               all_zero(target->reserved2, sizeof target->reserved2) &&
               all_zero(target->CONFIGID, sizeof target->CONFIGID) &&
               all_zero(target->reserved3, sizeof target->reserved3),
           SGX_FAULT);
    const struct sgx_secs *secs = &enclave->secs;
    struct sgx_report report = {
        .MISCSELECT = secs->MISCSELECT,
        .ATTRIBUTES = secs->ATTRIBUTES,
        .ISVPRODID = secs->ISVPRODID,
        .ISVSVN = secs->ISVSVN,
    };
    memcpy(report.CPUSVN, processor_cpusvn, sizeof report.CPUSVN);
    memcpy(report.MRENCLAVE, secs->MRENCLAVE, sizeof report.MRENCLAVE);
    memcpy(report.MRSIGNER, secs->MRSIGNER, sizeof report.MRSIGNER);
    memcpy(report.REPORTDATA, reportdata, sizeof report.REPORTDATA);
    memcpy(report.KEYID, processor->report_keyid, sizeof report.KEYID);
    uint8_t key[SGX_KEY_SIZE];
    TRY(derive_report_key(processor, &target->ATTRIBUTES, target->MISCSELECT, target->MRENCLAVE, report.KEYID, key));
    struct err result = processor_cmac(key, &report, SGX_REPORT_BODY_SIZE, report.MAC);
    wipe(key, sizeof key);
    TRY(result);
    memcpy(out_report, &report, SGX_REPORT_SIZE);
    return OK;
}

/* The inputs of every key but the REPORT key. */
static void fill_input(const struct key_column *column, const struct sgx_secs *secs,
                       const struct sgx_keyrequest *request, struct key_input *input)
{
    uint16_t policy = column->policy ? request->KEYPOLICY : 0;
    *input = (struct key_input){.keyname = request->KEYNAME, .keypolicy = policy};
    /* The 3 of the SDM's table: INIT and DEBUG go into every key, whatever the request masks. */
    input->attributes.FLAGS = secs->ATTRIBUTES.FLAGS & (request->ATTRIBUTEMASK.FLAGS | 3);
    input->attributes.XFRM = secs->ATTRIBUTES.XFRM & request->ATTRIBUTEMASK.XFRM;
    input->miscselect = secs->MISCSELECT & request->MISCMASK;
    if (!(policy & SGX_KEYPOLICY_NOISVPRODID)) input->isvprodid = secs->ISVPRODID;
    input->isvsvn = request->ISVSVN;
    memcpy(input->cpusvn, request->CPUSVN, sizeof input->cpusvn);
    if (column->masks) {
        input->attributemask = request->ATTRIBUTEMASK;
        input->not_miscmask = ~request->MISCMASK;
    }
    bool measurement = !column->signer && (policy & SGX_KEYPOLICY_MRENCLAVE);
    bool signer = column->signer || (policy & SGX_KEYPOLICY_MRSIGNER);
    if (measurement) memcpy(input->mrenclave, secs->MRENCLAVE, sizeof input->mrenclave);
    if (signer) memcpy(input->mrsigner, secs->MRSIGNER, sizeof input->mrsigner);
    if (column->keyid) memcpy(input->keyid, request->KEYID, sizeof input->keyid);
}

static uint32_t request_refusal(const struct key_column *column, const struct sgx_secs *secs,
                                const struct sgx_keyrequest *request)
{
    if ((secs->ATTRIBUTES.FLAGS & column->needs) != column->needs) return SGX_INVALID_ATTRIBUTE;
    if (memcmp(request->CPUSVN, processor_cpusvn, sizeof processor_cpusvn) != 0) return SGX_INVALID_CPUSVN;
    if (request->ISVSVN > secs->ISVSVN) return SGX_INVALID_ISVSVN;
    return SGX_SUCCESS;
}

struct err processor_egetkey(const struct processor *processor, const struct processor_enclave *enclave,
                             const struct sgx_keyrequest *request, uint32_t *out_rax, uint8_t out_key[SGX_KEY_SIZE])
{
    const struct sgx_secs *secs = &enclave->secs;
    uint16_t known = SGX_KEYPOLICY_MRENCLAVE | SGX_KEYPOLICY_MRSIGNER | SGX_KEYPOLICY_NOISVPRODID;
    ENSURE(request->reserved1 == 0 && all_zero(request->reserved2, sizeof request->reserved2), SGX_FAULT);
    ENSURE((request->KEYPOLICY & ~known) == 0 && request->CONFIGSVN == 0, SGX_FAULT);
    *out_rax = SGX_INVALID_KEYNAME;
    if (request->KEYNAME >= sizeof columns / sizeof *columns) return OK;
    if (request->KEYNAME == SGX_KEYNAME_REPORT) {
        *out_rax = SGX_SUCCESS;
        return derive_report_key(processor, &secs->ATTRIBUTES, secs->MISCSELECT, secs->MRENCLAVE, request->KEYID,
                                 out_key);
    }
    const struct key_column *column = &columns[request->KEYNAME];
    *out_rax = request_refusal(column, secs, request);
    if (*out_rax) return OK;
    struct key_input input;
    fill_input(column, secs, request, &input);
    return derive(column->provision ? processor->provision_fuses : processor->seal_fuses, &input, out_key);
}
