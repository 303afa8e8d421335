/*
 * The TPM as it is now, for another enclave of this instance: a snapshot of a machine, or a migration.
 *
 *   an export   the permanent state (BLOB_EXPORT), behind it the volatile one (BLOB_EXPORT_VOLATILE), of one version
 *
 * Guarantees: what is handed out is the state that was committed with its version, so the ledger tells whether it is still
 * the newest; nothing that may change the TPM is answered after it without a commit, and with that commit the export is
 * over: of the two enclaves that could go on, the manager records one. Not guaranteed: that anybody goes on from it.
 */
#include "trusted/instance/instance.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "trusted/runtime/clock.h"

void export_forget(struct instance *instance)
{
    free(instance->export.bytes);
    instance->export = (struct export){0};
}

void export_take_back(struct instance *instance)
{
    if (!instance->export.open) return;
    export_forget(instance);
    tpm_commit_again(&instance->tpm);
}

/* Of both states before they are sealed. */
static size_t export_max(void)
{
    return STATE_MAX - blob_size(BLOB_EXPORT, 0) - blob_size(BLOB_EXPORT_VOLATILE, 0);
}

static struct err seal_both(struct instance *instance, struct span volatile_state)
{
    const struct span root = span_of(instance->export_root, sizeof instance->export_root);
    const struct span permanent = tpm_permanent(&instance->tpm);
    struct export *export = &instance->export;
    export->permanent_size = blob_size(BLOB_EXPORT, permanent.size);
    export->size = export->permanent_size + blob_size(BLOB_EXPORT_VOLATILE, volatile_state.size);
    export->bytes = malloc(export->size);
    ENSURE(export->bytes, NO_MEMORY);
    struct writer w = writer_of(export->bytes, export->size);
    TRY(effect_seal(instance, root, BLOB_EXPORT, clock_now(), permanent, &w));
    return effect_seal(instance, root, BLOB_EXPORT_VOLATILE, instance->known.start, volatile_state, &w);
}

/* Of what is there. */
static struct err write_sizes(struct instance *instance)
{
    const struct export *export = &instance->export;
    struct writer response = client_begin_response(instance, OK);
    TRY(write_u32(&response, (uint32_t) export->permanent_size));
    TRY(write_u32(&response, (uint32_t)(export->size - export->permanent_size)));
    instance->response_size = response.size;
    return OK;
}

struct err export_begin(struct instance *instance, struct writer *out)
{
    struct span volatile_state;
    if (instance->export.bytes) { /* asked for again; or one that came, and was not redeemed */
        TRY(write_sizes(instance));
        return effect_release(instance, out);
    }
    struct err captured = tpm_capture(&instance->tpm, export_max(), &volatile_state);
    client_begin_response(instance, captured);
    TRY(effect_settle(instance, out)); /* the version of what is handed out is that of this commit */
    if (captured.code) return OK;
    TRY(seal_both(instance, volatile_state));
    instance->export.open = true;
    return write_sizes(instance);
}

struct err export_read(struct instance *instance, uint32_t offset, struct writer *out)
{
    const struct export *export = &instance->export;
    if (!export->bytes) return client_refuse(instance, FAIL(STATE_MISSING), out);
    if (offset >= export->size) return client_refuse(instance, FAIL(BAD_VALUE), out);
    struct writer response = client_begin_response(instance, OK);
    const size_t left = export->size - offset;
    TRY(write_bytes(&response, export->bytes + offset, left < K2_EXPORT_READ_MAX ? left : K2_EXPORT_READ_MAX));
    return client_respond(instance, &response, out);
}
