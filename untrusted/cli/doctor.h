/*
 * What the facts of a machine mean: for each check whether it stands in the way of the device that was asked for, and
 * what an operator can do about it.
 *
 * Guarantees: the same facts give the same report; which device auto takes is what device_choose takes. What concerns
 * the other device only is a note.
 * Not guaranteed: that an enclave runs where no problem was found. That takes vtpmctl selftest, and on SGX hardware
 * nothing of this was ever tried.
 */
#pragma once

#include <stddef.h>

#include "untrusted/cli/doctor_facts.h"
#include "untrusted/sgx/choice.h"

/*
 * What an enclave takes of EPC, with its SECS and its version arrays: rounded up from what vtpm-sign show says of the
 * images (docs/hardware.md).
 */
#define DOCTOR_EPC_INSTANCE (UINT64_C(6) << 20)
#define DOCTOR_EPC_MANAGER  (UINT64_C(10) << 20)

#define DOCTOR_CHECKS_MAX   20u

enum doctor_verdict { DOCTOR_OK, DOCTOR_NOTE, DOCTOR_PROBLEM };

struct doctor_finding {
    const char *check;
    enum doctor_verdict verdict;
    char found[256];
    char cure[256]; /* "": nothing is to be done */
};

struct doctor_report {
    enum device_kind device; /* SGX or SOFTWARE */
    bool usable;             /* no problem was found */
    size_t count;
    struct doctor_finding findings[DOCTOR_CHECKS_MAX];
    char conclusion[384]; /* which device, and why */
};

extern const char doctor_untried[];

const char *doctor_verdict_name(enum doctor_verdict verdict);
void doctor_judge(const struct doctor_facts *facts, enum device_kind wanted, struct doctor_report *out_report);
/* What a check found, "" if it had nothing to say. */
const char *doctor_found(const struct doctor_report *report, const char *check);
/* The first problem, NULL if there is none. */
const struct doctor_finding *doctor_first_problem(const struct doctor_report *report);
