/*
 * An act of the owner's (abi/manager.h, OWNER_ACT), as the owner's own program builds it.
 *
 * Guarantees: what is signed was built here, from the instance that the owner named and from what the daemon showed of
 * it, and is byte for byte the message that the daemon asked to be signed; so a daemon cannot have another verb,
 * another id or anything else signed. Where the owner named a label, the daemon says which id it is: whoever does not
 * trust it with that names the id.
 */
#pragma once

#include <jansson.h>

#include "abi/manager.h"
#include "untrusted/cli/explain.h"

/* instance: as shown; status, challenge: what the daemon returned. ERR_PROTOCOL if message is another. */
struct err ctl_act_delete(const json_t *instance, const json_t *status, const json_t *challenge,
                          uint8_t out_message[OWNER_ACT_SIZE], struct explanation *why);
