#include "untrusted/cli/ctl_key.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <openssl/pem.h>

void ctl_hex(const uint8_t *bytes, size_t size, char *out_text)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < size; i++) {
        out_text[2 * i] = digits[bytes[i] >> 4];
        out_text[2 * i + 1] = digits[bytes[i] & 15];
    }
    out_text[2 * size] = '\0';
}

struct err ctl_parse_hex(const char *text, size_t size, uint8_t *out_bytes)
{
    ENSURE(strlen(text) == 2 * size && strspn(text, "0123456789abcdef") == 2 * size, BAD_VALUE);
    for (size_t i = 0; i < size; i++)
        ENSURE(sscanf(text + 2 * i, "%2hhx", &out_bytes[i]) == 1, BAD_VALUE);
    return OK;
}

static void file_close(FILE **file)
{
    if (*file) (void)fclose(*file);
}

static void key_close(EVP_PKEY **key)
{
    EVP_PKEY_free(*key);
}

typedef EVP_PKEY *pem_reader(FILE *file, EVP_PKEY **key, pem_password_cb *callback, void *ctx);

static struct err read_key(const char *path, const char *kind, const char *half, pem_reader *read, EVP_PKEY **out_key,
                           uint8_t out_public[ED25519_PUBLIC_SIZE], struct explanation *why)
{
    FILE *file DEFER(file_close) = fopen(path, "re");
    if (!file) return explain(why, FAIL(SYSTEM), "%s: %s", path, strerror(errno));
    EVP_PKEY *key DEFER(key_close) = read(file, NULL, NULL, NULL);
    size_t size = ED25519_PUBLIC_SIZE;
    if (!key || !EVP_PKEY_is_a(key, kind))
        return explain(why, FAIL(KEY_UNUSABLE),
                       "%s: holds no %s key of %s in PEM (openssl genpkey -algorithm %s makes a private one, openssl "
                       "pkey -pubout its public half)",
                       path, half, kind, kind);
    ENSURE(EVP_PKEY_get_raw_public_key(key, out_public, &size) == 1 && size == ED25519_PUBLIC_SIZE, CRYPTO);
    *out_key = key;
    key = NULL;
    return OK;
}

struct err ctl_read_public_key(const char *path, const char *kind, char out_hex[CTL_HEX_SIZE(X25519_SIZE)],
                               struct explanation *why)
{
    EVP_PKEY *key DEFER(key_close) = NULL;
    uint8_t public[X25519_SIZE];
    TRY(read_key(path, kind, "public", PEM_read_PUBKEY, &key, public, why));
    ctl_hex(public, sizeof public, out_hex);
    return OK;
}

struct err ctl_owner_open(const char *path, struct ctl_owner *out_owner, struct explanation *why)
{
    uint8_t public[ED25519_PUBLIC_SIZE];
    TRY(read_key(path, "ED25519", "private", PEM_read_PrivateKey, &out_owner->key, public, why));
    ctl_hex(public, sizeof public, out_owner->public_hex);
    return OK;
}

struct err ctl_read_x25519(const char *path, struct x25519_key *out_key, struct explanation *why)
{
    EVP_PKEY *key DEFER(key_close) = NULL;
    size_t size = sizeof out_key->private;
    TRY(read_key(path, "X25519", "private", PEM_read_PrivateKey, &key, out_key->public, why));
    ENSURE(EVP_PKEY_get_raw_private_key(key, out_key->private, &size) == 1 && size == X25519_SIZE, CRYPTO);
    return OK;
}

static void context_close(EVP_MD_CTX **context)
{
    EVP_MD_CTX_free(*context);
}

struct err ctl_owner_sign(const struct ctl_owner *owner, struct span message,
                          uint8_t out_signature[ED25519_SIGNATURE_SIZE])
{
    size_t size = ED25519_SIGNATURE_SIZE;
    EVP_MD_CTX *context DEFER(context_close) = EVP_MD_CTX_new();
    ENSURE(context, NO_MEMORY);
    ENSURE(EVP_DigestSignInit(context, NULL, NULL, NULL, owner->key) == 1, CRYPTO);
    ENSURE(EVP_DigestSign(context, out_signature, &size, message.data, message.size) == 1, CRYPTO);
    ENSURE(size == ED25519_SIGNATURE_SIZE, CRYPTO);
    return OK;
}

void ctl_owner_close(struct ctl_owner *owner)
{
    EVP_PKEY_free(owner->key);
    *owner = (struct ctl_owner){0};
}
