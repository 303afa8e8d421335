/*
 * An SGX device: what makes, runs and removes one enclave. The shape is that of the Linux
 * driver's ioctls (CREATE, ADD_PAGES, INIT) and of __vdso_sgx_enter_enclave, so that the kernel's
 * device and the software device stand behind the same functions.
 */
#pragma once

#include <stdbool.h>

#include "abi/sgx.h"
#include "base/err.h"

/* One ADD_PAGES: a run of pages with the same SECINFO. */
struct device_pages {
    uint64_t offset;      /* in ELRANGE, bytes */
    uint64_t length;      /* bytes */
    uint64_t file_offset; /* of the content in the image file, bytes; 0: zero pages */
    struct sgx_secinfo secinfo;
    bool measured;
    bool public; /* never holds a secret: the software device may keep it in ordinary memory */
};

/* Registers into the enclave and out of it, and how it came back (struct sgx_enclave_run of the kernel). */
struct device_run {
    uint64_t rdi, rsi, rdx, r8, r9; /* in and out */
    uint32_t function; /* out: SGX_EEXIT, SGX_ERESUME after a fault inside, SGX_EENTER when EENTER itself failed */
    uint16_t exception_vector; /* out, with SGX_ERESUME and SGX_EENTER */
    uint16_t exception_error_code;
    uint64_t exception_addr;
};

struct device;

struct device_ops {
    const char *name; /* "software", "sgx" */
    /* ECREATE. The device reserves ELRANGE itself and writes SECS.BASEADDR. */
    struct err (*create)(struct device *device, struct sgx_secs *secs);
    struct err (*add_pages)(struct device *device, const struct device_pages *pages);
    struct err (*init)(struct device *device, const struct sgx_sigstruct *sigstruct);
    /*
     * EENTER through the TCS at tcs_offset. Success means that the enclave was entered and that run->function says how
     * it came back. After a fault every later call answers ERR_SGX_FAULT.
     */
    struct err (*enter)(struct device *device, uint64_t tcs_offset, struct device_run *run);
    /*
     * From here on an EREPORT or EGETKEY is a fault, where the device can have it so. All enclaves of one image may ask
     * for each other's keys and make REPORTs in each other's name; one that is taken over later cannot.
     */
    void (*release_processor)(struct device *device);
    /* Ends the enclave, wipes and unmaps what it had, closes the device and frees it. */
    void (*destroy)(struct device *device);
};

/* Every implementation's structure begins with this. What is not ops is for whoever shows or loads it. */
struct device {
    const struct device_ops *ops;
    const char *limits; /* one line: what this device does, and does not protect against */
    const char *memory; /* what the enclave's data lies in: "EPC", "secret", "ordinary" */
    bool own_canary;    /* from init on; false: the enclave's stack canary is the host's */
    uint64_t xfrm;      /* the most that ATTRIBUTES.XFRM may have */
};
