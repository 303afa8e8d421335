/* The system calls that vtpm-cpu may make once it serves. Any other kills the process. */
#pragma once

#include "base/err.h"

/* After everything is opened. Not allowed afterwards: open, socket, connect, exec, fork, ptrace, executable memory. */
struct err sandbox_apply(void);
