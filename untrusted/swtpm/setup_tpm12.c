#include "untrusted/swtpm/setup_tpm12.h"

#include <stdbool.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>

#include "base/bytes.h"

#define MESSAGE_MAX              4096u
#define HEADER_SIZE              10u
#define NONCE_SIZE               20u
#define DIGEST_SIZE              20u
#define TAG_PLAIN                0x00c1u
#define TAG_ONE_AUTH             0x00c2u

#define ORD_OIAP                 0x0au
#define ORD_TAKE_OWNERSHIP       0x0du
#define ORD_PHYSICAL_ENABLE      0x6fu
#define ORD_PHYSICAL_DEACTIVATED 0x72u
#define ORD_CREATE_EK            0x78u
#define ORD_NV_DEFINE            0xccu
#define ORD_NV_WRITE             0xcdu
#define ORD_PHYSICAL_PRESENCE    0x4000000au
#define PRESENCE_CMD_ENABLE      0x20u
#define PRESENCE_PRESENT         0x08u
#define PROTOCOL_OWNER           5u
#define INDEX_LOCK               0xffffffffu
#define INDEX_EK                 0x1000f000u
#define INDEX_PLATFORM           0x1000f002u
#define OWNER_READ_WRITE         0x00020002u

/* TPM_KEY_PARMS: RSA 2048, two primes, OAEP, no signatures (TPM Main 1.2, Part 2, 10.1) */
static const uint8_t rsa_2048[] = {0, 0, 0, 1, 0, 3, 0, 1, 0, 0, 0, 12, 0, 0, 8, 0, 0, 0, 0, 2, 0, 0, 0, 0};

/* --- a command --- */

struct command {
    uint8_t bytes[MESSAGE_MAX];
    struct writer w;
    struct err err; /* of what was written; asked for once, at the end */
    const char *name;
};

static void keep(struct command *c, struct err err)
{
    if (!c->err.code) c->err = err;
}

static void put8(struct command *c, uint8_t value)
{
    keep(c, write_u8(&c->w, value));
}

static void put16(struct command *c, uint16_t value)
{
    keep(c, write_be16(&c->w, value));
}

static void put32(struct command *c, uint32_t value)
{
    keep(c, write_be32(&c->w, value));
}

static void put(struct command *c, const void *bytes, size_t size)
{
    keep(c, write_bytes(&c->w, bytes, size));
}

static void put_zeros(struct command *c, size_t size)
{
    uint8_t *at = NULL;
    keep(c, write_zeros(&c->w, size, &at));
}

static void begin(struct command *c, const char *name, uint16_t tag, uint32_t ordinal)
{
    c->w = writer_of(c->bytes, sizeof c->bytes);
    c->err = OK;
    c->name = name;
    put16(c, tag);
    put32(c, 0);
    put32(c, ordinal);
}

static uint32_t number_at(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static struct err receive(int fd, uint8_t response[MESSAGE_MAX], size_t *out_size)
{
    ENSURE(recv(fd, response, HEADER_SIZE, MSG_WAITALL) == (ssize_t)HEADER_SIZE, PROTOCOL);
    const size_t size = number_at(response + 2);
    ENSURE(size >= HEADER_SIZE && size <= MESSAGE_MAX, PROTOCOL);
    const ssize_t rest = (ssize_t)(size - HEADER_SIZE);
    ENSURE(!rest || recv(fd, response + HEADER_SIZE, (size_t)rest, MSG_WAITALL) == rest, PROTOCOL);
    *out_size = size;
    return OK;
}

/* Sends it. response: MESSAGE_MAX bytes; out_rest: what is behind its header. */
static struct err ask(int fd, struct command *c, uint8_t *response, struct reader *out_rest, struct explanation *why)
{
    size_t size = 0;
    TRY(c->err);
    struct writer head = writer_of(c->bytes + 2, 4);
    TRY(write_be32(&head, (uint32_t)c->w.size));
    if (send(fd, c->bytes, c->w.size, MSG_NOSIGNAL) != (ssize_t)c->w.size || receive(fd, response, &size).code)
        return explain(why, FAIL(PROTOCOL), "%s: the TPM does not answer", c->name);
    const uint32_t code = number_at(response + 6);
    if (code) return explain(why, FAIL(TPM), "%s failed: 0x%x", c->name, (unsigned)code);
    *out_rest = reader_of(span_of(response + HEADER_SIZE, size - HEADER_SIZE));
    return OK;
}

static struct err tell(int fd, struct command *c, struct explanation *why)
{
    static uint8_t response[MESSAGE_MAX];
    struct reader rest;
    return ask(fd, c, response, &rest, why);
}

/* --- on --- */

static struct err be_present(int fd, uint16_t presence, struct explanation *why)
{
    struct command c;
    begin(&c, "TSC_PhysicalPresence", TAG_PLAIN, ORD_PHYSICAL_PRESENCE);
    put16(&c, presence);
    return tell(fd, &c, why);
}

struct err setup12_enable(int fd, struct explanation *why)
{
    struct command c;
    TRY(be_present(fd, PRESENCE_CMD_ENABLE, why));
    TRY(be_present(fd, PRESENCE_PRESENT, why));
    begin(&c, "TPM_PhysicalEnable", TAG_PLAIN, ORD_PHYSICAL_ENABLE);
    TRY(tell(fd, &c, why));
    begin(&c, "TPM_PhysicalSetDeactivated", TAG_PLAIN, ORD_PHYSICAL_DEACTIVATED);
    put8(&c, 0);
    return tell(fd, &c, why);
}

/* --- the endorsement key --- */

struct err setup12_make_ek(int fd, uint8_t out_modulus[SETUP12_MODULUS_SIZE], struct explanation *why)
{
    static uint8_t response[MESSAGE_MAX];
    struct command c;
    struct reader r;
    struct span parameters;
    uint8_t nonce[NONCE_SIZE];
    uint32_t size = 0;
    ENSURE(getrandom(nonce, sizeof nonce, 0) == (ssize_t)sizeof nonce, SYSTEM);
    begin(&c, "TPM_CreateEndorsementKeyPair", TAG_PLAIN, ORD_CREATE_EK);
    put(&c, nonce, sizeof nonce);
    put(&c, rsa_2048, sizeof rsa_2048);
    TRY(ask(fd, &c, response, &r, why));
    const bool read = !read_span(&r, sizeof rsa_2048, &parameters).code && !read_be32(&r, &size).code &&
                      size == SETUP12_MODULUS_SIZE && !read_bytes(&r, out_modulus, size).code;
    return read ? OK : explain(why, FAIL(PROTOCOL), "the EK is no RSA key of 2048 bits");
}

/* --- the owner --- */

static void free_key(EVP_PKEY **key)
{
    EVP_PKEY_free(*key);
}

static void free_context(EVP_PKEY_CTX **context)
{
    EVP_PKEY_CTX_free(*context);
}

static bool key_of(const uint8_t modulus[SETUP12_MODULUS_SIZE], EVP_PKEY **out_key)
{
    BIGNUM *n = BN_bin2bn(modulus, SETUP12_MODULUS_SIZE, NULL);
    OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
    const bool built = n && build && OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_N, n) &&
                       OSSL_PARAM_BLD_push_ulong(build, OSSL_PKEY_PARAM_RSA_E, 65537);
    OSSL_PARAM *parameters = built ? OSSL_PARAM_BLD_to_param(build) : NULL;
    const bool made = parameters && context && EVP_PKEY_fromdata_init(context) > 0 &&
                      EVP_PKEY_fromdata(context, out_key, EVP_PKEY_PUBLIC_KEY, parameters) > 0;
    OSSL_PARAM_free(parameters);
    EVP_PKEY_CTX_free(context);
    OSSL_PARAM_BLD_free(build);
    BN_free(n);
    return made;
}

/* OAEP with SHA-1 and "TCPA" (TPM Main 1.2, Part 1, 31.1.1). */
static bool encrypt(EVP_PKEY *key, const uint8_t secret[SETUP12_SECRET_SIZE], uint8_t out[SETUP12_MODULUS_SIZE])
{
    size_t size = SETUP12_MODULUS_SIZE;
    EVP_PKEY_CTX *context DEFER(free_context) = EVP_PKEY_CTX_new(key, NULL);
    char *label = OPENSSL_strdup("TCPA");
    if (!context || !label || EVP_PKEY_encrypt_init(context) <= 0 ||
        EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_OAEP_PADDING) <= 0 ||
        EVP_PKEY_CTX_set_rsa_oaep_md(context, EVP_sha1()) <= 0 ||
        EVP_PKEY_CTX_set_rsa_mgf1_md(context, EVP_sha1()) <= 0 ||
        EVP_PKEY_CTX_set0_rsa_oaep_label(context, label, 4) <= 0) {
        OPENSSL_free(label);
        return false;
    }
    return EVP_PKEY_encrypt(context, out, &size, secret, SETUP12_SECRET_SIZE) > 0 && size == SETUP12_MODULUS_SIZE;
}

/* The handle and the nonce of a session. */
static struct err open_session(int fd, uint32_t *out_handle, uint8_t out_nonce[NONCE_SIZE], struct explanation *why)
{
    static uint8_t response[MESSAGE_MAX];
    struct command c;
    struct reader r;
    begin(&c, "TPM_OIAP", TAG_PLAIN, ORD_OIAP);
    TRY(ask(fd, &c, response, &r, why));
    TRY(read_be32(&r, out_handle));
    return read_bytes(&r, out_nonce, NONCE_SIZE);
}

/* The session's handle, nonceOdd, continueAuthSession 0, and the HMAC over all (TPM Main 1.2, Part 1, 13.1). */
static struct err authorize(struct command *c, uint32_t session, const uint8_t nonce_even[NONCE_SIZE],
                            const uint8_t secret[SETUP12_SECRET_SIZE])
{
    uint8_t message[DIGEST_SIZE + 2 * NONCE_SIZE + 1] = {0};
    uint8_t mac[DIGEST_SIZE];
    unsigned size = 0;
    uint8_t *nonce_odd = message + DIGEST_SIZE + NONCE_SIZE;
    TRY(c->err);
    /* The ordinal and what follows: all but tag and size. */
    ENSURE(EVP_Digest(c->bytes + 6, c->w.size - 6, message, NULL, EVP_sha1(), NULL) == 1, CRYPTO);
    memcpy(message + DIGEST_SIZE, nonce_even, NONCE_SIZE);
    ENSURE(getrandom(nonce_odd, NONCE_SIZE, 0) == (ssize_t)NONCE_SIZE, SYSTEM);
    ENSURE(HMAC(EVP_sha1(), secret, SETUP12_SECRET_SIZE, message, sizeof message, mac, &size), CRYPTO);
    put32(c, session);
    put(c, nonce_odd, NONCE_SIZE);
    put8(c, 0);
    put(c, mac, sizeof mac);
    return c->err;
}

/* TPM_KEY12 of the storage root key, as far as it is known before it is made. */
static void put_srk(struct command *c)
{
    put16(c, 0x0028);
    put16(c, 0);
    put16(c, 0x0011); /* storage */
    put32(c, 0);
    put8(c, 1); /* authorization always */
    put(c, rsa_2048, sizeof rsa_2048);
    put_zeros(c, 4 + 4 + 4); /* no PCRs, no key yet */
}

struct err setup12_take_ownership(int fd, const uint8_t ek[SETUP12_MODULUS_SIZE],
                                  const uint8_t owner[SETUP12_SECRET_SIZE], const uint8_t srk[SETUP12_SECRET_SIZE],
                                  struct explanation *why)
{
    EVP_PKEY *key DEFER(free_key) = NULL;
    const uint8_t *const secrets[] = {owner, srk};
    uint8_t sealed[SETUP12_MODULUS_SIZE];
    uint8_t nonce[NONCE_SIZE];
    uint32_t session = 0;
    struct command c;
    ENSURE(key_of(ek, &key), CRYPTO);
    TRY(open_session(fd, &session, nonce, why));
    begin(&c, "TPM_TakeOwnership", TAG_ONE_AUTH, ORD_TAKE_OWNERSHIP);
    put16(&c, PROTOCOL_OWNER);
    for (size_t i = 0; i < 2; i++) {
        ENSURE(encrypt(key, secrets[i], sealed), CRYPTO);
        put32(&c, sizeof sealed);
        put(&c, sealed, sizeof sealed);
    }
    put_srk(&c);
    TRY(authorize(&c, session, nonce, owner));
    return tell(fd, &c, why);
}

/* --- NV --- */

/* At every locality, whatever the PCRs are. */
static void put_no_pcrs(struct command *c)
{
    put16(c, 3);
    put_zeros(c, 3);
    put8(c, 0x1f);
    put_zeros(c, DIGEST_SIZE);
}

static struct err define(int fd, uint32_t index, uint32_t attributes, uint32_t size, struct explanation *why)
{
    struct command c;
    begin(&c, "TPM_NV_DefineSpace", TAG_PLAIN, ORD_NV_DEFINE);
    put16(&c, 0x0018);
    put32(&c, index);
    put_no_pcrs(&c);
    put_no_pcrs(&c);
    put16(&c, 0x0017);
    put32(&c, attributes);
    put_zeros(&c, 3);
    put32(&c, size);
    put_zeros(&c, DIGEST_SIZE); /* of the authorization: none */
    return tell(fd, &c, why);
}

struct err setup12_keep_certificate(int fd, enum setup12_certificate which, struct span certificate,
                                    struct explanation *why)
{
    const uint32_t index = which == SETUP12_EK ? INDEX_EK : INDEX_PLATFORM;
    const uint32_t size = (uint32_t)certificate.size;
    struct command c;
    TRY(define(fd, index, OWNER_READ_WRITE, size, why));
    begin(&c, "TPM_NV_WriteValue", TAG_PLAIN, ORD_NV_WRITE);
    put32(&c, index);
    put32(&c, 0);
    put32(&c, size);
    put(&c, certificate.data, certificate.size);
    return tell(fd, &c, why);
}

struct err setup12_lock(int fd, struct explanation *why)
{
    return define(fd, INDEX_LOCK, 0, 0, why);
}
