#include "untrusted/swtpm/setup_certificate.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "untrusted/host/log.h"

#define ARGUMENTS_MAX 40u
#define INVOKED_MAX   900u

extern char **environ;

struct arguments {
    const char *list[ARGUMENTS_MAX + 1];
    size_t count;
    char level[16], revision[16];
};

static void add(struct arguments *a, const char *option, const char *value)
{
    if (!value || !*value || a->count + 2 > ARGUMENTS_MAX) return;
    a->list[a->count++] = option;
    a->list[a->count++] = value;
}

static void add_flag(struct arguments *a, const char *option, bool given)
{
    if (given && a->count < ARGUMENTS_MAX) a->list[a->count++] = option;
}

static void add_info(struct arguments *a, const json_t *info)
{
    const json_t *specification = json_object_get(info, "TPMSpecification");
    const json_t *attributes = json_object_get(info, "TPMAttributes");
    (void)snprintf(a->level, sizeof a->level, "%lld",
                   (long long)json_integer_value(json_object_get(specification, "level")));
    (void)snprintf(a->revision, sizeof a->revision, "%lld",
                   (long long)json_integer_value(json_object_get(specification, "revision")));
    add(a, "--tpm-spec-family", json_string_value(json_object_get(specification, "family")));
    add(a, "--tpm-spec-level", a->level);
    add(a, "--tpm-spec-revision", a->revision);
    add(a, "--tpm-manufacturer", json_string_value(json_object_get(attributes, "manufacturer")));
    add(a, "--tpm-model", json_string_value(json_object_get(attributes, "model")));
    add(a, "--tpm-version", json_string_value(json_object_get(attributes, "version")));
}

static void write_arguments(const struct certificate_request *request, const char *directory, const json_t *info,
                            struct arguments *a)
{
    const struct setup_options *options = request->options;
    a->list[a->count++] = request->config->tool;
    add(a, "--type", request->type);
    add(a, "--ek", request->key);
    add(a, "--dir", directory);
    add(a, "--logfile", options->log_file);
    add(a, "--vmid", options->vm);
    add_info(a, info);
    add_flag(a, "--tpm2", options->tpm2);
    add_flag(a, "--allow-signing", options->allow_signing);
    add_flag(a, "--decryption", options->decryption);
    add(a, "--configfile", request->config->tool_config);
    add(a, "--optsfile", request->config->tool_options);
}

static void log_arguments(const struct arguments *a)
{
    char text[INVOKED_MAX] = "";
    for (size_t i = 0; i < a->count; i++)
        (void)snprintf(text + strlen(text), sizeof text - strlen(text), " %s", a->list[i]);
    log_line(LOG_LEVEL_INFO, "Invoking%s", text);
}

static struct err run_tool(const struct arguments *a, struct explanation *why)
{
    pid_t pid = 0;
    int status = 0;
    log_arguments(a);
    const int failed = posix_spawn(&pid, a->list[0], NULL, NULL, (char *const *)(uintptr_t)a->list, environ);
    if (failed) return explain(why, FAIL(SYSTEM), "An error occurred running %.200s: %s", a->list[0], strerror(failed));
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return OK;
    return explain(why, FAIL(SYSTEM), "An error occurred running %.200s: it ended with %d", a->list[0], status);
}

static struct err read_certificate(const char *path, struct certificate *out, struct explanation *why)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    const ssize_t got = fd >= 0 ? read(fd, out->bytes, sizeof out->bytes) : -1;
    const int number = errno;
    if (fd >= 0) (void)close(fd);
    if (got <= 0 || got == (ssize_t)sizeof out->bytes)
        return explain(why, FAIL(SYSTEM), "%.200s: %s", path, got < 0 ? strerror(number) : "no certificate");
    out->size = (size_t)got;
    return OK;
}

struct err certificate_make(const struct certificate_request *request, struct certificate *out_certificate,
                            struct explanation *why)
{
    char directory[] = "/tmp/swtpm_setup.certs.XXXXXX";
    char path[sizeof directory + 32];
    struct arguments arguments = {0};
    if (!*request->config->tool)
        return explain(
            why, FAIL(USAGE),
            "a certificate was asked for, and %.200s names no create_certs_tool (swtpm_localca, of the package "
            "swtpm-tools)",
            *request->config->path ? request->config->path : "no swtpm_setup.conf");
    if (!mkdtemp(directory)) return explain(why, FAIL(SYSTEM), "%s: %s", directory, strerror(errno));
    json_t *info = json_loads(request->info, JSON_REJECT_DUPLICATES, NULL);
    write_arguments(request, directory, info, &arguments);
    (void)snprintf(path, sizeof path, "%s/%s.cert", directory, request->type);
    struct err err = info ? run_tool(&arguments, why) : explain(why, FAIL(PROTOCOL), "the TPM does not say what it is");
    if (!err.code) err = read_certificate(path, out_certificate, why);
    json_decref(info);
    (void)unlink(path);
    (void)rmdir(directory);
    return err;
}
