/*
 * What every process of this project does before it holds anything: no core dump, no debugger of the same user, no
 * new privileges, no page writable and executable, no library slipped in by the environment.
 *
 * It does not guard against root.
 */
#pragma once

#include "base/err.h"

/*
 * First thing in main. If the environment steers the dynamic loader (LD_*, GLIBC_TUNABLES), the program is executed
 * again without it: what was preloaded this far has run, but it is not in the process that goes on. Returns only when
 * there is nothing to clean. ERR_SANDBOX.
 */
struct err hygiene_clean_environment(char **argv);

/*
 * PR_SET_DUMPABLE 0, RLIMIT_CORE 0, PR_SET_NO_NEW_PRIVS, PR_SET_MDWE where the kernel has it (6.3). Drop privileges
 * before: the kernel makes a process dumpable or not again when its user changes. ERR_SANDBOX.
 */
struct err hygiene_apply(void);
