#include "tests/hostile/live.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "abi/manager.h"
#include "base/bytes.h"
#include "tests/fakes/fake_sgx.h"
#include "untrusted/sgx/cpu_client.h"
#include "untrusted/sgx/kernel.h"
#include "untrusted/sgx/software.h"

#define START_TRIES 500
#define START_PAUSE 10000 /* microseconds */

uint8_t live_input[CALL_INPUT_MAX] __attribute__((aligned(4096)));
uint8_t live_output[CALL_OUTPUT_MAX] __attribute__((aligned(4096)));
struct live live_of_group;
bool live_is_sgx;

static struct crypto crypto;

static void must(struct err err)
{
    assert_int_equal(err.code, ERR_NONE);
}

/* --- the processor and the images --- */

static const char *build_dir(void)
{
    const char *path = getenv("BUILD_DIR");
    assert_non_null(path);
    return path;
}

static pid_t run(char *const argv[])
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that died leaves none behind */
        execv(argv[0], argv);
        _exit(127);
    }
    return pid;
}

static void start_cpu(struct live *live)
{
    char program[512];
    char secret[128];
    snprintf(program, sizeof program, "%s/bin/vtpm-cpu", build_dir());
    snprintf(secret, sizeof secret, "file:%s", live->secret);
    char *init[] = {program, "--init", "--secret", secret, NULL};
    int status = 0;
    assert_int_equal(waitpid(run(init), &status, 0) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0, 1);
    char *serve[] = {program, "--listen", live->socket, "--secret", secret, NULL};
    live->cpu = run(serve);
}

static void load_image(int cpu, const char *name, struct live_program *out)
{
    char path[512];
    struct stat status;
    snprintf(path, sizeof path, "%s/enclave/%s.sgx", build_dir(), name);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(file >= 0);
    must(cpu_image(cpu, file, &out->image_fd));
    close(file);
    assert_int_equal(fstat(out->image_fd, &status), 0);
    void *map = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, out->image_fd, 0);
    assert_true(map != MAP_FAILED);
    must(image_parse(span_of(map, (size_t)status.st_size), &out->image));
    for (uint32_t i = 0; i < out->image.segment_count; i++) {
        if ((out->image.segments[i].secinfo_flags & SGX_SECINFO_TYPE_MASK) == SGX_SECINFO_TCS)
            out->tcs_offset = out->image.segments[i].offset;
    }
}

static int connect_cpu(const struct live *live)
{
    int cpu = -1;
    struct err err = FAIL(CPU_UNREACHABLE);
    for (int i = 0; i < START_TRIES && err.code; i++) {
        err = cpu_connect(live->socket, &cpu);
        if (err.code) usleep(START_PAUSE);
    }
    must(err);
    return cpu;
}

static void connect_kernel(void *fd)
{
    must(kernel_connect(fd));
}

static void open_device(const struct live *live, struct live_program *program)
{
    if (!live_is_sgx) {
        struct software_options options = {.cpu_fd = connect_cpu(live), .image_fd = program->image_fd};
        must(software_device_open(&options, &program->image, &program->device));
        return;
    }
    int fd = -1;
    fake_sgx_run_on(live->socket, false);
    fake_sgx_watched(connect_kernel, &fd);
    must(kernel_device_open(fd, &program->image, &program->device));
    fake_sgx_watch(program->device);
}

static void open_program(const struct live *live, const char *name, struct live_program *program)
{
    if (program->image_fd == 0) {
        int cpu = connect_cpu(live);
        load_image(cpu, name, program);
        close(cpu);
    }
    open_device(live, program);
    must(enclave_open(program->device, &program->image, &program->enclave));
}

static void close_program(struct live_program *program)
{
    enclave_close(&program->enclave);
    munmap((void *)(uintptr_t)program->image.file.data, program->image.file.size);
    close(program->image_fd);
}

/* --- calls and effects --- */

static size_t write_record(uint32_t number, const struct span *parts, size_t count)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    size_t body_size = 0;
    for (size_t i = 0; i < count; i++)
        body_size += parts[i].size;
    struct writer w = writer_of(live_input, sizeof live_input);
    must(write_u32(&w, number));
    must(write_u32(&w, (uint32_t)body_size));
    must(write_u64(&w, (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec));
    for (size_t i = 0; i < count; i++)
        must(write_span(&w, parts[i]));
    return w.size;
}

size_t live_record(uint32_t number, const void *body, size_t body_size)
{
    const struct span part = span_of(body, body_size);
    return write_record(number, &part, 1);
}

static struct reader effects_in(const uint8_t *output)
{
    struct reader r = reader_of(span_of(output, CALL_OUTPUT_MAX));
    uint32_t code = 1;
    uint32_t body = 0;
    must(read_u32(&r, &code));
    must(read_u32(&r, &body));
    assert_int_equal(code, 0);
    r.left = body;
    return r;
}

static bool next_effect(struct reader *r, uint32_t *out_kind, struct span *out)
{
    uint32_t size = 0;
    if (r->left == 0) return false;
    must(read_u32(r, out_kind));
    must(read_u32(r, &size));
    must(read_span(r, (size + 7) / 8 * 8, out));
    out->size = size;
    return true;
}

const uint8_t *live_effect(uint32_t kind, size_t *out_size)
{
    struct reader r = effects_in(live_output);
    uint32_t found = 0;
    struct span effect;
    while (next_effect(&r, &found, &effect)) {
        if (found != kind) continue;
        *out_size = effect.size;
        return effect.data;
    }
    return NULL;
}

static void call(const struct live_program *program, uint32_t number, const struct span *parts, size_t count)
{
    size_t written = 0;
    size_t size = write_record(number, parts, count);
    must(enclave_call(program->enclave, span_of(live_input, size), live_output, sizeof live_output, &written));
}

/* --- vtpmd: what the manager wants --- */

static void deliver(struct live *live, bool from_manager);

static void call_manager(struct live *live, uint32_t number, const struct span *parts, size_t count)
{
    call(&live->manager, number, parts, count);
    deliver(live, true);
}

static void call_instance(struct live *live, uint32_t number, struct span body)
{
    call(&live->instance, number, &body, 1);
    deliver(live, false);
}

/* The binding of K2, as STARTED says it. */
static void open_k2(struct live *live, struct reader *r)
{
    struct link_binding binding = {0};
    uint8_t kind = 0, share[X25519_SIZE];
    struct span reserved;
    must(read_bytes(r, binding.instance.bytes, INSTANCE_ID_SIZE));
    must(read_u64(r, &binding.epoch));
    must(read_u64(r, &binding.start));
    must(read_u8(r, &kind));
    must(read_span(r, 7, &reserved));
    must(read_bytes(r, share, sizeof share));
    must(read_bytes(r, binding.manager, sizeof binding.manager));
    must(read_bytes(r, binding.program, sizeof binding.program));
    binding.kind = (enum link_kind)kind;
    const struct link_keys keys = {.own = &live->key, .peer = share};
    link_close(&live->k2);
    must(link_open(&crypto, LINK_HOST, &binding, &keys, &live->k2));
    live->started = true;
}

/* Of an enclave that was declared dead and is closed; the one that is there now is not refused. */
static void check_refusal(const struct live *live, struct reader *r, uint16_t code)
{
    uint64_t channel = 0;
    must(read_u64(r, &channel));
    assert_true(channel != live->channel);
    assert_int_equal(code, ERR_FENCED);
}

/* One record of K1: FINISH, an answer, or an event. */
static void hear_k1(struct live *live, struct span record)
{
    static uint8_t plaintext[RECORD_MAX];
    enum link_event event;
    size_t size = 0;
    must(link_receive(&live->k1, record, &event, plaintext, &size));
    if (event != LINK_DATA) return;
    struct reader r = reader_of(span_of(plaintext, size));
    uint16_t verb = 0, code = 0;
    struct span head;
    must(read_u16(&r, &verb));
    must(read_u16(&r, &code));
    must(read_span(&r, MANAGER_K1_HEADER_SIZE - 4, &head));
    if (verb == MANAGER_REFUSED) {
        check_refusal(live, &r, code);
        return;
    }
    assert_int_equal(code, ERR_NONE);
    if (verb == MANAGER_CREATE) {
        struct span slot_and_flags;
        must(read_span(&r, 8, &slot_and_flags));
        must(read_bytes(&r, live->id.bytes, INSTANCE_ID_SIZE));
    }
    if (verb == MANAGER_STARTED) open_k2(live, &r);
}

static void on_link(struct live *live, struct span effect)
{
    struct link_binding binding = {.kind = LINK_K1};
    assert_int_equal(effect.size, X25519_SIZE + SGX_HASH_SIZE);
    memcpy(binding.manager, effect.data + X25519_SIZE, sizeof binding.manager);
    const struct link_keys keys = {.own = &live->key, .peer = effect.data};
    must(link_open(&crypto, LINK_HOST, &binding, &keys, &live->k1));
}

static void on_send(struct live *live, struct span effect)
{
    uint64_t channel = 0;
    struct reader r = reader_of(effect);
    must(read_u64(&r, &channel));
    if (channel == live->channel) call_instance(live, INSTANCE_PEER, span_of(r.next, r.left));
}

static void on_state(struct live *live, struct span effect)
{
    uint64_t version = 0;
    struct reader r = reader_of(effect);
    struct span channel_and_id;
    must(read_span(&r, sizeof(uint64_t) + INSTANCE_ID_SIZE, &channel_and_id));
    must(read_u64(&r, &version));
    assert_true(version == 0 || version == live->version);
    call_instance(live, INSTANCE_LOAD, span_of(live->state, version ? live->state_size : 0));
}

/* An anchor of kind file that nobody else moves. */
static void on_anchor(struct live *live, struct span effect)
{
    struct reader r = reader_of(effect);
    struct span number, kind;
    uint64_t verb = 0;
    must(read_span(&r, sizeof(uint64_t), &number));
    must(read_span(&r, sizeof(uint64_t), &kind));
    must(read_u64(&r, &verb)); /* u8, u8[7] 0 */
    assert_int_equal(kind.data[0], ANCHOR_FILE);
    if (verb == ANCHOR_FILE_MOVE) memcpy(live->anchor, r.next + ANCHOR_VALUE_SIZE, sizeof live->anchor);
    const struct span parts[] = {number, span_of(live->anchor, sizeof live->anchor)};
    call_manager(live, MANAGER_ANCHORED, parts, 2);
}

static void on_manager_effect(struct live *live, uint32_t kind, struct span effect)
{
    switch (kind) {
    case MANAGER_EFFECT_LINK:
        on_link(live, effect);
        break;
    case MANAGER_EFFECT_RECORD:
        hear_k1(live, effect);
        break;
    case MANAGER_EFFECT_CREATE_ENCLAVE: /* it is there already */
    case MANAGER_EFFECT_CLOSE:          /* said on K1 too */
        break;
    case MANAGER_EFFECT_SEND:
        on_send(live, effect);
        break;
    case MANAGER_EFFECT_STATE:
        on_state(live, effect);
        break;
    case MANAGER_EFFECT_STORE: /* durable at once: a host without a disk */
        break;
    case MANAGER_EFFECT_ANCHOR:
        on_anchor(live, effect);
        break;
    default:
        fail_msg("effect %u of the manager", kind);
    }
}

/* --- worker and front-end: what the instance wants --- */

static void keep_state(struct live *live, struct span effect)
{
    struct reader r = reader_of(effect);
    must(read_u64(&r, &live->version));
    live->state_size = r.left;
    must(read_bytes(&r, live->state, r.left));
}

static void on_instance_effect(struct live *live, uint32_t kind, struct span effect)
{
    uint8_t channel[sizeof(uint64_t)];
    struct writer w = writer_of(channel, sizeof channel);
    switch (kind) {
    case INSTANCE_EFFECT_STORE:
        keep_state(live, effect);
        break;
    case INSTANCE_EFFECT_RECORD:
        assert_true(effect.size <= sizeof live->record);
        memcpy(live->record, effect.data, effect.size);
        live->record_size = effect.size;
        break;
    case INSTANCE_EFFECT_PEER:
        must(write_u64(&w, live->channel));
        call_manager(live, MANAGER_PEER, (const struct span[]){writer_span(&w), effect}, 2);
        break;
    case INSTANCE_EFFECT_HEALTH: /* of no interest here */
        break;
    default:
        fail_msg("effect %u of the instance", kind);
    }
}

/* An effect that waits for its turn. */
struct pending {
    struct pending *next;
    bool from_manager;
    uint32_t kind;
    size_t size;
    uint8_t bytes[];
};

static struct pending *first, **last = &first;
static bool delivering;

static void enqueue(bool from_manager, uint32_t kind, struct span effect)
{
    struct pending *pending = malloc(sizeof *pending + effect.size);
    assert_non_null(pending);
    *pending = (struct pending){.from_manager = from_manager, .kind = kind, .size = effect.size};
    if (effect.size) memcpy(pending->bytes, effect.data, effect.size);
    *last = pending;
    last = &pending->next;
}

/* Effects lead to calls with effects of their own, which come behind all that was there before: records have an order.
 */
static void deliver(struct live *live, bool from_manager)
{
    struct reader r = effects_in(live_output);
    uint32_t kind = 0;
    struct span effect;
    while (next_effect(&r, &kind, &effect))
        enqueue(from_manager, kind, effect);
    if (delivering) return;
    delivering = true;
    while (first) {
        struct pending *pending = first;
        if (pending->from_manager)
            on_manager_effect(live, pending->kind, span_of(pending->bytes, pending->size));
        else
            on_instance_effect(live, pending->kind, span_of(pending->bytes, pending->size));
        first = pending->next;
        if (!first) last = &first;
        free(pending);
    }
    delivering = false;
}

void live_deliver(struct live *live)
{
    deliver(live, false);
}

/* --- from nothing to a running TPM --- */

static void ask(struct live *live, enum manager_verb verb, const struct span *parts, size_t count)
{
    uint8_t bytes[512], record[512 + RECORD_OVERHEAD];
    struct writer message = writer_of(bytes, sizeof bytes);
    struct writer w = writer_of(record, sizeof record);
    must(write_u16(&message, (uint16_t)verb));
    must(write_u16(&message, 0));
    must(write_u32(&message, 0));
    must(write_u64(&message, ++live->request));
    for (size_t i = 0; i < count; i++)
        must(write_span(&message, parts[i]));
    must(link_send(&live->k1, writer_span(&message), &w));
    const struct span whole = writer_span(&w);
    call_manager(live, MANAGER_RECORD, &whole, 1);
}

static void start_manager(struct live *live)
{
    static const uint8_t zeros[CAPABILITY_HINTS_SIZE];
    uint8_t mode[4], entropy[HOST_ENTROPY_SIZE], finish[RECORD_OVERHEAD + SHA256_SIZE],
        label[MANAGER_LABEL_SIZE] = "live";
    static const uint8_t keys[72] = {[64] = MANAGER_ORIGIN_HERE, [65] = PEER_LOCKOUT_TIME}; /* and what follows them */
    static const uint8_t anchor[20] = {ANCHOR_FILE};                                        /* and no recovery keys */
    struct writer m = writer_of(mode, sizeof mode);
    struct writer w = writer_of(finish, sizeof finish);
    must(write_u32(&m, MANAGER_START_NEW));
    assert_int_equal(getrandom(entropy, sizeof entropy, 0), sizeof entropy);
    must(x25519_generate(&crypto, &live->key));
    const struct span start[] = {writer_span(&m), span_of(zeros, sizeof zeros), span_of(entropy, sizeof entropy),
                                 span_of(live->key.public, X25519_SIZE), span_of(anchor, sizeof anchor)};
    call_manager(live, MANAGER_START, start, 5);
    must(link_finish(&live->k1, &w));
    const struct span record = writer_span(&w);
    call_manager(live, MANAGER_RECORD, &record, 1);
    ask(live, MANAGER_CREATE, (const struct span[]){span_of(label, sizeof label), span_of(keys, sizeof keys)}, 2);
}

void live_reload(struct live *live)
{
    enclave_close(&live->instance.enclave);
    open_program(live, "instance", &live->instance);
}

void live_open(struct live *live)
{
    memset(live, 0, sizeof *live);
    snprintf(live->directory, sizeof live->directory, "/tmp/vtpm-live-XXXXXX");
    assert_non_null(mkdtemp(live->directory));
    snprintf(live->socket, sizeof live->socket, "%s/cpu", live->directory);
    snprintf(live->secret, sizeof live->secret, "%s/secret", live->directory);
    if (!crypto.sha256) must(crypto_init(&crypto));
    start_cpu(live);
    open_program(live, "manager", &live->manager);
    start_manager(live);
    live_reload(live);
}

void live_close(struct live *live)
{
    link_close(&live->k1);
    link_close(&live->k2);
    close_program(&live->instance);
    close_program(&live->manager);
    kill(live->cpu, SIGTERM);
    waitpid(live->cpu, NULL, 0);
    unlink(live->socket);
    unlink(live->secret);
    rmdir(live->directory);
}

void live_greet(struct live *live)
{
    uint8_t body[INSTANCE_START_SIZE] = {0};
    assert_int_equal(getrandom(body + CAPABILITY_HINTS_SIZE, HOST_ENTROPY_SIZE, 0), HOST_ENTROPY_SIZE);
    memcpy(body + CAPABILITY_HINTS_SIZE + HOST_ENTROPY_SIZE, live->id.bytes, INSTANCE_ID_SIZE);
    call_instance(live, INSTANCE_START, span_of(body, sizeof body));
}

static void finish_k2(struct live *live)
{
    uint8_t finish[RECORD_OVERHEAD + SHA256_SIZE], plaintext[SHA256_SIZE];
    struct writer w = writer_of(finish, sizeof finish);
    enum link_event event;
    size_t size = 0;
    must(link_finish(&live->k2, &w));
    call_instance(live, INSTANCE_RECORD, writer_span(&w));
    must(link_receive(&live->k2, span_of(live->record, live->record_size), &event, plaintext, &size));
    assert_int_equal(event, LINK_FINISHED);
}

void live_start(struct live *live)
{
    const struct span id = span_of(live->id.bytes, INSTANCE_ID_SIZE);
    uint8_t channel[sizeof(uint64_t)];
    struct writer w = writer_of(channel, sizeof channel);
    live->channel++;
    if (live->held) ask(live, MANAGER_DECLARE_DEAD, &id, 1);
    must(x25519_generate(&crypto, &live->key));
    live_greet(live);
    ask(live, MANAGER_START_INSTANCE, &id, 1);
    live->held = true;
    live->started = false;
    must(write_u64(&w, live->channel));
    ask(live, MANAGER_ATTACH, (const struct span[]){id, writer_span(&w), span_of(live->key.public, X25519_SIZE)}, 3);
    assert_true(live->started);
    finish_k2(live);
}

/* --- TPM commands --- */

size_t live_request(struct live *live, const void *command, size_t size)
{
    uint8_t bytes[K2_MESSAGE_MAX], record[RECORD_OVERHEAD + K2_MESSAGE_MAX];
    struct writer message = writer_of(bytes, sizeof bytes);
    struct writer w = writer_of(record, sizeof record);
    must(write_u8(&message, K2_COMMAND));
    must(write_u8(&message, 0));
    must(write_u16(&message, 0));
    must(write_bytes(&message, command, size));
    must(link_send(&live->k2, writer_span(&message), &w));
    live->record_size = 0;
    return live_record(INSTANCE_RECORD, record, w.size);
}

size_t live_response(struct live *live, uint8_t reply[TPM_BUFFER_MAX])
{
    uint8_t plaintext[RECORD_OVERHEAD + K2_MESSAGE_MAX];
    enum link_event event;
    size_t size = 0;
    uint16_t code = 1, zero = 1;
    assert_true(live->record_size > 0);
    must(link_receive(&live->k2, span_of(live->record, live->record_size), &event, plaintext, &size));
    assert_int_equal(event, LINK_DATA);
    struct reader r = reader_of(span_of(plaintext, size));
    must(read_u16(&r, &code));
    must(read_u16(&r, &zero));
    assert_int_equal(code | zero, 0);
    size = r.left;
    must(read_bytes(&r, reply, size));
    return size;
}

size_t live_tpm(struct live *live, const void *command, size_t size, uint8_t reply[TPM_BUFFER_MAX])
{
    size_t written = 0;
    size_t record = live_request(live, command, size);
    must(enclave_call(live->instance.enclave, span_of(live_input, record), live_output, sizeof live_output, &written));
    live_deliver(live);
    return live_response(live, reply);
}

void live_startup(struct live *live)
{
    static const uint8_t startup[] = {0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x44, 0, 0};
    uint8_t reply[TPM_BUFFER_MAX];
    size_t size = live_tpm(live, startup, sizeof startup, reply);
    assert_int_equal(size, 10);
    assert_memory_equal(reply + 6, "\0\0\0\0", 4);
}

int live_set_up(void **state)
{
    (void)state;
    live_open(&live_of_group);
    live_start(&live_of_group);
    live_startup(&live_of_group);
    return 0;
}

int live_tear_down(void **state)
{
    (void)state;
    live_close(&live_of_group);
    return 0;
}
