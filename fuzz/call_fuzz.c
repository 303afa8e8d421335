/*
 * A host, a front-end and a manager that do anything in any order to an instance whose TPM runs. The input is a series
 * of steps, each a number (one byte), a size (two bytes) and a body:
 *
 *   below 0x40   a call of this number with this body; RECORD and PEER get bytes that nobody sealed
 *   0x40         a TPM command over K2, with a header that libtpms gets behind: locality, code, sessions?, the rest
 *   0x41         any message over K2
 *   0x42         any word of the manager: the word, then its fields
 *   0x43         the connection to the manager is new
 *   0x44         an export is read, if the instance gives one, and kept
 *   0x45         the kept one is given back and INIT asked for, with changes of three bytes each: offset, offset, exclusive-or
 *   0x46         another life, by the first byte: 0 of a holder, 1 of an enclave that is to take over
 *   above        the truth about what is under way: the anchor of the commit, the lease, or that it has taken over
 *
 * Holds for every step: no record leaves together with a state, and none while a commit is under way; an export that was
 * changed is not gone on from; an enclave that is to take over gives out no state; the program never declares itself failed.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/kdf.h>

#include "base/bytes.h"
#include "tests/fakes/instance_client.h"
#include "trusted/door/door.h"
#include "trusted/instance/instance.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FIRST_COMMAND_CODE 0x11fu

static struct client c;
static size_t answered; /* bytes of the response that came last, in c.response; 0: none has */
static struct kept {
    size_t size; /* 0: there is none */
    uint8_t bytes[STATE_MAX];
} kept;

static struct instance *instance(void)
{
    return door_program.ctx;
}

static void must(struct err err)
{
    if (err.code) abort();
}

/* What the two other ends make of the effects. */
static void deliver(void)
{
    enum link_event event;
    size_t size = 0;
    if (c.result.record.data && link_receive(&c.link, c.result.record, &event, c.response, &size).code) abort();
    if (c.result.record.data) answered = size;
    for (size_t i = 0; i < c.result.peer_count; i++)
        if (c.result.peer[i].data[0] == RECORD_DATA) fake_manager_hear(&c.manager, c.result.peer[i]);
}

static void call(uint32_t number, struct span body, bool releases)
{
    bool commits = instance()->under_way == UNDER_WAY_COMMIT;
    uint16_t code = client_call(&c, number, body);
    if (instance()->incoming.candidate && c.result.store.data) abort();
    if (instance()->state == INSTANCE_FAILED || code == ERR_TPM || code == ERR_CRYPTO) abort();
    if (c.result.record.data && (c.result.store.data || (commits && !releases))) abort();
    deliver();
}

static void tell(const struct fake_message *message, bool releases)
{
    call(INSTANCE_PEER, fake_message_span(message), releases);
}

static bool is_candidate(void)
{
    return instance()->incoming.candidate;
}

static void resume(void)
{
    if (is_candidate()) return;
    if (instance()->state == INSTANCE_RUNNING || instance()->state == INSTANCE_WAITING) client_resume(&c);
}

/* Ends this life; libcrypto's own globals stay. */
static void bury(void)
{
    struct crypto *crypto = &instance()->crypto;
    if (instance()->tpm.on) must(tpm_power_off(&instance()->tpm));
    instance_forget(instance());
    EVP_CIPHER_free(crypto->aes_256_gcm);
    EVP_MD_free(crypto->sha256);
    EVP_MD_free(crypto->sha512);
    EVP_MAC_free(crypto->hmac);
    EVP_MAC_free(crypto->cmac);
    EVP_KDF_CTX_free(crypto->hkdf_sha256);
    *instance() = (struct instance){0};
    peer_close(&c.manager.peer);
    link_close(&c.link);
}

/* Whoever lost its session before it had taken over hears nothing any more. */
static void redeem(void)
{
    struct fake_message message;
    if (instance()->peer.step != PEER_ESTABLISHED || !c.manager.redeems) {
        bury();
        return;
    }
    fake_manager_redeem(&c.manager, &message);
    tell(&message, true);
    if (is_candidate()) abort();
}

static void tell_the_truth(void)
{
    struct fake_message message;
    if (instance()->state != INSTANCE_WAITING) return;
    if (is_candidate()) {
        redeem();
        return;
    }
    if (instance()->peer.step != PEER_ESTABLISHED || !(c.manager.commits || c.manager.asks)) resume();
    if (c.manager.commits) {
        c.stored = c.given;
        fake_manager_anchor(&c.manager, &message);
    } else {
        fake_manager_lease(&c.manager, &message);
    }
    tell(&message, true);
}

static void request(enum k2_verb verb, uint8_t locality, struct span command)
{
    if (instance()->state != INSTANCE_RUNNING || !instance()->link.records.open) return;
    call(INSTANCE_RECORD, client_seal(&c, verb, locality, command), false);
}

static void settle(void)
{
    while (instance()->state == INSTANCE_WAITING)
        tell_the_truth();
}

/* A TPM that was just started, in the life that there is, or in another one over the newest recorded state. */
static void start(void)
{
    struct tpm_message m;
    settle();
    if (instance()->state != INSTANCE_RUNNING || !instance()->link.records.open || is_candidate()) {
        if (instance()->state != INSTANCE_BLANK) bury();
        c.manager.incoming = c.manager.redeems = false;
        client_serve(&c);
    }
    request(K2_RESET, 0, span_empty());
    settle();
    tpm_startup(&m, TPM_SU_CLEAR);
    request(K2_COMMAND, 0, tpm_message_span(&m));
    settle();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fake_manager_open(&c.manager);
    c.enclave = ENCLAVE_HERE;
    return 0;
}

static void framed_command(struct span input)
{
    struct reader r = reader_of(input);
    uint8_t locality = 0, code = 0, sessions = 0, bytes[TPM_BUFFER_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);
    if (read_u8(&r, &locality).code || read_u8(&r, &code).code || read_u8(&r, &sessions).code) return;
    if (r.left > sizeof bytes - 10) return;
    must(write_be16(&w, sessions & 1 ? 0x8002 : 0x8001));
    must(write_be32(&w, (uint32_t)(10 + r.left)));
    must(write_be32(&w, FIRST_COMMAND_CODE + code % 0x80));
    must(write_span(&w, span_of(r.next, r.left)));
    request(K2_COMMAND, locality % 5, writer_span(&w));
}

static void any_message(struct span body)
{
    struct writer w = writer_of(c.record, sizeof c.record);
    if (instance()->state != INSTANCE_RUNNING || !instance()->link.records.open || body.size > K2_MESSAGE_MAX) return;
    must(link_send(&c.link, body, &w));
    call(INSTANCE_RECORD, writer_span(&w), false);
}

static void any_word(struct span body)
{
    struct fake_message message;
    if (body.size == 0 || body.size > 512 || c.manager.peer.step != PEER_ESTABLISHED) return;
    fake_manager_say(&c.manager, (enum peer_word)(body.data[0] % 8), span_of(body.data + 1, body.size - 1), &message);
    tell(&message, false);
}

/* --- exports --- */

/* One request, and the truth as long as there is no answer. False if it is refused. */
static bool ask(enum k2_verb verb, struct span body, struct reader *out)
{
    uint16_t code = 0;
    uint16_t zero = 0;
    settle(); /* what was asked before */
    answered = 0;
    request(verb, 0, body);
    settle();
    *out = reader_of(span_of(c.response, answered));
    return answered && !read_u16(out, &code).code && !read_u16(out, &zero).code && code == 0;
}

static void read_export(void)
{
    static struct kept taken;
    struct reader r;
    uint32_t permanent = 0;
    uint32_t volatile_size = 0;
    if (!ask(K2_EXPORT, span_empty(), &r)) return;
    must(read_u32(&r, &permanent));
    must(read_u32(&r, &volatile_size));
    if (permanent + volatile_size > sizeof taken.bytes) abort();
    for (taken.size = 0; taken.size < permanent + volatile_size;) {
        uint8_t offset[4];
        struct writer w = writer_of(offset, sizeof offset);
        must(write_u32(&w, (uint32_t)taken.size));
        if (!ask(K2_EXPORT_READ, writer_span(&w), &r) || r.left == 0) abort();
        const size_t size = r.left;
        if (size > permanent + volatile_size - taken.size) abort();
        must(read_bytes(&r, taken.bytes + taken.size, size));
        taken.size += size;
    }
    kept = taken;
}

static void give_export(struct span changes)
{
    static struct kept given;
    struct reader r;
    given = kept;
    for (size_t i = 0; given.size && i + 3 <= changes.size; i += 3)
        given.bytes[(changes.data[i] | (size_t)changes.data[i + 1] << 8) % given.size] ^= changes.data[i + 2];
    for (size_t offset = 0; offset < given.size;) {
        uint8_t part[K2_PART_HEADER + K2_PART_MAX];
        struct writer w = writer_of(part, sizeof part);
        const size_t size = given.size - offset < K2_PART_MAX ? given.size - offset : K2_PART_MAX;
        must(write_u32(&w, (uint32_t)given.size));
        must(write_u32(&w, (uint32_t)offset));
        must(write_bytes(&w, given.bytes + offset, size));
        if (!ask(K2_BUNDLE, writer_span(&w), &r)) return;
        offset += size;
    }
    const bool same = memcmp(given.bytes, kept.bytes, given.size) == 0;
    if (given.size && ask(K2_RESET, span_empty(), &r) && !same) abort();
}

static void another_life(struct span body)
{
    settle();
    if (instance()->state != INSTANCE_BLANK) bury();
    c.manager.redeems = false;
    c.manager.incoming = body.size && body.data[0] & 1 && c.stored.version;
    if (!c.manager.incoming) {
        client_serve(&c);
        return;
    }
    client_provision(&c);
    if (client_call(&c, INSTANCE_LOAD, span_empty()) != ERR_NONE) abort();
    client_carry(&c);
    client_link(&c);
}

static void step(uint8_t number, struct span body)
{
    if (number < 0x40)
        call(number, body, false);
    else if (number == 0x40)
        framed_command(body);
    else if (number == 0x41)
        any_message(body);
    else if (number == 0x42)
        any_word(body);
    else if (number == 0x43)
        resume();
    else if (number == 0x44)
        read_export();
    else if (number == 0x45)
        give_export(body);
    else if (number == 0x46)
        another_life(body);
    else
        tell_the_truth();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader r = reader_of(span_of(data, size));
    uint8_t number = 0;
    uint16_t body_size = 0;
    struct span body;
    start();
    while (!read_u8(&r, &number).code && !read_u16(&r, &body_size).code) {
        must(read_span(&r, body_size < r.left ? body_size : r.left, &body));
        step(number, body);
    }
    return 0;
}
