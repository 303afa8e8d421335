/*
 * The parent of the process that serves clients in vtpm-front: it may connect, the other may not.
 *
 * Guarantees: it parses nothing but one byte at a time, which names one of two paths; while vtpmd is away it tries
 * again and again; an instance that cannot be reached is told at once, as its share is of no use any more then.
 */
#pragma once

struct connector_paths {
    const char *daemon;
    const char *instance;
};

/*
 * Forks: child runs as the process that serves, with its end of a socket pair (untrusted/wire/pass.h; the bytes are
 * enum remote_peer, each answered with itself and a descriptor or none), and its value is the exit code. SIGTERM and
 * SIGINT, which must be blocked, go to the child. Returns the exit code of the whole.
 */
int connector_run(const struct connector_paths *paths, int (*child)(void *ctx, int fd), void *ctx);
