#include "untrusted/host/secret_heap.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

#include "base/memory.h"
#include "untrusted/host/secret_memory.h"

#define HEAP_SIZE (32u * 1024u) /* one link takes about 4 KiB */
#define ALIGNMENT 16u

/* Blocks lie one behind the other from the first to the last byte of the heap. */
struct block {
    size_t size; /* bytes, without this header, a multiple of ALIGNMENT; 0 only where nothing was ever allocated */
    bool used;
} __attribute__((aligned(ALIGNMENT)));

static struct secret_memory heap;
static bool secret;

static struct block *first(void)
{
    return heap.data;
}

static struct block *next(struct block *block)
{
    return (void *)((uint8_t *)(block + 1) + block->size);
}

/* Bytes behind the header of a block up to the end of the heap. */
static size_t room(const struct block *block)
{
    const uint8_t *end = (const uint8_t *)heap.data + heap.size;
    const uint8_t *start = (const uint8_t *)block;
    return (size_t)(end - start) > sizeof *block ? (size_t)(end - start) - sizeof *block : 0;
}

/* Free blocks that lie beside each other become one; the untouched rest is no block. */
static void merge(struct block *block)
{
    while (room(next(block)) && next(block)->size && !next(block)->used)
        block->size += sizeof *block + next(block)->size;
}

static void split(struct block *block, size_t size)
{
    if (block->size < size + 2 * sizeof *block) return;
    struct block *rest = (void *)((uint8_t *)(block + 1) + size);
    *rest = (struct block){.size = block->size - size - sizeof *block};
    block->size = size;
}

static void *allocate_secret(size_t size)
{
    if (size > heap.size) return NULL;
    size = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    struct block *block = first();
    for (; room(block) && block->size; block = next(block)) {
        if (block->used) continue;
        merge(block);
        if (block->size < size) continue;
        split(block, size);
        block->used = true;
        return block + 1;
    }
    if (room(block) < size) return NULL;
    *block = (struct block){.size = size, .used = true};
    return block + 1;
}

bool secret_heap_owns(const void *memory)
{
    uintptr_t start = (uintptr_t)heap.data;
    return heap.data && (uintptr_t)memory >= start && (uintptr_t)memory < start + heap.size;
}

static void *allocate(size_t size, const char *file, int line)
{
    (void)file, (void)line;
    if (size == 0) return NULL;
    return secret ? allocate_secret(size) : malloc(size);
}

static void release(void *memory, const char *file, int line)
{
    (void)file, (void)line;
    if (!secret_heap_owns(memory)) {
        free(memory);
        return;
    }
    struct block *block = (struct block *)memory - 1;
    wipe(memory, block->size);
    block->used = false;
}

/* What is secret stays so, and what was not is not made so. */
static void *reallocate(void *memory, size_t size, const char *file, int line)
{
    if (!memory) return allocate(size, file, line);
    if (size == 0) {
        release(memory, file, line);
        return NULL;
    }
    if (!secret_heap_owns(memory)) return realloc(memory, size);
    size_t old = ((struct block *)memory - 1)->size;
    void *moved = allocate_secret(size);
    if (!moved) return NULL;
    memcpy(moved, memory, old < size ? old : size);
    release(memory, file, line);
    return moved;
}

struct err secret_heap_open(bool ordinary)
{
    TRY(secret_memory_open(HEAP_SIZE, ordinary, &heap));
    ENSURE(CRYPTO_set_mem_functions(allocate, reallocate, release) == 1, CRYPTO);
    return OK;
}

void secret_heap_begin(void)
{
    secret = true;
}

void secret_heap_end(void)
{
    secret = false;
}
