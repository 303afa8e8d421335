/*
 * swtpm's file of a TPM 2.0's permanent state, read: what lies around the state of libtpms, and the encryption.
 *
 * All integers are big-endian. The file is u8 version, u8 least version that reads it, u16 size of this header, u16
 * flags, u32 size of the file; then fields, each u16 tag, u32 size, bytes.
 *
 * Guarantees: a field that is missing, unknown, there twice or of another size than its meaning allows is refused with a
 * sentence; nothing is decrypted before its HMAC verified. A plain file has no checksum of its own: what is changed
 * inside its state is for libtpms to find. Buffers are the caller's, to be wiped.
 */
#pragma once

#include <stdbool.h>

#include "base/err.h"
#include "base/span.h"
#include "crypto/crypto.h"
#include "untrusted/cli/explain.h"

#define SWTPM_KEY_MAX    32u
#define SWTPM_SECRET_MAX 4096u /* bytes of a file with a key or a password */

/* The fields of a file; spans into it. */
struct swtpm_file {
    struct span state; /* of libtpms, or encrypted */
    struct span mac;   /* empty: the state is not encrypted; so the next two */
    struct span iv;
    size_t key_size; /* bytes: 16 or 32 */
};

/* What the key is made of. */
enum swtpm_key_source {
    SWTPM_KEY_HEX,         /* hexadecimal digits, behind 0x or not */
    SWTPM_KEY_BINARY,      /* the bytes */
    SWTPM_PASSWORD_PBKDF2, /* PBKDF2-HMAC-SHA-512 */
    SWTPM_PASSWORD_SHA512, /* the first bytes of SHA-512 */
};

/* path: for the sentences. ERR_BAD_VALUE. */
struct err swtpm_file_parse(const char *path, struct span bytes, struct swtpm_file *out_file, struct explanation *why);

/* secret: the content of the file at path. ERR_BAD_VALUE, ERR_CRYPTO. */
struct err swtpm_key_make(const char *path, enum swtpm_key_source source, struct span secret, size_t key_size,
                          uint8_t out_key[SWTPM_KEY_MAX], struct explanation *why);

/* Into out, of file->state.size bytes. ERR_AUTHENTICATION (another key, or a damaged file), ERR_BAD_VALUE, ERR_CRYPTO.
 */
struct err swtpm_file_decrypt(const struct crypto *crypto, const struct swtpm_file *file, const uint8_t *key,
                              uint8_t *out, size_t *out_size);

/* The head of what libtpms writes: a permanent state, not a volatile one. */
bool swtpm_is_permanent_state(struct span state);
