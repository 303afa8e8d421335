/*
 * The contract between an enclave and its host: one call, bytes in, bytes out, no call back.
 *
 * Registers at EENTER, which are the ones that __vdso_sgx_enter_enclave passes through:
 *
 *   RDI  address of the input record      RSI  its size in bytes
 *   RDX  address of the output buffer     R8   its capacity in bytes
 *   R9   0
 *
 * and at EEXIT: RDI an err code (below), RSI the bytes written to the output buffer, all other
 * registers zero. Both buffers are aligned to 8 bytes and lie wholly outside the enclave; a
 * capacity is a multiple of 8. When RDI is not 0, nothing was written.
 *
 *   input record                              output record
 *    0  u32  number of the call                0  u32  err code of the call's handler
 *    4  u32  size of the body                  4  u32  size of the body
 *    8  u64  host time, ns since the epoch     8  the effects, one after the other; none if code != 0
 *   16  the body
 *
 *   effect:  u32 kind, u32 size, size bytes, zeros up to a multiple of 8
 *
 * What the enclave wants done it returns as effects; how it ended comes in a later call. At most
 * one effect of a call is EFFECT_STORE. While a store is under way every call but CALL_STORED is
 * answered ERR_CALL_BUSY, and the reply that waits for it stays inside the enclave.
 */
#pragma once

#include <stdint.h>

#define CALL_RECORD_HEADER_SIZE 16u
#define CALL_RESULT_HEADER_SIZE 8u
#define CALL_EFFECT_HEADER_SIZE 8u
#define CALL_ALIGNMENT          8u

#define INSTANCE_ID_SIZE        16u            /* a UUID, drawn inside the enclave */
#define HOST_ENTROPY_SIZE       32u            /* host bytes mixed into the enclave's randomness; they can only add */
#define TPM_BUFFER_MAX          4096u          /* bytes of a TPM command or response (libtpms' TPM_BUFFER_MAX) */
#define STATE_MAX               (256u * 1024u) /* bytes of a sealed state, header included */

/* Calls of the instance enclave */
enum call_number {
    /*
     * First call, once. Powers the TPM on.
     *   u32 mode (enum start_mode), u8[16] instance id (zeros with START_CREATE),
     *   u32[4] capability hints (layout of OPENSSL_ia32cap; a false hint can only kill the enclave),
     *   u8[32] host entropy, u32 size, the sealed state (none with START_CREATE)
     * Effects: EFFECT_INSTANCE; EFFECT_STORE if there is a state to be made durable first.
     */
    CALL_START = 1,
    /* u8 locality, the TPM command. Effects: EFFECT_REPLY, or EFFECT_STORE and the reply waits. */
    CALL_TPM_COMMAND = 2,
    /* u64 number of the store that is durable now. Effects: the EFFECT_REPLY that waited, if one did. */
    CALL_STORED = 3,
    /* Reset of the machine: _TPM_Init over the newest state. No body. Effects: perhaps EFFECT_STORE. */
    CALL_TPM_RESET = 4,
    /*
     * Orderly end: TPM2_Shutdown, unless the client has done it, then the TPM is off; CALL_TPM_RESET
     * powers it on again. No body. Effects: perhaps EFFECT_STORE.
     */
    CALL_TPM_OFF = 5,
};

enum start_mode {
    START_CREATE = 1, /* a new TPM under a new id; the host has said that there is none */
    START_OPEN = 2,   /* the TPM of the given state, whose id must be the given one */
};

enum effect_kind {
    EFFECT_INSTANCE = 1, /* u8[16] id of the instance, u64 version of its state */
    EFFECT_REPLY = 2,    /* the TPM's response */
    EFFECT_STORE = 3,    /* u64 number, then the sealed state that is to be made durable */
};

/* Body sizes, for both sides' buffers and for the table of calls */
#define CALL_START_FIXED_SIZE   (4u + INSTANCE_ID_SIZE + 16u + HOST_ENTROPY_SIZE + 4u)
#define CALL_START_MAX          (CALL_START_FIXED_SIZE + STATE_MAX)
#define CALL_TPM_COMMAND_MAX    (1u + TPM_BUFFER_MAX)
#define CALL_INPUT_MAX          (CALL_RECORD_HEADER_SIZE + CALL_START_MAX)
#define EFFECT_STORE_FIXED_SIZE 8u
/* Capacity that the output buffer must have for any call: a store, the instance effect and a reply */
#define CALL_OUTPUT_MAX                                                                                                \
    (CALL_RESULT_HEADER_SIZE + 3u * CALL_EFFECT_HEADER_SIZE + EFFECT_STORE_FIXED_SIZE + STATE_MAX + INSTANCE_ID_SIZE + \
     8u + TPM_BUFFER_MAX + 8u)
