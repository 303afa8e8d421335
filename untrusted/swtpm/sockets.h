/*
 * The sockets that a command line of swtpm asks for: opened with the rights of whoever called, handed to vtpmd.
 *
 * Guarantees: a unix socket has the mode and the owner that were asked for before anybody can connect to it; a path that
 * is no socket is not removed. What was opened by name is removed again, unless somebody else has put another in its place.
 */
#pragma once

#include <stddef.h>
#include <sys/stat.h>

#include "untrusted/swtpm/options.h"

#define SWTPM_SOCKETS_MAX 3u

struct swtpm_socket {
    const char *role; /* data, control, data-client or control-client, as the admin API has them */
    int fd;
    const char *path; /* NULL: it has none, or not of ours */
    dev_t device;
    ino_t inode;
};

struct swtpm_sockets {
    size_t count;
    struct swtpm_socket list[SWTPM_SOCKETS_MAX];
};

/* ERR_SYSTEM, ERR_USAGE. swtpm_sockets_close in any case. */
struct err swtpm_sockets_open(const struct swtpm_options *options, struct swtpm_sockets *out_sockets,
                              struct explanation *why);
/* A connected pair: one end with the role, the other the caller's. ERR_SYSTEM. */
struct err swtpm_sockets_pair(struct swtpm_sockets *sockets, const char *role, int *out_fd, struct explanation *why);
/* Those of clients: whoever serves has them. */
void swtpm_sockets_release_clients(struct swtpm_sockets *sockets);
void swtpm_sockets_close(struct swtpm_sockets *sockets);
