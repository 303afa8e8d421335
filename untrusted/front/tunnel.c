#include "untrusted/front/tunnel.h"

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

struct err tunnel_open(const struct tunnel_options *options, struct tunnel *out)
{
    *out = (struct tunnel){
        .crypto = options->crypto,
        .transport = options->transport,
        .instance = options->instance,
        .powered = true,
        .awaiting_reset = options->awaiting_reset,
        .is_enrolled = options->enrolled != NULL,
    };
    if (options->enrolled) memcpy(out->enrolled, options->enrolled, sizeof out->enrolled);
    TRY(open_generator());
    TRY(warm_up(out->crypto));
    return draw_share(out);
}

void tunnel_close(struct tunnel *t)
{
    link_close(&t->link);
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
    front_done(t->front, result, response);
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

static struct err write_request(enum k2_verb verb, const struct front_request *request, struct writer *w)
{
    TRY(write_u8(w, (uint8_t)verb));
    TRY(write_u8(w, request->locality));
    TRY(write_u16(w, 0));
    return verb == K2_COMMAND ? write_span(w, request->command) : OK;
}

static void send_request(struct tunnel *t, enum k2_verb verb, const struct front_request *request)
{
    struct writer plaintext = writer_of(t->plaintext, K2_MESSAGE_MAX);
    struct writer record = writer_of(t->record, sizeof t->record);
    struct err result = write_request(verb, request, &plaintext);
    if (!result.code) result = link_send(&t->link, writer_span(&plaintext), &record);
    wipe(t->plaintext, plaintext.size);
    if (result.code)
        tunnel_fail(t, result);
    else
        t->transport.send(t->transport.ctx, (uint8_t)verb, writer_span(&record));
}

static void run_command(struct tunnel *t, const struct front_request *request)
{
    if (t->step != TUNNEL_LINKED || t->awaiting_reset)
        done(t, FAIL(LINK_CLOSED), span_empty());
    else
        send_request(t, K2_COMMAND, request);
}

static void run_established(struct tunnel *t, const struct front_request *request)
{
    const enum k2_verb verb = t->verb == FRONT_ESTABLISHED ? K2_ESTABLISHED : K2_RESET_ESTABLISHED;
    if (t->step != TUNNEL_LINKED || t->awaiting_reset)
        done(t, FAIL(LINK_CLOSED), span_empty());
    else
        send_request(t, verb, request);
}

static void run_reset(struct tunnel *t, const struct front_request *request)
{
    if (t->step == TUNNEL_LINKED)
        send_request(t, K2_RESET, request);
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
    if (t->step == TUNNEL_LINKED && t->powered) {
        send_request(t, K2_POWER_OFF, request);
        return;
    }
    t->powered = false;
    done(t, t->verb == FRONT_SHUTDOWN && t->step == TUNNEL_LOST ? FAIL(LINK_CLOSED) : OK, span_empty());
}

static void (*const verbs[FRONT_VERB_COUNT])(struct tunnel *t, const struct front_request *request) = {
    [FRONT_COMMAND] = run_command,
    [FRONT_RESET] = run_reset,
    [FRONT_POWER_ON] = run_power_on,
    [FRONT_POWER_OFF] = run_power_off,
    [FRONT_SHUTDOWN] = run_power_off,
    [FRONT_ESTABLISHED] = run_established,
    [FRONT_RESET_ESTABLISHED] = run_established,
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
    const struct front_request reset = {.verb = FRONT_RESET};
    t->step = TUNNEL_LINKED;
    t->transport.linked(t->transport.ctx);
    if (t->busy && t->step == TUNNEL_LINKED) send_request(t, K2_RESET, &reset); /* nothing else waits for a link */
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
        done(t, code, span_of(r.next, r.left));
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
