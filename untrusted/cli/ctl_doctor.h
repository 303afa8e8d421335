/* vtpmctl doctor: the report (doctor.h) for people and for programs. It asks no vtpmd. */
#pragma once

#include "untrusted/cli/ctl_request.h"
#include "untrusted/cli/doctor.h"

/* The device that the command line names; auto if it names none. ERR_USAGE. */
struct err ctl_doctor_device(const struct ctl_request *request, enum device_kind *out_device, struct explanation *why);
/* Gathers and judges. The explanation of a device that cannot be used is the first problem and its cure. */
struct err ctl_doctor_look(enum device_kind wanted, struct doctor_report *out_report, struct explanation *why);

struct err ctl_doctor_run(struct ctl_request *request, struct explanation *why);
