/* Real manager images on the real software device, behind a rig. A failure to get there fails the test. */
#pragma once

#include "tests/unit/manager/rig.h"
#include "untrusted/sgx/enclave.h"
#include "untrusted/sgx/image.h"

/* A vtpm-cpu of the test's own. */
struct live_cpu {
    char directory[64];
    char socket[96];
    char secret[96];
    pid_t pid;
};

void live_cpu_open(struct live_cpu *cpu);
void live_cpu_close(struct live_cpu *cpu);

struct live_manager {
    int image_fd;
    struct image image;
    struct enclave *enclave;
    uint8_t MRENCLAVE[SGX_HASH_SIZE];
};

/* A new enclave of BUILD_DIR/enclave/NAME.sgx, BLANK, which the rig enters from now on. */
void live_manager_open(const struct live_cpu *cpu, const char *name, struct rig *rig, struct live_manager *out);
void live_manager_close(struct live_manager *manager);
