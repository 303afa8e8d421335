/*
 * The words of the manager.
 *
 * Guarantees: nothing is provisioned before the manager's REPORT verified, and only once in the enclave's life; the
 * keys of states depend on the MRENCLAVE that was verified; only the version and digest of the very state that is under
 * way release what waits for it; only the answer to the newest question is a lease; a session that could not be resumed
 * leaves the old one as it was; an enclave that is to take over resumes none. Not guaranteed: that the manager's ledger is
 * the newest there is.
 */
#include "trusted/instance/instance.h"

#include <string.h>

#include "base/memory.h"
#include "trusted/tpm/floors.h"
#include "trusted/tpm/lockout.h"

_Static_assert(PEER_FLOORS_SIZE == TPM_FLOORS_SIZE, "the manager keeps them as they are written here");

/* PROVISION, parsed */
struct provision {
    struct instance_id id;
    uint64_t epoch;
    uint64_t start;
    uint8_t mode;
    uint8_t link_kind;
    uint8_t lockout_heals;
    uint8_t family;
    uint8_t snapshots;
    uint8_t root_key[BLOB_ROOT_SIZE];
    uint8_t resumption_key[PEER_RESUMPTION_KEY_SIZE];
    uint8_t sealed_under[SGX_HASH_SIZE];
    struct recorded_state state;
    uint8_t front_share[X25519_SIZE];
    uint8_t enrolled[X25519_SIZE];
    uint64_t era;
};

static void wipe_provision(struct provision *provision)
{
    wipe(provision, sizeof *provision);
}

static bool is_zero(const uint8_t *bytes, size_t size)
{
    uint8_t any = 0;
    for (size_t i = 0; i < size; i++)
        any |= bytes[i];
    return any == 0;
}

/* Only what goes with the mode is told. */
static struct err check_state(uint8_t mode, const struct recorded_state *state)
{
    ENSURE(mode >= PEER_MODE_NEW && mode <= PEER_MODE_INCOMING, BAD_VALUE);
    bool first = mode == PEER_MODE_NEW || mode == PEER_MODE_IMPORT || mode == PEER_MODE_INCOMING;
    ENSURE(first == (state->version == 0), BAD_VALUE);
    ENSURE((mode == PEER_MODE_RESUME) == !is_zero(state->suspended, sizeof state->suspended), BAD_VALUE);
    ENSURE(mode == PEER_MODE_REVERTED || is_zero(state->floors, sizeof state->floors), BAD_VALUE);
    struct reader r = reader_of(span_of(state->floors, sizeof state->floors));
    struct tpm_floors floors;
    return tpm_floors_decode(&r, &floors);
}

static struct err parse_provision(struct span fields, struct provision *out)
{
    struct reader r = reader_of(fields);
    uint8_t reserved[3];
    TRY(read_bytes(&r, out->id.bytes, sizeof out->id.bytes));
    TRY(read_u64(&r, &out->epoch));
    TRY(read_u64(&r, &out->start));
    TRY(read_u8(&r, &out->mode));
    TRY(read_u8(&r, &out->link_kind));
    TRY(read_u8(&r, &out->lockout_heals));
    TRY(read_u8(&r, &out->family));
    TRY(read_u8(&r, &out->snapshots));
    TRY(read_bytes(&r, reserved, sizeof reserved));
    TRY(read_bytes(&r, out->root_key, sizeof out->root_key));
    TRY(read_bytes(&r, out->resumption_key, sizeof out->resumption_key));
    TRY(read_bytes(&r, out->sealed_under, sizeof out->sealed_under));
    TRY(read_u64(&r, &out->state.version));
    TRY(read_bytes(&r, out->state.digest, sizeof out->state.digest));
    TRY(read_bytes(&r, out->state.suspended, sizeof out->state.suspended));
    TRY(read_bytes(&r, out->state.floors, sizeof out->state.floors));
    TRY(read_bytes(&r, out->front_share, sizeof out->front_share));
    TRY(read_bytes(&r, out->enrolled, sizeof out->enrolled));
    TRY(read_u64(&r, &out->era));
    TRY(reader_end(&r));
    ENSURE(is_zero(reserved, sizeof reserved), BAD_VALUE);
    ENSURE(out->link_kind == LINK_K2_NAMED || out->link_kind == LINK_K2_ENROLLED, BAD_VALUE);
    ENSURE(out->lockout_heals >= PEER_LOCKOUT_TIME && out->lockout_heals <= PEER_LOCKOUT_NEVER, BAD_VALUE);
    ENSURE(out->family <= PEER_FAMILY_12 && out->snapshots <= PEER_SNAPSHOTS_ALLOWED, BAD_VALUE);
    ENSURE(out->family == PEER_FAMILY_20 || out->snapshots == PEER_SNAPSHOTS_REFUSED, BAD_VALUE);
    return check_state(out->mode, &out->state);
}

static void wipe_key(struct x25519_key *key)
{
    wipe(key, sizeof *key);
}

/* Its share is drawn here, and of its private half nothing is left when this returns. */
static struct err open_link(struct instance *instance, const struct provision *provision)
{
    struct link_binding binding = {
        .kind = (enum link_kind)provision->link_kind,
        .instance = provision->id,
        .epoch = provision->epoch,
        .start = provision->start,
    };
    struct x25519_key own DEFER(wipe_key) = {0};
    memcpy(binding.manager, instance->peer.other_program, sizeof binding.manager);
    memcpy(binding.program, instance->program, sizeof binding.program);
    TRY(x25519_generate(&instance->crypto, &own));
    const struct link_keys keys = {
        .own = &own,
        .peer = provision->front_share,
        .enrolled = binding.kind == LINK_K2_ENROLLED ? provision->enrolled : NULL,
    };
    TRY(link_open(&instance->crypto, LINK_ENCLAVE, &binding, &keys, &instance->link));
    memcpy(instance->share, own.public, sizeof instance->share);
    return OK;
}

static enum lockout_heals heals_of(uint8_t told)
{
    static const enum lockout_heals heals[] = {
        [PEER_LOCKOUT_TIME] = LOCKOUT_HEALS_TIME,
        [PEER_LOCKOUT_START_ONLY] = LOCKOUT_HEALS_START_ONLY,
        [PEER_LOCKOUT_NEVER] = LOCKOUT_HEALS_NEVER,
    };
    return heals[told];
}

/* One that is incoming is told the root of exports, and of states nothing. */
static struct err take_roots(struct instance *instance, const struct provision *provision)
{
    if (provision->mode == PEER_MODE_INCOMING) {
        memcpy(instance->export_root, provision->root_key, sizeof instance->export_root);
        return OK;
    }
    TRY(blob_export_root(&instance->crypto, provision->root_key, instance->manager, instance->export_root));
    TRY(blob_state_root(&instance->crypto, provision->root_key, instance->manager, instance->root));
    memcpy(instance->root_key, provision->root_key, sizeof instance->root_key);
    return OK;
}

static struct err accept_provision(struct instance *instance, const struct provision *provision)
{
    const struct peer_transcript *proven = &instance->peer.transcript;
    struct peer_resumption *known = &instance->known;
    ENSURE(memcmp(&provision->id, &known->instance, sizeof known->instance) == 0, STATE_OTHER_INSTANCE);
    ENSURE(provision->start == proven->start, BAD_VALUE);
    memcpy(instance->manager, instance->peer.other_program, sizeof instance->manager);
    TRY(take_roots(instance, provision));
    TRY(open_link(instance, provision));
    known->epoch = provision->epoch;
    known->start = provision->start;
    memcpy(known->holder, instance->holder.public, sizeof known->holder);
    memcpy(known->key, provision->resumption_key, sizeof known->key);
    memcpy(instance->sealed_under, provision->sealed_under, sizeof instance->sealed_under);
    instance->mode = (enum peer_mode)provision->mode;
    instance->newest = provision->state;
    instance->incoming.candidate = instance->mode == PEER_MODE_INCOMING;
    instance->era = provision->era;
    instance->goes_back = provision->snapshots == PEER_SNAPSHOTS_ALLOWED;
    lockout_set_heals(heals_of(provision->lockout_heals));
    tpm_choose_family(provision->family == PEER_FAMILY_12 ? TPM_FAMILY_12 : TPM_FAMILY_20);
    return OK;
}

static struct err receive_provision(struct instance *instance, struct span message)
{
    struct provision provision DEFER(wipe_provision) = {0};
    enum peer_word word;
    struct span fields;
    TRY(peer_receive(&instance->peer, message, &word, instance->request, &fields));
    ENSURE(word == PEER_PROVISION, LINK_ORDER);
    TRY(parse_provision(fields, &provision));
    return accept_provision(instance, &provision);
}

static struct err greeted(struct instance *instance, struct span message, struct writer *out)
{
    uint8_t bytes[PEER_MESSAGE_MAX];
    struct writer proof = writer_of(bytes, sizeof bytes);
    TRY(peer_prove(&instance->crypto, message, &instance->known.instance, instance->holder.public, &instance->peer,
                   &proof));
    instance->state = INSTANCE_PROVEN;
    return effect_peer(out, writer_span(&proof));
}

/* Whatever is wrong here, nothing was accepted: the manager may begin again with another CHALLENGE. */
static struct err proven(struct instance *instance, struct span message, struct writer *out)
{
    (void)out;
    bool admitted = instance->peer.step == PEER_ESTABLISHED;
    struct err err = admitted ? receive_provision(instance, message)
                              : peer_check_admission(&instance->crypto, &instance->peer, message);
    if (err.code) {
        peer_close(&instance->peer);
        link_close(&instance->link);
        wipe(instance->root, sizeof instance->root);
        wipe(instance->export_root, sizeof instance->export_root);
        wipe(instance->root_key, sizeof instance->root_key);
        instance->state = INSTANCE_GREETED;
        return err;
    }
    if (admitted) instance->state = INSTANCE_PROVISIONED;
    return OK;
}

static struct err hear_anchored(struct instance *instance, struct span fields, struct writer *out)
{
    struct reader r = reader_of(fields);
    struct recorded_state anchored = {0};
    TRY(read_u64(&r, &anchored.version));
    TRY(read_bytes(&r, anchored.digest, sizeof anchored.digest));
    TRY(reader_end(&r));
    ENSURE(anchored.version == instance->newest.version, BAD_VALUE);
    ENSURE(memcmp(anchored.digest, instance->newest.digest, sizeof anchored.digest) == 0, BAD_VALUE);
    if (instance->under_way != UNDER_WAY_COMMIT) return OK; /* COMMIT was said twice, and this is the second answer */
    /* The manager knew this enclave for the holder when it recorded a state that was made after every command. */
    instance->lease = (struct lease){0};
    return instance_fail_if(instance, effect_release(instance, out));
}

static struct err hear_lease(struct instance *instance, struct span fields, struct writer *out)
{
    struct reader r = reader_of(fields);
    struct lease *lease = &instance->lease;
    uint64_t number = 0;
    TRY(read_u64(&r, &number));
    TRY(reader_end(&r));
    if (!lease->asked || number != lease->number) return OK; /* an answer to an earlier question */
    /* What was true when the question came says nothing about the commands that ran since it left. */
    *lease = (struct lease){.unconfirmed = lease->since_asked, .since_asked = lease->since_asked};
    if (instance->under_way != UNDER_WAY_RESET) return OK;
    return instance_fail_if(instance, client_reset(instance, out));
}

static struct err hear(struct instance *instance, struct span message, struct writer *out)
{
    enum peer_word word;
    struct span fields;
    TRY(peer_receive(&instance->peer, message, &word, instance->request, &fields));
    if (word == PEER_ANCHORED) return hear_anchored(instance, fields, out);
    if (word == PEER_LEASE) return hear_lease(instance, fields, out);
    if (word == PEER_REDEEMED) return incoming_redeemed(instance, fields, out);
    return FAIL(LINK_ORDER);
}

/* What the manager may not have heard on the session before. */
static struct err say_again(struct instance *instance, struct writer *out)
{
    if (instance->under_way == UNDER_WAY_COMMIT) TRY(effect_say_commit(instance, out));
    return instance->lease.asked ? effect_ask_lease(instance, out) : OK;
}

static struct err confirm(struct instance *instance, struct span accept, struct writer *out)
{
    uint8_t bytes[PEER_MESSAGE_MAX];
    struct writer message = writer_of(bytes, sizeof bytes);
    TRY(peer_confirm(&instance->crypto, &instance->known, &instance->resuming, accept, &message));
    peer_close(&instance->peer);
    instance->peer = instance->resuming;
    wipe(&instance->resuming, sizeof instance->resuming); /* what it owned is the other's now */
    TRY(effect_peer(out, writer_span(&message)));
    return say_again(instance, out);
}

static struct err serving(struct instance *instance, struct span message, struct writer *out)
{
    return message.data[0] == PEER_ACCEPT ? confirm(instance, message, out) : hear(instance, message, out);
}

struct err manager_message(void *ctx, struct span message, struct writer *out)
{
    static struct err (*const take[])(struct instance *, struct span, struct writer *) = {
        [INSTANCE_GREETED] = greeted,
        [INSTANCE_PROVEN] = proven,
        [INSTANCE_RUNNING] = serving,
        [INSTANCE_WAITING] = serving,
    };
    struct instance *instance = ctx;
    struct err err = take[instance->state](instance, message, out);
    wipe(instance->request, message.size);
    return err;
}

struct err manager_resume(void *ctx, struct span body, struct writer *out)
{
    struct instance *instance = ctx;
    uint8_t bytes[PEER_MESSAGE_MAX];
    struct writer message = writer_of(bytes, sizeof bytes);
    (void)body; /* the table says that it is empty */
    /* A candidate was told no resumption key: to one of zeros anybody could answer, and redeem it with a root of his own. */
    ENSURE(instance->ready && !instance->incoming.candidate, CALL_STATE);
    peer_close(&instance->resuming);
    TRY(peer_resume(&instance->crypto, &instance->known, &instance->resuming, &message));
    return effect_peer(out, writer_span(&message));
}
