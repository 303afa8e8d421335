/* An act that the owner signs (abi/manager.h, OWNER_ACT), as vtpmd puts it together from what it was asked and what the
 * manager said. The manager makes the same for itself; what is wrong here fails there. */
#pragma once

#include "untrusted/daemon/manager.h"
#include "untrusted/daemon/snapshots.h"

struct owner_act {
    enum manager_verb verb;
    size_t size;
    uint8_t arguments[OWNER_ARGUMENTS_MAX]; /* what the hash is over */
};

struct owner_act owner_act_delete(void);
/* The snapshot becomes the state of the version that follows the recorded one. */
struct owner_act owner_act_revert(const struct instance *instance, const struct snapshot *snapshot);
struct owner_act owner_act_set_owner(const uint8_t owner[ED25519_PUBLIC_SIZE]);
struct owner_act owner_act_clone(const char label[MANAGER_LABEL_SIZE]);

/* Asks the manager to do it. ERR_NO_MEMORY, ERR_LINK_CLOSED: done is not called. */
struct err owner_act_ask(const struct instance *instance, const struct owner_act *act,
                         const uint8_t signature[ED25519_SIGNATURE_SIZE], manager_done *done, void *ctx);
/* The message that is signed. ERR_CRYPTO. */
struct err owner_act_message(const struct instance *instance, const struct owner_act *act,
                             const struct manager_status *status, struct span nonce,
                             uint8_t out_message[OWNER_ACT_SIZE]);
