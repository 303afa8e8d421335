/*
 * What every program of ours wants with its first call: hints about the processor, and bytes to mix into its randomness.
 * An enclave takes neither for the truth.
 */
#pragma once

#include "base/bytes.h"
#include "base/err.h"

/* Appends u8[16] capability hints and u8[32] host entropy (abi/call.h). ERR_NO_SPACE, ERR_SYSTEM. */
struct err priming_write(struct writer *w);
