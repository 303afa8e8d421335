/*
 * vtpmctl delete, revert, clone, owner and challenge: what needs the owner's signature where an instance has one.
 *
 * Guarantees: a key signs what was built here (ctl_act.h), and only if it is the owner's of the instance that was named.
 */
#pragma once

#include "untrusted/cli/ctl_request.h"

struct err ctl_owner_delete(struct ctl_request *request, struct explanation *why);
struct err ctl_owner_revert(struct ctl_request *request, struct explanation *why);
struct err ctl_owner_clone(struct ctl_request *request, struct explanation *why);
struct err ctl_owner_set(struct ctl_request *request, struct explanation *why);
/* For a key that is elsewhere: what it has to sign, into a file. */
struct err ctl_owner_challenge(struct ctl_request *request, struct explanation *why);
