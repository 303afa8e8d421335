/*
 * vtpmctl store: does the store fit together, and a copy of it. Both ask the vtpmd that runs; without one, or when a file
 * or a directory is named, they look at the file themselves.
 *
 * Guarantees: a store is never written to; a backup has its name once it is whole and durable, and replaces a file only
 * with --force. What is said to be right is not said to be authentic: that is the manager enclave's to tell.
 */
#pragma once

#include "untrusted/cli/ctl_client.h"

struct ctl_store {
    const char *socket;
    const char *file;      /* NULL: none was named */
    const char *state_dir; /* likewise */
    unsigned seconds;      /* that vtpmd may be silent */
    bool json, force;
    struct ctl *ctl; /* not open yet; the caller closes it */
};

/* Prints what was found; ERR_STORE_FOREIGN if anything was. Else what ctl_call and store/view.h return. */
struct err ctl_store_check(const struct ctl_store *store, struct explanation *why);

/* Copies the store into file. ERR_STORE_EXISTS, ERR_SYSTEM, ERR_STORE_IO, and as above. */
struct err ctl_store_backup(const struct ctl_store *store, struct explanation *why);
