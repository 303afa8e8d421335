/*
 * One instance at work: the relay between its front-end, its enclave and vtpmd.
 *
 *   OPENED ──connection──► GREETED ──STATE──► LOADED ──LINK──► LINKED ──receipt──► STOPPED ──RECORDED──► the loop ends
 *
 *   SERVING ──the enclave fails, or an answer of vtpmd takes too long──► BROKEN ──reset──► the loop ends
 *   AWAITING_FRONT ──the same──► the loop ends
 *   AWAITING_RESET ──the client's reset──► SERVING
 *
 * Guarantees: no answer leaves but those that the enclave released; the sealed state of a commit is kept until then,
 * and goes to vtpmd with every message that may be its COMMIT; when an answer is not there after the commit timeout,
 * this and every following request fails and the enclave is not entered again; a connection to vtpmd that is lost once
 * LINK was received disturbs nobody who does not have to wait for vtpmd, one that is lost before is the end of this
 * enclave. An end that was asked for lets what is under way finish, shuts the TPM down in order, or suspends it if
 * vtpmd says so, and says the receipt until it is recorded. A suspend that is refused, by the enclave or because there
 * is nothing to go on from, changes nothing: vtpmd is told, and the service goes on. One that is incoming holds nothing
 * before its first commit: it ends without a receipt then, and when its connection does. All that passes through is
 * sealed or a record of a session that this code is no end of.
 */
#pragma once

#include <systemd/sd-event.h>

#include "base/err.h"
#include "untrusted/instance/machine.h"
#include "untrusted/wire/wire.h"

/* What the event loop ends with. */
enum service_end {
    SERVICE_ENDED = 0,   /* as asked; the receipt is recorded */
    SERVICE_FAILED = 1,  /* the end could not be in order, or there is no use in trying again */
    SERVICE_REBUILD = 2, /* a client wants a reset that only a new enclave can serve */
    SERVICE_AGAIN = 3,   /* a new enclave is wanted: this one never served, or its front-end has gone */
};

/* The front-end, in this process or at the other end of a socket. */
struct service_front {
    void *ctx;
    /* Both ends of K2 may be told: the front-end may send its first record. An error ends the service. */
    struct err (*linked)(void *ctx, const struct link_told *told);
    void (*record)(void *ctx, struct span record);
    /* What was asked is not answered, and nothing that is asked will be, until there is a new enclave. */
    void (*failed)(void *ctx, struct err why);
};

/* What the process around it does. */
struct service_host {
    void *ctx;
    /* The enclave has all that it needs of the processor. */
    void (*admitted)(void *ctx);
    /* The connection to vtpmd is gone: service_connect when there is another. */
    void (*disconnected)(void *ctx);
    /* The last fault of the enclave, for the log. */
    void (*fault)(void *ctx, uint16_t *out_vector, uint64_t *out_address);
};

struct service;

struct service_options {
    sd_event *event;
    struct instance_id id;
    struct machine *machine;
    struct service_host host;
    struct service_front front;
    bool separate_front;
    uint8_t front_share[X25519_SIZE]; /* of a front-end in this process */
    uint64_t commit_timeout_usec;
    bool awaiting_reset; /* the TPM was lost under its client; machine is a new one */
    bool incoming;       /* another process holds the TPM, until the client has brought it here */
};

/* machine has been started. ERR_NO_MEMORY, ERR_SYSTEM. */
struct err service_open(const struct service_options *options, struct service **out_service);

/* A connection to vtpmd, taken over: the first one, or after disconnected. */
void service_connect(struct service *service, int fd);

/* One record of the front-end; verb: enum k2_verb, 0 for FINISH and FINAL. Answered by record or failed of the front,
 * before this returns or later. One at a time: ERR_LINK_ORDER, and nothing has happened, while one is not answered. */
struct err service_record(struct service *service, uint8_t verb, struct span record);

/* Both FINISHes were exchanged. */
void service_serving(struct service *service);

/* The front-end wants a reset after failed, and its clients can be handed over. */
void service_relink(struct service *service);
/* The front-end has gone for good, and its link with it: the TPM is switched off in order, then a new enclave waits. */
void service_front_gone(struct service *service);

/*
 * Ends the service in order, the TPM is off; the loop then ends with SERVICE_ENDED or SERVICE_FAILED. May be called
 * again.
 */
void service_stop(struct service *service);

void service_close(struct service **service);
