/*
 * What a commit costs inside the enclaves beside the TPM's own work: sealing and hashing a state, as the instance does,
 * and its record in a ledger, as the manager does. The same code, in an ordinary process.
 *
 *     inside SAMPLES SIZE
 *
 * Prints rows of ./bench, medians in microseconds; SIZE is that of one sealed state.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "benchmark/sample.h"
#include "benchmark/target.h"
#include "trusted/ledger/ledger.h"
#include "trusted/manager/image.h"

#define ROWS 100u

static const struct manager_image image = {.security_version = 1};

const struct manager_image *manager_image(void)
{
    return &image;
}

static void measure_seal(const struct crypto *crypto, size_t size, double *us, size_t samples)
{
    static const uint8_t root[BLOB_ROOT_SIZE];
    const size_t plaintext_size = size - blob_size(BLOB_STATE, 0);
    const struct blob_header header = {.kind = BLOB_STATE};
    uint8_t *plaintext = calloc(1, plaintext_size);
    uint8_t *sealed = calloc(1, size);
    uint8_t digest[SHA256_SIZE];
    if (!plaintext || !sealed) die("out of memory");
    for (size_t i = 0; i < samples; i++) {
        struct writer w = writer_of(sealed, size);
        const struct span blob = span_of(sealed, size);
        double start = now_us();
        check("sealing", blob_seal(crypto, span_of(root, sizeof root), &header, span_empty(),
                                   span_of(plaintext, plaintext_size), &w));
        check("hashing", hash_sha256(crypto, &blob, 1, digest));
        us[i] = now_us() - start;
    }
    free(plaintext);
    free(sealed);
    print_median("a commit by part: seal", us, samples);
}

static void fill(struct ledger *ledger)
{
    for (uint32_t i = 0; i < ROWS; i++) {
        struct ledger_row row = {
            .state = MANAGER_HELD, .origin = MANAGER_ORIGIN_HERE, .id.bytes = {(uint8_t)i}, .version = 1};
        (void)snprintf(row.label, sizeof row.label, "web%u", i);
        check("the ledger", ledger_add(ledger, &row));
    }
}

static void store(struct ledger *ledger)
{
    static uint8_t bytes[LEDGER_STORE_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);
    check("the ledger", ledger_store(ledger, &w));
    check("the ledger", ledger_anchored(ledger, ledger->next));
}

static void measure_ledger(const struct crypto *crypto, double *us, size_t samples)
{
    static struct ledger ledger;
    static const struct anchor_config anchor = {.kind = ANCHOR_FILE};
    static const uint8_t value[ANCHOR_VALUE_SIZE];
    const struct ledger_owner owner = {.crypto = crypto, .security_version = 1};
    check("the ledger", ledger_new(&owner, &ledger));
    ledger_found_anchor(&ledger, &anchor, value);
    fill(&ledger);
    while (ledger_store_due(&ledger))
        store(&ledger);
    for (size_t i = 0; i < samples; i++) {
        struct ledger_row row;
        double start = now_us();
        ledger_read(&ledger, (uint32_t)i % ROWS, &row);
        row.version++;
        check("the ledger", ledger_change(&ledger, &row));
        store(&ledger);
        us[i] = now_us() - start;
    }
    ledger_close(&ledger);
    print_median("a commit by part: ledger", us, samples);
}

int main(int argc, char **argv)
{
    static struct crypto crypto; /* as long as the program, as libcrypto's own */
    size_t samples = argc == 3 ? strtoul(argv[1], NULL, 10) : 0;
    size_t size = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
    double *us = calloc(samples + 1, sizeof *us);
    if (samples == 0 || size <= blob_size(BLOB_STATE, 0) || !us) die("usage: inside SAMPLES SIZE");
    check("libcrypto", crypto_init(&crypto));
    measure_seal(&crypto, size, us, samples);
    measure_ledger(&crypto, us, samples);
    free(us);
    return 0;
}
