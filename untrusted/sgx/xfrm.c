#include "untrusted/sgx/xfrm.h"

#include <cpuid.h>

uint64_t xfrm_of_host(void)
{
    uint32_t low = 0, high = 0;
    unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE)) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

uint64_t xfrm_of_enclaves(void)
{
    unsigned int eax = 0, ebx = 0, low = 0, high = 0;
    if (!__get_cpuid_count(0x12, 1, &eax, &ebx, &low, &high)) return 0;
    return xfrm_of_host() & ((uint64_t)high << 32 | low);
}
