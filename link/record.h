/*
 * The record layer of every session: K1, K2, and between manager and instance.
 *
 *   0  u8      type: 1 FINISH, 2 DATA, 3 FINAL
 *   1  u8[3]   0
 *   4  u32     size of the ciphertext, at most RECORD_PLAINTEXT_MAX
 *   8  u64     sequence number of this direction, from 0
 *  16          ciphertext
 *  16 + n      u8[16] tag
 *
 *   AES-256-GCM; nonce = IV of the direction XOR (u32 0 || u64 sequence number); AAD = session id || the 16 bytes above
 *
 * Guarantees: each direction has a key and an IV of its own; a record that is altered, truncated, extended, replayed,
 * reordered, reflected or of another session is refused, and closes the session for good: nothing is sealed or opened
 * afterwards; after FINAL nothing is accepted; a sequence number never repeats, the session closes before. Not
 * guaranteed: that a record arrives. Its size and the time it is sent at are visible.
 */
#pragma once

#include <stdbool.h>

#include "base/bytes.h"
#include "base/err.h"
#include "crypto/aead.h"

#define RECORD_HEADER_SIZE     16u
#define RECORD_OVERHEAD        (RECORD_HEADER_SIZE + AEAD_TAG_SIZE)
#define RECORD_PLAINTEXT_MAX   8192u
#define RECORD_MAX             (RECORD_OVERHEAD + RECORD_PLAINTEXT_MAX)
#define RECORD_SESSION_ID_SIZE 32u

enum record_type {
    RECORD_FINISH = 1,
    RECORD_DATA = 2,
    RECORD_FINAL = 3,
};

struct record_direction {
    uint8_t key[AEAD_KEY_SIZE];
    uint8_t iv[AEAD_IV_SIZE];
};

/* Zeroed is closed. The caller owns it; record_session_close wipes it. */
struct record_session {
    bool open;
    bool final_sent;
    bool final_received;
    uint8_t id[RECORD_SESSION_ID_SIZE];
    struct aead_cipher seal;
    struct aead_cipher opener;
    uint8_t seal_iv[AEAD_IV_SIZE];
    uint8_t open_iv[AEAD_IV_SIZE];
    uint64_t sent;
    uint64_t received;
};

/* ERR_CRYPTO. The keys stay the caller's, who wipes them. */
struct err record_session_open(const struct crypto *crypto, const uint8_t id[RECORD_SESSION_ID_SIZE],
                               const struct record_direction *send, const struct record_direction *receive,
                               struct record_session *out);
void record_session_close(struct record_session *session);

/* Bytes of the record that received begins with, 0 if its header is not whole. ERR_BAD_VALUE, ERR_TOO_LARGE: none. */
struct err record_size(struct span received, size_t *out_size);

/* Appends one record to out. ERR_LINK_CLOSED, ERR_TOO_LARGE, ERR_NO_SPACE (nothing is written, the session goes on). */
struct err record_seal(struct record_session *session, enum record_type type, struct span plaintext,
                       struct writer *out);

/*
 * Opens exactly one record into out_plaintext, which has room for record.size - RECORD_OVERHEAD bytes; out_size of them
 * were written. ERR_LINK_CLOSED; ERR_LINK_RECORD for whatever is wrong with it, and the session is closed then.
 */
struct err record_open(struct record_session *session, struct span record, enum record_type *out_type,
                       uint8_t *out_plaintext, size_t *out_size);
