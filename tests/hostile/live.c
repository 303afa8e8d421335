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
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "untrusted/sgx/cpu_client.h"
#include "untrusted/sgx/software.h"

#define START_TRIES 500
#define START_PAUSE 10000 /* microseconds */

uint8_t live_input[CALL_INPUT_MAX] __attribute__((aligned(4096)));
uint8_t live_output[CALL_OUTPUT_MAX] __attribute__((aligned(4096)));

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

void live_reload(struct live *live)
{
    enclave_close(&live->enclave);
    int cpu = -1;
    struct err err = FAIL(CPU_UNREACHABLE);
    for (int i = 0; i < START_TRIES && err.code; i++) {
        err = cpu_connect(live->socket, &cpu);
        if (err.code) usleep(START_PAUSE);
    }
    assert_int_equal(err.code, 0);
    if (live->image_fd < 0) {
        char path[512];
        snprintf(path, sizeof path, "%s/enclave/instance.sgx", build_dir());
        int file = open(path, O_RDONLY | O_CLOEXEC);
        assert_true(file >= 0);
        assert_int_equal(cpu_image(cpu, file, &live->image_fd).code, 0);
        close(file);
        struct stat status;
        assert_int_equal(fstat(live->image_fd, &status), 0);
        void *map = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, live->image_fd, 0);
        assert_true(map != MAP_FAILED);
        assert_int_equal(image_parse(span_of(map, (size_t)status.st_size), &live->image).code, 0);
        for (uint32_t i = 0; i < live->image.segment_count; i++) {
            if ((live->image.segments[i].secinfo_flags & SGX_SECINFO_TYPE_MASK) == SGX_SECINFO_TCS)
                live->tcs_offset = live->image.segments[i].offset;
        }
    }
    struct software_options options = {.cpu_fd = cpu, .image_fd = live->image_fd};
    assert_int_equal(software_device_open(&options, &live->image, &live->device).code, 0);
    assert_int_equal(enclave_open(live->device, &live->image, &live->enclave).code, 0);
}

void live_open(struct live *live)
{
    memset(live, 0, sizeof *live);
    live->image_fd = -1;
    snprintf(live->directory, sizeof live->directory, "/tmp/vtpm-live-XXXXXX");
    assert_non_null(mkdtemp(live->directory));
    snprintf(live->socket, sizeof live->socket, "%s/cpu", live->directory);
    snprintf(live->secret, sizeof live->secret, "%s/secret", live->directory);
    start_cpu(live);
    live_reload(live);
}

void live_close(struct live *live)
{
    enclave_close(&live->enclave);
    kill(live->cpu, SIGTERM);
    waitpid(live->cpu, NULL, 0);
    munmap((void *)(uintptr_t)live->image.file.data, live->image.file.size);
    close(live->image_fd);
    unlink(live->socket);
    unlink(live->secret);
    rmdir(live->directory);
}

size_t live_record(uint32_t number, const void *body, size_t body_size)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct writer w = writer_of(live_input, sizeof live_input);
    struct err err = write_u32(&w, number);
    if (!err.code) err = write_u32(&w, (uint32_t)body_size);
    if (!err.code) err = write_u64(&w, (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec);
    if (!err.code) err = write_bytes(&w, body, body_size);
    assert_int_equal(err.code, 0);
    return w.size;
}

const uint8_t *live_effect(uint32_t kind, size_t *out_size)
{
    struct reader r = reader_of(span_of(live_output, sizeof live_output));
    uint32_t code = 1;
    uint32_t body = 0;
    assert_int_equal(read_u32(&r, &code).code | read_u32(&r, &body).code, 0);
    assert_int_equal(code, 0);
    r.left = body;
    while (r.left) {
        uint32_t effect = 0;
        uint32_t size = 0;
        struct span payload;
        assert_int_equal(read_u32(&r, &effect).code | read_u32(&r, &size).code, 0);
        assert_int_equal(read_span(&r, (size + 7) / 8 * 8, &payload).code, 0);
        if (effect != kind) continue;
        *out_size = size;
        return payload.data;
    }
    return NULL;
}

static void call(struct live *live, size_t size)
{
    size_t written = 0;
    assert_int_equal(
        enclave_call(live->enclave, span_of(live_input, size), live_output, sizeof live_output, &written).code, 0);
}

/* The host's part of a commit, without a disk. */
static void confirm_store(struct live *live)
{
    size_t size = 0;
    const uint8_t *store = live_effect(EFFECT_STORE, &size);
    if (!store) return;
    call(live, live_record(CALL_STORED, store, sizeof(uint64_t)));
}

void live_start(struct live *live)
{
    uint8_t body[CALL_START_FIXED_SIZE] = {START_CREATE};
    call(live, live_record(CALL_START, body, sizeof body));
    confirm_store(live);
}

size_t live_tpm(struct live *live, const void *command, size_t size, uint8_t reply[TPM_BUFFER_MAX])
{
    uint8_t body[CALL_TPM_COMMAND_MAX] = {0};
    memcpy(body + 1, command, size);
    call(live, live_record(CALL_TPM_COMMAND, body, 1 + size));
    confirm_store(live);
    size_t reply_size = 0;
    const uint8_t *bytes = live_effect(EFFECT_REPLY, &reply_size);
    assert_non_null(bytes);
    memcpy(reply, bytes, reply_size);
    return reply_size;
}

void live_startup(struct live *live)
{
    static const uint8_t startup[] = {0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x44, 0, 0};
    uint8_t reply[TPM_BUFFER_MAX];
    size_t size = live_tpm(live, startup, sizeof startup, reply);
    assert_int_equal(size, 10);
    assert_memory_equal(reply + 6, "\0\0\0\0", 4);
}
