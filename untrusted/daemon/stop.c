/*
 * Stop, delete, and what follows when a process is lost. See lifecycle.h.
 */
#include <signal.h>
#include <string.h>

#include "untrusted/daemon/acts.h"
#include "untrusted/daemon/connections.h"
#include "untrusted/daemon/lifecycle.h"
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
    uint8_t bytes[INSTANCE_ID_SIZE + ED25519_SIGNATURE_SIZE];
    memcpy(bytes, i->row.id.bytes, INSTANCE_ID_SIZE);
    memcpy(bytes + INSTANCE_ID_SIZE, i->act.signature, ED25519_SIGNATURE_SIZE);
    struct err result =
        manager_ask(i->supervisor->manager, MANAGER_DELETE, span_of(bytes, sizeof bytes), on_deleted, i);
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
    lifecycle_event(i, "stopped", NULL);
    log_line(LOG_LEVEL_NOTICE, "%s: stopped", i->row.label);
    spawn_finished(i);
    if ((i->act.kind == ACT_DELETE || i->act.kind == ACT_STOP) && lifecycle_is_free(i)) lifecycle_go_on(i);
    if (i->act.kind == ACT_NONE && i->wanted && i->phase == PHASE_GREETED) lifecycle_greeted(i);
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
    i->receipt_given = false;
    if (lifecycle_take_row(i, result, results)) {
        settings_ended(i);
        on_no_holder(i);
        return;
    }
    log_line(LOG_LEVEL_ERROR, "%s: its receipt was refused: %s", i->row.label, err_sentence(result));
    lifecycle_set_reason(i, err_sentence(result));
    if (i->act.kind == ACT_STOP) lifecycle_finish(i, result, i->reason);
    if (!i->process && !i->connection)
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
        const uint8_t body[8] = {STOP_OFF};
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
    if (i->act.kind == ACT_STOP || i->act.kind == ACT_DELETE || i->declaring) return false;
    if (lifecycle_is_starting(i) && !i->waits && !recorded) return false;
    if (i->act.kind != ACT_NONE) lifecycle_finish(i, FAIL(VERB_STATE), "it was stopped before it served");
    return i->act.kind == ACT_NONE;
}

static void refuse_busy(struct instance *i, act_done *done, void *ctx)
{
    lifecycle_refuse(i, FAIL(VERB_STATE), "another request about it is under way", done, ctx);
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

void act_stop(struct instance *instance, act_done *done, void *ctx)
{
    struct instance *i = instance;
    bool runs = i->row.state == MANAGER_ALLOWED || i->row.state == MANAGER_HELD;
    bool known = i->row.state != MANAGER_HELD || i->phase == PHASE_SERVING || lifecycle_holder_is_gone(i);
    if (i->row.state == MANAGER_DELETED) {
        lifecycle_refuse(i, FAIL(DELETED), err_sentence(FAIL(DELETED)), done, ctx);
        return;
    }
    if (!known) {
        lifecycle_refuse(i, FAIL(HELD), i->reason, done, ctx);
        return;
    }
    if (!make_way(i)) {
        refuse_busy(i, done, ctx);
        return;
    }
    if (!runs) {
        withdraw_wish(i, done, ctx);
        return;
    }
    lifecycle_begin(i, &(struct act){.kind = ACT_STOP, .done = done, .ctx = ctx});
    settings_want(i, false);
    stop_end_holder(i);
}

void act_delete(struct instance *instance, bool force, const uint8_t signature[ED25519_SIGNATURE_SIZE], act_done *done,
                void *ctx)
{
    struct instance *i = instance;
    bool runs = i->row.state == MANAGER_ALLOWED || i->row.state == MANAGER_HELD;
    if (i->row.state == MANAGER_DELETED) {
        lifecycle_refuse(i, FAIL(DELETED), err_sentence(FAIL(DELETED)), done, ctx);
        return;
    }
    if (runs && !force) {
        lifecycle_refuse(i, FAIL(VERB_STATE), "it is not stopped", done, ctx);
        return;
    }
    if (!make_way(i)) {
        refuse_busy(i, done, ctx);
        return;
    }
    struct act act = {.kind = ACT_DELETE, .force = force, .done = done, .ctx = ctx};
    memcpy(act.signature, signature, sizeof act.signature);
    lifecycle_set_timer(i, 0, NULL);
    lifecycle_begin(i, &act);
    if (runs)
        stop_end_holder(i);
    else if (lifecycle_is_free(i))
        stop_ask_delete(i);
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
    if (i->receipt_given || i->declaring) return; /* the manager's answer decides */
    if (i->waits) {
        lifecycle_go_on(i);
    } else if (i->row.state == MANAGER_HELD) {
        holder_lost(i);
    } else if (i->row.state == MANAGER_ALLOWED && !ends && !i->reason[0]) {
        if (i->act.kind == ACT_NONE) i->rebuilding = true; /* it waited for its front-end */
        lifecycle_start_failed(i, FAIL(PEER_CLOSED), "its process ended before it served; the log says why");
    }
}
