#include "untrusted/daemon/instance.h"

#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "untrusted/daemon/incoming.h"

void held_state_drop(struct held_state *state)
{
    free(state->bytes);
    *state = (struct held_state){0};
}

static int compare_ids(const void *a, const void *b)
{
    const struct instance *left = a;
    const struct instance *right = b;
    return memcmp(left->row.id.bytes, right->row.id.bytes, sizeof left->row.id.bytes);
}

static int compare_labels(const void *a, const void *b)
{
    const struct instance *left = a;
    const struct instance *right = b;
    return strcmp(left->row.label, right->row.label);
}

struct instance *roster_find(const struct roster *roster, const struct instance_id *id)
{
    struct instance wanted = {.row = {.id = *id}};
    struct instance **found = tfind(&wanted, &roster->by_id, compare_ids);
    return found ? *found : NULL;
}

struct instance *roster_named(const struct roster *roster, const char *name)
{
    struct instance wanted = {0};
    if (!id_parse(name, &wanted.row.id).code) {
        struct instance *instance = roster_find(roster, &wanted.row.id);
        if (instance) return instance;
        id_format(&wanted.row.id, wanted.row.label); /* a label may be a VM's UUID, which has one spelling there */
    } else if (strlen(name) < sizeof wanted.row.label) {
        memcpy(wanted.row.label, name, strlen(name));
    }
    struct instance **found = tfind(&wanted, &roster->by_label, compare_labels);
    return found ? *found : NULL;
}

static struct err make_room(struct roster *roster)
{
    if (roster->count < roster->capacity) return OK;
    size_t capacity = roster->capacity ? 2 * roster->capacity : 64;
    struct instance **list = reallocarray(roster->list, capacity, sizeof list[0]);
    ENSURE(list, NO_MEMORY);
    roster->list = list;
    roster->capacity = capacity;
    return OK;
}

struct err roster_add(struct roster *roster, struct supervisor *supervisor, const struct manager_row *row,
                      struct instance **out_instance)
{
    struct instance *instance = roster_find(roster, &row->id);
    if (instance) {
        *out_instance = instance;
        return OK;
    }
    TRY(make_room(roster));
    instance = calloc(1, sizeof *instance);
    ENSURE(instance, NO_MEMORY);
    instance->supervisor = supervisor;
    instance->row = *row;
    instance->recorded = row->version;
    struct instance **by_label = tsearch(instance, &roster->by_label, compare_labels);
    if (!by_label || !tsearch(instance, &roster->by_id, compare_ids)) {
        if (by_label && *by_label == instance) (void)tdelete(instance, &roster->by_label, compare_labels);
        free(instance);
        return FAIL(NO_MEMORY);
    }
    *by_label = instance; /* whoever had the label before was deleted */
    roster->list[roster->count++] = instance;
    *out_instance = instance;
    return OK;
}

static void leave(void *ignored)
{
    (void)ignored;
}

void roster_free(struct roster *roster)
{
    tdestroy(roster->by_id, leave);
    tdestroy(roster->by_label, leave);
    for (size_t i = 0; i < roster->count; i++) {
        struct instance *instance = roster->list[i];
        json_decref(instance->listen);
        json_decref(instance->listens_now);
        incoming_free(instance->incoming);
        process_close(&instance->process);
        held_state_drop(&instance->held);
        held_state_drop(&instance->candidate);
        sd_event_source_disable_unref(instance->timer);
        sd_event_source_disable_unref(instance->answer_timer);
        free(instance);
    }
    free(roster->list);
    *roster = (struct roster){0};
}

bool label_is_plain(const char *label)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    return *label && strspn(label, allowed) == strlen(label) && !strchr("._-", *label);
}

bool instance_is_suspended(const struct instance *instance)
{
    static const uint8_t nothing[SHA256_SIZE];
    return memcmp(instance->row.suspended, nothing, sizeof nothing) != 0;
}

bool instance_awaits_import(const struct instance *instance)
{
    return instance->row.origin == MANAGER_ORIGIN_IMPORTED && instance->recorded == 0;
}

const char *instance_state(const struct instance *instance)
{
    bool asked = instance->act.kind == ACT_START || instance->act.kind == ACT_RESTART;
    bool under_way = asked || (instance->phase != PHASE_IDLE && !instance->reason[0]);
    switch (instance->row.state) {
    case MANAGER_PROVISIONED:
        return "provisioned";
    case MANAGER_STOPPED_STATE:
        return "stopped";
    case MANAGER_DELETED:
        return "deleted";
    case MANAGER_MOVED:
        return "moved";
    case MANAGER_ALLOWED:
        return under_way ? "starting" : "failed";
    case MANAGER_HELD:
        break;
    }
    if (instance->phase == PHASE_SERVING) return "running";
    return instance->phase == PHASE_ATTACHED ? "starting" : "failed";
}
