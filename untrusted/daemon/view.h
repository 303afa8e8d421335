/* Instances, the host's state and errors as JSON, in the words of docs/admin-api.md. All results are new references. */
#pragma once

#include "untrusted/daemon/program.h"
#include "untrusted/daemon/snapshots.h"
#include "untrusted/daemon/supervisor.h"

json_t *view_instance(const struct instance *instance);
json_t *view_status(const struct supervisor *supervisor, const struct manager_status *status,
                    const struct program_device *device, uint64_t uptime);
/* desc: names the instance and the check. The hint is what an operator can do about an error of this kind. */
json_t *view_error(struct err error, const char *desc);
/* The operator, or the owner's public key. */
json_t *view_owner(const struct manager_row *row);
/* The policy of this name; 0: none. */
enum peer_lockout_heals view_lockout_named(const char *name);
/* False if there is none of this name. */
bool view_family_named(const char *name, enum peer_family *out_family);
const char *view_family(const struct manager_row *row);
/* False if there is none of this name. */
bool view_snapshots_named(const char *name, enum peer_snapshots *out_policy);
json_t *view_snapshot(const struct snapshot *snapshot);
json_t *view_hex(const uint8_t *bytes, size_t size);
