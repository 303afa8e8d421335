#include "untrusted/daemon/spawn.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "untrusted/daemon/handed.h"
#include "untrusted/daemon/lifecycle.h"
#include "untrusted/daemon/settings.h"
#include "untrusted/daemon/view.h"
#include "untrusted/front/address.h"
#include "untrusted/host/log.h"

#define LISTEN_MAX    8u
#define ARGUMENTS_MAX (25u + 2u * LISTEN_MAX + HANDED_ARGUMENTS_MAX)
#define TEXT_SIZE     256u
#define FRONT         "front"

/* --- addresses -----------------------------------------------------------------------------------------------------
 */

json_t *spawn_addresses(const struct instance *instance)
{
    if (instance->listen) return json_incref(instance->listen);
    json_t *text =
        json_sprintf("swtpm:unix:%s/instances/%s/tpm.sock", instance->supervisor->config->run_dir, instance->row.label);
    json_t *array = json_array();
    if (json_array_append_new(array, text) == 0) return array;
    json_decref(array);
    return NULL;
}

/* The option of vtpm-instance for an address, and its value. NULL: it is none. */
static const char *option_of(const char *address, const char **out_value)
{
    static const struct {
        const char *prefix;
        const char *option;
    } kinds[] = {{"swtpm:", "--swtpm"}, {"mssim:", "--mssim"}};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        size_t size = strlen(kinds[i].prefix);
        if (strncmp(address, kinds[i].prefix, size) != 0) continue;
        *out_value = address + size;
        return kinds[i].option;
    }
    return NULL;
}

static struct err check_address(const char *text)
{
    struct address address;
    struct address beside;
    const char *value = NULL;
    ENSURE(text, BAD_VALUE);
    const char *option = option_of(text, &value);
    ENSURE(option, BAD_VALUE);
    ENSURE(strcmp(option, "--mssim") != 0 || strncmp(value, "tcp:", 4) == 0, BAD_VALUE);
    ENSURE(strncmp(value, "unix:", 5) != 0 || value[5] == '/', BAD_VALUE);
    TRY(address_parse(value, &address));
    return address_beside(&address, ".ctrl", &beside);
}

struct err spawn_check(const struct supervisor *supervisor, const char *label, const json_t *listen,
                       const char **out_reason)
{
    char text[TEXT_SIZE];
    struct address address;
    size_t index = 0;
    json_t *value = NULL;
    *out_reason = err_sentence(FAIL(LABEL_BAD));
    ENSURE(label_is_plain(label), LABEL_BAD);
    *out_reason = "the sockets' paths would be too long: use a shorter label or run-dir";
    int size = snprintf(text, sizeof text, "unix:%s/instances/%s/tpm.sock.ctrl", supervisor->config->run_dir, label);
    ENSURE(size > 0 && (size_t)size < sizeof text && !address_parse(text, &address).code, BAD_VALUE);
    *out_reason = "listen wants 1 to 8 addresses, or front alone";
    size_t count = listen ? json_array_size(listen) : 1;
    ENSURE(count >= 1 && count <= LISTEN_MAX, BAD_VALUE);
    if (!listen) return OK;
    const char *only = json_string_value(json_array_get(listen, 0));
    if (count == 1 && only && strcmp(only, FRONT) == 0) return OK;
    *out_reason = "an address is swtpm:unix:/PATH, swtpm:tcp:[ADDR:]PORT, mssim:tcp:[ADDR:]PORT, or front";
    json_array_foreach(listen, index, value)
    {
        ENSURE(!check_address(json_string_value(value)).code, BAD_VALUE);
    }
    return OK;
}

struct err spawn_check_family(const json_t *listen, enum peer_family family, const char **out_reason)
{
    size_t index = 0;
    json_t *value = NULL;
    *out_reason = "mssim is the protocol of a TPM 2.0: a TPM 1.2 listens at swtpm: addresses, or front";
    json_array_foreach(listen, index, value)
    {
        const char *rest = NULL;
        const char *option = option_of(json_string_value(value), &rest);
        ENSURE(family == PEER_FAMILY_20 || !option || strcmp(option, "--mssim") != 0, TPM_FAMILY);
    }
    return OK;
}

/* --- the process ---------------------------------------------------------------------------------------------------
 */

static int directory_of(const struct instance *instance, char out_path[TEXT_SIZE])
{
    return snprintf(out_path, TEXT_SIZE, "%s/instances/%s", instance->supervisor->config->run_dir, instance->row.label);
}

static struct err make_directory(const struct instance *instance)
{
    const struct supervisor *s = instance->supervisor;
    char path[TEXT_SIZE];
    (void)directory_of(instance, path);
    ENSURE(mkdir(path, 0700) == 0 || errno == EEXIST, SYSTEM);
    ENSURE(geteuid() != 0 || lchown(path, s->instance_uid, s->instance_gid) == 0, SYSTEM);
    return OK;
}

void spawn_remove_directory(const struct instance *instance)
{
    char directory[TEXT_SIZE];
    (void)directory_of(instance, directory);
    DIR *entries = opendir(directory);
    if (!entries) return;
    for (const struct dirent *entry = readdir(entries); entry; entry = readdir(entries))
        if (entry->d_type == DT_SOCK) (void)unlinkat(dirfd(entries), entry->d_name, 0);
    (void)closedir(entries);
    (void)rmdir(directory);
}

struct command_line {
    char *arguments[ARGUMENTS_MAX];
    size_t count;
    char id[ID_TEXT_SIZE];
    char daemon[TEXT_SIZE];
    char front[TEXT_SIZE];
    char timeout[16];
    int fds[HANDED_MAX]; /* that the process is given */
    size_t fd_count;
};

static void add(struct command_line *line, const char *argument)
{
    if (line->count + 1 < ARGUMENTS_MAX) line->arguments[line->count++] = (char *)(uintptr_t)argument;
}

static void add_option(struct command_line *line, const char *option, const char *value)
{
    add(line, option);
    add(line, value);
}

static void add_addresses(struct command_line *line, const json_t *listen)
{
    size_t index = 0;
    json_t *value = NULL;
    json_array_foreach(listen, index, value)
    {
        const char *address = json_string_value(value);
        const char *rest = NULL;
        const char *option = address ? option_of(address, &rest) : NULL;
        if (option)
            add_option(line, option, rest);
        else if (address && strcmp(address, FRONT) == 0)
            add_option(line, "--front", line->front);
    }
}

static void add_handed(struct command_line *line, const struct handed *handed)
{
    const char *arguments[HANDED_ARGUMENTS_MAX];
    const size_t count = handed_arguments(handed, PROCESS_FIRST_FD, arguments, line->fds, &line->fd_count);
    for (size_t i = 0; i < count; i++)
        add(line, arguments[i]);
}

/* All but where clients are served. */
static void begin_command_line(const struct instance *instance, struct command_line *line)
{
    const struct config *config = instance->supervisor->config;
    id_format(&instance->row.id, line->id);
    (void)snprintf(line->daemon, sizeof line->daemon, "%s/daemon.sock", config->run_dir);
    (void)snprintf(line->front, sizeof line->front, "unix:%s/instances/%s/front.sock", config->run_dir,
                   instance->row.label);
    (void)snprintf(line->timeout, sizeof line->timeout, "%u", config->commit_timeout);
    add(line, config->instance_program);
    add_option(line, "--daemon", line->daemon);
    add_option(line, "--id", line->id);
    add_option(line, "--image", config->instance_image);
    add_option(line, "--device", device_kind_name(config->device));
    add_option(line, "--cpu", config->cpu);
    add_option(line, "--commit-timeout", line->timeout);
    if (instance->row.family != PEER_FAMILY_20) add_option(line, "--tpm", view_family(&instance->row));
    if (geteuid() == 0) add_option(line, "--user", config->user);
    if (config->ordinary_memory) add(line, "--ordinary-memory");
}

static void write_command_line(const struct instance *instance, const json_t *listen, struct command_line *line)
{
    begin_command_line(instance, line);
    if (settings_rebuilt(instance)) add(line, "--rebuilt");
    if (instance_awaits_import(instance))
        add_option(line, "--front", line->front);
    else if (instance->handed)
        add_handed(line, instance->handed);
    else
        add_addresses(line, listen);
}

/* Each start has a path of its own: the one that it takes over from goes on listening on another. */
json_t *spawn_incoming_addresses(const struct instance *instance)
{
    return json_pack("[o]",
                     json_sprintf("swtpm:unix:%s/instances/%s/tpm-%llu.sock", instance->supervisor->config->run_dir,
                                  instance->row.label, (unsigned long long)instance->row.start + 1));
}

struct err spawn_incoming(const struct instance *instance, const json_t *listen, const struct handed *handed,
                          struct store_process *out_identity)
{
    struct command_line line = {.count = 0};
    begin_command_line(instance, &line);
    add_addresses(&line, listen);
    if (handed) add_handed(&line, handed);
    add(&line, "--incoming");
    TRY(make_directory(instance));
    return process_spawn(line.arguments, line.fds, line.fd_count, out_identity);
}

static struct err spawn(struct instance *instance)
{
    struct command_line line = {.count = 0};
    struct store_process identity;
    json_t *listen = spawn_addresses(instance);
    ENSURE(listen, NO_MEMORY);
    write_command_line(instance, listen, &line);
    struct err result = make_directory(instance);
    if (!result.code) result = process_spawn(line.arguments, line.fds, line.fd_count, &identity);
    json_decref(listen);
    TRY(result);
    if (instance->handed) handed_spawned(instance->handed);
    log_line(LOG_LEVEL_NOTICE, "%s: instance enclave requested: process %d makes it", instance->row.label,
             (int)identity.pid);
    lifecycle_spawned(instance);
    return connections_adopt(instance, &identity);
}

/* --- the queue -----------------------------------------------------------------------------------------------------
 */

static struct instance *pop(struct supervisor *s)
{
    struct instance *instance = s->queue_first;
    if (!instance) return NULL;
    s->queue_first = instance->next_queued;
    if (!s->queue_first) s->queue_end = &s->queue_first;
    instance->in_queue = false;
    return instance;
}

static void work_off(struct supervisor *s)
{
    struct instance *instance = NULL;
    if (s->spawning) return;
    s->spawning = true;
    while (s->starting < s->starting_max && (instance = pop(s))) {
        if (instance->phase != PHASE_QUEUED) continue; /* called off */
        instance->counted = true;
        s->starting++;
        struct err result = spawn(instance);
        if (result.code) {
            char reason[REASON_SIZE];
            (void)snprintf(reason, sizeof reason, "its process could not be started: %s (%s)", err_sentence(result),
                           strerror(errno));
            lifecycle_start_failed(instance, result, reason);
        }
    }
    s->spawning = false;
}

void spawn_enqueue(struct instance *instance)
{
    struct supervisor *s = instance->supervisor;
    instance->phase = PHASE_QUEUED;
    if (!instance->in_queue) {
        instance->in_queue = true;
        instance->next_queued = NULL;
        *s->queue_end = instance;
        s->queue_end = &instance->next_queued;
    }
    work_off(s);
}

void spawn_finished(struct instance *instance)
{
    if (!instance->counted) return;
    instance->counted = false;
    instance->supervisor->starting--;
    work_off(instance->supervisor);
}
