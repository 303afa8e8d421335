/*
 * A row of the ledger: all that the manager knows of one instance, and its encodings (docs/ledger.md).
 *
 * Guarantees: one row has one encoding; the public part, which leaves and K1 see, has no secret in it.
 */
#pragma once

#include <stdbool.h>

#include "abi/manager.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/id.h"
#include "crypto/curve.h"
#include "crypto/hash.h"
#include "trusted/session/peer.h"
#include "trusted/state/blob.h"

struct ledger_row {
    uint32_t slot;
    enum manager_instance_state state;
    enum manager_origin origin;
    struct instance_id id;
    char label[MANAGER_LABEL_SIZE]; /* zeros up to its end */
    uint64_t epoch;
    uint64_t start;   /* of the newest start; 0: there was none */
    uint64_t version; /* of the newest sealed state; 0: there is none */
    uint64_t created; /* the host's clock, ns */
    uint64_t deaths;
    uint8_t digest[SHA256_SIZE];           /* of the newest sealed state */
    uint8_t owner[ED25519_PUBLIC_SIZE];    /* zeros: none */
    uint8_t front_key[X25519_SIZE];        /* enrolled; zeros: none */
    uint8_t holder[ED25519_PUBLIC_SIZE];   /* zeros: none; moved: the member that has it, as on K1 */
    uint8_t sealed_by[SGX_HASH_SIZE];      /* MRENCLAVE of the manager under which the newest state was sealed */
    uint8_t provisioned_by[SGX_HASH_SIZE]; /* the same of the one that admitted the holder */
    uint8_t root_key[BLOB_ROOT_SIZE];      /* zeros once deleted, or once the member that has it has said so */
    uint8_t suspended[SHA256_SIZE];        /* of the sealed volatile state that the next start resumes; zeros: none */
    uint8_t floors[PEER_FLOORS_SIZE];      /* of the newest state that an instance committed */
    struct instance_id source;             /* of a clone; else zeros */
    enum peer_lockout_heals lockout_heals;
    enum peer_family family; /* of the TPM; never changes */
    enum peer_snapshots snapshots;
    uint32_t loads; /* how often the TPM was put back to a snapshot of its machine */
    bool reverted;  /* the newest state is one that was put back, and was not started since */

    uint64_t store; /* not stored: what is above is durable when this store is */
};

/* The row as on K1, then sealed_by, provisioned_by, floors, zeros. */
#define ROW_PADDING_SIZE 3u
#define ROW_PUBLIC_SIZE  (MANAGER_ROW_SIZE + 2u * SGX_HASH_SIZE + PEER_FLOORS_SIZE + ROW_PADDING_SIZE)
#define ROW_SEALED_SIZE  (ROW_PUBLIC_SIZE + BLOB_ROOT_SIZE)

void row_wipe(struct ledger_row *row);

bool row_has_owner(const struct ledger_row *row);
bool row_has_front_key(const struct ledger_row *row);
/* How many of its epochs no death began: what was exported in an earlier one is never taken again. */
uint64_t row_era(const struct ledger_row *row);

/* ERR_LABEL_BAD unless it is 1 to 63 characters of the alphabet, and zeros. */
struct err row_check_label(const char label[MANAGER_LABEL_SIZE]);

/* The row on K1 (abi/manager.h). ERR_NO_SPACE. */
struct err row_write(const struct ledger_row *row, struct writer *out);
/* What a leaf of the tree is over. */
struct err row_write_public(const struct ledger_row *row, struct writer *out);
/* What is sealed: the public part and the root key. */
struct err row_write_sealed(const struct ledger_row *row, struct writer *out);
/* The reverse; the part that is not stored becomes zeros. ERR_TRUNCATED, ERR_TRAILING, ERR_BAD_VALUE. */
struct err row_parse_sealed(struct span plaintext, struct ledger_row *out);
