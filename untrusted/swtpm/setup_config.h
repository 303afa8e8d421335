/*
 * swtpm_setup.conf, which says what makes certificates and which PCR banks are active; and the configuration of an
 * ordinary user, as swtpm_setup --create-config-files writes it.
 */
#pragma once

#include <limits.h>

#include "base/err.h"
#include "untrusted/cli/explain.h"

#define SETUP_VALUE_MAX 1024u

struct setup_config {
    char path[PATH_MAX];                                                                     /* "": there is none */
    char tool[SETUP_VALUE_MAX], tool_config[SETUP_VALUE_MAX], tool_options[SETUP_VALUE_MAX]; /* "": not said */
    char banks[SETUP_VALUE_MAX];
};

/* path: NULL for the first there is of $XDG_CONFIG_HOME, ~/.config and /etc. ERR_SYSTEM. */
struct err setup_config_read(const char *path, struct setup_config *out_config, struct explanation *why);

/* how: overwrite, root, skip-if-exist, with commas. ERR_USAGE, ERR_SYSTEM. */
struct err setup_config_create(const char *how, struct explanation *why);
