/*
 * One instance at work: what the front asks for becomes calls of the enclave, what the enclave wants done is done, and
 * the answer goes back.
 *
 *              a call succeeds                    the enclave fails, or a commit takes too long
 *   HEALTHY ◄──────────────────► HEALTHY   HEALTHY ──────────────────────────────────────────► BROKEN
 *   AWAITING_RESET ──reset──► HEALTHY      BROKEN ──reset──► the service ends with SERVICE_REBUILD
 *
 * Guarantees: no answer of a call that wants a store leaves before that store is durable and the enclave has released
 * it; when it is not durable after the commit timeout, this and every following command is answered TPM_RC_FAILURE and
 * the enclave is not entered again; a machine never sees its PCRs become zero by our doing: a TPM that was lost answers
 * TPM_RC_FAILURE until the client itself resets it. An end that was asked for (stop, SHUTDOWN) lets the commit under
 * way finish, shuts the TPM down in order and stores that.
 */
#pragma once

#include <systemd/sd-event.h>

#include "base/err.h"
#include "untrusted/front/front.h"
#include "untrusted/instance/committer.h"
#include "untrusted/instance/machine.h"

/* What the event loop ends with. */
enum service_end {
    SERVICE_ENDED = 0,   /* as asked; everything is durable */
    SERVICE_FAILED = 1,  /* as asked, but the last state could not be made durable */
    SERVICE_REBUILD = 2, /* a client wants a reset that only a new enclave can serve */
};

struct service;

struct service_options {
    sd_event *event;
    const char *instance; /* its name, for the log; outlives the service */
    struct machine *machine;
    struct committer_target target;
    uint64_t commit_timeout_usec;
    bool awaiting_reset; /* the TPM was lost under its client; machine is a new one over the durable state */
    /* The last fault of the enclave, for the log. */
    void *fault_ctx;
    void (*fault)(void *ctx, uint16_t *out_vector, uint64_t *out_address);
};

/* The TPM of machine is on. Starts the committer's thread. ERR_NO_MEMORY, ERR_SYSTEM. */
struct err service_open(const struct service_options *options, struct service **out_service);

/* The owner that the front is opened with. */
struct front_owner service_owner(struct service *service);

/* Before the loop runs; the front stays the caller's. */
void service_attach(struct service *service, struct front *front);

/* Ends the service in order; the loop then ends with SERVICE_ENDED or SERVICE_FAILED. May be called again. */
void service_stop(struct service *service);

void service_close(struct service **service);
