/*
 * The software SGX device. What it protects against and what not: docs/threat-model.md. It says so itself, in its
 * limits.
 *
 * It makes the enclave in this process: code mapped from the sealed image, data in secret memory, one thread inside at
 * a time. The process must block every asynchronous signal while it is inside, and leave SIGSEGV, SIGBUS, SIGILL,
 * SIGFPE and SIGTRAP to the device from init on.
 */
#pragma once

#include "untrusted/sgx/device.h"
#include "untrusted/sgx/image.h"

#define SOFTWARE_LIMITS                                                                                                \
    "keeps keys and state from readers of memory interfaces, disks, backups and sockets; not from root who debugs, "   \
    "samples or injects code into a running process, nor from a changed kernel or a hypervisor"

#define SOFTWARE_LIMITS_ORDINARY "keeps nothing from a reader of this machine's memory"

struct software_options {
    int cpu_fd;           /* connected to vtpm-cpu; taken over */
    int image_fd;         /* the sealed image; stays the caller's */
    bool ordinary_memory; /* go on without secret memory, unprotected; only when the operator asked for it */
};

/* ERR_NO_SECRET_MEMORY, ERR_MEMLOCK, ERR_IMAGE_UNSEALED, ERR_CPU_UNREACHABLE. */
struct err software_device_open(const struct software_options *options, const struct image *image,
                                struct device **out_device);
