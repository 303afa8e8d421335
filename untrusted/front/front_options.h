/* The command line of vtpm-front. */
#pragma once

#include <stdbool.h>

#include "base/id.h"
#include "untrusted/front/endpoints.h"
#include "untrusted/host/command_line.h"

struct front_options {
    const char *daemon;   /* the socket of vtpmd */
    const char *instance; /* the path of the instance's front.sock */
    const char *key;      /* NULL: none is enrolled */
    struct instance_id id;
    bool has_id;
    bool ordinary_memory;
    struct endpoints endpoints;
};

/*
 * Strings stay argv's. ERR_USAGE, after a line in the log that says what is wrong. With another action than COMMAND_RUN
 * out_options is not to be used.
 */
struct err front_options_parse(int argc, char **argv, enum command_action *out_action,
                               struct front_options *out_options);

extern const char front_options_help[];
