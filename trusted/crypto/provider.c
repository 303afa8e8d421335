/*
 * libcrypto's default provider, cut down to what the TPM, the seal, the sessions and the anchor use.
 *
 * Each algorithm costs pages of code that a mistake could reach, and an object in dear memory once its kind is fetched;
 * libcrypto's own provider names 280, and all that they need. The linker puts our routine in the place of the
 * provider's initialisation (--wrap), and what is not named here is not linked. What wants it fails. TPM2_SelfTest over
 * all algorithms shows that nothing is missing.
 */
#include <stddef.h>

#include <openssl/core.h>
#include <openssl/core_dispatch.h>

/* libcrypto's own names: prov/implementations.h, prov/provider_ctx.h, prov/seeding.h. They are hidden, but the link is one. */
#define IMPLEMENTATION(name) extern const OSSL_DISPATCH ossl_##name##_functions[]
#define AES(mode)                                                                                                      \
    IMPLEMENTATION(aes128##mode);                                                                                      \
    IMPLEMENTATION(aes192##mode);                                                                                      \
    IMPLEMENTATION(aes256##mode)
#define CAMELLIA(mode)                                                                                                 \
    IMPLEMENTATION(camellia128##mode);                                                                                 \
    IMPLEMENTATION(camellia256##mode)
IMPLEMENTATION(sha1);
IMPLEMENTATION(sha224);
IMPLEMENTATION(sha256);
IMPLEMENTATION(sha384);
IMPLEMENTATION(sha512);
AES(ecb);
AES(cbc);
AES(cfb);
AES(ofb);
AES(ctr);
IMPLEMENTATION(aes256gcm);
CAMELLIA(ecb);
CAMELLIA(cbc);
CAMELLIA(cfb);
CAMELLIA(ofb);
CAMELLIA(ctr);
IMPLEMENTATION(tdes_ede3_ecb);
IMPLEMENTATION(tdes_ede3_cbc);
IMPLEMENTATION(tdes_ede3_cfb);
IMPLEMENTATION(tdes_ede3_ofb);
IMPLEMENTATION(hmac);
IMPLEMENTATION(cmac);
IMPLEMENTATION(kdf_hkdf);
IMPLEMENTATION(drbg_ctr);
IMPLEMENTATION(seed_src);
IMPLEMENTATION(rsa_keymgmt);
IMPLEMENTATION(ec_keymgmt);
IMPLEMENTATION(x25519_keymgmt);
IMPLEMENTATION(ed25519_keymgmt);
IMPLEMENTATION(x25519_keyexch);
IMPLEMENTATION(ecdh_keyexch);
IMPLEMENTATION(rsa_signature);
IMPLEMENTATION(ecdsa_signature);
IMPLEMENTATION(ed25519_signature);
IMPLEMENTATION(rsa_asym_cipher);

struct prov_ctx_st *ossl_prov_ctx_new(void);
void ossl_prov_ctx_free(struct prov_ctx_st *ctx);
void ossl_prov_ctx_set0_libctx(struct prov_ctx_st *ctx, OSSL_LIB_CTX *libctx);
void ossl_prov_ctx_set0_handle(struct prov_ctx_st *ctx, const OSSL_CORE_HANDLE *handle);
int ossl_prov_seeding_from_dispatch(const OSSL_DISPATCH *functions);

/* All names by which anybody asks for it: libcrypto asks by the short name of an object identifier. */
#define ALGORITHM(names, functions)                                                                                    \
    {                                                                                                                  \
        names, "provider=default", ossl_##functions##_functions, NULL                                                  \
    }
#define END_OF_ALGORITHMS                                                                                              \
    {                                                                                                                  \
        NULL, NULL, NULL, NULL                                                                                         \
    }

static const OSSL_ALGORITHM digests[] = {
    ALGORITHM("SHA1:SHA-1", sha1),
    ALGORITHM("SHA2-224:SHA-224:SHA224", sha224),
    ALGORITHM("SHA2-256:SHA-256:SHA256", sha256),
    ALGORITHM("SHA2-384:SHA-384:SHA384", sha384),
    ALGORITHM("SHA2-512:SHA-512:SHA512", sha512),
    END_OF_ALGORITHMS,
};

static const OSSL_ALGORITHM ciphers[] = {
    ALGORITHM("AES-128-ECB", aes128ecb),
    ALGORITHM("AES-192-ECB", aes192ecb),
    ALGORITHM("AES-256-ECB", aes256ecb),
    ALGORITHM("AES-128-CBC", aes128cbc),
    ALGORITHM("AES-192-CBC", aes192cbc),
    ALGORITHM("AES-256-CBC", aes256cbc),
    ALGORITHM("AES-128-CFB", aes128cfb),
    ALGORITHM("AES-192-CFB", aes192cfb),
    ALGORITHM("AES-256-CFB", aes256cfb),
    ALGORITHM("AES-128-OFB", aes128ofb),
    ALGORITHM("AES-192-OFB", aes192ofb),
    ALGORITHM("AES-256-OFB", aes256ofb),
    ALGORITHM("AES-128-CTR", aes128ctr),
    ALGORITHM("AES-192-CTR", aes192ctr),
    ALGORITHM("AES-256-CTR", aes256ctr),
    ALGORITHM("AES-256-GCM:id-aes256-GCM", aes256gcm),
    ALGORITHM("CAMELLIA-128-ECB", camellia128ecb),
    ALGORITHM("CAMELLIA-256-ECB", camellia256ecb),
    ALGORITHM("CAMELLIA-128-CBC", camellia128cbc),
    ALGORITHM("CAMELLIA-256-CBC", camellia256cbc),
    ALGORITHM("CAMELLIA-128-CFB", camellia128cfb),
    ALGORITHM("CAMELLIA-256-CFB", camellia256cfb),
    ALGORITHM("CAMELLIA-128-OFB", camellia128ofb),
    ALGORITHM("CAMELLIA-256-OFB", camellia256ofb),
    ALGORITHM("CAMELLIA-128-CTR", camellia128ctr),
    ALGORITHM("CAMELLIA-256-CTR", camellia256ctr),
    ALGORITHM("DES-EDE3-ECB:DES-EDE3", tdes_ede3_ecb),
    ALGORITHM("DES-EDE3-CBC", tdes_ede3_cbc),
    ALGORITHM("DES-EDE3-CFB", tdes_ede3_cfb),
    ALGORITHM("DES-EDE3-OFB", tdes_ede3_ofb),
    END_OF_ALGORITHMS,
};

static const OSSL_ALGORITHM macs[] = {ALGORITHM("HMAC", hmac), ALGORITHM("CMAC", cmac), END_OF_ALGORITHMS};
static const OSSL_ALGORITHM kdfs[] = {ALGORITHM("HKDF", kdf_hkdf), END_OF_ALGORITHMS};

static const OSSL_ALGORITHM rands[] = {
    ALGORITHM("CTR-DRBG", drbg_ctr),
    ALGORITHM("SEED-SRC", seed_src),
    END_OF_ALGORITHMS,
};

static const OSSL_ALGORITHM key_managements[] = {
    ALGORITHM("RSA:rsaEncryption", rsa_keymgmt),
    ALGORITHM("EC:id-ecPublicKey", ec_keymgmt),
    ALGORITHM("X25519", x25519_keymgmt),
    ALGORITHM("ED25519", ed25519_keymgmt),
    END_OF_ALGORITHMS,
};

static const OSSL_ALGORITHM key_exchanges[] = {
    ALGORITHM("X25519", x25519_keyexch),
    ALGORITHM("ECDH", ecdh_keyexch),
    END_OF_ALGORITHMS,
};

static const OSSL_ALGORITHM signatures[] = {
    ALGORITHM("RSA:rsaEncryption", rsa_signature),
    ALGORITHM("ECDSA", ecdsa_signature),
    ALGORITHM("ED25519", ed25519_signature),
    END_OF_ALGORITHMS,
};

static const OSSL_ALGORITHM asymmetric_ciphers[] = {
    ALGORITHM("RSA:rsaEncryption", rsa_asym_cipher),
    END_OF_ALGORITHMS,
};

static const struct {
    int operation;
    const OSSL_ALGORITHM *algorithms;
} operations[] = {
    {OSSL_OP_DIGEST, digests},
    {OSSL_OP_CIPHER, ciphers},
    {OSSL_OP_MAC, macs},
    {OSSL_OP_KDF, kdfs},
    {OSSL_OP_RAND, rands},
    {OSSL_OP_KEYMGMT, key_managements},
    {OSSL_OP_KEYEXCH, key_exchanges},
    {OSSL_OP_SIGNATURE, signatures},
    {OSSL_OP_ASYM_CIPHER, asymmetric_ciphers},
};

static OSSL_FUNC_provider_query_operation_fn query;
static OSSL_FUNC_provider_teardown_fn teardown;

static const OSSL_ALGORITHM *query(void *provider, int operation, int *no_cache)
{
    (void)provider;
    *no_cache = 0;
    for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++) {
        if (operations[i].operation == operation) return operations[i].algorithms;
    }
    return NULL;
}

static void teardown(void *provider)
{
    ossl_prov_ctx_free(provider);
}

static const OSSL_DISPATCH functions[] = {
    {OSSL_FUNC_PROVIDER_TEARDOWN, (void (*)(void))teardown},
    {OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))query},
    {0, NULL},
};

OSSL_provider_init_fn __wrap_ossl_default_provider_init;

int __wrap_ossl_default_provider_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in,
                                      const OSSL_DISPATCH **out, void **provider)
{
    OSSL_FUNC_core_get_libctx_fn *get_libctx = NULL;
    if (!ossl_prov_seeding_from_dispatch(in)) return 0;
    for (; in->function_id; in++) {
        if (in->function_id == OSSL_FUNC_CORE_GET_LIBCTX) get_libctx = OSSL_FUNC_core_get_libctx(in);
    }
    struct prov_ctx_st *ctx = get_libctx ? ossl_prov_ctx_new() : NULL;
    if (!ctx) return 0;
    ossl_prov_ctx_set0_libctx(ctx, (OSSL_LIB_CTX *)get_libctx(handle));
    ossl_prov_ctx_set0_handle(ctx, handle);
    *provider = ctx;
    *out = functions;
    return 1;
}
