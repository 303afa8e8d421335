/*
 * What libcrypto may believe of the processor. CPUID faults inside an enclave, so the answer is a baseline (AES-NI,
 * PCLMUL, SSSE3, SSE4.1, RDRAND), widened by the enclave's own XFRM and by hints from the host. A false hint raises
 * #UD, which kills the enclave; no hint can take AES-NI or PCLMUL away.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Before the first call into libcrypto. hints are in the layout of OPENSSL_ia32cap; xfrm is from the own REPORT. */
void cpuid_set_hints(const uint32_t hints[4], uint64_t xfrm);

bool cpuid_has_rdseed(void);
