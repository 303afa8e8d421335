#include "tests/fakes/assertions.h"

#include <openssl/crypto.h>
#include <string.h>

#include "crypto/aead.h"
#include "crypto/curve.h"
#include "link/link.h"
#include "untrusted/host/secret_heap.h"

static struct crypto crypto;

static int open_once(void **state)
{
    (void)state;
    /* Ordinary memory: what is tested is where things lie, and not every kernel has the other kind. */
    assert_int_equal(secret_heap_open(true).code, ERR_NONE);
    assert_int_equal(crypto_init(&crypto).code, ERR_NONE);
    return 0;
}

static void open_link(struct link *out)
{
    struct x25519_key own, peer;
    const struct link_binding binding = {.kind = LINK_K1};
    assert_int_equal(x25519_generate(&crypto, &peer).code, ERR_NONE);
    secret_heap_begin();
    assert_int_equal(x25519_generate(&crypto, &own).code, ERR_NONE);
    const struct link_keys keys = {.own = &own, .peer = peer.public};
    assert_int_equal(link_open(&crypto, LINK_HOST, &binding, &keys, out).code, ERR_NONE);
    secret_heap_end();
}

static void the_key_schedules_of_a_link_lie_in_the_secret_heap(void **state)
{
    (void)state;
    struct link link = {0};
    open_link(&link);
    assert_true(secret_heap_owns(link.records.seal.ctx));
    assert_true(secret_heap_owns(link.records.opener.ctx));
    link_close(&link);
}

static void what_is_allocated_at_other_times_does_not(void **state)
{
    (void)state;
    void *memory = OPENSSL_malloc(64);
    assert_non_null(memory);
    assert_false(secret_heap_owns(memory));
    OPENSSL_free(memory);
}

static void links_that_come_and_go_use_the_same_memory_again(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2000; i++) {
        struct link link = {0};
        open_link(&link);
        link_close(&link);
    }
}

static void a_freed_block_is_wiped(void **state)
{
    (void)state;
    secret_heap_begin();
    uint8_t *memory = OPENSSL_malloc(256);
    secret_heap_end();
    assert_non_null(memory);
    memset(memory, 0x5A, 256);
    OPENSSL_free(memory);
    for (size_t i = 0; i < 256; i++)
        assert_int_equal(memory[i], 0);
}

static void what_grows_stays_secret_and_keeps_its_bytes(void **state)
{
    (void)state;
    secret_heap_begin();
    uint8_t *memory = OPENSSL_malloc(32);
    secret_heap_end();
    memset(memory, 0xA5, 32);
    memory = OPENSSL_realloc(memory, 4096);
    assert_true(secret_heap_owns(memory));
    for (size_t i = 0; i < 32; i++)
        assert_int_equal(memory[i], 0xA5);
    OPENSSL_free(memory);
}

static void a_full_heap_fails_and_goes_on(void **state)
{
    (void)state;
    void *blocks[64];
    size_t count = 0;
    secret_heap_begin();
    while (count < 64 && (blocks[count] = OPENSSL_malloc(1000)))
        count++;
    assert_null(OPENSSL_malloc(1024 * 1024));
    secret_heap_end();
    assert_in_range(count, 20, 40);
    for (size_t i = 0; i < count; i++)
        OPENSSL_free(blocks[i]);
    struct link link = {0};
    open_link(&link);
    link_close(&link);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_key_schedules_of_a_link_lie_in_the_secret_heap),
        cmocka_unit_test(what_is_allocated_at_other_times_does_not),
        cmocka_unit_test(links_that_come_and_go_use_the_same_memory_again),
        cmocka_unit_test(a_freed_block_is_wiped),
        cmocka_unit_test(what_grows_stays_secret_and_keeps_its_bytes),
        cmocka_unit_test(a_full_heap_fails_and_goes_on),
    };
    return cmocka_run_group_tests_name("secret_heap", tests, open_once, NULL);
}
