#include "untrusted/instance/options.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "untrusted/host/log.h"
#include "untrusted/sgx/cpu_wire.h"

#define COMMIT_TIMEOUT_DEFAULT 20u
#define COMMIT_TIMEOUT_MAX     3600u

const char options_help[] =
    "usage: vtpm-instance --daemon SOCKET --id UUID (--swtpm ADDRESS | --mssim ADDRESS | --front ADDRESS)... "
    "[OPTION]...\n"
    "Serves one TPM 2.0 from an SGX enclave. ADDRESS is unix:PATH or tcp:[ADDR:]PORT; ADDR is 127.0.0.1 if not given.\n"
    "\n"
    "  --daemon SOCKET           the socket of vtpmd, which keeps the sealed state\n"
    "  --id UUID                 serve the TPM of this id\n"
    "  --swtpm ADDRESS           swtpm's data channel; its control channel is at PATH.ctrl or PORT + 1\n"
    "  --mssim tcp:[ADDR:]PORT   the simulator's command port; its platform port is PORT + 1\n"
    "  --front unix:PATH         instead of both: vtpm-front serves the clients, and connects here\n"
    "  --image FILE              the enclave image (" VTPM_IMAGE_DEFAULT ")\n"
    "  --cpu SOCKET              the socket of vtpm-cpu (" CPU_SOCKET_DEFAULT ")\n"
    "  --user NAME               when started by root: the user to become\n"
    "  --commit-timeout SECONDS  how long a command waits for vtpmd before the TPM fails (20)\n"
    "  --rebuilt                 the process before this one was lost: the TPM fails until its client resets it\n"
    "  --ordinary-memory         go on without secret memory: the TPM's secrets are then NOT protected\n"
    "  --help, --version\n";

static struct err usage(const char *what, const char *value)
{
    log_line(LOG_LEVEL_ERROR, "%s%s%s (--help lists the options)", what, value ? ": " : "", value ? value : "");
    return FAIL(USAGE);
}

static struct err set_swtpm(struct options *options, const char *value)
{
    return endpoints_add_swtpm(&options->endpoints, value);
}

static struct err set_mssim(struct options *options, const char *value)
{
    return endpoints_add_mssim(&options->endpoints, value);
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

static struct err set_daemon(struct options *options, const char *value)
{
    options->daemon = value;
    return OK;
}

static struct err set_front(struct options *options, const char *value)
{
    if (options->separate_front) return usage("there is more than one --front", NULL);
    if (strncmp(value, "unix:", 5) != 0 || address_parse(value, &options->front).code)
        return usage("--front wants unix:PATH, not", value);
    options->separate_front = true;
    return OK;
}

static struct err set_user(struct options *options, const char *value)
{
    options->user = value;
    return OK;
}

static struct err set_ordinary_memory(struct options *options, const char *value)
{
    (void)value;
    options->ordinary_memory = true;
    return OK;
}

static struct err set_rebuilt(struct options *options, const char *value)
{
    (void)value;
    options->rebuilt = true;
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
    {"daemon", required_argument, set_daemon},
    {"front", required_argument, set_front},
    {"id", required_argument, set_id},
    {"swtpm", required_argument, set_swtpm},
    {"mssim", required_argument, set_mssim},
    {"user", required_argument, set_user},
    {"commit-timeout", required_argument, set_commit_timeout},
    {"rebuilt", no_argument, set_rebuilt},
    {"ordinary-memory", no_argument, set_ordinary_memory},
};
#define ROW_COUNT   (sizeof rows / sizeof rows[0])
#define VAL_HELP    1000
#define VAL_VERSION 1001

static struct err check(const struct options *options, bool has_id)
{
    if (!options->daemon) return usage("--daemon is missing", NULL);
    if (!has_id) return usage("--id is missing", NULL);
    if (options->separate_front && options->endpoints.count)
        return usage("with --front it is vtpm-front that listens for clients", NULL);
    if (!options->separate_front && options->endpoints.count == 0)
        return usage("--swtpm, --mssim or --front is missing: nobody could reach the TPM", NULL);
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
