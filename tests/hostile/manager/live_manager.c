#include "tests/hostile/manager/live_manager.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fakes/assertions.h"
#include "untrusted/sgx/cpu_client.h"
#include "untrusted/sgx/software.h"

#define START_TRIES 500
#define START_PAUSE 10000 /* microseconds */

static uint8_t input[CALL_INPUT_MAX] __attribute__((aligned(4096)));
static uint8_t output[CALL_OUTPUT_MAX] __attribute__((aligned(4096)));

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

void live_cpu_open(struct live_cpu *cpu)
{
    char program[512];
    char secret[128];
    int status = 0;
    snprintf(cpu->directory, sizeof cpu->directory, "/tmp/vtpm-live-XXXXXX");
    assert_non_null(mkdtemp(cpu->directory));
    snprintf(cpu->socket, sizeof cpu->socket, "%s/cpu", cpu->directory);
    snprintf(cpu->secret, sizeof cpu->secret, "%s/secret", cpu->directory);
    snprintf(program, sizeof program, "%s/bin/vtpm-cpu", build_dir());
    snprintf(secret, sizeof secret, "file:%s", cpu->secret);
    char *init[] = {program, "--init", "--secret", secret, NULL};
    assert_true(waitpid(run(init), &status, 0) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    char *serve[] = {program, "--listen", cpu->socket, "--secret", secret, NULL};
    cpu->pid = run(serve);
}

void live_cpu_close(struct live_cpu *cpu)
{
    kill(cpu->pid, SIGTERM);
    waitpid(cpu->pid, NULL, 0);
    unlink(cpu->socket);
    unlink(cpu->secret);
    rmdir(cpu->directory);
}

static uint16_t enter(void *ctx, uint32_t number, uint64_t host_time, struct span body, uint8_t *out, size_t *out_size)
{
    struct live_manager *manager = ctx;
    struct writer w = writer_of(input, sizeof input);
    size_t written = 0;
    uint32_t code = 0;
    uint32_t size = 0;
    assert_ok(write_u32(&w, number));
    assert_ok(write_u32(&w, (uint32_t)body.size));
    assert_ok(write_u64(&w, host_time));
    assert_ok(write_span(&w, body));
    assert_ok(enclave_call(manager->enclave, writer_span(&w), output, sizeof output, &written));
    struct reader r = reader_of(span_of(output, written));
    assert_ok(read_u32(&r, &code));
    assert_ok(read_u32(&r, &size));
    assert_ok(read_bytes(&r, out, size));
    *out_size = size;
    return (uint16_t)code;
}

static void load_image(int cpu, const char *name, struct live_manager *out)
{
    char path[512];
    struct stat status;
    snprintf(path, sizeof path, "%s/enclave/%s.sgx", build_dir(), name);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(file >= 0);
    assert_ok(cpu_image(cpu, file, &out->image_fd));
    close(file);
    assert_int_equal(fstat(out->image_fd, &status), 0);
    void *map = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, out->image_fd, 0);
    assert_true(map != MAP_FAILED);
    assert_ok(image_parse(span_of(map, (size_t)status.st_size), &out->image));
    memcpy(out->MRENCLAVE, out->image.signatures[0].ENCLAVEHASH, sizeof out->MRENCLAVE);
}

void live_manager_open(const struct live_cpu *cpu, const char *name, struct rig *rig, struct live_manager *out)
{
    int connection = -1;
    struct device *device = NULL;
    struct err err = FAIL(CPU_UNREACHABLE);
    for (int i = 0; i < START_TRIES && err.code; i++) {
        err = cpu_connect(cpu->socket, &connection);
        if (err.code) usleep(START_PAUSE);
    }
    assert_ok(err);
    load_image(connection, name, out);
    struct software_options options = {.cpu_fd = connection, .image_fd = out->image_fd};
    assert_ok(software_device_open(&options, &out->image, &device));
    assert_ok(enclave_open(device, &out->image, &out->enclave));
    rig->enter = enter;
    rig->enter_ctx = out;
    rig_boot(rig);
}

void live_manager_close(struct live_manager *manager)
{
    enclave_close(&manager->enclave);
    munmap((void *)(uintptr_t)manager->image.file.data, manager->image.file.size);
    close(manager->image_fd);
}
