/*
 * What libcrypto's initialisation would bring along and nothing here uses. The linker puts these in the place of libcrypto's
 * own (--wrap), so that what those need is not in the image: each page of it would lie in every instance's EPC, and is
 * code that a mistake could reach.
 */
#include <openssl/core.h>

OSSL_provider_init_fn __wrap_ossl_base_provider_init; /* encoders and decoders of files */
void __wrap_openssl_add_all_ciphers_int(void);        /* ciphers and digests by name, of the time before providers */
void __wrap_openssl_add_all_digests_int(void);
int __wrap_ossl_err_load_crypto_strings(void); /* what nobody reads: errors leave as numbers of ours */
void __wrap_OSSL_CMP_log_close(void);          /* certificates, CRLs, HTTP */

int __wrap_ossl_base_provider_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out,
                                   void **provider)
{
    (void)handle;
    (void)in;
    (void)out;
    (void)provider;
    return 0;
}

void __wrap_openssl_add_all_ciphers_int(void)
{
}

void __wrap_openssl_add_all_digests_int(void)
{
}

int __wrap_ossl_err_load_crypto_strings(void)
{
    return 1;
}

void __wrap_OSSL_CMP_log_close(void)
{
}
