#include "trusted/ledger/tree.h"

#include <stdlib.h>
#include <string.h>

struct err tree_open(struct tree *out)
{
    struct tree tree = {0};
    for (uint32_t level = 0; level < TREE_LEVELS; level++) {
        tree.levels[level] = calloc(TREE_LEAVES >> level, SHA256_SIZE);
        if (tree.levels[level]) continue;
        tree_close(&tree);
        return FAIL(NO_MEMORY);
    }
    *out = tree;
    return OK;
}

void tree_close(struct tree *tree)
{
    for (uint32_t level = 0; level < TREE_LEVELS; level++)
        free(tree->levels[level]);
    *tree = (struct tree){0};
}

static struct err hash_leaf(const struct crypto *crypto, struct span row, uint8_t out[SHA256_SIZE])
{
    static const uint8_t prefix = 0x00;
    const struct span parts[] = {span_of(&prefix, 1), row};
    return hash_sha256(crypto, parts, 2, out);
}

static struct err hash_node(const struct crypto *crypto, const uint8_t *left, const uint8_t *right,
                            uint8_t out[SHA256_SIZE])
{
    static const uint8_t prefix = 0x01;
    const struct span parts[] = {span_of(&prefix, 1), span_of(left, SHA256_SIZE), span_of(right, SHA256_SIZE)};
    return hash_sha256(crypto, parts, 3, out);
}

/* Hashes are written to the tree at the end, so that an error leaves it whole. */
struct err tree_set(const struct crypto *crypto, struct tree *tree, uint32_t slot, struct span row)
{
    ENSURE(slot <= tree->count && slot < TREE_LEAVES, BAD_VALUE);
    uint32_t count = slot == tree->count ? tree->count + 1 : tree->count;
    uint8_t path[TREE_LEVELS][SHA256_SIZE];
    TRY(hash_leaf(crypto, row, path[0]));
    uint32_t level = 0;
    for (uint32_t i = slot; count > 1; level++, i /= 2, count = (count + 1) / 2) {
        uint8_t(*nodes)[SHA256_SIZE] = tree->levels[level];
        if (i % 2)
            TRY(hash_node(crypto, nodes[i - 1], path[level], path[level + 1]));
        else if (i + 1 < count)
            TRY(hash_node(crypto, path[level], nodes[i + 1], path[level + 1]));
        else /* the last of an odd number goes up as it is */
            memcpy(path[level + 1], path[level], SHA256_SIZE);
    }
    for (uint32_t l = 0; l <= level; l++)
        memcpy(tree->levels[l][slot >> l], path[l], SHA256_SIZE);
    if (slot == tree->count) tree->count++;
    return OK;
}

struct err tree_root(const struct crypto *crypto, const struct tree *tree, uint8_t out[SHA256_SIZE])
{
    if (tree->count == 0) return hash_sha256(crypto, NULL, 0, out);
    uint32_t level = 0;
    for (uint32_t count = tree->count; count > 1; count = (count + 1) / 2)
        level++;
    memcpy(out, tree->levels[level][0], SHA256_SIZE);
    return OK;
}
