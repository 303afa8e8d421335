#include "untrusted/wire/line.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

struct line {
    struct line_owner owner;
    struct wire_stream *stream;
    sd_event_source *source;
    int fd;
    uint32_t events;
    bool more; /* frames that were read, perhaps: they wait until the socket may be written to, which is at once */
    bool paused;
    bool dispatching;
    bool closed; /* while dispatching */
};

static void destroy(struct line *line)
{
    sd_event_source_disable_unref(line->source);
    wire_stream_close(&line->stream);
    close(line->fd);
    free(line);
}

void line_close(struct line **line)
{
    struct line *l = *line;
    *line = NULL;
    if (!l) return;
    l->closed = true;
    if (!l->dispatching) destroy(l);
}

void line_pause(struct line *line, bool paused)
{
    line->paused = paused;
    (void)sd_event_source_set_enabled(line->source, paused ? SD_EVENT_OFF : SD_EVENT_ON);
}

static void watch(struct line *line)
{
    const uint32_t events = wire_pending(line->stream) || line->more ? EPOLLIN | EPOLLOUT : EPOLLIN;
    if (line->events != events && sd_event_source_set_io_events(line->source, events) >= 0) line->events = events;
}

struct wire_stream *line_stream(struct line *line)
{
    return line->stream;
}

struct err line_sent(struct line *line, struct err result)
{
    if (result.code == ERR_PEER_CLOSED) return OK;
    TRY(result);
    watch(line);
    return OK;
}

static struct err flush(struct line *line)
{
    if (!wire_pending(line->stream)) return OK;
    struct err result = wire_flush(line->stream);
    if (result.code == ERR_PEER_CLOSED) return OK;
    return result;
}

static struct err take_frames(struct line *line)
{
    for (unsigned i = 0; i < LINE_FRAMES_PER_TURN && !line->closed && !line->paused; i++) {
        struct wire_frame frame = {0};
        TRY(wire_receive(line->stream, &frame));
        if (!frame.kind) return OK;
        line->owner.frame(line->owner.ctx, &frame);
    }
    line->more = !line->closed;
    return OK;
}

static int on_line(sd_event_source *source, int fd, uint32_t events, void *ctx)
{
    (void)source, (void)fd;
    struct line *line = ctx;
    bool more = line->more;
    line->dispatching = true;
    line->more = false;
    struct err result = events & EPOLLOUT ? flush(line) : OK;
    if (!result.code && !line->closed && (more || (events & ~(uint32_t)EPOLLOUT))) result = take_frames(line);
    if (result.code && !line->closed) {
        (void)sd_event_source_set_enabled(line->source, SD_EVENT_OFF);
        line->owner.ended(line->owner.ctx, result);
    } else if (!line->closed) {
        watch(line);
    }
    line->dispatching = false;
    if (line->closed) destroy(line);
    return 0;
}

struct err line_open(sd_event *event, int fd, size_t body_max, const struct line_owner *owner, struct line **out_line)
{
    struct line *line = calloc(1, sizeof *line);
    if (!line) {
        close(fd);
        return FAIL(NO_MEMORY);
    }
    *line = (struct line){.owner = *owner, .fd = fd, .events = EPOLLIN};
    struct err result = wire_stream_open(fd, body_max, &line->stream);
    if (!result.code && sd_event_add_io(event, &line->source, fd, EPOLLIN, on_line, line) < 0) result = FAIL(SYSTEM);
    if (result.code) {
        destroy(line);
        return result;
    }
    *out_line = line;
    return OK;
}
