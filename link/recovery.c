#include "link/recovery.h"

#include <string.h>

#include "base/memory.h"
#include "crypto/hkdf.h"

#define RECORD_LABEL "vtpm recovery v1"
#define LABEL_SIZE   16u

static const uint8_t request_label[LABEL_SIZE] = "vtpm recover v1";
static const uint8_t answer_label[LABEL_SIZE] = "vtpm share v1";

static const char in_record[] = "vtpm recovery share";
static const char in_answer[] = "vtpm recovery answer";

static struct err read_label(struct reader *r, const void *expected)
{
    struct span label;
    TRY(read_span(r, LABEL_SIZE, &label));
    ENSURE(memcmp(label.data, expected, LABEL_SIZE) == 0, BAD_VALUE);
    return OK;
}

static struct err read_padding(struct reader *r, size_t size)
{
    struct span padding;
    TRY(read_span(r, size, &padding));
    for (size_t i = 0; i < size; i++)
        ENSURE(padding.data[i] == 0, BAD_VALUE);
    return OK;
}

void recovery_share_wipe(struct recovery_share *share)
{
    wipe(share, sizeof *share);
}

struct err recovery_check_rule(const struct recovery_rule *rule)
{
    ENSURE(rule->count <= RECOVERY_KEYS_MAX && rule->threshold <= rule->count, BAD_VALUE);
    ENSURE((rule->threshold == 0) == (rule->count == 0), BAD_VALUE);
    return OK;
}

/* --- the record ---------------------------------------------------------------------------------------------------- */

struct err recovery_parse(struct span bytes, struct recovery_record *out)
{
    struct reader r = reader_of(bytes);
    struct recovery_record record = {0};
    TRY(read_label(&r, RECORD_LABEL));
    TRY(read_bytes(&r, record.domain.bytes, sizeof record.domain.bytes));
    TRY(read_u8(&r, &record.rule.threshold));
    TRY(read_u8(&r, &record.rule.count));
    TRY(read_padding(&r, 6));
    TRY(recovery_check_rule(&record.rule));
    ENSURE(record.rule.count > 0, BAD_VALUE);
    TRY(read_span(&r, RECOVERY_SECRET_SIZE, &record.salt));
    TRY(read_span(&r, record.rule.count * RECOVERY_HOLDER_SIZE, &record.holders));
    record.head = span_of(bytes.data, RECOVERY_HEAD_SIZE);
    record.before_master = span_of(bytes.data, RECOVERY_HEAD_SIZE + record.holders.size);
    TRY(read_span(&r, RECOVERY_MASTER_SIZE, &record.master));
    TRY(reader_end(&r));
    *out = record;
    return OK;
}

/* --- shares -------------------------------------------------------------------------------------------------------- */

struct shared_secret {
    uint8_t bytes[X25519_SIZE];
};

static void wipe_shared(struct shared_secret *shared)
{
    wipe(shared, sizeof *shared);
}

static void wipe_key(struct x25519_key *key)
{
    wipe(key, sizeof *key);
}

/* peer: the other one's public key. ephemeral, target: which of the two is which, public. */
static struct err derive(const struct crypto *crypto, const struct x25519_key *own, const uint8_t *peer,
                         const uint8_t *ephemeral, const uint8_t *target, const char *label, uint8_t index,
                         struct aead_key *out)
{
    struct shared_secret shared DEFER(wipe_shared) = {0};
    uint8_t salt[2 * X25519_SIZE];
    uint8_t info[32];
    const size_t size = strlen(label);
    memcpy(salt, ephemeral, X25519_SIZE);
    memcpy(salt + X25519_SIZE, target, X25519_SIZE);
    memcpy(info, label, size);
    info[size] = index;
    TRY(x25519_shared(crypto, own->private, peer, shared.bytes));
    return hkdf_sha256(crypto, span_of(shared.bytes, sizeof shared.bytes), span_of(salt, sizeof salt),
                       span_of(info, size + 1), out, sizeof *out);
}

static struct err seal(const struct crypto *crypto, const struct recovery_share *share, const uint8_t *target,
                       const char *label, struct span aad, struct writer *out)
{
    struct x25519_key ephemeral DEFER(wipe_key) = {0};
    struct aead_key key DEFER(aead_key_wipe) = {0};
    uint8_t *sealed = NULL;
    TRY(x25519_generate(crypto, &ephemeral));
    TRY(derive(crypto, &ephemeral, target, ephemeral.public, target, label, share->index, &key));
    TRY(write_bytes(out, ephemeral.public, X25519_SIZE));
    TRY(write_zeros(out, RECOVERY_SECRET_SIZE + AEAD_TAG_SIZE, &sealed));
    return aead_seal(crypto, &key, aad, span_of(share->value, sizeof share->value), sealed,
                     sealed + RECOVERY_SECRET_SIZE);
}

/* sealed: RECOVERY_SEALED_SIZE bytes. */
static struct err open(const struct crypto *crypto, const struct x25519_key *own, const char *label, struct span aad,
                       const uint8_t *sealed, struct recovery_share *share)
{
    struct aead_key key DEFER(aead_key_wipe) = {0};
    const uint8_t *ciphertext = sealed + X25519_SIZE;
    TRY(derive(crypto, own, sealed, sealed, own->public, label, share->index, &key));
    return aead_open(crypto, &key, aad, span_of(ciphertext, RECOVERY_SECRET_SIZE), ciphertext + RECOVERY_SECRET_SIZE,
                     share->value);
}

struct err recovery_seal_share(const struct crypto *crypto, const struct recovery_share *share,
                               const uint8_t holder[X25519_SIZE], struct span head, struct writer *out)
{
    return seal(crypto, share, holder, in_record, head, out);
}

/* --- request and answer -------------------------------------------------------------------------------------------- */

struct err recovery_write_request(const struct recovery_request *request, struct writer *out)
{
    TRY(write_bytes(out, request_label, sizeof request_label));
    TRY(write_bytes(out, request->domain.bytes, sizeof request->domain.bytes));
    TRY(write_bytes(out, request->key, sizeof request->key));
    return write_bytes(out, request->manager, sizeof request->manager);
}

struct err recovery_read_request(struct span bytes, struct recovery_request *out)
{
    struct reader r = reader_of(bytes);
    struct recovery_request request;
    TRY(read_label(&r, request_label));
    TRY(read_bytes(&r, request.domain.bytes, sizeof request.domain.bytes));
    TRY(read_bytes(&r, request.key, sizeof request.key));
    TRY(read_bytes(&r, request.manager, sizeof request.manager));
    TRY(reader_end(&r));
    *out = request;
    return OK;
}

/* The holder's place in the record, or NULL. */
static const uint8_t *find_holder(const struct recovery_record *record, const uint8_t *public, uint8_t *out_index)
{
    for (uint8_t i = 0; i < record->rule.count; i++) {
        const uint8_t *holder = record->holders.data + i * (size_t)RECOVERY_HOLDER_SIZE;
        *out_index = (uint8_t)(i + 1);
        if (memcmp(holder, public, X25519_SIZE) == 0) return holder;
    }
    return NULL;
}

struct err recovery_answer(const struct crypto *crypto, const struct recovery_record *record,
                           const struct x25519_key *holder, struct span request, struct writer *out)
{
    struct recovery_share share DEFER(recovery_share_wipe) = {0};
    struct recovery_request parsed;
    uint8_t *padding = NULL;
    const uint8_t *place = find_holder(record, holder->public, &share.index);
    ENSURE(place, KEY_UNUSABLE);
    TRY(recovery_read_request(request, &parsed));
    ENSURE(memcmp(parsed.domain.bytes, record->domain.bytes, INSTANCE_ID_SIZE) == 0, BAD_VALUE);
    TRY(open(crypto, holder, in_record, record->head, place + X25519_SIZE, &share));
    TRY(write_bytes(out, answer_label, sizeof answer_label));
    TRY(write_u8(out, share.index));
    TRY(write_zeros(out, 7, &padding));
    return seal(crypto, &share, parsed.key, in_answer, request, out);
}

struct err recovery_open_answer(const struct crypto *crypto, const struct x25519_key *own, struct span request,
                                struct span answer, struct recovery_share *out)
{
    struct reader r = reader_of(answer);
    struct span sealed;
    TRY(read_label(&r, answer_label));
    TRY(read_u8(&r, &out->index));
    TRY(read_padding(&r, 7));
    TRY(read_span(&r, RECOVERY_SEALED_SIZE, &sealed));
    TRY(reader_end(&r));
    return open(crypto, own, in_answer, request, sealed.data, out);
}

struct err recovery_master_key(const struct crypto *crypto, const uint8_t secret[RECOVERY_SECRET_SIZE],
                               struct span salt, struct aead_key *out)
{
    static const char info[] = "vtpm recovery master";
    return hkdf_sha256(crypto, span_of(secret, RECOVERY_SECRET_SIZE), salt, span_of(info, sizeof info - 1), out,
                       sizeof *out);
}
