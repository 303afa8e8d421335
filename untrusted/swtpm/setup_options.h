/*
 * The command line of swtpm_setup, as packaged 0.7.1 has it.
 *
 * Guarantees: every option of 0.7.1 is in the table: it has its meaning, or none here, or is refused with the reason.
 */
#pragma once

#include <stdbool.h>

#include "base/err.h"
#include "untrusted/cli/explain.h"

struct setup_options {
    const char *directory; /* of the state */
    const char *user, *config, *log_file, *vm, *banks, *rsa_bits_text, *certificates;
    const char *key_file, *password_file, *key_fd, *password_fd, *cipher;
    const char *config_files; /* --create-config-files, "" without a value; NULL: not given */
    const char *tpm;
    const char *owner_password, *srk_password; /* of a TPM 1.2; NULL: swtpm_setup's */
    bool owner_well_known, srk_well_known;
    unsigned rsa_bits; /* 2048 or 3072 */
    bool tpm2, create_ek, create_ek_certificate, create_platform_certificate, create_spk;
    bool allow_signing, decryption, ecc, lock, overwrite, not_overwrite, reconfigure, take_ownership, display;
    bool print_capabilities, version, help;
};

/* argv is taken apart, and strings stay its. ERR_USAGE. */
struct err setup_options_parse(int argc, char **argv, struct setup_options *out_options, struct explanation *why);

extern const char setup_help[];
