#include "untrusted/cli/ctl_enclave.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "untrusted/host/log.h"
#include "untrusted/wire/pass.h"

/* --- frames --- */

static long long now_ms(void)
{
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000ll + time.tv_nsec / 1000000;
}

static struct err wait_for(int fd, short events, long long until)
{
    struct pollfd wanted = {.fd = fd, .events = events};
    long long left = until - now_ms();
    ENSURE(left > 0, TIMEOUT);
    ENSURE(poll(&wanted, 1, (int)(left < INT_MAX ? left : INT_MAX)) >= 0 || errno == EINTR, SYSTEM);
    return OK;
}

static struct err flush(int fd, struct wire_stream *stream, long long until)
{
    while (wire_pending(stream)) {
        TRY(wait_for(fd, POLLOUT, until));
        TRY(wire_flush(stream));
    }
    return OK;
}

static struct err receive(int fd, struct wire_stream *stream, long long until, struct wire_frame *out_frame)
{
    *out_frame = (struct wire_frame){0};
    TRY(flush(fd, stream, until));
    for (;;) {
        TRY(wire_receive(stream, out_frame));
        if (out_frame->kind) return OK;
        TRY(wait_for(fd, POLLIN, until));
    }
}

static long long deadline(const struct ctl_enclave *e)
{
    return now_ms() + 1000ll * e->seconds;
}

static struct err connect_to(const char *path, size_t body_max, int *out_fd, struct wire_stream **out_stream,
                             struct explanation *why)
{
    struct err result = pass_connect(path, out_fd);
    if (result.code)
        return explain(why, result, "%s: %s; import wants the rights to both of vtpmd's sockets: run it as root", path,
                       result.code == ERR_SYSTEM ? strerror(errno) : err_sentence(result));
    return wire_stream_open(*out_fd, body_max, out_stream);
}

/* --- records --- */

/* Sends one record and waits for the enclave's. out has room for RECORD_MAX bytes. */
static struct err exchange(struct ctl_enclave *e, uint8_t verb, struct span record, enum link_event *out_event,
                           uint8_t *out, size_t *out_size)
{
    const long long until = deadline(e);
    struct wire_frame frame;
    struct span answer;
    struct err refused = OK;
    uint8_t zero = 0;
    bool cure = false;
    TRY(wire_send_record(e->instance, verb, record));
    TRY(receive(e->instance_fd, e->instance, until, &frame));
    if (frame.kind == WIRE_FAILED) {
        TRY(wire_parse_failed(frame.body, &refused, &cure));
        return refused;
    }
    ENSURE(frame.kind == WIRE_RECORD, PROTOCOL);
    TRY(wire_parse_record(frame.body, &zero, &answer));
    ENSURE(answer.size <= RECORD_MAX, TOO_LARGE);
    return link_receive(&e->link, answer, out_event, out, out_size);
}

static struct err finish(struct ctl_enclave *e)
{
    uint8_t record[RECORD_OVERHEAD + SHA256_SIZE];
    uint8_t answer[RECORD_MAX];
    size_t size = 0;
    enum link_event event;
    struct writer w = writer_of(record, sizeof record);
    TRY(link_finish(&e->link, &w));
    TRY(exchange(e, 0, writer_span(&w), &event, answer, &size));
    ENSURE(event == LINK_FINISHED, LINK_ORDER);
    return OK;
}

/* --- the way to it --- */

static struct err register_share(struct ctl_enclave *e, const struct instance_id *id, struct link_told *out_told)
{
    struct wire_frame frame;
    struct err refused = OK;
    TRY(wire_send_hello_front(e->daemon, id, e->own.public));
    TRY(receive(e->daemon_fd, e->daemon, deadline(e), &frame));
    if (frame.kind == WIRE_REFUSED) {
        TRY(wire_parse_refused(frame.body, &refused));
        return refused;
    }
    ENSURE(frame.kind == WIRE_LINK, PROTOCOL);
    TRY(wire_parse_link(frame.body, out_told));
    ENSURE(memcmp(&out_told->binding.instance, id, sizeof *id) == 0, STATE_OTHER_INSTANCE);
    ENSURE(out_told->binding.kind == LINK_K2_NAMED, FRONT_ENROLLED);
    return OK;
}

static struct err open_link(struct ctl_enclave *e, const struct link_told *told)
{
    const struct link_keys keys = {.own = &e->own, .peer = told->enclave_share};
    TRY(link_open(&e->crypto, LINK_HOST, &told->binding, &keys, &e->link));
    wipe(e->own.private, sizeof e->own.private);
    return finish(e);
}

static struct err no_session(const struct ctl_enclave *e, struct err err, struct explanation *why)
{
    if (!err.code || why->text[0]) return err;
    return explain(why, err, "%s: no session with its enclave: %s", e->label, err_sentence(err));
}

struct err ctl_enclave_open(const char *admin_socket, const char *label, const struct instance_id *id, unsigned seconds,
                            struct ctl_enclave *out_enclave, struct explanation *why)
{
    struct ctl_enclave *e = out_enclave;
    struct link_told told;
    char path[PATH_MAX];
    const char *slash = strrchr(admin_socket, '/');
    const int directory = slash ? (int)(slash - admin_socket) : 1;
    *e = (struct ctl_enclave){.label = label, .daemon_fd = -1, .instance_fd = -1, .seconds = seconds};
    TRY(crypto_init(&e->crypto));
    TRY(x25519_generate(&e->crypto, &e->own));
    (void)snprintf(path, sizeof path, "%.*s/daemon.sock", directory, slash ? admin_socket : ".");
    TRY(connect_to(path, 256, &e->daemon_fd, &e->daemon, why));
    TRY(no_session(e, register_share(e, id, &told), why));
    (void)snprintf(path, sizeof path, "%.*s/instances/%s/front.sock", directory, slash ? admin_socket : ".", label);
    TRY(connect_to(path, 8 + RECORD_MAX, &e->instance_fd, &e->instance, why));
    return no_session(e, open_link(e, &told), why);
}

/* --- the state --- */

static struct err write_part(struct span permanent, size_t offset, struct writer *w)
{
    const size_t left = permanent.size - offset;
    const size_t size = left < K2_PART_MAX ? left : K2_PART_MAX;
    TRY(write_u8(w, K2_IMPORT));
    TRY(write_u8(w, 0));
    TRY(write_u16(w, 0));
    TRY(write_u32(w, (uint32_t)permanent.size));
    TRY(write_u32(w, (uint32_t)offset));
    return write_bytes(w, permanent.data + offset, size);
}

static struct err send_part(struct ctl_enclave *e, struct span permanent, size_t offset)
{
    uint8_t part[K2_MESSAGE_MAX];
    uint8_t record[RECORD_OVERHEAD + K2_MESSAGE_MAX];
    uint8_t answer[RECORD_MAX];
    struct writer plaintext = writer_of(part, sizeof part);
    struct writer w = writer_of(record, sizeof record);
    enum link_event event;
    size_t size = 0;
    struct err code = OK;
    struct err result = write_part(permanent, offset, &plaintext);
    if (!result.code) result = link_send(&e->link, writer_span(&plaintext), &w);
    wipe(part, sizeof part);
    TRY(result);
    TRY(exchange(e, K2_IMPORT, writer_span(&w), &event, answer, &size));
    ENSURE(event == LINK_DATA && size == K2_HEADER_SIZE, LINK_CLOSED);
    struct reader r = reader_of(span_of(answer, size));
    TRY(read_u16(&r, &code.code));
    return code;
}

struct err ctl_enclave_import(struct ctl_enclave *e, struct span permanent, struct explanation *why)
{
    struct err result = OK;
    for (size_t offset = 0; offset < permanent.size && !result.code; offset += K2_PART_MAX)
        result = send_part(e, permanent, offset);
    if (result.code == ERR_STATE_REJECTED)
        return explain(why, result,
                       "%s: the state was not imported: libtpms in the enclave does not take it; it is damaged, "
                       "or of a newer libtpms",
                       e->label);
    if (result.code) return explain(why, result, "%s: the state was not imported: %s", e->label, err_sentence(result));
    return OK;
}

static void close_end(int *fd, struct wire_stream **stream)
{
    wire_stream_close(stream);
    if (*fd >= 0) (void)close(*fd);
    *fd = -1;
}

void ctl_enclave_close(struct ctl_enclave *e)
{
    link_close(&e->link);
    wipe(&e->own, sizeof e->own);
    close_end(&e->instance_fd, &e->instance);
    close_end(&e->daemon_fd, &e->daemon);
}
