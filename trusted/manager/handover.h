/*
 * The upgrade: an old manager gives its ledger's secret to a new image that the release key names (docs/protocol.md,
 * "The hand-over").
 *
 *   new ──GREET──► nonce, share, REPORT for the old one      old ──GIVE──► nonce, share, REPORT for the new one,
 * secrets
 *
 * Guarantees: nothing is given but to an enclave of exactly the MRENCLAVE that a manifest names, which is signed by the
 * release key of this image and names this image as the old one; nothing is taken but from that old one. An image
 * without a release key does neither.
 */
#pragma once

#include "trusted/ledger/ledger.h"
#include "trusted/manager/side.h"

struct manager;

/* What the new one remembers from GREET until TAKE. */
struct handover {
    struct x25519_key own;
    uint8_t nonce[SIDE_NONCE_SIZE];
};

/* The new one: writes its message. */
struct err handover_greet(struct manager *manager, const struct sgx_targetinfo *old, struct writer *out_message);

/* The old one: takes that message, writes its own. ERR_NO_RELEASE_KEY, ERR_MANIFEST, ERR_DOWNGRADE, ERR_PEER_*. */
struct err handover_give(struct manager *manager, struct span manifest, struct span greeting,
                         struct writer *out_message);

/* The new one: takes what was given. The same errors; ERR_AUTHENTICATION. The caller wipes out. */
struct err handover_take(struct manager *manager, struct span manifest, struct span gift,
                         struct ledger_inheritance *out);
