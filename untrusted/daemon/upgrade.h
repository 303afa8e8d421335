/*
 * The hand-over of a store from the manager image that sealed it to the one that is configured now.
 *
 * Guarantees: nothing is handed over but by the old manager's own decision, in its enclave, over a manifest that its
 * release key signed; what is missing for it is named. Until the successor's first store nothing has changed, and it can
 * be begun anew.
 */
#pragma once

#include "untrusted/daemon/config.h"
#include "untrusted/daemon/manager.h"

struct upgrade {
    const struct config *config;
    const struct crypto *crypto;
    struct store *store;
    struct anchor_host *anchor;
    struct span master; /* of the store */
    struct span head;
};

/* True if head was sealed by another manager than the one of mrenclave. */
bool upgrade_is_needed(struct span head, const uint8_t mrenclave[LINK_MRENCLAVE_SIZE]);

/* The successor is blank; afterwards it wants its rows. Complains to the log. */
struct err upgrade_run(const struct upgrade *upgrade, struct manager *successor);
