#include "tests/fakes/assertions.h"

#include "tests/unit/instance/rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"

/* --- the fake enclave --- */

static const uint8_t tpm_response[] = {0x80, 0x01, 0, 0, 0, 12, 0, 0, 0, 0, 'o', 'k'};

static struct err write_effect(struct writer *w, uint32_t kind, const void *payload, size_t size)
{
    uint8_t *padding = NULL;
    TRY(write_u32(w, kind));
    TRY(write_u32(w, (uint32_t)size));
    TRY(write_bytes(w, payload, size));
    return write_zeros(w, (8 - size % 8) % 8, &padding);
}

static struct err write_peer(struct writer *w, uint8_t kind, uint8_t word)
{
    const uint8_t message[] = {kind, word};
    return write_effect(w, INSTANCE_EFFECT_PEER, message, sizeof message);
}

static struct err write_commit(struct rig *rig, struct writer *w)
{
    uint8_t payload[8 + 5] = {0};
    payload[0] = (uint8_t)++rig->version;
    memcpy(payload + 8, "state", 5);
    rig->waiting = true;
    TRY(write_effect(w, INSTANCE_EFFECT_STORE, payload, sizeof payload));
    return write_peer(w, RECORD_DATA, RIG_COMMIT);
}

static struct err write_response(struct rig *rig, struct writer *w)
{
    uint8_t record[RECORD_OVERHEAD + 4 + sizeof tpm_response];
    uint8_t plaintext[4 + sizeof tpm_response] = {0};
    struct writer out = writer_of(record, sizeof record);
    const bool command = rig->last_verb == K2_COMMAND;
    memcpy(plaintext + 4, tpm_response, sizeof tpm_response);
    TRY(link_send(&rig->link, span_of(plaintext, command ? sizeof plaintext : 4), &out));
    return write_effect(w, INSTANCE_EFFECT_RECORD, record, out.size);
}

static struct err write_receipt(struct rig *rig, struct writer *w)
{
    uint8_t record[RECORD_OVERHEAD];
    uint8_t receipt[PEER_RECEIPT_SIZE] = "receipt";
    struct writer out = writer_of(record, sizeof record);
    rig->last_verb = 0xff;
    if (rig->link_open && rig->link.finish_received) {
        TRY(link_send_final(&rig->link, &out));
        TRY(write_effect(w, INSTANCE_EFFECT_RECORD, record, out.size));
    }
    return write_effect(w, INSTANCE_EFFECT_RECEIPT, receipt, sizeof receipt);
}

#define STOP_VERB 0xfe

/* What waited for the manager's word. */
static struct err release(struct rig *rig, struct writer *w)
{
    rig->waiting = false;
    if (rig->last_verb == STOP_VERB) return write_receipt(rig, w);
    return rig->link_open && rig->link.finish_received ? write_response(rig, w) : write_peer(w, RECORD_DATA, RIG_READY);
}

static struct err open_link(struct rig *rig)
{
    const struct link_told told = rig_told(rig);
    const struct link_keys keys = {.own = &rig->share, .peer = rig->front_share};
    TRY(link_open(&rig->crypto, LINK_ENCLAVE, &told.binding, &keys, &rig->link));
    rig->link_open = true;
    return OK;
}

static struct err take_peer(struct rig *rig, struct span message, struct writer *w)
{
    if (message.data[0] == PEER_CHALLENGE) return write_peer(w, PEER_PROOF, 0);
    if (message.data[0] == PEER_ADMIT) return OK;
    if (message.data[0] == PEER_ACCEPT) {
        TRY(write_peer(w, PEER_CONFIRM, 0));
        return rig->waiting ? write_peer(w, RECORD_DATA, RIG_COMMIT) : OK;
    }
    ENSURE(message.size == 2 && message.data[0] == RECORD_DATA, LINK_RECORD);
    if (message.data[1] == RIG_PROVISION) return open_link(rig);
    ENSURE(message.data[1] == RIG_ANCHORED || message.data[1] == RIG_LEASE, LINK_RECORD);
    return rig->waiting ? release(rig, w) : OK;
}

static struct err take_request(struct rig *rig, const uint8_t *request, struct writer *w)
{
    rig->last_verb = request[0];
    if (request[0] == K2_RESET) {
        rig->waiting = true;
        return write_peer(w, RECORD_DATA, RIG_ASK);
    }
    if (rig->stores || request[0] == K2_POWER_OFF) return write_commit(rig, w);
    return write_response(rig, w);
}

static struct err take_record(struct rig *rig, struct span record, struct writer *w)
{
    uint8_t plaintext[RECORD_MAX];
    size_t size = 0;
    enum link_event event = LINK_ENDED;
    TRY(link_receive(&rig->link, record, &event, plaintext, &size));
    if (event == LINK_DATA) return take_request(rig, plaintext, w);
    uint8_t bytes[128];
    struct writer out = writer_of(bytes, sizeof bytes);
    assert_int_equal(event, LINK_FINISHED);
    TRY(link_finish(&rig->link, &out));
    return write_effect(w, INSTANCE_EFFECT_RECORD, bytes, out.size);
}

static struct err stop(struct rig *rig, struct span body, struct writer *w)
{
    assert_int_equal(body.size, 8);
    rig->stop_mode = body.data[0];
    if (rig->stop_mode == INSTANCE_STOP_SUSPEND) TRY(rig->no_suspend);
    rig->last_verb = STOP_VERB;
    return write_commit(rig, w);
}

static struct err handle(struct rig *rig, uint32_t number, struct span body, struct writer *w)
{
    const uint8_t health[4] = {INSTANCE_TPM_FAILURE_MODE};
    switch (number) {
    case INSTANCE_PEER:
        return take_peer(rig, body, w);
    case INSTANCE_LOAD:
        return rig->load_stores ? write_commit(rig, w) : write_peer(w, RECORD_DATA, RIG_READY);
    case INSTANCE_RECORD:
        assert_false(rig->waiting);
        if (rig->fails) TRY(write_effect(w, INSTANCE_EFFECT_HEALTH, health, sizeof health));
        return take_record(rig, body, w);
    case INSTANCE_STOP:
        return stop(rig, body, w);
    case INSTANCE_RESUME:
        return write_peer(w, PEER_RESUME, 0);
    default:
        return OK;
    }
}

static struct err call(void *ctx, struct span input, uint8_t *output, size_t capacity, size_t *out_size)
{
    struct rig *rig = ctx;
    const uint32_t number = input.data[0];
    struct writer w = writer_of(output + CALL_RESULT_HEADER_SIZE, capacity - CALL_RESULT_HEADER_SIZE);
    struct writer head = writer_of(output, CALL_RESULT_HEADER_SIZE);
    rig->calls++;
    rig->number[number]++;
    TRY(rig->fault);
    const struct span body = span_of(input.data + CALL_RECORD_HEADER_SIZE, input.size - CALL_RECORD_HEADER_SIZE);
    struct err result = handle(rig, number, body, &w);
    if (result.code) w.size = 0;
    TRY(write_u32(&head, result.code));
    TRY(write_u32(&head, (uint32_t)w.size));
    *out_size = CALL_RESULT_HEADER_SIZE + w.size;
    return OK;
}

/* --- around the service --- */

static void on_admitted(void *ctx)
{
    ((struct rig *)ctx)->admitted++;
}

static void on_disconnected(void *ctx)
{
    ((struct rig *)ctx)->disconnected++;
}

static void fault_of(void *ctx, uint16_t *out_vector, uint64_t *out_address)
{
    (void)ctx;
    *out_vector = 14;
    *out_address = 0x1000;
}

struct service_options rig_begin(struct rig *rig, bool awaiting_reset)
{
    const struct machine_door door = {.ctx = rig, .call = call};
    *rig = (struct rig){.daemon_fd = -1, .id = {.bytes = "an instance id."}};
    static struct crypto crypto; /* as long as the program, as libcrypto's own */
    if (!crypto.aes_256_gcm) assert_ok(crypto_init(&crypto));
    rig->crypto = crypto;
    assert_ok(x25519_generate(&rig->crypto, &rig->share));
    rig->machine_memory = aligned_alloc(8, MACHINE_MEMORY_SIZE);
    assert_non_null(rig->machine_memory);
    machine_init(&rig->machine, &door, rig->machine_memory);
    assert_true(sd_event_new(&rig->event) >= 0);
    return (struct service_options){
        .event = rig->event,
        .id = rig->id,
        .machine = &rig->machine,
        .host = {rig, on_admitted, on_disconnected, fault_of},
        .commit_timeout_usec = RIG_TIMEOUT_USEC,
        .awaiting_reset = awaiting_reset,
    };
}

void rig_end(struct rig *rig)
{
    rig_hang_up(rig);
    service_close(&rig->service);
    link_close(&rig->link);
    sd_event_unref(rig->event);
    free(rig->machine_memory);
}

void rig_connect(struct rig *rig)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    rig->daemon_fd = pair[0];
    assert_ok(wire_stream_open(pair[0], WIRE_BODY_MAX, &rig->daemon));
    service_connect(rig->service, pair[1]);
}

void rig_recorded(struct rig *rig)
{
    assert_ok(wire_send(rig->daemon, WIRE_RECORDED, NULL, 0));
}

void rig_hang_up(struct rig *rig)
{
    wire_stream_close(&rig->daemon);
    if (rig->daemon_fd >= 0) close(rig->daemon_fd);
    rig->daemon_fd = -1;
}

static uint64_t clock_usec(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_nsec / 1000;
}

void rig_run_for(struct rig *rig, uint64_t usec)
{
    const uint64_t end = clock_usec() + usec;
    do {
        if (sd_event_get_state(rig->event) == SD_EVENT_FINISHED) return;
        (void)sd_event_run(rig->event, 1000);
    } while (clock_usec() < end);
}

struct span rig_expect(struct rig *rig, enum wire_kind kind)
{
    struct wire_frame frame = {0};
    for (int i = 0; i < 5000 && !frame.kind; i++) {
        assert_ok(wire_receive(rig->daemon, &frame));
        if (!frame.kind) rig_run_for(rig, 1000);
    }
    assert_int_equal(frame.kind, kind);
    return frame.body;
}

void rig_expect_nothing(struct rig *rig)
{
    struct wire_frame frame = {0};
    rig_run_for(rig, 20000);
    assert_ok(wire_receive(rig->daemon, &frame));
    assert_int_equal(frame.kind, 0);
}

void rig_expect_closed(struct rig *rig)
{
    struct wire_frame frame = {0};
    struct err result = OK;
    for (int i = 0; i < 1000 && !result.code; i++) {
        rig_run_for(rig, 1000);
        result = wire_receive(rig->daemon, &frame);
    }
    assert_int_equal(result.code, ERR_PEER_CLOSED);
    rig_hang_up(rig);
}

void rig_peer(struct rig *rig, uint8_t kind, uint8_t word)
{
    const uint8_t bytes[] = {kind, word};
    const struct span message = span_of(bytes, sizeof bytes);
    assert_ok(wire_send(rig->daemon, WIRE_PEER, &message, 1));
}

void rig_expect_peer(struct rig *rig, uint8_t kind, uint8_t word)
{
    const struct span message = rig_expect(rig, WIRE_PEER);
    assert_int_equal(message.size, 2);
    assert_int_equal(message.data[0], kind);
    assert_int_equal(message.data[1], word);
}

void rig_expect_commit(struct rig *rig, uint64_t version)
{
    uint64_t said = 0;
    struct span state;
    struct span message;
    assert_ok(wire_parse_commit(rig_expect(rig, WIRE_COMMIT), &said, &state, &message));
    assert_int_equal(said, version);
    assert_int_equal(state.size, 5);
    assert_memory_equal(state.data, "state", 5);
    assert_int_equal(message.size, 2);
    assert_int_equal(message.data[1], RIG_COMMIT);
}

void rig_expect_health(struct rig *rig, enum wire_health health)
{
    struct health_told told;
    assert_ok(wire_parse_health(rig_expect(rig, WIRE_HEALTH), &told));
    assert_int_equal(told.health, health);
}

struct link_told rig_told(struct rig *rig)
{
    struct link_told told = {.binding = {.kind = LINK_K2_NAMED, .instance = rig->id, .epoch = 1, .start = RIG_START}};
    memcpy(told.enclave_share, rig->share.public, sizeof told.enclave_share);
    return told;
}

void rig_admit(struct rig *rig)
{
    struct hello_instance hello;
    assert_ok(wire_parse_hello_instance(rig_expect(rig, WIRE_HELLO_INSTANCE), &hello));
    assert_false(hello.serving);
    if (!hello.separate_front) memcpy(rig->front_share, hello.front_share, sizeof rig->front_share);
    if (hello.separate_front) rig_expect_health(rig, HEALTH_AWAITING_FRONT);
    rig_peer(rig, PEER_CHALLENGE, 0);
    rig_expect_peer(rig, PEER_PROOF, 0);
    rig_peer(rig, PEER_ADMIT, 0);
    rig_peer(rig, RECORD_DATA, RIG_PROVISION);
    assert_ok(wire_send_state(rig->daemon, 0, span_empty()));
    if (rig->load_stores) {
        rig_expect_commit(rig, 1);
        rig_expect_nothing(rig);
        rig_peer(rig, RECORD_DATA, RIG_ANCHORED);
    }
    rig_expect_peer(rig, RECORD_DATA, RIG_READY);
    assert_int_equal(rig->admitted, 1);
}

void rig_start(struct rig *rig)
{
    const struct link_told told = rig_told(rig);
    rig_admit(rig);
    assert_ok(wire_send_link(rig->daemon, &told));
}

void rig_assert_ended(struct rig *rig, int code)
{
    int ended_with = -1;
    rig_run_for(rig, 5000);
    assert_true(sd_event_get_exit_code(rig->event, &ended_with) >= 0);
    assert_int_equal(ended_with, code);
}
