/*
 * The gate: what ENCLU, EENTER and the asynchronous exit of a processor do, in software (gate.S, software_fault.c).
 *
 * The state is the process's, not a thread's: one thread is inside at a time, in one enclave. Whoever enters has taken
 * software_gate_take() before.
 *
 * Guarantees: the registers that the host's calling convention keeps, flags, MXCSR and the x87 control word are the
 * host's again when software_gate_enter() returns, however the enclave was left; what the enclave had in registers is
 * saved nowhere but in its own SSA frame and in the alternate signal stack, which are secret memory.
 * Not guaranteed: that an enclave which jumps into the host's code is noticed. On a processor that is a fault.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "abi/sgx.h"
#include "base/err.h"
#include "untrusted/sgx/software_gate_offsets.h"

/* gate.S knows the offsets. */
struct gate {
    uint64_t entry;    /* base + OENTRY */
    uint64_t tcs;      /* address: RBX at EENTER */
    uint64_t aep;      /* RCX at EENTER, and the only place where EEXIT may go */
    uint64_t frame;    /* the SSA frame CSSA, which is 0: its XSAVE area */
    uint64_t gprsgx;   /* and its GPRSGX */
    uint64_t xfrm;     /* SECS.ATTRIBUTES.XFRM */
    uint64_t fs_base;  /* base + OFSBASE; 0: FS stays the host's */
    uint64_t host_fs;  /* while inside */
    uint64_t host_rsp; /* while inside; a saved MXCSR, x87 control word and RFLAGS lie there */
    uint64_t host_rbp;
    uint64_t inside; /* 1: enclave code runs */
    uint64_t leaf;   /* of the ENCLU that is being answered */
    uint64_t rdi, rsi, rdx, r8, r9;
    /* from here on only C */
    uint64_t gs_base;
    uint64_t stub; /* address of the ENCLU */
    uint64_t thread;
    uint32_t xsave_size; /* bytes of an XSAVE area with XFRM */
    uint32_t miscselect;
    bool faulted;
    uint16_t vector;
    uint16_t error_code;
    uint64_t address; /* of a page fault, page-aligned */
    void *owner;      /* struct software */
};

_Static_assert(offsetof(struct gate, entry) == GATE_ENTRY && offsetof(struct gate, tcs) == GATE_TCS, "gate.S");
_Static_assert(offsetof(struct gate, aep) == GATE_AEP && offsetof(struct gate, frame) == GATE_FRAME, "gate.S");
_Static_assert(offsetof(struct gate, gprsgx) == GATE_GPRSGX && offsetof(struct gate, xfrm) == GATE_XFRM, "gate.S");
_Static_assert(offsetof(struct gate, fs_base) == GATE_FS_BASE, "gate.S");
_Static_assert(offsetof(struct gate, host_fs) == GATE_HOST_FS, "gate.S");
_Static_assert(offsetof(struct gate, host_rsp) == GATE_HOST_RSP, "gate.S");
_Static_assert(offsetof(struct gate, host_rbp) == GATE_HOST_RBP, "gate.S");
_Static_assert(offsetof(struct gate, inside) == GATE_INSIDE && offsetof(struct gate, leaf) == GATE_LEAF, "gate.S");
_Static_assert(offsetof(struct gate, rdi) == GATE_RDI && offsetof(struct gate, rsi) == GATE_RSI, "gate.S");
_Static_assert(offsetof(struct gate, rdx) == GATE_RDX && offsetof(struct gate, r8) == GATE_R8, "gate.S");
_Static_assert(offsetof(struct gate, r9) == GATE_R9, "gate.S");
_Static_assert(offsetof(struct sgx_gprsgx, RAX) == GPRSGX_RAX && offsetof(struct sgx_gprsgx, RCX) == GPRSGX_RCX,
               "gate.S");
_Static_assert(offsetof(struct sgx_gprsgx, RDX) == GPRSGX_RDX && offsetof(struct sgx_gprsgx, RBX) == GPRSGX_RBX,
               "gate.S");
_Static_assert(offsetof(struct sgx_gprsgx, RSP) == GPRSGX_RSP && offsetof(struct sgx_gprsgx, RBP) == GPRSGX_RBP,
               "gate.S");
_Static_assert(offsetof(struct sgx_gprsgx, RSI) == GPRSGX_RSI && offsetof(struct sgx_gprsgx, RDI) == GPRSGX_RDI,
               "gate.S");
_Static_assert(offsetof(struct sgx_gprsgx, R8) == GPRSGX_R8 && offsetof(struct sgx_gprsgx, R15) == GPRSGX_R15,
               "gate.S");
_Static_assert(offsetof(struct sgx_gprsgx, RFLAGS) == GPRSGX_RFLAGS, "gate.S");
_Static_assert(offsetof(struct sgx_gprsgx, URSP) == GPRSGX_URSP, "gate.S");
_Static_assert(offsetof(struct sgx_gprsgx, URBP) == GPRSGX_URBP, "gate.S");
_Static_assert(offsetof(struct sgx_gprsgx, FSBASE) == GPRSGX_FSBASE && SGX_EEXIT == SGX_LEAF_EEXIT, "gate.S");

/* A fault as the processor reports it. */
struct gate_fault {
    uint16_t vector;
    uint16_t error_code;
    uint64_t address;
};

#define VECTOR_BP 3u
#define VECTOR_UD 6u
#define VECTOR_GP 13u
#define VECTOR_PF 14u

/* Whose enclave the process is in, or was last. */
extern struct gate *software_gate_current;

/* gate.S */
void software_gate_enter(struct gate *gate); /* EENTER; returns after EEXIT or a fault */
void software_gate_enclu(void);              /* where the rewritten stub jumps to */
void software_gate_returned(void);           /* what EEXIT returns to */
void software_gate_unwind(void);             /* the end of software_gate_enter: where a fault continues */
void software_fault_entry(int signal);       /* the signal handler's first instructions */

/* software.c, called by gate.S: any leaf but a good EEXIT. RAX for the enclave, or negative after a fault. */
int64_t software_leaf(uint64_t leaf, uint64_t rbx, uint64_t rcx, uint64_t rdx);

/* software_fault.c */

/*
 * Takes over the five signals of a fault, and makes the alternate stack. ERR_NO_SECRET_MEMORY, ERR_MEMLOCK, ERR_SYSTEM.
 */
struct err software_fault_install(bool ordinary_memory);

/* Gives the calling thread the alternate stack and lets faults through to it. ERR_SYSTEM. */
struct err software_fault_thread(void);

/* Writes EXITINFO and EXINFO of the asynchronous exit and marks the gate faulted. */
void software_fault_record(struct gate *gate, const struct gate_fault *fault);

/* The signal handler proper. */
void software_fault_handler(int signal, void *info, void *context);
