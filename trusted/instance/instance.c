/*
 * The program of the instance enclave: one TPM, its sealed state, and the rule that no reply to a command that changed
 * the state leaves before the host has said that the new state is durable.
 *
 *            START_CREATE                 CALL_STORED(number)
 *   BLANK ─────────────────► WAITING ◄──────────────────────────► RUNNING
 *     │        START_OPEN                a commit                    │
 *     └──────────────────────────────────────────────────────────────►
 *
 *   FAILED: reached from a START that went wrong once anything was initialised, and from a commit that could not be
 *   sealed, because libtpms' memory is then ahead of every state that was ever handed out. Nothing leads out of it.
 *
 * Guarantees: one START in the enclave's life; versions grow by one with each commit; only the number of the very store
 * that is under way releases its reply, and the reply is wiped when it leaves. Not guaranteed: that the host made the
 * store durable when it says so, nor that the state it opens is the newest.
 */
#include <string.h>

#include "abi/call.h"
#include "base/memory.h"
#include "trusted/crypto/crypto.h"
#include "trusted/door/door.h"
#include "trusted/runtime/clock.h"
#include "trusted/runtime/cpuid.h"
#include "trusted/runtime/entropy.h"
#include "trusted/runtime/sgx.h"
#include "trusted/state/blob.h"
#include "trusted/tpm/tpm.h"

enum instance_state {
    INSTANCE_BLANK = 0,
    INSTANCE_RUNNING = 1, /* the TPM is on, or was switched off */
    INSTANCE_WAITING = 2, /* for CALL_STORED */
    INSTANCE_FAILED = 3,
};
#define STATE_BIT(state) (UINT32_C(1) << (state))

static struct instance {
    enum instance_state state;
    struct crypto crypto;
    struct blob_sealer sealer;
    struct tpm tpm;
    struct blob_identity identity; /* of the newest state that was handed out */
    size_t reply_size;             /* bytes of reply; 0 if none waits */
    uint8_t reply[TPM_BUFFER_MAX];
} root;

/* Writes an effect's header and reserves its payload, which the caller fills. */
static struct err write_effect(struct writer *out, enum effect_kind kind, size_t size, struct writer *out_payload)
{
    uint8_t *payload = NULL;
    size_t padded = (size + CALL_ALIGNMENT - 1) / CALL_ALIGNMENT * CALL_ALIGNMENT;
    TRY(write_u32(out, kind));
    TRY(write_u32(out, (uint32_t)size));
    TRY(write_zeros(out, padded, &payload));
    *out_payload = writer_of(payload, size);
    return OK;
}

/* The version is that of the store which follows in the same call, if one does. */
static struct err write_instance_effect(const struct instance *instance, struct writer *out)
{
    struct writer payload;
    TRY(write_effect(out, EFFECT_INSTANCE, INSTANCE_ID_SIZE + sizeof(uint64_t), &payload));
    TRY(write_bytes(&payload, instance->identity.instance, INSTANCE_ID_SIZE));
    return write_u64(&payload, instance->identity.version + (instance->tpm.commit_pending ? 1 : 0));
}

static struct err write_store_effect(struct instance *instance, struct span permanent, struct writer *out)
{
    struct blob_identity next = instance->identity;
    next.version++;
    next.time = clock_now();
    struct writer payload;
    TRY(write_effect(out, EFFECT_STORE, EFFECT_STORE_FIXED_SIZE + blob_size(permanent.size), &payload));
    TRY(write_u64(&payload, next.version));
    TRY(blob_seal(&instance->crypto, &instance->sealer, &next, permanent, &payload));
    instance->identity = next;
    return OK;
}

static struct err write_reply_effect(struct instance *instance, struct writer *out)
{
    if (instance->reply_size == 0) return OK;
    struct writer payload;
    TRY(write_effect(out, EFFECT_REPLY, instance->reply_size, &payload));
    TRY(write_bytes(&payload, instance->reply, instance->reply_size));
    wipe(instance->reply, instance->reply_size);
    instance->reply_size = 0;
    return OK;
}

/* The end of every call that ran libtpms: what it wants kept goes out first, and the reply waits for that. */
static struct err commit_or_reply(struct instance *instance, struct writer *out)
{
    struct span permanent;
    if (!tpm_take_commit(&instance->tpm, &permanent)) return write_reply_effect(instance, out);
    TRY(write_store_effect(instance, permanent, out));
    instance->state = INSTANCE_WAITING;
    return OK;
}

/* An error behind the point where libtpms may have changed its memory is the end. */
static struct err fail_if(struct instance *instance, struct err err)
{
    if (err.code) {
        instance->state = INSTANCE_FAILED;
        wipe(instance->reply, sizeof instance->reply);
        instance->reply_size = 0;
    }
    return err;
}

/* CALL_START, parsed */
struct start {
    uint32_t mode;
    uint8_t instance[INSTANCE_ID_SIZE];
    uint32_t hints[4];
    uint8_t entropy[HOST_ENTROPY_SIZE];
    struct span blob;
};

static bool is_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i]) return false;
    return true;
}

static struct err parse_start(struct span body, struct start *out)
{
    struct reader r = reader_of(body);
    uint32_t blob_bytes = 0;
    TRY(read_u32(&r, &out->mode));
    TRY(read_bytes(&r, out->instance, sizeof out->instance));
    for (size_t i = 0; i < 4; i++)
        TRY(read_u32(&r, &out->hints[i]));
    TRY(read_bytes(&r, out->entropy, sizeof out->entropy));
    TRY(read_u32(&r, &blob_bytes));
    TRY(read_span(&r, blob_bytes, &out->blob));
    TRY(reader_end(&r));
    switch (out->mode) {
    case START_CREATE:
        ENSURE(is_zero(out->instance, sizeof out->instance) && out->blob.size == 0, BAD_VALUE);
        return OK;
    case START_OPEN:
        ENSURE(out->blob.size > 0, STATE_MISSING);
        return OK;
    default:
        return FAIL(BAD_VALUE);
    }
}

/* The first use of libcrypto in the enclave's life. */
static struct err init_crypto(struct instance *instance, const struct start *start)
{
    static const struct sgx_targetinfo nobody; /* the REPORT is read here, and verified nowhere */
    static const uint8_t no_data[SGX_REPORTDATA_SIZE];
    struct sgx_report own;
    sgx_ereport(&nobody, no_data, &own);
    cpuid_set_hints(start->hints, own.ATTRIBUTES.XFRM);
    TRY(crypto_init(&instance->crypto));
    TRY(crypto_seed(&instance->crypto, span_of(start->entropy, sizeof start->entropy)));
    return blob_sealer_init(&instance->crypto, &own, &instance->sealer);
}

/* A UUID of version 4 (RFC 9562, 5.4). */
static void draw_id(uint8_t out[INSTANCE_ID_SIZE])
{
    entropy_fill(out, INSTANCE_ID_SIZE);
    out[6] = (uint8_t)((out[6] & 0x0f) | 0x40);
    out[8] = (uint8_t)((out[8] & 0x3f) | 0x80);
}

static struct err create(struct instance *instance)
{
    TRY(tpm_power_on_new(&instance->tpm));
    draw_id(instance->identity.instance);
    return OK;
}

static struct err open_state(struct instance *instance, const struct start *start)
{
    struct blob_state state DEFER(blob_state_free) = {0};
    TRY(blob_open(&instance->crypto, &instance->sealer, start->blob, start->instance, &state));
    /* Before libtpms looks at a clock: its time may not fall behind what an earlier life of this TPM has seen. */
    clock_advance(state.identity.time);
    TRY(tpm_power_on(&instance->tpm, span_of(state.plaintext, state.plaintext_size)));
    instance->identity = state.identity;
    return OK;
}

static struct err start_instance(struct instance *instance, const struct start *start, struct writer *out)
{
    TRY(init_crypto(instance, start));
    if (start->mode == START_CREATE)
        TRY(create(instance));
    else
        TRY(open_state(instance, start));
    instance->state = INSTANCE_RUNNING;
    TRY(write_instance_effect(instance, out));
    return commit_or_reply(instance, out);
}

static struct err call_start(void *ctx, struct span body, struct writer *out)
{
    struct instance *instance = ctx;
    struct start start;
    TRY(parse_start(body, &start));
    return fail_if(instance, start_instance(instance, &start, out));
}

static struct err run_command(struct instance *instance, uint8_t locality, struct span command, struct writer *out)
{
    struct writer reply = writer_of(instance->reply, sizeof instance->reply);
    TRY(tpm_command(&instance->tpm, locality, command, &reply));
    instance->reply_size = reply.size;
    return commit_or_reply(instance, out);
}

static struct err call_tpm_command(void *ctx, struct span body, struct writer *out)
{
    struct instance *instance = ctx;
    struct reader r = reader_of(body);
    uint8_t locality = 0;
    TRY(read_u8(&r, &locality));
    ENSURE(locality <= TPM_LOCALITY_MAX, BAD_VALUE);
    ENSURE(instance->tpm.on, TPM_OFF);
    return fail_if(instance, run_command(instance, locality, span_of(r.next, r.left), out));
}

static struct err call_stored(void *ctx, struct span body, struct writer *out)
{
    struct instance *instance = ctx;
    struct reader r = reader_of(body);
    uint64_t number = 0;
    TRY(read_u64(&r, &number));
    TRY(reader_end(&r));
    ENSURE(number == instance->identity.version, BAD_VALUE);
    instance->state = INSTANCE_RUNNING;
    return fail_if(instance, write_reply_effect(instance, out));
}

static struct err reset(struct instance *instance, struct writer *out)
{
    TRY(tpm_reset(&instance->tpm));
    return commit_or_reply(instance, out);
}

static struct err call_tpm_reset(void *ctx, struct span body, struct writer *out)
{
    (void)body; /* the table says that it is empty */
    return fail_if(ctx, reset(ctx, out));
}

static struct err power_off(struct instance *instance, struct writer *out)
{
    TRY(tpm_power_off(&instance->tpm));
    return commit_or_reply(instance, out);
}

static struct err call_tpm_off(void *ctx, struct span body, struct writer *out)
{
    struct instance *instance = ctx;
    (void)body;
    ENSURE(instance->tpm.on, TPM_OFF);
    return fail_if(instance, power_off(instance, out));
}

static const struct door_call calls[] = {
    {CALL_START, STATE_BIT(INSTANCE_BLANK), CALL_START_FIXED_SIZE, CALL_START_MAX, call_start},
    {CALL_TPM_COMMAND, STATE_BIT(INSTANCE_RUNNING), 1, CALL_TPM_COMMAND_MAX, call_tpm_command},
    {CALL_STORED, STATE_BIT(INSTANCE_WAITING), sizeof(uint64_t), sizeof(uint64_t), call_stored},
    {CALL_TPM_RESET, STATE_BIT(INSTANCE_RUNNING), 0, 0, call_tpm_reset},
    {CALL_TPM_OFF, STATE_BIT(INSTANCE_RUNNING), 0, 0, call_tpm_off},
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
