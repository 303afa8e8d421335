/*
 * Start and rebuild: from the wish to a TPM that serves. See lifecycle.h.
 */
#include <signal.h>
#include <string.h>

#include "untrusted/daemon/acts.h"
#include "untrusted/daemon/connections.h"
#include "untrusted/daemon/handed.h"
#include "untrusted/daemon/lifecycle.h"
#include "untrusted/daemon/settings.h"
#include "untrusted/daemon/spawn.h"
#include "untrusted/host/clock.h"
#include "untrusted/host/log.h"

#define START_EXTRA_SECONDS 20u /* from the process to the serving TPM, beyond what a commit may take */
#define BACK_OFF_FIRST_MS   100u
#define BACK_OFF_MAX_MS     60000u
#define QUIET_SECONDS       60u /* an instance that served longer makes up for the deaths before it */
#define USEC_PER_MSEC       UINT64_C(1000)

/* --- rebuild -------------------------------------------------------------------------------------------------------
 */

/* Nobody waits for it. What the operator wants decides where it leads. */
static int on_rebuild(sd_event_source *source, uint64_t usec, void *ctx)
{
    (void)source, (void)usec;
    struct instance *i = ctx;
    bool held = i->row.state == MANAGER_HELD;
    lifecycle_set_timer(i, 0, NULL);
    if (i->act.kind != ACT_NONE && !lifecycle_is_starting(i)) return 0; /* somebody decided otherwise meanwhile */
    if (i->act.kind == ACT_NONE) lifecycle_begin(i, &(struct act){.kind = i->wanted ? ACT_RESTART : ACT_STOP});
    i->rebuilding = lifecycle_is_starting(i) && (held || i->row.state == MANAGER_ALLOWED);
    if (held && !lifecycle_holder_is_gone(i))
        lifecycle_finish(i, FAIL(HELD), i->reason);
    else if (held || i->act.kind == ACT_STOP)
        lifecycle_declare_dead(i);
    else if (lifecycle_is_free(i))
        start_begin(i);
    return 0;
}

void lifecycle_schedule_rebuild(struct instance *instance)
{
    struct instance *i = instance;
    char reason[REASON_SIZE];
    if (i->handed && !handed_can_serve(i->handed)) i->wanted = false;
    if (!i->supervisor->config->rebuild || i->refused) return;
    if (i->serving_since && clock_now_usec() - i->serving_since > QUIET_SECONDS * USEC_PER_SEC) i->back_off_ms = 0;
    i->serving_since = 0;
    i->back_off_ms = i->back_off_ms ? 2 * i->back_off_ms : BACK_OFF_FIRST_MS;
    if (i->back_off_ms > BACK_OFF_MAX_MS) i->back_off_ms = BACK_OFF_MAX_MS;
    if (i->wanted) {
        (void)snprintf(reason, sizeof reason, "%.150s; it is rebuilt in %.1f s", i->reason, i->back_off_ms / 1000.0);
        lifecycle_set_reason(i, reason);
    }
    lifecycle_set_timer(i, i->back_off_ms * USEC_PER_MSEC, on_rebuild);
}

/* --- start ---------------------------------------------------------------------------------------------------------
 */

void lifecycle_start_failed(struct instance *instance, struct err why, const char *reason)
{
    struct instance *i = instance;
    bool again = i->rebuilding || i->act.kind == ACT_RESTART;
    lifecycle_set_timer(i, 0, NULL);
    lifecycle_set_reason(i, reason);
    log_line(LOG_LEVEL_ERROR, "%s: not started: %s", i->row.label, reason);
    lifecycle_event(i, "failed", json_pack("{s:s}", "reason", reason));
    lifecycle_end_process(i, SIGTERM);
    if (!i->process) i->phase = PHASE_IDLE;
    i->rebuilding = false;
    if (lifecycle_is_starting(i)) lifecycle_finish(i, why, i->reason);
    if (again && i->act.kind == ACT_NONE) lifecycle_schedule_rebuild(i);
    spawn_finished(i);
}

static int on_start_timeout(sd_event_source *source, uint64_t usec, void *ctx)
{
    (void)source, (void)usec;
    lifecycle_start_failed(ctx, FAIL(TIMEOUT), "it did not serve in time; its process was ended");
    return 0;
}

static void set_start_timer(struct instance *i)
{
    lifecycle_set_timer(i, (i->supervisor->config->commit_timeout + START_EXTRA_SECONDS) * USEC_PER_SEC,
                        on_start_timeout);
}

static void on_start_reply(void *ctx, struct err result, struct reader *results)
{
    struct instance *i = ctx;
    if (i->supervisor->ending) return;
    bool started = lifecycle_take_row(i, result, results);
    if (!lifecycle_is_starting(i)) return; /* called off, or it has failed already */
    if (!started) {
        if (result.code == ERR_HELD) {
            i->row.state = MANAGER_HELD; /* admitted, and lost before it served */
            i->rebuilding = lifecycle_holder_is_gone(i);
        }
        lifecycle_start_failed(i, result, err_sentence(result));
        return;
    }
    lifecycle_event(i, "starting", NULL);
    if (i->act.kind == ACT_START && !i->act.wait) lifecycle_finish(i, OK, NULL);
}

void start_begin(struct instance *instance)
{
    struct instance *i = instance;
    lifecycle_set_timer(i, 0, NULL);
    lifecycle_set_reason(i, NULL);
    i->refused = false;
    struct err result = lifecycle_ask(i, MANAGER_START_INSTANCE, on_start_reply);
    if (result.code) lifecycle_start_failed(i, result, err_sentence(result));
}

void lifecycle_create_enclave(struct instance *instance)
{
    struct instance *i = instance;
    if (i->act.kind == ACT_STOP || i->act.kind == ACT_DELETE) return;
    i->row.state = MANAGER_ALLOWED;
    if (i->phase == PHASE_GREETED) {
        set_start_timer(i);
        lifecycle_greeted(i);
    } else if (i->phase == PHASE_IDLE) {
        spawn_enqueue(i);
    }
}

void lifecycle_spawned(struct instance *instance)
{
    instance->phase = PHASE_SPAWNED;
    set_start_timer(instance);
}

static void on_attached(void *ctx, struct err result, struct reader *results)
{
    (void)results;
    struct instance *i = ctx;
    if (i->supervisor->ending) return;
    if (!result.code || !i->connection) return;
    if (result.code == ERR_HELD && i->phase == PHASE_ATTACHED) {
        /* The enclave before it was admitted and never served. */
        i->row.state = MANAGER_HELD;
        i->connection->channel = 0;
        i->connection->has_share = !i->connection->separate;
        i->phase = PHASE_GREETED;
        lifecycle_greeted(i);
        return;
    }
    lifecycle_refused(i, result);
    if (i->connection) connections_refuse(i->connection, result);
}

static void attach(struct instance *i, struct connection *front)
{
    uint8_t bytes[INSTANCE_ID_SIZE + 8 + X25519_SIZE];
    struct writer w = writer_of(bytes, sizeof bytes);
    bool fits = !write_bytes(&w, i->row.id.bytes, INSTANCE_ID_SIZE).code &&
                !write_u64(&w, connections_channel(i->connection)).code &&
                !write_bytes(&w, front->share, X25519_SIZE).code;
    front->has_share = false; /* a share is used once */
    i->phase = PHASE_ATTACHED;
    struct err result =
        fits ? manager_ask(i->supervisor->manager, MANAGER_ATTACH, writer_span(&w), on_attached, i) : FAIL(NO_SPACE);
    if (result.code) lifecycle_start_failed(i, result, err_sentence(result));
}

/* As far as a start goes without one. */
static void await_front(struct instance *i)
{
    lifecycle_set_timer(i, 0, NULL);
    if (i->health != HEALTH_AWAITING_FRONT) {
        i->health = HEALTH_AWAITING_FRONT;
        lifecycle_event(i, "health", json_pack("{s:s}", "health", "awaiting front-end"));
    }
    if (lifecycle_is_starting(i)) lifecycle_finish(i, OK, NULL);
    spawn_finished(i);
}

/* The process of a start that has ended with a receipt has made a new enclave; its operator wants it to run. */
static void follow_up(struct instance *i)
{
    if (lifecycle_is_starting(i) && !i->waits) return; /* asked for already */
    if (i->act.kind == ACT_NONE) lifecycle_begin(i, &(struct act){.kind = ACT_RESTART});
    lifecycle_go_on(i);
}

void lifecycle_greeted(struct instance *instance)
{
    struct instance *i = instance;
    struct connection *front = i->connection->separate ? i->front : i->connection;
    if (i->receipt_given) return; /* the manager's answer decides */
    if (i->row.state == MANAGER_HELD) {
        lifecycle_set_reason(i, "its enclave was lost and its process began anew");
        lifecycle_event(i, "failed", json_pack("{s:s}", "reason", i->reason));
        log_line(LOG_LEVEL_ERROR, "%s: %s", i->row.label, i->reason);
        if (!i->timer || !i->rebuilding) lifecycle_schedule_rebuild(i);
    } else if (i->row.state == MANAGER_ALLOWED && front && front->has_share) {
        attach(i, front);
    } else if (i->row.state == MANAGER_ALLOWED) {
        await_front(i);
    } else {
        follow_up(i);
    }
}

void lifecycle_started(struct instance *instance)
{
    struct instance *i = instance;
    lifecycle_set_timer(i, 0, NULL);
    lifecycle_set_reason(i, NULL);
    i->row.state = MANAGER_HELD;
    i->phase = PHASE_SERVING;
    i->serving_since = clock_now_usec();
    if (i->health == HEALTH_AWAITING_FRONT) i->health = 0;
    if (i->rebuilding) i->rebuilds++;
    lifecycle_event(i, i->rebuilding ? "rebuilt" : "started", NULL);
    i->rebuilding = false;
    if (lifecycle_is_starting(i)) lifecycle_finish(i, OK, NULL);
    spawn_finished(i);
}

/* A stop that was asked for may have been cut off by vtpmd's own end. */
void lifecycle_resumed(struct instance *instance)
{
    struct instance *i = instance;
    lifecycle_set_timer(i, 0, NULL);
    lifecycle_set_reason(i, NULL);
    i->phase = PHASE_SERVING;
    i->serving_since = clock_now_usec();
    if (i->wanted || i->act.kind != ACT_NONE) return;
    lifecycle_begin(i, &(struct act){.kind = ACT_STOP});
    stop_end_holder(i);
}

static void on_taken_row(void *ctx, struct err result, struct reader *results)
{
    struct instance *i = ctx;
    if (!i->supervisor->ending) (void)lifecycle_take_row(i, result, results);
}

void lifecycle_taken_over(struct instance *instance)
{
    struct instance *i = instance;
    if (i->act.kind != ACT_NONE)
        lifecycle_finish(i, FAIL(VERB_STATE), "another process of it has taken over meanwhile");
    lifecycle_set_timer(i, 0, NULL);
    lifecycle_set_reason(i, NULL);
    i->row.state = MANAGER_HELD;
    i->row.start++; /* as the manager has recorded; the rest of the row follows */
    i->phase = PHASE_SERVING;
    i->serving_since = clock_now_usec();
    i->health = HEALTH_SERVING;
    i->fenced = i->rebuilding = false;
    i->wanted = true;
    settings_save(i, NULL); /* where it listens, too */
    log_line(LOG_LEVEL_NOTICE, "%s: process %d has taken over; the one before it is fenced", i->row.label,
             (int)i->identity.pid);
    lifecycle_event(i, "taken-over", json_pack("{s:i}", "pid", (int)i->identity.pid));
    struct err result = lifecycle_ask(i, MANAGER_SHOW, on_taken_row);
    if (result.code) log_line(LOG_LEVEL_ERROR, "%s: its row: %s", i->row.label, err_sentence(result));
}

void lifecycle_refused(struct instance *instance, struct err why)
{
    struct instance *i = instance;
    lifecycle_event(i, "refused", json_pack("{s:s}", "reason", err_sentence(why)));
    if ((lifecycle_is_starting(i) && !i->waits) || i->row.state == MANAGER_ALLOWED)
        lifecycle_start_failed(i, why, err_sentence(why));
    else
        lifecycle_set_reason(i, err_sentence(why));
}

/* NULL: it may start. */
static const char *why_not(const struct instance *i, bool declare_dead, struct err *out_error)
{
    bool rebuild_is_due = i->timer && i->phase <= PHASE_GREETED;
    bool runs = i->row.state == MANAGER_ALLOWED || i->row.state == MANAGER_HELD;
    bool failed = strcmp(instance_state(i), "failed") == 0;
    bool gone = i->supervisor->config->rebuild && lifecycle_holder_is_gone(i);
    *out_error = FAIL(DELETED);
    if (i->row.state == MANAGER_DELETED) return err_sentence(*out_error);
    *out_error = FAIL(MOVED);
    if (i->row.state == MANAGER_MOVED) return err_sentence(*out_error);
    *out_error = FAIL(VERB_STATE);
    if (i->act.kind != ACT_NONE || (runs && i->phase > PHASE_IDLE && !failed && !rebuild_is_due))
        return "it is running, or another request about it is under way";
    *out_error = FAIL(HELD);
    if (i->row.state == MANAGER_HELD && !declare_dead && !gone) return i->reason;
    return NULL;
}

void act_start(struct instance *instance, bool declare_dead, bool wait, act_done *done, void *ctx)
{
    struct instance *i = instance;
    struct err result = OK;
    const char *reason = why_not(i, declare_dead, &result);
    if (reason) {
        lifecycle_refuse(i, result, reason, done, ctx);
        return;
    }
    lifecycle_set_timer(i, 0, NULL);
    lifecycle_begin(i, &(struct act){.kind = ACT_START, .wait = wait, .done = done, .ctx = ctx});
    i->rebuilding = false;
    settings_want(i, true);
    if (i->row.state != MANAGER_HELD) {
        if (lifecycle_is_free(i)) start_begin(i);
        return;
    }
    log_line(LOG_LEVEL_WARNING, "%s: the operator %s", i->row.label,
             declare_dead ? "declares its holder dead" : "starts it anew; the process of its holder is gone");
    if (i->phase != PHASE_GREETED) lifecycle_end_process(i, SIGKILL);
    lifecycle_declare_dead(i);
}

/* --- after a start of vtpmd ----------------------------------------------------------------------------------------
 */

static void adopt_living(struct instance *i)
{
    i->phase = PHASE_SPAWNED;
    if (i->row.state == MANAGER_HELD) {
        lifecycle_set_reason(i, "its process has not connected to this vtpmd yet");
    } else if (i->row.state == MANAGER_ALLOWED) {
        lifecycle_begin(i, &(struct act){.kind = ACT_RESTART});
        set_start_timer(i);
    } else if (i->wanted) {
        /* It ends, or says that it has a new enclave. */
        lifecycle_begin(i, &(struct act){.kind = ACT_RESTART});
        (void)lifecycle_is_free(i);
    }
}

void lifecycle_adopt(struct instance *instance)
{
    struct instance *i = instance;
    if (i->row.state == MANAGER_DELETED || i->row.state == MANAGER_MOVED) return;
    const struct store_process identity = i->identity;
    if (i->has_identity && !connections_adopt(i, &identity).code) {
        adopt_living(i);
        return;
    }
    if (i->handed) {
        i->wanted = false; /* nobody has the sockets any more */
        handed_settle(i);
    }
    if (i->row.state == MANAGER_HELD) {
        lifecycle_set_reason(i, i->has_identity ? "its process is gone" : "which process holds it is not known");
        if (i->has_identity) lifecycle_schedule_rebuild(i);
    } else if (i->row.state == MANAGER_ALLOWED) {
        lifecycle_set_reason(i, "it was not started yet");
        lifecycle_schedule_rebuild(i);
    } else if (i->wanted) {
        lifecycle_set_timer(i, 0, on_rebuild);
    }
}
