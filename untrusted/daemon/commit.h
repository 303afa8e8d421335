/*
 * What the manager wants to be durable: the store, and after it the anchor, as one job.
 *
 * Guarantees: a batch goes to the store with the states that its rows name, or not at all; the anchor is asked only when
 * the batch is durable, and a batch is written once, however often the exchange is tried; the manager hears the anchor's
 * answer after that. With a limit on the anchor's moves (anchor-rate), a commit waits for its turn, and what the
 * manager is asked meanwhile forms one record inside.
 */
#pragma once

#include "untrusted/anchor/anchor_host.h"
#include "untrusted/daemon/manager.h"

struct supervisor;

/*
 * While nothing is served: at once, on this thread. The manager has the answer queued afterwards. ERR_CONFIG (the anchor
 * is of another kind than the configuration says; complains to the log), ERR_STORE_IO, ERR_ANCHOR_IO, ERR_NO_MEMORY.
 */
struct err commit_now(struct manager *manager, struct store *store, struct anchor_host *anchor,
                      const struct manager_exchange *exchange);

/* On the committer's thread. An error of the job, which is none of the disk's or the anchor's, ends vtpmd. As commit_now,
 * and ERR_STATE_MISSING: an instance has not sent the state that a row names. */
struct err commit_submit(struct supervisor *supervisor, const struct manager_exchange *exchange);

/* Forgets the commit that waits for its turn. */
void commit_end(struct supervisor *supervisor);
