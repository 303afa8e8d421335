/*
 * The calls of the instance enclave, and what it wants done.
 *
 *   BLANK ──START──► GREETED ──PEER(challenge)──► PROVEN ──PEER(provision)──► PROVISIONED ──LOAD──► RUNNING
 *
 *   RUNNING ──a commit──► WAITING ──PEER(anchored)──► RUNNING        RUNNING ──RECORD(reset)──► WAITING (for a lease)
 *   RUNNING ──STOP──► (WAITING ──►) STOPPED                          anything ──► FAILED, for good
 *
 * Until PROVISION was accepted an error of PEER leads back to GREETED. A LOAD that was refused may be tried again.
 * While WAITING, every call but PEER and RESUME is answered ERR_CALL_BUSY and changes nothing. STOPPED takes no call:
 * all keys are wiped, and the receipt is the host's to keep.
 *
 * Every byte of a TPM command and response crosses as a record of K2 (link/link.h, link/k2.h); every word of the
 * manager as a message of the peer session (abi/peer.h). The host carries both and reads neither.
 */
#pragma once

#include "abi/call.h"

#define TPM_BUFFER_MAX 4096u /* bytes of a TPM command or response (libtpms' TPM_BUFFER_MAX) */

enum instance_call {
    /* First, once. u8[16] capability hints, u8[32] host entropy, u8[16] the id that the host means. No effect. */
    INSTANCE_START = 1,
    /* One message of the manager, as it came. Effects: PEER (0 to 3), STORE, RECORD, RECEIPT. */
    INSTANCE_PEER = 2,
    /*
     * The sealed state, or nothing for a new TPM, as PROVISION said; behind it the sealed volatile state if there is one
     * (what follows the state is not looked at unless PROVISION said RESUME). Powers the TPM on. Effects: PEER (READY); or STORE
     * and PEER (COMMIT) when there is something to be made durable first, and READY follows ANCHORED. Nothing, too, for
     * one that is to be imported: it stays off until K2 has brought its state.
     */
    INSTANCE_LOAD = 3,
    /* One record of K2. Effects: RECORD, or STORE and PEER (the response waits), or PEER alone (a reset waits for its
     * lease; now and then a lease is asked for besides a RECORD). */
    INSTANCE_RECORD = 4,
    /* The operator's orderly end. u8 mode (enum instance_stop), u8[7] 0. Effects: RECORD (FINAL of K2, if it is open) and
     * RECEIPT, or STORE and PEER and they follow. */
    INSTANCE_STOP = 5,
    /* The connection to the manager is new: begin to resume the session. No body. Effect: PEER. Allowed once READY was
     * said, in WAITING too: what was under way is said again on the new session, with CONFIRM. */
    INSTANCE_RESUME = 6,
};

enum instance_stop {
    INSTANCE_STOP_OFF = 1,     /* the TPM is shut down */
    INSTANCE_STOP_SUSPEND = 2, /* the next start goes on where it stops: sessions, loaded objects, PCRs */
};

enum instance_effect {
    INSTANCE_EFFECT_PEER = 1,   /* one message for the manager */
    INSTANCE_EFFECT_RECORD = 2, /* one record of K2 for the front-end */
    /* u64 version, then the sealed state, behind it the sealed volatile state if it was suspended. The host keeps both as
     * one, and keeps it until the response is released, and gives it to vtpmd with
     * every PEER message that carries the COMMIT: the one of the same call, and the one after CONFIRM of a resumed
     * session (two PEER effects, and no STORE). */
    INSTANCE_EFFECT_STORE = 3,
    INSTANCE_EFFECT_RECEIPT = 4, /* the signed receipt (abi/peer.h): the TPM is off, and this enclave serves no more */
    INSTANCE_EFFECT_HEALTH = 5,  /* u32 enum instance_health, when it has changed; besides any other effects */
};

enum instance_health {
    INSTANCE_TPM_WORKS = 1,        /* from the start, and after a reset that cured it */
    INSTANCE_TPM_FAILURE_MODE = 2, /* libtpms answers TPM_RC_FAILURE to almost everything until a reset */
};

#define INSTANCE_START_SIZE     (CAPABILITY_HINTS_SIZE + HOST_ENTROPY_SIZE + INSTANCE_ID_SIZE)

/* Commands that commit nothing and that an instance answers without a word of the manager; at half of them it asks. */
#define INSTANCE_LEASE_COMMANDS 10000u
