#include "benchmark/commands.h"

#define TAG_NO_SESSIONS     UINT16_C(0x8001)
#define TAG_SESSIONS        UINT16_C(0x8002)
#define RH_OWNER            UINT32_C(0x40000001)
#define RH_NULL             UINT32_C(0x40000007)
#define RS_PW               UINT32_C(0x40000009)

#define ALG_RSA             UINT16_C(0x0001)
#define ALG_HMAC            UINT16_C(0x0005)
#define ALG_KEYEDHASH       UINT16_C(0x0008)
#define ALG_SHA256          UINT16_C(0x000B)
#define ALG_NULL            UINT16_C(0x0010)
#define ALG_RSASSA          UINT16_C(0x0014)
#define ALG_ECDSA           UINT16_C(0x0018)
#define ALG_ECC             UINT16_C(0x0023)
#define ECC_NIST_P256       UINT16_C(0x0003)
#define ST_HASHCHECK        UINT16_C(0x8024)

/* TPMA_OBJECT: fixedTPM, fixedParent, userWithAuth, noDA, sign; sensitiveDataOrigin for keys that the TPM makes */
#define KEY_GIVEN           UINT32_C(0x00040452)
#define KEY_MADE            UINT32_C(0x00040472)
/* TPMA_NV: OWNERWRITE, AUTHWRITE, OWNERREAD, AUTHREAD, NO_DA */
#define NV_ATTRIBUTES       UINT32_C(0x02060006)

#define COMMAND_SIZE_OFFSET 2u
#define DIGEST_SIZE         32u

static struct err begin(struct writer *w, uint16_t tag, uint32_t code)
{
    TRY(write_be16(w, tag));
    TRY(write_be32(w, 0));
    return write_be32(w, code);
}

/* Fills in commandSize, which is known only now. */
static struct err end(struct writer *w)
{
    struct writer size = writer_of(w->start + COMMAND_SIZE_OFFSET, sizeof(uint32_t));
    return write_be32(&size, (uint32_t)w->size);
}

/* The authorisation area of one password session with an empty password (Part 1, 19.4). */
static struct err write_password(struct writer *w)
{
    TRY(write_be32(w, 9));
    TRY(write_be32(w, RS_PW));
    TRY(write_be16(w, 0));
    TRY(write_u8(w, 0));
    return write_be16(w, 0);
}

static struct err write_filling(struct writer *w, size_t size)
{
    uint8_t *filling = NULL;
    return write_zeros(w, size, &filling);
}

static struct err write_sized_filling(struct writer *w, uint16_t size)
{
    TRY(write_be16(w, size));
    return write_filling(w, size);
}

/* TPML_PCR_SELECTION of one bank with the first eight PCRs. */
static struct err write_pcr_selection(struct writer *w)
{
    TRY(write_be32(w, 1));
    TRY(write_be16(w, ALG_SHA256));
    TRY(write_u8(w, 3));
    TRY(write_u8(w, 0xFF));
    return write_be16(w, 0);
}

struct err command_startup(struct writer *w)
{
    TRY(begin(w, TAG_NO_SESSIONS, 0x144));
    TRY(write_be16(w, 0));
    return end(w);
}

struct err command_get_random(struct writer *w)
{
    TRY(begin(w, TAG_NO_SESSIONS, 0x17B));
    TRY(write_be16(w, 32));
    return end(w);
}

struct err command_pcr_read(struct writer *w)
{
    TRY(begin(w, TAG_NO_SESSIONS, 0x17E));
    TRY(write_pcr_selection(w));
    return end(w);
}

struct err command_pcr_extend(struct writer *w)
{
    TRY(begin(w, TAG_SESSIONS, 0x182));
    TRY(write_be32(w, 16));
    TRY(write_password(w));
    TRY(write_be32(w, 1));
    TRY(write_be16(w, ALG_SHA256));
    TRY(write_filling(w, DIGEST_SIZE));
    return end(w);
}

struct err command_hash(struct writer *w)
{
    TRY(begin(w, TAG_NO_SESSIONS, 0x17D));
    TRY(write_sized_filling(w, MESSAGE_SIZE));
    TRY(write_be16(w, ALG_SHA256));
    TRY(write_be32(w, RH_NULL));
    return end(w);
}

struct err command_hmac(struct writer *w, uint32_t key)
{
    TRY(begin(w, TAG_SESSIONS, 0x155));
    TRY(write_be32(w, key));
    TRY(write_password(w));
    TRY(write_sized_filling(w, MESSAGE_SIZE));
    TRY(write_be16(w, ALG_NULL));
    return end(w);
}

struct err command_nv_define(struct writer *w)
{
    TRY(begin(w, TAG_SESSIONS, 0x12A));
    TRY(write_be32(w, RH_OWNER));
    TRY(write_password(w));
    TRY(write_be16(w, 0));
    TRY(write_be16(w, 14));
    TRY(write_be32(w, NV_INDEX));
    TRY(write_be16(w, ALG_SHA256));
    TRY(write_be32(w, NV_ATTRIBUTES));
    TRY(write_be16(w, 0));
    TRY(write_be16(w, NV_SIZE));
    return end(w);
}

struct err command_nv_undefine(struct writer *w)
{
    TRY(begin(w, TAG_SESSIONS, 0x122));
    TRY(write_be32(w, RH_OWNER));
    TRY(write_be32(w, NV_INDEX));
    TRY(write_password(w));
    return end(w);
}

struct err command_nv_read(struct writer *w)
{
    TRY(begin(w, TAG_SESSIONS, 0x14E));
    TRY(write_be32(w, NV_INDEX));
    TRY(write_be32(w, NV_INDEX));
    TRY(write_password(w));
    TRY(write_be16(w, NV_SIZE));
    TRY(write_be16(w, 0));
    return end(w);
}

struct err command_nv_write(struct writer *w, uint32_t number)
{
    TRY(begin(w, TAG_SESSIONS, 0x137));
    TRY(write_be32(w, NV_INDEX));
    TRY(write_be32(w, NV_INDEX));
    TRY(write_password(w));
    TRY(write_be16(w, NV_SIZE));
    /* libtpms does not write what is there already, so the data differ each time */
    TRY(write_be32(w, number));
    TRY(write_filling(w, NV_SIZE - sizeof(number)));
    TRY(write_be16(w, 0));
    return end(w);
}

static struct err write_sign(struct writer *w, uint32_t key, uint16_t scheme)
{
    TRY(begin(w, TAG_SESSIONS, 0x15D));
    TRY(write_be32(w, key));
    TRY(write_password(w));
    TRY(write_sized_filling(w, DIGEST_SIZE));
    TRY(write_be16(w, scheme));
    TRY(write_be16(w, ALG_SHA256));
    TRY(write_be16(w, ST_HASHCHECK));
    TRY(write_be32(w, RH_NULL));
    TRY(write_be16(w, 0));
    return end(w);
}

struct err command_sign_rsa(struct writer *w, uint32_t key)
{
    return write_sign(w, key, ALG_RSASSA);
}

struct err command_sign_ecc(struct writer *w, uint32_t key)
{
    return write_sign(w, key, ALG_ECDSA);
}

struct err command_flush(struct writer *w, uint32_t handle)
{
    TRY(begin(w, TAG_NO_SESSIONS, 0x165));
    TRY(write_be32(w, handle));
    return end(w);
}

/* Up to the public area's own size: an empty password, and sensitive data of the given size. */
static struct err begin_create(struct writer *w, uint16_t sensitive_size, uint16_t public_size)
{
    TRY(begin(w, TAG_SESSIONS, 0x131));
    TRY(write_be32(w, RH_OWNER));
    TRY(write_password(w));
    TRY(write_be16(w, (uint16_t)(2u + 2u + sensitive_size)));
    TRY(write_be16(w, 0));
    TRY(write_sized_filling(w, sensitive_size));
    return write_be16(w, public_size);
}

/* type, nameAlg, objectAttributes and an empty authPolicy: 10 bytes */
static struct err begin_public(struct writer *w, uint16_t type, uint32_t attributes)
{
    TRY(write_be16(w, type));
    TRY(write_be16(w, ALG_SHA256));
    TRY(write_be32(w, attributes));
    return write_be16(w, 0);
}

/* outsideInfo and creationPCR are empty. */
static struct err end_create(struct writer *w)
{
    TRY(write_be16(w, 0));
    TRY(write_be32(w, 0));
    return end(w);
}

struct err command_create_rsa(struct writer *w, uint32_t number)
{
    TRY(begin_create(w, 0, 10 + 12 + 6));
    TRY(begin_public(w, ALG_RSA, KEY_MADE));
    TRY(write_be16(w, ALG_NULL));
    TRY(write_be16(w, ALG_RSASSA));
    TRY(write_be16(w, ALG_SHA256));
    TRY(write_be16(w, 2048));
    TRY(write_be32(w, 0));
    TRY(write_be16(w, sizeof(number)));
    TRY(write_be32(w, number));
    return end_create(w);
}

struct err command_create_ecc(struct writer *w, uint32_t number)
{
    TRY(begin_create(w, 0, 10 + 10 + 8));
    TRY(begin_public(w, ALG_ECC, KEY_MADE));
    TRY(write_be16(w, ALG_NULL));
    TRY(write_be16(w, ALG_ECDSA));
    TRY(write_be16(w, ALG_SHA256));
    TRY(write_be16(w, ECC_NIST_P256));
    TRY(write_be16(w, ALG_NULL));
    TRY(write_be16(w, sizeof(number)));
    TRY(write_be32(w, number));
    TRY(write_be16(w, 0));
    return end_create(w);
}

struct err command_create_hmac_key(struct writer *w)
{
    TRY(begin_create(w, 32, 10 + 4 + 2));
    TRY(begin_public(w, ALG_KEYEDHASH, KEY_GIVEN));
    TRY(write_be16(w, ALG_HMAC));
    TRY(write_be16(w, ALG_SHA256));
    TRY(write_be16(w, 0));
    return end_create(w);
}
