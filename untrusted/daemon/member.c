#include "untrusted/daemon/member.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "abi/blob.h"
#include "untrusted/daemon/acts.h"
#include "untrusted/daemon/incoming.h"
#include "untrusted/daemon/lifecycle.h"
#include "untrusted/daemon/remote.h"
#include "untrusted/daemon/request.h"
#include "untrusted/daemon/settings.h"
#include "untrusted/daemon/snapshots.h"
#include "untrusted/daemon/spawn.h"
#include "untrusted/daemon/view.h"
#include "untrusted/host/log.h"
#include "untrusted/store/store.h"

#define QUESTION_ID_OFFSET 40u /* abi/manager.h, MEMBER_ASKED_SIZE */
#define UNDER_WAY          "another request about it is under way here"

/* What was asked for here, and is under way. */
struct move {
    struct supervisor *supervisor;
    struct move *next;
    struct remote *there;
    struct instance_id id;
    struct instance *instance; /* once it is known here */
    enum member_act asked;     /* of the managers, last */
    struct manager_row looked; /* as it is there */
    bool incoming;             /* a candidate takes over */
    bool decided;              /* it is asked for with MOVE, and may have come */
    bool pending;              /* the manager here has not answered yet, */
    bool over;                 /* and nobody waits for it any more */
    json_t *listen;
    struct handed *handed; /* of the candidate, until it is started; or NULL */
    struct manager_message message;
    struct held_state state;
    sd_event_source *timer;
    act_done *done; /* NULL: answered */
    void *ctx;
};

static void forget(struct move *m)
{
    struct move **place = &m->supervisor->moves;
    while (*place != m)
        place = &(*place)->next;
    *place = m->next;
    if (m->instance && m->instance->move == m) m->instance->move = NULL;
    remote_close(&m->there);
    sd_event_source_disable_unref(m->timer);
    json_decref(m->listen);
    handed_free(&m->handed);
    held_state_drop(&m->state);
    m->over = true;
    if (!m->pending) free(m);
}

/* The manager has answered. False: it is over. */
static bool goes_on(struct move *m)
{
    const bool over = m->over;
    m->pending = false;
    if (over) free(m);
    return !over;
}

static void answer(struct move *m, struct err result, const char *reason)
{
    act_done *done = m->done;
    m->done = NULL;
    if (done) done(m->ctx, result, result.code ? (reason ? reason : err_sentence(result)) : NULL, m->instance);
}

static void finish(struct move *m)
{
    answer(m, OK, NULL);
    forget(m);
}

/* Whatever was decided stays decided; asking again goes on from there. */
static void give_up(struct move *m, struct err why, const char *reason)
{
    struct instance *i = m->instance;
    const char *label = i ? i->row.label : "an instance";
    if (!reason) reason = err_sentence(why);
    if (m->asked == MEMBER_CONFIRM) {
        char kept[REASON_SIZE];
        (void)snprintf(kept, sizeof kept,
                       "it has come, and the other vtpmd keeps its key until vtpmctl move asks again: %s", reason);
        log_line(LOG_LEVEL_WARNING, "%s: %s", label, kept);
        answer(m, m->decided ? OK : why, kept); /* whoever asked again wanted nothing else */
        forget(m);
        return;
    }
    if (m->asked == MEMBER_JOIN)
        log_line(LOG_LEVEL_ERROR, "this vtpmd does not join the other one's trust domain: %s", reason);
    else
        log_line(LOG_LEVEL_ERROR, "%s: it does not come from the other vtpmd: %s%s", label, reason,
                 m->decided ? "; if it is shown as moved there, vtpmctl move brings it" : "");
    if (i && i->move == m) {
        i->move = NULL;
        held_state_drop(&i->held);
        if (i->incoming) incoming_end(i, why, reason);
    }
    answer(m, why, reason);
    forget(m);
}

/* What the manager is about to record is recorded all the same. */
static void on_there_ended(void *ctx)
{
    struct move *m = ctx;
    if (!m->pending) give_up(m, FAIL(PEER_CLOSED), "the other vtpmd has ended");
}

static int on_due(sd_event_source *source, uint64_t usec, void *ctx);

/* It is under way from now on. */
static struct err set_due(struct move *m)
{
    const uint64_t due = (m->supervisor->config->commit_timeout + ACT_EXTRA_SECONDS) * USEC_PER_SEC;
    m->timer = sd_event_source_disable_unref(m->timer);
    ENSURE(sd_event_add_time_relative(m->supervisor->event, &m->timer, CLOCK_MONOTONIC, due, 0, on_due, m) >= 0,
           SYSTEM);
    return OK;
}

static int on_due(sd_event_source *source, uint64_t usec, void *ctx)
{
    struct move *m = ctx;
    (void)source, (void)usec;
    struct err result = m->pending ? set_due(m) : FAIL(TIMEOUT);
    if (result.code) give_up(m, result, NULL);
    return 0;
}

/* NULL: it was answered. */
static struct move *begin(struct supervisor *supervisor, int there, act_done *done, void *ctx)
{
    struct move *m = calloc(1, sizeof *m);
    struct err result = m ? OK : FAIL(NO_MEMORY);
    if (!m) close(there);
    if (m) result = remote_open(supervisor->event, there, on_there_ended, m, &m->there);
    if (result.code) {
        free(m);
        done(ctx, result, err_sentence(result), NULL);
        return NULL;
    }
    m->supervisor = supervisor;
    m->done = done;
    m->ctx = ctx;
    m->next = supervisor->moves;
    supervisor->moves = m;
    return m;
}

static void check(struct move *m, struct err result)
{
    if (result.code) give_up(m, result, NULL);
}

static void ask_manager(struct move *m, enum manager_verb verb, struct span arguments, manager_done *done)
{
    m->pending = true;
    struct err result = manager_ask(m->supervisor->manager, verb, arguments, done, m);
    if (!result.code) return; /* it may be answered, and m be gone */
    m->pending = false;
    give_up(m, result, NULL);
}

/* --- questions and answers -----------------------------------------------------------------------------------------
 */

static void take(struct move *m);

static void on_answer(void *ctx, struct err result, const char *reason, const json_t *value, int fd);

static void on_question(void *ctx, struct err result, struct reader *results)
{
    struct move *m = ctx;
    if (!goes_on(m)) return;
    json_t *message = result.code ? NULL : view_hex(results->next, results->left);
    if (!result.code && !message) result = FAIL(NO_MEMORY);
    if (!result.code) result = remote_ask(m->there, "member", json_pack("{s:o}", "message", message), on_answer);
    check(m, result);
}

static void ask(struct move *m, enum member_act what)
{
    uint8_t bytes[8 + INSTANCE_ID_SIZE] = {(uint8_t)what};
    memcpy(bytes + 8, m->id.bytes, INSTANCE_ID_SIZE);
    m->asked = what;
    m->decided = m->decided || what == MEMBER_MOVE;
    ask_manager(m, MANAGER_MEMBER_ASK, span_of(bytes, sizeof bytes), on_question);
}

/* The sealed state that comes with a MOVE; it is nobody's secret. */
static struct err read_state(const json_t *value, int fd, struct held_state *out)
{
    struct stat about;
    const json_int_t version = json_integer_value(json_object_get(value, "version"));
    if (version == 0) return OK;
    ENSURE(version > 0 && fd >= 0 && fstat(fd, &about) == 0, PROTOCOL);
    ENSURE(about.st_size > 0 && about.st_size <= (off_t)STATE_MAX, PROTOCOL);
    uint8_t *bytes = malloc((size_t)about.st_size);
    ENSURE(bytes, NO_MEMORY);
    *out = (struct held_state){.version = (uint64_t)version, .bytes = bytes, .size = (size_t)about.st_size};
    ENSURE(pread(fd, bytes, out->size, 0) == (ssize_t)out->size, SYSTEM);
    return OK;
}

/* One that is stopped has the very state that its row names. A candidate brings its own, of a later commit perhaps. */
static struct err check_state(const struct move *m)
{
    uint8_t digest[SHA256_SIZE];
    const struct span stored = span_of(m->state.bytes, m->state.size);
    if (m->incoming && m->state.version > m->looked.version) return OK;
    ENSURE(m->state.version == m->looked.version, STATE_MISSING);
    if (m->state.version == 0) return OK;
    const struct span state = span_of(stored.data, store_state_size(stored));
    TRY(hash_sha256(m->supervisor->crypto, &state, 1, digest));
    ENSURE(memcmp(digest, m->looked.digest, sizeof digest) == 0, STATE_NOT_RECORDED);
    return OK;
}

static void on_answer(void *ctx, struct err result, const char *reason, const json_t *value, int fd)
{
    struct move *m = ctx;
    if (!result.code && !request_take_hex(json_object_get(value, "message"), m->message.bytes, sizeof m->message.bytes,
                                          &m->message.size))
        result = FAIL(PROTOCOL);
    if (!result.code && m->asked == MEMBER_MOVE) result = read_state(value, fd, &m->state);
    if (!result.code && m->asked == MEMBER_MOVE) result = check_state(m);
    if (fd >= 0) close(fd);
    if (result.code)
        give_up(m, result, reason);
    else if (m->asked == MEMBER_CONFIRM)
        finish(m);
    else
        take(m);
}

/* --- the row -------------------------------------------------------------------------------------------------------
 */

/* It is elsewhere, until the manager says that it has come. */
static struct err meet(struct move *m, const struct manager_row *row, const char **out_reason)
{
    struct manager_row elsewhere = *row;
    TRY(spawn_check(m->supervisor, row->label, m->listen, out_reason));
    elsewhere.state = MANAGER_MOVED;
    elsewhere.version = 0;
    memset(elsewhere.holder, 0, sizeof elsewhere.holder);
    TRY(roster_add(&m->supervisor->roster, m->supervisor, &elsewhere, &m->instance));
    struct instance *i = m->instance;
    *out_reason = UNDER_WAY;
    ENSURE(!i->incoming && i->act.kind == ACT_NONE, VERB_STATE);
    memcpy(elsewhere.holder, i->row.holder, sizeof elsewhere.holder); /* of one that has moved from here */
    i->row = elsewhere;
    m->looked = *row;
    i->move = m;
    return OK;
}

/* The candidate listens, or does not. */
static void on_candidate(void *ctx, struct err result, const char *reason, struct instance *instance)
{
    struct move *m = ctx;
    (void)instance;
    if (result.code) {
        m->instance->move = NULL; /* it ends by itself */
        give_up(m, result, reason);
        return;
    }
    m->timer = sd_event_source_disable_unref(m->timer);
    answer(m, OK, NULL);
}

static void start_candidate(struct move *m)
{
    struct handed *handed = m->handed;
    m->handed = NULL;
    if (handed) handed_is_for(handed, m->instance);
    incoming_start(m->instance, m->listen, handed, on_candidate, m);
}

static void looked(struct move *m, struct reader *results)
{
    struct manager_row row;
    const char *reason = NULL;
    struct err result = effects_read_row(results, &row);
    if (!result.code) result = meet(m, &row, &reason);
    if (result.code)
        give_up(m, result, reason);
    else if (m->incoming)
        start_candidate(m);
    else
        ask(m, MEMBER_MOVE);
}

/* A candidate that has taken over is seen to by the event of its manager. */
static void arrived(struct move *m, struct reader *results)
{
    struct instance *i = m->instance;
    struct manager_row row;
    struct err result = effects_read_row(results, &row);
    if (result.code) {
        give_up(m, result, NULL);
        return;
    }
    i->move = NULL;
    log_line(LOG_LEVEL_NOTICE, "%s: it has come here from another vtpmd, as start %llu", row.label,
             (unsigned long long)row.start);
    if (row.state != MANAGER_HELD) {
        i->row = row;
        i->wanted = false;
        lifecycle_set_reason(i, NULL);
        settings_save(i, NULL);
    }
    lifecycle_event(i, "arrived", NULL);
    ask(m, MEMBER_CONFIRM);
}

static void on_taken(void *ctx, struct err result, struct reader *results)
{
    struct move *m = ctx;
    if (!goes_on(m)) return;
    if (result.code)
        give_up(m, result, NULL);
    else if (m->asked == MEMBER_JOIN)
        finish(m);
    else if (m->asked == MEMBER_LOOK)
        looked(m, results);
    else
        arrived(m, results);
}

/* What the manager is to store with the row. */
static void hold_state(struct move *m)
{
    struct instance *i = m->instance;
    held_state_drop(&i->held);
    i->held = m->state;
    m->state = (struct held_state){0};
    if (i->held.version != i->recorded) i->recorded = 0;
}

static void take(struct move *m)
{
    uint8_t bytes[INSTANCE_ID_SIZE + PEER_MESSAGE_MAX];
    memcpy(bytes, m->id.bytes, INSTANCE_ID_SIZE);
    memcpy(bytes + INSTANCE_ID_SIZE, m->message.bytes, m->message.size);
    if (m->asked == MEMBER_MOVE) hold_state(m);
    ask_manager(m, MANAGER_MEMBER_TAKE, span_of(bytes, INSTANCE_ID_SIZE + m->message.size), on_taken);
}

/* --- what is asked for here ---------------------------------------------------------------------------------------- */

void member_join(struct supervisor *supervisor, int there, act_done *done, void *ctx)
{
    struct move *m = begin(supervisor, there, done, ctx);
    if (!m) return;
    struct err result = set_due(m);
    if (result.code)
        give_up(m, result, NULL);
    else
        ask(m, MEMBER_JOIN);
}

static bool is_moved(const json_t *shown)
{
    const char *state = json_string_value(json_object_get(shown, "state"));
    return state && strcmp(state, "moved") == 0;
}

/*
 * It has come already, and may have been passed on since: what is missing is the word that lets the other one forget it.
 * A start that is no later than there is of an earlier stay: it is still to be brought.
 */
static bool has_come(const struct move *m, const json_t *there)
{
    const struct instance *i = m->instance;
    if (m->incoming || !i) return false;
    if (i->row.state != MANAGER_MOVED) return true;
    return is_moved(there) && (json_int_t)i->row.start > json_integer_value(json_object_get(there, "start"));
}

/* The manager takes the answer to what it was asked last. */
static bool is_asked_for(const struct move *m)
{
    for (const struct move *other = m->supervisor->moves; other; other = other->next)
        if (other != m && memcmp(&other->id, &m->id, sizeof m->id) == 0) return true;
    return false;
}

static void on_shown(void *ctx, struct err result, const char *reason, const json_t *value, int fd)
{
    struct move *m = ctx;
    const char *id = json_string_value(json_object_get(value, "id"));
    if (fd >= 0) close(fd);
    if (!result.code && (!id || id_parse(id, &m->id).code)) result = FAIL(PROTOCOL);
    if (result.code) {
        give_up(m, result, reason);
        return;
    }
    if (is_asked_for(m)) {
        give_up(m, FAIL(VERB_STATE), UNDER_WAY);
        return;
    }
    m->instance = roster_find(&m->supervisor->roster, &m->id);
    if (!has_come(m, value))
        ask(m, MEMBER_LOOK);
    else if (is_moved(value))
        ask(m, MEMBER_CONFIRM);
    else
        give_up(m, FAIL(VERB_STATE), "it is here, and the other vtpmd does not show it as moved");
}

static void begin_move(struct move *m, const char *name)
{
    struct err result = set_due(m);
    if (!result.code) result = remote_ask(m->there, "show", json_pack("{s:s}", "instance", name), on_shown);
    check(m, result);
}

void member_move(struct supervisor *supervisor, int there, const char *name, act_done *done, void *ctx)
{
    struct move *m = begin(supervisor, there, done, ctx);
    if (m) begin_move(m, name);
}

void member_start_incoming(struct supervisor *supervisor, int there, const char *name, json_t *listen,
                           struct handed *handed, act_done *done, void *ctx)
{
    struct move *m = begin(supervisor, there, done, ctx);
    if (!m) {
        handed_free(&handed);
        return;
    }
    m->incoming = true;
    m->listen = json_incref(listen);
    m->handed = handed;
    begin_move(m, name);
}

bool member_redeeming(struct instance *instance)
{
    struct move *m = instance->move;
    if (!m || !m->incoming || m->decided) return false;
    struct err result = set_due(m);
    if (!result.code) result = incoming_note(instance);
    if (result.code)
        give_up(m, result, NULL);
    else
        ask(m, MEMBER_MOVE);
    return true;
}

void member_candidate_ended(struct instance *instance)
{
    struct move *m = instance->move;
    if (!m || m->decided) return;
    instance->move = NULL;
    give_up(m, FAIL(PEER_CLOSED), "the process that was to take over has ended");
}

void member_end_all(struct supervisor *supervisor)
{
    while (supervisor->moves) {
        answer(supervisor->moves, FAIL(LINK_CLOSED), "vtpmd ends; asked again, the move goes on");
        forget(supervisor->moves);
    }
}

/* --- what is asked of here ----------------------------------------------------------------------------------------- */

struct asked {
    struct supervisor *supervisor;
    enum member_act what;
    struct instance *instance;
    struct manager_message message;
    member_answered *done;
    void *ctx;
};

static void reply(struct asked *a, struct err result, uint64_t version, struct span state)
{
    const struct span message = span_of(a->message.bytes, result.code ? 0 : a->message.size);
    a->done(a->ctx, result, message, version, state);
    free(a);
}

static void on_state(void *ctx, const struct snapshots_answer *found)
{
    struct asked *a = ctx;
    reply(a, found->result, found->result.code ? 0 : found->list->version, found->whole);
}

/* Whoever held it was told by the manager. */
static void moved_away(struct instance *i)
{
    char member[ID_TEXT_SIZE];
    struct instance_id id;
    memcpy(id.bytes, i->row.holder, sizeof id.bytes);
    id_format(&id, member);
    if (i->act.kind != ACT_NONE) lifecycle_finish(i, FAIL(MOVED), err_sentence(FAIL(MOVED)));
    lifecycle_set_timer(i, 0, NULL);
    lifecycle_set_reason(i, NULL);
    i->wanted = false;
    settings_save(i, NULL);
    log_line(LOG_LEVEL_WARNING, "%s: has moved to the vtpmd that is member %s", i->row.label, member);
    lifecycle_event(i, "moved", json_pack("{s:s}", "to", member));
    handed_settle(i); /* its process may have ended before */
}

static void on_row(void *ctx, struct err result, struct reader *results)
{
    struct asked *a = ctx;
    struct instance *i = a->instance;
    const bool was_here = i->row.state != MANAGER_MOVED;
    if (a->supervisor->ending) {
        free(a);
        return;
    }
    if (!lifecycle_take_row(i, result, results)) {
        reply(a, result.code ? result : FAIL(PROTOCOL), 0, span_empty());
        return;
    }
    if (was_here && i->row.state == MANAGER_MOVED) moved_away(i);
    if (i->row.version == 0) i->recorded = 0; /* the store has no state any more */
    if (a->what == MEMBER_MOVE && i->row.version > 0)
        result = snapshots_work(i, SNAPSHOTS_NEWEST, NULL, on_state, a);
    else
        reply(a, OK, 0, span_empty());
    if (result.code) reply(a, result, 0, span_empty());
}

static void on_answered(void *ctx, struct err result, struct reader *results)
{
    struct asked *a = ctx;
    if (a->supervisor->ending) {
        free(a);
        return;
    }
    a->message.size = results->left;
    if (!result.code) result = read_bytes(results, a->message.bytes, results->left);
    if (result.code || !a->instance) {
        reply(a, result, 0, span_empty());
        return;
    }
    result = manager_ask(a->supervisor->manager, MANAGER_SHOW, span_of(a->instance->row.id.bytes, INSTANCE_ID_SIZE),
                         on_row, a);
    if (result.code) reply(a, result, 0, span_empty());
}

void member_answer(struct supervisor *supervisor, struct span question, member_answered *done, void *ctx)
{
    struct instance_id id;
    struct asked *a = question.size == MEMBER_QUESTION_SIZE ? calloc(1, sizeof *a) : NULL;
    if (!a) {
        done(ctx, FAIL(BAD_VALUE), span_empty(), 0, span_empty());
        return;
    }
    memcpy(id.bytes, question.data + QUESTION_ID_OFFSET, sizeof id.bytes);
    *a = (struct asked){.supervisor = supervisor, .what = question.data[0], .done = done, .ctx = ctx};
    if (a->what == MEMBER_MOVE || a->what == MEMBER_CONFIRM) a->instance = roster_find(&supervisor->roster, &id);
    struct err result = manager_ask(supervisor->manager, MANAGER_MEMBER_ANSWER, question, on_answered, a);
    if (result.code) reply(a, result, 0, span_empty());
}
