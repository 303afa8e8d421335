/*
 * The checks that EINIT makes on a SIGSTRUCT.
 *
 * Guarantees: sigstruct_verify accepts exactly a well-formed SIGSTRUCT whose PKCS#1 v1.5 signature with
 * SHA-256 is right under its own MODULUS and whose Q1 and Q2 are the quotients that the processor needs.
 * It does not say whether MODULUS belongs to anybody trustworthy: that is MRSIGNER's reader's decision.
 * Nothing here is secret, so nothing runs in constant time.
 */
#include "untrusted/sgx/sigstruct.h"

#include <stdbool.h>
#include <string.h>

#include <openssl/bn.h>
#include <openssl/evp.h>

#define SGX_VENDOR_INTEL 0x8086u
#define SGX_RSA_EXPONENT 3u
#define SGX_MODULUS_BITS (8 * (int)SGX_RSA_SIZE)
#define SIGNED_SIZE      (2 * SGX_SIGNED_PART_SIZE)

static const uint8_t header[16] = {6, 0, 0, 0, 0xE1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0};
static const uint8_t header2[16] = {1, 1, 0, 0, 0x60, 0, 0, 0, 0x60, 0, 0, 0, 1, 0, 0, 0};

/* DigestInfo of SHA-256 in DER (RFC 8017, 9.2, note 1) */
static const uint8_t digest_info[] = {0x30, 0x31, 0x30, 0x0D, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01,
                                      0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20};

static bool all_zero(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (data[i]) return false;
    return true;
}

/* ENSURE that leaves behind which field it was about. */
#define ENSURE_FIELD(condition, name, what)                                                                            \
    do {                                                                                                               \
        *field = (what);                                                                                               \
        ENSURE(condition, name);                                                                                       \
    } while (0)

static struct err check_form(const struct sgx_sigstruct *s, const char **field)
{
    ENSURE_FIELD(memcmp(s->HEADER, header, sizeof header) == 0, SGX_SIG_STRUCT, "HEADER");
    ENSURE_FIELD(memcmp(s->HEADER2, header2, sizeof header2) == 0, SGX_SIG_STRUCT, "HEADER2");
    ENSURE_FIELD(s->VENDOR == 0 || s->VENDOR == SGX_VENDOR_INTEL, SGX_SIG_STRUCT, "VENDOR");
    ENSURE_FIELD(s->EXPONENT == SGX_RSA_EXPONENT, SGX_SIG_STRUCT, "EXPONENT");
    ENSURE_FIELD(all_zero(s->reserved1, sizeof s->reserved1), SGX_SIG_STRUCT, "a reserved byte");
    ENSURE_FIELD(all_zero(s->reserved2, sizeof s->reserved2), SGX_SIG_STRUCT, "a reserved byte");
    ENSURE_FIELD(all_zero(s->reserved3, sizeof s->reserved3), SGX_SIG_STRUCT, "a reserved byte");
    ENSURE_FIELD(all_zero(s->reserved4, sizeof s->reserved4), SGX_SIG_STRUCT, "a reserved byte");
    if (!(s->ATTRIBUTES.FLAGS & SGX_FLAGS_KSS)) {
        ENSURE_FIELD(all_zero(s->ISVFAMILYID, sizeof s->ISVFAMILYID), SGX_SIG_STRUCT, "ISVFAMILYID, without KSS");
        ENSURE_FIELD(all_zero(s->ISVEXTPRODID, sizeof s->ISVEXTPRODID), SGX_SIG_STRUCT, "ISVEXTPRODID, without KSS");
    }
    if (!(s->ATTRIBUTES.FLAGS & SGX_FLAGS_CET))
        ENSURE_FIELD(s->CET_ATTRIBUTES == 0 && s->CET_ATTRIBUTES_MASK == 0, SGX_SIG_STRUCT,
                     "CET_ATTRIBUTES, without CET");
    return OK;
}

/* EMSA-PKCS1-v1_5 of the signed parts, big-endian (RFC 8017, 9.2) */
static struct err padded_message(const struct sgx_sigstruct *s, uint8_t out_padded[SGX_RSA_SIZE])
{
    uint8_t message[SIGNED_SIZE];
    sigstruct_message(s, message);
    uint8_t *digest = out_padded + SGX_RSA_SIZE - SGX_HASH_SIZE;
    uint8_t *info = digest - sizeof digest_info;
    memset(out_padded, 0xFF, SGX_RSA_SIZE);
    out_padded[0] = 0;
    out_padded[1] = 1;
    info[-1] = 0;
    memcpy(info, digest_info, sizeof digest_info);
    ENSURE(EVP_Digest(message, sizeof message, digest, NULL, EVP_sha256(), NULL) == 1, CRYPTO);
    return OK;
}

struct numbers {
    BN_CTX *pool;
    BIGNUM *modulus, *signature, *q1, *q2, *padded;
    BIGNUM *remainder, *product;
};

static void numbers_close(struct numbers *n)
{
    if (!n->pool) return;
    BN_CTX_end(n->pool);
    BN_CTX_free(n->pool);
}

static struct err numbers_open(const struct sgx_sigstruct *s, const uint8_t padded[SGX_RSA_SIZE], struct numbers *n)
{
    n->pool = BN_CTX_new();
    ENSURE(n->pool, NO_MEMORY);
    BN_CTX_start(n->pool);
    n->modulus = BN_CTX_get(n->pool);
    n->signature = BN_CTX_get(n->pool);
    n->q1 = BN_CTX_get(n->pool);
    n->q2 = BN_CTX_get(n->pool);
    n->padded = BN_CTX_get(n->pool);
    n->remainder = BN_CTX_get(n->pool);
    n->product = BN_CTX_get(n->pool);
    ENSURE(n->product, NO_MEMORY); /* once BN_CTX_get failed, every later one fails too */
    ENSURE(BN_lebin2bn(s->MODULUS, SGX_RSA_SIZE, n->modulus), NO_MEMORY);
    ENSURE(BN_lebin2bn(s->SIGNATURE, SGX_RSA_SIZE, n->signature), NO_MEMORY);
    ENSURE(BN_lebin2bn(s->Q1, SGX_RSA_SIZE, n->q1), NO_MEMORY);
    ENSURE(BN_lebin2bn(s->Q2, SGX_RSA_SIZE, n->q2), NO_MEMORY);
    ENSURE(BN_bin2bn(padded, SGX_RSA_SIZE, n->padded), NO_MEMORY);
    return OK;
}

/* out = a * b - q * modulus, which must be a remainder: 0 <= out < modulus */
static struct err reduce(struct numbers *n, const BIGNUM *a, const BIGNUM *b, const BIGNUM *q, BIGNUM *out)
{
    ENSURE(BN_mul(out, a, b, n->pool), NO_MEMORY);
    ENSURE(BN_mul(n->product, q, n->modulus, n->pool), NO_MEMORY);
    ENSURE(BN_sub(out, out, n->product), NO_MEMORY);
    ENSURE(!BN_is_negative(out) && BN_cmp(out, n->modulus) < 0, SGX_SIGNATURE);
    return OK;
}

static struct err check_signature(const struct sgx_sigstruct *s, const char **field)
{
    uint8_t padded[SGX_RSA_SIZE];
    struct numbers n DEFER(numbers_close) = {0};
    TRY(padded_message(s, padded));
    TRY(numbers_open(s, padded, &n));
    ENSURE_FIELD(BN_num_bits(n.modulus) == SGX_MODULUS_BITS, SGX_SIGNATURE, "MODULUS");
    ENSURE_FIELD(BN_cmp(n.signature, n.modulus) < 0, SGX_SIGNATURE, "SIGNATURE, above MODULUS");
    *field = "Q1";
    TRY(reduce(&n, n.signature, n.signature, n.q1, n.remainder));
    *field = "Q2";
    TRY(reduce(&n, n.signature, n.remainder, n.q2, n.remainder));
    ENSURE_FIELD(BN_cmp(n.remainder, n.padded) == 0, SGX_SIGNATURE, "SIGNATURE, over the fields that it covers");
    return OK;
}

static struct err compare(const struct sgx_sigstruct *s, const struct sgx_secs *secs,
                          const uint8_t mrenclave[SGX_HASH_SIZE], const char **field)
{
    uint64_t flags = s->ATTRIBUTES.FLAGS ^ secs->ATTRIBUTES.FLAGS;
    uint64_t xfrm = s->ATTRIBUTES.XFRM ^ secs->ATTRIBUTES.XFRM;
    uint32_t misc = s->MISCSELECT ^ secs->MISCSELECT;
    uint32_t cet = (uint32_t)s->CET_ATTRIBUTES ^ secs->CET_ATTRIBUTES;
    ENSURE_FIELD(memcmp(s->ENCLAVEHASH, mrenclave, SGX_HASH_SIZE) == 0, SGX_MEASUREMENT, "ENCLAVEHASH");
    ENSURE_FIELD((flags & s->ATTRIBUTEMASK.FLAGS) == 0, SGX_ATTRIBUTE, "ATTRIBUTES.FLAGS");
    ENSURE_FIELD((xfrm & s->ATTRIBUTEMASK.XFRM) == 0, SGX_ATTRIBUTE, "ATTRIBUTES.XFRM");
    ENSURE_FIELD((misc & s->MISCMASK) == 0, SGX_ATTRIBUTE, "MISCSELECT");
    ENSURE_FIELD((cet & s->CET_ATTRIBUTES_MASK) == 0, SGX_ATTRIBUTE, "CET_ATTRIBUTES");
    return OK;
}

struct err sigstruct_verify(const struct sgx_sigstruct *sigstruct)
{
    const char *field = NULL;
    TRY(check_form(sigstruct, &field));
    return check_signature(sigstruct, &field);
}

struct err sigstruct_matches(const struct sgx_sigstruct *sigstruct, const struct sgx_secs *secs,
                             const uint8_t mrenclave[SGX_HASH_SIZE])
{
    const char *field = NULL;
    return compare(sigstruct, secs, mrenclave, &field);
}

struct err sigstruct_examine(const struct sgx_sigstruct *sigstruct, const struct sgx_secs *secs,
                             const uint8_t mrenclave[SGX_HASH_SIZE], const char **out_field)
{
    TRY(check_form(sigstruct, out_field));
    TRY(check_signature(sigstruct, out_field));
    return compare(sigstruct, secs, mrenclave, out_field);
}

struct err sigstruct_mrsigner(const struct sgx_sigstruct *sigstruct, uint8_t out_mrsigner[SGX_HASH_SIZE])
{
    uint8_t hash[SGX_HASH_SIZE];
    ENSURE(EVP_Digest(sigstruct->MODULUS, SGX_RSA_SIZE, hash, NULL, EVP_sha256(), NULL) == 1, CRYPTO);
    memcpy(out_mrsigner, hash, sizeof hash);
    return OK;
}

void sigstruct_message(const struct sgx_sigstruct *sigstruct, uint8_t out_message[2 * SGX_SIGNED_PART_SIZE])
{
    const uint8_t *bytes = (const uint8_t *)sigstruct;
    memcpy(out_message, bytes + SGX_SIGNED_PART1_OFFSET, SGX_SIGNED_PART_SIZE);
    memcpy(out_message + SGX_SIGNED_PART_SIZE, bytes + SGX_SIGNED_PART2_OFFSET, SGX_SIGNED_PART_SIZE);
}
