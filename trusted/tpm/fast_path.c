/*
 * Why: libtpms hands libcrypto a private RSA key without its primes, so libcrypto exponentiates over the whole modulus;
 * it makes the key anew for each command, so blinding values and Montgomery contexts are computed for one use; and it
 * describes each curve by its numbers, so libcrypto does not see that it knows the curve and uses generic code.
 *
 * Guarantees: a key is taken from the cache only if modulus, public exponent and the private prime are all equal; the
 * primes are given to libcrypto only if they multiply to the modulus; libcrypto itself verifies each result of the
 * Chinese remainder theorem with the public exponent, so a false prime could make it slow but not wrong. Kept keys are
 * no longer-lived than libtpms' own cache of private exponents, which keeps more of them and until the same moment.
 * Not guaranteed: secrecy of the public curve and modulus, which are compared in variable time.
 */
#define OPENSSL_SUPPRESS_DEPRECATED /* RSA *: libtpms' keys are made with it */
#include "trusted/tpm/fast_path.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/obj_mac.h>
#include <openssl/rsa.h>

/* The functions of libtpms and libcrypto that are wrapped, and what the linker makes of their names. */
uint32_t __real_InitOpenSSLRSAPrivateKey(void *object, EVP_PKEY **out);
uint32_t __wrap_InitOpenSSLRSAPrivateKey(void *object, EVP_PKEY **out);
BIGNUM *__real_ExpDCacheFind(const BIGNUM *p, const BIGNUM *n, const BIGNUM *e, BIGNUM **out_q);
BIGNUM *__wrap_ExpDCacheFind(const BIGNUM *p, const BIGNUM *n, const BIGNUM *e, BIGNUM **out_q);
EC_GROUP *__real_EC_GROUP_new_curve_GFp(const BIGNUM *p, const BIGNUM *a, const BIGNUM *b, BN_CTX *ctx);
EC_GROUP *__wrap_EC_GROUP_new_curve_GFp(const BIGNUM *p, const BIGNUM *a, const BIGNUM *b, BN_CTX *ctx);

/* A signing key, a decryption key of salted sessions and one to change: more would only occupy secret memory. */
#define KEPT_KEYS 4

struct kept_key {
    EVP_PKEY *key; /* one reference is ours */
    BIGNUM *prime; /* the one of the two that libtpms knows the key by */
};

static struct kept_key kept_keys[KEPT_KEYS]; /* the most recently used one first */
static BIGNUM *prime_in_use;                 /* of the key that libtpms is just making */

static void forget(struct kept_key *kept)
{
    EVP_PKEY_free(kept->key); /* clears its numbers */
    BN_clear_free(kept->prime);
    *kept = (struct kept_key){0};
}

static void forget_prime_in_use(void)
{
    BN_clear_free(prime_in_use);
    prime_in_use = NULL;
}

void fast_path_forget(void)
{
    forget_prime_in_use();
    for (size_t i = 0; i < KEPT_KEYS; i++)
        forget(&kept_keys[i]);
}

/* Moves what lies at index to the front. */
static void use(size_t index)
{
    struct kept_key used = kept_keys[index];
    for (size_t i = index; i > 0; i--)
        kept_keys[i] = kept_keys[i - 1];
    kept_keys[0] = used;
}

static bool same_key(const struct kept_key *kept, EVP_PKEY *key)
{
    const BIGNUM *n = NULL, *e = NULL, *kept_n = NULL, *kept_e = NULL;
    if (!kept->key) return false;
    RSA_get0_key(EVP_PKEY_get0_RSA(key), &n, &e, NULL);
    RSA_get0_key(EVP_PKEY_get0_RSA(kept->key), &kept_n, &kept_e, NULL);
    /* Two keys of one modulus have one of its two primes: the last comparison tells apart only those two. */
    return BN_cmp(n, kept_n) == 0 && BN_cmp(e, kept_e) == 0 && BN_cmp(prime_in_use, kept->prime) == 0;
}

static bool take_kept(EVP_PKEY **key)
{
    for (size_t i = 0; i < KEPT_KEYS; i++) {
        if (!same_key(&kept_keys[i], *key)) continue;
        if (EVP_PKEY_up_ref(kept_keys[i].key) != 1) return false;
        EVP_PKEY_free(*key);
        *key = kept_keys[i].key;
        use(i);
        return true;
    }
    return false;
}

static void keep(EVP_PKEY *key)
{
    BIGNUM *prime = BN_dup(prime_in_use);
    if (!prime || EVP_PKEY_up_ref(key) != 1) {
        BN_clear_free(prime);
        return;
    }
    forget(&kept_keys[KEPT_KEYS - 1]);
    kept_keys[KEPT_KEYS - 1] = (struct kept_key){.key = key, .prime = prime};
    use(KEPT_KEYS - 1);
}

/* Out: N / P, if that leaves no remainder. The caller owns it. */
static BIGNUM *other_prime(const BIGNUM *n, const BIGNUM *p)
{
    BN_CTX *ctx = BN_CTX_new();
    BIGNUM *q = BN_new();
    BIGNUM *remainder = BN_new();
    bool divides = ctx && q && remainder && BN_div(q, remainder, n, p, ctx) == 1 && BN_is_zero(remainder);
    BN_CTX_free(ctx);
    BN_clear_free(remainder);
    if (divides) return q;
    BN_clear_free(q);
    return NULL;
}

/* Tells libcrypto the primes. libtpms' dP, dQ and qInv are those of the larger prime first. */
static bool add_primes(EVP_PKEY *key)
{
    const BIGNUM *n = NULL;
    RSA *rsa = EVP_PKEY_get1_RSA(key);
    if (!rsa) return false;
    RSA_get0_key(rsa, &n, NULL, NULL);
    BIGNUM *p = BN_dup(prime_in_use);
    if (p) BN_set_flags(p, BN_FLG_CONSTTIME);
    BIGNUM *q = p ? other_prime(n, p) : NULL;
    bool added = q != NULL;
    if (added) added = BN_cmp(p, q) > 0 ? RSA_set0_factors(rsa, p, q) == 1 : RSA_set0_factors(rsa, q, p) == 1;
    if (!added) {
        BN_clear_free(p);
        BN_clear_free(q);
    }
    RSA_free(rsa);
    return added;
}

uint32_t __wrap_InitOpenSSLRSAPrivateKey(void *object, EVP_PKEY **out)
{
    uint32_t rc = __real_InitOpenSSLRSAPrivateKey(object, out);
    if (rc == 0 && prime_in_use && !take_kept(out) && add_primes(*out)) keep(*out);
    forget_prime_in_use();
    return rc;
}

/* The one place where libtpms hands the prime of the key it is making to a function of another object file. */
BIGNUM *__wrap_ExpDCacheFind(const BIGNUM *p, const BIGNUM *n, const BIGNUM *e, BIGNUM **out_q)
{
    forget_prime_in_use();
    prime_in_use = BN_dup(p);
    return __real_ExpDCacheFind(p, n, e, out_q);
}

/* A curve that libcrypto has code of its own for, and the numbers that libtpms describes it by. All public. */
struct named_curve {
    int nid;
    int bits;
    EC_GROUP *group; /* made when first asked for */
    BIGNUM *p, *a, *b;
};

static struct named_curve named_curves[] = {
    {.nid = NID_X9_62_prime256v1, .bits = 256},
    {.nid = NID_secp521r1, .bits = 521},
};

static bool make_named(struct named_curve *curve, BN_CTX *ctx)
{
    EC_GROUP *group = EC_GROUP_new_by_curve_name(curve->nid);
    BIGNUM *p = BN_new(), *a = BN_new(), *b = BN_new();
    bool made = group && p && a && b && EC_GROUP_get_curve(group, p, a, b, ctx) == 1;
    if (made) {
        curve->group = group;
        curve->p = p;
        curve->a = a;
        curve->b = b;
        return true;
    }
    EC_GROUP_free(group);
    BN_free(p);
    BN_free(a);
    BN_free(b);
    return false;
}

static bool is_named(struct named_curve *curve, const BIGNUM *p, const BIGNUM *a, const BIGNUM *b, BN_CTX *ctx)
{
    if (BN_num_bits(p) != curve->bits) return false;
    if (!curve->group && !make_named(curve, ctx)) return false;
    return BN_cmp(p, curve->p) == 0 && BN_cmp(a, curve->a) == 0 && BN_cmp(b, curve->b) == 0;
}

EC_GROUP *__wrap_EC_GROUP_new_curve_GFp(const BIGNUM *p, const BIGNUM *a, const BIGNUM *b, BN_CTX *ctx)
{
    for (size_t i = 0; i < sizeof named_curves / sizeof named_curves[0]; i++)
        if (is_named(&named_curves[i], p, a, b, ctx)) return EC_GROUP_dup(named_curves[i].group);
    return __real_EC_GROUP_new_curve_GFp(p, a, b, ctx);
}
