/*
 * swtpm: the command that libvirt, scripts and containers start for each TPM, with a TPM of vtpmd's behind it.
 *
 * It opens the sockets that it is asked for, has vtpmd start the instance that the state directory names on them, and then
 * stands for that instance: what stops this process stops the TPM in order, and it ends when the TPM does. Commands do
 * not pass through it (docs/adr/0022).
 *
 * Guarantees: a TPM is made for a directory that holds none, and never in the place of one that is missing; an option that
 * cannot be honoured ends it with status 1 and a sentence. It holds no key, and no state but the sealed one.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "untrusted/host/log.h"
#include "untrusted/swtpm/device.h"
#include "untrusted/swtpm/held.h"
#include "untrusted/swtpm/key.h"
#include "untrusted/swtpm/options.h"

#define COMPATIBLE_VERSION "0.7.1" /* whose command line this is */
#define LOG_PREFIX_MAX     80u

/* The last ones are told of a TPM 2.0 only. */
static const char capabilities[] =
    "{ \"type\": \"swtpm\", \"features\": [ \"tpm-1.2\", \"tpm-2.0\", \"tpm-send-command-header\", "
    "\"flags-opt-startup\", "
    "\"ctrl-opt-terminate\", \"cmdarg-seccomp\", \"cmdarg-key-fd\", \"cmdarg-pwd-fd\", \"cmdarg-print-states\", "
    "\"cmdarg-chroot\", \"cmdarg-migration\", \"nvram-backend-dir\"%s ], \"version\": \"" COMPATIBLE_VERSION "\" }\n";
static const char capabilities_20[] = ", \"rsa-keysize-1024\", \"rsa-keysize-2048\", \"rsa-keysize-3072\"";

struct program {
    struct swtpm_options options;
    struct place place;
    struct held held;
    struct swtpm_sockets sockets;
    int device;   /* of swtpm chardev; -1 */
    int relay[2]; /* the ends of data and control that the relay has; -1 */
    int signals;
    bool stopping;
    bool has_pid;
    json_int_t copied; /* version of the state in the directory */
};

/* --- before anything is opened --- */

static struct err open_log(const struct swtpm_options *options, struct explanation *why)
{
    static char name[LOG_PREFIX_MAX];
    int fd = options->log_fd;
    const bool none = options->log_file && strcmp(options->log_file, "-") == 0;
    const int truncate = options->log_truncate ? O_TRUNC : 0;
    (void)snprintf(name, sizeof name, "%.60sswtpm", options->log_prefix ? options->log_prefix : "");
    log_open(name);
    if (none)
        fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    else if (options->log_file)
        fd = open(options->log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | truncate, 0640);
    if (fd < 0 && options->log_file)
        return explain(why, FAIL(SYSTEM), "--log file=%.200s: %s", options->log_file, strerror(errno));
    if (fd < 0 || dup2(fd, STDERR_FILENO) >= 0) return OK;
    return explain(why, FAIL(SYSTEM), "--log fd=%d: %s", fd, strerror(errno));
}

static struct err drain_keys(const struct swtpm_options *options, struct explanation *why)
{
    for (unsigned i = 0; i < options->key_count; i++)
        TRY(key_drain(&options->keys[i], why));
    if (options->key_count) log_line(LOG_LEVEL_NOTICE, "%s", key_sentence);
    return OK;
}

static int print_states(const struct place *place)
{
    const size_t size = place->has_id ? place_copy_size(place) : 0;
    if (size)
        printf("{ \"type\": \"swtpm\", \"states\": [ {\"name\": \"permall\", \"size\": %zu} ] }", size);
    else
        printf("{ \"type\": \"swtpm\", \"states\": [] }");
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* --- the start --- */

/* What swtpm does for a device: nobody initialises its TPM, and the driver wants one that was started. */
static struct err prepare_device(struct program *p, struct explanation *why)
{
    if (p->options.interface != SWTPM_CHARDEV) return OK;
    TRY(device_open(&p->options, &p->device, why));
    TRY(swtpm_sockets_pair(&p->sockets, "data-client", &p->relay[0], why));
    TRY(swtpm_sockets_pair(&p->sockets, "control-client", &p->relay[1], why));
    p->options.not_need_init = true;
    if (!p->options.startup_none && !p->options.startup_state) p->options.startup_clear = true;
    return OK;
}

static struct err change_root(const char *root, struct explanation *why)
{
    if (!root || (chroot(root) == 0 && chdir("/") == 0)) return OK;
    return explain(why, FAIL(SYSTEM), "--chroot %.200s: %s", root, strerror(errno));
}

static struct err become_user(const char *name, struct explanation *why)
{
    if (!name) return OK;
    const struct passwd *user = getpwnam(name);
    if (!user) return explain(why, FAIL(USAGE), "--runas %.60s: there is no such user", name);
    if (user->pw_uid == geteuid()) return OK;
    if (initgroups(name, user->pw_gid) == 0 && setgid(user->pw_gid) == 0 && setuid(user->pw_uid) == 0) return OK;
    return explain(why, FAIL(SYSTEM), "--runas %.60s: %s", name, strerror(errno));
}

static struct err write_pid(struct program *p, pid_t pid, struct explanation *why)
{
    const char *path = p->options.pid_file;
    int fd = p->options.pid_fd;
    if (path) fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0 && path) return explain(why, FAIL(SYSTEM), "--pid file=%.200s: %s", path, strerror(errno));
    if (fd < 0) return OK;
    const bool written = dprintf(fd, "%d", (int)pid) > 0;
    (void)close(fd);
    p->has_pid = path != NULL;
    if (!written) return explain(why, FAIL(SYSTEM), "--pid: %s", strerror(errno));
    return OK;
}

/* The caller's process says that the TPM serves, and ends; the one that goes on has what it had. */
static struct err go_on_in_background(struct program *p, struct explanation *why)
{
    if (!p->options.daemon) return write_pid(p, getpid(), why);
    const pid_t child = fork();
    if (child < 0) return explain(why, FAIL(SYSTEM), "--daemon: %s", strerror(errno));
    if (child > 0) {
        const struct err err = write_pid(p, child, why);
        if (err.code) (void)kill(child, SIGTERM);
        if (err.code) log_line(LOG_LEVEL_ERROR, "%s", explanation_text(why, err));
        _exit(err.code ? EXIT_FAILURE : EXIT_SUCCESS);
    }
    p->has_pid = p->options.pid_file != NULL;
    const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    (void)setsid();
    (void)dup2(null, STDIN_FILENO);
    (void)dup2(null, STDOUT_FILENO);
    if (!p->options.log_file && p->options.log_fd < 0) (void)dup2(null, STDERR_FILENO);
    (void)close(null);
    return OK;
}

static struct err begin_relay(struct program *p, struct explanation *why)
{
    if (p->device < 0) return OK;
    const pid_t parent = getpid();
    const pid_t child = fork();
    if (child < 0) return explain(why, FAIL(SYSTEM), "a process for the device: %s", strerror(errno));
    if (child == 0) {
        held_close(&p->held);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent)
            device_relay(p->device, p->relay[0], p->relay[1], p->options.device || p->options.allow_set_locality);
        _exit(EXIT_SUCCESS);
    }
    for (size_t i = 0; i < 2; i++)
        (void)close(p->relay[i]);
    (void)close(p->device);
    p->relay[0] = p->relay[1] = p->device = -1;
    return OK;
}

static struct err take_signals(struct program *p, struct explanation *why)
{
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    sigaddset(&mask, SIGHUP);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)sigprocmask(SIG_BLOCK, &mask, NULL);
    p->signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    return p->signals >= 0 ? OK : explain(why, FAIL(SYSTEM), "signals: %s", strerror(errno));
}

static struct err start(struct program *p, struct explanation *why)
{
    bool made = false;
    TRY(held_open(&p->held, why));
    if (p->options.incoming) TRY(held_open_from(&p->held, why));
    TRY(change_root(p->options.root, why));
    TRY(place_open(p->options.directory, p->options.state_mode, !p->options.tpm2, &p->place, why));
    if (p->options.incoming && !p->place.has_id)
        return explain(why, FAIL(STATE_MISSING),
                       "--migration incoming: %.200s names no instance; the file " PLACE_MARKER
                       " there has to be that of the swtpm that the TPM comes from",
                       p->place.directory);
    TRY(swtpm_sockets_open(&p->options, &p->sockets, why));
    TRY(prepare_device(p, why));
    const struct err found = held_find(&p->held, &p->place, &made, why);
    if (found.code == ERR_NO_INSTANCE && p->options.incoming)
        return explain(why, found,
                       "--migration incoming: this vtpmd does not have the instance %s; " HELD_FROM_VARIABLE
                       " in the environment has to name the admin socket of the one that it comes from",
                       p->place.id);
    TRY(found);
    if (made)
        log_line(LOG_LEVEL_NOTICE, "%s is a new TPM, %s; %s/" PLACE_MARKER " names it", p->held.label, p->held.id,
                 p->place.directory);
    TRY(held_start(&p->held, &p->options, &p->place, &p->sockets, why));
    return become_user(p->options.user, why);
}

/* --- while it serves --- */

static void on_signal(void *ctx)
{
    struct program *p = ctx;
    struct signalfd_siginfo info;
    if (read(p->signals, &info, sizeof info) != (ssize_t)sizeof info) return;
    p->stopping = true;
    ctl_nudge(&p->held.ctl);
}

static void json_close(json_t **value)
{
    json_decref(*value);
}

/* Until the instance has ended. */
static struct err serve(struct program *p, struct explanation *why)
{
    const struct ctl_watch watch = {p->signals, on_signal, p};
    for (bool runs = true; runs;) {
        json_t *instance DEFER(json_close) = NULL;
        TRY(held_await(&p->held, p->copied, &watch, &runs, &instance, why));
        const bool is_here = held_is_here(&p->held, instance);
        if (is_here) held_copy_state(&p->held, &p->place, &p->copied);
        if (runs && p->stopping) return held_stop(&p->held, why);
        const char *reason = json_string_value(json_object_get(instance, "reason"));
        if (!runs && reason) return explain(why, FAIL(PEER_CLOSED), "%s: %.300s", p->held.label, reason);
        if (!runs && !is_here) log_line(LOG_LEVEL_NOTICE, "%s: another process has taken its TPM over", p->held.label);
    }
    return OK;
}

static void end(struct program *p)
{
    if (p->has_pid) (void)unlink(p->options.pid_file);
    swtpm_sockets_close(&p->sockets);
    held_close(&p->held);
}

static struct err run(struct program *p, struct explanation *why)
{
    TRY(take_signals(p, why));
    TRY(drain_keys(&p->options, why));
    TRY(start(p, why));
    TRY(go_on_in_background(p, why));
    TRY(begin_relay(p, why));
    return serve(p, why);
}

/* --- the program --- */

static int inform(const struct swtpm_options *options)
{
    static const char *const helps[] = {swtpm_help, swtpm_socket_help, swtpm_chardev_help};
    if (options->version)
        puts("TPM emulator version " COMPATIBLE_VERSION ", as enclave-vtpm " VTPM_VERSION " speaks it");
    else if (options->help)
        (void)fputs(helps[options->interface], stdout);
    else
        printf(capabilities, options->tpm2 ? capabilities_20 : "");
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    static struct program p = {.device = -1, .relay = {-1, -1}, .held = {.there = -1, .ctl.fd = -1}};
    struct explanation why = {0};
    log_open("swtpm");
    struct err err = swtpm_options_parse(argc, argv, &p.options, &why);
    if (!err.code && (p.options.version || p.options.help || p.options.print_capabilities)) return inform(&p.options);
    if (!err.code && p.options.print_states) {
        err = place_open(p.options.directory, 0, !p.options.tpm2, &p.place, &why);
        if (!err.code) return print_states(&p.place);
    }
    if (!err.code) err = open_log(&p.options, &why);
    if (!err.code) err = run(&p, &why);
    if (err.code) log_line(LOG_LEVEL_ERROR, "%s", explanation_text(&why, err));
    end(&p);
    return err.code ? EXIT_FAILURE : EXIT_SUCCESS;
}
