/*
 * What vtpmd asks the manager over K1, and what instances say on their channels: a chain of steps, each u8 kind, u8
 * size and as many bytes. The records themselves are honest, so that what they carry is reached; channels also get bytes
 * that are no message at all.
 *
 * An instance is served on one channel, and on another there may be an enclave that is to take over from it.
 *
 * Holds for every chain: the program never fails, and what is not stored and anchored yet is never answered.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "abi/anchor.h"
#include "abi/manager.h"
#include "base/bytes.h"
#include "link/link.h"
#include "tests/fakes/program.h"
#include "tests/fakes/runtime.h"
#include "trusted/door/door.h"
#include "trusted/manager/image.h"
#include "trusted/session/peer.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHANNEL           1u
#define CANDIDATE_CHANNEL 2u
#define STATE_FAILED      5u

enum step {
    STEP_REQUEST,
    STEP_MESSAGE,
    STEP_WORD,
    STEP_STORED,
    STEP_SERVE,
    STEP_CANDIDATE,         /* an enclave that is to take over from the newest instance, up to READY */
    STEP_CANDIDATE_MESSAGE, /* on its channel */
    STEP_CANDIDATE_WORD,
    STEP_COUNT,
};

static struct crypto crypto;
static struct link k1;
static struct instance_id instance;
static struct peer peer;
static struct peer candidate;
static uint64_t listening = CHANNEL; /* whose messages are kept */
static uint64_t requests;
static uint64_t store;                          /* the one under way, 0: none */
static uint8_t exchange[8 + ANCHOR_VALUE_SIZE]; /* the answer to the one with the anchor, kept until then */
static uint8_t sent[4][PEER_MESSAGE_MAX];       /* to the channel, of the last call */
static size_t sent_size[4];
static size_t sent_count;

const struct manager_image *manager_image(void)
{
    static const struct manager_image image = {.instance = "the instance", .security_version = 1};
    return &image;
}

static void must(struct err err)
{
    if (err.code) abort();
}

static void be(const char *name, uint16_t ISVPRODID)
{
    memset(fake_processor.MRENCLAVE, 0, SGX_HASH_SIZE);
    memcpy(fake_processor.MRENCLAVE, name, strlen(name));
    fake_processor.ISVPRODID = ISVPRODID;
}

/* Whose id a row begins with, so that requests can name an instance that is there. */
static void take_answer(struct span record)
{
    static uint8_t plaintext[RECORD_MAX];
    enum link_event event;
    size_t size = 0;
    must(link_receive(&k1, record, &event, plaintext, &size));
    if (event == LINK_DATA && size >= MANAGER_K1_HEADER_SIZE + MANAGER_ROW_SIZE && plaintext[0] == MANAGER_CREATE)
        memcpy(instance.bytes, plaintext + MANAGER_K1_HEADER_SIZE + 8, INSTANCE_ID_SIZE);
}

static void take_effect(uint32_t kind, struct span bytes)
{
    struct reader r = reader_of(bytes);
    uint64_t number = 0;
    if (kind == MANAGER_EFFECT_RECORD && k1.records.open) take_answer(bytes);
    if (kind == MANAGER_EFFECT_STORE) {
        if (store) abort(); /* one at a time */
        must(read_u64(&r, &store));
    }
    if (kind == MANAGER_EFFECT_ANCHOR) { /* from stays there when it is read */
        must(read_bytes(&r, exchange, 8));
        memcpy(exchange + 8, r.next + 16 + (r.next[8] == ANCHOR_FILE_MOVE ? ANCHOR_VALUE_SIZE : 0), ANCHOR_VALUE_SIZE);
    }
    if (kind == MANAGER_EFFECT_SEND) {
        must(read_u64(&r, &number));
        if (number != listening || sent_count == 4) return;
        memcpy(sent[sent_count], r.next, r.left);
        sent_size[sent_count++] = r.left;
    }
}

static void call(uint32_t number, struct span body)
{
    static uint8_t out[CALL_OUTPUT_MAX];
    size_t size = 0;
    sent_count = 0;
    be("the manager", PRODID_MANAGER);
    struct err err = program_call(number, 0, body, out, &size);
    be("the instance", PRODID_INSTANCE);
    if (door_program.state(door_program.ctx) == STATE_FAILED) abort();
    struct reader r = reader_of(span_of(out, err.code ? 0 : size));
    while (r.left > 0) {
        uint32_t kind = 0;
        uint32_t effect_size = 0;
        struct span bytes;
        struct span padding;
        must(read_u32(&r, &kind));
        must(read_u32(&r, &effect_size));
        must(read_span(&r, effect_size, &bytes));
        must(read_span(&r, (CALL_ALIGNMENT - effect_size % CALL_ALIGNMENT) % CALL_ALIGNMENT, &padding));
        take_effect(kind, bytes);
    }
}

static void stored(void)
{
    store = 0;
    call(MANAGER_ANCHORED, span_of(exchange, sizeof exchange));
}

/* The verb, then its arguments; sixteen zeros at their beginning stand for the newest instance. */
static void request(struct span bytes)
{
    static const uint8_t nobody[INSTANCE_ID_SIZE];
    uint8_t plaintext[MANAGER_K1_HEADER_SIZE + 256];
    uint8_t record[sizeof plaintext + RECORD_OVERHEAD];
    struct writer w = writer_of(plaintext, sizeof plaintext);
    struct writer sealed = writer_of(record, sizeof record);
    if (bytes.size == 0) return;
    must(write_u16(&w, bytes.data[0]));
    must(write_u16(&w, 0));
    must(write_u32(&w, 0));
    must(write_u64(&w, ++requests));
    must(write_bytes(&w, bytes.data + 1, bytes.size - 1));
    uint8_t *arguments = plaintext + MANAGER_K1_HEADER_SIZE;
    if (bytes.size > sizeof nobody && memcmp(arguments, nobody, sizeof nobody) == 0)
        memcpy(arguments, instance.bytes, sizeof instance.bytes);
    must(link_send(&k1, writer_span(&w), &sealed));
    call(MANAGER_RECORD, writer_span(&sealed));
}

static void say(uint64_t channel, struct span message)
{
    uint8_t body[sizeof(uint64_t) + PEER_MESSAGE_MAX];
    struct writer w = writer_of(body, sizeof body);
    must(write_u64(&w, channel));
    must(write_span(&w, message));
    listening = channel;
    call(MANAGER_PEER, writer_span(&w));
}

/* The word, then its fields, on an established session. */
static void word(struct peer *from, uint64_t channel, struct span bytes)
{
    uint8_t message[PEER_MESSAGE_MAX];
    struct writer w = writer_of(message, sizeof message);
    if (bytes.size == 0 || from->step != PEER_ESTABLISHED) return;
    must(peer_send(from, bytes.data[0], span_of(bytes.data + 1, bytes.size - 1), &w));
    say(channel, writer_span(&w));
    if (bytes.data[0] == PEER_REDEEM && sent_count) abort(); /* before it is stored */
}

static void ask(uint8_t verb, const void *arguments, size_t size)
{
    uint8_t bytes[256] = {verb};
    if (size) memcpy(bytes + 1, arguments, size);
    request(span_of(bytes, 1 + size));
    if (store) stored();
}

/* From CHALLENGE to PROVISION, as far as the manager lets it. */
static void attach(uint8_t verb, uint64_t channel, struct peer *out)
{
    static const uint8_t holder[ED25519_PUBLIC_SIZE] = "a holder";
    uint8_t arguments[INSTANCE_ID_SIZE + 8 + X25519_SIZE] = {0};
    uint8_t message[PEER_MESSAGE_MAX];
    struct writer w = writer_of(message, sizeof message);
    listening = channel;
    ask(MANAGER_DETACH, &channel, sizeof channel);
    memcpy(arguments, instance.bytes, INSTANCE_ID_SIZE);
    memcpy(arguments + INSTANCE_ID_SIZE, &channel, sizeof channel);
    ask(verb, arguments, sizeof arguments);
    if (sent_count != 1) return;
    if (peer_prove(&crypto, span_of(sent[0], sent_size[0]), &instance, holder, out, &w).code) return;
    say(channel, writer_span(&w));
    if (verb == MANAGER_ATTACH && sent_count) abort(); /* before it is stored */
    if (store) stored();
    if (sent_count == 2) must(peer_check_admission(&crypto, out, span_of(sent[0], sent_size[0])));
}

/* A new instance. */
static void serve(void)
{
    static unsigned labels;
    uint8_t create[MANAGER_LABEL_SIZE + 72] = {'s', (uint8_t)('a' + labels / 676 % 26),
                                               (uint8_t)('a' + labels / 26 % 26), (uint8_t)('a' + labels % 26)};
    labels++;
    create[MANAGER_LABEL_SIZE + 64] = MANAGER_ORIGIN_HERE;
    create[MANAGER_LABEL_SIZE + 65] = PEER_LOCKOUT_TIME;
    if (store) stored();
    ask(MANAGER_CREATE, create, sizeof create);
    ask(MANAGER_START_INSTANCE, instance.bytes, sizeof instance.bytes);
    attach(MANAGER_ATTACH, CHANNEL, &peer);
}

static void take_over(void)
{
    uint8_t ready[1 + X25519_SIZE] = {PEER_READY};
    if (store) stored();
    attach(MANAGER_ATTACH_INCOMING, CANDIDATE_CHANNEL, &candidate);
    if (candidate.step == PEER_ESTABLISHED) word(&candidate, CANDIDATE_CHANNEL, span_of(ready, sizeof ready));
}

/* Once for all inputs: K1, open both ways. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    struct x25519_key own;
    uint8_t body[4 + 48 + X25519_SIZE + 12 + 8] = {MANAGER_START_NEW};
    static uint8_t out[CALL_OUTPUT_MAX];
    uint8_t record[RECORD_MAX];
    size_t size = 0;
    enum link_event event;
    must(crypto_init(&crypto));
    must(x25519_generate(&crypto, &own));
    memcpy(body + 52, own.public, X25519_SIZE);
    body[52 + X25519_SIZE] = ANCHOR_FILE;
    be("the manager", PRODID_MANAGER);
    must(program_call(MANAGER_START, 0, span_of(body, sizeof body), out, &size));
    struct link_binding binding = {.kind = LINK_K1};
    struct link_keys keys = {.own = &own, .peer = out + 8};
    memcpy(binding.manager, "the manager", 11);
    must(link_open(&crypto, LINK_HOST, &binding, &keys, &k1));
    must(link_receive(&k1, span_of(out + 8 + 64 + 8, RECORD_OVERHEAD + SHA256_SIZE), &event, record, &size));
    struct writer w = writer_of(record, sizeof record);
    must(link_finish(&k1, &w));
    call(MANAGER_RECORD, writer_span(&w));
    stored(); /* the anchor stands at zeros; */
    stored(); /* the first store */
    serve();
    take_over();
    if (peer.step != PEER_ESTABLISHED || candidate.step != PEER_ESTABLISHED) abort(); /* else it would fuzz refusals */
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader r = reader_of(span_of(data, size));
    uint8_t kind = 0;
    uint8_t step_size = 0;
    struct span bytes;
    while (!read_u8(&r, &kind).code && !read_u8(&r, &step_size).code && !read_span(&r, step_size, &bytes).code) {
        switch (kind % STEP_COUNT) {
        case STEP_REQUEST:
            request(bytes);
            break;
        case STEP_MESSAGE:
            say(CHANNEL, bytes);
            break;
        case STEP_WORD:
            word(&peer, CHANNEL, bytes);
            break;
        case STEP_STORED:
            if (store) stored();
            break;
        case STEP_CANDIDATE:
            take_over();
            break;
        case STEP_CANDIDATE_MESSAGE:
            say(CANDIDATE_CHANNEL, bytes);
            break;
        case STEP_CANDIDATE_WORD:
            word(&candidate, CANDIDATE_CHANNEL, bytes);
            break;
        default:
            serve();
        }
    }
    if (store) stored();
    return 0;
}
