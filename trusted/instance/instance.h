/*
 * The parts of the instance program, which share its one root structure.
 *
 *   instance.c   the states, the table of calls, START, LOAD and STOP
 *   manager.c    the words of the manager: admission, provisioning, anchors, leases, a resumed session
 *   client.c     K2: the requests of the front-end
 *   import.c     a state that comes over K2
 *   export.c     the TPM as it is, for another enclave of this instance
 *   incoming.c   what such a one exports: taken, checked, and redeemed
 *   effects.c    what leaves: effects, commits, responses, the receipt
 *
 * Guarantees: none of these functions leaves a secret in memory that the structure does not own.
 */
#pragma once

#include <stdbool.h>

#include "abi/blob.h"
#include "abi/instance.h"
#include "base/bytes.h"
#include "crypto/crypto.h"
#include "crypto/curve.h"
#include "link/k2.h"
#include "link/link.h"
#include "trusted/session/peer.h"
#include "trusted/state/blob.h"
#include "trusted/tpm/tpm.h"

enum instance_state {
    INSTANCE_BLANK = 0,
    INSTANCE_GREETED = 1,     /* has a holder key, waits for CHALLENGE */
    INSTANCE_PROVEN = 2,      /* waits for ADMIT, then for PROVISION */
    INSTANCE_PROVISIONED = 3, /* waits for its state */
    INSTANCE_RUNNING = 4,     /* the TPM is on, or was switched off */
    INSTANCE_WAITING = 5,     /* for a word of the manager: see under_way */
    INSTANCE_STOPPED = 6,
    INSTANCE_FAILED = 7,
};

enum under_way {
    UNDER_WAY_NOTHING,
    UNDER_WAY_COMMIT, /* until ANCHORED */
    UNDER_WAY_RESET,  /* until LEASE */
    UNDER_WAY_REDEEM, /* until REDEEMED: a request is kept */
};

/* What leaves once nothing that libtpms wants kept is left to be made durable. */
enum held_back { HELD_READY, HELD_RESPONSE, HELD_RECEIPT };

/* Commands that the manager has not vouched for, and the question whether it still does. */
struct lease {
    bool asked;
    uint64_t number;      /* of the newest question */
    uint32_t unconfirmed; /* commands since the question that was answered last */
    uint32_t since_asked; /* commands since the newest question */
};

/* A state, by what the manager's ledger knows of it. */
struct recorded_state {
    uint64_t version; /* 0: there is none */
    uint8_t digest[SHA256_SIZE];
    uint8_t suspended[SHA256_SIZE];   /* digest of the volatile state that goes on from it; zeros: none does */
    uint8_t floors[PEER_FLOORS_SIZE]; /* told by PROVISION: of a newer one, to which this one is to be raised */
    bool loaded;                      /* from a snapshot of the machine that had been left; never told */
};

/* A state, or an export, on its way in: the parts that have come. */
struct import {
    uint8_t *bytes; /* owned, wiped; NULL: none is under way */
    size_t size;
    size_t taken;
};

/* What another enclave may go on from: sealed, both parts behind each other. */
struct export
{
    bool open;      /* it may, until this one commits */
    uint8_t *bytes; /* owned; NULL: there is none */
    size_t permanent_size;
    size_t size;
};

/* One that is to take over from another enclave. */
struct incoming {
    bool candidate; /* no holder yet */
    bool checked;   /* the TPM is on, from an export that has not been redeemed */
    uint64_t epoch; /* of the export, as all here */
    uint64_t start;
    uint64_t version;
    uint8_t request[K2_MESSAGE_MAX]; /* the one that waits for REDEEMED */
    size_t request_size;
};

struct instance {
    enum instance_state state;
    enum under_way under_way;
    enum held_back held_back;
    bool ready;        /* READY was said */
    bool failure_mode; /* of the TPM, as the host was told last */
    bool resumed;      /* and neither commanded nor reset since: its machine, too, goes on where it stopped */
    bool untouched;    /* nothing was asked of it since its start that may change it */
    bool keeps;        /* what a power-off loses, at the orderly end, if nothing comes between */
    bool goes_back;    /* to what was exported and left since, if it is asked to, */
    bool loads;        /* and has: the next commit says so */

    struct crypto crypto;
    uint8_t program[SGX_HASH_SIZE]; /* MRENCLAVE of this enclave */
    struct ed25519_key holder;

    struct peer peer;             /* the session with the manager */
    struct peer resuming;         /* the one that is to replace it */
    struct peer_resumption known; /* by PROVISION; the id by START */
    uint64_t era;
    struct lease lease;

    enum peer_mode mode;
    uint8_t sealed_under[SGX_HASH_SIZE]; /* MRENCLAVE of the manager of the state that is to be opened */
    uint8_t manager[SGX_HASH_SIZE];      /* MRENCLAVE of the manager that provisioned, verified */
    uint8_t root_key[BLOB_ROOT_SIZE];    /* until LOAD has succeeded; to the end if it goes back */
    uint8_t root[BLOB_ROOT_SIZE];        /* of the states that are sealed here, under it */
    uint8_t export_root[BLOB_ROOT_SIZE]; /* of exports */
    struct recorded_state newest;        /* that was handed out, or told by PROVISION */

    struct link link; /* K2 */
    uint8_t share[X25519_SIZE];
    struct tpm tpm;
    struct import import;
    struct export export;
    struct incoming incoming;
    uint8_t request[RECORD_OVERHEAD + K2_MESSAGE_MAX]; /* what a record or a message of the manager carries */
    uint8_t response[K2_MESSAGE_MAX];
    size_t response_size;
};
_Static_assert(sizeof((struct instance){0}.request) >= PEER_MESSAGE_MAX, "it takes the manager's messages too");

/* An error behind the point where libtpms may have changed its memory is the end: state FAILED, everything wiped. */
struct err instance_fail_if(struct instance *instance, struct err err);
/* Wipes all that the enclave knows but what libtpms and libcrypto keep in globals of their own. */
void instance_forget(struct instance *instance);

/* --- effects.c --- */

/* Writes an effect's header and reserves its payload, which the caller fills. */
struct err effect_reserve(struct writer *out, enum instance_effect kind, size_t size, struct writer *out_payload);
struct err effect_peer(struct writer *out, struct span message);
/* Says one word to the manager. A session that is closed says nothing: what matters is said again when it is resumed.
 */
struct err effect_say(struct instance *instance, enum peer_word word, struct span fields, struct writer *out);
/* What there is to know of the newest state: COMMIT, for the first time or again. */
struct err effect_say_commit(struct instance *instance, struct writer *out);
/* Asks for a lease with a fresh number. */
struct err effect_ask_lease(struct instance *instance, struct writer *out);
/* The end of everything that ran libtpms: what it wants kept goes out first, and what is held back waits for that. */
struct err effect_settle(struct instance *instance, struct writer *out);
/* Appends the sealed form of one part of the TPM, of the newest version. */
struct err effect_seal(struct instance *instance, struct span root, enum blob_kind kind, uint64_t number,
                       struct span plaintext, struct writer *out);
/* The same after tpm_suspend, whose volatile state goes out sealed behind the permanent one. */
struct err effect_settle_suspended(struct instance *instance, struct span volatile_state, struct writer *out);
/* What was held back. */
struct err effect_release(struct instance *instance, struct writer *out);

/* --- import.c --- */

/* This instance has no state yet and is to be given one: there is no TPM to power on. */
bool import_awaited(const struct instance *instance);
/*
 * Takes one part (link/k2.h). With the last one the TPM is on, and the state waits to be committed. ERR_VERB_STATE (no
 * import is awaited), ERR_TRUNCATED, ERR_BAD_VALUE, ERR_TOO_LARGE, ERR_NO_MEMORY, ERR_STATE_REJECTED, ERR_TPM: nothing
 * is kept of what came before.
 */
struct err import_part(struct instance *instance, struct span part);
/* Wipes what has come. */
void import_forget(struct instance *instance);
/* Gathers one part, whose parts together have at most max bytes. The errors of import_part. */
struct err import_gather(struct instance *instance, struct span part, size_t max);
/* All parts of something have come. */
bool import_complete(const struct instance *instance);

/* --- export.c --- */

/* The handlers of EXPORT and EXPORT_READ: they write the response, or refuse. */
struct err export_begin(struct instance *instance, struct writer *out);
struct err export_read(struct instance *instance, uint32_t offset, struct writer *out);
/* This enclave goes on: the export, if one is open, is over with the commit that now goes with whatever comes next. */
void export_take_back(struct instance *instance);
void export_forget(struct instance *instance);

/* --- incoming.c --- */

/* One part of an export. The errors of import_part, and ERR_VERB_STATE: the TPM is on. */
struct err incoming_part(struct instance *instance, struct span part);
/* RESET over an export that has come: whether this enclave can go on from it, and then its TPM is on. */
struct err incoming_check(struct instance *instance, struct writer *out);
/* A request that decides who goes on: kept, until the manager has recorded that it is this enclave. */
struct err incoming_redeem(struct instance *instance, struct span request, struct writer *out);
/* REDEEMED, whose fields these are. */
struct err incoming_redeemed(struct instance *instance, struct span fields, struct writer *out);
void incoming_forget(struct instance *instance);

/* --- client.c, manager.c: handlers of calls --- */

struct err client_record(void *ctx, struct span record, struct writer *out);
/* One request, in the clear. */
struct err client_perform(struct instance *instance, struct span message, struct writer *out);
/* Writes the head of the response; the rest of the response follows where there is one. */
struct writer client_begin_response(struct instance *instance, struct err err);
/* The response so far is all of it; nothing has to be made durable first. */
struct err client_respond(struct instance *instance, const struct writer *response, struct writer *out);
/* The TPM did not run it, and the front-end is told why. */
struct err client_refuse(struct instance *instance, struct err why, struct writer *out);
/* The reset that the manager's lease allows. */
struct err client_reset(struct instance *instance, struct writer *out);
struct err manager_message(void *ctx, struct span message, struct writer *out);
struct err manager_resume(void *ctx, struct span body, struct writer *out);
