#include "untrusted/front/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BACKLOG         128
#define BIND_TRIES      200
#define BIND_PAUSE_USEC 50000

static struct err parse_port(const char *text, in_port_t *out_port)
{
    ENSURE(*text >= '1' && *text <= '9', BAD_VALUE);
    char *end = NULL;
    unsigned long port = strtoul(text, &end, 10);
    ENSURE(*end == '\0' && port <= UINT16_MAX, BAD_VALUE);
    *out_port = htons((uint16_t)port);
    return OK;
}

static struct err parse_unix(const char *path, struct address *out_address)
{
    struct address address = {.socket.local.sun_family = AF_UNIX};
    size_t size = strlen(path);
    ENSURE(size > 0, BAD_VALUE);
    ENSURE(size < sizeof address.socket.local.sun_path, TOO_LARGE);
    memcpy(address.socket.local.sun_path, path, size + 1);
    address.size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size + 1);
    *out_address = address;
    return OK;
}

static struct err parse_host(char *host, in_port_t port, struct address *out_address)
{
    struct address address = {0};
    size_t size = strlen(host);
    struct sockaddr_in *four = (struct sockaddr_in *)&address.socket.storage;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)&address.socket.storage;
    if (size > 2 && host[0] == '[' && host[size - 1] == ']') {
        host[size - 1] = '\0';
        ENSURE(inet_pton(AF_INET6, host + 1, &six->sin6_addr) == 1, BAD_VALUE);
        six->sin6_family = AF_INET6;
        six->sin6_port = port;
        address.size = sizeof *six;
    } else {
        ENSURE(inet_pton(AF_INET, host, &four->sin_addr) == 1, BAD_VALUE);
        four->sin_family = AF_INET;
        four->sin_port = port;
        address.size = sizeof *four;
    }
    *out_address = address;
    return OK;
}

static struct err parse_tcp(const char *text, struct address *out_address)
{
    char host[INET6_ADDRSTRLEN + 2] = "127.0.0.1";
    const char *colon = strrchr(text, ':');
    if (colon) {
        size_t size = (size_t)(colon - text);
        ENSURE(size > 0 && size < sizeof host, BAD_VALUE);
        memcpy(host, text, size);
        host[size] = '\0';
    }
    in_port_t port = 0;
    TRY(parse_port(colon ? colon + 1 : text, &port));
    return parse_host(host, port, out_address);
}

struct err address_parse(const char *text, struct address *out_address)
{
    if (strncmp(text, "unix:", 5) == 0) return parse_unix(text + 5, out_address);
    if (strncmp(text, "tcp:", 4) == 0) return parse_tcp(text + 4, out_address);
    return FAIL(BAD_VALUE);
}

static struct err next_port(in_port_t *port)
{
    uint16_t number = ntohs(*port);
    ENSURE(number < UINT16_MAX, BAD_VALUE);
    *port = htons((uint16_t)(number + 1));
    return OK;
}

struct err address_beside(const struct address *address, const char *suffix, struct address *out_address)
{
    struct address beside = *address;
    if (address->socket.generic.sa_family == AF_UNIX) {
        char path[2 * sizeof beside.socket.local.sun_path];
        size_t size = strlen(address->socket.local.sun_path);
        ENSURE(size + strlen(suffix) < sizeof path, TOO_LARGE);
        memcpy(path, address->socket.local.sun_path, size);
        strcpy(path + size, suffix);
        return parse_unix(path, out_address);
    }
    if (address->socket.generic.sa_family == AF_INET)
        TRY(next_port(&((struct sockaddr_in *)&beside.socket.storage)->sin_port));
    else
        TRY(next_port(&((struct sockaddr_in6 *)&beside.socket.storage)->sin6_port));
    *out_address = beside;
    return OK;
}

void address_format(const struct address *address, char out_text[ADDRESS_TEXT_SIZE])
{
    const bool is_6 = address->socket.generic.sa_family == AF_INET6;
    char host[INET6_ADDRSTRLEN] = "";
    char port[8] = "";
    if (address->socket.generic.sa_family == AF_UNIX) {
        (void)snprintf(out_text, ADDRESS_TEXT_SIZE, "unix:%s", address->socket.local.sun_path);
        return;
    }
    (void)getnameinfo(&address->socket.generic, address->size, host, sizeof host, port, sizeof port,
                      NI_NUMERICHOST | NI_NUMERICSERV);
    (void)snprintf(out_text, ADDRESS_TEXT_SIZE, "tcp:%s%s%s:%s", is_6 ? "[" : "", host, is_6 ? "]" : "", port);
}

/* A socket file that refuses connections was left behind by a process that is gone. */
static bool is_left_behind(const struct address *address)
{
    struct stat status;
    if (lstat(address->socket.local.sun_path, &status) != 0 || !S_ISSOCK(status.st_mode)) return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return false;
    bool refused = connect(fd, &address->socket.generic, address->size) != 0 && errno == ECONNREFUSED;
    close(fd);
    return refused;
}

static bool bind_unix(int fd, const struct address *address, uid_t uid, gid_t gid)
{
    const char *path = address->socket.local.sun_path;
    if (is_left_behind(address) && unlink(path) != 0) return false;
    mode_t mask = umask(0177);
    bool bound = bind(fd, &address->socket.generic, address->size) == 0;
    umask(mask);
    return bound && lchown(path, uid, gid) == 0;
}

static bool bind_tcp(int fd, const struct address *address)
{
    int yes = 1;
    return setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0 &&
           bind(fd, &address->socket.generic, address->size) == 0;
}

static struct err try_to_listen(const struct address *address, uid_t uid, gid_t gid, int *out_fd)
{
    int family = address->socket.generic.sa_family;
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    ENSURE(fd >= 0, SYSTEM);
    bool bound = family == AF_UNIX ? bind_unix(fd, address, uid, gid) : bind_tcp(fd, address);
    if (!bound || listen(fd, BACKLOG) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return FAIL(SYSTEM);
    }
    *out_fd = fd;
    return OK;
}

struct err address_listen(const struct address *address, uid_t uid, gid_t gid, int *out_fd)
{
    struct err result = try_to_listen(address, uid, gid, out_fd);
    for (int tries = BIND_TRIES; result.code && errno == EADDRINUSE && tries > 0; tries--) {
        usleep(BIND_PAUSE_USEC);
        result = try_to_listen(address, uid, gid, out_fd);
    }
    return result;
}

void address_remove(const struct address *address)
{
    if (address->socket.generic.sa_family == AF_UNIX) unlink(address->socket.local.sun_path);
}
