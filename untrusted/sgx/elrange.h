/*
 * The addresses of an enclave. They lie where the kernel puts nothing by itself: below all mappings, below a
 * position-independent program and its heap. The software device's filter of system calls goes with every program that
 * the process starts, and what lay at these addresses there, its C library for one, could not call the kernel.
 */
#pragma once

#include "base/err.h"

/* Reserves size bytes, a power of two, at a multiple of size and without any permission. ERR_NO_MEMORY, ERR_SYSTEM. */
struct err elrange_reserve(uint64_t size, uint64_t *out_base);
