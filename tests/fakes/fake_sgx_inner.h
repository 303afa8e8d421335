/*
 * What the driver of the tests' own was given for an enclave, page by page, and what runs it: the software device, from
 * exactly these pages in this order. vtpm-cpu measures them once more.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "untrusted/sgx/device.h"
#include "untrusted/sgx/image.h"

struct fake_sgx_inner {
    int content_fd;
    uint64_t content_size;
    uint64_t stub_offset; /* in ELRANGE; 0: no page begins with the stub yet */
    struct sgx_secs secs;
    struct sgx_sigstruct sigstruct;
    size_t run_count;
    struct device_pages runs[IMAGE_SEGMENTS_MAX];
    struct device *device; /* NULL: it was not entered yet */
};

/* One page more. What cannot be kept ends the process: here as below, for it is the test that is wrong. */
void fake_sgx_inner_add(struct fake_sgx_inner *inner, uint64_t offset, const struct sgx_secinfo *secinfo, bool measured,
                        const uint8_t *content);

/* A processor that listens at cpu makes it and initialises it. */
void fake_sgx_inner_start(struct fake_sgx_inner *inner, const char *cpu, bool ordinary_memory);

void fake_sgx_inner_close(struct fake_sgx_inner *inner);
