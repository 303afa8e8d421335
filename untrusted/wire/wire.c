#include "untrusted/wire/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/bytes.h"
#include "link/record.h"

#define SMALL_SIZE 4096u /* a buffer that nothing large needs is given back down to this */

/* What was read and not delivered, or not sent yet. */
struct buffer {
    uint8_t *data;
    size_t capacity;
    size_t start;
    size_t end;
};

struct wire_stream {
    int fd;
    bool broken; /* half a frame was sent and the rest is lost */
    size_t body_max;
    size_t delivered; /* bytes of the frame that the caller has */
    struct buffer in;
    struct buffer out;
};

/* Largest bodies; what goes with a peer session is bounded by abi/peer.h, which nothing here includes. */
static const size_t limits[] = {
    [WIRE_HELLO_INSTANCE] = 64,
    [WIRE_PEER] = 1024,
    [WIRE_COMMIT] = WIRE_BODY_MAX,
    [WIRE_STATE] = WIRE_BODY_MAX,
    [WIRE_LINK] = 136,
    [WIRE_RECEIPT] = 256,
    [WIRE_STOP] = 8,
    [WIRE_REFUSED] = 2,
    [WIRE_HEALTH] = 24,
    [WIRE_ASK_HEALTH] = 0,
    [WIRE_HELLO_FRONT] = 56,
    [WIRE_RECORD] = 8 + RECORD_MAX,
    [WIRE_FAILED] = 8,
    [WIRE_SHUTDOWN] = 0,
    [WIRE_STOP_REFUSED] = 2,
    [WIRE_RECORDED] = 0,
};
#define KIND_COUNT (sizeof limits / sizeof limits[0])

/* --- buffers --- */

static size_t used(const struct buffer *b)
{
    return b->end - b->start;
}

/* Room for size bytes from start on, what is there included. */
static struct err make_room(struct buffer *b, size_t size)
{
    if (b->start && b->start + size > b->capacity) {
        memmove(b->data, b->data + b->start, used(b));
        b->end -= b->start;
        b->start = 0;
    }
    if (size <= b->capacity) return OK;
    size_t capacity = size < SMALL_SIZE ? SMALL_SIZE : size;
    uint8_t *data = realloc(b->data, capacity);
    ENSURE(data, NO_MEMORY);
    b->data = data;
    b->capacity = capacity;
    return OK;
}

static void drop(struct buffer *b, size_t size)
{
    b->start += size;
    if (b->start < b->end) return;
    b->start = b->end = 0;
    if (b->capacity <= SMALL_SIZE) return;
    free(b->data);
    b->data = NULL;
    b->capacity = 0;
}

struct err wire_stream_open(int fd, size_t body_max, struct wire_stream **out_stream)
{
    ENSURE(body_max <= WIRE_BODY_MAX, TOO_LARGE);
    struct wire_stream *s = calloc(1, sizeof *s);
    ENSURE(s, NO_MEMORY);
    s->fd = fd;
    s->body_max = body_max;
    *out_stream = s;
    return OK;
}

void wire_stream_close(struct wire_stream **stream)
{
    struct wire_stream *s = *stream;
    if (!s) return;
    free(s->in.data);
    free(s->out.data);
    free(s);
    *stream = NULL;
}

/* --- receiving --- */

static struct err parse_header(const struct wire_stream *s, enum wire_kind *out_kind, size_t *out_size)
{
    struct reader r = reader_of(span_of(s->in.data + s->in.start, WIRE_HEADER_SIZE));
    uint32_t size = 0;
    uint32_t kind = 0; /* and three zeros behind it */
    TRY(read_u32(&r, &size));
    TRY(read_u32(&r, &kind));
    ENSURE(kind > 0 && kind < KIND_COUNT, PROTOCOL);
    ENSURE(size <= limits[kind] && size <= s->body_max, PROTOCOL);
    *out_kind = (enum wire_kind)kind;
    *out_size = size;
    return OK;
}

/* Out_missing: how many bytes the next frame lacks, at least. */
static struct err next_frame(const struct wire_stream *s, struct wire_frame *out_frame, size_t *out_missing)
{
    size_t have = used(&s->in);
    enum wire_kind kind = 0;
    size_t size = 0;
    *out_missing = WIRE_HEADER_SIZE;
    if (have < WIRE_HEADER_SIZE) return OK;
    TRY(parse_header(s, &kind, &size));
    *out_missing = WIRE_HEADER_SIZE + size;
    if (have < *out_missing) return OK;
    *out_missing = 0;
    *out_frame = (struct wire_frame){kind, span_of(s->in.data + s->in.start + WIRE_HEADER_SIZE, size)};
    return OK;
}

/* False if there is nothing to read now. */
static struct err read_more(struct wire_stream *s, size_t frame_size, bool *out_read)
{
    TRY(make_room(&s->in, frame_size < SMALL_SIZE ? SMALL_SIZE : frame_size));
    ssize_t size = recv(s->fd, s->in.data + s->in.end, s->in.capacity - s->in.end, MSG_DONTWAIT);
    *out_read = size > 0;
    if (size > 0) {
        s->in.end += (size_t)size;
        return OK;
    }
    ENSURE(size < 0 && errno != ECONNRESET, PEER_CLOSED);
    ENSURE(errno == EAGAIN || errno == EINTR, SYSTEM);
    return OK;
}

struct err wire_receive(struct wire_stream *s, struct wire_frame *out_frame)
{
    drop(&s->in, s->delivered);
    s->delivered = 0;
    struct wire_frame frame = {0};
    size_t wanted = 0;
    bool more = true;
    TRY(next_frame(s, &frame, &wanted));
    while (wanted && more) {
        TRY(read_more(s, wanted, &more));
        if (more) TRY(next_frame(s, &frame, &wanted));
    }
    if (!wanted) s->delivered = WIRE_HEADER_SIZE + frame.body.size;
    *out_frame = frame;
    return OK;
}

/* --- sending --- */

static struct err transmit(struct wire_stream *s, struct iovec *parts, size_t count, size_t *out_sent)
{
    struct msghdr header = {.msg_iov = parts, .msg_iovlen = count};
    ssize_t sent = sendmsg(s->fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    *out_sent = sent > 0 ? (size_t)sent : 0;
    if (sent >= 0) return OK;
    ENSURE(errno != EPIPE && errno != ECONNRESET, PEER_CLOSED);
    ENSURE(errno == EAGAIN || errno == EINTR, SYSTEM);
    return OK;
}

static struct err keep_rest(struct wire_stream *s, const struct iovec *parts, size_t count, size_t sent, size_t total)
{
    struct err result = make_room(&s->out, used(&s->out) + total - sent);
    if (result.code) {
        s->broken = true;
        return result;
    }
    for (size_t i = 0; i < count; i++) {
        size_t skip = sent < parts[i].iov_len ? sent : parts[i].iov_len;
        size_t rest = parts[i].iov_len - skip;
        sent -= skip;
        if (rest) memcpy(s->out.data + s->out.end, (const uint8_t *)parts[i].iov_base + skip, rest);
        s->out.end += rest;
    }
    return OK;
}

struct err wire_send(struct wire_stream *s, enum wire_kind kind, const struct span *parts, size_t count)
{
    uint8_t head[WIRE_HEADER_SIZE];
    struct iovec all[1 + WIRE_PARTS_MAX] = {{head, sizeof head}};
    size_t size = 0;
    ENSURE(!s->broken, NO_MEMORY);
    ENSURE(count <= WIRE_PARTS_MAX, TOO_LARGE);
    for (size_t i = 0; i < count; i++) {
        all[1 + i] = (struct iovec){(void *)(uintptr_t)parts[i].data, parts[i].size};
        size += parts[i].size;
    }
    ENSURE(size <= limits[kind], TOO_LARGE);
    ENSURE(used(&s->out) + sizeof head + size <= 2 * (WIRE_HEADER_SIZE + (size_t)WIRE_BODY_MAX), TOO_LARGE);
    struct writer w = writer_of(head, sizeof head);
    TRY(write_u32(&w, (uint32_t)size));
    TRY(write_u32(&w, kind));
    size_t sent = 0;
    if (!wire_pending(s)) TRY(transmit(s, all, 1 + count, &sent));
    return sent == sizeof head + size ? OK : keep_rest(s, all, 1 + count, sent, sizeof head + size);
}

bool wire_pending(const struct wire_stream *s)
{
    return used(&s->out) > 0;
}

struct err wire_flush(struct wire_stream *s)
{
    ENSURE(!s->broken, NO_MEMORY);
    while (wire_pending(s)) {
        size_t sent = 0;
        struct iovec rest = {s->out.data + s->out.start, used(&s->out)};
        TRY(transmit(s, &rest, 1, &sent));
        if (sent == 0) break;
        drop(&s->out, sent);
    }
    return OK;
}

/* --- bodies; whatever is wrong with one is a breach of the protocol --- */

static struct err strict(struct err result)
{
    return result.code ? FAIL(PROTOCOL) : OK;
}

static struct err send_fields(struct wire_stream *s, enum wire_kind kind, const struct writer *fields)
{
    const struct span body = writer_span(fields);
    return wire_send(s, kind, &body, 1);
}

/* size zeros, at most 8. */
static struct err read_padding(struct reader *r, size_t size)
{
    uint8_t value = 0;
    for (size_t i = 0; i < size; i++) {
        TRY(read_u8(r, &value));
        ENSURE(value == 0, BAD_VALUE);
    }
    return OK;
}

static struct err write_padding(struct writer *w, size_t size)
{
    uint8_t *unused = NULL;
    return write_zeros(w, size, &unused);
}

#define HELLO_BLANK    1u
#define HELLO_SERVING  2u
#define FRONT_HERE     1u
#define FRONT_SEPARATE 2u

struct err wire_send_hello_instance(struct wire_stream *s, const struct hello_instance *hello)
{
    uint8_t bytes[64];
    struct writer w = writer_of(bytes, sizeof bytes);
    TRY(write_u16(&w, WIRE_VERSION));
    TRY(write_u8(&w, hello->serving ? HELLO_SERVING : HELLO_BLANK));
    TRY(write_u8(&w, hello->separate_front ? FRONT_SEPARATE : FRONT_HERE));
    TRY(write_u32(&w, 0));
    TRY(write_bytes(&w, hello->id.bytes, sizeof hello->id.bytes));
    TRY(write_u64(&w, hello->start));
    TRY(write_bytes(&w, hello->front_share, sizeof hello->front_share));
    return send_fields(s, WIRE_HELLO_INSTANCE, &w);
}

static struct err parse_hello_instance(struct reader *r, struct hello_instance *out)
{
    uint16_t version = 0;
    uint8_t enclave = 0;
    uint8_t front = 0;
    TRY(read_u16(r, &version));
    TRY(read_u8(r, &enclave));
    TRY(read_u8(r, &front));
    ENSURE(version == WIRE_VERSION, BAD_VALUE);
    ENSURE(enclave == HELLO_BLANK || enclave == HELLO_SERVING, BAD_VALUE);
    ENSURE(front == FRONT_HERE || front == FRONT_SEPARATE, BAD_VALUE);
    out->serving = enclave == HELLO_SERVING;
    out->separate_front = front == FRONT_SEPARATE;
    TRY(read_padding(r, 4));
    TRY(read_bytes(r, out->id.bytes, sizeof out->id.bytes));
    TRY(read_u64(r, &out->start));
    TRY(read_bytes(r, out->front_share, sizeof out->front_share));
    return reader_end(r);
}

struct err wire_parse_hello_instance(struct span body, struct hello_instance *out)
{
    struct reader r = reader_of(body);
    struct hello_instance hello = {0};
    TRY(strict(parse_hello_instance(&r, &hello)));
    *out = hello;
    return OK;
}

struct err wire_send_hello_front(struct wire_stream *s, const struct instance_id *id, const uint8_t share[X25519_SIZE])
{
    uint8_t bytes[56];
    struct writer w = writer_of(bytes, sizeof bytes);
    TRY(write_u16(&w, WIRE_VERSION));
    TRY(write_padding(&w, 6));
    TRY(write_bytes(&w, id->bytes, sizeof id->bytes));
    TRY(write_bytes(&w, share, X25519_SIZE));
    return send_fields(s, WIRE_HELLO_FRONT, &w);
}

static struct err parse_hello_front(struct reader *r, struct instance_id *id, uint8_t share[X25519_SIZE])
{
    uint16_t version = 0;
    TRY(read_u16(r, &version));
    ENSURE(version == WIRE_VERSION, BAD_VALUE);
    TRY(read_padding(r, 6));
    TRY(read_bytes(r, id->bytes, sizeof id->bytes));
    TRY(read_bytes(r, share, X25519_SIZE));
    return reader_end(r);
}

struct err wire_parse_hello_front(struct span body, struct instance_id *out_id, uint8_t out_share[X25519_SIZE])
{
    struct reader r = reader_of(body);
    struct instance_id id;
    uint8_t share[X25519_SIZE];
    TRY(strict(parse_hello_front(&r, &id, share)));
    *out_id = id;
    memcpy(out_share, share, sizeof share);
    return OK;
}

struct err wire_send_link(struct wire_stream *s, const struct link_told *told)
{
    uint8_t bytes[136];
    const struct link_binding *binding = &told->binding;
    struct writer w = writer_of(bytes, sizeof bytes);
    TRY(write_u8(&w, (uint8_t)binding->kind));
    TRY(write_padding(&w, 7));
    TRY(write_bytes(&w, binding->instance.bytes, sizeof binding->instance.bytes));
    TRY(write_u64(&w, binding->epoch));
    TRY(write_u64(&w, binding->start));
    TRY(write_bytes(&w, binding->manager, sizeof binding->manager));
    TRY(write_bytes(&w, binding->program, sizeof binding->program));
    TRY(write_bytes(&w, told->enclave_share, sizeof told->enclave_share));
    return send_fields(s, WIRE_LINK, &w);
}

static struct err parse_link(struct reader *r, struct link_told *out)
{
    struct link_binding *binding = &out->binding;
    uint8_t kind = 0;
    TRY(read_u8(r, &kind));
    ENSURE(kind == LINK_K2_NAMED || kind == LINK_K2_ENROLLED, BAD_VALUE);
    binding->kind = (enum link_kind)kind;
    TRY(read_padding(r, 7));
    TRY(read_bytes(r, binding->instance.bytes, sizeof binding->instance.bytes));
    TRY(read_u64(r, &binding->epoch));
    TRY(read_u64(r, &binding->start));
    TRY(read_bytes(r, binding->manager, sizeof binding->manager));
    TRY(read_bytes(r, binding->program, sizeof binding->program));
    TRY(read_bytes(r, out->enclave_share, sizeof out->enclave_share));
    return reader_end(r);
}

struct err wire_parse_link(struct span body, struct link_told *out)
{
    struct reader r = reader_of(body);
    struct link_told told = {0};
    TRY(strict(parse_link(&r, &told)));
    *out = told;
    return OK;
}

struct err wire_send_commit(struct wire_stream *s, uint64_t version, struct span state, struct span message)
{
    uint8_t head[12];
    struct writer w = writer_of(head, sizeof head);
    TRY(write_u64(&w, version));
    TRY(write_u32(&w, (uint32_t)state.size));
    const struct span parts[] = {writer_span(&w), state, message};
    return wire_send(s, WIRE_COMMIT, parts, sizeof parts / sizeof parts[0]);
}

struct err wire_parse_commit(struct span body, uint64_t *out_version, struct span *out_state, struct span *out_message)
{
    struct reader r = reader_of(body);
    uint64_t version = 0;
    uint32_t size = 0;
    struct span state;
    TRY(strict(read_u64(&r, &version)));
    TRY(strict(read_u32(&r, &size)));
    TRY(strict(read_span(&r, size, &state)));
    ENSURE(version > 0 && size > 0 && r.left > 0, PROTOCOL);
    ENSURE(r.left <= limits[WIRE_PEER], PROTOCOL);
    *out_version = version;
    *out_state = state;
    *out_message = span_of(r.next, r.left);
    return OK;
}

struct err wire_send_state(struct wire_stream *s, uint64_t version, struct span state)
{
    uint8_t head[8];
    struct writer w = writer_of(head, sizeof head);
    TRY(write_u64(&w, version));
    const struct span parts[] = {writer_span(&w), state};
    return wire_send(s, WIRE_STATE, parts, sizeof parts / sizeof parts[0]);
}

struct err wire_parse_state(struct span body, uint64_t *out_version, struct span *out_state)
{
    struct reader r = reader_of(body);
    uint64_t version = 0;
    TRY(strict(read_u64(&r, &version)));
    ENSURE(version > 0 || r.left == 0, PROTOCOL); /* one that is lost is the enclave's to refuse */
    *out_version = version;
    *out_state = span_of(r.next, r.left);
    return OK;
}

static struct err send_why(struct wire_stream *s, enum wire_kind kind, struct err why)
{
    uint8_t bytes[2];
    struct writer w = writer_of(bytes, sizeof bytes);
    TRY(write_u16(&w, why.code));
    return send_fields(s, kind, &w);
}

struct err wire_send_refused(struct wire_stream *s, struct err why)
{
    return send_why(s, WIRE_REFUSED, why);
}

struct err wire_send_stop_refused(struct wire_stream *s, struct err why)
{
    return send_why(s, WIRE_STOP_REFUSED, why);
}

struct err wire_parse_refused(struct span body, struct err *out_why)
{
    struct reader r = reader_of(body);
    uint16_t code = 0;
    TRY(strict(read_u16(&r, &code)));
    ENSURE(code && r.left == 0, PROTOCOL);
    *out_why = (struct err){code};
    return OK;
}

struct err wire_parse_stop_refused(struct span body, struct err *out_why)
{
    return wire_parse_refused(body, out_why);
}

struct err wire_send_stop(struct wire_stream *s, enum stop_mode mode)
{
    uint8_t bytes[8];
    struct writer w = writer_of(bytes, sizeof bytes);
    TRY(write_u8(&w, (uint8_t)mode));
    TRY(write_padding(&w, 7));
    return send_fields(s, WIRE_STOP, &w);
}

struct err wire_parse_stop(struct span body, enum stop_mode *out_mode)
{
    struct reader r = reader_of(body);
    uint8_t mode = 0;
    TRY(strict(read_u8(&r, &mode)));
    TRY(strict(read_padding(&r, 7)));
    ENSURE(r.left == 0 && (mode == STOP_OFF || mode == STOP_SUSPEND), PROTOCOL);
    *out_mode = (enum stop_mode)mode;
    return OK;
}

struct err wire_send_health(struct wire_stream *s, const struct health_told *told)
{
    uint8_t bytes[24];
    struct writer w = writer_of(bytes, sizeof bytes);
    TRY(write_u8(&w, (uint8_t)told->health));
    TRY(write_padding(&w, 7));
    TRY(write_u64(&w, told->commands));
    TRY(write_u64(&w, told->commits));
    return send_fields(s, WIRE_HEALTH, &w);
}

static struct err parse_health(struct reader *r, struct health_told *out)
{
    uint8_t health = 0;
    TRY(read_u8(r, &health));
    ENSURE(health >= HEALTH_SERVING && health <= HEALTH_AWAITING_FRONT, BAD_VALUE);
    out->health = (enum wire_health)health;
    TRY(read_padding(r, 7));
    TRY(read_u64(r, &out->commands));
    TRY(read_u64(r, &out->commits));
    return reader_end(r);
}

struct err wire_parse_health(struct span body, struct health_told *out)
{
    struct reader r = reader_of(body);
    struct health_told told = {0};
    TRY(strict(parse_health(&r, &told)));
    *out = told;
    return OK;
}

struct err wire_send_record(struct wire_stream *s, uint8_t verb, struct span record)
{
    const uint8_t head[8] = {verb};
    const struct span parts[] = {span_of(head, sizeof head), record};
    return wire_send(s, WIRE_RECORD, parts, sizeof parts / sizeof parts[0]);
}

struct err wire_parse_record(struct span body, uint8_t *out_verb, struct span *out_record)
{
    struct reader r = reader_of(body);
    uint8_t verb = 0;
    TRY(strict(read_u8(&r, &verb)));
    TRY(strict(read_padding(&r, 7)));
    ENSURE(verb <= K2_VERB_MAX && r.left > 0, PROTOCOL);
    *out_verb = verb;
    *out_record = span_of(r.next, r.left);
    return OK;
}

struct err wire_send_failed(struct wire_stream *s, struct err why, bool reset_may_cure)
{
    uint8_t bytes[8];
    struct writer w = writer_of(bytes, sizeof bytes);
    TRY(write_u16(&w, why.code));
    TRY(write_u8(&w, reset_may_cure));
    TRY(write_padding(&w, 5));
    return send_fields(s, WIRE_FAILED, &w);
}

static struct err parse_failed(struct reader *r, struct err *out_why, bool *out_cure)
{
    uint8_t cure = 0;
    TRY(read_u16(r, &out_why->code));
    TRY(read_u8(r, &cure));
    ENSURE(out_why->code && cure <= 1, BAD_VALUE);
    *out_cure = cure == 1;
    TRY(read_padding(r, 5));
    return reader_end(r);
}

struct err wire_parse_failed(struct span body, struct err *out_why, bool *out_reset_may_cure)
{
    struct reader r = reader_of(body);
    struct err why = OK;
    bool cure = false;
    TRY(strict(parse_failed(&r, &why, &cure)));
    *out_why = why;
    *out_reset_may_cure = cure;
    return OK;
}
