/* vtpmctl snapshot: copies of an instance's sealed states, taken, listed and deleted. */
#pragma once

#include "untrusted/cli/ctl_request.h"

struct err ctl_snapshot_run(struct ctl_request *request, struct explanation *why);

/* The snapshot of that name: a new reference. ERR_NO_SNAPSHOT. */
struct err ctl_snapshot_find(struct ctl_request *request, const char *name, json_t **out_snapshot,
                             struct explanation *why);
