#include "trusted/manager/outbox.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "trusted/manager/effect.h"
#include "trusted/manager/manager.h"

struct waiting {
    struct waiting *next;
    uint64_t store;
    enum manager_effect kind;
    size_t size;
    uint8_t payload[];
};

bool outbox_full(const struct outbox *outbox)
{
    return outbox->size >= OUTBOX_SIZE_MAX;
}

static struct err write_record(struct manager *manager, struct span plaintext, struct writer *out)
{
    struct writer payload;
    if (!manager->k1.records.open) return OK; /* nobody is there to be told any more */
    TRY(effect_begin(out, MANAGER_EFFECT_RECORD, RECORD_OVERHEAD + plaintext.size, &payload));
    return link_send(&manager->k1, plaintext, &payload);
}

static struct err write_now(struct manager *manager, enum manager_effect kind, struct span bytes, struct writer *out)
{
    if (kind == MANAGER_EFFECT_RECORD) return write_record(manager, bytes, out);
    struct writer payload;
    TRY(effect_begin(out, kind, bytes.size, &payload));
    return write_span(&payload, bytes);
}

static void free_waiting(struct waiting **waiting)
{
    if (*waiting) wipe((*waiting)->payload, (*waiting)->size);
    free(*waiting);
    *waiting = NULL;
}

static struct err put(struct manager *manager, uint64_t store, enum manager_effect kind, const struct span *parts,
                      size_t count, struct writer *out)
{
    size_t size = 0;
    for (size_t i = 0; i < count; i++)
        size += parts[i].size;
    struct waiting *waiting DEFER(free_waiting) = malloc(sizeof *waiting + size);
    ENSURE(waiting, NO_MEMORY);
    *waiting = (struct waiting){.store = store, .kind = kind, .size = size};
    struct writer w = writer_of(waiting->payload, size);
    for (size_t i = 0; i < count; i++)
        TRY(write_span(&w, parts[i]));
    if (store <= manager->ledger.durable) return write_now(manager, kind, writer_span(&w), out);

    struct outbox *outbox = &manager->outbox;
    *(outbox->last ? &outbox->last->next : &outbox->first) = waiting;
    outbox->last = waiting;
    outbox->size += size;
    waiting = NULL; /* now it is the outbox's */
    return OK;
}

struct err outbox_put(struct manager *manager, uint64_t store, enum manager_effect kind, const struct span *parts,
                      size_t count, struct writer *out)
{
    return manager_broken(manager, put(manager, store, kind, parts, count, out));
}

static struct err release(struct manager *manager, struct writer *out)
{
    struct outbox *outbox = &manager->outbox;
    struct waiting **place = &outbox->first;
    outbox->last = NULL;
    while (*place) {
        if ((*place)->store > manager->ledger.durable) {
            outbox->last = *place;
            place = &(*place)->next;
            continue;
        }
        struct waiting *leaving DEFER(free_waiting) = *place;
        *place = leaving->next;
        outbox->size -= leaving->size;
        TRY(write_now(manager, leaving->kind, span_of(leaving->payload, leaving->size), out));
    }
    return OK;
}

struct err outbox_release(struct manager *manager, struct writer *out)
{
    return manager_broken(manager, release(manager, out));
}

void outbox_close(struct outbox *outbox)
{
    while (outbox->first) {
        struct waiting *waiting DEFER(free_waiting) = outbox->first;
        outbox->first = waiting->next;
    }
    *outbox = (struct outbox){0};
}
