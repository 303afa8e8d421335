/* Compiled without the stack protector: it makes the canary. */
#include "trusted/runtime/entropy.h"

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "trusted/runtime/cpuid.h"
#include "trusted/runtime/panic.h"

#define RDRAND_TRIES 10 /* Intel, Digital Random Number Generator guide, 5.2.1 */
#define RDSEED_TRIES 64 /* it runs dry honestly; then there is just less of it */

static uint64_t rdrand(void)
{
    for (int i = 0; i < RDRAND_TRIES; i++) {
        unsigned long long word = 0;
        if (_rdrand64_step(&word)) return word;
    }
    panic(PANIC_ENTROPY);
}

/* AMD parts have answered all ones with the carry flag set after a resume; a stuck source repeats itself. */
static bool suspicious(uint64_t word, uint64_t before)
{
    return word == before || word == 0 || word == UINT64_MAX;
}

static uint64_t healthy_word(void)
{
    static uint64_t before;
    uint64_t word = rdrand();
    if (suspicious(word, before)) {
        uint64_t again = rdrand();
        if (suspicious(again, word)) panic(PANIC_ENTROPY);
        word = again;
    }
    before = word;
    return word;
}

void entropy_fill(void *out, size_t size)
{
    uint8_t *next = out;
    while (size > 0) {
        uint64_t word = healthy_word();
        size_t part = size < sizeof word ? size : sizeof word;
        memcpy(next, &word, part);
        next += part;
        size -= part;
    }
}

size_t entropy_seed(void *out, size_t size)
{
    if (!cpuid_has_rdseed()) return 0;
    uint8_t *bytes = out;
    size_t done = 0;
    while (size - done >= sizeof(uint64_t)) {
        unsigned long long word = 0;
        int tries = RDSEED_TRIES;
        while (tries > 0 && !_rdseed64_step(&word))
            tries--;
        if (tries == 0) break;
        memcpy(bytes + done, &word, sizeof word);
        done += sizeof word;
    }
    return done;
}
