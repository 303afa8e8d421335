/*
 * A link: the session between an endpoint on the host and an enclave (K1: vtpmd and the manager enclave; K2: a
 * front-end and an instance enclave). docs/protocol.md, "Links", has the transcript and the reasons.
 *
 *   h   = SHA-256("vtpm link v1" || u8 kind || u8[16] instance id || u64 epoch || u64 start number
 *                 || MRENCLAVE of the manager || MRENCLAVE of the instance
 *                 || share of the host || share of the enclave)
 *   ikm = X25519(the two shares)
 *         for LINK_K2_ENROLLED followed by X25519(enrolled key of the host, share of the enclave)
 *
 *   for each direction d, "host to enclave" and "enclave to host":
 *   u8[32] key || u8[12] IV || u8[32] finish key = HKDF-SHA-256(ikm, salt = h, info = "vtpm link v1 " || d)
 *
 * K1 has zeros for instance id, epoch, start number and MRENCLAVE of the instance. h is the session id of the records.
 * The first record of each direction is FINISH and carries HMAC-SHA-256(finish key, h).
 *
 * Guarantees: whoever only relays between the two ends can neither read, alter, replay nor cross what they say, as long
 * as each end was told the other's share by somebody it trusts (K1: the share came out of the enclave's first entry;
 * K2: the manager told both). No data before the other end's FINISH was verified. It does not guard against an end.
 */
#pragma once

#include "base/id.h"
#include "crypto/curve.h"
#include "crypto/hash.h"
#include "link/record.h"

#define LINK_MRENCLAVE_SIZE 32u

enum link_kind {
    LINK_K1 = 1,
    LINK_K2_NAMED = 2,    /* the front-end's key is ephemeral and named by the operator's daemon */
    LINK_K2_ENROLLED = 3, /* and it holds the private key that the owner enrolled */
};

enum link_role { LINK_HOST = 1, LINK_ENCLAVE = 2 };

/* What both ends must agree on besides the shares. */
struct link_binding {
    enum link_kind kind;
    struct instance_id instance;
    uint64_t epoch;
    uint64_t start;
    uint8_t manager[LINK_MRENCLAVE_SIZE];
    uint8_t program[LINK_MRENCLAVE_SIZE]; /* MRENCLAVE of the instance */
};

/* One end's keys. */
struct link_keys {
    const struct x25519_key *own; /* ephemeral */
    const uint8_t *peer;          /* the other end's ephemeral share, X25519_SIZE bytes */
    /* LINK_K2_ENROLLED: at the host the enrolled private key, in the enclave the enrolled public key; else NULL */
    const uint8_t *enrolled;
};

/* Zeroed is closed. */
struct link {
    struct record_session records;
    uint8_t h[SHA256_SIZE];
    uint8_t own_finish[SHA256_SIZE];  /* the MAC that FINISH carries */
    uint8_t peer_finish[SHA256_SIZE]; /* the MAC that the other end's has to be */
    bool finish_sent;
    bool finish_received;
};

/*
 * out is zeroed or closed: a second handshake on a link that lives is refused with ERR_LINK_ORDER. ERR_AUTHENTICATION
 * (a share of small order), ERR_BAD_VALUE (an enrolled key for another kind, or none for LINK_K2_ENROLLED), ERR_CRYPTO.
 */
struct err link_open(const struct crypto *crypto, enum link_role role, const struct link_binding *binding,
                     const struct link_keys *keys, struct link *out);
void link_close(struct link *link);

/* Appends this end's FINISH; once, else ERR_LINK_ORDER. ERR_LINK_CLOSED, ERR_NO_SPACE. */
struct err link_finish(struct link *link, struct writer *out);

/* Appends a record of data. ERR_LINK_CLOSED, ERR_LINK_ORDER before both FINISHes, ERR_TOO_LARGE, ERR_NO_SPACE. */
struct err link_send(struct link *link, struct span plaintext, struct writer *out);

/* Appends FINAL: the orderly end. As link_send; nothing can be sent afterwards. */
struct err link_send_final(struct link *link, struct writer *out);

enum link_event { LINK_FINISHED, LINK_DATA, LINK_ENDED };

/*
 * Takes one record. LINK_FINISHED: the other end proved itself; LINK_DATA: out_plaintext (room for record.size bytes)
 * has *out_size bytes; LINK_ENDED: its orderly end. ERR_LINK_CLOSED, ERR_LINK_RECORD, ERR_LINK_ORDER,
 * ERR_AUTHENTICATION (a FINISH with another MAC): every error closes the link.
 */
struct err link_receive(struct link *link, struct span record, enum link_event *out_event, uint8_t *out_plaintext,
                        size_t *out_size);

/* When the transport has ended: success after FINAL, else ERR_LINK_TRUNCATED. */
struct err link_transport_ended(const struct link *link);
