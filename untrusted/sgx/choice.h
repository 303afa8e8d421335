/*
 * Which of the two devices runs enclaves here, and what each needs for it.
 *
 * An enclave is made with a descriptor of its own: a connection to vtpm-cpu, or the driver's device, opened. Whoever
 * gives privileges up makes some before.
 */
#pragma once

#include "untrusted/sgx/device.h"
#include "untrusted/sgx/image.h"

enum device_kind {
    DEVICE_AUTO, /* not decided yet */
    DEVICE_SGX,
    DEVICE_SOFTWARE,
};

/* "auto", "sgx", "software". ERR_BAD_VALUE. */
struct err device_kind_parse(const char *name, enum device_kind *out_kind);
const char *device_kind_name(enum device_kind kind);

/*
 * Of a processor that reports this CPUSVN. Every software device has the same one, and no processor has it (16 bytes).
 */
enum device_kind device_kind_of(const uint8_t CPUSVN[16]);

/* AUTO becomes SGX where that works, else SOFTWARE, and the log says why. What was asked for stays as it is. */
enum device_kind device_choose(enum device_kind wanted);

/* cpu: the socket of vtpm-cpu. The descriptor is the caller's. ERR_CPU_UNREACHABLE, ERR_TOO_LARGE; kernel_connect's. */
struct err device_connect(enum device_kind kind, const char *cpu, int *out_fd);

/*
 * A copy of an image file that nobody can change any more, read-only. The software device's processor has one for all
 * enclaves; with the other one it is the process's own. device_fd may serve for an enclave afterwards. ERR_IMAGE_MAGIC
 * (no regular file), ERR_TOO_LARGE, ERR_SYSTEM, ERR_NO_MEMORY, ERR_CPU_UNREACHABLE.
 */
struct err device_seal(enum device_kind kind, int device_fd, int file_fd, int *out_sealed_fd);

struct device_options {
    enum device_kind kind;
    int device_fd;        /* device_connect's; taken over */
    int image_fd;         /* device_seal's; stays the caller's */
    bool ordinary_memory; /* for the software device: go on without secret memory, unprotected */
};

/* image: parsed from a mapping of image_fd. The errors of software_device_open and kernel_device_open. */
struct err device_open(const struct device_options *options, const struct image *image, struct device **out_device);
