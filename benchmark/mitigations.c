/*
 * What the enclave's defences at its boundary cost (docs/mitigations.md), each by itself and as often as one call has it.
 *
 *     mitigations SAMPLES
 *
 * Prints rows of ./bench, medians in microseconds. The same instructions, in an ordinary process.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "benchmark/sample.h"
#include "benchmark/target.h"

#define BATCH        1000u
#define COMMAND_SIZE 192u /* of a record with a short command, whole words */

/* The image of trusted/runtime/entry.S: MXCSR, all else in its initial state. */
static const struct {
    _Alignas(64) uint8_t before_mxcsr[24];
    uint32_t mxcsr;
    uint8_t rest[484];
    uint64_t xstate_bv;
    uint8_t header[56];
} clean_state = {.mxcsr = 0x1FBF, .xstate_bv = 2};

static void nothing(void)
{
    __asm__ volatile("" ::: "memory");
}

static void load_clean_state_twice(void)
{
    for (int i = 0; i < 2; i++)
        __asm__ volatile("xrstor %0"
                         :
                         : "m"(clean_state), "a"(0xE7), "d"(0)
                         : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                           "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "st", "mm0");
}

/* After the state is loaded, and behind each of the two ranges that the host gives. */
static void wait_for_loads_three_times(void)
{
    for (int i = 0; i < 3; i++)
        __builtin_ia32_lfence();
}

static void copy_words_in_and_out(void)
{
    static uint64_t host[COMMAND_SIZE / 8], inside[COMMAND_SIZE / 8];
    for (size_t i = 0; i < COMMAND_SIZE / 8; i++)
        inside[i] = ((volatile uint64_t *)host)[i];
    for (size_t i = 0; i < COMMAND_SIZE / 8; i++)
        ((volatile uint64_t *)host)[i] = inside[i];
}

static void measure(const char *name, void (*body)(void), double *us, size_t samples)
{
    for (size_t i = 0; i < samples; i++) {
        double start = now_us();
        for (size_t j = 0; j < BATCH; j++)
            body();
        us[i] = (now_us() - start) / BATCH;
    }
    qsort(us, samples, sizeof *us, sample_compare);
    printf("%s\tus\t%.3f\t-\t-\n", name, us[samples / 2]);
}

int main(int argc, char **argv)
{
    const size_t samples = argc == 2 ? strtoul(argv[1], NULL, 10) : 0;
    double *us = samples ? calloc(samples, sizeof *us) : NULL;
    if (!us) die("usage: mitigations SAMPLES");
    measure("call: the loop itself", nothing, us, samples);
    measure("call: clean x87 and vector state, twice", load_clean_state_twice, us, samples);
    measure("call: LFENCE, three times", wait_for_loads_three_times, us, samples);
    measure("call: copies in and out by whole words", copy_words_in_and_out, us, samples);
    free(us);
    return 0;
}
