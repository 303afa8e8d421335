#include "tests/fakes/instance_client.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

static void must(struct err err)
{
    if (err.code) abort();
}

static void must_be(bool condition)
{
    if (!condition) abort();
}

void client_open(struct client *c)
{
    memset(c, 0, sizeof *c);
    fake_manager_open(&c->manager);
    must(x25519_generate(fake_crypto(), &c->enrolled));
    enclave_process_start(&c->enclave);
}

void client_close(struct client *c)
{
    peer_close(&c->manager.peer);
    link_close(&c->link);
    enclave_process_end(&c->enclave);
}

void client_restart(struct client *c)
{
    client_close(c);
    enclave_process_start(&c->enclave);
}

static void keep(const struct enclave_result *result, struct stored_state *out)
{
    if (!result->store.data) return;
    struct reader r = reader_of(result->store);
    must(read_u64(&r, &out->version));
    out->size = r.left;
    must(read_bytes(&r, out->blob, r.left));
}

uint16_t client_call(struct client *c, uint32_t number, struct span body)
{
    enclave_process_call(&c->enclave, number, c->host_time, body, &c->result);
    keep(&c->result, &c->given);
    return c->result.code;
}

uint16_t client_start(struct client *c)
{
    static const uint8_t hints[CAPABILITY_HINTS_SIZE] = {1}, entropy[HOST_ENTROPY_SIZE] = {2};
    uint8_t body[INSTANCE_START_SIZE];
    struct writer w = writer_of(body, sizeof body);
    must(write_bytes(&w, hints, sizeof hints));
    must(write_bytes(&w, entropy, sizeof entropy));
    must(write_bytes(&w, c->manager.known.instance.bytes, INSTANCE_ID_SIZE));
    return client_call(c, INSTANCE_START, writer_span(&w));
}

uint16_t client_tell(struct client *c, const struct fake_message *message)
{
    return client_call(c, INSTANCE_PEER, fake_message_span(message));
}

void client_carry(struct client *c)
{
    for (size_t i = 0; i < c->result.peer_count; i++)
        fake_manager_hear(&c->manager, c->result.peer[i]);
}

void client_admit(struct client *c)
{
    struct fake_message message;
    must_be(client_start(c) == ERR_NONE);
    must(x25519_generate(fake_crypto(), &c->key));
    memcpy(c->manager.front_share, c->key.public, X25519_SIZE);
    if (c->manager.link_kind == LINK_K2_ENROLLED) memcpy(c->manager.enrolled, c->enrolled.public, X25519_SIZE);
    fake_manager_challenge(&c->manager, &message);
    must_be(client_tell(c, &message) == ERR_NONE && c->result.peer_count == 1);
    fake_manager_admit(&c->manager, c->result.peer[0], &message);
    must_be(client_tell(c, &message) == ERR_NONE && c->result.peer_count == 0);
}

void client_provision(struct client *c)
{
    struct fake_message message;
    client_admit(c);
    fake_manager_provision(&c->manager, &message);
    must_be(client_tell(c, &message) == ERR_NONE && c->result.peer_count == 0);
}

uint16_t client_load(struct client *c, const struct stored_state *state)
{
    return client_call(c, INSTANCE_LOAD, span_of(state->blob, state->size));
}

uint16_t client_stop(struct client *c, enum instance_stop mode)
{
    const uint8_t body[8] = {(uint8_t)mode};
    return client_call(c, INSTANCE_STOP, span_of(body, sizeof body));
}

void client_anchor(struct client *c)
{
    struct fake_message message;
    fake_manager_anchor(&c->manager, &message);
    must_be(c->given.version == c->manager.recorded.version);
    c->stored = c->given;
    must_be(client_tell(c, &message) == ERR_NONE);
}

void client_link(struct client *c)
{
    struct link_binding binding = {
        .kind = c->manager.link_kind,
        .instance = c->manager.known.instance,
        .epoch = c->manager.known.epoch,
        .start = c->manager.known.start,
    };
    const struct link_keys keys = {
        .own = &c->key,
        .peer = c->manager.instance_share,
        .enrolled = binding.kind == LINK_K2_ENROLLED ? c->enrolled.private : NULL,
    };
    enum link_event event;
    size_t size = 0;
    memcpy(binding.manager, c->manager.MRENCLAVE, sizeof binding.manager);
    memcpy(binding.program, c->manager.program, sizeof binding.program);
    must(link_open(fake_crypto(), LINK_HOST, &binding, &keys, &c->link));
    struct writer w = writer_of(c->record, sizeof c->record);
    must(link_finish(&c->link, &w));
    must_be(client_call(c, INSTANCE_RECORD, writer_span(&w)) == ERR_NONE);
    must(link_receive(&c->link, c->result.record, &event, c->response, &size));
    must_be(event == LINK_FINISHED);
}

void client_serve(struct client *c)
{
    client_provision(c);
    must_be(client_load(c, &c->stored) == ERR_NONE);
    client_carry(c);
    while (c->manager.commits) {
        client_anchor(c);
        client_carry(c);
    }
    must_be(c->manager.ready);
    client_link(c);
}

void client_resume(struct client *c)
{
    struct fake_message message;
    must_be(client_call(c, INSTANCE_RESUME, span_empty()) == ERR_NONE && c->result.peer_count == 1);
    fake_manager_accept(&c->manager, c->result.peer[0], &message);
    must_be(client_tell(c, &message) == ERR_NONE && c->result.peer_count >= 1);
    fake_manager_check_confirmation(&c->manager, c->result.peer[0]);
    for (size_t i = 1; i < c->result.peer_count; i++)
        fake_manager_hear(&c->manager, c->result.peer[i]);
}

struct span client_seal(struct client *c, enum k2_verb verb, uint8_t locality, struct span command)
{
    uint8_t bytes[K2_MESSAGE_MAX];
    struct writer message = writer_of(bytes, sizeof bytes);
    struct writer record = writer_of(c->record, sizeof c->record);
    must(write_u8(&message, (uint8_t)verb));
    must(write_u8(&message, locality));
    must(write_u16(&message, 0));
    must(write_span(&message, command));
    must(link_send(&c->link, writer_span(&message), &record));
    return writer_span(&record);
}

uint16_t client_request(struct client *c, enum k2_verb verb, struct span command)
{
    return client_call(c, INSTANCE_RECORD, client_seal(c, verb, 0, command));
}

struct span client_response(struct client *c)
{
    enum link_event event;
    size_t size = 0;
    uint16_t zero = 0;
    must_be(c->result.code == ERR_NONE && c->result.record.data);
    must(link_receive(&c->link, c->result.record, &event, c->response, &size));
    struct reader r = reader_of(span_of(c->response, size));
    must_be(event == LINK_DATA);
    must(read_u16(&r, &c->code));
    must(read_u16(&r, &zero));
    must_be(zero == 0 && (c->code == 0 || r.left == 0));
    return span_of(r.next, r.left);
}

struct span client_run(struct client *c, enum k2_verb verb, struct span command)
{
    must_be(client_request(c, verb, command) == ERR_NONE);
    for (;;) {
        struct fake_message message;
        client_carry(c);
        if (c->manager.commits) {
            client_anchor(c);
        } else if (c->manager.asks && !c->result.record.data) {
            fake_manager_lease(&c->manager, &message);
            must_be(client_tell(c, &message) == ERR_NONE);
        } else {
            return client_response(c);
        }
    }
}

struct span client_command(struct client *c, const struct tpm_message *command)
{
    return client_run(c, K2_COMMAND, tpm_message_span(command));
}
