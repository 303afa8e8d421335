/* The time that never goes back, for what has to be over by then. */
#pragma once

#include <stdint.h>

/* CLOCK_MONOTONIC in µs: now, where an event loop knows only when its turn began. */
uint64_t clock_now_usec(void);
