#include "untrusted/instance/service.h"

#include <inttypes.h>
#include <stdlib.h>

#include "untrusted/host/log.h"

/* With more, sd-event reads a file to spread wake-ups, which a confined process may not. */
#define TIMER_ACCURACY_USEC 1

enum health { HEALTHY, AWAITING_RESET, BROKEN };

struct service {
    struct service_options options;
    struct front *front;
    struct committer *committer;
    enum health health;
    bool powered;
    bool busy;            /* an operation is under way */
    bool own_operation;   /* it is not the front's */
    enum front_verb verb; /* of the operation */
    bool storing;
    uint64_t store_number;
    uint64_t store_began; /* µs */
    sd_event_source *deadline;
    bool deadline_armed;
    bool stopping; /* nothing the front asks for is begun any more */
};

static void begin_stop(struct service *s);

static uint64_t now(const struct service *s)
{
    uint64_t usec = 0;
    return sd_event_now(s->options.event, CLOCK_MONOTONIC, &usec) < 0 ? 0 : usec;
}

/* The end of every operation. The front may start the next one before this returns, unless the service is stopping. */
static void finish(struct service *s, struct err result, struct span reply)
{
    enum front_verb verb = s->verb;
    bool own = s->own_operation;
    s->busy = s->own_operation = false;
    if (!own) front_done(s->front, result, reply);
    machine_wipe(s->options.machine);
    if (verb == FRONT_SHUTDOWN)
        (void)sd_event_exit(s->options.event, result.code ? SERVICE_FAILED : SERVICE_ENDED);
    else if (s->stopping)
        begin_stop(s);
}

static void break_down(struct service *s, struct err why)
{
    uint16_t vector = 0;
    uint64_t address = 0;
    s->health = BROKEN;
    s->storing = false;
    if (why.code == ERR_SGX_FAULT) {
        s->options.fault(s->options.fault_ctx, &vector, &address);
        log_line(LOG_LEVEL_ERROR, "%s: the enclave faulted with vector %u at address %#" PRIx64, s->options.instance,
                 vector, address);
    }
    log_line(LOG_LEVEL_ERROR,
             "%s: %s; every command is answered TPM_RC_FAILURE until the machine is reset, and goes on from the last "
             "durable state then",
             s->options.instance, err_sentence(why));
    finish(s, why, span_empty());
}

static void succeed(struct service *s, struct span reply)
{
    if (s->verb == FRONT_RESET || s->verb == FRONT_POWER_ON) s->powered = true;
    if (s->verb == FRONT_POWER_OFF || s->verb == FRONT_SHUTDOWN) s->powered = false;
    finish(s, OK, reply);
}

/* One timer that is set at most once in a timeout, not once for each commit. */
static void arm_deadline(struct service *s, uint64_t usec)
{
    if (s->deadline_armed) return;
    s->deadline_armed = sd_event_source_set_time(s->deadline, usec) >= 0 &&
                        sd_event_source_set_enabled(s->deadline, SD_EVENT_ONESHOT) >= 0;
}

static struct err begin_store(struct service *s, const struct effects *effects)
{
    ENSURE(effects->reply.size == 0, BAD_VALUE); /* a reply that does not wait for its store */
    TRY(committer_begin(s->committer, effects->store));
    s->storing = true;
    s->store_number = effects->store_number;
    s->store_began = now(s);
    arm_deadline(s, s->store_began + s->options.commit_timeout_usec);
    return OK;
}

static void after_call(struct service *s, struct err result, const struct effects *effects)
{
    if (!result.code && !effects->has_store) {
        succeed(s, effects->reply);
        return;
    }
    if (!result.code) result = begin_store(s, effects);
    if (result.code) break_down(s, result);
}

static void on_stored(void *ctx)
{
    struct service *s = ctx;
    struct effects effects = {0};
    if (!s->storing) return;
    s->storing = false;
    struct err result = machine_stored(s->options.machine, s->store_number, &effects);
    if (!result.code && effects.has_store) result = FAIL(BAD_VALUE);
    if (result.code)
        break_down(s, result);
    else
        succeed(s, effects.reply);
}

static int on_deadline(sd_event_source *source, uint64_t usec, void *ctx)
{
    (void)source, (void)usec;
    struct service *s = ctx;
    s->deadline_armed = false;
    if (!s->storing) return 0;
    uint64_t end = s->store_began + s->options.commit_timeout_usec;
    if (now(s) < end) {
        arm_deadline(s, end);
        return 0;
    }
    committer_give_up(s->committer);
    log_line(LOG_LEVEL_ERROR, "%s: the state is not on the disk after %" PRIu64 " s (--commit-timeout)",
             s->options.instance, s->options.commit_timeout_usec / UINT64_C(1000000));
    break_down(s, FAIL(STATE_IO));
    return 0;
}

/* --- what the front asks for --- */

static void run_command(struct service *s, const struct front_request *request)
{
    struct effects effects = {0};
    if (s->health != HEALTHY) {
        finish(s, FAIL(ENCLAVE_DEAD), span_empty());
        return;
    }
    struct err result = machine_command(s->options.machine, request->locality, request->command, &effects);
    after_call(s, result, &effects);
}

static void run_reset(struct service *s, const struct front_request *request)
{
    (void)request;
    struct effects effects = {0};
    if (s->health == BROKEN) {
        (void)sd_event_exit(s->options.event, SERVICE_REBUILD);
        return;
    }
    if (s->health == AWAITING_RESET) {
        s->health = HEALTHY; /* the machine is new: its TPM is as after _TPM_Init */
        succeed(s, span_empty());
        return;
    }
    struct err result = machine_reset(s->options.machine, &effects);
    after_call(s, result, &effects);
}

static void run_power_on(struct service *s, const struct front_request *request)
{
    if (s->powered && s->health == HEALTHY)
        finish(s, OK, span_empty());
    else
        run_reset(s, request);
}

static void run_power_off(struct service *s, const struct front_request *request)
{
    (void)request;
    struct effects effects = {0};
    if (!s->powered || s->health == AWAITING_RESET) {
        succeed(s, span_empty());
        return;
    }
    if (s->health == BROKEN) {
        s->powered = false;
        /* Off it is. Only an end has to say that the last state was lost. */
        finish(s, s->verb == FRONT_SHUTDOWN ? FAIL(STATE_IO) : OK, span_empty());
        return;
    }
    struct err result = machine_off(s->options.machine, &effects);
    after_call(s, result, &effects);
}

static void (*const verbs[FRONT_VERB_COUNT])(struct service *s, const struct front_request *request) = {
    [FRONT_COMMAND] = run_command,     [FRONT_RESET] = run_reset,        [FRONT_POWER_ON] = run_power_on,
    [FRONT_POWER_OFF] = run_power_off, [FRONT_SHUTDOWN] = run_power_off,
};

static void perform(void *ctx, const struct front_request *request)
{
    struct service *s = ctx;
    if (s->stopping) {
        front_done(s->front, FAIL(TPM_OFF), span_empty());
        return;
    }
    s->busy = true;
    s->verb = request->verb;
    s->stopping = request->verb == FRONT_SHUTDOWN;
    verbs[request->verb](s, request);
}

static void begin_stop(struct service *s)
{
    const struct front_request request = {.verb = FRONT_SHUTDOWN};
    s->busy = s->own_operation = true;
    s->verb = request.verb;
    run_power_off(s, &request);
}

void service_stop(struct service *s)
{
    if (s->stopping) return;
    s->stopping = true;
    if (!s->busy) begin_stop(s);
}

struct front_owner service_owner(struct service *s)
{
    return (struct front_owner){.ctx = s, .perform = perform};
}

void service_attach(struct service *s, struct front *front)
{
    s->front = front;
}

struct err service_open(const struct service_options *options, struct service **out_service)
{
    struct service *s = calloc(1, sizeof *s);
    ENSURE(s, NO_MEMORY);
    s->options = *options;
    s->health = options->awaiting_reset ? AWAITING_RESET : HEALTHY;
    s->powered = true;
    const struct committer_listener listener = {.ctx = s, .stored = on_stored};
    int timer = sd_event_add_time(options->event, &s->deadline, CLOCK_MONOTONIC, UINT64_MAX, TIMER_ACCURACY_USEC,
                                  on_deadline, s);
    struct err result = timer >= 0 && sd_event_source_set_enabled(s->deadline, SD_EVENT_OFF) >= 0
                            ? committer_open(options->event, &options->target, &listener, &s->committer)
                            : FAIL(SYSTEM);
    if (result.code) {
        service_close(&s);
        return result;
    }
    *out_service = s;
    return OK;
}

void service_close(struct service **service)
{
    struct service *s = *service;
    if (!s) return;
    committer_close(&s->committer);
    sd_event_source_disable_unref(s->deadline);
    free(s);
    *service = NULL;
}
