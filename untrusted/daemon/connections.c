#include "untrusted/daemon/connections.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "untrusted/daemon/incoming.h"
#include "untrusted/daemon/lifecycle.h"
#include "untrusted/front/address.h"
#include "untrusted/host/clock.h"
#include "untrusted/host/log.h"

#define PATH_SIZE         128u
#define USEC_PER_SEC      UINT64_C(1000000)
#define COMMIT_BURST_USEC (10 * USEC_PER_SEC) /* of commits at commit-rate that may come at once */

/* --- sending -------------------------------------------------------------------------------------------------------
 */

static void sent(struct connection *c, struct err result)
{
    if (line_sent(c->line, result).code) connections_close(c);
}

void connections_send(struct connection *connection, enum wire_kind kind, const struct span *parts, size_t count)
{
    sent(connection, wire_send(line_stream(connection->line), kind, parts, count));
}

void connections_state(struct connection *connection, uint64_t version, struct span state)
{
    sent(connection, wire_send_state(line_stream(connection->line), version, state));
}

void connections_link(struct connection *connection, const struct link_told *told)
{
    connection->has_share = false; /* a share is used once */
    sent(connection, wire_send_link(line_stream(connection->line), told));
}

/* --- closing -------------------------------------------------------------------------------------------------------
 */

static void detached(void *ctx, struct err result, struct reader *results)
{
    (void)ctx, (void)result, (void)results; /* the manager may have closed the channel itself */
}

static void leave_instance(struct connection *c)
{
    struct instance *instance = c->instance;
    if (!instance) return;
    c->instance = NULL;
    if (c->incoming) {
        incoming_disconnected(c->incoming);
        return;
    }
    if (instance->front == c) instance->front = NULL;
    if (instance->connection != c) return;
    instance->connection = NULL;
    instance->health = 0;
    instance->phase = instance->process ? PHASE_SPAWNED : PHASE_IDLE;
    if (!instance->process)
        lifecycle_gone(instance);
    else if (instance->row.state == MANAGER_HELD && !instance->reason[0])
        lifecycle_set_reason(instance, "its process is there and has no connection to vtpmd");
}

void connections_close(struct connection *connection)
{
    struct supervisor *s = connection->supervisor;
    if (!connection->line) return;
    connection->hello = sd_event_source_disable_unref(connection->hello);
    connection->pause = sd_event_source_disable_unref(connection->pause);
    line_close(&connection->line);
    s->connections[connection->index] = NULL;
    if (connection->channel && !s->ending) {
        struct err result = manager_ask(s->manager, MANAGER_DETACH,
                                        span_of(&connection->channel, sizeof connection->channel), detached, NULL);
        if (result.code) log_line(LOG_LEVEL_ERROR, "a connection could not be detached: %s", err_sentence(result));
    }
    if (!s->ending) leave_instance(connection);
    free(connection);
}

void connections_refuse(struct connection *connection, struct err why)
{
    /* Whether it takes the reason or not, this is its end. */
    (void)wire_send_refused(line_stream(connection->line), why).code;
    connections_close(connection);
}

/* --- channels ------------------------------------------------------------------------------------------------------
 */

uint64_t connections_channel(struct connection *connection)
{
    connection->channel = ++connection->supervisor->channels * CONNECTIONS_MAX + connection->index;
    return connection->channel;
}

struct connection *connections_find(const struct supervisor *supervisor, uint64_t channel)
{
    struct connection *c = supervisor->connections[channel % CONNECTIONS_MAX];
    return c && c->channel == channel ? c : NULL;
}

/* --- the process behind it -----------------------------------------------------------------------------------------
 */

static void process_stored(void *ctx, struct err result)
{
    if (result.code) log_line(LOG_LEVEL_ERROR, "the process of an instance was not noted: %s", err_sentence(result));
    free(ctx);
}

struct process_job {
    struct instance_id id;
    struct store_process identity;
};

static struct err store_process_job(void *ctx, struct store *store, struct anchor_host *anchor)
{
    (void)anchor;
    const struct process_job *job = ctx;
    return store_write_process(store, &job->id, &job->identity);
}

static void process_ended(void *ctx)
{
    struct instance *instance = ctx;
    process_close(&instance->process);
    if (instance->connection) return; /* what it said last is still to be read */
    instance->phase = PHASE_IDLE;
    lifecycle_gone(instance);
}

struct err connections_note(const struct instance *instance, const struct store_process *identity)
{
    struct process_job *job = malloc(sizeof *job);
    ENSURE(job, NO_MEMORY);
    *job = (struct process_job){instance->row.id, *identity};
    struct err result = committer_submit(instance->supervisor->committer,
                                         &(struct committer_job){job, store_process_job, process_stored});
    if (result.code) free(job);
    return result;
}

struct err connections_adopt(struct instance *instance, const struct store_process *identity)
{
    bool known = instance->has_identity && process_same(&instance->identity, identity);
    process_close(&instance->process);
    instance->identity = *identity;
    instance->has_identity = true;
    if (!known) TRY(connections_note(instance, identity));
    return process_watch(instance->supervisor->event, identity, process_ended, instance, &instance->process);
}

/* --- HELLO ---------------------------------------------------------------------------------------------------------
 */

/* A new connection of the process that is known means that its worker began anew. Another process that serves has to
 * wait until the known one is gone; one that does not serve has to end: a vtpmd that was killed before it had noted that
 * process left it, and it keeps the sockets that the known one waits for. */
static struct err take_process(struct connection *c, struct instance *instance, bool serving)
{
    struct store_process identity;
    if (instance->process && instance->identity.pid == c->pid) {
        if (instance->connection) connections_close(instance->connection);
        return OK;
    }
    ENSURE(serving || !instance->process, FENCED);
    ENSURE(!instance->process && !instance->connection, HELD);
    TRY(process_identify(c->pid, &identity));
    return connections_adopt(instance, &identity);
}

static void reattached(void *ctx, struct err result, struct reader *results)
{
    (void)results;
    struct instance *instance = ctx;
    if (!result.code || instance->supervisor->ending || !instance->connection) return;
    lifecycle_refused(instance, result);
    connections_refuse(instance->connection, result);
}

static struct err take_serving(struct connection *c, struct instance *instance, uint64_t start)
{
    uint8_t bytes[24];
    struct writer w = writer_of(bytes, sizeof bytes);
    ENSURE(instance->row.state == MANAGER_HELD && instance->row.start == start, FENCED);
    instance->phase = PHASE_ATTACHED;
    TRY(write_u64(&w, connections_channel(c)));
    TRY(write_bytes(&w, instance->row.id.bytes, INSTANCE_ID_SIZE));
    return manager_ask(c->supervisor->manager, MANAGER_REATTACH, writer_span(&w), reattached, instance);
}

/* known: its process was the instance's before. One that is to run may begin anew after its receipt, for another
 * front-end. */
static struct err take_blank(struct connection *c, struct instance *instance, const struct hello_instance *hello,
                             bool known)
{
    bool again = known && instance->wanted && instance->row.state == MANAGER_STOPPED_STATE;
    bool expected = instance->row.state == MANAGER_ALLOWED || instance->row.state == MANAGER_HELD || again;
    ENSURE(expected && instance->act.kind != ACT_STOP && instance->act.kind != ACT_DELETE, VERB_STATE);
    c->separate = hello->separate_front;
    c->has_share = !hello->separate_front;
    memcpy(c->share, hello->front_share, sizeof c->share);
    instance->phase = PHASE_GREETED;
    lifecycle_greeted(instance);
    return OK;
}

static struct err take_hello(struct connection *c, struct span body)
{
    struct hello_instance hello;
    TRY(wire_parse_hello_instance(body, &hello));
    struct instance *instance = roster_find(&c->supervisor->roster, &hello.id);
    ENSURE(instance, NO_INSTANCE);
    ENSURE(instance->row.state != MANAGER_DELETED, DELETED);
    if (incoming_is(instance, c->pid)) return incoming_greeted(instance->incoming, c, &hello);
    bool known = instance->process && instance->identity.pid == c->pid;
    TRY(take_process(c, instance, hello.serving));
    c->instance = instance;
    instance->connection = c;
    return hello.serving ? take_serving(c, instance, hello.start) : take_blank(c, instance, &hello, known);
}

static struct err take_hello_front(struct connection *c, struct span body)
{
    struct instance_id id;
    TRY(wire_parse_hello_front(body, &id, c->share));
    struct instance *instance = roster_find(&c->supervisor->roster, &id);
    ENSURE(instance, NO_INSTANCE);
    ENSURE(instance->row.state != MANAGER_DELETED, DELETED);
    c->is_front = true;
    c->has_share = true;
    c->instance = instance;
    log_line(LOG_LEVEL_NOTICE, "%s: a front-end registered (process %d, user %u)%s", instance->row.label, (int)c->pid,
             (unsigned)c->uid, instance->front && instance->front != c ? "; it replaces another one" : "");
    lifecycle_event(instance, "front-end", json_pack("{s:i, s:i}", "pid", (int)c->pid, "uid", (int)c->uid));
    if (instance->front && instance->front != c) instance->front->instance = NULL;
    instance->front = c;
    if (instance->phase == PHASE_GREETED) lifecycle_greeted(instance);
    return OK;
}

/* --- frames of an instance -----------------------------------------------------------------------------------------
 */

static struct err take_peer(struct connection *c, struct span body)
{
    ENSURE(c->channel, PROTOCOL);
    return manager_peer(c->supervisor->manager, c->channel, body);
}

static struct err copy_candidate(struct instance *instance, uint64_t version, struct span state)
{
    uint8_t *bytes = malloc(state.size);
    ENSURE(bytes, NO_MEMORY);
    memcpy(bytes, state.data, state.size);
    instance->candidate = (struct held_state){.version = version, .bytes = bytes, .size = state.size};
    return OK;
}

static int on_paused(sd_event_source *source, uint64_t usec, void *ctx)
{
    (void)source, (void)usec;
    struct connection *c = ctx;
    c->pause = sd_event_source_disable_unref(c->pause);
    line_pause(c->line, false);
    return 0;
}

/* A token bucket, as the time until which it is used up: the commit is taken, and the next one waits if need be. */
static struct err pay_for_commit(struct connection *c)
{
    const struct supervisor *s = c->supervisor;
    const uint64_t now = clock_now_usec();
    uint64_t *paid = &c->instance->commits_paid;
    if (!s->config->commit_rate) return OK;
    *paid = (*paid > now ? *paid : now) + USEC_PER_SEC / s->config->commit_rate;
    if (*paid <= now + COMMIT_BURST_USEC) return OK;
    line_pause(c->line, true);
    ENSURE(sd_event_add_time(s->event, &c->pause, CLOCK_MONOTONIC, *paid - COMMIT_BURST_USEC, 1, on_paused, c) >= 0,
           SYSTEM);
    return OK;
}

/* Frames come from the loop, so the manager has judged the message when manager_peer returns: it closed the channel, or
 * asked for the store with this state, or will ask for it. */
static struct err take_commit(struct connection *c, struct span body)
{
    struct instance *instance = c->instance;
    struct span state;
    struct span message;
    uint64_t version = 0;
    uint64_t channel = c->channel;
    ENSURE(channel, PROTOCOL);
    TRY(wire_parse_commit(body, &version, &state, &message));
    ENSURE(state.size <= STATE_MAX, TOO_LARGE);
    TRY(pay_for_commit(c));
    if (version > instance->recorded) TRY(copy_candidate(instance, version, state));
    struct err result = manager_peer(c->supervisor->manager, channel, message);
    bool accepted = !result.code && connections_find(instance->supervisor, channel);
    if (accepted && instance->candidate.bytes && instance->held.version != version) {
        held_state_drop(&instance->held);
        instance->held = instance->candidate;
        instance->candidate = (struct held_state){0};
    }
    held_state_drop(&instance->candidate);
    return result;
}

static struct err take_receipt(struct connection *c, struct span body)
{
    ENSURE(body.size == PEER_RECEIPT_SIZE, PROTOCOL);
    lifecycle_receipt(c->instance, body);
    return OK;
}

/* Its enclave does not take what is stored. */
static struct err take_refused(struct connection *c, struct span body)
{
    struct err why;
    TRY(wire_parse_refused(body, &why));
    c->instance->refused = true;
    lifecycle_refused(c->instance, why);
    return OK;
}

static struct err take_stop_refused(struct connection *c, struct span body)
{
    struct err why;
    TRY(wire_parse_stop_refused(body, &why));
    lifecycle_stop_refused(c->instance, why);
    return OK;
}

static const char *const health_words[] = {
    [0] = NULL,
    [HEALTH_SERVING] = "serving",
    [HEALTH_AWAITING_RESET] = "awaiting reset",
    [HEALTH_BROKEN] = "broken",
    [HEALTH_TPM_FAILURE] = "tpm failure",
    [HEALTH_AWAITING_FRONT] = "awaiting front-end",
};

static struct err take_health(struct connection *c, struct span body)
{
    struct health_told told;
    TRY(wire_parse_health(body, &told));
    if (c->instance->health == told.health) return OK;
    c->instance->health = told.health;
    lifecycle_event(c->instance, "health", json_pack("{s:s}", "health", health_words[told.health]));
    /* It serves, and its enclave proves nothing any more; the process is known, and a stop ends it. */
    if (told.health == HEALTH_BROKEN && c->instance->phase == PHASE_ATTACHED) lifecycle_resumed(c->instance);
    return OK;
}

/* Of a process that has nothing to tell of the instance yet. */
static struct err ignore(struct connection *c, struct span body)
{
    (void)c, (void)body;
    return OK;
}

static const struct frame_row {
    enum wire_kind kind;
    bool first;    /* as the first frame of a connection, else later */
    bool front;    /* from vtpm-front, else from vtpm-instance */
    bool incoming; /* which is to take over, else which serves */
    struct err (*take)(struct connection *c, struct span body);
} frame_rows[] = {
    {WIRE_HELLO_INSTANCE, true, false, false, take_hello},
    {WIRE_HELLO_FRONT, true, false, false, take_hello_front},
    {WIRE_HELLO_FRONT, false, true, false, take_hello_front}, /* with a new share */
    {WIRE_PEER, false, false, false, take_peer},
    {WIRE_PEER, false, false, true, take_peer},
    {WIRE_COMMIT, false, false, false, take_commit},
    {WIRE_RECEIPT, false, false, false, take_receipt},
    {WIRE_HEALTH, false, false, false, take_health},
    {WIRE_HEALTH, false, false, true, ignore},
    {WIRE_REFUSED, false, false, false, take_refused},
    {WIRE_STOP_REFUSED, false, false, false, take_stop_refused},
};

static struct err take_frame(struct connection *c, const struct wire_frame *frame)
{
    bool first = !c->greeted;
    c->greeted = true;
    c->hello = sd_event_source_disable_unref(c->hello);
    for (size_t i = 0; i < sizeof frame_rows / sizeof frame_rows[0]; i++) {
        const struct frame_row *row = &frame_rows[i];
        const bool from = row->front == c->is_front && row->incoming == (c->incoming != NULL);
        if (row->kind == frame->kind && row->first == first && from) return row->take(c, frame->body);
    }
    return FAIL(PROTOCOL);
}

static void on_frame(void *ctx, const struct wire_frame *frame)
{
    struct connection *c = ctx;
    struct supervisor *s = c->supervisor;
    const size_t index = c->index;
    struct err result = take_frame(c, frame);
    if (!result.code || s->connections[index] != c) return; /* it may be gone by now */
    log_line(LOG_LEVEL_WARNING, "%s: process %d (user %u) is refused: %s",
             c->instance ? c->instance->row.label : "daemon.sock", (int)c->pid, (unsigned)c->uid, err_sentence(result));
    if (c->instance && !c->is_front && !c->incoming) lifecycle_refused(c->instance, result);
    if (c->incoming) incoming_refused(c->incoming, result);
    connections_refuse(c, result);
}

static void on_ended(void *ctx, struct err why)
{
    (void)why;
    connections_close(ctx);
}

static int on_no_hello(sd_event_source *source, uint64_t usec, void *ctx)
{
    (void)source, (void)usec;
    struct connection *c = ctx;
    log_line(LOG_LEVEL_WARNING, "daemon.sock: process %d (user %u) has not said what it is within %u s", (int)c->pid,
             (unsigned)c->uid, HELLO_SECONDS);
    connections_close(c);
    return 0;
}

/* --- accepting -----------------------------------------------------------------------------------------------------
 */

static struct err check_peer(const struct supervisor *s, int fd, struct ucred *out_peer)
{
    socklen_t size = sizeof *out_peer;
    ENSURE(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, out_peer, &size) == 0, SYSTEM);
    bool welcome = out_peer->uid == 0 || out_peer->uid == geteuid() || out_peer->uid == s->instance_uid;
    if (!welcome)
        log_line(LOG_LEVEL_WARNING, "daemon.sock: process %d of user %u has no business here", (int)out_peer->pid,
                 (unsigned)out_peer->uid);
    ENSURE(welcome, SANDBOX);
    return OK;
}

static struct err find_place(struct supervisor *s, size_t *out_index)
{
    for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
        size_t index = s->next_connection++ % CONNECTIONS_MAX;
        if (s->connections[index]) continue;
        *out_index = index;
        return OK;
    }
    return FAIL(TOO_LARGE);
}

static struct err add_connection(struct supervisor *s, int fd)
{
    struct ucred peer = {0};
    size_t index = 0;
    struct err result = check_peer(s, fd, &peer);
    if (!result.code) result = find_place(s, &index);
    struct connection *c = result.code ? NULL : calloc(1, sizeof *c);
    if (!c) {
        close(fd);
        return result.code ? result : FAIL(NO_MEMORY);
    }
    *c = (struct connection){.supervisor = s, .index = index, .pid = peer.pid, .uid = peer.uid};
    const struct line_owner owner = {.ctx = c, .frame = on_frame, .ended = on_ended};
    result = line_open(s->event, fd, WIRE_BODY_MAX, &owner, &c->line);
    if (!result.code && sd_event_add_time_relative(s->event, &c->hello, CLOCK_MONOTONIC,
                                                   HELLO_SECONDS * UINT64_C(1000000), 0, on_no_hello, c) < 0) {
        line_close(&c->line);
        result = FAIL(SYSTEM);
    }
    if (result.code) {
        free(c);
        return result;
    }
    s->connections[index] = c;
    return OK;
}

static int on_connection(sd_event_source *source, int fd, uint32_t events, void *ctx)
{
    (void)source, (void)events;
    int connection = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (connection < 0) return 0;
    struct err result = add_connection(ctx, connection);
    if (result.code) log_line(LOG_LEVEL_WARNING, "daemon.sock: a connection was not taken: %s", err_sentence(result));
    return 0;
}

struct err connections_listen(struct supervisor *supervisor)
{
    char text[PATH_SIZE];
    struct address address;
    int size = snprintf(text, sizeof text, "unix:%s/daemon.sock", supervisor->config->run_dir);
    ENSURE(size > 0 && (size_t)size < sizeof text, TOO_LARGE);
    TRY(address_parse(text, &address));
    TRY(address_listen(&address, supervisor->instance_uid, supervisor->instance_gid, &supervisor->listen_fd));
    ENSURE(sd_event_add_io(supervisor->event, &supervisor->listen_source, supervisor->listen_fd, EPOLLIN, on_connection,
                           supervisor) >= 0,
           SYSTEM);
    return OK;
}
