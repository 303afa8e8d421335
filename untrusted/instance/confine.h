/*
 * What is left to a process of this program once it serves clients.
 *
 * Guarantees: a system call that is not on the list kills the process; no file outside the state directory can be
 * written or read by name, whatever the user could; no memory can become executable. It guards against a process that
 * was taken over by a client, not against root, and not against what the descriptors allow that it has open already.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

/* The user that the process becomes, without supplementary groups. */
struct identity {
    uid_t uid;
    gid_t gid;
};

/* Becomes identity for good; nothing if that is who it is already. ERR_SANDBOX. */
struct err confine_user(const struct identity *identity);

/* Lowers the limit of descriptors and takes all secret memory that the hard limit allows. ERR_SANDBOX. */
struct err confine_limits(void);

/* Landlock: the calling thread and the ones it starts later. Says so in the log if the kernel has none. ERR_SANDBOX. */
struct err confine_files(int state_directory_fd);

/*
 * The list of system calls, for all threads; no new ones can be started afterwards. creates_files: the process has to
 * create files in the state directory (store_creates_files). ERR_SANDBOX.
 */
struct err confine_system_calls(bool creates_files);
