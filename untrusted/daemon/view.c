#include "untrusted/daemon/view.h"

#include <stdlib.h>
#include <string.h>

#include "untrusted/daemon/incoming.h"
#include "untrusted/daemon/spawn.h"
#include "untrusted/host/log.h"

#define HEX_MAX PEER_MESSAGE_MAX /* bytes */

json_t *view_hex(const uint8_t *bytes, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    char text[2 * HEX_MAX];
    if (size > HEX_MAX) return NULL;
    for (size_t i = 0; i < size; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    return json_stringn(text, 2 * size);
}

static json_t *text_or_null(const char *text)
{
    return text && *text ? json_string(text) : json_null();
}

static json_t *hex_or(bool there, const uint8_t *bytes, size_t size, json_t *otherwise)
{
    if (!there) return otherwise;
    json_decref(otherwise);
    return view_hex(bytes, size);
}

static const char *health_of(const struct instance *instance)
{
    static const char *const words[] = {
        [HEALTH_SERVING] = "serving",
        [HEALTH_AWAITING_RESET] = "awaiting reset",
        [HEALTH_BROKEN] = "broken",
        [HEALTH_TPM_FAILURE] = "tpm failure",
        [HEALTH_AWAITING_FRONT] = "awaiting front-end",
    };
    bool awaits_import = instance->health == HEALTH_AWAITING_FRONT && instance_awaits_import(instance);
    return awaits_import ? "awaiting import" : words[instance->health];
}

/* The row was checked when it was read. */
static const char *const lockout_names[] = {
    [0] = "",
    [PEER_LOCKOUT_TIME] = "time",
    [PEER_LOCKOUT_START_ONLY] = "start-only",
    [PEER_LOCKOUT_NEVER] = "never",
};

enum peer_lockout_heals view_lockout_named(const char *name)
{
    enum peer_lockout_heals policy = PEER_LOCKOUT_NEVER;
    while (policy && strcmp(name, lockout_names[policy]) != 0)
        policy--;
    return policy;
}

static const char *const family_names[] = {[PEER_FAMILY_20] = "2.0", [PEER_FAMILY_12] = "1.2"};

bool view_family_named(const char *name, enum peer_family *out_family)
{
    for (size_t i = 0; i < sizeof family_names / sizeof family_names[0]; i++) {
        if (strcmp(name, family_names[i]) != 0) continue;
        *out_family = (enum peer_family)i;
        return true;
    }
    return false;
}

const char *view_family(const struct manager_row *row)
{
    return family_names[row->family];
}

static const char *const snapshots_names[] = {
    [PEER_SNAPSHOTS_REFUSED] = "refused",
    [PEER_SNAPSHOTS_ALLOWED] = "allowed",
};

bool view_snapshots_named(const char *name, enum peer_snapshots *out_policy)
{
    *out_policy = strcmp(name, snapshots_names[PEER_SNAPSHOTS_ALLOWED]) == 0;
    return strcmp(name, snapshots_names[*out_policy]) == 0;
}

static void set_origin(json_t *view, const struct manager_row *row)
{
    static const char *const names[] = {
        [MANAGER_ORIGIN_HERE] = "made here",
        [MANAGER_ORIGIN_IMPORTED] = "imported",
        [MANAGER_ORIGIN_CLONE] = "clone",
    };
    char source[ID_TEXT_SIZE];
    bool cloned = row->origin == MANAGER_ORIGIN_CLONE;
    id_format(&row->source, source);
    (void)json_object_set_new(view, "origin", json_string(names[row->origin]));
    (void)json_object_set_new(view, "source", text_or_null(cloned ? source : NULL));
}

static bool all_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i]) return false;
    return true;
}

static json_t *moved_to(const struct manager_row *row)
{
    char member[ID_TEXT_SIZE];
    struct instance_id id;
    if (row->state != MANAGER_MOVED) return json_null();
    memcpy(id.bytes, row->holder, sizeof id.bytes);
    id_format(&id, member);
    return json_string(member);
}

json_t *view_owner(const struct manager_row *row)
{
    return hex_or(row->has_owner, row->owner, sizeof row->owner, json_string("operator"));
}

json_t *view_snapshot(const struct snapshot *snapshot)
{
    return json_pack("{s:s, s:I, s:I, s:o, s:o, s:I}", "name", snapshot->name, "version", (json_int_t)snapshot->version,
                     "created", (json_int_t)snapshot->created, "digest",
                     view_hex(snapshot->digest, sizeof snapshot->digest), "manager",
                     view_hex(snapshot->manager, sizeof snapshot->manager), "size", (json_int_t)snapshot->size);
}

/* A new reference. */
static json_t *listens_at(const struct instance *instance)
{
    if (instance->handed) return json_array();
    return instance->listens_now ? json_incref(instance->listens_now) : spawn_addresses(instance);
}

json_t *view_instance(const struct instance *instance)
{
    const struct manager_row *row = &instance->row;
    char id[ID_TEXT_SIZE];
    id_format(&row->id, id);
    json_t *view = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:i, s:I, s:I, s:i}", "id", id, "label", row->label,
                             "state", instance_state(instance), "epoch", (json_int_t)row->epoch, "start",
                             (json_int_t)row->start, "version", (json_int_t)row->version, "slot", (int)row->slot,
                             "created", (json_int_t)(row->created / UINT64_C(1000000000)), "deaths",
                             (json_int_t)row->deaths, "rebuilds", (int)instance->rebuilds);
    (void)json_object_set_new(view, "tpm", json_string(view_family(row)));
    (void)json_object_set_new(view, "device", json_string(device_kind_name(instance->supervisor->config->device)));
    (void)json_object_set_new(view, "health", text_or_null(health_of(instance)));
    (void)json_object_set_new(view, "digest", hex_or(row->version > 0, row->digest, sizeof row->digest, json_null()));
    (void)json_object_set_new(view, "owner", view_owner(row));
    (void)json_object_set_new(view, "front-key",
                              hex_or(row->has_front_key, row->front_key, sizeof row->front_key, json_null()));
    set_origin(view, row);
    (void)json_object_set_new(view, "moved-to", moved_to(row));
    (void)json_object_set_new(view, "suspended", json_boolean(instance_is_suspended(instance)));
    (void)json_object_set_new(view, "reverted", json_boolean(row->reverted));
    (void)json_object_set_new(view, "lockout-heals", json_string(lockout_names[row->lockout_heals]));
    (void)json_object_set_new(view, "snapshots", json_string(snapshots_names[row->snapshots]));
    (void)json_object_set_new(view, "snapshot-loads", json_integer(row->loads));
    (void)json_object_set_new(view, "pid", instance->process ? json_integer(instance->identity.pid) : json_null());
    (void)json_object_set_new(view, "wanted", json_boolean(instance->wanted));
    (void)json_object_set_new(view, "held", json_boolean(instance->handed != NULL));
    (void)json_object_set_new(view, "listen", listens_at(instance));
    (void)json_object_set_new(view, "incoming", incoming_view(instance->incoming));
    (void)json_object_set_new(view, "reason", text_or_null(instance->reason));
    return view;
}

static int count_in(const struct supervisor *s, const char *state)
{
    int count = 0;
    for (size_t i = 0; i < s->roster.count; i++)
        count += strcmp(instance_state(s->roster.list[i]), state) == 0;
    return count;
}

json_t *view_status(const struct supervisor *supervisor, const struct manager_status *status,
                    const struct program_device *device, uint64_t uptime)
{
    char domain[ID_TEXT_SIZE];
    char member[ID_TEXT_SIZE];
    id_format(&status->domain, domain);
    id_format(&status->member, member);
    json_t *manager = json_pack("{s:o, s:o, s:I, s:o}", "mrenclave", view_hex(status->manager, sizeof status->manager),
                                "mrsigner", view_hex(status->signer, sizeof status->signer), "security-version",
                                (json_int_t)status->security_version, "release-key",
                                hex_or(!all_zero(status->release_key, sizeof status->release_key), status->release_key,
                                       sizeof status->release_key, json_null()));
    json_t *instance = json_pack("{s:o}", "mrenclave", view_hex(status->instance, sizeof status->instance));
    json_t *ledger = json_pack("{s:I, s:o, s:I, s:I}", "version", (json_int_t)status->ledger_version, "root",
                               view_hex(status->ledger_root, sizeof status->ledger_root), "slots",
                               (json_int_t)status->slots, "deleted", (json_int_t)status->deleted);
    json_t *instances =
        json_pack("{s:i, s:i}", "running", count_in(supervisor, "running"), "failed", count_in(supervisor, "failed"));
    const bool is_file = status->anchor == ANCHOR_FILE;
    char nv_index[11];
    char recovery[32] = "none";
    if (status->recovery_count)
        (void)snprintf(recovery, sizeof recovery, "%u of %u keys", (unsigned)status->recovery_threshold,
                       (unsigned)status->recovery_count);
    (void)snprintf(nv_index, sizeof nv_index, "0x%08x", (unsigned)status->anchor_nv_index);
    json_t *view = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:s, s:o, s:I}", "version", VTPM_VERSION,
                             "device", device->name, "limits", device->limits, "memory", device->memory, "domain",
                             domain, "member", member, "manager", manager, "instance", instance, "ledger", ledger,
                             "recovery", recovery, "instances", instances, "uptime", (json_int_t)uptime);
    json_t *anchor = json_pack("{s:s, s:s, s:o, s:s, s:o}", "anchor", is_file ? "file" : "tpm", "anchor-place",
                               is_file ? supervisor->config->anchor_file : supervisor->config->anchor_tpm,
                               "anchor-nv-index", is_file ? json_null() : json_string(nv_index), "anchor-limits",
                               is_file ? "it does not protect against whoever can restore the disk"
                                       : "it ends with the TPM: a cleared one ends the trust domain",
                               "anchor-value", view_hex(status->anchor_value, sizeof status->anchor_value));
    (void)json_object_update_new(view, anchor);
    return view;
}

static const char *class_of(struct err error)
{
    switch (error.code) {
#define ERR_CLASS(name, value, sentence)                                                                               \
    case value:                                                                                                        \
        return #name;
        ERR_LIST(ERR_CLASS)
#undef ERR_CLASS
    default:
        return "UNKNOWN";
    }
}

static const struct {
    uint16_t code;
    const char *hint;
} hints[] = {
    {ERR_NO_INSTANCE, "vtpmctl list shows them"},
    {ERR_DELETED, "create a new one, with a label of its own"},
    {ERR_LABEL_TAKEN, "choose another label; a UUID that was one is never free again"},
    {ERR_HELD, "if you know that its process and every copy of it are gone: vtpmctl declare-dead"},
    {ERR_VERB_STATE, "vtpmctl show tells its state; a running one is stopped first (vtpmctl stop)"},
    {ERR_OWNER_SIGNATURE, "the owner signs it: --owner-key KEY.pem; or vtpmctl challenge, for a key that is elsewhere"},
    {ERR_MOVED, "vtpmctl show tells to which member; vtpmctl move brings it home"},
    {ERR_OTHER_DOMAIN, "vtpmctl status tells the trust domain of each; vtpmctl join makes an empty vtpmd a member"},
    {ERR_NO_SNAPSHOT, "vtpmctl snapshot --list shows them"},
    {ERR_SNAPSHOT_EXISTS, "choose another name, or delete that one: vtpmctl snapshot --delete"},
    {ERR_FRONT_ENROLLED, "create it with --listen front, and run vtpm-front --key"},
    {ERR_TIMEOUT, "vtpmctl show tells how far it is"},
    {ERR_CALL_BUSY, "too much waits for the store: see to the disk of the state directory, then try again"},
    {ERR_PEER_IDENTITY, "vtpmctl status names the enclaves; the images have to be of one build"},
    {ERR_LINK_CLOSED, "the log of vtpmd says why it ended"},
    {ERR_PEER_CLOSED, "the log of vtpmd has what the instance said last"},
    {ERR_NO_MEMORY, "the host is short of memory"},
};

json_t *view_error(struct err error, const char *desc)
{
    json_t *view = json_pack("{s:s, s:i, s:s}", "class", class_of(error), "code", (int)error.code, "desc",
                             desc && *desc ? desc : err_sentence(error));
    for (size_t i = 0; i < sizeof hints / sizeof hints[0]; i++)
        if (hints[i].code == error.code) (void)json_object_set_new(view, "hint", json_string(hints[i].hint));
    return view;
}
