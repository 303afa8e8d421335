/*
 * What an owner changes of an instance that is stopped: an older state put back, another owner. See lifecycle.h.
 */
#include <stdlib.h>
#include <string.h>

#include "untrusted/daemon/lifecycle.h"
#include "untrusted/daemon/owner_act.h"
#include "untrusted/daemon/view.h"
#include "untrusted/host/log.h"

static void change_failed(struct instance *i, struct err why)
{
    held_state_drop(&i->held);
    lifecycle_finish(i, why, err_sentence(why));
}

/* --- revert --------------------------------------------------------------------------------------------------------
 */

static void on_reverted(void *ctx, struct err result, struct reader *results)
{
    struct instance *i = ctx;
    if (i->supervisor->ending) return;
    if (!lifecycle_take_row(i, result, results)) {
        change_failed(i, result);
        return;
    }
    log_line(LOG_LEVEL_WARNING, "%s: reverted to the snapshot %s, as version %llu of epoch %llu", i->row.label,
             i->act.snapshot, (unsigned long long)i->row.version, (unsigned long long)i->row.epoch);
    lifecycle_set_reason(i, NULL);
    lifecycle_event(i, "reverted", json_pack("{s:s}", "snapshot", i->act.snapshot));
    lifecycle_finish(i, OK, NULL);
}

/* Until the manager wants it stored. */
static struct err hold(struct instance *i, struct span state)
{
    held_state_drop(&i->held);
    uint8_t *bytes = malloc(state.size + 1);
    ENSURE(bytes, NO_MEMORY);
    memcpy(bytes, state.data, state.size);
    i->held = (struct held_state){.version = i->recorded + 1, .bytes = bytes, .size = state.size};
    (void)snprintf(i->held.replaced_as, sizeof i->held.replaced_as, SNAPSHOT_RESERVED "%llu",
                   (unsigned long long)i->recorded);
    return OK;
}

static void on_snapshot(void *ctx, const struct snapshots_answer *answer)
{
    struct instance *i = ctx;
    if (i->supervisor->ending) return;
    struct err result = answer->result;
    if (!result.code) result = hold(i, answer->state);
    if (!result.code) {
        const struct owner_act act = owner_act_revert(i, answer->list);
        result = owner_act_ask(i, &act, i->act.signature, on_reverted, i);
    }
    if (result.code) change_failed(i, result);
}

/* --- another owner -------------------------------------------------------------------------------------------------
 */

static void on_owner_set(void *ctx, struct err result, struct reader *results)
{
    struct instance *i = ctx;
    if (i->supervisor->ending) return;
    if (!lifecycle_take_row(i, result, results)) {
        change_failed(i, result);
        return;
    }
    log_line(LOG_LEVEL_WARNING, "%s: has another owner, as of epoch %llu", i->row.label,
             (unsigned long long)i->row.epoch);
    lifecycle_event(i, "owner", json_pack("{s:o}", "owner", view_owner(&i->row)));
    lifecycle_finish(i, OK, NULL);
}

void change_begin(struct instance *instance)
{
    struct instance *i = instance;
    struct err result = OK;
    if (i->act.kind == ACT_REVERT) {
        result = snapshots_work(i, SNAPSHOTS_READ, i->act.snapshot, on_snapshot, i);
    } else {
        const struct owner_act act = owner_act_set_owner(i->act.owner);
        result = owner_act_ask(i, &act, i->act.signature, on_owner_set, i);
    }
    if (result.code) change_failed(i, result);
}
