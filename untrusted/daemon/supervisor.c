/*
 * What the manager wants: its effects and its events.
 *
 * Guarantees: an error that leaves manager and store apart ends vtpmd, and the next one begins with what is durable.
 */
#include "untrusted/daemon/supervisor.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "untrusted/daemon/acts.h"
#include "untrusted/daemon/commit.h"
#include "untrusted/daemon/incoming.h"
#include "untrusted/daemon/lifecycle.h"
#include "untrusted/daemon/member.h"
#include "untrusted/daemon/settings.h"
#include "untrusted/host/log.h"

void supervisor_give_up(struct supervisor *supervisor, const char *what, struct err why)
{
    if (supervisor->ending) return;
    supervisor->ending = true;
    log_line(LOG_LEVEL_ERROR, "%s: %s; vtpmd ends, instances go on until it is back", what, err_sentence(why));
    (void)sd_event_exit(supervisor->event, EXIT_FAILURE);
}

/* --- effects -------------------------------------------------------------------------------------------------------
 */

static struct err on_anchor(void *ctx, const struct manager_exchange *exchange)
{
    struct supervisor *s = ctx;
    if (s->committer) return commit_submit(s, exchange);
    return commit_now(s->manager, s->store, s->anchor, exchange);
}

static void on_create_enclave(void *ctx, const struct instance_id *id, uint64_t start, const uint8_t *mrenclave)
{
    struct supervisor *s = ctx;
    struct instance *instance = roster_find(&s->roster, id);
    if (!instance) return;
    log_line(LOG_LEVEL_NOTICE, "step 5: %s: second creation request: an enclave for start %llu", instance->row.label,
             (unsigned long long)start);
    if (memcmp(mrenclave, s->instance_mrenclave, LINK_MRENCLAVE_SIZE) == 0)
        lifecycle_create_enclave(instance);
    else
        lifecycle_start_failed(instance, FAIL(PEER_IDENTITY),
                               "the instance image is not the one that the manager admits (vtpmctl status names both)");
}

static void on_send(void *ctx, uint64_t channel, struct span message)
{
    struct connection *c = connections_find(ctx, channel);
    if (c) connections_send(c, WIRE_PEER, &message, 1);
}

static void send_state(struct supervisor *s, uint64_t channel, uint64_t version, struct span state)
{
    struct connection *c = connections_find(s, channel);
    if (c) connections_state(c, version, state);
}

struct reading {
    struct supervisor *supervisor;
    uint64_t channel;
    struct instance_id id;
    uint64_t version;
    uint8_t *bytes;
    size_t size;
};

static struct err reading_run(void *ctx, struct store *store, struct anchor_host *anchor)
{
    (void)anchor;
    struct reading *reading = ctx;
    return store_read_state(store, &reading->id, reading->version, &reading->bytes, &reading->size);
}

static void reading_done(void *ctx, struct err result)
{
    struct reading *reading = ctx;
    struct supervisor *s = reading->supervisor;
    struct connection *c = s->ending ? NULL : connections_find(s, reading->channel);
    if (c && !result.code) {
        send_state(s, reading->channel, reading->version, span_of(reading->bytes, reading->size));
    } else if (c) {
        log_line(LOG_LEVEL_ERROR, "%s: its state of version %llu: %s",
                 c->instance ? c->instance->row.label : "an instance", (unsigned long long)reading->version,
                 err_sentence(result));
        if (c->instance) lifecycle_refused(c->instance, result);
        c = connections_find(s, reading->channel);
        if (c) connections_refuse(c, result);
    }
    free(reading->bytes);
    free(reading);
}

static void on_state(void *ctx, uint64_t channel, const struct instance_id *id, uint64_t version)
{
    struct supervisor *s = ctx;
    if (version == 0) {
        send_state(s, channel, 0, span_empty());
        return;
    }
    struct reading *reading = calloc(1, sizeof *reading);
    if (!reading) {
        supervisor_give_up(s, "reading a state", FAIL(NO_MEMORY));
        return;
    }
    *reading = (struct reading){.supervisor = s, .channel = channel, .id = *id, .version = version};
    struct err result = committer_submit(s->committer, &(struct committer_job){reading, reading_run, reading_done});
    if (!result.code) return;
    free(reading);
    supervisor_give_up(s, "reading a state", result);
}

static void on_close(void *ctx, uint64_t channel, struct err why)
{
    struct connection *c = connections_find(ctx, channel);
    if (!c) return;
    log_line(LOG_LEVEL_WARNING, "%s: the manager refuses the enclave of process %d: %s",
             c->instance ? c->instance->row.label : "an instance", (int)c->pid, err_sentence(why));
    c->channel = 0;
    if (c->incoming) {
        incoming_refused(c->incoming, why);
    } else if (c->instance) {
        held_state_drop(&c->instance->candidate);
        /* Where another process may have taken over, the word that it has is on its way. */
        c->instance->fenced = why.code == ERR_FENCED && incoming_is_ready(c->instance);
        if (!c->instance->fenced) lifecycle_refused(c->instance, why);
    }
    connections_refuse(c, why);
}

/* --- events --------------------------------------------------------------------------------------------------------
 */

static void on_started(void *ctx, const struct link_told *told)
{
    struct supervisor *s = ctx;
    const struct link_binding *binding = &told->binding;
    struct instance *instance = roster_find(&s->roster, &binding->instance);
    if (!instance || !instance->connection) return;
    struct connection *front = instance->connection->separate ? instance->front : instance->connection;
    instance->row.epoch = binding->epoch;
    instance->row.start = binding->start;
    instance->row.state = MANAGER_HELD;
    log_line(LOG_LEVEL_NOTICE,
             "step 6: %s: manager and instance enclave have proven themselves to each other (local attestation); "
             "admitted, start %llu, epoch %llu",
             instance->row.label, (unsigned long long)binding->start, (unsigned long long)binding->epoch);
    if (!front) {
        log_line(LOG_LEVEL_WARNING, "%s: its front-end is gone; it serves nobody", instance->row.label);
    } else {
        log_line(LOG_LEVEL_NOTICE, "step 7: %s: K2 goes to the front-end in process %d (%s)", instance->row.label,
                 (int)front->pid, binding->kind == LINK_K2_ENROLLED ? "key enrolled by the owner" : "named by vtpmd");
        connections_link(front, told);
    }
    /* The process of the enclave begins to listen to a front-end beside it then. */
    if (instance->connection && instance->connection != front) connections_link(instance->connection, told);
    if (instance->connection) lifecycle_started(instance);
}

static void on_incoming(void *ctx, const struct link_told *told)
{
    struct supervisor *s = ctx;
    struct instance *instance = roster_find(&s->roster, &told->binding.instance);
    if (instance && instance->incoming) incoming_admitted(instance->incoming, told);
}

static void on_redeemed(void *ctx, uint64_t channel, const struct instance_id *id)
{
    (void)id;
    struct connection *c = connections_find(ctx, channel);
    if (c && c->incoming) incoming_redeemed(c->incoming);
}

static void on_loaded(void *ctx, const struct instance_id *id)
{
    struct supervisor *s = ctx;
    struct instance *instance = roster_find(&s->roster, id);
    if (!instance) return;
    log_line(LOG_LEVEL_NOTICE, "%s: its TPM was put back to a snapshot of its machine, which it had left",
             instance->row.label);
    lifecycle_event(instance, "snapshot-loaded", NULL);
}

static void on_redeeming(void *ctx, uint64_t channel, const struct instance_id *id)
{
    struct supervisor *s = ctx;
    struct instance *instance = roster_find(&s->roster, id);
    struct connection *c = connections_find(s, channel);
    if (c && (!instance || !member_redeeming(instance))) connections_refuse(c, FAIL(FENCED));
}

static void on_resumed(void *ctx, uint64_t channel, const struct instance_id *id)
{
    struct supervisor *s = ctx;
    struct connection *c = connections_find(s, channel);
    struct instance *instance = roster_find(&s->roster, id);
    if (!c || !instance || c->instance != instance) return;
    log_line(LOG_LEVEL_NOTICE, "%s: its enclave has proven that it is still the one", instance->row.label);
    lifecycle_event(instance, "resumed", NULL);
    lifecycle_resumed(instance);
    if (connections_find(s, channel)) connections_send(c, WIRE_ASK_HEALTH, NULL, 0);
}

static void on_refused(void *ctx, uint64_t channel, const struct instance_id *id, struct err why)
{
    struct supervisor *s = ctx;
    struct instance *instance = roster_find(&s->roster, id);
    (void)channel; /* CLOSE says the same of the connection */
    log_line(LOG_LEVEL_WARNING, "%s: refused: %s", instance ? instance->row.label : "an instance", err_sentence(why));
}

static void on_failed(void *ctx, struct err why)
{
    supervisor_give_up(ctx, "the manager enclave", why);
}

struct manager_listener supervisor_listener(struct supervisor *supervisor)
{
    return (struct manager_listener){
        .ctx = supervisor,
        .create_enclave = on_create_enclave,
        .send = on_send,
        .state = on_state,
        .anchor = on_anchor,
        .close = on_close,
        .started = on_started,
        .incoming = on_incoming,
        .redeemed = on_redeemed,
        .loaded = on_loaded,
        .redeeming = on_redeeming,
        .resumed = on_resumed,
        .refused = on_refused,
        .failed = on_failed,
    };
}

/* --- the start -----------------------------------------------------------------------------------------------------
 */

struct loading {
    struct supervisor *supervisor;
    struct store *store;
    struct err result;
    uint32_t next; /* slot to go on from; 0: that was all */
};

static struct err load_settings(struct loading *loading, struct instance *instance)
{
    char *text = NULL;
    struct err result = store_read_settings(loading->store, &instance->row.id, &text);
    if (result.code && result.code != ERR_NO_INSTANCE) return result;
    settings_apply(instance, text);
    free(text);
    return OK;
}

static struct err load_row(struct loading *loading, const struct manager_row *row)
{
    struct instance *instance = NULL;
    TRY(roster_add(&loading->supervisor->roster, loading->supervisor, row, &instance));
    /* A vtpmd that was killed between the tombstone and this left them. */
    if (row->state == MANAGER_DELETED) return store_forget(loading->store, &row->id);
    TRY(load_settings(loading, instance));
    struct err result = store_read_process(loading->store, &row->id, &instance->identity);
    instance->has_identity = !result.code;
    return result.code == ERR_NO_INSTANCE ? OK : result;
}

static struct err load_page(struct loading *loading, struct reader *results)
{
    uint32_t count = 0;
    TRY(read_u32(results, &count));
    TRY(read_u32(results, &loading->next));
    for (uint32_t i = 0; i < count; i++) {
        struct manager_row row;
        TRY(effects_read_row(results, &row));
        TRY(load_row(loading, &row));
    }
    return reader_end(results);
}

static void on_page(void *ctx, struct err result, struct reader *results)
{
    struct loading *loading = ctx;
    loading->result = result.code ? result : load_page(loading, results);
}

/* Nothing is under way yet, so the manager answers before manager_ask returns. */
struct err supervisor_load(struct supervisor *supervisor)
{
    struct loading loading = {.supervisor = supervisor, .store = supervisor->store};
    TRY(process_boot_id(supervisor->boot_id));
    do {
        uint32_t first[2] = {loading.next, 0};
        loading.result = FAIL(LINK_TRUNCATED);
        TRY(manager_ask(supervisor->manager, MANAGER_LIST, span_of(first, sizeof first), on_page, &loading));
        TRY(loading.result);
    } while (loading.next);
    return OK;
}

struct err supervisor_serve(struct supervisor *supervisor)
{
    struct supervisor *s = supervisor;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    s->starting_max = cores > 0 ? 2 * (unsigned)cores : 2;
    s->queue_end = &s->queue_first;
    for (size_t i = 0; i < s->roster.count; i++)
        lifecycle_adopt(s->roster.list[i]);
    return connections_listen(s);
}

void supervisor_end(struct supervisor *supervisor)
{
    struct supervisor *s = supervisor;
    s->ending = true;
    for (size_t i = 0; i < s->roster.count; i++)
        lifecycle_finish(s->roster.list[i], FAIL(LINK_CLOSED),
                         "vtpmd ends before this is done; vtpmctl show tells what is to be asked for again when it is "
                         "back");
    sd_event_source_disable_unref(s->listen_source);
    if (s->listen_fd >= 0) close(s->listen_fd);
    for (size_t i = 0; i < CONNECTIONS_MAX; i++)
        if (s->connections[i]) connections_close(s->connections[i]);
    member_end_all(s);
    manager_close(&s->manager);
    commit_end(s);
    committer_close(&s->committer);
    roster_free(&s->roster);
}
