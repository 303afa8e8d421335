/*
 * Randomness of the processor. RDRAND with ten tries for each word (Intel DRNG guide, 5.2.1), and a health test: a
 * word equal to the one before it, or all zeros or all ones, is drawn again, and a second time in a row panics
 * (SP 800-90B, 4.4.1 repetition count). Behind getrandom() and getentropy() of the enclave's C library too.
 */
#pragma once

#include <stddef.h>

/* Fills out with random bytes, or panics. */
void entropy_fill(void *out, size_t size);

/* Adds RDSEED bytes to out if this processor has it (hint); returns how many bytes were written, at most size. */
size_t entropy_seed(void *out, size_t size);
