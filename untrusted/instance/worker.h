/*
 * The process that holds the enclave and serves its clients. It is made by the keeper and ends when its enclave does.
 *
 * Guarantees: it is confined (untrusted/front/confine.h) before the first byte of a client, of vtpmd or of a
 * front-end is read.
 */
#pragma once

#include <stdbool.h>

#include "base/err.h"
#include "untrusted/front/front.h"
#include "untrusted/instance/options.h"
#include "untrusted/sgx/image.h"

/* A worker needs a descriptor of the device of its own, and the user it becomes may not be allowed to make one. */
#define WORKER_DEVICE_STOCK 4u

/* What was opened before any privilege was given up; all descriptors are shared by successive workers. */
struct worker_resources {
    const struct options *options;
    int image_fd; /* sealed */
    const struct image *image;
    int listen_fds[FRONT_ENDPOINTS_MAX];
    int front_fd; /* listens for vtpm-front, if that is how it is served */
    enum device_kind device;
    size_t device_fd_count; /* 0: this user may make them by itself */
    int device_fds[WORKER_DEVICE_STOCK];
};

/* How a worker begins. */
struct worker_start {
    int device_fd;        /* device_connect's; the worker's */
    int daemon_fd;        /* connected to vtpmd; the worker's */
    bool awaiting_reset;  /* the worker before died */
    bool incoming;        /* the TPM is that of another process, until its client brings it here */
    bool follows;         /* a worker has served before */
    size_t session_count; /* clients that the worker before handed over; their descriptors are the worker's */
    struct front_session sessions[FRONT_CONNECTIONS_MAX];
};

/*
 * Serves until the end and returns the exit code, one of enum service_end. keeper_fd: the keeper's socket
 * (keeper_wire.h).
 */
int worker_run(const struct worker_resources *resources, const struct worker_start *start, int keeper_fd);
