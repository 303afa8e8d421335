/*
 * The only code that touches host memory. Guarantees: both buffers of a call lie wholly outside the enclave, whatever
 * the host says; the input is copied once, and only the copy is parsed; nothing is written to the host unless the
 * whole output is; every copy inside the enclave is wiped before it returns to the host.
 */
#pragma once

#include "base/bytes.h"
#include "base/err.h"

/*
 * One row for each call that there is (abi/call.h). A number without a row is refused, and so is a row in a state that
 * it does not name: allowed_states has bit n for state n of the program.
 */
struct door_call {
    uint32_t number;
    uint32_t allowed_states;
    size_t body_min; /* bytes of body */
    size_t body_max;
    /* Parses body and writes effects to out. An err is the call's result and empties the output. */
    struct err (*handler)(void *ctx, struct span body, struct writer *out);
};

/* The program that an enclave image is linked with defines exactly one of these, door_program. */
struct door_program {
    const struct door_call *calls;
    size_t call_count;
    void *ctx;
    /* The current state of the program, 0 to 31. */
    uint32_t (*state)(const void *ctx);
    /* What is answered when the state does not allow the call. */
    struct err (*refusal)(const void *ctx, uint32_t number);
};
extern const struct door_program door_program;
