/*
 * The parent of the workers, in which no client's byte is ever parsed.
 *
 * Guarantees: there is one worker at a time, and none is made while the one before still exists; when a worker dies,
 * the next one answers TPM_RC_FAILURE until its client resets the TPM; a worker whose enclave is lost is replaced when
 * the client asks for a reset, and the connections go over. The keeper itself keeps no secret: it is what may still
 * load an enclave and connect to vtpmd, which a worker may not any more; while vtpmd is away it tries again and again.
 */
#pragma once

#include "untrusted/instance/worker.h"

/*
 * Runs workers until one ends as asked (SIGTERM, SIGINT, vtpmd's STOP, a client's shutdown) or there is no use in
 * another. Prints "ready", and tells the service manager. Both signals must be blocked. Returns the exit code.
 */
int keeper_run(struct worker_resources *resources);
