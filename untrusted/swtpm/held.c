#include "untrusted/swtpm/held.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "untrusted/host/log.h"

#define DEFAULT_SOCKET   "/run/vtpm/admin.sock"
#define SHORT_SECONDS    10u
#define START_SECONDS    60u /* of a vtpmd that this connection starts (systemd.socket(5)) */
#define LONG_SECONDS     120u
#define RETURN_SECONDS   30 /* for a vtpmd to come back; it waits as long for this process */
#define RETURN_USEC      100000
#define BUSY_TRIES       20 /* while the instance of the process before is being stopped */
#define BUSY_USEC        250000
#define STATE_BYTES_MAX  (1u << 20)
#define RANDOM_TEXT_SIZE 9u

static void json_close(json_t **value)
{
    json_decref(*value);
}

const char *held_socket(void)
{
    const char *named = getenv(HELD_SOCKET_VARIABLE);
    return named && *named ? named : DEFAULT_SOCKET;
}

static void close_there(struct held *held)
{
    if (held->there >= 0) (void)close(held->there);
    held->there = -1;
}

struct err held_open(struct held *held, struct explanation *why)
{
    *held = (struct held){.socket = held_socket(), .there = -1, .ctl = {.fd = -1}};
    return ctl_open(held->socket, START_SECONDS, &held->ctl, why);
}

struct err held_open_from(struct held *held, struct explanation *why)
{
    const char *from = getenv(HELD_FROM_VARIABLE);
    return from && *from ? ctl_connect(from, &held->there, why) : OK;
}

void held_close(struct held *held)
{
    close_there(held);
    ctl_close(&held->ctl);
    json_decref(held->what);
    held->what = NULL;
}

/* --- which instance --- */

static struct err take_names(struct held *held, const json_t *instance, struct explanation *why)
{
    const char *id = json_string_value(json_object_get(instance, "id"));
    const char *label = json_string_value(json_object_get(instance, "label"));
    if (!id || strlen(id) >= sizeof held->id || !label || strlen(label) >= sizeof held->label)
        return explain(why, FAIL(PROTOCOL), "%s: vtpmd's answer has no id or label", held->socket);
    (void)strcpy(held->id, id);
    (void)strcpy(held->label, label);
    return OK;
}

static const char *family_of(const struct place *place)
{
    return place->of_12 ? "1.2" : "2.0";
}

static struct err check_family(const struct place *place, const json_t *instance, struct explanation *why)
{
    const char *family = json_string_value(json_object_get(instance, "tpm"));
    if (family && strcmp(family, family_of(place)) == 0) return OK;
    return explain(why, FAIL(TPM_FAMILY), "%.200s/" PLACE_MARKER " names a TPM %s: %s", place->directory,
                   family ? family : "?", place->of_12 ? "add --tpm2" : "leave --tpm2 out");
}

static struct err recognise(struct held *held, const struct place *place, const json_t *instance,
                            struct explanation *why)
{
    TRY(check_family(place, instance, why));
    return take_names(held, instance, why);
}

static bool is_in_state(const json_t *instance, const char *state)
{
    const char *shown = json_string_value(json_object_get(instance, "state"));
    return shown && strcmp(shown, state) == 0;
}

static struct err show(struct held *held, const struct place *place, struct explanation *why)
{
    json_t *instance DEFER(json_close) = NULL;
    struct explanation refusal = {0};
    struct err err = ctl_call(&held->ctl, "show", json_pack("{s:s}", "instance", place->id), SHORT_SECONDS, NULL,
                              &instance, &refusal);
    if (!err.code && is_in_state(instance, "deleted")) err = FAIL(DELETED);
    if (err.code == ERR_NO_INSTANCE || err.code == ERR_DELETED)
        return explain(
            why, err,
            "%.200s/" PLACE_MARKER " names the instance %s, which %s; nothing is made in its place. If its TPM "
            "is to be given up, remove that file",
            place->directory, place->id, err.code == ERR_DELETED ? "was deleted" : "this vtpmd does not have");
    if (err.code) return explain(why, err, "%s", explanation_text(&refusal, err));
    return recognise(held, place, instance, why);
}

static bool random_text(char out[RANDOM_TEXT_SIZE])
{
    unsigned number = 0;
    if (getrandom(&number, sizeof number, 0) != (ssize_t)sizeof number) return false;
    (void)snprintf(out, RANDOM_TEXT_SIZE, "%08x", number);
    return true;
}

/* What swtpm's command line has no word for. out_snapshots: NULL if nothing is said. */
static struct err take_policy(const char **out_snapshots, struct explanation *why)
{
    const char *text = getenv(HELD_SNAPSHOTS_VARIABLE);
    *out_snapshots = text && *text ? text : NULL;
    if (!*out_snapshots || strcmp(text, "allowed") == 0 || strcmp(text, "refused") == 0) return OK;
    return explain(why, FAIL(USAGE), HELD_SNAPSHOTS_VARIABLE " in the environment: it is refused or allowed");
}

static struct err ask_create(struct held *held, const struct place *place, const char *label, json_t **out_instance,
                             struct explanation *why)
{
    const char *snapshots = NULL;
    TRY(take_policy(&snapshots, why));
    json_t *arguments = json_pack("{s:s, s:b, s:s}", "label", label, "start", 0, "tpm", family_of(place));
    /* Who says it for all that libvirt makes does not mean to have no TPM 1.2. */
    if (snapshots && !place->of_12) (void)json_object_set_new(arguments, "snapshots", json_string(snapshots));
    return ctl_call(&held->ctl, "create", arguments, LONG_SECONDS, NULL, out_instance, why);
}

static struct err create(struct held *held, struct place *place, struct explanation *why)
{
    json_t *instance DEFER(json_close) = NULL;
    char random[RANDOM_TEXT_SIZE];
    char label[PLACE_LABEL_MAX];
    place_label(place->directory, NULL, label);
    struct err err = ask_create(held, place, label, &instance, why);
    if (err.code == ERR_LABEL_TAKEN) {
        ENSURE(random_text(random), SYSTEM);
        place_label(place->directory, random, label);
        err = ask_create(held, place, label, &instance, why);
    }
    TRY(err);
    TRY(take_names(held, instance, why));
    err = place_mark(place, held->id, why);
    if (err.code) held_undo(held, place); /* it could not be found again */
    return err;
}

struct err held_find(struct held *held, struct place *place, bool *out_made, struct explanation *why)
{
    *out_made = !place->has_id;
    if (held->there >= 0) {
        (void)strcpy(held->id, place->id);
        return OK;
    }
    return place->has_id ? show(held, place, why) : create(held, place, why);
}

/* --- serving --- */

static json_t *describe(const struct swtpm_options *options)
{
    json_t *what = json_object();
    const bool terminate = options->terminate || options->control.terminate;
    if (!options->not_need_init) (void)json_object_set_new(what, "off", json_true());
    if (terminate) (void)json_object_set_new(what, "terminate", json_true());
    if (options->data.disconnect) (void)json_object_set_new(what, "disconnect", json_true());
    if (options->reject_locality_4) (void)json_object_set_new(what, "reject-locality-4", json_true());
    if (options->startup_clear) (void)json_object_set_new(what, "startup", json_string("clear"));
    if (options->startup_state) (void)json_object_set_new(what, "startup", json_string("state"));
    return what;
}

static struct err ask_with_sockets(struct held *held, const char *verb, bool incoming, json_t **out_instance,
                                   struct explanation *why)
{
    int fds[1 + SWTPM_SOCKETS_MAX];
    size_t count = 0;
    json_t *roles = json_array();
    if (held->there >= 0) fds[count++] = held->there;
    for (size_t i = 0; i < held->sockets->count; i++) {
        if (held->sockets->list[i].fd < 0) continue; /* of a client, and the instance's alone by now */
        fds[count++] = held->sockets->list[i].fd;
        (void)json_array_append_new(roles, json_string(held->sockets->list[i].role));
    }
    (void)json_object_set_new(held->what, "sockets", roles);
    held->ctl.handed = count ? fds : NULL;
    held->ctl.handed_count = count;
    json_t *arguments = json_pack("{s:s, s:O}", "instance", held->id, "swtpm", held->what);
    if (incoming) (void)json_object_set_new(arguments, "incoming", json_true());
    if (held->there >= 0) (void)json_object_set_new(arguments, "from", json_true());
    struct err err = ctl_call(&held->ctl, verb, arguments, LONG_SECONDS, NULL, out_instance, why);
    held->ctl.handed = NULL;
    return err;
}

static json_int_t start_of(const json_t *instance)
{
    return json_integer_value(json_object_get(instance, "start"));
}

static json_int_t incoming_of(const json_t *instance)
{
    return json_integer_value(json_object_get(json_object_get(instance, "incoming"), "pid"));
}

struct err held_start(struct held *held, const struct swtpm_options *options, const struct place *place,
                      struct swtpm_sockets *sockets, struct explanation *why)
{
    json_t *instance DEFER(json_close) = NULL;
    held->sockets = sockets;
    held->what = describe(options);
    ENSURE(held->what, NO_MEMORY);
    struct err err = ask_with_sockets(held, "start", options->incoming, &instance, why);
    for (int tries = BUSY_TRIES; err.code == ERR_STATE_LOCKED && tries > 0; tries--) {
        (void)usleep(BUSY_USEC);
        err = ask_with_sockets(held, "start", options->incoming, &instance, why);
    }
    TRY(err);
    close_there(held);
    TRY(recognise(held, place, instance, why));
    held->incoming = options->incoming ? incoming_of(instance) : 0;
    held->before = start_of(instance);
    swtpm_sockets_release_clients(sockets);
    return OK;
}

/* --- after a new start of vtpmd --- */

/* A process that had not taken over yet has ended with the vtpmd that was to tell it. */
static struct err check_taken_over(struct held *held, struct explanation *why)
{
    json_t *instance DEFER(json_close) = NULL;
    if (!held->incoming) return OK;
    struct err err =
        ctl_call(&held->ctl, "show", json_pack("{s:s}", "instance", held->id), SHORT_SECONDS, NULL, &instance, why);
    const bool elsewhere = err.code == ERR_NO_INSTANCE || is_in_state(instance, "moved");
    if (!elsewhere) TRY(err);
    if (json_integer_value(json_object_get(instance, "pid")) == held->incoming) return OK;
    if (!elsewhere && start_of(instance) != held->before) return FAIL(HELD); /* somebody has, maybe this one */
    return explain(why, FAIL(VERB_STATE), "%s: vtpmd was started anew before the TPM was brought here", held->label);
}

static struct err hold_again(struct held *held, struct explanation *why)
{
    json_t *instance DEFER(json_close) = NULL;
    const time_t end = time(NULL) + RETURN_SECONDS;
    struct err err = FAIL(PEER_CLOSED);
    while (err.code && time(NULL) < end) {
        ctl_close(&held->ctl);
        (void)usleep(RETURN_USEC);
        *why = (struct explanation){0};
        err = ctl_open(held->socket, SHORT_SECONDS, &held->ctl, why);
        if (!err.code) err = check_taken_over(held, why);
        if (!err.code) err = ask_with_sockets(held, "hold", false, &instance, why);
        if (held->ctl.outcome == CTL_REFUSED || err.code == ERR_VERB_STATE) break;
    }
    if (!err.code) log_line(LOG_LEVEL_NOTICE, "vtpmd at %s is there again", held->socket);
    return err;
}

struct err held_await(struct held *held, json_int_t version, const struct ctl_watch *watch, bool *out_runs,
                      json_t **out_instance, struct explanation *why)
{
    json_t *arguments = json_pack("{s:s, s:I}", "instance", held->id, "version", version);
    struct err err = ctl_call(&held->ctl, "await", arguments, 0, watch, out_instance, why);
    if (err.code && held->ctl.outcome == CTL_LOST) {
        log_line(LOG_LEVEL_WARNING, "%s", explanation_text(why, err));
        TRY(hold_again(held, why));
        return held_await(held, version, watch, out_runs, out_instance, why);
    }
    TRY(err);
    *out_runs = json_is_true(json_object_get(*out_instance, "held"));
    if (*out_runs && incoming_of(*out_instance) != held->incoming) held->incoming = 0;
    return OK;
}

bool held_is_here(const struct held *held, const json_t *instance)
{
    const bool served = is_in_state(instance, "running") || is_in_state(instance, "moved");
    return !held->incoming && (json_is_true(json_object_get(instance, "held")) || !served);
}

struct err held_stop(struct held *held, struct explanation *why)
{
    struct err err = FAIL(HELD);
    /* Right after vtpmd's own start it does not know yet that the instance is there. */
    for (int tries = BUSY_TRIES; err.code == ERR_HELD && tries > 0; tries--) {
        json_t *instance DEFER(json_close) = NULL;
        if (tries < BUSY_TRIES) (void)usleep(BUSY_USEC);
        err =
            ctl_call(&held->ctl, "stop", json_pack("{s:s}", "instance", held->id), LONG_SECONDS, NULL, &instance, why);
    }
    return err;
}

/* --- its state --- */

static void close_fd(const int *fd)
{
    if (*fd >= 0) (void)close(*fd);
}

static struct err get_state(struct held *held, json_int_t *out_version, void **out_bytes, size_t *out_size,
                            struct explanation *why)
{
    int fd DEFER(close_fd) = -1;
    json_t *answer DEFER(json_close) = NULL;
    held->ctl.passed = &fd;
    struct err err =
        ctl_call(&held->ctl, "state", json_pack("{s:s}", "instance", held->id), SHORT_SECONDS, NULL, &answer, why);
    held->ctl.passed = NULL;
    TRY(err);
    const json_int_t size = json_integer_value(json_object_get(answer, "size"));
    if (fd < 0 || size <= 0 || size > (json_int_t)STATE_BYTES_MAX)
        return explain(why, FAIL(PROTOCOL), "%s: vtpmd's answer has no state with it", held->socket);
    void *bytes = malloc((size_t)size);
    ENSURE(bytes, NO_MEMORY);
    if (read(fd, bytes, (size_t)size) != (ssize_t)size) {
        free(bytes);
        return explain(why, FAIL(PROTOCOL), "%s: vtpmd's copy of the state ends early", held->socket);
    }
    *out_version = json_integer_value(json_object_get(answer, "version"));
    *out_bytes = bytes;
    *out_size = (size_t)size;
    return OK;
}

void held_copy_state(struct held *held, const struct place *place, json_int_t *version)
{
    struct explanation why = {0};
    char aside[PATH_MAX];
    void *bytes = NULL;
    size_t size = 0;
    struct err err = get_state(held, version, &bytes, &size, &why);
    if (err.code == ERR_STATE_MISSING) return;
    if (!err.code) err = place_copy(place, span_of(bytes, size), aside, &why);
    free(bytes);
    if (err.code)
        log_line(LOG_LEVEL_WARNING, "the copy of the state is not up to date: %s", explanation_text(&why, err));
    else if (*aside)
        log_line(LOG_LEVEL_WARNING,
                 "%s/%s was not what had been written there; it is kept as %s and was not used: the state is vtpmd's",
                 place->directory, place->copy, aside);
}

/* --- its end for good --- */

struct err held_delete(struct held *held, struct place *place, struct explanation *why)
{
    json_t *deleted DEFER(json_close) = NULL;
    TRY(ctl_call(&held->ctl, "delete", json_pack("{s:s, s:b}", "instance", held->id, "force", 1), LONG_SECONDS, NULL,
                 &deleted, why));
    place_forget(place);
    place->has_id = false;
    return OK;
}

void held_undo(struct held *held, struct place *place)
{
    struct explanation why = {0};
    const struct err err = held_delete(held, place, &why);
    if (err.code) log_line(LOG_LEVEL_ERROR, "%s is left behind: %s", held->label, explanation_text(&why, err));
}
