#include "untrusted/front/front_options.h"

#include <string.h>

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
    "  --tpm 2.0|1.2            the family of the TPM (2.0)\n"
    "  --key FILE               the private key (X25519, PEM) whose public half the owner enrolled\n"
    "  --ordinary-memory        go on without secret memory: commands and responses are then NOT protected\n"
    "  --help, --version\n";

static struct err set_daemon(void *ctx, const char *value)
{
    struct front_options *options = ctx;
    options->daemon = value;
    return OK;
}

static struct err set_id(void *ctx, const char *value)
{
    struct front_options *options = ctx;
    if (id_parse(value, &options->id).code) return command_usage("this is no UUID", value);
    options->has_id = true;
    return OK;
}

static struct err set_instance(void *ctx, const char *value)
{
    struct front_options *options = ctx;
    if (strncmp(value, "unix:", 5) != 0 || !value[5]) return command_usage("--instance wants unix:PATH, not", value);
    options->instance = value + 5;
    return OK;
}

static struct err set_swtpm(void *ctx, const char *value)
{
    struct front_options *options = ctx;
    return endpoints_add_swtpm(&options->endpoints, value);
}

static struct err set_mssim(void *ctx, const char *value)
{
    struct front_options *options = ctx;
    return endpoints_add_mssim(&options->endpoints, value);
}

static struct err set_tpm(void *ctx, const char *value)
{
    struct front_options *options = ctx;
    return endpoints_take_family(&options->endpoints, value);
}

static struct err set_key(void *ctx, const char *value)
{
    struct front_options *options = ctx;
    options->key = value;
    return OK;
}

static struct err set_ordinary_memory(void *ctx, const char *value)
{
    struct front_options *options = ctx;
    (void)value;
    options->ordinary_memory = true;
    return OK;
}

static const struct command_option rows[] = {
    {"daemon", true, set_daemon},     {"id", true, set_id},
    {"instance", true, set_instance}, {"swtpm", true, set_swtpm},
    {"mssim", true, set_mssim},       {"tpm", true, set_tpm},
    {"key", true, set_key},           {"ordinary-memory", false, set_ordinary_memory},
};
#define ROW_COUNT (sizeof rows / sizeof rows[0])

static struct err check(const struct front_options *options)
{
    if (!options->daemon) return command_usage("--daemon is missing", NULL);
    if (!options->has_id) return command_usage("--id is missing", NULL);
    if (!options->instance) return command_usage("--instance is missing", NULL);
    if (options->endpoints.count == 0)
        return command_usage("--swtpm or --mssim is missing: nobody could reach the TPM", NULL);
    return OK;
}

struct err front_options_parse(int argc, char **argv, enum command_action *out_action,
                               struct front_options *out_options)
{
    struct front_options options = {0};
    TRY(command_line_parse(argc, argv, rows, ROW_COUNT, &options, out_action));
    if (*out_action != COMMAND_RUN) return OK;
    TRY(check(&options));
    TRY(endpoints_settle(&options.endpoints));
    *out_options = options;
    return OK;
}
