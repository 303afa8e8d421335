/*
 * What vtpmd asks for over K1 (abi/manager.h).
 *
 * Guarantees: each request is answered once, and the answer leaves behind the store that it depends on; what a verb
 * refuses has changed nothing.
 */
#pragma once

#include "base/bytes.h"

struct manager;

/* One request as it came out of its record. ERR_BAD_VALUE if it cannot even be answered. */
struct err verbs_request(struct manager *manager, struct span request, struct writer *out);
