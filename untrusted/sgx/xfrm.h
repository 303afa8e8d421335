/* XFRM: the extended state that this machine has for a process, and for an enclave. */
#pragma once

#include <stdint.h>

/* What XGETBV says; 0 where the kernel does not use XSAVE. */
uint64_t xfrm_of_host(void);

/* What the processor allows besides in ATTRIBUTES.XFRM (CPUID 12H.1); 0: it has no SGX. */
uint64_t xfrm_of_enclaves(void);
