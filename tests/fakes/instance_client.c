#include "tests/fakes/instance_client.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

static void must(struct err err)
{
    if (err.code) abort();
}

static void start(const struct enclave_process *enclave, uint64_t host_time, enum start_mode mode,
                  const uint8_t instance[INSTANCE_ID_SIZE], struct span blob, struct enclave_result *out)
{
    static const uint8_t hints[16] = {1}, entropy[HOST_ENTROPY_SIZE] = {2};
    static uint8_t body[CALL_START_MAX];
    struct writer w = writer_of(body, sizeof body);
    must(write_u32(&w, mode));
    must(write_bytes(&w, instance, INSTANCE_ID_SIZE));
    must(write_bytes(&w, hints, sizeof hints));
    must(write_bytes(&w, entropy, sizeof entropy));
    must(write_u32(&w, (uint32_t)blob.size));
    must(write_span(&w, blob));
    enclave_process_call(enclave, CALL_START, host_time, writer_span(&w), out);
}

void client_create(const struct enclave_process *enclave, uint64_t host_time, struct stored_state *out)
{
    static const uint8_t no_instance[INSTANCE_ID_SIZE];
    static struct enclave_result result;
    start(enclave, host_time, START_CREATE, no_instance, span_empty(), &result);
    if (result.code || result.instance.size != INSTANCE_ID_SIZE + 8) abort();
    memcpy(out->instance, result.instance.data, INSTANCE_ID_SIZE);
    if (!client_keep(&result, out)) abort();
    client_stored(enclave, out->number, &result);
    if (result.code) abort();
}

void client_open(const struct enclave_process *enclave, uint64_t host_time, const struct stored_state *state,
                 struct enclave_result *out)
{
    start(enclave, host_time, START_OPEN, state->instance, span_of(state->blob, state->size), out);
}

void client_command(const struct enclave_process *enclave, uint64_t host_time, const struct tpm_message *command,
                    struct enclave_result *out)
{
    uint8_t body[CALL_TPM_COMMAND_MAX];
    struct writer w = writer_of(body, sizeof body);
    must(write_u8(&w, 0));
    must(write_span(&w, tpm_message_span(command)));
    enclave_process_call(enclave, CALL_TPM_COMMAND, host_time, writer_span(&w), out);
}

void client_stored(const struct enclave_process *enclave, uint64_t number, struct enclave_result *out)
{
    uint8_t body[8];
    struct writer w = writer_of(body, sizeof body);
    must(write_u64(&w, number));
    enclave_process_call(enclave, CALL_STORED, 0, writer_span(&w), out);
}

bool client_keep(const struct enclave_result *result, struct stored_state *state)
{
    if (!result->store.data) return false;
    struct reader r = reader_of(result->store);
    must(read_u64(&r, &state->number));
    state->size = r.left;
    must(read_bytes(&r, state->blob, r.left));
    return true;
}

void client_command_stored(const struct enclave_process *enclave, const struct tpm_message *command,
                           struct stored_state *state, struct enclave_result *out)
{
    client_command(enclave, 0, command, out);
    if (client_keep(out, state)) client_stored(enclave, state->number, out);
}

uint64_t client_version(const struct enclave_result *result)
{
    struct reader r = reader_of(result->instance);
    struct span id;
    uint64_t version = 0;
    must(read_span(&r, INSTANCE_ID_SIZE, &id));
    must(read_u64(&r, &version));
    return version;
}
