/*
 * What the data records of K2 carry: one request of the front-end, one response of the instance enclave, in turn.
 *
 *   request    u8 verb, u8 locality, u16 0, then the TPM command (COMMAND), one part of a state (IMPORT, BUNDLE), or what
 *              the verb says
 *   response   u16 err code, u16 0, then with code 0 the TPM's response (COMMAND), u8 0 or 1 (ESTABLISHED), or what the verb
 *              says
 *
 * At most one request is under way. A code other than 0 means that the TPM did not run the request; a front-end answers
 * its client TPM_RC_FAILURE then; after ERR_LEASE, which passes, TPM_RC_RETRY.
 *
 * A part of a state is u32 size of the whole, u32 offset, bytes. The parts come in order, from offset 0 on, which begins
 * anew. The response to the last one says that the state is the instance's from now on, durable and recorded; a code
 * other than 0 says that it is not, and the enclave goes on waiting for one.
 */
#pragma once

#define K2_HEADER_SIZE 4u
#define K2_MESSAGE_MAX (K2_HEADER_SIZE + 4096u) /* libtpms' TPM_BUFFER_MAX */
#define K2_PART_HEADER 8u
#define K2_PART_MAX    (K2_MESSAGE_MAX - K2_HEADER_SIZE - K2_PART_HEADER) /* bytes of a state in one request */

enum k2_verb {
    K2_COMMAND = 1,
    K2_RESET = 2,     /* _TPM_Init over the newest state, as a reset of the machine does */
    K2_POWER_OFF = 3, /* TPM2_Shutdown unless the client did it, then off; K2_RESET powers it on again */
    K2_IMPORT = 4,    /* a part of the permanent state of a TPM of libtpms', for an instance that waits for one */
    /* What a machine's chipset asks (PC Client Platform TPM Profile, tpmEstablishment): was there a dynamic launch? */
    K2_ESTABLISHED = 5,
    K2_RESET_ESTABLISHED = 6, /* at locality 3 or 4, else ERR_BAD_VALUE */
    /* A measurement by the chipset: of the H-CRTM before TPM2_Startup, else of a dynamic launch. DATA: the bytes. */
    K2_HASH_START = 7,
    K2_HASH_DATA = 8,
    K2_HASH_END = 9,
    /* u32 wanted, 0: only asks; else the TPM is off. Response: u32 size, u32 smallest, u32 largest. */
    K2_BUFFER_SIZE = 10,
    K2_INFO = 11, /* u32 flags of TPMLIB_GetInfo. Response: text and a NUL. */
    /* The orderly end that follows is to keep what a power-off loses, unless a command comes between. */
    K2_STORE_VOLATILE = 12,
    /*
     * The TPM as it is now, for another enclave of this instance: sealed, and of use only as long as nothing was committed
     * since, which the next request that may change the TPM does. Response: u32 size of the permanent part, u32 size of the
     * volatile part.
     */
    K2_EXPORT = 13,
    K2_EXPORT_READ = 14, /* u32 offset. Response: bytes of both parts, K2_EXPORT_READ_MAX at most. */
    /* A part of both parts of an export, as of a state; u32 0, u32 0 alone: forget it. K2_RESET then goes on from it: the
     * response says whether it can. */
    K2_BUNDLE = 15,
    K2_LOCK = 16, /* this enclave goes on, and the other one does not: what was exported is taken back */
};
#define K2_VERB_MAX        K2_LOCK
#define K2_EXPORT_READ_MAX (K2_MESSAGE_MAX - K2_HEADER_SIZE)
