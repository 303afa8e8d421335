/*
 * The SGX device of the processor, through the driver of Linux (Documentation/arch/x86/sgx.rst).
 *
 * Guarantees: an enclave is made of the image's pages in the image's order, with the permissions that were signed and
 * no others; what is refused is named by what the driver and the SDM refuse it for, an EINIT by the field. After init
 * the device makes no system call, so a process may confine itself as it likes.
 * Not guaranteed: anything that was not tried. It is tested against a driver of the tests' own, which keeps to what the
 * kernel documents; it has not run on SGX hardware.
 */
#pragma once

#include "untrusted/sgx/device.h"
#include "untrusted/sgx/image.h"

#define KERNEL_DEVICE_PATH "/dev/sgx_enclave"

#define KERNEL_LIMITS                                                                                                  \
    "is meant to keep keys and state from whoever runs this machine; not from side channels (page faults, single "     \
    "steps, timing); this release was not run on SGX hardware"

/*
 * What an enclave is made with. The caller owns the descriptor. ERR_SGX_NO_DEVICE, ERR_SGX_DEVICE_DENIED,
 * ERR_SGX_NOEXEC, ERR_SYSTEM.
 */
struct err kernel_connect(int *out_fd);

/* Whether an enclave can be made and run here, as far as can be told without one. The errors of the two below. */
struct err kernel_device_probe(void);

/*
 * device_fd is one of kernel_connect's that nothing was made with, and is taken over. image lies in pages of its own,
 * on no file system that is mounted noexec. ERR_SGX_VDSO, ERR_NO_MEMORY.
 */
struct err kernel_device_open(int device_fd, const struct image *image, struct device **out_device);
