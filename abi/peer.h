/*
 * The peer session between the manager enclave and an instance enclave. docs/protocol.md, "Peer sessions".
 *
 * All instance enclaves have one MRENCLAVE: a REPORT proves which code it is, never which instance. So each REPORT is
 * over the whole exchange:
 *
 *   REPORTDATA = SHA-512("vtpm peer v1" || u8 role || share of the manager || share of the instance
 *                        || nonce of the manager || nonce of the instance || u8[16] instance id || u64 start number
 *                        || u8[32] holder key || u8[32] ledger base)
 *
 *   manager                                                        instance
 *   CHALLENGE  TARGETINFO, nonce, share, id, start, base  ───►
 *                                                         ◄───     PROOF  nonce, share, holder key,
 *                                                                         REPORT for the manager
 *   the start is recorded and durable
 *   ADMIT      REPORT for the instance                    ───►
 *   record     PROVISION                                  ───►
 *                                                         ◄───     record  READY
 *
 * The keys of the records, of which the manager is the host's end ("host to enclave") and the instance the enclave's:
 *
 *   h = SHA-256("vtpm peer v1" || REPORTDATA of role 1 || REPORTDATA of role 2)
 *   for each direction: key || IV = HKDF-SHA-256(X25519, salt = h, info = "vtpm peer v1 " || direction)
 *
 * A session that was cut is resumed by those who know the resumption key of this start, and X25519 anew, without the
 * processor. The manager derives that key; a holder that was fenced has the one of another start:
 *
 *   HKDF-SHA-256(master secret, salt = id, info = "vtpm resumption" || u64 epoch || u64 start || holder key)
 *
 *                                                         ◄───     RESUME  id, start, nonce, share
 *   ACCEPT     nonce, share, MAC of role 1                ───►
 *                                                         ◄───     CONFIRM  MAC of role 2, then what was under way
 *
 *   t   = SHA-256("vtpm resume v1" || id || u64 epoch || u64 start || holder key
 *                 || share of the manager || share of the instance || nonce of the manager || nonce of the instance)
 *   prk = HKDF-SHA-256(resumption key || X25519, salt = t, info = "vtpm resume v1")
 *   MAC = HMAC-SHA-256(prk, "vtpm resume v1" || u8 role || t)
 *   for each direction: key || IV = HKDF-SHA-256(prk, salt = t, info = "vtpm resume v1 " || direction)
 *
 * All integers are little-endian. A handshake message is u8 kind, u8[3] 0, then the fields; a message whose first byte
 * is a record type's of link/record.h is a record. Kinds and record types do not overlap.
 */
#pragma once

#include "abi/sgx.h"
#include "base/id.h"
#include "crypto/curve.h"

#define PEER_NONCE_SIZE 32u
#define PEER_BASE_SIZE  32u

enum peer_role { PEER_MANAGER = 1, PEER_INSTANCE = 2 };

enum peer_kind {
    PEER_CHALLENGE = 17,
    PEER_PROOF = 18,
    PEER_ADMIT = 19,
    PEER_RESUME = 20,
    PEER_ACCEPT = 21,
    PEER_CONFIRM = 22,
};

#define PEER_MESSAGE_MAX 1024u /* bytes of any message, records included */

/* What the records carry: u8 kind, u8[7] 0, then */
enum peer_word {
    /*
     * manager: u8[16] id, u64 epoch, u64 start, u8 mode (enum peer_mode), u8 link kind (link/link.h), u8 what heals
     * lockout (enum peer_lockout_heals), u8 family (enum peer_family), u8 snapshots (enum peer_snapshots), u8[3] 0,
     * u8[32] root key, u8[32] resumption key, u8[32] MRENCLAVE of the manager under which the state to be opened was
     * sealed, u64 version, u8[32] SHA-256 of the sealed state, u8[32] SHA-256 of the sealed volatile state (RESUME; else
     * zeros), u8[PEER_FLOORS_SIZE] floors (REVERTED; else zeros), u8[32] share of the front-end, u8[32] enrolled front-end
     * key or zeros, u64 era (abi/blob.h)
     */
    PEER_PROVISION = 1,
    /* instance: u8[32] share of the instance for K2. The TPM is on, or (IMPORT, INCOMING) its state may come. */
    PEER_READY = 2,
    /* instance: u64 version, u8[32] SHA-256 of the sealed state, u8[32] SHA-256 of the sealed volatile state that the
     * next start resumes from (zeros: none), u8[PEER_FLOORS_SIZE] floors of this state, which the manager keeps and does
     * not read. May be said again, with the same words. */
    PEER_COMMIT = 3,
    /* manager: u64 version, u8[32] SHA-256: durable, and recorded. */
    PEER_ANCHORED = 4,
    /* instance: u64 number, drawn anew each time. */
    PEER_ASK_LEASE = 5,
    /* manager: the same number: you are still the recorded holder. */
    PEER_LEASE = 6,
    /* instance (INCOMING): u64 epoch, u64 start, u64 version of the export that it has. It is the holder from now on, if
     * that is still the newest state, and that start the newest one. */
    PEER_REDEEM = 7,
    /* manager: u8[32] root key, u8[32] resumption key: recorded, and the one that exported is fenced. */
    PEER_REDEEMED = 8,
    /* instance: as COMMIT, of a TPM that was put back to a snapshot of its machine which it had left. The row allows it, and
     * counts it. */
    PEER_LOADED = 9,
};

enum peer_mode {
    PEER_MODE_NEW = 1,    /* no state was ever acknowledged: make a TPM */
    PEER_MODE_OPEN = 2,   /* the state of this version and digest, or none */
    PEER_MODE_IMPORT = 3, /* no state was ever acknowledged: take one over K2 (K2_IMPORT), and never make a TPM */
    /* The state of this digest, which may be older than this version: it is raised to the floors, and is sealed anew
     * before anything is answered. */
    PEER_MODE_REVERTED = 4,
    PEER_MODE_RESUME = 5, /* as OPEN, and the volatile state with it: this start is the only one that may */
    /* What another enclave of this instance exports comes over K2. It is no holder, and has no key of any state, until it is
     * REDEEMED. In PROVISION: root key is the root of exports; no resumption key, MRENCLAVE, version nor digest. */
    PEER_MODE_INCOMING = 6,
};

enum peer_family { PEER_FAMILY_20 = 0, PEER_FAMILY_12 = 1 }; /* of the TPM, for good */

enum peer_lockout_heals { PEER_LOCKOUT_TIME = 1, PEER_LOCKOUT_START_ONLY = 2, PEER_LOCKOUT_NEVER = 3 };

/* Of its machine, that were left since: whether the TPM may be put back into one. */
enum peer_snapshots { PEER_SNAPSHOTS_REFUSED = 0, PEER_SNAPSHOTS_ALLOWED = 1 };

#define PEER_FLOORS_SIZE         45u /* what may never go back (trusted/tpm/floors.h) */
#define PEER_PROVISION_SIZE      (16u + 8u + 8u + 8u + 3u * 32u + 8u + 2u * 32u + PEER_FLOORS_SIZE + 2u * 32u + 8u)
#define PEER_COMMIT_SIZE         (8u + 2u * 32u + PEER_FLOORS_SIZE)
#define PEER_REDEEM_SIZE         (3u * 8u)
#define PEER_REDEEMED_SIZE       (2u * 32u)

/*
 * The receipt that ends a start, signed with its holder key (Ed25519):
 *
 *   u8[16] "vtpm receipt v1\0", u8[16] id, u64 epoch, u64 start, u64 version, u8[32] SHA-256 of the sealed state,
 *   u8[64] signature over all before it
 */
#define PEER_RECEIPT_LABEL       "vtpm receipt v1"
#define PEER_RECEIPT_SIGNED_SIZE (16u + 16u + 8u + 8u + 8u + 32u)
#define PEER_RECEIPT_SIZE        (PEER_RECEIPT_SIGNED_SIZE + ED25519_SIGNATURE_SIZE)
