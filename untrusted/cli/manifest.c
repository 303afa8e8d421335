#include "untrusted/cli/manifest.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/pem.h>

#include "base/bytes.h"
#include "untrusted/cli/key.h"

static void file_close(FILE **file)
{
    if (*file) (void)fclose(*file);
}

static void context_close(EVP_MD_CTX **context)
{
    EVP_MD_CTX_free(*context);
}

static struct err parse_mrenclave(const char *option, const char *text, uint8_t out[SGX_HASH_SIZE],
                                  struct explanation *why)
{
    bool is_hash = strlen(text) == 2 * SGX_HASH_SIZE && strspn(text, "0123456789abcdefABCDEF") == 2 * SGX_HASH_SIZE;
    if (!is_hash)
        return explain(why, FAIL(USAGE), "--%s %s: not an MRENCLAVE (%u hexadecimal digits, \"vtpm-sign show\")",
                       option, text, 2 * SGX_HASH_SIZE);
    for (size_t i = 0; i < SGX_HASH_SIZE; i++)
        (void)sscanf(text + 2 * i, "%2hhx", &out[i]);
    return OK;
}

static struct err read_release_key(const char *path, EVP_PKEY **out_key, struct explanation *why)
{
    FILE *file DEFER(file_close) = fopen(path, "re");
    if (!file) return explain(why, FAIL(SYSTEM), "%s: %s", path, strerror(errno));
    EVP_PKEY *key = PEM_read_PrivateKey(file, NULL, NULL, NULL);
    if (!key || EVP_PKEY_get_id(key) != EVP_PKEY_ED25519) {
        EVP_PKEY_free(key);
        return explain(why, FAIL(KEY_UNUSABLE),
                       "%s: not an Ed25519 private key in PEM (openssl genpkey -algorithm ED25519 makes one)", path);
    }
    *out_key = key;
    return OK;
}

static struct err write_signed_part(const struct manifest *manifest, EVP_PKEY *key, struct writer *out,
                                    struct explanation *why)
{
    static const char label[16] = MANIFEST_LABEL;
    uint8_t hash[SGX_HASH_SIZE];
    uint8_t public[ED25519_PUBLIC_SIZE];
    size_t size = sizeof public;
    TRY(write_bytes(out, label, sizeof label));
    TRY(parse_mrenclave("old", manifest->old, hash, why));
    TRY(write_bytes(out, hash, sizeof hash));
    TRY(parse_mrenclave("new", manifest->new, hash, why));
    TRY(write_bytes(out, hash, sizeof hash));
    TRY(write_u32(out, manifest->security_version));
    TRY(write_u32(out, 0));
    ENSURE(EVP_PKEY_get_raw_public_key(key, public, &size) == 1 && size == sizeof public, CRYPTO);
    return write_bytes(out, public, sizeof public);
}

struct err manifest_make(const struct manifest *manifest, const char *key_path, uint8_t out[MANIFEST_SIZE],
                         struct explanation *why)
{
    EVP_PKEY *key DEFER(key_close) = NULL;
    EVP_MD_CTX *context DEFER(context_close) = EVP_MD_CTX_new();
    struct writer w = writer_of(out, MANIFEST_SIZE);
    size_t size = ED25519_SIGNATURE_SIZE;
    ENSURE(context, NO_MEMORY);
    TRY(read_release_key(key_path, &key, why));
    TRY(write_signed_part(manifest, key, &w, why));
    ENSURE(EVP_DigestSignInit(context, NULL, NULL, NULL, key) == 1, CRYPTO);
    ENSURE(EVP_DigestSign(context, out + w.size, &size, out, w.size) == 1 && size == ED25519_SIGNATURE_SIZE, CRYPTO);
    return OK;
}
