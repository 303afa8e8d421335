/* What the probe enclave can be asked: RDI at entry is one of these, RSI, RDX, R8 and R9 are its arguments. */
#pragma once

#include <stdint.h>

enum probe_request {
    PROBE_ECHO = 1,      /* returns RSI + RDX + R8 + R9 */
    PROBE_FAULT,         /* RSI: enum probe_fault; never returns */
    PROBE_EREPORT,       /* RSI: TARGETINFO and REPORTDATA at the host, RDX: where the host wants the REPORT */
    PROBE_EGETKEY,       /* RSI: KEYREQUEST at the host, RDX: where the host wants the key; returns RAX, bit 32: ZF */
    PROBE_LEAF,          /* ENCLU with EAX = RSI, RBX = RDX, RCX = R8, RDX = R9 */
    PROBE_SPIN,          /* sets the u32 at RSI to 1, then waits until the u32 at RDX is not 0 */
    PROBE_ENTRY_STATE,   /* writes struct probe_state of this entry to RSI */
    PROBE_ADDRESS,       /* returns the address of what RSI names (enum probe_place) */
    PROBE_SECRET,        /* writes 64 bytes, RSI xor a constant, into the probe's secret buffer; returns its address */
    PROBE_PRESERVE,      /* EGETKEY with every register set; returns a bit for each that was changed */
    PROBE_CANARIES,      /* RSI million calls of functions with a stack canary */
    PROBE_HOLD_REGISTER, /* like SPIN, with R8 in R12 and in XMM7 */
    PROBE_SPOIL,         /* leaves with DF, AC, MXCSR and the x87 control word changed */
    PROBE_SSA,           /* copies the last 200 bytes of SSA frame 0 to RSI */
    PROBE_HOST_CANARY,   /* returns the stack canary that this thread uses */
};

enum probe_fault {
    FAULT_UD2 = 1,
    FAULT_INT3,
    FAULT_LOAD_NULL,
    FAULT_DIVIDE,
    FAULT_WRITE_CODE,
    FAULT_WRITE_CONSTANT,
    FAULT_READ_TCS,
    FAULT_READ_GUARD,
    FAULT_ENCLU, /* outside the stub */
    FAULT_JUMP_NULL,
    FAULT_EXECUTE_DATA,
    FAULT_SYSCALL,
    FAULT_EEXIT_ELSEWHERE,
    FAULT_EEXIT_STACK, /* to the right place with another RSP */
    FAULT_MISALIGNED,  /* with AC set */
    FAULT_STACK,       /* a push with RSP in nowhere */
};

enum probe_place {
    PLACE_BASE, /* the stub's page */
    PLACE_CODE, /* another page of code */
    PLACE_CONSTANTS,
    PLACE_GUARD,
    PLACE_TCS,
    PLACE_SSA,
    PLACE_BUFFER, /* 4096 bytes, page-aligned, read-write */
};

struct probe_state {
    uint64_t rflags, rsp, rax, rbx, rcx, unused;
    uint32_t mxcsr;
    uint16_t fcw;
    uint16_t zero;
};
