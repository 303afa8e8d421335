#include "trusted/anchor/session.h"

#include <string.h>

#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include "base/memory.h"
#include "trusted/runtime/entropy.h"

#define TPM_CC_StartAuthSession UINT32_C(0x00000176)
#define TPM_RH_NULL             UINT32_C(0x40000007)
#define TPM_HT_HMAC_SESSION     0x02u
#define TPM_SE_HMAC             0x00u
#define TPM_ALG_AES             0x0006u
#define TPM_ALG_SHA256          0x000bu
#define TPM_ALG_CFB             0x0043u
#define continueSession         0x01u
#define decryptSession          0x20u

#define AES_128_SIZE            16u
#define POINT_SIZE              (1u + 2u * P256_SIZE) /* SEC 1, uncompressed */
#define ENCRYPTED_SALT_SIZE     (2u * (2u + P256_SIZE))
#define START_SIZE              (TPM_HEADER_SIZE + 8u + 2u + SESSION_NONCE_SIZE + 2u + ENCRYPTED_SALT_SIZE + 1u + 6u + 2u)
#define AUTHORIZATION_SIZE      (4u + 2u + SESSION_NONCE_SIZE + 1u + 2u + SHA256_SIZE)
#define PARAMETERS_MAX          64u

struct secret {
    uint8_t bytes[SHA256_SIZE + SESSION_AUTH_MAX];
    size_t size;
};

static void wipe_secret(struct secret *secret)
{
    wipe(secret, sizeof *secret);
}

static void free_pkey(EVP_PKEY **key)
{
    EVP_PKEY_free(*key);
}

static void free_pkey_ctx(EVP_PKEY_CTX **ctx)
{
    EVP_PKEY_CTX_free(*ctx);
}

static void free_cipher(EVP_CIPHER **cipher)
{
    EVP_CIPHER_free(*cipher);
}

static void free_cipher_ctx(EVP_CIPHER_CTX **ctx)
{
    EVP_CIPHER_CTX_free(*ctx);
}

struct err tpm_command_header(enum tpm_tag tag, size_t size, uint32_t commandCode, struct writer *out)
{
    TRY(write_be16(out, (uint16_t)tag));
    TRY(write_be32(out, (uint32_t)size));
    return write_be32(out, commandCode);
}

struct err tpm_answer_header(struct span answer, enum tpm_tag tag, struct reader *out, uint32_t *out_code)
{
    uint16_t its_tag;
    uint32_t size;
    *out = reader_of(answer);
    ENSURE(answer.size >= TPM_HEADER_SIZE, ANCHOR_ANSWER);
    TRY(read_be16(out, &its_tag));
    TRY(read_be32(out, &size));
    TRY(read_be32(out, out_code));
    ENSURE(size == answer.size, ANCHOR_ANSWER);
    if (*out_code == 0)
        ENSURE(its_tag == tag, ANCHOR_ANSWER);
    else
        ENSURE(its_tag == TPM_ST_NO_SESSIONS && out->left == 0, ANCHOR_ANSWER);
    return OK;
}

/* Part 1, 11.4.10.2: one block of it, 256 bits */
static struct err KDFa(const struct crypto *crypto, struct span key, const char *label,
                       const uint8_t contextU[SESSION_NONCE_SIZE], const uint8_t contextV[SESSION_NONCE_SIZE],
                       uint8_t out[SHA256_SIZE])
{
    static const uint8_t counter[] = {0, 0, 0, 1}, bits[] = {0, 0, 1, 0};
    struct span parts[] = {
        span_of(counter, sizeof counter),      span_of(label, strlen(label) + 1), span_of(contextU, SESSION_NONCE_SIZE),
        span_of(contextV, SESSION_NONCE_SIZE), span_of(bits, sizeof bits),
    };
    return hmac_sha256(crypto, key, parts, sizeof parts / sizeof parts[0], out);
}

/* A fresh key pair's agreement with key (annex C.6.1). */
static struct err agree(const struct p256_point *key, struct p256_point *out_ephemeral, uint8_t out_z[P256_SIZE])
{
    uint8_t point[POINT_SIZE] = {POINT_CONVERSION_UNCOMPRESSED};
    char group[] = "P-256";
    size_t size = 0, z_size = P256_SIZE;
    memcpy(point + 1, key->x, P256_SIZE);
    memcpy(point + 1 + P256_SIZE, key->y, P256_SIZE);
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group, 0),
        OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, point, sizeof point),
        OSSL_PARAM_construct_end(),
    };
    EVP_PKEY_CTX *import DEFER(free_pkey_ctx) = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
    EVP_PKEY *peer DEFER(free_pkey) = NULL;
    ENSURE(import && EVP_PKEY_fromdata_init(import) == 1, CRYPTO);
    ENSURE(EVP_PKEY_fromdata(import, &peer, EVP_PKEY_PUBLIC_KEY, params) == 1, ANCHOR_ANSWER);

    EVP_PKEY *own DEFER(free_pkey) = EVP_EC_gen(group);
    ENSURE(own, CRYPTO);
    EVP_PKEY_CTX *ctx DEFER(free_pkey_ctx) = EVP_PKEY_CTX_new_from_pkey(NULL, own, NULL);
    ENSURE(ctx && EVP_PKEY_derive_init(ctx) == 1, CRYPTO);
    ENSURE(EVP_PKEY_derive_set_peer(ctx, peer) == 1, ANCHOR_ANSWER); /* looks whether the point is on the curve */
    ENSURE(EVP_PKEY_derive(ctx, out_z, &z_size) == 1 && z_size == P256_SIZE, CRYPTO);
    ENSURE(EVP_PKEY_get_octet_string_param(own, OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY, point, sizeof point, &size) == 1 &&
               size == sizeof point,
           CRYPTO);
    memcpy(out_ephemeral->x, point + 1, P256_SIZE);
    memcpy(out_ephemeral->y, point + 1 + P256_SIZE, P256_SIZE);
    return OK;
}

/* The salt stands in for the session key until the TPM's nonce is there. */
static struct err make_salt(const struct crypto *crypto, const struct p256_point *key, struct p256_point *out_ephemeral,
                            uint8_t out_salt[SHA256_SIZE])
{
    static const uint8_t counter[] = {0, 0, 0, 1};
    struct secret z DEFER(wipe_secret) = {.size = P256_SIZE};
    TRY(agree(key, out_ephemeral, z.bytes));
    struct span parts[] = {
        span_of(counter, sizeof counter),     span_of(z.bytes, z.size),   span_of("SECRET", 7),
        span_of(out_ephemeral->x, P256_SIZE), span_of(key->x, P256_SIZE),
    };
    return hash_sha256(crypto, parts, sizeof parts / sizeof parts[0], out_salt); /* KDFe, Part 1, 11.4.10.3 */
}

static struct err write_tpm2b(struct writer *out, const void *data, size_t size)
{
    TRY(write_be16(out, (uint16_t)size));
    return write_bytes(out, data, size);
}

struct err session_start(const struct crypto *crypto, struct tpm_session *session, uint32_t tpmKey,
                         const struct p256_point *key, struct writer *out)
{
    struct p256_point ephemeral;
    session->handle = 0;
    entropy_fill(session->nonceCaller, sizeof session->nonceCaller);
    TRY(make_salt(crypto, key, &ephemeral, session->sessionKey));
    TRY(tpm_command_header(TPM_ST_NO_SESSIONS, START_SIZE, TPM_CC_StartAuthSession, out));
    TRY(write_be32(out, tpmKey));
    TRY(write_be32(out, TPM_RH_NULL)); /* bind */
    TRY(write_tpm2b(out, session->nonceCaller, SESSION_NONCE_SIZE));
    TRY(write_be16(out, ENCRYPTED_SALT_SIZE));
    TRY(write_tpm2b(out, ephemeral.x, P256_SIZE));
    TRY(write_tpm2b(out, ephemeral.y, P256_SIZE));
    TRY(write_u8(out, TPM_SE_HMAC));
    TRY(write_be16(out, TPM_ALG_AES));
    TRY(write_be16(out, 8 * AES_128_SIZE));
    TRY(write_be16(out, TPM_ALG_CFB));
    return write_be16(out, TPM_ALG_SHA256);
}

struct err session_started(const struct crypto *crypto, struct tpm_session *session, struct reader *answer)
{
    struct secret salt DEFER(wipe_secret) = {.size = SHA256_SIZE};
    uint32_t handle;
    uint16_t size;
    ENSURE(answer->left == 4u + 2u + SESSION_NONCE_SIZE, ANCHOR_ANSWER);
    TRY(read_be32(answer, &handle));
    TRY(read_be16(answer, &size));
    ENSURE(handle >> 24 == TPM_HT_HMAC_SESSION && size == SESSION_NONCE_SIZE, ANCHOR_ANSWER);
    TRY(read_bytes(answer, session->nonceTPM, SESSION_NONCE_SIZE));
    memcpy(salt.bytes, session->sessionKey, salt.size);
    session->handle = handle;
    return KDFa(crypto, span_of(salt.bytes, salt.size), "ATH", session->nonceTPM, session->nonceCaller,
                session->sessionKey);
}

/* sessionKey || authValue, which has no zeros at its end (Part 1, 19.6.5 and 19.6.4.3). */
static struct err session_value(const struct tpm_session *session, struct span authValue, struct secret *out)
{
    ENSURE(authValue.size <= SESSION_AUTH_MAX, BAD_VALUE);
    while (authValue.size > 0 && authValue.data[authValue.size - 1] == 0)
        authValue.size--;
    memcpy(out->bytes, session->sessionKey, SHA256_SIZE);
    if (authValue.size > 0) memcpy(out->bytes + SHA256_SIZE, authValue.data, authValue.size);
    out->size = SHA256_SIZE + authValue.size;
    return OK;
}

/* Part 1, 21.3 */
static struct err encrypt(const struct crypto *crypto, const struct tpm_session *session, struct span value,
                          uint8_t *data, size_t size)
{
    struct secret key DEFER(wipe_secret) = {.size = SHA256_SIZE};
    int written = 0;
    TRY(KDFa(crypto, value, "CFB", session->nonceCaller, session->nonceTPM, key.bytes));
    EVP_CIPHER *cipher DEFER(free_cipher) = EVP_CIPHER_fetch(NULL, "AES-128-CFB", NULL);
    EVP_CIPHER_CTX *ctx DEFER(free_cipher_ctx) = EVP_CIPHER_CTX_new();
    ENSURE(cipher && ctx && EVP_EncryptInit_ex2(ctx, cipher, key.bytes, key.bytes + AES_128_SIZE, NULL) == 1 &&
               EVP_EncryptUpdate(ctx, data, &written, data, (int)size) == 1 && (size_t)written == size,
           CRYPTO);
    return OK;
}

/* Part 1, 19.6.5: pHash || nonceNewer || nonceOlder || sessionAttributes */
static struct err session_hmac(const struct crypto *crypto, struct span value, const uint8_t pHash[SHA256_SIZE],
                               const uint8_t newer[SESSION_NONCE_SIZE], const uint8_t older[SESSION_NONCE_SIZE],
                               uint8_t attributes, uint8_t out[SHA256_SIZE])
{
    struct span parts[] = {span_of(pHash, SHA256_SIZE), span_of(newer, SESSION_NONCE_SIZE),
                           span_of(older, SESSION_NONCE_SIZE), span_of(&attributes, 1)};
    return hmac_sha256(crypto, value, parts, sizeof parts / sizeof parts[0], out);
}

static void put_be32(uint8_t out[4], uint32_t value)
{
    for (int i = 0; i < 4; i++)
        out[i] = (uint8_t)(value >> (24 - 8 * i));
}

struct err session_command(const struct crypto *crypto, struct tpm_session *session, const struct tpm_command *command,
                           struct writer *out)
{
    uint8_t parameters[PARAMETERS_MAX], code[4], cpHash[SHA256_SIZE], hmac[SHA256_SIZE];
    uint8_t attributes = continueSession | (command->decrypt ? decryptSession : 0u);
    size_t size = command->parameters.size;
    struct secret value DEFER(wipe_secret) = {.size = 0};
    ENSURE(size <= sizeof parameters, BAD_VALUE);
    memcpy(parameters, command->parameters.data, size);
    entropy_fill(session->nonceCaller, sizeof session->nonceCaller);
    TRY(session_value(session, command->authValue, &value));
    struct span key = span_of(value.bytes, value.size);
    if (command->decrypt) {
        size_t secret_size = (size_t)parameters[0] << 8 | parameters[1];
        ENSURE(secret_size <= size - 2, BAD_VALUE);
        TRY(encrypt(crypto, session, key, parameters + 2, secret_size));
    }
    put_be32(code, command->commandCode);
    struct span hashed[] = {span_of(code, sizeof code), command->names, span_of(parameters, size)};
    TRY(hash_sha256(crypto, hashed, sizeof hashed / sizeof hashed[0], cpHash));
    TRY(session_hmac(crypto, key, cpHash, session->nonceCaller, session->nonceTPM, attributes, hmac));

    TRY(tpm_command_header(TPM_ST_SESSIONS, TPM_HEADER_SIZE + command->handles.size + 4 + AUTHORIZATION_SIZE + size,
                           command->commandCode, out));
    TRY(write_span(out, command->handles));
    TRY(write_be32(out, AUTHORIZATION_SIZE));
    TRY(write_be32(out, session->handle));
    TRY(write_tpm2b(out, session->nonceCaller, SESSION_NONCE_SIZE));
    TRY(write_u8(out, attributes));
    TRY(write_tpm2b(out, hmac, sizeof hmac));
    return write_bytes(out, parameters, size);
}

struct err session_answer(const struct crypto *crypto, struct tpm_session *session, const struct tpm_command *command,
                          struct reader *answer, void *out_parameters, size_t size)
{
    uint8_t code_and_command[8] = {0}, attributes, rpHash[SHA256_SIZE], expected[SHA256_SIZE];
    uint32_t parameter_size;
    uint16_t nonce_size, hmac_size;
    struct span parameters, nonce, hmac;
    struct secret value DEFER(wipe_secret) = {.size = 0};
    ENSURE(answer->left == 4 + size + 2 + SESSION_NONCE_SIZE + 1 + 2 + SHA256_SIZE, ANCHOR_ANSWER);
    TRY(read_be32(answer, &parameter_size));
    TRY(read_span(answer, size, &parameters));
    TRY(read_be16(answer, &nonce_size));
    TRY(read_span(answer, SESSION_NONCE_SIZE, &nonce));
    TRY(read_u8(answer, &attributes));
    TRY(read_be16(answer, &hmac_size));
    TRY(read_span(answer, SHA256_SIZE, &hmac));
    ENSURE(parameter_size == size && nonce_size == SESSION_NONCE_SIZE && hmac_size == SHA256_SIZE, ANCHOR_ANSWER);

    put_be32(code_and_command + 4, command->commandCode);
    struct span hashed[] = {span_of(code_and_command, sizeof code_and_command), parameters};
    TRY(hash_sha256(crypto, hashed, sizeof hashed / sizeof hashed[0], rpHash));
    TRY(session_value(session, command->authValue, &value));
    TRY(session_hmac(crypto, span_of(value.bytes, value.size), rpHash, nonce.data, session->nonceCaller, attributes,
                     expected));
    ENSURE(ct_equal(hmac.data, expected, sizeof expected), ANCHOR_ANSWER);
    memcpy(session->nonceTPM, nonce.data, SESSION_NONCE_SIZE);
    if (size > 0) memcpy(out_parameters, parameters.data, size);
    return OK;
}
