#include "untrusted/sgx/cpu_client.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"
#include "untrusted/sgx/cpu_wire.h"
#include "untrusted/sgx/sealed.h"

static void close_fd(const int *fd)
{
    if (*fd >= 0) close(*fd);
}

struct err cpu_connect(const char *path, int *out_fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    ENSURE(strlen(path) < sizeof address.sun_path, TOO_LARGE);
    memcpy(address.sun_path, path, strlen(path));
    int fd DEFER(close_fd) = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    ENSURE(fd >= 0, SYSTEM);
    struct timeval timeout = {.tv_sec = CPU_TIMEOUT_SECONDS};
    ENSURE(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) == 0, SYSTEM);
    ENSURE(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) == 0, SYSTEM);
    ENSURE(connect(fd, (struct sockaddr *)&address, sizeof address) == 0, CPU_UNREACHABLE);
    *out_fd = fd;
    fd = -1;
    return OK;
}

/* Up to two parts of a body, sent from where they lie. */
struct request {
    enum cpu_message message;
    struct iovec body[2];
    int fd; /* goes along; -1: none */
};

static struct err request_send(int cpu_fd, const struct request *request)
{
    uint8_t header[CPU_HEADER_SIZE];
    struct writer w = writer_of(header, sizeof header);
    TRY(write_u32(&w, request->message));
    struct iovec parts[3] = {{.iov_base = header, .iov_len = sizeof header}, request->body[0], request->body[1]};
    _Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(sizeof(int))] = {0};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 3};
    if (request->fd >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(rights), &request->fd, sizeof(int));
    }
    ssize_t sent = 0;
    do
        sent = sendmsg(cpu_fd, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    ENSURE(sent > 0, CPU_UNREACHABLE);
    return OK;
}

static int message_descriptor(struct msghdr *message)
{
    int fd = -1;
    struct cmsghdr *rights = CMSG_FIRSTHDR(message);
    if (rights && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS &&
        rights->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(&fd, CMSG_DATA(rights), sizeof fd);
    return fd;
}

/* body is where the reply's body goes; out_size is what of it came. out_fd may be NULL. */
static struct err reply_receive(int cpu_fd, const struct iovec body[2], size_t *out_size, int *out_fd)
{
    uint8_t header[CPU_HEADER_SIZE];
    struct iovec parts[3] = {{.iov_base = header, .iov_len = sizeof header}, body[0], body[1]};
    _Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(sizeof(int))] = {0};
    struct msghdr message = {
        .msg_iov = parts, .msg_iovlen = 3, .msg_control = control, .msg_controllen = CMSG_LEN(sizeof(int))};
    ssize_t received = 0;
    do
        received = recvmsg(cpu_fd, &message, MSG_CMSG_CLOEXEC);
    while (received < 0 && errno == EINTR);
    int fd DEFER(close_fd) = received >= 0 ? message_descriptor(&message) : -1;
    ENSURE(received >= (ssize_t)sizeof header && !(message.msg_flags & MSG_TRUNC), CPU_UNREACHABLE);
    struct reader r = reader_of(span_of(header, sizeof header));
    uint32_t code = 0;
    TRY(read_u32(&r, &code));
    if (code) return (struct err){(uint16_t)code};
    *out_size = (size_t)received - sizeof header;
    if (out_fd) {
        *out_fd = fd;
        fd = -1;
    }
    return OK;
}

static const struct iovec no_body[2];

static struct err exchange(int cpu_fd, const struct request *request)
{
    size_t size = 0;
    TRY(request_send(cpu_fd, request));
    TRY(reply_receive(cpu_fd, no_body, &size, NULL));
    return OK;
}

struct err cpu_image(int cpu_fd, int file_fd, int *out_sealed_fd)
{
    struct request request = {.message = CPU_IMAGE, .fd = file_fd};
    int sealed_fd DEFER(close_fd) = -1;
    size_t size = 0;
    TRY(request_send(cpu_fd, &request));
    TRY(reply_receive(cpu_fd, no_body, &size, &sealed_fd));
    ENSURE(sealed_fd >= 0, CPU_UNREACHABLE);
    return sealed_reopen(sealed_fd, out_sealed_fd);
}

static struct iovec part(const void *data, size_t size)
{
    return (struct iovec){.iov_base = (void *)(uintptr_t)data, .iov_len = size};
}

struct err cpu_create(int cpu_fd, const struct sgx_secs *secs, int sealed_fd)
{
    struct request request = {.message = CPU_CREATE, .body = {part(secs, sizeof *secs)}, .fd = sealed_fd};
    return exchange(cpu_fd, &request);
}

struct err cpu_add_pages(int cpu_fd, const struct device_pages *pages)
{
    uint8_t body[CPU_ADD_PAGES_SIZE];
    struct writer w = writer_of(body, sizeof body);
    TRY(write_u64(&w, pages->offset));
    TRY(write_u64(&w, pages->length));
    TRY(write_u64(&w, pages->file_offset));
    TRY(write_u32(&w, pages->measured));
    TRY(write_u32(&w, 0));
    TRY(write_u64(&w, pages->secinfo.FLAGS));
    TRY(write_bytes(&w, pages->secinfo.reserved, sizeof pages->secinfo.reserved));
    struct request request = {.message = CPU_ADD_PAGES, .body = {part(body, w.size)}, .fd = -1};
    return exchange(cpu_fd, &request);
}

struct err cpu_init(int cpu_fd, const struct sgx_sigstruct *sigstruct)
{
    struct request request = {.message = CPU_INIT, .body = {part(sigstruct, sizeof *sigstruct)}, .fd = -1};
    return exchange(cpu_fd, &request);
}

struct err cpu_ereport(int cpu_fd, const void *targetinfo, const void *reportdata, void *out_report)
{
    struct request request = {
        .message = CPU_EREPORT,
        .body = {part(targetinfo, sizeof(struct sgx_targetinfo)), part(reportdata, SGX_REPORTDATA_SIZE)},
        .fd = -1,
    };
    const struct iovec reply[2] = {part(out_report, SGX_REPORT_SIZE)};
    size_t size = 0;
    TRY(request_send(cpu_fd, &request));
    TRY(reply_receive(cpu_fd, reply, &size, NULL));
    ENSURE(size == SGX_REPORT_SIZE, CPU_UNREACHABLE);
    return OK;
}

struct err cpu_egetkey(int cpu_fd, const void *keyrequest, uint32_t *out_rax, void *out_key)
{
    struct request request = {
        .message = CPU_EGETKEY, .body = {part(keyrequest, sizeof(struct sgx_keyrequest))}, .fd = -1};
    uint8_t rax[4];
    const struct iovec reply[2] = {part(rax, sizeof rax), part(out_key, SGX_KEY_SIZE)};
    size_t size = 0;
    TRY(request_send(cpu_fd, &request));
    TRY(reply_receive(cpu_fd, reply, &size, NULL));
    ENSURE(size >= sizeof rax, CPU_UNREACHABLE);
    struct reader r = reader_of(span_of(rax, sizeof rax));
    TRY(read_u32(&r, out_rax));
    ENSURE(size == (*out_rax ? sizeof rax : sizeof rax + SGX_KEY_SIZE), CPU_UNREACHABLE);
    return OK;
}
