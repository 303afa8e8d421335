#include "tests/fakes/assertions.h"

#include "crypto/curve.h"
#include "tests/fakes/hex.h"

static struct crypto crypto;

struct agreement {
    const char *private, *peer, *shared;
};

/* RFC 7748, 5.2 (both) and 6.1 */
static const struct agreement agreements[] = {
    {"a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
     "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
     "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"},
    {"4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
     "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
     "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957"},
    {"5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
     "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
     "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"},
};

static void x25519_gives_the_rfc_answers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof agreements / sizeof agreements[0]; i++) {
        uint8_t private[32], peer[32], shared[32], out[32];
        from_hex(agreements[i].private, private);
        from_hex(agreements[i].peer, peer);
        from_hex(agreements[i].shared, shared);
        assert_ok(x25519_shared(&crypto, private, peer, out));
        assert_memory_equal(out, shared, sizeof out);
    }
}

/* Every encoding of a point whose order divides the cofactor, as libraries of this field list them. */
static const char *const small_order[] = {
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
};

static void x25519_refuses_every_share_of_small_order(void **state)
{
    (void)state;
    static const uint8_t zeros[32];
    struct x25519_key key;
    assert_ok(x25519_generate(&crypto, &key));
    for (size_t i = 0; i < sizeof small_order / sizeof small_order[0]; i++) {
        uint8_t peer[32], out[32];
        from_hex(small_order[i], peer);
        memset(out, 1, sizeof out);
        assert_err(x25519_shared(&crypto, key.private, peer, out), AUTHENTICATION);
        assert_memory_equal(out, zeros, sizeof out);
    }
}

static void generated_x25519_keys_agree_and_differ(void **state)
{
    (void)state;
    struct x25519_key a, b;
    uint8_t ab[32], ba[32];
    assert_ok(x25519_generate(&crypto, &a));
    assert_ok(x25519_generate(&crypto, &b));
    assert_memory_not_equal(a.private, b.private, 32);
    assert_ok(x25519_shared(&crypto, a.private, b.public, ab));
    assert_ok(x25519_shared(&crypto, b.private, a.public, ba));
    assert_memory_equal(ab, ba, 32);
}

struct signature {
    const char *private, *public, *message, *signature;
};

/* RFC 8032, 7.1, tests 1 to 3 */
static const struct signature signatures[] = {
    {"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
     "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
     "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
     "655141438e7a100b"},
    {"4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
     "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
     "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee"
     "b00d291612bb0c00"},
    {"c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
     "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
     "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28d"
     "c027beceea1ec40a"},
};

static void ed25519_gives_the_rfc_answers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof signatures / sizeof signatures[0]; i++) {
        struct ed25519_key key;
        uint8_t message[2], expected[64], out[64];
        from_hex(signatures[i].private, key.private);
        from_hex(signatures[i].public, key.public);
        struct span text = from_hex(signatures[i].message, message);
        from_hex(signatures[i].signature, expected);
        assert_ok(ed25519_sign(&crypto, &key, text, out));
        assert_memory_equal(out, expected, sizeof out);
        assert_ok(ed25519_verify(&crypto, key.public, text, expected));
    }
}

static void ed25519_refuses_what_was_not_signed(void **state)
{
    (void)state;
    struct ed25519_key key, other;
    uint8_t signature[64];
    assert_ok(ed25519_generate(&crypto, &key));
    assert_ok(ed25519_generate(&crypto, &other));
    assert_ok(ed25519_sign(&crypto, &key, span_of("receipt", 7), signature));
    assert_ok(ed25519_verify(&crypto, key.public, span_of("receipt", 7), signature));
    assert_err(ed25519_verify(&crypto, other.public, span_of("receipt", 7), signature), AUTHENTICATION);
    assert_err(ed25519_verify(&crypto, key.public, span_of("receipT", 7), signature), AUTHENTICATION);
    for (size_t i = 0; i < sizeof signature; i++) {
        signature[i] ^= 1;
        assert_err(ed25519_verify(&crypto, key.public, span_of("receipt", 7), signature), AUTHENTICATION);
        signature[i] ^= 1;
    }
}

static int init(void **state)
{
    (void)state;
    return crypto_init(&crypto).code;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(x25519_gives_the_rfc_answers),
        cmocka_unit_test(x25519_refuses_every_share_of_small_order),
        cmocka_unit_test(generated_x25519_keys_agree_and_differ),
        cmocka_unit_test(ed25519_gives_the_rfc_answers),
        cmocka_unit_test(ed25519_refuses_what_was_not_signed),
    };
    return cmocka_run_group_tests_name("curve", tests, init, NULL);
}
