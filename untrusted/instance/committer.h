/*
 * The thread that makes states durable, so that a disk that stalls does not stall the event loop.
 *
 * Guarantees: one state at a time; a write that fails is tried again, at growing distances of up to a second, until it
 * succeeds or is given up; the success is reported on the loop's thread. It does not guarantee when: a system call that
 * hangs cannot be called back, and committer_close waits for it.
 */
#pragma once

#include <systemd/sd-event.h>

#include "base/err.h"
#include "base/span.h"

struct committer;

struct committer_target {
    const char *instance; /* its name, for the log */
    void *ctx;
    /* On the committer's thread; as store_commit. */
    struct err (*commit)(void *ctx, struct span state);
};

struct committer_listener {
    void *ctx;
    /* On the loop's thread, once for each begin that was not given up: the state is durable. */
    void (*stored)(void *ctx);
};

/* What the pointers point to must outlive the committer. ERR_NO_MEMORY, ERR_SYSTEM. */
struct err committer_open(sd_event *event, const struct committer_target *target,
                          const struct committer_listener *listener, struct committer **out_committer);

/* state is copied; at most STATE_MAX bytes. ERR_CALL_BUSY while one is under way or was given up. */
struct err committer_begin(struct committer *committer, struct span state);

/* For good: the state under way is not tried again, nothing more is reported and nothing more is begun. */
void committer_give_up(struct committer *committer);

/* *committer is NULL afterwards. */
void committer_close(struct committer **committer);
