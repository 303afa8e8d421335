/*
 * The thread that reads and writes the store and the anchor once vtpmd serves, so that a disk or a TPM that stalls does
 * not stall the loop.
 *
 * Guarantees: jobs run one at a time and in their order; one that fails with ERR_STORE_IO or ERR_ANCHOR_IO is run again,
 * at growing distances of up to a second, until it succeeds or the committer is closed, and what comes behind it waits; its end is
 * reported on the loop's thread. It does not guarantee when: a system call that hangs cannot be called back, and
 * committer_close waits for it.
 */
#pragma once

#include <systemd/sd-event.h>

#include "untrusted/anchor/anchor_host.h"
#include "untrusted/store/store.h"

struct committer;

struct committer_job {
    void *ctx;
    /* On the committer's thread. */
    struct err (*run)(void *ctx, struct store *store, struct anchor_host *anchor);
    /* On the loop's thread, once. ERR_STORE_IO, ERR_ANCHOR_IO: the committer was closed before it succeeded. */
    void (*done)(void *ctx, struct err result);
};

/* Store and anchor are the committer's until committer_close. ERR_NO_MEMORY, ERR_SYSTEM. */
struct err committer_open(sd_event *event, struct store *store, struct anchor_host *anchor,
                          struct committer **out_committer);

/* ERR_NO_MEMORY: done is not called. */
struct err committer_submit(struct committer *committer, const struct committer_job *job);

/* How long the job has run that runs now, us; 0 if none does. */
uint64_t committer_running_usec(struct committer *committer);

/* Waits for the job that runs now, and calls done of all that were not done. */
void committer_close(struct committer **committer);
