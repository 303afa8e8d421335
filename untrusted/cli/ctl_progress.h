/*
 * What happens to one instance while a long command waits for its answer, told on standard error: a second connection
 * that has subscribed to the events. It is a courtesy: whatever goes wrong with it only ends it.
 */
#pragma once

#include "untrusted/cli/ctl_client.h"

struct ctl_progress {
    struct ctl events;
    const char *instance; /* its label or id */
    struct ctl_watch watch;
};

/* Does nothing unless standard error is a terminal. out_progress stays where it is until ctl_progress_close. */
void ctl_progress_open(const char *socket, const char *instance, struct ctl_progress *out_progress);
void ctl_progress_close(struct ctl_progress *progress);
