#include "untrusted/instance/worker.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <systemd/sd-event.h>
#include <unistd.h>

#include "untrusted/host/log.h"
#include "untrusted/host/secret_memory.h"
#include "untrusted/instance/confine.h"
#include "untrusted/instance/keeper_wire.h"
#include "untrusted/instance/machine.h"
#include "untrusted/instance/service.h"
#include "untrusted/instance/start.h"
#include "untrusted/sgx/enclave.h"
#include "untrusted/sgx/software.h"

struct worker {
    const struct worker_resources *resources;
    const struct worker_start *start;
    int keeper_fd;
    struct secret_memory memory; /* call records, then the connections' buffers */
    struct enclave *enclave;
    struct device *device; /* the enclave's */
    struct machine machine;
    struct store *store;
    sd_event *event;
    struct service *service;
    struct front *front;
    struct instance_id id;
    char name[ID_TEXT_SIZE];
};

/* errno is part of the sentence only where the error is about the system. */
static struct err explain(const struct worker *w, const char *step, struct err result)
{
    bool system = result.code == ERR_STATE_IO || result.code == ERR_SYSTEM || result.code == ERR_SANDBOX;
    if (result.code)
        log_line(LOG_LEVEL_ERROR, "%s: %s: %s%s%s%s", w->name[0] ? w->name : "new instance", step, err_sentence(result),
                 system ? " (" : "", system ? strerror(errno) : "", system ? ")" : "");
    return result;
}

static struct err call_enclave(void *ctx, struct span input, uint8_t *output, size_t capacity, size_t *out_size)
{
    struct worker *w = ctx;
    return enclave_call(w->enclave, input, output, capacity, out_size);
}

static void enclave_fault_of(void *ctx, uint16_t *out_vector, uint64_t *out_address)
{
    const struct worker *w = ctx;
    enclave_fault(w->enclave, out_vector, out_address);
}

static struct err commit_to_store(void *ctx, struct span state)
{
    return store_commit(ctx, state);
}

static struct err load_enclave(struct worker *w)
{
    const struct options *options = w->resources->options;
    const struct software_options device_options = {
        .cpu_fd = w->start->cpu_fd, .image_fd = w->resources->image_fd, .ordinary_memory = options->ordinary_memory};
    struct device *device = NULL;
    TRY(software_device_open(&device_options, w->resources->image, &device));
    TRY(enclave_open(device, w->resources->image, &w->enclave));
    w->device = device;
    log_line(LOG_LEVEL_NOTICE, "device: %s, memory: %s, stack canary: %s; it %s", device->ops->name,
             software_device_memory(device), software_device_own_canary(device) ? "the enclave's own" : "the host's",
             options->ordinary_memory ? SOFTWARE_LIMITS_ORDINARY : device->ops->limits);
    return OK;
}

static struct err take_memory(struct worker *w)
{
    bool ordinary = w->resources->options->ordinary_memory;
    if (ordinary)
        log_line(LOG_LEVEL_WARNING,
                 "%s: --ordinary-memory: the secrets of this TPM are NOT protected from whoever may "
                 "read this machine's memory",
                 w->name[0] ? w->name : "new instance");
    TRY(secret_memory_open(MACHINE_MEMORY_SIZE + POOL_MEMORY_SIZE, ordinary, &w->memory));
    const struct machine_door door = {.ctx = w, .call = call_enclave};
    machine_init(&w->machine, &door, w->memory.data);
    return OK;
}

static struct err start_tpm(struct worker *w)
{
    struct err result;
    if (w->start->create) {
        result = start_create(&w->machine, w->resources->directory_fd, &w->id, &w->store);
        if (!result.code) id_format(&w->id, w->name);
    } else {
        w->id = w->start->id;
        result = start_open(&w->machine, w->resources->directory_fd, &w->id, &w->store);
    }
    return result;
}

static struct err open_front(struct worker *w)
{
    const struct options *options = w->resources->options;
    const struct front_owner owner = service_owner(w->service);
    TRY(front_open(w->event, &owner, (uint8_t *)w->memory.data + MACHINE_MEMORY_SIZE, &w->front));
    service_attach(w->service, w->front);
    for (size_t i = 0; i < options->endpoint_count; i++)
        TRY(front_listen(w->front, options->endpoints[i].protocol, options->endpoints[i].channel,
                         w->resources->listen_fds[i]));
    return OK;
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

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *ctx)
{
    (void)source, (void)info;
    struct worker *w = ctx;
    service_stop(w->service);
    return 0;
}

static struct err watch_signals(struct worker *w)
{
    ENSURE(sd_event_add_signal(w->event, NULL, SIGTERM, on_signal, w) >= 0, SYSTEM);
    ENSURE(sd_event_add_signal(w->event, NULL, SIGINT, on_signal, w) >= 0, SYSTEM);
    return OK;
}

/* Files first, as the committer's thread inherits that; then the thread; then no more threads. */
static struct err serve(struct worker *w)
{
    const struct service_options options = {
        .event = w->event,
        .instance = w->name,
        .machine = &w->machine,
        .target = {.instance = w->name, .ctx = w->store, .commit = commit_to_store},
        .commit_timeout_usec = w->resources->options->commit_timeout * UINT64_C(1000000),
        .awaiting_reset = w->start->awaiting_reset,
        .fault_ctx = w,
        .fault = enclave_fault_of,
    };
    TRY(confine_files(w->resources->directory_fd));
    TRY(service_open(&options, &w->service));
    TRY(open_front(w));
    TRY(watch_signals(w));
    TRY(confine_system_calls(store_creates_files(w->store)));
    malloc_trim(0); /* what making the filters took: the instance idles most of its life */
    TRY(keeper_send_ready(w->keeper_fd, &w->id));
    adopt_sessions(w);
    return OK;
}

static struct err begin(struct worker *w)
{
    ENSURE(sd_event_new(&w->event) >= 0, SYSTEM);
    TRY(explain(w, "its memory", take_memory(w)));
    TRY(explain(w, "loading the enclave", load_enclave(w)));
    TRY(explain(w, "starting the TPM", start_tpm(w)));
    software_device_release_processor(w->device); /* before a client's first byte: it has its key */
    return explain(w, "serving", serve(w));
}

static void hand_over(struct worker *w)
{
    struct front_session sessions[FRONT_CONNECTIONS_MAX];
    size_t count = front_hand_over(w->front, sessions);
    (void)explain(w, "handing the clients over", keeper_send_hand_over(w->keeper_fd, sessions, count));
}

static void end(struct worker *w)
{
    front_close(&w->front);
    service_close(&w->service);
    sd_event_unref(w->event);
    enclave_close(&w->enclave);
    store_close(&w->store);
    secret_memory_close(&w->memory);
}

int worker_run(const struct worker_resources *resources, const struct worker_start *start, int keeper_fd)
{
    struct worker w = {.resources = resources, .start = start, .keeper_fd = keeper_fd};
    mallopt(M_MMAP_THRESHOLD, 64 * 1024); /* a buffer for the largest state costs what the actual one touches */
    if (!start->create) id_format(&start->id, w.name);
    int code = SERVICE_FAILED;
    if (!begin(&w).code) code = sd_event_loop(w.event);
    if (code == SERVICE_REBUILD) hand_over(&w);
    end(&w);
    return code == SERVICE_ENDED || code == SERVICE_REBUILD ? code : SERVICE_FAILED;
}
