#include "untrusted/daemon/commit.h"

#include <stdlib.h>
#include <string.h>

#include "untrusted/daemon/handed.h"
#include "untrusted/daemon/lifecycle.h"
#include "untrusted/daemon/supervisor.h"
#include "untrusted/host/clock.h"
#include "untrusted/host/log.h"

#define USEC_PER_SEC UINT64_C(1000000)

/* One commit on its way, with copies of all it has. */
struct commit {
    struct supervisor *supervisor;
    uint64_t number;
    bool to_be_stored; /* the batch; then only the exchange is left */
    struct store_batch batch;
    struct store_row rows[MANAGER_ROWS_PER_STORE];
    struct store_state states[MANAGER_ROWS_PER_STORE];
    struct held_state owned[MANAGER_ROWS_PER_STORE]; /* what states point to */
    uint8_t *bytes;                                  /* head, master, rows */
    size_t request_size;
    uint8_t request[ANCHOR_EXCHANGE_MAX];
    size_t answer_size;
    uint8_t answer[ANCHOR_EXCHANGE_MAX];
};

static void commit_free(struct commit *commit)
{
    for (size_t i = 0; i < commit->batch.state_count; i++)
        held_state_drop(&commit->owned[i]);
    free(commit->bytes);
    free(commit);
}

static const char *kind_word(enum anchor_kind kind)
{
    return kind == ANCHOR_FILE ? "file" : "tpm";
}

static struct err check_kind(const struct anchor_host *anchor, const struct manager_exchange *exchange)
{
    if (exchange->kind == anchor_host_kind(anchor)) return OK;
    log_line(
        LOG_LEVEL_ERROR,
        "the trust domain was made with anchor = %s, and that cannot be changed; the configuration says anchor = %s",
        kind_word(exchange->kind), kind_word(anchor_host_kind(anchor)));
    return FAIL(CONFIG);
}

struct err commit_now(struct manager *manager, struct store *store, struct anchor_host *anchor,
                      const struct manager_exchange *exchange)
{
    uint8_t answer[ANCHOR_EXCHANGE_MAX];
    size_t size = 0;
    TRY(check_kind(anchor, exchange));
    if (exchange->batch) TRY(store_commit(store, exchange->batch));
    struct err result = anchor_host_exchange(anchor, exchange->request, answer, &size);
    if (result.code == ERR_ANCHOR_IO) log_line(LOG_LEVEL_ERROR, "the anchor: %s", anchor_host_error(anchor));
    TRY(result);
    return manager_anchored(manager, exchange->number, span_of(answer, size));
}

/* --- copies -------------------------------------------------------------------------------------------------------- */

static struct span copy_span(uint8_t **next, struct span bytes)
{
    uint8_t *place = *next;
    if (bytes.size) memcpy(place, bytes.data, bytes.size);
    *next += bytes.size;
    return span_of(place, bytes.size);
}

static struct err copy_batch(struct commit *commit, const struct store_batch *batch)
{
    size_t size = batch->head.size + batch->master.size;
    for (size_t i = 0; i < batch->row_count; i++)
        size += batch->rows[i].blob.size;
    commit->bytes = malloc(size + 1);
    ENSURE(commit->bytes, NO_MEMORY);
    uint8_t *next = commit->bytes;
    commit->batch = (struct store_batch){
        .head = copy_span(&next, batch->head),
        .master = copy_span(&next, batch->master),
        .rows = commit->rows,
        .row_count = batch->row_count,
        .states = commit->states,
    };
    for (size_t i = 0; i < batch->row_count; i++) {
        commit->rows[i] = batch->rows[i];
        commit->rows[i].blob = copy_span(&next, batch->rows[i].blob);
    }
    return OK;
}

/* The state that came with the COMMIT of this version. */
static struct held_state *state_of(struct instance *instance, uint64_t version)
{
    if (instance->held.bytes && instance->held.version == version) return &instance->held;
    if (instance->candidate.bytes && instance->candidate.version == version) return &instance->candidate;
    return NULL;
}

static struct err take_states(struct commit *commit)
{
    struct store_batch *batch = &commit->batch;
    for (size_t i = 0; i < batch->row_count; i++) {
        const struct store_row *row = &commit->rows[i];
        struct instance *instance = roster_find(&commit->supervisor->roster, &row->id);
        if (!instance || row->version <= instance->recorded) continue;
        struct held_state *state = state_of(instance, row->version);
        ENSURE(state, STATE_MISSING);
        commit->owned[batch->state_count] = *state;
        const char *name = commit->owned[batch->state_count].replaced_as;
        commit->states[batch->state_count++] =
            (struct store_state){row->id, row->version, span_of(state->bytes, state->size), *name ? name : NULL};
        *state = (struct held_state){0};
        instance->recorded = row->version;
        if (instance->handed) handed_committed(instance->handed);
    }
    return OK;
}

static struct err make_commit(struct supervisor *s, const struct manager_exchange *exchange, struct commit *commit)
{
    *commit = (struct commit){.supervisor = s, .number = exchange->number, .to_be_stored = exchange->batch != NULL};
    ENSURE(exchange->request.size <= sizeof commit->request, TOO_LARGE);
    memcpy(commit->request, exchange->request.data, exchange->request.size);
    commit->request_size = exchange->request.size;
    if (!exchange->batch) return OK;
    TRY(copy_batch(commit, exchange->batch));
    return take_states(commit);
}

/* --- the job ------------------------------------------------------------------------------------------------------- */

static struct err run_commit(void *ctx, struct store *store, struct anchor_host *anchor)
{
    struct commit *commit = ctx;
    if (commit->to_be_stored) TRY(store_commit(store, &commit->batch));
    commit->to_be_stored = false;
    return anchor_host_exchange(anchor, span_of(commit->request, commit->request_size), commit->answer,
                                &commit->answer_size);
}

static void end_commit(void *ctx, struct err result)
{
    struct commit *commit = ctx;
    struct supervisor *s = commit->supervisor;
    if (!s->ending && !result.code)
        result = manager_anchored(s->manager, commit->number, span_of(commit->answer, commit->answer_size));
    if (!s->ending && result.code) supervisor_give_up(s, "storing", result);
    commit_free(commit);
}

static struct err submit(struct commit *commit)
{
    struct err result =
        committer_submit(commit->supervisor->committer, &(struct committer_job){commit, run_commit, end_commit});
    if (result.code) commit_free(commit);
    return result;
}

/* --- its turn ------------------------------------------------------------------------------------------------------ */

/* There is at most one, for the manager makes no record before the last one is anchored. */
static int on_turn(sd_event_source *source, uint64_t usec, void *ctx)
{
    (void)source, (void)usec;
    struct supervisor *s = ctx;
    struct commit *commit = s->commit_waiting;
    s->commit_waiting = NULL;
    s->commit_timer = sd_event_source_disable_unref(s->commit_timer);
    struct err result = submit(commit);
    if (result.code) supervisor_give_up(s, "storing", result);
    return 0;
}

static struct err wait_for_turn(struct supervisor *s, struct commit *commit)
{
    const uint64_t now = clock_now_usec();
    const uint64_t turn = s->next_move > now ? s->next_move : now;
    s->next_move = turn + (s->config->anchor_rate ? USEC_PER_SEC / s->config->anchor_rate : 0);
    if (turn == now) return submit(commit);
    s->commit_waiting = commit;
    ENSURE(sd_event_add_time(s->event, &s->commit_timer, CLOCK_MONOTONIC, turn, 1, on_turn, s) >= 0, SYSTEM);
    return OK;
}

struct err commit_submit(struct supervisor *supervisor, const struct manager_exchange *exchange)
{
    TRY(check_kind(supervisor->anchor, exchange));
    struct commit *commit = calloc(1, sizeof *commit);
    ENSURE(commit, NO_MEMORY);
    struct err result = make_commit(supervisor, exchange, commit);
    if (result.code) {
        commit_free(commit);
        return result;
    }
    return exchange->batch ? wait_for_turn(supervisor, commit) : submit(commit);
}

void commit_end(struct supervisor *supervisor)
{
    supervisor->commit_timer = sd_event_source_disable_unref(supervisor->commit_timer);
    if (supervisor->commit_waiting) commit_free(supervisor->commit_waiting);
    supervisor->commit_waiting = NULL;
}
