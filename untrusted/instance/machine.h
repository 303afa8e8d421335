/*
 * The instance enclave in the words of abi/call.h: typed arguments into call records, output records into typed
 * effects.
 *
 * Guarantees: an output record is parsed strictly (known kinds, exact sizes, zero padding, each effect once, at most
 * one of them a store), and one that is not as the contract says is an error, never half an effect; both records lie in
 * the memory the caller gave, and what was used of them is wiped. It does not guarantee anything of what the enclave
 * says: whoever talks to a fake gets a fake's effects.
 */
#pragma once

#include <stdbool.h>

#include "abi/call.h"
#include "base/err.h"
#include "base/span.h"
#include "untrusted/instance/id.h"

/* One call into an enclave: enclave_call() of untrusted/sgx/enclave.h, or a fake. */
struct machine_door {
    void *ctx;
    struct err (*call)(void *ctx, struct span input, uint8_t *output, size_t capacity, size_t *out_size);
};

#define MACHINE_INPUT_SIZE  ((CALL_INPUT_MAX + CALL_ALIGNMENT - 1) / CALL_ALIGNMENT * CALL_ALIGNMENT)
#define MACHINE_OUTPUT_SIZE ((CALL_OUTPUT_MAX + CALL_ALIGNMENT - 1) / CALL_ALIGNMENT * CALL_ALIGNMENT)
#define MACHINE_MEMORY_SIZE (MACHINE_INPUT_SIZE + MACHINE_OUTPUT_SIZE)

struct machine {
    struct machine_door door;
    uint8_t *input;
    uint8_t *output;
    size_t output_used; /* bytes, not wiped yet */
};

/* What an enclave wants done. Spans are valid until the next call or machine_wipe. */
struct effects {
    bool has_instance;
    struct instance_id instance;
    uint64_t version; /* of the instance's state */
    bool has_store;
    uint64_t store_number;
    struct span store;
    struct span reply; /* size 0: none */
};

/* memory: MACHINE_MEMORY_SIZE bytes aligned to 8, which stay the caller's. */
void machine_init(struct machine *machine, const struct machine_door *door, void *memory);

/*
 * The calls. All return the door's error (ERR_SGX_FAULT, ERR_ENCLAVE_DEAD, ...), the handler's, or the parser's:
 * ERR_TRUNCATED, ERR_TRAILING, ERR_BAD_VALUE, ERR_TOO_LARGE.
 */
struct err machine_create(struct machine *machine, struct effects *out_effects);
struct err machine_open(struct machine *machine, const struct instance_id *id, struct span state,
                        struct effects *out_effects);
/* command: at most TPM_BUFFER_MAX bytes */
struct err machine_command(struct machine *machine, uint8_t locality, struct span command, struct effects *out_effects);
struct err machine_stored(struct machine *machine, uint64_t number, struct effects *out_effects);
struct err machine_reset(struct machine *machine, struct effects *out_effects);
struct err machine_off(struct machine *machine, struct effects *out_effects);

/* Wipes the effects of the last call. */
void machine_wipe(struct machine *machine);
