/*
 * Stop, suspend, declare dead, delete, and what follows when a process is lost. See lifecycle.h.
 */
#include <signal.h>
#include <string.h>

#include "untrusted/daemon/acts.h"
#include "untrusted/daemon/connections.h"
#include "untrusted/daemon/handed.h"
#include "untrusted/daemon/lifecycle.h"
#include "untrusted/daemon/owner_act.h"
#include "untrusted/daemon/settings.h"
#include "untrusted/daemon/spawn.h"
#include "untrusted/host/log.h"

#define STOP_EXTRA_SECONDS 10u /* beyond what a commit may take */

/* --- delete --------------------------------------------------------------------------------------------------------
 */

static void on_deleted(void *ctx, struct err result, struct reader *results)
{
    struct instance *i = ctx;
    if (i->supervisor->ending) return;
    if (!lifecycle_take_row(i, result, results)) {
        lifecycle_finish(i, result, err_sentence(result));
        return;
    }
    log_line(LOG_LEVEL_NOTICE, "step 10: %s: deleted, its keys are gone; its tombstone stays", i->row.label);
    lifecycle_set_reason(i, NULL);
    lifecycle_end_process(i, SIGKILL);
    held_state_drop(&i->held);
    settings_forget(i);
    spawn_remove_directory(i);
    lifecycle_event(i, "deleted", NULL);
    lifecycle_finish(i, OK, NULL);
}

void stop_ask_delete(struct instance *instance)
{
    struct instance *i = instance;
    const struct owner_act act = owner_act_delete();
    struct err result = owner_act_ask(i, &act, i->act.signature, on_deleted, i);
    if (result.code) lifecycle_finish(i, result, err_sentence(result));
}

/* --- there is no holder any more -----------------------------------------------------------------------------------
 */

/* What was asked goes on, or is done. */
static void on_no_holder(struct instance *i)
{
    lifecycle_set_timer(i, 0, NULL);
    lifecycle_set_reason(i, NULL);
    i->rebuilding = false;
    const char *how = instance_is_suspended(i) ? "suspended" : "stopped";
    lifecycle_event(i, how, NULL);
    log_line(LOG_LEVEL_NOTICE, "%s: %s", i->row.label, how);
    spawn_finished(i);
    if ((i->act.kind == ACT_DELETE || i->act.kind == ACT_STOP) && lifecycle_is_free(i)) lifecycle_go_on(i);
    if (i->act.kind == ACT_NONE && i->wanted && i->phase == PHASE_GREETED) lifecycle_greeted(i);
    handed_settle(i);
}

static void on_declared(void *ctx, struct err result, struct reader *results)
{
    struct instance *i = ctx;
    if (i->supervisor->ending) return;
    uint64_t epoch = i->row.epoch;
    i->declaring = false;
    if (!lifecycle_take_row(i, result, results)) {
        lifecycle_finish(i, result, err_sentence(result));
        return;
    }
    if (i->row.epoch > epoch) {
        lifecycle_event(i, "declared-dead", NULL);
        log_line(LOG_LEVEL_WARNING, "%s: its lost enclave was declared dead; epoch %llu", i->row.label,
                 (unsigned long long)i->row.epoch);
    }
    if (!lifecycle_is_starting(i))
        on_no_holder(i);
    else if (lifecycle_is_free(i))
        start_begin(i);
}

void lifecycle_declare_dead(struct instance *instance)
{
    struct instance *i = instance;
    if (i->declaring) return;
    if (i->row.state == MANAGER_HELD) settings_lost(i);
    i->declaring = true;
    struct err result = lifecycle_ask(i, MANAGER_DECLARE_DEAD, on_declared);
    if (!result.code) return;
    i->declaring = false;
    lifecycle_finish(i, result, err_sentence(result));
}

static void on_stopped(void *ctx, struct err result, struct reader *results)
{
    struct instance *i = ctx;
    if (i->supervisor->ending) return;
    struct connection *c = i->phase == PHASE_GREETED ? NULL : i->connection; /* that the receipt came on */
    i->receipt_given = false;
    if (lifecycle_take_row(i, result, results)) {
        if (c) connections_send(c, WIRE_RECORDED, NULL, 0);
        settings_ended(i);
        on_no_holder(i);
        return;
    }
    log_line(LOG_LEVEL_ERROR, "%s: its receipt was refused: %s", i->row.label, err_sentence(result));
    lifecycle_set_reason(i, err_sentence(result));
    if (i->act.kind == ACT_STOP) lifecycle_finish(i, result, i->reason);
    if (c)
        connections_refuse(c, result);
    else if (!i->process && !i->connection)
        lifecycle_gone(i);
    else if (i->phase == PHASE_GREETED)
        lifecycle_greeted(i);
}

void lifecycle_receipt(struct instance *instance, struct span receipt)
{
    if (instance->receipt_given || instance->row.state != MANAGER_HELD) return;
    instance->receipt_given = true;
    struct err result = manager_ask(instance->supervisor->manager, MANAGER_STOPPED, receipt, on_stopped, instance);
    if (!result.code) return;
    instance->receipt_given = false;
    log_line(LOG_LEVEL_ERROR, "%s: its receipt: %s", instance->row.label, err_sentence(result));
}

/* --- stop ----------------------------------------------------------------------------------------------------------
 */

static int on_stop_timeout(sd_event_source *source, uint64_t usec, void *ctx)
{
    (void)source, (void)usec;
    struct instance *i = ctx;
    lifecycle_set_timer(i, 0, NULL);
    if (i->act.kind == ACT_DELETE && i->process)
        lifecycle_end_process(i, SIGKILL); /* lifecycle_gone goes on from there */
    else
        lifecycle_finish(i, FAIL(HELD), "its receipt did not come in time; it may still serve");
    return 0;
}

/* Of an instance that is starting or held; i->act says for whom. */
void stop_end_holder(struct instance *instance)
{
    struct instance *i = instance;
    if (i->row.state == MANAGER_HELD && i->phase == PHASE_SERVING) {
        lifecycle_set_timer(i, (i->supervisor->config->commit_timeout + STOP_EXTRA_SECONDS) * USEC_PER_SEC,
                            on_stop_timeout);
        const uint8_t body[8] = {i->act.suspend ? STOP_SUSPEND : STOP_OFF};
        const struct span part = span_of(body, sizeof body);
        connections_send(i->connection, WIRE_STOP, &part, 1);
        return;
    }
    lifecycle_set_timer(i, 0, NULL);
    lifecycle_end_process(i, SIGKILL);
    if (i->phase == PHASE_QUEUED) i->phase = PHASE_IDLE;
    lifecycle_declare_dead(i);
}

/* A start that is under way gives way to whoever wants the end, unless the manager is being asked about it. */
static bool make_way(struct instance *i)
{
    bool recorded = i->row.state == MANAGER_ALLOWED || i->row.state == MANAGER_HELD;
    const bool starting = lifecycle_is_starting(i);
    if ((i->act.kind != ACT_NONE && !starting) || i->declaring) return false;
    if (starting && !i->waits && !recorded) return false;
    if (i->act.kind != ACT_NONE) lifecycle_finish(i, FAIL(VERB_STATE), "it was stopped before it served");
    return i->act.kind == ACT_NONE;
}

/* True if the act may begin; else it was refused. wrong: what speaks against it, or NULL. */
static bool may_begin(struct instance *i, struct err error, const char *wrong, act_done *done, void *ctx)
{
    if (i->row.state == MANAGER_DELETED)
        lifecycle_refuse(i, FAIL(DELETED), err_sentence(FAIL(DELETED)), done, ctx);
    else if (i->row.state == MANAGER_MOVED)
        lifecycle_refuse(i, FAIL(MOVED), err_sentence(FAIL(MOVED)), done, ctx);
    else if (wrong)
        lifecycle_refuse(i, error, wrong, done, ctx);
    else if (make_way(i))
        return true;
    else
        lifecycle_refuse(i, FAIL(VERB_STATE), "another request about it is under way", done, ctx);
    return false;
}

static void on_wish_saved(struct instance *instance, struct err result)
{
    if (instance->act.kind == ACT_STOP) lifecycle_finish(instance, result, "the operator's wish could not be stored");
}

/* Nothing runs: it shall not be started at vtpmd's next start either. */
static void withdraw_wish(struct instance *i, act_done *done, void *ctx)
{
    if (!i->wanted) {
        lifecycle_refuse(i, FAIL(VERB_STATE), "it does not run", done, ctx);
        return;
    }
    lifecycle_set_timer(i, 0, NULL);
    i->wanted = false;
    lifecycle_begin(i, &(struct act){.kind = ACT_STOP, .done = done, .ctx = ctx});
    settings_save(i, on_wish_saved);
}

static bool runs(const struct instance *i)
{
    return i->row.state == MANAGER_ALLOWED || i->row.state == MANAGER_HELD;
}

void act_stop(struct instance *instance, act_done *done, void *ctx)
{
    struct instance *i = instance;
    bool known = i->row.state != MANAGER_HELD || i->phase == PHASE_SERVING || lifecycle_holder_is_gone(i);
    if (!may_begin(i, FAIL(HELD), known ? NULL : i->reason, done, ctx)) return;
    if (!runs(i)) {
        withdraw_wish(i, done, ctx);
        return;
    }
    lifecycle_begin(i, &(struct act){.kind = ACT_STOP, .done = done, .ctx = ctx});
    settings_want(i, false);
    stop_end_holder(i);
}

/* That it shall not run is noted when it does not: until then a vtpmd that begins anew must not shut its TPM down. */
void act_suspend(struct instance *instance, act_done *done, void *ctx)
{
    struct instance *i = instance;
    const char *wrong = i->phase == PHASE_SERVING ? NULL : "it does not serve, so there is nothing to suspend";
    if (!may_begin(i, FAIL(VERB_STATE), wrong, done, ctx)) return;
    lifecycle_begin(i, &(struct act){.kind = ACT_STOP, .suspend = true, .done = done, .ctx = ctx});
    stop_end_holder(i);
}

void lifecycle_stop_refused(struct instance *instance, struct err why)
{
    if (instance->act.kind != ACT_STOP || !instance->act.suspend) return; /* it was answered: not in time */
    lifecycle_set_timer(instance, 0, NULL);
    lifecycle_finish(instance, why, err_sentence(why));
}

void stop_done(struct instance *instance)
{
    struct instance *i = instance;
    if (i->act.suspend) settings_want(i, false);
    if (i->act.suspend && !instance_is_suspended(i))
        lifecycle_finish(i, FAIL(VERB_STATE), "it ended before it was suspended: its next start is that of a machine");
    else
        lifecycle_finish(i, OK, NULL);
}

void act_declare_dead(struct instance *instance, act_done *done, void *ctx)
{
    struct instance *i = instance;
    const char *wrong = NULL;
    if (!runs(i)) wrong = "no start of it is recorded that has not ended";
    if (i->phase == PHASE_SERVING) wrong = "it serves; vtpmctl stop ends it";
    if (!may_begin(i, FAIL(VERB_STATE), wrong, done, ctx)) return;
    log_line(LOG_LEVEL_WARNING, "%s: the operator declares its holder dead", i->row.label);
    lifecycle_begin(i, &(struct act){.kind = ACT_STOP, .done = done, .ctx = ctx});
    settings_want(i, false);
    stop_end_holder(i);
}

void act_delete(struct instance *instance, bool force, const uint8_t signature[ED25519_SIGNATURE_SIZE], act_done *done,
                void *ctx)
{
    struct instance *i = instance;
    const char *wrong = runs(i) && !force ? "it is not stopped" : NULL;
    if (!may_begin(i, FAIL(VERB_STATE), wrong, done, ctx)) return;
    struct act act = {.kind = ACT_DELETE, .done = done, .ctx = ctx};
    memcpy(act.signature, signature, sizeof act.signature);
    lifecycle_set_timer(i, 0, NULL);
    lifecycle_begin(i, &act);
    if (runs(i))
        stop_end_holder(i);
    else if (lifecycle_is_free(i))
        stop_ask_delete(i);
}

/* --- what an owner changes -----------------------------------------------------------------------------------------
 */

static void begin_change(struct instance *i, const struct act *act)
{
    const char *wrong = runs(i) ? "it is not stopped, or may be started by somebody" : NULL;
    if (!may_begin(i, FAIL(VERB_STATE), wrong, act->done, act->ctx)) return;
    lifecycle_set_timer(i, 0, NULL);
    lifecycle_begin(i, act);
    if (lifecycle_is_free(i)) change_begin(i);
}

void act_revert(struct instance *instance, const char *snapshot, const uint8_t signature[ED25519_SIGNATURE_SIZE],
                act_done *done, void *ctx)
{
    struct act act = {.kind = ACT_REVERT, .done = done, .ctx = ctx};
    (void)snprintf(act.snapshot, sizeof act.snapshot, "%s", snapshot);
    memcpy(act.signature, signature, sizeof act.signature);
    begin_change(instance, &act);
}

void act_set_owner(struct instance *instance, const uint8_t owner[ED25519_PUBLIC_SIZE],
                   const uint8_t signature[ED25519_SIGNATURE_SIZE], act_done *done, void *ctx)
{
    struct act act = {.kind = ACT_SET_OWNER, .done = done, .ctx = ctx};
    memcpy(act.owner, owner, sizeof act.owner);
    memcpy(act.signature, signature, sizeof act.signature);
    begin_change(instance, &act);
}

/* --- losing it -----------------------------------------------------------------------------------------------------
 */

static void holder_lost(struct instance *i)
{
    lifecycle_set_timer(i, 0, NULL);
    if (!i->refused) lifecycle_set_reason(i, "its process ended without a receipt");
    log_line(LOG_LEVEL_ERROR, "%s: %s", i->row.label, i->reason);
    lifecycle_event(i, "failed", json_pack("{s:s}", "reason", i->reason));
    spawn_finished(i);
    if (i->act.kind == ACT_STOP || i->act.kind == ACT_DELETE)
        lifecycle_declare_dead(i);
    else if (lifecycle_is_starting(i))
        lifecycle_finish(i, FAIL(PEER_CLOSED), i->reason);
    if (i->act.kind == ACT_NONE) lifecycle_schedule_rebuild(i);
}

void lifecycle_gone(struct instance *instance)
{
    struct instance *i = instance;
    bool ends = i->act.kind == ACT_STOP || i->act.kind == ACT_DELETE;
    i->phase = PHASE_IDLE;
    json_decref(i->listens_now);
    i->listens_now = NULL;
    if (i->fenced && i->incoming) return;         /* which holds it now */
    if (i->receipt_given || i->declaring) return; /* the manager's answer decides */
    if (i->waits) {
        lifecycle_go_on(i);
    } else if (i->row.state == MANAGER_HELD) {
        holder_lost(i);
    } else if (i->row.state == MANAGER_ALLOWED && !ends && !i->reason[0]) {
        if (i->act.kind == ACT_NONE) i->rebuilding = true; /* it waited for its front-end */
        lifecycle_start_failed(i, FAIL(PEER_CLOSED), "its process ended before it served; the log says why");
    }
    handed_settle(i);
}
