#include "untrusted/daemon/remote.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINE_MAX_BYTES 65536u /* of what it may say: the answers that are asked for are shorter */

struct remote {
    int fd;
    sd_event_source *source;
    void (*ended)(void *ctx);
    void *ctx;
    remote_done *done; /* NULL: nothing is asked */
    int passed;        /* came, and belongs to the answer; -1: nothing */
    size_t size;
    char input[LINE_MAX_BYTES];
};

void remote_close(struct remote **remote)
{
    struct remote *r = *remote;
    *remote = NULL;
    if (!r) return;
    sd_event_source_disable_unref(r->source);
    if (r->passed >= 0) close(r->passed);
    close(r->fd);
    free(r);
}

static void answer(struct remote *r, struct err result, const char *reason, const json_t *value)
{
    remote_done *done = r->done;
    const int fd = r->passed;
    r->done = NULL;
    r->passed = -1;
    done(r->ctx, result, reason, value, fd);
}

static void end(struct remote *r, struct err why)
{
    sd_event_source_disable_unref(r->source);
    r->source = NULL;
    if (r->done)
        answer(r, why, "the other vtpmd has ended, or its connection has", NULL);
    else
        r->ended(r->ctx);
}

/* What is no answer is its greeting. */
static void take_line(struct remote *r, const char *line, size_t size)
{
    json_t *message = json_loadb(line, size, JSON_REJECT_DUPLICATES, NULL);
    const json_t *error = json_object_get(message, "error");
    const json_t *value = json_object_get(message, "return");
    const json_int_t code = json_integer_value(json_object_get(error, "code"));
    if (!json_is_object(message))
        end(r, FAIL(PROTOCOL));
    else if (r->done && json_is_object(error) && code > 0 && code <= UINT16_MAX)
        answer(r, (struct err){(uint16_t)code}, json_string_value(json_object_get(error, "desc")), NULL);
    else if (r->done && json_is_object(value))
        answer(r, OK, NULL, value);
    else if (!json_object_get(message, "vtpm"))
        end(r, FAIL(PROTOCOL));
    json_decref(message);
}

/* As recv. One descriptor is taken. */
static ssize_t receive(struct remote *r)
{
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {r->input + r->size, sizeof r->input - r->size};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(r->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    const struct cmsghdr *head = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (!head || head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) return got;
    if (r->passed >= 0) close(r->passed);
    memcpy(&r->passed, CMSG_DATA(head), sizeof r->passed);
    return got;
}

/* One line in a turn: what is behind it waits, as the remote may be gone. */
static int on_readable(sd_event_source *source, int fd, uint32_t events, void *ctx)
{
    (void)source, (void)fd, (void)events;
    struct remote *r = ctx;
    char line[sizeof r->input];
    const char *newline = memchr(r->input, '\n', r->size);
    if (!newline) {
        const ssize_t got = r->size < sizeof r->input ? receive(r) : 0;
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
        if (got <= 0) {
            end(r, FAIL(PEER_CLOSED));
            return 0;
        }
        r->size += (size_t)got;
        newline = memchr(r->input, '\n', r->size);
    }
    if (!newline) return 0;
    const size_t size = (size_t)(newline - r->input);
    memcpy(line, r->input, size);
    r->size -= size + 1;
    memmove(r->input, newline + 1, r->size);
    const bool more = memchr(r->input, '\n', r->size) != NULL;
    (void)sd_event_source_set_io_events(r->source, EPOLLIN | (more ? EPOLLOUT : 0u));
    take_line(r, line, size);
    return 0;
}

struct err remote_open(sd_event *event, int fd, void (*ended)(void *ctx), void *ctx, struct remote **out_remote)
{
    struct remote *r = malloc(sizeof *r);
    if (!r) {
        close(fd);
        return FAIL(NO_MEMORY);
    }
    r->fd = fd;
    r->source = NULL;
    r->ended = ended;
    r->ctx = ctx;
    r->done = NULL;
    r->passed = -1;
    r->size = 0;
    if (sd_event_add_io(event, &r->source, fd, EPOLLIN, on_readable, r) < 0) {
        remote_close(&r);
        return FAIL(SYSTEM);
    }
    *out_remote = r;
    return OK;
}

struct err remote_ask(struct remote *remote, const char *verb, json_t *arguments, remote_done *done)
{
    json_t *request = json_pack("{s:s, s:o}", "execute", verb, "arguments", arguments);
    char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
    json_decref(request);
    ENSURE(text, NO_MEMORY);
    const size_t size = strlen(text) + 1;
    text[size - 1] = '\n';
    /* It is short, and nothing else is under way: what a socket does not take at once belongs to nobody who reads. */
    const ssize_t sent = send(remote->fd, text, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    free(text);
    ENSURE(remote->source && sent == (ssize_t)size, PEER_CLOSED);
    remote->done = done;
    return OK;
}
