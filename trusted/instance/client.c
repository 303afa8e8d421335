/*
 * K2: one request of the front-end in, one response out, unless the response has to wait for the manager.
 *
 * Guarantees: what is malformed or not allowed now is answered with a code and did not reach libtpms; a TPM is reset
 * only when the manager has confirmed that this enclave holds the instance, and not by the first request of a machine
 * that goes on where it stopped; without a word of the manager it runs at
 * most INSTANCE_LEASE_COMMANDS commands; a TPM that is still to be imported runs none. Nothing here allocates.
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

/* The head of the response; the TPM's own response follows where there is one. */
static struct writer begin_response(struct instance *instance, struct err err)
{
    struct writer w = writer_of(instance->response, sizeof instance->response);
    (void)write_u16(&w, err.code).code; /* there is room for both */
    (void)write_u16(&w, 0).code;
    instance->response_size = w.size;
    instance->held_back = HELD_RESPONSE;
    return w;
}

/* The TPM did not run it, and the front-end is told why. */
static struct err refuse(struct instance *instance, struct err why, struct writer *out)
{
    begin_response(instance, why);
    return effect_release(instance, out);
}

static struct err run_command(struct instance *instance, const struct request *request, struct writer *out)
{
    struct lease *lease = &instance->lease;
    instance->resumed = false;
    if (!instance->tpm.on) return refuse(instance, FAIL(TPM_OFF), out);
    if (lease->unconfirmed >= INSTANCE_LEASE_COMMANDS) return refuse(instance, FAIL(LEASE), out);
    lease->unconfirmed++;
    lease->since_asked++;
    struct writer response = begin_response(instance, OK);
    TRY(tpm_command(&instance->tpm, request->locality, request->command, &response));
    instance->response_size = response.size;
    TRY(effect_settle(instance, out));
    bool due = instance->state == INSTANCE_RUNNING && lease->unconfirmed >= INSTANCE_LEASE_COMMANDS / 2;
    return due && !lease->asked ? effect_ask_lease(instance, out) : OK;
}

/* A machine that goes on where it stopped begins with this request too, and is not reset. */
static struct err go_on(struct instance *instance, struct writer *out)
{
    instance->resumed = false;
    begin_response(instance, OK);
    return effect_release(instance, out);
}

static struct err ask_before_reset(struct instance *instance, const struct request *request, struct writer *out)
{
    if (request->command.size > 0) return refuse(instance, FAIL(TRAILING), out);
    if (import_awaited(instance)) return refuse(instance, FAIL(TPM_OFF), out);
    if (instance->resumed) return go_on(instance, out);
    instance->state = INSTANCE_WAITING;
    instance->under_way = UNDER_WAY_RESET;
    return effect_ask_lease(instance, out);
}

struct err client_reset(struct instance *instance, struct writer *out)
{
    TRY(tpm_reset(&instance->tpm));
    begin_response(instance, OK);
    return effect_settle(instance, out);
}

static struct err power_off(struct instance *instance, const struct request *request, struct writer *out)
{
    if (request->command.size > 0) return refuse(instance, FAIL(TRAILING), out);
    if (!instance->tpm.on) return refuse(instance, FAIL(TPM_OFF), out);
    instance->resumed = false;
    TRY(tpm_power_off(&instance->tpm));
    begin_response(instance, OK);
    return effect_settle(instance, out);
}

static struct err established(struct instance *instance, const struct request *request, struct writer *out)
{
    bool is_established = false;
    if (request->command.size > 0) return refuse(instance, FAIL(TRAILING), out);
    if (!instance->tpm.on) return refuse(instance, FAIL(TPM_OFF), out);
    TRY(tpm_established(&instance->tpm, &is_established));
    struct writer response = begin_response(instance, OK);
    TRY(write_u8(&response, is_established));
    instance->response_size = response.size;
    return effect_release(instance, out);
}

static struct err reset_established(struct instance *instance, const struct request *request, struct writer *out)
{
    if (request->command.size > 0) return refuse(instance, FAIL(TRAILING), out);
    struct err result = tpm_reset_established(&instance->tpm, request->locality);
    if (result.code == ERR_TPM_OFF || result.code == ERR_BAD_VALUE) return refuse(instance, result, out);
    TRY(result);
    begin_response(instance, OK);
    return effect_settle(instance, out); /* a TPM 1.2 keeps the bit in its permanent state */
}

static struct err take_part(struct instance *instance, const struct request *request, struct writer *out)
{
    begin_response(instance, import_part(instance, request->command));
    return effect_settle(instance, out);
}

static struct err run_request(struct instance *instance, struct span message, struct writer *out)
{
    struct request request;
    struct err parsed = parse_request(message, &request);
    if (parsed.code) return refuse(instance, parsed, out);
    if (request.verb == K2_COMMAND) return run_command(instance, &request, out);
    if (request.verb == K2_RESET) return ask_before_reset(instance, &request, out);
    if (request.verb == K2_POWER_OFF) return power_off(instance, &request, out);
    if (request.verb == K2_IMPORT) return take_part(instance, &request, out);
    if (request.verb == K2_ESTABLISHED) return established(instance, &request, out);
    if (request.verb == K2_RESET_ESTABLISHED) return reset_established(instance, &request, out);
    return refuse(instance, FAIL(BAD_VALUE), out);
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
    return instance_fail_if(instance, run_request(instance, span_of(instance->request, size), out));
}

struct err client_record(void *ctx, struct span record, struct writer *out)
{
    struct instance *instance = ctx;
    struct err err = take(instance, record, out);
    wipe(instance->request, record.size);
    return err;
}
