/*
 * Time is what the host says, with one guarantee: it never goes back, within one life of the enclave by this file,
 * across lives because the highest time seen is in the sealed state.
 */
#pragma once

#include <stdint.h>

/* The host's claim, ns since the epoch. A smaller one than any before is ignored. */
void clock_advance(uint64_t host_time);

/* The highest claim so far, ns since the epoch. */
uint64_t clock_now(void);
