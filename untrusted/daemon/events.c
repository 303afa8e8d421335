#include "untrusted/daemon/events.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

struct events {
    void *ctx;
    void (*told)(void *ctx, const char *line, size_t size);
    uint64_t next; /* number of the next one */
    char *lines[EVENTS_KEPT];
};

struct err events_open(void *ctx, void (*told)(void *ctx, const char *line, size_t size), struct events **out_events)
{
    struct events *events = calloc(1, sizeof *events);
    ENSURE(events, NO_MEMORY);
    *events = (struct events){.ctx = ctx, .told = told, .next = 1};
    *out_events = events;
    return OK;
}

void events_close(struct events **events)
{
    if (!*events) return;
    for (size_t i = 0; i < EVENTS_KEPT; i++)
        free((*events)->lines[i]);
    free(*events);
    *events = NULL;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return (double)time.tv_sec + (double)(time.tv_nsec / 1000000L) / 1000.0;
}

static char *line_of(const char *name, uint64_t number, json_t *data)
{
    json_t *event = json_pack("{s:s, s:I, s:f, s:o}", "event", name, "number", (json_int_t)number, "time", now(),
                              "data", data ? data : json_object());
    char *text = event ? json_dumps(event, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    json_decref(event);
    if (!text) return NULL;
    size_t size = strlen(text);
    char *line = realloc(text, size + 2);
    if (!line) {
        free(text);
        return NULL;
    }
    memcpy(line + size, "\n", 2);
    return line;
}

void events_add(struct events *events, const char *name, json_t *data)
{
    char *line = line_of(name, events->next, data);
    if (!line) return; /* no memory: a number is missing then */
    char **place = &events->lines[events->next++ % EVENTS_KEPT];
    free(*place);
    *place = line;
    if (events->told) events->told(events->ctx, line, strlen(line));
}

void events_since(const struct events *events, uint64_t number, void *ctx,
                  void (*each)(void *ctx, const char *line, size_t size))
{
    uint64_t oldest = events->next > EVENTS_KEPT ? events->next - EVENTS_KEPT : 1;
    for (uint64_t i = number > oldest ? number : oldest; i < events->next; i++) {
        const char *line = events->lines[i % EVENTS_KEPT];
        if (line) each(ctx, line, strlen(line));
    }
}
