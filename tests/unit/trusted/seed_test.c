#include "tests/fakes/assertions.h"

#include "trusted/crypto/seed.h"

static struct crypto crypto;

static void seeding_takes_host_bytes_or_none(void **state)
{
    (void)state;
    static const uint8_t host[32] = {1};
    static const uint8_t too_much[65];
    assert_ok(crypto_seed(&crypto, span_of(host, sizeof host)));
    assert_ok(crypto_seed(&crypto, span_empty()));
    assert_err(crypto_seed(&crypto, span_of(too_much, sizeof too_much)), NO_SPACE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seeding_takes_host_bytes_or_none),
    };
    return crypto_init(&crypto).code ? 1 : cmocka_run_group_tests_name("seed", tests, NULL, NULL);
}
