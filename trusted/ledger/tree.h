/*
 * The Merkle tree over the ledger's slots: the Merkle Tree Hash of RFC 6962, 2.1, with SHA-256, over the public
 * encodings of the rows in the order of their slots.
 *
 *   leaf = SHA-256(0x00 || encoding)       node = SHA-256(0x01 || left || right)       no slots: SHA-256("")
 *
 * Guarantees: a changed or added leaf costs one hash for each level; two lists of rows with one root are a collision of
 * SHA-256, when their lengths are equal. The length is in the head beside the root.
 */
#pragma once

#include <stdint.h>

#include "base/err.h"
#include "base/span.h"
#include "crypto/hash.h"

#define TREE_LEVELS 15u /* 16,384 leaves */
#define TREE_LEAVES (1u << (TREE_LEVELS - 1))

struct tree {
    uint32_t count;                              /* leaves */
    uint8_t (*levels[TREE_LEVELS])[SHA256_SIZE]; /* leaves first; owned */
};

/* ERR_NO_MEMORY. */
struct err tree_open(struct tree *out);
void tree_close(struct tree *tree);

/* Sets the leaf of a slot below or equal to count to the hash over row. ERR_BAD_VALUE, ERR_CRYPTO. */
struct err tree_set(const struct crypto *crypto, struct tree *tree, uint32_t slot, struct span row);

struct err tree_root(const struct crypto *crypto, const struct tree *tree, uint8_t out[SHA256_SIZE]);
