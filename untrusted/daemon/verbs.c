/* What the admin API can be asked for (docs/admin-api.md), and how it is answered. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "untrusted/daemon/acts.h"
#include "untrusted/daemon/admin_client.h"
#include "untrusted/daemon/committer.h"
#include "untrusted/daemon/incoming.h"
#include "untrusted/daemon/member.h"
#include "untrusted/daemon/owner_act.h"
#include "untrusted/daemon/settings.h"
#include "untrusted/daemon/store_work.h"
#include "untrusted/daemon/view.h"
#include "untrusted/host/log.h"

#define STORE_PATIENCE_USEC UINT64_C(1000000) /* a job of the store that runs longer hangs */

static void on_act(void *ctx, struct err result, const char *reason, struct instance *instance)
{
    struct client *c = ctx;
    if (result.code)
        client_answer_error(c, result, instance ? instance->row.label : NULL, reason);
    else
        client_answer(c, "return", view_instance(instance));
}

/* --- instances -----------------------------------------------------------------------------------------------------
 */

static struct instance *named(struct client *c, const char *name)
{
    struct instance *instance = roster_named(&c->admin->supervisor->roster, name);
    if (!instance) client_answer_error(c, FAIL(NO_INSTANCE), name, NULL);
    return instance;
}

static bool copy_label(const char *text, char out_label[MANAGER_LABEL_SIZE])
{
    const size_t size = strlen(text);
    if (size >= MANAGER_LABEL_SIZE) return false;
    memset(out_label, 0, MANAGER_LABEL_SIZE);
    memcpy(out_label, text, size);
    return true;
}

static bool take_label(struct client *c, const char *text, char out_label[MANAGER_LABEL_SIZE])
{
    bool fits = copy_label(text, out_label);
    if (!fits) client_answer_error(c, FAIL(LABEL_BAD), text, NULL);
    return fits;
}

/* text: NULL for the default. */
static bool take_lockout(struct client *c, const char *text, enum peer_lockout_heals *out)
{
    *out = text ? view_lockout_named(text) : PEER_LOCKOUT_TIME;
    if (!*out) client_answer_error(c, FAIL(BAD_VALUE), NULL, "lockout-heals is time, start-only or never");
    return *out;
}

/* text: NULL for the default. */
static bool take_family(struct client *c, const char *text, enum peer_family *out)
{
    bool known = !text || view_family_named(text, out);
    if (!known) client_answer_error(c, FAIL(BAD_VALUE), NULL, "tpm is 2.0 or 1.2");
    return known;
}

/* text: NULL for the default. */
static bool take_snapshots(struct client *c, const char *text, enum peer_snapshots *out)
{
    bool known = !text || view_snapshots_named(text, out);
    if (!known) client_answer_error(c, FAIL(BAD_VALUE), NULL, "snapshots is refused or allowed");
    return known;
}

static void do_create(struct client *c, const struct request *request)
{
    struct create create = {.listen = request->listen, .start = request->start, .import = request->import};
    if (!take_label(c, request->label, create.label)) return;
    if (!take_lockout(c, request->lockout_heals, &create.lockout_heals)) return;
    if (!take_family(c, request->tpm, &create.family)) return;
    if (!take_snapshots(c, request->snapshots, &create.snapshots)) return;
    memcpy(create.owner, request->owner, sizeof create.owner);
    memcpy(create.front_key, request->front_key, sizeof create.front_key);
    act_create(c->admin->supervisor, &create, on_act, c);
}

static void list_from(struct client *c, uint32_t first);

/* What its commits change; of its state vtpmd may know more than the ledger. */
static void take_news(struct instance *instance, const struct manager_row *row)
{
    if (row->state == MANAGER_MOVED && instance->row.state == MANAGER_MOVED) instance->row = *row;
    instance->row.version = row->version;
    instance->row.reverted = row->reverted;
    instance->row.loads = row->loads;
    memcpy(instance->row.digest, row->digest, sizeof row->digest);
    memcpy(instance->row.suspended, row->suspended, sizeof row->suspended);
}

static struct err take_page(struct client *c, struct reader *results, uint32_t *out_next)
{
    uint32_t count = 0;
    TRY(read_u32(results, &count));
    TRY(read_u32(results, out_next));
    for (uint32_t i = 0; i < count; i++) {
        struct manager_row row;
        TRY(effects_read_row(results, &row));
        struct instance *instance = roster_find(&c->admin->supervisor->roster, &row.id);
        if (!instance || (row.state == MANAGER_DELETED && !c->deleted)) continue;
        take_news(instance, &row);
        (void)json_array_append_new(c->list, view_instance(instance));
    }
    return OK;
}

static void on_page(void *ctx, struct err result, struct reader *results)
{
    struct client *c = ctx;
    uint32_t next = 0;
    if (!result.code) result = take_page(c, results, &next);
    if (result.code) {
        client_answer_error(c, result, NULL, NULL);
        return;
    }
    if (next) {
        list_from(c, next);
        return;
    }
    json_t *list = c->list;
    c->list = NULL;
    client_answer(c, "return", json_pack("{s:o}", "instances", list));
}

static void list_from(struct client *c, uint32_t first)
{
    const uint32_t arguments[2] = {first, 0};
    struct err result =
        manager_ask(c->admin->supervisor->manager, MANAGER_LIST, span_of(arguments, sizeof arguments), on_page, c);
    if (result.code) client_answer_error(c, result, NULL, NULL);
}

/* The manager's answer waits for what is being stored. An operator whose disk hangs wants one all the same: what was
 * known before. */
static bool store_hangs(const struct client *c)
{
    return committer_running_usec(c->admin->supervisor->committer) > STORE_PATIENCE_USEC;
}

static void list_as_known(struct client *c)
{
    const struct roster *roster = &c->admin->supervisor->roster;
    json_t *list = json_array();
    for (size_t i = 0; i < roster->count; i++)
        if (c->deleted || roster->list[i]->row.state != MANAGER_DELETED)
            (void)json_array_append_new(list, view_instance(roster->list[i]));
    client_answer(c, "return", json_pack("{s:o}", "instances", list));
}

static void do_list(struct client *c, const struct request *request)
{
    json_decref(c->list);
    c->list = NULL;
    c->deleted = request->deleted;
    if (store_hangs(c)) {
        list_as_known(c);
        return;
    }
    c->list = json_array();
    list_from(c, 0);
}

static void on_row(void *ctx, struct err result, struct reader *results)
{
    struct client *c = ctx;
    struct manager_row row;
    if (!result.code) result = effects_read_row(results, &row);
    struct instance *instance = result.code ? NULL : roster_find(&c->admin->supervisor->roster, &row.id);
    if (!instance) {
        client_answer_error(c, result.code ? result : FAIL(NO_INSTANCE), NULL, NULL);
        return;
    }
    take_news(instance, &row);
    client_answer(c, "return", view_instance(instance));
}

static void do_show(struct client *c, const struct request *request)
{
    struct instance *instance = named(c, request->instance);
    if (!instance) return;
    if (store_hangs(c)) {
        client_answer(c, "return", view_instance(instance));
        return;
    }
    struct err result = manager_ask(c->admin->supervisor->manager, MANAGER_SHOW,
                                    span_of(instance->row.id.bytes, sizeof instance->row.id.bytes), on_row, c);
    if (result.code) client_answer_error(c, result, instance->row.label, NULL);
}

/* --- an instance on the client's own sockets ----------------------------------------------------------------------
 */

static void release(struct client *c)
{
    if (!c->holds) return;
    c->holds = NULL;
    c->admin->client_count++;
}

/* held is whether this connection holds it. reason: instead of the instance's own, or NULL. */
static void answer_await(struct client *c, struct instance *instance, const char *reason)
{
    json_t *view = view_instance(instance);
    c->awaits = false;
    (void)json_object_set_new(view, "held", json_boolean(c->holds == instance));
    if (reason) (void)json_object_set_new(view, "reason", json_string(reason));
    client_answer(c, "return", view);
}

void verbs_await_no_more(struct client *c)
{
    answer_await(c, c->holds, NULL);
}

static void on_held_end(void *ctx, struct instance *instance, const char *reason)
{
    struct client *c = ctx;
    release(c);
    if (c->awaits) answer_await(c, instance, reason);
}

static void on_held_commit(void *ctx, struct instance *instance)
{
    struct client *c = ctx;
    if (c->awaits && c->awaits_news) answer_await(c, instance, NULL);
}

void verbs_leave(struct client *c)
{
    struct instance *instance = c->holds;
    const bool incoming = incoming_is_held_by(instance, c);
    release(c);
    if (c->awaits) c->under_way = false;
    c->awaits = false;
    if (!incoming)
        handed_leave(instance);
    else if (incoming_leave(instance))
        c->under_way = false;
}

/* Whoever holds an instance takes none of the places: there are as many of them as there are instances. */
static void hold(struct client *c, struct instance *instance)
{
    c->holds = instance;
    c->admin->client_count--;
}

/* instance: NULL if it is not known yet. NULL: it was answered. */
static struct handed *take_sockets(struct client *c, struct instance *instance, const struct request *request)
{
    const char *reason = NULL;
    struct handed *handed = NULL;
    const struct handed_holder holder = {c, on_held_end, on_held_commit};
    struct err result = handed_parse(request->swtpm, c->taken, &c->taken_count, &handed, &reason);
    if (result.code) {
        client_answer_error(c, result, instance ? instance->row.label : request->instance, reason);
        return NULL;
    }
    handed_hold(handed, instance, &holder);
    return handed;
}

/* NULL: it was answered. */
static struct handed *take_hold(struct client *c, struct instance *instance, const struct request *request)
{
    struct handed *handed = take_sockets(c, instance, request);
    if (handed) hold(c, instance);
    return handed;
}

static const char holds_already[] = "this connection holds an instance already";

/* NULL: it may be held. */
static const char *why_not_held(const struct client *c, const struct instance *instance, bool serves,
                                struct err *out_error)
{
    *out_error = FAIL(VERB_STATE);
    if (c->holds) return holds_already;
    if (instance_awaits_import(instance)) return "it has no TPM yet: vtpmctl import goes on with it";
    *out_error = FAIL(STATE_LOCKED);
    if (instance->handed && handed_is_held(instance->handed)) return "another process serves it on sockets of its own";
    if (serves && !instance->handed) return "it was not started on anybody's sockets, or does not run any more";
    if (!serves && (instance->handed || instance->phase > PHASE_GREETED)) return "it runs, or is being stopped";
    return NULL;
}

static void do_start_handed(struct client *c, struct instance *instance, const struct request *request)
{
    struct err error = OK;
    const char *reason = why_not_held(c, instance, false, &error);
    if (reason) {
        client_answer_error(c, error, instance->row.label, reason);
        return;
    }
    struct handed *handed = take_hold(c, instance, request);
    if (!handed) return;
    handed_begin(instance, handed);
    instance->wanted = true;
    settings_save(instance, NULL);
    act_start(instance, request->declare_dead, request->wait, on_act, c);
}

/* He holds the process that is to take over, and the instance once it has. */
static void do_start_incoming(struct client *c, struct instance *instance, const struct request *request)
{
    struct handed *handed = NULL;
    if (request->swtpm && c->holds) {
        client_answer_error(c, FAIL(VERB_STATE), instance->row.label, holds_already);
        return;
    }
    if (request->swtpm) {
        handed = take_hold(c, instance, request);
        if (!handed) return;
    }
    incoming_start(instance, request->listen, handed, on_act, c);
}

/* --- from another vtpmd, whose admin.sock the client has connected to ---------------------------------------------
 */

/* The first descriptor that came. -1: it was answered. */
static int take_connection(struct client *c, const char *who)
{
    const int there = c->taken[0];
    if (c->taken_count == 0) {
        client_answer_error(c, FAIL(BAD_VALUE), who, "with it comes a connection to the admin.sock of the other vtpmd");
        return -1;
    }
    memmove(c->taken, c->taken + 1, --c->taken_count * sizeof c->taken[0]);
    return there;
}

static void do_move(struct client *c, const struct request *request)
{
    const int there = take_connection(c, request->instance);
    if (there >= 0) member_move(c->admin->supervisor, there, request->instance, on_act, c);
}

/* Whoever was to hold it may have gone meanwhile. */
static void on_candidate(void *ctx, struct err result, const char *reason, struct instance *instance)
{
    struct client *c = ctx;
    if (!result.code && c->fd >= 0)
        hold(c, instance);
    else if (!result.code)
        (void)incoming_leave(instance);
    on_act(c, result, reason, instance);
}

static void do_start_from(struct client *c, const struct request *request)
{
    struct handed *handed = NULL;
    if (request->swtpm && c->holds) {
        client_answer_error(c, FAIL(VERB_STATE), request->instance, holds_already);
        return;
    }
    const int there = take_connection(c, request->instance);
    if (there < 0) return;
    if (request->swtpm) {
        handed = take_sockets(c, NULL, request);
        if (!handed) {
            close(there);
            return;
        }
    }
    member_start_incoming(c->admin->supervisor, there, request->instance, request->listen, handed,
                          handed ? on_candidate : on_act, c);
}

static void on_joined_status(void *ctx, struct err result, struct reader *results)
{
    struct client *c = ctx;
    if (!result.code) result = effects_read_status(results, &c->admin->status);
    if (result.code) {
        client_answer_error(c, result, NULL, NULL);
        return;
    }
    json_t *view = view_status(c->admin->supervisor, &c->admin->status, &c->admin->device,
                               (uint64_t)(client_now() - c->admin->born));
    log_line(LOG_LEVEL_WARNING, "this vtpmd has joined the trust domain %s",
             json_string_value(json_object_get(view, "domain")));
    events_add(
        c->admin->supervisor->events, "joined",
        json_pack("{s:O, s:O}", "domain", json_object_get(view, "domain"), "member", json_object_get(view, "member")));
    client_answer(c, "return", view);
}

static void on_joined(void *ctx, struct err result, const char *reason, struct instance *instance)
{
    struct client *c = ctx;
    (void)instance;
    if (!result.code)
        result = manager_ask(c->admin->supervisor->manager, MANAGER_STATUS, span_empty(), on_joined_status, c);
    if (result.code) client_answer_error(c, result, NULL, reason);
}

static void do_join(struct client *c, const struct request *request)
{
    const int there = take_connection(c, NULL);
    (void)request;
    if (there >= 0) member_join(c->admin->supervisor, there, on_joined, c);
}

static bool pass_state(struct client *c, struct span state)
{
    const int fd = memfd_create("state", MFD_CLOEXEC);
    const bool written =
        fd >= 0 && write(fd, state.data, state.size) == (ssize_t)state.size && lseek(fd, 0, SEEK_SET) == 0;
    if (!written && fd >= 0) close(fd);
    if (written) c->passed = fd;
    return written;
}

static void on_member_answered(void *ctx, struct err result, struct span message, uint64_t version, struct span state)
{
    struct client *c = ctx;
    if (!result.code && version > 0 && !pass_state(c, state)) result = FAIL(SYSTEM);
    if (result.code)
        client_answer_error(c, result, NULL, NULL);
    else
        client_answer(
            c, "return",
            json_pack("{s:o, s:I}", "message", view_hex(message.data, message.size), "version", (json_int_t)version));
}

static void do_member(struct client *c, const struct request *request)
{
    const bool joins = request->message_size > 0 && request->message[0] == MEMBER_JOIN;
    if (joins)
        events_add(c->admin->supervisor->events, "join-asked",
                   json_pack("{s:i, s:i}", "pid", (int)c->pid, "uid", (int)c->uid));
    if (joins)
        log_line(LOG_LEVEL_WARNING, "another vtpmd asks to join the trust domain, through process %d (user %u)",
                 (int)c->pid, (unsigned)c->uid);
    member_answer(c->admin->supervisor, span_of(request->message, request->message_size), on_member_answered, c);
}

static void do_hold(struct client *c, const struct request *request)
{
    struct err error = OK;
    struct instance *instance = named(c, request->instance);
    if (!instance) return;
    const char *reason = why_not_held(c, instance, true, &error);
    if (reason) {
        client_answer_error(c, error, instance->row.label, reason);
        return;
    }
    struct handed *handed = take_hold(c, instance, request);
    if (!handed) return;
    handed_begin(instance, handed);
    client_answer(c, "return", view_instance(instance));
}

static void do_await(struct client *c, const struct request *request)
{
    struct instance *instance = named(c, request->instance);
    if (!instance) return;
    /* What another process commits meanwhile is no news to whoever holds the one that is to take over. */
    const bool as_known = !request->has_version || instance->recorded == request->version;
    c->awaits = c->holds == instance && (as_known || incoming_is_held_by(instance, c));
    c->awaits_news = request->has_version;
    if (!c->awaits) answer_await(c, instance, NULL);
}

static void do_start(struct client *c, const struct request *request)
{
    const bool from = request->from && request->incoming;
    if (request->listen && request->swtpm) {
        client_answer_error(c, FAIL(BAD_VALUE), request->instance, "listen does not go with swtpm, which has sockets");
        return;
    }
    if (from) {
        do_start_from(c, request);
        return;
    }
    struct instance *instance = named(c, request->instance);
    if (!instance) return;
    if (request->from)
        client_answer_error(c, FAIL(BAD_VALUE), instance->row.label, "from goes with incoming");
    else if (request->listen && !request->incoming)
        client_answer_error(c, FAIL(BAD_VALUE), instance->row.label, "listen goes with incoming; else create said it");
    else if (request->incoming)
        do_start_incoming(c, instance, request);
    else if (request->swtpm)
        do_start_handed(c, instance, request);
    else
        act_start(instance, request->declare_dead, request->wait, on_act, c);
}

/* Whoever holds the process that is to take over means that one. */
static void do_stop(struct client *c, const struct request *request)
{
    struct instance *instance = named(c, request->instance);
    if (!instance) return;
    const bool incoming = request->incoming || incoming_is_held_by(instance, c);
    (incoming ? incoming_stop : act_stop)(instance, on_act, c);
}

static void do_suspend(struct client *c, const struct request *request)
{
    struct instance *instance = named(c, request->instance);
    if (instance) act_suspend(instance, on_act, c);
}

static void do_declare_dead(struct client *c, const struct request *request)
{
    struct instance *instance = named(c, request->instance);
    if (instance) act_declare_dead(instance, on_act, c);
}

static void do_delete(struct client *c, const struct request *request)
{
    struct instance *instance = named(c, request->instance);
    if (instance) act_delete(instance, request->force, request->signature, on_act, c);
}

/* --- snapshots -----------------------------------------------------------------------------------------------------
 */

static void on_snapshot(void *ctx, const struct snapshots_answer *answer)
{
    struct client *c = ctx;
    if (answer->result.code)
        client_answer_error(c, answer->result, NULL, NULL);
    else
        client_answer(c, "return", answer->count ? view_snapshot(answer->list) : json_object());
}

static void on_snapshots(void *ctx, const struct snapshots_answer *answer)
{
    struct client *c = ctx;
    json_t *list = json_array();
    for (size_t i = 0; i < answer->count; i++)
        (void)json_array_append_new(list, view_snapshot(&answer->list[i]));
    if (answer->result.code) {
        json_decref(list);
        client_answer_error(c, answer->result, NULL, NULL);
        return;
    }
    client_answer(c, "return", json_pack("{s:o}", "snapshots", list));
}

static void ask_snapshots(struct client *c, struct instance *instance, enum snapshots_work what, const char *name)
{
    struct err result = snapshots_work(instance, what, name, what == SNAPSHOTS_LIST ? on_snapshots : on_snapshot, c);
    if (result.code) client_answer_error(c, result, instance->row.label, NULL);
}

static void do_snapshot(struct client *c, const struct request *request)
{
    struct instance *instance = named(c, request->instance);
    if (!instance) return;
    if (!label_is_plain(request->snapshot) || strlen(request->snapshot) >= MANAGER_LABEL_SIZE)
        client_answer_error(c, FAIL(LABEL_BAD), request->snapshot, NULL);
    else if (instance->row.family != PEER_FAMILY_20) /* there would be no way back to it */
        client_answer_error(c, FAIL(TPM_FAMILY), request->instance, NULL);
    else if (strncmp(request->snapshot, SNAPSHOT_RESERVED, strlen(SNAPSHOT_RESERVED)) == 0)
        client_answer_error(c, FAIL(LABEL_BAD), request->snapshot,
                            "names that begin with " SNAPSHOT_RESERVED " are given by a revert");
    else
        ask_snapshots(c, instance, SNAPSHOTS_TAKE, request->snapshot);
}

static void do_snapshots(struct client *c, const struct request *request)
{
    struct instance *instance = named(c, request->instance);
    if (instance) ask_snapshots(c, instance, SNAPSHOTS_LIST, NULL);
}

/* A name that is too long for a label is none of a snapshot's. */
static bool may_exist(struct client *c, const char *name)
{
    bool fits = strlen(name) < MANAGER_LABEL_SIZE;
    if (!fits) client_answer_error(c, FAIL(NO_SNAPSHOT), name, NULL);
    return fits;
}

static void do_snapshot_delete(struct client *c, const struct request *request)
{
    struct instance *instance = named(c, request->instance);
    if (instance && may_exist(c, request->snapshot)) ask_snapshots(c, instance, SNAPSHOTS_DELETE, request->snapshot);
}

static void on_state(void *ctx, const struct snapshots_answer *answer)
{
    struct client *c = ctx;
    struct err result = answer->result;
    if (!result.code && !pass_state(c, answer->state)) result = FAIL(SYSTEM);
    if (result.code) {
        client_answer_error(c, result, NULL, NULL);
        return;
    }
    client_answer(
        c, "return",
        json_pack("{s:I, s:I}", "version", (json_int_t)answer->list->version, "size", (json_int_t)answer->state.size));
}

static void do_state(struct client *c, const struct request *request)
{
    struct instance *instance = named(c, request->instance);
    if (!instance) return;
    struct err result = snapshots_work(instance, SNAPSHOTS_NEWEST, NULL, on_state, c);
    if (result.code) client_answer_error(c, result, instance->row.label, NULL);
}

/* --- the owner's acts ----------------------------------------------------------------------------------------------
 */

static void do_revert(struct client *c, const struct request *request)
{
    struct instance *instance = named(c, request->instance);
    if (instance && may_exist(c, request->snapshot))
        act_revert(instance, request->snapshot, request->signature, on_act, c);
}

static void do_set_owner(struct client *c, const struct request *request)
{
    struct instance *instance = named(c, request->instance);
    if (instance) act_set_owner(instance, request->owner, request->signature, on_act, c);
}

static void do_clone(struct client *c, const struct request *request)
{
    struct create create = {.listen = request->listen, .start = request->start};
    create.source = named(c, request->instance);
    if (!create.source || !take_label(c, request->label, create.label)) return;
    memcpy(create.signature, request->signature, sizeof create.signature);
    act_create(c->admin->supervisor, &create, on_act, c);
}

/* --- what the owner signs ------------------------------------------------------------------------------------------
 */

struct challenged {
    struct client *client;
    struct instance *instance;
    struct owner_act act;
};

static void challenge_failed(struct challenged *challenged, struct err result)
{
    struct client *c = challenged->client;
    const char *label = challenged->instance->row.label;
    free(challenged);
    client_answer_error(c, result, label, NULL);
}

static void on_challenge(void *ctx, struct err result, struct reader *results)
{
    struct challenged *challenged = ctx;
    struct client *c = challenged->client;
    uint8_t message[OWNER_ACT_SIZE];
    struct span nonce = span_empty();
    if (!result.code) result = read_span(results, SHA256_SIZE, &nonce);
    if (!result.code)
        result = owner_act_message(challenged->instance, &challenged->act, &c->admin->status, nonce, message);
    if (result.code) {
        challenge_failed(challenged, result);
        return;
    }
    json_t *answer = json_pack("{s:o, s:o, s:o}", "nonce", view_hex(nonce.data, nonce.size), "message",
                               view_hex(message, sizeof message), "arguments",
                               view_hex(challenged->act.arguments, challenged->act.size));
    free(challenged);
    client_answer(c, "return", answer);
}

static void ask_challenge(struct challenged *challenged)
{
    const struct instance *instance = challenged->instance;
    struct err result =
        manager_ask(instance->supervisor->manager, MANAGER_CHALLENGE,
                    span_of(instance->row.id.bytes, sizeof instance->row.id.bytes), on_challenge, challenged);
    if (result.code) challenge_failed(challenged, result);
}

static void on_snapshot_to_sign(void *ctx, const struct snapshots_answer *answer)
{
    struct challenged *challenged = ctx;
    if (answer->result.code) {
        challenge_failed(challenged, answer->result);
        return;
    }
    challenged->act = owner_act_revert(challenged->instance, answer->list);
    ask_challenge(challenged);
}

/* What each act is about, as it is named in the arguments of challenge. */
static bool is_about(const struct request *request, bool snapshot, bool owner, bool label)
{
    return snapshot == (request->snapshot != NULL) && owner == request->has_owner && label == (request->label != NULL);
}

static bool begin_challenge(struct challenged *challenged, const struct request *request)
{
    char label[MANAGER_LABEL_SIZE];
    if (strcmp(request->act, "delete") == 0 && is_about(request, false, false, false)) {
        challenged->act = owner_act_delete();
    } else if (strcmp(request->act, "set-owner") == 0 && is_about(request, false, true, false)) {
        challenged->act = owner_act_set_owner(request->owner);
    } else if (strcmp(request->act, "clone") == 0 && is_about(request, false, false, true)) {
        if (!copy_label(request->label, label)) return false;
        challenged->act = owner_act_clone(label);
    } else {
        return false;
    }
    ask_challenge(challenged);
    return true;
}

static void do_challenge(struct client *c, const struct request *request)
{
    struct instance *instance = named(c, request->instance);
    if (!instance) return;
    struct challenged *challenged = malloc(sizeof *challenged);
    if (!challenged) {
        client_answer_error(c, FAIL(NO_MEMORY), NULL, NULL);
        return;
    }
    *challenged = (struct challenged){.client = c, .instance = instance};
    if (strcmp(request->act, "revert") == 0 && is_about(request, true, false, false)) {
        struct err result =
            snapshots_work(instance, SNAPSHOTS_READ, request->snapshot, on_snapshot_to_sign, challenged);
        if (result.code) challenge_failed(challenged, result);
    } else if (!begin_challenge(challenged, request)) {
        free(challenged);
        client_answer_error(c, FAIL(BAD_VALUE), instance->row.label,
                            "the owner signs delete, revert (of a snapshot), set-owner (owner) and clone (label)");
    }
}

/* --- vtpmd ---------------------------------------------------------------------------------------------------------
 */

static void on_status(void *ctx, struct err result, struct reader *results)
{
    struct client *c = ctx;
    struct admin *admin = c->admin;
    struct manager_status status;
    if (!result.code) result = effects_read_status(results, &status);
    if (result.code) {
        client_answer_error(c, result, NULL, NULL);
        return;
    }
    client_answer(c, "return",
                  view_status(admin->supervisor, &status, &admin->device, (uint64_t)(client_now() - admin->born)));
}

static void do_status(struct client *c, const struct request *request)
{
    (void)request;
    struct err result = manager_ask(c->admin->supervisor->manager, MANAGER_STATUS, span_empty(), on_status, c);
    if (result.code) client_answer_error(c, result, NULL, NULL);
}

static void do_version(struct client *c, const struct request *request)
{
    (void)request;
    client_answer(c, "return", json_pack("{s:s, s:i}", "version", VTPM_VERSION, "api", API_VERSION));
}

static void on_store_progress(void *ctx, uint64_t done, uint64_t all)
{
    struct client *c = ctx;
    if (!c->progress || c->fd < 0 || c->output_size) return; /* a slow reader is told less often */
    json_t *message = json_pack("{s:{s:I, s:I}}", "progress", "done", (json_int_t)done, "of", (json_int_t)all);
    if (c->id) (void)json_object_set(message, "id", c->id);
    client_say(c, message);
}

static void on_store_done(void *ctx, struct err result, const char *reason, json_t *value, int fd)
{
    struct client *c = ctx;
    c->admin->store_work = false;
    c->passed = fd;
    if (result.code)
        client_answer_error(c, result, NULL, reason);
    else
        client_answer(c, "return", value);
}

static void do_store_work(struct client *c, const struct request *request)
{
    const struct store_work_listener listener = {c, on_store_progress, on_store_done};
    struct supervisor *supervisor = c->admin->supervisor;
    if (c->admin->store_work) {
        client_answer_error(c, FAIL(STORE_BUSY), NULL,
                            "the store is being checked or copied for somebody else: try again later");
        return;
    }
    log_line(LOG_LEVEL_NOTICE, "%s asked for by process %d (user %u)", request->execute, (int)c->pid, (unsigned)c->uid);
    struct err result = request->verb == REQUEST_STORE_CHECK ? store_work_check(supervisor, &listener)
                                                             : store_work_backup(supervisor, &listener);
    c->admin->store_work = !result.code;
    c->progress = request->progress;
    if (result.code) client_answer_error(c, result, NULL, NULL);
}

static void do_subscribe(struct client *c, const struct request *request)
{
    c->subscribed = true;
    client_answer(c, "return", json_object()); /* lines are being taken, so the client stays */
    if (request->since) events_since(c->admin->supervisor->events, request->since, c, client_tell);
}

static void (*const verbs[])(struct client *c, const struct request *request) = {
    [REQUEST_CREATE] = do_create,
    [REQUEST_LIST] = do_list,
    [REQUEST_SHOW] = do_show,
    [REQUEST_START] = do_start,
    [REQUEST_STOP] = do_stop,
    [REQUEST_DECLARE_DEAD] = do_declare_dead,
    [REQUEST_SUSPEND] = do_suspend,
    [REQUEST_CLONE] = do_clone,
    [REQUEST_SNAPSHOT] = do_snapshot,
    [REQUEST_SNAPSHOTS] = do_snapshots,
    [REQUEST_SNAPSHOT_DELETE] = do_snapshot_delete,
    [REQUEST_REVERT] = do_revert,
    [REQUEST_SET_OWNER] = do_set_owner,
    [REQUEST_CHALLENGE] = do_challenge,
    [REQUEST_DELETE] = do_delete,
    [REQUEST_SUBSCRIBE] = do_subscribe,
    [REQUEST_STATUS] = do_status,
    [REQUEST_VERSION] = do_version,
    [REQUEST_STORE_CHECK] = do_store_work,
    [REQUEST_STORE_BACKUP] = do_store_work,
    [REQUEST_HOLD] = do_hold,
    [REQUEST_AWAIT] = do_await,
    [REQUEST_STATE] = do_state,
    [REQUEST_JOIN] = do_join,
    [REQUEST_MOVE] = do_move,
    [REQUEST_MEMBER] = do_member,
};

void verbs_run(struct client *c, const struct request *request)
{
    verbs[request->verb](c, request);
}
