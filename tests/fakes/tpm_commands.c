#include "tests/fakes/tpm_commands.h"

#include <stdlib.h>
#include <string.h>

#define TPM_ST_NO_SESSIONS 0x8001u
#define TPM_ST_SESSIONS    0x8002u
#define TPM_ST_HASHCHECK   0x8024u
#define TPM_RS_PW          0x40000009u
#define TPM_ALG_RSA        0x1u
#define TPM_ALG_SHA256     0xbu
#define TPM_ALG_ECC        0x23u
#define HEADER_SIZE        10u

static void must(struct err err)
{
    if (err.code) abort();
}

struct span tpm_message_span(const struct tpm_message *message)
{
    return span_of(message->bytes, message->size);
}

static struct writer begin(struct tpm_message *out, uint16_t tag, uint32_t code)
{
    struct writer w = writer_of(out->bytes, sizeof out->bytes);
    must(write_be16(&w, tag));
    must(write_be32(&w, 0));
    must(write_be32(&w, code));
    return w;
}

static void end(struct tpm_message *out, const struct writer *w)
{
    struct writer size = writer_of(out->bytes + 2, 4);
    must(write_be32(&size, (uint32_t)w->size));
    out->size = w->size;
}

static void u8(struct writer *w, uint8_t value)
{
    must(write_u8(w, value));
}

static void u16(struct writer *w, unsigned value)
{
    must(write_be16(w, (uint16_t)value));
}

static void u32(struct writer *w, uint32_t value)
{
    must(write_be32(w, value));
}

static void sized(struct writer *w, struct span bytes)
{
    u16(w, (unsigned)bytes.size);
    must(write_span(w, bytes));
}

static void password(struct writer *w, const char *auth)
{
    u32(w, (uint32_t)(9 + strlen(auth)));
    u32(w, TPM_RS_PW);
    u16(w, 0);
    u8(w, 1); /* continueSession */
    sized(w, span_of(auth, strlen(auth)));
}

static void type_command(struct tpm_message *out, uint32_t code, uint16_t type)
{
    struct writer w = begin(out, TPM_ST_NO_SESSIONS, code);
    u16(&w, type);
    end(out, &w);
}

void tpm_startup(struct tpm_message *out, uint16_t type)
{
    type_command(out, 0x144, type);
}

void tpm_shutdown(struct tpm_message *out, uint16_t type)
{
    type_command(out, 0x145, type);
}

void tpm_self_test(struct tpm_message *out)
{
    struct writer w = begin(out, TPM_ST_NO_SESSIONS, 0x143);
    u8(&w, 1);
    end(out, &w);
}

void tpm_get_random(struct tpm_message *out, uint16_t size)
{
    type_command(out, 0x17b, size);
}

void tpm_read_clock(struct tpm_message *out)
{
    struct writer w = begin(out, TPM_ST_NO_SESSIONS, 0x181);
    end(out, &w);
}

void tpm_pcr_extend(struct tpm_message *out, uint32_t pcr)
{
    static const uint8_t digest[32] = {1};
    struct writer w = begin(out, TPM_ST_SESSIONS, 0x182);
    u32(&w, pcr);
    password(&w, "");
    u32(&w, 1);
    u16(&w, TPM_ALG_SHA256);
    must(write_bytes(&w, digest, sizeof digest));
    end(out, &w);
}

/* TPMA_OBJECT: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, and sign or decrypt */
static uint32_t attributes(enum tpm_key_use use)
{
    return 0x472u | (use == TPM_KEY_SIGN ? 0x40000u : 0x20000u);
}

static struct writer begin_primary(struct tpm_message *out, uint32_t hierarchy)
{
    struct writer w = begin(out, TPM_ST_SESSIONS, 0x131);
    u32(&w, hierarchy);
    password(&w, "");
    u16(&w, 4); /* inSensitive: no auth, no data */
    u16(&w, 0);
    u16(&w, 0);
    return w;
}

static void end_primary(struct tpm_message *out, struct writer *w, const struct writer *public)
{
    sized(w, writer_span(public));
    u16(w, 0); /* outsideInfo */
    u32(w, 0); /* creationPCR */
    end(out, w);
}

static void public_head(struct writer *w, uint16_t type, enum tpm_key_use use)
{
    u16(w, type);
    u16(w, TPM_ALG_SHA256);
    u32(w, attributes(use));
    u16(w, 0);            /* authPolicy */
    u16(w, TPM_ALG_NULL); /* symmetric */
    u16(w, TPM_ALG_NULL); /* scheme: named in each command */
}

void tpm_create_primary_rsa(struct tpm_message *out, uint32_t hierarchy, uint16_t bits, enum tpm_key_use use)
{
    uint8_t bytes[64];
    struct writer public = writer_of(bytes, sizeof bytes);
    struct writer w = begin_primary(out, hierarchy);
    public_head(&public, TPM_ALG_RSA, use);
    u16(&public, bits);
    u32(&public, 0); /* 65537 */
    u16(&public, 0);
    end_primary(out, &w, &public);
}

void tpm_create_primary_ecc(struct tpm_message *out, uint32_t hierarchy, uint16_t curve, enum tpm_key_use use)
{
    uint8_t bytes[64];
    struct writer public = writer_of(bytes, sizeof bytes);
    struct writer w = begin_primary(out, hierarchy);
    public_head(&public, TPM_ALG_ECC, use);
    u16(&public, curve);
    u16(&public, TPM_ALG_NULL); /* kdf */
    u16(&public, 0);
    u16(&public, 0);
    end_primary(out, &w, &public);
}

static uint16_t hash_for(struct span digest)
{
    return digest.size == 20 ? 0x4 : digest.size == 48 ? 0xc : digest.size == 64 ? 0xd : TPM_ALG_SHA256;
}

void tpm_sign(struct tpm_message *out, uint32_t key, uint16_t scheme, struct span digest)
{
    struct writer w = begin(out, TPM_ST_SESSIONS, 0x15d);
    u32(&w, key);
    password(&w, "");
    sized(&w, digest);
    u16(&w, scheme);
    u16(&w, hash_for(digest));
    u16(&w, TPM_ST_HASHCHECK); /* the null ticket: the key is not restricted */
    u32(&w, 0x40000007);
    u16(&w, 0);
    end(out, &w);
}

void tpm_verify(struct tpm_message *out, uint32_t key, struct span digest, struct span signature)
{
    struct writer w = begin(out, TPM_ST_NO_SESSIONS, 0x177);
    u32(&w, key);
    sized(&w, digest);
    must(write_span(&w, signature));
    end(out, &w);
}

static void rsa_scheme(struct writer *w, uint16_t scheme)
{
    u16(w, scheme);
    if (scheme == TPM_ALG_OAEP) u16(w, TPM_ALG_SHA256);
    u16(w, 0); /* label */
}

void tpm_rsa_encrypt(struct tpm_message *out, uint32_t key, uint16_t scheme, struct span text)
{
    struct writer w = begin(out, TPM_ST_NO_SESSIONS, 0x174);
    u32(&w, key);
    sized(&w, text);
    rsa_scheme(&w, scheme);
    end(out, &w);
}

void tpm_rsa_decrypt(struct tpm_message *out, uint32_t key, uint16_t scheme, struct span ciphertext)
{
    struct writer w = begin(out, TPM_ST_SESSIONS, 0x159);
    u32(&w, key);
    password(&w, "");
    sized(&w, ciphertext);
    rsa_scheme(&w, scheme);
    end(out, &w);
}

void tpm_ecdh_zgen(struct tpm_message *out, uint32_t key, struct span point)
{
    struct writer w = begin(out, TPM_ST_SESSIONS, 0x154);
    u32(&w, key);
    password(&w, "");
    must(write_span(&w, point));
    end(out, &w);
}

void tpm_flush(struct tpm_message *out, uint32_t handle)
{
    struct writer w = begin(out, TPM_ST_NO_SESSIONS, 0x165);
    u32(&w, handle);
    end(out, &w);
}

void tpm_evict_control(struct tpm_message *out, uint32_t object, uint32_t persistent)
{
    struct writer w = begin(out, TPM_ST_SESSIONS, 0x120);
    u32(&w, TPM_RH_OWNER);
    u32(&w, object);
    password(&w, "");
    u32(&w, persistent);
    end(out, &w);
}

void tpm_read_public(struct tpm_message *out, uint32_t object)
{
    struct writer w = begin(out, TPM_ST_NO_SESSIONS, 0x173);
    u32(&w, object);
    end(out, &w);
}

void tpm_nv_define(struct tpm_message *out, uint32_t index, uint16_t size)
{
    struct writer w = begin(out, TPM_ST_SESSIONS, 0x12a);
    u32(&w, TPM_RH_OWNER);
    password(&w, "");
    u16(&w, 0);  /* auth */
    u16(&w, 14); /* nvPublic */
    u32(&w, index);
    u16(&w, TPM_ALG_SHA256);
    u32(&w, 0x00020002 | 0x02000000); /* OWNERWRITE, OWNERREAD, NO_DA */
    u16(&w, 0);
    u16(&w, size);
    end(out, &w);
}

void tpm_nv_write(struct tpm_message *out, uint32_t index, struct span data)
{
    struct writer w = begin(out, TPM_ST_SESSIONS, 0x137);
    u32(&w, TPM_RH_OWNER);
    u32(&w, index);
    password(&w, "");
    sized(&w, data);
    u16(&w, 0);
    end(out, &w);
}

void tpm_nv_read(struct tpm_message *out, uint32_t index, uint16_t size)
{
    struct writer w = begin(out, TPM_ST_SESSIONS, 0x14e);
    u32(&w, TPM_RH_OWNER);
    u32(&w, index);
    password(&w, "");
    u16(&w, size);
    u16(&w, 0);
    end(out, &w);
}

void tpm_clear_lockout(struct tpm_message *out, const char *auth)
{
    struct writer w = begin(out, TPM_ST_SESSIONS, 0x139);
    u32(&w, TPM_RH_LOCKOUT);
    password(&w, auth);
    end(out, &w);
}

void tpm_get_property(struct tpm_message *out, uint32_t property)
{
    struct writer w = begin(out, TPM_ST_NO_SESSIONS, 0x17a);
    u32(&w, 6); /* TPM_CAP_TPM_PROPERTIES */
    u32(&w, property);
    u32(&w, 1);
    end(out, &w);
}

uint32_t tpm_response_code(struct span response)
{
    struct reader r = reader_of(response);
    struct span head;
    uint32_t code = 0;
    if (read_span(&r, 6, &head).code || read_be32(&r, &code).code) return UINT32_MAX;
    return code;
}

uint32_t tpm_response_handle(struct span response)
{
    struct reader r = reader_of(response);
    struct span head;
    uint32_t handle = 0;
    must(read_span(&r, HEADER_SIZE, &head));
    must(read_be32(&r, &handle));
    return handle;
}

struct span tpm_response_parameters(struct span response, size_t handles)
{
    struct reader r = reader_of(response);
    uint16_t tag = 0;
    struct span skipped, parameters;
    must(read_be16(&r, &tag));
    must(read_span(&r, HEADER_SIZE - 2 + 4 * handles, &skipped));
    uint32_t size = (uint32_t)r.left;
    if (tag == TPM_ST_SESSIONS) must(read_be32(&r, &size));
    must(read_span(&r, size, &parameters));
    return parameters;
}

struct span tpm_take_2b(struct span *parameters)
{
    struct reader r = reader_of(*parameters);
    uint16_t size = 0;
    struct span content;
    must(read_be16(&r, &size));
    must(read_span(&r, size, &content));
    *parameters = span_of(r.next, r.left);
    return content;
}
