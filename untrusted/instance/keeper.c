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
#include <unistd.h>

#include "untrusted/host/clock.h"
#include "untrusted/host/log.h"
#include "untrusted/instance/keeper_wire.h"
#include "untrusted/instance/service.h"
#include "untrusted/sgx/choice.h"
#include "untrusted/sgx/kernel.h"
#include "untrusted/wire/pass.h"

#define DEATHS_MAX       5
#define QUIET_SECONDS    60 /* a worker that lived longer makes up for the deaths before it */

/* Between two attempts at vtpmd, ms; what lasted for STEADY_MSEC makes up for the attempts before it. */
#define FIRST_PAUSE_MSEC 50
#define PAUSE_MAX_MSEC   1000
#define STEADY_MSEC      10000

struct keeper {
    struct worker_resources *resources;
    size_t device_fds_used; /* of resources->device_fds */
    int signal_fd;
    struct worker_start next; /* how the next worker begins */
    pid_t worker;             /* 0: there is none */
    int worker_fd;
    bool ready; /* this worker has served */
    bool told;  /* the service manager and the script know */
    bool stopping;
    int deaths;
    int64_t born;         /* ms, as all times here */
    bool disconnected;    /* the worker wants another connection to vtpmd */
    bool complained;      /* about vtpmd being away */
    int64_t connected;    /* when the last connection was made */
    int64_t next_attempt; /* at the next one */
    unsigned pause;       /* behind the next one that fails */
};

static int64_t now(void)
{
    return (int64_t)(clock_now_usec() / 1000);
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
    /* It keeps its own only: another would be another enclave's. */
    for (size_t i = k->device_fds_used; i < k->resources->device_fd_count; i++)
        close(k->resources->device_fds[i]);
    int code = getppid() == parent ? worker_run(k->resources, &k->next, fd) : SERVICE_FAILED;
    _exit(code);
}

/* A new one if this user may make it, else one of those that were made with more privileges. */
static struct err connect_device(struct keeper *k, int *out_fd)
{
    struct err result = device_connect(k->resources->device, k->resources->options->cpu, out_fd);
    if (!result.code || k->device_fds_used == k->resources->device_fd_count) return result;
    *out_fd = k->resources->device_fds[k->device_fds_used++];
    return OK;
}

/* --- the connection to vtpmd --- */

/* What was connected is gone, or could not be. */
static void plan_attempt(struct keeper *k)
{
    if (k->connected && now() - k->connected >= STEADY_MSEC) k->pause = 0;
    k->connected = 0;
    k->next_attempt = now() + k->pause;
    k->pause = k->pause == 0 ? FIRST_PAUSE_MSEC : k->pause * 2 < PAUSE_MAX_MSEC ? k->pause * 2 : PAUSE_MAX_MSEC;
}

static bool connect_daemon(struct keeper *k, int *out_fd)
{
    const char *path = k->resources->options->daemon;
    struct err result = pass_connect(path, out_fd);
    if (!result.code) {
        if (k->complained) log_line(LOG_LEVEL_NOTICE, "vtpmd at %s is there again", path);
        k->complained = false;
        k->connected = now();
        return true;
    }
    if (!k->complained)
        log_line(LOG_LEVEL_WARNING, "vtpmd at %s is not there (%s); this tries again until it is", path,
                 strerror(errno));
    k->complained = true;
    plan_attempt(k);
    return false;
}

static int time_left(const struct keeper *k)
{
    int64_t left = k->next_attempt - now();
    return left > 0 ? (int)left : 0;
}

static void on_signal(struct keeper *k)
{
    struct signalfd_siginfo info;
    if (read(k->signal_fd, &info, sizeof info) != (ssize_t)sizeof info) return;
    if (!k->stopping) (void)sd_notify(0, "STOPPING=1");
    k->stopping = true;
    if (k->worker) kill(k->worker, SIGTERM);
}

/* For a worker that is to be made. False if the end was asked for meanwhile. */
static bool await_daemon(struct keeper *k, int *out_fd)
{
    struct pollfd signals = {.fd = k->signal_fd, .events = POLLIN};
    while (!k->stopping) {
        if (poll(&signals, 1, time_left(k)) > 0)
            on_signal(k);
        else if (time_left(k) == 0 && connect_daemon(k, out_fd))
            return true;
    }
    return false;
}

/* For the worker that there is. */
static void reconnect(struct keeper *k)
{
    int fd = -1;
    if (!connect_daemon(k, &fd)) return;
    k->disconnected = false;
    (void)pass_send(k->worker_fd, KEEPER_DAEMON, fd).code; /* a worker that is gone shows itself */
    close(fd);
}

/* --- workers --- */

static struct err spawn(struct keeper *k)
{
    int pair[2];
    pid_t parent = getpid();
    TRY(connect_device(k, &k->next.device_fd));
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        close(k->next.device_fd);
        return FAIL(SYSTEM);
    }
    fflush(NULL);
    k->worker = fork();
    if (k->worker == 0) {
        close(pair[0]);
        become_worker(k, parent, pair[1]);
    }
    close(pair[1]);
    close(k->next.device_fd);
    if (k->worker < 0) {
        close(pair[0]);
        return FAIL(SYSTEM);
    }
    k->worker_fd = pair[0];
    k->ready = k->disconnected = false;
    k->born = now();
    return OK;
}

/* Whatever a worker began with, it has now; the next one follows upon a death. */
static void on_ready(struct keeper *k)
{
    k->ready = true;
    close_sessions(&k->next);
    k->next = (struct worker_start){.awaiting_reset = true, .follows = true};
    endpoints_release_clients(&k->resources->options->endpoints, k->resources->listen_fds);
    if (k->told) return;
    k->told = true;
    char text[ID_TEXT_SIZE];
    id_format(&k->resources->options->id, text);
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

static void on_disconnected(struct keeper *k)
{
    k->disconnected = true;
    plan_attempt(k);
}

static void close_received(const struct keeper_message *message)
{
    for (size_t i = 0; i < message->session_count; i++)
        close(message->sessions[i].fd);
}

/* False once the worker has closed its end. */
static bool on_message(struct keeper *k)
{
    struct keeper_message message = {0};
    struct err result = keeper_receive(k->worker_fd, &message);
    if (!result.code && message.kind == KEEPER_GONE) return false;
    if (!result.code && message.kind == KEEPER_READY && !k->ready)
        on_ready(k);
    else if (!result.code && message.kind == KEEPER_HAND_OVER && k->ready)
        on_hand_over(k, &message);
    else if (!result.code && message.kind == KEEPER_DISCONNECTED && k->ready && !k->disconnected)
        on_disconnected(k);
    else {
        close_received(&message);
        log_line(LOG_LEVEL_ERROR, "the process that holds the enclave sent nonsense and is ended");
        kill(k->worker, SIGKILL);
        return false;
    }
    return true;
}

/* Returns the worker's status, as waitpid. */
static int watch(struct keeper *k)
{
    struct pollfd fds[] = {{.fd = k->worker_fd, .events = POLLIN}, {.fd = k->signal_fd, .events = POLLIN}};
    for (bool open = true; open;) {
        if (poll(fds, 2, k->disconnected ? time_left(k) : -1) < 0) continue;
        if (fds[1].revents) on_signal(k);
        if (fds[0].revents) open = on_message(k);
        if (open && k->disconnected && time_left(k) == 0) reconnect(k);
    }
    close(k->worker_fd);
    int status = 0;
    while (waitpid(k->worker, &status, 0) < 0 && errno == EINTR)
        ;
    k->worker = 0;
    return status;
}

/* A worker that served and died by a signal is replaced, unless that happens all the time. */
static bool may_follow(struct keeper *k, int status)
{
    log_line(LOG_LEVEL_ERROR, "the process that holds the enclave died by signal %d (%s)", WTERMSIG(status),
             strsignal(WTERMSIG(status)));
    if (!k->told || k->stopping) return false;
    if (now() - k->born > QUIET_SECONDS * 1000) k->deaths = 0;
    if (++k->deaths < DEATHS_MAX) return true;
    log_line(LOG_LEVEL_ERROR, "it died %d times in a row; nothing more is tried", k->deaths);
    return false;
}

/* True if the exit code of a worker asks for another one. */
static bool wants_another(const struct keeper *k, int code)
{
    return !k->stopping && (code == SERVICE_REBUILD || code == SERVICE_AGAIN);
}

static int exit_code(int code)
{
    return code == SERVICE_ENDED ? EXIT_SUCCESS : EXIT_FAILURE;
}

static void complain_about_spawn(const struct keeper *k, struct err why)
{
    bool refused = why.code == ERR_CPU_UNREACHABLE || why.code == ERR_SGX_DEVICE_DENIED;
    if (k->device_fds_used && k->device_fds_used == k->resources->device_fd_count && refused)
        log_line(LOG_LEVEL_ERROR,
                 "all %u connections to the device that were made at the start are used up, and this user may not make "
                 "another (%s): let it open %s, or start the instance again",
                 WORKER_DEVICE_STOCK, strerror(errno),
                 k->resources->device == DEVICE_SGX ? KERNEL_DEVICE_PATH : k->resources->options->cpu);
    else
        log_line(LOG_LEVEL_ERROR, "no process could be made for the enclave: %s (%s)", err_sentence(why),
                 strerror(errno));
}

static int keep(struct keeper *k)
{
    for (;;) {
        if (!await_daemon(k, &k->next.daemon_fd)) return EXIT_SUCCESS;
        struct err result = spawn(k);
        close(k->next.daemon_fd);
        if (result.code) {
            complain_about_spawn(k, result);
            return EXIT_FAILURE;
        }
        int status = watch(k);
        if (WIFEXITED(status) && !wants_another(k, WEXITSTATUS(status))) return exit_code(WEXITSTATUS(status));
        if (WIFSIGNALED(status) && !may_follow(k, status)) return EXIT_FAILURE;
        if (WIFEXITED(status) && WEXITSTATUS(status) == SERVICE_AGAIN && k->ready)
            k->next.awaiting_reset = false; /* its front-end knows what it has lost */
        plan_attempt(k);
    }
}

int keeper_run(struct worker_resources *resources)
{
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    struct keeper k = {
        .resources = resources,
        .worker_fd = -1,
        .next = {.awaiting_reset = resources->options->rebuilt, .incoming = resources->options->incoming}};
    k.signal_fd = signalfd(-1, &mask, SFD_CLOEXEC);
    if (k.signal_fd < 0) return EXIT_FAILURE;
    int code = keep(&k);
    close_sessions(&k.next);
    close(k.signal_fd);
    return code;
}
