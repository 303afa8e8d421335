/*
 * What the data records of K2 carry: one request of the front-end, one response of the instance enclave, in turn.
 *
 *   request    u8 verb, u8 locality, u16 0, then the TPM command (COMMAND), or one part of a state (IMPORT)
 *   response   u16 err code, u16 0, then with code 0 the TPM's response (COMMAND), or u8 0 or 1 (ESTABLISHED)
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
};
#define K2_VERB_MAX K2_RESET_ESTABLISHED
