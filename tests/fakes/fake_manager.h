/*
 * The manager's end of the peer session, with a ledger of one instance, in an ordinary process. It does what it is told
 * to and notes what it hears; a test decides what is answered. What should work and does not aborts the program.
 */
#pragma once

#include <stdbool.h>

#include "link/link.h"
#include "trusted/session/peer.h"
#include "trusted/state/blob.h"

struct fake_state {
    uint64_t version; /* 0: none */
    uint8_t digest[SHA256_SIZE];
    uint8_t suspended[SHA256_SIZE];
    uint8_t floors[PEER_FLOORS_SIZE];
    bool loaded; /* it was said with PEER_LOADED */
};

struct fake_manager {
    uint8_t MRENCLAVE[SGX_HASH_SIZE];
    uint8_t program[SGX_HASH_SIZE]; /* MRENCLAVE of the instances it admits */
    struct peer_resumption known;   /* the instance; start is that of the newest CHALLENGE */
    uint8_t root_key[BLOB_ROOT_SIZE];
    struct fake_state recorded;
    uint8_t sealed_under[SGX_HASH_SIZE];
    bool imports;                 /* the instance was created to be imported */
    bool incoming;                /* the enclave is to take over what another one exports */
    bool reverted;                /* the recorded state is an older one, until the next COMMIT */
    uint8_t resumes[SHA256_SIZE]; /* what the newest start may resume from: it is taken out of the recorded state */
    enum peer_lockout_heals lockout_heals;
    enum peer_family family;
    enum peer_snapshots snapshots;
    uint64_t era;
    enum link_kind link_kind;
    uint8_t front_share[X25519_SIZE];
    uint8_t enrolled[X25519_SIZE];
    struct peer peer;

    /* What the instance said, until it is answered. */
    bool ready;
    uint8_t instance_share[X25519_SIZE];
    bool commits;
    struct fake_state commit;
    bool asks;
    uint64_t number;
    bool redeems;
    uint64_t redeem[3]; /* epoch, start, version */
};

/* libcrypto, for every fake in the process. */
const struct crypto *fake_crypto(void);

/* A message for the instance. */
struct fake_message {
    uint8_t bytes[PEER_MESSAGE_MAX];
    size_t size;
};

struct span fake_message_span(const struct fake_message *message);

/* An instance that was never started, with an id and a root key of its own. Admits what fake_processor runs. */
void fake_manager_open(struct fake_manager *m);

/* The owner puts an older state back: it becomes the newest, whose floors stay. */
void fake_manager_revert(struct fake_manager *m, const struct fake_state *older);

/* Another start. */
void fake_manager_challenge(struct fake_manager *m, struct fake_message *out);
/* Takes PROOF, gives ADMIT. */
void fake_manager_admit(struct fake_manager *m, struct span proof, struct fake_message *out);
void fake_manager_provision(struct fake_manager *m, struct fake_message *out);
/* The fields of PROVISION, to be changed and said with fake_manager_say. */
void fake_manager_provision_fields(const struct fake_manager *m, uint8_t out[PEER_PROVISION_SIZE]);

/* Takes RESUME, gives ACCEPT; then takes CONFIRM. */
void fake_manager_accept(struct fake_manager *m, struct span resume, struct fake_message *out);
void fake_manager_check_confirmation(struct fake_manager *m, struct span confirm);

/* Takes READY, COMMIT, ASK_LEASE or REDEEM. */
void fake_manager_hear(struct fake_manager *m, struct span message);
/* Records what was committed and says so. */
void fake_manager_anchor(struct fake_manager *m, struct fake_message *out);
void fake_manager_lease(struct fake_manager *m, struct fake_message *out);
/* The enclave that redeems is the holder. */
void fake_manager_redeem(struct fake_manager *m, struct fake_message *out);
/* Any word. */
void fake_manager_say(struct fake_manager *m, enum peer_word word, struct span fields, struct fake_message *out);
