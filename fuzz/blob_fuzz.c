/*
 * Sealed states from the host. The input's first byte chooses: 0 takes the rest as a blob; anything else takes the rest
 * as changes to an honest blob, three bytes each (offset, offset, exclusive-or). What opens must be the honest blob,
 * and its header is looked at as every kind of blob.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "trusted/state/blob.h"

#define PLAINTEXT_SIZE 64u
#define HONEST_SIZE    (BLOB_HEADER_SIZE + PLAINTEXT_SIZE + BLOB_TAG_SIZE)

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct crypto crypto;
static const uint8_t root[BLOB_ROOT_SIZE] = "root of fuzzed states";
static uint8_t honest[HONEST_SIZE];

static void must(struct err err)
{
    if (err.code) abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const uint8_t plaintext[PLAINTEXT_SIZE];
    const struct blob_header header = {.kind = BLOB_STATE, .id = {"fuzzed instance"}, .version = 1};
    (void)argc;
    (void)argv;
    must(crypto_init(&crypto));
    struct writer w = writer_of(honest, sizeof honest);
    must(blob_seal(&crypto, span_of(root, sizeof root), &header, span_empty(), span_of(plaintext, sizeof plaintext),
                   &w));
    return 0;
}

static void offer(struct span bytes)
{
    struct blob opened = {0};
    for (enum blob_kind kind = BLOB_STATE; kind <= BLOB_MASTER; kind++) {
        struct blob_header header;
        if (!blob_peek(bytes, kind, &header).code && kind == BLOB_MASTER && blob_keyrequest(bytes).data[0] == 1) return;
    }
    if (blob_open(&crypto, span_of(root, sizeof root), bytes, BLOB_STATE, &opened).code) {
        if (opened.plaintext) abort();
        return;
    }
    if (bytes.size != sizeof honest || memcmp(bytes.data, honest, sizeof honest) != 0) abort();
    blob_free(&opened);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    if (data[0] == 0) {
        offer(span_of(data + 1, size - 1));
        return 0;
    }
    uint8_t changed[HONEST_SIZE];
    memcpy(changed, honest, sizeof changed);
    for (size_t i = 1; i + 3 <= size; i += 3)
        changed[(data[i] | (size_t)data[i + 1] << 8) % sizeof changed] ^= data[i + 2];
    offer(span_of(changed, sizeof changed));
    return 0;
}
