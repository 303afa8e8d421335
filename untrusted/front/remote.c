#include "untrusted/front/remote.h"

#include <stdlib.h>
#include <string.h>

#include "untrusted/host/log.h"
#include "untrusted/wire/line.h"

/* With more, sd-event reads a file to spread wake-ups, which a confined process may not. */
#define TIMER_ACCURACY_USEC 1
#define RETRY_USEC          UINT64_C(200000) /* before a share is registered that follows one which led to no link */

enum stage { REGISTERING, NAMED, BOUND };

struct remote {
    struct remote_options options;
    enum stage stage;
    struct line *daemon;   /* NULL: there is no connection */
    struct line *instance; /* the same */
    bool wants_daemon;     /* it was asked for */
    bool wants_instance;
    bool linked;           /* on this link */
    struct link_told told; /* from NAMED on */
    sd_event_source *reset_deadline;
    sd_event_source *retry;
};

static void end_loop(struct remote *r, int code)
{
    (void)sd_event_exit(r->options.event, code);
}

static void ask_for_daemon(struct remote *r)
{
    if (r->wants_daemon) return;
    r->wants_daemon = true;
    r->options.want(r->options.ctx, REMOTE_DAEMON);
}

/* vtpmd is needed again when there is a share to register. */
static void daemon_lost(struct remote *r)
{
    line_close(&r->daemon);
    if (r->stage == REGISTERING) ask_for_daemon(r);
}

static void register_share(struct remote *r)
{
    if (!r->daemon) {
        ask_for_daemon(r);
        return;
    }
    struct err result = wire_send_hello_front(line_stream(r->daemon), &r->options.id, r->options.tunnel->own.public);
    if (line_sent(r->daemon, result).code) daemon_lost(r);
}

static int on_retry(sd_event_source *source, uint64_t usec, void *ctx)
{
    (void)source, (void)usec;
    register_share(ctx);
    return 0;
}

/* The link is gone, or never came: the next one needs a share of its own. */
static void begin_again(struct remote *r, struct err why)
{
    struct tunnel *tunnel = r->options.tunnel;
    bool at_once = r->linked;
    line_close(&r->instance);
    r->stage = REGISTERING;
    r->linked = false;
    if (at_once)
        log_line(LOG_LEVEL_WARNING,
                 "the instance is lost (%s): every command is answered TPM_RC_FAILURE until the machine is reset",
                 err_sentence(why));
    if (tunnel->step != TUNNEL_UNBOUND) tunnel_fail(tunnel, why);
    if (tunnel_renew(tunnel).code) {
        end_loop(r, EXIT_FAILURE);
        return;
    }
    if (at_once || sd_event_source_set_time_relative(r->retry, RETRY_USEC) < 0 ||
        sd_event_source_set_enabled(r->retry, SD_EVENT_ONESHOT) < 0)
        register_share(r);
}

/* --- vtpmd --- */

static void on_link(struct remote *r, struct span body)
{
    struct link_told told;
    struct err result = wire_parse_link(body, &told);
    if (result.code) {
        daemon_lost(r);
        return;
    }
    if (r->stage != REGISTERING) {
        bool same = memcmp(told.enclave_share, r->told.enclave_share, sizeof told.enclave_share) == 0 &&
                    told.binding.start == r->told.binding.start && told.binding.epoch == r->told.binding.epoch;
        if (!same) daemon_lost(r);
        return;
    }
    r->told = told;
    r->stage = NAMED;
    if (r->wants_instance) return;
    r->wants_instance = true;
    r->options.want(r->options.ctx, REMOTE_INSTANCE);
}

/* Nothing that is tried again would change these. */
static bool is_final(struct err why)
{
    static const uint16_t codes[] = {ERR_DELETED, ERR_NO_INSTANCE, ERR_VERB_STATE, ERR_FRONT_ENROLLED};
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (codes[i] == why.code) return true;
    return false;
}

static void on_refused(struct remote *r, struct span body)
{
    struct err why = FAIL(PROTOCOL);
    if (!wire_parse_refused(body, &why).code) log_line(LOG_LEVEL_ERROR, "vtpmd refuses: %s", err_sentence(why));
    if (is_final(why))
        end_loop(r, EXIT_FAILURE);
    else
        daemon_lost(r);
}

static void on_daemon_frame(void *ctx, const struct wire_frame *frame)
{
    struct remote *r = ctx;
    if (frame->kind == WIRE_LINK)
        on_link(r, frame->body);
    else if (frame->kind == WIRE_REFUSED)
        on_refused(r, frame->body);
    else
        daemon_lost(r);
}

static void on_daemon_ended(void *ctx, struct err why)
{
    (void)why;
    daemon_lost(ctx);
}

/* --- the instance --- */

static void on_failed(struct remote *r, struct span body)
{
    struct err why = FAIL(PROTOCOL);
    bool cure = true;
    if (!wire_parse_failed(body, &why, &cure).code && !cure) {
        log_line(LOG_LEVEL_ERROR, "the instance refuses this front-end: %s", err_sentence(why));
        end_loop(r, EXIT_FAILURE);
        return;
    }
    begin_again(r, why);
}

static void on_instance_frame(void *ctx, const struct wire_frame *frame)
{
    struct remote *r = ctx;
    uint8_t verb = 0;
    struct span record;
    if (frame->kind == WIRE_FAILED)
        on_failed(r, frame->body);
    else if (frame->kind != WIRE_RECORD || wire_parse_record(frame->body, &verb, &record).code)
        begin_again(r, FAIL(PROTOCOL));
    else
        tunnel_receive(r->options.tunnel, record);
    if (r->instance && r->options.tunnel->step == TUNNEL_LOST) begin_again(r, FAIL(LINK_CLOSED));
}

/* Without the enclave's FINAL somebody may have cut the connection to keep its last word back. */
static void on_instance_ended(void *ctx, struct err why)
{
    struct remote *r = ctx;
    struct err ended = r->linked ? link_transport_ended(&r->options.tunnel->link) : OK;
    begin_again(r, ended.code ? ended : why);
}

static void bind_link(struct remote *r)
{
    struct err result = tunnel_bind(r->options.tunnel, &r->told);
    if (!result.code) {
        r->stage = BOUND;
        return;
    }
    log_line(LOG_LEVEL_ERROR, "no session with the enclave that vtpmd names: %s", err_sentence(result));
    if (is_final(result) || result.code == ERR_STATE_OTHER_INSTANCE)
        end_loop(r, EXIT_FAILURE);
    else
        begin_again(r, result);
}

void remote_connected(struct remote *r, enum remote_peer peer, int fd)
{
    const struct line_owner to_daemon = {.ctx = r, .frame = on_daemon_frame, .ended = on_daemon_ended};
    const struct line_owner to_instance = {.ctx = r, .frame = on_instance_frame, .ended = on_instance_ended};
    if (peer == REMOTE_DAEMON) {
        r->wants_daemon = false;
        line_close(&r->daemon);
        struct err result = line_open(r->options.event, fd, 256, &to_daemon, &r->daemon);
        if (!result.code && r->stage == REGISTERING) register_share(r);
        if (result.code) end_loop(r, EXIT_FAILURE);
        return;
    }
    r->wants_instance = false;
    if (fd < 0) {
        begin_again(r, FAIL(PEER_CLOSED));
        return;
    }
    line_close(&r->instance);
    struct err result = line_open(r->options.event, fd, 8 + RECORD_MAX, &to_instance, &r->instance);
    if (result.code)
        end_loop(r, EXIT_FAILURE);
    else
        bind_link(r);
}

/* --- what the tunnel wants --- */

static void send_record(void *ctx, uint8_t verb, struct span record)
{
    struct remote *r = ctx;
    struct err result = wire_send_record(line_stream(r->instance), verb, record);
    if (line_sent(r->instance, result).code) begin_again(r, result);
}

static void linked(void *ctx)
{
    struct remote *r = ctx;
    r->linked = true;
    (void)sd_event_source_set_enabled(r->reset_deadline, SD_EVENT_OFF);
    r->options.linked(r->options.ctx);
}

/* The next link is on its way already. */
static void relink(void *ctx)
{
    struct remote *r = ctx;
    if (sd_event_source_set_time_relative(r->reset_deadline, REMOTE_RESET_USEC) < 0 ||
        sd_event_source_set_enabled(r->reset_deadline, SD_EVENT_ONESHOT) < 0)
        end_loop(r, EXIT_FAILURE);
}

static int on_reset_deadline(sd_event_source *source, uint64_t usec, void *ctx)
{
    (void)source, (void)usec;
    struct remote *r = ctx;
    tunnel_give_up(r->options.tunnel, FAIL(PEER_CLOSED));
    return 0;
}

static void shut_down(void *ctx)
{
    struct remote *r = ctx;
    if (r->instance) (void)line_sent(r->instance, wire_send(line_stream(r->instance), WIRE_SHUTDOWN, NULL, 0)).code;
    end_loop(r, EXIT_SUCCESS);
}

struct tunnel_transport remote_transport(struct remote *r)
{
    return (struct tunnel_transport){
        .ctx = r, .send = send_record, .linked = linked, .relink = relink, .shutdown = shut_down};
}

void remote_begin(struct remote *r)
{
    register_share(r);
}

static struct err add_timer(struct remote *r, sd_event_time_handler_t handler, sd_event_source **out_source)
{
    ENSURE(sd_event_add_time(r->options.event, out_source, CLOCK_MONOTONIC, UINT64_MAX, TIMER_ACCURACY_USEC, handler,
                             r) >= 0,
           SYSTEM);
    ENSURE(sd_event_source_set_enabled(*out_source, SD_EVENT_OFF) >= 0, SYSTEM);
    return OK;
}

struct err remote_open(const struct remote_options *options, struct remote **out_remote)
{
    struct remote *r = calloc(1, sizeof *r);
    ENSURE(r, NO_MEMORY);
    r->options = *options;
    struct err result = add_timer(r, on_reset_deadline, &r->reset_deadline);
    if (!result.code) result = add_timer(r, on_retry, &r->retry);
    if (result.code)
        remote_close(&r);
    else
        *out_remote = r;
    return result;
}

void remote_close(struct remote **remote)
{
    struct remote *r = *remote;
    if (!r) return;
    line_close(&r->daemon);
    line_close(&r->instance);
    sd_event_source_disable_unref(r->reset_deadline);
    sd_event_source_disable_unref(r->retry);
    free(r);
    *remote = NULL;
}
