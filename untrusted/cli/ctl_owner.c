#include "untrusted/cli/ctl_owner.h"

#include <string.h>

#include "base/id.h"
#include "untrusted/cli/ctl_act.h"
#include "untrusted/cli/ctl_key.h"
#include "untrusted/cli/ctl_snapshot.h"
#include "untrusted/cli/ctl_text.h"
#include "untrusted/cli/file.h"

/* What is asked for: the API's verb, and what it wants beside the instance. */
struct wish {
    const char *verb;
    json_t *about; /* NULL: nothing; else an object with one member */
};

static void wish_close(struct wish *wish)
{
    json_decref(wish->about);
}

static struct err wish_of(const char *verb, const char *member, json_t *value, struct wish *out_wish,
                          struct explanation *why)
{
    if (!value) return explain(why, FAIL(USAGE), "the %s is not UTF-8", member);
    *out_wish = (struct wish){verb, json_pack("{s:o}", member, value)};
    ENSURE(out_wish->about, NO_MEMORY);
    return OK;
}

static struct err wish_for_owner(const struct ctl_request *request, struct wish *out_wish, struct explanation *why)
{
    char key[CTL_HEX_SIZE(ED25519_PUBLIC_SIZE)];
    if (!request->set == !request->operator)
        return explain(why, FAIL(USAGE), "owner: either --set PUBKEY.pem or --operator");
    if (request->set) TRY(ctl_read_public_key(request->set, "ED25519", key, why));
    return wish_of("set-owner", "owner", request->set ? json_string(key) : json_null(), out_wish, why);
}

/* --- what is signed ------------------------------------------------------------------------------------------------
 */

static struct err act_of(struct ctl_request *request, const struct wish *wish, const json_t *instance,
                         struct ctl_act *out_act, struct explanation *why)
{
    json_t *snapshot DEFER(ctl_json_close) = NULL;
    const char *label = json_string_value(json_object_get(wish->about, "label"));
    const char *name = json_string_value(json_object_get(wish->about, "snapshot"));
    *out_act = ctl_act_delete();
    if (label) return ctl_act_clone(label, out_act);
    if (json_object_get(wish->about, "owner"))
        return ctl_act_set_owner(json_string_value(json_object_get(wish->about, "owner")), out_act);
    if (!name) return OK;
    TRY(ctl_snapshot_find(request, name, &snapshot, why));
    if (ctl_act_revert(instance, snapshot, out_act).code) return ctl_missing(request, "digest or manager", why);
    (void)fprintf(stderr, "vtpmctl: the snapshot %s is version %s, SHA-256 %s\n", shown_text(name).text,
                  shown_member(snapshot, "version").text, shown_member(snapshot, "digest").text);
    return OK;
}

/* The instance that the owner named is the one that the daemon shows, and the key is its owner's. */
static struct err check_owned(struct ctl_request *request, const struct ctl_owner *owner, const json_t *instance,
                              struct explanation *why)
{
    const char *label = json_string_value(json_object_get(instance, "label"));
    const char *id = json_string_value(json_object_get(instance, "id"));
    const char *key = json_string_value(json_object_get(instance, "owner"));
    if (!label || !id || !key) return ctl_missing(request, "label, id or owner", why);
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

/* id: NULL for the one of the command line. */
static struct err ask_challenge(struct ctl_request *request, const struct wish *wish, json_t *id,
                                json_t **out_challenge, struct explanation *why)
{
    json_t *arguments = ctl_instance_arguments(request);
    if (id) (void)json_object_set(arguments, "instance", id);
    (void)json_object_set_new(arguments, "verb", json_string(wish->verb));
    (void)json_object_update(arguments, wish->about);
    return ctl_ask(request, "challenge", arguments, CTL_SHORT_SECONDS, NULL, out_challenge, why);
}

static void owner_close(struct ctl_owner *owner)
{
    ctl_owner_close(owner);
}

static struct err sign(struct ctl_request *request, const struct wish *wish,
                       uint8_t out_signature[ED25519_SIGNATURE_SIZE], struct explanation *why)
{
    struct ctl_owner owner DEFER(owner_close) = {0};
    json_t *instance DEFER(ctl_json_close) = NULL;
    json_t *status DEFER(ctl_json_close) = NULL;
    json_t *challenge DEFER(ctl_json_close) = NULL;
    struct ctl_act act;
    uint8_t message[OWNER_ACT_SIZE];
    TRY(ctl_owner_open(request->owner_key, &owner, why));
    TRY(ctl_ask(request, "show", ctl_instance_arguments(request), CTL_SHORT_SECONDS, NULL, &instance, why));
    TRY(check_owned(request, &owner, instance, why));
    TRY(act_of(request, wish, instance, &act, why));
    TRY(ctl_ask(request, "status", NULL, CTL_SHORT_SECONDS, NULL, &status, why));
    TRY(ask_challenge(request, wish, json_object_get(instance, "id"), &challenge, why));
    struct err err = ctl_act_build(&act, instance, status, challenge, message, why);
    if (err.code == ERR_PROTOCOL) request->ctl.outcome = CTL_LOST;
    TRY(err);
    (void)fprintf(stderr, "vtpmctl: signing %s of %s, %s, epoch %s\n", wish->verb, shown_member(instance, "label").text,
                  shown_member(instance, "id").text, shown_member(instance, "epoch").text);
    return ctl_owner_sign(&owner, span_of(message, sizeof message), out_signature);
}

static void close_file(struct file *file)
{
    file_close(file);
}

static struct err read_signature(const char *path, uint8_t out_signature[ED25519_SIGNATURE_SIZE],
                                 struct explanation *why)
{
    struct file file DEFER(close_file) = {0};
    TRY(file_read(path, ED25519_SIGNATURE_SIZE, &file, why));
    if (file.size != ED25519_SIGNATURE_SIZE)
        return explain(why, FAIL(BAD_VALUE), "%s: %zu bytes; a signature has %u", path, file.size,
                       ED25519_SIGNATURE_SIZE);
    memcpy(out_signature, file.data, file.size);
    return OK;
}

static struct err add_signature(struct ctl_request *request, const struct wish *wish, json_t *arguments,
                                struct explanation *why)
{
    uint8_t signature[ED25519_SIGNATURE_SIZE];
    char hex[CTL_HEX_SIZE(ED25519_SIGNATURE_SIZE)];
    if (!request->owner_key && !request->signature) return OK;
    if (request->owner_key && request->signature) return explain(why, FAIL(USAGE), "either --owner-key or --signature");
    TRY(request->owner_key ? sign(request, wish, signature, why) : read_signature(request->signature, signature, why));
    ctl_hex(signature, sizeof signature, hex);
    ENSURE(json_object_set_new(arguments, "signature", json_string(hex)) == 0, NO_MEMORY);
    return OK;
}

/* --- the commands --------------------------------------------------------------------------------------------------
 */

typedef struct err asker(struct ctl_request *request, const char *verb, json_t *arguments, json_t **out_return,
                         struct explanation *why);

static struct err ask_quietly(struct ctl_request *request, const char *verb, json_t *arguments, json_t **out_return,
                              struct explanation *why)
{
    return ctl_ask(request, verb, arguments, CTL_LONG_SECONDS, NULL, out_return, why);
}

/* more: members that nobody signs; taken over. */
static struct err do_wish(struct ctl_request *request, const struct wish *wish, json_t *more, asker *ask,
                          json_t **out_instance, struct explanation *why)
{
    json_t *arguments DEFER(ctl_json_close) = ctl_instance_arguments(request);
    (void)json_object_update(arguments, wish->about);
    (void)json_object_update_new(arguments, more);
    TRY(add_signature(request, wish, arguments, why));
    return ask(request, wish->verb, json_incref(arguments), out_instance, why);
}

static struct err delete_once(struct ctl_request *request, json_t **out_instance, struct explanation *why)
{
    const struct wish wish = {.verb = "delete"};
    json_t *more = request->force ? json_pack("{s:b}", "force", 1) : NULL;
    return do_wish(request, &wish, more, ask_quietly, out_instance, why);
}

struct err ctl_owner_delete(struct ctl_request *request, struct explanation *why)
{
    json_t *instance DEFER(ctl_json_close) = NULL;
    struct err err = delete_once(request, &instance, why);
    /* Giving up a lost enclave first raises the epoch, and the signature was for the one before. */
    bool outdated = err.code == ERR_OWNER_SIGNATURE && request->ctl.outcome == CTL_REFUSED;
    if (outdated && request->owner_key && request->force) {
        request->ctl.outcome = CTL_FINE;
        err = delete_once(request, &instance, why);
    }
    TRY(err);
    return ctl_print(request, instance, ctl_show_outcome, why);
}

static void show_reverted(const json_t *instance, FILE *out)
{
    ctl_show_outcome(instance, out);
    (void)fprintf(out,
                  "It has an older state now, as version %s of epoch %s, which whoever verifies it can see.\n"
                  "What it had before is kept as a snapshot (vtpmctl snapshot --list).\n",
                  shown_member(instance, "version").text, shown_member(instance, "epoch").text);
}

struct err ctl_owner_revert(struct ctl_request *request, struct explanation *why)
{
    struct wish wish DEFER(wish_close) = {0};
    json_t *instance DEFER(ctl_json_close) = NULL;
    TRY(wish_of("revert", "snapshot", json_string(request->words[1]), &wish, why));
    TRY(do_wish(request, &wish, NULL, ask_quietly, &instance, why));
    return ctl_print(request, instance, show_reverted, why);
}

struct err ctl_owner_clone(struct ctl_request *request, struct explanation *why)
{
    struct wish wish DEFER(wish_close) = {0};
    json_t *instance DEFER(ctl_json_close) = NULL;
    json_t *more DEFER(ctl_json_close) = json_object();
    TRY(wish_of("clone", "label", json_string(request->words[1]), &wish, why));
    TRY(ctl_add_start_arguments(request, more, why));
    TRY(do_wish(request, &wish, json_incref(more), ctl_ask_told, &instance, why));
    return ctl_print(request, instance, ctl_show_outcome, why);
}

struct err ctl_owner_set(struct ctl_request *request, struct explanation *why)
{
    struct wish wish DEFER(wish_close) = {0};
    json_t *instance DEFER(ctl_json_close) = NULL;
    TRY(wish_for_owner(request, &wish, why));
    TRY(do_wish(request, &wish, NULL, ask_quietly, &instance, why));
    return ctl_print(request, instance, ctl_show_outcome, why);
}

/* --- for a key that is elsewhere ------------------------------------------------------------------------------------
 */

static struct err parse_wish(const struct ctl_request *request, struct wish *out_wish, struct explanation *why)
{
    const char *act = request->words[1];
    const char *what = request->words[2];
    const bool revert = strcmp(act, "revert") == 0;
    const bool clone = strcmp(act, "clone") == 0;
    const bool owner = strcmp(act, "owner") == 0;
    if (!revert && !clone && !owner && strcmp(act, "delete") != 0)
        return explain(why, FAIL(USAGE), "challenge: delete, revert SNAPSHOT, clone LABEL or owner, not %s", act);
    if ((revert || clone) != (what != NULL))
        return explain(why, FAIL(USAGE), "challenge %s: %s", act,
                       what     ? "one argument too many"
                       : revert ? "which snapshot?"
                                : "which label?");
    if (!owner && (request->set || request->operator))
        return explain(why, FAIL(USAGE), "challenge %s takes no --set or --operator", act);
    *out_wish = (struct wish){.verb = "delete"};
    if (owner) return wish_for_owner(request, out_wish, why);
    if (revert) return wish_of("revert", "snapshot", json_string(what), out_wish, why);
    return clone ? wish_of("clone", "label", json_string(what), out_wish, why) : OK;
}

struct err ctl_owner_challenge(struct ctl_request *request, struct explanation *why)
{
    struct wish wish DEFER(wish_close) = {0};
    json_t *challenge DEFER(ctl_json_close) = NULL;
    uint8_t bytes[CTL_ACT_FILE_MAX];
    size_t size = 0;
    TRY(parse_wish(request, &wish, why));
    if (!request->out) return explain(why, FAIL(USAGE), "challenge: --out FILE is missing");
    TRY(ask_challenge(request, &wish, NULL, &challenge, why));
    if (ctl_act_write(challenge, bytes, &size).code) return ctl_missing(request, "message or arguments", why);
    TRY(file_replace(request->out, span_of(bytes, size), why));
    if (request->json) return ctl_print(request, challenge, NULL, why);
    (void)printf(
        "What the owner has to sign is in %s. Where the owner's key is:\n"
        "    vtpm-sign owner-act --key OWNER.pem --out SIGNATURE %s\n"
        "and then the same act here with --signature SIGNATURE, before anything else is done to %s and before\n"
        "vtpmd begins anew.\n",
        request->out, request->out, request->instance);
    return ctl_end_of_output(why);
}
