/*
 * The other end of an export: an enclave that is to go on where another one of this instance stopped.
 *
 *   PROVISION(INCOMING) ──BUNDLE..., RESET──► checked ──a request that decides──► REDEEM ──REDEEMED──► a holder like any other
 *
 * Guarantees: what comes is authenticated before it is parsed, and libtpms has taken it before RESET is answered; nothing
 * that may change the TPM runs before the manager has recorded that this enclave holds the instance and the other one does
 * not any more, and nothing is answered before the state was committed here. A holder takes what was exported and not left
 * since; what was left only if its row allows that, only of this era, raised to what may never go back, and committed
 * before the answer. Not guaranteed before REDEEMED: that the export is still the newest state.
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

struct export_root {
    uint8_t bytes[BLOB_ROOT_SIZE];
};

static void wipe_export_root(struct export_root *root)
{
    wipe(root, sizeof *root);
}

/* An old snapshot may have been made under another manager. */
static struct err find_root(const struct instance *instance, const struct blob_header *header, struct export_root *out)
{
    memcpy(out->bytes, instance->export_root, sizeof out->bytes);
    if (instance->incoming.candidate || !instance->goes_back) return OK;
    return blob_export_root(&instance->crypto, instance->root_key, header->manager, out->bytes);
}

static struct err open_part(struct instance *instance, enum blob_kind kind, struct reader *r, struct blob *out)
{
    struct export_root root DEFER(wipe_export_root) = {0};
    struct blob_header header;
    struct span blob;
    TRY(blob_take(r, kind, &blob));
    TRY(blob_peek(blob, kind, &header));
    ENSURE(memcmp(&header.id, &instance->known.instance, sizeof header.id) == 0, STATE_OTHER_INSTANCE);
    TRY(find_root(instance, &header, &root));
    return blob_open(&instance->crypto, span_of(root.bytes, sizeof root.bytes), blob, kind, out);
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
static bool was_left(const struct instance *instance, const struct blob_header *header)
{
    const uint64_t start = instance->known.start;
    if (header->epoch != instance->known.epoch) return true;
    if (instance->incoming.candidate) return header->number + 1 != start;
    const bool own = header->number == start && instance->export.open;
    const bool of_before = header->number < start && instance->untouched;
    return !(own || of_before) || header->version != instance->newest.version;
}

/* An era ends with an act of the owner: what he put an end to, nobody else brings back. */
static struct err check_age(const struct instance *instance, const struct blob_header *header, bool *out_goes_back)
{
    *out_goes_back = was_left(instance, header);
    if (!*out_goes_back) return OK;
    ENSURE(instance->goes_back && !instance->incoming.candidate && header->era == instance->era, STATE_OLD);
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
static struct err leave(struct instance *instance, const struct opened *opened)
{
    if (instance->tpm.on) TRY(tpm_cut_off(&instance->tpm));
    instance->incoming.checked = false;
    instance->untouched = false;
    tpm_forget(&instance->tpm);
    clock_advance(opened->permanent.header.number);
    return OK;
}

/* To what is over: no other enclave may go on from it, and this one commits what becomes of it. */
static struct err go_back_to(struct instance *instance, const struct opened *opened)
{
    struct tpm_floors floors;
    TRY(leave(instance, opened));
    tpm_read_floors(&instance->tpm, &floors);
    TRY(tpm_go_back(&instance->tpm, plaintext_of(&opened->permanent), plaintext_of(&opened->volatile_state), &floors));
    export_forget(instance);
    instance->resumed = instance->keeps = false;
    instance->loads = true;
    return OK;
}

static struct err go_on_from(struct instance *instance, const struct opened *opened)
{
    struct incoming *incoming = &instance->incoming;
    const struct blob_header *header = &opened->volatile_state.header;
    TRY(leave(instance, opened));
    TRY(tpm_resume(&instance->tpm, plaintext_of(&opened->permanent), plaintext_of(&opened->volatile_state)));
    incoming->checked = incoming->candidate;
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
    bool goes_back = false;
    struct err taken = open_both(instance, span_of(import->bytes, import->size), &opened);
    if (!taken.code) taken = check_age(instance, &opened.volatile_state.header, &goes_back);
    if (!taken.code) {
        taken = (goes_back ? go_back_to : go_on_from)(instance, &opened);
        if (!instance->incoming.candidate) TRY(instance_fail_if(instance, taken));
    }
    import_forget(instance);
    client_begin_response(instance, taken);
    return instance->loads ? effect_settle(instance, out) : effect_release(instance, out);
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
    if (instance->goes_back) memcpy(instance->root_key, redeemed->root_key, sizeof instance->root_key);
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
