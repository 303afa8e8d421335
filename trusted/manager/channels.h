/*
 * Instance enclaves on the host's channels: their peer sessions, and what each may say.
 *
 *   CHALLENGED ──PROOF──► ADMITTING ──stored──► OPEN          REATTACHED ──RESUME──► ACCEPTED ──CONFIRM──► OPEN
 *   CHALLENGED ──PROOF, incoming──► CANDIDATE ──REDEEM, stored──► OPEN
 *   CANDIDATE ──REDEEM of another manager's instance──► REDEEMING ──it has come──► ADMITTING ──stored──► OPEN
 *
 * Guarantees: an enclave gets keys only after its start is durable in the ledger (a candidate the one that opens
 * exports); only the recorded holder's session is heard, and a candidate's about nothing but becoming it; a message
 * that is not allowed there ends the channel, and the host is told why. What waits for a store is at most one of each
 * kind per channel.
 */
#pragma once

#include "base/bytes.h"
#include "trusted/ledger/row.h"

#define CHANNEL_BUCKETS 1024u

struct manager;
struct channel;

struct channels {
    struct channel *buckets[CHANNEL_BUCKETS];
    struct channel *due; /* those that wait for a store */
    uint32_t count;
};

/*
 * The row allows a start, or (incoming) that another enclave takes over, and an enclave is there. A row whose slot is
 * LEDGER_ELSEWHERE is another manager's. ERR_BAD_VALUE: the channel is in use; ERR_NO_MEMORY: too many.
 */
struct err channel_attach(struct manager *manager, uint64_t number, const struct ledger_row *row,
                          const uint8_t front_share[X25519_SIZE], bool incoming, struct writer *out);
/* A holder is back; its RESUME follows. The same errors. */
struct err channel_reattach(struct manager *manager, uint64_t number, const struct ledger_row *row);
/* Nothing if there is no such channel. */
void channel_detach(struct manager *manager, uint64_t number);

/* One message from a channel. ERR_LINK_CLOSED if there is no such channel. Whatever is wrong with the message itself
 * ends the channel and is an effect. */
struct err channel_message(struct manager *manager, uint64_t number, struct span message, struct writer *out);

/*
 * A candidate that waits for the instance to come from another manager: its holder key, or NULL; start: of the row as it
 * was there.
 */
const uint8_t *channel_redeeming(struct manager *manager, uint64_t number, uint64_t start);
/* The instance has come, to that candidate. It is told when that is anchored. */
struct err channel_arrived(struct manager *manager, uint64_t number, const struct ledger_row *row, struct writer *out);

/* Ends every channel of a row, with an effect each; for 0 only the holder's session, without a word. */
struct err channels_end(struct manager *manager, const struct ledger_row *row, uint16_t code, struct writer *out);

/* Says what waited for a store that is durable now. */
struct err channels_release(struct manager *manager, struct writer *out);

void channels_close(struct channels *channels);
