#include "untrusted/instance/options.h"

#include <stdlib.h>
#include <string.h>

#include "untrusted/sgx/cpu_wire.h"
#include "untrusted/sgx/kernel.h"

#define COMMIT_TIMEOUT_DEFAULT 20u
#define COMMIT_TIMEOUT_MAX     3600u

const char options_help[] =
    "usage: vtpm-instance --daemon SOCKET --id UUID (--swtpm ADDRESS | --mssim ADDRESS | --front ADDRESS)... "
    "[OPTION]...\n"
    "Serves one TPM from an SGX enclave. ADDRESS is unix:PATH or tcp:[ADDR:]PORT; ADDR is 127.0.0.1 if not given.\n"
    "\n"
    "  --daemon SOCKET           the socket of vtpmd, which keeps the sealed state\n"
    "  --id UUID                 serve the TPM of this id\n"
    "  --swtpm ADDRESS           swtpm's data channel; its control channel is at PATH.ctrl or PORT + 1\n"
    "  --mssim tcp:[ADDR:]PORT   the simulator's command port; its platform port is PORT + 1\n"
    "  --tpm 2.0|1.2             the family of the TPM, as vtpmd knows it (2.0)\n"
    "  --front unix:PATH         instead of both: vtpm-front serves the clients, and connects here\n"
    "  --swtpm-fd ROLE:FD        serve this descriptor: data, control, data-client or control-client\n"
    "  --off, --startup clear|state, --terminate, --disconnect, --reject-locality-4\n"
    "                            with --swtpm-fd, as swtpm's options of these names\n"
    "  --image FILE              the enclave image (" VTPM_IMAGE_DEFAULT ")\n"
    "  --device DEVICE           auto, sgx (" KERNEL_DEVICE_PATH ") or software; as vtpmd's (auto)\n"
    "  --cpu SOCKET              the socket of vtpm-cpu (" CPU_SOCKET_DEFAULT ")\n"
    "  --user NAME               when started by root: the user to become\n"
    "  --commit-timeout SECONDS  how long a command waits for vtpmd before the TPM fails (20)\n"
    "  --rebuilt                 the process before this one was lost: the TPM fails until its client resets it\n"
    "  --incoming                the TPM is off until a client brings what another process of this instance has saved "
    "of it\n"
    "  --ordinary-memory         go on without secret memory: the TPM's secrets are then NOT protected\n"
    "  --help, --version\n";

static struct err set_swtpm(void *ctx, const char *value)
{
    struct options *options = ctx;
    return endpoints_add_swtpm(&options->endpoints, value);
}

static struct err set_mssim(void *ctx, const char *value)
{
    struct options *options = ctx;
    return endpoints_add_mssim(&options->endpoints, value);
}

static struct err set_swtpm_fd(void *ctx, const char *value)
{
    struct options *options = ctx;
    return endpoints_add_inherited(&options->endpoints, value);
}

static struct err set_off(void *ctx, const char *value)
{
    struct options *options = ctx;
    (void)value;
    options->manners.off = true;
    return OK;
}

static struct err set_startup(void *ctx, const char *value)
{
    struct options *options = ctx;
    const bool state = strcmp(value, "state") == 0;
    if (!state && strcmp(value, "clear") != 0) return command_usage("--startup wants clear or state, not", value);
    options->manners.starts_up = true;
    options->manners.from_saved = state;
    return OK;
}

static struct err set_terminate(void *ctx, const char *value)
{
    struct options *options = ctx;
    (void)value;
    options->manners.terminates = true;
    return OK;
}

static struct err set_disconnect(void *ctx, const char *value)
{
    struct options *options = ctx;
    (void)value;
    options->manners.disconnects = true;
    return OK;
}

static struct err set_reject_locality_4(void *ctx, const char *value)
{
    struct options *options = ctx;
    (void)value;
    options->manners.rejects_locality_4 = true;
    return OK;
}

static struct err set_id(void *ctx, const char *value)
{
    struct options *options = ctx;
    if (id_parse(value, &options->id).code) return command_usage("this is no UUID", value);
    options->has_id = true;
    return OK;
}

static struct err set_commit_timeout(void *ctx, const char *value)
{
    struct options *options = ctx;
    char *end = NULL;
    unsigned long seconds = strtoul(value, &end, 10);
    if (*value < '1' || *value > '9' || *end || seconds > COMMIT_TIMEOUT_MAX)
        return command_usage("--commit-timeout wants 1 to 3600 seconds, not", value);
    options->commit_timeout = (unsigned)seconds;
    return OK;
}

static struct err set_image(void *ctx, const char *value)
{
    struct options *options = ctx;
    options->image = value;
    return OK;
}

static struct err set_device(void *ctx, const char *value)
{
    struct options *options = ctx;
    if (device_kind_parse(value, &options->device).code)
        return command_usage("--device wants auto, sgx or software, not", value);
    return OK;
}

static struct err set_cpu(void *ctx, const char *value)
{
    struct options *options = ctx;
    options->cpu = value;
    return OK;
}

static struct err set_daemon(void *ctx, const char *value)
{
    struct options *options = ctx;
    options->daemon = value;
    return OK;
}

static struct err set_tpm(void *ctx, const char *value)
{
    struct options *options = ctx;
    return endpoints_take_family(&options->endpoints, value);
}

static struct err set_front(void *ctx, const char *value)
{
    struct options *options = ctx;
    if (options->separate_front) return command_usage("there is more than one --front", NULL);
    if (strncmp(value, "unix:", 5) != 0 || address_parse(value, &options->front).code)
        return command_usage("--front wants unix:PATH, not", value);
    options->separate_front = true;
    return OK;
}

static struct err set_user(void *ctx, const char *value)
{
    struct options *options = ctx;
    options->user = value;
    return OK;
}

static struct err set_ordinary_memory(void *ctx, const char *value)
{
    struct options *options = ctx;
    (void)value;
    options->ordinary_memory = true;
    return OK;
}

static struct err set_rebuilt(void *ctx, const char *value)
{
    struct options *options = ctx;
    (void)value;
    options->rebuilt = true;
    return OK;
}

static struct err set_incoming(void *ctx, const char *value)
{
    struct options *options = ctx;
    (void)value;
    options->incoming = true;
    return OK;
}

static const struct command_option rows[] = {
    {"image", true, set_image},
    {"device", true, set_device},
    {"cpu", true, set_cpu},
    {"daemon", true, set_daemon},
    {"front", true, set_front},
    {"id", true, set_id},
    {"swtpm", true, set_swtpm},
    {"mssim", true, set_mssim},
    {"tpm", true, set_tpm},
    {"swtpm-fd", true, set_swtpm_fd},
    {"off", false, set_off},
    {"startup", true, set_startup},
    {"terminate", false, set_terminate},
    {"disconnect", false, set_disconnect},
    {"reject-locality-4", false, set_reject_locality_4},
    {"user", true, set_user},
    {"commit-timeout", true, set_commit_timeout},
    {"rebuilt", false, set_rebuilt},
    {"incoming", false, set_incoming},
    {"ordinary-memory", false, set_ordinary_memory},
};
#define ROW_COUNT (sizeof rows / sizeof rows[0])

static struct err check(const struct options *options)
{
    if (!options->daemon) return command_usage("--daemon is missing", NULL);
    if (!options->has_id) return command_usage("--id is missing", NULL);
    if (options->separate_front && options->endpoints.count)
        return command_usage("with --front it is vtpm-front that listens for clients", NULL);
    if (!options->separate_front && options->endpoints.count == 0)
        return command_usage("--swtpm, --mssim or --front is missing: nobody could reach the TPM", NULL);
    return OK;
}

struct err options_parse(int argc, char **argv, enum command_action *out_action, struct options *out_options)
{
    struct options options = {
        .image = VTPM_IMAGE_DEFAULT, .cpu = CPU_SOCKET_DEFAULT, .commit_timeout = COMMIT_TIMEOUT_DEFAULT};
    TRY(command_line_parse(argc, argv, rows, ROW_COUNT, &options, out_action));
    if (*out_action != COMMAND_RUN) return OK;
    TRY(check(&options));
    TRY(endpoints_settle(&options.endpoints));
    *out_options = options;
    return OK;
}
