#include "trusted/anchor/commands.h"

#include <string.h>

#define TPM_CC_EvictControl   UINT32_C(0x00000120)
#define TPM_CC_NV_DefineSpace UINT32_C(0x0000012a)
#define TPM_CC_CreatePrimary  UINT32_C(0x00000131)
#define TPM_CC_NV_Extend      UINT32_C(0x00000136)
#define TPM_CC_NV_Read        UINT32_C(0x0000014e)
#define TPM_CC_FlushContext   UINT32_C(0x00000165)
#define TPM_CC_ReadPublic     UINT32_C(0x00000173)

#define TPM_RH_OWNER          UINT32_C(0x40000001)
#define TPM_RS_PW             UINT32_C(0x40000009)
#define TPM_ALG_SHA256        0x000bu

#define TPMA_NV_AUTHWRITE     (UINT32_C(1) << 2)
#define TPMA_NV_TPM_NT_EXTEND (UINT32_C(4) << 4)
#define TPMA_NV_AUTHREAD      (UINT32_C(1) << 18)
#define TPMA_NV_NO_DA         (UINT32_C(1) << 25)
#define TPMA_NV_WRITTEN       (UINT32_C(1) << 29)

#define PASSWORD_SIZE(auth)   (4u + 2u + 1u + 2u + (auth).size)
#define KEY_PUBLIC_SIZE       (sizeof key_template + 2u * (2u + P256_SIZE))

/* A TPMT_PUBLIC as far as its unique field: the storage key of the TCG's EK and SRK profiles, on P-256. */
static const uint8_t key_template[] = {
    0x00, 0x23,             /* type: TPM_ALG_ECC */
    0x00, 0x0b,             /* nameAlg: TPM_ALG_SHA256 */
    0x00, 0x03, 0x04, 0x72, /* decrypt, restricted, noDA, userWithAuth, sensitiveDataOrigin, fixedParent, fixedTPM */
    0x00, 0x00,             /* authPolicy: none */
    0x00, 0x06, 0x00, 0x80, 0x00, 0x43, /* symmetric: AES-128-CFB */
    0x00, 0x10,                         /* scheme: TPM_ALG_NULL */
    0x00, 0x03,                         /* curveID: TPM_ECC_NIST_P256 */
    0x00, 0x10,                         /* kdf: TPM_ALG_NULL */
};

/* What stands around the template in CreatePrimary. */
static const uint8_t no_sensitive[] = {0, 4, 0, 0, 0, 0}; /* TPM2B_SENSITIVE_CREATE: userAuth, data */
static const uint8_t no_unique[] = {0, 0, 0, 0};          /* TPMS_ECC_POINT */
static const uint8_t no_outside_info_and_pcr[] = {0, 0, 0, 0, 0, 0};

static struct err password(struct span auth, struct writer *out)
{
    TRY(write_be32(out, (uint32_t)PASSWORD_SIZE(auth)));
    TRY(write_be32(out, TPM_RS_PW));
    TRY(write_be16(out, 0)); /* nonce */
    TRY(write_u8(out, 0));   /* attributes */
    TRY(write_be16(out, (uint16_t)auth.size));
    return write_span(out, auth);
}

struct err tpm_create_primary(struct span owner_auth, struct writer *out)
{
    size_t public_size = sizeof key_template + sizeof no_unique;
    size_t size = TPM_HEADER_SIZE + 4 + 4 + PASSWORD_SIZE(owner_auth) + sizeof no_sensitive + 2 + public_size +
                  sizeof no_outside_info_and_pcr;
    TRY(tpm_command_header(TPM_ST_SESSIONS, size, TPM_CC_CreatePrimary, out));
    TRY(write_be32(out, TPM_RH_OWNER));
    TRY(password(owner_auth, out));
    TRY(write_bytes(out, no_sensitive, sizeof no_sensitive));
    TRY(write_be16(out, (uint16_t)public_size));
    TRY(write_bytes(out, key_template, sizeof key_template));
    TRY(write_bytes(out, no_unique, sizeof no_unique));
    return write_bytes(out, no_outside_info_and_pcr, sizeof no_outside_info_and_pcr);
}

struct err tpm_make_persistent(struct span owner_auth, uint32_t key, struct writer *out)
{
    size_t size = TPM_HEADER_SIZE + 4 + 4 + 4 + PASSWORD_SIZE(owner_auth) + 4;
    TRY(tpm_command_header(TPM_ST_SESSIONS, size, TPM_CC_EvictControl, out));
    TRY(write_be32(out, TPM_RH_OWNER));
    TRY(write_be32(out, key));
    TRY(password(owner_auth, out));
    return write_be32(out, ANCHOR_KEY_HANDLE);
}

struct err tpm_flush(uint32_t handle, struct writer *out)
{
    TRY(tpm_command_header(TPM_ST_NO_SESSIONS, TPM_HEADER_SIZE + 4, TPM_CC_FlushContext, out));
    return write_be32(out, handle);
}

struct err tpm_read_public(struct writer *out)
{
    TRY(tpm_command_header(TPM_ST_NO_SESSIONS, TPM_HEADER_SIZE + 4, TPM_CC_ReadPublic, out));
    return write_be32(out, ANCHOR_KEY_HANDLE);
}

/* Part 1, 16: the algorithm and the digest of the public area */
static struct err name_of(const struct crypto *crypto, struct span public_area, uint8_t out[ANCHOR_NAME_SIZE])
{
    out[0] = TPM_ALG_SHA256 >> 8;
    out[1] = TPM_ALG_SHA256 & 0xff;
    return hash_sha256(crypto, &public_area, 1, out + 2);
}

static struct err read_coordinate(struct reader *r, uint8_t out[P256_SIZE])
{
    uint16_t size;
    TRY(read_be16(r, &size));
    ENSURE(size == P256_SIZE, ANCHOR_IDENTITY);
    return read_bytes(r, out, P256_SIZE);
}

/* The Name and qualified Name that follow are not looked at: the Name is computed. */
struct err tpm_key_parse(const struct crypto *crypto, struct reader *answer, uint8_t out_name[ANCHOR_NAME_SIZE],
                         struct p256_point *out)
{
    uint16_t size;
    struct span public_area, beginning;
    ENSURE(answer->left >= 2 + KEY_PUBLIC_SIZE, ANCHOR_IDENTITY);
    TRY(read_be16(answer, &size));
    ENSURE(size == KEY_PUBLIC_SIZE, ANCHOR_IDENTITY);
    TRY(read_span(answer, size, &public_area));
    struct reader r = reader_of(public_area);
    TRY(read_span(&r, sizeof key_template, &beginning));
    ENSURE(memcmp(beginning.data, key_template, sizeof key_template) == 0, ANCHOR_IDENTITY);
    TRY(read_coordinate(&r, out->x));
    TRY(read_coordinate(&r, out->y));
    return name_of(crypto, public_area, out_name);
}

static struct err write_nv_public(uint32_t nv_index, bool written, struct writer *out)
{
    uint32_t attributes = TPMA_NV_TPM_NT_EXTEND | TPMA_NV_AUTHREAD | TPMA_NV_AUTHWRITE | TPMA_NV_NO_DA;
    TRY(write_be32(out, nv_index));
    TRY(write_be16(out, TPM_ALG_SHA256));
    TRY(write_be32(out, attributes | (written ? TPMA_NV_WRITTEN : 0)));
    TRY(write_be16(out, 0)); /* authPolicy */
    return write_be16(out, ANCHOR_VALUE_SIZE);
}

struct err nv_name(const struct crypto *crypto, uint32_t nv_index, bool written, uint8_t out[ANCHOR_NAME_SIZE])
{
    uint8_t bytes[NV_PUBLIC_SIZE];
    struct writer w = writer_of(bytes, sizeof bytes);
    TRY(write_nv_public(nv_index, written, &w));
    return name_of(crypto, writer_span(&w), out);
}

struct err nv_define(const struct anchor_config *config, struct span owner_auth, struct nv_command *out)
{
    struct writer handles = writer_of(out->handles, sizeof out->handles);
    struct writer parameters = writer_of(out->parameters, sizeof out->parameters);
    TRY(write_be32(&handles, TPM_RH_OWNER));
    TRY(write_be16(&parameters, ANCHOR_AUTH_SIZE));
    TRY(write_bytes(&parameters, config->auth, ANCHOR_AUTH_SIZE));
    TRY(write_be16(&parameters, NV_PUBLIC_SIZE));
    TRY(write_nv_public(config->nv_index, false, &parameters));
    out->command = (struct tpm_command){
        .commandCode = TPM_CC_NV_DefineSpace,
        .handles = writer_span(&handles),
        .names = writer_span(&handles), /* the Name of a hierarchy is its handle */
        .authValue = owner_auth,
        .parameters = writer_span(&parameters),
        .decrypt = true,
    };
    return OK;
}

/* A command that the index itself authorises: it is both handles. */
static struct err on_index(const struct anchor_config *config, uint32_t commandCode, struct span parameters,
                           struct nv_command *out)
{
    struct writer handles = writer_of(out->handles, sizeof out->handles);
    struct writer names = writer_of(out->names, sizeof out->names);
    for (int i = 0; i < 2; i++) {
        TRY(write_be32(&handles, config->nv_index));
        TRY(write_bytes(&names, config->index_name, ANCHOR_NAME_SIZE));
    }
    out->command = (struct tpm_command){
        .commandCode = commandCode,
        .handles = writer_span(&handles),
        .names = writer_span(&names),
        .authValue = span_of(config->auth, ANCHOR_AUTH_SIZE),
        .parameters = parameters,
    };
    return OK;
}

struct err nv_extend(const struct anchor_config *config, const uint8_t data[SHA256_SIZE], struct nv_command *out)
{
    struct writer parameters = writer_of(out->parameters, sizeof out->parameters);
    TRY(write_be16(&parameters, SHA256_SIZE));
    TRY(write_bytes(&parameters, data, SHA256_SIZE));
    return on_index(config, TPM_CC_NV_Extend, writer_span(&parameters), out);
}

struct err nv_read(const struct anchor_config *config, struct nv_command *out)
{
    struct writer parameters = writer_of(out->parameters, sizeof out->parameters);
    TRY(write_be16(&parameters, ANCHOR_VALUE_SIZE));
    TRY(write_be16(&parameters, 0)); /* offset */
    return on_index(config, TPM_CC_NV_Read, writer_span(&parameters), out);
}
