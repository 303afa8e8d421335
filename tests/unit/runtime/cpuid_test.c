/* What libcrypto is told of the processor, whatever the host hints. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "abi/sgx.h"
#include "trusted/runtime/cpuid.h"

#define BIT(n)     (UINT32_C(1) << (n))
#define AESNI      BIT(25) /* word 1 */
#define PCLMULQDQ  BIT(1)
#define AVX        BIT(28)
#define OSXSAVE    BIT(27)
#define AVX2       BIT(5) /* word 2 */
#define AVX512IFMA BIT(21)
#define SHA        BIT(29)
#define RTM        BIT(11)
#define TSC        BIT(4) /* word 0 */

uint64_t __wrap_OPENSSL_ia32_cpuid(uint32_t vector[4]);
uint32_t __wrap_OPENSSL_rdtsc(void);
uint32_t __wrap_padlock_capability(void);

static void answer(uint32_t hint, uint64_t xfrm, uint32_t out[4])
{
    const uint32_t hints[4] = {hint, hint, hint, hint};
    cpuid_set_hints(hints, xfrm);
    uint64_t words = __wrap_OPENSSL_ia32_cpuid(out);
    out[0] = (uint32_t)words;
    out[1] = (uint32_t)(words >> 32);
}

static void no_hint_takes_aes_and_pclmul_away(void **state)
{
    (void)state;
    uint32_t words[4] = {0};
    answer(0, SGX_XFRM_LEGACY, words);
    assert_int_equal(words[1] & (AESNI | PCLMULQDQ), AESNI | PCLMULQDQ);
    assert_int_equal(words[2] | words[3], 0);
    assert_false(cpuid_has_rdseed());
}

static void wide_registers_follow_xfrm_and_not_the_hint(void **state)
{
    (void)state;
    uint32_t words[4] = {0};
    answer(UINT32_MAX, SGX_XFRM_LEGACY, words);
    assert_int_equal(words[1] & (AVX | OSXSAVE), 0);
    assert_int_equal(words[2] & (AVX2 | AVX512IFMA), 0);
    assert_int_equal(words[2] & SHA, SHA);
    answer(UINT32_MAX, SGX_XFRM_LEGACY | SGX_XFRM_AVX, words);
    assert_int_equal(words[1] & AVX, AVX);
    assert_int_equal(words[2] & (AVX2 | AVX512IFMA), AVX2);
    answer(UINT32_MAX, SGX_XFRM_LEGACY | SGX_XFRM_AVX | SGX_XFRM_AVX512, words);
    assert_int_equal(words[2] & AVX512IFMA, AVX512IFMA);
}

static void what_nobody_asked_for_is_not_passed_on(void **state)
{
    (void)state;
    uint32_t words[4] = {0};
    answer(UINT32_MAX, SGX_XFRM_LEGACY | SGX_XFRM_AVX | SGX_XFRM_AVX512, words);
    assert_int_equal(words[0] & TSC, 0);
    assert_int_equal(words[2] & RTM, 0);
    assert_true(cpuid_has_rdseed());
}

static void what_would_fault_is_not_asked(void **state)
{
    (void)state;
    assert_int_equal(__wrap_OPENSSL_rdtsc(), 0);
    assert_int_equal(__wrap_padlock_capability(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_hint_takes_aes_and_pclmul_away),
        cmocka_unit_test(wide_registers_follow_xfrm_and_not_the_hint),
        cmocka_unit_test(what_nobody_asked_for_is_not_passed_on),
        cmocka_unit_test(what_would_fault_is_not_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
