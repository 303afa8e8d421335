/*
 * One command line of vtpmctl, and what its commands share: asking vtpmd, and printing what it says.
 */
#pragma once

#include <stdio.h>

#include "untrusted/cli/ctl_client.h"
#include "untrusted/cli/swtpm_source.h"

#define CTL_SHORT_SECONDS 10u  /* what only looks */
#define CTL_LONG_SECONDS  120u /* what starts or ends an enclave */
#define CTL_LISTEN_MAX    16u
#define CTL_WORDS_MAX     3u

struct ctl_request {
    const char *socket;
    const char *words[CTL_WORDS_MAX]; /* what is no option, behind the command's name; NULL: not given */
    const char *instance;             /* words[0]: a label or an id, for most commands */
    const char *owner, *front_key, *owner_key, *signature, *state_dir, *lockout_heals, *tpm, *snapshots, *set, *out;
    const char *listen[CTL_LISTEN_MAX];
    size_t listen_count;
    struct swtpm_options from;
    const char *device, *since_text, *timeout_text;
    json_int_t since;
    unsigned timeout; /* seconds; 0: the command's own */
    bool json, no_start, deleted, declare_dead, all, force, has_since, list, remove, operator, incoming, mark;
    struct ctl ctl;
};

/* For DEFER. */
void ctl_json_close(json_t **value);

/* ctl_call, with the command line's timeout. */
struct err ctl_ask(struct ctl_request *request, const char *verb, json_t *arguments, unsigned seconds,
                   const struct ctl_watch *watch, json_t **out_return, struct explanation *why);
/* For what starts or ends an enclave: what happens meanwhile is told. */
struct err ctl_ask_told(struct ctl_request *request, const char *verb, json_t *arguments, json_t **out_return,
                        struct explanation *why);
/* {"instance": ...} */
json_t *ctl_instance_arguments(const struct ctl_request *request);
/* listen, if it was said. ERR_USAGE, ERR_NO_MEMORY. */
struct err ctl_add_listen(const struct ctl_request *request, json_t *arguments, struct explanation *why);
/* listen and start, as create and clone have them. ERR_USAGE, ERR_NO_MEMORY. */
struct err ctl_add_start_arguments(const struct ctl_request *request, json_t *arguments, struct explanation *why);

/* With --json the value itself, else what show makes of it. */
struct err ctl_print(const struct ctl_request *request, const json_t *value, void (*show)(const json_t *, FILE *),
                     struct explanation *why);
struct err ctl_end_of_output(struct explanation *why);
/* "web1  c9a7...  running", after a command that changed an instance */
void ctl_show_outcome(const json_t *instance, FILE *out);

/* Of an answer that lacks what a vtpmd would say. */
struct err ctl_missing(struct ctl_request *request, const char *name, struct explanation *why);
