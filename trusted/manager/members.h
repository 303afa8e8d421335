/*
 * The other members of the trust domain: managers of the same image on this processor, each with a ledger and an anchor of
 * its own, between which instances move (abi/manager.h, MEMBER_QUESTION_SIZE, has what they say).
 *
 *   asker                                             the one that has the instance
 *   LOOK     ──────────────────────────────────────►
 *            ◄──────────────────────────────────────  row, root of exports
 *   MOVE     ──────────────────────────────────────►  recorded: moved, to the asker; the holder is fenced. Anchored
 *            ◄──────────────────────────────────────  row, root key
 *   recorded: here, one start later. Anchored
 *   CONFIRM  ──────────────────────────────────────►  the root key is erased
 *
 * Guarantees: an instance goes to a member of this ledger's own trust domain, with no weaker an anchor, and to one; before
 * it is told, that is anchored here, and nothing of the instance is begun or committed here from then on, until it has
 * come home. Until the member has said that its own record is anchored, it is told the same again, and nobody else is
 * anything. What is answered is of use to who asked, once. Not guaranteed: that the member still has its ledger.
 */
#pragma once

#include "trusted/ledger/ledger.h"
#include "trusted/manager/side.h"

#define VISITORS_MAX 32u /* the oldest one that was looked at is forgotten */

struct manager;
struct visitor;

struct members {
    struct visitor *first; /* the newest */
};

/* The question; store: what it has to wait for. ERR_NOT_EMPTY, ERR_NO_INSTANCE, ERR_VERB_STATE. */
struct err members_ask(struct manager *manager, enum member_act what, const struct instance_id *id, struct writer *out,
                       uint64_t *out_store);
/*
 * The answer; store: what it has to wait for. ERR_OTHER_DOMAIN, ERR_WEAKER_ANCHOR, ERR_PEER_*; what lifecycle.h refuses;
 * ERR_FENCED: the row is not the one that is asked for any more.
 */
struct err members_answer(struct manager *manager, struct span question, struct writer *out, uint64_t *out_store,
                          struct writer *effects);
/*
 * Takes the answer to what was asked last about this instance, and no other. *out_row: as it was told (LOOK), or as it is
 * recorded here (MOVE); of JOIN its store alone. ERR_VERB_STATE: nothing was asked; ERR_PEER_*, ERR_AUTHENTICATION; those of
 * ledger_check_arrival, and then the answer to a new question is as good.
 */
struct err members_take(struct manager *manager, const struct instance_id *id, struct span answer,
                        struct ledger_row *out_row, struct writer *effects);

/* The row of an instance that was looked at, whose id is next. ERR_NO_INSTANCE. The caller wipes it. */
struct err members_read_visitor(const struct members *members, struct reader *id, struct ledger_row *out_row);
/*
 * An enclave on this channel, which was admitted when the row was told so, is to take over from this version. ERR_FENCED:
 * another one is; it is not known any more; another epoch or start has begun since, as was seen by a later look.
 */
struct err members_redeem(struct manager *manager, const struct ledger_row *told, uint64_t channel, uint64_t version);

void members_close(struct members *members);
