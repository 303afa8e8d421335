/*
 * What is left to a process that serves clients.
 *
 * Guarantees: a system call that is not on the list kills the process; no file can be opened by name, whatever the user
 * could, and no connection made; no memory can become executable. It guards against a process that was taken over by a
 * client, not against root, and not against what the descriptors allow that it has open already.
 */
#pragma once

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

/* Landlock: no file at all. Says so in the log if the kernel has none. ERR_SANDBOX. */
struct err confine_files(void);

/* The list of system calls, for all threads; no new ones can be started afterwards. ERR_SANDBOX. */
struct err confine_system_calls(void);
