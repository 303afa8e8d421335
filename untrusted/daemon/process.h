/*
 * The processes that serve instances: started, recognised again, and seen to end.
 *
 * Guarantees: a process is known by boot, number and start time, so another one that got its number later is not taken
 * for it; its end is noticed whether vtpmd started it or not, and only once. A process that vtpmd starts gets standard
 * input and output from /dev/null, vtpmd's standard error, no descriptor but those that it is given, and a session of its
 * own.
 */
#pragma once

#include <stdbool.h>
#include <systemd/sd-event.h>

#include "untrusted/store/store.h"

struct process;

/* Of the host's boot. ERR_SYSTEM. */
struct err process_boot_id(char out_boot_id[37]);
bool process_same(const struct store_process *a, const struct store_process *b);
/* What /proc says of pid now. ERR_NO_INSTANCE: there is no such process; ERR_SYSTEM. */
struct err process_identify(pid_t pid, struct store_process *out_identity);

#define PROCESS_FIRST_FD  3 /* the program's, of those that it is given */
/* From here on are those that it is given: they must not be among the program's. */
#define PROCESS_LOWEST_FD 64

/* argv: of the program, argv[0] its path. fds: it has them from PROCESS_FIRST_FD on. ERR_SYSTEM, and errno says why. */
struct err process_spawn(char *const argv[], const int *fds, size_t count, struct store_process *out_identity);

/* Calls ended once, when the process is gone. ERR_NO_INSTANCE: it is gone already; ERR_SYSTEM, ERR_NO_MEMORY. */
struct err process_watch(sd_event *event, const struct store_process *identity, void (*ended)(void *ctx), void *ctx,
                         struct process **out_process);
/* Sends the signal to that very process. */
void process_signal(const struct process *process, int signal);
void process_close(struct process **process);
