/*
 * The instance that a swtpm stands for, as vtpmd sees it: made, started on the sockets that this process opened, held by
 * the connection to vtpmd until its end.
 *
 * Guarantees: a new instance is made for a directory that names none, and for no other; a vtpmd that is started anew is
 * told again who holds the instance. What vtpmd is not asked in time it decides by itself: it stops the instance.
 */
#pragma once

#include "untrusted/cli/ctl_client.h"
#include "untrusted/swtpm/options.h"
#include "untrusted/swtpm/place.h"
#include "untrusted/swtpm/sockets.h"

#define HELD_SOCKET_VARIABLE    "VTPM_SOCKET"
#define HELD_FROM_VARIABLE      "VTPM_INCOMING_FROM"
#define HELD_SNAPSHOTS_VARIABLE "VTPM_SNAPSHOTS"

struct held {
    struct ctl ctl;
    const char *socket; /* vtpmd's */
    int there;          /* a connection to the vtpmd that the TPM comes from; -1: to this one */
    json_t *what;       /* the argument "swtpm" */
    struct swtpm_sockets *sockets;
    json_int_t incoming; /* the process that is to take the TPM over; 0: none, or it has */
    json_int_t before;   /* the start that it takes over from */
    char id[ID_TEXT_SIZE];
    char label[PLACE_LABEL_MAX];
};

/* The path of vtpmd's socket. */
const char *held_socket(void);

/* Connects. held_close in any case. */
struct err held_open(struct held *held, struct explanation *why);
/* Besides to the vtpmd that HELD_FROM_VARIABLE names, if there is one: what is started takes over from a process there. */
struct err held_open_from(struct held *held, struct explanation *why);
void held_close(struct held *held);

/* The instance of the place; made if the place names none. out_made: it was. One that is to come from another vtpmd is not
 * looked for. ERR_NO_INSTANCE, ERR_DELETED and vtpmd's. */
struct err held_find(struct held *held, struct place *place, bool *out_made, struct explanation *why);

/* Starts the place's on the sockets, which stay this process's; or, as options say, another process of it that takes over. */
struct err held_start(struct held *held, const struct swtpm_options *options, const struct place *place,
                      struct swtpm_sockets *sockets, struct explanation *why);

/*
 * Waits until it has ended, its newest state is not of that version any more, or watch asks (ctl_nudge). out_runs: it has
 * not ended; out_instance: how it is, the caller's to decref.
 */
struct err held_await(struct held *held, json_int_t version, const struct ctl_watch *watch, bool *out_runs,
                      json_t **out_instance, struct explanation *why);
/* The instance as it is shown is served by what was started here, or by nobody: copies of its state are this process's. */
bool held_is_here(const struct held *held, const json_t *instance);
/* In order, and waits for it. */
struct err held_stop(struct held *held, struct explanation *why);
/* Copies its newest sealed state into the place; what goes wrong is a line in the log. version: of what was copied. */
void held_copy_state(struct held *held, const struct place *place, json_int_t *version);
/* There was nothing before it, and there shall be nothing of it: the instance is deleted, and the place names none. */
void held_undo(struct held *held, struct place *place);
/* As held_undo, of an instance that has been used. ERR_OWNER_SIGNATURE and others. */
struct err held_delete(struct held *held, struct place *place, struct explanation *why);
