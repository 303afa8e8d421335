#include "tests/hostile/device/rig.h"

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

#include "tests/fakes/fake_sgx.h"
#include "untrusted/sgx/cpu_client.h"
#include "untrusted/sgx/kernel.h"
#include "untrusted/sgx/software.h"

const char *rig_cpu_program;
const char *rig_image_path;
const char *rig_other_image_path;
bool rig_is_sgx;

void rig_arguments(int argc, char **argv)
{
    if (argc != 5) exit(2);
    rig_is_sgx = strcmp(argv[4], "sgx") == 0;
    rig_cpu_program = argv[1];
    rig_image_path = argv[2];
    rig_other_image_path = argv[3];
}

static pid_t spawn(char *const arguments[])
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        execv(arguments[0], arguments);
        _exit(127);
    }
    return child;
}

static void start_cpu(struct rig *rig)
{
    char secret[128];
    char program[512];
    int status = 0;
    snprintf(secret, sizeof secret, "file:%s/secret", rig->directory);
    snprintf(program, sizeof program, "%s", rig_cpu_program);
    char *create[] = {program, (char[]){"--init"}, (char[]){"--secret"}, secret, NULL};
    assert_int_equal(waitpid(spawn(create), &status, 0) > 0, 1);
    assert_int_equal(status, 0);
    char *serve[] = {program, (char[]){"--secret"}, secret, (char[]){"--listen"}, rig->socket, NULL};
    rig->cpu = spawn(serve);
}

static int connect_cpu(const struct rig *rig)
{
    int fd = -1;
    for (int i = 0; i < 500; i++) {
        struct err result = cpu_connect(rig->socket, &fd);
        if (!result.code) return fd;
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    fail_msg("vtpm-cpu does not answer");
    return -1;
}

static struct span map_image(const struct rig *rig)
{
    struct stat status;
    assert_int_equal(fstat(rig->image_fd, &status), 0);
    void *bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, rig->image_fd, 0);
    assert_true(bytes != MAP_FAILED);
    return span_of(bytes, (size_t)status.st_size);
}

static void unmap_image(const struct image *image)
{
    if (image->file.size) munmap((void *)(uintptr_t)image->file.data, image->file.size);
}

void rig_start(struct rig *rig)
{
    *rig = (struct rig){.directory = "/tmp/vtpm-device-XXXXXX", .image_fd = -1};
    fake_sgx_reset();
    assert_non_null(mkdtemp(rig->directory));
    assert_int_equal(chmod(rig->directory, 0755), 0);
    snprintf(rig->socket, sizeof rig->socket, "%s/cpu.sock", rig->directory);
    start_cpu(rig);
    int cpu_fd = connect_cpu(rig);
    int file_fd = open(rig_image_path, O_RDONLY | O_CLOEXEC);
    assert_true(file_fd >= 0);
    assert_int_equal(cpu_image(cpu_fd, file_fd, &rig->image_fd).code, 0);
    close(file_fd);
    close(cpu_fd);
    assert_int_equal(image_parse(map_image(rig), &rig->image).code, 0);
}

void rig_stop(struct rig *rig)
{
    char path[128];
    if (rig->device) rig->device->ops->destroy(rig->device);
    fake_sgx_reset();
    unmap_image(&rig->image);
    unmap_image(&rig->shown);
    close(rig->image_fd);
    kill(rig->cpu, SIGTERM);
    waitpid(rig->cpu, NULL, 0);
    unlink(rig->socket);
    snprintf(path, sizeof path, "%s/secret", rig->directory);
    unlink(path);
    rmdir(rig->directory);
    *rig = (struct rig){0};
}

static struct err software_device(struct rig *rig, bool ordinary_memory, struct device **out_device)
{
    struct software_options options = {
        .cpu_fd = connect_cpu(rig), .image_fd = rig->image_fd, .ordinary_memory = ordinary_memory};
    return software_device_open(&options, &rig->image, out_device);
}

static void connect_kernel(void *fd)
{
    assert_int_equal(kernel_connect(fd).code, 0);
}

static struct err kernel_device(struct rig *rig, struct device **out_device)
{
    int fd = -1;
    unmap_image(&rig->shown);
    rig->shown = rig->image;
    rig->shown.file = map_image(rig);
    fake_sgx_run_on(rig->socket, false);
    fake_sgx_watched(connect_kernel, &fd);
    TRY(kernel_device_open(fd, &rig->shown, out_device));
    fake_sgx_watch(*out_device);
    return OK;
}

struct err rig_device(struct rig *rig, bool ordinary_memory, struct device **out_device)
{
    return rig_is_sgx ? kernel_device(rig, out_device) : software_device(rig, ordinary_memory, out_device);
}

struct device_pages rig_pages(const struct image_segment *segment)
{
    return (struct device_pages){
        .offset = segment->offset,
        .length = segment->size,
        .file_offset = segment->file_offset,
        .secinfo = {.FLAGS = segment->secinfo_flags},
        .measured = segment->measured,
        .public = segment->public,
    };
}

struct err rig_build(struct rig *rig, struct device *device, void (*change)(struct sgx_secs *secs))
{
    struct sgx_secs secs;
    image_secs(&rig->image, 0, 0, &secs);
    if (change) change(&secs);
    TRY(device->ops->create(device, &secs));
    for (uint32_t i = 0; i < rig->image.segment_count; i++) {
        struct device_pages pages = rig_pages(&rig->image.segments[i]);
        if (pages.secinfo.FLAGS == SGX_SECINFO_TCS) rig->tcs_offset = pages.offset;
        TRY(device->ops->add_pages(device, &pages));
    }
    return OK;
}

void rig_open(struct rig *rig)
{
    assert_int_equal(rig_device(rig, false, &rig->device).code, 0);
    assert_int_equal(rig_build(rig, rig->device, NULL).code, 0);
    assert_int_equal(rig->device->ops->init(rig->device, &rig->image.signatures[0]).code, 0);
}

uint64_t rig_call(struct rig *rig, uint64_t request, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    struct device_run run = {.rdi = request, .rsi = a, .rdx = b, .r8 = c, .r9 = d};
    assert_int_equal(rig->device->ops->enter(rig->device, rig->tcs_offset, &run).code, 0);
    if (run.function != SGX_EEXIT)
        fail_msg("the probe faulted: vector %u, address %lx", run.exception_vector, (unsigned long)run.exception_addr);
    return run.rdi;
}

struct err rig_enter(struct rig *rig, uint64_t request, uint64_t a, uint64_t b, struct device_run *out_run)
{
    *out_run = (struct device_run){.rdi = request, .rsi = a, .rdx = b};
    return rig->device->ops->enter(rig->device, rig->tcs_offset, out_run);
}

int rig_child(void (*body)(void *ctx), void *ctx)
{
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        body(ctx);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

char *rig_read_proc(const char *path)
{
    size_t size = 0;
    size_t capacity = 1 << 20;
    char *text = malloc(capacity);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(text && fd >= 0);
    for (ssize_t count = 1; count > 0; size += (size_t)count) {
        count = read(fd, text + size, capacity - size - 1);
        assert_true(count >= 0);
    }
    close(fd);
    text[size] = '\0';
    return text;
}
