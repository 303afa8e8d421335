/* vtpm-cpu: the software device's processor. What it is and how it is started: docs/man/vtpm-cpu.8. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "base/memory.h"
#include "untrusted/cpu/sandbox.h"
#include "untrusted/cpu/secret.h"
#include "untrusted/cpu/server.h"
#include "untrusted/host/hygiene.h"
#include "untrusted/host/log.h"
#include "untrusted/host/secret_memory.h"
#include "untrusted/sgx/software.h"

#define LISTEN_BACKLOG 64

struct options {
    const char *listen_path;
    const char *secret;
    const char *user; /* NULL: stay who we are */
    bool create;
    bool ordinary_memory;
    bool help;
};

static const char usage[] = "usage: vtpm-cpu [--secret PLACE] [--listen PATH] [--user NAME] [--ordinary-memory]\n"
                            "       vtpm-cpu --init [--secret PLACE] [--ordinary-memory]\n"
                            "PLACE: file:PATH | credential:NAME | passphrase:FD,salt=PATH\n";

static struct err parse_options(int argc, char **argv, struct options *out)
{
    static const struct option names[] = {
        {"listen", required_argument, NULL, 'l'},
        {"secret", required_argument, NULL, 's'},
        {"user", required_argument, NULL, 'u'},
        {"init", no_argument, NULL, 'i'},
        {"help", no_argument, NULL, 'h'},
        {"ordinary-memory", no_argument, NULL, 'o'},
        {0},
    };
    *out = (struct options){.listen_path = CPU_SOCKET_DEFAULT, .secret = "file:" SECRET_FILE_DEFAULT};
    int option = 0;
    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        if (option == 'l')
            out->listen_path = optarg;
        else if (option == 's')
            out->secret = optarg;
        else if (option == 'u')
            out->user = optarg;
        else if (option == 'i')
            out->create = true;
        else if (option == 'o')
            out->ordinary_memory = true;
        else if (option == 'h')
            out->help = true;
        else
            return FAIL(USAGE);
    }
    ENSURE(optind == argc, USAGE);
    return OK;
}

/* A socket that nobody listens on is left from a process that was killed. */
static bool socket_is_stale(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0) return false;
    bool stale = connect(fd, (const struct sockaddr *)address, sizeof *address) != 0 && errno == ECONNREFUSED;
    close(fd);
    return stale;
}

static void close_fd(const int *fd)
{
    if (*fd >= 0) close(*fd);
}

static struct err listen_at(const char *path, int *out_fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    ENSURE(strlen(path) < sizeof address.sun_path, TOO_LARGE);
    memcpy(address.sun_path, path, strlen(path));
    int fd DEFER(close_fd) = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    ENSURE(fd >= 0, SYSTEM);
    mode_t old = umask(0117); /* the socket is 0660 from its first moment */
    int bound = bind(fd, (struct sockaddr *)&address, sizeof address);
    if (bound != 0 && errno == EADDRINUSE && socket_is_stale(&address) && unlink(path) == 0)
        bound = bind(fd, (struct sockaddr *)&address, sizeof address);
    umask(old);
    ENSURE(bound == 0 && listen(fd, LISTEN_BACKLOG) == 0, SYSTEM);
    *out_fd = fd;
    fd = -1;
    return OK;
}

static struct err open_listener(const char *path, int *out_fd)
{
    int count = sd_listen_fds(1);
    if (count <= 0) return listen_at(path, out_fd);
    ENSURE(count == 1 && sd_is_socket_unix(SD_LISTEN_FDS_START, SOCK_SEQPACKET, 1, NULL, 0) > 0, USAGE);
    int flags = fcntl(SD_LISTEN_FDS_START, F_GETFL);
    ENSURE(flags >= 0 && fcntl(SD_LISTEN_FDS_START, F_SETFL, flags | O_NONBLOCK) == 0, SYSTEM);
    *out_fd = SD_LISTEN_FDS_START;
    return OK;
}

static struct err become(const char *user)
{
    if (!user) return OK;
    const struct passwd *entry = getpwnam(user);
    if (!entry) log_line(LOG_LEVEL_ERROR, "--user %s: there is no such user", user);
    ENSURE(entry, USAGE);
    ENSURE(setgroups(0, NULL) == 0 && setresgid(entry->pw_gid, entry->pw_gid, entry->pw_gid) == 0, SANDBOX);
    ENSURE(setresuid(entry->pw_uid, entry->pw_uid, entry->pw_uid) == 0, SANDBOX);
    return OK;
}

/* RFC 4493, example 2. Besides the test: libcrypto has loaded whatever it loads when the sandbox closes. */
static struct err self_test(void)
{
    static const uint8_t key[16] = {0x2B, 0x7E, 0x15, 0x16, 0x28, 0xAE, 0xD2, 0xA6,
                                    0xAB, 0xF7, 0x15, 0x88, 0x09, 0xCF, 0x4F, 0x3C};
    static const uint8_t text[16] = {0x6B, 0xC1, 0xBE, 0xE2, 0x2E, 0x40, 0x9F, 0x96,
                                     0xE9, 0x3D, 0x7E, 0x11, 0x73, 0x93, 0x17, 0x2A};
    static const uint8_t expected[16] = {0x07, 0x0A, 0x16, 0xB4, 0x6B, 0x4D, 0x41, 0x44,
                                         0xF7, 0x9B, 0xDD, 0x9D, 0xD0, 0x4A, 0x28, 0x7C};
    uint8_t mac[16];
    TRY(processor_cmac(key, text, sizeof text, mac));
    ENSURE(ct_equal(mac, expected, sizeof mac), CRYPTO);
    return OK;
}

static struct err raise_descriptor_limit(void)
{
    struct rlimit limit;
    ENSURE(getrlimit(RLIMIT_NOFILE, &limit) == 0, SYSTEM);
    limit.rlim_cur = limit.rlim_max;
    ENSURE(setrlimit(RLIMIT_NOFILE, &limit) == 0, SYSTEM);
    return OK;
}

static struct err load_processor(const struct secret_place *place, struct server_secrets *secrets)
{
    uint8_t keyid[32];
    TRY(self_test());
    TRY(secret_load(place, secrets->device_secret));
    ENSURE(getrandom(keyid, sizeof keyid, 0) == sizeof keyid, SYSTEM);
    TRY(processor_start(&secrets->processor, secrets->device_secret, keyid));
    wipe(secrets->device_secret, sizeof secrets->device_secret);
    return OK;
}

static struct err serve(const struct options *options, const struct secret_place *place)
{
    struct secret_memory memory DEFER(secret_memory_close) = {0};
    struct server *server DEFER(server_close) = NULL;
    int listen_fd DEFER(close_fd) = -1;
    TRY(secret_memory_open(sizeof(struct server_secrets), options->ordinary_memory, &memory));
    TRY(load_processor(place, memory.data));
    TRY(raise_descriptor_limit());
    TRY(open_listener(options->listen_path, &listen_fd));
    TRY(become(options->user));
    TRY(hygiene_apply());
    TRY(server_open(listen_fd, memory.data, &server));
    listen_fd = -1;
    log_line(LOG_LEVEL_NOTICE, "software device: %s",
             options->ordinary_memory ? SOFTWARE_LIMITS_ORDINARY : SOFTWARE_LIMITS);
    log_line(LOG_LEVEL_NOTICE, "the device secret is %s", secret_meaning(place));
    if (options->ordinary_memory)
        log_line(LOG_LEVEL_WARNING,
                 "memory: ordinary. The device secret is NOT protected: every reader of this process's "
                 "memory has the keys of every enclave of this host");
    (void)sd_notify(1, "READY=1");
    TRY(sandbox_apply());
    return server_run(server);
}

static void explain(struct err error, const struct secret_place *place)
{
    log_line(LOG_LEVEL_ERROR, "%s", err_sentence(error));
    if (error.code == ERR_SECRET_MISSING && place->kind == SECRET_FILE)
        log_line(LOG_LEVEL_ERROR, "to make a new one: vtpm-cpu --init --secret file:%s", place->path);
    if (error.code == ERR_SECRET_UNUSABLE && place->kind == SECRET_FILE)
        log_line(LOG_LEVEL_ERROR,
                 "%s: nobody but the user who runs this may read it (a service's secret is made by its user: "
                 "runuser -u vtpm -- vtpm-cpu --init)",
                 place->path);
    if (error.code == ERR_SECRET_MISSING && place->kind == SECRET_PASSPHRASE)
        log_line(LOG_LEVEL_ERROR, "to make a new one: vtpm-cpu --init --secret passphrase:%d,salt=%s", place->fd,
                 place->path);
    if (error.code == ERR_SECRET_MISSING && place->kind == SECRET_CREDENTIAL)
        log_line(LOG_LEVEL_ERROR, "to make a new one: head -c 32 /dev/urandom | systemd-creds encrypt --name=%s - FILE",
                 place->path);
}

static void block_signals(void)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);
}

int main(int argc, char **argv)
{
    struct options options;
    struct secret_place place;
    log_open("vtpm-cpu");
    struct err result = hygiene_clean_environment(argv);
    if (!result.code) result = parse_options(argc, argv, &options);
    if (!result.code) result = secret_parse(options.secret, &place);
    if (result.code) {
        log_line(LOG_LEVEL_ERROR, "%s", err_sentence(result));
        fputs(usage, stderr);
        return 2;
    }
    if (options.help) return fputs(usage, stdout) < 0 || fflush(stdout) != 0;
    place.ordinary_memory = options.ordinary_memory;
    block_signals();
    result = options.create ? secret_create(&place) : serve(&options, &place);
    if (!result.code) return 0;
    explain(result, &place);
    return 1;
}
