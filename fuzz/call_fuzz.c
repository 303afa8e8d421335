/*
 * A host that sends any calls in any order to an instance whose TPM runs. The input is a series of calls, each a number
 * (one byte), a size (two bytes) and a body. Number 0x80 and above tells the truth about the last store; 0x40 makes its
 * body a TPM command with a header that libtpms gets behind: locality, command code, whether there are sessions, the
 * rest. START is not among them: an enclave has one, and it was given here.
 *
 * Holds for every call: no reply comes together with a store, none comes while a store is under way, and the program
 * never declares itself failed.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "tests/fakes/program.h"
#include "tests/fakes/tpm_commands.h"

#include "base/bytes.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t out[CALL_OUTPUT_MAX];
static uint64_t store_under_way; /* 0 if none is */

static void must(struct err err)
{
    if (err.code) abort();
}

static void check_effects(struct span effects)
{
    struct reader r = reader_of(effects);
    bool waited = store_under_way != 0, replied = false, stored = false;
    store_under_way = 0;
    while (r.left > 0) {
        uint32_t kind = 0, size = 0;
        struct span payload, padding;
        must(read_u32(&r, &kind));
        must(read_u32(&r, &size));
        must(read_span(&r, size, &payload));
        must(read_span(&r, (CALL_ALIGNMENT - size % CALL_ALIGNMENT) % CALL_ALIGNMENT, &padding));
        struct reader number = reader_of(payload);
        if (kind == EFFECT_REPLY) replied = true;
        if (kind == EFFECT_STORE) {
            stored = true;
            must(read_u64(&number, &store_under_way));
        }
    }
    if (stored && (replied || waited)) abort();
}

static struct err call(uint32_t number, struct span body)
{
    size_t size = 0;
    struct err err = program_call(number, 0, body, out, &size);
    if (err.code == ERR_ENCLAVE_DEAD || err.code == ERR_TPM) abort();
    if (!err.code) {
        if (store_under_way && number != CALL_STORED) abort();
        check_effects(span_of(out, size));
    }
    return err;
}

static void tell_stored(void)
{
    uint8_t body[8];
    struct writer w = writer_of(body, sizeof body);
    must(write_u64(&w, store_under_way));
    (void)call(CALL_STORED, writer_span(&w)).code; /* refused when there is nothing to tell */
}

static void startup(void)
{
    struct tpm_message m;
    uint8_t body[1 + sizeof m.bytes];
    struct writer w = writer_of(body, sizeof body);
    tpm_startup(&m, TPM_SU_CLEAR);
    must(write_u8(&w, 0));
    must(write_span(&w, tpm_message_span(&m)));
    must(call(CALL_TPM_COMMAND, writer_span(&w)));
    if (store_under_way) tell_stored();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static uint8_t body[CALL_START_FIXED_SIZE] = {START_CREATE};
    (void)argc;
    (void)argv;
    must(call(CALL_START, span_of(body, sizeof body)));
    tell_stored();
    return 0;
}

#define FIRST_COMMAND_CODE 0x11fu
#define TRUE_STORED        0x80u
#define FRAMED_COMMAND     0x40u

static void framed_command(struct span input)
{
    struct reader r = reader_of(input);
    uint8_t locality = 0, code = 0, sessions = 0, body[CALL_TPM_COMMAND_MAX];
    struct writer w = writer_of(body, sizeof body);
    if (read_u8(&r, &locality).code || read_u8(&r, &code).code || read_u8(&r, &sessions).code) return;
    if (r.left > TPM_BUFFER_MAX - 10) return;
    must(write_u8(&w, locality % 5));
    must(write_be16(&w, sessions & 1 ? 0x8002 : 0x8001));
    must(write_be32(&w, (uint32_t)(10 + r.left)));
    must(write_be32(&w, FIRST_COMMAND_CODE + code % 0x80));
    must(write_span(&w, span_of(r.next, r.left)));
    (void)call(CALL_TPM_COMMAND, writer_span(&w)).code; /* busy, or answered: call() aborts at all else */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader r = reader_of(span_of(data, size));
    uint8_t number = 0;
    uint16_t body_size = 0;
    struct span body;
    if (store_under_way) tell_stored();
    must(call(CALL_TPM_RESET, span_empty()));
    if (store_under_way) tell_stored();
    startup();
    while (!read_u8(&r, &number).code && !read_u16(&r, &body_size).code) {
        if (read_span(&r, body_size < r.left ? body_size : r.left, &body).code) abort();
        if (number & TRUE_STORED)
            tell_stored();
        else if (number == FRAMED_COMMAND)
            framed_command(body);
        else
            (void)call(number, body).code; /* each answer is a good one, but for those that call() aborts at */
    }
    return 0;
}
