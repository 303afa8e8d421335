#include "untrusted/swtpm/options.h"

#include <getopt.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "untrusted/swtpm/suboptions.h"

#define AT(member)      offsetof(struct swtpm_options, member)
#define CHANNEL(member) offsetof(struct swtpm_channel, member)
#define KEY(member)     offsetof(struct swtpm_key, member)
#define ON_SOCKET       (1u << SWTPM_SOCKET)
#define ON_CHARDEV      (1u << SWTPM_CHARDEV)
#define EVERYWHERE      (ON_SOCKET | ON_CHARDEV)
#define CHANNEL_MODE    0770u
#define STATE_MODE      0640u
#define FIRST_FREE_FD   3
#define VALUE_OF_ROW    256 /* getopt_long's, of the rows' indices */

const char swtpm_help[] = "TPM emulator with choice of interface: enclave-vtpm's, with a TPM in an SGX enclave.\n"
                          "\n"
                          "Usage: swtpm socket|chardev [options]\n"
                          "       swtpm -v|--version\n"
                          "\n"
                          "Use the --help option to see the help screen for each interface type.\n"
                          "Use the --version options to see version information.\n";

#define COMMON_HELP                                                                                                    \
    "-d|--daemon      : return when the TPM serves\n"                                                                  \
    "--ctrl type=unixio|tcp[,path=<path>][,port=<port>[,bindaddr=<address>[,ifname=<name>]]]\n"                        \
    "       [,fd=<fd>|clientfd=<fd>][,mode=0...][,uid=<uid>][,gid=<gid>][,terminate]\n"                                \
    "                 : the control channel\n"                                                                         \
    "--tpmstate dir=<dir>[,mode=0...]|backend-uri=dir://<dir>\n"                                                       \
    "                 : the directory whose file vtpm-instance names the TPM; copies of its sealed state go there\n"   \
    "--flags [not-need-init][,startup-clear|startup-state|startup-none]\n"                                             \
    "--locality [reject-locality-4][,allow-set-locality]\n"                                                            \
    "--pid file=<path>|fd=<fd>\n"                                                                                      \
    "--log file=<path>|fd=<fd>[,level=<n>][,prefix=<prefix>][,truncate]\n"                                             \
    "--migration [incoming][,release-lock-outgoing]\n"                                                                 \
    "                 : incoming: off until a client brings what another process of this TPM has saved,\n"             \
    "                   of the vtpmd whose socket VTPM_INCOMING_FROM in the environment names, or of this one;\n"      \
    "                   the other one has no effect: whoever goes on first has the TPM\n"                              \
    "--key, --migration-key\n"                                                                                         \
    "                 : read and not used: the state is always sealed, under keys that are nobody's\n"                 \
    "--seccomp action=none|kill|log\n"                                                                                 \
    "                 : has no effect: the process that serves confines itself always\n"                               \
    "-r|--runas <user>, -R|--chroot <dir>\n"                                                                           \
    "                 : of this process; the one that serves has a user of its own\n"                                  \
    "--tpm2           : a TPM 2.0; without it a TPM 1.2\n"                                                             \
    "--print-capabilities, --print-states\n"                                                                           \
    "-h|--help\n"                                                                                                      \
    "\n"                                                                                                               \
    "VTPM_SOCKET in the environment names the socket of vtpmd (/run/vtpm/admin.sock). See swtpm(8).\n"

const char swtpm_socket_help[] = "Usage: swtpm socket [options]\n"
                                 "\n"
                                 "-p|--port <port> : the data channel, on 127.0.0.1\n"
                                 "-f|--fd <fd>     : the data channel, connected\n"
                                 "-t|--terminate   : end when the data connection ends\n"
                                 "--server [type=tcp|unixio][,path=<path>][,port=<port>[,bindaddr=<address>[,ifname="
                                 "<name>]]][,fd=<fd>]\n"
                                 "         [,mode=0...][,uid=<uid>][,gid=<gid>][,disconnect]\n"
                                 "                 : the data channel\n" COMMON_HELP;
const char swtpm_chardev_help[] = "Usage: swtpm chardev [options]\n"
                                  "\n"
                                  "-c|--chardev <device>, -f|--fd <fd>\n"
                                  "                 : the character device to serve\n"
                                  "--vtpm-proxy     : make one, /dev/tpmN, by /dev/vtpmx\n" COMMON_HELP;

/* --- comma lists --- */

static const struct sub channel_subs[] = {
    {"type", SUB_TEXT, CHANNEL(type), NULL},
    {"path", SUB_TEXT, CHANNEL(path), NULL},
    {"port", SUB_PORT, CHANNEL(port), NULL},
    {"bindaddr", SUB_TEXT, CHANNEL(address), NULL},
    {"ifname", SUB_TEXT, CHANNEL(interface), NULL},
    {"fd", SUB_FD, CHANNEL(fd), NULL},
    {"clientfd", SUB_FD, CHANNEL(client_fd), NULL},
    {"mode", SUB_OCTAL, CHANNEL(mode), NULL},
    {"uid", SUB_TEXT, CHANNEL(user), NULL},
    {"gid", SUB_TEXT, CHANNEL(group), NULL},
    {"disconnect", SUB_FLAG, CHANNEL(disconnect), NULL},
    {"terminate", SUB_FLAG, CHANNEL(terminate), NULL},
    {0},
};

static const struct sub key_subs[] = {
    {"file", SUB_TEXT, KEY(file), NULL},
    {"fd", SUB_FD, KEY(fd), NULL},
    {"pwdfile", SUB_TEXT, KEY(password_file), NULL},
    {"pwdfd", SUB_FD, KEY(password_fd), NULL},
    {"mode", SUB_TEXT, KEY(mode), NULL},
    {"format", SUB_TEXT, KEY(format), NULL},
    {"kdf", SUB_TEXT, KEY(kdf), NULL},
    {"remove", SUB_FLAG, KEY(remove), NULL},
    {0},
};

static const struct sub state_subs[] = {
    {"dir", SUB_TEXT, AT(directory), NULL},
    {"backend-uri", SUB_TEXT, AT(backend), NULL},
    {"mode", SUB_OCTAL, AT(state_mode), NULL},
    {"lock", SUB_IGNORED, 0, NULL}, /* it always is */
    {"fsync", SUB_IGNORED, 0, NULL},
    {"backup", SUB_REFUSED, 0, "an older state is never gone back to by itself; use vtpmctl snapshot"},
    {0},
};

static const struct sub pid_subs[] = {
    {"file", SUB_TEXT, AT(pid_file), NULL},
    {"fd", SUB_FD, AT(pid_fd), NULL},
    {0},
};

static const struct sub log_subs[] = {
    {"file", SUB_TEXT, AT(log_file), NULL},         {"fd", SUB_FD, AT(log_fd), NULL},
    {"level", SUB_NUMBER, AT(log_level), NULL},     {"prefix", SUB_TEXT, AT(log_prefix), NULL},
    {"truncate", SUB_FLAG, AT(log_truncate), NULL}, {0},
};

static const struct sub flag_subs[] = {
    {"not-need-init", SUB_FLAG, AT(not_need_init), NULL},
    {"startup-clear", SUB_FLAG, AT(startup_clear), NULL},
    {"startup-state", SUB_FLAG, AT(startup_state), NULL},
    {"startup-none", SUB_FLAG, AT(startup_none), NULL},
    {"startup-deactivated", SUB_FLAG, AT(startup_deactivated), NULL},
    {"disable-auto-shutdown", SUB_REFUSED, 0,
     "a TPM that is switched off here is always shut down in order; leave it out"},
    {0},
};

static const struct sub locality_subs[] = {
    {"reject-locality-4", SUB_FLAG, AT(reject_locality_4), NULL},
    {"allow-set-locality", SUB_FLAG, AT(allow_set_locality), NULL},
    {0},
};

static const struct sub seccomp_subs[] = {{"action", SUB_TEXT, AT(seccomp), NULL}, {0}};

static const struct sub migration_subs[] = {
    {"release-lock-outgoing", SUB_IGNORED, 0, NULL}, /* no directory is locked; whoever goes on first has the TPM */
    {"incoming", SUB_FLAG, AT(incoming), NULL},
    {0},
};

/* --- options --- */

enum row_kind {
    ROW_FLAG,
    ROW_TEXT,
    ROW_FD,
    ROW_SUBS,
    ROW_CHANNEL,
    ROW_KEY,
    ROW_PORT,
};

static const struct row {
    const char *name;
    char letter; /* 0: none */
    unsigned interfaces;
    enum row_kind kind;
    size_t offset;
    const struct sub *subs;
    const char *why;
} rows[] = {
    {"daemon", 'd', EVERYWHERE, ROW_FLAG, AT(daemon), NULL, NULL},
    {"help", 'h', EVERYWHERE, ROW_FLAG, AT(help), NULL, NULL},
    {"version", 'v', EVERYWHERE, ROW_FLAG, AT(version), NULL, NULL},
    {"tpm2", 0, EVERYWHERE, ROW_FLAG, AT(tpm2), NULL, NULL},
    {"print-capabilities", 0, EVERYWHERE, ROW_FLAG, AT(print_capabilities), NULL, NULL},
    {"print-states", 0, EVERYWHERE, ROW_FLAG, AT(print_states), NULL, NULL},
    {"terminate", 't', ON_SOCKET, ROW_FLAG, AT(terminate), NULL, NULL},
    {"vtpm-proxy", 0, ON_CHARDEV, ROW_FLAG, AT(device), NULL, NULL},
    {"runas", 'r', EVERYWHERE, ROW_TEXT, AT(user), NULL, NULL},
    {"chroot", 'R', EVERYWHERE, ROW_TEXT, AT(root), NULL, NULL},
    {"chardev", 'c', ON_CHARDEV, ROW_TEXT, AT(device_path), NULL, NULL},
    {"fd", 'f', EVERYWHERE, ROW_FD, AT(data_fd), NULL, NULL},
    {"port", 'p', ON_SOCKET, ROW_PORT, 0, NULL, NULL},
    {"ctrl", 0, EVERYWHERE, ROW_CHANNEL, AT(control), channel_subs, NULL},
    {"server", 0, ON_SOCKET, ROW_CHANNEL, AT(data), channel_subs, NULL},
    {"key", 0, EVERYWHERE, ROW_KEY, 0, key_subs, NULL},
    {"migration-key", 0, EVERYWHERE, ROW_KEY, 0, key_subs, NULL},
    {"tpmstate", 0, EVERYWHERE, ROW_SUBS, 0, state_subs, NULL},
    {"pid", 0, EVERYWHERE, ROW_SUBS, 0, pid_subs, NULL},
    {"log", 0, EVERYWHERE, ROW_SUBS, 0, log_subs, NULL},
    {"flags", 0, EVERYWHERE, ROW_SUBS, 0, flag_subs, NULL},
    {"locality", 0, EVERYWHERE, ROW_SUBS, 0, locality_subs, NULL},
    {"seccomp", 0, EVERYWHERE, ROW_SUBS, 0, seccomp_subs, NULL},
    {"migration", 0, EVERYWHERE, ROW_SUBS, 0, migration_subs, NULL},
    {"profile", 0, EVERYWHERE, ROW_TEXT, 0, NULL,
     "the TPM's algorithms are those that its enclave was built with; leave it out"},
    {"print-info", 0, EVERYWHERE, ROW_TEXT, 0, NULL, "ask the TPM itself: tpm2_getcap"},
    {"pcap", 0, EVERYWHERE, ROW_TEXT, 0, NULL,
     "what a TPM is asked is written nowhere; trace it where it is asked (TSS2_LOG, tcti-pcap)"},
    /* It has no value, and no profiles are no mistake of the command line's: it is refused as the others are. */
    {"print-profiles", 0, EVERYWHERE, ROW_FLAG, 0, NULL,
     "this TPM has no profiles; its algorithms are in tpm2_getcap algorithms"},
};
#define ROW_COUNT (sizeof rows / sizeof *rows)

static struct swtpm_channel channel_of(void)
{
    return (struct swtpm_channel){.fd = -1, .client_fd = -1, .mode = CHANNEL_MODE};
}

/* What each kind of row does with its value. */
typedef struct err take_value(const struct row *row, char *value, struct swtpm_options *options,
                              struct explanation *why);

static void *field_of(const struct row *row, struct swtpm_options *options)
{
    return (char *)options + row->offset;
}

static struct err take_flag(const struct row *row, char *value, struct swtpm_options *options, struct explanation *why)
{
    (void)value, (void)why;
    *(bool *)field_of(row, options) = true;
    return OK;
}

static struct err take_text(const struct row *row, char *value, struct swtpm_options *options, struct explanation *why)
{
    (void)why;
    *(const char **)field_of(row, options) = value;
    return OK;
}

static struct err take_fd(const struct row *row, char *value, struct swtpm_options *options, struct explanation *why)
{
    char *end = NULL;
    const long fd = strtol(value, &end, 10);
    if (*value < '0' || *value > '9' || *end || fd < FIRST_FREE_FD || fd > 65535)
        return explain(why, FAIL(USAGE), "--%s wants a file descriptor above 2", row->name);
    *(int *)field_of(row, options) = (int)fd;
    return OK;
}

static struct err take_subs(const struct row *row, char *value, struct swtpm_options *options, struct explanation *why)
{
    return suboptions_parse(row->name, value, row->subs, options, why);
}

static struct err take_channel(const struct row *row, char *value, struct swtpm_options *options,
                               struct explanation *why)
{
    struct swtpm_channel *channel = field_of(row, options);
    *channel = channel_of();
    channel->given = true;
    return suboptions_parse(row->name, value, row->subs, channel, why);
}

static struct err take_key(const struct row *row, char *value, struct swtpm_options *options, struct explanation *why)
{
    if (options->key_count == SWTPM_KEYS_MAX) return explain(why, FAIL(USAGE), "--%s was given too often", row->name);
    struct swtpm_key *key = &options->keys[options->key_count++];
    *key = (struct swtpm_key){.fd = -1, .password_fd = -1};
    TRY(suboptions_parse(row->name, value, row->subs, key, why));
    const int sources = !!key->file + !!key->password_file + (key->fd >= 0) + (key->password_fd >= 0);
    if (sources != 1) return explain(why, FAIL(USAGE), "--%s wants one of file, fd, pwdfile, pwdfd", row->name);
    return OK;
}

static struct err take_port(const struct row *row, char *value, struct swtpm_options *options, struct explanation *why)
{
    static const struct sub port[] = {{"port", SUB_PORT, CHANNEL(port), NULL}, {0}};
    char text[32] = "port=";
    if (strlen(value) >= sizeof text - strlen(text)) return explain(why, FAIL(USAGE), "--port wants 1 to 65535");
    strcat(text, value);
    options->data = channel_of();
    TRY(suboptions_parse(row->name, text, port, &options->data, why));
    options->data.given = options->data.disconnect = true;
    return OK;
}

static struct err take_row(const struct row *row, char *value, struct swtpm_options *options, struct explanation *why)
{
    static take_value *const takes[] = {
        [ROW_FLAG] = take_flag,       [ROW_TEXT] = take_text, [ROW_FD] = take_fd,     [ROW_SUBS] = take_subs,
        [ROW_CHANNEL] = take_channel, [ROW_KEY] = take_key,   [ROW_PORT] = take_port,
    };
    if (!(row->interfaces & (1u << options->interface)))
        return explain(why, FAIL(USAGE), "--%s is no option of this interface", row->name);
    if (row->why) return explain(why, FAIL(USAGE), "--%s: %s", row->name, row->why);
    return takes[row->kind](row, value, options, why);
}

/* --- what has to hang together --- */

static struct err check_channel(const char *name, struct swtpm_channel *channel, struct explanation *why)
{
    const bool by_name = strcmp(name, "server") == 0;
    if (!channel->given) return OK;
    if (!channel->type && by_name) channel->type = channel->path ? "unixio" : "tcp";
    if (!channel->type) return explain(why, FAIL(USAGE), "--%s wants type=unixio or type=tcp", name);
    const bool unixio = strcmp(channel->type, "unixio") == 0;
    if (!unixio && strcmp(channel->type, "tcp") != 0)
        return explain(why, FAIL(USAGE), "--%s type=%.20s: it is unixio or tcp", name, channel->type);
    const int places =
        (channel->path && unixio) + (channel->port && !unixio) + (channel->fd >= 0) + (channel->client_fd >= 0);
    if (channel->client_fd >= 0 && by_name)
        return explain(why, FAIL(USAGE), "--server has no clientfd: a connected socket is --fd, or type=tcp,fd=");
    if (places != 1)
        return explain(why, FAIL(USAGE), "--%s type=%s wants one of %s, fd%s", name, channel->type,
                       unixio ? "path" : "port", by_name ? "" : ", clientfd");
    if (channel->terminate && by_name) return explain(why, FAIL(USAGE), "--server has no terminate: use --terminate");
    if (channel->disconnect && !by_name) return explain(why, FAIL(USAGE), "--ctrl has no disconnect");
    return OK;
}

static struct err check_state(struct swtpm_options *options, struct explanation *why)
{
    if (options->directory && options->backend)
        return explain(why, FAIL(USAGE), "--tpmstate has dir and backend-uri: either of them");
    if (options->backend && strncmp(options->backend, "dir://", 6) != 0)
        return explain(why, FAIL(USAGE),
                       "--tpmstate backend-uri=%.100s: a single file is not kept here; use dir=DIRECTORY",
                       options->backend);
    if (options->backend) options->directory = options->backend + 6;
    if (!options->directory) options->directory = getenv("TPM_PATH");
    const bool needed = !options->print_capabilities;
    if (needed && (!options->directory || !*options->directory))
        return explain(why, FAIL(USAGE), "the state directory is missing: --tpmstate dir=DIRECTORY, or TPM_PATH");
    return OK;
}

static struct err check_flags(struct swtpm_options *options, struct explanation *why)
{
    const int startups = options->startup_clear + options->startup_state + options->startup_none;
    if (options->startup_deactivated)
        return explain(why, FAIL(USAGE),
                       "--flags startup-deactivated: a TPM is started with its state; use startup-clear");
    if (startups > 1) return explain(why, FAIL(USAGE), "--flags has one startup-... only");
    if (startups) options->not_need_init = true;
    if (options->incoming && options->not_need_init)
        return explain(
            why, FAIL(USAGE),
            "--migration incoming: the TPM is off until CMD_INIT, which follows its state; leave --flags out");
    return OK;
}

static struct err check(struct swtpm_options *options, struct explanation *why)
{
    TRY(check_state(options, why));
    if (options->print_capabilities) return OK;
    if (options->print_states) return OK;
    TRY(check_flags(options, why));
    TRY(check_channel("ctrl", &options->control, why));
    TRY(check_channel("server", &options->data, why));
    if (options->data.given && options->data_fd >= 0)
        return explain(why, FAIL(USAGE), "the data channel has two places: --server, --port or --fd");
    const bool chardev = options->interface == SWTPM_CHARDEV;
    const int devices = options->device + !!options->device_path + (options->data_fd >= 0);
    if (chardev && !options->tpm2)
        return explain(why, FAIL(USAGE), "swtpm chardev: a TPM 1.2 is served on sockets only: add --tpm2");
    if (chardev && options->incoming)
        return explain(why, FAIL(USAGE), "--migration incoming: the TPM of a device does not move; use swtpm socket");
    if (chardev && devices != 1) return explain(why, FAIL(USAGE), "which device? --vtpm-proxy, --chardev or --fd");
    if (!chardev && !options->control.given && !options->data.given && options->data_fd < 0)
        return explain(why, FAIL(USAGE), "nobody could reach the TPM: --ctrl, --server, --port or --fd is missing");
    return OK;
}

/* --- the whole --- */

static void make_table(struct option out_options[ROW_COUNT + 1], char *out_letters)
{
    *out_letters++ = ':';
    for (size_t i = 0; i < ROW_COUNT; i++) {
        const bool value = rows[i].kind != ROW_FLAG;
        out_options[i] = (struct option){rows[i].name, value, NULL, VALUE_OF_ROW + (int)i};
        if (rows[i].letter) *out_letters++ = rows[i].letter;
        if (rows[i].letter && value) *out_letters++ = ':';
    }
    out_options[ROW_COUNT] = (struct option){0};
    *out_letters = '\0';
}

static const struct row *row_of(int option)
{
    if (option >= VALUE_OF_ROW) return &rows[option - VALUE_OF_ROW];
    for (size_t i = 0; i < ROW_COUNT; i++)
        if (rows[i].letter == option) return &rows[i];
    return NULL;
}

static struct err take_all(int argc, char **argv, struct swtpm_options *options, struct explanation *why)
{
    struct option long_options[ROW_COUNT + 1];
    char letters[2 * ROW_COUNT + 2];
    make_table(long_options, letters);
    optind = 0;
    opterr = 0;
    for (int option; (option = getopt_long(argc, argv, letters, long_options, NULL)) != -1;) {
        const struct row *row = row_of(option);
        if (option == ':') return explain(why, FAIL(USAGE), "%.80s: its value is missing", argv[optind - 1]);
        if (!row) return explain(why, FAIL(USAGE), "%.80s: there is no such option", argv[optind - 1]);
        TRY(take_row(row, optarg, options, why));
    }
    if (optind < argc) return explain(why, FAIL(USAGE), "%.80s: this is no option", argv[optind]);
    return OK;
}

static struct err take_interface(const char *name, struct swtpm_options *options, struct explanation *why)
{
    static const struct {
        const char *name;
        enum swtpm_interface interface;
    } names[] = {{"socket", SWTPM_SOCKET}, {"chardev", SWTPM_CHARDEV}};
    options->version = strcmp(name, "--version") == 0 || strcmp(name, "-v") == 0;
    options->help = strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i].name) == 0) options->interface = names[i].interface;
    if (options->interface || options->version || options->help) return OK;
    return explain(why, FAIL(USAGE), "Unsupported TPM interface '%.40s': it is socket or chardev", name);
}

struct err swtpm_options_parse(int argc, char **argv, struct swtpm_options *out_options, struct explanation *why)
{
    struct swtpm_options options = {.data_fd = -1,
                                    .pid_fd = -1,
                                    .log_fd = -1,
                                    .state_mode = STATE_MODE,
                                    .control = channel_of(),
                                    .data = channel_of()};
    if (argc < 2) return explain(why, FAIL(USAGE), "which interface? socket or chardev (--help)");
    TRY(take_interface(argv[1], &options, why));
    if (options.interface) TRY(take_all(argc - 1, argv + 1, &options, why));
    if (options.interface && !options.help && !options.version) TRY(check(&options, why));
    *out_options = options;
    return OK;
}
