/*
 * What an owner signs where the key is, away from any vtpmd: the file that `vtpmctl challenge` wrote, which is an OWNER_ACT
 * of abi/manager.h and the arguments that the hash at its end is over.
 *
 * Guarantees: what is signed has exactly the form of an act that there is, and was told in words first; the arguments
 * that were told are those that were hashed. It does not know whether the file came from the owner's vtpmd, nor which
 * state a digest is of: the owner compares what is told.
 */
#pragma once

#include <stdio.h>

#include "crypto/curve.h"
#include "untrusted/cli/explain.h"

struct owner_act {
    uint8_t *bytes; /* of the file, malloc'ed */
    size_t size;
};

/* ERR_SYSTEM, ERR_BAD_VALUE. The caller ends it with owner_act_close. */
struct err owner_act_read(const char *path, struct owner_act *out_act, struct explanation *why);
void owner_act_tell(const struct owner_act *act, FILE *out);
/* Signs with the Ed25519 key in a PEM file. ERR_SYSTEM, ERR_KEY_UNUSABLE. */
struct err owner_act_sign(const struct owner_act *act, const char *key_path,
                          uint8_t out_signature[ED25519_SIGNATURE_SIZE], struct explanation *why);
void owner_act_close(struct owner_act *act);
