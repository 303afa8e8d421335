#include "untrusted/daemon/handed.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "untrusted/daemon/acts.h"
#include "untrusted/daemon/lifecycle.h"
#include "untrusted/daemon/settings.h"
#include "untrusted/host/log.h"

#define AWAIT_SECONDS 30u              /* for a holder to come back */
#define NEWS_USEC     UINT64_C(200000) /* from a commit to the holder's hearing of it */
#define AGAIN_SECONDS 1u               /* to stop it, while something else is under way about it */
#define TEXT_SIZE     32u

enum role { DATA, CONTROL, DATA_CLIENT, CONTROL_CLIENT };

static const char *const role_names[] = {
    [DATA] = "data",
    [CONTROL] = "control",
    [DATA_CLIENT] = "data-client",
    [CONTROL_CLIENT] = "control-client",
};
#define ROLE_COUNT (sizeof role_names / sizeof *role_names)

struct handed {
    struct instance *instance;
    size_t count;
    enum role roles[HANDED_MAX];
    int fds[HANDED_MAX]; /* -1: a client's, which the process has */
    char texts[HANDED_MAX][TEXT_SIZE];
    bool off, terminate, disconnect, reject_locality_4;
    const char *startup; /* NULL: none */
    struct handed_holder holder;
    sd_event_source *timer;
    sd_event_source *news;
    bool has_news;
};

/* --- the argument --------------------------------------------------------------------------------------------------
 */

static bool take_role(const char *name, enum role *out_role)
{
    for (size_t i = 0; name && i < ROLE_COUNT; i++) {
        if (strcmp(name, role_names[i]) != 0) continue;
        *out_role = (enum role)i;
        return true;
    }
    return false;
}

static bool take_startup(const json_t *value, struct handed *handed)
{
    const char *text = json_string_value(value);
    if (!text || (strcmp(text, "clear") != 0 && strcmp(text, "state") != 0)) return false;
    handed->startup = strcmp(text, "clear") == 0 ? "clear" : "state";
    return true;
}

static bool take_sockets(const json_t *list, struct handed *handed)
{
    const size_t count = json_array_size(list);
    if (!json_is_array(list) || count > HANDED_MAX) return false;
    for (handed->count = 0; handed->count < count; handed->count++)
        if (!take_role(json_string_value(json_array_get(list, handed->count)), &handed->roles[handed->count]))
            return false;
    return true;
}

static bool take_member(const char *name, const json_t *value, struct handed *handed)
{
    const struct {
        const char *name;
        bool *flag;
    } flags[] = {{"off", &handed->off},
                 {"terminate", &handed->terminate},
                 {"disconnect", &handed->disconnect},
                 {"reject-locality-4", &handed->reject_locality_4}};
    if (strcmp(name, "sockets") == 0) return take_sockets(value, handed);
    if (strcmp(name, "startup") == 0) return take_startup(value, handed);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        if (strcmp(name, flags[i].name) != 0 || !json_is_boolean(value)) continue;
        *flags[i].flag = json_is_true(value);
        return true;
    }
    return false;
}

struct err handed_parse(const json_t *what, int fds[HANDED_MAX], size_t *count, struct handed **out_handed,
                        const char **out_reason)
{
    const char *name = NULL;
    json_t *value = NULL;
    struct handed *handed = calloc(1, sizeof *handed);
    ENSURE(handed, NO_MEMORY);
    bool good = true;
    json_object_foreach((json_t *)(uintptr_t)what, name, value)
    {
        good = good && take_member(name, value, handed);
    }
    *out_reason = "swtpm wants sockets, at most 4 of data, control, data-client, control-client; off, terminate, "
                  "disconnect, reject-locality-4; startup, clear or state";
    if (good && handed->count != *count) {
        *out_reason = "as many descriptors have to come with the request as swtpm names sockets";
        good = false;
    }
    if (!good) {
        free(handed);
        return FAIL(BAD_VALUE);
    }
    memcpy(handed->fds, fds, *count * sizeof *fds);
    *count = 0;
    *out_handed = handed;
    return OK;
}

static void close_fd(int *fd)
{
    if (*fd >= 0) (void)close(*fd);
    *fd = -1;
}

void handed_free(struct handed **handed)
{
    struct handed *h = *handed;
    if (!h) return;
    sd_event_source_disable_unref(h->timer);
    sd_event_source_disable_unref(h->news);
    for (size_t i = 0; i < h->count; i++)
        close_fd(&h->fds[i]);
    free(h);
    *handed = NULL;
}

/* --- the process ---------------------------------------------------------------------------------------------------
 */

static bool is_client(enum role role)
{
    return role == DATA_CLIENT || role == CONTROL_CLIENT;
}

size_t handed_arguments(const struct handed *handed, int first, const char *out_arguments[HANDED_ARGUMENTS_MAX],
                        int out_fds[HANDED_MAX], size_t *out_count)
{
    struct handed *h = (struct handed *)(uintptr_t)handed;
    size_t used = 0;
    bool data = false;
    *out_count = 0;
    for (size_t i = 0; i < h->count; i++) {
        if (h->fds[i] < 0) continue;
        const int fd = first + (int)*out_count;
        (void)snprintf(h->texts[i], TEXT_SIZE, "%s:%d", role_names[h->roles[i]], fd);
        out_fds[(*out_count)++] = h->fds[i];
        out_arguments[used++] = "--swtpm-fd";
        out_arguments[used++] = h->texts[i];
        data = data || h->roles[i] == DATA || h->roles[i] == DATA_CLIENT;
    }
    if (!data) {
        out_arguments[used++] = "--swtpm-fd";
        out_arguments[used++] = "data:none";
    }
    if (h->off) out_arguments[used++] = "--off";
    if (h->terminate) out_arguments[used++] = "--terminate";
    if (h->disconnect) out_arguments[used++] = "--disconnect";
    if (h->reject_locality_4) out_arguments[used++] = "--reject-locality-4";
    if (h->startup) {
        out_arguments[used++] = "--startup";
        out_arguments[used++] = h->startup;
    }
    return used;
}

void handed_spawned(struct handed *handed)
{
    for (size_t i = 0; i < handed->count; i++)
        if (is_client(handed->roles[i])) close_fd(&handed->fds[i]);
}

/* --- who holds it --------------------------------------------------------------------------------------------------
 */

static int on_time(sd_event_source *source, uint64_t usec, void *ctx)
{
    (void)usec;
    struct instance *i = ctx;
    (void)sd_event_source_set_time_relative(source, AGAIN_SECONDS * USEC_PER_SEC);
    (void)sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
    if (i->act.kind == ACT_NONE || lifecycle_is_starting(i)) act_stop(i, NULL, NULL);
    handed_settle(i);
    return 0;
}

static void stop_in(struct instance *i, uint64_t seconds)
{
    struct handed *h = i->handed;
    h->timer = sd_event_source_disable_unref(h->timer);
    if (sd_event_add_time_relative(i->supervisor->event, &h->timer, CLOCK_MONOTONIC, seconds * USEC_PER_SEC, 0, on_time,
                                   i) < 0)
        log_line(LOG_LEVEL_ERROR, "%s: a timer could not be set: stop it by hand", i->row.label);
}

void handed_hold(struct handed *handed, struct instance *instance, const struct handed_holder *holder)
{
    handed->instance = instance;
    handed->holder = *holder;
}

void handed_is_for(struct handed *handed, struct instance *instance)
{
    handed->instance = instance;
}

void handed_begin(struct instance *instance, struct handed *handed)
{
    handed_free(&instance->handed);
    instance->handed = handed;
}

void handed_end(struct handed **handed, const char *reason)
{
    if (!*handed) return;
    struct instance *instance = (*handed)->instance;
    const struct handed_holder holder = (*handed)->holder;
    handed_free(handed);
    if (holder.ended) holder.ended(holder.ctx, instance, reason);
}

static int on_news(sd_event_source *source, uint64_t usec, void *ctx)
{
    (void)usec;
    struct handed *h = ctx;
    (void)sd_event_source_set_enabled(source, SD_EVENT_OFF);
    h->has_news = false;
    if (h->holder.committed) h->holder.committed(h->holder.ctx, h->instance);
    return 0;
}

/* Not from within the manager's effects, and not for each commit. */
void handed_committed(struct handed *handed)
{
    if (handed->has_news) return;
    handed->news = sd_event_source_disable_unref(handed->news);
    handed->has_news = sd_event_add_time_relative(handed->instance->supervisor->event, &handed->news, CLOCK_MONOTONIC,
                                                  NEWS_USEC, 0, on_news, handed) >= 0;
}

void handed_await(struct instance *instance)
{
    struct handed *handed = calloc(1, sizeof *handed);
    if (!handed) return;
    handed_hold(handed, instance, &(struct handed_holder){0});
    handed_begin(instance, handed);
    stop_in(instance, AWAIT_SECONDS);
}

bool handed_can_serve(const struct handed *handed)
{
    for (size_t i = 0; i < handed->count; i++)
        if (handed->fds[i] >= 0) return true;
    return false;
}

bool handed_is_held(const struct handed *handed)
{
    return handed->holder.ended != NULL;
}

bool handed_is_held_by(const struct handed *handed, const void *ctx)
{
    return handed_is_held(handed) && handed->holder.ctx == ctx;
}

void handed_forget_holder(struct handed *handed)
{
    handed->holder = (struct handed_holder){0};
}

void handed_leave(struct instance *instance)
{
    struct instance *i = instance;
    if (!i->handed || i->supervisor->ending) return;
    handed_forget_holder(i->handed);
    log_line(LOG_LEVEL_NOTICE, "%s: whoever started it on sockets of his own has gone; it is stopped", i->row.label);
    stop_in(i, 0);
}

void handed_taken_over(struct instance *instance, struct handed *by)
{
    struct handed *before = instance->handed;
    if (!before && !by) return;
    instance->handed = by;
    settings_save(instance, NULL);
    handed_end(&before, NULL);
}

void handed_settle(struct instance *instance)
{
    struct instance *i = instance;
    const bool runs = i->row.state == MANAGER_ALLOWED || i->row.state == MANAGER_HELD;
    if (!i->handed || i->act.kind != ACT_NONE || i->process || i->connection || runs || i->timer) return;
    struct handed *handed = i->handed;
    i->handed = NULL;
    i->wanted = false;
    settings_save(i, NULL);
    handed_end(&handed, NULL);
}
