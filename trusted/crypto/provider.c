/*
 * libcrypto's default provider, cut down to what the TPM, the seal, the sessions and the anchor use.
 *
 * A fetch makes an object for every algorithm of its kind that the provider names, 280 in all; each touches memory that
 * is dear inside an enclave, and each is code that a mistake could reach. The linker puts our routine in the place of
 * the provider's initialisation (--wrap). What is not listed here cannot be fetched, and what wanted it fails.
 * TPM2_SelfTest over all algorithms shows that nothing is missing.
 */
#include <stddef.h>
#include <string.h>

#include <openssl/core.h>
#include <openssl/core_dispatch.h>

#include "trusted/runtime/panic.h"

#define FUNCTIONS_MAX  16u
#define ALGORITHMS_MAX 32u

/* One row: an operation, and the first names of its algorithms. */
static const struct kept_operation {
    int operation;
    const char *names[ALGORITHMS_MAX];
} kept_operations[] = {
    {OSSL_OP_DIGEST, {"SHA1", "SHA2-224", "SHA2-256", "SHA2-384", "SHA2-512"}},
    {OSSL_OP_CIPHER,
     {"AES-128-ECB",      "AES-192-ECB",      "AES-256-ECB",      "AES-128-CBC",      "AES-192-CBC",
      "AES-256-CBC",      "AES-128-CFB",      "AES-192-CFB",      "AES-256-CFB",      "AES-128-OFB",
      "AES-192-OFB",      "AES-256-OFB",      "AES-128-CTR",      "AES-192-CTR",      "AES-256-CTR",
      "AES-256-GCM",      "CAMELLIA-128-ECB", "CAMELLIA-256-ECB", "CAMELLIA-128-CBC", "CAMELLIA-256-CBC",
      "CAMELLIA-128-CFB", "CAMELLIA-256-CFB", "CAMELLIA-128-OFB", "CAMELLIA-256-OFB", "CAMELLIA-128-CTR",
      "CAMELLIA-256-CTR", "DES-EDE3-ECB",     "DES-EDE3-CBC",     "DES-EDE3-CFB",     "DES-EDE3-OFB"}},
    {OSSL_OP_MAC, {"HMAC", "CMAC"}},
    {OSSL_OP_KDF, {"HKDF"}},
    {OSSL_OP_RAND, {"CTR-DRBG", "SEED-SRC"}},
    {OSSL_OP_KEYMGMT, {"RSA", "EC", "X25519", "ED25519"}},
    {OSSL_OP_KEYEXCH, {"X25519", "ECDH"}},
    {OSSL_OP_SIGNATURE, {"RSA", "ECDSA", "ED25519"}},
    {OSSL_OP_ASYM_CIPHER, {"RSA"}},
};
#define OPERATION_COUNT (sizeof kept_operations / sizeof kept_operations[0])

static OSSL_FUNC_provider_query_operation_fn *query_all;
static OSSL_DISPATCH functions[FUNCTIONS_MAX];
static OSSL_ALGORITHM kept_algorithms[OPERATION_COUNT][ALGORITHMS_MAX + 1];

OSSL_provider_init_fn __real_ossl_default_provider_init;
OSSL_provider_init_fn __wrap_ossl_default_provider_init;

/* all_names is "first name:other names:..." */
static int is_first_name(const char *name, const char *all_names)
{
    size_t length = strcspn(all_names, ":");
    return strlen(name) == length && memcmp(name, all_names, length) == 0;
}

static int is_kept(const struct kept_operation *kept, const char *all_names)
{
    for (size_t i = 0; i < ALGORITHMS_MAX && kept->names[i]; i++) {
        if (is_first_name(kept->names[i], all_names)) return 1;
    }
    return 0;
}

static const OSSL_ALGORITHM *query_kept(void *provider, int operation, int *no_cache)
{
    for (size_t i = 0; i < OPERATION_COUNT; i++) {
        if (kept_operations[i].operation != operation) continue;
        OSSL_ALGORITHM *kept = kept_algorithms[i];
        if (kept[0].algorithm_names) return kept;
        const OSSL_ALGORITHM *all = query_all(provider, operation, no_cache);
        size_t count = 0;
        for (; all && all->algorithm_names; all++) {
            if (!is_kept(&kept_operations[i], all->algorithm_names)) continue;
            if (count == ALGORITHMS_MAX) panic(PANIC_INVARIANT);
            kept[count++] = *all;
        }
        return kept;
    }
    return NULL;
}

int __wrap_ossl_default_provider_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in,
                                      const OSSL_DISPATCH **out, void **provider)
{
    const OSSL_DISPATCH *all = NULL;
    if (!__real_ossl_default_provider_init(handle, in, &all, provider)) return 0;
    size_t count = 0;
    for (; all[count].function_id; count++) {
        if (count + 1 == FUNCTIONS_MAX) panic(PANIC_INVARIANT);
        functions[count] = all[count];
        if (all[count].function_id == OSSL_FUNC_PROVIDER_QUERY_OPERATION) {
            query_all = OSSL_FUNC_provider_query_operation(&all[count]);
            functions[count].function = (void (*)(void))query_kept;
        }
    }
    *out = functions;
    return 1;
}
