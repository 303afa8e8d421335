/* The small parts of base/: errors, checked sums, wiping and comparing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/checked.h"
#include "base/err.h"
#include "base/memory.h"

static void sum_is_right(void **state)
{
    (void)state;
    uint64_t sum = 0;
    assert_true(checked_add(UINT64_MAX - 1, 1, &sum));
    assert_true(sum == UINT64_MAX);
}

static void sum_that_wraps_is_refused(void **state)
{
    (void)state;
    uint64_t sum = 0x5A;
    assert_false(checked_add(UINT64_MAX, 1, &sum));
    assert_true(sum == 0x5A);
}

static void value_is_rounded_up(void **state)
{
    (void)state;
    uint64_t aligned = 0;
    assert_true(checked_align_up(4097, 4096, &aligned));
    assert_true(aligned == 8192);
}

static void aligned_value_stays(void **state)
{
    (void)state;
    uint64_t aligned = 1;
    assert_true(checked_align_up(8192, 4096, &aligned));
    assert_true(aligned == 8192);
    assert_true(checked_align_up(0, 8, &aligned));
    assert_true(aligned == 0);
}

static void rounding_that_wraps_is_refused(void **state)
{
    (void)state;
    uint64_t aligned = 0x5A;
    assert_false(checked_align_up(UINT64_MAX - 4094, 4096, &aligned));
    assert_true(aligned == 0x5A);
}

static void wiped_bytes_are_zero_and_no_others(void **state)
{
    (void)state;
    uint8_t bytes[4] = {1, 2, 3, 4};
    static const uint8_t expected[4] = {1, 0, 0, 4};
    wipe(bytes + 1, 2);
    assert_memory_equal(bytes, expected, sizeof bytes);
}

static void nothing_can_be_wiped(void **state)
{
    (void)state;
    wipe(NULL, 0);
}

static void equal_bytes_are_equal(void **state)
{
    (void)state;
    assert_true(ct_equal("secret", "secret", 6));
    assert_true(ct_equal("same", "sane", 2));
    assert_true(ct_equal(NULL, NULL, 0));
}

static void a_difference_in_any_bit_is_seen(void **state)
{
    (void)state;
    const uint8_t bytes[16] = {0};
    for (size_t bit = 0; bit < 8 * sizeof bytes; bit++) {
        uint8_t other[sizeof bytes] = {0};
        other[bit / 8] = (uint8_t)(1u << bit % 8);
        assert_false(ct_equal(bytes, other, sizeof bytes));
    }
}

static void two_differences_do_not_cancel(void **state)
{
    (void)state;
    assert_false(ct_equal("\x01\x01", "\x00\x00", 2));
}

static struct err step(unsigned *count, struct err result)
{
    (*count)++;
    return result;
}

static struct err two_steps(unsigned *count, struct err first)
{
    TRY(step(count, first));
    TRY(step(count, OK));
    return OK;
}

static void try_goes_on_after_success(void **state)
{
    (void)state;
    unsigned count = 0;
    assert_int_equal(two_steps(&count, OK).code, ERR_NONE);
    assert_int_equal(count, 2);
}

static void try_returns_the_first_error(void **state)
{
    (void)state;
    unsigned count = 0;
    assert_int_equal(two_steps(&count, FAIL(TOO_LARGE)).code, ERR_TOO_LARGE);
    assert_int_equal(count, 1);
}

static struct err at_most_seven(unsigned value)
{
    ENSURE(value <= 7, BAD_VALUE);
    return OK;
}

static void ensure_lets_what_holds_pass(void **state)
{
    (void)state;
    assert_int_equal(at_most_seven(7).code, ERR_NONE);
}

static void ensure_returns_what_does_not_hold(void **state)
{
    (void)state;
    assert_int_equal(at_most_seven(8).code, ERR_BAD_VALUE);
}

static void count_up(unsigned **count)
{
    (**count)++;
}

static struct err with_deferred(unsigned *count, struct err result)
{
    unsigned *counted DEFER(count_up) = count;
    (void)counted;
    TRY(result);
    return OK;
}

static void deferred_call_runs_on_every_way_out(void **state)
{
    (void)state;
    unsigned count = 0;
    assert_int_equal(with_deferred(&count, OK).code, ERR_NONE);
    assert_int_equal(with_deferred(&count, FAIL(SYSTEM)).code, ERR_SYSTEM);
    assert_int_equal(count, 2);
}

/* Codes cross the enclave boundary as 16 bits, and a code has one sentence. */
static void codes_are_distinct_and_fit(void **state)
{
    (void)state;
    static const uint32_t codes[] = {
#define ERR_CODE(name, value, sentence) (value),
        ERR_LIST(ERR_CODE)
#undef ERR_CODE
    };
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        assert_true(codes[i] <= UINT16_MAX);
        for (size_t j = 0; j < i; j++)
            assert_int_not_equal(codes[i], codes[j]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sum_is_right),
        cmocka_unit_test(sum_that_wraps_is_refused),
        cmocka_unit_test(value_is_rounded_up),
        cmocka_unit_test(aligned_value_stays),
        cmocka_unit_test(rounding_that_wraps_is_refused),
        cmocka_unit_test(wiped_bytes_are_zero_and_no_others),
        cmocka_unit_test(nothing_can_be_wiped),
        cmocka_unit_test(equal_bytes_are_equal),
        cmocka_unit_test(a_difference_in_any_bit_is_seen),
        cmocka_unit_test(two_differences_do_not_cancel),
        cmocka_unit_test(try_goes_on_after_success),
        cmocka_unit_test(try_returns_the_first_error),
        cmocka_unit_test(ensure_lets_what_holds_pass),
        cmocka_unit_test(ensure_returns_what_does_not_hold),
        cmocka_unit_test(deferred_call_runs_on_every_way_out),
        cmocka_unit_test(codes_are_distinct_and_fit),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
