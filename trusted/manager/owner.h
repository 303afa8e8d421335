/*
 * The owner's acts: a nonce for each, and the signature over it (abi/manager.h, OWNER_ACT).
 *
 * Guarantees: a nonce is good once, in this life of the enclave, for the one instance that it was given for, whether
 * the signature verifies or not; an act of an instance that has an owner needs it. An operator who asks for many nonces
 * ends the oldest.
 */
#pragma once

#include "trusted/ledger/ledger.h"

#define OWNER_NONCE_SIZE 32u
#define OWNER_NONCES_MAX 64u

struct owner_nonces {
    struct owner_nonce {
        uint32_t slot;
        bool valid;
        uint8_t nonce[OWNER_NONCE_SIZE];
    } ring[OWNER_NONCES_MAX];
    uint32_t next;
};

/* Draws the nonce of the next act on this instance; an older one of it is void. */
void owner_challenge(struct owner_nonces *nonces, const struct ledger_row *row, uint8_t out[OWNER_NONCE_SIZE]);

/* ERR_OWNER_SIGNATURE; also for a signature where there is no owner. */
struct err owner_check(struct owner_nonces *nonces, const struct ledger *ledger, const struct ledger_row *row,
                       enum manager_verb verb, struct span arguments, const uint8_t signature[ED25519_SIGNATURE_SIZE]);
