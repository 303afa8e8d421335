/* Addresses to listen on: unix:PATH and tcp:[ADDR:]PORT, ADDR being numeric, in brackets if it is IPv6. */
#pragma once

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#include "base/err.h"

struct address {
    union {
        struct sockaddr generic;
        struct sockaddr_un local;
        struct sockaddr_storage storage;
    } socket;
    socklen_t size;
};

/* Without ADDR a TCP address is 127.0.0.1. ERR_BAD_VALUE, ERR_TOO_LARGE for a path that no socket can have. */
struct err address_parse(const char *text, struct address *out_address);

/* The address beside it: the port + 1, or the path with suffix. ERR_TOO_LARGE, ERR_BAD_VALUE for port 65535. */
struct err address_beside(const struct address *address, const char *suffix, struct address *out_address);

#define ADDRESS_TEXT_SIZE 120u /* of the longest path, and of any TCP address */

/* As address_parse takes it, for a line in the log. */
void address_format(const struct address *address, char out_text[ADDRESS_TEXT_SIZE]);

/*
 * Listens, without blocking. A unix socket gets mode 0600 and the owner uid:gid; one that nobody listens on any more
 * is replaced, one that is served is not. An address in use is waited for, ten seconds at most: whoever had it may have
 * been killed just now, or be a process of the same instance that vtpmd tells to end when it connects the next time.
 * ERR_SYSTEM, and errno says why.
 */
struct err address_listen(const struct address *address, uid_t uid, gid_t gid, int *out_fd);

/* Removes the file of a unix socket, if the process may. */
void address_remove(const struct address *address);
