/*
 * Prints the roots of the ledger's tree, for tree_test.py: after each leaf that is added, and after each that is changed.
 * The leaf of slot i is over "slot i", and over "changed i" later.
 */
#include <stdio.h>
#include <stdlib.h>

#include "trusted/ledger/tree.h"

#define LEAVES 70u

static void must(struct err err)
{
    if (err.code) abort();
}

static void print_root(const struct crypto *crypto, const struct tree *tree)
{
    uint8_t root[SHA256_SIZE];
    must(tree_root(crypto, tree, root));
    for (size_t i = 0; i < sizeof root; i++)
        printf("%02x", root[i]);
    printf("\n");
}

static void set(const struct crypto *crypto, struct tree *tree, uint32_t slot, const char *word)
{
    char text[32];
    int size = snprintf(text, sizeof text, "%s %u", word, slot);
    must(tree_set(crypto, tree, slot, span_of(text, (size_t)size)));
    print_root(crypto, tree);
}

int main(void)
{
    static struct crypto crypto; /* as long as the program, as libcrypto's own */
    struct tree tree;
    must(crypto_init(&crypto));
    must(tree_open(&tree));
    print_root(&crypto, &tree);
    for (uint32_t slot = 0; slot < LEAVES; slot++)
        set(&crypto, &tree, slot, "slot");
    for (uint32_t slot = 0; slot < LEAVES; slot++)
        set(&crypto, &tree, slot, "changed");
    tree_close(&tree);
    return 0;
}
