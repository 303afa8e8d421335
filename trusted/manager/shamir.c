#include "trusted/manager/shamir.h"

#include <string.h>

#include "base/memory.h"
#include "trusted/runtime/entropy.h"

static uint8_t multiply(uint8_t a, uint8_t b)
{
    uint8_t product = 0;
    for (unsigned bit = 0; bit < 8; bit++) {
        product ^= (uint8_t)(-(b >> bit & 1) & a);
        a = (uint8_t)(a << 1 ^ (-(a >> 7) & 0x1b));
    }
    return product;
}

/* a^254, which is 1/a. */
static uint8_t invert(uint8_t a)
{
    uint8_t result = 1;
    for (unsigned bit = 7; bit > 0; bit--) {
        a = multiply(a, a);
        result = multiply(result, a);
    }
    return result;
}

struct coefficients {
    uint8_t bytes[RECOVERY_KEYS_MAX][RECOVERY_SECRET_SIZE];
};

static void wipe_coefficients(struct coefficients *coefficients)
{
    wipe(coefficients, sizeof *coefficients);
}

void shamir_split(const struct recovery_rule *rule, const uint8_t secret[RECOVERY_SECRET_SIZE],
                  struct recovery_share *out_shares)
{
    struct coefficients drawn DEFER(wipe_coefficients) = {0};
    memcpy(drawn.bytes[0], secret, RECOVERY_SECRET_SIZE);
    for (uint8_t i = 1; i < rule->threshold; i++)
        entropy_fill(drawn.bytes[i], RECOVERY_SECRET_SIZE);
    for (uint8_t n = 0; n < rule->count; n++) {
        struct recovery_share *share = &out_shares[n];
        *share = (struct recovery_share){.index = (uint8_t)(n + 1)};
        for (size_t at = 0; at < RECOVERY_SECRET_SIZE; at++)
            for (uint8_t i = rule->threshold; i > 0; i--)
                share->value[at] = multiply(share->value[at], share->index) ^ drawn.bytes[i - 1][at];
    }
}

/* Lagrange's polynomials at 0. Indices are no secret. */
void shamir_join(const struct recovery_share *shares, uint8_t threshold, uint8_t out_secret[RECOVERY_SECRET_SIZE])
{
    memset(out_secret, 0, RECOVERY_SECRET_SIZE);
    for (uint8_t i = 0; i < threshold; i++) {
        uint8_t weight = 1;
        for (uint8_t j = 0; j < threshold; j++)
            if (j != i) weight = multiply(weight, multiply(shares[j].index, invert(shares[j].index ^ shares[i].index)));
        for (size_t at = 0; at < RECOVERY_SECRET_SIZE; at++)
            out_secret[at] ^= multiply(weight, shares[i].value[at]);
    }
}
