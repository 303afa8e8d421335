/*
 * vtpmctl as the front-end of one start of an instance (K2, link/link.h), to give its enclave a state; blocking.
 *
 * Guarantees: the state leaves encrypted for the enclave that vtpmd names, after that enclave has proved itself, and is
 * imported when ctl_enclave_import returns success, not before: durable and recorded. It does not guard against a vtpmd
 * that names an enclave of its own making; who gives it a TPM's keys trusts it for that.
 */
#pragma once

#include "base/id.h"
#include "link/link.h"
#include "untrusted/cli/explain.h"
#include "untrusted/wire/wire.h"

struct ctl_enclave {
    struct crypto crypto;
    struct x25519_key own;
    struct link link;
    const char *label;
    int daemon_fd, instance_fd; /* -1: none */
    struct wire_stream *daemon, *instance;
    unsigned seconds; /* that each answer may take */
};

/*
 * Registers with vtpmd, whose admin socket is given, and links with the instance, which waits for a front-end.
 * ctl_enclave_close has to follow, after an error too. ERR_SYSTEM, ERR_TIMEOUT, ERR_PEER_CLOSED, ERR_PROTOCOL, ERR_CRYPTO,
 * what vtpmd refuses with, and those of a link.
 */
struct err ctl_enclave_open(const char *admin_socket, const char *label, const struct instance_id *id, unsigned seconds,
                            struct ctl_enclave *out_enclave, struct explanation *why);

/* permanent: of libtpms. The same errors, and those of the enclave (K2_IMPORT). */
struct err ctl_enclave_import(struct ctl_enclave *enclave, struct span permanent, struct explanation *why);

void ctl_enclave_close(struct ctl_enclave *enclave);
