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
static uint32_t object_attributes(enum tpm_key_use use)
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
    u32(w, object_attributes(use));
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

void tpm_nv_define_as(struct tpm_message *out, uint32_t index, uint16_t size, uint32_t attributes, const char *auth)
{
    struct writer w = begin(out, TPM_ST_SESSIONS, 0x12a);
    u32(&w, TPM_RH_OWNER);
    password(&w, "");
    sized(&w, span_of(auth, strlen(auth)));
    u16(&w, 14); /* nvPublic */
    u32(&w, index);
    u16(&w, TPM_ALG_SHA256);
    u32(&w, attributes);
    u16(&w, 0);
    u16(&w, size);
    end(out, &w);
}

void tpm_nv_define(struct tpm_message *out, uint32_t index, uint16_t size)
{
    tpm_nv_define_as(out, index, size, 0x00020002 | 0x02000000, ""); /* OWNERWRITE, OWNERREAD, NO_DA */
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

static void nv_read(struct tpm_message *out, uint32_t who, uint32_t index, uint16_t size, const char *auth)
{
    struct writer w = begin(out, TPM_ST_SESSIONS, 0x14e);
    u32(&w, who);
    u32(&w, index);
    password(&w, auth);
    u16(&w, size);
    u16(&w, 0);
    end(out, &w);
}

void tpm_nv_read(struct tpm_message *out, uint32_t index, uint16_t size)
{
    nv_read(out, TPM_RH_OWNER, index, size, "");
}

void tpm_nv_read_with(struct tpm_message *out, uint32_t index, uint16_t size, const char *auth)
{
    nv_read(out, index, index, size, auth);
}

/* A command of the owner's on an index, without parameters. */
static void nv_owner(struct tpm_message *out, uint32_t code, uint32_t index)
{
    struct writer w = begin(out, TPM_ST_SESSIONS, code);
    u32(&w, TPM_RH_OWNER);
    u32(&w, index);
    password(&w, "");
    end(out, &w);
}

void tpm_nv_undefine(struct tpm_message *out, uint32_t index)
{
    nv_owner(out, 0x122, index);
}

void tpm_nv_increment(struct tpm_message *out, uint32_t index)
{
    nv_owner(out, 0x134, index);
}

void tpm_clear(struct tpm_message *out)
{
    struct writer w = begin(out, TPM_ST_SESSIONS, 0x126);
    u32(&w, TPM_RH_LOCKOUT);
    password(&w, "");
    end(out, &w);
}

void tpm_clock_set(struct tpm_message *out, uint64_t clock)
{
    struct writer w = begin(out, TPM_ST_SESSIONS, 0x128);
    u32(&w, TPM_RH_OWNER);
    password(&w, "");
    u32(&w, (uint32_t)(clock >> 32));
    u32(&w, (uint32_t)clock);
    end(out, &w);
}

void tpm_pcr_read(struct tpm_message *out, uint32_t pcr)
{
    struct writer w = begin(out, TPM_ST_NO_SESSIONS, 0x17e);
    u32(&w, 1);
    u16(&w, TPM_ALG_SHA256);
    u8(&w, 3); /* sizeofSelect */
    for (uint32_t byte = 0; byte < 3; byte++)
        u8(&w, pcr / 8 == byte ? (uint8_t)(1u << pcr % 8) : 0);
    end(out, &w);
}

void tpm_start_policy(struct tpm_message *out)
{
    static const uint8_t nonce[16] = {7};
    struct writer w = begin(out, TPM_ST_NO_SESSIONS, 0x176);
    u32(&w, 0x40000007); /* tpmKey, bind: TPM_RH_NULL */
    u32(&w, 0x40000007);
    sized(&w, span_of(nonce, sizeof nonce));
    u16(&w, 0); /* no salt */
    u8(&w, 1);  /* TPM_SE_POLICY */
    u16(&w, TPM_ALG_NULL);
    u16(&w, TPM_ALG_SHA256);
    end(out, &w);
}

static void handle_command(struct tpm_message *out, uint32_t code, uint32_t handle)
{
    struct writer w = begin(out, TPM_ST_NO_SESSIONS, code);
    u32(&w, handle);
    end(out, &w);
}

void tpm_policy_auth_value(struct tpm_message *out, uint32_t session)
{
    handle_command(out, 0x16b, session);
}

void tpm_policy_digest(struct tpm_message *out, uint32_t session)
{
    handle_command(out, 0x189, session);
}

void tpm_context_save(struct tpm_message *out, uint32_t handle)
{
    handle_command(out, 0x162, handle);
}

void tpm_context_load(struct tpm_message *out, struct span context)
{
    struct writer w = begin(out, TPM_ST_NO_SESSIONS, 0x161);
    must(write_span(&w, context));
    end(out, &w);
}

void tpm_ecdh_keygen(struct tpm_message *out, uint32_t key)
{
    handle_command(out, 0x163, key);
}

void tpm_ec_ephemeral(struct tpm_message *out, uint16_t curve)
{
    type_command(out, 0x18e, curve);
}

void tpm_audit_get_random(struct tpm_message *out)
{
    struct writer w = begin(out, TPM_ST_SESSIONS, 0x140);
    u32(&w, TPM_RH_OWNER);
    password(&w, "");
    u16(&w, TPM_ALG_NULL); /* auditAlg: as it is */
    u32(&w, 1);
    u32(&w, 0x17b);
    u32(&w, 0); /* clearList */
    end(out, &w);
}

void tpm_get_audit_digest(struct tpm_message *out)
{
    struct writer w = begin(out, TPM_ST_SESSIONS, 0x133);
    u32(&w, TPM_RH_ENDORSEMENT);
    u32(&w, 0x40000007); /* not signed */
    u32(&w, 2 * 9);      /* two empty passwords */
    for (int i = 0; i < 2; i++) {
        u32(&w, TPM_RS_PW);
        u16(&w, 0);
        u8(&w, 1);
        u16(&w, 0);
    }
    u16(&w, 0); /* qualifyingData */
    u16(&w, TPM_ALG_NULL);
    end(out, &w);
}

void tpm_clear_lockout(struct tpm_message *out, const char *auth)
{
    struct writer w = begin(out, TPM_ST_SESSIONS, 0x139);
    u32(&w, TPM_RH_LOCKOUT);
    password(&w, auth);
    end(out, &w);
}

void tpm_da_parameters(struct tpm_message *out, uint32_t tries, uint32_t recovery, uint32_t lockout_recovery)
{
    struct writer w = begin(out, TPM_ST_SESSIONS, 0x13a);
    u32(&w, TPM_RH_LOCKOUT);
    password(&w, "");
    u32(&w, tries);
    u32(&w, recovery);
    u32(&w, lockout_recovery);
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
