/*
 * The parent of the workers, in which no client's byte is ever parsed.
 *
 * Guarantees: there is one worker at a time, and none is made while the one before still exists, so that no two
 * processes ever write one state; when a worker dies, the next one answers TPM_RC_FAILURE until its client resets the
 * TPM; a worker whose enclave is lost is replaced when the client asks for a reset, and the connections go over. The
 * keeper itself keeps no secret: it is what may still load an enclave, which a worker may not any more.
 */
#pragma once

#include "untrusted/instance/worker.h"

/*
 * Runs workers until one ends as asked (SIGTERM, SIGINT, a client's shutdown). Prints "instance UUID" for a new TPM and
 * "ready", and tells the service manager. Both signals must be blocked. Returns the exit code.
 */
int keeper_run(const struct worker_resources *resources);
