/*
 * vtpm-cpu's loop: connections, and the table of messages (untrusted/sgx/cpu_wire.h).
 *
 * Every client is hostile. Guarantees: a message is answered only in a state that its row of the table names and with
 * exactly the row's size; EREPORT and EGETKEY are answered for the identity that was measured on the same connection
 * and for nothing else; one client's errors end that client's connection only.
 */
#pragma once

#include "base/err.h"
#include "untrusted/cpu/processor.h"
#include "untrusted/sgx/cpu_wire.h"

#define SERVER_CONNECTIONS_MAX 1024u

/* What lies in secret memory. */
struct server_secrets {
    struct processor processor;
    uint8_t device_secret[PROCESSOR_SECRET_SIZE]; /* wiped once the processor has started */
    uint8_t reply[CPU_REPLY_MAX];
};

struct server;

/* Takes listen_fd over when it succeeds. secrets stay the caller's. ERR_SYSTEM. */
struct err server_open(int listen_fd, struct server_secrets *secrets, struct server **out_server);

/* Serves until SIGTERM or SIGINT, which must be blocked. ERR_SYSTEM. */
struct err server_run(struct server *server);

void server_close(struct server **server);
