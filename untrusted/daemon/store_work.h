/*
 * Long work on the store while vtpmd serves: checking it, copying it. Both go through the committer in slices, between
 * which what commands have to store is stored.
 *
 * Guarantees: done is called once, with the answer as docs/admin-api.md has it, or with an error and a sentence (or NULL).
 * A failing disk ends the work and is never tried again on the committer's thread, so that it holds up nothing.
 */
#pragma once

#include <jansson.h>

#include "untrusted/daemon/supervisor.h"

struct store_work_listener {
    void *ctx;
    /* In instances for a check, in pages for a copy. */
    void (*progress)(void *ctx, uint64_t done, uint64_t all);
    /* answer: a new reference. fd: of the copy, to be closed by whoever listens; -1: none. */
    void (*done)(void *ctx, struct err result, const char *reason, json_t *answer, int fd);
};

/* What store/check.h sees, then each stored state against version and SHA-256 of the manager's row of it. An error: done is
 * not called. ERR_NO_MEMORY. */
struct err store_work_check(struct supervisor *supervisor, const struct store_work_listener *listener);

/* A consistent copy as a file of no name in the state directory, open for reading. Errors as above. */
struct err store_work_backup(struct supervisor *supervisor, const struct store_work_listener *listener);
