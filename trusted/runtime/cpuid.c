#include "trusted/runtime/cpuid.h"

#include "abi/sgx.h"

/* Bits of CPUID.1:EDX, CPUID.1:ECX, CPUID.7.0:EBX and CPUID.7.0:ECX: the four words of OPENSSL_ia32cap. */
#define BIT(n) (UINT32_C(1) << (n))

static const uint32_t baseline[4] = {
    BIT(24) | BIT(25) | BIT(26),                   /* FXSR, SSE, SSE2 */
    BIT(1) | BIT(9) | BIT(19) | BIT(25) | BIT(30), /* PCLMULQDQ, SSSE3, SSE4.1, AES-NI, RDRAND */
    0,
    0,
};

/* What needs no state in XFRM: MOVBE; BMI1, BMI2, RDSEED, ADX, SHA. */
static const uint32_t plain[4] = {0, BIT(22), BIT(3) | BIT(8) | BIT(18) | BIT(19) | BIT(29), 0};
/* FMA, OSXSAVE, AVX; AVX2; VAES, VPCLMULQDQ. */
static const uint32_t avx[4] = {0, BIT(12) | BIT(27) | BIT(28), BIT(5), BIT(9) | BIT(10)};
/* AVX512 F, DQ, IFMA, CD, BW, VL. */
static const uint32_t avx512[4] = {0, 0, BIT(16) | BIT(17) | BIT(21) | BIT(28) | BIT(30) | BIT(31), 0};

static uint32_t capabilities[4];

void cpuid_set_hints(const uint32_t hints[4], uint64_t xfrm)
{
    for (int i = 0; i < 4; i++) {
        uint32_t allowed = plain[i];
        if (xfrm & SGX_XFRM_AVX) allowed |= avx[i];
        if ((xfrm & SGX_XFRM_AVX512) == SGX_XFRM_AVX512) allowed |= avx512[i];
        capabilities[i] = baseline[i] | (hints[i] & allowed);
    }
}

bool cpuid_has_rdseed(void)
{
    return capabilities[2] & BIT(18);
}

/*
 * The linker puts this in the place of libcrypto's OPENSSL_ia32_cpuid(), which executes CPUID; called once, by
 * OPENSSL_cpuid_setup(). Returns words 0 and 1; words 2 and 3 go into the vector.
 */
uint64_t __wrap_OPENSSL_ia32_cpuid(uint32_t vector[4]);

uint64_t __wrap_OPENSSL_ia32_cpuid(uint32_t vector[4])
{
    vector[2] = capabilities[2];
    vector[3] = capabilities[3];
    return (uint64_t)capabilities[1] << 32 | capabilities[0];
}

/* RDTSC faults on processors with SGX1 only. 0 means "there is none", and libcrypto takes the clock. */
uint32_t __wrap_OPENSSL_rdtsc(void);

uint32_t __wrap_OPENSSL_rdtsc(void)
{
    return 0;
}

/* This is not a VIA processor with a PadLock unit, and asking would take CPUID. */
uint32_t __wrap_padlock_capability(void);

uint32_t __wrap_padlock_capability(void)
{
    return 0;
}
