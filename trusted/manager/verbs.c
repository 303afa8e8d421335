#include "trusted/manager/verbs.h"

#include <string.h>

#include "base/memory.h"
#include "trusted/manager/image.h"
#include "trusted/manager/lifecycle.h"
#include "trusted/manager/manager.h"
#include "trusted/runtime/clock.h"
#include "trusted/runtime/entropy.h"

#define LIST_HEADER_SIZE 8u
#define RESULTS_MAX      (LIST_HEADER_SIZE + MANAGER_LIST_MAX * MANAGER_ROW_SIZE)

_Static_assert(MANAGER_K1_HEADER_SIZE + RESULTS_MAX <= RECORD_PLAINTEXT_MAX, "an answer is one record");

/* A request under way: arguments in, results out. */
struct request {
    struct reader arguments;
    struct writer results;
    uint64_t store; /* what the answer waits for */
    struct writer *effects;
};

/* The row whose id is next in the arguments; the answer waits for what it says. The caller wipes it. */
static struct err read_row(struct manager *manager, struct request *request, struct ledger_row *out_row)
{
    struct instance_id id;
    TRY(read_bytes(&request->arguments, id.bytes, sizeof id.bytes));
    TRY(ledger_find(&manager->ledger, &id, out_row));
    request->store = out_row->store;
    return OK;
}

/* The end of each verb that changed a row. */
static struct err changed(struct manager *manager, struct request *request, struct ledger_row *row)
{
    TRY(ledger_change(&manager->ledger, row));
    request->store = row->store;
    return manager_broken(manager, row_write(row, &request->results));
}

/* Ids are random and never reused; that one comes twice is what a broken generator looks like. */
static void draw_id(struct instance_id *out)
{
    entropy_fill(out->bytes, sizeof out->bytes);
    out->bytes[6] = (uint8_t)((out->bytes[6] & 0x0f) | 0x40); /* RFC 9562, 5.4: version 4, */
    out->bytes[8] = (uint8_t)((out->bytes[8] & 0x3f) | 0x80); /* variant */
}

static struct err draw_unused_id(const struct ledger *ledger, struct instance_id *out)
{
    char text[ID_TEXT_SIZE];
    draw_id(out);
    id_format(out, text);
    return ledger_check_label(ledger, text);
}

/* What never changes of a TPM: where it comes from, its policy, its family. */
static struct err read_origin(struct reader *r, struct ledger_row *row)
{
    static const uint8_t zeros[4];
    uint8_t origin = 0;
    uint8_t lockout_heals = 0;
    uint8_t family = 0;
    uint8_t snapshots = 0;
    struct span reserved;
    TRY(read_u8(r, &origin));
    TRY(read_u8(r, &lockout_heals));
    TRY(read_u8(r, &family));
    TRY(read_u8(r, &snapshots));
    TRY(read_span(r, sizeof zeros, &reserved));
    ENSURE(origin == MANAGER_ORIGIN_HERE || origin == MANAGER_ORIGIN_IMPORTED, BAD_VALUE);
    ENSURE(lockout_heals >= PEER_LOCKOUT_TIME && lockout_heals <= PEER_LOCKOUT_NEVER, BAD_VALUE);
    ENSURE(family <= PEER_FAMILY_12 && memcmp(reserved.data, zeros, sizeof zeros) == 0, BAD_VALUE);
    ENSURE(snapshots <= PEER_SNAPSHOTS_ALLOWED, BAD_VALUE);
    bool plain = origin == MANAGER_ORIGIN_HERE && lockout_heals == PEER_LOCKOUT_TIME && !snapshots;
    ENSURE(family == PEER_FAMILY_20 || plain, TPM_FAMILY);
    row->origin = origin;
    row->lockout_heals = lockout_heals;
    row->family = family;
    row->snapshots = snapshots;
    return OK;
}

/* A new instance of that label, with an id and keys of its own. */
static struct err add_instance(struct manager *manager, struct request *request, struct ledger_row *row)
{
    struct instance_id uuid;
    TRY(row_check_label(row->label));
    /* A UUID has one spelling here, so that it is compared as one. */
    if (id_parse(row->label, &uuid).code == ERR_NONE) id_format(&uuid, row->label);
    TRY(ledger_check_label(&manager->ledger, row->label));
    TRY(draw_unused_id(&manager->ledger, &row->id));
    entropy_fill(row->root_key, sizeof row->root_key);
    TRY(ledger_add(&manager->ledger, row));
    request->store = row->store;
    return manager_broken(manager, row_write(row, &request->results));
}

static struct err create(struct manager *manager, struct request *request)
{
    struct ledger_row row DEFER(row_wipe) = {.state = MANAGER_PROVISIONED, .created = clock_now()};
    TRY(read_bytes(&request->arguments, row.label, sizeof row.label));
    TRY(read_bytes(&request->arguments, row.owner, sizeof row.owner));
    TRY(read_bytes(&request->arguments, row.front_key, sizeof row.front_key));
    TRY(read_origin(&request->arguments, &row));
    TRY(reader_end(&request->arguments));
    return add_instance(manager, request, &row);
}

static struct err put_create_enclave(struct manager *manager, const struct ledger_row *row, struct writer *effects)
{
    uint8_t bytes[INSTANCE_ID_SIZE + sizeof(uint64_t) + SGX_HASH_SIZE];
    struct writer w = writer_of(bytes, sizeof bytes);
    TRY(write_bytes(&w, row->id.bytes, sizeof row->id.bytes));
    TRY(write_u64(&w, row->start + 1));
    TRY(write_bytes(&w, manager_image()->instance, SGX_HASH_SIZE));
    const struct span parts[] = {writer_span(&w)};
    return outbox_put(manager, row->store, MANAGER_EFFECT_CREATE_ENCLAVE, parts, 1, effects);
}

static struct err start_instance(struct manager *manager, struct request *request)
{
    struct ledger_row row DEFER(row_wipe) = {0};
    TRY(read_row(manager, request, &row));
    TRY(reader_end(&request->arguments));
    TRY(lifecycle_check(&row, ACT_START));
    lifecycle_step(&row, ACT_START);
    TRY(changed(manager, request, &row));
    return put_create_enclave(manager, &row, request->effects);
}

/* What is incoming may be of another manager's instance, which was looked at. */
static struct err read_attached(struct manager *manager, struct request *request, enum act act,
                                struct ledger_row *out_row)
{
    struct reader id = request->arguments;
    struct err known = read_row(manager, request, out_row);
    if (act != ACT_TAKE_OVER || (!known.code && out_row->state != MANAGER_MOVED)) return known;
    request->arguments = id;
    return members_read_visitor(&manager->members, &request->arguments, out_row);
}

static struct err attach_as(struct manager *manager, struct request *request, enum act act)
{
    struct ledger_row row DEFER(row_wipe) = {0};
    uint64_t channel = 0;
    uint8_t front_share[X25519_SIZE];
    TRY(read_attached(manager, request, act, &row));
    TRY(read_u64(&request->arguments, &channel));
    TRY(read_bytes(&request->arguments, front_share, sizeof front_share));
    TRY(reader_end(&request->arguments));
    TRY(lifecycle_check(&row, act));
    return channel_attach(manager, channel, &row, front_share, act == ACT_TAKE_OVER, request->effects);
}

static struct err attach(struct manager *manager, struct request *request)
{
    return attach_as(manager, request, ACT_ATTACH);
}

static struct err attach_incoming(struct manager *manager, struct request *request)
{
    return attach_as(manager, request, ACT_TAKE_OVER);
}

static struct err reattach(struct manager *manager, struct request *request)
{
    struct ledger_row row DEFER(row_wipe) = {0};
    uint64_t channel = 0;
    TRY(read_u64(&request->arguments, &channel));
    TRY(read_row(manager, request, &row));
    TRY(reader_end(&request->arguments));
    TRY(lifecycle_check(&row, ACT_SERVE));
    return channel_reattach(manager, channel, &row);
}

static struct err detach(struct manager *manager, struct request *request)
{
    uint64_t channel = 0;
    TRY(read_u64(&request->arguments, &channel));
    TRY(reader_end(&request->arguments));
    channel_detach(manager, channel);
    return OK;
}

/* What a receipt says (abi/peer.h), compared with the row; the signature comes last because it costs most. */
static struct err check_receipt(const struct crypto *crypto, const struct ledger_row *row, struct span receipt)
{
    static const char label[16] = PEER_RECEIPT_LABEL;
    uint8_t expected[PEER_RECEIPT_SIGNED_SIZE];
    struct writer w = writer_of(expected, sizeof expected);
    TRY(write_bytes(&w, label, sizeof label));
    TRY(write_bytes(&w, row->id.bytes, sizeof row->id.bytes));
    TRY(write_u64(&w, row->epoch));
    TRY(write_u64(&w, row->start));
    TRY(write_u64(&w, row->version));
    TRY(write_bytes(&w, row->digest, sizeof row->digest));
    ENSURE(memcmp(receipt.data, expected, sizeof expected) == 0, RECEIPT);
    struct err verified = ed25519_verify(crypto, row->holder, writer_span(&w), receipt.data + sizeof expected);
    ENSURE(verified.code != ERR_AUTHENTICATION, RECEIPT);
    return verified;
}

static struct err stopped(struct manager *manager, struct request *request)
{
    struct span receipt;
    struct ledger_row row DEFER(row_wipe) = {0};
    struct reader all = request->arguments;
    TRY(read_span(&all, PEER_RECEIPT_SIZE, &receipt));
    TRY(reader_end(&all));
    TRY(read_span(&request->arguments, sizeof PEER_RECEIPT_LABEL, &(struct span){0}));
    TRY(read_row(manager, request, &row));
    TRY(lifecycle_check(&row, ACT_STOPPED));
    TRY(check_receipt(&manager->crypto, &row, receipt));
    lifecycle_step(&row, ACT_STOPPED);
    memset(row.holder, 0, sizeof row.holder);
    TRY(changed(manager, request, &row));
    return channels_end(manager, &row, 0, request->effects);
}

/* A start that nobody was admitted to is called off: no holder is lost by it. */
static struct err declare_dead(struct manager *manager, struct request *request)
{
    struct ledger_row row DEFER(row_wipe) = {0};
    TRY(read_row(manager, request, &row));
    TRY(reader_end(&request->arguments));
    TRY(lifecycle_check(&row, ACT_DECLARE_DEAD));
    if (row.state == MANAGER_HELD) {
        row.epoch++;
        row.deaths++;
        memset(row.holder, 0, sizeof row.holder);
    }
    lifecycle_step(&row, ACT_DECLARE_DEAD);
    TRY(changed(manager, request, &row));
    return channels_end(manager, &row, ERR_FENCED, request->effects);
}

static struct err challenge(struct manager *manager, struct request *request)
{
    struct ledger_row row DEFER(row_wipe) = {0};
    uint8_t nonce[OWNER_NONCE_SIZE];
    TRY(read_row(manager, request, &row));
    TRY(reader_end(&request->arguments));
    TRY(lifecycle_check(&row, ACT_CHALLENGE));
    owner_challenge(&manager->nonces, &row, nonce);
    return write_bytes(&request->results, nonce, sizeof nonce);
}

/*
 * The begin of an owner's act: the row, which the act is allowed on, and further arguments of this size, which the owner
 * signed where there is one. The caller wipes the row.
 */
static struct err read_act(struct manager *manager, struct request *request, enum manager_verb verb, enum act act,
                           size_t size, struct ledger_row *out_row, struct reader *out_arguments)
{
    uint8_t signature[ED25519_SIGNATURE_SIZE];
    struct span arguments;
    TRY(read_row(manager, request, out_row));
    TRY(read_bytes(&request->arguments, signature, sizeof signature));
    TRY(read_span(&request->arguments, size, &arguments));
    TRY(reader_end(&request->arguments));
    TRY(lifecycle_check(out_row, act));
    TRY(owner_check(&manager->nonces, &manager->ledger, out_row, verb, arguments, signature));
    *out_arguments = reader_of(arguments);
    return OK;
}

static struct err revert(struct manager *manager, struct request *request)
{
    struct ledger_row row DEFER(row_wipe) = {0};
    struct reader arguments;
    uint64_t version = 0;
    TRY(read_act(manager, request, MANAGER_REVERT, ACT_CHANGE, sizeof version + SHA256_SIZE + SGX_HASH_SIZE, &row,
                 &arguments));
    TRY(read_u64(&arguments, &version));
    TRY(read_bytes(&arguments, row.digest, sizeof row.digest));
    TRY(read_bytes(&arguments, row.sealed_by, sizeof row.sealed_by));
    ENSURE(row.family == PEER_FAMILY_20, TPM_FAMILY); /* its monotonic counters would go back */
    ENSURE(row.version != 0, STATE_MISSING);
    ENSURE(version == row.version + 1, BAD_VALUE);
    row.version = version;
    row.epoch++;
    row.reverted = true;
    memset(row.suspended, 0, sizeof row.suspended);
    return changed(manager, request, &row);
}

static struct err set_owner(struct manager *manager, struct request *request)
{
    struct ledger_row row DEFER(row_wipe) = {0};
    struct reader arguments;
    TRY(read_act(manager, request, MANAGER_SET_OWNER, ACT_CHANGE, sizeof row.owner, &row, &arguments));
    bool had_owner = row_has_owner(&row);
    TRY(read_bytes(&arguments, row.owner, sizeof row.owner));
    ENSURE(had_owner || table_has_room(&manager->ledger.table, &row), LEDGER_FULL);
    row.epoch++;
    return changed(manager, request, &row);
}

/* Nothing of the source but what its owner decided. The source goes on as it was: its epoch too. */
static struct err clone(struct manager *manager, struct request *request)
{
    struct ledger_row source DEFER(row_wipe) = {0};
    struct ledger_row row DEFER(row_wipe) = {
        .state = MANAGER_PROVISIONED, .created = clock_now(), .origin = MANAGER_ORIGIN_CLONE};
    struct reader arguments;
    TRY(read_act(manager, request, MANAGER_CLONE, ACT_CLONE, sizeof row.label, &source, &arguments));
    TRY(read_bytes(&arguments, row.label, sizeof row.label));
    memcpy(row.owner, source.owner, sizeof row.owner);
    memcpy(row.front_key, source.front_key, sizeof row.front_key);
    row.lockout_heals = source.lockout_heals;
    row.family = source.family;
    row.snapshots = source.snapshots;
    row.source = source.id;
    return add_instance(manager, request, &row);
}

static struct err delete (struct manager *manager, struct request *request)
{
    struct ledger_row row DEFER(row_wipe) = {0};
    struct reader arguments;
    TRY(read_act(manager, request, MANAGER_DELETE, ACT_DELETE, 0, &row, &arguments));
    lifecycle_step(&row, ACT_DELETE);
    row.epoch++;
    row.version = 0; /* the store removes the states */
    memset(row.digest, 0, sizeof row.digest);
    memset(row.sealed_by, 0, sizeof row.sealed_by);
    memset(row.provisioned_by, 0, sizeof row.provisioned_by);
    memset(row.suspended, 0, sizeof row.suspended);
    memset(row.floors, 0, sizeof row.floors);
    row.reverted = false;
    wipe(row.root_key, sizeof row.root_key);
    TRY(changed(manager, request, &row));
    return channels_end(manager, &row, ERR_DELETED, request->effects);
}

/* ---- between managers ---- */

static struct err member_ask(struct manager *manager, struct request *request)
{
    static const uint8_t zeros[7];
    uint8_t what = 0;
    struct span reserved;
    struct instance_id id;
    TRY(read_u8(&request->arguments, &what));
    TRY(read_span(&request->arguments, sizeof zeros, &reserved));
    TRY(read_bytes(&request->arguments, id.bytes, sizeof id.bytes));
    TRY(reader_end(&request->arguments));
    ENSURE(memcmp(reserved.data, zeros, sizeof zeros) == 0, BAD_VALUE);
    return members_ask(manager, (enum member_act)what, &id, &request->results, &request->store);
}

static struct err member_answer(struct manager *manager, struct request *request)
{
    const struct span question = span_of(request->arguments.next, request->arguments.left);
    return members_answer(manager, question, &request->results, &request->store, request->effects);
}

static struct err member_take(struct manager *manager, struct request *request)
{
    struct instance_id id;
    struct ledger_row row DEFER(row_wipe) = {0};
    TRY(read_bytes(&request->arguments, id.bytes, sizeof id.bytes));
    const struct span answer = span_of(request->arguments.next, request->arguments.left);
    TRY(members_take(manager, &id, answer, &row, request->effects));
    request->store = row.store;
    return row.state ? manager_broken(manager, row_write(&row, &request->results)) : OK;
}

static struct err show(struct manager *manager, struct request *request)
{
    struct ledger_row row DEFER(row_wipe) = {0};
    TRY(read_row(manager, request, &row));
    TRY(reader_end(&request->arguments));
    return row_write(&row, &request->results);
}

static struct err list(struct manager *manager, struct request *request)
{
    uint32_t first = 0;
    uint32_t reserved = 0;
    TRY(read_u32(&request->arguments, &first));
    TRY(read_u32(&request->arguments, &reserved));
    TRY(reader_end(&request->arguments));
    ENSURE(reserved == 0, BAD_VALUE);
    uint32_t slots = ledger_slots(&manager->ledger);
    uint32_t left = first < slots ? slots - first : 0;
    uint32_t count = left < MANAGER_LIST_MAX ? left : MANAGER_LIST_MAX;
    TRY(write_u32(&request->results, count));
    TRY(write_u32(&request->results, count < left ? first + count : 0));
    for (uint32_t slot = first; slot < first + count; slot++) {
        struct ledger_row row DEFER(row_wipe) = {0};
        ledger_read(&manager->ledger, slot, &row);
        if (row.store > request->store) request->store = row.store;
        TRY(row_write(&row, &request->results));
    }
    return OK;
}

/* Version, root and counts are those of the newest durable head. */
static struct err status(struct manager *manager, struct request *request)
{
    const struct ledger *ledger = &manager->ledger;
    struct writer *w = &request->results;
    TRY(reader_end(&request->arguments));
    TRY(write_bytes(w, ledger->domain.bytes, sizeof ledger->domain.bytes));
    TRY(write_bytes(w, manager->own.MRENCLAVE, SGX_HASH_SIZE));
    TRY(write_bytes(w, manager_image()->instance, SGX_HASH_SIZE));
    TRY(write_bytes(w, manager->own.MRSIGNER, SGX_HASH_SIZE));
    TRY(write_bytes(w, manager_image()->release_key, SHA256_SIZE));
    TRY(write_u32(w, ledger->security_version));
    TRY(write_u32(w, ledger->counts.slots));
    TRY(write_u32(w, ledger->counts.held));
    TRY(write_u32(w, ledger->counts.deleted));
    TRY(write_u64(w, ledger->durable));
    TRY(write_bytes(w, ledger->root, sizeof ledger->root));
    TRY(write_u32(w, ledger->anchor.kind));
    TRY(write_u32(w, ledger->anchor.nv_index));
    TRY(write_bytes(w, ledger->value, sizeof ledger->value));
    TRY(write_u32(w, ledger->recovery.threshold));
    TRY(write_u32(w, ledger->recovery.count));
    return write_bytes(w, ledger->member.bytes, sizeof ledger->member.bytes);
}

static struct err run(struct manager *manager, uint16_t verb, struct request *request)
{
    static const struct {
        enum manager_verb verb;
        struct err (*run)(struct manager *manager, struct request *request);
    } verbs[] = {
        {MANAGER_CREATE, create},
        {MANAGER_START_INSTANCE, start_instance},
        {MANAGER_ATTACH, attach},
        {MANAGER_REATTACH, reattach},
        {MANAGER_DETACH, detach},
        {MANAGER_STOPPED, stopped},
        {MANAGER_DECLARE_DEAD, declare_dead},
        {MANAGER_CHALLENGE, challenge},
        {MANAGER_DELETE, delete},
        {MANAGER_SHOW, show},
        {MANAGER_LIST, list},
        {MANAGER_STATUS, status},
        {MANAGER_REVERT, revert},
        {MANAGER_SET_OWNER, set_owner},
        {MANAGER_CLONE, clone},
        {MANAGER_ATTACH_INCOMING, attach_incoming},
        {MANAGER_MEMBER_ASK, member_ask},
        {MANAGER_MEMBER_ANSWER, member_answer},
        {MANAGER_MEMBER_TAKE, member_take},
    };
    ENSURE(manager->state == MANAGER_STATE_RUNNING, CALL_BUSY);
    /* A connection that is gone is forgotten whatever waits. */
    ENSURE(!outbox_full(&manager->outbox) || verb == MANAGER_DETACH, CALL_BUSY);
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        if (verbs[i].verb == verb) return verbs[i].run(manager, request);
    return FAIL(CALL_UNKNOWN);
}

struct err verbs_request(struct manager *manager, struct span bytes, struct writer *out)
{
    static uint8_t results[RESULTS_MAX];
    struct request request = {
        .arguments = reader_of(bytes), .results = writer_of(results, sizeof results), .effects = out};
    uint16_t verb = 0;
    uint16_t zero16 = 0;
    uint32_t zero32 = 0;
    uint64_t number = 0;
    TRY(read_u16(&request.arguments, &verb));
    TRY(read_u16(&request.arguments, &zero16));
    TRY(read_u32(&request.arguments, &zero32));
    TRY(read_u64(&request.arguments, &number));
    ENSURE(zero16 == 0 && zero32 == 0 && number != 0, BAD_VALUE);

    struct err err = run(manager, verb, &request);
    uint8_t header[MANAGER_K1_HEADER_SIZE];
    struct writer w = writer_of(header, sizeof header);
    TRY(write_u16(&w, verb));
    TRY(write_u16(&w, err.code));
    TRY(write_u32(&w, 0));
    TRY(write_u64(&w, number));
    const struct span parts[] = {writer_span(&w), err.code ? span_empty() : writer_span(&request.results)};
    return outbox_put(manager, request.store, MANAGER_EFFECT_RECORD, parts, 2, out);
}
