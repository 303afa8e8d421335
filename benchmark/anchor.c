/*
 * What the move of an anchor of the kind tpm takes of a commit: the enclave's client of the chip, and the exchanges that
 * carry its commands there and back.
 *
 *     anchor SAMPLES TCTI
 *
 * Prints a row of ./bench, the median in microseconds. Its chip is a swtpm there: a real one takes milliseconds.
 */
#include <stdlib.h>
#include <string.h>

#include "benchmark/sample.h"
#include "benchmark/target.h"
#include "crypto/hash.h"
#include "trusted/anchor/anchor.h"
#include "untrusted/anchor/anchor_host.h"

#define NV_INDEX 0x01800100u

/* Carries exchanges until the step is over. */
static struct anchor_state finish(struct anchor *anchor, struct anchor_host *host, struct writer *request)
{
    struct anchor_state state = {0};
    while (!state.done) {
        uint8_t answer[ANCHOR_EXCHANGE_MAX];
        size_t size = 0;
        check("the chip", anchor_host_exchange(host, writer_span(request), answer, &size));
        request->size = 0;
        check("the anchor", anchor_answer(anchor, span_of(answer, size), request, &state));
    }
    return state;
}

int main(int argc, char **argv)
{
    static const uint8_t record[SHA256_SIZE] = "a record";
    size_t samples = argc == 3 ? strtoul(argv[1], NULL, 10) : 0;
    double *us = calloc(samples + 1, sizeof *us);
    uint8_t bytes[ANCHOR_EXCHANGE_MAX];
    struct writer request = writer_of(bytes, sizeof bytes);
    struct anchor_host *host = NULL;
    struct anchor *anchor = NULL;
    struct crypto crypto;
    if (samples == 0 || !us) die("usage: anchor SAMPLES TCTI");
    check("libcrypto", crypto_init(&crypto));
    check("the chip", anchor_host_open(ANCHOR_TPM, argv[2], &host));
    check("the anchor", anchor_define(&crypto, ANCHOR_TPM, NV_INDEX, span_empty(), &request, &anchor));
    struct anchor_state state = finish(anchor, host, &request);
    for (size_t i = 0; i < samples; i++) {
        double start = now_us();
        request.size = 0;
        check("the anchor", anchor_move(anchor, state.value, record, &request));
        state = finish(anchor, host, &request);
        us[i] = now_us() - start;
    }
    print_median("a commit by part: anchor (tpm: a swtpm)", us, samples);
    anchor_close(&anchor);
    anchor_host_close(&host);
    free(us);
    return 0;
}
