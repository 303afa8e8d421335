/*
 * Recovery keys, the manager's part (link/recovery.h): what the first manager of a domain makes for their holders, and how
 * a manager that has nothing but the ledger gets the master secret from them.
 *
 * Guarantees: the recovery secret is in memory only while the record is made, and while enough shares are put together;
 * what is recovered has every instance in a new epoch and without a holder, and every state as one that was put back
 * (floors). Deleted stays deleted. Not guaranteed: that the ledger is the newest there was: that is what the holders say
 * with their shares.
 */
#pragma once

#include "abi/manager.h"
#include "link/recovery.h"
#include "trusted/manager/anchoring.h"

#define RECOVERY_HEAD_BLOB_MAX 512u

struct manager;

/* Which keys, as START_NEW has them; keys points into the call. */
struct recovery_choice {
    struct recovery_rule rule;
    struct span keys;
};

/* ERR_TRUNCATED, ERR_BAD_VALUE. */
struct err recovery_parse_choice(struct reader *r, struct recovery_choice *out);
/* The record of the new ledger's master secret. ERR_CRYPTO, ERR_NO_SPACE; ERR_AUTHENTICATION: a key is of small order. */
struct err recovery_make(struct manager *manager, const struct recovery_choice *choice, struct writer *out_record);

/* A recovery under way. */
struct recovery {
    struct x25519_key own;
    size_t record_size, head_size;
    uint8_t record[RECOVERY_RECORD_MAX];
    uint8_t head[RECOVERY_HEAD_BLOB_MAX];
    uint8_t request[RECOVERY_REQUEST_SIZE];
    uint32_t anchor_kind, anchor_nv_index; /* of the new anchor */
    size_t auth_size;
    uint8_t auth[ANCHOR_OWNER_AUTH_MAX];
    uint8_t count;
    struct recovery_share shares[RECOVERY_KEYS_MAX];
};

void recovery_close(struct recovery *recovery);

/* Copies all of it. Writes the request. ERR_TOO_LARGE, ERR_CRYPTO, the errors of recovery_parse. */
struct err recovery_begin(struct manager *manager, struct span record, struct span head,
                          const struct anchor_choice *anchor, struct writer *out_request);
/* One holder's answer: the last one that is needed opens the ledger, and *out_done is true. One that is not right changes
 * nothing, and the holder may answer again: ERR_AUTHENTICATION, ERR_BAD_VALUE (its share is there already). Any other
 * error is the end. */
struct err recovery_take(struct manager *manager, struct span answer, bool *out_done);
/* The rows are loaded: they are changed as above, and the new anchor's first request is written. */
struct err recovery_finish(struct manager *manager, struct writer *out);
