/*
 * Entry and exit of the enclave, and the one ENCLU instruction that it has.
 *
 * EENTER changes RIP, FS, GS, RAX and RCX; everything else is what the host wants it to be: RSP points anywhere, DF
 * and AC may be set, MXCSR, x87 and the vector registers hold any state (SDM volume 3D, EENTER "Operation"). So: DF is
 * cleared by the first instruction, the stack is ours before anything is pushed, flags and extended state are
 * loaded from constants. On the way out every register is cleared that does not carry a result.
 *
 * The image has one TCS, so what belongs to the thread lies at fixed places of the image and is reached relative to
 * RIP. An entry with CSSA != 0 follows a fault of ours: the enclave is dead and says so without touching its stack
 * (SmashEx, CVE-2021-0186).
 */
#include "abi/call_codes.h"

/* x87, SSE, AVX and AVX-512: every component of every XFRM that the image is signed for. */
#define CLEAN_COMPONENTS 0xE7
#define ENCLU_EEXIT      4

    .section .enclave.stub, "ax", @progbits
    .globl enclave_stub
    .hidden enclave_stub
    .type enclave_stub, @function
enclave_stub:
    enclu
    .byte 0xC3 /* ret, as vtpm-sign and the software device know it, at every level of mitigations */
    .skip 60, 0xCC
    .size enclave_stub, . - enclave_stub

    .text
    .globl enclave_entry
    .hidden enclave_entry
    .type enclave_entry, @function
enclave_entry:
    cld
    testq %rax, %rax
    jnz .Lrefuse
    cmpl $0, enclave_dead(%rip)
    jne .Lrefuse
    movq %rsp, host_rsp(%rip)
    movq %rbp, host_rbp(%rip)
    movq %rcx, host_return(%rip)
    leaq enclave_stack_top(%rip), %rsp
    xorl %ebp, %ebp
    pushq $0
    popfq /* AC, NT, ID and the status flags */
    movq %rdx, %r10
    movl $CLEAN_COMPONENTS, %eax
    xorl %edx, %edx
    xrstor clean_state(%rip)
    lfence /* MXCSR configuration dependent timing: nothing runs ahead with the host's MXCSR */

    pushq %rdi
    pushq %rsi
    pushq %r10
    pushq %r8
    pushq %r9
    pushq $0 /* keeps the stack aligned to 16 bytes at the calls */
    cmpl $0, started(%rip)
    jne 1f
    call enclave_start
    movl $1, started(%rip)
1:  popq %r8
    popq %r8 /* enclave_call(in, in size, out, capacity, reserved) */
    popq %rcx
    popq %rdx
    popq %rsi
    popq %rdi
    call enclave_call
    movq %rax, %rdi
    movq %rdx, %rsi
    /* fall through */

/* Leaves with RDI = err code and RSI = bytes written. Does not return. */
    .globl enclave_leave
    .hidden enclave_leave
    .type enclave_leave, @function
enclave_leave:
    movl $CLEAN_COMPONENTS, %eax
    xorl %edx, %edx
    xrstor clean_state(%rip)
    movq host_return(%rip), %rbx
    movq host_rsp(%rip), %rsp
    movq host_rbp(%rip), %rbp
    jmp .Lexit

.Lrefuse:
    movq %rcx, %rbx
    movl $ERR_CODE_ENCLAVE_DEAD, %edi
    xorl %esi, %esi
.Lexit:
    xorl %ecx, %ecx
    xorl %edx, %edx
    xorl %r8d, %r8d
    xorl %r9d, %r9d
    xorl %r10d, %r10d
    xorl %r11d, %r11d
    xorl %r12d, %r12d
    xorl %r13d, %r13d
    xorl %r14d, %r14d
    xorl %r15d, %r15d
    movl $ENCLU_EEXIT, %eax
    cmpl %eax, %eax /* the status flags say nothing of what ran */
    jmp enclave_stub
    .size enclave_entry, . - enclave_entry

/* uint64_t enclu(uint32_t leaf, void *rbx, const void *rcx, void *rdx): EREPORT and EGETKEY; returns RAX. */
    .globl enclu
    .hidden enclu
    .type enclu, @function
enclu:
    pushq %rbx
    movl %edi, %eax
    movq %rsi, %rbx
    xchgq %rdx, %rcx
    call enclave_stub
    popq %rbx
    ret
    .size enclu, . - enclu

    .data
    .balign 8
host_rsp:    .quad 0
host_rbp:    .quad 0
host_return: .quad 0
started:     .long 0
    .globl enclave_dead
    .hidden enclave_dead
enclave_dead: .long 0

/*
 * What XRSTOR loads: in the standard format, which no processor with XSAVE lacks. MXCSR is 1FBF: all exceptions masked,
 * all sticky flags set already, so that no operand changes the timing by setting one.
 */
    .section .rodata
    .balign 64
clean_state:
    .skip 24, 0
    .long 0x1FBF
    .skip 484, 0
    .quad 2 /* XSTATE_BV: SSE from here, all else in its initial state (x87: FCW 037F) */
    .skip 56, 0

    .section .note.GNU-stack, "", @progbits
