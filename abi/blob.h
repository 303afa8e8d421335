/*
 * Sealed state, format 0. It leaves the enclave only in this form.
 *
 * Format 0 is for one instance without a manager: its key comes from EGETKEY. No later format
 * reads it. Every blob has a key of its own, so no nonce can ever repeat; the whole header is
 * additional authenticated data.
 *
 *    0  u8[8]    magic "VTPMSEAL"
 *    8  u16      format = 0
 *   10  u16      kind: 1 permanent state of a TPM 2.0
 *   12  u32      size of the ciphertext
 *   16  u8[16]   instance id
 *   32  u64      version: 1 for the first state of the instance, then + 1
 *   40  u64      highest host time the enclave has seen, ns
 *   48  u8[32]   MRENCLAVE of the enclave that sealed it
 *   80  u8[16]   device tag: equal on equal devices for one MRENCLAVE, says nothing else
 *   96  u8[32]   fresh random bytes
 *  128  u8[512]  KEYREQUEST of the root key
 *  640           ciphertext, AES-256-GCM
 *  640 + n       u8[16] tag
 *
 *   key[32] || iv[12] = HKDF-SHA-256(EGETKEY(KEYREQUEST), salt = the random bytes, info = "vtpm blob" || bytes 8 to 11)
 */
#pragma once

#include <stdint.h>

#define BLOB_MAGIC             "VTPMSEAL"
#define BLOB_MAGIC_SIZE        8u
#define BLOB_FORMAT            0u
#define BLOB_KIND_PERMANENT    1u
#define BLOB_HEADER_SIZE       640u
#define BLOB_TAG_SIZE          16u

#define BLOB_OFFSET_FORMAT     8u
#define BLOB_OFFSET_KIND       10u
#define BLOB_OFFSET_SIZE       12u
#define BLOB_OFFSET_INSTANCE   16u
#define BLOB_OFFSET_VERSION    32u
#define BLOB_OFFSET_TIME       40u
#define BLOB_OFFSET_MRENCLAVE  48u
#define BLOB_OFFSET_DEVICE_TAG 80u
#define BLOB_OFFSET_RANDOM     96u
#define BLOB_OFFSET_KEYREQUEST 128u

#define BLOB_RANDOM_SIZE       32u
#define BLOB_DEVICE_TAG_SIZE   16u
