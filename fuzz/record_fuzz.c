/*
 * The call record at the real door, as the host would hand it over: any bytes, of any claimed size, before and after
 * the enclave was started. The enclave is an address range that is left alone.
 *
 * Holds for every record: a refusal at the door writes nothing, and what is written is a whole output record.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "abi/instance.h"
#include "base/bytes.h"
#include "trusted/door/host_memory.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* trusted/door/door.c, which entry.S calls */
struct enclave_result {
    uint64_t code;
    uint64_t size;
};
struct enclave_result enclave_call(struct host_ptr in, uint64_t in_size, struct host_ptr out, uint64_t out_capacity,
                                   uint64_t reserved);

/* trusted/runtime/layout.h: a range of its own size, a power of two, that nothing else lies in */
__asm__(".pushsection .bss\n.balign 4096\n"
        ".globl enclave_base\n.hidden enclave_base\nenclave_base: .skip 65536\n"
        ".globl enclave_end\n.hidden enclave_end\nenclave_end:\n.popsection\n");

#define UNTOUCHED 0xD7

static uint8_t input[CALL_INPUT_MAX + 64] __attribute__((aligned(8)));
static uint8_t output[CALL_OUTPUT_MAX] __attribute__((aligned(8)));

static struct host_ptr host(void *memory)
{
    return (struct host_ptr){.va = (uintptr_t)memory};
}

static void call(uint64_t size)
{
    memset(output, UNTOUCHED, 64);
    struct enclave_result result = enclave_call(host(input), size, host(output), sizeof output, 0);
    uint32_t code = 0;
    uint32_t body = 0;
    memcpy(&code, output, sizeof code);
    memcpy(&body, output + sizeof code, sizeof body);
    if (result.code == 0) {
        if (result.size != CALL_RESULT_HEADER_SIZE + body || (code != 0 && body != 0)) abort();
        return;
    }
    for (size_t i = 0; i < 64; i++)
        if (output[i] != UNTOUCHED) abort();
    if (result.size != 0) abort();
}

static void record(uint32_t number, const void *body, uint32_t size)
{
    struct writer w = writer_of(input, sizeof input);
    struct err err = write_u32(&w, number);
    if (!err.code) err = write_u32(&w, size);
    if (!err.code) err = write_u64(&w, 0);
    if (!err.code) err = write_bytes(&w, body, size);
    if (err.code) abort();
    call(w.size);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    uint8_t start[INSTANCE_START_SIZE] = {0};
    record(INSTANCE_START, start, sizeof start);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > CALL_INPUT_MAX) return 0;
    if (size) memcpy(input, data, size);
    memset(input + size, 0, 8);
    call(size);
    /* The same with a size field that is true, so that bodies are reached too. */
    if (size < CALL_RECORD_HEADER_SIZE) return 0;
    uint32_t body = (uint32_t)(size - CALL_RECORD_HEADER_SIZE);
    memcpy(input, data, size);
    memcpy(input + 4, &body, sizeof body);
    call(size);
    return 0;
}
