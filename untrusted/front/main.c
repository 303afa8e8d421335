/*
 * vtpm-front: serves the clients of a TPM whose enclave is in another process; the bytes between are K2's.
 *
 * What has to be opened is opened here; then the connector makes the process that serves, which confines itself before
 * it reads the first byte of anybody.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <systemd/sd-event.h>
#include <unistd.h>

#include "base/memory.h"
#include "untrusted/front/confine.h"
#include "untrusted/front/connector.h"
#include "untrusted/front/front_options.h"
#include "untrusted/front/remote.h"
#include "untrusted/host/hygiene.h"
#include "untrusted/host/log.h"
#include "untrusted/host/secret_heap.h"
#include "untrusted/host/secret_memory.h"
#include "untrusted/wire/pass.h"

struct serving {
    const struct front_options *options;
    int listen_fds[FRONT_ENDPOINTS_MAX];
    int connector_fd;
    struct secret_memory memory; /* the key, the tunnel, then the connections' buffers */
    struct crypto crypto;
    sd_event *event;
    struct tunnel *tunnel; /* in memory */
    struct remote *remote;
    struct front *front;
    bool listening;
};

#define KEY_ROOM    64u
#define TUNNEL_ROOM ((sizeof(struct tunnel) + 63) / 64 * 64)

static struct err complain(const char *what, struct err result)
{
    bool system = result.code == ERR_SYSTEM || result.code == ERR_SANDBOX;
    if (result.code)
        log_line(LOG_LEVEL_ERROR, "%s: %s%s%s%s", what, err_sentence(result), system ? " (" : "",
                 system ? strerror(errno) : "", system ? ")" : "");
    return result;
}

/* --- the enrolled key --- */

static void close_file(FILE **file)
{
    if (*file) fclose(*file);
}

static void free_key(EVP_PKEY **key)
{
    EVP_PKEY_free(*key);
}

/* The file's text passes through libcrypto's memory, which is wiped as it is given back. */
static struct err read_key(const char *path, uint8_t out_private[X25519_SIZE])
{
    size_t size = X25519_SIZE;
    FILE *file DEFER(close_file) = fopen(path, "re");
    ENSURE(file, SYSTEM);
    setvbuf(file, NULL, _IONBF, 0);
    EVP_PKEY *key DEFER(free_key) = PEM_read_PrivateKey(file, NULL, NULL, NULL);
    ENSURE(key && EVP_PKEY_get_base_id(key) == EVP_PKEY_X25519, SECRET_UNUSABLE);
    ENSURE(EVP_PKEY_get_raw_private_key(key, out_private, &size) == 1 && size == X25519_SIZE, SECRET_UNUSABLE);
    return OK;
}

static struct err load_key(struct serving *s)
{
    struct err result = read_key(s->options->key, s->memory.data);
    if (result.code == ERR_SECRET_UNUSABLE)
        log_line(LOG_LEVEL_ERROR, "--key %s: this is no X25519 private key in PEM (openssl genpkey -algorithm X25519)",
                 s->options->key);
    else
        (void)complain(s->options->key, result);
    return result;
}

/* --- the process that serves --- */

static void want(void *ctx, enum remote_peer peer)
{
    struct serving *s = ctx;
    if (complain("asking for a connection", pass_send(s->connector_fd, (uint8_t)peer, -1)).code)
        (void)sd_event_exit(s->event, EXIT_FAILURE);
}

/* Clients are accepted from the first link on, and stay when it is lost. */
static void on_linked(void *ctx)
{
    struct serving *s = ctx;
    if (s->listening) {
        log_line(LOG_LEVEL_NOTICE, "there is a new enclave; the TPM works again once the machine is reset");
        return;
    }
    s->listening = true;
    if (complain("listening", endpoints_serve(&s->options->endpoints, s->listen_fds, s->front)).code) {
        (void)sd_event_exit(s->event, EXIT_FAILURE);
        return;
    }
    (void)pass_send(s->connector_fd, REMOTE_READY, -1).code;
}

static int on_passed(sd_event_source *source, int fd, uint32_t events, void *ctx)
{
    (void)source, (void)events;
    struct serving *s = ctx;
    uint8_t what = 0;
    int passed = -1;
    struct err result = pass_receive(fd, &what, &passed);
    if (result.code || (what != REMOTE_DAEMON && what != REMOTE_INSTANCE) || (what == REMOTE_DAEMON && passed < 0))
        (void)sd_event_exit(s->event, EXIT_FAILURE);
    else
        remote_connected(s->remote, (enum remote_peer)what, passed);
    return 0;
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *ctx)
{
    (void)source, (void)info;
    struct serving *s = ctx;
    (void)sd_event_exit(s->event, EXIT_SUCCESS);
    return 0;
}

static struct err open_front(struct serving *s)
{
    uint8_t *memory = s->memory.data;
    const struct remote_options remote = {.event = s->event,
                                          .id = s->options->id,
                                          .tunnel = (struct tunnel *)(memory + KEY_ROOM),
                                          .ctx = s,
                                          .want = want,
                                          .linked = on_linked};
    s->tunnel = remote.tunnel;
    TRY(remote_open(&remote, &s->remote));
    const struct tunnel_options tunnel = {.crypto = &s->crypto,
                                          .transport = remote_transport(s->remote),
                                          .instance = s->options->id,
                                          .enrolled = s->options->key ? memory : NULL};
    TRY(tunnel_open(&tunnel, s->tunnel));
    wipe(memory, KEY_ROOM);
    const struct front_owner owner = tunnel_owner(s->tunnel);
    TRY(front_open(s->event, &owner, memory + KEY_ROOM + TUNNEL_ROOM, &s->front));
    tunnel_attach(s->tunnel, s->front);
    return OK;
}

static struct err watch(struct serving *s)
{
    ENSURE(sd_event_add_signal(s->event, NULL, SIGTERM, on_signal, s) >= 0, SYSTEM);
    ENSURE(sd_event_add_signal(s->event, NULL, SIGINT, on_signal, s) >= 0, SYSTEM);
    ENSURE(sd_event_add_io(s->event, NULL, s->connector_fd, EPOLLIN, on_passed, s) >= 0, SYSTEM);
    return OK;
}

static struct err begin(struct serving *s)
{
    const bool ordinary = s->options->ordinary_memory;
    if (ordinary)
        log_line(LOG_LEVEL_WARNING, "--ordinary-memory: commands and responses are NOT protected from whoever may read "
                                    "this machine's memory");
    ENSURE(sd_event_new(&s->event) >= 0, SYSTEM);
    TRY(complain("memory", secret_heap_open(ordinary)));
    TRY(complain("libcrypto", crypto_init(&s->crypto)));
    TRY(complain("memory", secret_memory_open(KEY_ROOM + TUNNEL_ROOM + POOL_MEMORY_SIZE, ordinary, &s->memory)));
    if (s->options->key) TRY(load_key(s));
    TRY(complain("the front", open_front(s)));
    TRY(complain("the event loop", watch(s)));
    TRY(complain("files", confine_files()));
    TRY(complain("system calls", confine_system_calls()));
    remote_begin(s->remote);
    return OK;
}

static int serve(void *ctx, int connector_fd)
{
    struct serving *s = ctx;
    s->connector_fd = connector_fd;
    int code = begin(s).code ? EXIT_FAILURE : sd_event_loop(s->event);
    front_close(&s->front);
    remote_close(&s->remote);
    if (s->tunnel) tunnel_close(s->tunnel);
    sd_event_unref(s->event);
    secret_memory_close(&s->memory);
    return code < 0 ? EXIT_FAILURE : code;
}

/* --- the program --- */

static void block_signals(void)
{
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static int run(const struct front_options *options)
{
    static struct serving serving;
    static char id[ID_TEXT_SIZE];
    const struct connector_paths paths = {options->daemon, options->instance};
    id_format(&options->id, id);
    log_about(id);
    serving.options = options;
    block_signals();
    if (endpoints_listen(&options->endpoints, geteuid(), getegid(), serving.listen_fds).code) return EXIT_FAILURE;
    if (complain("limits", confine_limits()).code) return EXIT_FAILURE;
    if (complain("hygiene", hygiene_apply()).code) return EXIT_FAILURE;
    int code = connector_run(&paths, serve, &serving);
    endpoints_remove(&options->endpoints);
    return code;
}

int main(int argc, char **argv)
{
    static struct front_options options;
    enum command_action action = COMMAND_RUN;
    log_open("vtpm-front");
    if (hygiene_clean_environment(argv).code) return EXIT_FAILURE;
    if (front_options_parse(argc, argv, &action, &options).code) return EXIT_FAILURE;
    if (action == COMMAND_RUN) return run(&options);
    if (action == COMMAND_HELP)
        fputs(front_options_help, stdout);
    else
        puts("vtpm-front " VTPM_VERSION);
    return EXIT_SUCCESS;
}
