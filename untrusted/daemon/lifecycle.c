#include "untrusted/daemon/lifecycle.h"

#include <signal.h>
#include <string.h>
#include <time.h>

#include "untrusted/daemon/acts.h"
#include "untrusted/daemon/settings.h"
#include "untrusted/host/log.h"

#define LEAVE_SECONDS       10u    /* for a process that holds nothing any more to end */
#define TIMER_ACCURACY_USEC 10000u /* how late a timer may be; sd-event would take 250 ms */

static void arm(struct instance *i, sd_event_source **source, uint64_t usec, sd_event_time_handler_t handler)
{
    *source = sd_event_source_disable_unref(*source);
    if (!handler) return;
    if (sd_event_add_time_relative(i->supervisor->event, source, CLOCK_MONOTONIC, usec, TIMER_ACCURACY_USEC, handler,
                                   i) < 0)
        log_line(LOG_LEVEL_ERROR, "%s: a timer could not be set", i->row.label);
}

void lifecycle_set_timer(struct instance *instance, uint64_t usec, sd_event_time_handler_t handler)
{
    arm(instance, &instance->timer, usec, handler);
}

void lifecycle_set_reason(struct instance *instance, const char *reason)
{
    if (reason != instance->reason)
        (void)snprintf(instance->reason, sizeof instance->reason, "%s", reason ? reason : "");
}

void lifecycle_end_process(struct instance *instance, int signal)
{
    if (instance->process) process_signal(instance->process, signal);
}

void lifecycle_event(struct instance *instance, const char *name, json_t *more)
{
    char id[ID_TEXT_SIZE];
    id_format(&instance->row.id, id);
    json_t *data = json_pack("{s:s, s:s, s:I, s:I}", "id", id, "label", instance->row.label, "start",
                             (json_int_t)instance->row.start, "epoch", (json_int_t)instance->row.epoch);
    if (more) (void)json_object_update(data, more);
    json_decref(more);
    events_add(instance->supervisor->events, name, data);
}

/* --- the act -------------------------------------------------------------------------------------------------------
 */

static const char *how_far(const struct instance *i)
{
    static const char *const words[] = {
        [PHASE_IDLE] = "it is not recorded yet; see to the disk of the state directory",
        [PHASE_QUEUED] = "others are being started before it",
        [PHASE_SPAWNED] = "its process is there and has not connected",
        [PHASE_GREETED] = "its enclave is there; the manager has not allowed the start yet",
        [PHASE_ATTACHED] = "its enclave is there and is not admitted yet",
        [PHASE_SERVING] = "its enclave has not ended yet",
    };
    return i->waits ? "the process before it has not ended" : words[i->phase];
}

/* Whoever asked is answered; the act goes on. */
static int on_answer_due(sd_event_source *source, uint64_t usec, void *ctx)
{
    (void)source, (void)usec;
    struct instance *i = ctx;
    const struct act act = i->act;
    char reason[REASON_SIZE];
    arm(i, &i->answer_timer, 0, NULL);
    i->act.done = NULL;
    (void)snprintf(reason, sizeof reason, "it was not done in time and goes on: %s", how_far(i));
    if (act.done) act.done(act.ctx, FAIL(TIMEOUT), reason, i);
    return 0;
}

void lifecycle_refuse(struct instance *instance, struct err result, const char *reason, act_done *done, void *ctx)
{
    if (done) done(ctx, result, reason, instance);
}

void lifecycle_begin(struct instance *instance, const struct act *act)
{
    instance->act = *act;
    if (act->done)
        arm(instance, &instance->answer_timer,
            (instance->supervisor->config->commit_timeout + ACT_EXTRA_SECONDS) * USEC_PER_SEC, on_answer_due);
}

void lifecycle_finish(struct instance *instance, struct err result, const char *reason)
{
    const struct act act = instance->act;
    instance->act = (struct act){0};
    instance->waits = false;
    arm(instance, &instance->answer_timer, 0, NULL);
    if (act.done) act.done(act.ctx, result, result.code ? reason : NULL, instance);
}

bool lifecycle_is_starting(const struct instance *instance)
{
    return instance->act.kind == ACT_START || instance->act.kind == ACT_RESTART;
}

/* --- the manager ---------------------------------------------------------------------------------------------------
 */

bool lifecycle_take_row(struct instance *instance, struct err result, struct reader *results)
{
    struct manager_row row;
    if (!result.code) result = effects_read_row(results, &row);
    if (result.code) return false;
    instance->row = row;
    return true;
}

struct err lifecycle_ask(struct instance *instance, enum manager_verb verb, manager_done *done)
{
    return manager_ask(instance->supervisor->manager, verb,
                       span_of(instance->row.id.bytes, sizeof instance->row.id.bytes), done, instance);
}

/* --- the process ---------------------------------------------------------------------------------------------------
 */

bool lifecycle_holder_is_gone(const struct instance *instance)
{
    return instance->phase == PHASE_GREETED || (!instance->process && !instance->connection && instance->has_identity);
}

static int on_old_process(sd_event_source *source, uint64_t usec, void *ctx)
{
    (void)source, (void)usec;
    lifecycle_set_timer(ctx, 0, NULL);
    lifecycle_end_process(ctx, SIGKILL);
    return 0;
}

bool lifecycle_is_free(struct instance *instance)
{
    bool blank = instance->phase == PHASE_GREETED && lifecycle_is_starting(instance);
    instance->waits = !blank && (instance->process || instance->connection);
    if (instance->waits) lifecycle_set_timer(instance, LEAVE_SECONDS * USEC_PER_SEC, on_old_process);
    return !instance->waits;
}

void lifecycle_go_on(struct instance *instance)
{
    instance->waits = false;
    lifecycle_set_timer(instance, 0, NULL);
    if (instance->act.kind == ACT_DELETE)
        stop_ask_delete(instance);
    else if (instance->act.kind == ACT_STOP)
        stop_done(instance);
    else if (instance->act.kind == ACT_REVERT || instance->act.kind == ACT_SET_OWNER)
        change_begin(instance);
    else if (lifecycle_is_starting(instance))
        start_begin(instance);
}
