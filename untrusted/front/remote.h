/*
 * vtpm-front at work: the tunnel's transport through sockets. It registers its share with vtpmd, is told the enclave's,
 * and speaks to the instance.
 *
 *   REGISTERING ──LINK of vtpmd──► NAMED ──connection to the instance──► BOUND ──it ends, or FAILED──► REGISTERING
 *
 * Guarantees: a share serves one link; clients' connections outlive the link: they are answered TPM_RC_FAILURE until
 * their own reset, which waits for the next link, at most REMOTE_RESET_USEC. vtpmd is needed for a new link only. It
 * does not guarantee that vtpmd names the right enclave, unless the owner enrolled this front-end's key.
 */
#pragma once

#include <systemd/sd-event.h>

#include "untrusted/front/tunnel.h"

#define REMOTE_RESET_USEC UINT64_C(20000000)

/* What the connector (untrusted/front/connector.h) is asked for, and passes; READY it is told only. */
enum remote_peer { REMOTE_DAEMON = 1, REMOTE_INSTANCE = 2, REMOTE_READY = 3 };

struct remote;

struct remote_options {
    sd_event *event;
    struct instance_id id;
    struct tunnel *tunnel;
    void *ctx;
    /* A connection is wanted; remote_connected follows. */
    void (*want)(void *ctx, enum remote_peer peer);
    /* The link is up, for the first time or again. */
    void (*linked)(void *ctx);
};

/* The loop ends with 0 after a client's shutdown, with 1 when there is no use in going on. ERR_NO_MEMORY, ERR_SYSTEM.
 */
struct err remote_open(const struct remote_options *options, struct remote **out_remote);
/* For the tunnel, which is opened next. */
struct tunnel_transport remote_transport(struct remote *remote);
/* Asks for the first connection; the tunnel is open. */
void remote_begin(struct remote *remote);
/* fd is taken over; -1: the instance could not be reached. */
void remote_connected(struct remote *remote, enum remote_peer peer, int fd);
void remote_close(struct remote **remote);
