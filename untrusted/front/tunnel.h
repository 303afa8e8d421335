/*
 * The front-end's end of K2: what the front asks for becomes records for the instance enclave, and the enclave's
 * records become answers.
 *
 *   UNBOUND ──tunnel_bind──► FINISHING ──the enclave's FINISH──► LINKED
 *   any of them ──tunnel_fail──► LOST ──tunnel_renew──► UNBOUND
 *
 * Guarantees: a command and its response are in the clear only in the memory that the caller gave, and are wiped there
 * once used; nothing is sent before the enclave at the other end has proved that it is the one that was named; after a
 * link was lost every command is answered TPM_RC_FAILURE until the client itself resets the TPM, so that no machine
 * sees its PCRs become zero by our doing. It does not guarantee who names the enclave: that is tunnel_bind's caller.
 * What libcrypto keeps of the keys lies in the secret heap (untrusted/host/secret_heap.h), which the program has
 * opened.
 */
#pragma once

#include "link/k2.h"
#include "link/link.h"
#include "untrusted/front/front.h"
#include "untrusted/wire/wire.h"

/* What carries the records. None of these is called before tunnel_bind, but relink and shutdown. */
struct tunnel_transport {
    void *ctx;
    /* One record for the enclave; verb: enum k2_verb, 0 for FINISH. Ends in one tunnel_receive or tunnel_fail, before
     * it returns or later. */
    void (*send)(void *ctx, uint8_t verb, struct span record);
    /* The link is up: clients can be served. */
    void (*linked)(void *ctx);
    /* A client asks for a reset and there is no link: get a new one, or tunnel_fail. The reset follows by itself. */
    void (*relink)(void *ctx);
    /* A client wanted an end; its answer is given. */
    void (*shutdown)(void *ctx);
};

enum tunnel_step { TUNNEL_UNBOUND, TUNNEL_FINISHING, TUNNEL_LINKED, TUNNEL_LOST };

#define TUNNEL_RECORD_MAX  (RECORD_OVERHEAD + K2_MESSAGE_MAX)
#define TUNNEL_BUFFER_SIZE 12u

/* In memory that is the caller's to protect: it holds keys, commands and responses. */
struct tunnel {
    const struct crypto *crypto;
    struct tunnel_transport transport;
    struct front *front;
    struct instance_id instance;
    enum tunnel_step step;
    bool powered;
    bool awaiting_reset; /* the TPM that the client knew is gone */
    bool stopping;       /* a client wanted an end */
    bool busy;           /* a request of the front is not answered yet */
    enum front_verb verb;
    enum k2_verb sent; /* what was asked for last, for that request */
    /* An export on its way: sealed, so not in this memory. */
    struct tunnel_export {
        uint8_t *bytes; /* owned; NULL: it comes from the front, or there is none */
        struct span all;
        size_t done;
    } export;
    uint32_t wanted_size;                    /* that a client wants, while the TPM is switched off for it */
    uint8_t buffer_size[TUNNEL_BUFFER_SIZE]; /* what the enclave has answered last */
    bool is_enrolled;
    uint8_t enrolled[X25519_SIZE]; /* private */
    struct x25519_key own;
    struct link link;
    uint8_t plaintext[TUNNEL_RECORD_MAX];
    uint8_t record[TUNNEL_RECORD_MAX];
};

struct tunnel_options {
    bool incoming; /* the TPM is off, until a client brings what it is to go on from */
    const struct crypto *crypto;
    struct tunnel_transport transport;
    struct instance_id instance;
    const uint8_t *enrolled; /* private key of X25519_SIZE bytes, copied; NULL: none */
    bool awaiting_reset;     /* the TPM was lost under its client, in another process */
};

/* Draws the first share. ERR_CRYPTO. */
struct err tunnel_open(const struct tunnel_options *options, struct tunnel *out);

/* The owner that the front is opened with. */
struct front_owner tunnel_owner(struct tunnel *tunnel);
/* Before the first request; the front stays the caller's. */
void tunnel_attach(struct tunnel *tunnel, struct front *front);

/*
 * The other end is named: opens the link to it and sends FINISH. ERR_LINK_ORDER unless UNBOUND,
 * ERR_STATE_OTHER_INSTANCE, ERR_FRONT_ENROLLED (the instance has an enrolled key and this front-end none, or the
 * reverse), ERR_AUTHENTICATION, ERR_CRYPTO; nothing has changed then.
 */
struct err tunnel_bind(struct tunnel *tunnel, const struct link_told *told);

/* A record of the enclave. One that does not verify is as tunnel_fail. */
void tunnel_receive(struct tunnel *tunnel, struct span record);

/* No answer will come: the link is closed for good, and a request under way fails with why. */
void tunnel_fail(struct tunnel *tunnel, struct err why);

/* No link comes in time for a reset that waits for one: it fails with why. Nothing if none waits. */
void tunnel_give_up(struct tunnel *tunnel, struct err why);

/* Draws a new share for a new link; a request that waits goes on waiting. ERR_CRYPTO. */
struct err tunnel_renew(struct tunnel *tunnel);

/* Wipes everything. */
void tunnel_close(struct tunnel *tunnel);
