#include "untrusted/front/connector.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "untrusted/front/remote.h"
#include "untrusted/host/log.h"
#include "untrusted/wire/pass.h"

#define PAUSE_MSEC 500 /* between two attempts at vtpmd */

struct connector {
    struct connector_paths paths;
    pid_t child;
    int child_fd;
    int signal_fd;
    bool told; /* the service manager and the script know that clients are served */
    bool wants_daemon;
    bool complained; /* about vtpmd being away */
};

static void connect_daemon(struct connector *c)
{
    int fd = -1;
    if (pass_connect(c->paths.daemon, &fd).code) {
        if (!c->complained)
            log_line(LOG_LEVEL_WARNING, "vtpmd at %s is not there (%s); this tries again until it is", c->paths.daemon,
                     strerror(errno));
        c->complained = true;
        return;
    }
    c->complained = c->wants_daemon = false;
    (void)pass_send(c->child_fd, REMOTE_DAEMON, fd).code; /* a child that is gone shows itself */
    close(fd);
}

static void connect_instance(const struct connector *c)
{
    int fd = -1;
    if (pass_connect(c->paths.instance, &fd).code)
        log_line(LOG_LEVEL_WARNING, "the instance at %s is not there: %s", c->paths.instance, strerror(errno));
    (void)pass_send(c->child_fd, REMOTE_INSTANCE, fd).code;
    if (fd >= 0) close(fd);
}

static void tell_ready(struct connector *c)
{
    c->told = true;
    printf("ready\n");
    fflush(stdout);
    (void)sd_notify(0, "READY=1");
}

/* False once the child has closed its end. */
static bool on_request(struct connector *c)
{
    uint8_t what = 0;
    int passed = -1;
    struct err result = pass_receive(c->child_fd, &what, &passed);
    if (result.code == ERR_PEER_CLOSED) return false;
    if (!result.code && passed < 0 && what == REMOTE_DAEMON) {
        c->wants_daemon = true;
        connect_daemon(c);
        return true;
    }
    if (!result.code && passed < 0 && what == REMOTE_INSTANCE) {
        connect_instance(c);
        return true;
    }
    if (!result.code && passed < 0 && what == REMOTE_READY && !c->told) {
        tell_ready(c);
        return true;
    }
    if (passed >= 0) close(passed);
    log_line(LOG_LEVEL_ERROR, "the process that serves the clients sent nonsense and is ended");
    kill(c->child, SIGKILL);
    return false;
}

static void on_signal(const struct connector *c)
{
    struct signalfd_siginfo info;
    if (read(c->signal_fd, &info, sizeof info) == (ssize_t)sizeof info) kill(c->child, SIGTERM);
}

static int serve(struct connector *c)
{
    struct pollfd fds[] = {{.fd = c->child_fd, .events = POLLIN}, {.fd = c->signal_fd, .events = POLLIN}};
    for (bool open = true; open;) {
        int count = poll(fds, 2, c->wants_daemon ? PAUSE_MSEC : -1);
        if (count == 0) connect_daemon(c);
        if (count <= 0) continue;
        if (fds[1].revents) on_signal(c);
        if (fds[0].revents) open = on_request(c);
    }
    int status = 0;
    while (waitpid(c->child, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFSIGNALED(status))
        log_line(LOG_LEVEL_ERROR, "the process that serves the clients died by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILURE;
}

int connector_run(const struct connector_paths *paths, int (*child)(void *ctx, int fd), void *ctx)
{
    struct connector c = {.paths = *paths};
    int pair[2];
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return EXIT_FAILURE;
    pid_t parent = getpid();
    c.child = fork();
    if (c.child == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(pair[0]);
        _exit(getppid() == parent ? child(ctx, pair[1]) : EXIT_FAILURE);
    }
    close(pair[1]);
    c.child_fd = pair[0];
    c.signal_fd = c.child > 0 ? signalfd(-1, &mask, SFD_CLOEXEC) : -1;
    if (c.signal_fd < 0) return EXIT_FAILURE; /* the child, if there is one, dies with this process */
    int code = serve(&c);
    close(c.child_fd);
    close(c.signal_fd);
    return code;
}
