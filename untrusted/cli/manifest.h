/* Upgrade manifests (abi/manager.h): the word of the release key that one manager image may hand over to another. */
#pragma once

#include <stdint.h>

#include "abi/manager.h"
#include "base/err.h"
#include "untrusted/cli/explain.h"

struct manifest {
    const char *old; /* MRENCLAVE of the old manager, 64 hexadecimal digits */
    const char *new;
    uint32_t security_version; /* of the new one */
};

/*
 * Signs a manifest with the Ed25519 private key in the PEM file key_path. ERR_USAGE for an MRENCLAVE that is none,
 * ERR_SYSTEM, ERR_KEY_UNUSABLE, ERR_CRYPTO.
 */
struct err manifest_make(const struct manifest *manifest, const char *key_path, uint8_t out[MANIFEST_SIZE],
                         struct explanation *why);
