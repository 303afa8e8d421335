#include "untrusted/instance/machine.h"

#include <cpuid.h>
#include <errno.h>
#include <sys/random.h>
#include <time.h>

#include "base/bytes.h"
#include "base/memory.h"

void machine_init(struct machine *machine, const struct machine_door *door, void *memory)
{
    *machine = (struct machine){.door = *door, .input = memory, .output = (uint8_t *)memory + MACHINE_INPUT_SIZE};
}

void machine_wipe(struct machine *machine)
{
    wipe(machine->output, machine->output_used);
    machine->output_used = 0;
}

static struct err parse_instance(struct reader *r, struct effects *effects)
{
    ENSURE(!effects->has_instance, BAD_VALUE);
    TRY(read_bytes(r, effects->instance.bytes, sizeof effects->instance.bytes));
    TRY(read_u64(r, &effects->version));
    effects->has_instance = true;
    return OK;
}

static struct err parse_reply(struct reader *r, struct effects *effects)
{
    ENSURE(effects->reply.size == 0 && r->left > 0, BAD_VALUE);
    ENSURE(r->left <= TPM_BUFFER_MAX, TOO_LARGE);
    return read_span(r, r->left, &effects->reply);
}

static struct err parse_store(struct reader *r, struct effects *effects)
{
    ENSURE(!effects->has_store, BAD_VALUE);
    TRY(read_u64(r, &effects->store_number));
    ENSURE(r->left > 0, BAD_VALUE);
    ENSURE(r->left <= STATE_MAX, TOO_LARGE);
    TRY(read_span(r, r->left, &effects->store));
    effects->has_store = true;
    return OK;
}

static const struct effect_row {
    uint32_t kind;
    struct err (*parse)(struct reader *payload, struct effects *effects);
} effect_rows[] = {
    {EFFECT_INSTANCE, parse_instance},
    {EFFECT_REPLY, parse_reply},
    {EFFECT_STORE, parse_store},
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

static struct err begin(struct machine *machine, enum call_number number, size_t body_size, struct writer *out_record)
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
    machine_wipe(machine);
    struct err result =
        machine->door.call(machine->door.ctx, writer_span(record), machine->output, MACHINE_OUTPUT_SIZE, &size);
    wipe(record->start, record->size);
    TRY(result);
    ENSURE(size <= MACHINE_OUTPUT_SIZE, TOO_LARGE);
    machine->output_used = size;
    return parse_output(span_of(machine->output, size), out_effects);
}

static struct err simple_call(struct machine *machine, enum call_number number, struct effects *out_effects)
{
    struct writer record;
    TRY(begin(machine, number, 0, &record));
    return finish(machine, &record, out_effects);
}

/* In the layout of OPENSSL_ia32cap(3). */
static struct err write_capability_hints(struct writer *record)
{
    unsigned a = 0, b = 0, c = 0, d = 0;
    unsigned words[4] = {0};
    if (__get_cpuid(1, &a, &b, &c, &d)) {
        words[0] = d;
        words[1] = c;
    }
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        words[2] = b;
        words[3] = c;
    }
    for (size_t i = 0; i < 4; i++)
        TRY(write_u32(record, words[i]));
    return OK;
}

static struct err write_host_entropy(struct writer *record)
{
    uint8_t bytes[HOST_ENTROPY_SIZE];
    ENSURE(getrandom(bytes, sizeof bytes, 0) == (ssize_t)sizeof bytes, SYSTEM);
    struct err result = write_bytes(record, bytes, sizeof bytes);
    wipe(bytes, sizeof bytes);
    return result;
}

static struct err start(struct machine *machine, enum start_mode mode, const struct instance_id *id, struct span state,
                        struct effects *out_effects)
{
    struct writer record;
    ENSURE(state.size <= STATE_MAX, TOO_LARGE);
    TRY(begin(machine, CALL_START, CALL_START_FIXED_SIZE + state.size, &record));
    TRY(write_u32(&record, mode));
    TRY(write_bytes(&record, id->bytes, sizeof id->bytes));
    TRY(write_capability_hints(&record));
    TRY(write_host_entropy(&record));
    TRY(write_u32(&record, (uint32_t)state.size));
    TRY(write_span(&record, state));
    return finish(machine, &record, out_effects);
}

struct err machine_create(struct machine *machine, struct effects *out_effects)
{
    const struct instance_id none = {0};
    return start(machine, START_CREATE, &none, span_empty(), out_effects);
}

struct err machine_open(struct machine *machine, const struct instance_id *id, struct span state,
                        struct effects *out_effects)
{
    return start(machine, START_OPEN, id, state, out_effects);
}

struct err machine_command(struct machine *machine, uint8_t locality, struct span command, struct effects *out_effects)
{
    struct writer record;
    ENSURE(command.size <= TPM_BUFFER_MAX, TOO_LARGE);
    TRY(begin(machine, CALL_TPM_COMMAND, 1 + command.size, &record));
    TRY(write_u8(&record, locality));
    TRY(write_span(&record, command));
    return finish(machine, &record, out_effects);
}

struct err machine_stored(struct machine *machine, uint64_t number, struct effects *out_effects)
{
    struct writer record;
    TRY(begin(machine, CALL_STORED, sizeof number, &record));
    TRY(write_u64(&record, number));
    return finish(machine, &record, out_effects);
}

struct err machine_reset(struct machine *machine, struct effects *out_effects)
{
    return simple_call(machine, CALL_TPM_RESET, out_effects);
}

struct err machine_off(struct machine *machine, struct effects *out_effects)
{
    return simple_call(machine, CALL_TPM_OFF, out_effects);
}
