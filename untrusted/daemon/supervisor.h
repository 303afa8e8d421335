/*
 * The instances of this host: their life, their processes and connections, and what goes between them and the manager.
 *
 * Guarantees: a sealed state is stored only with the row that names it; what the manager wants stored is stored in its
 * order, and anchored before it hears of it. Nothing here opens a state or knows a key.
 *
 *   supervisor.h   the manager's effects and events
 *   commit.h       what waits for the store and the anchor
 *   connections.h  daemon.sock: vtpm-instance and vtpm-front, who they may be, their frames
 *   acts.h         what an operator asks for
 *   lifecycle.h    start, stop, delete, rebuild
 *   settings.h     what is noted beside the ledger
 *   spawn.h        the queue of processes to be started, and their command lines
 */
#pragma once

#include "untrusted/daemon/committer.h"
#include "untrusted/daemon/config.h"
#include "untrusted/daemon/connections.h"
#include "untrusted/daemon/events.h"
#include "untrusted/daemon/instance.h"
#include "untrusted/daemon/manager.h"

struct supervisor {
    sd_event *event;
    char boot_id[sizeof(((struct store_process *)0)->boot_id)]; /* of now */
    const struct config *config;
    uid_t instance_uid;
    gid_t instance_gid;
    const uint8_t *instance_mrenclave; /* of the image that instances will load */
    const struct crypto *crypto;
    struct manager *manager;
    struct store *store; /* until the committer has it */
    struct anchor_host *anchor;
    struct committer *committer;   /* NULL at the start: then store and anchor are written at once */
    struct commit *commit_waiting; /* for its turn (anchor-rate) */
    sd_event_source *commit_timer;
    uint64_t next_move; /* of the anchor, CLOCK_MONOTONIC, us */
    struct events *events;
    struct roster roster;
    struct connection *connections[CONNECTIONS_MAX];
    size_t next_connection;
    uint64_t channels; /* drawn so far */
    int listen_fd;
    sd_event_source *listen_source;
    struct instance *queue_first; /* to be spawned */
    struct instance **queue_end;
    unsigned starting;
    unsigned starting_max;
    struct move *moves; /* that were asked for here */
    bool spawning;      /* the queue is being worked off */
    bool ending;
};

/* Effects and events of the manager: what manager_open wants. */
struct manager_listener supervisor_listener(struct supervisor *supervisor);

/* Asks the manager for its rows and reads what the store knows of each; before the loop and the committer begin. */
struct err supervisor_load(struct supervisor *supervisor);
/* Listens on daemon.sock, and sees to the instances that ran. */
struct err supervisor_serve(struct supervisor *supervisor);
/* Says what failed, once, and ends the loop. */
void supervisor_give_up(struct supervisor *supervisor, const char *what, struct err why);
void supervisor_end(struct supervisor *supervisor);
