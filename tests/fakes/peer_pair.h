/* Both ends of a peer session in one process; the fake processor plays the enclave whose turn it is. */
#pragma once

#include "tests/fakes/runtime.h"
#include "trusted/session/peer.h"

extern const uint8_t fake_manager_mrenclave[SGX_HASH_SIZE];
extern const uint8_t fake_instance_mrenclave[SGX_HASH_SIZE];

/* The processor answers EREPORT and EGETKEY to this enclave from now on. */
void become_manager(void);
void become_instance(void);

/* What the exchange of the pair is about, and each message as it was written last. */
struct peer_pair {
    struct crypto crypto;
    struct instance_id id;
    uint64_t start;
    uint8_t holder[ED25519_PUBLIC_SIZE], base[PEER_BASE_SIZE];
    struct peer_resumption resumption; /* of the same start */
    struct peer manager, instance;
    uint8_t bytes[6][PEER_MESSAGE_MAX];
    struct writer challenge, proof, admit, resume, accept, confirm;
};

/* Aborts the test program if libcrypto fails. */
void peer_pair_init(struct peer_pair *pair);
void peer_pair_close(struct peer_pair *pair);

/* One step each, at the right end; the message of the step before as it stands in pair. */
struct err peer_pair_challenge(struct peer_pair *pair);
struct err peer_pair_prove(struct peer_pair *pair);
struct err peer_pair_check_proof(struct peer_pair *pair);
struct err peer_pair_admit(struct peer_pair *pair);
struct err peer_pair_check_admission(struct peer_pair *pair);
struct err peer_pair_resume(struct peer_pair *pair);
struct err peer_pair_accept(struct peer_pair *pair);
struct err peer_pair_confirm(struct peer_pair *pair);
struct err peer_pair_check_confirmation(struct peer_pair *pair);

/* All steps of the one or the other way, which must succeed. */
void peer_pair_establish(struct peer_pair *pair);
void peer_pair_reestablish(struct peer_pair *pair);
