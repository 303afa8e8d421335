/* The keys that are named on the command lines of vtpmctl and vtpm-sign: the owner's (Ed25519) and a front-end's (X25519), in PEM. */
#pragma once

#include <openssl/evp.h>

#include "base/err.h"
#include "crypto/curve.h"
#include "untrusted/cli/explain.h"

#define CTL_HEX_SIZE(bytes) (2u * (bytes) + 1u) /* with the NUL */

void ctl_hex(const uint8_t *bytes, size_t size, char *out_text);
/* text has to be exactly size bytes in lower-case hexadecimal. ERR_BAD_VALUE. */
struct err ctl_parse_hex(const char *text, size_t size, uint8_t *out_bytes);

/* Reads the public key of a kind, "ED25519" or "X25519". ERR_SYSTEM, ERR_KEY_UNUSABLE. */
struct err ctl_read_public_key(const char *path, const char *kind, char out_hex[CTL_HEX_SIZE(X25519_SIZE)],
                               struct explanation *why);

/* Reads an X25519 private key; the caller wipes it. Errors as above, and ERR_CRYPTO. */
struct err ctl_read_x25519(const char *path, struct x25519_key *out_key, struct explanation *why);

/*
 * Reads the owner's private key and makes it sign. No other function of this program signs. ERR_SYSTEM,
 * ERR_KEY_UNUSABLE, ERR_CRYPTO. The caller ends the key with ctl_owner_close.
 */
struct ctl_owner {
    EVP_PKEY *key;
    char public_hex[CTL_HEX_SIZE(ED25519_PUBLIC_SIZE)];
};

struct err ctl_owner_open(const char *path, struct ctl_owner *out_owner, struct explanation *why);
struct err ctl_owner_sign(const struct ctl_owner *owner, struct span message,
                          uint8_t out_signature[ED25519_SIGNATURE_SIZE]);
void ctl_owner_close(struct ctl_owner *owner);
