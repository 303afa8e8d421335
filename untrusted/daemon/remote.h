/*
 * Another vtpmd's admin.sock (docs/admin-api.md) from the client's end, in the loop: one question at a time.
 *
 * The connection was made, and handed over, by whoever may speak there. Guarantees: each question is answered once, or the
 * connection's end is its answer; nothing is believed of what comes but its form.
 */
#pragma once

#include <jansson.h>
#include <systemd/sd-event.h>

#include "base/err.h"

struct remote;

/*
 * result: the other one's error, with its words in reason; ERR_PEER_CLOSED, ERR_PROTOCOL. answer: an object, on success,
 * borrowed; fd: what came with it, which is taken over, or -1. The remote may be closed in it.
 */
typedef void remote_done(void *ctx, struct err result, const char *reason, const json_t *answer, int fd);

/* fd is taken over, on an error too. ended: the connection is gone while nothing is asked. ERR_SYSTEM, ERR_NO_MEMORY. */
struct err remote_open(sd_event *event, int fd, void (*ended)(void *ctx), void *ctx, struct remote **out_remote);
/* done is not called any more. Safe on NULL. */
void remote_close(struct remote **remote);

/* arguments are taken over. Not while something is asked. On an error done is not called. ERR_PEER_CLOSED. */
struct err remote_ask(struct remote *remote, const char *verb, json_t *arguments, remote_done *done);
