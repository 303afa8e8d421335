#include "untrusted/instance/gate.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "untrusted/host/log.h"
#include "untrusted/wire/line.h"

struct gate {
    sd_event *event;
    sd_event_source *source;
    struct service *service;
    struct line *line; /* the front-end; NULL: there is none */
    bool linked;       /* its FINISH was answered */
};

static void drop_front(struct gate *gate, struct err why)
{
    line_close(&gate->line);
    if (!gate->linked) return;
    gate->linked = false;
    log_line(LOG_LEVEL_NOTICE, "the front-end has gone: %s", err_sentence(why));
    service_front_gone(gate->service);
}

static void sent(struct gate *gate, struct err result)
{
    result = line_sent(gate->line, result);
    if (result.code) drop_front(gate, result);
}

static void on_record(struct gate *gate, struct span body)
{
    uint8_t verb = 0;
    struct span record;
    struct err result = wire_parse_record(body, &verb, &record);
    if (!result.code) result = service_record(gate->service, verb, record);
    if (result.code) drop_front(gate, result);
}

static void on_frame(void *ctx, const struct wire_frame *frame)
{
    struct gate *gate = ctx;
    if (frame->kind == WIRE_RECORD)
        on_record(gate, frame->body);
    else if (frame->kind == WIRE_SHUTDOWN && gate->linked)
        service_stop(gate->service);
    else
        drop_front(gate, FAIL(PROTOCOL));
}

static void on_ended(void *ctx, struct err why)
{
    drop_front(ctx, why);
}

/* One message that fits into an empty socket's buffer, and then the end. */
static void refuse(int fd)
{
    struct wire_stream *stream = NULL;
    if (!wire_stream_open(fd, 0, &stream).code) (void)wire_send_failed(stream, FAIL(STATE_LOCKED), false).code;
    wire_stream_close(&stream);
    close(fd);
}

static int on_accept(sd_event_source *source, int fd, uint32_t events, void *ctx)
{
    (void)source, (void)events;
    struct gate *gate = ctx;
    const struct line_owner owner = {.ctx = gate, .frame = on_frame, .ended = on_ended};
    int client = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (client < 0) return 0;
    if (gate->line)
        refuse(client);
    else
        (void)line_open(gate->event, client, 8 + RECORD_MAX, &owner, &gate->line).code; /* it will try again */
    return 0;
}

static struct err linked(void *ctx, const struct link_told *told)
{
    (void)told;
    struct gate *gate = ctx;
    ENSURE(sd_event_source_set_enabled(gate->source, SD_EVENT_ON) >= 0, SYSTEM);
    return OK;
}

static void record(void *ctx, struct span bytes)
{
    struct gate *gate = ctx;
    if (!gate->line) return;
    if (!gate->linked) service_serving(gate->service);
    gate->linked = true;
    sent(gate, wire_send_record(line_stream(gate->line), 0, bytes));
}

static void failed(void *ctx, struct err why)
{
    struct gate *gate = ctx;
    if (gate->line) sent(gate, wire_send_failed(line_stream(gate->line), why, true));
}

struct service_front gate_front(struct gate *gate)
{
    return (struct service_front){.ctx = gate, .linked = linked, .record = record, .failed = failed};
}

void gate_attach(struct gate *gate, struct service *service)
{
    gate->service = service;
}

struct err gate_open(sd_event *event, int listen_fd, struct gate **out_gate)
{
    struct gate *gate = calloc(1, sizeof *gate);
    ENSURE(gate, NO_MEMORY);
    *gate = (struct gate){.event = event};
    if (sd_event_add_io(event, &gate->source, listen_fd, EPOLLIN, on_accept, gate) < 0 ||
        sd_event_source_set_enabled(gate->source, SD_EVENT_OFF) < 0) {
        gate_close(&gate);
        return FAIL(SYSTEM);
    }
    *out_gate = gate;
    return OK;
}

void gate_close(struct gate **gate)
{
    struct gate *g = *gate;
    if (!g) return;
    line_close(&g->line);
    sd_event_source_disable_unref(g->source);
    free(g);
    *gate = NULL;
}
