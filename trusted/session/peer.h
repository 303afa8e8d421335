/*
 * Both ends of the peer session (abi/peer.h draws it).
 *
 * Guarantees: no record is sent or accepted before the other end's REPORT (or, on resuming, its MAC) verified over the
 * whole transcript; roles differ in it, so nothing reflects; ephemeral private keys are wiped as soon as the keys of
 * the records are there; an error leaves the session closed and wiped, but one of peer_send for want of room. It does
 * not guard against an end.
 */
#pragma once

#include <stdbool.h>

#include "abi/peer.h"
#include "base/bytes.h"
#include "base/err.h"
#include "crypto/curve.h"
#include "crypto/hash.h"
#include "link/record.h"
#include "trusted/session/report.h"

/* What the exchange is about; both ends hold it until the records begin. */
struct peer_transcript {
    struct instance_id instance;
    uint64_t start;
    uint8_t holder[ED25519_PUBLIC_SIZE];
    uint8_t base[PEER_BASE_SIZE];
    uint8_t share[2][X25519_SIZE];     /* the manager's, the instance's */
    uint8_t nonce[2][PEER_NONCE_SIZE]; /* the same */
};

enum peer_step {
    PEER_CLOSED,
    PEER_BEGUN,    /* CHALLENGE or PROOF was written */
    PEER_PROVEN,   /* manager: PROOF was verified */
    PEER_RESUMING, /* RESUME or ACCEPT was written */
    PEER_ESTABLISHED,
};

/* One end of one session; zeroed is closed. */
struct peer {
    enum peer_step step;
    enum peer_role role;
    struct peer_transcript transcript;
    struct x25519_key own;
    uint8_t other_program[SGX_HASH_SIZE]; /* MRENCLAVE of the other end, verified */
    uint8_t target[REPORT_TARGET_SIZE];   /* TARGETINFO of the other end; the rest of it is zeros */
    struct record_session records;        /* open once PEER_ESTABLISHED */
};

void peer_close(struct peer *peer);

/*
 * challenge, prove, resume and accept begin a session in out, which is zeroed, closed or of a session that ends with
 * it. Out of its order each answers ERR_LINK_ORDER, and the session is closed.
 */

/* --- the first session of a start --- */

/* manager: writes CHALLENGE. */
struct err peer_challenge(const struct crypto *crypto, const struct instance_id *instance, uint64_t start,
                          const uint8_t base[PEER_BASE_SIZE], struct peer *out, struct writer *message);
/* instance: takes CHALLENGE, which must name expected, and writes PROOF. ERR_BAD_VALUE, ERR_STATE_OTHER_INSTANCE. */
struct err peer_prove(const struct crypto *crypto, struct span challenge, const struct instance_id *expected,
                      const uint8_t holder[ED25519_PUBLIC_SIZE], struct peer *out, struct writer *message);
/* manager: takes PROOF; transcript.holder is the proven one afterwards. ERR_PEER_*, ERR_BAD_VALUE. */
struct err peer_check_proof(const struct crypto *crypto, struct peer *peer, struct span proof,
                            const uint8_t instance_mrenclave[SGX_HASH_SIZE]);
/* manager: writes ADMIT; the session is established. */
struct err peer_admit(const struct crypto *crypto, struct peer *peer, struct writer *message);
/* instance: takes ADMIT; the session is established, other_program is the manager's MRENCLAVE. ERR_PEER_*. */
struct err peer_check_admission(const struct crypto *crypto, struct peer *peer, struct span admission);

/* --- resuming: who both ends are is known by the resumption key of the start --- */

#define PEER_RESUMPTION_KEY_SIZE 32u

struct peer_resumption {
    struct instance_id instance;
    uint64_t epoch;
    uint64_t start;
    uint8_t holder[ED25519_PUBLIC_SIZE];
    uint8_t key[PEER_RESUMPTION_KEY_SIZE];
};

/* instance: writes RESUME. */
struct err peer_resume(const struct crypto *crypto, const struct peer_resumption *known, struct peer *out,
                       struct writer *message);
/* manager: writes ACCEPT. ERR_FENCED if the start is not the known one. */
struct err peer_accept(const struct crypto *crypto, struct span resume, const struct peer_resumption *known,
                       struct peer *out, struct writer *message);
/* instance: takes ACCEPT, writes CONFIRM; established. ERR_AUTHENTICATION. */
struct err peer_confirm(const struct crypto *crypto, const struct peer_resumption *known, struct peer *peer,
                        struct span accept, struct writer *message);
/* manager: takes CONFIRM; established. ERR_AUTHENTICATION. */
struct err peer_check_confirmation(const struct crypto *crypto, const struct peer_resumption *known, struct peer *peer,
                                   struct span confirm);

/* --- records, once established --- */

/* Appends a record with one word. ERR_LINK_CLOSED, ERR_NO_SPACE. */
struct err peer_send(struct peer *peer, enum peer_word word, struct span fields, struct writer *message);
/* out_plaintext: room for message.size bytes; out_fields points into it. ERR_LINK_*: the session is closed. */
struct err peer_receive(struct peer *peer, struct span message, enum peer_word *out_word, uint8_t *out_plaintext,
                        struct span *out_fields);
