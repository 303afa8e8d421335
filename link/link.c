#include "link/link.h"

#include <string.h>

#include "base/memory.h"
#include "crypto/hkdf.h"

#define LABEL        "vtpm link v1"
#define LABEL_SIZE   (sizeof LABEL - 1)
#define BINDING_SIZE (LABEL_SIZE + 1u + INSTANCE_ID_SIZE + 8u + 8u + 2u * LINK_MRENCLAVE_SIZE)
#define IKM_MAX      (2u * X25519_SIZE)

/* Of one direction, in the order in which HKDF fills them. */
struct direction_keys {
    struct record_direction record;
    uint8_t finish[SHA256_SIZE];
};
_Static_assert(sizeof(struct direction_keys) == AEAD_KEY_SIZE + AEAD_IV_SIZE + SHA256_SIZE, "HKDF fills it in one go");

/* All that open makes on its way. */
struct secrets {
    uint8_t ikm[IKM_MAX];
    struct direction_keys to_enclave;
    struct direction_keys to_host;
};

static void wipe_secrets(struct secrets *secrets)
{
    wipe(secrets, sizeof *secrets);
}

static struct err hash_transcript(const struct crypto *crypto, enum link_role role, const struct link_binding *binding,
                                  const struct link_keys *keys, uint8_t out[SHA256_SIZE])
{
    const uint8_t *host = role == LINK_HOST ? keys->own->public : keys->peer;
    const uint8_t *enclave = role == LINK_HOST ? keys->peer : keys->own->public;
    uint8_t bytes[BINDING_SIZE + 2 * X25519_SIZE];
    struct writer w = writer_of(bytes, sizeof bytes);
    TRY(write_bytes(&w, LABEL, LABEL_SIZE));
    TRY(write_u8(&w, (uint8_t)binding->kind));
    TRY(write_bytes(&w, binding->instance.bytes, sizeof binding->instance.bytes));
    TRY(write_u64(&w, binding->epoch));
    TRY(write_u64(&w, binding->start));
    TRY(write_bytes(&w, binding->manager, sizeof binding->manager));
    TRY(write_bytes(&w, binding->program, sizeof binding->program));
    TRY(write_bytes(&w, host, X25519_SIZE));
    TRY(write_bytes(&w, enclave, X25519_SIZE));
    struct span whole = writer_span(&w);
    return hash_sha256(crypto, &whole, 1, out);
}

/* The enrolled key is the host's and meets the ephemeral share of the enclave. */
static struct err agree(const struct crypto *crypto, enum link_role role, const struct link_keys *keys,
                        uint8_t out[IKM_MAX], size_t *out_size)
{
    TRY(x25519_shared(crypto, keys->own->private, keys->peer, out));
    *out_size = X25519_SIZE;
    if (!keys->enrolled) return OK;
    const uint8_t *private = role == LINK_HOST ? keys->enrolled : keys->own->private;
    const uint8_t *public = role == LINK_HOST ? keys->peer : keys->enrolled;
    *out_size = IKM_MAX;
    return x25519_shared(crypto, private, public, out + X25519_SIZE);
}

static struct err derive(const struct crypto *crypto, struct span ikm, const uint8_t h[SHA256_SIZE],
                         const char *direction, struct direction_keys *out)
{
    char info[sizeof LABEL " host to enclave"];
    struct writer w = writer_of(info, sizeof info);
    TRY(write_bytes(&w, LABEL " ", LABEL_SIZE + 1));
    TRY(write_bytes(&w, direction, strlen(direction)));
    return hkdf_sha256(crypto, ikm, span_of(h, SHA256_SIZE), writer_span(&w), out, sizeof *out);
}

struct err link_open(const struct crypto *crypto, enum link_role role, const struct link_binding *binding,
                     const struct link_keys *keys, struct link *out)
{
    ENSURE(!out->records.open, LINK_ORDER);
    ENSURE((binding->kind == LINK_K2_ENROLLED) == (keys->enrolled != NULL), BAD_VALUE);
    struct secrets secrets DEFER(wipe_secrets) = {0};
    struct link link DEFER(link_close) = {0};
    size_t ikm_size = 0;
    TRY(hash_transcript(crypto, role, binding, keys, link.h));
    TRY(agree(crypto, role, keys, secrets.ikm, &ikm_size));
    struct span ikm = span_of(secrets.ikm, ikm_size);
    TRY(derive(crypto, ikm, link.h, "host to enclave", &secrets.to_enclave));
    TRY(derive(crypto, ikm, link.h, "enclave to host", &secrets.to_host));

    const struct direction_keys *own = role == LINK_HOST ? &secrets.to_enclave : &secrets.to_host;
    const struct direction_keys *peer = role == LINK_HOST ? &secrets.to_host : &secrets.to_enclave;
    struct span h = span_of(link.h, sizeof link.h);
    TRY(hmac_sha256(crypto, span_of(own->finish, sizeof own->finish), &h, 1, link.own_finish));
    TRY(hmac_sha256(crypto, span_of(peer->finish, sizeof peer->finish), &h, 1, link.peer_finish));
    TRY(record_session_open(crypto, link.h, &own->record, &peer->record, &link.records));
    *out = link;
    link = (struct link){0}; /* now it is the caller's */
    return OK;
}

void link_close(struct link *link)
{
    record_session_close(&link->records);
    wipe(link, sizeof *link);
}

struct err link_finish(struct link *link, struct writer *out)
{
    ENSURE(link->records.open, LINK_CLOSED);
    ENSURE(!link->finish_sent, LINK_ORDER);
    TRY(record_seal(&link->records, RECORD_FINISH, span_of(link->own_finish, sizeof link->own_finish), out));
    link->finish_sent = true;
    return OK;
}

static struct err send(struct link *link, enum record_type type, struct span plaintext, struct writer *out)
{
    ENSURE(link->records.open, LINK_CLOSED);
    ENSURE(link->finish_sent && link->finish_received, LINK_ORDER);
    return record_seal(&link->records, type, plaintext, out);
}

struct err link_send(struct link *link, struct span plaintext, struct writer *out)
{
    return send(link, RECORD_DATA, plaintext, out);
}

struct err link_send_final(struct link *link, struct writer *out)
{
    return send(link, RECORD_FINAL, span_empty(), out);
}

static struct err receive(struct link *link, struct span record, enum link_event *out_event, uint8_t *out_plaintext,
                          size_t *out_size)
{
    enum record_type type;
    size_t size = 0;
    TRY(record_open(&link->records, record, &type, out_plaintext, &size));
    if (type == RECORD_FINISH) {
        ENSURE(!link->finish_received, LINK_ORDER);
        ENSURE(size == SHA256_SIZE && ct_equal(out_plaintext, link->peer_finish, SHA256_SIZE), AUTHENTICATION);
        link->finish_received = true;
        *out_event = LINK_FINISHED;
        *out_size = 0;
        return OK;
    }
    /* Nobody who follows the protocol has something to say before he has our FINISH. */
    ENSURE(link->finish_sent && link->finish_received, LINK_ORDER);
    *out_event = type == RECORD_FINAL ? LINK_ENDED : LINK_DATA;
    *out_size = size;
    return OK;
}

struct err link_receive(struct link *link, struct span record, enum link_event *out_event, uint8_t *out_plaintext,
                        size_t *out_size)
{
    struct err received = receive(link, record, out_event, out_plaintext, out_size);
    if (received.code) link_close(link);
    return received;
}

struct err link_transport_ended(const struct link *link)
{
    ENSURE(link->records.final_received, LINK_TRUNCATED);
    return OK;
}
