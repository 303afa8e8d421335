/*
 * What admin.c, which has the connections, and verbs.c, which has what is asked for, know of a client.
 *
 * Guarantees: each request is answered once, by client_answer or client_answer_error; after that the client may be gone.
 */
#pragma once

#include <time.h>

#include "untrusted/daemon/admin.h"
#include "untrusted/daemon/handed.h"
#include "untrusted/daemon/request.h"

#define API_VERSION 1

struct client {
    struct admin *admin;
    struct client *next;
    int fd; /* -1: gone, and only what it asked for is still under way */
    sd_event_source *source;
    uint32_t events;
    pid_t pid;
    uid_t uid;
    bool under_way; /* a request */
    bool working;   /* lines are being taken */
    bool closing;   /* once everything is written */
    bool more;      /* lines that were read and have to wait their turn */
    time_t took;    /* when it last took something, or had taken everything */
    bool subscribed;
    bool progress;          /* of work on the store: it wants to be told */
    bool deleted;           /* of list: tombstones too */
    json_t *list;           /* the answer to list, as far as it is there */
    json_t *id;             /* of the request */
    struct instance *holds; /* it started it on sockets of its own; NULL: none */
    bool awaits;            /* the end of that instance: the request under way */
    bool awaits_news;       /* or a new state of it */
    int taken[HANDED_MAX];  /* descriptors that came and that the request that follows may use */
    size_t taken_count;
    int passed;      /* goes with the next byte that is written; -1: nothing */
    uint8_t *output; /* not written yet */
    size_t output_size;
    size_t output_capacity;
    char about[REQUEST_TEXT_MAX + 1]; /* the instance or the label that the request names; "" if none */
    size_t input_size;
    char input[REQUEST_SIZE_MAX];
};

struct admin {
    struct supervisor *supervisor;
    struct program_device device;
    struct manager_status status; /* as of the start: the domain and the identities do not change */
    int listen_fd;
    sd_event_source *source;
    struct client *clients;
    size_t client_count;
    bool store_work; /* under way */
    time_t born;
};

/* The end of a request: name is "return" or "error". The value is taken over. */
void client_answer(struct client *c, const char *name, json_t *value);
/* who: NULL for what the request names; reason: NULL if there is none. */
void client_answer_error(struct client *c, struct err error, const char *who, const char *reason);
/* A line of its own, beside the answers; a client that takes nothing is dropped. The message is taken over. */
void client_say(struct client *c, json_t *message);
void client_tell(void *ctx, const char *line, size_t size);
time_t client_now(void);

/* Does what is asked, or begins it. */
void verbs_run(struct client *c, const struct request *request);
/* The client that awaits something asks for the next thing. */
void verbs_await_no_more(struct client *c);
/* The client is gone, and holds an instance. */
void verbs_leave(struct client *c);
