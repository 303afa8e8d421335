/*
 * The enclave's end of a link (K1 or K2) with a host that says anything. The first byte chooses the kind; then come
 * steps: a byte below 0x80 delivers the honest record of that number, 0x80 to 0xFE delivers it with one byte altered
 * (offset, exclusive-or), 0xFF delivers what follows as it is (u8 size). Taken is the next honest record or nothing.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fakes/link_pair.h"

#define HONEST_COUNT 4u
#define HONEST_MAX   128u

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct link_pair pairs[3]; /* one of each kind */
static struct honest {
    uint8_t bytes[HONEST_MAX];
    size_t size;
} honest[3][HONEST_COUNT]; /* FINISH, two of data, FINAL */

static void must(bool holds)
{
    if (!holds) abort();
}

static void keep(struct honest *out, struct span record)
{
    must(record.size <= sizeof out->bytes);
    memcpy(out->bytes, record.data, record.size);
    out->size = record.size;
}

/* The FINISH that link_pair_establish passes is not seen; the same keys make it once more. */
static void record_honest(enum link_kind kind, struct honest out[HONEST_COUNT], struct link_pair *pair)
{
    uint8_t bytes[RECORD_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);
    link_pair_init(pair, kind);
    must(link_pair_open_host(pair, pair->enclave_key.public).code == ERR_NONE);
    must(link_finish(&pair->host, &w).code == ERR_NONE);
    keep(&out[0], writer_span(&w));
    link_pair_close(pair);
    link_pair_establish(pair);
    keep(&out[1], link_pair_say(&pair->host, span_of("a TPM command", 13), bytes));
    keep(&out[2], link_pair_say(&pair->host, span_empty(), bytes));
    w.size = 0;
    must(link_send_final(&pair->host, &w).code == ERR_NONE);
    keep(&out[3], writer_span(&w));
    link_pair_close(pair);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    for (size_t i = 0; i < 3; i++)
        record_honest((enum link_kind)(LINK_K1 + i), honest[i], &pairs[i]);
    return 0;
}

/* One step of the input as a record; false at its end. */
static bool next_record(struct reader *r, const struct honest records[HONEST_COUNT], uint8_t out[HONEST_MAX * 2],
                        size_t *out_size)
{
    uint8_t step, offset, change;
    if (read_u8(r, &step).code) return false;
    if (step == 0xFF) {
        uint8_t size;
        if (read_u8(r, &size).code || read_bytes(r, out, size < r->left ? size : r->left).code) return false;
        *out_size = size;
        return true;
    }
    const struct honest *record = &records[(step & 0x7Fu) % HONEST_COUNT];
    memcpy(out, record->bytes, record->size);
    *out_size = record->size;
    if (step < 0x80) return true;
    if (read_u8(r, &offset).code || read_u8(r, &change).code) return false;
    out[offset % record->size] ^= change;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader r = reader_of(span_of(data, size));
    uint8_t kind, record[HONEST_MAX * 2] = {0}, finish[HONEST_MAX];
    size_t record_size = 0, taken = 0;
    if (read_u8(&r, &kind).code) return 0;
    struct link_pair *pair = &pairs[kind % 3];
    struct writer w = writer_of(finish, sizeof finish);
    must(link_pair_open_enclave(pair, pair->host_key.public).code == ERR_NONE);
    must(link_finish(&pair->enclave, &w).code == ERR_NONE);
    while (next_record(&r, honest[kind % 3], record, &record_size)) {
        enum link_event event;
        struct span plaintext;
        bool live = pair->enclave.records.open;
        if (link_pair_hear(&pair->enclave, span_of(record, record_size), &event, &plaintext).code) {
            must(!pair->enclave.records.open);
            continue;
        }
        const struct honest *next = &honest[kind % 3][taken++];
        must(live && taken <= HONEST_COUNT && record_size == next->size &&
             memcmp(record, next->bytes, next->size) == 0);
    }
    link_close(&pair->enclave);
    return 0;
}
