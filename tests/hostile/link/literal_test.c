/*
 * L3: who makes the key. Where the module that the operating system loads makes it and hands it to both ends, whoever
 * is that module reads everything. Here the key is agreed on by the two ends, the module only carries, and the same
 * reader, with every byte of handshake and records and all that the module knows, reads nothing.
 */
#include "tests/fakes/assertions.h"

#include <string.h>

#include "crypto/hkdf.h"
#include "tests/fakes/link_pair.h"

#define SECRET       "the secret that a VM unseals"
#define SECRET_SIZE  (sizeof SECRET - 1)
#define RECORD_COUNT 4u
#define KEY_COUNT    64u

/* What the operating system has: its module's keys, and everything that went through it. */
struct relay {
    struct x25519_key module; /* a key pair of the module's own */
    uint8_t seen[8192];
    struct writer log;
    struct span records[RECORD_COUNT];
    size_t record_count;
    uint8_t keys[KEY_COUNT][AEAD_KEY_SIZE + AEAD_IV_SIZE];
    size_t key_count;
};

static struct crypto crypto;

static void relay_init(struct relay *relay)
{
    *relay = (struct relay){0};
    relay->log = writer_of(relay->seen, sizeof relay->seen);
    assert_ok(x25519_generate(&crypto, &relay->module));
}

static void relay_carry(struct relay *relay, struct span bytes)
{
    assert_ok(write_span(&relay->log, bytes));
}

static void relay_carry_record(struct relay *relay, struct span record)
{
    assert_true(relay->record_count < RECORD_COUNT);
    relay->records[relay->record_count++] = span_of(relay->seen + relay->log.size, record.size);
    relay_carry(relay, record);
}

static uint8_t *relay_new_key(struct relay *relay)
{
    assert_true(relay->key_count < KEY_COUNT);
    return relay->keys[relay->key_count++];
}

static bool finds_secret(struct span text)
{
    return memmem(text.data, text.size, SECRET, SECRET_SIZE) != NULL;
}

/* Tries a key on a record as an end of the session would open it. */
static bool opens(const uint8_t *key_and_iv, const uint8_t h[SHA256_SIZE], struct span record)
{
    static const struct record_direction unused;
    struct record_direction direction;
    struct record_session session = {0};
    enum record_type type;
    uint8_t text[RECORD_MAX];
    size_t size = 0;
    memcpy(&direction, key_and_iv, sizeof direction);
    assert_ok(record_session_open(&crypto, h, &unused, &direction, &session));
    session.received = record.data[8]; /* the number is there for all to read */
    bool opened = record_open(&session, record, &type, text, &size).code == ERR_NONE;
    record_session_close(&session);
    return opened && finds_secret(span_of(text, size));
}

static bool relay_reads(const struct relay *relay, const uint8_t h[SHA256_SIZE])
{
    if (finds_secret(writer_span(&relay->log))) return true;
    for (size_t i = 0; i < relay->record_count; i++)
        for (size_t k = 0; k < relay->key_count; k++)
            if (opens(relay->keys[k], h, relay->records[i])) return true;
    return false;
}

/* The schedule of the link from any input that the relay has in the place of the shared secret. */
static void relay_guess(struct relay *relay, const uint8_t h[SHA256_SIZE], struct span ikm)
{
    static const char *const info[] = {"vtpm link v1 host to enclave", "vtpm link v1 enclave to host"};
    for (size_t i = 0; i < 2; i++)
        assert_ok(hkdf_sha256(&crypto, ikm, span_of(h, SHA256_SIZE), span_of(info[i], strlen(info[i])),
                              relay_new_key(relay), AEAD_KEY_SIZE + AEAD_IV_SIZE));
}

/* The module makes the key, gives it to both ends, and they encrypt with it as carefully as we do. */
static void where_the_module_makes_the_key_the_relay_reads(void **state)
{
    (void)state;
    static const uint8_t id[RECORD_SESSION_ID_SIZE] = "session";
    struct relay relay;
    struct record_session host = {0};
    uint8_t record[RECORD_MAX];
    struct writer w = writer_of(record, sizeof record);
    relay_init(&relay);
    uint8_t *K1 = relay_new_key(&relay);
    memcpy(K1, relay.module.private, AEAD_KEY_SIZE);
    const struct record_direction there = {.key = {0}}, *made = (const struct record_direction *)K1;
    assert_ok(record_session_open(&crypto, id, made, &there, &host));
    assert_ok(record_seal(&host, RECORD_DATA, span_of(SECRET, SECRET_SIZE), &w));
    relay_carry_record(&relay, writer_span(&w));
    assert_false(finds_secret(writer_span(&relay.log))); /* it is encrypted, */
    assert_true(relay_reads(&relay, id));                /* and it does not help */
    record_session_close(&host);
}

static void say_through(struct relay *relay, struct link *from, struct link *to, const char *text)
{
    uint8_t record[RECORD_MAX], plaintext[RECORD_MAX];
    enum link_event event;
    size_t size;
    struct writer w = writer_of(record, sizeof record);
    if (text)
        assert_ok(link_send(from, span_of(text, strlen(text)), &w));
    else
        assert_ok(link_finish(from, &w));
    relay_carry_record(relay, writer_span(&w));
    assert_ok(link_receive(to, writer_span(&w), &event, plaintext, &size));
}

/* All that can be made of what the relay knows: zeros, its own key, the transcript, the shares, and its key with them.
 */
static void relay_guess_all(struct relay *relay, const struct link_pair *pair)
{
    static const uint8_t zeros[X25519_SIZE];
    const uint8_t *h = pair->host.h; /* all of it is public */
    const uint8_t *const public[] = {pair->host_key.public, pair->enclave_key.public, pair->enrolled.public};
    uint8_t shared[X25519_SIZE];
    relay_guess(relay, h, span_of(zeros, sizeof zeros));
    relay_guess(relay, h, span_of(relay->module.private, X25519_SIZE));
    relay_guess(relay, h, span_of(relay->module.public, X25519_SIZE));
    relay_guess(relay, h, span_of(h, SHA256_SIZE));
    for (size_t i = 0; i < sizeof public / sizeof public[0]; i++) {
        relay_guess(relay, h, span_of(public[i], X25519_SIZE));
        assert_ok(x25519_shared(&crypto, relay->module.private, public[i], shared));
        relay_guess(relay, h, span_of(shared, sizeof shared));
    }
    memcpy(relay_new_key(relay), relay->module.private, AEAD_KEY_SIZE);
    memcpy(relay_new_key(relay), h, SHA256_SIZE);
}

static void where_the_ends_agree_on_it_the_same_relay_reads_nothing(void **state)
{
    (void)state;
    for (enum link_kind kind = LINK_K1; kind <= LINK_K2_ENROLLED; kind++) {
        struct relay relay;
        struct link_pair pair;
        relay_init(&relay);
        link_pair_init(&pair, kind);
        assert_ok(x25519_generate(&crypto, &pair.host_key));
        assert_ok(x25519_generate(&crypto, &pair.enclave_key));
        relay_carry(&relay, span_of(pair.host_key.public, X25519_SIZE));
        relay_carry(&relay, span_of(pair.enclave_key.public, X25519_SIZE));
        assert_ok(link_pair_open_host(&pair, pair.enclave_key.public));
        assert_ok(link_pair_open_enclave(&pair, pair.host_key.public));
        say_through(&relay, &pair.enclave, &pair.host, NULL);
        say_through(&relay, &pair.host, &pair.enclave, NULL);
        say_through(&relay, &pair.host, &pair.enclave, "to the enclave: " SECRET);
        say_through(&relay, &pair.enclave, &pair.host, "from the enclave: " SECRET);
        relay_guess_all(&relay, &pair);
        assert_false(relay_reads(&relay, pair.host.h));

        /* The reader is not blind: with the one thing that it does not have, it reads. */
        uint8_t ikm[2 * X25519_SIZE];
        assert_ok(x25519_shared(&crypto, pair.host_key.private, pair.enclave_key.public, ikm));
        assert_ok(x25519_shared(&crypto, pair.enrolled.private, pair.enclave_key.public, ikm + X25519_SIZE));
        relay_guess(&relay, pair.host.h, span_of(ikm, kind == LINK_K2_ENROLLED ? sizeof ikm : X25519_SIZE));
        assert_true(relay_reads(&relay, pair.host.h));
        link_pair_close(&pair);
    }
}

/* Records that were kept are worth nothing when an enrolled key falls into the wrong hands later. */
static void the_enrolled_private_key_alone_opens_no_old_record(void **state)
{
    (void)state;
    struct relay relay;
    struct link_pair pair;
    uint8_t ikm[2 * X25519_SIZE] = {0};
    relay_init(&relay);
    link_pair_init(&pair, LINK_K2_ENROLLED);
    link_pair_establish(&pair);
    say_through(&relay, &pair.enclave, &pair.host, SECRET);
    assert_ok(x25519_shared(&crypto, pair.enrolled.private, pair.enclave_key.public, ikm + X25519_SIZE));
    relay_guess(&relay, pair.host.h, span_of(ikm, sizeof ikm));
    relay_guess(&relay, pair.host.h, span_of(ikm + X25519_SIZE, X25519_SIZE));
    assert_false(relay_reads(&relay, pair.host.h));
    link_pair_close(&pair);
}

static int init(void **state)
{
    (void)state;
    return crypto_init(&crypto).code;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(where_the_module_makes_the_key_the_relay_reads),
        cmocka_unit_test(where_the_ends_agree_on_it_the_same_relay_reads_nothing),
        cmocka_unit_test(the_enrolled_private_key_alone_opens_no_old_record),
    };
    return cmocka_run_group_tests_name("literal", tests, init, NULL);
}
