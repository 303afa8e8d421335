/* Shamir's scheme against arithmetic of its own: logarithms in GF(2^8) to the base 3. */
#include "tests/fakes/assertions.h"

#include <string.h>

#include "tests/unit/manager/rig.h"
#include "trusted/manager/shamir.h"

static uint8_t logarithms[256];
static uint8_t powers[255];

static int make_tables(void **state)
{
    (void)state;
    unsigned value = 1;
    for (unsigned i = 0; i < 255; i++) {
        powers[i] = (uint8_t)value;
        logarithms[value] = (uint8_t)i;
        value ^= value << 1;
        if (value > 255) value ^= 0x11b;
    }
    assert_int_equal(value, 1);
    return 0;
}

static uint8_t times(uint8_t a, uint8_t b)
{
    return a && b ? powers[(logarithms[a] + logarithms[b]) % 255] : 0;
}

static uint8_t over(uint8_t a, uint8_t b)
{
    return a ? powers[(logarithms[a] + 255 - logarithms[b]) % 255] : 0;
}

/* The polynomial through the shares, at x. */
static uint8_t at(const struct recovery_share *shares, uint8_t count, uint8_t x, size_t byte)
{
    uint8_t sum = 0;
    for (uint8_t i = 0; i < count; i++) {
        uint8_t weight = 1;
        for (uint8_t j = 0; j < count; j++)
            if (j != i) weight = times(weight, over(x ^ shares[j].index, shares[i].index ^ shares[j].index));
        sum ^= times(weight, shares[i].value[byte]);
    }
    return sum;
}

static void shares_lie_on_a_polynomial_that_is_the_secret_at_0(void **state)
{
    (void)state;
    uint8_t secret[RECOVERY_SECRET_SIZE];
    for (size_t i = 0; i < sizeof secret; i++)
        secret[i] = (uint8_t)(37 * i);
    for (uint8_t count = 1; count <= RECOVERY_KEYS_MAX; count++)
        for (uint8_t threshold = 1; threshold <= count; threshold++) {
            struct recovery_share shares[RECOVERY_KEYS_MAX];
            shamir_split(&(struct recovery_rule){threshold, count}, secret, shares);
            for (size_t byte = 0; byte < sizeof secret; byte++) {
                assert_int_equal(at(shares, threshold, 0, byte), secret[byte]);
                for (uint8_t i = 0; i < count; i++)
                    assert_int_equal(at(shares, threshold, shares[i].index, byte), shares[i].value[byte]);
            }
        }
}

/* Every choice of as many as it takes, in the order of their bits. */
static void any_that_are_enough_give_the_secret(void **state)
{
    (void)state;
    const struct recovery_rule rule = {3, 6};
    const uint8_t secret[RECOVERY_SECRET_SIZE] = "whatever is to be kept";
    struct recovery_share shares[6];
    shamir_split(&rule, secret, shares);
    for (unsigned set = 0; set < 64; set++) {
        struct recovery_share chosen[6];
        uint8_t count = 0;
        uint8_t joined[RECOVERY_SECRET_SIZE];
        for (unsigned i = 0; i < 6; i++)
            if (set >> i & 1) chosen[count++] = shares[5 - i];
        if (count < 2 || count > 3) continue;
        shamir_join(chosen, count, joined);
        assert_int_equal(memcmp(joined, secret, sizeof secret) == 0, count == 3);
    }
}

/* Whatever secret one wishes, there is a polynomial through the shares that one has: they exclude none. */
static void fewer_exclude_nothing(void **state)
{
    (void)state;
    const uint8_t secret[RECOVERY_SECRET_SIZE] = {0x53};
    struct recovery_share shares[3];
    bool seen[256] = {0};
    unsigned count = 0;
    for (unsigned i = 0; i < 6000 && count < 256; i++) {
        shamir_split(&(struct recovery_rule){2, 3}, secret, shares);
        count += !seen[shares[0].value[0]];
        seen[shares[0].value[0]] = true;
    }
    assert_int_equal(count, 256);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_lie_on_a_polynomial_that_is_the_secret_at_0),
        cmocka_unit_test(any_that_are_enough_give_the_secret),
        cmocka_unit_test(fewer_exclude_nothing),
    };
    return cmocka_run_group_tests_name("shamir", tests, make_tables, NULL);
}
