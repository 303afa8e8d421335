/*
 * vtpmctl selftest: a whole host in a directory of its own, from a new trust domain to a TPM that has what it had before
 * its enclave was made anew; then all of it is deleted.
 *
 * Guarantees: nothing outside that directory is written; whatever step fails, every process that was started is ended
 * and the directory is removed. Not guaranteed: anything about the vtpmd that runs on this machine as a service, which is
 * not asked.
 */
#pragma once

#include "untrusted/cli/ctl_request.h"

struct err ctl_selftest_run(struct ctl_request *request, struct explanation *why);
