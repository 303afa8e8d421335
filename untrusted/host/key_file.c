#include "untrusted/host/key_file.h"

#include <stdio.h>

#include <openssl/pem.h>

static void file_close(FILE **file)
{
    if (*file) (void)fclose(*file);
}

static void key_close(EVP_PKEY **key)
{
    EVP_PKEY_free(*key);
}

struct err key_file_public(const char *path, const char *kind, uint8_t out_public[KEY_FILE_PUBLIC_SIZE])
{
    FILE *file DEFER(file_close) = fopen(path, "re");
    ENSURE(file, SYSTEM);
    EVP_PKEY *key DEFER(key_close) = PEM_read_PUBKEY(file, NULL, NULL, NULL);
    size_t size = KEY_FILE_PUBLIC_SIZE;
    ENSURE(key && EVP_PKEY_is_a(key, kind), KEY_UNUSABLE);
    ENSURE(EVP_PKEY_get_raw_public_key(key, out_public, &size) == 1 && size == KEY_FILE_PUBLIC_SIZE, CRYPTO);
    return OK;
}
