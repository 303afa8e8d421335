/*
 * A front with a TPM behind it that answers at once or when told to, and clients in the same thread. Time can be moved
 * forward: link with --wrap=clock_now_usec.
 */
#pragma once

#include "untrusted/front/front.h"

enum { DATA, CONTROL, MSSIM_COMMAND, MSSIM_PLATFORM, ENDPOINT_COUNT };

struct fake_front {
    sd_event *event;
    struct front *front;
    void *memory;
    int listen_fds[ENDPOINT_COUNT];
    bool hold;              /* leave requests unanswered until fake_front_release */
    struct err outcome;     /* of what is not a command */
    struct err refusal;     /* of commands; success: they are answered */
    unsigned count;         /* requests that came */
    unsigned open_requests; /* requests not answered; the front must never have two */
    enum front_verb verb;   /* of the last request */
    uint8_t locality;
    size_t command_size;
    uint8_t command[2 * BLOB_MAX];
    unsigned failing;     /* which request, from the next on, has the outcome; 0: each */
    struct span export;   /* the response to FRONT_EXPORT */
    int eager_fd;         /* of a client that has its next command there before the last is answered, */
    unsigned eager;       /* so many times */
    size_t response_size; /* of every response; its last bytes are the command's */
};

void fake_front_open(struct fake_front *f);
void fake_front_close(struct fake_front *f);

/* Answers the request that is held. */
void fake_front_release(struct fake_front *f);

/* A connected client, which does not block. */
int fake_front_connect(const struct fake_front *f, int endpoint);

/* Runs the loop until it has nothing to do. */
void fake_front_pump(struct fake_front *f);

/* Moves the front's clock, and runs the loop until its sweep has seen it. */
void fake_front_pass_time(struct fake_front *f, uint64_t usec);

/* True if no byte of the front's memory is other than zero. */
bool fake_front_memory_is_wiped(const struct fake_front *f);

void client_send(int fd, const void *bytes, size_t size);

/* Takes what has come, at most size bytes; 0 if nothing has, -1 if the other side closed. */
ssize_t client_receive(int fd, void *out_bytes, size_t size);
