/*
 * Starting the processes that serve instances, a few at a time.
 *
 * Guarantees: the directory of an instance's sockets belongs to the user of the instances and is open to nobody else; a
 * label that could leave the directory does not get here (the manager lets none exist, and spawn_check asks again).
 */
#pragma once

#include "untrusted/daemon/instance.h"

/* listen: an array of addresses. On an error *out_reason says what is wrong with it. ERR_BAD_VALUE, ERR_LABEL_BAD. */
struct err spawn_check(const struct supervisor *supervisor, const char *label, const json_t *listen,
                       const char **out_reason);
/* Before create, too: there is a protocol that only a TPM 2.0 is served by. ERR_TPM_FAMILY. */
struct err spawn_check_family(const json_t *listen, enum peer_family family, const char **out_reason);
/* A process beside the one that serves the instance, at once: it takes over, or ends. handed: the sockets that it is served
 * on besides, or NULL. ERR_SYSTEM, and errno says why. */
struct err spawn_incoming(const struct instance *instance, const json_t *listen, const struct handed *handed,
                          struct store_process *out_identity);
/* Where such a process listens if nobody says otherwise: a new reference. */
json_t *spawn_incoming_addresses(const struct instance *instance);
void spawn_enqueue(struct instance *instance);
/* It serves, or does not start: another one may. */
void spawn_finished(struct instance *instance);
void spawn_remove_directory(const struct instance *instance);
/* The addresses that an instance is served on: a new reference. */
json_t *spawn_addresses(const struct instance *instance);
