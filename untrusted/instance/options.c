#include "untrusted/instance/options.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "untrusted/host/log.h"
#include "untrusted/sgx/cpu_wire.h"

#define COMMIT_TIMEOUT_DEFAULT 20u
#define COMMIT_TIMEOUT_MAX     3600u

const char options_help[] =
    "usage: vtpm-instance --state-dir DIR (--create | --id UUID) (--swtpm ADDRESS | --mssim ADDRESS)... [OPTION]...\n"
    "Serves one TPM 2.0 from an SGX enclave. ADDRESS is unix:PATH or tcp:[ADDR:]PORT; ADDR is 127.0.0.1 if not given.\n"
    "\n"
    "  --state-dir DIR           where the sealed state is kept, as UUID.vtpm\n"
    "  --create                  make a new TPM; its id is printed as \"instance UUID\"\n"
    "  --id UUID                 serve the TPM of this id\n"
    "  --swtpm ADDRESS           swtpm's data channel; its control channel is at PATH.ctrl or PORT + 1\n"
    "  --mssim tcp:[ADDR:]PORT   the simulator's command port; its platform port is PORT + 1\n"
    "  --image FILE              the enclave image (" VTPM_IMAGE_DEFAULT ")\n"
    "  --cpu SOCKET              the socket of vtpm-cpu (" CPU_SOCKET_DEFAULT ")\n"
    "  --user NAME               when started by root: the user to become (the owner of DIR)\n"
    "  --commit-timeout SECONDS  how long a command waits for the disk before the TPM fails (20)\n"
    "  --ordinary-memory         go on without secret memory: the TPM's secrets are then NOT protected\n"
    "  --help, --version\n";

static struct err usage(const char *what, const char *value)
{
    log_line(LOG_LEVEL_ERROR, "%s%s%s (--help lists the options)", what, value ? ": " : "", value ? value : "");
    return FAIL(USAGE);
}

static struct err add_endpoint(struct options *options, const struct protocol *protocol, unsigned channel,
                               const struct address *address)
{
    if (options->endpoint_count == OPTIONS_ENDPOINTS_MAX) return usage("there are too many addresses", NULL);
    options->endpoints[options->endpoint_count++] = (struct options_endpoint){protocol, channel, *address};
    return OK;
}

static struct err add_pair(struct options *options, const char *text, const struct protocol *first,
                           const struct protocol *second, const char *suffix)
{
    struct address address;
    struct address beside;
    unsigned channel = (unsigned)options->endpoint_count / 2;
    if (address_parse(text, &address).code || address_beside(&address, suffix, &beside).code)
        return usage("this is no address to listen on", text);
    TRY(add_endpoint(options, first, channel, &address));
    return add_endpoint(options, second, channel, &beside);
}

static struct err set_swtpm(struct options *options, const char *value)
{
    return add_pair(options, value, &protocol_stream, &protocol_control, ".ctrl");
}

static struct err set_mssim(struct options *options, const char *value)
{
    if (strncmp(value, "tcp:", 4) != 0) return usage("the simulator's protocol is served on TCP only", value);
    return add_pair(options, value, &protocol_mssim_command, &protocol_mssim_platform, "");
}

static struct err set_id(struct options *options, const char *value)
{
    if (id_parse(value, &options->id).code) return usage("this is no UUID", value);
    return OK;
}

static struct err set_commit_timeout(struct options *options, const char *value)
{
    char *end = NULL;
    unsigned long seconds = strtoul(value, &end, 10);
    if (*value < '1' || *value > '9' || *end || seconds > COMMIT_TIMEOUT_MAX)
        return usage("--commit-timeout wants 1 to 3600 seconds, not", value);
    options->commit_timeout = (unsigned)seconds;
    return OK;
}

static struct err set_image(struct options *options, const char *value)
{
    options->image = value;
    return OK;
}

static struct err set_cpu(struct options *options, const char *value)
{
    options->cpu = value;
    return OK;
}

static struct err set_state_directory(struct options *options, const char *value)
{
    options->state_directory = value;
    return OK;
}

static struct err set_user(struct options *options, const char *value)
{
    options->user = value;
    return OK;
}

static struct err set_create(struct options *options, const char *value)
{
    (void)value;
    options->create = true;
    return OK;
}

static struct err set_ordinary_memory(struct options *options, const char *value)
{
    (void)value;
    options->ordinary_memory = true;
    return OK;
}

/* getopt_long's val is the row's index + 1. */
static const struct option_row {
    const char *name;
    int argument;
    struct err (*set)(struct options *options, const char *value);
} rows[] = {
    {"image", required_argument, set_image},
    {"cpu", required_argument, set_cpu},
    {"state-dir", required_argument, set_state_directory},
    {"create", no_argument, set_create},
    {"id", required_argument, set_id},
    {"swtpm", required_argument, set_swtpm},
    {"mssim", required_argument, set_mssim},
    {"user", required_argument, set_user},
    {"commit-timeout", required_argument, set_commit_timeout},
    {"ordinary-memory", no_argument, set_ordinary_memory},
};
#define ROW_COUNT   (sizeof rows / sizeof rows[0])
#define VAL_HELP    1000
#define VAL_VERSION 1001

static struct err check(const struct options *options, bool has_id)
{
    if (!options->state_directory) return usage("--state-dir is missing", NULL);
    if (options->create == has_id) return usage("exactly one of --create and --id is wanted", NULL);
    if (options->endpoint_count == 0) return usage("--swtpm or --mssim is missing: nobody could reach the TPM", NULL);
    return OK;
}

struct err options_parse(int argc, char **argv, enum options_action *out_action, struct options *out_options)
{
    struct option table[ROW_COUNT + 3] = {0};
    for (size_t i = 0; i < ROW_COUNT; i++)
        table[i] = (struct option){rows[i].name, rows[i].argument, NULL, (int)i + 1};
    table[ROW_COUNT] = (struct option){"help", no_argument, NULL, VAL_HELP};
    table[ROW_COUNT + 1] = (struct option){"version", no_argument, NULL, VAL_VERSION};

    struct options options = {
        .image = VTPM_IMAGE_DEFAULT, .cpu = CPU_SOCKET_DEFAULT, .commit_timeout = COMMIT_TIMEOUT_DEFAULT};
    bool has_id = false;
    optind = 0;
    opterr = 0;
    for (int val; (val = getopt_long(argc, argv, "", table, NULL)) != -1;) {
        if (val == VAL_HELP || val == VAL_VERSION) {
            *out_action = val == VAL_HELP ? OPTIONS_HELP : OPTIONS_VERSION;
            return OK;
        }
        if (val == '?') return usage("this option is unknown or lacks its value", argv[optind - 1]);
        const struct option_row *row = &rows[val - 1];
        TRY(row->set(&options, optarg));
        if (row->set == set_id) has_id = true;
    }
    if (optind != argc) return usage("this is no option", argv[optind]);
    TRY(check(&options, has_id));
    *out_action = OPTIONS_RUN;
    *out_options = options;
    return OK;
}
