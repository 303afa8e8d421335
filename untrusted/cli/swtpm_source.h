/*
 * The state directory of a swtpm, from which a TPM is imported.
 *
 * Guarantees: a directory that a running swtpm has locked is refused, and from here to the end no swtpm takes the lock;
 * nothing in it is changed but what swtpm_source_mark adds; file, key and state lie in secret memory where the kernel has
 * it, and are wiped. It does not notice a swtpm that takes no lock (0.10 and newer do so only if told).
 */
#pragma once

#include <stdbool.h>

#include <jansson.h>

#include "base/err.h"
#include "base/span.h"
#include "untrusted/cli/explain.h"
#include "untrusted/host/secret_memory.h"

/* As given on the command line; NULL: not given. */
struct swtpm_options {
    const char *directory;
    const char *key, *key_format; /* hex (if not given) or binary */
    const char *password, *kdf;   /* pbkdf2 (if not given) or sha512 */
};

struct swtpm_source {
    const char *directory;
    int lock_fd; /* -1: nobody ever locked this directory */
    struct secret_memory memory;
    struct span permanent; /* the state as libtpms wrote it; in memory */
};

/* swtpm_source_close has to follow, after an error too. ERR_USAGE, ERR_SYSTEM, ERR_STATE_MISSING, ERR_STATE_LOCKED,
 * ERR_AUTHENTICATION, ERR_BAD_VALUE, ERR_TOO_LARGE, ERR_NO_MEMORY. */
struct err swtpm_source_open(const struct swtpm_options *options, struct swtpm_source *out_source,
                             struct explanation *why);
void swtpm_source_close(struct swtpm_source *source);

/*
 * From now on the directory stands for the instance, for the commands of swtpm that this project has; swtpm's own file there
 * has another name, so that no swtpm takes it. ERR_SYSTEM.
 */
struct err swtpm_source_mark(const struct swtpm_source *source, const char *id, struct explanation *why);

/* The paths of the files there that hold the TPM's keys. The caller frees it; NULL: out of memory. */
json_t *swtpm_source_files(const struct swtpm_source *source);
