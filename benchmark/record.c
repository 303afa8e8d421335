/*
 * What the record layer costs by itself: both ends of one link in this process, a message sealed by one and opened by
 * the other, again and again.
 *
 *     record SAMPLES
 *
 * Prints lines of "name TAB us TAB median TAB - TAB -". Each sample is the mean over a batch, because one message takes
 * less than the clock can tell. A command's round trip seals and opens two of them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "benchmark/target.h"
#include "link/link.h"

#define BATCH 100u

static double now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static void expect(struct err result, const char *what)
{
    if (result.code) die("%s: error %u", what, result.code);
}

struct ends {
    struct link host;
    struct link enclave;
};

static uint8_t record[RECORD_MAX];
static uint8_t plaintext[RECORD_MAX];

/* One message from the first end to the second; returns what arrived. */
static enum link_event pass(struct link *from, struct link *to, struct span message, bool finish, size_t *out_size)
{
    struct writer w = writer_of(record, sizeof record);
    enum link_event event = LINK_ENDED;
    expect(finish ? link_finish(from, &w) : link_send(from, message, &w), "seal");
    expect(link_receive(to, writer_span(&w), &event, plaintext, out_size), "open");
    return event;
}

static void open_ends(const struct crypto *crypto, struct ends *ends)
{
    struct link_binding binding = {.kind = LINK_K2_NAMED};
    struct x25519_key host;
    struct x25519_key enclave;
    size_t size = 0;
    expect(x25519_generate(crypto, &host), "key");
    expect(x25519_generate(crypto, &enclave), "key");
    const struct link_keys host_keys = {.own = &host, .peer = enclave.public};
    const struct link_keys enclave_keys = {.own = &enclave, .peer = host.public};
    expect(link_open(crypto, LINK_HOST, &binding, &host_keys, &ends->host), "link");
    expect(link_open(crypto, LINK_ENCLAVE, &binding, &enclave_keys, &ends->enclave), "link");
    if (pass(&ends->host, &ends->enclave, (struct span){0}, true, &size) != LINK_FINISHED ||
        pass(&ends->enclave, &ends->host, (struct span){0}, true, &size) != LINK_FINISHED)
        die("the link does not come into being");
}

static int compare(const void *a, const void *b)
{
    double left = *(const double *)a;
    double right = *(const double *)b;
    return (left > right) - (left < right);
}

static void measure(struct ends *ends, size_t message_size, size_t samples)
{
    static uint8_t message[RECORD_PLAINTEXT_MAX];
    double *us = calloc(samples, sizeof *us);
    if (!us) die("out of memory");
    for (size_t i = 0; i < samples; i++) {
        double start = now_us();
        for (size_t j = 0; j < BATCH; j++) {
            size_t size = 0;
            if (pass(&ends->host, &ends->enclave, span_of(message, message_size), false, &size) != LINK_DATA ||
                size != message_size)
                die("a message does not arrive");
        }
        us[i] = (now_us() - start) / BATCH;
    }
    qsort(us, samples, sizeof *us, compare);
    printf("record layer, seal + open %zu bytes\tus\t%.2f\t-\t-\n", message_size, us[samples / 2]);
    free(us);
}

static void measure_handshake(const struct crypto *crypto, size_t samples)
{
    double start = now_us();
    for (size_t i = 0; i < samples; i++) {
        struct ends ends = {0};
        open_ends(crypto, &ends);
        link_close(&ends.host);
        link_close(&ends.enclave);
    }
    printf("link handshake, both ends\tus\t%.1f\t-\t-\n", (now_us() - start) / (double)samples);
}

int main(int argc, char **argv)
{
    static const size_t sizes[] = {100, 4096};
    struct crypto crypto;
    struct ends ends = {0};
    size_t samples = argc == 2 ? strtoul(argv[1], NULL, 10) : 0;
    if (samples == 0) die("usage: record SAMPLES");
    expect(crypto_init(&crypto), "libcrypto");
    open_ends(&crypto, &ends);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        measure(&ends, sizes[i], samples);
    link_close(&ends.host);
    link_close(&ends.enclave);
    measure_handshake(&crypto, samples / 10 + 1);
    return 0;
}
