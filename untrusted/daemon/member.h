/*
 * Between two vtpmd of one machine, whose managers are members of one trust domain (trusted/manager/members.h): what one
 * manager asks of another one is carried to its vtpmd's admin.sock, and the sealed state of an instance that moves with it.
 *
 *   here                                              there
 *   JOIN                                              (member_answer)
 *   LOOK ─► MOVE ─► its row and state are stored ─► CONFIRM
 *   LOOK ─► a candidate is started ─► its first command ─► MOVE ─► ... ─► it serves ─► CONFIRM
 *
 * Guarantees: what is asked of here is answered once. Where it breaks off, asking again goes on; what the managers have
 * decided, and nothing here, says who has the instance.
 */
#pragma once

#include "untrusted/daemon/handed.h"
#include "untrusted/daemon/manager.h"

struct move;

/* there: a connection to the other vtpmd's admin.sock, which is taken over. done: with the instance, or NULL for a join. */
void member_join(struct supervisor *supervisor, int there, act_done *done, void *ctx);
/*
 * Brings an instance that is stopped there, or was left half way; of one that has come, and moved on since, the key there
 * alone is seen to. name: its label or id there.
 */
void member_move(struct supervisor *supervisor, int there, const char *name, act_done *done, void *ctx);
/* Starts a process here that takes over what one there exports. listen, handed: as for incoming_start. */
void member_start_incoming(struct supervisor *supervisor, int there, const char *name, json_t *listen,
                           struct handed *handed, act_done *done, void *ctx);

/* The candidate has said that it is to take over. False: there is none that could. */
bool member_redeeming(struct instance *instance);
/* It has ended. */
void member_candidate_ended(struct instance *instance);
void member_end_all(struct supervisor *supervisor);

/* The other end. message: of PEER_MESSAGE_MAX bytes at most. state: the whole of a moved instance, or empty. */
typedef void member_answered(void *ctx, struct err result, struct span message, uint64_t version, struct span state);
void member_answer(struct supervisor *supervisor, struct span question, member_answered *done, void *ctx);
