/*
 * The instance enclave in the words of abi/instance.h: arguments into call records, output records into typed effects.
 *
 * Guarantees: an output record is parsed strictly (known kinds, exact sizes, zero padding, each effect at most as often
 * as the contract says), and one that is not as the contract says is an error, never half an effect. All that crosses
 * is sealed or a record of a session: nothing in these buffers is a secret. It does not guarantee anything of what the
 * enclave says: whoever talks to a fake gets a fake's effects.
 */
#pragma once

#include <stdbool.h>

#include "abi/instance.h"
#include "base/err.h"
#include "base/span.h"

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
};

#define EFFECT_PEERS_MAX 3u

/* What an enclave wants done. Spans are valid until the next call; size 0: none. */
struct effects {
    size_t peer_count;
    struct span peers[EFFECT_PEERS_MAX];
    struct span record;
    uint64_t version;  /* of store */
    struct span store; /* sealed state and, of one that was suspended, volatile state: at most STATE_MAX together */
    struct span receipt;
    enum instance_health health; /* 0: as it was */
};

/* memory: MACHINE_MEMORY_SIZE bytes aligned to 8, which stay the caller's. */
void machine_init(struct machine *machine, const struct machine_door *door, void *memory);

/*
 * The calls. All return the door's error (ERR_SGX_FAULT, ERR_ENCLAVE_DEAD, ...), the handler's, or the parser's:
 * ERR_TRUNCATED, ERR_TRAILING, ERR_BAD_VALUE, ERR_TOO_LARGE.
 */
struct err machine_start(struct machine *machine, const struct instance_id *id);
struct err machine_peer(struct machine *machine, struct span message, struct effects *out_effects);
struct err machine_load(struct machine *machine, struct span state, struct effects *out_effects);
struct err machine_record(struct machine *machine, struct span record, struct effects *out_effects);
/* An error for INSTANCE_STOP_SUSPEND that is not the door's: the enclave goes on as if it had not been asked. */
struct err machine_stop(struct machine *machine, enum instance_stop mode, struct effects *out_effects);
struct err machine_resume(struct machine *machine, struct effects *out_effects);
