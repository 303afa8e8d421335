#include "untrusted/daemon/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_TIME_FIELD 22 /* of /proc/PID/stat, proc(5) */
#define NOTIFY           "NOTIFY_SOCKET="

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

struct process {
    int fd; /* pidfd */
    sd_event_source *source;
    void (*ended)(void *ctx);
    void *ctx;
};

static struct err read_text(const char *path, char *out_text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ENSURE(fd >= 0 || errno != ENOENT, NO_INSTANCE);
    ENSURE(fd >= 0, SYSTEM);
    ssize_t got = read(fd, out_text, size - 1);
    int saved = errno;
    close(fd);
    ENSURE(got > 0 || saved != ESRCH, NO_INSTANCE);
    ENSURE(got > 0, SYSTEM);
    out_text[got] = 0;
    return OK;
}

struct err process_boot_id(char out_boot_id[37])
{
    TRY(read_text("/proc/sys/kernel/random/boot_id", out_boot_id, 37));
    ENSURE(strlen(out_boot_id) == 36, SYSTEM);
    return OK;
}

/* The name in the second field may hold anything, blanks and parentheses included: what follows its end is counted. */
static struct err read_start_time(pid_t pid, uint64_t *out_start_time)
{
    char path[40];
    char text[1024];
    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    TRY(read_text(path, text, sizeof text));
    const char *next = strrchr(text, ')');
    for (int field = 2; next && field < START_TIME_FIELD; field++)
        next = strchr(next + 1, ' ');
    ENSURE(next, SYSTEM);
    *out_start_time = strtoull(next + 1, NULL, 10);
    return OK;
}

struct err process_identify(pid_t pid, struct store_process *out_identity)
{
    struct store_process identity = {.pid = pid};
    TRY(process_boot_id(identity.boot_id));
    TRY(read_start_time(pid, &identity.start_time));
    *out_identity = identity;
    return OK;
}

static int give(posix_spawn_file_actions_t *actions, const int *fds, size_t count)
{
    int result = 0;
    for (size_t i = 0; !result && i < count; i++)
        result = posix_spawn_file_actions_adddup2(actions, fds[i], PROCESS_FIRST_FD + (int)i);
    return result ? result : posix_spawn_file_actions_addclosefrom_np(actions, PROCESS_FIRST_FD + (int)count);
}

/* systemd listens to vtpmd alone. The array is the caller's to free, and NULL if there is no memory. */
static char **environment_of_child(void)
{
    size_t count = 0;
    size_t kept = 0;
    while (environ[count])
        count++;
    char **environment = calloc(count + 1, sizeof *environment);
    for (size_t i = 0; environment && i < count; i++)
        if (strncmp(environ[i], NOTIFY, strlen(NOTIFY)) != 0) environment[kept++] = environ[i];
    return environment;
}

static int spawn_with(pid_t *pid, char *const argv[], posix_spawn_file_actions_t *actions,
                      posix_spawnattr_t *attributes)
{
    sigset_t none;
    sigset_t all;
    sigemptyset(&none);
    sigfillset(&all);
    int result = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (!result) result = posix_spawn_file_actions_addopen(actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    if (!result) result = posix_spawnattr_setsigmask(attributes, &none);
    if (!result) result = posix_spawnattr_setsigdefault(attributes, &all);
    if (!result)
        result =
            posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
    char **environment = environment_of_child();
    if (!result) result = environment ? posix_spawn(pid, argv[0], actions, attributes, argv, environment) : ENOMEM;
    free(environment);
    return result;
}

struct err process_spawn(char *const argv[], const int *fds, size_t count, struct store_process *out_identity)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    pid_t pid = 0;
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    int result = give(&actions, fds, count);
    if (!result) result = spawn_with(&pid, argv, &actions, &attributes);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    errno = result;
    ENSURE(result == 0, SYSTEM);
    /* It is our child: even if it has ended by now, it is there until it is waited for. */
    return process_identify(pid, out_identity);
}

static int on_end(sd_event_source *source, int fd, uint32_t events, void *ctx)
{
    (void)events;
    struct process *process = ctx;
    siginfo_t ignored;
    (void)sd_event_source_set_enabled(source, SD_EVENT_OFF);
    (void)waitid(P_PIDFD, (id_t)fd, &ignored, WEXITED | WNOHANG); /* if it is our child */
    process->ended(process->ctx);
    return 0;
}

bool process_same(const struct store_process *a, const struct store_process *b)
{
    return a->pid == b->pid && a->start_time == b->start_time && strcmp(a->boot_id, b->boot_id) == 0;
}

/* The descriptor is there before the process is looked at: from then on the number cannot become another's unseen. */
static struct err open_identity(const struct store_process *identity, int *out_fd)
{
    struct store_process now;
    int fd = (int)syscall(SYS_pidfd_open, identity->pid, 0);
    ENSURE(fd >= 0 || (errno != ESRCH && errno != EINVAL), NO_INSTANCE);
    ENSURE(fd >= 0, SYSTEM);
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    struct err result = process_identify(identity->pid, &now);
    if (!result.code && !process_same(&now, identity)) result = FAIL(NO_INSTANCE);
    if (result.code) {
        close(fd);
        return result;
    }
    *out_fd = fd;
    return OK;
}

struct err process_watch(sd_event *event, const struct store_process *identity, void (*ended)(void *ctx), void *ctx,
                         struct process **out_process)
{
    int fd = -1;
    TRY(open_identity(identity, &fd));
    struct process *process = calloc(1, sizeof *process);
    if (!process) {
        close(fd);
        return FAIL(NO_MEMORY);
    }
    *process = (struct process){.fd = fd, .ended = ended, .ctx = ctx};
    if (sd_event_add_io(event, &process->source, fd, EPOLLIN, on_end, process) < 0) {
        process_close(&process);
        return FAIL(SYSTEM);
    }
    *out_process = process;
    return OK;
}

void process_signal(const struct process *process, int signal)
{
    (void)syscall(SYS_pidfd_send_signal, process->fd, signal, NULL, 0);
}

void process_close(struct process **process)
{
    if (!*process) return;
    sd_event_source_disable_unref((*process)->source);
    close((*process)->fd);
    free(*process);
    *process = NULL;
}
