/*
 * The program of the instance enclave: one TPM, its sealed state, and the rule that no response to a command that
 * changed the state leaves before the manager has said that the new state is durable and recorded. abi/instance.h draws
 * the states.
 *
 *   FAILED: reached from anything that went wrong once libtpms' memory may be ahead of every state that was ever handed
 *   out. Nothing leads out of it, and nothing out of STOPPED: the receipt is the host's to keep.
 *
 * Guarantees: one START, one PROVISION and one TPM in the enclave's life; no TPM is made unless the manager said that
 * there never was one, and none in place of a state that is missing, old or damaged; a state that was refused leaves
 * the enclave able to take the right one. Not guaranteed: that the host carries what it is given.
 */
#include "trusted/instance/instance.h"

#include <string.h>

#include "base/memory.h"
#include "trusted/crypto/seed.h"
#include "trusted/door/door.h"
#include "trusted/runtime/clock.h"
#include "trusted/runtime/cpuid.h"
#include "trusted/runtime/sgx.h"

#define STATE_BIT(state) (UINT32_C(1) << (state))
#define STOP_SIZE        8u

static struct instance root;

void instance_forget(struct instance *instance)
{
    peer_close(&instance->peer);
    peer_close(&instance->resuming);
    link_close(&instance->link);
    tpm_forget(&instance->tpm);
    wipe(&instance->holder, sizeof instance->holder);
    wipe(&instance->known, sizeof instance->known);
    wipe(instance->root_key, sizeof instance->root_key);
    wipe(instance->root, sizeof instance->root);
    wipe(instance->export_root, sizeof instance->export_root);
    wipe(instance->request, sizeof instance->request);
    wipe(instance->response, sizeof instance->response);
    instance->response_size = 0;
    import_forget(instance);
    export_forget(instance);
    incoming_forget(instance);
}

struct err instance_fail_if(struct instance *instance, struct err err)
{
    if (err.code) {
        instance_forget(instance);
        instance->state = INSTANCE_FAILED;
    }
    return err;
}

/* INSTANCE_START, parsed */
struct start {
    uint32_t hints[4];
    uint8_t entropy[HOST_ENTROPY_SIZE];
    struct instance_id id;
};

static struct err parse_start(struct span body, struct start *out)
{
    struct reader r = reader_of(body);
    for (size_t i = 0; i < 4; i++)
        TRY(read_u32(&r, &out->hints[i]));
    TRY(read_bytes(&r, out->entropy, sizeof out->entropy));
    TRY(read_bytes(&r, out->id.bytes, sizeof out->id.bytes));
    return reader_end(&r);
}

/* The first use of libcrypto in the enclave's life. */
static struct err greet(struct instance *instance, const struct start *start)
{
    static const struct sgx_targetinfo nobody; /* the REPORT is read here, and verified nowhere */
    static const uint8_t no_data[SGX_REPORTDATA_SIZE];
    struct sgx_report own;
    sgx_ereport(&nobody, no_data, &own);
    cpuid_set_hints(start->hints, own.ATTRIBUTES.XFRM);
    TRY(crypto_init(&instance->crypto));
    TRY(crypto_seed(&instance->crypto, span_of(start->entropy, sizeof start->entropy)));
    TRY(ed25519_generate(&instance->crypto, &instance->holder));
    memcpy(instance->program, own.MRENCLAVE, sizeof instance->program);
    instance->known.instance = start->id;
    instance->state = INSTANCE_GREETED;
    return OK;
}

static struct err call_start(void *ctx, struct span body, struct writer *out)
{
    struct start start;
    (void)out;
    TRY(parse_start(body, &start));
    return instance_fail_if(ctx, greet(ctx, &start));
}

static struct err make_tpm(struct instance *instance, struct writer *out)
{
    TRY(tpm_power_on_new(&instance->tpm));
    return effect_settle(instance, out);
}

/* The states that a TPM is powered on from. */
struct opened {
    struct blob permanent;
    struct blob volatile_state; /* RESUME only */
};

static void free_opened(struct opened *opened)
{
    blob_free(&opened->permanent);
    blob_free(&opened->volatile_state);
}

static struct span plaintext_of(const struct blob *blob)
{
    return span_of(blob->plaintext, blob->plaintext_size);
}

static struct err revert(struct instance *instance, struct span permanent)
{
    struct tpm_floors floors;
    struct reader r = reader_of(span_of(instance->newest.floors, sizeof instance->newest.floors));
    TRY(tpm_floors_decode(&r, &floors));
    return tpm_power_on_reverted(&instance->tpm, permanent, &floors);
}

static struct err power_on(struct instance *instance, const struct opened *opened, struct writer *out)
{
    struct span permanent = plaintext_of(&opened->permanent);
    if (instance->mode == PEER_MODE_RESUME)
        TRY(tpm_resume(&instance->tpm, permanent, plaintext_of(&opened->volatile_state)));
    else if (instance->mode == PEER_MODE_REVERTED)
        TRY(revert(instance, permanent));
    else
        TRY(tpm_power_on(&instance->tpm, permanent));
    instance->resumed = instance->mode == PEER_MODE_RESUME;
    return effect_settle(instance, out);
}

static struct err open_under(struct instance *instance, struct span blob, enum blob_kind kind,
                             const uint8_t manager[SGX_HASH_SIZE], struct blob *out)
{
    struct state_root {
        uint8_t bytes[BLOB_ROOT_SIZE];
    } key;
    struct err err = blob_state_root(&instance->crypto, instance->root_key, manager, key.bytes);
    if (!err.code) err = blob_open(&instance->crypto, span_of(key.bytes, sizeof key.bytes), blob, kind, out);
    wipe(&key, sizeof key);
    return err;
}

/* Says what a state is that is not the one that the manager recorded. Never success. */
static struct err why_not(struct instance *instance, struct span blob)
{
    struct blob_header header;
    struct blob state DEFER(blob_free) = {0};
    TRY(blob_peek(blob, BLOB_STATE, &header));
    ENSURE(memcmp(&header.id, &instance->known.instance, sizeof header.id) == 0, STATE_OTHER_INSTANCE);
    TRY(open_under(instance, blob, BLOB_STATE, header.manager, &state)); /* before its version is believed */
    ENSURE(state.header.version >= instance->newest.version, STATE_OLD);
    return FAIL(STATE_NOT_RECORDED);
}

static struct err open_permanent(struct instance *instance, struct span blob, struct blob *out)
{
    uint8_t digest[SHA256_SIZE];
    TRY(hash_sha256(&instance->crypto, &blob, 1, digest));
    if (memcmp(digest, instance->newest.digest, sizeof digest) != 0) return why_not(instance, blob);
    return open_under(instance, blob, BLOB_STATE, instance->sealed_under, out);
}

/* The one that the manager named, and which was sealed together with this state. */
static struct err open_volatile(struct instance *instance, struct span blob, const struct blob_header *state,
                                struct blob *out)
{
    uint8_t digest[SHA256_SIZE];
    struct blob opened DEFER(blob_free) = {0};
    ENSURE(blob.size > 0, STATE_MISSING);
    TRY(hash_sha256(&instance->crypto, &blob, 1, digest));
    ENSURE(memcmp(digest, instance->newest.suspended, sizeof digest) == 0, STATE_NOT_RECORDED);
    TRY(open_under(instance, blob, BLOB_VOLATILE, instance->sealed_under, &opened));
    const struct blob_header *header = &opened.header;
    ENSURE(memcmp(&header->id, &state->id, sizeof header->id) == 0, STATE_OTHER_INSTANCE);
    ENSURE(header->epoch == state->epoch && header->version == state->version, STATE_NOT_RECORDED);
    *out = opened;
    opened = (struct blob){0}; /* now it is the caller's */
    return OK;
}

static struct err open_state(struct instance *instance, struct span stored, struct writer *out)
{
    struct reader r = reader_of(stored);
    struct span blob;
    struct opened opened DEFER(free_opened) = {0};
    ENSURE(stored.size > 0, STATE_MISSING);
    TRY(blob_take(&r, BLOB_STATE, &blob));
    TRY(open_permanent(instance, blob, &opened.permanent));
    if (instance->mode == PEER_MODE_RESUME)
        TRY(open_volatile(instance, span_of(r.next, r.left), &opened.permanent.header, &opened.volatile_state));
    /* Before libtpms looks at a clock: its time may not fall behind what an earlier life of this TPM has seen. */
    clock_advance(opened.permanent.header.number);
    return instance_fail_if(instance, power_on(instance, &opened, out));
}

static struct err load(struct instance *instance, struct span stored, struct writer *out)
{
    if (instance->newest.version > 0) return open_state(instance, stored, out);
    ENSURE(stored.size == 0, BAD_VALUE);
    const bool awaits = instance->mode == PEER_MODE_IMPORT || instance->mode == PEER_MODE_INCOMING;
    if (awaits) return effect_release(instance, out);
    return instance_fail_if(instance, make_tpm(instance, out));
}

static struct err call_load(void *ctx, struct span stored, struct writer *out)
{
    struct instance *instance = ctx;
    instance->held_back = HELD_READY;
    TRY(load(instance, stored, out));
    instance->untouched = true;
    if (!instance->goes_back) wipe(instance->root_key, sizeof instance->root_key);
    return OK;
}

/* A TPM that another enclave may go on from is not changed. */
static struct err stop(struct instance *instance, struct writer *out)
{
    if (instance->tpm.on) TRY((instance->export.open ? tpm_cut_off : tpm_power_off)(&instance->tpm));
    return effect_settle(instance, out);
}

/* Of both states before they are sealed: the host keeps them as one. */
static size_t suspended_max(void)
{
    return STATE_MAX - blob_size(BLOB_STATE, 0) - blob_size(BLOB_VOLATILE, 0);
}

/* What tpm_suspend does not take stays on, and is served as before. */
static struct err suspend(struct instance *instance, struct writer *out)
{
    struct span volatile_state;
    TRY(tpm_suspend(&instance->tpm, suspended_max(), &volatile_state));
    instance->held_back = HELD_RECEIPT;
    struct err err = instance_fail_if(instance, effect_settle_suspended(instance, volatile_state, out));
    tpm_forget(&instance->tpm); /* it is off, and sealed */
    return err;
}

static struct err parse_stop(struct span body, uint8_t *out_mode)
{
    static const uint8_t zeros[STOP_SIZE - 1];
    struct reader r = reader_of(body);
    TRY(read_u8(&r, out_mode));
    ENSURE(memcmp(r.next, zeros, sizeof zeros) == 0, BAD_VALUE); /* the table says how many there are */
    ENSURE(*out_mode == INSTANCE_STOP_OFF || *out_mode == INSTANCE_STOP_SUSPEND, BAD_VALUE);
    return OK;
}

static struct err call_stop(void *ctx, struct span body, struct writer *out)
{
    struct instance *instance = ctx;
    uint8_t mode = 0;
    TRY(parse_stop(body, &mode));
    ENSURE(!instance->incoming.candidate, CALL_STATE); /* it holds nothing that a receipt could be about */
    if (mode == INSTANCE_STOP_SUSPEND || instance->keeps) {
        struct err suspended = suspend(instance, out);
        if (!suspended.code || mode == INSTANCE_STOP_SUSPEND || instance->state == INSTANCE_FAILED) return suspended;
    }
    instance->held_back = HELD_RECEIPT;
    return instance_fail_if(instance, stop(instance, out));
}

static const struct door_call calls[] = {
    {INSTANCE_START, STATE_BIT(INSTANCE_BLANK), INSTANCE_START_SIZE, INSTANCE_START_SIZE, call_start},
    {INSTANCE_PEER,
     STATE_BIT(INSTANCE_GREETED) | STATE_BIT(INSTANCE_PROVEN) | STATE_BIT(INSTANCE_RUNNING) |
         STATE_BIT(INSTANCE_WAITING),
     1, PEER_MESSAGE_MAX, manager_message},
    {INSTANCE_LOAD, STATE_BIT(INSTANCE_PROVISIONED), 0, STATE_MAX, call_load},
    {INSTANCE_RECORD, STATE_BIT(INSTANCE_RUNNING), 0, RECORD_OVERHEAD + K2_MESSAGE_MAX, client_record},
    {INSTANCE_STOP, STATE_BIT(INSTANCE_RUNNING), STOP_SIZE, STOP_SIZE, call_stop},
    {INSTANCE_RESUME, STATE_BIT(INSTANCE_RUNNING) | STATE_BIT(INSTANCE_WAITING), 0, 0, manager_resume},
};

static uint32_t state_of(const void *ctx)
{
    const struct instance *instance = ctx;
    return instance->state;
}

static struct err refusal(const void *ctx, uint32_t number)
{
    const struct instance *instance = ctx;
    (void)number;
    ENSURE(instance->state != INSTANCE_WAITING, CALL_BUSY);
    ENSURE(instance->state != INSTANCE_FAILED, ENCLAVE_DEAD);
    return FAIL(CALL_STATE);
}

const struct door_program door_program = {
    .calls = calls,
    .call_count = sizeof calls / sizeof calls[0],
    .ctx = &root,
    .state = state_of,
    .refusal = refusal,
};
