/*
 * The few TPM 2.0 commands of vtpmctl selftest, at an instance's data channel (TPM 2.0 Library, Part 3).
 *
 * Guarantees: a refusal is told with the command's name and the TPM's code; no wait is longer than CTL_TPM_SECONDS.
 */
#pragma once

#include "base/err.h"
#include "untrusted/cli/explain.h"

#define CTL_TPM_SECONDS   60
#define CTL_TPM_DATA_SIZE 32u

enum ctl_tpm_command {
    CTL_TPM_STARTUP = 1,
    CTL_TPM_SELF_TEST,
    CTL_TPM_GET_RANDOM,
    CTL_TPM_NV_DEFINE, /* an index of the owner's for that much data, without a password */
    CTL_TPM_NV_WRITE,
    CTL_TPM_NV_READ,
};

const char *ctl_tpm_name(enum ctl_tpm_command command);

/* The caller owns the descriptor. ERR_SYSTEM, ERR_TOO_LARGE. */
struct err ctl_tpm_connect(const char *path, int *out_fd, struct explanation *why);
/* data: what is written, or where what comes back goes; for other commands it is not looked at. ERR_PROTOCOL, ERR_TPM. */
struct err ctl_tpm_run(int fd, enum ctl_tpm_command command, uint8_t data[CTL_TPM_DATA_SIZE], struct explanation *why);
