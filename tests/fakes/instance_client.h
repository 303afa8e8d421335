/* What a host says to the instance program, for tests: the bodies of its calls. */
#pragma once

#include <stdbool.h>

#include "tests/fakes/program.h"
#include "tests/fakes/tpm_commands.h"

/* A sealed state as the host keeps it. */
struct stored_state {
    uint8_t instance[INSTANCE_ID_SIZE];
    uint64_t number;
    size_t size;
    uint8_t blob[STATE_MAX];
};

/* START_CREATE, and CALL_STORED for the store that it asks for; out is what was stored. */
void client_create(const struct enclave_process *enclave, uint64_t host_time, struct stored_state *out);

/* START_OPEN. */
void client_open(const struct enclave_process *enclave, uint64_t host_time, const struct stored_state *state,
                 struct enclave_result *out);

/* One TPM command at locality 0, without telling that anything was stored. */
void client_command(const struct enclave_process *enclave, uint64_t host_time, const struct tpm_message *command,
                    struct enclave_result *out);

void client_stored(const struct enclave_process *enclave, uint64_t number, struct enclave_result *out);

/* Keeps the store of a result, if there is one; true if there was. */
bool client_keep(const struct enclave_result *result, struct stored_state *state);

/* A TPM command whose commit, if it makes one, is kept in state and confirmed. The reply is in out. */
void client_command_stored(const struct enclave_process *enclave, const struct tpm_message *command,
                           struct stored_state *state, struct enclave_result *out);

/* The version that an instance effect names. */
uint64_t client_version(const struct enclave_result *result);
