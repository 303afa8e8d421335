/*
 * vtpmctl: the operator's and the owner's tool; a client of vtpmd's admin socket (docs/admin-api.md), but for doctor, which
 * looks at the machine, and selftest, which brings a vtpmd of its own.
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
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "untrusted/cli/ctl_doctor.h"
#include "untrusted/cli/ctl_enclave.h"
#include "untrusted/cli/ctl_key.h"
#include "untrusted/cli/ctl_owner.h"
#include "untrusted/cli/ctl_request.h"
#include "untrusted/cli/ctl_selftest.h"
#include "untrusted/cli/ctl_show.h"
#include "untrusted/cli/ctl_snapshot.h"
#include "untrusted/cli/ctl_store.h"
#include "untrusted/cli/ctl_text.h"
#include "untrusted/host/hygiene.h"

#define DEFAULT_SOCKET "/run/vtpm/admin.sock"

static struct err create_arguments(const struct ctl_request *request, json_t **out_arguments, struct explanation *why)
{
    char key[CTL_HEX_SIZE(X25519_SIZE)];
    json_t *arguments DEFER(ctl_json_close) = json_pack("{s:s}", "label", request->instance);
    if (!arguments) return explain(why, FAIL(USAGE), "the label is not UTF-8");
    if (request->owner) {
        TRY(ctl_read_public_key(request->owner, "ED25519", key, why));
        ENSURE(json_object_set_new(arguments, "owner", json_string(key)) == 0, NO_MEMORY);
    }
    if (request->front_key) {
        TRY(ctl_read_public_key(request->front_key, "X25519", key, why));
        ENSURE(json_object_set_new(arguments, "front-key", json_string(key)) == 0, NO_MEMORY);
    }
    if (request->tpm) ENSURE(json_object_set_new(arguments, "tpm", json_string(request->tpm)) == 0, NO_MEMORY);
    if (request->lockout_heals)
        ENSURE(json_object_set_new(arguments, "lockout-heals", json_string(request->lockout_heals)) == 0, NO_MEMORY);
    if (request->snapshots)
        ENSURE(json_object_set_new(arguments, "snapshots", json_string(request->snapshots)) == 0, NO_MEMORY);
    TRY(ctl_add_start_arguments(request, arguments, why));
    *out_arguments = json_incref(arguments);
    return OK;
}

static struct err run_create(struct ctl_request *request, struct explanation *why)
{
    json_t *arguments = NULL;
    json_t *instance DEFER(ctl_json_close) = NULL;
    TRY(create_arguments(request, &arguments, why));
    TRY(ctl_ask_told(request, "create", arguments, &instance, why));
    return ctl_print(request, instance, ctl_show_outcome, why);
}

static struct err run_list(struct ctl_request *request, struct explanation *why)
{
    json_t *list DEFER(ctl_json_close) = NULL;
    json_t *arguments = request->deleted ? json_pack("{s:b}", "deleted", 1) : NULL;
    TRY(ctl_ask(request, "list", arguments, CTL_SHORT_SECONDS, NULL, &list, why));
    const json_t *instances = json_object_get(list, "instances");
    if (!json_is_array(instances)) return ctl_missing(request, "instances", why);
    if (request->json) return ctl_print(request, list, NULL, why);
    return ctl_print(request, instances, ctl_show_list, why);
}

static struct err run_show(struct ctl_request *request, struct explanation *why)
{
    json_t *instance DEFER(ctl_json_close) = NULL;
    TRY(ctl_ask(request, "show", ctl_instance_arguments(request), CTL_SHORT_SECONDS, NULL, &instance, why));
    return ctl_print(request, instance, ctl_show_instance, why);
}

/* --- from another vtpmd --- */

static void close_there(int *there)
{
    if (*there >= 0) (void)close(*there);
}

/* It is this process that may speak to both. The connection goes with the request. */
static struct err ask_with_connection(struct ctl_request *request, const char *verb, json_t *arguments,
                                      json_t **out_return, struct explanation *why)
{
    int there DEFER(close_there) = -1;
    struct err err = request->from.directory
                         ? ctl_connect(request->from.directory, &there, why)
                         : explain(why, FAIL(USAGE), "%s: --from names the admin.sock of the other vtpmd", verb);
    if (err.code) {
        json_decref(arguments);
        return err;
    }
    request->ctl.handed = &there;
    request->ctl.handed_count = 1;
    return ctl_ask(request, verb, arguments, CTL_LONG_SECONDS, NULL, out_return, why);
}

static struct err run_move(struct ctl_request *request, struct explanation *why)
{
    json_t *instance DEFER(ctl_json_close) = NULL;
    TRY(ask_with_connection(request, "move", ctl_instance_arguments(request), &instance, why));
    return ctl_print(request, instance, ctl_show_outcome, why);
}

static struct err run_join(struct ctl_request *request, struct explanation *why)
{
    json_t *status DEFER(ctl_json_close) = NULL;
    TRY(ask_with_connection(request, "join", NULL, &status, why));
    return ctl_print(request, status, ctl_show_status, why);
}

static struct err run_start(struct ctl_request *request, struct explanation *why)
{
    json_t *instance DEFER(ctl_json_close) = NULL;
    const char *from = request->from.directory;
    if (from && !request->incoming) return explain(why, FAIL(USAGE), "start: --from goes with --incoming");
    json_t *arguments = ctl_instance_arguments(request);
    if (request->declare_dead) (void)json_object_set_new(arguments, "declare-dead", json_true());
    if (request->incoming) (void)json_object_set_new(arguments, "incoming", json_true());
    if (from) (void)json_object_set_new(arguments, "from", json_true());
    TRY(ctl_add_listen(request, arguments, why));
    TRY((from ? ask_with_connection : ctl_ask_told)(request, "start", arguments, &instance, why));
    return ctl_print(request, instance, request->incoming ? ctl_show_instance : ctl_show_outcome, why);
}

static bool is_running(const json_t *instance)
{
    const char *state = json_string_value(json_object_get(instance, "state"));
    return state && (strcmp(state, "running") == 0 || strcmp(state, "starting") == 0);
}

/* Stops what runs, one after the other. A refusal is told and does not keep the others running. */
static struct err stop_all(struct ctl_request *request, struct explanation *why)
{
    json_t *list DEFER(ctl_json_close) = NULL;
    json_t *stopped DEFER(ctl_json_close) = json_pack("{s:[]}", "instances");
    struct err first = OK;
    TRY(ctl_ask(request, "list", NULL, CTL_SHORT_SECONDS, NULL, &list, why));
    const json_t *instances = json_object_get(list, "instances");
    if (!json_is_array(instances)) return ctl_missing(request, "instances", why);
    for (size_t i = 0; i < json_array_size(instances); i++) {
        json_t *instance DEFER(ctl_json_close) = NULL;
        const json_t *running = json_array_get(instances, i);
        if (!is_running(running) || !json_is_string(json_object_get(running, "id"))) continue;
        json_t *arguments = json_pack("{s:O}", "instance", json_object_get(running, "id"));
        struct explanation refusal = {0};
        struct err err = ctl_ask(request, "stop", arguments, CTL_LONG_SECONDS, NULL, &instance, &refusal);
        if (err.code && request->ctl.outcome != CTL_REFUSED)
            return explain(why, err, "%s", explanation_text(&refusal, err));
        if (err.code) {
            (void)fprintf(stderr, "vtpmctl: %s\n", explanation_text(&refusal, err));
            first = explain(why, first.code ? first : err, "not every instance was stopped");
            continue;
        }
        if (!request->json) ctl_show_outcome(instance, stdout);
        (void)json_array_append(json_object_get(stopped, "instances"), instance);
    }
    if (request->json) TRY(ctl_print(request, stopped, NULL, why));
    TRY(ctl_end_of_output(why));
    return first;
}

/* What ends without more arguments than the instance. */
static struct err end(struct ctl_request *request, const char *verb, struct explanation *why)
{
    json_t *instance DEFER(ctl_json_close) = NULL;
    TRY(ctl_ask(request, verb, ctl_instance_arguments(request), CTL_LONG_SECONDS, NULL, &instance, why));
    return ctl_print(request, instance, ctl_show_outcome, why);
}

static struct err run_suspend(struct ctl_request *request, struct explanation *why)
{
    return end(request, "suspend", why);
}

static struct err run_declare_dead(struct ctl_request *request, struct explanation *why)
{
    return end(request, "declare-dead", why);
}

static struct err run_stop(struct ctl_request *request, struct explanation *why)
{
    json_t *instance DEFER(ctl_json_close) = NULL;
    if (request->all && request->incoming) return explain(why, FAIL(USAGE), "--incoming goes with one instance");
    if (request->all) return stop_all(request, why);
    if (!request->incoming) return end(request, "stop", why);
    json_t *arguments = ctl_instance_arguments(request);
    (void)json_object_set_new(arguments, "incoming", json_true());
    TRY(ctl_ask(request, "stop", arguments, CTL_LONG_SECONDS, NULL, &instance, why));
    return ctl_print(request, instance, ctl_show_outcome, why);
}

/* --- import --- */

/* Not found, or a tombstone: *out_instance stays NULL. */
static struct err find_living(struct ctl_request *request, json_t **out_instance, struct explanation *why)
{
    struct explanation refusal = {0};
    struct err err =
        ctl_ask(request, "show", ctl_instance_arguments(request), CTL_SHORT_SECONDS, NULL, out_instance, &refusal);
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

static struct err create_for_import(struct ctl_request *request, json_t **out_instance, struct explanation *why)
{
    const bool no_start = request->no_start;
    json_t *arguments = NULL;
    request->no_start = false; /* it is not served yet, but its enclave has to be there */
    struct err err = create_arguments(request, &arguments, why);
    request->no_start = no_start;
    TRY(err);
    (void)json_object_set_new(arguments, "import", json_true());
    return ctl_ask_told(request, "create", arguments, out_instance, why);
}

/* An import was broken off, and its instance waits: it begins with an enclave of its own. */
static struct err start_again(struct ctl_request *request, const json_t *known, json_t **out_instance,
                              struct explanation *why)
{
    json_t *stopped DEFER(ctl_json_close) = NULL;
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
        TRY(ctl_ask(request, "stop", ctl_instance_arguments(request), CTL_LONG_SECONDS, NULL, &stopped, why));
    return ctl_ask_told(request, "start", ctl_instance_arguments(request), out_instance, why);
}

static void enclave_close(struct ctl_enclave *enclave)
{
    ctl_enclave_close(enclave);
}

static struct err give_state(struct ctl_request *request, const json_t *instance, struct span permanent,
                             struct ctl_enclave *enclave, struct explanation *why)
{
    struct instance_id id;
    const char *label = json_string_value(json_object_get(instance, "label"));
    const char *text = json_string_value(json_object_get(instance, "id"));
    if (!label || strchr(label, '/') || !text || id_parse(text, &id).code)
        return ctl_missing(request, "label or id", why);
    const unsigned seconds = request->timeout ? request->timeout : CTL_LONG_SECONDS;
    TRY(ctl_enclave_open(request->socket, label, &id, seconds, enclave, why));
    return ctl_enclave_import(enclave, permanent, why);
}

/* What was begun is stopped; it waits for another attempt. */
static struct err give_up_import(struct ctl_request *request, struct err err, struct explanation *why)
{
    const struct explanation cause = *why;
    struct explanation ignored = {0};
    json_t *stopped DEFER(ctl_json_close) = NULL;
    const enum ctl_outcome outcome = request->ctl.outcome;
    if (ctl_ask(request, "stop", ctl_instance_arguments(request), CTL_LONG_SECONDS, NULL, &stopped, &ignored).code)
        request->ctl.outcome = outcome;
    return explain(why, err, "%.350s\n%s waits for its state: import it again, or vtpmctl delete it",
                   explanation_text(&cause, err), request->instance);
}

static void show_import(const json_t *instance, FILE *out)
{
    size_t index = 0;
    const json_t *path = NULL;
    ctl_show_outcome(instance, out);
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
static struct err run_import(struct ctl_request *request, struct explanation *why)
{
    struct swtpm_source source DEFER(source_close) = {.lock_fd = -1};
    struct ctl_enclave enclave DEFER(enclave_close) = {.daemon_fd = -1, .instance_fd = -1};
    json_t *known DEFER(ctl_json_close) = NULL;
    json_t *instance DEFER(ctl_json_close) = NULL;
    json_t *served DEFER(ctl_json_close) = NULL;
    TRY(hygiene_apply());
    TRY(swtpm_source_open(&request->from, &source, why));
    TRY(find_living(request, &known, why));
    TRY(known ? start_again(request, known, &instance, why) : create_for_import(request, &instance, why));
    struct err given = give_state(request, instance, source.permanent, &enclave, why);
    if (given.code) return give_up_import(request, given, why);
    TRY(ctl_ask(request, "stop", ctl_instance_arguments(request), CTL_LONG_SECONDS, NULL, &served, why));
    if (!request->no_start) {
        json_decref(served);
        served = NULL;
        TRY(ctl_ask_told(request, "start", ctl_instance_arguments(request), &served, why));
    }
    if (request->mark) TRY(swtpm_source_mark(&source, json_string_value(json_object_get(served, "id")), why));
    ENSURE(json_object_set_new(served, "shred", swtpm_source_files(&source)) == 0, NO_MEMORY);
    return ctl_print(request, served, show_import, why);
}

static struct err run_events(struct ctl_request *request, struct explanation *why)
{
    json_t *subscribed DEFER(ctl_json_close) = NULL;
    json_t *arguments = request->has_since ? json_pack("{s:I}", "since", request->since) : NULL;
    TRY(ctl_ask(request, "subscribe", arguments, CTL_SHORT_SECONDS, NULL, &subscribed, why));
    for (;;) {
        json_t *event DEFER(ctl_json_close) = NULL;
        TRY(ctl_receive(&request->ctl, 0, NULL, &event, why));
        if (!json_is_string(json_object_get(event, "event"))) return ctl_missing(request, "event", why);
        if (request->json)
            shown_json(event, JSON_COMPACT, stdout);
        else
            ctl_show_event(event, stdout);
        TRY(ctl_end_of_output(why));
    }
}

static struct err run_status(struct ctl_request *request, struct explanation *why)
{
    json_t *status DEFER(ctl_json_close) = NULL;
    TRY(ctl_ask(request, "status", NULL, CTL_SHORT_SECONDS, NULL, &status, why));
    return ctl_print(request, status, ctl_show_status, why);
}

static void show_version(const json_t *version, FILE *out)
{
    (void)fprintf(out, "vtpmctl %s\nvtpmd %s, admin API %s\n", VTPM_VERSION, shown_member(version, "version").text,
                  shown_member(version, "api").text);
}

static struct err run_version(struct ctl_request *request, struct explanation *why)
{
    json_t *version DEFER(ctl_json_close) = NULL;
    TRY(ctl_ask(request, "version", NULL, CTL_SHORT_SECONDS, NULL, &version, why));
    return ctl_print(request, version, show_version, why);
}

static struct ctl_store store_of(struct ctl_request *request)
{
    return (struct ctl_store){
        .socket = request->socket,
        .file = request->instance,
        .state_dir = request->state_dir,
        .seconds = request->timeout ? request->timeout : CTL_LONG_SECONDS,
        .json = request->json,
        .force = request->force,
        .ctl = &request->ctl,
    };
}

static struct err run_store_check(struct ctl_request *request, struct explanation *why)
{
    const struct ctl_store store = store_of(request);
    return ctl_store_check(&store, why);
}

static struct err run_store_backup(struct ctl_request *request, struct explanation *why)
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
    LOCKOUT_HEALS,
    TPM,
    SNAPSHOTS,
    LIST,
    DELETE,
    SET,
    OPERATOR,
    SIGNATURE,
    OUT,
    INCOMING,
    MARK,
    DEVICE,
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
    {"lockout-heals", required_argument, NULL, LOCKOUT_HEALS},
    {"tpm", required_argument, NULL, TPM},
    {"snapshots", required_argument, NULL, SNAPSHOTS},
    {"list", no_argument, NULL, LIST},
    {"delete", no_argument, NULL, DELETE},
    {"set", required_argument, NULL, SET},
    {"operator", no_argument, NULL, OPERATOR},
    {"signature", required_argument, NULL, SIGNATURE},
    {"out", required_argument, NULL, OUT},
    {"incoming", no_argument, NULL, INCOMING},
    {"mark", no_argument, NULL, MARK},
    {"device", required_argument, NULL, DEVICE},
    {"help", no_argument, NULL, HELP},
    {"version", no_argument, NULL, VERSION},
    {0},
};

#define BIT(option) (UINT64_C(1) << (option))
#define EVERYWHERE  (BIT(SOCKET) | BIT(JSON) | BIT(TIMEOUT))

#define SIGNED      (BIT(OWNER_KEY) | BIT(SIGNATURE))

static const struct command {
    const char *name;
    const char *words[CTL_WORDS_MAX]; /* what each argument is; NULL: no more */
    unsigned needed;                  /* of them */
    uint64_t options;                 /* besides those that every command takes */
    bool offline;                     /* it connects by itself, if at all */
    struct err (*run)(struct ctl_request *request, struct explanation *why);
} commands[] = {
    {"create",
     {"label"},
     1,
     BIT(OWNER) | BIT(FRONT_KEY) | BIT(LISTEN) | BIT(NO_START) | BIT(LOCKOUT_HEALS) | BIT(TPM) | BIT(SNAPSHOTS),
     false,
     run_create},
    {"import",
     {"label"},
     1,
     BIT(FROM) | BIT(MARK) | BIT(KEY) | BIT(KEY_FORMAT) | BIT(PWDFILE) | BIT(KDF) | BIT(OWNER) | BIT(LISTEN) |
         BIT(NO_START) | BIT(LOCKOUT_HEALS) | BIT(SNAPSHOTS),
     false,
     run_import},
    {"list", {0}, 0, BIT(DELETED), false, run_list},
    {"show", {"instance"}, 1, 0, false, run_show},
    {"start", {"instance"}, 1, BIT(DECLARE_DEAD) | BIT(INCOMING) | BIT(LISTEN) | BIT(FROM), false, run_start},
    {"move", {"instance"}, 1, BIT(FROM), false, run_move},
    {"join", {0}, 0, BIT(FROM), false, run_join},
    {"stop", {"instance"}, 1, BIT(ALL) | BIT(INCOMING), false, run_stop},
    {"suspend", {"instance"}, 1, 0, false, run_suspend},
    {"declare-dead", {"instance"}, 1, 0, false, run_declare_dead},
    {"snapshot", {"instance", "name"}, 2, BIT(LIST) | BIT(DELETE), false, ctl_snapshot_run},
    {"revert", {"instance", "snapshot"}, 2, SIGNED, false, ctl_owner_revert},
    {"clone", {"instance", "label"}, 2, SIGNED | BIT(LISTEN) | BIT(NO_START), false, ctl_owner_clone},
    {"owner", {"instance"}, 1, SIGNED | BIT(SET) | BIT(OPERATOR), false, ctl_owner_set},
    {"delete", {"instance"}, 1, SIGNED | BIT(FORCE), false, ctl_owner_delete},
    {"challenge", {"instance", "act", "argument"}, 2, BIT(SET) | BIT(OPERATOR) | BIT(OUT), false, ctl_owner_challenge},
    {"events", {0}, 0, BIT(SINCE), false, run_events},
    {"status", {0}, 0, 0, false, run_status},
    {"version", {0}, 0, 0, false, run_version},
    {"store check", {"file"}, 0, BIT(STATE_DIR), true, run_store_check},
    {"store backup", {"file"}, 1, BIT(FORCE) | BIT(STATE_DIR), true, run_store_backup},
    {"doctor", {0}, 0, BIT(DEVICE), true, ctl_doctor_run},
    {"selftest", {0}, 0, BIT(DEVICE), true, ctl_selftest_run},
};

static const char usage[] =
    "usage: vtpmctl [--socket PATH] [--json] [--timeout SECONDS] COMMAND\n"
    "  create LABEL [--owner PUBKEY.pem] [--front-key PUBKEY.pem] [--listen ADDR]... [--no-start]\n"
    "         [--tpm 2.0|1.2] [--lockout-heals time|start-only|never] [--snapshots refused|allowed]\n"
    "  import LABEL --from DIR [--key FILE [--key-format hex|binary] | --pwdfile FILE [--kdf pbkdf2|sha512]]\n"
    "         [--owner PUBKEY.pem] [--listen ADDR]... [--no-start] [--lockout-heals time|start-only|never]\n"
    "         [--snapshots refused|allowed] [--mark]\n"
    "  list [--deleted]\n"
    "  show INSTANCE\n"
    "  start INSTANCE [--declare-dead | --incoming [--from SOCKET] [--listen ADDRESS]...]\n"
    "  stop INSTANCE [--incoming] | stop --all\n"
    "  suspend INSTANCE\n"
    "  declare-dead INSTANCE\n"
    "  snapshot INSTANCE NAME | snapshot --list INSTANCE | snapshot --delete INSTANCE NAME\n"
    "  revert INSTANCE SNAPSHOT [SIGNED]\n"
    "  clone INSTANCE LABEL [--listen ADDR]... [--no-start] [SIGNED]\n"
    "  owner INSTANCE --set PUBKEY.pem | --operator [SIGNED]\n"
    "  delete INSTANCE [--force] [SIGNED]\n"
    "  challenge INSTANCE delete | revert SNAPSHOT | clone LABEL | owner --set PUBKEY.pem | owner --operator\n"
    "            --out FILE\n"
    "  move INSTANCE --from SOCKET\n"
    "  join --from SOCKET\n"
    "  events [--since N]\n"
    "  status\n"
    "  version\n"
    "  store check [FILE] [--state-dir DIR]\n"
    "  store backup FILE [--force] [--state-dir DIR]\n"
    "  doctor [--device auto|sgx|software]\n"
    "  selftest [--device auto|sgx|software]\n"
    "INSTANCE is a label or an id; SIGNED is --owner-key KEY.pem or --signature FILE. See vtpmctl(1).\n";

static struct err take_option(int option, const char *argument, struct ctl_request *request, struct explanation *why)
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
        [LOCKOUT_HEALS] = &request->lockout_heals,
        [TPM] = &request->tpm,
        [SNAPSHOTS] = &request->snapshots,
        [SET] = &request->set,
        [SIGNATURE] = &request->signature,
        [OUT] = &request->out,
        [DEVICE] = &request->device,
    };
    bool *const flags[OPTION_COUNT] = {
        [JSON] = &request->json,
        [NO_START] = &request->no_start,
        [DELETED] = &request->deleted,
        [ALL] = &request->all,
        [DECLARE_DEAD] = &request->declare_dead,
        [FORCE] = &request->force,
        [LIST] = &request->list,
        [DELETE] = &request->remove,
        [OPERATOR] = &request->operator,
        [INCOMING] = & request->incoming,
        [MARK] = &request->mark,
    };
    if (texts[option]) *texts[option] = argument;
    if (flags[option]) *flags[option] = true;
    if (option != LISTEN) return OK;
    if (request->listen_count == CTL_LISTEN_MAX)
        return explain(why, FAIL(USAGE), "--listen was given more than %u times", CTL_LISTEN_MAX);
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

static struct err parse_numbers(struct ctl_request *request, struct explanation *why)
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

static struct err check_use(const struct command *command, uint64_t seen, const struct ctl_request *request,
                            struct explanation *why)
{
    for (unsigned i = 0; i < OPTION_COUNT; i++)
        if (seen & BIT(i) && !((command->options | EVERYWHERE) & BIT(i)))
            return explain(why, FAIL(USAGE), "%s does not take --%s", command->name, long_options[i].name);
    unsigned given = 0, most = 0, needed = command->needed;
    while (given < CTL_WORDS_MAX && request->words[given])
        given++;
    while (most < CTL_WORDS_MAX && command->words[most])
        most++;
    if (request->all) most = needed = 0;
    if (request->list) most = needed = 1;
    if (request->list && request->remove) return explain(why, FAIL(USAGE), "either --list or --delete");
    if (given < needed) return explain(why, FAIL(USAGE), "%s: which %s?", command->name, command->words[given]);
    if (given > most && most > 0) return explain(why, FAIL(USAGE), "%s: one argument too many", request->words[most]);
    if (given > most)
        return explain(why, FAIL(USAGE), "%s%s takes no %s", command->name, request->all ? " --all" : "",
                       command->words[0] ? command->words[0] : "argument");
    return OK;
}

/* out_information: --help or --version was given, and nothing is to be done. */
static struct err parse_arguments(int argc, char **argv, struct ctl_request *request,
                                  const struct command **out_command, const char **out_information,
                                  struct explanation *why)
{
    uint64_t seen = 0;
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
    if (argc - last > (int)CTL_WORDS_MAX)
        return explain(why, FAIL(USAGE), "%s: one argument too many", argv[last + CTL_WORDS_MAX]);
    for (int i = last; i < argc; i++)
        request->words[i - last] = argv[i];
    request->instance = request->words[0];
    TRY(parse_numbers(request, why));
    return check_use(*out_command, seen, request, why);
}

static int complain(const struct ctl_request *request, struct err err, const struct explanation *why)
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
    struct ctl_request request = {.socket = DEFAULT_SOCKET, .ctl = {.fd = -1}};
    struct explanation why = {0};
    const struct command *command = NULL;
    const char *information = NULL;
    struct err err = parse_arguments(argc, argv, &request, &command, &information, &why);
    if (information) return fputs(information, stdout) < 0 || fflush(stdout) != 0;
    unsigned greeting_seconds = request.timeout ? request.timeout : CTL_SHORT_SECONDS;
    if (!err.code && !command->offline) err = ctl_open(request.socket, greeting_seconds, &request.ctl, &why);
    if (!err.code) err = command->run(&request, &why);
    int status = err.code ? complain(&request, err, &why) : 0;
    ctl_close(&request.ctl);
    return status;
}
