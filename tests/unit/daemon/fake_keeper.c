/*
 * A vtpm-instance that a test steers (host.h): it connects to vtpmd as itself, and gives the connection to the test,
 * over keeper.sock beside daemon.sock. One byte at a time it is told to connect again (c) or to end (x).
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "untrusted/wire/pass.h"

static const char *value_of(int argc, char **argv, const char *option)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], option) == 0) return i + 1 < argc ? argv[i + 1] : "";
    return NULL;
}

static int give(int line, const char *daemon, uint8_t what)
{
    int fd = -1;
    if (pass_connect(daemon, &fd).code) return 1;
    int code = pass_send(line, what, fd).code;
    close(fd);
    return code;
}

int main(int argc, char **argv)
{
    char path[128];
    int line = -1;
    const char *daemon = value_of(argc, argv, "--daemon");
    if (!daemon || snprintf(path, sizeof path, "%.*s/keeper.sock", (int)(strrchr(daemon, '/') - daemon), daemon) < 0)
        return 1;
    if (pass_connect(path, &line).code) return 1;
    if (give(line, daemon, value_of(argc, argv, "--rebuilt") ? 'r' : 'n')) return 1;
    for (;;) {
        struct pollfd wait = {.fd = line, .events = POLLIN};
        char byte = 0;
        if (poll(&wait, 1, 60000) <= 0 || read(line, &byte, 1) != 1) return 0;
        if (byte == 'x' || give(line, daemon, 'c')) return 0;
    }
}
