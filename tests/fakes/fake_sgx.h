/*
 * A driver /dev/sgx_enclave of the tests' own, for a process without SGX: it answers system calls on that device as
 * Linux 6.12 does (arch/x86/kernel/cpu/sgx), with its errno values, over the processor of vtpm-cpu. What was added is
 * measured and checked as a processor would, and runs on the software device (fake_sgx_run_on), or is an echo.
 *
 * The system calls reach it by fake_sgx_watch() in a device's operations, by the linker in a whole program
 * (fake_sgx_program.c), or however a test likes.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "untrusted/sgx/device.h"

struct sgx_enclave_run;

/* What goes wrong. All zero: nothing does. */
struct fake_sgx_faults {
    int open_error;         /* errno of the next opens */
    bool noexec;            /* the device's file system is mounted so */
    unsigned short_pages;   /* ADD_PAGES adds so many at once at most */
    unsigned interruptions; /* so many ioctls are ended by a signal before they do anything */
    uint64_t epc_pages;     /* there are no more than these; 0: enough */
    bool busy;              /* another thread is in an ioctl of this descriptor */
    bool launch_refused;    /* the processor has another launch key */
    bool read_implies_exec; /* as if that were the process's personality */
    bool no_vdso;           /* the kernel's vDSO has no function to enter */
    uint16_t lost_vector;   /* the EPC was lost: every EENTER is this exception */
};

extern struct fake_sgx_faults fake_sgx_faults;

/*
 * A machine that loses the power of its processor, as in a suspend, loses all enclaves that it had. A step is an ioctl,
 * or the entry of an enclave that is there: it is lost while it runs then.
 */
struct fake_sgx_power {
    _Atomic uint32_t losses;     /* so far */
    _Atomic uint32_t until_loss; /* steps, the last of which is the one that it is lost in; 0: none is to come */
};

/* A process's own, or one for many. */
extern struct fake_sgx_power *fake_sgx_power;

/* Closes and forgets all. */
void fake_sgx_reset(void);

/* The system call number with arguments, if it is about the device. False: it is not. */
bool fake_sgx_system_call(long number, const uint64_t arguments[6], int64_t *out_result);

/* From now on, system calls of device's operations go to the driver. */
void fake_sgx_watch(struct device *device);

/* Runs body(ctx) with its system calls going to the driver. */
void fake_sgx_watched(void (*body)(void *ctx), void *ctx);

/*
 * Enclaves whose descriptor is opened after this run on the software device with the processor that listens at cpu, from
 * their first entry on. NULL: there is an echo.
 */
void fake_sgx_run_on(const char *cpu, bool ordinary_memory);

/* What the vDSO would have: fake_sgx_gate.S, which spoils every register that the real one does not keep. */
int fake_sgx_enter_enclave(unsigned long rdi, unsigned long rsi, unsigned long rdx, unsigned int function,
                           unsigned long r8, unsigned long r9, struct sgx_enclave_run *run);

/* And what is behind it. stack: its address at the call. */
int fake_sgx_entered(struct device_run *registers, struct sgx_enclave_run *run, uint64_t function, uint64_t stack);

/* Of the enclave that was made first: its base, and with what a page of it is mapped (PROT_*; -1: it is not). */
uint64_t fake_sgx_base(void);
int fake_sgx_protection(uint64_t page);

/* What the last ADD_PAGES, mappings and EENTERs were, for tests. */
struct fake_sgx_seen {
    unsigned add_calls, opened, entered;
    uint64_t added_pages;
    uint8_t mrenclave[SGX_HASH_SIZE];
    bool misaligned; /* a call came with the stack not aligned to 16 */
};

extern struct fake_sgx_seen fake_sgx_seen;
