#include "untrusted/front/tunnel.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

#include "base/memory.h"
#include "untrusted/host/secret_heap.h"

static void wipe_key(struct x25519_key *key)
{
    wipe(key, sizeof *key);
}

/* The state of the generator tells what it will draw: it is made in the secret heap. */
static struct err open_generator(void)
{
    uint8_t byte[1];
    secret_heap_begin();
    bool made = RAND_bytes(byte, sizeof byte) == 1 && RAND_priv_bytes(byte, sizeof byte) == 1;
    secret_heap_end();
    ENSURE(made, CRYPTO);
    return OK;
}

/* What libcrypto fetches at the first use of X25519 is large, stays, and is no secret: not in the secret heap. */
static struct err warm_up(const struct crypto *crypto)
{
    struct x25519_key key DEFER(wipe_key) = {0};
    uint8_t shared[X25519_SIZE];
    TRY(x25519_generate(crypto, &key));
    return x25519_shared(crypto, key.private, key.public, shared);
}

static struct err draw_share(struct tunnel *t)
{
    secret_heap_begin();
    struct err result = x25519_generate(t->crypto, &t->own);
    secret_heap_end();
    return result;
}

/* As long as no enclave has said another one. */
static void set_buffer_size(struct tunnel *t, uint32_t size)
{
    struct writer w = writer_of(t->buffer_size, sizeof t->buffer_size);
    for (size_t i = 0; i < sizeof t->buffer_size / sizeof size; i++)
        (void)write_u32(&w, size).code; /* there is room */
}

struct err tunnel_open(const struct tunnel_options *options, struct tunnel *out)
{
    *out = (struct tunnel){
        .crypto = options->crypto,
        .transport = options->transport,
        .instance = options->instance,
        .powered = !options->incoming,
        .awaiting_reset = options->awaiting_reset,
        .is_enrolled = options->enrolled != NULL,
    };
    set_buffer_size(out, TPM_MESSAGE_MAX);
    if (options->enrolled) memcpy(out->enrolled, options->enrolled, sizeof out->enrolled);
    TRY(open_generator());
    TRY(warm_up(out->crypto));
    return draw_share(out);
}

static void forget_export(struct tunnel *t)
{
    free(t->export.bytes);
    t->export = (struct tunnel_export){0};
}

void tunnel_close(struct tunnel *t)
{
    link_close(&t->link);
    forget_export(t);
    wipe(t, sizeof *t);
}

void tunnel_attach(struct tunnel *t, struct front *front)
{
    t->front = front;
}

/* --- the end of a request; the front may begin the next one before this returns --- */

static void done(struct tunnel *t, struct err result, struct span response)
{
    enum front_verb verb = t->verb;
    t->busy = false;
    if (!result.code && (verb == FRONT_RESET || verb == FRONT_POWER_ON)) {
        t->powered = true;
        t->awaiting_reset = false;
    }
    if (!result.code && (verb == FRONT_POWER_OFF || verb == FRONT_SHUTDOWN)) t->powered = false;
    const struct tunnel_export export = t->export; /* response may be in it, and the next request has its own */
    t->export = (struct tunnel_export){0};
    front_done(t->front, result, response);
    free(export.bytes);
    if (verb == FRONT_SHUTDOWN) t->transport.shutdown(t->transport.ctx);
}

void tunnel_fail(struct tunnel *t, struct err why)
{
    link_close(&t->link);
    t->step = TUNNEL_LOST;
    t->awaiting_reset = true;
    if (t->busy) done(t, why, span_empty());
}

void tunnel_give_up(struct tunnel *t, struct err why)
{
    if (t->busy && t->step != TUNNEL_LINKED) done(t, why, span_empty());
}

/* --- requests --- */

/* What goes with a verb, behind its head. */
struct body {
    struct span bytes;
    uint32_t numbers[2];
    size_t number_count; /* they come first */
};

static struct err write_request(enum k2_verb verb, uint8_t locality, const struct body *body, struct writer *w)
{
    TRY(write_u8(w, (uint8_t)verb));
    TRY(write_u8(w, locality));
    TRY(write_u16(w, 0));
    for (size_t i = 0; i < body->number_count; i++)
        TRY(write_u32(w, body->numbers[i]));
    return write_span(w, body->bytes);
}

static void send_with(struct tunnel *t, enum k2_verb verb, uint8_t locality, const struct body *body)
{
    struct writer plaintext = writer_of(t->plaintext, K2_MESSAGE_MAX);
    struct writer record = writer_of(t->record, sizeof t->record);
    struct err result = write_request(verb, locality, body, &plaintext);
    if (!result.code) result = link_send(&t->link, writer_span(&plaintext), &record);
    wipe(t->plaintext, plaintext.size);
    t->sent = verb;
    if (result.code)
        tunnel_fail(t, result);
    else
        t->transport.send(t->transport.ctx, (uint8_t)verb, writer_span(&record));
}

static void send_request(struct tunnel *t, enum k2_verb verb)
{
    send_with(t, verb, 0, &(struct body){0});
}

static bool has_tpm(const struct tunnel *t)
{
    return t->step == TUNNEL_LINKED && !t->awaiting_reset;
}

/* The verbs that are one request of the same meaning. */
static const struct plain {
    enum k2_verb verb;
    bool located;
    bool has_bytes;
    bool has_number;
} plain[FRONT_VERB_COUNT] = {
    [FRONT_COMMAND] = {.verb = K2_COMMAND, .located = true, .has_bytes = true},
    [FRONT_ESTABLISHED] = {.verb = K2_ESTABLISHED},
    [FRONT_RESET_ESTABLISHED] = {.verb = K2_RESET_ESTABLISHED, .located = true},
    [FRONT_HASH_START] = {.verb = K2_HASH_START},
    [FRONT_HASH_DATA] = {.verb = K2_HASH_DATA, .has_bytes = true},
    [FRONT_HASH_END] = {.verb = K2_HASH_END},
    [FRONT_INFO] = {.verb = K2_INFO, .has_number = true},
    [FRONT_STORE_VOLATILE] = {.verb = K2_STORE_VOLATILE},
    [FRONT_EXPORT] = {.verb = K2_EXPORT},
    [FRONT_LOCK] = {.verb = K2_LOCK},
};

static void run_plain(struct tunnel *t, const struct front_request *request)
{
    const struct plain *row = &plain[request->verb];
    const struct body body = {
        .bytes = row->has_bytes ? request->command : span_empty(),
        .numbers = {(uint32_t)request->number},
        .number_count = row->has_number,
    };
    if (has_tpm(t))
        send_with(t, row->verb, row->located ? request->locality : 0, &body);
    else
        done(t, FAIL(LINK_CLOSED), span_empty());
}

static void send_buffer_size(struct tunnel *t)
{
    send_with(t, K2_BUFFER_SIZE, 0, &(struct body){.numbers = {t->wanted_size}, .number_count = 1});
}

/* QEMU asks for it before the reset that may bring a lost TPM back, and gives up on an error. A TPM that its clients have not
 * initialised yet is off for them, and on inside, where it takes no other size then. */
static void run_buffer_size(struct tunnel *t, const struct front_request *request)
{
    t->wanted_size = (uint32_t)request->number;
    if (!has_tpm(t))
        done(t, OK, span_of(t->buffer_size, sizeof t->buffer_size));
    else if (t->wanted_size && t->powered)
        send_request(t, K2_POWER_OFF);
    else
        send_buffer_size(t);
}

/* The next part of what the client gave, or the reset that goes on from it. */
static void send_bundle(struct tunnel *t)
{
    struct tunnel_export *export = &t->export;
    const size_t left = export->all.size - export->done;
    const size_t size = left < K2_PART_MAX ? left : K2_PART_MAX;
    const struct body body = {
        .bytes = span_of(export->all.data + export->done, size),
        .numbers = {(uint32_t) export->all.size, (uint32_t) export->done},
        .number_count = 2,
    };
    export->done += size;
    if (size == 0)
        send_request(t, K2_RESET);
    else
        send_with(t, K2_BUNDLE, 0, &body);
}

static void run_reset(struct tunnel *t, const struct front_request *request)
{
    t->export = (struct tunnel_export){.all = request->command};
    if (t->step == TUNNEL_LINKED)
        send_bundle(t);
    else
        t->transport.relink(t->transport.ctx);
}

static void run_power_on(struct tunnel *t, const struct front_request *request)
{
    if (t->powered && !t->awaiting_reset && t->step == TUNNEL_LINKED)
        done(t, OK, span_empty());
    else
        run_reset(t, request);
}

/* A TPM that is lost is off. Only an end has to say that it was not in order. */
static void run_power_off(struct tunnel *t, const struct front_request *request)
{
    (void)request;
    if (t->step == TUNNEL_LINKED && t->powered) {
        send_request(t, K2_POWER_OFF);
        return;
    }
    t->powered = false;
    done(t, t->verb == FRONT_SHUTDOWN && t->step == TUNNEL_LOST ? FAIL(LINK_CLOSED) : OK, span_empty());
}

static void (*const verbs[FRONT_VERB_COUNT])(struct tunnel *t, const struct front_request *request) = {
    [FRONT_COMMAND] = run_plain,
    [FRONT_RESET] = run_reset,
    [FRONT_POWER_ON] = run_power_on,
    [FRONT_POWER_OFF] = run_power_off,
    [FRONT_SHUTDOWN] = run_power_off,
    [FRONT_ESTABLISHED] = run_plain,
    [FRONT_RESET_ESTABLISHED] = run_plain,
    [FRONT_HASH_START] = run_plain,
    [FRONT_HASH_DATA] = run_plain,
    [FRONT_HASH_END] = run_plain,
    [FRONT_BUFFER_SIZE] = run_buffer_size,
    [FRONT_INFO] = run_plain,
    [FRONT_STORE_VOLATILE] = run_plain,
    [FRONT_EXPORT] = run_plain,
    [FRONT_LOCK] = run_plain,
};

static void perform(void *ctx, const struct front_request *request)
{
    struct tunnel *t = ctx;
    if (t->stopping) {
        front_done(t->front, FAIL(TPM_OFF), span_empty());
        return;
    }
    t->busy = true;
    t->verb = request->verb;
    t->stopping = request->verb == FRONT_SHUTDOWN;
    verbs[request->verb](t, request);
}

struct front_owner tunnel_owner(struct tunnel *t)
{
    return (struct front_owner){.ctx = t, .perform = perform};
}

/* --- the link --- */

static struct err open_link(struct tunnel *t, const struct link_told *told)
{
    const bool enrolled = told->binding.kind == LINK_K2_ENROLLED;
    ENSURE(t->step == TUNNEL_UNBOUND, LINK_ORDER);
    ENSURE(memcmp(&told->binding.instance, &t->instance, sizeof t->instance) == 0, STATE_OTHER_INSTANCE);
    ENSURE(enrolled == t->is_enrolled, FRONT_ENROLLED);
    const struct link_keys keys = {
        .own = &t->own, .peer = told->enclave_share, .enrolled = enrolled ? t->enrolled : NULL};
    secret_heap_begin();
    struct err opened = link_open(t->crypto, LINK_HOST, &told->binding, &keys, &t->link);
    secret_heap_end();
    TRY(opened);
    wipe(t->own.private, sizeof t->own.private);
    return OK;
}

struct err tunnel_bind(struct tunnel *t, const struct link_told *told)
{
    TRY(open_link(t, told));
    struct writer record = writer_of(t->record, sizeof t->record);
    struct err result = link_finish(&t->link, &record);
    if (result.code) {
        tunnel_fail(t, result);
        return result;
    }
    t->step = TUNNEL_FINISHING;
    t->transport.send(t->transport.ctx, 0, writer_span(&record));
    return OK;
}

struct err tunnel_renew(struct tunnel *t)
{
    link_close(&t->link);
    t->step = TUNNEL_UNBOUND;
    return draw_share(t);
}

static void on_linked(struct tunnel *t)
{
    t->step = TUNNEL_LINKED;
    t->transport.linked(t->transport.ctx);
    if (t->busy && t->step == TUNNEL_LINKED) send_bundle(t); /* nothing else than a reset waits for a link */
}

static void read_export(struct tunnel *t)
{
    const struct body body = {.numbers = {(uint32_t)(t->export.done - sizeof(uint32_t))}, .number_count = 1};
    send_with(t, K2_EXPORT_READ, 0, &body);
}

/* Room for both parts, and the size of the first before them. */
static struct err begin_export(struct tunnel *t, struct span sizes)
{
    struct reader r = reader_of(sizes);
    uint32_t permanent = 0;
    uint32_t volatile_size = 0;
    TRY(read_u32(&r, &permanent));
    TRY(read_u32(&r, &volatile_size));
    TRY(reader_end(&r));
    ENSURE(permanent <= BLOB_MAX && volatile_size <= BLOB_MAX && permanent + volatile_size > 0, TOO_LARGE);
    const size_t size = sizeof permanent + permanent + volatile_size;
    t->export.bytes = malloc(size);
    ENSURE(t->export.bytes, NO_MEMORY);
    t->export.all = span_of(t->export.bytes, size);
    t->export.done = sizeof permanent;
    memcpy(t->export.bytes, sizes.data, sizeof permanent);
    return OK;
}

static struct err keep_export(struct tunnel *t, struct span part)
{
    struct tunnel_export *export = &t->export;
    ENSURE(part.size > 0 && part.size <= export->all.size - export->done, LINK_ORDER);
    memcpy(export->bytes + export->done, part.data, part.size);
    export->done += part.size;
    return OK;
}

/* One of several requests that what the front asked for takes. True if another one follows. */
static bool goes_on(struct tunnel *t, struct span response, struct err *result)
{
    if (t->sent == K2_EXPORT)
        *result = begin_export(t, response);
    else if (t->sent == K2_EXPORT_READ)
        *result = keep_export(t, response);
    const bool more = t->sent == K2_BUNDLE || t->export.done < t->export.all.size;
    return !result->code && t->sent != K2_RESET && more;
}

static void answer(struct tunnel *t, struct err code, struct span response)
{
    if (!code.code && goes_on(t, response, &code)) {
        (t->sent == K2_BUNDLE ? send_bundle : read_export)(t);
        return;
    }
    if (!code.code && t->verb == FRONT_BUFFER_SIZE && t->sent == K2_POWER_OFF) {
        t->powered = false;
        send_buffer_size(t);
        return;
    }
    if (t->sent == K2_BUFFER_SIZE && !code.code && response.size == sizeof t->buffer_size)
        memcpy(t->buffer_size, response.data, response.size);
    const bool exported = !code.code && t->export.bytes;
    done(t, code, exported ? t->export.all : response);
}

static void on_response(struct tunnel *t, struct span plaintext)
{
    struct reader r = reader_of(plaintext);
    struct err code = OK;
    uint16_t zero = 0;
    struct err result = read_u16(&r, &code.code);
    if (!result.code) result = read_u16(&r, &zero);
    if (!result.code && (zero || !t->busy || (code.code && r.left))) result = FAIL(LINK_ORDER);
    if (result.code)
        tunnel_fail(t, result);
    else
        answer(t, code, span_of(r.next, r.left));
}

void tunnel_receive(struct tunnel *t, struct span record)
{
    enum link_event event = LINK_ENDED;
    size_t size = 0;
    struct err result = record.size <= sizeof t->plaintext ? OK : FAIL(TOO_LARGE);
    if (!result.code) result = link_receive(&t->link, record, &event, t->plaintext, &size);
    if (!result.code && event == LINK_ENDED) result = FAIL(LINK_CLOSED);
    if (result.code) {
        tunnel_fail(t, result);
        return;
    }
    if (event == LINK_FINISHED)
        on_linked(t);
    else
        on_response(t, span_of(t->plaintext, size));
    wipe(t->plaintext, record.size); /* what FINISH said too */
}
