#include "untrusted/instance/machine.h"

#include <errno.h>
#include <time.h>

#include "abi/peer.h"
#include "base/bytes.h"
#include "base/memory.h"
#include "link/k2.h"
#include "link/record.h"
#include "untrusted/sgx/priming.h"

void machine_init(struct machine *machine, const struct machine_door *door, void *memory)
{
    *machine = (struct machine){.door = *door, .input = memory, .output = (uint8_t *)memory + MACHINE_INPUT_SIZE};
}

/* All that is left, once, of 1 to max bytes. */
static struct err parse_rest(struct reader *r, size_t max, struct span *out)
{
    ENSURE(out->size == 0 && r->left > 0, BAD_VALUE);
    ENSURE(r->left <= max, TOO_LARGE);
    return read_span(r, r->left, out);
}

static struct err parse_peer(struct reader *r, struct effects *effects)
{
    ENSURE(effects->peer_count < EFFECT_PEERS_MAX, BAD_VALUE);
    return parse_rest(r, PEER_MESSAGE_MAX, &effects->peers[effects->peer_count++]);
}

static struct err parse_record(struct reader *r, struct effects *effects)
{
    return parse_rest(r, RECORD_OVERHEAD + K2_MESSAGE_MAX, &effects->record);
}

static struct err parse_store(struct reader *r, struct effects *effects)
{
    TRY(read_u64(r, &effects->version));
    ENSURE(effects->version > 0, BAD_VALUE);
    return parse_rest(r, STATE_MAX, &effects->store);
}

static struct err parse_receipt(struct reader *r, struct effects *effects)
{
    ENSURE(r->left == PEER_RECEIPT_SIZE, BAD_VALUE);
    return parse_rest(r, PEER_RECEIPT_SIZE, &effects->receipt);
}

static struct err parse_health(struct reader *r, struct effects *effects)
{
    uint32_t health = 0;
    TRY(read_u32(r, &health));
    ENSURE(effects->health == 0, BAD_VALUE);
    ENSURE(health == INSTANCE_TPM_WORKS || health == INSTANCE_TPM_FAILURE_MODE, BAD_VALUE);
    effects->health = (enum instance_health)health;
    return OK;
}

static const struct effect_row {
    uint32_t kind;
    struct err (*parse)(struct reader *payload, struct effects *effects);
} effect_rows[] = {
    {INSTANCE_EFFECT_PEER, parse_peer},     {INSTANCE_EFFECT_RECORD, parse_record},
    {INSTANCE_EFFECT_STORE, parse_store},   {INSTANCE_EFFECT_RECEIPT, parse_receipt},
    {INSTANCE_EFFECT_HEALTH, parse_health},
};

static struct err parse_payload(uint32_t kind, struct span bytes, struct effects *effects)
{
    for (size_t i = 0; i < sizeof effect_rows / sizeof effect_rows[0]; i++) {
        if (effect_rows[i].kind != kind) continue;
        struct reader payload = reader_of(bytes);
        TRY(effect_rows[i].parse(&payload, effects));
        return reader_end(&payload);
    }
    return FAIL(BAD_VALUE);
}

static struct err parse_effect(struct reader *r, struct effects *effects)
{
    uint32_t kind = 0;
    uint32_t size = 0;
    struct span bytes;
    struct span padding;
    TRY(read_u32(r, &kind));
    TRY(read_u32(r, &size));
    TRY(read_span(r, size, &bytes));
    TRY(read_span(r, (CALL_ALIGNMENT - size % CALL_ALIGNMENT) % CALL_ALIGNMENT, &padding));
    for (size_t i = 0; i < padding.size; i++)
        ENSURE(padding.data[i] == 0, BAD_VALUE);
    return parse_payload(kind, bytes, effects);
}

static struct err parse_output(struct span output, struct effects *out_effects)
{
    struct reader r = reader_of(output);
    struct effects effects = {0};
    uint32_t code = 0;
    uint32_t size = 0;
    TRY(read_u32(&r, &code));
    TRY(read_u32(&r, &size));
    ENSURE(size >= r.left, TRAILING);
    ENSURE(size <= r.left, TRUNCATED);
    ENSURE(code <= UINT16_MAX, BAD_VALUE);
    if (code) {
        TRY(reader_end(&r));
        return (struct err){(uint16_t)code};
    }
    while (r.left)
        TRY(parse_effect(&r, &effects));
    *out_effects = effects;
    return OK;
}

static struct err begin(struct machine *machine, enum instance_call number, size_t body_size, struct writer *out_record)
{
    struct timespec time;
    ENSURE(clock_gettime(CLOCK_REALTIME, &time) == 0, SYSTEM);
    *out_record = writer_of(machine->input, MACHINE_INPUT_SIZE);
    TRY(write_u32(out_record, number));
    TRY(write_u32(out_record, (uint32_t)body_size));
    return write_u64(out_record, (uint64_t)time.tv_sec * UINT64_C(1000000000) + (uint64_t)time.tv_nsec);
}

static struct err finish(struct machine *machine, const struct writer *record, struct effects *out_effects)
{
    size_t size = 0;
    TRY(machine->door.call(machine->door.ctx, writer_span(record), machine->output, MACHINE_OUTPUT_SIZE, &size));
    ENSURE(size <= MACHINE_OUTPUT_SIZE, TOO_LARGE);
    return parse_output(span_of(machine->output, size), out_effects);
}

static struct err call_with(struct machine *machine, enum instance_call number, struct span body,
                            struct effects *out_effects)
{
    struct writer record;
    ENSURE(body.size <= CALL_BODY_MAX, TOO_LARGE);
    TRY(begin(machine, number, body.size, &record));
    TRY(write_span(&record, body));
    return finish(machine, &record, out_effects);
}

struct err machine_start(struct machine *machine, const struct instance_id *id)
{
    struct writer record;
    struct effects none = {0};
    TRY(begin(machine, INSTANCE_START, INSTANCE_START_SIZE, &record));
    TRY(priming_write(&record));
    TRY(write_bytes(&record, id->bytes, sizeof id->bytes));
    return finish(machine, &record, &none);
}

struct err machine_peer(struct machine *machine, struct span message, struct effects *out_effects)
{
    return call_with(machine, INSTANCE_PEER, message, out_effects);
}

struct err machine_load(struct machine *machine, struct span state, struct effects *out_effects)
{
    return call_with(machine, INSTANCE_LOAD, state, out_effects);
}

struct err machine_record(struct machine *machine, struct span record, struct effects *out_effects)
{
    return call_with(machine, INSTANCE_RECORD, record, out_effects);
}

struct err machine_stop(struct machine *machine, enum instance_stop mode, struct effects *out_effects)
{
    const uint8_t body[8] = {(uint8_t)mode};
    return call_with(machine, INSTANCE_STOP, span_of(body, sizeof body), out_effects);
}

struct err machine_resume(struct machine *machine, struct effects *out_effects)
{
    return call_with(machine, INSTANCE_RESUME, span_empty(), out_effects);
}
