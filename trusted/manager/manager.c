/*
 * The program of the manager enclave: it decides who an instance is, who holds it, and which of its states is the
 * newest, and says so only when the ledger that says so is durable and anchored (abi/manager.h draws its states).
 *
 * Guarantees: one start in the enclave's life; nothing that depends on a store leaves before the anchor was seen to have
 * moved to that store; a ledger that is not where the anchor stands is refused; a record of K1 or of a peer session that
 * is not right changes nothing but the session. Not guaranteed: more than the kind of the anchor gives
 * (trusted/anchor/anchor.h), nor that the host stored what it says it stored.
 */
#include "trusted/manager/manager.h"

#include <string.h>

#include "base/memory.h"
#include "trusted/crypto/seed.h"
#include "trusted/door/door.h"
#include "trusted/manager/effect.h"
#include "trusted/manager/image.h"
#include "trusted/manager/verbs.h"
#include "trusted/runtime/cpuid.h"
#include "trusted/runtime/sgx.h"
#include "trusted/session/report.h"

#define STATE_BIT(state) (UINT32_C(1) << MANAGER_STATE_##state)

#define PRIMING_SIZE     (CAPABILITY_HINTS_SIZE + HOST_ENTROPY_SIZE)

static struct manager root;

/* An error behind the point where anything was begun is the end of this enclave. */
static struct err fail_if(struct manager *manager, struct err err)
{
    if (err.code) {
        ledger_close(&manager->ledger);
        channels_close(&manager->channels);
        members_close(&manager->members);
        outbox_close(&manager->outbox);
        anchoring_close(&manager->anchoring);
        link_close(&manager->k1);
        wipe(&manager->handover, sizeof manager->handover);
        recovery_close(&manager->recovery);
        manager->state = MANAGER_STATE_FAILED;
    }
    return err;
}

static struct err put_store(struct manager *manager, struct writer *out)
{
    static uint8_t store[LEDGER_STORE_MAX];
    struct writer w = writer_of(store, sizeof store);
    struct writer payload;
    TRY(ledger_store(&manager->ledger, &w));
    TRY(effect_begin(out, MANAGER_EFFECT_STORE, w.size, &payload));
    TRY(write_span(&payload, writer_span(&w)));
    return anchoring_move(manager, out);
}

/* vtpmd may finish K1 before the start record is anchored, or after that. */
static struct err say_ready(struct manager *manager, struct writer *out)
{
    uint8_t event[MANAGER_K1_HEADER_SIZE] = {MANAGER_READY};
    const struct span parts[] = {span_of(event, sizeof event)};
    if (manager->ready_said || manager->state != MANAGER_STATE_RUNNING || !manager->k1.finish_received) return OK;
    manager->ready_said = true;
    return outbox_put(manager, 0, MANAGER_EFFECT_RECORD, parts, 1, out);
}

/* The end of each call of a manager that is up, or on its way up. */
static struct err end_call(struct manager *manager, struct writer *out)
{
    if (manager->state == MANAGER_STATE_FAILED) return fail_if(manager, FAIL(ENCLAVE_DEAD));
    TRY(fail_if(manager, say_ready(manager, out)));
    bool busy = manager->anchoring.step != ANCHORING_NOTHING;
    return busy || !ledger_store_due(&manager->ledger) ? OK : fail_if(manager, put_store(manager, out));
}

/* ---- the beginning ---- */

/* What comes first in START and GREET. */
struct priming {
    uint32_t hints[CAPABILITY_HINTS_SIZE / sizeof(uint32_t)];
    uint8_t entropy[HOST_ENTROPY_SIZE];
    uint8_t share[X25519_SIZE];
};

static struct err read_priming(struct reader *r, struct priming *out)
{
    for (size_t i = 0; i < sizeof out->hints / sizeof *out->hints; i++)
        TRY(read_u32(r, &out->hints[i]));
    TRY(read_bytes(r, out->entropy, sizeof out->entropy));
    return read_bytes(r, out->share, sizeof out->share);
}

/* The first use of libcrypto in the enclave's life. */
static struct err init_crypto(struct manager *manager, const struct priming *priming)
{
    static const struct sgx_targetinfo nobody; /* the REPORT is read here, and verified nowhere */
    static const uint8_t no_data[SGX_REPORTDATA_SIZE];
    sgx_ereport(&nobody, no_data, &manager->own);
    cpuid_set_hints(priming->hints, manager->own.ATTRIBUTES.XFRM);
    TRY(crypto_init(&manager->crypto));
    return crypto_seed(&manager->crypto, span_of(priming->entropy, sizeof priming->entropy));
}

static struct ledger_owner ledger_owner_of(const struct manager *manager)
{
    return (struct ledger_owner){
        .crypto = &manager->crypto, .own = manager->own, .security_version = manager_image()->security_version};
}

static void wipe_x25519_key(struct x25519_key *key)
{
    wipe(key, sizeof *key);
}

/* The first word on K1: this enclave's share comes out of its first entry, by which vtpmd knows it. */
static struct err open_k1(struct manager *manager, const struct priming *priming, struct writer *out)
{
    struct x25519_key own DEFER(wipe_x25519_key) = {0};
    struct link_binding binding = {.kind = LINK_K1};
    struct writer payload;
    memcpy(binding.manager, manager->own.MRENCLAVE, sizeof binding.manager);
    TRY(x25519_generate(&manager->crypto, &own));
    struct link_keys keys = {.own = &own, .peer = priming->share};
    TRY(link_open(&manager->crypto, LINK_ENCLAVE, &binding, &keys, &manager->k1));
    TRY(effect_begin(out, MANAGER_EFFECT_LINK, X25519_SIZE + SGX_HASH_SIZE, &payload));
    TRY(write_bytes(&payload, own.public, X25519_SIZE));
    TRY(write_bytes(&payload, manager->own.MRENCLAVE, SGX_HASH_SIZE));
    TRY(effect_begin(out, MANAGER_EFFECT_RECORD, RECORD_OVERHEAD + SHA256_SIZE, &payload));
    return link_finish(&manager->k1, &payload);
}

struct start {
    uint32_t mode;
    struct priming priming;
    struct anchor_choice anchor;     /* START_NEW, START_RECOVER */
    struct recovery_choice recovery; /* START_NEW */
    struct span master;              /* START_OPEN */
    struct span record;              /* START_RECOVER */
    struct span head;
};

static struct err read_blob(struct reader *r, struct span *out)
{
    uint32_t size = 0;
    TRY(read_u32(r, &size));
    return read_span(r, size, out);
}

static struct err parse_stored(struct reader *r, struct span *out_first, struct span *out_head)
{
    TRY(read_blob(r, out_first));
    TRY(read_blob(r, out_head));
    ENSURE(out_first->size > 0 && out_head->size > 0, STATE_MISSING);
    return OK;
}

static struct err parse_start(struct span body, struct start *out)
{
    struct reader r = reader_of(body);
    TRY(read_u32(&r, &out->mode));
    TRY(read_priming(&r, &out->priming));
    ENSURE(out->mode >= MANAGER_START_NEW && out->mode <= MANAGER_START_RECOVER, BAD_VALUE);
    if (out->mode != MANAGER_START_OPEN) {
        TRY(anchoring_parse_choice(&r, &out->anchor));
        ENSURE(out->anchor.owner_auth.size <= ANCHOR_OWNER_AUTH_MAX, TOO_LARGE);
    }
    if (out->mode == MANAGER_START_OPEN) TRY(parse_stored(&r, &out->master, &out->head));
    if (out->mode == MANAGER_START_RECOVER) TRY(parse_stored(&r, &out->record, &out->head));
    if (out->mode == MANAGER_START_NEW) TRY(recovery_parse_choice(&r, &out->recovery));
    return reader_end(&r);
}

static struct err write_message(struct span message, struct writer *out)
{
    struct writer payload;
    TRY(effect_begin(out, MANAGER_EFFECT_MESSAGE, message.size, &payload));
    return write_span(&payload, message);
}

static struct err start_new(struct manager *manager, const struct start *start, struct writer *out)
{
    const struct ledger_owner owner = ledger_owner_of(manager);
    uint8_t record[RECOVERY_RECORD_MAX];
    struct writer w = writer_of(record, sizeof record);
    manager->state = MANAGER_STATE_ANCHORING;
    TRY(ledger_new(&owner, &manager->ledger));
    if (start->recovery.rule.count) {
        TRY(recovery_make(manager, &start->recovery, &w));
        TRY(write_message(writer_span(&w), out));
    }
    return anchoring_define(manager, &start->anchor, out);
}

static struct err start_recovery(struct manager *manager, const struct start *start, struct writer *out)
{
    uint8_t request[RECOVERY_REQUEST_SIZE];
    struct writer w = writer_of(request, sizeof request);
    manager->state = MANAGER_STATE_RECOVERING;
    TRY(recovery_begin(manager, start->record, start->head, &start->anchor, &w));
    return write_message(writer_span(&w), out);
}

static struct err start_manager(struct manager *manager, const struct start *start, struct writer *out)
{
    TRY(init_crypto(manager, &start->priming));
    TRY(open_k1(manager, &start->priming, out));
    if (start->mode == MANAGER_START_NEW) return start_new(manager, start, out);
    if (start->mode == MANAGER_START_RECOVER) return start_recovery(manager, start, out);
    const struct ledger_owner owner = ledger_owner_of(manager);
    manager->state = MANAGER_STATE_LOADING;
    return ledger_open(&owner, start->master, start->head, &manager->ledger);
}

static struct err call_start(void *ctx, struct span body, struct writer *out)
{
    struct start start = {0};
    TRY(parse_start(body, &start));
    return fail_if(ctx, start_manager(ctx, &start, out));
}

static struct err call_share(void *ctx, struct span body, struct writer *out)
{
    struct manager *manager = ctx;
    bool done = false;
    (void)out;
    struct err result = recovery_take(manager, body, &done);
    if (done && !result.code) manager->state = MANAGER_STATE_LOADING;
    bool harmless = !done && (result.code == ERR_AUTHENTICATION || result.code == ERR_BAD_VALUE);
    return harmless ? result : fail_if(manager, result);
}

static struct err load_rows(struct manager *manager, struct reader *r)
{
    uint32_t count = 0;
    TRY(read_u32(r, &count));
    for (uint32_t i = 0; i < count; i++) {
        struct span blob;
        TRY(read_blob(r, &blob));
        TRY(ledger_load_row(&manager->ledger, blob));
    }
    return reader_end(r);
}

static struct err call_rows(void *ctx, struct span body, struct writer *out)
{
    struct reader r = reader_of(body);
    (void)out;
    return fail_if(ctx, load_rows(ctx, &r));
}

static struct err call_loaded(void *ctx, struct span body, struct writer *out)
{
    struct manager *manager = ctx;
    (void)body; /* the table says that it is empty */
    TRY(fail_if(manager, ledger_loaded(&manager->ledger)));
    manager->state = MANAGER_STATE_ANCHORING;
    bool recovers = manager->recovery.record_size > 0;
    return fail_if(manager, recovers ? recovery_finish(manager, out) : anchoring_read(manager, out));
}

/* ---- running ---- */

static struct err call_record(void *ctx, struct span body, struct writer *out)
{
    struct manager *manager = ctx;
    static uint8_t plaintext[RECORD_MAX];
    enum link_event event = LINK_ENDED;
    size_t size = 0;
    TRY(link_receive(&manager->k1, body, &event, plaintext, &size));
    struct err err = event == LINK_DATA ? verbs_request(manager, span_of(plaintext, size), out) : OK;
    wipe(plaintext, size);
    TRY(err);
    return end_call(manager, out);
}

static struct err call_peer(void *ctx, struct span body, struct writer *out)
{
    struct manager *manager = ctx;
    struct reader r = reader_of(body);
    uint64_t channel = 0;
    TRY(read_u64(&r, &channel));
    TRY(channel_message(manager, channel, span_of(r.next, r.left), out));
    return end_call(manager, out);
}

static struct err take_answer(struct manager *manager, struct span answer, struct writer *out)
{
    enum anchoring_step over = ANCHORING_NOTHING;
    TRY(anchoring_answer(manager, answer, out, &over));
    if (over != ANCHORING_MOVE) return OK;
    manager->state = MANAGER_STATE_RUNNING; /* if it was the start record */
    TRY(channels_release(manager, out));
    return outbox_release(manager, out);
}

static struct err call_anchored(void *ctx, struct span body, struct writer *out)
{
    struct manager *manager = ctx;
    struct reader r = reader_of(body);
    uint64_t number = 0;
    TRY(read_u64(&r, &number));
    ENSURE(manager->anchoring.step != ANCHORING_NOTHING && number == manager->anchoring.number, BAD_VALUE);
    TRY(fail_if(manager, take_answer(manager, span_of(r.next, r.left), out)));
    return end_call(manager, out);
}

/* ---- the upgrade ---- */

static struct err call_who(void *ctx, struct span body, struct writer *out)
{
    const struct manager *manager = ctx;
    struct sgx_targetinfo own;
    /* EREPORT needs nothing of what a first call brings; START will bring it. */
    ENSURE(body.size == (manager->state == MANAGER_STATE_BLANK ? PRIMING_SIZE : 0), BAD_VALUE);
    report_own_target(&own);
    return write_message(span_of(&own, REPORT_TARGET_SIZE), out);
}

static struct err greet(struct manager *manager, const struct priming *priming, const struct sgx_targetinfo *old,
                        struct writer *out)
{
    uint8_t message[PEER_MESSAGE_MAX];
    struct writer w = writer_of(message, sizeof message);
    TRY(init_crypto(manager, priming));
    TRY(open_k1(manager, priming, out));
    TRY(handover_greet(manager, old, &w));
    manager->state = MANAGER_STATE_SUCCESSOR;
    return write_message(writer_span(&w), out);
}

static struct err call_greet(void *ctx, struct span body, struct writer *out)
{
    struct reader r = reader_of(body);
    struct priming priming;
    struct span bytes;
    struct sgx_targetinfo old;
    TRY(read_priming(&r, &priming));
    TRY(read_span(&r, REPORT_TARGET_SIZE, &bytes));
    TRY(reader_end(&r));
    TRY(report_parse_target(bytes, &old));
    return fail_if(ctx, greet(ctx, &priming, &old, out));
}

/* The ledger's newest head has to be anchored: the successor is told where the anchor stands with it. */
static struct err call_give(void *ctx, struct span body, struct writer *out)
{
    struct manager *manager = ctx;
    struct reader r = reader_of(body);
    struct span manifest;
    uint8_t message[PEER_MESSAGE_MAX];
    struct writer w = writer_of(message, sizeof message);
    TRY(read_span(&r, MANIFEST_SIZE, &manifest));
    ENSURE(manager->ledger.durable == manager->ledger.version, CALL_BUSY);
    TRY(handover_give(manager, manifest, span_of(r.next, r.left), &w));
    TRY(write_message(writer_span(&w), out));
    ledger_close(&manager->ledger);
    channels_close(&manager->channels);
    members_close(&manager->members);
    anchoring_close(&manager->anchoring);
    link_close(&manager->k1);
    manager->state = MANAGER_STATE_HANDED_OVER;
    return OK;
}

static void inheritance_wipe(struct ledger_inheritance *inheritance)
{
    wipe(inheritance, sizeof *inheritance);
}

static struct err take(struct manager *manager, struct span manifest, struct span gift, struct span head)
{
    struct ledger_inheritance inheritance DEFER(inheritance_wipe) = {0};
    TRY(handover_take(manager, manifest, gift, &inheritance));
    wipe(&manager->handover, sizeof manager->handover);
    struct ledger_owner owner = ledger_owner_of(manager);
    TRY(ledger_inherit(&owner, &inheritance, head, &manager->ledger));
    manager->state = MANAGER_STATE_LOADING;
    return OK;
}

static struct err call_take(void *ctx, struct span body, struct writer *out)
{
    struct reader r = reader_of(body);
    struct span manifest;
    struct span gift;
    struct span head;
    (void)out;
    TRY(read_span(&r, MANIFEST_SIZE, &manifest));
    TRY(read_blob(&r, &gift));
    TRY(read_blob(&r, &head));
    TRY(reader_end(&r));
    return fail_if(ctx, take(ctx, manifest, gift, head));
}

/* ---- the table ---- */

#define START_SIZE     (sizeof(uint32_t) + PRIMING_SIZE + X25519_SIZE)
#define START_OPEN_MAX (START_SIZE + 2 * sizeof(uint32_t) + 4096u)
#define ANCHORED_MAX   (sizeof(uint64_t) + ANCHOR_EXCHANGE_MAX)
#define GREET_SIZE     (PRIMING_SIZE + X25519_SIZE + REPORT_TARGET_SIZE)
#define TAKE_MAX       (MANIFEST_SIZE + 2 * sizeof(uint32_t) + PEER_MESSAGE_MAX + 4096u)

static const struct door_call calls[] = {
    {MANAGER_START, STATE_BIT(BLANK), START_SIZE, START_OPEN_MAX, call_start},
    {MANAGER_SHARE, STATE_BIT(RECOVERING), 1, RECOVERY_ANSWER_SIZE, call_share},
    {MANAGER_ROWS, STATE_BIT(LOADING), sizeof(uint32_t), CALL_BODY_MAX, call_rows},
    {MANAGER_LOADED, STATE_BIT(LOADING), 0, 0, call_loaded},
    {MANAGER_RECORD, STATE_BIT(ANCHORING) | STATE_BIT(RUNNING), 1, RECORD_MAX, call_record},
    {MANAGER_PEER, STATE_BIT(RUNNING), sizeof(uint64_t), sizeof(uint64_t) + PEER_MESSAGE_MAX, call_peer},
    {MANAGER_ANCHORED, STATE_BIT(ANCHORING) | STATE_BIT(RUNNING), sizeof(uint64_t), ANCHORED_MAX, call_anchored},
    {MANAGER_GREET, STATE_BIT(BLANK), GREET_SIZE, GREET_SIZE, call_greet},
    {MANAGER_GIVE, STATE_BIT(RUNNING), MANIFEST_SIZE, MANIFEST_SIZE + PEER_MESSAGE_MAX, call_give},
    {MANAGER_TAKE, STATE_BIT(SUCCESSOR), MANIFEST_SIZE, TAKE_MAX, call_take},
    {MANAGER_WHO, STATE_BIT(BLANK) | STATE_BIT(RUNNING), 0, PRIMING_SIZE, call_who},
};

static uint32_t state_of(const void *ctx)
{
    const struct manager *manager = ctx;
    return manager->state;
}

static struct err refusal(const void *ctx, uint32_t number)
{
    const struct manager *manager = ctx;
    (void)number;
    ENSURE(manager->state != MANAGER_STATE_HANDED_OVER, HANDED_OVER);
    ENSURE(manager->state != MANAGER_STATE_FAILED, ENCLAVE_DEAD);
    return FAIL(CALL_STATE);
}

const struct door_program door_program = {
    .calls = calls,
    .call_count = sizeof calls / sizeof calls[0],
    .ctx = &root,
    .state = state_of,
    .refusal = refusal,
};
