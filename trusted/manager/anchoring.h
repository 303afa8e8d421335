/*
 * The manager's exchanges with the anchor, one at a time, and what each must end with.
 *
 *   new   DEFINE ─────────────────────────► the first store: MOVE        number 0, then the store's
 *   open  READ ──►                          the start record: MOVE
 *         READ ──► CATCH_UP ──►             the start record: MOVE       (stored and not anchored, when its life ended)
 *
 * Guarantees: no store is made on a value of the anchor that was not seen in this life; no store is called durable
 * before the anchor was seen to have moved from the value that it was made on to the one that it leads to.
 */
#pragma once

#include "base/bytes.h"
#include "trusted/anchor/anchor.h"

struct manager;

/* Which anchor a new trust domain gets. */
struct anchor_choice {
    uint32_t kind; /* enum anchor_kind */
    uint32_t nv_index;
    struct span owner_auth;
};

enum anchoring_step {
    ANCHORING_NOTHING, /* is under way */
    ANCHORING_DEFINE,
    ANCHORING_READ,
    ANCHORING_CATCH_UP,
    ANCHORING_MOVE,
};

struct anchoring {
    struct anchor *anchor;
    enum anchoring_step step;
    uint64_t number; /* of the exchanges under way: the store's, or 0 */
};

/* ERR_TRUNCATED. The rest is checked when the anchor is defined. */
struct err anchoring_parse_choice(struct reader *r, struct anchor_choice *out);

/* Each writes the first request. The errors of trusted/anchor/anchor.h; after one the manager has failed. */
struct err anchoring_define(struct manager *manager, const struct anchor_choice *choice, struct writer *out);
/* The anchor that the ledger names. */
struct err anchoring_read(struct manager *manager, struct writer *out);
/* To where the store leads that was made just now. */
struct err anchoring_move(struct manager *manager, struct writer *out);

/*
 * An answer. Writes the next request, if there is one; *out_step is the step that is over with success, or
 * ANCHORING_NOTHING. ERR_ANCHOR_*: the manager has failed.
 */
struct err anchoring_answer(struct manager *manager, struct span answer, struct writer *out,
                            enum anchoring_step *out_step);

void anchoring_close(struct anchoring *anchoring);
