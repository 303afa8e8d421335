#include "untrusted/front/front_options.h"

#include <getopt.h>
#include <string.h>

#include "untrusted/host/log.h"

const char front_options_help[] =
    "usage: vtpm-front --daemon SOCKET --id UUID --instance unix:PATH (--swtpm ADDRESS | --mssim ADDRESS)... "
    "[OPTION]...\n"
    "Serves the clients of one TPM, whose enclave is in another process. ADDRESS is unix:PATH or tcp:[ADDR:]PORT;\n"
    "ADDR is 127.0.0.1 if not given.\n"
    "\n"
    "  --daemon SOCKET          the socket of vtpmd\n"
    "  --id UUID                serve the TPM of this id\n"
    "  --instance unix:PATH     where vtpm-instance listens (its --front)\n"
    "  --swtpm ADDRESS          swtpm's data channel; its control channel is at PATH.ctrl or PORT + 1\n"
    "  --mssim tcp:[ADDR:]PORT  the simulator's command port; its platform port is PORT + 1\n"
    "  --key FILE               the private key (X25519, PEM) whose public half the owner enrolled\n"
    "  --ordinary-memory        go on without secret memory: commands and responses are then NOT protected\n"
    "  --help, --version\n";

static struct err usage(const char *what, const char *value)
{
    log_line(LOG_LEVEL_ERROR, "%s%s%s (--help lists the options)", what, value ? ": " : "", value ? value : "");
    return FAIL(USAGE);
}

static struct err set_daemon(struct front_options *options, const char *value)
{
    options->daemon = value;
    return OK;
}

static struct err set_id(struct front_options *options, const char *value)
{
    if (id_parse(value, &options->id).code) return usage("this is no UUID", value);
    options->has_id = true;
    return OK;
}

static struct err set_instance(struct front_options *options, const char *value)
{
    if (strncmp(value, "unix:", 5) != 0 || !value[5]) return usage("--instance wants unix:PATH, not", value);
    options->instance = value + 5;
    return OK;
}

static struct err set_swtpm(struct front_options *options, const char *value)
{
    return endpoints_add_swtpm(&options->endpoints, value);
}

static struct err set_mssim(struct front_options *options, const char *value)
{
    return endpoints_add_mssim(&options->endpoints, value);
}

static struct err set_key(struct front_options *options, const char *value)
{
    options->key = value;
    return OK;
}

static struct err set_ordinary_memory(struct front_options *options, const char *value)
{
    (void)value;
    options->ordinary_memory = true;
    return OK;
}

/* getopt_long's val is the row's index + 1. */
static const struct option_row {
    const char *name;
    int argument;
    struct err (*set)(struct front_options *options, const char *value);
} rows[] = {
    {"daemon", required_argument, set_daemon},
    {"id", required_argument, set_id},
    {"instance", required_argument, set_instance},
    {"swtpm", required_argument, set_swtpm},
    {"mssim", required_argument, set_mssim},
    {"key", required_argument, set_key},
    {"ordinary-memory", no_argument, set_ordinary_memory},
};
#define ROW_COUNT   (sizeof rows / sizeof rows[0])
#define VAL_HELP    1000
#define VAL_VERSION 1001

static struct err check(const struct front_options *options)
{
    if (!options->daemon) return usage("--daemon is missing", NULL);
    if (!options->has_id) return usage("--id is missing", NULL);
    if (!options->instance) return usage("--instance is missing", NULL);
    if (options->endpoints.count == 0) return usage("--swtpm or --mssim is missing: nobody could reach the TPM", NULL);
    return OK;
}

struct err front_options_parse(int argc, char **argv, enum front_action *out_action, struct front_options *out_options)
{
    struct option table[ROW_COUNT + 3] = {0};
    for (size_t i = 0; i < ROW_COUNT; i++)
        table[i] = (struct option){rows[i].name, rows[i].argument, NULL, (int)i + 1};
    table[ROW_COUNT] = (struct option){"help", no_argument, NULL, VAL_HELP};
    table[ROW_COUNT + 1] = (struct option){"version", no_argument, NULL, VAL_VERSION};

    struct front_options options = {0};
    optind = 0;
    opterr = 0;
    for (int val; (val = getopt_long(argc, argv, "", table, NULL)) != -1;) {
        if (val == VAL_HELP || val == VAL_VERSION) {
            *out_action = val == VAL_HELP ? FRONT_HELP : FRONT_VERSION;
            return OK;
        }
        if (val == '?') return usage("this option is unknown or lacks its value", argv[optind - 1]);
        TRY(rows[val - 1].set(&options, optarg));
    }
    if (optind != argc) return usage("this is no option", argv[optind]);
    TRY(check(&options));
    *out_action = FRONT_RUN;
    *out_options = options;
    return OK;
}
