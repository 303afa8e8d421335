/*
 * daemon.sock: who may connect, and what is taken from whom.
 *
 * Guarantees: only root, vtpmd's own user and the user of the instances are listened to; one that does not say who it
 * is within HELLO_SECONDS is closed; each frame is parsed strictly and only at the point of the conversation where it
 * belongs, a few at a time, so that one that floods holds up no other; one whose instance commits faster than commit-rate
 * for ten seconds is not listened to until it is within it again. It does not guarantee that whoever connects is an
 * enclave: that is for the manager to find out.
 */
#pragma once

#include "untrusted/daemon/instance.h"
#include "untrusted/wire/line.h"

#define CONNECTIONS_MAX 16384u /* a blank or serving enclave and a front-end for each instance there can be */
#define HELLO_SECONDS   5u

struct connection {
    struct supervisor *supervisor;
    struct line *line;
    sd_event_source *hello; /* until it is greeted */
    sd_event_source *pause; /* its instance commits faster than commit-rate */
    size_t index;           /* in supervisor->connections */
    uint64_t channel;       /* 0: the manager does not know it */
    pid_t pid;
    uid_t uid;
    bool greeted;
    bool is_front;              /* vtpm-front */
    bool separate;              /* vtpm-instance whose front-end is a vtpm-front */
    struct instance *instance;  /* once it is greeted */
    struct incoming *incoming;  /* it is that of instance */
    bool has_share;             /* of the front-end, not used yet */
    uint8_t share[X25519_SIZE]; /* of the front-end */
};

struct err connections_listen(struct supervisor *supervisor);
struct connection *connections_find(const struct supervisor *supervisor, uint64_t channel);
/* Gives it a channel of its own. */
uint64_t connections_channel(struct connection *connection);
void connections_send(struct connection *connection, enum wire_kind kind, const struct span *parts, size_t count);
void connections_state(struct connection *connection, uint64_t version, struct span state);
void connections_link(struct connection *connection, const struct link_told *told);
/* Says why and closes. */
void connections_refuse(struct connection *connection, struct err why);
void connections_close(struct connection *connection);
/* The store knows the process before what is stored after this. */
struct err connections_note(const struct instance *instance, const struct store_process *identity);
/* The process is the instance's from now on. ERR_NO_INSTANCE: it is gone. */
struct err connections_adopt(struct instance *instance, const struct store_process *identity);
