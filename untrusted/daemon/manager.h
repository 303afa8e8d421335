/*
 * The manager enclave in the words of abi/manager.h: vtpmd's end of K1, calls with their effects.
 *
 * Guarantees: one call at a time, and all effects of a call are handled before the next one is made; what is asked
 * while effects are handled waits its turn, in order. A request is answered once, when the manager's reply comes over
 * K1, which is after everything it depends on was stored. An enclave that died, or that breaks the contract, is
 * reported once, and nothing is asked of it afterwards. It does not guard against the enclave, nor hide from it.
 */
#pragma once

#include "link/recovery.h"
#include "untrusted/daemon/effects.h"
#include "untrusted/wire/wire.h"

struct manager;

/* One call into an enclave: enclave_call() of untrusted/sgx/enclave.h. */
struct manager_door {
    void *ctx;
    struct err (*call)(void *ctx, struct span input, uint8_t *output, size_t capacity, size_t *out_size);
};

/* To be carried to the anchor, once the batch is durable. */
struct manager_exchange {
    uint64_t number;
    enum anchor_kind kind;
    struct span request;
    const struct store_batch *batch; /* NULL: none; it has no states, they are the listener's */
};

/* What the manager wants done and says on its own accord. Spans are valid during the call only. What is NULL must not
 * happen: the manager is lost then. */
struct manager_listener {
    void *ctx;
    void (*create_enclave)(void *ctx, const struct instance_id *id, uint64_t start, const uint8_t *mrenclave);
    void (*send)(void *ctx, uint64_t channel, struct span message);
    void (*state)(void *ctx, uint64_t channel, const struct instance_id *id, uint64_t version);
    /* manager_anchored(number) with the answer. An error of it is the end of the manager. */
    struct err (*anchor)(void *ctx, const struct manager_exchange *exchange);
    void (*close)(void *ctx, uint64_t channel, struct err why);
    void (*started)(void *ctx, const struct link_told *told);
    void (*incoming)(void *ctx, const struct link_told *told); /* the same, of one that may take over */
    void (*redeemed)(void *ctx, uint64_t channel, const struct instance_id *id); /* it has */
    void (*loaded)(void *ctx, const struct instance_id *id);                     /* a snapshot of its machine */
    void (*redeeming)(void *ctx, uint64_t channel,
                      const struct instance_id *id); /* another vtpmd's, if that lets it go */
    void (*resumed)(void *ctx, uint64_t channel, const struct instance_id *id);
    void (*refused)(void *ctx, uint64_t channel, const struct instance_id *id, struct err why);
    /* The manager is lost, after its start was over; before, the functions of the start say so. */
    void (*failed)(void *ctx, struct err why);
};

/* result of the request; results: what came with it. */
typedef void manager_done(void *ctx, struct err result, struct reader *results);

/* mrenclave: of the image that was measured; the enclave has to name the same. ERR_NO_MEMORY, ERR_CRYPTO. */
struct err manager_open(const struct crypto *crypto, const struct manager_door *door,
                        const uint8_t mrenclave[LINK_MRENCLAVE_SIZE], const struct manager_listener *listener,
                        struct manager **out_manager);
/* done of what is still asked is called, with ERR_LINK_CLOSED. */
void manager_close(struct manager **manager);

/* The anchor of a new trust domain. */
struct manager_anchor {
    enum anchor_kind kind;
    uint32_t nv_index;      /* tpm; else 0 */
    struct span owner_auth; /* tpm: the authValue of the owner hierarchy, at most ANCHOR_OWNER_AUTH_MAX bytes */
};

/* A message has room for PEER_MESSAGE_MAX bytes, and a recovery record fits. */
struct manager_message {
    size_t size;
    uint8_t bytes[PEER_MESSAGE_MAX];
};

/* Who can bring the domain back (link/recovery.h). */
struct manager_recovery {
    struct recovery_rule rule;
    uint8_t keys[RECOVERY_KEYS_MAX][X25519_SIZE];
};

/*
 * The start; after manager_start_new or manager_loaded K1 is established, the start record is durable and anchored, and
 * requests are answered. The listener's anchor answers at once here. All return the manager's error.
 */
/* recovery: NULL for none; else stored is called with the record before anything else is stored, and its error ends the
 * start. */
struct err manager_start_new(struct manager *manager, const struct manager_anchor *anchor,
                             const struct manager_recovery *recovery, void *ctx,
                             struct err (*store)(void *ctx, struct span record));
struct err manager_start_open(struct manager *manager, struct span master, struct span head);
struct err manager_add_row(struct manager *manager, struct span blob);
struct err manager_loaded(struct manager *manager);

/*
 * The recovery of a domain, beside a new anchor: the request goes to the holders, and each answer is given with
 * manager_share. An answer that is not right changes nothing (ERR_AUTHENTICATION, ERR_BAD_VALUE). With the last one that is
 * needed it ends with manager_add_row and manager_loaded.
 */
struct err manager_start_recover(struct manager *manager, const struct manager_anchor *anchor, struct span record,
                                 struct span head, struct manager_message *out_request);
struct err manager_share(struct manager *manager, struct span answer);

/*
 * The hand-over to another image, which ends with manager_add_row and manager_loaded of the successor.
 */
struct err manager_who(struct manager *manager, struct manager_message *out_target);
struct err manager_greet(struct manager *successor, struct span target, struct manager_message *out_greeting);
struct err manager_give(struct manager *manager, struct span manifest, struct span greeting,
                        struct manager_message *out_gift);
struct err manager_take(struct manager *successor, struct span manifest, struct span gift, struct span head);

/* Asks over K1. On an error done is not called. ERR_NO_MEMORY, ERR_LINK_CLOSED, ERR_TOO_LARGE. */
struct err manager_ask(struct manager *manager, enum manager_verb verb, struct span arguments, manager_done *done,
                       void *ctx);
/* One message of an instance enclave. What is wrong with it comes as listener.close. */
struct err manager_peer(struct manager *manager, uint64_t channel, struct span message);
/* The anchor has answered; what was to be stored with the exchange of this number is durable. */
struct err manager_anchored(struct manager *manager, uint64_t number, struct span answer);
