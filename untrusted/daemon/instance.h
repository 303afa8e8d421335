/*
 * What vtpmd knows of each instance, and all of them by id and by label.
 *
 * The ledger's row is the manager's word, as of its last reply; everything else is the host's own bookkeeping, which
 * decides about convenience and never about secrets. Instances are never removed: a deleted one keeps its row.
 */
#pragma once

#include <jansson.h>

#include "untrusted/daemon/effects.h"
#include "untrusted/daemon/process.h"
#include "untrusted/wire/wire.h"

struct supervisor;
struct connection;
struct instance;
struct creation;
struct incoming;
struct move;
struct handed;

enum phase {
    PHASE_IDLE,     /* no process of it is known to run */
    PHASE_QUEUED,   /* waits for its turn to be spawned */
    PHASE_SPAWNED,  /* a process runs and is not connected */
    PHASE_GREETED,  /* connected, with a blank enclave: waits for its front-end or for the manager's permission */
    PHASE_ATTACHED, /* the manager talks with its enclave */
    PHASE_SERVING,
};

/* RESTART: a start that nobody asked for now. */
enum act_kind { ACT_NONE, ACT_START, ACT_STOP, ACT_DELETE, ACT_RESTART, ACT_REVERT, ACT_SET_OWNER };

/* reason: a sentence when result is an error, else NULL. */
typedef void act_done(void *ctx, struct err result, const char *reason, struct instance *instance);

/* What was asked about an instance and is under way. */
struct act {
    enum act_kind kind;
    bool wait;                                 /* START: until it serves */
    bool suspend;                              /* STOP */
    char snapshot[MANAGER_LABEL_SIZE];         /* REVERT */
    uint8_t owner[ED25519_PUBLIC_SIZE];        /* SET_OWNER */
    uint8_t signature[ED25519_SIGNATURE_SIZE]; /* DELETE, REVERT, SET_OWNER */
    act_done *done;                            /* NULL: nobody waits, or not any more */
    void *ctx;
};

/* A sealed state that came with a COMMIT, or that is reverted to, until the manager stores its version. */
struct held_state {
    uint64_t version;
    uint8_t *bytes;
    size_t size;
    char replaced_as[MANAGER_LABEL_SIZE]; /* the snapshot that becomes of the state before it; "": none */
};

#define REASON_SIZE 192u

struct instance {
    struct supervisor *supervisor;
    struct manager_row row;
    json_t *listen;                                          /* array of addresses, or NULL: the default one */
    struct handed *handed;                                   /* sockets that it is served on instead; NULL: none */
    bool wanted;                                             /* what its operator said last: start, or stop */
    char lost[sizeof(((struct store_process *)0)->boot_id)]; /* the boot in which its last holder was lost, or "" */
    enum phase phase;
    struct act act;
    bool waits;                    /* the act, for the process of the start before to end */
    sd_event_source *answer_timer; /* of the act */
    struct connection *connection;
    struct connection *front;  /* a separate front-end that registered */
    struct process *process;   /* that serves it, or is about to */
    struct incoming *incoming; /* another one, that may take over; or NULL */
    struct move *move;         /* it is to come from another vtpmd; or NULL */
    bool fenced;               /* it has, and vtpmd has not heard of it yet */
    json_t *listens_now;       /* addresses of a process that took over, or NULL: as usual */
    struct store_process identity;
    bool has_identity;
    struct held_state held;
    struct held_state candidate; /* of the COMMIT that the manager judges now */
    uint64_t recorded;           /* the version that its row has, or will have with the store under way */
    uint64_t commits_paid;       /* CLOCK_MONOTONIC, us: until then its commits use up commit-rate */
    enum wire_health health;     /* 0: not known */
    char reason[REASON_SIZE];    /* why it is not served */
    sd_event_source *timer;      /* of a rebuild, a start, a stop, or a process that has to end */
    unsigned back_off_ms;        /* of the last rebuild */
    uint64_t serving_since;      /* CLOCK_MONOTONIC, us */
    uint32_t rebuilds;
    bool counted;              /* in the supervisor's starting */
    struct creation *creation; /* whose settings are being stored */
    bool refused;              /* its enclave refuses what is stored: it is not rebuilt by itself */
    bool rebuilding;           /* the start under way was not asked for by anybody */
    bool receipt_given;        /* to the manager, who has not answered yet */
    bool declaring;            /* its holder dead: the manager has not answered yet */
    bool in_queue;
    struct instance *next_queued;
};

void held_state_drop(struct held_state *state);

struct roster {
    void *by_id; /* tsearch(3) */
    void *by_label;
    struct instance **list; /* in the order of their slots */
    size_t count;
    size_t capacity;
};

/* The instance of the row, made if it is new. ERR_NO_MEMORY. */
struct err roster_add(struct roster *roster, struct supervisor *supervisor, const struct manager_row *row,
                      struct instance **out_instance);
struct instance *roster_find(const struct roster *roster, const struct instance_id *id);
/* An id or a label. */
struct instance *roster_named(const struct roster *roster, const char *name);
void roster_free(struct roster *roster);

/* Letters, digits, '.', '_', '-', of which the last three do not begin it. */
bool label_is_plain(const char *label);

/* Its next start goes on where the last one stopped. */
bool instance_is_suspended(const struct instance *instance);
/* It was made for a state that has not been imported: its enclave waits for whoever has it. */
bool instance_awaits_import(const struct instance *instance);

/* One word of docs/admin-api.md. */
const char *instance_state(const struct instance *instance);
