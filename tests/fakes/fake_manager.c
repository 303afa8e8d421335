#include "tests/fakes/fake_manager.h"

#include <stdlib.h>
#include <string.h>

#include "abi/call.h"
#include "base/bytes.h"
#include "tests/fakes/runtime.h"
#include "trusted/runtime/entropy.h"

static void must(struct err err)
{
    if (err.code) abort();
}

const struct crypto *fake_crypto(void)
{
    static struct crypto crypto;
    static bool ready;
    if (!ready) must(crypto_init(&crypto));
    ready = true;
    return &crypto;
}

struct span fake_message_span(const struct fake_message *message)
{
    return span_of(message->bytes, message->size);
}

/* EREPORT and EGETKEY answer as to the manager, until the value that is returned is put back. */
static struct fake_processor enter(const struct fake_manager *m)
{
    struct fake_processor before = fake_processor;
    memcpy(fake_processor.MRENCLAVE, m->MRENCLAVE, sizeof fake_processor.MRENCLAVE);
    fake_processor.ISVPRODID = PRODID_MANAGER;
    return before;
}

void fake_manager_open(struct fake_manager *m)
{
    *m = (struct fake_manager){
        .MRENCLAVE = "the manager's image", .link_kind = LINK_K2_NAMED, .lockout_heals = PEER_LOCKOUT_TIME};
    memcpy(m->program, fake_processor.MRENCLAVE, sizeof m->program);
    entropy_fill(m->known.instance.bytes, sizeof m->known.instance.bytes);
    entropy_fill(m->known.key, sizeof m->known.key);
    entropy_fill(m->root_key, sizeof m->root_key);
}

void fake_manager_revert(struct fake_manager *m, const struct fake_state *older)
{
    m->recorded.version++;
    memcpy(m->recorded.digest, older->digest, sizeof m->recorded.digest);
    memset(m->recorded.suspended, 0, sizeof m->recorded.suspended);
    m->reverted = true;
}

void fake_manager_challenge(struct fake_manager *m, struct fake_message *out)
{
    uint8_t base[PEER_BASE_SIZE];
    struct writer w = writer_of(out->bytes, sizeof out->bytes);
    entropy_fill(base, sizeof base);
    m->known.start++;
    m->ready = m->commits = m->asks = false;
    struct fake_processor before = enter(m);
    must(peer_challenge(fake_crypto(), &m->known.instance, m->known.start, base, &m->peer, &w));
    fake_processor = before;
    out->size = w.size;
}

void fake_manager_admit(struct fake_manager *m, struct span proof, struct fake_message *out)
{
    struct writer w = writer_of(out->bytes, sizeof out->bytes);
    struct fake_processor before = enter(m);
    must(peer_check_proof(fake_crypto(), &m->peer, proof, m->program));
    must(peer_admit(fake_crypto(), &m->peer, &w));
    fake_processor = before;
    memcpy(m->known.holder, m->peer.transcript.holder, sizeof m->known.holder);
    memcpy(m->resumes, m->recorded.suspended, sizeof m->resumes);
    memset(m->recorded.suspended, 0, sizeof m->recorded.suspended);
    out->size = w.size;
}

static enum peer_mode mode_of(const struct fake_manager *m)
{
    static const uint8_t nothing[SHA256_SIZE];
    if (m->incoming) return PEER_MODE_INCOMING;
    if (!m->recorded.version) return m->imports ? PEER_MODE_IMPORT : PEER_MODE_NEW;
    if (m->reverted) return PEER_MODE_REVERTED;
    return memcmp(m->resumes, nothing, sizeof nothing) ? PEER_MODE_RESUME : PEER_MODE_OPEN;
}

void fake_manager_provision_fields(const struct fake_manager *m, uint8_t out[PEER_PROVISION_SIZE])
{
    static const uint8_t none[PEER_FLOORS_SIZE];
    uint8_t *reserved = NULL;
    struct writer w = writer_of(out, PEER_PROVISION_SIZE);
    must(write_bytes(&w, m->known.instance.bytes, INSTANCE_ID_SIZE));
    must(write_u64(&w, m->known.epoch));
    must(write_u64(&w, m->known.start));
    must(write_u8(&w, (uint8_t)mode_of(m)));
    must(write_u8(&w, (uint8_t)m->link_kind));
    must(write_u8(&w, (uint8_t)m->lockout_heals));
    must(write_u8(&w, (uint8_t)m->family));
    must(write_u8(&w, (uint8_t)m->snapshots));
    must(write_zeros(&w, 3, &reserved));
    if (m->incoming) {
        uint8_t *zeros = NULL;
        uint8_t root[BLOB_ROOT_SIZE];
        must(blob_export_root(fake_crypto(), m->root_key, m->MRENCLAVE, root));
        must(write_bytes(&w, root, sizeof root));
        must(write_zeros(&w, 2 * 32 + 8 + 2 * SHA256_SIZE + PEER_FLOORS_SIZE, &zeros));
        must(write_bytes(&w, m->front_share, sizeof m->front_share));
        must(write_bytes(&w, m->enrolled, sizeof m->enrolled));
        must(write_u64(&w, m->era));
        return;
    }
    must(write_bytes(&w, m->root_key, sizeof m->root_key));
    must(write_bytes(&w, m->known.key, sizeof m->known.key));
    must(write_bytes(&w, m->sealed_under, sizeof m->sealed_under));
    must(write_u64(&w, m->recorded.version));
    must(write_bytes(&w, m->recorded.digest, sizeof m->recorded.digest));
    must(write_bytes(&w, m->resumes, sizeof m->resumes));
    must(write_bytes(&w, m->reverted ? m->recorded.floors : none, PEER_FLOORS_SIZE));
    must(write_bytes(&w, m->front_share, sizeof m->front_share));
    must(write_bytes(&w, m->enrolled, sizeof m->enrolled));
    must(write_u64(&w, m->era));
}

void fake_manager_redeem(struct fake_manager *m, struct fake_message *out)
{
    uint8_t fields[PEER_REDEEMED_SIZE];
    struct writer w = writer_of(fields, sizeof fields);
    if (!m->redeems) abort();
    m->redeems = m->incoming = false;
    must(write_bytes(&w, m->root_key, sizeof m->root_key));
    must(write_bytes(&w, m->known.key, sizeof m->known.key));
    fake_manager_say(m, PEER_REDEEMED, writer_span(&w), out);
}

void fake_manager_provision(struct fake_manager *m, struct fake_message *out)
{
    uint8_t fields[PEER_PROVISION_SIZE];
    fake_manager_provision_fields(m, fields);
    fake_manager_say(m, PEER_PROVISION, span_of(fields, sizeof fields), out);
}

void fake_manager_accept(struct fake_manager *m, struct span resume, struct fake_message *out)
{
    struct writer w = writer_of(out->bytes, sizeof out->bytes);
    m->commits = m->asks = false;
    must(peer_accept(fake_crypto(), resume, &m->known, &m->peer, &w));
    out->size = w.size;
}

void fake_manager_check_confirmation(struct fake_manager *m, struct span confirm)
{
    must(peer_check_confirmation(fake_crypto(), &m->known, &m->peer, confirm));
}

void fake_manager_hear(struct fake_manager *m, struct span message)
{
    enum peer_word word;
    uint8_t plaintext[PEER_MESSAGE_MAX];
    struct span fields;
    must(peer_receive(&m->peer, message, &word, plaintext, &fields));
    struct reader r = reader_of(fields);
    switch (word) {
    case PEER_READY:
        m->ready = true;
        must(read_bytes(&r, m->instance_share, sizeof m->instance_share));
        break;
    case PEER_COMMIT:
    case PEER_LOADED:
        m->commits = true;
        m->commit.loaded = word == PEER_LOADED;
        must(read_u64(&r, &m->commit.version));
        must(read_bytes(&r, m->commit.digest, sizeof m->commit.digest));
        must(read_bytes(&r, m->commit.suspended, sizeof m->commit.suspended));
        must(read_bytes(&r, m->commit.floors, sizeof m->commit.floors));
        break;
    case PEER_ASK_LEASE:
        m->asks = true;
        must(read_u64(&r, &m->number));
        break;
    case PEER_REDEEM:
        m->redeems = true;
        for (size_t i = 0; i < 3; i++)
            must(read_u64(&r, &m->redeem[i]));
        break;
    default:
        abort();
    }
    must(reader_end(&r));
}

void fake_manager_anchor(struct fake_manager *m, struct fake_message *out)
{
    uint8_t fields[sizeof(uint64_t) + SHA256_SIZE];
    struct writer w = writer_of(fields, sizeof fields);
    if (!m->commits) abort();
    m->commits = false;
    m->recorded = m->commit;
    m->reverted = false;
    memcpy(m->sealed_under, m->MRENCLAVE, sizeof m->sealed_under);
    must(write_u64(&w, m->recorded.version));
    must(write_bytes(&w, m->recorded.digest, sizeof m->recorded.digest));
    fake_manager_say(m, PEER_ANCHORED, writer_span(&w), out);
}

void fake_manager_lease(struct fake_manager *m, struct fake_message *out)
{
    uint8_t fields[sizeof(uint64_t)];
    struct writer w = writer_of(fields, sizeof fields);
    if (!m->asks) abort();
    m->asks = false;
    must(write_u64(&w, m->number));
    fake_manager_say(m, PEER_LEASE, writer_span(&w), out);
}

void fake_manager_say(struct fake_manager *m, enum peer_word word, struct span fields, struct fake_message *out)
{
    struct writer w = writer_of(out->bytes, sizeof out->bytes);
    must(peer_send(&m->peer, word, fields, &w));
    out->size = w.size;
}
