#include "untrusted/sgx/choice.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "untrusted/host/log.h"
#include "untrusted/sgx/cpu_client.h"
#include "untrusted/sgx/cpu_wire.h"
#include "untrusted/sgx/kernel.h"
#include "untrusted/sgx/sealed.h"
#include "untrusted/sgx/software.h"

static const char *const names[] = {[DEVICE_AUTO] = "auto", [DEVICE_SGX] = "sgx", [DEVICE_SOFTWARE] = "software"};

struct err device_kind_parse(const char *name, enum device_kind *out_kind)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i], name) != 0) continue;
        *out_kind = (enum device_kind)i;
        return OK;
    }
    return FAIL(BAD_VALUE);
}

const char *device_kind_name(enum device_kind kind)
{
    return names[kind];
}

enum device_kind device_kind_of(const uint8_t CPUSVN[16])
{
    return memcmp(CPUSVN, CPU_CPUSVN, 16) == 0 ? DEVICE_SOFTWARE : DEVICE_SGX;
}

enum device_kind device_choose(enum device_kind wanted)
{
    if (wanted != DEVICE_AUTO) return wanted;
    struct err obstacle = kernel_device_probe();
    if (!obstacle.code) {
        log_line(LOG_LEVEL_NOTICE, "device: sgx, as %s works here", KERNEL_DEVICE_PATH);
        return DEVICE_SGX;
    }
    log_line(LOG_LEVEL_NOTICE, "device: software, as sgx does not work here: %s", err_sentence(obstacle));
    return DEVICE_SOFTWARE;
}

struct err device_connect(enum device_kind kind, const char *cpu, int *out_fd)
{
    return kind == DEVICE_SGX ? kernel_connect(out_fd) : cpu_connect(cpu, out_fd);
}

static void close_fd(const int *fd)
{
    if (*fd >= 0) close(*fd);
}

static struct err seal_own(int file_fd, int *out_sealed_fd)
{
    struct stat status;
    int fd DEFER(close_fd) = -1;
    ENSURE(fstat(file_fd, &status) == 0, SYSTEM);
    if (!S_ISREG(status.st_mode)) return (struct err){ERR_IMAGE_MAGIC};
    ENSURE(status.st_size <= (off_t)IMAGE_SIZE_MAX, TOO_LARGE);
    TRY(sealed_copy(file_fd, (uint64_t)status.st_size, &fd));
    return sealed_reopen(fd, out_sealed_fd);
}

struct err device_seal(enum device_kind kind, int device_fd, int file_fd, int *out_sealed_fd)
{
    return kind == DEVICE_SGX ? seal_own(file_fd, out_sealed_fd) : cpu_image(device_fd, file_fd, out_sealed_fd);
}

struct err device_open(const struct device_options *options, const struct image *image, struct device **out_device)
{
    const struct software_options software = {
        .cpu_fd = options->device_fd, .image_fd = options->image_fd, .ordinary_memory = options->ordinary_memory};
    if (options->kind == DEVICE_SGX) return kernel_device_open(options->device_fd, image, out_device);
    return software_device_open(&software, image, out_device);
}
