#include "untrusted/cli/ctl_request.h"

#include <errno.h>
#include <string.h>

#include "untrusted/cli/ctl_progress.h"
#include "untrusted/cli/ctl_text.h"

void ctl_json_close(json_t **value)
{
    json_decref(*value);
}

struct err ctl_ask(struct ctl_request *request, const char *verb, json_t *arguments, unsigned seconds,
                   const struct ctl_watch *watch, json_t **out_return, struct explanation *why)
{
    return ctl_call(&request->ctl, verb, arguments, request->timeout ? request->timeout : seconds, watch, out_return,
                    why);
}

struct err ctl_end_of_output(struct explanation *why)
{
    if (fflush(stdout) != 0 || ferror(stdout))
        return explain(why, FAIL(SYSTEM), "standard output: %s", strerror(errno));
    return OK;
}

struct err ctl_print(const struct ctl_request *request, const json_t *value, void (*show)(const json_t *, FILE *),
                     struct explanation *why)
{
    if (request->json)
        shown_json(value, JSON_INDENT(2), stdout);
    else
        show(value, stdout);
    return ctl_end_of_output(why);
}

void ctl_show_outcome(const json_t *instance, FILE *out)
{
    (void)fprintf(out, "%s  %s  %s", shown_member(instance, "label").text, shown_member(instance, "id").text,
                  shown_member(instance, "state").text);
    if (json_is_string(json_object_get(instance, "reason")))
        (void)fprintf(out, ": %s", shown_member(instance, "reason").text);
    (void)fputc('\n', out);
}

struct err ctl_missing(struct ctl_request *request, const char *name, struct explanation *why)
{
    request->ctl.outcome = CTL_LOST;
    return explain(why, FAIL(PROTOCOL), "%s: vtpmd's answer has no %s", request->socket, name);
}

struct err ctl_ask_told(struct ctl_request *request, const char *verb, json_t *arguments, json_t **out_return,
                        struct explanation *why)
{
    struct ctl_progress progress;
    ctl_progress_open(request->socket, request->instance, &progress);
    struct err err = ctl_ask(request, verb, arguments, CTL_LONG_SECONDS, &progress.watch, out_return, why);
    ctl_progress_close(&progress);
    return err;
}

json_t *ctl_instance_arguments(const struct ctl_request *request)
{
    return json_pack("{s:s}", "instance", request->instance);
}

struct err ctl_add_listen(const struct ctl_request *request, json_t *arguments, struct explanation *why)
{
    if (request->listen_count == 0) return OK;
    json_t *listen = json_array();
    ENSURE(json_object_set_new(arguments, "listen", listen) == 0, NO_MEMORY);
    for (size_t i = 0; i < request->listen_count; i++)
        if (json_array_append_new(listen, json_string(request->listen[i])) != 0)
            return explain(why, FAIL(USAGE), "--listen: the address is not UTF-8");
    return OK;
}

struct err ctl_add_start_arguments(const struct ctl_request *request, json_t *arguments, struct explanation *why)
{
    if (request->no_start) ENSURE(json_object_set_new(arguments, "start", json_false()) == 0, NO_MEMORY);
    return ctl_add_listen(request, arguments, why);
}
