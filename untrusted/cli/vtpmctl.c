/*
 * vtpmctl: the operator's and the owner's tool; a client of vtpmd's admin socket (docs/admin-api.md) and nothing more.
 *
 * Guarantees: what the daemon sends is checked before it is shown, and steers no terminal; with --json the API's answer
 * is printed as one JSON document; an owner's key signs what this program built itself (ctl_act.h) and nothing else.
 * It does not know who answers at the socket.
 *
 * Exit status: 0 done, 1 refused or failed, 2 the command line is wrong, 3 there is no vtpmd that answers.
 */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "untrusted/cli/ctl_act.h"
#include "untrusted/cli/ctl_client.h"
#include "untrusted/cli/ctl_enclave.h"
#include "untrusted/cli/ctl_key.h"
#include "untrusted/cli/ctl_progress.h"
#include "untrusted/cli/ctl_show.h"
#include "untrusted/cli/ctl_store.h"
#include "untrusted/cli/ctl_text.h"
#include "untrusted/cli/swtpm_source.h"
#include "untrusted/host/hygiene.h"

#define DEFAULT_SOCKET "/run/vtpm/admin.sock"
#define SHORT_SECONDS  10u  /* what only looks */
#define LONG_SECONDS   120u /* what starts or ends an enclave */
#define LISTEN_MAX     16u

/* One command line */
struct request {
    const char *socket;
    const char *instance; /* the argument that is no option: a label or an id */
    const char *owner, *front_key, *owner_key, *state_dir;
    const char *listen[LISTEN_MAX];
    size_t listen_count;
    struct swtpm_options from;
    const char *since_text, *timeout_text;
    json_int_t since;
    unsigned timeout; /* seconds; 0: the command's own */
    bool json, no_start, deleted, declare_dead, all, force, has_since;
    struct ctl ctl;
};

static void json_close(json_t **value)
{
    json_decref(*value);
}

static struct err call(struct request *request, const char *verb, json_t *arguments, unsigned seconds,
                       const struct ctl_watch *watch, json_t **out_return, struct explanation *why)
{
    return ctl_call(&request->ctl, verb, arguments, request->timeout ? request->timeout : seconds, watch, out_return,
                    why);
}

static struct err end_of_output(struct explanation *why)
{
    if (fflush(stdout) != 0 || ferror(stdout))
        return explain(why, FAIL(SYSTEM), "standard output: %s", strerror(errno));
    return OK;
}

static struct err print(const struct request *request, const json_t *value, void (*show)(const json_t *, FILE *),
                        struct explanation *why)
{
    if (request->json)
        shown_json(value, JSON_INDENT(2), stdout);
    else
        show(value, stdout);
    return end_of_output(why);
}

/* "web1  c9a7...  running", after a command that changed an instance */
static void show_outcome(const json_t *instance, FILE *out)
{
    (void)fprintf(out, "%s  %s  %s", shown_member(instance, "label").text, shown_member(instance, "id").text,
                  shown_member(instance, "state").text);
    if (json_is_string(json_object_get(instance, "reason")))
        (void)fprintf(out, ": %s", shown_member(instance, "reason").text);
    (void)fputc('\n', out);
}

static struct err missing(struct request *request, const char *name, struct explanation *why)
{
    request->ctl.outcome = CTL_LOST;
    return explain(why, FAIL(PROTOCOL), "%s: vtpmd's answer has no %s", request->socket, name);
}

static struct err create_arguments(const struct request *request, json_t **out_arguments, struct explanation *why)
{
    char key[CTL_HEX_SIZE(X25519_SIZE)];
    json_t *arguments DEFER(json_close) = json_pack("{s:s}", "label", request->instance);
    if (!arguments) return explain(why, FAIL(USAGE), "the label is not UTF-8");
    if (request->owner) {
        TRY(ctl_read_public_key(request->owner, "ED25519", key, why));
        ENSURE(json_object_set_new(arguments, "owner", json_string(key)) == 0, NO_MEMORY);
    }
    if (request->front_key) {
        TRY(ctl_read_public_key(request->front_key, "X25519", key, why));
        ENSURE(json_object_set_new(arguments, "front-key", json_string(key)) == 0, NO_MEMORY);
    }
    if (request->no_start) ENSURE(json_object_set_new(arguments, "start", json_false()) == 0, NO_MEMORY);
    if (request->listen_count > 0) {
        json_t *listen = json_array();
        ENSURE(json_object_set_new(arguments, "listen", listen) == 0, NO_MEMORY);
        for (size_t i = 0; i < request->listen_count; i++)
            if (json_array_append_new(listen, json_string(request->listen[i])) != 0)
                return explain(why, FAIL(USAGE), "--listen: the address is not UTF-8");
    }
    *out_arguments = json_incref(arguments);
    return OK;
}

/* A command that starts an enclave: what happens meanwhile is told. */
static struct err call_told(struct request *request, const char *verb, json_t *arguments, json_t **out_return,
                            struct explanation *why)
{
    struct ctl_progress progress;
    ctl_progress_open(request->socket, request->instance, &progress);
    struct err err = call(request, verb, arguments, LONG_SECONDS, &progress.watch, out_return, why);
    ctl_progress_close(&progress);
    return err;
}

static struct err run_create(struct request *request, struct explanation *why)
{
    json_t *arguments = NULL;
    json_t *instance DEFER(json_close) = NULL;
    TRY(create_arguments(request, &arguments, why));
    TRY(call_told(request, "create", arguments, &instance, why));
    return print(request, instance, show_outcome, why);
}

static struct err run_list(struct request *request, struct explanation *why)
{
    json_t *list DEFER(json_close) = NULL;
    json_t *arguments = request->deleted ? json_pack("{s:b}", "deleted", 1) : NULL;
    TRY(call(request, "list", arguments, SHORT_SECONDS, NULL, &list, why));
    const json_t *instances = json_object_get(list, "instances");
    if (!json_is_array(instances)) return missing(request, "instances", why);
    if (request->json) return print(request, list, NULL, why);
    return print(request, instances, ctl_show_list, why);
}

static json_t *instance_arguments(const struct request *request)
{
    return json_pack("{s:s}", "instance", request->instance);
}

static struct err run_show(struct request *request, struct explanation *why)
{
    json_t *instance DEFER(json_close) = NULL;
    TRY(call(request, "show", instance_arguments(request), SHORT_SECONDS, NULL, &instance, why));
    return print(request, instance, ctl_show_instance, why);
}

static struct err run_start(struct request *request, struct explanation *why)
{
    json_t *instance DEFER(json_close) = NULL;
    json_t *arguments = instance_arguments(request);
    if (request->declare_dead) (void)json_object_set_new(arguments, "declare-dead", json_true());
    TRY(call_told(request, "start", arguments, &instance, why));
    return print(request, instance, show_outcome, why);
}

static bool is_running(const json_t *instance)
{
    const char *state = json_string_value(json_object_get(instance, "state"));
    return state && (strcmp(state, "running") == 0 || strcmp(state, "starting") == 0);
}

/* Stops what runs, one after the other. A refusal is told and does not keep the others running. */
static struct err stop_all(struct request *request, struct explanation *why)
{
    json_t *list DEFER(json_close) = NULL;
    json_t *stopped DEFER(json_close) = json_pack("{s:[]}", "instances");
    struct err first = OK;
    TRY(call(request, "list", NULL, SHORT_SECONDS, NULL, &list, why));
    const json_t *instances = json_object_get(list, "instances");
    if (!json_is_array(instances)) return missing(request, "instances", why);
    for (size_t i = 0; i < json_array_size(instances); i++) {
        json_t *instance DEFER(json_close) = NULL;
        const json_t *running = json_array_get(instances, i);
        if (!is_running(running) || !json_is_string(json_object_get(running, "id"))) continue;
        json_t *arguments = json_pack("{s:O}", "instance", json_object_get(running, "id"));
        struct explanation refusal = {0};
        struct err err = call(request, "stop", arguments, LONG_SECONDS, NULL, &instance, &refusal);
        if (err.code && request->ctl.outcome != CTL_REFUSED)
            return explain(why, err, "%s", explanation_text(&refusal, err));
        if (err.code) {
            (void)fprintf(stderr, "vtpmctl: %s\n", explanation_text(&refusal, err));
            first = explain(why, first.code ? first : err, "not every instance was stopped");
            continue;
        }
        if (!request->json) show_outcome(instance, stdout);
        (void)json_array_append(json_object_get(stopped, "instances"), instance);
    }
    if (request->json) TRY(print(request, stopped, NULL, why));
    TRY(end_of_output(why));
    return first;
}

static struct err run_stop(struct request *request, struct explanation *why)
{
    if (request->all) return stop_all(request, why);
    json_t *instance DEFER(json_close) = NULL;
    TRY(call(request, "stop", instance_arguments(request), LONG_SECONDS, NULL, &instance, why));
    return print(request, instance, show_outcome, why);
}

/* The instance that the owner named is the one that the daemon shows, and the key is its owner's. */
static struct err check_owned(struct request *request, const struct ctl_owner *owner, const json_t *instance,
                              struct explanation *why)
{
    const char *label = json_string_value(json_object_get(instance, "label"));
    const char *id = json_string_value(json_object_get(instance, "id"));
    const char *key = json_string_value(json_object_get(instance, "owner"));
    if (!label || !id || !key) return missing(request, "label, id or owner", why);
    struct instance_id shown, named;
    bool is_named = !id_parse(id, &shown).code &&
                    (id_parse(request->instance, &named).code ? strcmp(request->instance, label) == 0
                                                              : memcmp(&shown, &named, sizeof named) == 0);
    if (!is_named) {
        request->ctl.outcome = CTL_LOST;
        return explain(why, FAIL(PROTOCOL), "nothing was signed: vtpmd shows another instance than %s",
                       request->instance);
    }
    if (strcmp(key, owner->public_hex) != 0)
        return explain(why, FAIL(OWNER_SIGNATURE), "%s: this key is not the owner's of %s, which is %s",
                       request->owner_key, shown_text(label).text, shown_text(key).text);
    return OK;
}

static void owner_close(struct ctl_owner *owner)
{
    ctl_owner_close(owner);
}

static struct err sign_deletion(struct request *request, char out_hex[CTL_HEX_SIZE(ED25519_SIGNATURE_SIZE)],
                                struct explanation *why)
{
    struct ctl_owner owner DEFER(owner_close) = {0};
    json_t *instance DEFER(json_close) = NULL;
    json_t *status DEFER(json_close) = NULL;
    json_t *challenge DEFER(json_close) = NULL;
    uint8_t message[OWNER_ACT_SIZE];
    TRY(ctl_owner_open(request->owner_key, &owner, why));
    TRY(call(request, "show", instance_arguments(request), SHORT_SECONDS, NULL, &instance, why));
    TRY(check_owned(request, &owner, instance, why));
    TRY(call(request, "status", NULL, SHORT_SECONDS, NULL, &status, why));
    json_t *arguments = json_pack("{s:O, s:s}", "instance", json_object_get(instance, "id"), "verb", "delete");
    TRY(call(request, "challenge", arguments, SHORT_SECONDS, NULL, &challenge, why));
    struct err err = ctl_act_delete(instance, status, challenge, message, why);
    if (err.code == ERR_PROTOCOL) request->ctl.outcome = CTL_LOST;
    TRY(err);
    (void)fprintf(stderr, "vtpmctl: signing the deletion of %s, %s, epoch %s\n", shown_member(instance, "label").text,
                  shown_member(instance, "id").text, shown_member(instance, "epoch").text);
    return ctl_owner_sign(&owner, span_of(message, sizeof message), out_hex);
}

static struct err ask_delete(struct request *request, json_t **out_instance, struct explanation *why)
{
    char signature[CTL_HEX_SIZE(ED25519_SIGNATURE_SIZE)];
    if (request->owner_key) TRY(sign_deletion(request, signature, why));
    json_t *arguments = instance_arguments(request);
    if (request->owner_key) (void)json_object_set_new(arguments, "signature", json_string(signature));
    if (request->force) (void)json_object_set_new(arguments, "force", json_true());
    return call(request, "delete", arguments, LONG_SECONDS, NULL, out_instance, why);
}

/* --- import --- */

/* Not found, or a tombstone: *out_instance stays NULL. */
static struct err find_living(struct request *request, json_t **out_instance, struct explanation *why)
{
    struct explanation refusal = {0};
    struct err err = call(request, "show", instance_arguments(request), SHORT_SECONDS, NULL, out_instance, &refusal);
    if (err.code == ERR_NO_INSTANCE && request->ctl.outcome == CTL_REFUSED) {
        request->ctl.outcome = CTL_FINE;
        return OK;
    }
    if (err.code) return explain(why, err, "%s", explanation_text(&refusal, err));
    const char *state = json_string_value(json_object_get(*out_instance, "state"));
    if (!state || strcmp(state, "deleted") != 0) return OK;
    json_decref(*out_instance);
    *out_instance = NULL;
    return OK;
}

static struct err create_for_import(struct request *request, json_t **out_instance, struct explanation *why)
{
    const bool no_start = request->no_start;
    json_t *arguments = NULL;
    request->no_start = false; /* it is not served yet, but its enclave has to be there */
    struct err err = create_arguments(request, &arguments, why);
    request->no_start = no_start;
    TRY(err);
    (void)json_object_set_new(arguments, "import", json_true());
    return call_told(request, "create", arguments, out_instance, why);
}

/* An import was broken off, and its instance waits: it begins with an enclave of its own. */
static struct err start_again(struct request *request, const json_t *known, json_t **out_instance,
                              struct explanation *why)
{
    json_t *stopped DEFER(json_close) = NULL;
    const char *origin = json_string_value(json_object_get(known, "origin"));
    const bool waits =
        origin && strcmp(origin, "imported") == 0 && json_integer_value(json_object_get(known, "version")) == 0;
    if (!waits)
        return explain(why, FAIL(LABEL_TAKEN), "%s exists, and import replaces no TPM: choose another label",
                       request->instance);
    if (request->owner || request->listen_count > 0)
        return explain(why, FAIL(LABEL_TAKEN),
                       "%s was made for an import already, with what was said then: leave --owner and --listen out, or "
                       "delete it first",
                       request->instance);
    if (json_is_true(json_object_get(known, "wanted")))
        TRY(call(request, "stop", instance_arguments(request), LONG_SECONDS, NULL, &stopped, why));
    return call_told(request, "start", instance_arguments(request), out_instance, why);
}

static void enclave_close(struct ctl_enclave *enclave)
{
    ctl_enclave_close(enclave);
}

static struct err give_state(struct request *request, const json_t *instance, struct span permanent,
                             struct ctl_enclave *enclave, struct explanation *why)
{
    struct instance_id id;
    const char *label = json_string_value(json_object_get(instance, "label"));
    const char *text = json_string_value(json_object_get(instance, "id"));
    if (!label || strchr(label, '/') || !text || id_parse(text, &id).code) return missing(request, "label or id", why);
    const unsigned seconds = request->timeout ? request->timeout : LONG_SECONDS;
    TRY(ctl_enclave_open(request->socket, label, &id, seconds, enclave, why));
    return ctl_enclave_import(enclave, permanent, why);
}

/* What was begun is stopped; it waits for another attempt. */
static struct err give_up_import(struct request *request, struct err err, struct explanation *why)
{
    const struct explanation cause = *why;
    struct explanation ignored = {0};
    json_t *stopped DEFER(json_close) = NULL;
    const enum ctl_outcome outcome = request->ctl.outcome;
    if (call(request, "stop", instance_arguments(request), LONG_SECONDS, NULL, &stopped, &ignored).code)
        request->ctl.outcome = outcome;
    return explain(why, err, "%.350s\n%s waits for its state: import it again, or vtpmctl delete it",
                   explanation_text(&cause, err), request->instance);
}

static void show_import(const json_t *instance, FILE *out)
{
    size_t index = 0;
    const json_t *path = NULL;
    show_outcome(instance, out);
    (void)fputs("The files of swtpm still hold every key of this TPM. Once the machine has started with the new one:\n",
                out);
    json_array_foreach(json_object_get(instance, "shred"), index, path)
    {
        (void)fprintf(out, "    shred -u -- '%s'\n", shown_text(json_string_value(path)).text);
    }
    (void)fputs("and their copies in backups, snapshots and copy-on-write file systems by the means of those.\n", out);
}

static void source_close(struct swtpm_source *source)
{
    swtpm_source_close(source);
}

/* Everything that can be wrong with the source is found before anything is made. The enclave that took the state ends
 * while this is still its front-end: one whose front-end has gone begins anew for another. */
static struct err run_import(struct request *request, struct explanation *why)
{
    struct swtpm_source source DEFER(source_close) = {.lock_fd = -1};
    struct ctl_enclave enclave DEFER(enclave_close) = {.daemon_fd = -1, .instance_fd = -1};
    json_t *known DEFER(json_close) = NULL;
    json_t *instance DEFER(json_close) = NULL;
    json_t *served DEFER(json_close) = NULL;
    TRY(hygiene_apply());
    TRY(swtpm_source_open(&request->from, &source, why));
    TRY(find_living(request, &known, why));
    TRY(known ? start_again(request, known, &instance, why) : create_for_import(request, &instance, why));
    struct err given = give_state(request, instance, source.permanent, &enclave, why);
    if (given.code) return give_up_import(request, given, why);
    TRY(call(request, "stop", instance_arguments(request), LONG_SECONDS, NULL, &served, why));
    if (!request->no_start) {
        json_decref(served);
        served = NULL;
        TRY(call_told(request, "start", instance_arguments(request), &served, why));
    }
    ENSURE(json_object_set_new(served, "shred", swtpm_source_files(&source)) == 0, NO_MEMORY);
    return print(request, served, show_import, why);
}

static struct err run_delete(struct request *request, struct explanation *why)
{
    json_t *instance DEFER(json_close) = NULL;
    struct err err = ask_delete(request, &instance, why);
    /* Giving up a lost enclave first raises the epoch, and the signature was for the one before. */
    bool outdated = err.code == ERR_OWNER_SIGNATURE && request->ctl.outcome == CTL_REFUSED;
    if (outdated && request->owner_key && request->force) {
        request->ctl.outcome = CTL_FINE;
        err = ask_delete(request, &instance, why);
    }
    TRY(err);
    return print(request, instance, show_outcome, why);
}

static struct err run_events(struct request *request, struct explanation *why)
{
    json_t *subscribed DEFER(json_close) = NULL;
    json_t *arguments = request->has_since ? json_pack("{s:I}", "since", request->since) : NULL;
    TRY(call(request, "subscribe", arguments, SHORT_SECONDS, NULL, &subscribed, why));
    for (;;) {
        json_t *event DEFER(json_close) = NULL;
        TRY(ctl_receive(&request->ctl, 0, NULL, &event, why));
        if (!json_is_string(json_object_get(event, "event"))) return missing(request, "event", why);
        if (request->json)
            shown_json(event, JSON_COMPACT, stdout);
        else
            ctl_show_event(event, stdout);
        TRY(end_of_output(why));
    }
}

static struct err run_status(struct request *request, struct explanation *why)
{
    json_t *status DEFER(json_close) = NULL;
    TRY(call(request, "status", NULL, SHORT_SECONDS, NULL, &status, why));
    return print(request, status, ctl_show_status, why);
}

static void show_version(const json_t *version, FILE *out)
{
    (void)fprintf(out, "vtpmctl %s\nvtpmd %s, admin API %s\n", VTPM_VERSION, shown_member(version, "version").text,
                  shown_member(version, "api").text);
}

static struct err run_version(struct request *request, struct explanation *why)
{
    json_t *version DEFER(json_close) = NULL;
    TRY(call(request, "version", NULL, SHORT_SECONDS, NULL, &version, why));
    return print(request, version, show_version, why);
}

static struct ctl_store store_of(struct request *request)
{
    return (struct ctl_store){
        .socket = request->socket,
        .file = request->instance,
        .state_dir = request->state_dir,
        .seconds = request->timeout ? request->timeout : LONG_SECONDS,
        .json = request->json,
        .force = request->force,
        .ctl = &request->ctl,
    };
}

static struct err run_store_check(struct request *request, struct explanation *why)
{
    const struct ctl_store store = store_of(request);
    return ctl_store_check(&store, why);
}

static struct err run_store_backup(struct request *request, struct explanation *why)
{
    const struct ctl_store store = store_of(request);
    return ctl_store_backup(&store, why);
}

enum option_number {
    SOCKET,
    JSON,
    TIMEOUT,
    OWNER,
    FRONT_KEY,
    LISTEN,
    NO_START,
    DELETED,
    DECLARE_DEAD,
    ALL,
    FORCE,
    OWNER_KEY,
    SINCE,
    STATE_DIR,
    FROM,
    KEY,
    KEY_FORMAT,
    PWDFILE,
    KDF,
    HELP,
    VERSION,
    OPTION_COUNT
};

static const struct option long_options[] = {
    {"socket", required_argument, NULL, SOCKET},
    {"json", no_argument, NULL, JSON},
    {"timeout", required_argument, NULL, TIMEOUT},
    {"owner", required_argument, NULL, OWNER},
    {"front-key", required_argument, NULL, FRONT_KEY},
    {"listen", required_argument, NULL, LISTEN},
    {"no-start", no_argument, NULL, NO_START},
    {"deleted", no_argument, NULL, DELETED},
    {"declare-dead", no_argument, NULL, DECLARE_DEAD},
    {"all", no_argument, NULL, ALL},
    {"force", no_argument, NULL, FORCE},
    {"owner-key", required_argument, NULL, OWNER_KEY},
    {"since", required_argument, NULL, SINCE},
    {"state-dir", required_argument, NULL, STATE_DIR},
    {"from", required_argument, NULL, FROM},
    {"key", required_argument, NULL, KEY},
    {"key-format", required_argument, NULL, KEY_FORMAT},
    {"pwdfile", required_argument, NULL, PWDFILE},
    {"kdf", required_argument, NULL, KDF},
    {"help", no_argument, NULL, HELP},
    {"version", no_argument, NULL, VERSION},
    {0},
};

#define BIT(option) (1u << (option))
#define EVERYWHERE  (BIT(SOCKET) | BIT(JSON) | BIT(TIMEOUT))

static const struct command {
    const char *name;
    const char *argument; /* NULL: it takes none */
    unsigned options;     /* besides those that every command takes */
    bool optional;        /* the argument */
    bool offline;         /* it connects by itself, if at all */
    struct err (*run)(struct request *request, struct explanation *why);
} commands[] = {
    {"create", "label", BIT(OWNER) | BIT(FRONT_KEY) | BIT(LISTEN) | BIT(NO_START), false, false, run_create},
    {"import", "label",
     BIT(FROM) | BIT(KEY) | BIT(KEY_FORMAT) | BIT(PWDFILE) | BIT(KDF) | BIT(OWNER) | BIT(LISTEN) | BIT(NO_START), false,
     false, run_import},
    {"list", NULL, BIT(DELETED), false, false, run_list},
    {"show", "instance", 0, false, false, run_show},
    {"start", "instance", BIT(DECLARE_DEAD), false, false, run_start},
    {"stop", "instance", BIT(ALL), false, false, run_stop},
    {"delete", "instance", BIT(FORCE) | BIT(OWNER_KEY), false, false, run_delete},
    {"events", NULL, BIT(SINCE), false, false, run_events},
    {"status", NULL, 0, false, false, run_status},
    {"version", NULL, 0, false, false, run_version},
    {"store check", "file", BIT(STATE_DIR), true, true, run_store_check},
    {"store backup", "file", BIT(FORCE) | BIT(STATE_DIR), false, true, run_store_backup},
};

static const char usage[] =
    "usage: vtpmctl [--socket PATH] [--json] [--timeout SECONDS] COMMAND\n"
    "  create LABEL [--owner PUBKEY.pem] [--front-key PUBKEY.pem] [--listen ADDR]... [--no-start]\n"
    "  import LABEL --from DIR [--key FILE [--key-format hex|binary] | --pwdfile FILE [--kdf pbkdf2|sha512]]\n"
    "         [--owner PUBKEY.pem] [--listen ADDR]... [--no-start]\n"
    "  list [--deleted]\n"
    "  show INSTANCE\n"
    "  start INSTANCE [--declare-dead]\n"
    "  stop INSTANCE | stop --all\n"
    "  delete INSTANCE [--force] [--owner-key KEY.pem]\n"
    "  events [--since N]\n"
    "  status\n"
    "  version\n"
    "  store check [FILE] [--state-dir DIR]\n"
    "  store backup FILE [--force] [--state-dir DIR]\n"
    "INSTANCE is a label or an id. See vtpmctl(1).\n";

static struct err take_option(int option, const char *argument, struct request *request, struct explanation *why)
{
    const char **const texts[OPTION_COUNT] = {
        [SOCKET] = &request->socket,
        [TIMEOUT] = &request->timeout_text,
        [OWNER] = &request->owner,
        [FRONT_KEY] = &request->front_key,
        [OWNER_KEY] = &request->owner_key,
        [SINCE] = &request->since_text,
        [FROM] = &request->from.directory,
        [KEY] = &request->from.key,
        [KEY_FORMAT] = &request->from.key_format,
        [PWDFILE] = &request->from.password,
        [KDF] = &request->from.kdf,
        [STATE_DIR] = &request->state_dir,
    };
    bool *const flags[OPTION_COUNT] = {
        [JSON] = &request->json, [NO_START] = &request->no_start,         [DELETED] = &request->deleted,
        [ALL] = &request->all,   [DECLARE_DEAD] = &request->declare_dead, [FORCE] = &request->force,
    };
    if (texts[option]) *texts[option] = argument;
    if (flags[option]) *flags[option] = true;
    if (option != LISTEN) return OK;
    if (request->listen_count == LISTEN_MAX)
        return explain(why, FAIL(USAGE), "--listen was given more than %u times", LISTEN_MAX);
    request->listen[request->listen_count++] = argument;
    return OK;
}

static struct err parse_number(const char *option, const char *text, long long least, long long most,
                               long long *out_value, struct explanation *why)
{
    char *end = NULL;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || value < least || value > most)
        return explain(why, FAIL(USAGE), "--%s %s: not a number from %lld to %lld", option, text, least, most);
    *out_value = value;
    return OK;
}

static struct err parse_numbers(struct request *request, struct explanation *why)
{
    long long value = 0;
    if (request->timeout_text) {
        TRY(parse_number("timeout", request->timeout_text, 1, 86400, &value, why));
        request->timeout = (unsigned)value;
    }
    if (request->since_text) {
        TRY(parse_number("since", request->since_text, 0, 1ll << 53, &value, why));
        request->since = value;
        request->has_since = true;
    }
    return OK;
}

/* out_words: that its name takes, one or two. */
static const struct command *find_command(const char *name, const char *second, int *out_words)
{
    char both[64];
    bool two = strcmp(name, "store") == 0 && second;
    *out_words = two ? 2 : 1;
    (void)snprintf(both, sizeof both, "%s %s", name, two ? second : "");
    if (two) name = both;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    return NULL;
}

static struct err check_use(const struct command *command, unsigned seen, const struct request *request,
                            struct explanation *why)
{
    for (unsigned i = 0; i < OPTION_COUNT; i++)
        if (seen & BIT(i) && !((command->options | EVERYWHERE) & BIT(i)))
            return explain(why, FAIL(USAGE), "%s does not take --%s", command->name, long_options[i].name);
    bool wants = command->argument && !request->all;
    if (wants && !request->instance && !command->optional)
        return explain(why, FAIL(USAGE), "%s: which %s?", command->name, command->argument);
    if (!wants && request->instance)
        return explain(why, FAIL(USAGE), "%s%s takes no %s", command->name, request->all ? " --all" : "",
                       command->argument ? command->argument : "argument");
    return OK;
}

/* out_information: --help or --version was given, and nothing is to be done. */
static struct err parse_arguments(int argc, char **argv, struct request *request, const struct command **out_command,
                                  const char **out_information, struct explanation *why)
{
    unsigned seen = 0;
    int option = 0;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":", long_options, NULL)) != -1) {
        if (option == '?') return explain(why, FAIL(USAGE), "%s: unknown option", argv[optind - 1]);
        if (option == ':') return explain(why, FAIL(USAGE), "%s: a value is missing", argv[optind - 1]);
        if (option == HELP || option == VERSION) {
            *out_information = option == HELP ? usage : "vtpmctl " VTPM_VERSION "\n";
            return OK;
        }
        seen |= BIT(option);
        TRY(take_option(option, optarg, request, why));
    }
    if (optind == argc) return explain(why, FAIL(USAGE), "which command?");
    int words = 0;
    *out_command = find_command(argv[optind], argv[optind + 1], &words);
    if (!*out_command && strcmp(argv[optind], "store") == 0)
        return explain(why, FAIL(USAGE), "store: check or backup?");
    if (!*out_command) return explain(why, FAIL(USAGE), "%s: unknown command", argv[optind]);
    const int last = optind + words;
    if (argc - last > 1) return explain(why, FAIL(USAGE), "%s: one argument too many", argv[last + 1]);
    request->instance = argv[last];
    TRY(parse_numbers(request, why));
    return check_use(*out_command, seen, request, why);
}

static int complain(const struct request *request, struct err err, const struct explanation *why)
{
    (void)fflush(stdout);
    (void)fprintf(stderr, "vtpmctl: %s\n", explanation_text(why, err));
    if (request->ctl.outcome == CTL_LOST || request->ctl.outcome == CTL_ABSENT) return 3;
    if (request->ctl.outcome == CTL_REFUSED || err.code != ERR_USAGE) return 1;
    (void)fputs("Try \"vtpmctl --help\".\n", stderr);
    return 2;
}

int main(int argc, char **argv)
{
    struct request request = {.socket = DEFAULT_SOCKET, .ctl = {.fd = -1}};
    struct explanation why = {0};
    const struct command *command = NULL;
    const char *information = NULL;
    struct err err = parse_arguments(argc, argv, &request, &command, &information, &why);
    if (information) return fputs(information, stdout) < 0 || fflush(stdout) != 0;
    unsigned greeting_seconds = request.timeout ? request.timeout : SHORT_SECONDS;
    if (!err.code && !command->offline) err = ctl_open(request.socket, greeting_seconds, &request.ctl, &why);
    if (!err.code) err = command->run(&request, &why);
    int status = err.code ? complain(&request, err, &why) : 0;
    ctl_close(&request.ctl);
    return status;
}
