#include "trusted/manager/anchoring.h"

#include "base/memory.h"
#include "trusted/manager/effect.h"
#include "trusted/manager/manager.h"

#define EFFECT_HEADER_SIZE 16u

struct err anchoring_parse_choice(struct reader *r, struct anchor_choice *out)
{
    uint32_t size = 0;
    TRY(read_u32(r, &out->kind));
    TRY(read_u32(r, &out->nv_index));
    TRY(read_u32(r, &size));
    return read_span(r, size, &out->owner_auth);
}

static struct err put_request(const struct manager *manager, struct span request, struct writer *out)
{
    const struct anchoring *anchoring = &manager->anchoring;
    uint8_t *padding = NULL;
    struct writer payload;
    TRY(effect_begin(out, MANAGER_EFFECT_ANCHOR, EFFECT_HEADER_SIZE + request.size, &payload));
    TRY(write_u64(&payload, anchoring->number));
    TRY(write_u8(&payload, (uint8_t)anchor_config(anchoring->anchor)->kind));
    TRY(write_zeros(&payload, 7, &padding));
    return write_span(&payload, request);
}

/* The steps begin alike: the client of the anchor has written a request. */
static struct err begin(struct manager *manager, enum anchoring_step step, uint64_t number, struct span request,
                        struct writer *out)
{
    manager->anchoring.step = step;
    manager->anchoring.number = number;
    return put_request(manager, request, out);
}

struct err anchoring_define(struct manager *manager, const struct anchor_choice *choice, struct writer *out)
{
    uint8_t request[ANCHOR_EXCHANGE_MAX];
    struct writer w = writer_of(request, sizeof request);
    TRY(anchor_define(&manager->crypto, choice->kind, choice->nv_index, choice->owner_auth, &w,
                      &manager->anchoring.anchor));
    return begin(manager, ANCHORING_DEFINE, 0, writer_span(&w), out);
}

struct err anchoring_read(struct manager *manager, struct writer *out)
{
    uint8_t request[ANCHOR_EXCHANGE_MAX];
    struct writer w = writer_of(request, sizeof request);
    TRY(anchor_open(&manager->crypto, &manager->ledger.anchor, &manager->anchoring.anchor));
    TRY(anchor_read(manager->anchoring.anchor, &w));
    return begin(manager, ANCHORING_READ, 0, writer_span(&w), out);
}

static struct err move(struct manager *manager, enum anchoring_step step, uint64_t number, struct writer *out)
{
    const struct ledger *ledger = &manager->ledger;
    uint8_t request[ANCHOR_EXCHANGE_MAX];
    struct writer w = writer_of(request, sizeof request);
    TRY(anchor_move(manager->anchoring.anchor, ledger->value, ledger->record, &w));
    return begin(manager, step, number, writer_span(&w), out);
}

struct err anchoring_move(struct manager *manager, struct writer *out)
{
    return move(manager, ANCHORING_MOVE, manager->ledger.version, out);
}

/* The exchanges of a step are over, and the anchor stands at this value. */
static struct err finish_step(struct manager *manager, enum anchoring_step step, const uint8_t value[ANCHOR_VALUE_SIZE],
                              struct writer *out)
{
    bool behind = false;
    switch (step) {
    case ANCHORING_DEFINE:
        ledger_found_anchor(&manager->ledger, anchor_config(manager->anchoring.anchor), value);
        return OK;
    case ANCHORING_READ:
        TRY(ledger_meet_anchor(&manager->ledger, value, &behind));
        return behind ? move(manager, ANCHORING_CATCH_UP, 0, out) : OK;
    default:
        return ledger_anchored(&manager->ledger, value);
    }
}

struct err anchoring_answer(struct manager *manager, struct span answer, struct writer *out,
                            enum anchoring_step *out_step)
{
    struct anchoring *anchoring = &manager->anchoring;
    const enum anchoring_step step = anchoring->step;
    uint8_t request[ANCHOR_EXCHANGE_MAX];
    struct writer w = writer_of(request, sizeof request);
    struct anchor_state state = {0};
    *out_step = ANCHORING_NOTHING;
    TRY(anchor_answer(anchoring->anchor, answer, &w, &state));
    if (!state.done) return put_request(manager, writer_span(&w), out);
    anchoring->step = ANCHORING_NOTHING;
    TRY(finish_step(manager, step, state.value, out));
    *out_step = step;
    return OK;
}

void anchoring_close(struct anchoring *anchoring)
{
    anchor_close(&anchoring->anchor);
    wipe(anchoring, sizeof *anchoring);
}
