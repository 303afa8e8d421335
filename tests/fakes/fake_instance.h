/*
 * The instance enclave's end of a peer session, in an ordinary process. It says what it is told to; what should work and
 * does not fails the test. Its identity is fake_processor's.
 */
#pragma once

#include "abi/manager.h"
#include "trusted/session/peer.h"
#include "trusted/state/blob.h"

/* PROVISION, parsed. */
struct fake_provision {
    struct instance_id id;
    uint64_t epoch;
    uint64_t start;
    uint8_t mode;
    uint8_t link_kind;
    uint8_t lockout_heals;
    uint8_t family;
    uint8_t snapshots;
    uint8_t root_key[BLOB_ROOT_SIZE];
    uint8_t resumption_key[PEER_RESUMPTION_KEY_SIZE];
    uint8_t sealed_by[SGX_HASH_SIZE];
    uint64_t version;
    uint8_t digest[SHA256_SIZE];
    uint8_t suspended[SHA256_SIZE];
    uint8_t floors[PEER_FLOORS_SIZE];
    uint8_t front_share[X25519_SIZE];
    uint8_t front_key[X25519_SIZE];
    uint64_t era;
};

struct fake_instance {
    struct instance_id id;
    uint64_t channel; /* the host's number for it */
    struct ed25519_key holder;
    struct peer peer;
    struct fake_provision provision;
    uint8_t message[PEER_MESSAGE_MAX]; /* the last one that it made */
    uint8_t heard[PEER_MESSAGE_MAX];
    uint8_t suspended[SHA256_SIZE];   /* of the commits that follow */
    uint8_t floors[PEER_FLOORS_SIZE]; /* the same */
    bool loads;                       /* they are said with PEER_LOADED */
};

const struct crypto *fake_instance_crypto(void);

/* A blank enclave with a holder key of its own. */
void fake_instance_open(struct fake_instance *fake, const struct instance_id *id, uint64_t channel);
void fake_instance_close(struct fake_instance *fake);

/* Each makes a message, which lies in fake->message. */
struct span fake_instance_prove(struct fake_instance *fake, struct span challenge);
struct span fake_instance_ready(struct fake_instance *fake);
struct span fake_instance_commit(struct fake_instance *fake, uint64_t version, const uint8_t digest[SHA256_SIZE]);
struct span fake_instance_ask_lease(struct fake_instance *fake, uint64_t number);
struct span fake_instance_say(struct fake_instance *fake, enum peer_word word, struct span fields);
struct span fake_instance_resume(struct fake_instance *fake);
struct span fake_instance_confirm(struct fake_instance *fake, struct span accept);

/* Takes ADMIT, then the record PROVISION. */
void fake_instance_admit(struct fake_instance *fake, struct span admission, struct span provision);
/* Takes a record with the word that is expected; its fields lie in fake->heard. */
struct span fake_instance_hear(struct fake_instance *fake, struct span message, enum peer_word expected);

void fake_instance_receipt(const struct fake_instance *fake, uint64_t version, const uint8_t digest[SHA256_SIZE],
                           uint8_t out[PEER_RECEIPT_SIZE]);
