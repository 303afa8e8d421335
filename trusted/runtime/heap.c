#include "trusted/runtime/heap.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/memory.h"
#include "trusted/runtime/entropy.h"
#include "trusted/runtime/layout.h"
#include "trusted/runtime/panic.h"

/*
 *   chunk   +0  u32 units      size of the payload in units of 16 bytes
 *           +4  u32 units_before   the same of the chunk before, 0 for the first
 *           +8  u64 mark       key ^ address ^ the two words above ^ whether it is used
 *          +16  payload        the block; behind its last byte a guard of 8 bytes, behind that how
 *                              many bytes are slack (u8 at the payload's very end)
 *
 * Free chunks hang in lists by size, doubly linked through the first 16 bytes of their payload; the rest of a free
 * payload is zero. Behind the last chunk ("top") nothing was handed out, and no page behind "fresh" was ever touched.
 */
struct chunk {
    uint32_t units;
    uint32_t units_before;
    uint64_t mark;
};

struct link {
    struct chunk *next;
    struct chunk *previous;
};

#define UNIT       16u
#define HEADER     sizeof(struct chunk)
#define GUARD_SIZE 8u
#define TAIL_SIZE  (GUARD_SIZE + 1u)
#define EXACT_BINS 64u                /* bin n holds payloads of n + 1 units */
#define BIN_COUNT  (EXACT_BINS + 16u) /* then one bin for each power of two */
#define MARK_FREE  UINT64_C(0x5ca1ab1e0ddba115)
#define MARK_USED  UINT64_C(0x0defaced0c0ffee5)
#define PAGE       4096u

_Static_assert(sizeof(struct chunk) == UNIT, "payloads stay aligned");
_Static_assert(sizeof(struct link) <= UNIT, "the smallest payload holds the link");

static uint64_t key; /* 0 until the first allocation */
static uint8_t *top;
static uint8_t *fresh;
static uint32_t top_units_before;
static struct chunk *bins[BIN_COUNT];
static uint64_t occupied[(BIN_COUNT + 63) / 64]; /* one bit for each bin that is not empty */

static uint8_t *payload(struct chunk *c)
{
    return (uint8_t *)c + HEADER;
}

static size_t payload_size(const struct chunk *c)
{
    return (size_t)c->units * UNIT;
}

static uint64_t mark_of(const struct chunk *c, uint64_t state)
{
    return key ^ state ^ (uintptr_t)c ^ ((uint64_t)c->units_before << 32 | c->units);
}

static struct chunk *chunk_after(struct chunk *c)
{
    return (struct chunk *)(payload(c) + payload_size(c));
}

static struct chunk *chunk_before(struct chunk *c)
{
    return (struct chunk *)((uint8_t *)c - HEADER - (size_t)c->units_before * UNIT);
}

static bool is_top(const struct chunk *c)
{
    return (const uint8_t *)c == top;
}

static bool is_free(const struct chunk *c)
{
    if (c->mark == mark_of(c, MARK_FREE)) return true;
    if (c->mark != mark_of(c, MARK_USED)) panic(PANIC_HEAP_OVERRUN);
    return false;
}

static void set_units_before(struct chunk *after, uint32_t units)
{
    if (is_top(after)) {
        top_units_before = units;
        return;
    }
    uint64_t state = is_free(after) ? MARK_FREE : MARK_USED;
    after->units_before = units;
    after->mark = mark_of(after, state);
}

static unsigned bin_of(uint32_t units)
{
    if (units <= EXACT_BINS) return units - 1;
    unsigned power = 31u - (unsigned)__builtin_clz(units); /* EXACT_BINS is 1 << 6 */
    unsigned bin = EXACT_BINS + power - 6u;
    return bin < BIN_COUNT ? bin : BIN_COUNT - 1;
}

/* A link that was overwritten is not followed out of the heap. */
static struct link *link_of(struct chunk *c)
{
    const uint8_t *place = (const uint8_t *)c;
    if (place < enclave_heap || place >= top || (uintptr_t)c % UNIT) panic(PANIC_HEAP_OVERRUN);
    return (struct link *)payload(c);
}

static void bin_insert(struct chunk *c)
{
    unsigned bin = bin_of(c->units);
    struct chunk **head = &bins[bin];
    occupied[bin / 64] |= UINT64_C(1) << bin % 64;
    *link_of(c) = (struct link){.next = *head, .previous = NULL};
    if (*head) link_of(*head)->previous = c;
    *head = c;
}

static void bin_remove(struct chunk *c)
{
    struct link *l = link_of(c);
    unsigned bin = bin_of(c->units);
    struct chunk **head = &bins[bin];
    bool consistent =
        (l->previous ? link_of(l->previous)->next == c : *head == c) && (!l->next || link_of(l->next)->previous == c);
    if (!consistent) panic(PANIC_HEAP_OVERRUN);
    if (l->previous)
        link_of(l->previous)->next = l->next;
    else
        *head = l->next;
    if (l->next) link_of(l->next)->previous = l->previous;
    memset(l, 0, sizeof *l);
    if (!*head) occupied[bin / 64] &= ~(UINT64_C(1) << bin % 64);
}

/* The first bin from bin on that is not empty, or BIN_COUNT. */
static unsigned bin_occupied(unsigned bin)
{
    for (unsigned word = bin / 64; word < sizeof occupied / sizeof occupied[0]; word++) {
        uint64_t bits = occupied[word];
        if (word == bin / 64) bits &= UINT64_MAX << bin % 64;
        if (bits) return word * 64 + (unsigned)__builtin_ctzll(bits);
    }
    return BIN_COUNT;
}

static struct chunk *bin_find(uint32_t units)
{
    for (unsigned bin = bin_occupied(bin_of(units)); bin < BIN_COUNT; bin = bin_occupied(bin + 1)) {
        for (struct chunk *c = bins[bin]; c; c = link_of(c)->next) {
            if (!is_free(c)) panic(PANIC_HEAP_OVERRUN);
            if (c->units >= units) return c;
        }
    }
    return NULL;
}

/* Gives what c has beyond units back as a free chunk. c is in no bin. */
static void split(struct chunk *c, uint32_t units)
{
    uint32_t rest = c->units - units;
    if (rest < 2) return; /* a header and one unit */
    struct chunk *after = chunk_after(c);
    c->units = units;
    struct chunk *remainder = chunk_after(c);
    remainder->units = rest - 1;
    remainder->units_before = units;
    remainder->mark = mark_of(remainder, MARK_FREE);
    set_units_before(after, remainder->units);
    bin_insert(remainder);
}

static struct chunk *extend(uint32_t units)
{
    size_t size = HEADER + (size_t)units * UNIT;
    if (size > (size_t)(enclave_heap_end - top)) return NULL;
    uint8_t *end = top + size;
    if (end > fresh) { /* these pages were not measured: whatever the host put there goes */
        size_t pages = ((size_t)(end - fresh) + PAGE - 1) / PAGE * PAGE;
        memset(fresh, 0, pages);
        fresh += pages;
    }
    struct chunk *c = (struct chunk *)top;
    c->units = units;
    c->units_before = top_units_before;
    top = end;
    top_units_before = units;
    return c;
}

static void heap_start(void)
{
    top = enclave_heap;
    fresh = enclave_heap;
    entropy_fill(&key, sizeof key);
}

static uint64_t guard_of(const uint8_t *place)
{
    return key ^ (uintptr_t)place ^ MARK_USED;
}

static uint8_t *tail_of(struct chunk *c)
{
    uint8_t *last = payload(c) + payload_size(c) - 1;
    uint8_t slack = *last;
    if (slack < TAIL_SIZE || slack > payload_size(c)) panic(PANIC_HEAP_OVERRUN);
    return payload(c) + payload_size(c) - slack;
}

void *heap_allocate(size_t size)
{
    if (!key) heap_start();
    if (size > (size_t)(enclave_heap_end - enclave_heap)) return NULL;
    uint32_t units = (uint32_t)((size + TAIL_SIZE + UNIT - 1) / UNIT);
    struct chunk *c = bin_find(units);
    if (c) {
        bin_remove(c);
        split(c, units);
    } else {
        c = extend(units);
        if (!c) return NULL;
    }
    c->mark = mark_of(c, MARK_USED);

    uint8_t *tail = payload(c) + size;
    uint64_t guard = guard_of(tail);
    memcpy(tail, &guard, sizeof guard);
    payload(c)[payload_size(c) - 1] = (uint8_t)(payload_size(c) - size);
    return payload(c);
}

static struct chunk *used_chunk(const void *memory)
{
    const uint8_t *place = memory;
    if (!key || place < enclave_heap + HEADER || place >= top || (uintptr_t)place % UNIT) panic(PANIC_HEAP_FREE);
    struct chunk *c = (struct chunk *)(uintptr_t)(place - HEADER);
    if (c->mark != mark_of(c, MARK_USED)) panic(PANIC_HEAP_FREE);
    uint8_t *tail = tail_of(c);
    uint64_t guard = guard_of(tail);
    if (memcmp(tail, &guard, sizeof guard) != 0) panic(PANIC_HEAP_OVERRUN);
    return c;
}

size_t heap_size(const void *memory)
{
    struct chunk *c = used_chunk(memory);
    return (size_t)(tail_of(c) - payload(c));
}

/* Makes c, which is free and in no bin, one with the free chunk behind it. */
static struct chunk *absorb(struct chunk *c, struct chunk *after)
{
    uint32_t units = c->units + 1 + after->units;
    memset(after, 0, sizeof *after);
    c->units = units;
    return c;
}

void heap_free(void *memory)
{
    if (!memory) return;
    struct chunk *c = used_chunk(memory);
    wipe(payload(c), payload_size(c));
    c->mark = mark_of(c, MARK_FREE);

    struct chunk *after = chunk_after(c);
    if (!is_top(after) && is_free(after)) {
        bin_remove(after);
        c = absorb(c, after);
    }
    if (c->units_before) {
        struct chunk *before = chunk_before(c);
        if (is_free(before)) {
            bin_remove(before);
            c = absorb(before, c);
        }
    }
    if (is_top(chunk_after(c))) {
        top = (uint8_t *)c;
        top_units_before = c->units_before;
        memset(c, 0, sizeof *c);
        return;
    }
    c->mark = mark_of(c, MARK_FREE);
    set_units_before(chunk_after(c), c->units);
    bin_insert(c);
}

void heap_wipe(void)
{
    if (key) wipe(enclave_heap, (size_t)(fresh - enclave_heap));
    top = enclave_heap_end; /* nothing is handed out any more */
}
