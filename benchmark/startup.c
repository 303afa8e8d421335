/*
 * The time from exec to the first TPM response: starts a program, connects to its socket as soon as it is there, sends
 * TPM2_Startup and prints the milliseconds until the response. Then it ends the program with SIGTERM and waits.
 *
 *     startup SOCKET PROGRAM ARGUMENT...
 *
 * The program's own output goes to stderr, so that stdout has the number alone.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "benchmark/commands.h"
#include "benchmark/target.h"

#define LOOK_AGAIN_NS 50000
#define GIVE_UP_MS    30000.0

static double now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static pid_t start(char **program)
{
    pid_t pid = fork();
    if (pid < 0) die("fork: %s", strerror(errno));
    if (pid > 0) return pid;
    dup2(STDERR_FILENO, STDOUT_FILENO);
    execvp(program[0], program);
    fprintf(stderr, "bench: %s: %s\n", program[0], strerror(errno));
    _exit(127);
}

static void wait_and_connect(struct target *target, const char *path, pid_t pid, double begin)
{
    while (!target_try_connect(target, "the program", path)) {
        if (waitpid(pid, NULL, WNOHANG) == pid) die("the program ended before its socket was there");
        if (now_ms() - begin > GIVE_UP_MS) die("the program's socket does not appear");
        nanosleep(&(struct timespec){.tv_nsec = LOOK_AGAIN_NS}, NULL);
    }
}

int main(int argc, char **argv)
{
    if (argc < 3) die("usage: startup SOCKET PROGRAM ARGUMENT...");
    unlink(argv[1]);
    uint8_t command[COMMAND_MAX];
    struct writer w = writer_of(command, sizeof(command));
    if (command_startup(&w).code) die("a command does not fit into its buffer");

    double begin = now_ms();
    pid_t pid = start(argv + 2);
    static struct target target;
    wait_and_connect(&target, argv[1], pid, begin);
    uint32_t status = target_exchange(&target, command, w.size);
    double took = now_ms() - begin;
    if (status != 0 && status != 0x100) die("%s: TPM2_Startup: response code 0x%03x", argv[2], status);

    printf("%.2f\n", took);
    target_close(&target);
    kill(pid, SIGTERM);
    waitpid(pid, NULL, 0);
    return 0;
}
