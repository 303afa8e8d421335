/*
 * Command lines of options only: one const table for each program. --help and --version are every program's.
 *
 * Guarantees: what is not in the table, lacks its value or is no option is refused with a line in the log.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct command_option {
    const char *name;
    bool has_value;
    /* value: argv's, or NULL. ERR_USAGE after command_usage. */
    struct err (*set)(void *options, const char *value);
};

enum command_action { COMMAND_RUN, COMMAND_HELP, COMMAND_VERSION };

#define COMMAND_OPTIONS_MAX 32u

/* Sets options in the order of argv; stops at --help and --version. ERR_USAGE, ERR_TOO_LARGE. */
struct err command_line_parse(int argc, char **argv, const struct command_option *table, size_t count, void *options,
                              enum command_action *out_action);

/* A line in the log that says what is wrong; value may be NULL. ERR_USAGE. */
struct err command_usage(const char *what, const char *value);
