/* The command line of vtpm-instance. */
#pragma once

#include <stdbool.h>

#include "base/err.h"
#include "untrusted/front/address.h"
#include "untrusted/front/protocol.h"
#include "untrusted/instance/id.h"

#define OPTIONS_ENDPOINTS_MAX 32u

/* One listening socket. An option makes two, which share a channel. */
struct options_endpoint {
    const struct protocol *protocol;
    unsigned channel;
    struct address address;
};

struct options {
    const char *image;
    const char *cpu;
    const char *state_directory;
    const char *user; /* NULL: the owner of the state directory */
    bool create;
    struct instance_id id; /* unless create */
    bool ordinary_memory;
    unsigned commit_timeout; /* seconds */
    size_t endpoint_count;
    struct options_endpoint endpoints[OPTIONS_ENDPOINTS_MAX];
};

enum options_action { OPTIONS_RUN, OPTIONS_HELP, OPTIONS_VERSION };

/*
 * Strings stay argv's. ERR_USAGE, after a line in the log that says what is wrong. With another action than OPTIONS_RUN
 * out_options is not to be used.
 */
struct err options_parse(int argc, char **argv, enum options_action *out_action, struct options *out_options);

extern const char options_help[];
