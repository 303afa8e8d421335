/*
 * Sealed blobs, format 1. State leaves an enclave only in this form. (Format 0, of the release without a manager, is
 * read by no later one.)
 *
 * Every blob has a key of its own, so no nonce can ever repeat; the whole header is additional authenticated data.
 *
 *    0  u8[8]    magic "VTPMSEAL"
 *    8  u16      format = 1
 *   10  u16      kind (enum blob_kind)
 *   12  u32      size of the ciphertext
 *   16  u8[16]   id: of the instance; of the trust domain for LEDGER_HEAD and MASTER
 *   32  u64      epoch of the instance; 0 for LEDGER_HEAD and MASTER
 *   40  u64      version: of the instance's state, from 1; of the row; of the ledger
 *   48  u64      STATE, EXPORT: highest host time the enclave has seen, ns; LEDGER_ROW: its slot; VOLATILE,
 *                EXPORT_VOLATILE: the start that made it; else 0
 *   56  u64      era of the instance: how many of its epochs no death began (STATE, VOLATILE, EXPORT, EXPORT_VOLATILE; else
 *                0)
 *   64  u8[32]   MRENCLAVE of the manager under which it was sealed
 *   96  u8[32]   fresh random bytes
 *  128  u8[512]  MASTER only: KEYREQUEST of the root
 *                ciphertext, AES-256-GCM
 *                u8[16] tag
 *
 *   key[32] || iv[12] = HKDF-SHA-256(root, salt = the random bytes, info = "vtpm blob" || bytes 8 to 11)
 *
 *   root of STATE, VOLATILE         HKDF-SHA-256(root key of the instance, salt = bytes 64 to 95, info = "vtpm state")
 *   root of EXPORT, EXPORT_VOLATILE HKDF-SHA-256(root key of the instance, salt = bytes 64 to 95, info = "vtpm export")
 *   root of LEDGER_ROW, LEDGER_HEAD HKDF-SHA-256(master secret, salt = bytes 64 to 95, info = "vtpm ledger")
 *   root of MASTER                  EGETKEY(KEYREQUEST), KEYNAME SEAL, KEYPOLICY MRENCLAVE
 */
#pragma once

#include <stdint.h>

enum blob_kind {
    BLOB_STATE = 1, /* permanent state of a TPM 2.0 */
    BLOB_LEDGER_ROW = 2,
    BLOB_LEDGER_HEAD = 3,
    BLOB_MASTER = 4,
    BLOB_VOLATILE = 5,        /* what a power-off would lose, of the STATE with its id, epoch and version */
    BLOB_EXPORT = 6,          /* for another enclave of the instance: the state that was committed with this version, */
    BLOB_EXPORT_VOLATILE = 7, /* and what a power-off would lose of it */
};

#define BLOB_MAGIC            "VTPMSEAL"
#define BLOB_MAGIC_SIZE       8u
#define BLOB_FORMAT           1u
#define BLOB_HEADER_SIZE      128u
#define BLOB_TAG_SIZE         16u
#define BLOB_RANDOM_SIZE      32u
#define BLOB_KEYREQUEST_SIZE  512u

#define BLOB_OFFSET_FORMAT    8u
#define BLOB_OFFSET_KIND      10u
#define BLOB_OFFSET_SIZE      12u
#define BLOB_OFFSET_ID        16u
#define BLOB_OFFSET_EPOCH     32u
#define BLOB_OFFSET_VERSION   40u
#define BLOB_OFFSET_NUMBER    48u
#define BLOB_OFFSET_MRENCLAVE 64u
#define BLOB_OFFSET_RANDOM    96u
