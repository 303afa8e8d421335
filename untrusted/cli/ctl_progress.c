#include "untrusted/cli/ctl_progress.h"

#include <string.h>
#include <unistd.h>

#include "untrusted/cli/ctl_show.h"

#define SUBSCRIBE_SECONDS 2u

static void end(struct ctl_progress *progress)
{
    ctl_close(&progress->events);
    progress->watch.fd = -1;
}

static bool is_about(const json_t *event, const char *instance)
{
    const json_t *data = json_object_get(event, "data");
    const char *label = json_string_value(json_object_get(data, "label"));
    const char *id = json_string_value(json_object_get(data, "id"));
    return (label && strcmp(label, instance) == 0) || (id && strcmp(id, instance) == 0);
}

/* Takes what has come; half a line is waited for no longer than the daemon takes to write the rest. */
static void take(void *ctx)
{
    struct ctl_progress *progress = ctx;
    do {
        struct explanation why = {0};
        json_t *event = NULL;
        if (ctl_receive(&progress->events, SUBSCRIBE_SECONDS, NULL, &event, &why).code) {
            end(progress);
            return;
        }
        if (is_about(event, progress->instance)) ctl_show_event(event, stderr);
        json_decref(event);
    } while (ctl_has_line(&progress->events));
}

void ctl_progress_open(const char *socket, const char *instance, struct ctl_progress *out_progress)
{
    struct explanation why = {0};
    json_t *subscribed = NULL;
    *out_progress = (struct ctl_progress){
        .events = {.fd = -1},
        .instance = instance,
        .watch = {.fd = -1, .take = take, .ctx = out_progress},
    };
    if (!isatty(STDERR_FILENO)) return;
    struct err err = ctl_open(socket, SUBSCRIBE_SECONDS, &out_progress->events, &why);
    if (!err.code) err = ctl_call(&out_progress->events, "subscribe", NULL, SUBSCRIBE_SECONDS, NULL, &subscribed, &why);
    json_decref(subscribed);
    if (err.code)
        end(out_progress);
    else
        out_progress->watch.fd = out_progress->events.fd;
}

void ctl_progress_close(struct ctl_progress *progress)
{
    end(progress);
}
