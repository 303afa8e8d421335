/*
 * Sealed states from the host. The input's first byte chooses: 0 takes the rest as a blob; anything else takes the rest
 * as changes to an honest blob, three bytes each (offset, offset, exclusive-or). What opens must be the honest blob.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "trusted/runtime/sgx.h"
#include "trusted/state/blob.h"

#define PLAINTEXT_SIZE 64u
#define HONEST_SIZE    (BLOB_HEADER_SIZE + PLAINTEXT_SIZE + BLOB_TAG_SIZE)

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct crypto crypto;
static struct blob_sealer sealer;
static uint8_t honest[HONEST_SIZE];
static const struct blob_identity identity = {.instance = "fuzzed instance", .version = 1};

static void must(struct err err)
{
    if (err.code) abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const struct sgx_targetinfo nobody;
    static const uint8_t no_data[SGX_REPORTDATA_SIZE], plaintext[PLAINTEXT_SIZE];
    struct sgx_report own;
    (void)argc;
    (void)argv;
    must(crypto_init(&crypto));
    sgx_ereport(&nobody, no_data, &own);
    must(blob_sealer_init(&crypto, &own, &sealer));
    struct writer w = writer_of(honest, sizeof honest);
    must(blob_seal(&crypto, &sealer, &identity, span_of(plaintext, sizeof plaintext), &w));
    return 0;
}

static void offer(struct span blob)
{
    struct blob_state opened;
    if (blob_open(&crypto, &sealer, blob, identity.instance, &opened).code) return;
    if (blob.size != sizeof honest || memcmp(blob.data, honest, sizeof honest) != 0) abort();
    blob_state_free(&opened);
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
