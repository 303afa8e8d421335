/*
 * Guarantees: a response, READY and the receipt leave only when the newest state is the one that the manager recorded;
 * versions grow by one with each commit; a response is wiped when it leaves.
 */
#include "trusted/instance/instance.h"

#include <string.h>

#include "base/memory.h"
#include "trusted/runtime/clock.h"
#include "trusted/runtime/entropy.h"

struct err effect_reserve(struct writer *out, enum instance_effect kind, size_t size, struct writer *out_payload)
{
    uint8_t *payload = NULL;
    size_t padded = (size + CALL_ALIGNMENT - 1) / CALL_ALIGNMENT * CALL_ALIGNMENT;
    TRY(write_u32(out, kind));
    TRY(write_u32(out, (uint32_t)size));
    TRY(write_zeros(out, padded, &payload));
    *out_payload = writer_of(payload, size);
    return OK;
}

struct err effect_peer(struct writer *out, struct span message)
{
    struct writer payload;
    TRY(effect_reserve(out, INSTANCE_EFFECT_PEER, message.size, &payload));
    return write_span(&payload, message);
}

struct err effect_say(struct instance *instance, enum peer_word word, struct span fields, struct writer *out)
{
    if (instance->peer.step != PEER_ESTABLISHED) return OK;
    uint8_t bytes[PEER_MESSAGE_MAX];
    struct writer message = writer_of(bytes, sizeof bytes);
    struct err err = peer_send(&instance->peer, word, fields, &message);
    if (err.code == ERR_LINK_CLOSED) return OK;
    TRY(err);
    return effect_peer(out, writer_span(&message));
}

struct err effect_say_commit(struct instance *instance, struct writer *out)
{
    uint8_t fields[PEER_COMMIT_SIZE];
    struct writer w = writer_of(fields, sizeof fields);
    TRY(write_u64(&w, instance->newest.version));
    TRY(write_bytes(&w, instance->newest.digest, sizeof instance->newest.digest));
    TRY(write_bytes(&w, instance->newest.suspended, sizeof instance->newest.suspended));
    TRY(write_bytes(&w, instance->newest.floors, sizeof instance->newest.floors));
    return effect_say(instance, instance->newest.loaded ? PEER_LOADED : PEER_COMMIT, writer_span(&w), out);
}

struct err effect_ask_lease(struct instance *instance, struct writer *out)
{
    uint8_t fields[sizeof(uint64_t)];
    struct writer w = writer_of(fields, sizeof fields);
    struct lease *lease = &instance->lease;
    entropy_fill(&lease->number, sizeof lease->number);
    lease->asked = true;
    lease->since_asked = 0;
    TRY(write_u64(&w, lease->number));
    return effect_say(instance, PEER_ASK_LEASE, writer_span(&w), out);
}

struct err effect_seal(struct instance *instance, struct span root, enum blob_kind kind, uint64_t number,
                       struct span plaintext, struct writer *out)
{
    struct blob_header header = {
        .kind = kind,
        .id = instance->known.instance,
        .epoch = instance->known.epoch,
        .version = instance->newest.version,
        .number = number,
        .era = instance->era,
    };
    memcpy(header.manager, instance->manager, sizeof header.manager);
    return blob_seal(&instance->crypto, root, &header, span_empty(), plaintext, out);
}

/* Appends it and hashes it. */
static struct err seal(struct instance *instance, enum blob_kind kind, uint64_t number, struct span plaintext,
                       struct writer *payload, uint8_t out_digest[SHA256_SIZE])
{
    size_t before = payload->size;
    TRY(effect_seal(instance, span_of(instance->root, sizeof instance->root), kind, number, plaintext, payload));
    struct span blob = span_of(payload->start + before, payload->size - before);
    return hash_sha256(&instance->crypto, &blob, 1, out_digest);
}

static struct err write_store(struct instance *instance, struct span permanent, struct span volatile_state,
                              struct writer *out)
{
    struct recorded_state *newest = &instance->newest;
    size_t size = sizeof newest->version + blob_size(BLOB_STATE, permanent.size);
    if (volatile_state.size > 0) size += blob_size(BLOB_VOLATILE, volatile_state.size);
    struct writer payload;
    struct writer w = writer_of(newest->floors, sizeof newest->floors);
    struct tpm_floors floors;
    ENSURE(!instance->incoming.candidate, CALL_STATE); /* it has no root yet: it would seal under zeros */
    TRY(effect_reserve(out, INSTANCE_EFFECT_STORE, size, &payload));
    newest->version++;
    newest->loaded = instance->loads;
    instance->loads = false;
    TRY(write_u64(&payload, newest->version));
    TRY(seal(instance, BLOB_STATE, clock_now(), permanent, &payload, newest->digest));
    memset(newest->suspended, 0, sizeof newest->suspended);
    if (volatile_state.size > 0)
        TRY(seal(instance, BLOB_VOLATILE, instance->known.start, volatile_state, &payload, newest->suspended));
    tpm_read_floors(&instance->tpm, &floors);
    return tpm_floors_encode(&floors, &w);
}

static struct err write_health(struct instance *instance, struct writer *out)
{
    bool failure_mode = tpm_in_failure_mode(&instance->tpm);
    if (failure_mode == instance->failure_mode) return OK;
    struct writer payload;
    TRY(effect_reserve(out, INSTANCE_EFFECT_HEALTH, sizeof(uint32_t), &payload));
    TRY(write_u32(&payload, failure_mode ? INSTANCE_TPM_FAILURE_MODE : INSTANCE_TPM_WORKS));
    instance->failure_mode = failure_mode;
    return OK;
}

struct err effect_settle_suspended(struct instance *instance, struct span volatile_state, struct writer *out)
{
    struct span permanent;
    TRY(write_health(instance, out));
    if (!tpm_take_commit(&instance->tpm, &permanent)) return effect_release(instance, out);
    TRY(write_store(instance, permanent, volatile_state, out));
    instance->state = INSTANCE_WAITING;
    instance->under_way = UNDER_WAY_COMMIT;
    return effect_say_commit(instance, out);
}

struct err effect_settle(struct instance *instance, struct writer *out)
{
    return effect_settle_suspended(instance, span_empty(), out);
}

static struct err release_ready(struct instance *instance, struct writer *out)
{
    instance->ready = true;
    return effect_say(instance, PEER_READY, span_of(instance->share, sizeof instance->share), out);
}

static struct err release_response(struct instance *instance, struct writer *out)
{
    struct writer payload;
    TRY(effect_reserve(out, INSTANCE_EFFECT_RECORD, RECORD_OVERHEAD + instance->response_size, &payload));
    TRY(link_send(&instance->link, span_of(instance->response, instance->response_size), &payload));
    wipe(instance->response, instance->response_size);
    instance->response_size = 0;
    return OK;
}

/* The end of K2, so that the front-end does not take it for a cut. */
static struct err end_link(struct instance *instance, struct writer *out)
{
    struct link *link = &instance->link;
    struct writer payload;
    if (!link->records.open || !link->finish_sent || !link->finish_received) return OK;
    TRY(effect_reserve(out, INSTANCE_EFFECT_RECORD, RECORD_OVERHEAD, &payload));
    return link_send_final(link, &payload);
}

static struct err release_receipt(struct instance *instance, struct writer *out)
{
    uint8_t signature[ED25519_SIGNATURE_SIZE];
    struct writer payload;
    TRY(end_link(instance, out));
    TRY(effect_reserve(out, INSTANCE_EFFECT_RECEIPT, PEER_RECEIPT_SIZE, &payload));
    TRY(write_bytes(&payload, PEER_RECEIPT_LABEL, sizeof PEER_RECEIPT_LABEL));
    TRY(write_bytes(&payload, instance->known.instance.bytes, INSTANCE_ID_SIZE));
    TRY(write_u64(&payload, instance->known.epoch));
    TRY(write_u64(&payload, instance->known.start));
    TRY(write_u64(&payload, instance->newest.version));
    TRY(write_bytes(&payload, instance->newest.digest, sizeof instance->newest.digest));
    TRY(ed25519_sign(&instance->crypto, &instance->holder, writer_span(&payload), signature));
    TRY(write_bytes(&payload, signature, sizeof signature));
    instance_forget(instance);
    instance->state = INSTANCE_STOPPED;
    return OK;
}
_Static_assert(sizeof PEER_RECEIPT_LABEL == 16, "the label with its NUL is a field of the receipt");

struct err effect_release(struct instance *instance, struct writer *out)
{
    static struct err (*const release[])(struct instance *, struct writer *) = {
        [HELD_READY] = release_ready,
        [HELD_RESPONSE] = release_response,
        [HELD_RECEIPT] = release_receipt,
    };
    instance->state = INSTANCE_RUNNING;
    instance->under_way = UNDER_WAY_NOTHING;
    return release[instance->held_back](instance, out);
}
