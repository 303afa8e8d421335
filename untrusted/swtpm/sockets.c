#include "untrusted/swtpm/sockets.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 128

static struct err fail(const char *option, const char *what, struct explanation *why)
{
    return explain(why, FAIL(SYSTEM), "--%s %s: %s", option, what, strerror(errno));
}

/* --- unix --- */

static struct err find_owner(const char *option, const struct swtpm_channel *channel, uid_t *out_uid, gid_t *out_gid,
                             struct explanation *why)
{
    char *end = NULL;
    *out_uid = (uid_t)-1;
    *out_gid = (gid_t)-1;
    if (channel->user) {
        const struct passwd *user = getpwnam(channel->user);
        *out_uid = user ? user->pw_uid : (uid_t)strtoul(channel->user, &end, 10);
        if (!user && (*channel->user < '0' || *channel->user > '9' || *end))
            return explain(why, FAIL(USAGE), "--%s uid=%.40s: there is no such user", option, channel->user);
    }
    if (channel->group) {
        const struct group *group = getgrnam(channel->group);
        *out_gid = group ? group->gr_gid : (gid_t)strtoul(channel->group, &end, 10);
        if (!group && (*channel->group < '0' || *channel->group > '9' || *end))
            return explain(why, FAIL(USAGE), "--%s gid=%.40s: there is no such group", option, channel->group);
    }
    return OK;
}

static bool bind_path(int fd, const char *path, const struct sockaddr_un *address)
{
    struct stat status;
    if (lstat(path, &status) == 0 && S_ISSOCK(status.st_mode) && unlink(path) != 0) return false;
    const mode_t mask = umask(0177);
    const bool bound = bind(fd, (const struct sockaddr *)address, sizeof *address) == 0;
    (void)umask(mask);
    return bound;
}

static struct err open_unix(const char *option, const struct swtpm_channel *channel, struct swtpm_socket *out,
                            struct explanation *why)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat status;
    uid_t uid = 0;
    gid_t gid = 0;
    TRY(find_owner(option, channel, &uid, &gid, why));
    if (strlen(channel->path) >= sizeof address.sun_path)
        return explain(why, FAIL(USAGE), "--%s path=: longer than a unix socket's path can be", option);
    memcpy(address.sun_path, channel->path, strlen(channel->path));
    out->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (out->fd < 0 || !bind_path(out->fd, channel->path, &address)) return fail(option, channel->path, why);
    out->path = channel->path;
    const bool owned = (!channel->user && !channel->group) || lchown(channel->path, uid, gid) == 0;
    if (!owned || chmod(channel->path, channel->mode) != 0 || lstat(channel->path, &status) != 0 ||
        listen(out->fd, BACKLOG) != 0)
        return fail(option, channel->path, why);
    out->device = status.st_dev;
    out->inode = status.st_ino;
    return OK;
}

/* --- TCP --- */

union tcp_address {
    struct sockaddr generic;
    struct sockaddr_in four;
    struct sockaddr_in6 six;
};

static socklen_t address_of(const struct swtpm_channel *channel, union tcp_address *out)
{
    const char *text = channel->address ? channel->address : "127.0.0.1";
    *out = (union tcp_address){0};
    if (inet_pton(AF_INET, text, &out->four.sin_addr) == 1) {
        out->four.sin_family = AF_INET;
        out->four.sin_port = htons((uint16_t)channel->port);
        return sizeof out->four;
    }
    if (inet_pton(AF_INET6, text, &out->six.sin6_addr) != 1) return 0;
    out->six.sin6_family = AF_INET6;
    out->six.sin6_port = htons((uint16_t)channel->port);
    if (channel->interface) out->six.sin6_scope_id = if_nametoindex(channel->interface);
    return sizeof out->six;
}

static struct err open_tcp(const char *option, const struct swtpm_channel *channel, struct swtpm_socket *out,
                           struct explanation *why)
{
    const int yes = 1;
    union tcp_address address;
    const socklen_t size = address_of(channel, &address);
    if (size == 0)
        return explain(why, FAIL(USAGE), "--%s bindaddr=%.60s: no numeric address", option, channel->address);
    out->fd = socket(address.generic.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (out->fd < 0 || setsockopt(out->fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
        bind(out->fd, &address.generic, size) != 0 || listen(out->fd, BACKLOG) != 0)
        return fail(option, "port", why);
    return OK;
}

/* --- inherited --- */

static struct err take_inherited(const char *option, int fd, bool client, struct swtpm_socket *out,
                                 struct explanation *why)
{
    int listens = 0;
    socklen_t size = sizeof listens;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0) return fail(option, "fd", why);
    if (client == !!listens)
        return explain(why, FAIL(USAGE), "--%s: descriptor %d is a socket that is %s, not one that is %s", option, fd,
                       listens ? "listened with" : "connected", client ? "connected" : "listened with");
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    out->fd = fd;
    return OK;
}

/* --- the whole --- */

static struct err open_channel(const char *option, const struct swtpm_channel *channel, bool control,
                               struct swtpm_sockets *sockets, struct explanation *why)
{
    struct swtpm_socket *out = &sockets->list[sockets->count];
    const bool tcp = strcmp(channel->type, "tcp") == 0;
    const bool client = channel->client_fd >= 0 || (!control && tcp && channel->fd >= 0);
    const int fd = channel->client_fd >= 0 ? channel->client_fd : channel->fd;
    const char *const roles[2][2] = {{"data", "data-client"}, {"control", "control-client"}};
    *out = (struct swtpm_socket){.role = roles[control][client], .fd = -1};
    sockets->count++;
    if (fd >= 0) return take_inherited(option, fd, client, out, why);
    return tcp ? open_tcp(option, channel, out, why) : open_unix(option, channel, out, why);
}

struct err swtpm_sockets_open(const struct swtpm_options *options, struct swtpm_sockets *out_sockets,
                              struct explanation *why)
{
    *out_sockets = (struct swtpm_sockets){0};
    if (options->data.given) TRY(open_channel("server", &options->data, false, out_sockets, why));
    if (options->data_fd >= 0 && options->interface == SWTPM_SOCKET) {
        struct swtpm_socket *out = &out_sockets->list[out_sockets->count++];
        *out = (struct swtpm_socket){.role = "data-client", .fd = -1};
        TRY(take_inherited("fd", options->data_fd, true, out, why));
    }
    if (options->control.given) TRY(open_channel("ctrl", &options->control, true, out_sockets, why));
    return OK;
}

struct err swtpm_sockets_pair(struct swtpm_sockets *sockets, const char *role, int *out_fd, struct explanation *why)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return explain(why, FAIL(SYSTEM), "a pair of sockets: %s", strerror(errno));
    sockets->list[sockets->count++] = (struct swtpm_socket){.role = role, .fd = pair[1]};
    *out_fd = pair[0];
    return OK;
}

void swtpm_sockets_release_clients(struct swtpm_sockets *sockets)
{
    for (size_t i = 0; i < sockets->count; i++) {
        struct swtpm_socket *one = &sockets->list[i];
        if (!strstr(one->role, "-client") || one->fd < 0) continue;
        (void)close(one->fd);
        one->fd = -1;
    }
}

static bool is_ours(const struct swtpm_socket *socket)
{
    struct stat status;
    return lstat(socket->path, &status) == 0 && status.st_dev == socket->device && status.st_ino == socket->inode;
}

void swtpm_sockets_close(struct swtpm_sockets *sockets)
{
    for (size_t i = 0; i < sockets->count; i++) {
        struct swtpm_socket *one = &sockets->list[i];
        if (one->path && is_ours(one)) (void)unlink(one->path);
        if (one->fd >= 0) (void)close(one->fd);
    }
    *sockets = (struct swtpm_sockets){0};
}
