/*
 * A state that comes over K2, in parts, for an instance that the manager calls imported and that has none yet.
 *
 * Guarantees: libtpms sees it when all of it is there, once, and it becomes the instance's by the same commit as every
 * other state; nothing is imported over a state; what was not accepted is wiped. Not guaranteed: whose state it is. That
 * is the word of whoever holds the other end of K2, and the ledger calls the instance imported for good.
 */
#include "trusted/instance/instance.h"

#include <stdlib.h>

#include "base/memory.h"

bool import_awaited(const struct instance *instance)
{
    return instance->mode == PEER_MODE_IMPORT && instance->newest.version == 0;
}

void import_forget(struct instance *instance)
{
    struct import *import = &instance->import;
    if (import->bytes) wipe(import->bytes, import->size);
    free(import->bytes);
    *import = (struct import){0};
}

bool import_complete(const struct instance *instance)
{
    return instance->import.bytes && instance->import.taken == instance->import.size;
}

static struct err begin(struct instance *instance, uint32_t size, size_t max)
{
    import_forget(instance);
    ENSURE(size > 0 && size <= max, TOO_LARGE);
    instance->import.bytes = calloc(1, size);
    ENSURE(instance->import.bytes, NO_MEMORY);
    instance->import.size = size;
    return OK;
}

static struct err gather(struct instance *instance, struct span part, size_t max)
{
    struct reader r = reader_of(part);
    struct import *import = &instance->import;
    uint32_t size = 0;
    uint32_t offset = 0;
    TRY(read_u32(&r, &size));
    TRY(read_u32(&r, &offset));
    if (offset == 0) TRY(begin(instance, size, max));
    ENSURE(import->bytes && size == import->size && offset == import->taken, BAD_VALUE);
    ENSURE(r.left > 0 && r.left <= import->size - import->taken, BAD_VALUE);
    size_t left = r.left;
    TRY(read_bytes(&r, import->bytes + offset, left));
    import->taken += left;
    return OK;
}

struct err import_gather(struct instance *instance, struct span part, size_t max)
{
    struct err gathered = gather(instance, part, max);
    if (gathered.code) import_forget(instance);
    return gathered;
}

struct err import_part(struct instance *instance, struct span part)
{
    ENSURE(import_awaited(instance), VERB_STATE);
    TRY(import_gather(instance, part, STATE_MAX - blob_size(BLOB_STATE, 0)));
    if (!import_complete(instance)) return OK;
    const struct import *import = &instance->import;
    struct err accepted = tpm_power_on_imported(&instance->tpm, span_of(import->bytes, import->size));
    import_forget(instance);
    return accepted;
}
