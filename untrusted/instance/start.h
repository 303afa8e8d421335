/*
 * From a loaded enclave to a TPM that can serve: the state goes in, or the first one comes out, and it is durable
 * before anything else happens.
 */
#pragma once

#include "base/err.h"
#include "untrusted/instance/machine.h"
#include "untrusted/instance/store.h"

/* A new TPM. The store is the caller's. The errors of machine_create, store_create, machine_stored. */
struct err start_create(struct machine *machine, int directory_fd, struct instance_id *out_id,
                        struct store **out_store);

/* The TPM of id. ERR_STATE_OTHER_INSTANCE; the errors of store_open, machine_open, store_commit, machine_stored. */
struct err start_open(struct machine *machine, int directory_fd, const struct instance_id *id,
                      struct store **out_store);
