/*
 * Both ends of a peer session with a host in between that says anything. The first byte chooses the message, the second
 * whether the rest is that message (0) or changes to the honest one, two bytes each (offset, exclusive-or; offsets of
 * long messages count in threes). A message that proves something is taken if it is the honest one and not otherwise.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fakes/peer_pair.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Before each step, at whose turn it is. Without records a session may be copied. */
static struct peer_pair pair;
static struct peer at_proof, at_admission, at_acceptance, at_confirmation;
static uint8_t word_bytes[PEER_MESSAGE_MAX];
static struct span honest_word;
static const struct record_direction there = {.key = {1}, .iv = {2}};
static const struct record_direction back = {.key = {3}, .iv = {4}};

static void must(bool holds)
{
    if (!holds) abort();
}

static struct peer with_records(enum peer_role role, const struct record_direction *send,
                                const struct record_direction *receive)
{
    static const uint8_t id[RECORD_SESSION_ID_SIZE] = "fuzzed";
    struct peer peer = {.step = PEER_ESTABLISHED, .role = role};
    must(record_session_open(&pair.crypto, id, send, receive, &peer.records).code == ERR_NONE);
    return peer;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    peer_pair_init(&pair);
    must(peer_pair_challenge(&pair).code == ERR_NONE);
    at_proof = pair.manager;
    must(peer_pair_prove(&pair).code == ERR_NONE);
    at_admission = pair.instance;
    must(peer_pair_check_proof(&pair).code == ERR_NONE);
    must(peer_pair_admit(&pair).code == ERR_NONE);
    peer_pair_close(&pair);
    must(peer_pair_resume(&pair).code == ERR_NONE);
    at_acceptance = pair.instance;
    must(peer_pair_accept(&pair).code == ERR_NONE);
    at_confirmation = pair.manager;
    must(peer_pair_confirm(&pair).code == ERR_NONE);
    peer_pair_close(&pair);

    struct peer manager = with_records(PEER_MANAGER, &there, &back);
    struct writer w = writer_of(word_bytes, sizeof word_bytes);
    must(peer_send(&manager, PEER_PROVISION, span_of("root key", 8), &w).code == ERR_NONE);
    honest_word = writer_span(&w);
    peer_close(&manager);
    return 0;
}

static uint8_t answer[PEER_MESSAGE_MAX];

static struct err prove(struct span message, struct peer *peer)
{
    struct writer w = writer_of(answer, sizeof answer);
    become_instance();
    return peer_prove(&pair.crypto, message, &pair.id, pair.holder, peer, &w);
}

static struct err check_proof(struct span message, struct peer *peer)
{
    *peer = at_proof;
    become_manager();
    return peer_check_proof(&pair.crypto, peer, message, fake_instance_mrenclave);
}

static struct err check_admission(struct span message, struct peer *peer)
{
    *peer = at_admission;
    become_instance();
    return peer_check_admission(&pair.crypto, peer, message);
}

static struct err accept_resume(struct span message, struct peer *peer)
{
    struct writer w = writer_of(answer, sizeof answer);
    return peer_accept(&pair.crypto, message, &pair.resumption, peer, &w);
}

static struct err confirm(struct span message, struct peer *peer)
{
    struct writer w = writer_of(answer, sizeof answer);
    *peer = at_acceptance;
    return peer_confirm(&pair.crypto, &pair.resumption, peer, message, &w);
}

static struct err check_confirmation(struct span message, struct peer *peer)
{
    *peer = at_confirmation;
    return peer_check_confirmation(&pair.crypto, &pair.resumption, peer, message);
}

static struct err hear(struct span message, struct peer *peer)
{
    uint8_t plaintext[2 * PEER_MESSAGE_MAX];
    enum peer_word word;
    struct span fields;
    *peer = with_records(PEER_INSTANCE, &back, &there);
    return peer_receive(peer, message, &word, plaintext, &fields);
}

static const struct step {
    struct err (*take)(struct span message, struct peer *peer);
    const struct writer *honest; /* NULL: the honest word */
    bool proves;
} steps[] = {
    {prove, &pair.challenge, false},
    {check_proof, &pair.proof, true},
    {check_admission, &pair.admit, true},
    {accept_resume, &pair.resume, false},
    {confirm, &pair.accept, true},
    {check_confirmation, &pair.confirm, true},
    {hear, NULL, true},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t bytes[PEER_MESSAGE_MAX];
    struct peer peer = {0};
    if (size < 2) return 0;
    const struct step *step = &steps[data[0] % (sizeof steps / sizeof steps[0])];
    struct span honest = step->honest ? writer_span(step->honest) : honest_word;
    struct span message = span_of(data + 2, size - 2 < sizeof bytes ? size - 2 : sizeof bytes);
    if (data[1] != 0) {
        memcpy(bytes, honest.data, honest.size);
        for (size_t i = 2; i + 2 <= size; i += 2)
            bytes[(honest.size > 256 ? 3u * data[i] : data[i]) % honest.size] ^= data[i + 1];
        message = span_of(bytes, honest.size);
    }
    bool taken = step->take(message, &peer).code == ERR_NONE;
    bool same = message.size == honest.size && memcmp(message.data, honest.data, honest.size) == 0;
    must(step->proves ? taken == same : taken || !same);
    must(taken || (peer.step == PEER_CLOSED && !peer.records.open));
    peer_close(&peer);
    return 0;
}
