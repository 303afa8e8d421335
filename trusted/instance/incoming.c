/*
 * The other end of an export: an enclave that is to go on where another one of this instance stopped.
 *
 *   PROVISION(INCOMING) ──BUNDLE..., RESET──► checked ──a request that decides──► REDEEM ──REDEEMED──► a holder like any other
 *
 * Guarantees: what comes is authenticated before it is parsed, and libtpms has taken it before RESET is answered; nothing
 * that may change the TPM runs before the manager has recorded that this enclave holds the instance and the other one does
 * not any more, and nothing is answered before the state was committed here. A holder goes back to nothing but what was
 * exported and not left since. Not guaranteed before REDEEMED: that the export is still the newest state.
 */
#include "trusted/instance/instance.h"

#include <string.h>

#include "base/memory.h"
#include "trusted/runtime/clock.h"

void incoming_forget(struct instance *instance)
{
    wipe(&instance->incoming, sizeof instance->incoming);
}

struct err incoming_part(struct instance *instance, struct span part)
{
    static const uint8_t nothing[K2_PART_HEADER];
    ENSURE(!import_awaited(instance), VERB_STATE);
    if (part.size == sizeof nothing && memcmp(part.data, nothing, sizeof nothing) == 0) {
        import_forget(instance);
        return OK;
    }
    return import_gather(instance, part, STATE_MAX);
}

struct opened {
    struct blob permanent;
    struct blob volatile_state;
};

static void free_opened(struct opened *opened)
{
    blob_free(&opened->permanent);
    blob_free(&opened->volatile_state);
}

static struct err open_part(struct instance *instance, enum blob_kind kind, struct reader *r, struct blob *out)
{
    const struct span root = span_of(instance->export_root, sizeof instance->export_root);
    struct blob_header header;
    struct span blob;
    TRY(blob_take(r, kind, &blob));
    TRY(blob_peek(blob, kind, &header));
    ENSURE(memcmp(&header.id, &instance->known.instance, sizeof header.id) == 0, STATE_OTHER_INSTANCE);
    return blob_open(&instance->crypto, root, blob, kind, out);
}

/* Two parts of one export. */
static struct err open_both(struct instance *instance, struct span bundle, struct opened *out)
{
    struct reader r = reader_of(bundle);
    TRY(open_part(instance, BLOB_EXPORT, &r, &out->permanent));
    TRY(open_part(instance, BLOB_EXPORT_VOLATILE, &r, &out->volatile_state));
    ENSURE(r.left == 0, STATE_CUT);
    const struct blob_header *permanent = &out->permanent.header;
    const struct blob_header *volatile_state = &out->volatile_state.header;
    ENSURE(permanent->epoch == volatile_state->epoch && permanent->version == volatile_state->version,
           STATE_NOT_RECORDED);
    return OK;
}

/*
 * A candidate takes what the start before it exported, as far as it knows. A holder takes what was committed last, if it has not
 * gone on from there itself: its own export that is still open, or, before it has done anything, the one that an earlier
 * start of this epoch has left. Each start that answers anything commits, so with the same version none has.
 */
static struct err check_age(const struct instance *instance, const struct blob_header *header)
{
    const uint64_t start = instance->known.start;
    ENSURE(header->epoch == instance->known.epoch, STATE_OLD);
    if (instance->incoming.candidate) {
        ENSURE(header->number + 1 == start, STATE_OLD);
        return OK;
    }
    const bool own = header->number == start && instance->export.open;
    const bool left = header->number < start && instance->untouched;
    ENSURE((own || left) && header->version == instance->newest.version, STATE_OLD);
    return OK;
}

static struct span plaintext_of(const struct blob *blob)
{
    return span_of(blob->plaintext, blob->plaintext_size);
}

/* The parts that came are what could be handed on from here, now that they are known to be good. */
static void keep(struct instance *instance, const struct opened *opened)
{
    struct import *import = &instance->import;
    export_forget(instance);
    instance->export = (struct export){
        .open = !instance->incoming.candidate,
        .bytes = import->bytes,
        .permanent_size = blob_size(BLOB_EXPORT, opened->permanent.plaintext_size),
        .size = import->size,
    };
    *import = (struct import){0};
}

/* What this enclave had in memory is gone, whatever comes of it. */
static struct err go_on_from(struct instance *instance, const struct opened *opened)
{
    struct incoming *incoming = &instance->incoming;
    const struct blob_header *header = &opened->volatile_state.header;
    if (instance->tpm.on) TRY(tpm_cut_off(&instance->tpm));
    incoming->checked = false;
    tpm_forget(&instance->tpm);
    clock_advance(opened->permanent.header.number);
    TRY(tpm_resume(&instance->tpm, plaintext_of(&opened->permanent), plaintext_of(&opened->volatile_state)));
    incoming->checked = incoming->candidate;
    instance->untouched = false;
    incoming->epoch = header->epoch;
    incoming->start = header->number;
    incoming->version = header->version;
    keep(instance, opened);
    return OK;
}

struct err incoming_check(struct instance *instance, struct writer *out)
{
    const struct import *import = &instance->import;
    struct opened opened DEFER(free_opened) = {0};
    struct err taken = open_both(instance, span_of(import->bytes, import->size), &opened);
    if (!taken.code) taken = check_age(instance, &opened.volatile_state.header);
    if (!taken.code) {
        taken = go_on_from(instance, &opened);
        if (!instance->incoming.candidate) TRY(instance_fail_if(instance, taken));
    }
    import_forget(instance);
    client_begin_response(instance, taken);
    return effect_release(instance, out);
}

struct err incoming_redeem(struct instance *instance, struct span request, struct writer *out)
{
    struct incoming *incoming = &instance->incoming;
    uint8_t fields[PEER_REDEEM_SIZE];
    struct writer w = writer_of(fields, sizeof fields);
    if (!incoming->checked) return client_refuse(instance, FAIL(TPM_OFF), out);
    ENSURE(request.size <= sizeof incoming->request, TOO_LARGE);
    memcpy(incoming->request, request.data, request.size);
    incoming->request_size = request.size;
    instance->state = INSTANCE_WAITING;
    instance->under_way = UNDER_WAY_REDEEM;
    TRY(write_u64(&w, incoming->epoch));
    TRY(write_u64(&w, incoming->start));
    TRY(write_u64(&w, incoming->version));
    return effect_say(instance, PEER_REDEEM, writer_span(&w), out);
}

/* PEER_REDEEMED, parsed */
struct redeemed {
    uint8_t root_key[BLOB_ROOT_SIZE];
    uint8_t resumption_key[PEER_RESUMPTION_KEY_SIZE];
};

static void wipe_redeemed(struct redeemed *redeemed)
{
    wipe(redeemed, sizeof *redeemed);
}

static struct err become_holder(struct instance *instance, const struct redeemed *redeemed)
{
    const struct incoming *incoming = &instance->incoming;
    TRY(blob_export_root(&instance->crypto, redeemed->root_key, instance->manager, instance->export_root));
    TRY(blob_state_root(&instance->crypto, redeemed->root_key, instance->manager, instance->root));
    memcpy(instance->known.key, redeemed->resumption_key, sizeof instance->known.key);
    instance->newest = (struct recorded_state){.version = incoming->version};
    instance->lease = (struct lease){0};
    instance->state = INSTANCE_RUNNING;
    instance->under_way = UNDER_WAY_NOTHING;
    instance->export.open = true; /* so the request commits */
    return OK;
}

struct err incoming_redeemed(struct instance *instance, struct span fields, struct writer *out)
{
    struct redeemed redeemed DEFER(wipe_redeemed) = {0};
    struct incoming *incoming = &instance->incoming;
    struct reader r = reader_of(fields);
    ENSURE(instance->under_way == UNDER_WAY_REDEEM, LINK_ORDER);
    TRY(read_bytes(&r, redeemed.root_key, sizeof redeemed.root_key));
    TRY(read_bytes(&r, redeemed.resumption_key, sizeof redeemed.resumption_key));
    TRY(reader_end(&r));
    struct err err = become_holder(instance, &redeemed);
    incoming->candidate = incoming->checked = false;
    if (!err.code) err = client_perform(instance, span_of(incoming->request, incoming->request_size), out);
    incoming_forget(instance);
    return instance_fail_if(instance, err);
}
