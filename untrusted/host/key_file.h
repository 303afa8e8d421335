/* Public keys in PEM files (SubjectPublicKeyInfo), of the two kinds that have 32 bytes. */
#pragma once

#include <stdint.h>

#include "base/err.h"

#define KEY_FILE_PUBLIC_SIZE 32u

/* kind: "X25519" or "ED25519". ERR_SYSTEM (errno says why), ERR_KEY_UNUSABLE, ERR_CRYPTO. */
struct err key_file_public(const char *path, const char *kind, uint8_t out_public[KEY_FILE_PUBLIC_SIZE]);
