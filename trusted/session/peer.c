#include "trusted/session/peer.h"

#include <string.h>

#include <openssl/rand.h>

#include "abi/call.h"
#include "base/memory.h"
#include "crypto/hkdf.h"
#include "trusted/runtime/sgx.h"
#include "trusted/session/report.h"

#define LABEL          "vtpm peer v1"
#define RESUME_LABEL   "vtpm resume v1"
#define LABEL_SIZE_MAX (sizeof RESUME_LABEL - 1)
#define WORD_MAX       (PEER_MESSAGE_MAX - RECORD_OVERHEAD)

/* Index of the arrays in a transcript. */
static size_t end_of(enum peer_role role)
{
    return role == PEER_MANAGER ? 0 : 1;
}

static enum peer_role other_role(enum peer_role role)
{
    return role == PEER_MANAGER ? PEER_INSTANCE : PEER_MANAGER;
}

void peer_close(struct peer *peer)
{
    record_session_close(&peer->records);
    wipe(peer, sizeof *peer);
}

/* Every public function ends here: what failed has left nothing. */
static struct err end_step(struct peer *peer, struct err err)
{
    if (err.code) peer_close(peer);
    return err;
}

static struct err write_kind(struct writer *w, enum peer_kind kind)
{
    return write_u32(w, (uint32_t)kind); /* u8 kind, u8[3] 0 */
}

static struct err read_kind(struct reader *r, enum peer_kind expected)
{
    uint32_t kind;
    TRY(read_u32(r, &kind));
    ENSURE(kind == (uint32_t)expected, BAD_VALUE);
    return OK;
}

static struct err write_share(struct writer *w, const struct peer *peer)
{
    size_t end = end_of(peer->role);
    TRY(write_bytes(w, peer->transcript.nonce[end], PEER_NONCE_SIZE));
    return write_bytes(w, peer->transcript.share[end], X25519_SIZE);
}

static struct err read_share(struct reader *r, struct peer *peer)
{
    size_t end = end_of(other_role(peer->role));
    TRY(read_bytes(r, peer->transcript.nonce[end], PEER_NONCE_SIZE));
    return read_bytes(r, peer->transcript.share[end], X25519_SIZE);
}

/* This end's share and nonce, fresh for every exchange. */
static struct err begin(const struct crypto *crypto, enum peer_role role, enum peer_step step, struct peer *peer)
{
    size_t end = end_of(role);
    peer_close(peer);
    peer->role = role;
    peer->step = step;
    TRY(x25519_generate(crypto, &peer->own));
    memcpy(peer->transcript.share[end], peer->own.public, X25519_SIZE);
    ENSURE(RAND_bytes(peer->transcript.nonce[end], PEER_NONCE_SIZE) == 1, CRYPTO);
    return OK;
}

struct direction_info {
    char text[LABEL_SIZE_MAX + sizeof " host to enclave"];
};

static struct err derive_direction(const struct crypto *crypto, struct span key, struct span salt, const char *label,
                                   const char *direction, struct record_direction *out)
{
    struct direction_info info;
    struct writer w = writer_of(info.text, sizeof info.text);
    TRY(write_bytes(&w, label, strlen(label)));
    TRY(write_bytes(&w, direction, strlen(direction)));
    return hkdf_sha256(crypto, key, salt, writer_span(&w), out, sizeof *out);
}
_Static_assert(sizeof(struct record_direction) == AEAD_KEY_SIZE + AEAD_IV_SIZE, "HKDF fills key and IV in one go");

struct directions {
    struct record_direction to_enclave; /* the manager stands where a link has the host */
    struct record_direction to_host;
};

static void wipe_directions(struct directions *directions)
{
    wipe(directions, sizeof *directions);
}

/* The records begin, and the ephemeral private key is forgotten. */
static struct err establish(const struct crypto *crypto, struct peer *peer, const char *label, struct span key,
                            const uint8_t session[SHA256_SIZE])
{
    struct directions directions DEFER(wipe_directions) = {0};
    struct span salt = span_of(session, SHA256_SIZE);
    TRY(derive_direction(crypto, key, salt, label, " host to enclave", &directions.to_enclave));
    TRY(derive_direction(crypto, key, salt, label, " enclave to host", &directions.to_host));
    bool manager = peer->role == PEER_MANAGER;
    TRY(record_session_open(crypto, session, manager ? &directions.to_enclave : &directions.to_host,
                            manager ? &directions.to_host : &directions.to_enclave, &peer->records));
    wipe(&peer->own, sizeof peer->own);
    peer->step = PEER_ESTABLISHED;
    return OK;
}

struct shared_secret {
    uint8_t bytes[X25519_SIZE];
};

static void wipe_shared_secret(struct shared_secret *shared)
{
    wipe(shared, sizeof *shared);
}

static struct err agree(const struct crypto *crypto, const struct peer *peer, struct shared_secret *out)
{
    return x25519_shared(crypto, peer->own.private, peer->transcript.share[end_of(other_role(peer->role))], out->bytes);
}

/* --- the first session of a start --- */

static struct err make_reportdata(const struct crypto *crypto, const struct peer_transcript *t, enum peer_role role,
                                  uint8_t out[SGX_REPORTDATA_SIZE])
{
    uint8_t start[8], role_byte = (uint8_t)role;
    struct writer w = writer_of(start, sizeof start);
    TRY(write_u64(&w, t->start));
    const struct span parts[] = {
        span_of(LABEL, sizeof LABEL - 1),
        span_of(&role_byte, 1),
        span_of(t->share, sizeof t->share),
        span_of(t->nonce, sizeof t->nonce),
        span_of(t->instance.bytes, sizeof t->instance.bytes),
        writer_span(&w),
        span_of(t->holder, sizeof t->holder),
        span_of(t->base, sizeof t->base),
    };
    return hash_sha512(crypto, parts, sizeof parts / sizeof parts[0], out);
}
_Static_assert(SHA512_SIZE == SGX_REPORTDATA_SIZE, "REPORTDATA is one SHA-512");

static struct err write_report(const struct crypto *crypto, const struct peer *peer, struct writer *w)
{
    uint8_t reportdata[SGX_REPORTDATA_SIZE];
    struct sgx_targetinfo target = {0};
    struct sgx_report report;
    TRY(make_reportdata(crypto, &peer->transcript, peer->role, reportdata));
    memcpy(&target, peer->target, sizeof peer->target);
    sgx_ereport(&target, reportdata, &report);
    return write_bytes(w, &report, SGX_REPORT_SIZE);
}

/* MRENCLAVE NULL: any. Notes who it was. */
static struct err check_report(const struct crypto *crypto, struct peer *peer, struct span report, uint16_t ISVPRODID,
                               const uint8_t *MRENCLAVE)
{
    uint8_t reportdata[SGX_REPORTDATA_SIZE];
    struct sgx_targetinfo target;
    struct sgx_report verified;
    TRY(make_reportdata(crypto, &peer->transcript, other_role(peer->role), reportdata));
    struct report_expected expected = {.MRENCLAVE = MRENCLAVE, .ISVPRODID = ISVPRODID, .reportdata = reportdata};
    TRY(report_verify(crypto, report, &expected, &verified));
    memcpy(peer->other_program, verified.MRENCLAVE, sizeof peer->other_program);
    report_target_of(&verified, &target);
    memcpy(peer->target, &target, sizeof peer->target);
    return OK;
}

static struct err establish_first(const struct crypto *crypto, struct peer *peer)
{
    uint8_t reportdata[2][SGX_REPORTDATA_SIZE], h[SHA256_SIZE];
    TRY(make_reportdata(crypto, &peer->transcript, PEER_MANAGER, reportdata[0]));
    TRY(make_reportdata(crypto, &peer->transcript, PEER_INSTANCE, reportdata[1]));
    const struct span parts[] = {span_of(LABEL, sizeof LABEL - 1), span_of(reportdata, sizeof reportdata)};
    TRY(hash_sha256(crypto, parts, 2, h));
    struct shared_secret shared DEFER(wipe_shared_secret) = {0};
    TRY(agree(crypto, peer, &shared));
    return establish(crypto, peer, LABEL, span_of(shared.bytes, sizeof shared.bytes), h);
}

static struct err challenge(const struct crypto *crypto, const struct instance_id *instance, uint64_t start,
                            const uint8_t base[PEER_BASE_SIZE], struct peer *peer, struct writer *message)
{
    struct sgx_targetinfo own;
    TRY(begin(crypto, PEER_MANAGER, PEER_BEGUN, peer));
    peer->transcript.instance = *instance;
    peer->transcript.start = start;
    memcpy(peer->transcript.base, base, PEER_BASE_SIZE);
    report_own_target(&own);
    TRY(write_kind(message, PEER_CHALLENGE));
    TRY(write_bytes(message, &own, REPORT_TARGET_SIZE));
    TRY(write_share(message, peer));
    TRY(write_bytes(message, instance->bytes, sizeof instance->bytes));
    TRY(write_u64(message, start));
    return write_bytes(message, base, PEER_BASE_SIZE);
}

struct err peer_challenge(const struct crypto *crypto, const struct instance_id *instance, uint64_t start,
                          const uint8_t base[PEER_BASE_SIZE], struct peer *out, struct writer *message)
{
    return end_step(out, challenge(crypto, instance, start, base, out, message));
}

static struct err read_challenge(struct span message, struct peer *peer)
{
    struct reader r = reader_of(message);
    struct peer_transcript *t = &peer->transcript;
    struct sgx_targetinfo checked;
    struct span target;
    TRY(read_kind(&r, PEER_CHALLENGE));
    TRY(read_span(&r, REPORT_TARGET_SIZE, &target));
    TRY(report_parse_target(target, &checked));
    memcpy(peer->target, target.data, sizeof peer->target);
    TRY(read_share(&r, peer));
    TRY(read_bytes(&r, t->instance.bytes, sizeof t->instance.bytes));
    TRY(read_u64(&r, &t->start));
    TRY(read_bytes(&r, t->base, sizeof t->base));
    return reader_end(&r);
}

static struct err prove(const struct crypto *crypto, struct span challenge, const struct instance_id *expected,
                        const uint8_t holder[ED25519_PUBLIC_SIZE], struct peer *peer, struct writer *message)
{
    TRY(begin(crypto, PEER_INSTANCE, PEER_BEGUN, peer));
    TRY(read_challenge(challenge, peer));
    ENSURE(memcmp(&peer->transcript.instance, expected, sizeof *expected) == 0, STATE_OTHER_INSTANCE);
    memcpy(peer->transcript.holder, holder, ED25519_PUBLIC_SIZE);
    TRY(write_kind(message, PEER_PROOF));
    TRY(write_share(message, peer));
    TRY(write_bytes(message, holder, ED25519_PUBLIC_SIZE));
    return write_report(crypto, peer, message);
}

struct err peer_prove(const struct crypto *crypto, struct span challenge, const struct instance_id *expected,
                      const uint8_t holder[ED25519_PUBLIC_SIZE], struct peer *out, struct writer *message)
{
    return end_step(out, prove(crypto, challenge, expected, holder, out, message));
}

static struct err check_proof(const struct crypto *crypto, struct peer *peer, struct span proof,
                              const uint8_t instance_mrenclave[SGX_HASH_SIZE])
{
    struct reader r = reader_of(proof);
    struct span report;
    ENSURE(peer->role == PEER_MANAGER && peer->step == PEER_BEGUN, LINK_ORDER);
    TRY(read_kind(&r, PEER_PROOF));
    TRY(read_share(&r, peer));
    TRY(read_bytes(&r, peer->transcript.holder, sizeof peer->transcript.holder));
    TRY(read_span(&r, SGX_REPORT_SIZE, &report));
    TRY(reader_end(&r));
    TRY(check_report(crypto, peer, report, PRODID_INSTANCE, instance_mrenclave));
    peer->step = PEER_PROVEN;
    return OK;
}

struct err peer_check_proof(const struct crypto *crypto, struct peer *peer, struct span proof,
                            const uint8_t instance_mrenclave[SGX_HASH_SIZE])
{
    return end_step(peer, check_proof(crypto, peer, proof, instance_mrenclave));
}

static struct err admit(const struct crypto *crypto, struct peer *peer, struct writer *message)
{
    ENSURE(peer->role == PEER_MANAGER && peer->step == PEER_PROVEN, LINK_ORDER);
    TRY(write_kind(message, PEER_ADMIT));
    TRY(write_report(crypto, peer, message));
    return establish_first(crypto, peer);
}

struct err peer_admit(const struct crypto *crypto, struct peer *peer, struct writer *message)
{
    return end_step(peer, admit(crypto, peer, message));
}

static struct err check_admission(const struct crypto *crypto, struct peer *peer, struct span admission)
{
    struct reader r = reader_of(admission);
    struct span report;
    ENSURE(peer->role == PEER_INSTANCE && peer->step == PEER_BEGUN, LINK_ORDER);
    TRY(read_kind(&r, PEER_ADMIT));
    TRY(read_span(&r, SGX_REPORT_SIZE, &report));
    TRY(reader_end(&r));
    /* Any: an instance image is built before the manager image that names it. It keeps who it was. */
    TRY(check_report(crypto, peer, report, PRODID_MANAGER, NULL));
    return establish_first(crypto, peer);
}

struct err peer_check_admission(const struct crypto *crypto, struct peer *peer, struct span admission)
{
    return end_step(peer, check_admission(crypto, peer, admission));
}

/* --- resuming --- */

struct resume_keys {
    uint8_t t[SHA256_SIZE];
    uint8_t prk[SHA256_SIZE];
    uint8_t mac[2][SHA256_SIZE]; /* the manager's, the instance's */
};

static void wipe_resume_keys(struct resume_keys *keys)
{
    wipe(keys, sizeof *keys);
}

struct resume_input {
    uint8_t key[PEER_RESUMPTION_KEY_SIZE];
    struct shared_secret shared;
};

static void wipe_resume_input(struct resume_input *input)
{
    wipe(input, sizeof *input);
}

static struct err hash_resumption(const struct crypto *crypto, const struct peer *peer,
                                  const struct peer_resumption *known, uint8_t out[SHA256_SIZE])
{
    const struct peer_transcript *t = &peer->transcript;
    uint8_t numbers[16];
    struct writer w = writer_of(numbers, sizeof numbers);
    TRY(write_u64(&w, known->epoch));
    TRY(write_u64(&w, known->start));
    const struct span parts[] = {
        span_of(RESUME_LABEL, sizeof RESUME_LABEL - 1),
        span_of(known->instance.bytes, sizeof known->instance.bytes),
        writer_span(&w),
        span_of(known->holder, sizeof known->holder),
        span_of(t->share, sizeof t->share),
        span_of(t->nonce, sizeof t->nonce),
    };
    return hash_sha256(crypto, parts, sizeof parts / sizeof parts[0], out);
}

static struct err derive_resumption(const struct crypto *crypto, const struct peer *peer,
                                    const struct peer_resumption *known, struct resume_keys *out)
{
    const struct span label = span_of(RESUME_LABEL, sizeof RESUME_LABEL - 1);
    struct resume_input input DEFER(wipe_resume_input) = {0};
    memcpy(input.key, known->key, sizeof input.key);
    TRY(agree(crypto, peer, &input.shared));
    TRY(hash_resumption(crypto, peer, known, out->t));
    TRY(hkdf_sha256(crypto, span_of(&input, sizeof input), span_of(out->t, sizeof out->t), label, out->prk,
                    sizeof out->prk));
    for (enum peer_role role = PEER_MANAGER; role <= PEER_INSTANCE; role++) {
        uint8_t role_byte = (uint8_t)role;
        const struct span parts[] = {label, span_of(&role_byte, 1), span_of(out->t, sizeof out->t)};
        TRY(hmac_sha256(crypto, span_of(out->prk, sizeof out->prk), parts, 3, out->mac[end_of(role)]));
    }
    return OK;
}
_Static_assert(sizeof(struct resume_input) == PEER_RESUMPTION_KEY_SIZE + X25519_SIZE, "one string for HKDF");

static struct err establish_resumed(const struct crypto *crypto, struct peer *peer, const struct resume_keys *keys)
{
    return establish(crypto, peer, RESUME_LABEL, span_of(keys->prk, sizeof keys->prk), keys->t);
}

static struct err resume(const struct crypto *crypto, const struct peer_resumption *known, struct peer *peer,
                         struct writer *message)
{
    TRY(begin(crypto, PEER_INSTANCE, PEER_RESUMING, peer));
    TRY(write_kind(message, PEER_RESUME));
    TRY(write_bytes(message, known->instance.bytes, sizeof known->instance.bytes));
    TRY(write_u64(message, known->start));
    return write_share(message, peer);
}

struct err peer_resume(const struct crypto *crypto, const struct peer_resumption *known, struct peer *out,
                       struct writer *message)
{
    return end_step(out, resume(crypto, known, out, message));
}

static struct err accept(const struct crypto *crypto, struct span resume, const struct peer_resumption *known,
                         struct peer *peer, struct writer *message)
{
    struct reader r = reader_of(resume);
    struct instance_id instance;
    uint64_t start;
    TRY(begin(crypto, PEER_MANAGER, PEER_RESUMING, peer));
    TRY(read_kind(&r, PEER_RESUME));
    TRY(read_bytes(&r, instance.bytes, sizeof instance.bytes));
    TRY(read_u64(&r, &start));
    TRY(read_share(&r, peer));
    TRY(reader_end(&r));
    ENSURE(memcmp(&instance, &known->instance, sizeof instance) == 0, STATE_OTHER_INSTANCE);
    ENSURE(start == known->start, FENCED);
    struct resume_keys keys DEFER(wipe_resume_keys) = {0};
    TRY(derive_resumption(crypto, peer, known, &keys));
    TRY(write_kind(message, PEER_ACCEPT));
    TRY(write_share(message, peer));
    return write_bytes(message, keys.mac[end_of(PEER_MANAGER)], SHA256_SIZE);
}

struct err peer_accept(const struct crypto *crypto, struct span resume, const struct peer_resumption *known,
                       struct peer *out, struct writer *message)
{
    return end_step(out, accept(crypto, resume, known, out, message));
}

static struct err read_mac(struct reader *r, struct span *out)
{
    TRY(read_span(r, SHA256_SIZE, out));
    return reader_end(r);
}

static struct err confirm(const struct crypto *crypto, const struct peer_resumption *known, struct peer *peer,
                          struct span accept, struct writer *message)
{
    struct reader r = reader_of(accept);
    struct span mac;
    ENSURE(peer->role == PEER_INSTANCE && peer->step == PEER_RESUMING, LINK_ORDER);
    TRY(read_kind(&r, PEER_ACCEPT));
    TRY(read_share(&r, peer));
    TRY(read_mac(&r, &mac));
    struct resume_keys keys DEFER(wipe_resume_keys) = {0};
    TRY(derive_resumption(crypto, peer, known, &keys));
    ENSURE(ct_equal(mac.data, keys.mac[end_of(PEER_MANAGER)], SHA256_SIZE), AUTHENTICATION);
    TRY(write_kind(message, PEER_CONFIRM));
    TRY(write_bytes(message, keys.mac[end_of(PEER_INSTANCE)], SHA256_SIZE));
    return establish_resumed(crypto, peer, &keys);
}

struct err peer_confirm(const struct crypto *crypto, const struct peer_resumption *known, struct peer *peer,
                        struct span accept, struct writer *message)
{
    return end_step(peer, confirm(crypto, known, peer, accept, message));
}

static struct err check_confirmation(const struct crypto *crypto, const struct peer_resumption *known,
                                     struct peer *peer, struct span confirm)
{
    struct reader r = reader_of(confirm);
    struct span mac;
    ENSURE(peer->role == PEER_MANAGER && peer->step == PEER_RESUMING, LINK_ORDER);
    TRY(read_kind(&r, PEER_CONFIRM));
    TRY(read_mac(&r, &mac));
    struct resume_keys keys DEFER(wipe_resume_keys) = {0};
    TRY(derive_resumption(crypto, peer, known, &keys));
    ENSURE(ct_equal(mac.data, keys.mac[end_of(PEER_INSTANCE)], SHA256_SIZE), AUTHENTICATION);
    return establish_resumed(crypto, peer, &keys);
}

struct err peer_check_confirmation(const struct crypto *crypto, const struct peer_resumption *known, struct peer *peer,
                                   struct span confirm)
{
    return end_step(peer, check_confirmation(crypto, known, peer, confirm));
}

/* --- records --- */

struct word {
    uint8_t bytes[WORD_MAX];
};

static void wipe_word(struct word *word)
{
    wipe(word, sizeof *word);
}

struct err peer_send(struct peer *peer, enum peer_word word, struct span fields, struct writer *message)
{
    ENSURE(peer->step == PEER_ESTABLISHED, LINK_CLOSED);
    struct word plaintext DEFER(wipe_word);
    struct writer w = writer_of(plaintext.bytes, sizeof plaintext.bytes);
    TRY(write_u64(&w, (uint64_t)word)); /* u8 kind, u8[7] 0 */
    TRY(write_span(&w, fields));
    return record_seal(&peer->records, RECORD_DATA, writer_span(&w), message);
}

static struct err receive(struct peer *peer, struct span message, enum peer_word *out_word, uint8_t *out_plaintext,
                          struct span *out_fields)
{
    enum record_type type;
    uint64_t word;
    size_t size = 0;
    ENSURE(peer->step == PEER_ESTABLISHED, LINK_CLOSED);
    TRY(record_open(&peer->records, message, &type, out_plaintext, &size));
    struct reader r = reader_of(span_of(out_plaintext, size));
    ENSURE(type == RECORD_DATA && read_u64(&r, &word).code == ERR_NONE, LINK_ORDER);
    ENSURE(word >= PEER_PROVISION && word <= PEER_LOADED, LINK_ORDER);
    *out_word = (enum peer_word)word;
    *out_fields = span_of(r.next, r.left);
    return OK;
}

struct err peer_receive(struct peer *peer, struct span message, enum peer_word *out_word, uint8_t *out_plaintext,
                        struct span *out_fields)
{
    return end_step(peer, receive(peer, message, out_word, out_plaintext, out_fields));
}
