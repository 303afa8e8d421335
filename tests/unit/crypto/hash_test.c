#include "tests/fakes/assertions.h"

#include "crypto/hash.h"
#include "tests/fakes/hex.h"

static struct crypto crypto;

static void assert_bytes(const uint8_t *got, const char *expected)
{
    uint8_t bytes[64];
    struct span span = from_hex(expected, bytes);
    assert_memory_equal(got, span.data, span.size);
}

/* FIPS 180-4, the example of three letters, in three parts with an empty one */
static const struct span abc[] = {{(const uint8_t *)"a", 1}, {NULL, 0}, {(const uint8_t *)"bc", 2}};

static void sha256_over_parts_gives_the_known_answer(void **state)
{
    (void)state;
    uint8_t out[SHA256_SIZE];
    assert_ok(hash_sha256(&crypto, abc, 3, out));
    assert_bytes(out, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

static void sha512_over_parts_gives_the_known_answer(void **state)
{
    (void)state;
    uint8_t out[SHA512_SIZE];
    assert_ok(hash_sha512(&crypto, abc, 3, out));
    assert_bytes(out, "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
                      "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f");
}

static void a_hash_of_nothing_is_the_one_of_the_empty_string(void **state)
{
    (void)state;
    uint8_t out[SHA256_SIZE];
    assert_ok(hash_sha256(&crypto, NULL, 0, out));
    assert_bytes(out, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

/* RFC 4231, 4.3 */
static void hmac_gives_the_rfc_answer(void **state)
{
    (void)state;
    uint8_t out[SHA256_SIZE];
    const struct span parts[] = {span_of("what do ya want ", 16), span_of("for nothing?", 12)};
    assert_ok(hmac_sha256(&crypto, span_of("Jefe", 4), parts, 2, out));
    assert_bytes(out, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

/* RFC 4231, 4.7: a key longer than a block */
static void hmac_takes_a_key_longer_than_a_block(void **state)
{
    (void)state;
    uint8_t out[SHA256_SIZE], key[131];
    static const char text[] = "Test Using Larger Than Block-Size Key - Hash Key First";
    const struct span part = span_of(text, sizeof text - 1);
    memset(key, 0xAA, sizeof key);
    assert_ok(hmac_sha256(&crypto, span_of(key, sizeof key), &part, 1, out));
    assert_bytes(out, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

/* SP 800-38B, D.1: of 0, 16 and 40 bytes */
static void cmac_gives_the_known_answers(void **state)
{
    (void)state;
    uint8_t key[16], message[40], out[CMAC_SIZE];
    from_hex("2b7e151628aed2a6abf7158809cf4f3c", key);
    from_hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411", message);
    assert_ok(cmac_aes_128(&crypto, key, span_empty(), out));
    assert_bytes(out, "bb1d6929e95937287fa37d129b756746");
    assert_ok(cmac_aes_128(&crypto, key, span_of(message, 16), out));
    assert_bytes(out, "070a16b46b4d4144f79bdd9dd04a287c");
    assert_ok(cmac_aes_128(&crypto, key, span_of(message, 40), out));
    assert_bytes(out, "dfa66747de9ae63030ca32611497c827");
}

static int init(void **state)
{
    (void)state;
    return crypto_init(&crypto).code;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sha256_over_parts_gives_the_known_answer),
        cmocka_unit_test(sha512_over_parts_gives_the_known_answer),
        cmocka_unit_test(a_hash_of_nothing_is_the_one_of_the_empty_string),
        cmocka_unit_test(hmac_gives_the_rfc_answer),
        cmocka_unit_test(hmac_takes_a_key_longer_than_a_block),
        cmocka_unit_test(cmac_gives_the_known_answers),
    };
    return cmocka_run_group_tests_name("hash", tests, init, NULL);
}
