#include "untrusted/daemon/settings.h"

#include <stdlib.h>
#include <string.h>

#include "untrusted/daemon/handed.h"
#include "untrusted/daemon/spawn.h"
#include "untrusted/daemon/supervisor.h"
#include "untrusted/host/log.h"

/* --- the text ------------------------------------------------------------------------------------------------------
 */

char *settings_text(const struct instance *instance)
{
    /* The label is for whoever looks at the store without a manager: vtpmctl store check. */
    json_t *settings = json_pack("{s:b, s:s}", "wanted", instance->wanted, "label", instance->row.label);
    if (instance->listen) (void)json_object_set(settings, "listen", instance->listen);
    if (instance->handed) (void)json_object_set_new(settings, "handed", json_true());
    if (instance->lost[0]) (void)json_object_set_new(settings, "lost", json_string(instance->lost));
    if (instance->listens_now) /* of this start and no other */
        (void)json_object_set_new(
            settings, "now",
            json_pack("{s:I, s:O}", "start", (json_int_t)instance->row.start, "listen", instance->listens_now));
    char *text = settings ? json_dumps(settings, JSON_COMPACT) : NULL;
    json_decref(settings);
    return text;
}

static void apply_now(struct instance *instance, const json_t *now)
{
    const json_int_t start = json_integer_value(json_object_get(now, "start"));
    json_t *listen = json_object_get(now, "listen");
    const bool holds = instance->row.state == MANAGER_HELD && start == (json_int_t)instance->row.start;
    if (holds && json_is_array(listen)) instance->listens_now = json_incref(listen);
}

void settings_apply(struct instance *instance, const char *text)
{
    const char *reason = NULL;
    json_t *settings = text ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : NULL;
    json_t *listen = json_object_get(settings, "listen");
    const json_t *wanted = json_object_get(settings, "wanted");
    const char *lost = json_string_value(json_object_get(settings, "lost"));
    bool usable = listen && !spawn_check(instance->supervisor, instance->row.label, listen, &reason).code;
    if (usable) instance->listen = json_incref(listen);
    instance->wanted = json_is_boolean(wanted)
                           ? json_is_true(wanted)
                           : instance->row.state == MANAGER_ALLOWED || instance->row.state == MANAGER_HELD;
    if (json_is_true(json_object_get(settings, "handed"))) handed_await(instance);
    apply_now(instance, json_object_get(settings, "now"));
    if (lost && strlen(lost) < sizeof instance->lost) memcpy(instance->lost, lost, strlen(lost) + 1);
    if (text && (!settings || (listen && !usable)))
        log_line(LOG_LEVEL_WARNING, "%s: its settings are damaged; it has the default ones", instance->row.label);
    json_decref(settings);
}

/* --- the store -----------------------------------------------------------------------------------------------------
 */

struct job {
    struct instance *instance;
    struct instance_id id;
    char *text; /* NULL: forget */
    void (*saved)(struct instance *instance, struct err result);
};

static struct err run_job(void *ctx, struct store *store, struct anchor_host *anchor)
{
    (void)anchor;
    const struct job *job = ctx;
    return job->text ? store_write_settings(store, &job->id, job->text) : store_forget(store, &job->id);
}

static void end_job(void *ctx, struct err result)
{
    struct job job = *(struct job *)ctx;
    free(ctx);
    free(job.text);
    if (result.code) log_line(LOG_LEVEL_ERROR, "%s: its settings: %s", job.instance->row.label, err_sentence(result));
    if (job.saved) job.saved(job.instance, result);
}

static void submit(struct instance *instance, const struct job *wanted)
{
    struct job *job = malloc(sizeof *job);
    if (job) *job = *wanted;
    struct err result =
        job ? committer_submit(instance->supervisor->committer, &(struct committer_job){job, run_job, end_job})
            : FAIL(NO_MEMORY);
    if (!result.code) return;
    if (job) {
        end_job(job, result);
        return;
    }
    free(wanted->text);
    if (wanted->saved) wanted->saved(instance, result);
}

void settings_save(struct instance *instance, void (*saved)(struct instance *instance, struct err result))
{
    char *text = settings_text(instance);
    if (text)
        submit(instance, &(struct job){instance, instance->row.id, text, saved});
    else if (saved)
        saved(instance, FAIL(NO_MEMORY));
}

void settings_want(struct instance *instance, bool wanted)
{
    if (instance->wanted == wanted) return;
    instance->wanted = wanted;
    settings_save(instance, NULL);
}

void settings_lost(struct instance *instance)
{
    const char *boot = instance->has_identity ? instance->identity.boot_id : instance->supervisor->boot_id;
    if (strcmp(instance->lost, boot) == 0) return;
    memcpy(instance->lost, boot, sizeof instance->lost);
    settings_save(instance, NULL);
}

void settings_ended(struct instance *instance)
{
    if (!instance->lost[0]) return;
    instance->lost[0] = 0;
    settings_save(instance, NULL);
}

bool settings_rebuilt(const struct instance *instance)
{
    return strcmp(instance->lost, instance->supervisor->boot_id) == 0;
}

void settings_forget(struct instance *instance)
{
    submit(instance, &(struct job){.instance = instance, .id = instance->row.id});
}
