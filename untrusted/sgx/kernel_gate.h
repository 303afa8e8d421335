/*
 * The way through the kernel's __vdso_sgx_enter_enclave, which keeps RBX and RBP only. Whatever else the host's calling
 * convention keeps, the enclave may have changed.
 */
#pragma once

#include <stddef.h>

#include "untrusted/sgx/device.h"

/* kernel_gate.S knows the offsets. */
_Static_assert(offsetof(struct device_run, rdi) == 0 && offsetof(struct device_run, rsi) == 8, "kernel_gate.S");
_Static_assert(offsetof(struct device_run, rdx) == 16 && offsetof(struct device_run, r8) == 24, "kernel_gate.S");
_Static_assert(offsetof(struct device_run, r9) == 32 && SGX_EENTER == 2, "kernel_gate.S");

struct sgx_enclave_run;

/*
 * EENTER with the registers of run, which has those of the exit afterwards. enclave_run is the kernel's. Returns what
 * enter returned. RFLAGS, MXCSR and the x87 control word are the host's again, whatever the enclave did.
 */
int kernel_gate_enter(void *enter, struct device_run *run, struct sgx_enclave_run *enclave_run);
