/*
 * The real instance image on the real software device with a vtpm-cpu of its own, for tests that play its host. A
 * failure to get there fails the test.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "abi/call.h"
#include "untrusted/sgx/device.h"
#include "untrusted/sgx/enclave.h"
#include "untrusted/sgx/image.h"

struct live {
    char directory[64];
    char socket[96];
    char secret[96];
    pid_t cpu;
    int image_fd; /* sealed */
    struct image image;
    struct device *device; /* the enclave's; for entries with registers of the test's choice */
    struct enclave *enclave;
    uint64_t tcs_offset;
};

/* Starts vtpm-cpu and loads BUILD_DIR/enclave/instance.sgx. */
void live_open(struct live *live);
/* Another enclave on the same processor; the first is closed. */
void live_reload(struct live *live);
void live_close(struct live *live);

/* 8-aligned buffers for calls */
extern uint8_t live_input[CALL_INPUT_MAX];
extern uint8_t live_output[CALL_OUTPUT_MAX];

/* Writes a call record into live_input; returns its size. */
size_t live_record(uint32_t number, const void *body, size_t body_size);
/* CALL_START with START_CREATE, then CALL_STORED: a running TPM. */
void live_start(struct live *live);
/* Runs a TPM command and CALL_STORED if it is asked for; returns the size of the reply, which is copied to reply. */
size_t live_tpm(struct live *live, const void *command, size_t size, uint8_t reply[TPM_BUFFER_MAX]);
/* TPM2_Startup(CLEAR). */
void live_startup(struct live *live);

/* The payload of the first effect of this kind in live_output, or NULL. */
const uint8_t *live_effect(uint32_t kind, size_t *out_size);
