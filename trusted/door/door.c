#include "trusted/door/door.h"

#include "abi/call.h"
#include "base/memory.h"
#include "trusted/door/host_memory.h"
#include "trusted/runtime/clock.h"

/* What EEXIT carries back: RDI and RSI. */
struct enclave_result {
    uint64_t code;
    uint64_t size; /* bytes written to the host's output buffer */
};

struct call_record {
    uint32_t number;
    uint64_t host_time; /* ns since the epoch */
    struct span body;
};

static uint8_t input[CALL_INPUT_MAX] __attribute__((aligned(HOST_WORD)));
static uint8_t output[CALL_OUTPUT_MAX] __attribute__((aligned(HOST_WORD)));

_Static_assert(CALL_INPUT_MAX % HOST_WORD == 0 && CALL_OUTPUT_MAX % HOST_WORD == 0, "whole words are copied");

static struct err parse_record(struct span bytes, struct call_record *out)
{
    struct reader r = reader_of(bytes);
    uint32_t size = 0;
    struct call_record record = {0};
    TRY(read_u32(&r, &record.number));
    TRY(read_u32(&r, &size));
    TRY(read_u64(&r, &record.host_time));
    TRY(read_span(&r, size, &record.body));
    TRY(reader_end(&r));
    *out = record;
    return OK;
}

static const struct door_call *find_call(uint32_t number)
{
    for (size_t i = 0; i < door_program.call_count; i++) {
        if (door_program.calls[i].number == number) return &door_program.calls[i];
    }
    return NULL;
}

static struct err run_call(const struct call_record *record, struct writer *effects)
{
    const struct door_call *call = find_call(record->number);
    ENSURE(call, CALL_UNKNOWN);
    if ((call->allowed_states >> door_program.state(door_program.ctx) & 1) == 0)
        return door_program.refusal(door_program.ctx, record->number);
    ENSURE(record->body.size >= call->body_min, TRUNCATED);
    ENSURE(record->body.size <= call->body_max, TOO_LARGE);
    clock_advance(record->host_time);
    return call->handler(door_program.ctx, record->body, effects);
}

static struct err run(struct host_ptr in, uint64_t in_size, struct host_ptr out, uint64_t out_capacity,
                      uint64_t *out_size)
{
    ENSURE(in_size >= CALL_RECORD_HEADER_SIZE, TRUNCATED);
    ENSURE(in_size <= CALL_INPUT_MAX, TOO_LARGE);
    ENSURE(out_capacity >= CALL_OUTPUT_MAX, NO_SPACE);
    TRY(host_range_check(in, in_size));
    TRY(host_range_check(out, out_capacity));

    host_copy_in(input, in, in_size);
    struct call_record record = {0};
    TRY(parse_record(span_of(input, in_size), &record));

    struct writer effects = writer_of(output + CALL_RESULT_HEADER_SIZE, sizeof output - CALL_RESULT_HEADER_SIZE);
    struct err result = run_call(&record, &effects);
    size_t effects_size = result.code ? 0 : effects.size;
    struct writer header = writer_of(output, CALL_RESULT_HEADER_SIZE);
    TRY(write_u32(&header, result.code));
    TRY(write_u32(&header, (uint32_t)effects_size));
    *out_size = CALL_RESULT_HEADER_SIZE + effects_size;
    host_copy_out(out, output, *out_size);
    wipe(output, CALL_RESULT_HEADER_SIZE + effects.size);
    return OK;
}

/* Called by entry.S with what the host left in the registers (abi/call.h). */
struct enclave_result enclave_call(struct host_ptr in, uint64_t in_size, struct host_ptr out, uint64_t out_capacity,
                                   uint64_t reserved);

struct enclave_result enclave_call(struct host_ptr in, uint64_t in_size, struct host_ptr out, uint64_t out_capacity,
                                   uint64_t reserved)
{
    struct enclave_result result = {.code = ERR_BAD_VALUE};
    if (reserved != 0) return result;
    result.code = run(in, in_size, out, out_capacity, &result.size).code;
    if (in_size <= sizeof input) wipe(input, in_size);
    return result;
}
