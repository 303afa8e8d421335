/*
 * What may happen to an instance in which state, as one table.
 *
 * Guarantees: nothing changes an instance's state but a row of the table that allows it.
 */
#pragma once

#include "trusted/ledger/row.h"

enum act {
    ACT_START,        /* the operator asks for an enclave */
    ACT_ATTACH,       /* an enclave is there that says it is this instance's */
    ACT_ADMIT,        /* it proved itself */
    ACT_SERVE,        /* the holder speaks: resumes its session, commits, asks for its lease */
    ACT_STOPPED,      /* the holder's receipt */
    ACT_DECLARE_DEAD, /* the operator's word that there is no holder any more */
    ACT_CHALLENGE,    /* a nonce for the owner's signature */
    ACT_DELETE,
    ACT_CLONE,     /* another instance is made after this one */
    ACT_CHANGE,    /* what an owner changes between two starts: the state, the owner */
    ACT_TAKE_OVER, /* an enclave goes on from what the holder, or the last one, has exported */
    ACT_LOOK,      /* another manager asks what it would get */
    ACT_MOVE,      /* and takes it, */
    ACT_MOVE_ON,   /* or an enclave there goes on from what the holder, or the last one, has exported */
    ACT_COUNT,
};

/* Success, or why the row's state does not allow it. */
struct err lifecycle_check(const struct ledger_row *row, enum act act);
/* Puts the row into the state that follows an act which lifecycle_check allowed. */
void lifecycle_step(struct ledger_row *row, enum act act);
