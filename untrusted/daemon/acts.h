/*
 * What an operator or an owner may ask for: create, clone, start, stop, suspend, declare dead, revert, another owner,
 * delete.
 *
 * Guarantees: an act is answered once: when the manager's reply says that it is recorded, or with the reason why it is
 * not, and after the commit timeout and ACT_EXTRA_SECONDS at the latest. What goes on after that says how far it is. One
 * act at a time for an instance.
 */
#pragma once

#include "untrusted/daemon/instance.h"

#define ACT_EXTRA_SECONDS 30u /* beyond what a commit may take */

struct create {
    char label[MANAGER_LABEL_SIZE];
    uint8_t owner[ED25519_PUBLIC_SIZE]; /* zeros: the operator */
    uint8_t front_key[X25519_SIZE];     /* zeros: none enrolled */
    enum peer_lockout_heals lockout_heals;
    enum peer_family family;
    enum peer_snapshots snapshots;
    /* Cloned: owner, key and policy are the source's, and those above are not used. NULL: not cloned. */
    const struct instance *source;
    uint8_t signature[ED25519_SIGNATURE_SIZE]; /* of the source's owner, or zeros */
    json_t *listen;                            /* or NULL; borrowed */
    bool start;
    bool import; /* it is given its state over K2 */
};

/* done is called once, perhaps before these return. */
void act_create(struct supervisor *supervisor, const struct create *create, act_done *done, void *ctx);
/* wait: answered when it serves, or waits for its front-end; else when the start is recorded. */
void act_start(struct instance *instance, bool declare_dead, bool wait, act_done *done, void *ctx);
void act_stop(struct instance *instance, act_done *done, void *ctx);
/* Only of one that serves. If its TPM cannot be suspended, it goes on, and the error says why. */
void act_suspend(struct instance *instance, act_done *done, void *ctx);
/* Of one that does not serve: what is known of its processes is killed, and there is no holder any more. */
void act_declare_dead(struct instance *instance, act_done *done, void *ctx);
/* Of one that is stopped. signature: zeros where there is no owner. What the snapshot replaces is kept as one itself. */
void act_revert(struct instance *instance, const char *snapshot, const uint8_t signature[ED25519_SIGNATURE_SIZE],
                act_done *done, void *ctx);
/* owner: zeros for the operator. */
void act_set_owner(struct instance *instance, const uint8_t owner[ED25519_PUBLIC_SIZE],
                   const uint8_t signature[ED25519_SIGNATURE_SIZE], act_done *done, void *ctx);
void act_delete(struct instance *instance, bool force, const uint8_t signature[ED25519_SIGNATURE_SIZE], act_done *done,
                void *ctx);
