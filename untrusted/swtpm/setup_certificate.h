/*
 * Certificates of a TPM, made by the program that swtpm_setup.conf names as create_certs_tool (swtpm_localca, or a CA's own).
 *
 * Guarantees: the tool gets the arguments that Debian's swtpm_setup gives it; what it leaves is read from a directory that
 * nobody else may enter, and removed. What it certifies is its own affair: it sees public keys only.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "untrusted/cli/explain.h"
#include "untrusted/swtpm/setup_config.h"
#include "untrusted/swtpm/setup_options.h"

#define CERTIFICATE_MAX 8192u

struct certificate_request {
    const char *type; /* ek or platform */
    const char *key;  /* as --ek */
    const char *info; /* GET_INFO, flags 3: JSON */
    const struct setup_options *options;
    const struct setup_config *config;
};

struct certificate {
    size_t size;
    uint8_t bytes[CERTIFICATE_MAX];
};

/* ERR_SYSTEM, ERR_USAGE: the configuration names no tool. */
struct err certificate_make(const struct certificate_request *request, struct certificate *out_certificate,
                            struct explanation *why);
