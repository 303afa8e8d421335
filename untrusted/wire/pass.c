#include "untrusted/wire/pass.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

union control {
    struct cmsghdr alignment;
    char space[CMSG_SPACE(sizeof(int))];
};

struct err pass_send(int fd, uint8_t what, int passed)
{
    union control control = {0};
    struct iovec part = {&what, sizeof what};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (passed >= 0) {
        header.msg_control = &control;
        header.msg_controllen = sizeof control;
        struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof passed);
        memcpy(CMSG_DATA(rights), &passed, sizeof passed);
    }
    ENSURE(sendmsg(fd, &header, MSG_NOSIGNAL) == (ssize_t)sizeof what, SYSTEM);
    return OK;
}

/* The kernel closes what does not fit into control and says so with MSG_CTRUNC. */
struct err pass_receive(int fd, uint8_t *out_what, int *out_passed)
{
    uint8_t bytes[2];
    union control control = {0};
    struct iovec part = {bytes, sizeof bytes};
    struct msghdr header = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t size = 0;
    do
        size = recvmsg(fd, &header, MSG_CMSG_CLOEXEC);
    while (size < 0 && errno == EINTR);
    ENSURE(size != 0 && !(size < 0 && errno == ECONNRESET), PEER_CLOSED);
    ENSURE(size > 0, SYSTEM);
    int passed = -1;
    struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
    if (rights && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS &&
        rights->cmsg_len == CMSG_LEN(sizeof passed))
        memcpy(&passed, CMSG_DATA(rights), sizeof passed);
    if (size != 1 || (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
        if (passed >= 0) close(passed);
        return FAIL(PROTOCOL);
    }
    *out_what = bytes[0];
    *out_passed = passed;
    return OK;
}

struct err pass_connect(const char *path, int *out_fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    ENSURE(strlen(path) < sizeof address.sun_path, TOO_LARGE);
    memcpy(address.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    ENSURE(fd >= 0, SYSTEM);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return FAIL(SYSTEM);
    }
    *out_fd = fd;
    return OK;
}
