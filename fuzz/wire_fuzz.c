/*
 * Frames between our processes: whatever a hostile end sends, in pieces of any size, is delivered as whole frames of
 * allowed sizes or refused, and no body makes a parser read past its end.
 */
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "untrusted/wire/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void parse(const struct wire_frame *frame)
{
    struct hello_instance hello;
    struct link_told told;
    struct instance_id id;
    struct health_told health;
    uint8_t share[X25519_SIZE];
    struct err why;
    bool cure;
    uint8_t verb;
    uint64_t version;
    struct span one;
    struct span two;
    const struct span body = frame->body;
    (void)wire_parse_hello_instance(body, &hello).code;
    (void)wire_parse_hello_front(body, &id, share).code;
    (void)wire_parse_link(body, &told).code;
    (void)wire_parse_health(body, &health).code;
    (void)wire_parse_refused(body, &why).code;
    (void)wire_parse_failed(body, &why, &cure).code;
    if (!wire_parse_record(body, &verb, &one).code && one.size + 8 != body.size) abort();
    if (!wire_parse_state(body, &version, &one).code && one.size + 8 != body.size) abort();
    if (!wire_parse_commit(body, &version, &one, &two).code && one.size + two.size + 12 != body.size) abort();
}

static bool drain(struct wire_stream *stream)
{
    struct wire_frame frame = {0};
    do {
        if (wire_receive(stream, &frame).code) return false;
        if (frame.kind) parse(&frame);
    } while (frame.kind);
    return true;
}

/* The first byte says how large the pieces are. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fds[2];
    struct wire_stream *stream = NULL;
    if (size < 2 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) != 0) return 0;
    const size_t piece = 1 + data[0] * 16u;
    if (wire_stream_open(fds[0], WIRE_BODY_MAX, &stream).code) abort();
    for (size_t done = 1; done < size;) {
        size_t part = size - done < piece ? size - done : piece;
        if (send(fds[1], data + done, part, MSG_NOSIGNAL) != (ssize_t)part || !drain(stream)) break;
        done += part;
    }
    wire_stream_close(&stream);
    close(fds[0]);
    close(fds[1]);
    return 0;
}
