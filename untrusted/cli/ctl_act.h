/*
 * An act of the owner's (abi/manager.h, OWNER_ACT), as the owner's own program builds it.
 *
 * Guarantees: what is signed was built here, from the instance that the owner named and from what the daemon showed of
 * it, and is byte for byte the message that the daemon asked to be signed; so a daemon cannot have another verb,
 * another id or anything else signed. Where the owner named a label, the daemon says which id it is: whoever does not
 * trust it with that names the id. Which state a snapshot's name stands for is the daemon's word too: its digest is told.
 */
#pragma once

#include <jansson.h>

#include "abi/manager.h"
#include "untrusted/cli/explain.h"

struct ctl_act {
    enum manager_verb verb;
    size_t size;
    uint8_t arguments[OWNER_ARGUMENTS_MAX]; /* what the hash at the message's end is over */
};

struct ctl_act ctl_act_delete(void);
/* instance, snapshot: as shown. ERR_PROTOCOL. */
struct err ctl_act_revert(const json_t *instance, const json_t *snapshot, struct ctl_act *out_act);
/* owner_hex: NULL for the operator. */
struct err ctl_act_set_owner(const char *owner_hex, struct ctl_act *out_act);
/* ERR_LABEL_BAD: it is too long. */
struct err ctl_act_clone(const char *label, struct ctl_act *out_act);

/* instance: as shown; status, challenge: what the daemon returned. ERR_PROTOCOL if it asks for another message. */
struct err ctl_act_build(const struct ctl_act *act, const json_t *instance, const json_t *status,
                         const json_t *challenge, uint8_t out_message[OWNER_ACT_SIZE], struct explanation *why);

/* Message and arguments of a challenge, as they are carried to where the owner's key is. ERR_PROTOCOL. */
#define CTL_ACT_FILE_MAX (OWNER_ACT_SIZE + OWNER_ARGUMENTS_MAX)
struct err ctl_act_write(const json_t *challenge, uint8_t out_file[CTL_ACT_FILE_MAX], size_t *out_size);
