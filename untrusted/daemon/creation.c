/*
 * create and clone: a new instance in the ledger, its settings in the store, and its first start.
 *
 * Guarantees: it is answered when both are durable, or with TIMEOUT while it goes on. An instance whose creation was cut
 * off between the two has the default settings.
 */
#include <stdlib.h>
#include <string.h>

#include "untrusted/daemon/acts.h"
#include "untrusted/daemon/lifecycle.h"
#include "untrusted/daemon/owner_act.h"
#include "untrusted/daemon/settings.h"
#include "untrusted/daemon/spawn.h"
#include "untrusted/host/log.h"

struct creation {
    struct supervisor *supervisor;
    struct instance *instance;
    json_t *listen;
    bool start;
    sd_event_source *timer;
    act_done *done; /* NULL: answered already */
    void *ctx;
};

/* The end of it, and of its start. */
static void on_end(void *ctx, struct err result, const char *reason, struct instance *instance)
{
    struct creation *creation = ctx;
    if (creation->done) creation->done(creation->ctx, result, reason, instance);
    sd_event_source_disable_unref(creation->timer);
    json_decref(creation->listen);
    free(creation);
}

static int on_due(sd_event_source *source, uint64_t usec, void *ctx)
{
    (void)usec;
    struct creation *creation = ctx;
    act_done *done = creation->done;
    creation->done = NULL;
    (void)sd_event_source_set_enabled(source, SD_EVENT_OFF);
    done(creation->ctx, FAIL(TIMEOUT),
         creation->instance ? "it exists and does not serve yet; vtpmctl show tells how far its start is"
                            : "it is not recorded yet, and goes on; see to the disk of the state directory",
         creation->instance);
    return 0;
}

static void on_settings(struct instance *instance, struct err result)
{
    struct creation *creation = instance->creation;
    instance->creation = NULL;
    if (!creation) return;
    if (!result.code && creation->start)
        act_start(instance, false, true, on_end, creation);
    else
        on_end(creation, result, result.code ? "it exists, but its settings could not be stored" : NULL, instance);
}

static void on_created(void *ctx, struct err result, struct reader *results)
{
    struct creation *creation = ctx;
    struct manager_row row;
    if (!result.code) result = effects_read_row(results, &row);
    if (!result.code)
        result = roster_add(&creation->supervisor->roster, creation->supervisor, &row, &creation->instance);
    if (result.code) {
        on_end(creation, result, err_sentence(result), NULL);
        return;
    }
    struct instance *instance = creation->instance;
    instance->creation = creation;
    instance->listen = json_incref(creation->listen);
    instance->wanted = creation->start;
    log_line(LOG_LEVEL_NOTICE, "%s: created", row.label);
    char source[ID_TEXT_SIZE];
    id_format(&row.source, source);
    lifecycle_event(instance, "created",
                    row.origin == MANAGER_ORIGIN_CLONE ? json_pack("{s:s}", "source", source) : NULL);
    settings_save(instance, on_settings);
}

static struct err ask_create(struct creation *creation, const struct create *create)
{
    uint8_t bytes[MANAGER_LABEL_SIZE + ED25519_PUBLIC_SIZE + X25519_SIZE + 8] = {0};
    memcpy(bytes, create->label, MANAGER_LABEL_SIZE);
    memcpy(bytes + MANAGER_LABEL_SIZE, create->owner, ED25519_PUBLIC_SIZE);
    memcpy(bytes + MANAGER_LABEL_SIZE + ED25519_PUBLIC_SIZE, create->front_key, X25519_SIZE);
    bytes[sizeof bytes - 8] = create->import ? MANAGER_ORIGIN_IMPORTED : MANAGER_ORIGIN_HERE;
    bytes[sizeof bytes - 7] = create->lockout_heals;
    bytes[sizeof bytes - 6] = create->family;
    bytes[sizeof bytes - 5] = create->snapshots;
    return manager_ask(creation->supervisor->manager, MANAGER_CREATE, span_of(bytes, sizeof bytes), on_created,
                       creation);
}

static struct err ask_clone(struct creation *creation, const struct create *create)
{
    const struct owner_act act = owner_act_clone(create->label);
    return owner_act_ask(create->source, &act, create->signature, on_created, creation);
}

void act_create(struct supervisor *supervisor, const struct create *create, act_done *done, void *ctx)
{
    const char *reason = NULL;
    struct err result = spawn_check(supervisor, create->label, create->listen, &reason);
    const enum peer_family family = create->source ? create->source->row.family : create->family;
    if (!result.code) result = spawn_check_family(create->listen, family, &reason);
    if (result.code) {
        done(ctx, result, reason, NULL);
        return;
    }
    struct creation *creation = calloc(1, sizeof *creation);
    if (!creation) {
        done(ctx, FAIL(NO_MEMORY), err_sentence(FAIL(NO_MEMORY)), NULL);
        return;
    }
    *creation = (struct creation){.supervisor = supervisor, .start = create->start, .done = done, .ctx = ctx};
    creation->listen = json_incref(create->listen);
    uint64_t due = (supervisor->config->commit_timeout + ACT_EXTRA_SECONDS) * UINT64_C(1000000);
    if (sd_event_add_time_relative(supervisor->event, &creation->timer, CLOCK_MONOTONIC, due, 0, on_due, creation) < 0)
        result = FAIL(SYSTEM);
    if (!result.code) result = create->source ? ask_clone(creation, create) : ask_create(creation, create);
    if (result.code) on_end(creation, result, err_sentence(result), NULL);
}
