/* The processor's random numbers with a processor of the test's own: what RDRAND and RDSEED answer is scripted. */
#include <immintrin.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "trusted/runtime/clock.h"
#include "trusted/runtime/panic.h"

static int fake_step(unsigned long long *out);

#define _rdrand64_step fake_step
#define _rdseed64_step fake_step
#include "trusted/runtime/entropy.c"

#define NOT_READY 0x0BADu /* in a script: the carry flag is clear */

static const uint64_t *script;
static size_t script_left;
static unsigned steps;
static uint64_t counter = 0x1000;
static bool has_rdseed;
static jmp_buf panicked;
static enum panic_event last_panic;

static int fake_step(unsigned long long *out)
{
    steps++;
    uint64_t word = counter++;
    if (script_left) {
        word = *script++;
        script_left--;
    }
    if (word == NOT_READY) return 0;
    *out = word;
    return 1;
}

bool cpuid_has_rdseed(void)
{
    return has_rdseed;
}

_Noreturn void panic(enum panic_event event)
{
    last_panic = event;
    longjmp(panicked, 1);
}

static enum panic_event fill(uint64_t out[2], const uint64_t *words, size_t count)
{
    script = words;
    script_left = count;
    steps = 0;
    last_panic = 0;
    if (setjmp(panicked) == 0) entropy_fill(out, 2 * sizeof out[0]);
    return last_panic;
}

static void words_come_out_as_they_are_drawn(void **state)
{
    (void)state;
    uint64_t out[2];
    const uint64_t words[] = {11, 22};
    assert_int_equal(fill(out, words, 2), 0);
    assert_int_equal(out[0], 11);
    assert_int_equal(out[1], 22);
}

static void odd_sizes_are_filled(void **state)
{
    (void)state;
    uint8_t out[21];
    memset(out, 0, sizeof out);
    script_left = 0;
    entropy_fill(out, 13);
    for (size_t i = 13; i < sizeof out; i++)
        assert_int_equal(out[i], 0);
    assert_true(out[0] != 0 || out[8] != 0);
}

static void nine_failures_are_tried_again(void **state)
{
    (void)state;
    uint64_t out[2];
    uint64_t words[11];
    for (size_t i = 0; i < 9; i++)
        words[i] = NOT_READY;
    words[9] = 33;
    words[10] = 44;
    assert_int_equal(fill(out, words, 11), 0);
    assert_int_equal(out[0], 33);
    assert_int_equal(steps, 11);
}

static void ten_failures_panic(void **state)
{
    (void)state;
    uint64_t out[2];
    uint64_t words[10];
    for (size_t i = 0; i < 10; i++)
        words[i] = NOT_READY;
    assert_int_equal(fill(out, words, 10), PANIC_ENTROPY);
}

static void a_suspicious_word_is_drawn_again(void **state)
{
    (void)state;
    const uint64_t suspicious_words[] = {0, UINT64_MAX};
    for (size_t i = 0; i < 2; i++) {
        uint64_t out[2];
        const uint64_t words[] = {suspicious_words[i], 55, 66};
        assert_int_equal(fill(out, words, 3), 0);
        assert_int_equal(out[0], 55);
        assert_int_equal(out[1], 66);
    }
    uint64_t out[2];
    const uint64_t repeated[] = {77, 77, 88};
    assert_int_equal(fill(out, repeated, 3), 0);
    assert_int_equal(out[0], 77);
    assert_int_equal(out[1], 88);
}

static void a_stuck_source_panics(void **state)
{
    (void)state;
    uint64_t out[2];
    const uint64_t stuck[] = {99, 99, 99};
    assert_int_equal(fill(out, stuck, 3), PANIC_ENTROPY);
    const uint64_t zeros[] = {0, 0};
    assert_int_equal(fill(out, zeros, 2), PANIC_ENTROPY);
    const uint64_t ones[] = {UINT64_MAX, UINT64_MAX};
    assert_int_equal(fill(out, ones, 2), PANIC_ENTROPY);
}

static void rdseed_is_used_only_where_it_is(void **state)
{
    (void)state;
    uint8_t out[32] = {0};
    has_rdseed = false;
    steps = 0;
    assert_int_equal(entropy_seed(out, sizeof out), 0);
    assert_int_equal(steps, 0);
    has_rdseed = true;
    assert_int_equal(entropy_seed(out, sizeof out), 32);
}

static void a_dry_rdseed_gives_less(void **state)
{
    (void)state;
    uint8_t out[32] = {0};
    uint64_t words[1 + 64];
    words[0] = 5;
    for (size_t i = 1; i < 65; i++)
        words[i] = NOT_READY;
    has_rdseed = true;
    script = words;
    script_left = 65;
    assert_int_equal(entropy_seed(out, sizeof out), 8);
}

static void time_never_goes_back(void **state)
{
    (void)state;
    clock_advance(1000);
    assert_int_equal(clock_now(), 1000);
    clock_advance(999);
    assert_int_equal(clock_now(), 1000);
    clock_advance(0);
    assert_int_equal(clock_now(), 1000);
    clock_advance(1001);
    assert_int_equal(clock_now(), 1001);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_come_out_as_they_are_drawn),
        cmocka_unit_test(odd_sizes_are_filled),
        cmocka_unit_test(nine_failures_are_tried_again),
        cmocka_unit_test(ten_failures_panic),
        cmocka_unit_test(a_suspicious_word_is_drawn_again),
        cmocka_unit_test(a_stuck_source_panics),
        cmocka_unit_test(rdseed_is_used_only_where_it_is),
        cmocka_unit_test(a_dry_rdseed_gives_less),
        cmocka_unit_test(time_never_goes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
