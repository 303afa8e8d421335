/*
 * admin.sock: the JSON API of docs/admin-api.md.
 *
 * Guarantees: requests of one connection are answered in their order, each once, a changing one not before the change
 * is durable; a client that floods, stalls or reads nothing holds up no other; each act is logged with who asked for
 * it. Who may connect is the socket's mode and group.
 */
#pragma once

#include "untrusted/daemon/program.h"
#include "untrusted/daemon/supervisor.h"

struct admin;

struct admin_options {
    struct supervisor *supervisor;
    int listen_fd; /* taken over */
    struct program_device device;
};

/* ERR_NO_MEMORY, ERR_SYSTEM. */
struct err admin_open(const struct admin_options *options, struct admin **out_admin);
/* A line for all who subscribed. */
void admin_tell(struct admin *admin, const char *line, size_t size);
/* After supervisor_end: nothing is under way any more. */
void admin_close(struct admin **admin);
