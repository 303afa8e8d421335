#include "untrusted/daemon/request.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* --- members -------------------------------------------------------------------------------------------------------
 */

static bool take_text(json_t *value, void *field)
{
    const char *text = json_string_value(value);
    if (!text || json_string_length(value) > REQUEST_TEXT_MAX || strlen(text) != json_string_length(value))
        return false;
    *(const char **)field = text;
    return true;
}

static bool take_flag(json_t *value, void *field)
{
    if (!json_is_boolean(value)) return false;
    *(bool *)field = json_is_true(value);
    return true;
}

static bool take_number(json_t *value, void *field)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
    *(uint64_t *)field = (uint64_t)json_integer_value(value);
    return true;
}

static bool take_list(json_t *value, void *field)
{
    if (!json_is_array(value)) return false;
    *(json_t **)field = value;
    return true;
}

static bool take_object(json_t *value, void *field)
{
    if (!json_is_object(value)) return false;
    *(json_t **)field = value;
    return true;
}

static int digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool request_take_hex(const json_t *value, uint8_t *bytes, size_t capacity, size_t *out_size)
{
    const char *text = json_string_value(value);
    const size_t size = json_string_length(value) / 2;
    if (!text || json_string_length(value) % 2 != 0 || size > capacity) return false;
    for (size_t i = 0; i < size; i++) {
        int high = digit(text[2 * i]);
        int low = digit(text[2 * i + 1]);
        if (high < 0 || low < 0) return false;
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    *out_size = size;
    return true;
}

static bool take_bytes(json_t *value, uint8_t *bytes, size_t size)
{
    size_t taken = 0;
    return request_take_hex(value, bytes, size, &taken) && taken == size;
}

static bool take_key(json_t *value, void *field)
{
    static const uint8_t none[32];
    return take_bytes(value, field, 32) && memcmp(field, none, sizeof none) != 0;
}

/* field: the whole request, here and in the next. */
static bool take_version(json_t *value, void *field)
{
    struct request *request = field;
    request->has_version = true;
    return take_number(value, &request->version);
}

static bool take_owner(json_t *value, void *field)
{
    struct request *request = field;
    request->has_owner = true;
    return json_is_null(value) || take_key(value, request->owner);
}

static bool take_message(json_t *value, void *field)
{
    struct request *request = field;
    return request_take_hex(value, request->message, sizeof request->message, &request->message_size);
}

static bool take_signature(json_t *value, void *field)
{
    return take_bytes(value, field, 64);
}

#define AT(member) offsetof(struct request, member)
#define ONLY(verb) (1u << (verb))
#define SIGNED     (ONLY(REQUEST_DELETE) | ONLY(REQUEST_REVERT) | ONLY(REQUEST_SET_OWNER) | ONLY(REQUEST_CLONE))
#define ON_INSTANCE                                                                                                    \
    (SIGNED | ONLY(REQUEST_SHOW) | ONLY(REQUEST_START) | ONLY(REQUEST_STOP) | ONLY(REQUEST_DECLARE_DEAD) |             \
     ONLY(REQUEST_SUSPEND) | ONLY(REQUEST_SNAPSHOT) | ONLY(REQUEST_SNAPSHOTS) | ONLY(REQUEST_SNAPSHOT_DELETE) |        \
     ONLY(REQUEST_CHALLENGE) | ONLY(REQUEST_HOLD) | ONLY(REQUEST_AWAIT) | ONLY(REQUEST_STATE) | ONLY(REQUEST_MOVE))
#define CREATING (ONLY(REQUEST_CREATE) | ONLY(REQUEST_CLONE))

static const struct member {
    const char *name;
    unsigned verbs; /* that take it */
    bool required;
    size_t offset;
    bool (*take)(json_t *value, void *field);
    const char *wanted;
} members[] = {
    {"instance", ON_INSTANCE, true, AT(instance), take_text, "an id or a label"},
    {"label", CREATING, true, AT(label), take_text, "a string"},
    {"label", ONLY(REQUEST_CHALLENGE), false, AT(label), take_text, "a string"},
    {"lockout-heals", ONLY(REQUEST_CREATE), false, AT(lockout_heals), take_text, "time, start-only or never"},
    {"tpm", ONLY(REQUEST_CREATE), false, AT(tpm), take_text, "2.0 or 1.2"},
    {"snapshots", ONLY(REQUEST_CREATE), false, AT(snapshots), take_text, "refused or allowed"},
    {"owner", ONLY(REQUEST_CREATE), false, AT(owner), take_key, "64 lower-case hexadecimal digits, not all 0"},
    {"owner", ONLY(REQUEST_SET_OWNER), true, 0, take_owner, "null, or 64 lower-case hexadecimal digits, not all 0"},
    {"owner", ONLY(REQUEST_CHALLENGE), false, 0, take_owner, "null, or 64 lower-case hexadecimal digits, not all 0"},
    {"front-key", ONLY(REQUEST_CREATE), false, AT(front_key), take_key, "64 lower-case hexadecimal digits, not all 0"},
    {"listen", CREATING | ONLY(REQUEST_START), false, AT(listen), take_list, "a list of addresses"},
    {"start", CREATING, false, AT(start), take_flag, "true or false"},
    {"import", ONLY(REQUEST_CREATE), false, AT(import), take_flag, "true or false"},
    {"deleted", ONLY(REQUEST_LIST), false, AT(deleted), take_flag, "true or false"},
    {"declare-dead", ONLY(REQUEST_START), false, AT(declare_dead), take_flag, "true or false"},
    {"swtpm", ONLY(REQUEST_START), false, AT(swtpm), take_object, "an object"},
    {"swtpm", ONLY(REQUEST_HOLD), true, AT(swtpm), take_object, "an object"},
    {"version", ONLY(REQUEST_AWAIT), false, 0, take_version, "the version of a state"},
    {"wait", ONLY(REQUEST_START), false, AT(wait), take_flag, "true or false"},
    {"incoming", ONLY(REQUEST_START) | ONLY(REQUEST_STOP), false, AT(incoming), take_flag, "true or false"},
    {"from", ONLY(REQUEST_START), false, AT(from), take_flag, "true or false"},
    {"message", ONLY(REQUEST_MEMBER), true, 0, take_message, "lower-case hexadecimal digits of at most 1024 bytes"},
    {"verb", ONLY(REQUEST_CHALLENGE), true, AT(act), take_text, "the name of an act"},
    {"name", ONLY(REQUEST_SNAPSHOT) | ONLY(REQUEST_SNAPSHOT_DELETE), true, AT(snapshot), take_text, "a string"},
    {"snapshot", ONLY(REQUEST_REVERT), true, AT(snapshot), take_text, "a string"},
    {"snapshot", ONLY(REQUEST_CHALLENGE), false, AT(snapshot), take_text, "a string"},
    {"signature", SIGNED, false, AT(signature), take_signature, "128 lower-case hexadecimal digits"},
    {"force", ONLY(REQUEST_DELETE), false, AT(force), take_flag, "true or false"},
    {"progress", ONLY(REQUEST_STORE_CHECK) | ONLY(REQUEST_STORE_BACKUP), false, AT(progress), take_flag,
     "true or false"},
    {"since", ONLY(REQUEST_SUBSCRIBE), false, AT(since), take_number, "the number of an event"},
};

static const char *const verbs[] = {
    [REQUEST_CREATE] = "create",
    [REQUEST_LIST] = "list",
    [REQUEST_SHOW] = "show",
    [REQUEST_START] = "start",
    [REQUEST_STOP] = "stop",
    [REQUEST_DECLARE_DEAD] = "declare-dead",
    [REQUEST_SUSPEND] = "suspend",
    [REQUEST_CLONE] = "clone",
    [REQUEST_SNAPSHOT] = "snapshot",
    [REQUEST_SNAPSHOTS] = "snapshots",
    [REQUEST_SNAPSHOT_DELETE] = "snapshot-delete",
    [REQUEST_REVERT] = "revert",
    [REQUEST_SET_OWNER] = "set-owner",
    [REQUEST_CHALLENGE] = "challenge",
    [REQUEST_DELETE] = "delete",
    [REQUEST_SUBSCRIBE] = "subscribe",
    [REQUEST_STATUS] = "status",
    [REQUEST_VERSION] = "version",
    [REQUEST_STORE_CHECK] = "store-check",
    [REQUEST_STORE_BACKUP] = "store-backup",
    [REQUEST_HOLD] = "hold",
    [REQUEST_AWAIT] = "await",
    [REQUEST_STATE] = "state",
    [REQUEST_JOIN] = "join",
    [REQUEST_MOVE] = "move",
    [REQUEST_MEMBER] = "member",
};

static const struct member *member_of(enum request_verb verb, const char *name)
{
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++)
        if ((members[i].verbs & ONLY(verb)) && strcmp(members[i].name, name) == 0) return &members[i];
    return NULL;
}

static struct err fail(struct err error, char reason[REQUEST_REASON_SIZE], const char *what, const char *which,
                       const char *rest)
{
    (void)snprintf(reason, REQUEST_REASON_SIZE, "%s %.64s%s%s", what, which, rest ? " wants " : "", rest ? rest : "");
    return error;
}

static struct err take_arguments(json_t *arguments, struct request *request, char reason[REQUEST_REASON_SIZE])
{
    const char *name = NULL;
    json_t *value = NULL;
    json_object_foreach(arguments, name, value)
    {
        const struct member *member = member_of(request->verb, name);
        if (!member) return fail(FAIL(PROTOCOL), reason, "there is no argument", name, NULL);
        if (!member->take(value, (char *)request + member->offset))
            return fail(FAIL(BAD_VALUE), reason, "the argument", name, member->wanted);
    }
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++)
        if (members[i].required && (members[i].verbs & ONLY(request->verb)) &&
            !json_object_get(arguments, members[i].name))
            return fail(FAIL(PROTOCOL), reason, "missing is the argument", members[i].name, NULL);
    return OK;
}

/* --- the whole -----------------------------------------------------------------------------------------------------
 */

static bool deeper_than(const json_t *value, size_t levels)
{
    size_t index = 0;
    const char *key = NULL;
    json_t *child = NULL;
    if (!json_is_array(value) && !json_is_object(value)) return false;
    if (levels == 0) return true;
    json_array_foreach(value, index, child)
    {
        if (deeper_than(child, levels - 1)) return true;
    }
    json_object_foreach((json_t *)(uintptr_t)value, key, child)
    {
        if (deeper_than(child, levels - 1)) return true;
    }
    return false;
}

static struct err take_verb(json_t *execute, struct request *request, char reason[REQUEST_REASON_SIZE])
{
    const char *text = json_string_value(execute);
    if (!text) return fail(FAIL(PROTOCOL), reason, "missing is the string", "execute", NULL);
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
        if (strcmp(verbs[i], text) != 0) continue;
        request->verb = (enum request_verb)i;
        request->execute = verbs[i];
        return OK;
    }
    return fail(FAIL(PROTOCOL), reason, "there is nothing to execute named", text, NULL);
}

static struct err take_request(struct request *request, char reason[REQUEST_REASON_SIZE])
{
    const char *name = NULL;
    json_t *value = NULL;
    json_object_foreach(request->root, name, value)
    {
        if (strcmp(name, "execute") != 0 && strcmp(name, "arguments") != 0 && strcmp(name, "id") != 0)
            return fail(FAIL(PROTOCOL), reason, "there is no member", name, NULL);
    }
    TRY(take_verb(json_object_get(request->root, "execute"), request, reason));
    json_t *arguments = json_object_get(request->root, "arguments");
    if (arguments && !json_is_object(arguments))
        return fail(FAIL(PROTOCOL), reason, "the member", "arguments", "an object");
    request->start = true;
    request->wait = true;
    return take_arguments(arguments, request, reason);
}

struct err request_parse(struct span line, struct request *out_request, char out_reason[REQUEST_REASON_SIZE])
{
    json_error_t error;
    struct request request = {0};
    struct err result = OK;
    request.root = json_loadb((const char *)line.data, line.size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (!request.root)
        result = fail(FAIL(PROTOCOL), out_reason, "this is no JSON:", error.text, NULL);
    else if (!json_is_object(request.root))
        result = fail(FAIL(PROTOCOL), out_reason, "a request is", "an object", NULL);
    else if (deeper_than(request.root, REQUEST_DEPTH_MAX))
        result = fail(FAIL(TOO_LARGE), out_reason, "this is nested deeper than", "8", NULL);
    if (!result.code) {
        request.id = json_object_get(request.root, "id");
        result = take_request(&request, out_reason);
    }
    *out_request = request;
    return result;
}

void request_free(struct request *request)
{
    json_decref(request->root);
    *request = (struct request){0};
}
