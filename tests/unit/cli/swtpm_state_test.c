/* swtpm's state file: read as swtpm writes it, and refused wherever one bit of it is another. */
#include "tests/fakes/assertions.h"

#include <string.h>

#include <openssl/evp.h>

#include "base/bytes.h"
#include "crypto/hash.h"
#include "untrusted/cli/swtpm_state.h"

static struct crypto crypto;
static struct explanation why;
static const uint8_t state_bytes[] = "\0\3\xab\x36\x47\x23\0\1 and what libtpms writes behind it";
static const uint8_t key[SWTPM_KEY_MAX] = "a key of 32 bytes, or half of it";

static uint8_t file[1024];
static size_t file_size;

static void put_field(struct writer *w, uint16_t tag, const uint8_t *bytes, size_t size)
{
    assert_ok(write_be16(w, tag));
    assert_ok(write_be32(w, (uint32_t)size));
    assert_ok(write_bytes(w, bytes, size));
}

static struct writer begin_file(uint16_t flags)
{
    struct writer w = writer_of(file, sizeof file);
    assert_ok(write_u8(&w, 2));
    assert_ok(write_u8(&w, 1));
    assert_ok(write_be16(&w, 10));
    assert_ok(write_be16(&w, flags));
    assert_ok(write_be32(&w, 0));
    return w;
}

static void end_file(const struct writer *w)
{
    struct writer size = writer_of(file + 6, 4);
    assert_ok(write_be32(&size, (uint32_t)w->size));
    file_size = w->size;
}

static void make_plain(void)
{
    struct writer w = begin_file(0);
    put_field(&w, 1, state_bytes, sizeof state_bytes);
    end_file(&w);
}

static void make_encrypted(size_t key_size)
{
    static const uint8_t iv[32] = "as long as the key; AES takes 16";
    uint8_t text[128], cipher[128], mac[SHA256_SIZE];
    size_t padding = key_size - sizeof state_bytes % key_size;
    size_t size = sizeof state_bytes + padding;
    int done = 0;
    memcpy(text, state_bytes, sizeof state_bytes);
    memset(text + sizeof state_bytes, (int)padding, padding);
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    assert_int_equal(EVP_EncryptInit_ex(context, key_size == 32 ? EVP_aes_256_cbc() : EVP_aes_128_cbc(), NULL, key, iv),
                     1);
    assert_int_equal(EVP_CIPHER_CTX_set_padding(context, 0), 1);
    assert_int_equal(EVP_EncryptUpdate(context, cipher, &done, text, (int)size), 1);
    EVP_CIPHER_CTX_free(context);
    const struct span parts[] = {span_of(cipher, size), span_of(iv, key_size)};
    assert_ok(hmac_sha256(&crypto, span_of(key, key_size), parts, 2, mac));
    struct writer w = begin_file(key_size == 32 ? 9 : 1);
    put_field(&w, 2, cipher, size);
    put_field(&w, 3, mac, sizeof mac);
    put_field(&w, 6, iv, key_size);
    end_file(&w);
}

/* What vtpmctl does with a file: the state in out, or why not. */
static struct err open_with(const uint8_t *with, uint8_t out[1024], size_t *out_size)
{
    struct swtpm_file parsed;
    TRY(swtpm_file_parse("the file", span_of(file, file_size), &parsed, &why));
    if (!parsed.mac.size) {
        memcpy(out, parsed.state.data, parsed.state.size);
        *out_size = parsed.state.size;
    } else {
        TRY(swtpm_file_decrypt(&crypto, &parsed, with, out, out_size));
    }
    ENSURE(swtpm_is_permanent_state(span_of(out, *out_size)), BAD_VALUE);
    return OK;
}

static struct err open_file(void)
{
    uint8_t out[1024];
    size_t size = 0;
    TRY(open_with(key, out, &size));
    assert_int_equal(size, sizeof state_bytes);
    return OK;
}

static void each_form_is_read(void **state)
{
    (void)state;
    uint8_t out[1024];
    size_t size = 0;
    make_plain();
    assert_ok(open_with(NULL, out, &size));
    assert_int_equal(size, sizeof state_bytes);
    assert_memory_equal(out, state_bytes, size);
    for (size_t key_size = 16; key_size <= 32; key_size += 16) {
        memset(out, 0, sizeof out);
        make_encrypted(key_size);
        assert_ok(open_with(key, out, &size));
        assert_int_equal(size, sizeof state_bytes);
        assert_memory_equal(out, state_bytes, size);
    }
}

static void each_bit_of_an_encrypted_file_counts(void **state)
{
    (void)state;
    for (size_t key_size = 16; key_size <= 32; key_size += 16) {
        make_encrypted(key_size);
        for (size_t bit = 0; bit < 8 * file_size; bit++) {
            file[bit / 8] ^= (uint8_t)(1u << bit % 8);
            assert_int_not_equal(open_file().code, ERR_NONE);
            file[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        assert_ok(open_file());
    }
}

/* Behind the magic number a plain file vouches for nothing. */
static void each_bit_before_a_plain_state_counts(void **state)
{
    (void)state;
    make_plain();
    for (size_t bit = 0; bit < 8 * 16; bit++) {
        file[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_not_equal(open_file().code, ERR_NONE);
        file[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t bit = 8 * 18; bit < 8 * 22; bit++) {
        file[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_err(open_file(), BAD_VALUE);
        file[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_ok(open_file());
}

static void a_file_of_another_size_is_refused(void **state)
{
    (void)state;
    make_encrypted(16);
    const size_t whole = file_size;
    for (file_size = 0; file_size < whole; file_size++) {
        assert_err(open_file(), BAD_VALUE);
        struct writer size = writer_of(file + 6, 4); /* and if it says so itself */
        assert_ok(write_be32(&size, (uint32_t)file_size));
        assert_int_not_equal(open_file().code, ERR_NONE);
        size = writer_of(file + 6, 4);
        assert_ok(write_be32(&size, (uint32_t)whole));
    }
    file_size = whole + 1;
    assert_err(open_file(), BAD_VALUE);
}

static void fields_that_do_not_belong_there_are_refused(void **state)
{
    (void)state;
    static const uint8_t bytes[64] = {0};
    struct writer w = begin_file(0);
    end_file(&w);
    assert_err(open_file(), BAD_VALUE); /* none */
    w = begin_file(0);
    put_field(&w, 1, state_bytes, sizeof state_bytes);
    put_field(&w, 1, state_bytes, sizeof state_bytes);
    end_file(&w);
    assert_err(open_file(), BAD_VALUE);
    w = begin_file(0);
    put_field(&w, 1, state_bytes, sizeof state_bytes);
    put_field(&w, 6, bytes, 16);
    end_file(&w);
    assert_err(open_file(), BAD_VALUE);
    w = begin_file(4); /* a blob of the control channel */
    put_field(&w, 4, bytes, 64);
    end_file(&w);
    assert_err(open_file(), BAD_VALUE);
    const size_t sizes[][3] = {{15, 32, 16}, {16, 31, 16}, {16, 32, 15}, {0, 32, 16}, {16, 0, 16}, {16, 32, 32}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        w = begin_file(1);
        put_field(&w, 2, bytes, sizes[i][0]);
        put_field(&w, 3, bytes, sizes[i][1]);
        put_field(&w, 6, bytes, sizes[i][2]);
        end_file(&w);
        assert_err(open_file(), BAD_VALUE);
    }
}

static void another_key_is_not_let_near_the_state(void **state)
{
    (void)state;
    uint8_t out[1024] = {0};
    uint8_t other[SWTPM_KEY_MAX];
    static const uint8_t zeros[sizeof out];
    size_t size = 0;
    memcpy(other, key, sizeof other);
    other[0] ^= 1;
    make_encrypted(32);
    assert_err(open_with(other, out, &size), AUTHENTICATION);
    assert_memory_equal(out, zeros, sizeof out);
}

static uint16_t make_key(enum swtpm_key_source source, const char *secret, size_t size, uint8_t out[SWTPM_KEY_MAX])
{
    memset(out, 0xee, SWTPM_KEY_MAX);
    return swtpm_key_make("the key", source, span_of(secret, strlen(secret)), size, out, &why).code;
}

/* The derived ones are what hashlib says. */
static void keys_are_made_as_swtpm_makes_them(void **state)
{
    (void)state;
    static const uint8_t from_hex[16] = {0x00, 0x01, 0x02, 0xab, 0xcd, 0xef, 0xAB, 0xCD, 8, 9, 10, 11, 12, 13, 14, 15};
    static const uint8_t pbkdf2[32] = {0x92, 0xbb, 0x9e, 0xf4, 0xea, 0x65, 0x46, 0x97, 0xa6, 0x5e, 0x16,
                                       0x89, 0xd0, 0xa0, 0x18, 0x5b, 0x4e, 0x7f, 0x7e, 0x2b, 0x31, 0x73,
                                       0x63, 0x32, 0x77, 0xe1, 0x40, 0x8c, 0x93, 0xd8, 0x38, 0x26};
    static const uint8_t sha512[32] = {0xea, 0xa1, 0x6b, 0x9c, 0xed, 0x0b, 0x5c, 0x6e, 0xce, 0x7a, 0xae,
                                       0x07, 0xcb, 0x47, 0xc6, 0x71, 0xe8, 0xc8, 0xf0, 0x3b, 0xfe, 0x80,
                                       0x7f, 0x94, 0x18, 0x09, 0x47, 0x7a, 0x84, 0x73, 0x37, 0xaf};
    uint8_t out[SWTPM_KEY_MAX];
    assert_int_equal(make_key(SWTPM_KEY_HEX, "000102abcdefABCD08090a0b0c0d0e0f", 16, out), ERR_NONE);
    assert_memory_equal(out, from_hex, 16);
    assert_int_equal(make_key(SWTPM_KEY_HEX, "0x000102abcdefABCD08090a0b0c0d0e0f\n", 16, out), ERR_NONE);
    assert_memory_equal(out, from_hex, 16);
    assert_int_equal(make_key(SWTPM_KEY_BINARY, "sixteen bytes...", 16, out), ERR_NONE);
    assert_memory_equal(out, "sixteen bytes...", 16);
    assert_int_equal(make_key(SWTPM_PASSWORD_PBKDF2, "secret\n", 32, out), ERR_NONE);
    assert_memory_equal(out, pbkdf2, 32);
    assert_int_equal(make_key(SWTPM_PASSWORD_SHA512, "secret\n", 32, out), ERR_NONE);
    assert_memory_equal(out, sha512, 32);
}

static void secrets_of_another_form_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "0x",
                                      "000102abcdefABCD08090a0b0c0d0e0",
                                      "000102abcdefABCD08090a0b0c0d0e0g",
                                      "000102abcdefABCD08090a0b0c0d0e0f0",
                                      " 000102abcdefABCD08090a0b0c0d0e0f",
                                      "0x0x0102abcdefABCD08090a0b0c0d0e0f",
                                      "+00102abcdefABCD08090a0b0c0d0e0f"};
    uint8_t out[SWTPM_KEY_MAX];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(make_key(SWTPM_KEY_HEX, bad[i], 16, out), ERR_BAD_VALUE);
    assert_int_equal(make_key(SWTPM_KEY_BINARY, "fifteen bytes..", 16, out), ERR_BAD_VALUE);
    assert_int_equal(make_key(SWTPM_KEY_BINARY, "seventeen bytes..", 16, out), ERR_BAD_VALUE);
    assert_int_equal(make_key(SWTPM_PASSWORD_PBKDF2, "", 16, out), ERR_BAD_VALUE);
    assert_int_equal(make_key(SWTPM_PASSWORD_SHA512, "", 16, out), ERR_BAD_VALUE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_form_is_read),
        cmocka_unit_test(each_bit_of_an_encrypted_file_counts),
        cmocka_unit_test(each_bit_before_a_plain_state_counts),
        cmocka_unit_test(a_file_of_another_size_is_refused),
        cmocka_unit_test(fields_that_do_not_belong_there_are_refused),
        cmocka_unit_test(another_key_is_not_let_near_the_state),
        cmocka_unit_test(keys_are_made_as_swtpm_makes_them),
        cmocka_unit_test(secrets_of_another_form_are_refused),
    };
    assert_ok(crypto_init(&crypto));
    return cmocka_run_group_tests_name("swtpm_state", tests, NULL, NULL);
}
