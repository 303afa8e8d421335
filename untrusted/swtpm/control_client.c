#include "untrusted/swtpm/control_client.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"

#define DEFAULT_HOST "127.0.0.1"
#define DEFAULT_PORT "6546"
#define HOST_MAX     256u

/* --- connecting --- */

struct err control_connect_unix(const char *path, int *out_fd, struct explanation *why)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return explain(why, FAIL(USAGE), "Path '%.60s' is too long for a Unix socket.", path);
    memcpy(address.sun_path, path, strlen(path));
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) == 0) {
        *out_fd = fd;
        return OK;
    }
    const int number = errno;
    if (fd >= 0) (void)close(fd);
    return explain(why, FAIL(SYSTEM), "Connect failed: %s", strerror(number));
}

static int connect_any(const struct addrinfo *list)
{
    int fd = -1;
    for (const struct addrinfo *one = list; one && fd < 0; one = one->ai_next) {
        fd = socket(one->ai_family, one->ai_socktype | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, one->ai_addr, one->ai_addrlen) == 0) continue;
        const int number = errno;
        (void)close(fd);
        errno = number;
        fd = -1;
    }
    return fd;
}

struct err control_connect_tcp(const char *address, int *out_fd, struct explanation *why)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    char host[HOST_MAX] = DEFAULT_HOST;
    const char *colon = strrchr(address, ':');
    const size_t size = colon ? (size_t)(colon - address) : strlen(address);
    const char *port = colon && colon[1] ? colon + 1 : DEFAULT_PORT;
    if (size >= sizeof host) return explain(why, FAIL(USAGE), "The host's name is too long.");
    if (size) (void)snprintf(host, sizeof host, "%.*s", (int)size, address);
    const int failed = getaddrinfo(host, port, &hints, &list);
    if (failed)
        return explain(why, FAIL(SYSTEM), "getaddrinfo failed on host '%.100s': %s", host, gai_strerror(failed));
    *out_fd = connect_any(list);
    const int number = errno;
    freeaddrinfo(list);
    if (*out_fd >= 0) return OK;
    return explain(why, FAIL(SYSTEM), "Could not connect to host '%.100s' on port '%s' using TCP socket: %s", host,
                   port, strerror(number));
}

/* --- asking --- */

static struct err send_all(int fd, struct span bytes)
{
    for (size_t done = 0; done < bytes.size;) {
        const ssize_t sent = send(fd, bytes.data + done, bytes.size - done, MSG_NOSIGNAL);
        ENSURE(sent >= 0 || errno == EINTR, SYSTEM);
        if (sent > 0) done += (size_t)sent;
    }
    return OK;
}

static struct err receive_all(int fd, void *out, size_t size)
{
    if (size == 0) return OK;
    const ssize_t got = recv(fd, out, size, MSG_WAITALL);
    if (got >= 0 && (size_t)got < size) errno = ECONNRESET;
    ENSURE(got == (ssize_t)size, SYSTEM);
    return OK;
}

static uint32_t word(const uint8_t bytes[4])
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* In one piece: a swtpm reads what one read gives it. */
static struct err send_request(int fd, enum control_number number, struct span body)
{
    const uint8_t head[4] = {0, 0, 0, (uint8_t)number};
    uint8_t *request = malloc(sizeof head + body.size);
    ENSURE(request, NO_MEMORY);
    memcpy(request, head, sizeof head);
    if (body.size) memcpy(request + sizeof head, body.data, body.size);
    const struct err err = send_all(fd, span_of(request, sizeof head + body.size));
    explicit_bzero(request, sizeof head + body.size);
    free(request);
    return err;
}

struct err control_ask(int fd, enum control_number number, struct span body, uint32_t *out_result, void *out,
                       size_t answer_size, bool always)
{
    uint8_t result[4];
    TRY(send_request(fd, number, body));
    TRY(receive_all(fd, result, sizeof result));
    *out_result = word(result);
    return *out_result && !always ? OK : receive_all(fd, out, answer_size);
}

struct err control_info(int fd, uint64_t flags, uint32_t *out_result, char out_text[CONTROL_TEXT_MAX])
{
    uint32_t total = 1;
    uint32_t done = 0;
    while (done < total) {
        uint8_t bytes[16];
        uint8_t sizes[8];
        struct writer w = writer_of(bytes, sizeof bytes);
        TRY(write_be32(&w, (uint32_t)(flags >> 32)));
        TRY(write_be32(&w, (uint32_t)flags));
        TRY(write_be32(&w, done));
        TRY(write_be32(&w, 0));
        TRY(control_ask(fd, CONTROL_GET_INFO, writer_span(&w), out_result, sizes, sizeof sizes, false));
        if (*out_result) return OK;
        total = word(sizes);
        const uint32_t size = word(sizes + 4);
        ENSURE(total < CONTROL_TEXT_MAX && size > 0 && size <= total - done, TOO_LARGE);
        TRY(receive_all(fd, out_text + done, size));
        done += size;
    }
    out_text[done] = '\0';
    return OK;
}
