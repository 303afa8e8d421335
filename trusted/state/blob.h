/*
 * Sealing and opening (abi/blob.h draws the layout).
 *
 * Guarantees: no key serves two blobs, because each is derived from random bytes of its own; what opens was sealed under
 * the given root, with this very header, and not a bit of it was changed since; nothing of the header but what chooses an
 * error sentence is believed before it authenticates. Not guaranteed: freshness. That is the ledger's.
 */
#pragma once

#include "abi/blob.h"
#include "abi/call.h"
#include "abi/sgx.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/id.h"
#include "base/span.h"
#include "crypto/crypto.h"

#define BLOB_ROOT_SIZE     32u
#define BLOB_PLAINTEXT_MAX (STATE_MAX - BLOB_HEADER_SIZE - BLOB_TAG_SIZE)

/* The header, without its random bytes. */
struct blob_header {
    enum blob_kind kind;
    struct instance_id id;
    uint64_t epoch;
    uint64_t version;
    uint64_t number; /* STATE, EXPORT: time; LEDGER_ROW: slot; VOLATILE, EXPORT_VOLATILE: start */
    uint64_t era;    /* of an instance's blobs, else 0 */
    uint8_t manager[SGX_HASH_SIZE];
};

/* The root of a state's keys, volatile ones too: from the instance's root key and the MRENCLAVE of the manager that provisioned it. */
struct err blob_state_root(const struct crypto *crypto, const uint8_t root_key[BLOB_ROOT_SIZE],
                           const uint8_t manager[SGX_HASH_SIZE], uint8_t out[BLOB_ROOT_SIZE]);
/* The same of what one enclave of the instance hands another one. */
struct err blob_export_root(const struct crypto *crypto, const uint8_t root_key[BLOB_ROOT_SIZE],
                            const uint8_t manager[SGX_HASH_SIZE], uint8_t out[BLOB_ROOT_SIZE]);
/* The same for rows and head, from the master secret. */
struct err blob_ledger_root(const struct crypto *crypto, const uint8_t master[BLOB_ROOT_SIZE],
                            const uint8_t manager[SGX_HASH_SIZE], uint8_t out[BLOB_ROOT_SIZE]);

/* Bytes of the blob that a plaintext of this size becomes. extra: BLOB_KEYREQUEST_SIZE for MASTER, else 0. */
size_t blob_size(enum blob_kind kind, size_t plaintext_size);

/*
 * Appends a blob. root_size is BLOB_ROOT_SIZE, or SGX_KEY_SIZE for MASTER; keyrequest is BLOB_KEYREQUEST_SIZE bytes for
 * MASTER, else empty. ERR_TOO_LARGE, ERR_NO_SPACE, ERR_CRYPTO.
 */
struct err blob_seal(const struct crypto *crypto, struct span root, const struct blob_header *header,
                     struct span keyrequest, struct span plaintext, struct writer *out);

/*
 * Takes the blob that the bytes begin with, by what its header says of its size. Nothing is believed of it but where it
 * ends. ERR_STATE_MAGIC, ERR_STATE_FORMAT (format or kind), ERR_STATE_CUT; nothing is taken then.
 */
struct err blob_take(struct reader *r, enum blob_kind kind, struct span *out);

/*
 * Reads a header that is not authenticated yet: to choose the root, and the sentence of a refusal. ERR_STATE_MAGIC,
 * ERR_STATE_FORMAT (format or kind), ERR_STATE_CUT.
 */
struct err blob_peek(struct span blob, enum blob_kind kind, struct blob_header *out);
/* The KEYREQUEST of a MASTER that blob_peek accepted. */
struct span blob_keyrequest(struct span blob);

/* An opened blob; plaintext is allocated. blob_free wipes it. */
struct blob {
    struct blob_header header;
    uint8_t *plaintext;
    size_t plaintext_size;
};

void blob_free(struct blob *blob);

/* The errors of blob_peek; ERR_STATE_ALTERED; ERR_NO_MEMORY, ERR_CRYPTO. */
struct err blob_open(const struct crypto *crypto, struct span root, struct span blob, enum blob_kind kind,
                     struct blob *out);
