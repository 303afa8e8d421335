/*
 * vtpmd's part in recovery keys (link/recovery.h): where the record and the request lie, and how the holders' answers get
 * to the manager.
 *
 *   STATE_DIRECTORY/recovery-record    for the holders; the store has it too, so that a backup does
 *   STATE_DIRECTORY/recovery-request   of the recovery that is under way
 *
 * Both are no secret. The answers are files that are named on standard input, one in a line.
 */
#pragma once

#include "untrusted/daemon/config.h"
#include "untrusted/daemon/manager.h"

/* The keys that the command line names. Complains to the log. ERR_USAGE, ERR_CONFIG. */
struct err recovery_read_keys(const struct config *config, struct manager_recovery *out_recovery);
/* Durable. ERR_SYSTEM, ERR_STORE_IO. */
struct err recovery_keep_record(const struct config *config, struct store *store, struct span record);
/* Asks, and takes answers until there are enough. Complains to the log. ERR_STATE_MISSING: there are no recovery keys;
 * ERR_PEER_CLOSED: standard input ended before. */
struct err recovery_ask_holders(const struct config *config, struct store *store, struct manager *manager,
                                const struct manager_anchor *anchor);
