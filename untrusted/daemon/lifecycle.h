/*
 * The life of an instance on this host, for those parts of the supervisor that see something of it.
 *
 * Guarantees: no holder is declared dead on vtpmd's own account unless its process is known to be gone (its connection
 * is closed, and the process ended, began anew with a blank enclave, or ran before this boot), and after that the TPM is
 * rebuilt as one that its machine has to reset, unless the host was booted since. Every change of the ledger is the
 * manager's; this decides when to ask for one.
 *
 *   lifecycle.c   what the others share: timers, the act under way, the manager's answers
 *   start.c       start, attach, rebuild
 *   stop.c        stop, suspend, delete, declare dead, and what was lost
 *   change.c      what an owner changes of one that is stopped
 */
#pragma once

#include "untrusted/daemon/manager.h"
#include "untrusted/daemon/supervisor.h"

/* --- what happened --- */

void lifecycle_greeted(struct instance *instance);        /* a blank enclave is connected */
void lifecycle_started(struct instance *instance);        /* it serves */
void lifecycle_resumed(struct instance *instance);        /* it serves, as it did before */
void lifecycle_taken_over(struct instance *instance);     /* it serves, by the process that was incoming */
void lifecycle_create_enclave(struct instance *instance); /* the manager asks for its enclave */
void lifecycle_spawned(struct instance *instance);        /* its process was started */
void lifecycle_receipt(struct instance *instance, struct span receipt);
void lifecycle_stop_refused(struct instance *instance, struct err why); /* it cannot be suspended */
void lifecycle_gone(struct instance *instance);                         /* neither connection nor process */
void lifecycle_refused(struct instance *instance, struct err why);
void lifecycle_start_failed(struct instance *instance, struct err why, const char *reason);
void lifecycle_adopt(struct instance *instance); /* at vtpmd's start */

/* takes more over */
void lifecycle_event(struct instance *instance, const char *name, json_t *more);

/* --- between the three files --- */

#define USEC_PER_SEC UINT64_C(1000000)

/* handler NULL: none. */
void lifecycle_set_timer(struct instance *instance, uint64_t usec, sd_event_time_handler_t handler);
void lifecycle_set_reason(struct instance *instance, const char *reason);
void lifecycle_end_process(struct instance *instance, int signal);

void lifecycle_refuse(struct instance *instance, struct err result, const char *reason, act_done *done, void *ctx);
/* If somebody waits, he is answered in time. */
void lifecycle_begin(struct instance *instance, const struct act *act);
void lifecycle_finish(struct instance *instance, struct err result, const char *reason);
/* START or RESTART is under way. */
bool lifecycle_is_starting(const struct instance *instance);

/* What the manager says about the row; false, and the act has failed, if it refused. */
bool lifecycle_take_row(struct instance *instance, struct err result, struct reader *results);
/* Asks for a verb whose only argument is the id. */
struct err lifecycle_ask(struct instance *instance, enum manager_verb verb, manager_done *done);
void lifecycle_declare_dead(struct instance *instance);

/* Its holder is gone for good: the process ended, or began anew and has a blank enclave. */
bool lifecycle_holder_is_gone(const struct instance *instance);
/* True if no process stands in the way of the act; else the act goes on (lifecycle_go_on) once it has ended. */
bool lifecycle_is_free(struct instance *instance);
void lifecycle_go_on(struct instance *instance);
void lifecycle_schedule_rebuild(struct instance *instance);

/* start.c */
void start_begin(struct instance *instance);
/* change.c: REVERT or SET_OWNER is under way, and no process is in the way */
void change_begin(struct instance *instance);
/* stop.c */
/* There is no holder any more, and no process: STOP has come to its end. */
void stop_done(struct instance *instance);
void stop_end_holder(struct instance *instance);
void stop_ask_delete(struct instance *instance);
