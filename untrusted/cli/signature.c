/*
 * Guarantees: a SIGSTRUCT that signature_sign or signature_attach completed passes every check that EINIT makes on
 * a SIGSTRUCT alone. It does not guarantee that the identity in it is the one of any enclave.
 */
#include "untrusted/cli/signature.h"

#include <string.h>

#include <openssl/bn.h>
#include <openssl/core_names.h>

#include "untrusted/sgx/sigstruct.h"

#define KEY_EXPONENT 3u

void signature_prepare(const struct identity *identity, struct sgx_sigstruct *out_sigstruct)
{
    *out_sigstruct = (struct sgx_sigstruct){
        .HEADER = {6, 0, 0, 0, 0xE1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0},
        .HEADER2 = {1, 1, 0, 0, 0x60, 0, 0, 0, 0x60, 0, 0, 0, 1, 0, 0, 0},
        .DATE = identity->date,
        .MISCSELECT = identity->miscselect,
        .MISCMASK = UINT32_MAX,
        .ATTRIBUTES = identity->attributes,
        .ATTRIBUTEMASK = {.FLAGS = UINT64_MAX, .XFRM = UINT64_MAX},
        .ISVPRODID = identity->isvprodid,
        .ISVSVN = identity->isvsvn,
    };
    memcpy(out_sigstruct->ENCLAVEHASH, identity->mrenclave, SGX_HASH_SIZE);
}

static void context_close(EVP_MD_CTX **context)
{
    EVP_MD_CTX_free(*context);
}

static void number_close(BIGNUM **number)
{
    BN_free(*number);
}

struct numbers {
    BN_CTX *pool;
    BIGNUM *signature, *square, *q1, *q2, *remainder;
};

static void numbers_close(struct numbers *n)
{
    if (!n->pool) return;
    BN_CTX_end(n->pool);
    BN_CTX_free(n->pool);
}

static struct err numbers_open(struct numbers *n)
{
    n->pool = BN_CTX_new();
    ENSURE(n->pool, NO_MEMORY);
    BN_CTX_start(n->pool);
    n->signature = BN_CTX_get(n->pool);
    n->square = BN_CTX_get(n->pool);
    n->q1 = BN_CTX_get(n->pool);
    n->q2 = BN_CTX_get(n->pool);
    n->remainder = BN_CTX_get(n->pool);
    ENSURE(n->remainder, NO_MEMORY); /* once BN_CTX_get failed, every later one fails too */
    return OK;
}

/* Q1 = floor(s^2 / n), Q2 = floor(s * (s^2 mod n) / n) (SDM volume 3D, "Intel SGX Enclave Signature Structure") */
static struct err set_quotients(struct sgx_sigstruct *sigstruct, const BIGNUM *modulus)
{
    struct numbers n DEFER(numbers_close) = {0};
    TRY(numbers_open(&n));
    ENSURE(BN_lebin2bn(sigstruct->SIGNATURE, SGX_RSA_SIZE, n.signature), NO_MEMORY);
    ENSURE(BN_cmp(n.signature, modulus) < 0, SGX_SIGNATURE);
    ENSURE(BN_sqr(n.square, n.signature, n.pool), NO_MEMORY);
    ENSURE(BN_div(n.q1, n.remainder, n.square, modulus, n.pool), CRYPTO);
    ENSURE(BN_mul(n.square, n.signature, n.remainder, n.pool), NO_MEMORY);
    ENSURE(BN_div(n.q2, n.remainder, n.square, modulus, n.pool), CRYPTO);
    ENSURE(BN_bn2lebinpad(n.q1, sigstruct->Q1, SGX_RSA_SIZE) == (int)SGX_RSA_SIZE, CRYPTO);
    ENSURE(BN_bn2lebinpad(n.q2, sigstruct->Q2, SGX_RSA_SIZE) == (int)SGX_RSA_SIZE, CRYPTO);
    return OK;
}

struct err signature_attach(struct sgx_sigstruct *sigstruct, EVP_PKEY *key, const uint8_t signature[SGX_RSA_SIZE])
{
    BIGNUM *modulus DEFER(number_close) = NULL;
    ENSURE(EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_N, &modulus) == 1, CRYPTO);
    struct sgx_sigstruct complete = *sigstruct;
    ENSURE(BN_bn2lebinpad(modulus, complete.MODULUS, SGX_RSA_SIZE) == (int)SGX_RSA_SIZE, KEY_UNUSABLE);
    complete.EXPONENT = KEY_EXPONENT;
    for (size_t i = 0; i < SGX_RSA_SIZE; i++)
        complete.SIGNATURE[i] = signature[SGX_RSA_SIZE - 1 - i];
    TRY(set_quotients(&complete, modulus));
    TRY(sigstruct_verify(&complete));
    *sigstruct = complete;
    return OK;
}

struct err signature_sign(struct sgx_sigstruct *sigstruct, EVP_PKEY *key)
{
    uint8_t message[2 * SGX_SIGNED_PART_SIZE];
    sigstruct_message(sigstruct, message);
    EVP_MD_CTX *context DEFER(context_close) = EVP_MD_CTX_new();
    ENSURE(context, NO_MEMORY);
    uint8_t signature[SGX_RSA_SIZE];
    size_t size = sizeof signature;
    ENSURE(EVP_DigestSignInit(context, NULL, EVP_sha256(), NULL, key) == 1, CRYPTO);
    ENSURE(EVP_DigestSign(context, signature, &size, message, sizeof message) == 1, CRYPTO);
    ENSURE(size == sizeof signature, KEY_UNUSABLE);
    return signature_attach(sigstruct, key, signature);
}
