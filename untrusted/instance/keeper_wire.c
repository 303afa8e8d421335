#include "untrusted/instance/keeper_wire.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"

#define MESSAGE_MAX (1u + 2u * FRONT_CONNECTIONS_MAX)

union control {
    struct cmsghdr alignment;
    char space[CMSG_SPACE(FRONT_CONNECTIONS_MAX * sizeof(int))];
};

static struct err send_message(int fd, const struct writer *w, const int *fds, size_t count)
{
    union control control = {0};
    struct iovec part = {w->start, w->size};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (count) {
        header.msg_control = &control;
        header.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(rights), fds, count * sizeof(int));
    }
    ENSURE(sendmsg(fd, &header, MSG_NOSIGNAL) == (ssize_t)w->size, SYSTEM);
    return OK;
}

static struct err send_kind(int fd, enum keeper_message_kind kind)
{
    uint8_t byte = (uint8_t)kind;
    struct writer w = writer_of(&byte, sizeof byte);
    w.size = sizeof byte;
    return send_message(fd, &w, NULL, 0);
}

struct err keeper_send_ready(int fd)
{
    return send_kind(fd, KEEPER_READY);
}

struct err keeper_send_disconnected(int fd)
{
    return send_kind(fd, KEEPER_DISCONNECTED);
}

struct err keeper_send_hand_over(int fd, const struct front_session *sessions, size_t count)
{
    uint8_t bytes[MESSAGE_MAX];
    int fds[FRONT_CONNECTIONS_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);
    ENSURE(count <= FRONT_CONNECTIONS_MAX, TOO_LARGE);
    TRY(write_u8(&w, KEEPER_HAND_OVER));
    for (size_t i = 0; i < count; i++) {
        TRY(write_u8(&w, sessions[i].endpoint));
        TRY(write_u8(&w, sessions[i].waits));
        fds[i] = sessions[i].fd;
    }
    return send_message(fd, &w, fds, count);
}

static struct err parse_hand_over(struct reader *r, const int *fds, size_t fd_count, struct keeper_message *message)
{
    ENSURE(r->left == 2 * fd_count, BAD_VALUE);
    message->kind = KEEPER_HAND_OVER;
    message->session_count = fd_count;
    for (size_t i = 0; i < fd_count; i++) {
        uint8_t waits = 0;
        TRY(read_u8(r, &message->sessions[i].endpoint));
        TRY(read_u8(r, &waits));
        ENSURE(waits <= 1, BAD_VALUE);
        message->sessions[i].waits = waits == 1;
        message->sessions[i].fd = fds[i];
    }
    return OK;
}

static struct err parse(struct span bytes, const int *fds, size_t fd_count, struct keeper_message *message)
{
    struct reader r = reader_of(bytes);
    uint8_t kind = 0;
    TRY(read_u8(&r, &kind));
    if (kind == KEEPER_HAND_OVER) {
        TRY(parse_hand_over(&r, fds, fd_count, message));
    } else {
        ENSURE((kind == KEEPER_READY || kind == KEEPER_DISCONNECTED) && fd_count == 0, BAD_VALUE);
        message->kind = (enum keeper_message_kind)kind;
    }
    return reader_end(&r);
}

static size_t take_descriptors(struct msghdr *header, int fds[FRONT_CONNECTIONS_MAX])
{
    struct cmsghdr *rights = CMSG_FIRSTHDR(header);
    if (!rights || rights->cmsg_level != SOL_SOCKET || rights->cmsg_type != SCM_RIGHTS) return 0;
    size_t count = (rights->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(fds, CMSG_DATA(rights), count * sizeof(int));
    return count;
}

struct err keeper_receive(int fd, struct keeper_message *out_message)
{
    uint8_t bytes[MESSAGE_MAX + 1];
    int fds[FRONT_CONNECTIONS_MAX];
    union control control = {0};
    struct iovec part = {bytes, sizeof bytes};
    struct msghdr header = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t size = 0;
    do
        size = recvmsg(fd, &header, MSG_CMSG_CLOEXEC);
    while (size < 0 && errno == EINTR);
    if (size == 0 || (size < 0 && errno == ECONNRESET)) {
        *out_message = (struct keeper_message){.kind = KEEPER_GONE};
        return OK;
    }
    ENSURE(size > 0, SYSTEM);
    size_t fd_count = take_descriptors(&header, fds);
    struct keeper_message message = {0};
    struct err result = header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)
                            ? FAIL(BAD_VALUE)
                            : parse(span_of(bytes, (size_t)size), fds, fd_count, &message);
    if (result.code) {
        for (size_t i = 0; i < fd_count; i++)
            close(fds[i]);
        return result;
    }
    *out_message = message;
    return OK;
}
