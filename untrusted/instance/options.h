/* The command line of vtpm-instance. */
#pragma once

#include <stdbool.h>

#include "base/err.h"
#include "base/id.h"
#include "untrusted/front/endpoints.h"
#include "untrusted/host/command_line.h"
#include "untrusted/sgx/choice.h"

struct options {
    const char *image;
    enum device_kind device;
    const char *cpu;
    const char *daemon; /* the socket of vtpmd */
    const char *user;   /* NULL: none is named */
    struct instance_id id;
    bool has_id;
    bool separate_front; /* of a process at front, instead of endpoints */
    struct address front;
    bool rebuilt;  /* the TPM was lost under its client */
    bool incoming; /* it takes over from another process */
    bool ordinary_memory;
    unsigned commit_timeout; /* seconds */
    struct front_manners manners;
    struct endpoints endpoints;
};

/*
 * Strings stay argv's. ERR_USAGE, after a line in the log that says what is wrong. With another action than COMMAND_RUN
 * out_options is not to be used.
 */
struct err options_parse(int argc, char **argv, enum command_action *out_action, struct options *out_options);

extern const char options_help[];
