/*
 * Connections to our other processes: made by who may, and passed on.
 *
 * A message is one byte and a descriptor with it, over a SOCK_SEQPACKET pair: how a process that may connect gives
 * connections to one that may not, and how it is asked for them.
 *
 * Guarantees: a message is one byte with at most one descriptor, or it is refused and its descriptors are closed.
 */
#pragma once

#include "base/err.h"

/* passed: -1 for none; it stays the caller's. ERR_SYSTEM. */
struct err pass_send(int fd, uint8_t what, int passed);

/* Waits for a message. *out_passed is -1 if none came, else the caller's. ERR_PEER_CLOSED, ERR_PROTOCOL, ERR_SYSTEM. */
struct err pass_receive(int fd, uint8_t *out_what, int *out_passed);

/* Connects to a unix stream socket; the descriptor is the caller's and does not block. ERR_SYSTEM, ERR_TOO_LARGE. */
struct err pass_connect(const char *path, int *out_fd);
