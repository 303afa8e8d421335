/*
 * An enclave program in ordinary processes: the door's table rules without the door. program_call runs the linked
 * program in this process; an enclave_process runs it in a child, so that a test can end its life and begin another.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "abi/instance.h"
#include "base/err.h"
#include "base/span.h"

/* Checks call and body against door_program, runs the handler; effects go to out, of CALL_OUTPUT_MAX bytes. */
struct err program_call(uint32_t number, uint64_t host_time, struct span body, uint8_t *out, size_t *out_size);

struct enclave_process {
    pid_t pid; /* 0: this very process, which can have one enclave life only */
    int channel;
};

#define ENCLAVE_HERE ((struct enclave_process){0})

/* What a call came to: each effect that there was, or an empty span. They point into buffer. */
struct enclave_result {
    uint16_t code; /* an err code; ERR_SYSTEM if the enclave process has died */
    size_t peer_count;
    struct span peer[4]; /* in order */
    struct span record, store, receipt, health;
    uint8_t buffer[CALL_OUTPUT_MAX];
};

/* Aborts the test program if there is no process to be had. The child inherits fake_processor as it is now. */
void enclave_process_start(struct enclave_process *out);
void enclave_process_end(struct enclave_process *enclave);
void enclave_process_call(const struct enclave_process *enclave, uint32_t number, uint64_t host_time, struct span body,
                          struct enclave_result *out);
