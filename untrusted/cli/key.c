/*
 * Guarantees: a key that is handed out has exactly the form that SGX wants, and a key file is never overwritten
 * nor readable by others. It does not protect the key in the file: whoever needs that signs in two steps with a
 * key that stays in a token.
 */
#include "untrusted/cli/key.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include "abi/sgx.h"

#define KEY_BITS     (8 * (int)SGX_RSA_SIZE)
#define KEY_EXPONENT 3u

void key_close(EVP_PKEY **key)
{
    EVP_PKEY_free(*key);
    *key = NULL;
}

static void context_close(EVP_PKEY_CTX **context)
{
    EVP_PKEY_CTX_free(*context);
}

static void number_close(BIGNUM **number)
{
    BN_free(*number);
}

static void file_close(FILE **file)
{
    if (*file) (void)fclose(*file);
}

static struct err generate(EVP_PKEY **out_key)
{
    BIGNUM *exponent DEFER(number_close) = BN_new();
    EVP_PKEY_CTX *context DEFER(context_close) = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
    ENSURE(exponent && context, NO_MEMORY);
    ENSURE(BN_set_word(exponent, KEY_EXPONENT) == 1, CRYPTO);
    ENSURE(EVP_PKEY_keygen_init(context) == 1, CRYPTO);
    ENSURE(EVP_PKEY_CTX_set_rsa_keygen_bits(context, KEY_BITS) == 1, CRYPTO);
    ENSURE(EVP_PKEY_CTX_set1_rsa_keygen_pubexp(context, exponent) == 1, CRYPTO);
    ENSURE(EVP_PKEY_generate(context, out_key) == 1, CRYPTO);
    return OK;
}

static bool write_key(int fd, EVP_PKEY *key)
{
    FILE *file = fdopen(fd, "w");
    if (!file) {
        (void)close(fd);
        return false;
    }
    bool written = PEM_write_PKCS8PrivateKey(file, key, NULL, NULL, 0, NULL, NULL) == 1 && fflush(file) == 0 &&
                   fsync(fileno(file)) == 0;
    return fclose(file) == 0 && written;
}

struct err key_make(const char *path, struct explanation *why)
{
    /* The file first: where it cannot be made, nobody waits for a key. */
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EEXIST)
        return explain(why, FAIL(SYSTEM), "%s: there is a file already; keys are never overwritten", path);
    if (fd < 0) return explain(why, FAIL(SYSTEM), "%s: %s", path, strerror(errno));
    EVP_PKEY *key DEFER(key_close) = NULL;
    struct err err = generate(&key);
    if (err.code) {
        (void)close(fd);
        (void)unlink(path);
        return err;
    }
    if (!write_key(fd, key)) {
        (void)unlink(path);
        return explain(why, FAIL(SYSTEM), "%s: the key could not be written: %s", path, strerror(errno));
    }
    return OK;
}

static struct err check_form(EVP_PKEY *key, const char *path, struct explanation *why)
{
    if (!EVP_PKEY_is_a(key, "RSA"))
        return explain(why, FAIL(KEY_UNUSABLE), "%s: not an RSA key; SGX wants RSA-3072 with the public exponent 3",
                       path);
    int bits = EVP_PKEY_get_bits(key);
    if (bits != KEY_BITS)
        return explain(why, FAIL(KEY_UNUSABLE), "%s: a key of %d bits; SGX wants RSA-3072 (vtpm-sign key makes one)",
                       path, bits);
    BIGNUM *exponent DEFER(number_close) = NULL;
    ENSURE(EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_E, &exponent) == 1, CRYPTO);
    if (!BN_is_word(exponent, KEY_EXPONENT))
        return explain(why, FAIL(KEY_UNUSABLE), "%s: the public exponent is not 3 (vtpm-sign key makes such a key)",
                       path);
    return OK;
}

typedef EVP_PKEY *pem_reader(FILE *file, EVP_PKEY **key, pem_password_cb *callback, void *ctx);

static struct err read_key(const char *path, const char *kind, pem_reader *read, EVP_PKEY **out_key,
                           struct explanation *why)
{
    FILE *file DEFER(file_close) = fopen(path, "re");
    if (!file) return explain(why, FAIL(SYSTEM), "%s: %s", path, strerror(errno));
    EVP_PKEY *key DEFER(key_close) = read(file, NULL, NULL, NULL);
    if (!key) return explain(why, FAIL(KEY_UNUSABLE), "%s: holds no %s key in PEM", path, kind);
    TRY(check_form(key, path, why));
    *out_key = key;
    key = NULL;
    return OK;
}

struct err key_read_private(const char *path, EVP_PKEY **out_key, struct explanation *why)
{
    return read_key(path, "private", PEM_read_PrivateKey, out_key, why);
}

struct err key_read_public(const char *path, EVP_PKEY **out_key, struct explanation *why)
{
    return read_key(path, "public", PEM_read_PUBKEY, out_key, why);
}
