/*
 * The command line of swtpm, as packaged swtpm 0.7.1 has it, and what later ones added.
 *
 * Guarantees: every option that any swtpm up to 0.10 has is in one table: it has its meaning, or none here, or is refused
 * with the reason and what to use instead. What is accepted hangs together: a channel has one place, and the interface
 * that was named takes the option.
 */
#pragma once

#include <stdbool.h>

#include "base/err.h"
#include "untrusted/cli/explain.h"

#define SWTPM_KEYS_MAX 4u

enum swtpm_interface { SWTPM_NONE, SWTPM_SOCKET, SWTPM_CHARDEV };

/* --ctrl and --server. Numbers are -1 where they were not given. */
struct swtpm_channel {
    bool given;
    const char *type; /* unixio or tcp */
    const char *path;
    const char *address, *interface;
    unsigned port; /* 0: not given */
    int fd, client_fd;
    unsigned mode;
    const char *user, *group;
    bool disconnect, terminate;
};

/* --key and --migration-key: read to the end and forgotten. */
struct swtpm_key {
    const char *file, *password_file;
    int fd, password_fd;
    const char *mode, *format, *kdf;
    bool remove;
};

struct swtpm_options {
    enum swtpm_interface interface;
    struct swtpm_channel control, data;
    int data_fd;             /* --fd; -1: not given */
    bool device;             /* of /dev/vtpmx */
    const char *device_path; /* --chardev */
    const char *directory;   /* of the state */
    const char *backend;     /* the same as a URI */
    unsigned state_mode;
    const char *pid_file;
    int pid_fd;
    const char *log_file, *log_prefix;
    int log_fd;
    unsigned log_level;
    bool log_truncate;
    struct swtpm_key keys[SWTPM_KEYS_MAX];
    unsigned key_count;
    bool not_need_init, startup_clear, startup_state, startup_none, startup_deactivated;
    bool reject_locality_4, allow_set_locality;
    const char *seccomp, *user, *root;
    bool incoming; /* --migration */
    bool daemon, terminate, tpm2;
    bool print_capabilities, print_states, help, version;
};

/* argv is taken apart, and strings stay its. ERR_USAGE: why says what is wrong. */
struct err swtpm_options_parse(int argc, char **argv, struct swtpm_options *out_options, struct explanation *why);

extern const char swtpm_help[], swtpm_socket_help[], swtpm_chardev_help[];
