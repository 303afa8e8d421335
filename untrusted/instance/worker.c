#include "untrusted/instance/worker.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <systemd/sd-event.h>
#include <unistd.h>

#include "untrusted/front/confine.h"
#include "untrusted/front/tunnel.h"
#include "untrusted/host/log.h"
#include "untrusted/host/secret_heap.h"
#include "untrusted/host/secret_memory.h"
#include "untrusted/instance/gate.h"
#include "untrusted/instance/keeper_wire.h"
#include "untrusted/instance/machine.h"
#include "untrusted/instance/service.h"
#include "untrusted/sgx/choice.h"
#include "untrusted/sgx/enclave.h"
#include "untrusted/wire/pass.h"

struct worker {
    const struct worker_resources *resources;
    const struct worker_start *start;
    int keeper_fd;
    uint8_t *calls;              /* MACHINE_MEMORY_SIZE bytes: all that crosses there is sealed */
    struct secret_memory memory; /* the tunnel, then the connections' buffers */
    struct crypto crypto;
    struct enclave *enclave;
    struct device *device; /* the enclave's */
    struct machine machine;
    sd_event *event;
    struct service *service;
    struct tunnel *tunnel; /* in memory; NULL with a separate front-end */
    struct front *front;   /* the same */
    struct gate *gate;     /* NULL without */
};

#define TUNNEL_ROOM ((sizeof(struct tunnel) + 63) / 64 * 64)

/* errno is part of the sentence only where the error is about the system. */
static struct err explain(const char *step, struct err result)
{
    bool system = result.code == ERR_SYSTEM || result.code == ERR_SANDBOX;
    if (result.code)
        log_line(LOG_LEVEL_ERROR, "%s: %s%s%s%s", step, err_sentence(result), system ? " (" : "",
                 system ? strerror(errno) : "", system ? ")" : "");
    return result;
}

/* --- the enclave --- */

static struct err call_enclave(void *ctx, struct span input, uint8_t *output, size_t capacity, size_t *out_size)
{
    struct worker *w = ctx;
    return enclave_call(w->enclave, input, output, capacity, out_size);
}

static struct err load_enclave(struct worker *w)
{
    const struct options *options = w->resources->options;
    const struct device_options device_options = {.kind = w->resources->device,
                                                  .device_fd = w->start->device_fd,
                                                  .image_fd = w->resources->image_fd,
                                                  .ordinary_memory = options->ordinary_memory};
    const struct machine_door door = {.ctx = w, .call = call_enclave};
    struct device *device = NULL;
    TRY(device_open(&device_options, w->resources->image, &device));
    TRY(enclave_open(device, w->resources->image, &w->enclave));
    w->device = device;
    log_line(LOG_LEVEL_NOTICE, "device: %s, memory: %s, stack canary: %s; it %s", device->ops->name, device->memory,
             device->own_canary ? "the enclave's own" : "the host's", device->limits);
    machine_init(&w->machine, &door, w->calls);
    return machine_start(&w->machine, &options->id);
}

static struct err take_memory(struct worker *w)
{
    bool ordinary = w->resources->options->ordinary_memory;
    if (ordinary)
        log_line(LOG_LEVEL_WARNING,
                 "--ordinary-memory: the secrets of this TPM are NOT protected from whoever may read this "
                 "machine's memory");
    void *calls = mmap(NULL, MACHINE_MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ENSURE(calls != MAP_FAILED, NO_MEMORY);
    w->calls = calls;
    if (w->resources->options->separate_front) return OK;
    TRY(secret_heap_open(ordinary)); /* for the keys of K2 */
    return secret_memory_open(TUNNEL_ROOM + POOL_MEMORY_SIZE, ordinary, &w->memory);
}

/* --- what the service wants of the process --- */

static void on_admitted(void *ctx)
{
    const struct worker *w = ctx;
    w->device->ops->release_processor(w->device); /* before a client's first byte */
}

static void on_disconnected(void *ctx)
{
    const struct worker *w = ctx;
    (void)explain("asking for another connection", keeper_send_disconnected(w->keeper_fd));
}

static void enclave_fault_of(void *ctx, uint16_t *out_vector, uint64_t *out_address)
{
    const struct worker *w = ctx;
    enclave_fault(w->enclave, out_vector, out_address);
}

/* --- a front-end in this process --- */

static struct err on_named(void *ctx, const struct link_told *told)
{
    struct worker *w = ctx;
    return tunnel_bind(w->tunnel, told);
}

static void on_record(void *ctx, struct span record)
{
    struct worker *w = ctx;
    tunnel_receive(w->tunnel, record);
}

static void on_failed(void *ctx, struct err why)
{
    struct worker *w = ctx;
    tunnel_fail(w->tunnel, why);
}

static void send_record(void *ctx, uint8_t verb, struct span record)
{
    struct worker *w = ctx;
    struct err result = service_record(w->service, verb, record);
    if (result.code) tunnel_fail(w->tunnel, result);
}

/* The clients of the worker before; the one that waits for its reset has it now. */
static void adopt_sessions(struct worker *w)
{
    bool waits = false;
    for (size_t i = 0; i < w->start->session_count; i++) {
        const struct front_session *session = &w->start->sessions[i];
        if (!front_adopt(w->front, session).code && session->waits) waits = true;
    }
    if (waits) front_done(w->front, OK, span_empty());
}

static void on_linked(void *ctx)
{
    struct worker *w = ctx;
    struct err result =
        explain("listening", endpoints_serve(&w->resources->options->endpoints, w->resources->listen_fds, w->front));
    if (!result.code) result = explain("telling its keeper", keeper_send_ready(w->keeper_fd));
    if (result.code) {
        (void)sd_event_exit(w->event, SERVICE_FAILED);
        return;
    }
    service_serving(w->service);
    adopt_sessions(w);
}

static void on_relink(void *ctx)
{
    struct worker *w = ctx;
    service_relink(w->service);
}

static void on_shutdown(void *ctx)
{
    struct worker *w = ctx;
    service_stop(w->service);
}

static struct err open_tunnel(struct worker *w)
{
    const struct tunnel_options options = {
        .crypto = &w->crypto,
        .transport = {w, send_record, on_linked, on_relink, on_shutdown},
        .instance = w->resources->options->id,
        .awaiting_reset = w->start->awaiting_reset,
        .incoming = w->start->incoming,
    };
    w->tunnel = w->memory.data;
    TRY(tunnel_open(&options, w->tunnel));
    const struct front_owner owner = tunnel_owner(w->tunnel);
    struct front_manners manners = w->resources->options->manners;
    TRY(front_open(w->event, &owner, (uint8_t *)w->memory.data + TUNNEL_ROOM, &w->front));
    if (w->start->follows) manners.starts_up = false; /* the machine does it when it has reset the TPM */
    if (w->start->incoming) manners.off = true;
    manners.of_12 = w->resources->options->endpoints.of_12;
    front_behave(w->front, &manners);
    tunnel_attach(w->tunnel, w->front);
    return OK;
}

/* --- the loop --- */

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *ctx)
{
    (void)source, (void)info;
    struct worker *w = ctx;
    service_stop(w->service);
    return 0;
}

static int on_keeper(sd_event_source *source, int fd, uint32_t events, void *ctx)
{
    (void)source, (void)events;
    struct worker *w = ctx;
    uint8_t what = 0;
    int passed = -1;
    if (pass_receive(fd, &what, &passed).code || what != KEEPER_DAEMON || passed < 0)
        (void)sd_event_exit(w->event, SERVICE_FAILED);
    else
        service_connect(w->service, passed);
    return 0;
}

static struct err watch(struct worker *w)
{
    ENSURE(sd_event_add_signal(w->event, NULL, SIGTERM, on_signal, w) >= 0, SYSTEM);
    ENSURE(sd_event_add_signal(w->event, NULL, SIGINT, on_signal, w) >= 0, SYSTEM);
    ENSURE(sd_event_add_io(w->event, NULL, w->keeper_fd, EPOLLIN, on_keeper, w) >= 0, SYSTEM);
    return OK;
}

static struct err open_service(struct worker *w)
{
    const struct options *options = w->resources->options;
    struct service_options service = {
        .event = w->event,
        .id = options->id,
        .machine = &w->machine,
        .host = {w, on_admitted, on_disconnected, enclave_fault_of},
        .front = {w, on_named, on_record, on_failed},
        .separate_front = options->separate_front,
        .commit_timeout_usec = options->commit_timeout * UINT64_C(1000000),
        .awaiting_reset = w->start->awaiting_reset,
        .incoming = w->start->incoming,
    };
    if (options->separate_front) {
        TRY(gate_open(w->event, w->resources->front_fd, &w->gate));
        service.front = gate_front(w->gate);
    } else {
        TRY(open_tunnel(w));
        memcpy(service.front_share, w->tunnel->own.public, sizeof service.front_share);
    }
    TRY(service_open(&service, &w->service));
    if (w->gate) gate_attach(w->gate, w->service);
    return OK;
}

/* A separate front-end shows itself when it likes: this end is ready then. */
static struct err serve(struct worker *w)
{
    TRY(open_service(w));
    TRY(watch(w));
    TRY(confine_files());
    TRY(confine_system_calls());
    malloc_trim(0); /* what making the filters took: the instance idles most of its life */
    if (w->gate) TRY(keeper_send_ready(w->keeper_fd));
    service_connect(w->service, w->start->daemon_fd);
    return OK;
}

static struct err begin(struct worker *w)
{
    ENSURE(sd_event_new(&w->event) >= 0, SYSTEM);
    TRY(explain("its memory", take_memory(w)));
    TRY(explain("libcrypto", crypto_init(&w->crypto)));
    TRY(explain("loading the enclave", load_enclave(w)));
    return explain("serving", serve(w));
}

static void hand_over(struct worker *w)
{
    struct front_session sessions[FRONT_CONNECTIONS_MAX];
    size_t count = front_hand_over(w->front, sessions);
    (void)explain("handing the clients over", keeper_send_hand_over(w->keeper_fd, sessions, count));
}

static void end(struct worker *w)
{
    front_close(&w->front);
    gate_close(&w->gate);
    service_close(&w->service);
    sd_event_unref(w->event);
    enclave_close(&w->enclave);
    if (w->tunnel) tunnel_close(w->tunnel);
    secret_memory_close(&w->memory);
}

int worker_run(const struct worker_resources *resources, const struct worker_start *start, int keeper_fd)
{
    struct worker w = {.resources = resources, .start = start, .keeper_fd = keeper_fd};
    mallopt(M_MMAP_THRESHOLD, 64 * 1024); /* a buffer for the largest state costs what the actual one touches */
    int code = SERVICE_FAILED;
    if (!begin(&w).code) code = sd_event_loop(w.event);
    if (code == SERVICE_REBUILD && w.front) hand_over(&w);
    end(&w);
    return code >= SERVICE_ENDED && code <= SERVICE_AGAIN ? code : SERVICE_FAILED;
}
