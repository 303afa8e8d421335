#include "untrusted/daemon/program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "untrusted/host/log.h"
#include "untrusted/sgx/choice.h"
#include "untrusted/sgx/kernel.h"

static void close_fd(const int *fd)
{
    if (*fd >= 0) close(*fd);
}

static struct err complain(const char *what, const char *which, struct err result)
{
    bool system = result.code == ERR_SYSTEM || result.code == ERR_CPU_UNREACHABLE;
    if (result.code)
        log_line(LOG_LEVEL_ERROR, "%s %s: %s%s%s", what, which, err_sentence(result), system ? ": " : "",
                 system ? strerror(errno) : "");
    return result;
}

static struct err connect_device(const struct config *config, int *out_fd)
{
    const bool sgx = config->device == DEVICE_SGX;
    return complain(sgx ? "the SGX device" : "vtpm-cpu at", sgx ? KERNEL_DEVICE_PATH : config->cpu,
                    device_connect(config->device, config->cpu, out_fd));
}

/* Root may write where others own the file: what the store's owner kept beside it is opened for reading only. */
static struct err seal(const char *file, const struct config *config, int *out_fd)
{
    int device_fd DEFER(close_fd) = -1;
    int file_fd DEFER(close_fd) = open(file, O_RDONLY | O_CLOEXEC);
    TRY(complain("the enclave image", file, file_fd >= 0 ? OK : FAIL(SYSTEM)));
    TRY(connect_device(config, &device_fd));
    return complain("the enclave image", file, device_seal(config->device, device_fd, file_fd, out_fd));
}

static struct err map(struct program *program)
{
    struct stat status;
    ENSURE(fstat(program->fd, &status) == 0, SYSTEM);
    ENSURE(status.st_size > 0 && status.st_size <= (off_t)IMAGE_SIZE_MAX, TOO_LARGE);
    void *bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, program->fd, 0);
    ENSURE(bytes != MAP_FAILED, SYSTEM);
    struct err result = image_parse(span_of(bytes, (size_t)status.st_size), &program->image);
    if (result.code) munmap(bytes, (size_t)status.st_size);
    return result;
}

struct err program_open(const char *file, const struct config *config, struct program **out_program)
{
    struct program *program = calloc(1, sizeof *program);
    ENSURE(program, NO_MEMORY);
    program->fd = -1;
    struct err result = seal(file, config, &program->fd);
    if (!result.code) result = complain("the enclave image", file, map(program));
    if (result.code) {
        if (program->fd >= 0) close(program->fd);
        free(program);
        return result;
    }
    *out_program = program;
    return OK;
}

void program_close(struct program **program)
{
    if (!*program) return;
    munmap((void *)(uintptr_t)(*program)->image.file.data, (*program)->image.file.size);
    close((*program)->fd);
    free(*program);
    *program = NULL;
}

const uint8_t *program_mrenclave(const struct program *program)
{
    return program->image.signatures[0].ENCLAVEHASH;
}

struct err program_load(const struct program *program, const struct config *config, struct enclave **out_enclave,
                        struct program_device *out_device)
{
    struct device_options options = {
        .kind = config->device, .device_fd = -1, .image_fd = program->fd, .ordinary_memory = config->ordinary_memory};
    const char *name = device_kind_name(config->device);
    struct device *device = NULL;
    TRY(connect_device(config, &options.device_fd));
    TRY(complain("the manager enclave on the device", name, device_open(&options, &program->image, &device)));
    *out_device =
        (struct program_device){.name = device->ops->name, .limits = device->limits, .memory = device->memory};
    return complain("the manager enclave on the device", name, enclave_open(device, &program->image, out_enclave));
}
