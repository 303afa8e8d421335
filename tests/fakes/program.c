#include "tests/fakes/program.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "trusted/door/door.h"
#include "trusted/runtime/clock.h"

static void must(bool done, const char *what)
{
    if (done) return;
    perror(what);
    abort();
}

static const struct door_call *find_call(uint32_t number)
{
    for (size_t i = 0; i < door_program.call_count; i++)
        if (door_program.calls[i].number == number) return &door_program.calls[i];
    return NULL;
}

struct err program_call(uint32_t number, uint64_t host_time, struct span body, uint8_t *out, size_t *out_size)
{
    struct writer effects = writer_of(out, CALL_OUTPUT_MAX);
    const struct door_call *call = find_call(number);
    *out_size = 0;
    ENSURE(call, CALL_UNKNOWN);
    if (!(call->allowed_states & UINT32_C(1) << door_program.state(door_program.ctx)))
        return door_program.refusal(door_program.ctx, number);
    ENSURE(body.size >= call->body_min, TRUNCATED);
    ENSURE(body.size <= call->body_max, TOO_LARGE);
    clock_advance(host_time);
    TRY(call->handler(door_program.ctx, body, &effects));
    *out_size = effects.size;
    return OK;
}

struct message {
    uint64_t host_time;
    uint32_t number; /* the err code in an answer */
    uint32_t size;
};

static bool read_all(int fd, void *data, size_t size)
{
    uint8_t *next = data;
    while (size > 0) {
        ssize_t got = read(fd, next, size);
        if (got <= 0) return false;
        next += got;
        size -= (size_t)got;
    }
    return true;
}

static bool write_all(int fd, const void *data, size_t size)
{
    const uint8_t *next = data;
    while (size > 0) {
        ssize_t put = send(fd, next, size, MSG_NOSIGNAL);
        if (put <= 0) return false;
        next += put;
        size -= (size_t)put;
    }
    return true;
}

_Noreturn static void serve(int channel)
{
    static uint8_t body[CALL_INPUT_MAX], out[CALL_OUTPUT_MAX];
    struct message message;
    while (read_all(channel, &message, sizeof message) && read_all(channel, body, message.size)) {
        size_t size = 0;
        struct err err = program_call(message.number, message.host_time, span_of(body, message.size), out, &size);
        struct message answer = {.number = err.code, .size = (uint32_t)size};
        if (!write_all(channel, &answer, sizeof answer) || !write_all(channel, out, size)) break;
    }
    _exit(0);
}

void enclave_process_start(struct enclave_process *out)
{
    int channels[2];
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channels) == 0, "socketpair");
    fflush(NULL);
    pid_t pid = fork();
    must(pid >= 0, "fork");
    if (pid == 0) {
        close(channels[0]);
        serve(channels[1]);
    }
    close(channels[1]);
    *out = (struct enclave_process){.pid = pid, .channel = channels[0]};
}

void enclave_process_end(struct enclave_process *enclave)
{
    close(enclave->channel);
    must(waitpid(enclave->pid, NULL, 0) == enclave->pid, "waitpid");
}

static struct span *place_of(uint32_t kind, struct enclave_result *out)
{
    switch (kind) {
    case INSTANCE_EFFECT_PEER:
        return out->peer_count < sizeof out->peer / sizeof out->peer[0] ? &out->peer[out->peer_count++] : NULL;
    case INSTANCE_EFFECT_RECORD:
        return &out->record;
    case INSTANCE_EFFECT_STORE:
        return &out->store;
    case INSTANCE_EFFECT_RECEIPT:
        return &out->receipt;
    case INSTANCE_EFFECT_HEALTH:
        return &out->health;
    default:
        return NULL;
    }
}

static struct err parse_effects(struct reader *r, struct enclave_result *out)
{
    while (r->left > 0) {
        uint32_t kind = 0, size = 0;
        struct span padding;
        TRY(read_u32(r, &kind));
        TRY(read_u32(r, &size));
        struct span *place = place_of(kind, out);
        ENSURE(place && !place->data, BAD_VALUE);
        TRY(read_span(r, size, place));
        TRY(read_span(r, (CALL_ALIGNMENT - size % CALL_ALIGNMENT) % CALL_ALIGNMENT, &padding));
    }
    return OK;
}

static bool call_there(const struct enclave_process *enclave, uint32_t number, uint64_t host_time, struct span body,
                       struct enclave_result *out, size_t *out_size)
{
    struct message message = {.host_time = host_time, .number = number, .size = (uint32_t)body.size};
    struct message answer;
    bool answered =
        write_all(enclave->channel, &message, sizeof message) && write_all(enclave->channel, body.data, body.size) &&
        read_all(enclave->channel, &answer, sizeof answer) && read_all(enclave->channel, out->buffer, answer.size);
    if (!answered) return false;
    out->code = (uint16_t)answer.number;
    *out_size = answer.size;
    return true;
}

void enclave_process_call(const struct enclave_process *enclave, uint32_t number, uint64_t host_time, struct span body,
                          struct enclave_result *out)
{
    size_t size = 0;
    out->peer_count = 0;
    memset(out->peer, 0, sizeof out->peer);
    out->record = out->store = out->receipt = out->health = span_empty();
    if (enclave->pid == 0)
        out->code = program_call(number, host_time, body, out->buffer, &size).code;
    else if (!call_there(enclave, number, host_time, body, out, &size))
        out->code = ERR_SYSTEM;
    struct reader r = reader_of(span_of(out->buffer, size));
    must(parse_effects(&r, out).code == ERR_NONE, "effects");
}
