#include "untrusted/daemon/incoming.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "untrusted/daemon/handed.h"
#include "untrusted/daemon/lifecycle.h"
#include "untrusted/daemon/member.h"
#include "untrusted/daemon/spawn.h"
#include "untrusted/host/log.h"

#define READY_SECONDS 20u

struct incoming {
    struct instance *instance;
    struct store_process identity;
    struct process *process;       /* NULL: it has ended */
    struct connection *connection; /* NULL: it has none */
    json_t *listen;
    struct handed *handed; /* the sockets of whoever holds it; NULL: they are its own */
    bool ready;            /* it listens for its client */
    act_done *done;
    void *ctx;
    sd_event_source *timer; /* until it is ready */
};

void incoming_free(struct incoming *incoming)
{
    if (!incoming) return;
    process_close(&incoming->process);
    sd_event_source_disable_unref(incoming->timer);
    json_decref(incoming->listen);
    handed_free(&incoming->handed);
    free(incoming);
}

bool incoming_is(const struct instance *instance, pid_t pid)
{
    return instance->incoming && instance->incoming->identity.pid == pid;
}

bool incoming_is_ready(const struct instance *instance)
{
    return instance->incoming && instance->incoming->ready;
}

json_t *incoming_view(const struct incoming *incoming)
{
    if (!incoming) return json_null();
    return json_pack("{s:i, s:b, s:O}", "pid", (int)incoming->identity.pid, "ready", incoming->ready, "listen",
                     incoming->listen);
}

static void answer(struct incoming *incoming, struct err result, const char *reason)
{
    act_done *done = incoming->done;
    incoming->done = NULL;
    if (done) done(incoming->ctx, result, reason, incoming->instance);
}

/* The instance goes on as if it had not been there, unless it had taken over already. */
static void give_up(struct incoming *incoming, struct err why, const char *reason)
{
    struct instance *i = incoming->instance;
    i->incoming = NULL;
    if (incoming->process) process_signal(incoming->process, SIGTERM);
    if (incoming->connection) {
        struct connection *c = incoming->connection;
        c->incoming = NULL;
        c->instance = NULL;
        connections_close(c);
    }
    log_line(LOG_LEVEL_NOTICE, "%s: the incoming process %d is gone: %s", i->row.label, (int)incoming->identity.pid,
             reason);
    handed_end(&incoming->handed, reason);
    answer(incoming, why, reason);
    incoming_free(incoming);
    member_candidate_ended(i);
    if (!i->fenced) return;
    i->fenced = false;
    if (!i->process && !i->connection) lifecycle_gone(i);
}

static void on_process_ended(void *ctx)
{
    struct incoming *incoming = ctx;
    process_close(&incoming->process);
    if (!incoming->connection) give_up(incoming, FAIL(PEER_CLOSED), "its process ended before it had taken over");
}

struct err incoming_note(const struct instance *instance)
{
    return connections_note(instance, &instance->incoming->identity);
}

void incoming_end(struct instance *instance, struct err why, const char *reason)
{
    struct connection *c = instance->incoming->connection;
    instance->incoming->done = NULL; /* whoever ends it answers */
    handed_end(&instance->incoming->handed, reason);
    if (c)
        connections_refuse(c, why); /* and give_up follows */
    else
        give_up(instance->incoming, why, reason);
}

void incoming_disconnected(struct incoming *incoming)
{
    incoming->connection = NULL;
    give_up(incoming, FAIL(PEER_CLOSED), "it ended before it had taken over; the log says why");
}

void incoming_refused(struct incoming *incoming, struct err why)
{
    const struct instance *i = incoming->instance;
    log_line(LOG_LEVEL_WARNING, "%s: the incoming process %d is refused: %s", i->row.label, (int)incoming->identity.pid,
             err_sentence(why));
    answer(incoming, why, err_sentence(why));
}

static int on_overdue(sd_event_source *source, uint64_t usec, void *ctx)
{
    (void)source, (void)usec;
    give_up(ctx, FAIL(TIMEOUT), "it was not ready in time");
    return 0;
}

/* --- the way to ready ----------------------------------------------------------------------------------------------
 */

static const char *why_not(const struct instance *i)
{
    const bool recorded = i->row.state == MANAGER_HELD || i->row.state == MANAGER_STOPPED_STATE;
    if (i->incoming) return "there is an incoming process already";
    if (i->move) return NULL; /* another vtpmd's manager has told what it is */
    if (i->row.state == MANAGER_MOVED)
        return "another vtpmd has it, whose admin socket has to be named: --from of vtpmctl, VTPM_INCOMING_FROM of "
               "swtpm";
    if (!recorded) return "there is no state that another process could have exported";
    if (i->row.version == 0 && i->recorded == 0) return "there is no state that another process could have exported";
    return NULL;
}

static struct err begin(struct incoming *incoming)
{
    struct instance *i = incoming->instance;
    TRY(spawn_incoming(i, incoming->listen, incoming->handed, &incoming->identity));
    if (incoming->handed) handed_spawned(incoming->handed);
    TRY(process_watch(i->supervisor->event, &incoming->identity, on_process_ended, incoming, &incoming->process));
    ENSURE(sd_event_add_time_relative(i->supervisor->event, &incoming->timer, CLOCK_MONOTONIC,
                                      READY_SECONDS * USEC_PER_SEC, 0, on_overdue, incoming) >= 0,
           SYSTEM);
    return OK;
}

static json_t *addresses(const struct instance *i, json_t *listen, const struct handed *handed)
{
    if (handed) return json_array();
    return listen ? json_incref(listen) : spawn_incoming_addresses(i);
}

/* handed is taken over, but on an error. */
static struct err make(struct instance *i, json_t *listen, struct handed *handed, struct incoming **out_incoming)
{
    struct incoming *incoming = calloc(1, sizeof *incoming);
    ENSURE(incoming, NO_MEMORY);
    *incoming = (struct incoming){.instance = i, .listen = addresses(i, listen, handed), .handed = handed};
    struct err result = incoming->listen ? begin(incoming) : FAIL(NO_MEMORY);
    if (!result.code) {
        *out_incoming = incoming;
        return OK;
    }
    if (incoming->process) process_signal(incoming->process, SIGKILL);
    incoming->handed = NULL;
    incoming_free(incoming);
    return result;
}

void incoming_start(struct instance *instance, json_t *listen, struct handed *handed, act_done *done, void *ctx)
{
    struct instance *i = instance;
    const char *reason = why_not(i);
    struct err result = reason ? FAIL(VERB_STATE) : OK;
    if (!result.code && listen) result = spawn_check(i->supervisor, i->row.label, listen, &reason);
    if (!result.code) {
        result = make(i, listen, handed, &i->incoming);
        reason = err_sentence(result);
    }
    if (result.code) {
        handed_end(&handed, reason);
        lifecycle_refuse(i, result, reason, done, ctx);
        return;
    }
    i->incoming->done = done;
    i->incoming->ctx = ctx;
    log_line(LOG_LEVEL_NOTICE, "%s: process %d is started, to take over what another one exports", i->row.label,
             (int)i->incoming->identity.pid);
}

bool incoming_is_held_by(const struct instance *instance, const void *ctx)
{
    const struct incoming *incoming = instance->incoming;
    return incoming && incoming->handed && handed_is_held_by(incoming->handed, ctx);
}

bool incoming_leave(struct instance *instance)
{
    struct incoming *incoming = instance->incoming;
    const bool unanswered = incoming->done != NULL;
    incoming->done = NULL;
    handed_forget_holder(incoming->handed);
    give_up(incoming, FAIL(PEER_CLOSED), "whoever started it on sockets of his own has gone");
    return unanswered;
}

void incoming_stop(struct instance *instance, act_done *done, void *ctx)
{
    if (!instance->incoming) {
        lifecycle_refuse(instance, FAIL(VERB_STATE), "there is no incoming process", done, ctx);
        return;
    }
    give_up(instance->incoming, FAIL(VERB_STATE), "it was stopped before it had taken over");
    done(ctx, OK, NULL, instance);
}

static void on_attached(void *ctx, struct err result, struct reader *results)
{
    (void)results;
    struct instance *i = ctx;
    if (i->supervisor->ending || !result.code || !i->incoming || !i->incoming->connection) return;
    struct connection *c = i->incoming->connection;
    incoming_refused(i->incoming, result);
    connections_refuse(c, result);
}

struct err incoming_greeted(struct incoming *incoming, struct connection *connection,
                            const struct hello_instance *hello)
{
    struct instance *i = incoming->instance;
    struct connection *c = connection;
    uint8_t bytes[INSTANCE_ID_SIZE + 8 + X25519_SIZE];
    struct writer w = writer_of(bytes, sizeof bytes);
    ENSURE(!incoming->connection && !hello->serving && !hello->separate_front, VERB_STATE);
    c->instance = i;
    c->incoming = incoming;
    incoming->connection = c;
    TRY(write_bytes(&w, i->row.id.bytes, INSTANCE_ID_SIZE));
    TRY(write_u64(&w, connections_channel(c)));
    TRY(write_bytes(&w, hello->front_share, X25519_SIZE));
    return manager_ask(i->supervisor->manager, MANAGER_ATTACH_INCOMING, writer_span(&w), on_attached, i);
}

void incoming_admitted(struct incoming *incoming, const struct link_told *told)
{
    const struct instance *i = incoming->instance;
    if (!incoming->connection) return;
    log_line(LOG_LEVEL_NOTICE, "%s: the enclave of process %d is admitted as start %llu, once it takes over",
             i->row.label, (int)incoming->identity.pid, (unsigned long long)told->binding.start);
    incoming->timer = sd_event_source_disable_unref(incoming->timer);
    incoming->ready = true;
    connections_link(incoming->connection, told);
    if (i->incoming == incoming) answer(incoming, OK, NULL);
}

/* --- it has taken over ---------------------------------------------------------------------------------------------
 */

void incoming_redeemed(struct incoming *incoming)
{
    struct instance *i = incoming->instance;
    struct connection *c = incoming->connection;
    const struct store_process identity = incoming->identity;
    struct handed *handed = incoming->handed;
    i->fenced = true; /* whoever is refused now is not the holder that is lost */
    if (i->connection) connections_refuse(i->connection, FAIL(FENCED));
    i->incoming = NULL;
    c->incoming = NULL;
    incoming->handed = NULL;
    json_decref(i->listens_now);
    i->listens_now = json_incref(incoming->listen);
    process_close(&incoming->process); /* before it is watched for the instance */
    incoming_free(incoming);
    i->connection = c;
    struct err result = connections_adopt(i, &identity);
    lifecycle_taken_over(i);
    handed_taken_over(i, handed);
    if (result.code)
        log_line(LOG_LEVEL_ERROR, "%s: the process that has taken over cannot be watched: %s", i->row.label,
                 err_sentence(result));
}
