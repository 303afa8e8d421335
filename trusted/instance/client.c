/*
 * K2: one request of the front-end in, one response out, unless the response has to wait for the manager.
 *
 * Guarantees: what is malformed or not allowed now is answered with a code and did not reach libtpms; a TPM is reset
 * only when the manager has confirmed that this enclave holds the instance, and not by the first request of a machine
 * that goes on where it stopped; without a word of the manager it runs at
 * most INSTANCE_LEASE_COMMANDS commands; a TPM that is still to be imported, or to be taken over from another enclave, runs
 * none. Nothing here allocates.
 */
#include "trusted/instance/instance.h"

#include "base/memory.h"

struct request {
    uint8_t verb;
    uint8_t locality;
    struct span command;
};

static struct err parse_request(struct span message, struct request *out)
{
    struct reader r = reader_of(message);
    uint16_t zero = 0;
    TRY(read_u8(&r, &out->verb));
    TRY(read_u8(&r, &out->locality));
    TRY(read_u16(&r, &zero));
    ENSURE(zero == 0 && out->locality <= TPM_LOCALITY_MAX, BAD_VALUE);
    out->command = span_of(r.next, r.left);
    return OK;
}

struct writer client_begin_response(struct instance *instance, struct err err)
{
    struct writer w = writer_of(instance->response, sizeof instance->response);
    (void)write_u16(&w, err.code).code; /* there is room for both */
    (void)write_u16(&w, 0).code;
    instance->response_size = w.size;
    instance->held_back = HELD_RESPONSE;
    return w;
}

struct err client_refuse(struct instance *instance, struct err why, struct writer *out)
{
    client_begin_response(instance, why);
    return effect_release(instance, out);
}

struct err client_respond(struct instance *instance, const struct writer *response, struct writer *out)
{
    instance->response_size = response->size;
    return effect_release(instance, out);
}

/* --- commands --- */

static struct err run_command(struct instance *instance, const struct request *request, struct writer *out)
{
    struct lease *lease = &instance->lease;
    if (lease->unconfirmed >= INSTANCE_LEASE_COMMANDS) return client_refuse(instance, FAIL(LEASE), out);
    lease->unconfirmed++;
    lease->since_asked++;
    struct writer response = client_begin_response(instance, OK);
    TRY(tpm_command(&instance->tpm, request->locality, request->command, &response));
    instance->response_size = response.size;
    TRY(effect_settle(instance, out));
    bool due = instance->state == INSTANCE_RUNNING && lease->unconfirmed >= INSTANCE_LEASE_COMMANDS / 2;
    return due && !lease->asked ? effect_ask_lease(instance, out) : OK;
}

/* --- power --- */

/* A machine that goes on where it stopped begins with this request too, and is not reset. */
static struct err go_on(struct instance *instance, struct writer *out)
{
    instance->resumed = false;
    client_begin_response(instance, OK);
    return effect_settle(instance, out);
}

static struct err reset(struct instance *instance, const struct request *request, struct writer *out)
{
    (void)request;
    if (import_awaited(instance)) return client_refuse(instance, FAIL(TPM_OFF), out);
    if (instance->resumed || instance->keeps) return go_on(instance, out);
    instance->state = INSTANCE_WAITING;
    instance->under_way = UNDER_WAY_RESET;
    return effect_ask_lease(instance, out);
}

struct err client_reset(struct instance *instance, struct writer *out)
{
    TRY(tpm_reset(&instance->tpm));
    client_begin_response(instance, OK);
    return effect_settle(instance, out);
}

/* What another enclave may go on from, and what is to be kept, is left as it is. */
static struct err power_off(struct instance *instance, const struct request *request, struct writer *out)
{
    (void)request;
    instance->resumed = false;
    if (instance->export.bytes)
        TRY(tpm_cut_off(&instance->tpm));
    else if (!instance->keeps)
        TRY(tpm_power_off(&instance->tpm));
    client_begin_response(instance, OK);
    return effect_settle(instance, out);
}

static struct err store_volatile(struct instance *instance, const struct request *request, struct writer *out)
{
    (void)request;
    instance->keeps = true;
    client_begin_response(instance, OK);
    return effect_settle(instance, out);
}

/* --- what a machine's chipset does --- */

static struct err established(struct instance *instance, const struct request *request, struct writer *out)
{
    (void)request;
    bool is_established = false;
    TRY(tpm_established(&instance->tpm, &is_established));
    struct writer response = client_begin_response(instance, OK);
    TRY(write_u8(&response, is_established));
    return client_respond(instance, &response, out);
}

static struct err reset_established(struct instance *instance, const struct request *request, struct writer *out)
{
    struct err result = tpm_reset_established(&instance->tpm, request->locality);
    if (result.code != ERR_BAD_VALUE) TRY(result);
    client_begin_response(instance, result);
    return effect_settle(instance, out);
}

/* A TPM in failure mode says so itself, until it is reset. */
static struct err settle_hashed(struct instance *instance, struct err result, struct writer *out)
{
    if (result.code != ERR_TPM_FAILED) TRY(result);
    client_begin_response(instance, result);
    return effect_settle(instance, out);
}

static struct err hash_start(struct instance *instance, const struct request *request, struct writer *out)
{
    (void)request;
    return settle_hashed(instance, tpm_hash_start(&instance->tpm), out);
}

static struct err hash_data(struct instance *instance, const struct request *request, struct writer *out)
{
    return settle_hashed(instance, tpm_hash_data(&instance->tpm, request->command), out);
}

static struct err hash_end(struct instance *instance, const struct request *request, struct writer *out)
{
    (void)request;
    return settle_hashed(instance, tpm_hash_end(&instance->tpm), out);
}

/* --- what it is --- */

static uint32_t number_in(const struct request *request)
{
    struct reader r = reader_of(request->command);
    uint32_t number = 0;
    return read_u32(&r, &number).code ? 0 : number; /* the table says how many bytes there are */
}

static struct err set_buffer_size(struct instance *instance, const struct request *request, struct writer *out)
{
    struct tpm_buffer_size size;
    const uint32_t wanted = number_in(request);
    if (wanted && instance->tpm.on && !instance->keeps) return client_refuse(instance, FAIL(VERB_STATE), out);
    TRY(tpm_set_buffer_size(wanted, &size));
    struct writer response = client_begin_response(instance, OK);
    TRY(write_u32(&response, size.size));
    TRY(write_u32(&response, size.min));
    TRY(write_u32(&response, size.max));
    return client_respond(instance, &response, out);
}

static struct err info(struct instance *instance, const struct request *request, struct writer *out)
{
    struct writer response = client_begin_response(instance, OK);
    TRY(tpm_write_info(number_in(request), &response));
    return client_respond(instance, &response, out);
}

/* --- states that come and go --- */

static struct err take_part(struct instance *instance, const struct request *request, struct writer *out)
{
    client_begin_response(instance, import_part(instance, request->command));
    return effect_settle(instance, out);
}

static struct err take_bundle(struct instance *instance, const struct request *request, struct writer *out)
{
    client_begin_response(instance, incoming_part(instance, request->command));
    return effect_release(instance, out);
}

static struct err export(struct instance *instance, const struct request *request, struct writer *out)
{
    (void)request;
    return export_begin(instance, out);
}

static struct err read_export(struct instance *instance, const struct request *request, struct writer *out)
{
    return export_read(instance, number_in(request), out);
}

static struct err lock(struct instance *instance, const struct request *request, struct writer *out)
{
    (void)request;
    export_take_back(instance);
    client_begin_response(instance, OK);
    return effect_settle(instance, out);
}

/* --- the table --- */

#define NEEDS_ON 1u /* else it is refused */
#define DECIDES  2u /* may change the TPM: whoever does this goes on, and another enclave does not */

static const struct verb {
    enum k2_verb verb;
    unsigned rules;
    size_t min; /* bytes behind the head */
    size_t max;
    struct err (*run)(struct instance *instance, const struct request *request, struct writer *out);
} verbs[] = {
    {K2_COMMAND, NEEDS_ON | DECIDES, 0, TPM_BUFFER_MAX, run_command},
    {K2_RESET, DECIDES, 0, 0, reset},
    {K2_POWER_OFF, NEEDS_ON, 0, 0, power_off},
    {K2_IMPORT, 0, 0, TPM_BUFFER_MAX, take_part},
    {K2_ESTABLISHED, NEEDS_ON, 0, 0, established},
    {K2_RESET_ESTABLISHED, NEEDS_ON | DECIDES, 0, 0, reset_established},
    {K2_HASH_START, NEEDS_ON | DECIDES, 0, 0, hash_start},
    {K2_HASH_DATA, NEEDS_ON | DECIDES, 0, TPM_BUFFER_MAX, hash_data},
    {K2_HASH_END, NEEDS_ON | DECIDES, 0, 0, hash_end},
    {K2_BUFFER_SIZE, 0, 4, 4, set_buffer_size},
    {K2_INFO, 0, 4, 4, info},
    {K2_STORE_VOLATILE, NEEDS_ON | DECIDES, 0, 0, store_volatile},
    {K2_EXPORT, 0, 0, 0, export},
    {K2_EXPORT_READ, 0, 4, 4, read_export},
    {K2_BUNDLE, 0, 0, TPM_BUFFER_MAX, take_bundle},
    {K2_LOCK, 0, 0, 0, lock},
};

static const struct verb *find(uint8_t number)
{
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
        if (verbs[i].verb == number) return &verbs[i];
    return NULL;
}

static struct err check_request(const struct instance *instance, const struct verb *verb, const struct request *request)
{
    ENSURE(verb, BAD_VALUE);
    ENSURE(request->command.size >= verb->min, TRUNCATED);
    ENSURE(request->command.size <= verb->max, TRAILING);
    ENSURE(instance->tpm.on || !(verb->rules & NEEDS_ON), TPM_OFF);
    return OK;
}

struct err client_perform(struct instance *instance, struct span message, struct writer *out)
{
    struct request request;
    struct err parsed = parse_request(message, &request);
    if (parsed.code) return client_refuse(instance, parsed, out);
    const struct verb *verb = find(request.verb);
    struct err allowed = check_request(instance, verb, &request);
    if (allowed.code) return client_refuse(instance, allowed, out);
    if (verb->verb == K2_RESET && import_complete(instance)) return incoming_check(instance, out);
    if (verb->rules & DECIDES) {
        if (instance->incoming.candidate) return incoming_redeem(instance, message, out);
        export_take_back(instance);
        instance->untouched = false;
        if (verb->verb != K2_RESET) instance->resumed = instance->keeps = false;
    }
    return verb->run(instance, &request, out);
}

/* FINISH is answered with FINISH, FINAL with FINAL. */
static struct err answer_alike(struct instance *instance, enum link_event event, struct writer *out)
{
    bool finish = event == LINK_FINISHED;
    struct writer payload;
    TRY(effect_reserve(out, INSTANCE_EFFECT_RECORD, RECORD_OVERHEAD + (finish ? SHA256_SIZE : 0), &payload));
    if (finish) return link_finish(&instance->link, &payload);
    TRY(link_send_final(&instance->link, &payload));
    link_close(&instance->link);
    return OK;
}

static struct err take(struct instance *instance, struct span record, struct writer *out)
{
    enum link_event event;
    size_t size = 0;
    TRY(link_receive(&instance->link, record, &event, instance->request, &size));
    if (event != LINK_DATA) return answer_alike(instance, event, out);
    return instance_fail_if(instance, client_perform(instance, span_of(instance->request, size), out));
}

struct err client_record(void *ctx, struct span record, struct writer *out)
{
    struct instance *instance = ctx;
    struct err err = take(instance, record, out);
    wipe(instance->request, record.size);
    return err;
}
