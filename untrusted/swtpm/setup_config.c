#include "untrusted/swtpm/setup_config.h"

#include <ctype.h>
#include <errno.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "untrusted/swtpm/suboptions.h"

#define NAME       "swtpm_setup.conf"
#define LINE_LIMIT 2048u

/* --- where --- */

static const char *home(void)
{
    const char *directory = getenv("HOME");
    if (directory && *directory) return directory;
    const struct passwd *user = getpwuid(getuid());
    return user ? user->pw_dir : "/";
}

/* $XDG_CONFIG_HOME, or ~/.config */
static void user_directory(char out[PATH_MAX])
{
    const char *named = getenv("XDG_CONFIG_HOME");
    if (named && *named)
        (void)snprintf(out, PATH_MAX, "%s", named);
    else
        (void)snprintf(out, PATH_MAX, "%s/.config", home());
}

static void default_path(char out[PATH_MAX])
{
    char directory[PATH_MAX];
    user_directory(directory);
    const int size = snprintf(out, PATH_MAX, "%s/" NAME, directory);
    if (size > 0 && size < PATH_MAX && access(out, F_OK) == 0) return;
    (void)snprintf(out, PATH_MAX, "/etc/" NAME);
    if (access(out, F_OK) != 0) *out = '\0';
}

/* --- reading --- */

static char *trim(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    for (size_t size = strlen(text); size > 0 && isspace((unsigned char)text[size - 1]); size--)
        text[size - 1] = '\0';
    return text;
}

/* ${NAME} becomes what the environment says; false if the result is too long. */
static bool expand(const char *text, char out[SETUP_VALUE_MAX])
{
    size_t used = 0;
    *out = '\0';
    while (*text) {
        char name[64];
        const char *end = strncmp(text, "${", 2) == 0 ? strchr(text, '}') : NULL;
        if (end && (size_t)(end - text) - 2 < sizeof name) {
            (void)snprintf(name, sizeof name, "%.*s", (int)(end - text - 2), text + 2);
            const char *value = getenv(name);
            used += (size_t)snprintf(out + used, SETUP_VALUE_MAX - used, "%s", value ? value : "");
            text = end + 1;
        } else {
            used += (size_t)snprintf(out + used, SETUP_VALUE_MAX - used, "%c", *text++);
        }
        if (used >= SETUP_VALUE_MAX) return false;
    }
    return true;
}

static bool take_line(char *line, struct setup_config *config)
{
    const struct {
        const char *name;
        char *field;
    } rows[] = {{"create_certs_tool", config->tool},
                {"create_certs_tool_config", config->tool_config},
                {"create_certs_tool_options", config->tool_options},
                {"active_pcr_banks", config->banks}};
    char *value = strchr(line, '=');
    const char *start = trim(line);
    if (!value || *start == '#') return true;
    *value++ = '\0';
    const char *name = trim(line);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(name, rows[i].name) == 0) return expand(trim(value), rows[i].field);
    return true;
}

struct err setup_config_read(const char *path, struct setup_config *out_config, struct explanation *why)
{
    static struct setup_config config;
    char line[LINE_LIMIT];
    config = (struct setup_config){.banks = "sha256"};
    if (path)
        (void)snprintf(config.path, sizeof config.path, "%s", path);
    else
        default_path(config.path);
    FILE *file = *config.path ? fopen(config.path, "re") : NULL;
    if (!file && path) return explain(why, FAIL(SYSTEM), "--config %.200s: %s", path, strerror(errno));
    bool good = true;
    while (file && good && fgets(line, sizeof line, file))
        good = take_line(line, &config);
    if (file) (void)fclose(file);
    if (!good) return explain(why, FAIL(TOO_LARGE), "%.200s: a value is too long", config.path);
    *out_config = config;
    return OK;
}

/* --- writing --- */

struct how {
    bool overwrite, root, skip;
};

static const struct sub how_subs[] = {
    {"overwrite", SUB_FLAG, offsetof(struct how, overwrite), NULL},
    {"root", SUB_FLAG, offsetof(struct how, root), NULL},
    {"skip-if-exist", SUB_FLAG, offsetof(struct how, skip), NULL},
    {0},
};

static const char setup_text[] = "create_certs_tool = /usr/bin/swtpm_localca\n"
                                 "create_certs_tool_config = %s/swtpm-localca.conf\n"
                                 "create_certs_tool_options = %s/swtpm-localca.options\n"
                                 "# Comma-separated list (no spaces) of PCR banks to activate by default\n"
                                 "active_pcr_banks = sha256\n";
static const char localca_text[] = "statedir = %s/var/lib/swtpm-localca\n"
                                   "signingkey = %s/var/lib/swtpm-localca/signkey.pem\n"
                                   "issuercert = %s/var/lib/swtpm-localca/issuercert.pem\n"
                                   "certserial = %s/var/lib/swtpm-localca/certserial\n";

static void print_setup(FILE *file, const char *directory)
{
    (void)fprintf(file, setup_text, directory, directory);
}

static void print_localca(FILE *file, const char *directory)
{
    (void)fprintf(file, localca_text, directory, directory, directory, directory);
}

/* A value of swtpm_localca's options is one word. */
static void print_options(FILE *file, const char *directory)
{
    struct utsname host;
    (void)directory;
    if (uname(&host) != 0) return;
    for (char *c = host.version; *c; c++)
        if (isspace((unsigned char)*c)) *c = '_';
    (void)fprintf(file, "--platform-manufacturer %s\n--platform-version %s\n--platform-model %s\n", host.sysname,
                  host.version, host.sysname);
}

static const struct {
    const char *name;
    void (*print)(FILE *file, const char *directory);
} files[] = {{NAME, print_setup}, {"swtpm-localca.conf", print_localca}, {"swtpm-localca.options", print_options}};
#define FILE_COUNT (sizeof files / sizeof *files)

static struct err write_one(const char *directory, size_t number, struct explanation *why)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof path, "%.3800s/%s", directory, files[number].name);
    printf("Writing %s.\n", path);
    FILE *file = fopen(path, "we");
    if (!file) return explain(why, FAIL(SYSTEM), "%.200s: %s", path, strerror(errno));
    files[number].print(file, directory);
    if (fclose(file) == 0) return OK;
    return explain(why, FAIL(SYSTEM), "%.200s: %s", path, strerror(errno));
}

/* ERR_STORE_EXISTS: so does one of them. */
static struct err check_absent(const char *directory, struct explanation *why)
{
    char path[PATH_MAX];
    for (size_t i = 0; i < FILE_COUNT; i++) {
        (void)snprintf(path, sizeof path, "%.3800s/%s", directory, files[i].name);
        if (access(path, F_OK) == 0)
            return explain(why, FAIL(STORE_EXISTS), "File %.200s already exists. Refusing to overwrite.", path);
    }
    return OK;
}

/* The state of swtpm_localca. */
static struct err make_directories(const char *directory, struct explanation *why)
{
    static const char *const names[] = {"", "/var", "/var/lib", "/var/lib/swtpm-localca"};
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        (void)snprintf(path, sizeof path, "%.3800s%s", directory, names[i]);
        if (mkdir(path, 0775) != 0 && errno != EEXIST)
            return explain(why, FAIL(SYSTEM), "%.200s: %s", path, strerror(errno));
    }
    return OK;
}

struct err setup_config_create(const char *how_text, struct explanation *why)
{
    struct how how = {0};
    char text[128];
    char directory[PATH_MAX];
    if (strlen(how_text) >= sizeof text) return explain(why, FAIL(USAGE), "--create-config-files: too long");
    (void)strcpy(text, how_text);
    TRY(suboptions_parse("create-config-files", text, how_subs, &how, why));
    if (how.overwrite && how.skip) return explain(why, FAIL(USAGE), "overwrite and skip-if-exist cannot both be used");
    if (geteuid() == 0 && !how.root)
        return explain(why, FAIL(USAGE),
                       "Requiring the 'root' flag since the configuration files will shadow those in /etc.");
    user_directory(directory);
    const struct err there = how.overwrite ? OK : check_absent(directory, why);
    if (there.code) return how.skip ? OK : there;
    TRY(make_directories(directory, why));
    for (size_t i = 0; i < FILE_COUNT; i++)
        TRY(write_one(directory, i, why));
    return OK;
}
