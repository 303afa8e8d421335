/*
 * Effects on their way out, each behind the store that it depends on.
 *
 * Guarantees: nothing leaves before its store is durable; what depends on one instance leaves in order; what waits is
 * bounded by OUTBOX_SIZE_MAX, because outbox_full is asked before anything new is begun. A record of K1 is sealed when
 * it leaves, so that those that need not wait can pass.
 */
#pragma once

#include <stdbool.h>

#include "abi/manager.h"
#include "base/bytes.h"

#define OUTBOX_SIZE_MAX (96u * 1024u)

struct manager;
struct waiting;

struct outbox {
    struct waiting *first, *last;
    size_t size; /* bytes of payload that wait */
};

/* True if no more may be begun until a store was confirmed. */
bool outbox_full(const struct outbox *outbox);

/*
 * An effect that depends on the store of this number (0: on none). For MANAGER_EFFECT_RECORD the parts are what the
 * record of K1 carries. On an error the manager has failed.
 */
struct err outbox_put(struct manager *manager, uint64_t store, enum manager_effect kind, const struct span *parts,
                      size_t count, struct writer *out);

/* Everything whose store is durable now. */
struct err outbox_release(struct manager *manager, struct writer *out);

void outbox_close(struct outbox *outbox);
