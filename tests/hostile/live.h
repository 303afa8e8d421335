/*
 * The real images, manager and instance, on one of the two devices with a vtpm-cpu of its own (the kernel's device with
 * the driver of tests/fakes/fake_sgx.h), for tests that play their host: vtpmd, worker and front-end in one. A failure to
 * get there fails the test.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "abi/anchor.h"
#include "abi/instance.h"
#include "crypto/curve.h"
#include "link/k2.h"
#include "link/link.h"
#include "untrusted/sgx/device.h"
#include "untrusted/sgx/enclave.h"
#include "untrusted/sgx/image.h"

/* An image, and an enclave of it. */
struct live_program {
    int image_fd; /* sealed; 0: not loaded yet */
    struct image image;
    uint64_t tcs_offset;
    struct device *device; /* the enclave's; for entries with registers of the test's choice */
    struct enclave *enclave;
};

struct live {
    char directory[64];
    char socket[96];
    char secret[96];
    pid_t cpu;
    struct live_program manager;
    struct live_program instance;

    struct link k1; /* vtpmd's end */
    uint8_t anchor[ANCHOR_VALUE_SIZE];
    uint64_t request;
    uint64_t channel; /* of the instance's enclave that is there now */
    bool held;        /* a start is recorded that has not ended */
    struct instance_id id;
    uint64_t version; /* of state */
    size_t state_size;
    uint8_t state[STATE_MAX]; /* the newest that the instance gave */

    struct x25519_key key; /* of the front-end */
    struct link k2;        /* its end */
    bool started;
    size_t record_size;
    uint8_t record[RECORD_OVERHEAD + K2_MESSAGE_MAX]; /* the newest that came for the front-end */
};

extern bool live_is_sgx; /* on the kernel's device */

/* Starts vtpm-cpu, loads BUILD_DIR/enclave/{manager,instance}.sgx, starts a manager with one instance. */
void live_open(struct live *live);
/* Another, blank instance enclave; the one before is closed. */
void live_reload(struct live *live);
void live_close(struct live *live);

/* 8-aligned buffers for calls */
extern uint8_t live_input[CALL_INPUT_MAX];
extern uint8_t live_output[CALL_OUTPUT_MAX];

/* Writes a call record into live_input; returns its size. */
size_t live_record(uint32_t number, const void *body, size_t body_size);
/* INSTANCE_START. */
void live_greet(struct live *live);
/* From a blank enclave to a running TPM, over K2. */
void live_start(struct live *live);
/* Takes the effects in live_output to where they go, and all that follows from them. */
void live_deliver(struct live *live);

/* Writes a call record with a TPM command, sealed for K2, into live_input; returns its size. */
size_t live_request(struct live *live, const void *command, size_t size);
/* The response to it, once its call's effects were delivered; returns its size. */
size_t live_response(struct live *live, uint8_t reply[TPM_BUFFER_MAX]);
/* Runs a TPM command, and its commit if it makes one; returns the size of the reply, which is copied to reply. */
size_t live_tpm(struct live *live, const void *command, size_t size, uint8_t reply[TPM_BUFFER_MAX]);
/* TPM2_Startup(CLEAR). */
void live_startup(struct live *live);

/* For cmocka's group set-up and tear-down: a TPM that was just started, in live_of_group. */
extern struct live live_of_group;
int live_set_up(void **state);
int live_tear_down(void **state);

/* The payload of the first effect of this kind in live_output, or NULL. */
const uint8_t *live_effect(uint32_t kind, size_t *out_size);
