/*
 * Sealing and opening of state (abi/blob.h draws the layout).
 *
 * Guarantees: what opens was sealed by this very image (MRENCLAVE) on this device, for the instance that the caller
 * names, and not a bit of it was changed since; nothing of the header but what chooses an error sentence is believed
 * before it authenticates. Not guaranteed: freshness. An older blob of the same instance opens as well as the newest.
 */
#pragma once

#include "abi/blob.h"
#include "abi/call.h"
#include "abi/sgx.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/span.h"
#include "trusted/crypto/crypto.h"

#define BLOB_PLAINTEXT_MAX (STATE_MAX - BLOB_HEADER_SIZE - BLOB_TAG_SIZE)

/* What an enclave seals with and measures foreign headers by; blob_sealer_wipe ends it. */
struct blob_sealer {
    struct sgx_keyrequest request; /* how to get root again; KEYID is drawn for each life of an enclave */
    uint8_t root[SGX_KEY_SIZE];
    uint8_t MRENCLAVE[SGX_HASH_SIZE];
    uint8_t device_tag[BLOB_DEVICE_TAG_SIZE];
};

/* Which state a blob holds. */
struct blob_identity {
    uint8_t instance[INSTANCE_ID_SIZE];
    uint64_t version;
    uint64_t time; /* highest host time the enclave had seen, ns */
};

/* From the enclave's own REPORT; asks EGETKEY for the root key and for the device tag. ERR_SGX_*, ERR_CRYPTO. */
struct err blob_sealer_init(const struct crypto *crypto, const struct sgx_report *own, struct blob_sealer *out);
void blob_sealer_wipe(struct blob_sealer *sealer);

/* Bytes of the blob that a plaintext of this size becomes. */
size_t blob_size(size_t plaintext_size);

/* Seals plaintext, at most BLOB_PLAINTEXT_MAX bytes, under a key of its own. ERR_TOO_LARGE, ERR_NO_SPACE, ERR_CRYPTO.
 */
struct err blob_seal(const struct crypto *crypto, const struct blob_sealer *sealer,
                     const struct blob_identity *identity, struct span plaintext, struct writer *out);

/* An opened state; plaintext is allocated. blob_state_free wipes it. */
struct blob_state {
    struct blob_identity identity;
    uint8_t *plaintext;
    size_t plaintext_size;
};

void blob_state_free(struct blob_state *state);

/*
 * Opens the state of the given instance. In the order of the checks: ERR_STATE_MAGIC, ERR_STATE_FORMAT, ERR_STATE_CUT,
 * ERR_STATE_OTHER_IMAGE, ERR_STATE_ALTERED (a KEYREQUEST that this code never makes), ERR_STATE_OTHER_DEVICE,
 * ERR_STATE_ALTERED, ERR_STATE_OTHER_INSTANCE. Also ERR_NO_MEMORY, ERR_CRYPTO.
 */
struct err blob_open(const struct crypto *crypto, const struct blob_sealer *sealer, struct span blob,
                     const uint8_t instance[INSTANCE_ID_SIZE], struct blob_state *out);
