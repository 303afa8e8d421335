/*
 * The anchor: one 32-byte value A outside the store, which says what the newest record of the ledger is.
 *
 *   A' = SHA-256(A || SHA-256(r))        r: a head of the ledger as it was before sealing, which has A as its base
 *
 * That is TPM2_NV_Extend of SHA-256(r) on an index of type TPM_NT_EXTEND with the name algorithm SHA-256 (TPM 2.0
 * Library, Part 3, 31.9), and a compare-and-set of 32 bytes elsewhere. It is a chain and not a counter: two managers
 * that run on copies of one store cannot both move it on, nor can one's record be taken for the other's.
 *
 * The enclave asks in exchanges (MANAGER_EFFECT_ANCHOR), and the host carries each and brings back what was answered
 * (MANAGER_ANCHORED). What an exchange is, depends on the kind:
 *
 *   file   request  u8 verb (enum anchor_file_verb), u8[7] 0, u8[32] from, u8[32] to; for READ both are zeros
 *          answer   u8[32] the value as it is durable now. MOVE: if it was from, it is to; else it stays as it was.
 *          The value is 32 zeros until the first MOVE. Whoever can write the file can say anything.
 *
 *   tpm    one TPM command, and one TPM response, as they are. The enclave checks the response's HMAC.
 */
#pragma once

enum anchor_kind {
    ANCHOR_FILE = 1,
    ANCHOR_TPM = 2,
};

enum anchor_file_verb {
    ANCHOR_FILE_READ = 1,
    ANCHOR_FILE_MOVE = 2,
};

#define ANCHOR_VALUE_SIZE        32u
#define ANCHOR_FILE_REQUEST_SIZE (8u + 2u * ANCHOR_VALUE_SIZE)
#define ANCHOR_EXCHANGE_MAX      1024u /* bytes of any request or answer */

/*
 * Which anchor a new trust domain gets (in MANAGER_START with START_NEW): u32 kind, u32 NV index (tpm; else 0), u32
 * size and the authValue of the owner hierarchy, to define the index with (tpm; at most 64 bytes).
 */
#define ANCHOR_OWNER_AUTH_MAX    64u
