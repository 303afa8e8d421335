/*
 * An enclave image file as vtpmd uses it: made unchangeable, mapped, parsed; and the manager's enclave made from it on
 * this host's device.
 *
 * Guarantees: what is parsed, what is loaded and what is measured are the same bytes, which nobody can change any more.
 * MRENCLAVE here is what the signature names; EINIT refuses an enclave that is another one.
 */
#pragma once

#include "untrusted/daemon/config.h"
#include "untrusted/sgx/enclave.h"

struct program {
    int fd; /* the sealed copy */
    struct image image;
};

/* file: of the image. Complains to the log. ERR_SYSTEM, ERR_CPU_UNREACHABLE, ERR_IMAGE_*; kernel_connect's. */
struct err program_open(const char *file, const struct config *config, struct program **out_program);
void program_close(struct program **program);

const uint8_t *program_mrenclave(const struct program *program); /* SGX_HASH_SIZE bytes */

struct program_device {
    const char *name;
    const char *limits;
    const char *memory;
};

/* The steps of the method that end with a measured enclave; logged. The program must outlive the enclave. */
struct err program_load(const struct program *program, const struct config *config, struct enclave **out_enclave,
                        struct program_device *out_device);
