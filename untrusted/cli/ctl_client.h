/*
 * One connection to vtpmd's admin.sock (docs/admin-api.md), from the client's end, and blocking.
 *
 * Guarantees: nothing that the daemon sends is believed before it has the form of the API: one JSON object in a line of
 * at most CTL_ANSWER_MAX bytes, without double members, the answer's id the request's; whatever else comes ends the
 * connection with an explanation. No wait is longer than the caller said. It does not know who listens there: whoever
 * may make the socket is the daemon.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "base/err.h"
#include "untrusted/cli/explain.h"

#define CTL_REQUEST_MAX 65536u /* bytes with the newline: the daemon takes no more */
#define CTL_HANDED_MAX  4u
#define CTL_ANSWER_MAX  (size_t)(16u << 20) /* a list of all instances that a ledger can hold is about half of it */

/* Why a command did not end well: they have exit statuses of their own. */
enum ctl_outcome {
    CTL_FINE,
    CTL_REFUSED, /* the daemon answered with an error */
    CTL_LOST,    /* no answer came, or nothing that a vtpmd would say */
    CTL_ABSENT,  /* nobody listens */
};

struct ctl {
    int fd;
    const char *path;
    char *received; /* used bytes of capacity; the first taken of them were handed out */
    size_t used, taken, capacity;
    long long last_id;
    enum ctl_outcome outcome;
    const int *handed; /* descriptors that go with the next request; NULL: none */
    size_t handed_count;
    int *passed; /* where a descriptor goes that comes with an answer, the caller's; NULL: none is taken */
    /* "progress" of what is under way, which comes before the answer and begins the wait for it anew; NULL: none is
     * expected. */
    void (*progress)(void *ctx, const json_t *progress);
    void *progress_ctx;
};

/* What else to watch while an answer is awaited: take is called whenever fd has something to read. */
struct ctl_watch {
    int fd; /* negative: nothing */
    void (*take)(void *ctx);
    void *ctx;
};

/*
 * Connects and reads the greeting, which has to come within seconds and say API 1. path stays the caller's until
 * ctl_close, which has to follow even after an error. ERR_SYSTEM, ERR_PROTOCOL, ERR_PEER_CLOSED.
 */
struct err ctl_open(const char *path, unsigned seconds, struct ctl *out_ctl, struct explanation *why);
void ctl_close(struct ctl *ctl);
/* Connects and reads nothing: for whom it is handed to. ERR_USAGE, ERR_SYSTEM. */
struct err ctl_connect(const char *path, int *out_fd, struct explanation *why);

/*
 * Asks and waits for the answer. arguments is consumed. out_return is an object, which the caller frees; the daemon's
 * refusal becomes the error, with its words as the explanation. watch may be NULL.
 */
struct err ctl_call(struct ctl *ctl, const char *verb, json_t *arguments, unsigned seconds,
                    const struct ctl_watch *watch, json_t **out_return, struct explanation *why);

/* What vtpmd awaits for this connection is answered at once. Within watch->take. */
void ctl_nudge(struct ctl *ctl);

/* The next message, for a connection that has subscribed. seconds 0: for ever. The caller frees it. */
struct err ctl_receive(struct ctl *ctl, unsigned seconds, const struct ctl_watch *watch, json_t **out_message,
                       struct explanation *why);

/* A whole line was received already: ctl_receive will not wait. */
bool ctl_has_line(const struct ctl *ctl);
