#include "untrusted/instance/service.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "abi/peer.h"
#include "untrusted/host/clock.h"
#include "untrusted/host/log.h"
#include "untrusted/wire/line.h"

/* With more, sd-event reads a file to spread wake-ups, which a confined process may not. */
#define TIMER_ACCURACY_USEC 1
#define LINK_BODY_SIZE      136u

_Static_assert((int)STOP_OFF == (int)INSTANCE_STOP_OFF && (int)STOP_SUSPEND == (int)INSTANCE_STOP_SUSPEND,
               "vtpmd's words are the enclave's");

enum stage { OPENED, GREETED, LOADED, LINKED, STOPPED };

struct service {
    struct service_options options;
    struct line *daemon; /* NULL: there is no connection */
    enum stage stage;
    enum wire_health health;
    bool tpm_failure; /* libtpms is in failure mode */
    bool greeted;     /* the other end of daemon knows who speaks */
    uint64_t start;
    uint8_t link_body[LINK_BODY_SIZE]; /* LINK as it came */
    bool busy;                         /* a record of the front-end is not answered */
    uint8_t verb;                      /* of that record */
    uint64_t began;                    /* µs; when that record came to wait */
    bool waiting;                      /* began is valid */
    size_t kept_size;                  /* bytes of kept; 0: no commit is under way */
    uint64_t kept_version;
    uint8_t receipt[PEER_RECEIPT_SIZE];
    bool candidate; /* incoming, and no holder yet */
    bool stopping;
    enum stop_mode mode;  /* of stopping */
    bool stop_begun;      /* the enclave knows */
    bool front_gone;      /* for good */
    bool ended;           /* the loop was told to end */
    enum service_end end; /* what stopping leads to */
    uint64_t stop_began;  /* 0: not stopping */
    uint64_t named;       /* when the front-end was told; while it is awaited */
    sd_event_source *deadline;
    bool deadline_armed;
    uint64_t commands;
    uint64_t commits;
    uint8_t kept[STATE_MAX]; /* what the commit that is under way has to store */
};

static void begin_stop(struct service *s);
static void stop_as(struct service *s, enum stop_mode mode);
static void carry_out(struct service *s, const struct effects *effects);

/* The first word holds. */
static void end_loop(struct service *s, enum service_end end)
{
    if (s->ended) return;
    s->ended = true;
    /* What it was to take over is with the one that has it; another attempt is another start. */
    if (s->candidate && (end == SERVICE_AGAIN || end == SERVICE_REBUILD)) end = SERVICE_FAILED;
    (void)sd_event_exit(s->options.event, end);
}

/* --- vtpmd --- */

static void daemon_lost(struct service *s, struct err why)
{
    line_close(&s->daemon);
    s->greeted = false;
    if (s->ended) return;
    if (s->stage < LINKED) {
        log_line(LOG_LEVEL_WARNING, "the connection to vtpmd ended before the TPM was on: %s", err_sentence(why));
        end_loop(s, s->stopping ? s->end : SERVICE_AGAIN);
        return;
    }
    if (s->candidate) {
        log_line(LOG_LEVEL_ERROR, "the connection to vtpmd ended (%s) before this process had taken the TPM over",
                 err_sentence(why));
        end_loop(s, SERVICE_FAILED);
        return;
    }
    log_line(LOG_LEVEL_WARNING, "the connection to vtpmd is lost (%s); what changes the TPM's state waits for it",
             err_sentence(why));
    s->options.host.disconnected(s->options.host.ctx);
}

/* After every wire_send_...: one that cannot be made is the end of the connection. */
static void sent(struct service *s, struct err result)
{
    result = line_sent(s->daemon, result);
    if (result.code) daemon_lost(s, result);
}

static enum wire_health health_of(const struct service *s)
{
    return s->health == HEALTH_SERVING && s->tpm_failure ? HEALTH_TPM_FAILURE : s->health;
}

static void tell_health(struct service *s)
{
    const struct health_told told = {health_of(s), s->commands, s->commits};
    if (s->daemon && s->greeted) sent(s, wire_send_health(line_stream(s->daemon), &told));
}

static void set_health(struct service *s, enum wire_health health)
{
    enum wire_health before = health_of(s);
    s->health = health;
    if (health_of(s) != before) tell_health(s);
}

static void tell_peer(struct service *s, struct span message, bool is_commit)
{
    if (!s->daemon) return; /* what matters is said again on the next session */
    struct wire_stream *stream = line_stream(s->daemon);
    sent(s, is_commit ? wire_send_commit(stream, s->kept_version, span_of(s->kept, s->kept_size), message)
                      : wire_send(stream, WIRE_PEER, &message, 1));
}

static void deliver_receipt(struct service *s)
{
    const struct span receipt = span_of(s->receipt, sizeof s->receipt);
    if (s->daemon) sent(s, wire_send(line_stream(s->daemon), WIRE_RECEIPT, &receipt, 1));
}

/* --- time: one timer that is set at most once in a timeout, not once for each commit --- */

static void arm_deadline(struct service *s, uint64_t usec)
{
    if (s->deadline_armed) return;
    s->deadline_armed = sd_event_source_set_time(s->deadline, usec) >= 0 &&
                        sd_event_source_set_enabled(s->deadline, SD_EVENT_ONESHOT) >= 0;
}

static void begin_waiting(struct service *s)
{
    s->waiting = true;
    s->began = clock_now_usec();
    arm_deadline(s, s->began + s->options.commit_timeout_usec);
}

/* --- the end of what was asked --- */

static void break_down(struct service *s, struct err why)
{
    const bool serves = s->health != HEALTH_AWAITING_FRONT; /* else there is no client to whom it could fail */
    uint16_t vector = 0;
    uint64_t address = 0;
    if (why.code == ERR_SGX_FAULT) {
        s->options.host.fault(s->options.host.ctx, &vector, &address);
        log_line(LOG_LEVEL_ERROR, "the enclave faulted with vector %u at address %#" PRIx64, vector, address);
    }
    log_line(LOG_LEVEL_ERROR, "%s; %s", err_sentence(why),
             serves
                 ? "every command is answered TPM_RC_FAILURE until the machine is reset, and goes on from the newest "
                   "recorded state then"
                 : "it has not served yet, and this begins anew with another enclave");
    s->busy = s->waiting = false;
    set_health(s, HEALTH_BROKEN);
    s->options.front.failed(s->options.front.ctx, why);
    if (s->stopping)
        begin_stop(s);
    else if (!serves)
        end_loop(s, SERVICE_AGAIN);
}

/* A record of the enclave answers what the front-end asked; it may ask the next thing before this returns. */
static void answer(struct service *s, struct span record)
{
    if (s->busy && s->verb == K2_RESET && s->health == HEALTH_AWAITING_RESET) set_health(s, HEALTH_SERVING);
    s->busy = s->waiting = false;
    s->options.front.record(s->options.front.ctx, record);
}

/* --- what the enclave wants done --- */

static void keep_state(struct service *s, const struct effects *effects)
{
    memcpy(s->kept, effects->store.data, effects->store.size);
    s->kept_size = effects->store.size;
    s->kept_version = effects->version;
    s->commits++;
    s->candidate = false; /* only a holder commits */
}

static void carry_out(struct service *s, const struct effects *effects)
{
    bool ready = s->stage < LINKED && effects->peer_count && !effects->store.size; /* or there was no commit yet */
    bool settled = ready || effects->record.size || effects->receipt.size;
    if (settled) s->kept_size = 0;
    if (effects->store.size) keep_state(s, effects);
    for (size_t i = 0; i < effects->peer_count; i++)
        tell_peer(s, effects->peers[i], i == 0 && effects->store.size > 0);
    if (effects->health) {
        enum wire_health before = health_of(s);
        s->tpm_failure = effects->health == INSTANCE_TPM_FAILURE_MODE;
        if (health_of(s) != before) tell_health(s);
    }
    if (effects->receipt.size) {
        memcpy(s->receipt, effects->receipt.data, effects->receipt.size);
        s->stage = STOPPED;
    }
    if (s->busy && !effects->record.size && !s->waiting) begin_waiting(s);
    if (effects->record.size) answer(s, effects->record);
    if (effects->receipt.size)
        deliver_receipt(s);
    else if (s->stopping && settled && !s->busy)
        begin_stop(s);
}

/* --- words of vtpmd --- */

static bool is_lost(struct err result)
{
    return result.code == ERR_SGX_FAULT || result.code == ERR_ENCLAVE_DEAD;
}

/* The enclave refused what vtpmd sent. That is the end of the connection, unless it is the end of the enclave. */
static void refused_by_enclave(struct service *s, const char *what, struct err why)
{
    if (s->stage >= LINKED && is_lost(why)) {
        break_down(s, why);
        return;
    }
    log_line(LOG_LEVEL_ERROR, "the enclave does not take %s of vtpmd: %s", what, err_sentence(why));
    daemon_lost(s, why);
}

/* After CONFIRM of a resumed session comes the COMMIT that was under way; its state is kept. */
static void on_peer(struct service *s, struct span message)
{
    struct effects effects = {0};
    if (message.size == 0) {
        daemon_lost(s, FAIL(PROTOCOL));
        return;
    }
    if (s->health == HEALTH_BROKEN || s->stage == STOPPED) return;
    const uint8_t kind = message.data[0];
    struct err result = machine_peer(s->options.machine, message, &effects);
    if (result.code) {
        refused_by_enclave(s, "a message", result);
        return;
    }
    if (kind == PEER_ADMIT) s->options.host.admitted(s->options.host.ctx);
    if (kind != PEER_ACCEPT || s->kept_size == 0) {
        carry_out(s, &effects);
        return;
    }
    for (size_t i = 0; i < effects.peer_count; i++)
        tell_peer(s, effects.peers[i], i == 1);
}

static void on_state(struct service *s, struct span body)
{
    struct effects effects = {0};
    uint64_t version = 0;
    struct span state;
    struct err result = wire_parse_state(body, &version, &state);
    if (!result.code && s->stage != GREETED) result = FAIL(PROTOCOL);
    if (result.code) {
        daemon_lost(s, result);
        return;
    }
    result = machine_load(s->options.machine, state, &effects);
    if (result.code) {
        log_line(LOG_LEVEL_ERROR, "the state of version %" PRIu64 " cannot be opened: %s", version,
                 err_sentence(result));
        (void)wire_send_refused(line_stream(s->daemon), result).code; /* for whoever asks vtpmd why */
        end_loop(s, SERVICE_FAILED);
        return;
    }
    s->stage = LOADED;
    carry_out(s, &effects);
}

static void on_link(struct service *s, struct span body)
{
    struct link_told told;
    struct err result = wire_parse_link(body, &told);
    if (!result.code && s->stage >= LINKED) {
        if (memcmp(s->link_body, body.data, sizeof s->link_body) == 0) return;
        result = FAIL(PROTOCOL);
    }
    if (!result.code && s->stage != LOADED) result = FAIL(PROTOCOL);
    if (result.code) {
        daemon_lost(s, result);
        return;
    }
    memcpy(s->link_body, body.data, sizeof s->link_body);
    s->stage = LINKED;
    s->start = told.binding.start;
    result = s->options.front.linked(s->options.front.ctx, &told);
    if (!result.code && s->health == HEALTH_AWAITING_FRONT) {
        s->named = clock_now_usec();
        arm_deadline(s, s->named + s->options.commit_timeout_usec);
    }
    if (!result.code) return;
    log_line(LOG_LEVEL_ERROR, "no session with the enclave: %s", err_sentence(result));
    end_loop(s, SERVICE_FAILED);
}

/* Nothing that is tried again would change these. */
static bool is_final(struct err why)
{
    static const uint16_t codes[] = {ERR_FENCED,     ERR_DELETED,        ERR_NO_INSTANCE,
                                     ERR_VERB_STATE, ERR_FRONT_ENROLLED, ERR_RECEIPT};
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (codes[i] == why.code) return true;
    return false;
}

static void on_refused(struct service *s, struct span body)
{
    struct err why = OK;
    struct err result = wire_parse_refused(body, &why);
    if (result.code) {
        daemon_lost(s, result);
        return;
    }
    if (s->stage == STOPPED && why.code == ERR_FENCED) {
        end_loop(s, s->end); /* there is no holder: the receipt was recorded, and the word of it was lost */
        return;
    }
    log_line(LOG_LEVEL_ERROR, "vtpmd refuses: %s", err_sentence(why));
    if (is_final(why))
        end_loop(s, SERVICE_FAILED);
    else
        daemon_lost(s, why);
}

static void on_stop(struct service *s, struct span body)
{
    enum stop_mode mode = STOP_OFF;
    struct err result = wire_parse_stop(body, &mode);
    if (result.code)
        daemon_lost(s, result);
    else
        stop_as(s, mode);
}

static void on_recorded(struct service *s, struct span body)
{
    (void)body;
    if (s->stage == STOPPED)
        end_loop(s, s->end);
    else
        daemon_lost(s, FAIL(PROTOCOL));
}

static void on_ask_health(struct service *s, struct span body)
{
    (void)body;
    tell_health(s);
}

static void on_frame(void *ctx, const struct wire_frame *frame)
{
    static void (*const rows[])(struct service * s, struct span body) = {
        [WIRE_PEER] = on_peer,         [WIRE_STATE] = on_state, [WIRE_LINK] = on_link,
        [WIRE_REFUSED] = on_refused,   [WIRE_STOP] = on_stop,   [WIRE_ASK_HEALTH] = on_ask_health,
        [WIRE_RECORDED] = on_recorded,
    };
    struct service *s = ctx;
    if (frame->kind < sizeof rows / sizeof rows[0] && rows[frame->kind])
        rows[frame->kind](s, frame->body);
    else
        daemon_lost(s, FAIL(PROTOCOL));
}

static void on_ended(void *ctx, struct err why)
{
    daemon_lost(ctx, why);
}

/* --- connections --- */

static void greet(struct service *s)
{
    struct hello_instance hello = {
        .serving = s->stage >= LINKED,
        .separate_front = s->options.separate_front,
        .id = s->options.id,
        .start = s->start,
    };
    if (!hello.serving) memcpy(hello.front_share, s->options.front_share, sizeof hello.front_share);
    if (s->stage == OPENED) s->stage = GREETED;
    s->greeted = true;
    sent(s, wire_send_hello_instance(line_stream(s->daemon), &hello));
}

static void resume(struct service *s)
{
    struct effects effects = {0};
    struct err result = machine_resume(s->options.machine, &effects);
    if (result.code)
        refused_by_enclave(s, "a new connection", result);
    else
        carry_out(s, &effects);
}

void service_connect(struct service *s, int fd)
{
    const struct line_owner owner = {.ctx = s, .frame = on_frame, .ended = on_ended};
    line_close(&s->daemon);
    struct err result = line_open(s->options.event, fd, WIRE_BODY_MAX, &owner, &s->daemon);
    if (result.code) {
        daemon_lost(s, result);
        return;
    }
    greet(s);
    if (s->daemon && s->stage == STOPPED)
        deliver_receipt(s);
    else if (s->daemon && s->stage == LINKED && s->health != HEALTH_BROKEN)
        resume(s);
    if (s->daemon && (s->stage == LINKED || s->options.separate_front)) tell_health(s);
}

/* --- the front-end --- */

/* What the front-end sent is no record of its session: the session is over, the enclave is not. */
static void refuse_front(struct service *s, struct err why)
{
    log_line(LOG_LEVEL_ERROR, "the enclave does not take a record of the front-end: %s", err_sentence(why));
    s->busy = s->waiting = false;
    s->options.front.failed(s->options.front.ctx, why);
    service_front_gone(s);
}

/* One that waits to be suspended may be refused yet, so its front-end must not see a failure. */
static bool takes_nothing(const struct service *s)
{
    return s->health == HEALTH_BROKEN || (s->stopping && (s->mode == STOP_OFF || s->stop_begun));
}

struct err service_record(struct service *s, uint8_t verb, struct span record)
{
    struct effects effects = {0};
    ENSURE(s->stage == LINKED && !s->busy, LINK_ORDER);
    if (takes_nothing(s)) {
        s->options.front.failed(s->options.front.ctx, FAIL(TPM_OFF));
        return OK;
    }
    s->busy = true;
    s->verb = verb;
    if (verb == K2_COMMAND) s->commands++;
    struct err result = machine_record(s->options.machine, record, &effects);
    if (!result.code)
        carry_out(s, &effects);
    else if (s->options.separate_front && !is_lost(result))
        refuse_front(s, result);
    else
        break_down(s, result);
    return OK;
}

void service_serving(struct service *s)
{
    set_health(s, s->options.awaiting_reset ? HEALTH_AWAITING_RESET : HEALTH_SERVING);
}

void service_relink(struct service *s)
{
    if (s->stopping)
        s->options.front.failed(s->options.front.ctx, FAIL(TPM_OFF));
    else
        end_loop(s, SERVICE_REBUILD);
}

/* --- the end --- */

static void begin_stop_time(struct service *s)
{
    s->stop_began = clock_now_usec();
    arm_deadline(s, s->stop_began + s->options.commit_timeout_usec);
}

/* The TPM was lost under its machine, which has not been told yet; what is suspended now would never tell it. */
static bool owes_a_failure(const struct service *s)
{
    return s->health == HEALTH_AWAITING_RESET || (s->health == HEALTH_AWAITING_FRONT && s->options.awaiting_reset);
}

static struct err may_suspend(const struct service *s)
{
    ENSURE(s->stage >= LOADED && !s->candidate, VERB_STATE);
    ENSURE(s->health != HEALTH_BROKEN, ENCLAVE_DEAD);
    ENSURE(!owes_a_failure(s), TPM_FAILED);
    return OK;
}

/* The service goes on. */
static void refuse_suspend(struct service *s, struct err why)
{
    log_line(LOG_LEVEL_WARNING, "it is not suspended, and goes on: %s", err_sentence(why));
    s->stopping = s->stop_begun = false;
    s->stop_began = 0;
    if (s->daemon && s->greeted) sent(s, wire_send_stop_refused(line_stream(s->daemon), why));
    if (s->front_gone) service_front_gone(s);
}

static void begin_suspend(struct service *s)
{
    struct effects effects = {0};
    struct err result = may_suspend(s);
    if (!result.code) result = machine_stop(s->options.machine, INSTANCE_STOP_SUSPEND, &effects);
    if (result.code) {
        refuse_suspend(s, result);
        if (is_lost(result) && s->health != HEALTH_BROKEN) break_down(s, result);
        return;
    }
    begin_stop_time(s);
    carry_out(s, &effects);
}

static void begin_stop(struct service *s)
{
    struct effects effects = {0};
    if (s->stop_begun) return;
    s->stop_begun = true;
    if (s->mode == STOP_SUSPEND) {
        begin_suspend(s);
        return;
    }
    if (s->stage < LOADED || s->candidate) {
        end_loop(s, s->end);
        return;
    }
    struct err result =
        s->health == HEALTH_BROKEN ? FAIL(ENCLAVE_DEAD) : machine_stop(s->options.machine, INSTANCE_STOP_OFF, &effects);
    if (result.code) {
        log_line(LOG_LEVEL_ERROR,
                 "this ends without a receipt (%s); the next start needs vtpmd's word that this one is dead",
                 err_sentence(result));
        end_loop(s, s->end == SERVICE_ENDED ? SERVICE_FAILED : s->end);
        return;
    }
    begin_stop_time(s);
    carry_out(s, &effects);
}

static void stop_with(struct service *s, enum stop_mode mode, enum service_end end)
{
    if (s->stopping) return;
    s->stopping = true;
    s->mode = mode;
    s->end = end;
    begin_stop_time(s);
    if (!s->busy && s->kept_size == 0) begin_stop(s);
}

static void stop_as(struct service *s, enum stop_mode mode)
{
    if (s->stopping) s->end = SERVICE_ENDED; /* whatever the end was to be followed by */
    if (s->stopping && !s->stop_begun && mode == STOP_OFF) s->mode = STOP_OFF; /* which cannot be refused */
    stop_with(s, mode, SERVICE_ENDED);
}

void service_stop(struct service *s)
{
    stop_as(s, STOP_OFF);
}

void service_front_gone(struct service *s)
{
    s->front_gone = true;
    if (s->health == HEALTH_BROKEN && !s->stopping)
        end_loop(s, SERVICE_AGAIN);
    else
        stop_with(s, STOP_OFF, SERVICE_AGAIN);
}

static void stop_overdue(struct service *s)
{
    if (s->mode == STOP_SUSPEND && !s->stop_begun) {
        refuse_suspend(s, FAIL(TIMEOUT));
        return;
    }
    log_line(LOG_LEVEL_ERROR,
             s->stage == STOPPED ? "the TPM is off, but its receipt was not recorded: vtpmd was not there for %" PRIu64
                                   " s; the next start needs its word that this one is dead"
                                 : "the TPM's last state was not recorded within %" PRIu64
                                   " s (--commit-timeout); this ends without a receipt",
             s->options.commit_timeout_usec / UINT64_C(1000000));
    end_loop(s, SERVICE_FAILED);
}

static void operation_overdue(struct service *s)
{
    log_line(LOG_LEVEL_ERROR, "vtpmd has not confirmed what was asked after %" PRIu64 " s (--commit-timeout)",
             s->options.commit_timeout_usec / UINT64_C(1000000));
    break_down(s, FAIL(LEASE));
}

/* The share that the enclave was given is of use to that front-end only. */
static void front_overdue(struct service *s)
{
    log_line(LOG_LEVEL_ERROR, "the front-end that registered has not come; this begins anew for another");
    service_front_gone(s);
}

static bool awaits_front(const struct service *s)
{
    return s->named && s->health == HEALTH_AWAITING_FRONT && !s->stopping;
}

static int on_deadline(sd_event_source *source, uint64_t usec, void *ctx)
{
    (void)source, (void)usec;
    struct service *s = ctx;
    const uint64_t time = clock_now_usec();
    const uint64_t timeout = s->options.commit_timeout_usec;
    s->deadline_armed = false;
    if (s->waiting && time >= s->began + timeout)
        operation_overdue(s);
    else if (s->stop_began && time >= s->stop_began + timeout)
        stop_overdue(s);
    else if (awaits_front(s) && time >= s->named + timeout)
        front_overdue(s);
    if (s->waiting)
        arm_deadline(s, s->began + timeout);
    else if (s->stop_began)
        arm_deadline(s, s->stop_began + timeout);
    else if (awaits_front(s))
        arm_deadline(s, s->named + timeout);
    return 0;
}

struct err service_open(const struct service_options *options, struct service **out_service)
{
    struct service *s = calloc(1, sizeof *s);
    ENSURE(s, NO_MEMORY);
    s->options = *options;
    s->health = HEALTH_AWAITING_FRONT;
    s->candidate = options->incoming;
    int timer = sd_event_add_time(options->event, &s->deadline, CLOCK_MONOTONIC, UINT64_MAX, TIMER_ACCURACY_USEC,
                                  on_deadline, s);
    if (timer < 0 || sd_event_source_set_enabled(s->deadline, SD_EVENT_OFF) < 0) {
        service_close(&s);
        return FAIL(SYSTEM);
    }
    *out_service = s;
    return OK;
}

void service_close(struct service **service)
{
    struct service *s = *service;
    if (!s) return;
    line_close(&s->daemon);
    sd_event_source_disable_unref(s->deadline);
    free(s);
    *service = NULL;
}
