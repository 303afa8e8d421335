/*
 * What vtpmd is told: its configuration file, and the options that override it.
 *
 *   # a comment
 *   key = value
 *
 * Guarantees: an unknown key, a key given twice, a value that is not allowed and a line that is no such line are errors
 * that name the file and the line; options are checked in the same way. What is not given has its default.
 */
#pragma once

#include <stdbool.h>

#include "abi/anchor.h"
#include "base/err.h"
#include "link/recovery.h"
#include "untrusted/sgx/choice.h"

struct config {
    char *state_dir;
    char *run_dir;
    enum device_kind device;
    char *cpu; /* the socket of vtpm-cpu */
    char *manager_image;
    char *instance_image;
    char *instance_program;
    char *user;        /* NULL: none was named */
    char *admin_group; /* NULL: the group that vtpmd runs as */
    unsigned commit_timeout;
    enum anchor_kind anchor;
    char *anchor_file;
    char *anchor_tpm; /* a TCTI of tpm2-tss */
    uint32_t anchor_nv_index;
    unsigned anchor_rate; /* moves a second; 0: as many as there are */
    unsigned commit_rate; /* of one instance, a second; 0: as many as there are */
    bool ordinary_memory;
    bool rebuild; /* dead instances are rebuilt without being asked */
    bool init;    /* make the store and end */
    bool recover; /* take the store over with its recovery keys and end */
    uint8_t recovery_threshold;
    uint8_t recovery_key_count;
    const char *recovery_keys[RECOVERY_KEYS_MAX]; /* paths of PEM files, the command line's */
};

enum config_action { CONFIG_RUN, CONFIG_HELP, CONFIG_VERSION };

extern const char config_help[];

/* Reads options, the file, and defaults. Complains to the log. ERR_USAGE, ERR_CONFIG, ERR_NO_MEMORY. */
struct err config_load(int argc, char **argv, enum config_action *out_action, struct config *out_config);
void config_free(struct config *config);
