#include "untrusted/cli/ctl_show.h"

#include <stdbool.h>
#include <string.h>

#include "untrusted/cli/ctl_text.h"

struct line {
    const char *caption;
    const char *path;
};

#define CAPTION_WIDTH 20
#define TEXT_WIDTH    75
#define SHORT_VALUE   16 /* hexadecimal digits; --json has all of them */

void ctl_show_line(const char *caption, const char *text, FILE *out)
{
    while (strlen(text) > TEXT_WIDTH) {
        const char *blank = memrchr(text, ' ', TEXT_WIDTH + 1);
        if (!blank) blank = strchr(text, ' ');
        if (!blank) break;
        (void)fprintf(out, "%-*s %.*s\n", CAPTION_WIDTH, caption, (int)(blank - text), text);
        caption = "";
        text = blank + 1;
    }
    (void)fprintf(out, "%-*s %s\n", CAPTION_WIDTH, caption, text);
}

static void print_lines(const struct line *lines, size_t count, const json_t *object, FILE *out)
{
    for (size_t i = 0; i < count; i++)
        ctl_show_line(lines[i].caption, shown_member(object, lines[i].path).text, out);
}

static bool is_text(const json_t *object, const char *name, const char *text)
{
    const char *value = json_string_value(json_object_get(object, name));
    return value && strcmp(value, text) == 0;
}

void ctl_show_instance(const json_t *instance, FILE *out)
{
    static const struct line first[] = {
        {"label", "label"}, {"id", "id"},         {"TPM", "tpm"},       {"device", "device"},
        {"state", "state"}, {"health", "health"}, {"reason", "reason"}, {"moved to member", "moved-to"},
    };
    static const struct line second[] = {
        {"origin", "origin"},
        {"cloned from", "source"},
        {"suspended", "suspended"},
        {"reverted", "reverted"},
        {"lockout heals", "lockout-heals"},
        {"machine snapshots", "snapshots"},
        {"snapshots loaded", "snapshot-loads"},
        {"epoch", "epoch"},
        {"start number", "start"},
        {"state version", "version"},
        {"state digest", "digest"},
        {"declared dead", "deaths"},
        {"rebuilds", "rebuilds"},
        {"ledger slot", "slot"},
        {"process", "pid"},
    };
    print_lines(first, sizeof first / sizeof *first, instance, out);
    bool by_operator = is_text(instance, "owner", "operator");
    ctl_show_line("owner",
                  by_operator ? "operator (no key: whoever may use vtpmctl may delete or revert it)"
                              : shown_member(instance, "owner").text,
                  out);
    bool named = json_is_null(json_object_get(instance, "front-key"));
    ctl_show_line("front-end key", named ? "named by vtpmd at each start" : shown_member(instance, "front-key").text,
                  out);
    print_lines(second, sizeof second / sizeof *second, instance, out);
    ctl_show_line("created", shown_time(json_object_get(instance, "created")).text, out);
    const json_t *listen = json_object_get(instance, "listen");
    if (json_is_true(json_object_get(instance, "held")))
        ctl_show_line("listens at", "sockets of the swtpm that holds it", out);
    for (size_t i = 0; i < json_array_size(listen); i++)
        if (json_is_string(json_array_get(listen, i)))
            ctl_show_line("listens at", shown_text(json_string_value(json_array_get(listen, i))).text, out);
    const json_t *incoming = json_object_get(json_object_get(instance, "incoming"), "listen");
    for (size_t i = 0; i < json_array_size(incoming); i++)
        if (json_is_string(json_array_get(incoming, i)))
            ctl_show_line("incoming at", shown_text(json_string_value(json_array_get(incoming, i))).text, out);
}

/* The columns of a list; the first is the label's, as wide as the longest one. */
static const struct column {
    const char *title;
    const char *path;
    int width;
    bool right; /* aligned */
} columns[] = {
    {"STATE", "state", 11, false},  {"HEALTH", "health", 18, false}, {"EPOCH", "epoch", 5, true},
    {"START", "start", 5, true},    {"VERSION", "version", 7, true}, {"TPM", "tpm", 3, false},
    {"DEVICE", "device", 8, false}, {"OWNER", "owner", 8, false},    {"ID", "id", 8, false},
};

static void print_cell(const struct column *column, const char *text, FILE *out)
{
    /* Keys and ids are shortened to what tells them apart; show has them whole. */
    bool shorten = column->width == 8;
    int precision = shorten ? column->width : (int)strlen(text);
    bool last = column == columns + sizeof columns / sizeof *columns - 1;
    int width = last ? 0 : column->right ? column->width : -column->width;
    (void)fprintf(out, "  %*.*s", width, precision, text);
}

void ctl_show_list(const json_t *instances, FILE *out)
{
    int label_width = 5;
    for (size_t i = 0; i < json_array_size(instances); i++) {
        int width = (int)strlen(shown_member(json_array_get(instances, i), "label").text);
        if (width > label_width) label_width = width;
    }
    (void)fprintf(out, "%-*s", label_width, "LABEL");
    for (size_t c = 0; c < sizeof columns / sizeof *columns; c++)
        print_cell(&columns[c], columns[c].title, out);
    (void)fputc('\n', out);
    for (size_t i = 0; i < json_array_size(instances); i++) {
        const json_t *instance = json_array_get(instances, i);
        (void)fprintf(out, "%-*s", label_width, shown_member(instance, "label").text);
        for (size_t c = 0; c < sizeof columns / sizeof *columns; c++)
            print_cell(&columns[c], shown_member(instance, columns[c].path).text, out);
        (void)fputc('\n', out);
    }
}

void ctl_show_status(const json_t *status, FILE *out)
{
    static const struct line first[] = {
        {"vtpmd", "version"},
        {"running for seconds", "uptime"},
        {"device", "device"},
        {"", "limits"},
        {"memory", "memory"},
        {"trust domain", "domain"},
        {"member", "member"},
        {"manager MRENCLAVE", "manager.mrenclave"},
        {"instance MRENCLAVE", "instance.mrenclave"},
        {"signer (MRSIGNER)", "manager.mrsigner"},
        {"security version", "manager.security-version"},
        {"release key", "manager.release-key"},
        {"anchor", "anchor"},
        {"", "anchor-limits"},
        {"anchor's place", "anchor-place"},
        {"anchor's NV index", "anchor-nv-index"},
    };
    static const struct line second[] = {
        {"recovery", "recovery"},         {"ledger version", "ledger.version"},  {"ledger root", "ledger.root"},
        {"ledger slots", "ledger.slots"}, {"of them deleted", "ledger.deleted"}, {"running", "instances.running"},
        {"failed", "instances.failed"},
    };
    print_lines(first, sizeof first / sizeof *first, status, out);
    struct shown value = shown_member(status, "anchor-value");
    value.text[SHORT_VALUE] = 0;
    ctl_show_line("anchor's value", value.text, out);
    print_lines(second, sizeof second / sizeof *second, status, out);
    /* Acts are the operator's unless an instance names an owner: that is said for each, not for the daemon. */
    ctl_show_line("owner", "of each instance: vtpmctl show", out);
}

void ctl_show_event(const json_t *event, FILE *out)
{
    static const char *const details[] = {"start", "epoch", "health", "reason", "pid", "uid", "to", "domain"};
    const json_t *data = json_object_get(event, "data");
    (void)fprintf(out, "%s  %-6s %-13s %s", shown_time(json_object_get(event, "time")).text,
                  shown_member(event, "number").text, shown_member(event, "event").text,
                  shown_member(data, "label").text);
    for (size_t i = 0; i < sizeof details / sizeof *details; i++)
        if (json_object_get(data, details[i]))
            (void)fprintf(out, "  %s %s", details[i], shown_member(data, details[i]).text);
    (void)fputc('\n', out);
}
