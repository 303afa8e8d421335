/*
 * What the manager enclave returns: the effects of one call, and its words over K1, as abi/manager.h has them.
 *
 * Guarantees: an output record is parsed strictly (known kinds, exact sizes, zero padding, at most one
 * exchange with the anchor, a store only with the exchange that follows it) and whole
 * before anything of it is acted upon; what is not as the contract says is an error, never half an effect. It does not
 * judge what the enclave says.
 */
#pragma once

#include <stdbool.h>

#include "abi/anchor.h"
#include "abi/manager.h"
#include "base/bytes.h"
#include "base/id.h"
#include "link/link.h"
#include "untrusted/store/store.h"

#define EFFECTS_MAX 512u /* of one call */

struct effect {
    enum manager_effect kind;
    uint64_t channel;        /* SEND, STATE, CLOSE */
    struct instance_id id;   /* CREATE_ENCLAVE, STATE */
    uint64_t number;         /* CREATE_ENCLAVE: of the start; STATE: version; STORE, ANCHOR */
    struct err code;         /* CLOSE */
    const uint8_t *share;    /* LINK */
    const uint8_t *program;  /* LINK: MRENCLAVE of the manager; CREATE_ENCLAVE: of the instance */
    enum anchor_kind anchor; /* ANCHOR */
    struct span bytes;       /* RECORD, SEND, MESSAGE; ANCHOR: the request */
};

/* Spans point into the output record. */
struct effects {
    size_t count;
    struct effect list[EFFECTS_MAX];
    bool anchored; /* there was an ANCHOR */
    /* of STORE */
    uint64_t store_number;
    struct span head;
    struct span master;
    size_t row_count;
    struct store_row rows[MANAGER_ROWS_PER_STORE];
};

/* The err code of the handler, or ERR_TRUNCATED, ERR_TRAILING, ERR_BAD_VALUE, ERR_TOO_LARGE of the parser; *out_parsed
 * tells them apart: false means that the record itself was malformed. */
struct err effects_parse(struct span output, struct effects *out_effects, bool *out_parsed);

/* A row as K1 has it (MANAGER_ROW_SIZE). */
struct manager_row {
    uint32_t slot;
    enum manager_instance_state state;
    bool has_owner;
    bool has_front_key;
    uint8_t origin;
    struct instance_id id;
    char label[MANAGER_LABEL_SIZE];
    uint64_t epoch;
    uint64_t start;
    uint64_t version;
    uint64_t created; /* ns */
    uint64_t deaths;
    uint8_t digest[SHA256_SIZE];
    uint8_t owner[ED25519_PUBLIC_SIZE];
    uint8_t front_key[X25519_SIZE];
    uint8_t holder[ED25519_PUBLIC_SIZE]; /* MOVED: the member that has it now */
    uint8_t suspended[SHA256_SIZE];      /* zeros: nothing is */
    struct instance_id source;           /* of a clone; else zeros */
    uint8_t lockout_heals;               /* enum peer_lockout_heals */
    bool reverted;
    uint8_t family;    /* enum peer_family */
    uint8_t snapshots; /* enum peer_snapshots */
    uint32_t loads;    /* of such snapshots */
};

struct manager_status {
    struct instance_id domain;
    uint8_t manager[LINK_MRENCLAVE_SIZE];
    uint8_t instance[LINK_MRENCLAVE_SIZE];
    uint8_t signer[LINK_MRENCLAVE_SIZE];
    uint8_t release_key[SHA256_SIZE];
    uint32_t security_version;
    uint32_t slots;
    uint32_t held;
    uint32_t deleted;
    uint64_t ledger_version;
    uint8_t ledger_root[SHA256_SIZE];
    enum anchor_kind anchor;
    uint32_t anchor_nv_index; /* 0: none */
    uint8_t anchor_value[ANCHOR_VALUE_SIZE];
    uint32_t recovery_threshold; /* of */
    uint32_t recovery_count;     /* keys; 0: there are none */
    struct instance_id member;   /* of the domain */
};

/* Take the bytes of one from r. ERR_TRUNCATED, ERR_BAD_VALUE. */
struct err effects_read_row(struct reader *r, struct manager_row *out_row);
struct err effects_read_status(struct reader *r, struct manager_status *out_status);
/* The fields of MANAGER_STARTED. */
struct err effects_read_started(struct reader *r, struct link_binding *out_binding, bool *out_incoming,
                                uint8_t out_share[X25519_SIZE]);
