/*
 * A connection between our processes on an event loop: a wire_stream whose descriptor is watched.
 *
 * Guarantees: ended is called once, and nothing after it; a line may be closed from within its own callbacks. What is
 * queued goes out when the socket takes it. At most LINE_FRAMES_PER_TURN frames are taken before the loop sees to its other
 * sources.
 */
#pragma once

#include <stdbool.h>
#include <systemd/sd-event.h>

#include "untrusted/wire/wire.h"

#define LINE_FRAMES_PER_TURN 16u

struct line;

struct line_owner {
    void *ctx;
    /* The frame is valid until frame returns. */
    void (*frame)(void *ctx, const struct wire_frame *frame);
    /* The connection cannot be used any more (ERR_PEER_CLOSED, ERR_PROTOCOL, ...); the owner closes the line. */
    void (*ended)(void *ctx, struct err why);
};

/* fd is taken over, also on error, and has to be non-blocking. ERR_NO_MEMORY, ERR_SYSTEM. */
struct err line_open(sd_event *event, int fd, size_t body_max, const struct line_owner *owner, struct line **out_line);

/* For wire_send_...; its outcome goes to line_sent. */
struct wire_stream *line_stream(struct line *line);

/*
 * After every wire_send_...: waits for the socket if something is queued. Returns result, which the caller treats as
 * the line's end if it is an error; ERR_PEER_CLOSED is none here: what the other end said before it closed comes first,
 * and then ended is called.
 */
struct err line_sent(struct line *line, struct err result);

/* While it is paused, nothing is taken from it, what is queued stays, and ended is not called. */
void line_pause(struct line *line, bool paused);

/* *line is NULL afterwards; safe on NULL. */
void line_close(struct line **line);
