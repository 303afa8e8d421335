#include "untrusted/daemon/config.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "untrusted/host/log.h"
#include "untrusted/sgx/cpu_wire.h"
#include "untrusted/sgx/kernel.h"

#define COMMIT_TIMEOUT_DEFAULT 20u
#define COMMIT_TIMEOUT_MAX     3600u
#define ANCHOR_TPM_DEFAULT     "device:/dev/tpmrm0"
#define NV_INDEX_DEFAULT       0x01800100u
#define NV_INDEX_MIN           0x01800000u /* the owner's, by TCG's registry of reserved handles */
#define NV_INDEX_MAX           0x01BFFFFFu
#define RATE_MAX               10000u
#define RATE_OF_KIND           UINT_MAX /* until the kind of the anchor is known */
#define TPM_ANCHOR_RATE        10u
#define TPM_COMMIT_RATE        5u
#define LINE_SIZE              4096u

const char config_help[] =
    "usage: vtpmd [OPTION]...\n"
    "Runs the manager enclave, keeps its store, and serves the vTPM instances of this host.\n"
    "\n"
    "  --config FILE             key = value lines (" VTPM_CONFIG_DEFAULT ")\n"
    "  --init                    make the store and the trust domain, once, and end\n"
    "  --recovery-key PEM        with --init: who can bring the trust domain back; up to 8 times\n"
    "  --recovery-threshold M    with --init: how many of them it takes\n"
    "  --recover                 bring a trust domain back with its recovery keys, and end\n"
    "  --state-dir DIR           the store (/var/lib/vtpm)\n"
    "  --run-dir DIR             the sockets (/run/vtpm)\n"
    "  --device DEVICE           auto, sgx (" KERNEL_DEVICE_PATH ") or software (auto)\n"
    "  --cpu SOCKET              the socket of vtpm-cpu (" CPU_SOCKET_DEFAULT ")\n"
    "  --manager-image FILE      the manager's enclave image\n"
    "  --instance-image FILE     the instances' enclave image\n"
    "  --instance-program FILE   vtpm-instance\n"
    "  --user NAME               when started by root: the user that instances become\n"
    "  --ordinary-memory         go on without secret memory: keys and TPMs are then NOT protected\n"
    "  --help, --version\n";

/* The place that a word came from: "vtpmd.conf:7" or "--user". */
struct origin {
    const char *name;
    unsigned line; /* 0: an option */
};

static struct err complain(const struct origin *from, const char *what, const char *value)
{
    if (from->line)
        log_line(LOG_LEVEL_ERROR, "%s:%u: %s%s%s", from->name, from->line, what, value ? ": " : "", value ? value : "");
    else
        log_line(LOG_LEVEL_ERROR, "%s: %s%s%s", from->name, what, value ? ": " : "", value ? value : "");
    return from->line ? FAIL(CONFIG) : FAIL(USAGE);
}

static struct err set_text(void *field, const char *value, const struct origin *from)
{
    (void)from;
    char *copy = strdup(value);
    ENSURE(copy, NO_MEMORY);
    char **text = field;
    free(*text);
    *text = copy;
    return OK;
}

/* Every place is named from the root: nobody guesses from which directory a daemon was started. */
static struct err set_path(void *field, const char *value, const struct origin *from)
{
    if (value[0] != '/') return complain(from, "this wants a path that begins with /, not", value);
    return set_text(field, value, from);
}

static struct err set_user(void *field, const char *value, const struct origin *from)
{
    const struct passwd *entry = getpwnam(value);
    if (!entry || entry->pw_uid == 0)
        return complain(from, "this wants a user that there is and that is not root, not", value);
    return set_text(field, value, from);
}

static struct err set_group(void *field, const char *value, const struct origin *from)
{
    if (!getgrnam(value)) return complain(from, "this wants a group that there is, not", value);
    return set_text(field, value, from);
}

static struct err set_seconds(void *field, const char *value, const struct origin *from)
{
    char *end = NULL;
    unsigned long seconds = strtoul(value, &end, 10);
    if (!isdigit((unsigned char)*value) || *end || seconds < 1 || seconds > COMMIT_TIMEOUT_MAX)
        return complain(from, "this wants 1 to 3600 seconds, not", value);
    *(unsigned *)field = (unsigned)seconds;
    return OK;
}

static struct err set_choice(bool *field, const char *value, const char *yes, const char *no, const struct origin *from)
{
    bool is_yes = strcmp(value, yes) == 0;
    char sentence[80];
    (void)snprintf(sentence, sizeof sentence, "this wants %s or %s, not", yes, no);
    if (!is_yes && strcmp(value, no) != 0) return complain(from, sentence, value);
    *field = is_yes;
    return OK;
}

static struct err set_yes_no(void *field, const char *value, const struct origin *from)
{
    return set_choice(field, value, "yes", "no", from);
}

static struct err set_rebuild(void *field, const char *value, const struct origin *from)
{
    return set_choice(field, value, "automatic", "manual", from);
}

static struct err set_device(void *field, const char *value, const struct origin *from)
{
    if (device_kind_parse(value, field).code) return complain(from, "this wants auto, sgx or software, not", value);
    return OK;
}

static struct err set_anchor(void *field, const char *value, const struct origin *from)
{
    bool is_file = false;
    TRY(set_choice(&is_file, value, "file", "tpm", from));
    *(enum anchor_kind *)field = is_file ? ANCHOR_FILE : ANCHOR_TPM;
    return OK;
}

static struct err set_rate(void *field, const char *value, const struct origin *from)
{
    char *end = NULL;
    unsigned long rate = strtoul(value, &end, 10);
    if (!isdigit((unsigned char)*value) || *end || rate > RATE_MAX)
        return complain(from, "this wants 0 (no limit) to 10000 a second, not", value);
    *(unsigned *)field = (unsigned)rate;
    return OK;
}

static struct err set_nv_index(void *field, const char *value, const struct origin *from)
{
    char *end = NULL;
    unsigned long index = strtoul(value, &end, 16);
    if (strncmp(value, "0x", 2) != 0 || *end || index < NV_INDEX_MIN || index > NV_INDEX_MAX)
        return complain(from, "this wants an NV index of the owner, 0x01800000 to 0x01bfffff, not", value);
    *(uint32_t *)field = (uint32_t)index;
    return OK;
}

/* The keys of the file; those with `option` are options of the same name too, which go before the file. */
static const struct row {
    const char *key;
    int argument; /* of the option */
    bool option;
    size_t offset;
    struct err (*set)(void *field, const char *value, const struct origin *from);
} rows[] = {
    {"state-dir", required_argument, true, offsetof(struct config, state_dir), set_path},
    {"run-dir", required_argument, true, offsetof(struct config, run_dir), set_path},
    {"device", required_argument, true, offsetof(struct config, device), set_device},
    {"cpu", required_argument, true, offsetof(struct config, cpu), set_path},
    {"manager-image", required_argument, true, offsetof(struct config, manager_image), set_path},
    {"instance-image", required_argument, true, offsetof(struct config, instance_image), set_path},
    {"instance-program", required_argument, true, offsetof(struct config, instance_program), set_path},
    {"user", required_argument, true, offsetof(struct config, user), set_user},
    {"ordinary-memory", no_argument, true, offsetof(struct config, ordinary_memory), set_yes_no},
    {"admin-group", 0, false, offsetof(struct config, admin_group), set_group},
    {"commit-timeout", 0, false, offsetof(struct config, commit_timeout), set_seconds},
    {"anchor", 0, false, offsetof(struct config, anchor), set_anchor},
    {"anchor-file", 0, false, offsetof(struct config, anchor_file), set_path},
    {"anchor-tpm", 0, false, offsetof(struct config, anchor_tpm), set_text},
    {"anchor-nv-index", 0, false, offsetof(struct config, anchor_nv_index), set_nv_index},
    {"anchor-rate", 0, false, offsetof(struct config, anchor_rate), set_rate},
    {"commit-rate", 0, false, offsetof(struct config, commit_rate), set_rate},
    {"rebuild", 0, false, offsetof(struct config, rebuild), set_rebuild},
};
#define ROW_COUNT (sizeof rows / sizeof rows[0])

enum { VAL_CONFIG = 1000, VAL_INIT, VAL_RECOVER, VAL_RECOVERY_KEY, VAL_RECOVERY_THRESHOLD, VAL_HELP, VAL_VERSION };

static struct err set(struct config *config, const struct row *row, const char *value, const struct origin *from)
{
    if (!*value) return complain(from, "this has no value", row->key);
    return row->set((char *)config + row->offset, value, from);
}

/* --- the file ------------------------------------------------------------------------------------------------------
 */

static char *trim(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    size_t size = strlen(text);
    while (size && isspace((unsigned char)text[size - 1]))
        text[--size] = 0;
    return text;
}

static struct err take_line(struct config *config, bool seen[ROW_COUNT], char *line, const struct origin *from)
{
    char *key = trim(line);
    if (!*key || *key == '#') return OK;
    char *equals = strchr(key, '=');
    if (!equals) return complain(from, "this is no \"key = value\"", key);
    *equals = 0;
    key = trim(key);
    for (size_t i = 0; i < ROW_COUNT; i++) {
        if (strcmp(rows[i].key, key) != 0) continue;
        if (seen[i]) return complain(from, "this key was given before", key);
        seen[i] = true;
        return set(config, &rows[i], trim(equals + 1), from);
    }
    return complain(from, "this key is unknown", key);
}

static void close_file(FILE **file)
{
    if (*file) fclose(*file);
}

static struct err read_file(struct config *config, const char *path, bool must_exist)
{
    bool seen[ROW_COUNT] = {false};
    char line[LINE_SIZE];
    struct origin from = {.name = path};
    FILE *file DEFER(close_file) = fopen(path, "re");
    if (!file && errno == ENOENT && !must_exist) return OK;
    if (!file) {
        log_line(LOG_LEVEL_ERROR, "%s: %s", path, strerror(errno));
        return FAIL(CONFIG);
    }
    while (fgets(line, sizeof line, file)) {
        from.line++;
        if (!strchr(line, '\n') && !feof(file)) return complain(&from, "this line is too long", NULL);
        TRY(take_line(config, seen, line, &from));
    }
    if (!ferror(file)) return OK;
    from.line++;
    return complain(&from, strerror(errno), NULL);
}

/* --- options -------------------------------------------------------------------------------------------------------
 */

struct given {
    const char *values[ROW_COUNT];
    const char *file;
    bool init, recover;
    const char *threshold;
    unsigned key_count;
    const char *keys[RECOVERY_KEYS_MAX];
};

static struct err take_own_option(int val, const struct origin *from, struct given *given)
{
    if (val == VAL_CONFIG) given->file = optarg;
    if (val == VAL_INIT) given->init = true;
    if (val == VAL_RECOVER) given->recover = true;
    if (val == VAL_RECOVERY_THRESHOLD) given->threshold = optarg;
    if (val != VAL_RECOVERY_KEY) return OK;
    if (given->key_count == RECOVERY_KEYS_MAX) return complain(from, "there may be 8 of them at most", NULL);
    given->keys[given->key_count++] = optarg;
    return OK;
}

static struct err read_options(int argc, char **argv, enum config_action *out_action, struct given *given)
{
    struct option table[ROW_COUNT + 8] = {0};
    size_t count = 0;
    for (size_t i = 0; i < ROW_COUNT; i++)
        if (rows[i].option) table[count++] = (struct option){rows[i].key, rows[i].argument, NULL, (int)i};
    table[count++] = (struct option){"config", required_argument, NULL, VAL_CONFIG};
    table[count++] = (struct option){"init", no_argument, NULL, VAL_INIT};
    table[count++] = (struct option){"recover", no_argument, NULL, VAL_RECOVER};
    table[count++] = (struct option){"recovery-key", required_argument, NULL, VAL_RECOVERY_KEY};
    table[count++] = (struct option){"recovery-threshold", required_argument, NULL, VAL_RECOVERY_THRESHOLD};
    table[count++] = (struct option){"help", no_argument, NULL, VAL_HELP};
    table[count++] = (struct option){"version", no_argument, NULL, VAL_VERSION};
    optind = 0;
    opterr = 0;
    for (int val; (val = getopt_long(argc, argv, "", table, NULL)) != -1;) {
        const struct origin from = {.name = argv[optind - 1]};
        if (val == '?') return complain(&from, "this option is unknown or lacks its value (--help lists them)", NULL);
        if (val == VAL_HELP || val == VAL_VERSION) {
            *out_action = val == VAL_HELP ? CONFIG_HELP : CONFIG_VERSION;
            return OK;
        }
        if (val >= VAL_CONFIG)
            TRY(take_own_option(val, &from, given));
        else
            given->values[val] = optarg ? optarg : "yes";
    }
    const struct origin from = {.name = argv[optind]};
    return optind == argc ? OK : complain(&from, "this is no option (--help lists them)", NULL);
}

static struct err set_defaults(struct config *config)
{
    static const struct origin built_in = {.name = "default"};
    config->commit_timeout = COMMIT_TIMEOUT_DEFAULT;
    config->rebuild = true;
    config->anchor = ANCHOR_FILE;
    config->anchor_nv_index = NV_INDEX_DEFAULT;
    config->anchor_rate = RATE_OF_KIND;
    config->commit_rate = RATE_OF_KIND;
    TRY(set_text(&config->anchor_tpm, ANCHOR_TPM_DEFAULT, &built_in));
    TRY(set_text(&config->state_dir, "/var/lib/vtpm", &built_in));
    TRY(set_text(&config->run_dir, "/run/vtpm", &built_in));
    TRY(set_text(&config->cpu, CPU_SOCKET_DEFAULT, &built_in));
    TRY(set_text(&config->manager_image, VTPM_MANAGER_IMAGE_DEFAULT, &built_in));
    TRY(set_text(&config->instance_image, VTPM_INSTANCE_IMAGE_DEFAULT, &built_in));
    return set_text(&config->instance_program, VTPM_INSTANCE_PROGRAM_DEFAULT, &built_in);
}

/* The defaults that depend on what was given. */
static struct err set_anchor_defaults(struct config *config)
{
    const bool is_tpm = config->anchor == ANCHOR_TPM;
    if (config->anchor_rate == RATE_OF_KIND) config->anchor_rate = is_tpm ? TPM_ANCHOR_RATE : 0;
    if (config->commit_rate == RATE_OF_KIND) config->commit_rate = is_tpm ? TPM_COMMIT_RATE : 0;
    if (config->anchor_file) return OK;
    ENSURE(asprintf(&config->anchor_file, "%s/anchor", config->state_dir) >= 0, NO_MEMORY);
    return OK;
}

static struct err set_recovery(const struct given *given, struct config *config)
{
    static const struct origin from = {.name = "--recovery-threshold"};
    char *end = NULL;
    if (given->init && given->recover) return complain(&(struct origin){.name = "--recover"}, "not with --init", NULL);
    if (!given->key_count && !given->threshold) return OK;
    if (!given->init) return complain(&(struct origin){.name = "--recovery-key"}, "is for --init alone", NULL);
    const unsigned long threshold = given->threshold ? strtoul(given->threshold, &end, 10) : 0;
    if (threshold < 1 || threshold > given->key_count || *end)
        return complain(&from, "has to say how many of the recovery keys it takes, at least 1", NULL);
    config->recovery_threshold = (uint8_t)threshold;
    config->recovery_key_count = (uint8_t)given->key_count;
    memcpy(config->recovery_keys, given->keys, sizeof given->keys);
    return OK;
}

static struct err load(const struct given *given, struct config *config)
{
    TRY(set_defaults(config));
    TRY(read_file(config, given->file ? given->file : VTPM_CONFIG_DEFAULT, given->file != NULL));
    for (size_t i = 0; i < ROW_COUNT; i++) {
        char name[40];
        (void)snprintf(name, sizeof name, "--%s", rows[i].key);
        const struct origin from = {.name = name};
        if (given->values[i]) TRY(set(config, &rows[i], given->values[i], &from));
    }
    config->init = given->init;
    config->recover = given->recover;
    TRY(set_recovery(given, config));
    return set_anchor_defaults(config);
}

struct err config_load(int argc, char **argv, enum config_action *out_action, struct config *out_config)
{
    struct given given = {0};
    struct config config = {0};
    *out_action = CONFIG_RUN;
    TRY(read_options(argc, argv, out_action, &given));
    if (*out_action != CONFIG_RUN) return OK;
    struct err result = load(&given, &config);
    if (result.code) {
        config_free(&config);
        return result;
    }
    *out_config = config;
    return OK;
}

static bool is_text(const struct row *row)
{
    return row->set == set_path || row->set == set_text || row->set == set_user || row->set == set_group;
}

void config_free(struct config *config)
{
    for (size_t i = 0; i < ROW_COUNT; i++)
        if (is_text(&rows[i])) free(*(char **)((char *)config + rows[i].offset));
    *config = (struct config){0};
}
