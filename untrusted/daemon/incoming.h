/*
 * A process beside the one that serves an instance, which may take over from it: the receiving end of a migration on this
 * host.
 *
 *   spawned ──HELLO──► attached ──the manager admits it──► ready ──a first command──► it serves; the other one is fenced
 *
 * Guarantees: until the manager says that it has taken over, nothing of the instance's own life depends on it, and its end
 * changes nothing. There is one at a time. It does not outlive vtpmd: what it was to receive can be sent again.
 */
#pragma once

#include "untrusted/daemon/connections.h"

/*
 * Answered when it listens for a client, who brings what the other process exports. listen: an array of addresses, borrowed,
 * or NULL. handed: it is served on those, which are taken over, and held by whoever gave them; or NULL. ERR_VERB_STATE: there
 * is nothing to take over, or another one is there.
 */
void incoming_start(struct instance *instance, json_t *listen, struct handed *handed, act_done *done, void *ctx);

/* A vtpmd that is killed behind the row that makes it the holder knows whose end to wait for. */
struct err incoming_note(const struct instance *instance);
/* It ends, because it cannot take over any more. */
void incoming_end(struct instance *instance, struct err why, const char *reason);

/* Ends it, if it has not taken over. ERR_VERB_STATE: there is none. */
void incoming_stop(struct instance *instance, act_done *done, void *ctx);

/* ctx is the holder of the sockets that it is served on. */
bool incoming_is_held_by(const struct instance *instance, const void *ctx);
/* That holder has gone: it ends. True if its start was not answered yet; it will not be. */
bool incoming_leave(struct instance *instance);

/* Whether pid is that process. */
bool incoming_is(const struct instance *instance, pid_t pid);
/* There is one, and it could have taken over by now. */
bool incoming_is_ready(const struct instance *instance);

/* What happened. */
struct err incoming_greeted(struct incoming *incoming, struct connection *connection,
                            const struct hello_instance *hello);
void incoming_admitted(struct incoming *incoming, const struct link_told *told);
void incoming_redeemed(struct incoming *incoming);
void incoming_refused(struct incoming *incoming, struct err why);
void incoming_disconnected(struct incoming *incoming);

/* Its addresses and process, or null; a new reference. */
json_t *incoming_view(const struct incoming *incoming);
/* Safe on NULL. */
void incoming_free(struct incoming *incoming);
