#include "untrusted/cli/ctl_doctor.h"

#include "untrusted/cli/ctl_show.h"
#include "untrusted/cli/ctl_text.h"

struct err ctl_doctor_device(const struct ctl_request *request, enum device_kind *out_device, struct explanation *why)
{
    *out_device = DEVICE_AUTO;
    if (request->device && device_kind_parse(request->device, out_device).code)
        return explain(why, FAIL(USAGE), "--device %s: auto, sgx or software", request->device);
    return OK;
}

struct err ctl_doctor_look(enum device_kind wanted, struct doctor_report *out_report, struct explanation *why)
{
    static struct doctor_facts facts;
    doctor_facts_gather(&facts);
    doctor_judge(&facts, wanted, out_report);
    const struct doctor_finding *problem = doctor_first_problem(out_report);
    const struct err err = facts.obstacle.code ? facts.obstacle : FAIL(SYSTEM);
    if (out_report->usable) return OK;
    if (!problem) return explain(why, err, "%s", out_report->conclusion);
    return explain(why, err, "the %s device cannot be used here: %.200s: %.200s", device_kind_name(out_report->device),
                   problem->found, problem->cure);
}

static json_t *json_of(const struct doctor_report *report)
{
    json_t *checks = json_array();
    for (size_t i = 0; i < report->count; i++) {
        const struct doctor_finding *finding = &report->findings[i];
        (void)json_array_append_new(checks, json_pack("{s:s, s:s, s:s, s:s}", "check", finding->check, "verdict",
                                                      doctor_verdict_name(finding->verdict), "found", finding->found,
                                                      "do", finding->cure));
    }
    return json_pack("{s:o, s:s, s:b, s:s, s:s}", "checks", checks, "device", device_kind_name(report->device),
                     "usable", report->usable, "conclusion", report->conclusion, "untried", doctor_untried);
}

static void show_report(const json_t *report, FILE *out)
{
    size_t index = 0;
    const json_t *check = NULL;
    json_array_foreach(json_object_get(report, "checks"), index, check)
    {
        char caption[32];
        const struct shown cure = shown_member(check, "do");
        (void)snprintf(caption, sizeof caption, "%-7.7s %.20s", shown_member(check, "verdict").text,
                       shown_member(check, "check").text);
        ctl_show_line(caption, shown_member(check, "found").text, out);
        if (*cure.text) ctl_show_line("        to do:", cure.text, out);
    }
    ctl_show_line("", shown_member(report, "untried").text, out);
    (void)fprintf(out, "%s\n", shown_member(report, "conclusion").text);
}

struct err ctl_doctor_run(struct ctl_request *request, struct explanation *why)
{
    static struct doctor_report report;
    enum device_kind wanted = DEVICE_AUTO;
    TRY(ctl_doctor_device(request, &wanted, why));
    const struct err found = ctl_doctor_look(wanted, &report, why);
    json_t *json DEFER(ctl_json_close) = json_of(&report);
    TRY(ctl_print(request, json, show_report, why));
    return found;
}
