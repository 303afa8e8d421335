#include "trusted/manager/channels.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "crypto/hkdf.h"
#include "trusted/manager/effect.h"
#include "trusted/manager/image.h"
#include "trusted/manager/lifecycle.h"
#include "trusted/manager/manager.h"

enum channel_step {
    STEP_CHALLENGED,
    STEP_ADMITTING, /* its start waits for its store */
    STEP_CANDIDATE, /* it may take over */
    STEP_REDEEMING, /* another manager is being asked */
    STEP_OPEN,
    STEP_REATTACHED,
    STEP_ACCEPTED,
    STEP_COUNT,
};

enum due { DUE_ADMISSION = 1, DUE_ANCHORED = 2, DUE_LEASE = 4, DUE_REDEEMED = 8 };

struct channel {
    struct peer peer;
    struct channel *next;
    struct channel *next_due;
    uint64_t number;
    uint32_t slot;
    struct ledger_row *elsewhere; /* as another manager told it, and the slot is none; else NULL */
    enum channel_step step;
    unsigned due;                   /* enum due, */
    uint64_t due_store;             /* which waits for this store */
    uint64_t lease;                 /* the number that was asked with */
    bool ready;                     /* READY was said */
    bool incoming;                  /* it takes over, or has done so in this session */
    uint8_t suspended[SHA256_SIZE]; /* what this start resumes; zeros: nothing */
    uint8_t front_share[X25519_SIZE];
};

static struct channel **find(struct channels *channels, uint64_t number)
{
    struct channel **place = &channels->buckets[number % CHANNEL_BUCKETS];
    while (*place && (*place)->number != number)
        place = &(*place)->next;
    return place;
}

/* The caller wipes it. */
static struct ledger_row row_of(const struct manager *manager, const struct channel *channel)
{
    struct ledger_row row;
    if (channel->elsewhere) return *channel->elsewhere;
    ledger_read(&manager->ledger, channel->slot, &row);
    return row;
}

static void forget_elsewhere(struct channel *channel)
{
    if (channel->elsewhere) row_wipe(channel->elsewhere);
    free(channel->elsewhere);
    channel->elsewhere = NULL;
}

static void free_channel(struct channel *channel)
{
    peer_close(&channel->peer);
    forget_elsewhere(channel);
    wipe(channel, sizeof *channel);
    free(channel);
}

static void forget_due(struct channels *channels, const struct channel *channel)
{
    for (struct channel **place = &channels->due; *place; place = &(*place)->next_due) {
        if (*place != channel) continue;
        *place = channel->next_due;
        return;
    }
}

static void remove_channel(struct channels *channels, struct channel **place)
{
    struct channel *channel = *place;
    if (channel->due) forget_due(channels, channel);
    *place = channel->next;
    channels->count--;
    free_channel(channel);
}

static struct err add_channel(struct manager *manager, uint64_t number, const struct ledger_row *row,
                              struct channel **out_channel)
{
    struct channels *channels = &manager->channels;
    struct channel **place = find(channels, number);
    ENSURE(number != 0 && !*place, BAD_VALUE);
    ENSURE(channels->count < MANAGER_CHANNELS_MAX, NO_MEMORY);
    struct channel *channel = calloc(1, sizeof *channel);
    ENSURE(channel, NO_MEMORY);
    channel->number = number;
    channel->slot = row->slot;
    *place = channel;
    channels->count++;
    *out_channel = channel;
    return OK;
}

static struct err put_message(struct manager *manager, const struct channel *channel, uint64_t store,
                              struct span message, struct writer *out)
{
    uint8_t number[sizeof(uint64_t)];
    struct writer w = writer_of(number, sizeof number);
    TRY(write_u64(&w, channel->number));
    const struct span parts[] = {writer_span(&w), message};
    return outbox_put(manager, store, MANAGER_EFFECT_SEND, parts, 2, out);
}

/* An event of K1 that names the channel and the instance. */
static struct err put_event(struct manager *manager, const struct channel *channel, enum manager_event event,
                            uint16_t code, uint64_t store, struct writer *out)
{
    uint8_t bytes[MANAGER_K1_HEADER_SIZE + sizeof(uint64_t) + INSTANCE_ID_SIZE];
    struct writer w = writer_of(bytes, sizeof bytes);
    struct ledger_row row DEFER(row_wipe) = row_of(manager, channel);
    TRY(write_u16(&w, event));
    TRY(write_u16(&w, code));
    TRY(write_u32(&w, 0));
    TRY(write_u64(&w, 0));
    TRY(write_u64(&w, channel->number));
    TRY(write_bytes(&w, row.id.bytes, sizeof row.id.bytes));
    const struct span parts[] = {writer_span(&w)};
    return outbox_put(manager, store, MANAGER_EFFECT_RECORD, parts, 1, out);
}

/* A refusal depends on no store: it takes away, and gives nothing. */
static struct err refuse(struct manager *manager, struct channel **place, uint16_t code, struct writer *out)
{
    uint8_t bytes[2 * sizeof(uint64_t)];
    struct writer w = writer_of(bytes, sizeof bytes);
    TRY(write_u64(&w, (*place)->number));
    TRY(write_u64(&w, code)); /* u16, u8[6] 0 */
    const struct span parts[] = {writer_span(&w)};
    TRY(put_event(manager, *place, MANAGER_REFUSED, code, 0, out));
    remove_channel(&manager->channels, place);
    return outbox_put(manager, 0, MANAGER_EFFECT_CLOSE, parts, 1, out);
}

static struct err challenge(struct manager *manager, struct channel *channel, const struct ledger_row *row,
                            struct writer *out)
{
    uint8_t message[PEER_MESSAGE_MAX];
    struct writer w = writer_of(message, sizeof message);
    TRY(peer_challenge(&manager->crypto, &row->id, row->start + 1, manager->ledger.value, &channel->peer, &w));
    return put_message(manager, channel, row->store, writer_span(&w), out);
}

static struct err keep_elsewhere(struct channel *channel, const struct ledger_row *row)
{
    channel->elsewhere = malloc(sizeof *row);
    ENSURE(channel->elsewhere, NO_MEMORY);
    *channel->elsewhere = *row;
    return OK;
}

struct err channel_attach(struct manager *manager, uint64_t number, const struct ledger_row *row,
                          const uint8_t front_share[X25519_SIZE], bool incoming, struct writer *out)
{
    struct channel *channel = NULL;
    TRY(add_channel(manager, number, row, &channel));
    channel->step = STEP_CHALLENGED;
    channel->incoming = incoming;
    memcpy(channel->front_share, front_share, sizeof channel->front_share);
    struct err err = row->slot == LEDGER_ELSEWHERE ? keep_elsewhere(channel, row) : OK;
    if (!err.code) err = challenge(manager, channel, row, out);
    if (err.code) remove_channel(&manager->channels, find(&manager->channels, number));
    return err;
}

struct err channel_reattach(struct manager *manager, uint64_t number, const struct ledger_row *row)
{
    struct channel *channel = NULL;
    TRY(add_channel(manager, number, row, &channel));
    channel->step = STEP_REATTACHED;
    return OK;
}

void channel_detach(struct manager *manager, uint64_t number)
{
    struct channel **place = find(&manager->channels, number);
    if (*place) remove_channel(&manager->channels, place);
}

/* ---- what waits for a store, or not ---- */

static struct err say(struct manager *manager, struct channel *channel, enum peer_word word, struct span fields,
                      struct writer *out)
{
    uint8_t message[PEER_MESSAGE_MAX];
    struct writer w = writer_of(message, sizeof message);
    TRY(peer_send(&channel->peer, word, fields, &w));
    return put_message(manager, channel, 0, writer_span(&w), out);
}

struct provision {
    uint8_t bytes[PEER_PROVISION_SIZE];
};

static void provision_wipe(struct provision *provision)
{
    wipe(provision, sizeof *provision);
}

static enum link_kind link_kind_of(const struct ledger_row *row)
{
    return row_has_front_key(row) ? LINK_K2_ENROLLED : LINK_K2_NAMED;
}

/* By the master secret and not by the root key, which an enclave that was fenced knows as well. */
static struct err resumption_of(const struct manager *manager, const struct ledger_row *row,
                                struct peer_resumption *out)
{
    static const char label[] = "vtpm resumption";
    uint8_t info[sizeof label - 1 + 2 * sizeof(uint64_t) + ED25519_PUBLIC_SIZE];
    struct writer w = writer_of(info, sizeof info);
    *out = (struct peer_resumption){.instance = row->id, .epoch = row->epoch, .start = row->start};
    memcpy(out->holder, row->holder, sizeof out->holder);
    TRY(write_bytes(&w, label, sizeof label - 1));
    TRY(write_u64(&w, row->epoch));
    TRY(write_u64(&w, row->start));
    TRY(write_bytes(&w, row->holder, sizeof row->holder));
    const struct span master = span_of(manager->ledger.master, sizeof manager->ledger.master);
    return hkdf_sha256(&manager->crypto, master, span_of(row->id.bytes, sizeof row->id.bytes), writer_span(&w),
                       out->key, sizeof out->key);
}

static void resumption_wipe(struct peer_resumption *known)
{
    wipe(known, sizeof *known);
}

static enum peer_mode mode_of(const struct ledger_row *row)
{
    if (row->reverted) return PEER_MODE_REVERTED;
    if (row->version) return PEER_MODE_OPEN;
    return row->origin == MANAGER_ORIGIN_IMPORTED ? PEER_MODE_IMPORT : PEER_MODE_NEW;
}

/* The head of PROVISION. */
static struct err write_provision_head(const struct ledger_row *row, uint64_t start, enum peer_mode mode,
                                       struct writer *w)
{
    uint8_t *padding = NULL;
    TRY(write_bytes(w, row->id.bytes, sizeof row->id.bytes));
    TRY(write_u64(w, row->epoch));
    TRY(write_u64(w, start));
    TRY(write_u8(w, (uint8_t)mode));
    TRY(write_u8(w, (uint8_t)link_kind_of(row)));
    TRY(write_u8(w, (uint8_t)row->lockout_heals));
    TRY(write_u8(w, (uint8_t)row->family));
    TRY(write_u8(w, (uint8_t)row->snapshots));
    return write_zeros(w, 3, &padding);
}

/* And its end. */
static struct err write_provision_tail(const struct ledger_row *row, const struct channel *channel, struct writer *w)
{
    TRY(write_bytes(w, channel->front_share, X25519_SIZE));
    TRY(write_bytes(w, row->front_key, sizeof row->front_key));
    return write_u64(w, row_era(row));
}

struct export_root {
    uint8_t bytes[BLOB_ROOT_SIZE];
};

static void export_root_wipe(struct export_root *root)
{
    wipe(root, sizeof *root);
}

/* Of a candidate: what opens the exports of the holder, and nothing that is sealed for the store. */
static struct err write_incoming(const struct manager *manager, const struct ledger_row *row,
                                 const struct channel *channel, struct writer *w)
{
    struct export_root root DEFER(export_root_wipe) = {0};
    uint8_t *zeros = NULL;
    if (channel->elsewhere) /* its manager told no other key */
        memcpy(root.bytes, row->root_key, sizeof root.bytes);
    else
        TRY(blob_export_root(&manager->crypto, row->root_key, row->provisioned_by, root.bytes));
    TRY(write_provision_head(row, channel->peer.transcript.start, PEER_MODE_INCOMING, w));
    TRY(write_bytes(w, root.bytes, sizeof root.bytes));
    TRY(write_zeros(w, PEER_RESUMPTION_KEY_SIZE + SGX_HASH_SIZE + sizeof(uint64_t) + 2 * SHA256_SIZE + PEER_FLOORS_SIZE,
                    &zeros));
    return write_provision_tail(row, channel, w);
}

static struct err write_provision(const struct manager *manager, const struct ledger_row *row,
                                  const struct channel *channel, struct writer *w)
{
    static const uint8_t none[SHA256_SIZE];
    static const uint8_t no_floors[PEER_FLOORS_SIZE];
    const bool resumes = memcmp(channel->suspended, none, sizeof none) != 0;
    struct peer_resumption known DEFER(resumption_wipe) = {0};
    TRY(resumption_of(manager, row, &known));
    TRY(write_provision_head(row, row->start, resumes ? PEER_MODE_RESUME : mode_of(row), w));
    TRY(write_bytes(w, row->root_key, sizeof row->root_key));
    TRY(write_bytes(w, known.key, sizeof known.key));
    TRY(write_bytes(w, row->sealed_by, sizeof row->sealed_by));
    TRY(write_u64(w, row->version));
    TRY(write_bytes(w, row->digest, sizeof row->digest));
    TRY(write_bytes(w, channel->suspended, sizeof channel->suspended));
    TRY(write_bytes(w, row->reverted ? row->floors : no_floors, sizeof row->floors));
    return write_provision_tail(row, channel, w);
}

static struct err say_admission(struct manager *manager, struct channel *channel, struct writer *out)
{
    struct ledger_row row DEFER(row_wipe) = row_of(manager, channel);
    uint8_t message[PEER_MESSAGE_MAX];
    struct writer w = writer_of(message, sizeof message);
    TRY(peer_admit(&manager->crypto, &channel->peer, &w));
    TRY(put_message(manager, channel, 0, writer_span(&w), out));

    struct provision provision DEFER(provision_wipe) = {0};
    w = writer_of(provision.bytes, sizeof provision.bytes);
    TRY((channel->incoming ? write_incoming : write_provision)(manager, &row, channel, &w));
    TRY(say(manager, channel, PEER_PROVISION, writer_span(&w), out));

    uint8_t state[2 * sizeof(uint64_t) + INSTANCE_ID_SIZE];
    w = writer_of(state, sizeof state);
    TRY(write_u64(&w, channel->number));
    TRY(write_bytes(&w, row.id.bytes, sizeof row.id.bytes));
    TRY(write_u64(&w, channel->incoming ? 0 : row.version));
    const struct span parts[] = {writer_span(&w)};
    channel->step = channel->incoming ? STEP_CANDIDATE : STEP_OPEN;
    return outbox_put(manager, 0, MANAGER_EFFECT_STATE, parts, 1, out);
}

static struct err say_anchored(struct manager *manager, struct channel *channel, struct writer *out)
{
    struct ledger_row row DEFER(row_wipe) = row_of(manager, channel);
    uint8_t fields[sizeof(uint64_t) + SHA256_SIZE];
    struct writer w = writer_of(fields, sizeof fields);
    TRY(write_u64(&w, row.version));
    TRY(write_bytes(&w, row.digest, sizeof row.digest));
    return say(manager, channel, PEER_ANCHORED, writer_span(&w), out);
}

static struct err say_lease(struct manager *manager, struct channel *channel, struct writer *out)
{
    uint8_t fields[sizeof(uint64_t)];
    struct writer w = writer_of(fields, sizeof fields);
    TRY(write_u64(&w, channel->lease));
    return say(manager, channel, PEER_LEASE, writer_span(&w), out);
}

static struct err say_redeemed(struct manager *manager, struct channel *channel, struct writer *out)
{
    struct ledger_row row DEFER(row_wipe) = row_of(manager, channel);
    struct peer_resumption known DEFER(resumption_wipe) = {0};
    struct provision fields DEFER(provision_wipe) = {0};
    struct writer w = writer_of(fields.bytes, PEER_REDEEMED_SIZE);
    TRY(resumption_of(manager, &row, &known));
    TRY(write_bytes(&w, row.root_key, sizeof row.root_key));
    TRY(write_bytes(&w, known.key, sizeof known.key));
    channel->step = STEP_OPEN;
    TRY(put_event(manager, channel, MANAGER_REDEEMED, 0, 0, out));
    return say(manager, channel, PEER_REDEEMED, writer_span(&w), out);
}

static struct err say_due(struct manager *manager, struct channel *channel, struct writer *out)
{
    unsigned due = channel->due;
    channel->due = 0;
    if (due & DUE_REDEEMED) TRY(say_redeemed(manager, channel, out));
    if (due & DUE_ADMISSION) TRY(say_admission(manager, channel, out));
    if (due & DUE_ANCHORED) TRY(say_anchored(manager, channel, out));
    if (due & DUE_LEASE) TRY(say_lease(manager, channel, out));
    return OK;
}

/* Says it when this store is durable: at once if it is. */
static struct err owe_at(struct manager *manager, struct channel *channel, enum due due, uint64_t store,
                         struct writer *out)
{
    if (!channel->due) {
        channel->next_due = manager->channels.due;
        manager->channels.due = channel;
        channel->due_store = 0;
    }
    channel->due |= due;
    if (channel->due_store < store) channel->due_store = store;
    if (channel->due_store > manager->ledger.durable) return OK;
    forget_due(&manager->channels, channel);
    return say_due(manager, channel, out);
}

/* The same with what the row says. */
static struct err owe(struct manager *manager, struct channel *channel, enum due due, struct writer *out)
{
    struct ledger_row row DEFER(row_wipe) = row_of(manager, channel);
    return owe_at(manager, channel, due, row.store, out);
}

/* A row that was changed again has a later store, but it was durable in between with what is owed. */
struct err channels_release(struct manager *manager, struct writer *out)
{
    struct channel **place = &manager->channels.due;
    while (*place) {
        struct channel *channel = *place;
        if (channel->due_store > manager->ledger.durable) {
            place = &channel->next_due;
            continue;
        }
        *place = channel->next_due;
        TRY(manager_broken(manager, say_due(manager, channel, out)));
    }
    return OK;
}

/* ---- what an instance may say ---- */

/* A new start of the row, by the enclave on this channel. */
static struct err begin_start(struct manager *manager, struct channel *channel, enum act act, struct ledger_row *row)
{
    /* Another enclave of this instance may have come and gone since the challenge. */
    ENSURE(channel->peer.transcript.start == row->start + 1, FENCED);
    lifecycle_step(row, act);
    row->start++;
    memcpy(row->holder, channel->peer.transcript.holder, sizeof row->holder);
    memcpy(row->provisioned_by, manager->own.MRENCLAVE, sizeof row->provisioned_by);
    /* This start is the only one that may resume: recorded before it is told of what. */
    memcpy(channel->suspended, row->suspended, sizeof channel->suspended);
    memset(row->suspended, 0, sizeof row->suspended);
    return ledger_change(&manager->ledger, row);
}

static struct err take_proof(struct manager *manager, struct channel *channel, struct span message, struct writer *out)
{
    struct ledger_row row DEFER(row_wipe) = row_of(manager, channel);
    const enum act act = channel->incoming ? ACT_TAKE_OVER : ACT_ADMIT;
    TRY(peer_check_proof(&manager->crypto, &channel->peer, message, manager_image()->instance));
    TRY(lifecycle_check(&row, act));
    if (!channel->incoming) TRY(begin_start(manager, channel, act, &row));
    channel->step = STEP_ADMITTING;
    return owe(manager, channel, DUE_ADMISSION, out);
}

static struct err take_resume(struct manager *manager, struct channel *channel, struct span message, struct writer *out)
{
    struct ledger_row row DEFER(row_wipe) = row_of(manager, channel);
    TRY(lifecycle_check(&row, ACT_SERVE));
    struct peer_resumption known DEFER(resumption_wipe) = {0};
    TRY(resumption_of(manager, &row, &known));
    uint8_t answer[PEER_MESSAGE_MAX];
    struct writer w = writer_of(answer, sizeof answer);
    TRY(peer_accept(&manager->crypto, message, &known, &channel->peer, &w));
    channel->step = STEP_ACCEPTED;
    return put_message(manager, channel, row.store, writer_span(&w), out);
}

/* It may take over one day, and is no session of a holder. */
static bool is_candidate(const struct channel *channel)
{
    return channel->incoming && channel->step != STEP_OPEN;
}

/* The sessions of the row but this one: those of holders, or all. */
static struct err end_others(struct manager *manager, const struct channel *holder, bool candidates, uint16_t code,
                             struct writer *out)
{
    for (size_t i = 0; i < CHANNEL_BUCKETS; i++) {
        struct channel **place = &manager->channels.buckets[i];
        while (*place) {
            const struct channel *channel = *place;
            if (channel == holder || channel->slot != holder->slot || (is_candidate(channel) && !candidates))
                place = &(*place)->next;
            else
                TRY(refuse(manager, place, code, out));
        }
    }
    return OK;
}

static struct err take_confirm(struct manager *manager, struct channel *channel, struct span message,
                               struct writer *out)
{
    struct ledger_row row DEFER(row_wipe) = row_of(manager, channel);
    TRY(lifecycle_check(&row, ACT_SERVE));
    struct peer_resumption known DEFER(resumption_wipe) = {0};
    TRY(resumption_of(manager, &row, &known));
    TRY(peer_check_confirmation(&manager->crypto, &known, &channel->peer, message));
    channel->step = STEP_OPEN;
    channel->ready = true;                                          /* before that there is nothing to resume */
    TRY(end_others(manager, channel, false, ERR_LINK_CLOSED, out)); /* one session for one holder */
    return put_event(manager, channel, MANAGER_RESUMED, 0, row.store, out);
}

static struct err take_ready(struct manager *manager, struct channel *channel, struct span fields, struct writer *out)
{
    struct ledger_row row DEFER(row_wipe) = row_of(manager, channel);
    ENSURE(fields.size == X25519_SIZE, BAD_VALUE);
    ENSURE(!channel->ready, LINK_ORDER);
    channel->ready = true;
    uint8_t event[MANAGER_K1_HEADER_SIZE + INSTANCE_ID_SIZE + 24 + X25519_SIZE + 2 * SGX_HASH_SIZE];
    uint8_t *padding = NULL;
    struct writer w = writer_of(event, sizeof event);
    TRY(write_u16(&w, MANAGER_STARTED));
    TRY(write_zeros(&w, 14, &padding));
    TRY(write_bytes(&w, row.id.bytes, sizeof row.id.bytes));
    TRY(write_u64(&w, row.epoch));
    TRY(write_u64(&w, channel->incoming ? channel->peer.transcript.start : row.start));
    TRY(write_u8(&w, (uint8_t)link_kind_of(&row)));
    TRY(write_u8(&w, channel->incoming));
    TRY(write_zeros(&w, 6, &padding));
    TRY(write_span(&w, fields));
    TRY(write_bytes(&w, manager->own.MRENCLAVE, SGX_HASH_SIZE));
    TRY(write_bytes(&w, channel->peer.other_program, SGX_HASH_SIZE));
    const struct span parts[] = {writer_span(&w)};
    return outbox_put(manager, row.store, MANAGER_EFFECT_RECORD, parts, 1, out);
}

/* The version that is recorded is said again, if it is not the next one: nothing is recorded twice. */
static struct err take_state(struct manager *manager, struct channel *channel, struct span fields, bool loaded,
                             struct writer *out)
{
    struct ledger_row row DEFER(row_wipe) = row_of(manager, channel);
    struct reader r = reader_of(fields);
    uint64_t version = 0;
    struct span digest;
    struct span suspended;
    struct span floors;
    TRY(read_u64(&r, &version));
    TRY(read_span(&r, SHA256_SIZE, &digest));
    TRY(read_span(&r, SHA256_SIZE, &suspended));
    TRY(read_span(&r, PEER_FLOORS_SIZE, &floors));
    TRY(reader_end(&r));
    if (version == row.version && version != 0) { /* said again */
        ENSURE(memcmp(digest.data, row.digest, SHA256_SIZE) == 0, STATE_OLD);
        ENSURE(memcmp(suspended.data, row.suspended, SHA256_SIZE) == 0, STATE_OLD);
        return owe(manager, channel, DUE_ANCHORED, out);
    }
    ENSURE(version > row.version, STATE_OLD);
    ENSURE(version == row.version + 1, BAD_VALUE);
    ENSURE(!(channel->due & DUE_ANCHORED), LINK_ORDER);
    row.version = version;
    memcpy(row.digest, digest.data, sizeof row.digest);
    memcpy(row.suspended, suspended.data, sizeof row.suspended);
    memcpy(row.floors, floors.data, sizeof row.floors);
    row.reverted = false;
    memcpy(row.sealed_by, row.provisioned_by, sizeof row.sealed_by);
    row.loads += loaded;
    TRY(ledger_change(&manager->ledger, &row));
    if (loaded) TRY(put_event(manager, channel, MANAGER_SNAPSHOT_LOADED, 0, row.store, out));
    return owe(manager, channel, DUE_ANCHORED, out);
}

static struct err take_commit(struct manager *manager, struct channel *channel, struct span fields, struct writer *out)
{
    return take_state(manager, channel, fields, false, out);
}

static struct err take_loaded(struct manager *manager, struct channel *channel, struct span fields, struct writer *out)
{
    struct ledger_row row DEFER(row_wipe) = row_of(manager, channel);
    ENSURE(row.snapshots == PEER_SNAPSHOTS_ALLOWED, STATE_OLD);
    return take_state(manager, channel, fields, true, out);
}

/*
 * The first word after an export decides. If it is this one, the state is still the newest, and the start that exported it
 * too; if that one went on, it has committed since.
 */
static struct err take_redeem(struct manager *manager, struct channel *channel, struct span fields, struct writer *out)
{
    struct ledger_row row DEFER(row_wipe) = row_of(manager, channel);
    struct reader r = reader_of(fields);
    uint64_t epoch = 0;
    uint64_t start = 0;
    uint64_t version = 0;
    TRY(read_u64(&r, &epoch));
    TRY(read_u64(&r, &start));
    TRY(read_u64(&r, &version));
    TRY(reader_end(&r));
    ENSURE(channel->ready && !channel->due, LINK_ORDER);
    /* Another manager has gone on since it told the row: it compares for itself. */
    const bool newest = channel->elsewhere ? version >= row.version : version == row.version;
    ENSURE(epoch == row.epoch && start == row.start && newest && version > 0, FENCED);
    TRY(lifecycle_check(&row, ACT_TAKE_OVER));
    if (channel->elsewhere) {
        TRY(members_redeem(manager, &row, channel->number, version));
        channel->step = STEP_REDEEMING;
        return put_event(manager, channel, MANAGER_REDEEMING, 0, 0, out);
    }
    TRY(begin_start(manager, channel, ACT_TAKE_OVER, &row));
    channel->step = STEP_ADMITTING;
    TRY(end_others(manager, channel, true, ERR_FENCED, out));
    return owe(manager, channel, DUE_REDEEMED, out);
}

const uint8_t *channel_redeeming(struct manager *manager, uint64_t number, uint64_t start)
{
    const struct channel *channel = *find(&manager->channels, number);
    const bool waits = channel && channel->step == STEP_REDEEMING && channel->peer.transcript.start == start + 1;
    return waits ? channel->peer.transcript.holder : NULL;
}

struct err channel_arrived(struct manager *manager, uint64_t number, const struct ledger_row *row, struct writer *out)
{
    struct channel *channel = *find(&manager->channels, number);
    forget_elsewhere(channel);
    channel->slot = row->slot;
    channel->step = STEP_ADMITTING;
    TRY(end_others(manager, channel, true, ERR_FENCED, out));
    return owe(manager, channel, DUE_REDEEMED, out);
}

/* From memory it would be worth nothing: a manager on another copy of the store may have gone on since. */
static struct err take_ask_lease(struct manager *manager, struct channel *channel, struct span fields,
                                 struct writer *out)
{
    struct reader r = reader_of(fields);
    TRY(read_u64(&r, &channel->lease));
    TRY(reader_end(&r));
    return owe_at(manager, channel, DUE_LEASE, ledger_ask_record(&manager->ledger), out);
}

static struct err take_word(struct manager *manager, struct channel *channel, struct span message, struct writer *out)
{
    static const struct {
        enum peer_word word;
        enum channel_step step; /* in which it is heard, */
        enum act act;           /* if the row allows this */
        struct err (*take)(struct manager *, struct channel *, struct span fields, struct writer *);
    } words[] = {
        {PEER_READY, STEP_OPEN, ACT_SERVE, take_ready},
        {PEER_COMMIT, STEP_OPEN, ACT_SERVE, take_commit},
        {PEER_LOADED, STEP_OPEN, ACT_SERVE, take_loaded},
        {PEER_ASK_LEASE, STEP_OPEN, ACT_SERVE, take_ask_lease},
        {PEER_READY, STEP_CANDIDATE, ACT_TAKE_OVER, take_ready},
        {PEER_REDEEM, STEP_CANDIDATE, ACT_TAKE_OVER, take_redeem},
    };
    uint8_t plaintext[PEER_MESSAGE_MAX];
    enum peer_word word = 0;
    struct span fields;
    TRY(peer_receive(&channel->peer, message, &word, plaintext, &fields));
    struct ledger_row row DEFER(row_wipe) = row_of(manager, channel);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (words[i].word != word || words[i].step != channel->step) continue;
        TRY(lifecycle_check(&row, words[i].act));
        return words[i].take(manager, channel, fields, out);
    }
    return FAIL(LINK_ORDER);
}

static struct err take_message(struct manager *manager, struct channel *channel, struct span message,
                               struct writer *out)
{
    static const struct {
        uint8_t kind; /* the message's first byte */
        struct err (*take)(struct manager *, struct channel *, struct span message, struct writer *);
    } allowed[STEP_COUNT] = {
        [STEP_CHALLENGED] = {PEER_PROOF, take_proof},   [STEP_CANDIDATE] = {RECORD_DATA, take_word},
        [STEP_OPEN] = {RECORD_DATA, take_word},         [STEP_REATTACHED] = {PEER_RESUME, take_resume},
        [STEP_ACCEPTED] = {PEER_CONFIRM, take_confirm},
    };
    ENSURE(message.size > 0, TRUNCATED);
    ENSURE(message.size <= PEER_MESSAGE_MAX, TOO_LARGE);
    ENSURE(allowed[channel->step].take && allowed[channel->step].kind == message.data[0], LINK_ORDER);
    return allowed[channel->step].take(manager, channel, message, out);
}

struct err channel_message(struct manager *manager, uint64_t number, struct span message, struct writer *out)
{
    struct channel *channel = *find(&manager->channels, number);
    ENSURE(channel, LINK_CLOSED);
    struct err err = take_message(manager, channel, message, out);
    if (!err.code) return OK;
    struct channel **place = find(&manager->channels, number);
    return refuse(manager, place, err.code, out);
}

struct err channels_end(struct manager *manager, const struct ledger_row *row, uint16_t code, struct writer *out)
{
    for (size_t i = 0; i < CHANNEL_BUCKETS; i++) {
        struct channel **place = &manager->channels.buckets[i];
        while (*place) {
            bool meant = (*place)->slot == row->slot && (code || (*place)->step == STEP_OPEN);
            if (!meant)
                place = &(*place)->next;
            else if (code)
                TRY(refuse(manager, place, code, out));
            else
                remove_channel(&manager->channels, place);
        }
    }
    return OK;
}

void channels_close(struct channels *channels)
{
    for (size_t i = 0; i < CHANNEL_BUCKETS; i++)
        while (channels->buckets[i])
            remove_channel(channels, &channels->buckets[i]);
}
