/*
 * What a commit costs on the disk: the transaction of the store, and the move of an anchor of the kind
 * file, each by itself, as vtpmd makes them one after the other.
 *
 *     parts SAMPLES DIRECTORY SIZE
 *
 * Prints rows of ./bench, medians in microseconds; SIZE is that of one sealed state.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "benchmark/sample.h"
#include "benchmark/target.h"
#include "untrusted/anchor/anchor_host.h"
#include "untrusted/store/store.h"

#define ROW_SIZE  1024u
#define PATH_SIZE 512u

static void measure_store(const char *directory, size_t size, double *us, size_t samples)
{
    static uint8_t row_bytes[ROW_SIZE];
    struct store *store = NULL;
    uint8_t *state_bytes = calloc(1, size);
    if (!state_bytes) die("out of memory");
    check("the store", store_init(directory));
    check("the store", store_open(directory, &store));
    for (size_t i = 0; i < samples; i++) {
        const struct store_row row = {.version = i + 1, .blob = span_of(row_bytes, sizeof row_bytes)};
        const struct store_state state = {.version = i + 1, .blob = span_of(state_bytes, size)};
        const struct store_batch batch = {
            .head = row.blob, .rows = &row, .row_count = 1, .states = &state, .state_count = 1};
        double start = now_us();
        check("the store", store_commit(store, &batch));
        us[i] = now_us() - start;
    }
    store_close(&store);
    free(state_bytes);
    print_median("a commit by part: store", us, samples);
}

static void measure_anchor(const char *directory, double *us, size_t samples)
{
    char path[PATH_SIZE];
    uint8_t request[ANCHOR_FILE_REQUEST_SIZE] = {ANCHOR_FILE_MOVE};
    uint8_t answer[ANCHOR_EXCHANGE_MAX];
    struct anchor_host *anchor = NULL;
    size_t size = 0;
    (void)snprintf(path, sizeof path, "%s/anchor", directory);
    check("the anchor", anchor_file_make(path));
    check("the anchor", anchor_host_open(ANCHOR_FILE, path, &anchor));
    for (size_t i = 0; i < samples; i++) {
        const size_t next = i + 1;
        memcpy(request + 8, &i, sizeof i);
        memcpy(request + 8 + ANCHOR_VALUE_SIZE, &next, sizeof next);
        double start = now_us();
        check("the anchor", anchor_host_exchange(anchor, span_of(request, sizeof request), answer, &size));
        us[i] = now_us() - start;
    }
    anchor_host_close(&anchor);
    print_median("a commit by part: anchor (file)", us, samples);
}

int main(int argc, char **argv)
{
    size_t samples = argc == 4 ? strtoul(argv[1], NULL, 10) : 0;
    size_t size = argc == 4 ? strtoul(argv[3], NULL, 10) : 0;
    double *us = calloc(samples + 1, sizeof *us);
    if (samples == 0 || size == 0 || !us) die("usage: parts SAMPLES DIRECTORY SIZE");
    measure_store(argv[2], size, us, samples);
    measure_anchor(argv[2], us, samples);
    free(us);
    return 0;
}
