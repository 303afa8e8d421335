#include "untrusted/swtpm/setup_tpm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <tss2/tss2_mu.h>
#include <tss2/tss2_rc.h>

#define SPK_HANDLE   0x81000001u
#define RESPONSE_MAX 4096u
#define HEADER_SIZE  10u
#define NV_CHUNK     1024u
#define PCR_BYTES    3
#define TCTI_MAGIC   UINT64_C(0x76746d7365747570) /* any number */
#define EK_FLAGS     (TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT | TPMA_OBJECT_SENSITIVEDATAORIGIN)
#define NV_ATTRIBUTES                                                                                                  \
    (TPMA_NV_PPWRITE | TPMA_NV_WRITEDEFINE | TPMA_NV_PPREAD | TPMA_NV_OWNERREAD | TPMA_NV_AUTHREAD | TPMA_NV_NO_DA |   \
     TPMA_NV_PLATFORMCREATE)

struct setup_tpm {
    TSS2_TCTI_CONTEXT_COMMON_V1 tcti; /* first: what ESAPI is given */
    int fd;
    ESYS_CONTEXT *esys;
};

static struct err refuse(const char *what, TSS2_RC rc, struct explanation *why)
{
    return explain(why, FAIL(TPM), "%s failed: 0x%x (%s)", what, rc, Tss2_RC_Decode(rc));
}

#define ASK(what, call)                                                                                                \
    do {                                                                                                               \
        const TSS2_RC rc_ = (call);                                                                                    \
        if (rc_ != TSS2_RC_SUCCESS) return refuse(what, rc_, why);                                                     \
    } while (0)

/* --- a TCTI over a connected socket --- */

static TSS2_RC transmit(TSS2_TCTI_CONTEXT *tcti, size_t size, const uint8_t *command)
{
    const struct setup_tpm *tpm = (struct setup_tpm *)tcti;
    return send(tpm->fd, command, size, MSG_NOSIGNAL) == (ssize_t)size ? TSS2_RC_SUCCESS : TSS2_TCTI_RC_IO_ERROR;
}

static TSS2_RC receive(TSS2_TCTI_CONTEXT *tcti, size_t *size, uint8_t *response, int32_t timeout)
{
    const struct setup_tpm *tpm = (struct setup_tpm *)tcti;
    (void)timeout; /* one TPM, one command */
    if (!response) {
        *size = RESPONSE_MAX;
        return TSS2_RC_SUCCESS;
    }
    if (*size < HEADER_SIZE || recv(tpm->fd, response, HEADER_SIZE, MSG_WAITALL) != (ssize_t)HEADER_SIZE)
        return TSS2_TCTI_RC_IO_ERROR;
    const size_t all = (size_t)response[2] << 24 | (size_t)response[3] << 16 | (size_t)response[4] << 8 | response[5];
    if (all < HEADER_SIZE || all > *size) return TSS2_TCTI_RC_MALFORMED_RESPONSE;
    const ssize_t rest = (ssize_t)(all - HEADER_SIZE);
    if (rest && recv(tpm->fd, response + HEADER_SIZE, (size_t)rest, MSG_WAITALL) != rest) return TSS2_TCTI_RC_IO_ERROR;
    *size = all;
    return TSS2_RC_SUCCESS;
}

static void finalize(TSS2_TCTI_CONTEXT *tcti)
{
    (void)tcti;
}

struct err setup_tpm_open(int fd, struct setup_tpm **out_tpm, struct explanation *why)
{
    struct setup_tpm *tpm = calloc(1, sizeof *tpm);
    ENSURE(tpm, NO_MEMORY);
    tpm->fd = fd;
    tpm->tcti = (TSS2_TCTI_CONTEXT_COMMON_V1){
        .magic = TCTI_MAGIC, .version = 1, .transmit = transmit, .receive = receive, .finalize = finalize};
    const TSS2_RC rc = Esys_Initialize(&tpm->esys, (TSS2_TCTI_CONTEXT *)tpm, NULL);
    if (rc != TSS2_RC_SUCCESS) {
        free(tpm);
        return refuse("the TPM library", rc, why);
    }
    *out_tpm = tpm;
    return OK;
}

void setup_tpm_close(struct setup_tpm **tpm)
{
    if (!*tpm) return;
    Esys_Finalize(&(*tpm)->esys);
    free(*tpm);
    *tpm = NULL;
}

/* --- templates --- */

/* TPM2_PolicySecret(TPM_RH_ENDORSEMENT), of the EK Credential Profile B.3 and B.4 */
static const TPM2B_DIGEST policy_sha256 = {
    .size = 32,
    .buffer = {0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24,
               0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa},
};
static const TPM2B_DIGEST policy_sha384 = {
    .size = 48,
    .buffer = {0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc, 0x53, 0xd8, 0x82, 0xbc, 0xf5, 0xfd, 0x3a, 0x1a,
               0x07, 0x41, 0x48, 0xbb, 0x35, 0xd3, 0xb4, 0xe4, 0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca,
               0xcb, 0x47, 0xba, 0x09, 0x69, 0x96, 0x46, 0x15, 0x0f, 0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12},
};

static TPMT_SYM_DEF_OBJECT aes(uint16_t bits)
{
    return (TPMT_SYM_DEF_OBJECT){.algorithm = TPM2_ALG_AES, .keyBits.aes = bits, .mode.aes = TPM2_ALG_CFB};
}

static const TPMT_SYM_DEF_OBJECT no_symmetric = {.algorithm = TPM2_ALG_NULL};

static TPMT_PUBLIC rsa_template(unsigned bits, TPMT_SYM_DEF_OBJECT symmetric)
{
    return (TPMT_PUBLIC){
        .type = TPM2_ALG_RSA,
        .nameAlg = TPM2_ALG_SHA256,
        .parameters.rsaDetail = {.symmetric = symmetric, .scheme.scheme = TPM2_ALG_NULL, .keyBits = (uint16_t)bits},
        .unique.rsa.size = (uint16_t)(bits / 8),
    };
}

static TPMT_PUBLIC ecc_template(TPMI_ALG_HASH name, uint16_t unique, TPMT_SYM_DEF_OBJECT symmetric)
{
    return (TPMT_PUBLIC){
        .type = TPM2_ALG_ECC,
        .nameAlg = name,
        .parameters.eccDetail = {.symmetric = symmetric,
                                 .scheme.scheme = TPM2_ALG_NULL,
                                 .curveID = TPM2_ECC_NIST_P384,
                                 .kdf.scheme = TPM2_ALG_NULL},
        .unique.ecc = {.x.size = unique, .y.size = unique},
    };
}

/* The low templates want the policy alone; the high ones (SHA-384) take userWithAuth as well. */
static TPMT_PUBLIC ek_template(const struct setup_ek *ek)
{
    const bool high = ek->ecc || ek->rsa_bits != 2048;
    const TPMT_SYM_DEF_OBJECT symmetric = ek->may_sign ? no_symmetric : aes(high ? 256 : 128);
    TPMT_PUBLIC template =
        ek->ecc ? ecc_template(TPM2_ALG_SHA384, 0, symmetric) : rsa_template(ek->rsa_bits, symmetric);
    TPMA_OBJECT use = TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_DECRYPT;
    if (ek->may_sign) use = TPMA_OBJECT_SIGN_ENCRYPT | (ek->may_decrypt ? TPMA_OBJECT_DECRYPT : 0);
    template.objectAttributes = EK_FLAGS | TPMA_OBJECT_ADMINWITHPOLICY | use | (high ? TPMA_OBJECT_USERWITHAUTH : 0);
    template.authPolicy = high ? policy_sha384 : policy_sha256;
    if (high) {
        template.nameAlg = TPM2_ALG_SHA384;
        if (!ek->ecc) template.unique.rsa.size = 0;
    }
    return template;
}

/* --- keys --- */

static struct err make_primary(struct setup_tpm *tpm, ESYS_TR hierarchy, const TPMT_PUBLIC *template,
                               TPM2_HANDLE handle, TPM2B_PUBLIC **out_public, struct explanation *why)
{
    const TPM2B_SENSITIVE_CREATE sensitive = {0};
    const TPM2B_DATA outside = {0};
    const TPML_PCR_SELECTION no_pcr = {0};
    const TPM2B_PUBLIC public = {.publicArea = *template};
    ESYS_TR key = ESYS_TR_NONE;
    ESYS_TR persistent = ESYS_TR_NONE;
    ASK("TPM2_CreatePrimary",
        Esys_CreatePrimary(tpm->esys, hierarchy, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &sensitive, &public,
                           &outside, &no_pcr, &key, out_public, NULL, NULL, NULL));
    const TSS2_RC rc = Esys_EvictControl(tpm->esys, ESYS_TR_RH_OWNER, key, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE,
                                         handle, &persistent);
    const TSS2_RC flushed = Esys_FlushContext(tpm->esys, key);
    ASK("TPM2_EvictControl", rc);
    ASK("TPM2_FlushContext", flushed);
    return OK;
}

static char *put_hex(char *next, const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        next += sprintf(next, "%02x", bytes[i]);
    return next;
}

static void put_padded(char **next, const TPM2B_ECC_PARAMETER *value, size_t size)
{
    for (size_t i = value->size; i < size; i++)
        *next += sprintf(*next, "00");
    *next = put_hex(*next, value->buffer, value->size);
}

/* RSA: the modulus; ECC: the point. */
static void key_text(const TPMT_PUBLIC *public, char out_text[SETUP_KEY_TEXT_MAX])
{
    char *next = out_text;
    if (public->type == TPM2_ALG_RSA) {
        (void)put_hex(next, public->unique.rsa.buffer, public->unique.rsa.size);
        return;
    }
    next = stpcpy(next, "x=");
    put_padded(&next, &public->unique.ecc.x, 48);
    next = stpcpy(next, ",y=");
    put_padded(&next, &public->unique.ecc.y, 48);
    (void)stpcpy(next, ",id=secp384r1");
}

static const struct setup_ek_place {
    bool ecc;
    unsigned rsa_bits;
    TPM2_HANDLE handle, certificate, template;
    const char *name;
} ek_places[] = {
    {false, 2048, 0x81010001, 0x01c00002, 0x01c00004, "RSA 2048"},
    {false, 3072, 0x8101001c, 0x01c0001c, 0x01c0001d, "RSA 3072"},
    {true, 0, 0x81010016, 0x01c00016, 0x01c00017, "ECC"},
};

static const struct setup_ek_place *place_of(const struct setup_ek *ek)
{
    for (size_t i = 0; i < sizeof ek_places / sizeof *ek_places; i++)
        if (ek_places[i].ecc == ek->ecc && (ek->ecc || ek_places[i].rsa_bits == ek->rsa_bits)) return &ek_places[i];
    return NULL;
}

struct err setup_tpm_make_ek(struct setup_tpm *tpm, const struct setup_ek *ek, struct setup_ek_made *out_made,
                             struct explanation *why)
{
    const struct setup_ek_place *place = place_of(ek);
    const TPMT_PUBLIC template = ek_template(ek);
    TPM2B_PUBLIC *public = NULL;
    struct setup_ek_made made = {0};
    if (!place) return explain(why, FAIL(USAGE), "%u bit RSA keys are not supported by libtpms.", ek->rsa_bits);
    made.handle = place->handle;
    made.certificate_index = place->certificate;
    made.template_index = place->template;
    made.name = place->name;
    ASK("an EK's template",
        Tss2_MU_TPMT_PUBLIC_Marshal(&template, made.template, sizeof made.template, &made.template_size));
    TRY(make_primary(tpm, ESYS_TR_RH_ENDORSEMENT, &template, place->handle, &public, why));
    key_text(&public->publicArea, made.text);
    Esys_Free(public);
    *out_made = made;
    return OK;
}

struct err setup_tpm_make_spk(struct setup_tpm *tpm, bool ecc, unsigned rsa_bits, TPM2_HANDLE *out_handle,
                              struct explanation *why)
{
    TPM2B_PUBLIC *public = NULL;
    const bool high = ecc || rsa_bits != 2048;
    TPMT_PUBLIC template =
        ecc ? ecc_template(TPM2_ALG_SHA384, 48, aes(256)) : rsa_template(rsa_bits, aes(high ? 256 : 128));
    if (high) template.nameAlg = TPM2_ALG_SHA384;
    template.objectAttributes =
        EK_FLAGS | TPMA_OBJECT_USERWITHAUTH | TPMA_OBJECT_NODA | TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_DECRYPT;
    TRY(make_primary(tpm, ESYS_TR_RH_OWNER, &template, SPK_HANDLE, &public, why));
    Esys_Free(public);
    *out_handle = SPK_HANDLE;
    return OK;
}

/* --- NV --- */

static struct err write_chunks(struct setup_tpm *tpm, ESYS_TR index, struct span content, struct explanation *why)
{
    for (size_t done = 0; done < content.size;) {
        TPM2B_MAX_NV_BUFFER chunk = {0};
        chunk.size = (uint16_t)(content.size - done < NV_CHUNK ? content.size - done : NV_CHUNK);
        memcpy(chunk.buffer, content.data + done, chunk.size);
        ASK("TPM2_NV_Write", Esys_NV_Write(tpm->esys, ESYS_TR_RH_PLATFORM, index, ESYS_TR_PASSWORD, ESYS_TR_NONE,
                                           ESYS_TR_NONE, &chunk, (uint16_t)done));
        done += chunk.size;
    }
    return OK;
}

struct err setup_tpm_write_index(struct setup_tpm *tpm, TPM2_HANDLE index, struct span content, bool lock,
                                 struct explanation *why)
{
    const TPM2B_AUTH no_auth = {0};
    const TPM2B_NV_PUBLIC public = {.nvPublic = {.nvIndex = index,
                                                 .nameAlg = TPM2_ALG_SHA256,
                                                 .attributes = NV_ATTRIBUTES,
                                                 .dataSize = (uint16_t)content.size}};
    ESYS_TR made = ESYS_TR_NONE;
    ASK("TPM2_NV_DefineSpace", Esys_NV_DefineSpace(tpm->esys, ESYS_TR_RH_PLATFORM, ESYS_TR_PASSWORD, ESYS_TR_NONE,
                                                   ESYS_TR_NONE, &no_auth, &public, &made));
    TRY(write_chunks(tpm, made, content, why));
    if (lock)
        ASK("TPM2_NV_WriteLock",
            Esys_NV_WriteLock(tpm->esys, ESYS_TR_RH_PLATFORM, made, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE));
    ASK("forgetting an index", Esys_TR_Close(tpm->esys, &made));
    return OK;
}

/* --- PCR banks --- */

static const struct {
    const char *name;
    TPMI_ALG_HASH hash;
} bank_names[] = {
    {"sha1", TPM2_ALG_SHA1}, {"sha256", TPM2_ALG_SHA256}, {"sha384", TPM2_ALG_SHA384}, {"sha512", TPM2_ALG_SHA512}};

static const char *bank_name(TPMI_ALG_HASH hash)
{
    for (size_t i = 0; i < sizeof bank_names / sizeof *bank_names; i++)
        if (bank_names[i].hash == hash) return bank_names[i].name;
    return "?";
}

static void append(char out[64], const char *name)
{
    if (*out) (void)strcat(out, ",");
    (void)strncat(out, name, 63 - strlen(out));
}

static bool is_listed(const char *list, const char *name)
{
    const size_t size = strlen(name);
    for (const char *at = list; (at = strstr(at, name)) != NULL; at++)
        if ((at == list || at[-1] == ',') && (at[size] == ',' || at[size] == '\0')) return true;
    return false;
}

struct err setup_tpm_choose_banks(struct setup_tpm *tpm, const char *banks, char out_active[64], char out_all[64],
                                  struct explanation *why)
{
    TPMS_CAPABILITY_DATA *there = NULL;
    TPMI_YES_NO more = 0;
    TPMI_YES_NO done = 0;
    uint32_t limits[3];
    *out_active = *out_all = '\0';
    ASK("TPM2_GetCapability",
        Esys_GetCapability(tpm->esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, TPM2_CAP_PCRS, 0, 64, &more, &there));
    TPML_PCR_SELECTION wanted = there->data.assignedPCR;
    Esys_Free(there);
    for (uint32_t i = 0; i < wanted.count && i < TPM2_NUM_PCR_BANKS; i++) {
        TPMS_PCR_SELECTION *bank = &wanted.pcrSelections[i];
        const char *name = bank_name(bank->hash);
        const bool active = is_listed(banks, name);
        append(out_all, name);
        if (active) append(out_active, name);
        bank->sizeofSelect = PCR_BYTES;
        memset(bank->pcrSelect, active ? 0xff : 0, PCR_BYTES);
    }
    if (!*out_active)
        return explain(why, FAIL(BAD_VALUE),
                       "No PCR banks could be allocated. None of the selected algorithms are supported.");
    ASK("TPM2_PCR_Allocate", Esys_PCR_Allocate(tpm->esys, ESYS_TR_RH_PLATFORM, ESYS_TR_PASSWORD, ESYS_TR_NONE,
                                               ESYS_TR_NONE, &wanted, &done, &limits[0], &limits[1], &limits[2]));
    if (!done) return explain(why, FAIL(TPM), "TPM2_PCR_Allocate did not allocate the banks");
    return OK;
}

struct err setup_tpm_shut_down(struct setup_tpm *tpm, struct explanation *why)
{
    ASK("TPM2_Shutdown", Esys_Shutdown(tpm->esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, TPM2_SU_CLEAR));
    return OK;
}
