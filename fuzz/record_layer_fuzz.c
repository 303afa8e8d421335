/*
 * A stream of records from a socket. The first byte is how many bytes arrive at once; the second chooses: 0 takes the
 * rest as the stream, anything else as changes to an honest stream, three bytes each (offset, offset, exclusive-or).
 * What is taken from the stream is a prefix of the honest one.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "link/record.h"

#define STREAM_MAX 4096u

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct crypto crypto;
static const uint8_t id[RECORD_SESSION_ID_SIZE] = "fuzzed session";
static const struct record_direction there = {.key = {1}, .iv = {2}};
static const struct record_direction back = {.key = {3}, .iv = {4}};
static uint8_t honest[STREAM_MAX];
static size_t honest_size;

static void must(bool holds)
{
    if (!holds) abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const uint8_t text[512];
    static const size_t sizes[] = {32, 0, 1, 200, 512};
    struct record_session sender = {0};
    struct writer w = writer_of(honest, sizeof honest);
    (void)argc;
    (void)argv;
    must(crypto_init(&crypto).code == ERR_NONE);
    must(record_session_open(&crypto, id, &there, &back, &sender).code == ERR_NONE);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        enum record_type type = i == 0 ? RECORD_FINISH : RECORD_DATA;
        must(record_seal(&sender, type, span_of(text, sizes[i]), &w).code == ERR_NONE);
    }
    must(record_seal(&sender, RECORD_FINAL, span_empty(), &w).code == ERR_NONE);
    honest_size = w.size;
    record_session_close(&sender);
    return 0;
}

/* The size that the next header claims, 0 if it is not whole. */
static size_t claimed_size(struct span arrived)
{
    uint32_t size = 0;
    struct reader r = reader_of(arrived);
    struct span begin;
    if (arrived.size < RECORD_HEADER_SIZE || read_span(&r, 4, &begin).code || read_u32(&r, &size).code) return 0;
    return size <= RECORD_PLAINTEXT_MAX ? size + RECORD_OVERHEAD : 0;
}

/* Takes records off the front of what has arrived; returns how many bytes were taken from the stream so far. */
static size_t receive(struct record_session *session, const uint8_t *stream, size_t taken, size_t arrived)
{
    uint8_t plaintext[RECORD_MAX];
    enum record_type type;
    size_t size = 0, text_size = 0;
    while ((size = claimed_size(span_of(stream + taken, arrived - taken))) > 0 && size <= arrived - taken) {
        must(size <= RECORD_MAX);
        if (record_open(session, span_of(stream + taken, size), &type, plaintext, &text_size).code) break;
        must(text_size + RECORD_OVERHEAD == size);
        taken += size;
        must(taken <= honest_size && memcmp(stream, honest, taken) == 0);
    }
    return taken;
}

static size_t make_stream(const uint8_t *data, size_t size, uint8_t out[STREAM_MAX])
{
    if (data[0] == 0) {
        size_t raw = size - 1 < STREAM_MAX ? size - 1 : STREAM_MAX;
        memcpy(out, data + 1, raw);
        return raw;
    }
    memcpy(out, honest, honest_size);
    for (size_t i = 1; i + 3 <= size; i += 3)
        out[(data[i] | (size_t)data[i + 1] << 8) % honest_size] ^= data[i + 2];
    return honest_size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t stream[STREAM_MAX];
    struct record_session session = {0};
    if (size < 2) return 0;
    size_t whole = make_stream(data + 1, size - 1, stream), taken = 0, piece = data[0] + 1u;
    must(record_session_open(&crypto, id, &back, &there, &session).code == ERR_NONE);
    for (size_t arrived = 0; arrived < whole;) {
        arrived = whole - arrived < piece ? whole : arrived + piece;
        taken = receive(&session, stream, taken, arrived);
    }
    record_session_close(&session);
    return 0;
}
