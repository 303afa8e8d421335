#include "untrusted/cli/ctl_snapshot.h"

#include <string.h>

#include "untrusted/cli/ctl_text.h"

static void show_snapshots(const json_t *snapshots, FILE *out)
{
    int width = 4;
    size_t index = 0;
    const json_t *snapshot = NULL;
    json_array_foreach(snapshots, index, snapshot)
    {
        const int own = (int)strlen(shown_member(snapshot, "name").text);
        if (own > width) width = own;
    }
    (void)fprintf(out, "%-*s  VERSION  CREATED                  SIZE  DIGEST\n", width, "NAME");
    json_array_foreach(snapshots, index, snapshot)
    {
        (void)fprintf(out, "%-*s  %7s  %-23s  %4s  %.16s\n", width, shown_member(snapshot, "name").text,
                      shown_member(snapshot, "version").text, shown_time(json_object_get(snapshot, "created")).text,
                      shown_member(snapshot, "size").text, shown_member(snapshot, "digest").text);
    }
}

static struct err ask_snapshots(struct ctl_request *request, json_t **out_answer, struct explanation *why)
{
    TRY(ctl_ask(request, "snapshots", ctl_instance_arguments(request), CTL_SHORT_SECONDS, NULL, out_answer, why));
    if (!json_is_array(json_object_get(*out_answer, "snapshots"))) return ctl_missing(request, "snapshots", why);
    return OK;
}

struct err ctl_snapshot_find(struct ctl_request *request, const char *name, json_t **out_snapshot,
                             struct explanation *why)
{
    json_t *answer DEFER(ctl_json_close) = NULL;
    size_t index = 0;
    json_t *snapshot = NULL;
    TRY(ask_snapshots(request, &answer, why));
    json_array_foreach(json_object_get(answer, "snapshots"), index, snapshot)
    {
        const char *own = json_string_value(json_object_get(snapshot, "name"));
        if (!own || strcmp(own, name) != 0) continue;
        *out_snapshot = json_incref(snapshot);
        return OK;
    }
    return explain(why, FAIL(NO_SNAPSHOT), "%s has no snapshot named %s: vtpmctl snapshot --list shows them",
                   request->instance, name);
}

static struct err list(struct ctl_request *request, struct explanation *why)
{
    json_t *answer DEFER(ctl_json_close) = NULL;
    TRY(ask_snapshots(request, &answer, why));
    if (request->json) return ctl_print(request, answer, NULL, why);
    return ctl_print(request, json_object_get(answer, "snapshots"), show_snapshots, why);
}

static void show_taken(const json_t *snapshot, FILE *out)
{
    (void)fprintf(out, "%s  version %s  %s\n", shown_member(snapshot, "name").text,
                  shown_member(snapshot, "version").text, shown_member(snapshot, "digest").text);
}

static void show_nothing(const json_t *answer, FILE *out)
{
    (void)answer, (void)out;
}

struct err ctl_snapshot_run(struct ctl_request *request, struct explanation *why)
{
    json_t *answer DEFER(ctl_json_close) = NULL;
    if (request->list) return list(request, why);
    json_t *arguments = ctl_instance_arguments(request);
    if (json_object_set_new(arguments, "name", json_string(request->words[1])) != 0) {
        json_decref(arguments);
        return explain(why, FAIL(USAGE), "the name is not UTF-8");
    }
    const char *verb = request->remove ? "snapshot-delete" : "snapshot";
    TRY(ctl_ask(request, verb, arguments, CTL_LONG_SECONDS, NULL, &answer, why));
    return ctl_print(request, answer, request->remove ? show_nothing : show_taken, why);
}
