/*
 * The calls of the manager enclave, what it wants done, and what crosses K1 (link/link.h), the link to vtpmd.
 *
 *   BLANK ──START(new)──────────────────────────────────────────────► ANCHORING ──ANCHORED...──► RUNNING
 *   BLANK ──START(open)──► LOADING ──ROWS...──► LOADING ──LOADED────► ANCHORING ──ANCHORED...──► RUNNING
 *   BLANK ──START(recover)──► RECOVERING ──SHARE...──► LOADING       (as with open; then the anchor is a new one)
 *   BLANK ──GREET──► SUCCESSOR ──TAKE──► LOADING                      (the new image of an upgrade)
 *   RUNNING ──GIVE──► HANDED_OVER                                     (the old one)
 *   anything ──► FAILED, for good
 *
 * ANCHORING sets a new anchor up, or reads the one there is and compares it with the newest head; then it makes a start
 * record, as every start does, and is over when that is stored and anchored; K1's requests are answered with CALL_BUSY
 * until then. At most one EFFECT_STORE is under way, with its exchanges with the anchor; what waits for the next one waits
 * inside. Nothing that depends on a store leaves before the anchor was seen to have moved to it.
 */
#pragma once

#include "abi/call.h"
#include "abi/peer.h"

enum manager_call {
    /*
     * First, once. u32 mode (enum manager_start_mode), u8[16] capability hints, u8[32] host entropy, u8[32] share of
     * vtpmd for K1; START_OPEN: u32 size and the blob of kind MASTER, u32 size and the blob of kind LEDGER_HEAD.
     * Effects: LINK, RECORD (FINISH of K1); when new ANCHOR.
     * START_NEW: which anchor (abi/anchor.h), u32 threshold, u32 count of recovery keys (0 and 0: none), the keys (X25519).
     * Effect, if there are any: MESSAGE, the recovery record (link/recovery.h).
     * START_RECOVER: which anchor, u32 size and the recovery record, u32 size and the blob of kind LEDGER_HEAD. Effects:
     * LINK, RECORD, MESSAGE, the request to the holders.
     */
    MANAGER_START = 1,
    /* u32 count, then for each u32 size and a blob of kind LEDGER_ROW; slots in order, all calls together all of them.
     */
    MANAGER_ROWS = 2,
    /* Every row was given: the root is compared. No body. Effect: ANCHOR. */
    MANAGER_LOADED = 3,
    /* One record of K1 from vtpmd, ANCHORING or RUNNING. Effects: RECORD and any others. */
    MANAGER_RECORD = 4,
    /* u64 channel, then one message of the instance enclave on it, as it came. Effects: SEND, STATE, STORE, RECORD. */
    MANAGER_PEER = 5,
    /*
     * u64 number of the EFFECT_ANCHOR, then the anchor's answer; if a STORE had that number, it is durable. Effects:
     * ANCHOR with the same number, for the next exchange; or all that waited for the store, and perhaps the next STORE
     * and ANCHOR.
     */
    MANAGER_ANCHORED = 6,
    /* Upgrade. The successor: u8[16] hints, u8[32] entropy, u8[32] share of vtpmd, TARGETINFO of the old manager (its
     * first 128 bytes; the rest is zero). Effects: LINK, MESSAGE (for GIVE). */
    MANAGER_GREET = 7,
    /* The old manager: the manifest (MANIFEST_SIZE), then the successor's message. Effects: MESSAGE (for TAKE). */
    MANAGER_GIVE = 8,
    /* The successor: the manifest, u32 size and the old manager's message, u32 size and the LEDGER_HEAD. Then ROWS.
     * The start record has MASTER and the first rows sealed anew; further STORE effects follow until all rows were
     * written, each after the one before is anchored. */
    MANAGER_TAKE = 9,
    /* Whoever asks may know who this is: u8[16] hints, u8[32] entropy unless it has started. Effect: MESSAGE with the
     * first 128 bytes of a TARGETINFO for this enclave. BLANK or RUNNING. */
    MANAGER_WHO = 10,
    /* RECOVERING: the answer of one holder. ERR_AUTHENTICATION and ERR_BAD_VALUE change nothing. With the last one that is
     * needed the manager is LOADING. */
    MANAGER_SHARE = 11,
};

enum manager_start_mode {
    MANAGER_START_NEW = 1, /* the operator said that there is no domain here yet */
    MANAGER_START_OPEN = 2,
    MANAGER_START_RECOVER = 3, /* the processor or the anchor is another one */
};

enum manager_effect {
    MANAGER_EFFECT_LINK = 1,   /* u8[32] share of the enclave for K1, u8[32] its MRENCLAVE */
    MANAGER_EFFECT_RECORD = 2, /* one record of K1 for vtpmd; several per call are allowed, in order */
    /* The second creation request: u8[16] id, u64 start number, u8[32] MRENCLAVE that will be admitted. */
    MANAGER_EFFECT_CREATE_ENCLAVE = 3,
    MANAGER_EFFECT_SEND = 4,  /* u64 channel, then one message for the instance enclave on it; several are allowed */
    MANAGER_EFFECT_STATE = 5, /* u64 channel, u8[16] id, u64 version: give the instance this state; version 0: none */
    /*
     * u64 number, u32 count of rows, u32 0, then the blobs, each u32 size and bytes: LEDGER_HEAD first, then MASTER
     * (size 0: unchanged), then for each row u32 slot, u8[16] id, u64 version of the instance's state (0: none),
     * u32 size and the blob of kind LEDGER_ROW. To be made durable in one transaction, together with the state blobs
     * that the instances sent with these versions; states with other versions and those of version 0 are removed.
     */
    MANAGER_EFFECT_STORE = 6,
    MANAGER_EFFECT_CLOSE = 7,   /* u64 channel, u16 err code, u8[6] 0: this instance is refused; several are allowed */
    MANAGER_EFFECT_MESSAGE = 8, /* of GREET, GIVE, WHO */
    /* u64 number, u8 kind (enum anchor_kind), u8[7] 0, then a request to carry to the anchor (abi/anchor.h); it comes
     * after the STORE of the same number in the same call, and is carried only when that is durable. */
    MANAGER_EFFECT_ANCHOR = 9,
};

#define MANAGER_ROWS_PER_STORE 64u
#define MANAGER_CHANNELS_MAX   608u
#define MANAGER_INSTANCES_MAX  16384u /* slots, tombstones included */
#define MANAGER_LABEL_SIZE     64u    /* bytes with the NUL */

/*
 * K1, each in one record. vtpmd asks:  u16 verb, u16 0, u32 0, u64 request number (not 0), arguments
 * and is answered once:                u16 verb, u16 err code, u32 0, u64 request number, results (none if code != 0)
 * The manager says on its own accord:  u16 event, u16 err code, u32 0, u64 0, fields
 */
#define MANAGER_K1_HEADER_SIZE 16u

enum manager_verb {
    /* u8[64] label, u8[32] owner's Ed25519 key or zeros, u8[32] enrolled front-end key (X25519) or zeros, u8 origin
     * (enum manager_origin), u8 what heals lockout (enum peer_lockout_heals), u8 family (enum peer_family), u8 snapshots
     * (enum peer_snapshots), u8[4] 0. A TPM 1.2 is made here, its lockout heals with time, and it refuses snapshots:
     * else ERR_TPM_FAMILY. Result: row. */
    MANAGER_CREATE = 1,
    /* u8[16] id. Allows one start and asks for the enclave (CREATE_ENCLAVE). Result: row. */
    MANAGER_START_INSTANCE = 2,
    /* u8[16] id, u64 channel (never used before in this life), u8[32] share of the front-end. The host has an enclave
     * that says it is this instance's, on this channel. Effects: SEND (CHALLENGE). No result. */
    MANAGER_ATTACH = 3,
    /* u64 channel, u8[16] id. An instance that served already is back on this channel. Its RESUME follows. No result.
     */
    MANAGER_REATTACH = 4,
    /* u64 channel: the connection is gone. No result. */
    MANAGER_DETACH = 5,
    /* PEER_RECEIPT_SIZE bytes: ends the recorded start. Result: row. */
    MANAGER_STOPPED = 6,
    /* u8[16] id. The operator says that the holder is dead: epoch + 1, no holder. Result: row. */
    MANAGER_DECLARE_DEAD = 7,
    /* u8[16] id. Result: u8[32] nonce, for one act on this instance. */
    MANAGER_CHALLENGE = 8,
    /* u8[16] id, u8[64] owner's signature over OWNER_ACT or zeros where there is no owner. Result: row. */
    MANAGER_DELETE = 9,
    /* u8[16] id. Result: row. */
    MANAGER_SHOW = 10,
    /* u32 first slot, u32 0. Result: u32 count, u32 next slot (0: that was all), rows. Tombstones too. */
    MANAGER_LIST = 11,
    /* Result: struct of MANAGER_STATUS_SIZE, see below. */
    MANAGER_STATUS = 12,
    /*
     * u8[16] id, u8[64] owner's signature or zeros, then the arguments that it is over: u64 version, u8[32] SHA-256 of a
     * sealed state of this instance, u8[32] MRENCLAVE of the manager under which that was sealed. Not while it is allowed
     * or held. That state becomes the newest, with this version, which has to be the recorded one + 1; epoch + 1; the
     * next start raises it to what may not go back, and what was suspended is gone. The STORE has the version: the host
     * adds the state itself. ERR_STATE_MISSING if there never was a state, ERR_TPM_FAMILY of a TPM 1.2. Result: row.
     */
    MANAGER_REVERT = 13,
    /* u8[16] id, u8[64] signature of the owner so far or zeros, then u8[32] new owner's Ed25519 key or zeros (the
     * operator). Not while it is allowed or held. Epoch + 1. Result: row. */
    MANAGER_SET_OWNER = 14,
    /* u8[16] id of the source, u8[64] its owner's signature or zeros, then u8[64] label. A new instance, with keys and a
     * TPM of its own and nothing of what the source's TPM holds; owner, enrolled key and policy are the source's, and its
     * row names the source for good. Result: row of the new one. */
    MANAGER_CLONE = 15,
    /*
     * u8[16] id, u64 channel, u8[32] share of the front-end. As ATTACH, of an enclave beside the one that holds the instance,
     * or held it last: it may take over what that one exports. Held or stopped only. Nothing is recorded until it does.
     */
    MANAGER_ATTACH_INCOMING = 16,
    /*
     * Between the managers of a trust domain (see MEMBER_QUESTION_SIZE): u8 what (enum member_act), u8[7] 0, u8[16] id
     * (zeros: JOIN). MOVE: ERR_VERB_STATE unless the instance was looked at. CONFIRM: of an instance that came here.
     * Result: the question.
     */
    MANAGER_MEMBER_ASK = 17,
    /* A question of another manager. Result: the answer. */
    MANAGER_MEMBER_ANSWER = 18,
    /*
     * u8[16] id, then the answer to what was asked last about it. LOOK: nothing is recorded; an ATTACH_INCOMING of the
     * id is possible now. MOVE: the STORE has the version, and the host adds the state itself. Result: row; none of JOIN.
     */
    MANAGER_MEMBER_TAKE = 19,
};

enum manager_event {
    /* u8[16] id, u64 epoch, u64 start, u8 link kind, u8 1 if incoming (else 0), u8[6] 0, u8[32] share of the instance for
     * K2, u8[32] MRENCLAVE of the manager, u8[32] of the instance: the instance serves; tell its front-end. */
    MANAGER_STARTED = 101,
    /* u64 channel, u8[16] id: the session was resumed, and its holder is still the recorded one. */
    MANAGER_RESUMED = 102,
    /* u64 channel, u8[16] id; the err code says why an enclave was refused. */
    MANAGER_REFUSED = 103,
    /* No fields, once: the start record is anchored, vtpmd has finished K1, and requests are answered from now on. */
    MANAGER_READY = 104,
    /* u64 channel, u8[16] id: this one has taken over, and is the recorded holder. */
    MANAGER_REDEEMED = 105,
    /* u64 channel, u8[16] id: its TPM was put back to a snapshot of its machine which it had left. */
    MANAGER_SNAPSHOT_LOADED = 106,
    /* u64 channel, u8[16] id: this one is to take over from another manager's holder: MEMBER_ASK (MOVE), and carry it. */
    MANAGER_REDEEMING = 107,
};

enum manager_instance_state {
    MANAGER_PROVISIONED = 1, /* it has an id and keys, and was never started */
    MANAGER_STOPPED_STATE = 2,
    MANAGER_ALLOWED = 3, /* a start was asked for; no enclave has been admitted */
    MANAGER_HELD = 4,    /* an enclave was admitted and holds its state */
    MANAGER_DELETED = 5, /* a tombstone */
    MANAGER_MOVED = 6,   /* to another manager's ledger; a tombstone until it comes home from there */
};

/* Never changes. An imported instance has no state until one was imported, and no TPM is ever made for it. */
enum manager_origin {
    MANAGER_ORIGIN_HERE = 1,
    MANAGER_ORIGIN_IMPORTED = 2,
    MANAGER_ORIGIN_CLONE = 3,
};

/*
 * A row on K1, MANAGER_ROW_SIZE bytes: u32 slot, u8 state, u8 has owner, u8 has enrolled front-end key, u8 origin (enum
 * manager_origin), u8[16] id, u8[64] label, u64 epoch, u64 start, u64 version, u64 created (host's clock, ns), u64
 * deaths declared, u8[32] SHA-256 of the newest sealed state, u8[32] owner key, u8[32] enrolled front-end key, u8[32]
 * holder key (moved: u8[16] id of the member that has it now, zeros), u8[32] SHA-256 of the sealed volatile state that
 * the next start resumes from (zeros: none), u8[16] id of the source (a clone; else zeros), u8 what heals lockout, u8 1
 * if reverted and not started since (else 0), u8 family of the TPM (enum peer_family), u8 snapshots (enum
 * peer_snapshots), u32 how often one was loaded
 */
#define MANAGER_ROW_SIZE     (8u + 16u + 64u + 5u * 8u + 5u * 32u + 16u + 8u)
#define MANAGER_LIST_MAX     24u /* rows in one answer */

/*
 * u8[16] trust domain, u8[32] MRENCLAVE of the manager, u8[32] of the instance, u8[32] MRSIGNER of the manager, u8[32]
 * SHA-256 of the release key (zeros: none), u32 security version, u32 slots in use, u32 held, u32 deleted, u64 ledger
 * version (durable and anchored, as the root), u8[32] ledger root, u32 kind of the anchor, u32 its NV index or 0, u8[32]
 * its value, u32 how many of u32 recovery keys bring the domain back (0 of 0: there are none), u8[16] id of
 * this manager among the domain's members
 */
#define MANAGER_STATUS_SIZE  (16u + 6u * 32u + 8u * 4u + 8u + 16u)

/*
 * What the owner signs (Ed25519): "vtpm owner v1\0\0\0" (16 bytes), u16 verb, u16 0, u32 0, u8[16] trust domain, u8[16]
 * id, u64 epoch, u8[32] the manager's nonce, u8[32] MRENCLAVE of the manager, u8[32] SHA-256 of the verb's further
 * arguments (of nothing for MANAGER_DELETE; see REVERT, SET_OWNER, CLONE)
 */
#define OWNER_ACT_LABEL      "vtpm owner v1"
#define OWNER_ACT_SIZE       (16u + 8u + 16u + 16u + 8u + 32u + 32u + 32u)
#define OWNER_ARGUMENTS_MAX  (8u + 32u + 32u) /* bytes of a verb's further arguments: of MANAGER_REVERT */

/*
 * An upgrade manifest: u8[16] "vtpm upgrade v1\0", u8[32] MRENCLAVE of the old manager, u8[32] of the new one, u32
 * security version of the new one, u32 0, u8[32] release key (Ed25519), u8[64] signature over all before it. The old
 * image holds the SHA-256 of the release key that it obeys.
 */
#define MANIFEST_LABEL       "vtpm upgrade v1"
#define MANIFEST_SIGNED_SIZE (16u + 32u + 32u + 8u + 32u)
#define MANIFEST_SIZE        (MANIFEST_SIGNED_SIZE + 64u)

/*
 * What the managers of one trust domain say to each other: one question, one answer, each with a REPORT for the other
 * one, which is an enclave of the same MRENCLAVE. vtpmd carries both, and cannot read what is sealed in the answer.
 *
 *   question  u8 what, u8 1 if a candidate takes over (MOVE; else 0), u8 kind of the asker's anchor (enum anchor_kind),
 *             u8[5] 0, u8[16] trust domain (JOIN: zeros), u8[16] id of the asker among its members, u8[16] id of the
 *             instance, u64 epoch, u64 start, u64 version (of the row that is asked for; CONFIRM: start of the asker's
 *             row; else zeros), u8[32] nonce, u8[32] share; then REPORT (432 bytes)
 *   answer    u8[32] nonce, u8[32] share, REPORT, what is sealed, u8[16] tag
 *
 *   REPORTDATA of a question = SHA-512("vtpm member v1" || u8 1 || domain key || the question before its REPORT)
 *   REPORTDATA of an answer  = SHA-512("vtpm member v1" || u8 2 || domain key || the question before its REPORT
 *                              || nonce and share of the answer) = t; domain key: zeros for JOIN
 *   key || IV = HKDF-SHA-256(X25519, salt = t, info = "vtpm member v1"); AES-256-GCM, AAD = t
 *
 *   sealed    JOIN     u8[16] trust domain, u8[32] domain key
 *             LOOK     the row as it is sealed in the ledger, with the root of exports for the root key
 *             MOVE     the row as it is sealed in the ledger from now on: moved, to the asker
 *             CONFIRM  nothing
 *
 *   domain key  HKDF-SHA-256(master secret, salt = trust domain, info = "vtpm domain"), of the manager that made the domain;
 *               whoever joins is given it. id of a member: HKDF-SHA-256(its master secret, no salt, info = "vtpm member")
 */
enum member_act {
    MEMBER_JOIN = 1,    /* the asker has no instance yet, and becomes a member */
    MEMBER_LOOK = 2,    /* the row, and what a candidate needs; decides nothing */
    MEMBER_MOVE = 3,    /* the row goes to the asker, for good; may be asked again by it, until */
    MEMBER_CONFIRM = 4, /* its row is anchored, and the root key is erased here */
};

#define MEMBER_LABEL         "vtpm member v1"
#define MEMBER_ASKED_SIZE    (8u + 3u * 16u + 3u * 8u + 2u * 32u) /* of a question before its REPORT */
#define MEMBER_QUESTION_SIZE (MEMBER_ASKED_SIZE + SGX_REPORT_SIZE)
#define DOMAIN_KEY_SIZE      32u
