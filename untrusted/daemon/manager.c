#include "untrusted/daemon/manager.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "crypto/crypto.h"
#include "untrusted/sgx/priming.h"

#define ROUND_UP(size) (((size) + CALL_ALIGNMENT - 1) / CALL_ALIGNMENT * CALL_ALIGNMENT)
#define INPUT_SIZE     ROUND_UP(CALL_INPUT_MAX)
#define OUTPUT_SIZE    ROUND_UP(CALL_OUTPUT_MAX)
#define VERB_MAX       (INSTANCE_ID_SIZE + PEER_MESSAGE_MAX) /* bytes of a verb's arguments */

/* A call that waits for its turn. */
struct call {
    struct call *next;
    enum manager_call number;
    uint64_t channel; /* PEER */
    size_t size;
    uint8_t body[];
};

/* A request that waits for its reply. */
struct pending {
    struct pending *next;
    uint64_t number;
    enum manager_verb verb;
    manager_done *done;
    void *ctx;
};

struct manager {
    struct manager_door door;
    struct manager_listener listener;
    const struct crypto *crypto;
    struct x25519_key key; /* until K1 is there */
    uint8_t mrenclave[LINK_MRENCLAVE_SIZE];
    struct link link;
    bool linked;
    bool ready; /* the start is over */
    bool lost;
    struct err why; /* lost */
    bool busy;      /* a call, or the handling of its effects, is under way */
    uint64_t requests;
    struct pending *pending;
    struct call *first;
    struct call **end;
    struct writer rows; /* that were added and not yet given */
    uint32_t row_count;
    struct manager_message *message; /* to be written by the call under way, or NULL */
    struct effects effects;
    _Alignas(8) uint8_t input[INPUT_SIZE];
    _Alignas(8) uint8_t output[OUTPUT_SIZE];
    uint8_t rows_memory[CALL_BODY_MAX];
};

/* --- opening -------------------------------------------------------------------------------------------------------
 */

struct err manager_open(const struct crypto *crypto, const struct manager_door *door,
                        const uint8_t mrenclave[LINK_MRENCLAVE_SIZE], const struct manager_listener *listener,
                        struct manager **out_manager)
{
    struct manager *m = calloc(1, sizeof *m);
    ENSURE(m, NO_MEMORY);
    m->door = *door;
    m->listener = *listener;
    m->end = &m->first;
    memcpy(m->mrenclave, mrenclave, sizeof m->mrenclave);
    m->crypto = crypto;
    struct err result = x25519_generate(crypto, &m->key);
    if (result.code) {
        manager_close(&m);
        return result;
    }
    *out_manager = m;
    return OK;
}

static void drop_calls(struct manager *m)
{
    while (m->first) {
        struct call *call = m->first;
        m->first = call->next;
        free(call);
    }
    m->end = &m->first;
}

static void end_pending(struct manager *m)
{
    while (m->pending) {
        struct pending *p = m->pending;
        struct reader nothing = reader_of(span_empty());
        m->pending = p->next;
        p->done(p->ctx, FAIL(LINK_CLOSED), &nothing);
        free(p);
    }
}

void manager_close(struct manager **manager)
{
    struct manager *m = *manager;
    if (!m) return;
    m->lost = true;
    drop_calls(m);
    end_pending(m);
    if (m->linked) link_close(&m->link);
    wipe(m, sizeof *m);
    free(m);
    *manager = NULL;
}

static struct err lose(struct manager *m, struct err why)
{
    if (m->lost) return why;
    m->lost = true;
    m->why = why;
    drop_calls(m);
    if (m->ready) m->listener.failed(m->listener.ctx, why);
    return why;
}

/* --- K1 ------------------------------------------------------------------------------------------------------------
 */

static struct err on_link(struct manager *m, const struct effect *effect)
{
    ENSURE(!m->linked, LINK_ORDER);
    /* It is the enclave that vtpmd itself had measured, and says so. */
    ENSURE(memcmp(effect->program, m->mrenclave, sizeof m->mrenclave) == 0, PEER_IDENTITY);
    struct link_binding binding = {.kind = LINK_K1};
    memcpy(binding.manager, m->mrenclave, sizeof binding.manager);
    const struct link_keys keys = {.own = &m->key, .peer = effect->share};
    struct err result = link_open(m->crypto, LINK_HOST, &binding, &keys, &m->link);
    wipe(&m->key, sizeof m->key);
    m->linked = !result.code;
    return result;
}

static struct pending **find_pending(struct manager *m, uint64_t number)
{
    for (struct pending **p = &m->pending; *p; p = &(*p)->next)
        if ((*p)->number == number) return p;
    return NULL;
}

static struct err on_reply(struct manager *m, uint16_t verb, struct err code, uint64_t number, struct reader *r)
{
    struct pending **place = find_pending(m, number);
    ENSURE(place && (*place)->verb == verb, LINK_ORDER);
    struct pending *p = *place;
    *place = p->next;
    p->done(p->ctx, code, r);
    free(p);
    return OK;
}

static struct err on_started(struct manager *m, struct err code, struct reader *r)
{
    struct link_told told;
    bool incoming = false;
    ENSURE(!code.code, BAD_VALUE);
    TRY(effects_read_started(r, &told.binding, &incoming, told.enclave_share));
    TRY(reader_end(r));
    (incoming ? m->listener.incoming : m->listener.started)(m->listener.ctx, &told);
    return OK;
}

static struct err read_channel(struct reader *r, uint64_t *out_channel, struct instance_id *out_id)
{
    TRY(read_u64(r, out_channel));
    TRY(read_bytes(r, out_id->bytes, sizeof out_id->bytes));
    return reader_end(r);
}

static struct err on_event(struct manager *m, uint16_t event, struct err code, struct reader *r)
{
    uint64_t channel = 0;
    struct instance_id id;
    if (event == MANAGER_STARTED) return on_started(m, code, r);
    if (event == MANAGER_READY) {
        m->ready = true;
        return reader_end(r);
    }
    ENSURE(event >= MANAGER_RESUMED && event <= MANAGER_REDEEMING, BAD_VALUE);
    TRY(read_channel(r, &channel, &id));
    if (event == MANAGER_RESUMED)
        m->listener.resumed(m->listener.ctx, channel, &id);
    else if (event == MANAGER_REDEEMING)
        m->listener.redeeming(m->listener.ctx, channel, &id);
    else if (event == MANAGER_REDEEMED)
        m->listener.redeemed(m->listener.ctx, channel, &id);
    else if (event == MANAGER_SNAPSHOT_LOADED)
        m->listener.loaded(m->listener.ctx, &id);
    else
        m->listener.refused(m->listener.ctx, channel, &id, code);
    return OK;
}

static struct err on_data(struct manager *m, struct span plaintext)
{
    struct reader r = reader_of(plaintext);
    uint16_t verb = 0;
    struct err code = OK;
    uint32_t zero = 0;
    uint64_t number = 0;
    TRY(read_u16(&r, &verb));
    TRY(read_u16(&r, &code.code));
    TRY(read_u32(&r, &zero));
    TRY(read_u64(&r, &number));
    ENSURE(zero == 0, BAD_VALUE);
    return number ? on_reply(m, verb, code, number, &r) : on_event(m, verb, code, &r);
}

static struct err on_record(struct manager *m, const struct effect *effect)
{
    uint8_t plaintext[RECORD_PLAINTEXT_MAX];
    size_t size = 0;
    enum link_event event = LINK_FINISHED;
    ENSURE(m->linked, LINK_ORDER);
    ENSURE(effect->bytes.size <= RECORD_MAX, TOO_LARGE);
    TRY(link_receive(&m->link, effect->bytes, &event, plaintext, &size));
    ENSURE(event != LINK_ENDED, LINK_CLOSED);
    if (event == LINK_FINISHED) return OK;
    struct err result = on_data(m, span_of(plaintext, size));
    wipe(plaintext, size);
    return result;
}

/* --- effects -------------------------------------------------------------------------------------------------------
 */

static struct err on_anchor(struct manager *m, const struct effect *effect)
{
    const struct store_batch batch = {
        .head = m->effects.head,
        .master = m->effects.master,
        .rows = m->effects.rows,
        .row_count = m->effects.row_count,
    };
    const struct manager_exchange exchange = {
        .number = effect->number,
        .kind = effect->anchor,
        .request = effect->bytes,
        .batch = batch.head.size ? &batch : NULL,
    };
    return m->listener.anchor(m->listener.ctx, &exchange);
}

static struct err on_message(struct manager *m, const struct effect *effect)
{
    ENSURE(m->message && effect->bytes.size <= sizeof m->message->bytes, CALL_STATE);
    memcpy(m->message->bytes, effect->bytes.data, effect->bytes.size);
    m->message->size = effect->bytes.size;
    m->message = NULL;
    return OK;
}

static struct err handle(struct manager *m, const struct effect *effect)
{
    const struct manager_listener *l = &m->listener;
    switch (effect->kind) {
    case MANAGER_EFFECT_LINK:
        return on_link(m, effect);
    case MANAGER_EFFECT_RECORD:
        return on_record(m, effect);
    case MANAGER_EFFECT_MESSAGE:
        return on_message(m, effect);
    case MANAGER_EFFECT_CREATE_ENCLAVE:
        ENSURE(l->create_enclave, CALL_STATE);
        l->create_enclave(l->ctx, &effect->id, effect->number, effect->program);
        return OK;
    case MANAGER_EFFECT_SEND:
        ENSURE(l->send, CALL_STATE);
        l->send(l->ctx, effect->channel, effect->bytes);
        return OK;
    case MANAGER_EFFECT_STATE:
        ENSURE(l->state, CALL_STATE);
        l->state(l->ctx, effect->channel, &effect->id, effect->number);
        return OK;
    case MANAGER_EFFECT_STORE:
        return OK; /* goes with its ANCHOR */
    case MANAGER_EFFECT_ANCHOR:
        ENSURE(l->anchor, CALL_STATE);
        return on_anchor(m, effect);
    case MANAGER_EFFECT_CLOSE:
        ENSURE(l->close, CALL_STATE);
        l->close(l->ctx, effect->channel, effect->code);
        return OK;
    }
    return FAIL(BAD_VALUE);
}

/* A refusal of one connection's enclave comes before what belongs to it: its state is not to be stored then. */
static struct err handle_all(struct manager *m)
{
    for (size_t i = 0; i < m->effects.count; i++)
        if (m->effects.list[i].kind == MANAGER_EFFECT_CLOSE) TRY(handle(m, &m->effects.list[i]));
    for (size_t i = 0; i < m->effects.count; i++)
        if (m->effects.list[i].kind != MANAGER_EFFECT_CLOSE) TRY(handle(m, &m->effects.list[i]));
    return OK;
}

/* --- calls ---------------------------------------------------------------------------------------------------------
 */

static struct err begin(struct manager *m, enum manager_call number, size_t body_size, struct writer *out_record)
{
    struct timespec time;
    ENSURE(body_size <= CALL_BODY_MAX, TOO_LARGE);
    ENSURE(clock_gettime(CLOCK_REALTIME, &time) == 0, SYSTEM);
    *out_record = writer_of(m->input, sizeof m->input);
    TRY(write_u32(out_record, number));
    TRY(write_u32(out_record, (uint32_t)body_size));
    return write_u64(out_record, (uint64_t)time.tv_sec * UINT64_C(1000000000) + (uint64_t)time.tv_nsec);
}

/* *out_refused: the handler refused what it was given, and the enclave goes on. */
static struct err finish(struct manager *m, const struct writer *record, bool *out_refused)
{
    size_t size = 0;
    *out_refused = false;
    TRY(m->door.call(m->door.ctx, writer_span(record), m->output, sizeof m->output, &size));
    ENSURE(size <= sizeof m->output, TOO_LARGE);
    struct err result = effects_parse(span_of(m->output, size), &m->effects, out_refused);
    if (result.code) return result;
    *out_refused = false;
    return handle_all(m);
}

static struct err call_with(struct manager *m, enum manager_call number, struct span head, struct span body,
                            bool *out_refused)
{
    struct writer record;
    TRY(begin(m, number, head.size + body.size, &record));
    TRY(write_span(&record, head));
    TRY(write_span(&record, body));
    return finish(m, &record, out_refused);
}

static void run_call(struct manager *m, const struct call *call)
{
    bool refused = false;
    const struct span channel = span_of(&call->channel, call->number == MANAGER_PEER ? sizeof call->channel : 0);
    struct err result = call_with(m, call->number, channel, span_of(call->body, call->size), &refused);
    if (!result.code) return;
    if (refused && call->number == MANAGER_PEER)
        m->listener.close(m->listener.ctx, call->channel, result);
    else
        (void)lose(m, result);
}

static void run_calls(struct manager *m)
{
    if (m->busy) return;
    m->busy = true;
    while (m->first && !m->lost) {
        struct call *call = m->first;
        m->first = call->next;
        if (!m->first) m->end = &m->first;
        run_call(m, call);
        free(call);
    }
    m->busy = false;
}

static struct err queue(struct manager *m, enum manager_call number, uint64_t channel, struct span body)
{
    ENSURE(!m->lost, ENCLAVE_DEAD);
    struct call *call = malloc(sizeof *call + body.size);
    ENSURE(call, NO_MEMORY);
    *call = (struct call){.number = number, .channel = channel, .size = body.size};
    if (body.size) memcpy(call->body, body.data, body.size);
    *m->end = call;
    m->end = &call->next;
    run_calls(m);
    return OK;
}

struct err manager_peer(struct manager *manager, uint64_t channel, struct span message)
{
    ENSURE(message.size > 0 && message.size <= PEER_MESSAGE_MAX, TOO_LARGE);
    return queue(manager, MANAGER_PEER, channel, message);
}

struct err manager_anchored(struct manager *manager, uint64_t number, struct span answer)
{
    uint8_t body[sizeof number + ANCHOR_EXCHANGE_MAX];
    struct writer w = writer_of(body, sizeof body);
    TRY(write_u64(&w, number));
    TRY(write_span(&w, answer));
    return queue(manager, MANAGER_ANCHORED, 0, writer_span(&w));
}

struct err manager_ask(struct manager *manager, enum manager_verb verb, struct span arguments, manager_done *done,
                       void *ctx)
{
    uint8_t plaintext[MANAGER_K1_HEADER_SIZE + VERB_MAX];
    uint8_t sealed[RECORD_OVERHEAD + sizeof plaintext];
    struct writer request = writer_of(plaintext, sizeof plaintext);
    struct writer record = writer_of(sealed, sizeof sealed);
    ENSURE(manager->linked && !manager->lost, LINK_CLOSED);
    TRY(write_u16(&request, verb));
    TRY(write_u16(&request, 0));
    TRY(write_u32(&request, 0));
    TRY(write_u64(&request, ++manager->requests));
    TRY(write_span(&request, arguments));
    struct pending *p = malloc(sizeof *p);
    ENSURE(p, NO_MEMORY);
    *p = (struct pending){manager->pending, manager->requests, verb, done, ctx};
    struct err result = link_send(&manager->link, writer_span(&request), &record);
    if (result.code) {
        free(p);
        return result;
    }
    manager->pending = p;
    result = queue(manager, MANAGER_RECORD, 0, writer_span(&record));
    if (!result.code) return OK;
    manager->pending = p->next; /* nothing ran meanwhile */
    free(p);
    return lose(manager, result); /* the record that was sealed is missing from now on */
}

/* --- the start -----------------------------------------------------------------------------------------------------
 */

static struct err write_priming(struct manager *m, struct writer *w)
{
    TRY(priming_write(w));
    return write_bytes(w, m->key.public, sizeof m->key.public);
}

static struct err write_blob(struct writer *w, struct span blob)
{
    TRY(write_u32(w, (uint32_t)blob.size));
    return write_span(w, blob);
}

/* A call of the start: every error is the caller's, and the anchor's answers wait for finish_start. */
static struct err call_now(struct manager *m, enum manager_call number, struct span body)
{
    bool refused = false;
    m->busy = true;
    struct err result = call_with(m, number, body, span_empty(), &refused);
    m->busy = false;
    return result;
}

/* This end's FINISH: from here on the manager takes requests. */
static struct err finish_link(struct manager *m)
{
    uint8_t bytes[RECORD_OVERHEAD + SHA256_SIZE];
    struct writer record = writer_of(bytes, sizeof bytes);
    ENSURE(m->linked, LINK_ORDER);
    TRY(link_finish(&m->link, &record));
    TRY(call_now(m, MANAGER_RECORD, writer_span(&record)));
    ENSURE(m->link.finish_received, LINK_ORDER);
    return OK;
}

/* K1, and then the exchanges with the anchor, each of which asks for the next one. */
static struct err finish_start(struct manager *m)
{
    TRY(finish_link(m));
    run_calls(m);
    TRY(m->why);
    ENSURE(m->ready, CALL_STATE);
    return OK;
}

static struct err call_for_message(struct manager *m, enum manager_call number, struct span body,
                                   struct manager_message *out_message)
{
    m->message = out_message;
    struct err result = call_now(m, number, body);
    bool answered = !m->message;
    m->message = NULL;
    TRY(result);
    ENSURE(answered, CALL_STATE);
    return OK;
}

static struct err write_anchor(struct writer *w, const struct manager_anchor *anchor)
{
    TRY(write_u32(w, anchor->kind));
    TRY(write_u32(w, anchor->nv_index));
    return write_blob(w, anchor->owner_auth);
}

struct err manager_start_new(struct manager *manager, const struct manager_anchor *anchor,
                             const struct manager_recovery *recovery, void *ctx,
                             struct err (*store)(void *ctx, struct span record))
{
    uint8_t body[768];
    struct writer w = writer_of(body, sizeof body);
    struct manager_message record;
    TRY(write_u32(&w, MANAGER_START_NEW));
    TRY(write_priming(manager, &w));
    TRY(write_anchor(&w, anchor));
    TRY(write_u32(&w, recovery ? recovery->rule.threshold : 0));
    TRY(write_u32(&w, recovery ? recovery->rule.count : 0));
    if (!recovery) {
        TRY(call_now(manager, MANAGER_START, writer_span(&w)));
        return finish_start(manager);
    }
    TRY(write_bytes(&w, recovery->keys, recovery->rule.count * (size_t)X25519_SIZE));
    TRY(call_for_message(manager, MANAGER_START, writer_span(&w), &record));
    TRY(store(ctx, span_of(record.bytes, record.size)));
    return finish_start(manager);
}

struct err manager_start_recover(struct manager *manager, const struct manager_anchor *anchor, struct span record,
                                 struct span head, struct manager_message *out_request)
{
    struct writer w = writer_of(manager->rows_memory, sizeof manager->rows_memory);
    ENSURE(record.size <= RECOVERY_RECORD_MAX && head.size <= STATE_MAX, TOO_LARGE);
    TRY(write_u32(&w, MANAGER_START_RECOVER));
    TRY(write_priming(manager, &w));
    TRY(write_anchor(&w, anchor));
    TRY(write_blob(&w, record));
    TRY(write_blob(&w, head));
    return call_for_message(manager, MANAGER_START, writer_span(&w), out_request);
}

struct err manager_share(struct manager *manager, struct span answer)
{
    return call_now(manager, MANAGER_SHARE, answer);
}

struct err manager_start_open(struct manager *manager, struct span master, struct span head)
{
    struct writer w = writer_of(manager->rows_memory, sizeof manager->rows_memory);
    ENSURE(master.size <= STATE_MAX && head.size <= STATE_MAX, TOO_LARGE);
    TRY(write_u32(&w, MANAGER_START_OPEN));
    TRY(write_priming(manager, &w));
    TRY(write_blob(&w, master));
    TRY(write_blob(&w, head));
    return call_now(manager, MANAGER_START, writer_span(&w));
}

static struct err give_rows(struct manager *m)
{
    if (!m->row_count) return OK;
    struct writer count = writer_of(m->rows.start, m->rows.size);
    TRY(write_u32(&count, m->row_count));
    m->row_count = 0;
    return call_now(m, MANAGER_ROWS, writer_span(&m->rows));
}

struct err manager_add_row(struct manager *manager, struct span blob)
{
    ENSURE(blob.size <= STATE_MAX, TOO_LARGE);
    if (manager->row_count && manager->rows.size + 4 + blob.size > manager->rows.capacity) TRY(give_rows(manager));
    if (!manager->row_count) {
        manager->rows = writer_of(manager->rows_memory, sizeof manager->rows_memory);
        TRY(write_u32(&manager->rows, 0)); /* the count, when it is known */
    }
    TRY(write_blob(&manager->rows, blob));
    manager->row_count++;
    return OK;
}

struct err manager_loaded(struct manager *manager)
{
    TRY(give_rows(manager));
    TRY(call_now(manager, MANAGER_LOADED, span_empty()));
    return finish_start(manager);
}

/* --- the hand-over ------------------------------------------------------------------------------------------------- */

struct err manager_who(struct manager *manager, struct manager_message *out_target)
{
    return call_for_message(manager, MANAGER_WHO, span_empty(), out_target);
}

struct err manager_greet(struct manager *successor, struct span target, struct manager_message *out_greeting)
{
    uint8_t body[512];
    struct writer w = writer_of(body, sizeof body);
    TRY(write_priming(successor, &w));
    TRY(write_span(&w, target));
    return call_for_message(successor, MANAGER_GREET, writer_span(&w), out_greeting);
}

struct err manager_give(struct manager *manager, struct span manifest, struct span greeting,
                        struct manager_message *out_gift)
{
    uint8_t body[MANIFEST_SIZE + PEER_MESSAGE_MAX];
    struct writer w = writer_of(body, sizeof body);
    ENSURE(manifest.size == MANIFEST_SIZE, MANIFEST);
    TRY(write_span(&w, manifest));
    TRY(write_span(&w, greeting));
    return call_for_message(manager, MANAGER_GIVE, writer_span(&w), out_gift);
}

struct err manager_take(struct manager *successor, struct span manifest, struct span gift, struct span head)
{
    struct writer w = writer_of(successor->rows_memory, sizeof successor->rows_memory);
    TRY(write_span(&w, manifest));
    TRY(write_blob(&w, gift));
    TRY(write_blob(&w, head));
    return call_now(successor, MANAGER_TAKE, writer_span(&w));
}
