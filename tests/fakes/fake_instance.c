#include "tests/fakes/fake_instance.h"

#include <string.h>

#include "tests/fakes/assertions.h"

const struct crypto *fake_instance_crypto(void)
{
    static struct crypto crypto;
    if (!crypto.aes_256_gcm) assert_ok(crypto_init(&crypto));
    return &crypto;
}

void fake_instance_open(struct fake_instance *fake, const struct instance_id *id, uint64_t channel)
{
    *fake = (struct fake_instance){.id = *id, .channel = channel};
    assert_ok(ed25519_generate(fake_instance_crypto(), &fake->holder));
}

void fake_instance_close(struct fake_instance *fake)
{
    peer_close(&fake->peer);
}

struct span fake_instance_prove(struct fake_instance *fake, struct span challenge)
{
    struct writer w = writer_of(fake->message, sizeof fake->message);
    assert_ok(peer_prove(fake_instance_crypto(), challenge, &fake->id, fake->holder.public, &fake->peer, &w));
    return writer_span(&w);
}

struct span fake_instance_say(struct fake_instance *fake, enum peer_word word, struct span fields)
{
    struct writer w = writer_of(fake->message, sizeof fake->message);
    assert_ok(peer_send(&fake->peer, word, fields, &w));
    return writer_span(&w);
}

struct span fake_instance_ready(struct fake_instance *fake)
{
    static const uint8_t share[X25519_SIZE] = "the share of the instance";
    return fake_instance_say(fake, PEER_READY, span_of(share, sizeof share));
}

struct span fake_instance_commit(struct fake_instance *fake, uint64_t version, const uint8_t digest[SHA256_SIZE])
{
    uint8_t fields[PEER_COMMIT_SIZE];
    struct writer w = writer_of(fields, sizeof fields);
    assert_ok(write_u64(&w, version));
    assert_ok(write_bytes(&w, digest, SHA256_SIZE));
    assert_ok(write_bytes(&w, fake->suspended, sizeof fake->suspended));
    assert_ok(write_bytes(&w, fake->floors, sizeof fake->floors));
    return fake_instance_say(fake, fake->loads ? PEER_LOADED : PEER_COMMIT, writer_span(&w));
}

struct span fake_instance_ask_lease(struct fake_instance *fake, uint64_t number)
{
    uint8_t fields[sizeof number];
    struct writer w = writer_of(fields, sizeof fields);
    assert_ok(write_u64(&w, number));
    return fake_instance_say(fake, PEER_ASK_LEASE, writer_span(&w));
}

static struct peer_resumption known(const struct fake_instance *fake)
{
    struct peer_resumption out = {.instance = fake->id, .epoch = fake->provision.epoch, .start = fake->provision.start};
    memcpy(out.holder, fake->holder.public, sizeof out.holder);
    memcpy(out.key, fake->provision.resumption_key, sizeof out.key);
    return out;
}

struct span fake_instance_resume(struct fake_instance *fake)
{
    struct peer_resumption knows = known(fake);
    struct writer w = writer_of(fake->message, sizeof fake->message);
    peer_close(&fake->peer);
    assert_ok(peer_resume(fake_instance_crypto(), &knows, &fake->peer, &w));
    return writer_span(&w);
}

struct span fake_instance_confirm(struct fake_instance *fake, struct span accept)
{
    struct peer_resumption knows = known(fake);
    struct writer w = writer_of(fake->message, sizeof fake->message);
    assert_ok(peer_confirm(fake_instance_crypto(), &knows, &fake->peer, accept, &w));
    return writer_span(&w);
}

static void parse_provision(struct span fields, struct fake_provision *out)
{
    struct reader r = reader_of(fields);
    struct span padding;
    assert_int_equal(fields.size, PEER_PROVISION_SIZE);
    assert_ok(read_bytes(&r, out->id.bytes, sizeof out->id.bytes));
    assert_ok(read_u64(&r, &out->epoch));
    assert_ok(read_u64(&r, &out->start));
    assert_ok(read_u8(&r, &out->mode));
    assert_ok(read_u8(&r, &out->link_kind));
    assert_ok(read_u8(&r, &out->lockout_heals));
    assert_ok(read_u8(&r, &out->family));
    assert_ok(read_u8(&r, &out->snapshots));
    assert_ok(read_span(&r, 3, &padding));
    assert_ok(read_bytes(&r, out->root_key, sizeof out->root_key));
    assert_ok(read_bytes(&r, out->resumption_key, sizeof out->resumption_key));
    assert_ok(read_bytes(&r, out->sealed_by, sizeof out->sealed_by));
    assert_ok(read_u64(&r, &out->version));
    assert_ok(read_bytes(&r, out->digest, sizeof out->digest));
    assert_ok(read_bytes(&r, out->suspended, sizeof out->suspended));
    assert_ok(read_bytes(&r, out->floors, sizeof out->floors));
    assert_ok(read_bytes(&r, out->front_share, sizeof out->front_share));
    assert_ok(read_bytes(&r, out->front_key, sizeof out->front_key));
    assert_ok(read_u64(&r, &out->era));
    assert_ok(reader_end(&r));
}

void fake_instance_admit(struct fake_instance *fake, struct span admission, struct span provision)
{
    assert_ok(peer_check_admission(fake_instance_crypto(), &fake->peer, admission));
    parse_provision(fake_instance_hear(fake, provision, PEER_PROVISION), &fake->provision);
}

struct span fake_instance_hear(struct fake_instance *fake, struct span message, enum peer_word expected)
{
    enum peer_word word = 0;
    struct span fields = {0};
    assert_true(message.size <= sizeof fake->heard);
    assert_ok(peer_receive(&fake->peer, message, &word, fake->heard, &fields));
    assert_int_equal(word, expected);
    return fields;
}

void fake_instance_receipt(const struct fake_instance *fake, uint64_t version, const uint8_t digest[SHA256_SIZE],
                           uint8_t out[PEER_RECEIPT_SIZE])
{
    static const char label[16] = PEER_RECEIPT_LABEL;
    struct writer w = writer_of(out, PEER_RECEIPT_SIZE);
    assert_ok(write_bytes(&w, label, sizeof label));
    assert_ok(write_bytes(&w, fake->id.bytes, sizeof fake->id.bytes));
    assert_ok(write_u64(&w, fake->provision.epoch));
    assert_ok(write_u64(&w, fake->provision.start));
    assert_ok(write_u64(&w, version));
    assert_ok(write_bytes(&w, digest, SHA256_SIZE));
    assert_ok(ed25519_sign(fake_instance_crypto(), &fake->holder, writer_span(&w), out + w.size));
}
