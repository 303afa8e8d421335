#include "untrusted/host/command_line.h"

#include <getopt.h>

#include "untrusted/host/log.h"

/* getopt_long's val of the others is the row's index + 1. */
#define VAL_HELP    1000
#define VAL_VERSION 1001

struct err command_usage(const char *what, const char *value)
{
    log_line(LOG_LEVEL_ERROR, "%s%s%s (--help lists the options)", what, value ? ": " : "", value ? value : "");
    return FAIL(USAGE);
}

static void make_table(const struct command_option *table, size_t count, struct option *out)
{
    for (size_t i = 0; i < count; i++)
        out[i] = (struct option){table[i].name, table[i].has_value, NULL, (int)i + 1};
    out[count] = (struct option){"help", no_argument, NULL, VAL_HELP};
    out[count + 1] = (struct option){"version", no_argument, NULL, VAL_VERSION};
}

struct err command_line_parse(int argc, char **argv, const struct command_option *table, size_t count, void *options,
                              enum command_action *out_action)
{
    struct option long_options[COMMAND_OPTIONS_MAX + 3] = {0};
    ENSURE(count <= COMMAND_OPTIONS_MAX, TOO_LARGE);
    make_table(table, count, long_options);
    *out_action = COMMAND_RUN;
    optind = 0;
    opterr = 0;
    for (int val; (val = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
        if (val == VAL_HELP || val == VAL_VERSION) {
            *out_action = val == VAL_HELP ? COMMAND_HELP : COMMAND_VERSION;
            return OK;
        }
        if (val == '?') return command_usage("this option is unknown or lacks its value", argv[optind - 1]);
        TRY(table[val - 1].set(options, optarg));
    }
    if (optind != argc) return command_usage("this is no option", argv[optind]);
    return OK;
}
