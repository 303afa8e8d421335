#include "untrusted/instance/keeper.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include "untrusted/host/log.h"
#include "untrusted/instance/keeper_wire.h"
#include "untrusted/instance/service.h"
#include "untrusted/sgx/cpu_client.h"

#define DEATHS_MAX    5
#define QUIET_SECONDS 60 /* a worker that lived longer makes up for the deaths before it */

struct keeper {
    const struct worker_resources *resources;
    size_t cpu_fds_used; /* of resources->cpu_fds */
    int signal_fd;
    struct worker_start next; /* how the next worker begins */
    pid_t worker;
    int worker_fd;
    bool ready; /* this worker has served */
    bool told;  /* the service manager and the script know */
    bool stopping;
    int deaths;
    time_t born;
};

static time_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec;
}

static void close_sessions(struct worker_start *start)
{
    for (size_t i = 0; i < start->session_count; i++)
        close(start->sessions[i].fd);
    start->session_count = 0;
}

static _Noreturn void become_worker(struct keeper *k, pid_t parent, int fd)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* without its keeper it could not be replaced */
    close(k->signal_fd);
    for (size_t i = k->cpu_fds_used; i < WORKER_CPU_STOCK; i++) /* only its own: another would be another enclave's */
        close(k->resources->cpu_fds[i]);
    int code = getppid() == parent ? worker_run(k->resources, &k->next, fd) : SERVICE_FAILED;
    _exit(code);
}

/* A new connection if this user may make one, else one of those that were made with more privileges. */
static struct err connect_cpu(struct keeper *k, int *out_fd)
{
    struct err result = cpu_connect(k->resources->options->cpu, out_fd);
    if (!result.code || k->cpu_fds_used == WORKER_CPU_STOCK) return result;
    *out_fd = k->resources->cpu_fds[k->cpu_fds_used++];
    return OK;
}

static struct err spawn(struct keeper *k)
{
    int pair[2];
    pid_t parent = getpid();
    TRY(connect_cpu(k, &k->next.cpu_fd));
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        close(k->next.cpu_fd);
        return FAIL(SYSTEM);
    }
    fflush(NULL);
    k->worker = fork();
    if (k->worker == 0) {
        close(pair[0]);
        become_worker(k, parent, pair[1]);
    }
    close(pair[1]);
    close(k->next.cpu_fd);
    close_sessions(&k->next);
    if (k->worker < 0) {
        close(pair[0]);
        return FAIL(SYSTEM);
    }
    k->worker_fd = pair[0];
    k->ready = false;
    k->born = now();
    return OK;
}

static void on_ready(struct keeper *k, const struct keeper_message *message)
{
    k->ready = true;
    k->next = (struct worker_start){.id = message->id, .awaiting_reset = true};
    if (k->told) return;
    k->told = true;
    char text[ID_TEXT_SIZE];
    id_format(&message->id, text);
    if (k->resources->options->create) printf("instance %s\n", text);
    printf("ready\n");
    fflush(stdout);
    (void)sd_notifyf(0, "READY=1\nSTATUS=serving instance %s", text);
}

static void on_hand_over(struct keeper *k, const struct keeper_message *message)
{
    close_sessions(&k->next);
    k->next.awaiting_reset = false;
    k->next.session_count = message->session_count;
    memcpy(k->next.sessions, message->sessions, sizeof k->next.sessions);
}

/* False once the worker has closed its end. */
static bool on_message(struct keeper *k)
{
    struct keeper_message message;
    struct err result = keeper_receive(k->worker_fd, &message);
    if (!result.code && message.kind == KEEPER_GONE) return false;
    if (!result.code && message.kind == KEEPER_READY && !k->ready)
        on_ready(k, &message);
    else if (!result.code && message.kind == KEEPER_HAND_OVER && k->ready)
        on_hand_over(k, &message);
    else {
        log_line(LOG_LEVEL_ERROR, "the process that holds the enclave sent nonsense and is ended");
        kill(k->worker, SIGKILL);
        return false;
    }
    return true;
}

static void on_signal(struct keeper *k)
{
    struct signalfd_siginfo info;
    if (read(k->signal_fd, &info, sizeof info) != (ssize_t)sizeof info) return;
    if (!k->stopping) (void)sd_notify(0, "STOPPING=1");
    k->stopping = true;
    kill(k->worker, SIGTERM);
}

/* Returns the worker's status, as waitpid. */
static int watch(struct keeper *k)
{
    struct pollfd fds[] = {{.fd = k->worker_fd, .events = POLLIN}, {.fd = k->signal_fd, .events = POLLIN}};
    for (bool open = true; open;) {
        if (poll(fds, 2, -1) < 0) continue;
        if (fds[1].revents) on_signal(k);
        if (fds[0].revents) open = on_message(k);
    }
    close(k->worker_fd);
    int status = 0;
    while (waitpid(k->worker, &status, 0) < 0 && errno == EINTR)
        ;
    return status;
}

/* A worker that served and died by a signal is replaced, unless that happens all the time. */
static bool may_follow(struct keeper *k, int status)
{
    log_line(LOG_LEVEL_ERROR, "the process that holds the enclave died by signal %d (%s)", WTERMSIG(status),
             strsignal(WTERMSIG(status)));
    if (!k->ready || k->stopping) return false;
    if (now() - k->born > QUIET_SECONDS) k->deaths = 0;
    if (++k->deaths < DEATHS_MAX) return true;
    log_line(LOG_LEVEL_ERROR, "it died %d times in a row; nothing more is tried", k->deaths);
    return false;
}

static int keep(struct keeper *k)
{
    for (;;) {
        struct err result = spawn(k);
        if (result.code) {
            log_line(LOG_LEVEL_ERROR, "no process could be made for the enclave: %s (%s)", err_sentence(result),
                     strerror(errno));
            return EXIT_FAILURE;
        }
        int status = watch(k);
        if (WIFEXITED(status) && (WEXITSTATUS(status) != SERVICE_REBUILD || k->stopping))
            return WEXITSTATUS(status) == SERVICE_ENDED ? EXIT_SUCCESS : EXIT_FAILURE;
        if (WIFSIGNALED(status) && !may_follow(k, status)) return EXIT_FAILURE;
    }
}

int keeper_run(const struct worker_resources *resources)
{
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    struct keeper k = {.resources = resources, .worker_fd = -1};
    k.signal_fd = signalfd(-1, &mask, SFD_CLOEXEC);
    if (k.signal_fd < 0) return EXIT_FAILURE;
    k.next.create = resources->options->create;
    k.next.id = resources->options->id;
    int code = keep(&k);
    close_sessions(&k.next);
    close(k.signal_fd);
    return code;
}
