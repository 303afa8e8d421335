/* The enclave signing key: RSA-3072 with the public exponent 3, the only kind that EINIT knows. */
#pragma once

#include <openssl/evp.h>

#include "base/err.h"
#include "untrusted/cli/explain.h"

/*
 * Makes a key and writes it to path as PKCS#8 in PEM, mode 0600. A file that is there already is never touched.
 * ERR_SYSTEM, ERR_CRYPTO.
 */
struct err key_make(const char *path, struct explanation *why);

/* Reads a private key, or a public key, from PEM. The caller frees it with key_close. ERR_SYSTEM, ERR_KEY_UNUSABLE. */
struct err key_read_private(const char *path, EVP_PKEY **out_key, struct explanation *why);
struct err key_read_public(const char *path, EVP_PKEY **out_key, struct explanation *why);

void key_close(EVP_PKEY **key);
