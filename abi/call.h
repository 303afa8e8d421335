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
 * one effect of a call is a store. The calls of the two programs are in abi/instance.h and
 * abi/manager.h.
 */
#pragma once

#include "base/id.h"

#define CALL_RECORD_HEADER_SIZE 16u
#define CALL_RESULT_HEADER_SIZE 8u
#define CALL_EFFECT_HEADER_SIZE 8u
#define CALL_ALIGNMENT          8u

#define HOST_ENTROPY_SIZE       32u /* host bytes mixed into an enclave's randomness; they can only add */
#define CAPABILITY_HINTS_SIZE   16u /* u32[4], layout of OPENSSL_ia32cap; a false hint can only kill the enclave */
#define STATE_MAX               (256u * 1024u) /* bytes of a sealed state, header included */

/* Of both programs, so that there is one door. */
#define CALL_BODY_MAX           (STATE_MAX + 4096u)
#define CALL_INPUT_MAX          (CALL_RECORD_HEADER_SIZE + CALL_BODY_MAX)
/* Capacity that the output buffer must have for any call. */
#define CALL_OUTPUT_MAX         (CALL_RESULT_HEADER_SIZE + STATE_MAX + 64u * 1024u)

/* SGX product identifiers of our images; the processor keeps apart what they derive. */
#define PRODID_MANAGER          1u
#define PRODID_INSTANCE         2u
