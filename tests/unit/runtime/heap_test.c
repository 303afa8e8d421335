/* The enclave's heap, run as an ordinary program over a section of its own. A panic comes back as a value. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "trusted/runtime/entropy.h"
#include "trusted/runtime/heap.h"
#include "trusted/runtime/layout.h"
#include "trusted/runtime/panic.h"

#define ARENA (1024 * 1024)

__asm__(".pushsection .bss\n.balign 4096\n.hidden enclave_heap\n.globl enclave_heap\nenclave_heap:\n.skip 1048576\n"
        ".hidden enclave_heap_end\n.globl enclave_heap_end\nenclave_heap_end:\n.popsection\n");

static jmp_buf panicked;
static enum panic_event last_panic;

_Noreturn void panic(enum panic_event event)
{
    last_panic = event;
    longjmp(panicked, 1);
}

void entropy_fill(void *out, size_t size)
{
    memset(out, 0xA7, size);
}

#define PANIC_OF(statement) (last_panic = 0, setjmp(panicked) == 0 ? ((void)(statement), (void)0) : (void)0, last_panic)

static bool all_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (bytes[i]) return false;
    }
    return true;
}

static void allocations_are_aligned_zero_and_disjoint(void **state)
{
    (void)state;
    uint8_t *blocks[200];
    for (size_t i = 0; i < 200; i++) {
        blocks[i] = heap_allocate(i * 7);
        assert_non_null(blocks[i]);
        assert_int_equal((uintptr_t)blocks[i] % 16, 0);
        assert_true(all_zero(blocks[i], i * 7));
        memset(blocks[i], (int)i, i * 7);
    }
    for (size_t i = 0; i < 200; i++) {
        for (size_t k = 0; k < i * 7; k++)
            assert_int_equal(blocks[i][k], (uint8_t)i);
        assert_int_equal(heap_size(blocks[i]), i * 7);
        heap_free(blocks[i]);
    }
}

static void what_the_host_put_into_fresh_pages_is_gone(void **state)
{
    (void)state;
    memset(enclave_heap + ARENA / 2, 0xEE, ARENA / 2);
    uint8_t *block = heap_allocate(ARENA - 8192);
    assert_non_null(block);
    assert_true(all_zero(block, ARENA - 8192));
    heap_free(block);
}

static void freed_memory_is_wiped(void **state)
{
    (void)state;
    uint8_t *block = heap_allocate(1000);
    uint8_t *keeps_it_from_the_top = heap_allocate(16);
    memset(block, 0x5A, 1000);
    heap_free(block);
    for (size_t i = 16; i < 1000; i++) /* the first 16 bytes link the free block */
        assert_int_equal(block[i], 0);
    heap_free(keeps_it_from_the_top);
}

static void the_bound_is_hard(void **state)
{
    (void)state;
    assert_null(heap_allocate(ARENA));
    assert_null(heap_allocate(SIZE_MAX));
    assert_null(heap_allocate(SIZE_MAX - 8));
    uint8_t *block = heap_allocate(ARENA - 4096);
    assert_non_null(block);
    assert_null(heap_allocate(8192));
    heap_free(block);
}

static void everything_freed_can_be_one_block_again(void **state)
{
    (void)state;
    void *blocks[500];
    for (size_t i = 0; i < 500; i++)
        blocks[i] = heap_allocate(1 + i % 97 * 13);
    for (size_t i = 0; i < 500; i += 2)
        heap_free(blocks[i]);
    for (size_t i = 1; i < 500; i += 2)
        heap_free(blocks[i]);
    void *all = heap_allocate(ARENA - 4096);
    assert_non_null(all);
    heap_free(all);
}

static void a_double_free_panics(void **state)
{
    (void)state;
    void *block = heap_allocate(100);
    void *other = heap_allocate(100);
    heap_free(block);
    assert_int_equal(PANIC_OF(heap_free(block)), PANIC_HEAP_FREE);
    heap_free(other);
    assert_int_equal(PANIC_OF(heap_free(other)), PANIC_HEAP_FREE);
}

static void freeing_what_the_heap_never_gave_panics(void **state)
{
    (void)state;
    static uint8_t foreign[64] __attribute__((aligned(16)));
    uint8_t *block = heap_allocate(100);
    memset(block, 0, 100);
    assert_int_equal(PANIC_OF(heap_free(foreign)), PANIC_HEAP_FREE);
    assert_int_equal(PANIC_OF(heap_free(block + 16)), PANIC_HEAP_FREE);
    assert_int_equal(PANIC_OF(heap_free(block + 1)), PANIC_HEAP_FREE);
    heap_free(block);
}

static void overrun_panics(size_t size, size_t overrun)
{
    uint8_t *block = heap_allocate(size);
    uint8_t *behind = heap_allocate(64);
    uint8_t saved[40];
    memcpy(saved, block + size, overrun);
    for (size_t i = 0; i < overrun; i++)
        block[size + i] ^= 0x41;
    assert_int_not_equal(PANIC_OF(heap_free(block)), 0);
    memcpy(block + size, saved, overrun);
    heap_free(block);
    heap_free(behind);
}

/* Damage of every length is found; what a test broke it mends, so the next one has a whole heap. */
static void an_overrun_of_any_length_panics(void **state)
{
    (void)state;
    for (size_t size = 0; size < 64; size++) {
        for (size_t overrun = 1; overrun <= 40; overrun += 3) {
            overrun_panics(size, overrun);
        }
    }
}

static void a_damaged_free_list_panics(void **state)
{
    (void)state;
    uint8_t *block = heap_allocate(100);
    void *wall = heap_allocate(16);
    heap_free(block);
    uint8_t saved[16];
    memcpy(saved, block, sizeof saved);
    memset(block + 8, 0x41, 8); /* the link to the block before it */
    assert_int_equal(PANIC_OF(heap_allocate(100)), PANIC_HEAP_OVERRUN);
    memcpy(block, saved, sizeof saved);
    heap_free(wall);
}

static void a_long_random_life_keeps_every_byte(void **state)
{
    (void)state;
    enum { SLOTS = 64 };
    struct {
        uint8_t *block;
        size_t size;
        uint8_t fill;
    } slots[SLOTS] = {0};
    srand(20250101);
    for (int step = 0; step < 200000; step++) {
        size_t i = (size_t)rand() % SLOTS;
        if (slots[i].block) {
            for (size_t k = 0; k < slots[i].size; k++)
                assert_int_equal(slots[i].block[k], slots[i].fill);
            heap_free(slots[i].block);
            slots[i].block = NULL;
            continue;
        }
        slots[i].size = (size_t)rand() % (step % 16 == 0 ? 9000 : 300);
        slots[i].fill = (uint8_t)rand();
        slots[i].block = heap_allocate(slots[i].size);
        assert_non_null(slots[i].block);
        assert_true(all_zero(slots[i].block, slots[i].size));
        memset(slots[i].block, slots[i].fill, slots[i].size);
    }
    for (size_t i = 0; i < SLOTS; i++)
        heap_free(slots[i].block);
    void *all = heap_allocate(ARENA - 4096);
    assert_non_null(all);
    heap_free(all);
}

static void wiping_leaves_nothing(void **state)
{
    (void)state;
    uint8_t *block = heap_allocate(5000);
    memset(block, 0x77, 5000);
    heap_wipe();
    assert_true(all_zero(enclave_heap, ARENA));
    assert_null(heap_allocate(1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocations_are_aligned_zero_and_disjoint),
        cmocka_unit_test(what_the_host_put_into_fresh_pages_is_gone),
        cmocka_unit_test(freed_memory_is_wiped),
        cmocka_unit_test(the_bound_is_hard),
        cmocka_unit_test(everything_freed_can_be_one_block_again),
        cmocka_unit_test(a_double_free_panics),
        cmocka_unit_test(freeing_what_the_heap_never_gave_panics),
        cmocka_unit_test(an_overrun_of_any_length_panics),
        cmocka_unit_test(a_damaged_free_list_panics),
        cmocka_unit_test(a_long_random_life_keeps_every_byte),
        cmocka_unit_test(wiping_leaves_nothing), /* last: the heap is gone then */
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
