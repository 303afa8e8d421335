/*
 * EENTER, EEXIT and the way to EREPORT and EGETKEY (software_gate.h). ENCLU is "call stub" in the enclave; the stub
 * jumps to software_gate_enclu, so the return address of that call is on the enclave's stack.
 *
 * A processor leaves flags alone at EEXIT and EREPORT; here the arithmetic ones are lost.
 */
#include "untrusted/sgx/software_gate_offsets.h"

        .section .note.GNU-stack, "", @progbits
        .text

/* void software_gate_enter(struct gate *gate) */
        .globl  software_gate_enter
        .hidden software_gate_enter
        .type   software_gate_enter, @function
        .balign 64
software_gate_enter:
        endbr64
        pushq   %rbp
        pushq   %rbx
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        subq    $24, %rsp
        stmxcsr (%rsp)
        fnstcw  4(%rsp)
        pushfq
        popq    8(%rsp)
        movq    %rdi, software_gate_current(%rip)
        movq    %rsp, GATE_HOST_RSP(%rdi)
        movq    %rbp, GATE_HOST_RBP(%rdi)
        movq    GATE_GPRSGX(%rdi), %rax
        movq    %rsp, GPRSGX_URSP(%rax)
        movq    %rbp, GPRSGX_URBP(%rax)
        movq    GATE_FS_BASE(%rdi), %rax
        testq   %rax, %rax
        jz      1f
        rdfsbase %rdx
        movq    %rdx, GATE_HOST_FS(%rdi)
        wrfsbase %rax
1:      movq    GATE_TCS(%rdi), %rbx
        movq    GATE_AEP(%rdi), %rcx
        movq    GATE_ENTRY(%rdi), %r10
        movq    GATE_RSI(%rdi), %rsi
        movq    GATE_RDX(%rdi), %rdx
        movq    GATE_R8(%rdi), %r8
        movq    GATE_R9(%rdi), %r9
        movq    $0, %rax                /* CSSA */
        movq    $1, GATE_INSIDE(%rdi)
        movq    GATE_RDI(%rdi), %rdi
        jmpq    *%r10
        .size   software_gate_enter, . - software_gate_enter

/* EAX: the leaf. Everything else is the enclave's. */
        .globl  software_gate_enclu
        .hidden software_gate_enclu
        .type   software_gate_enclu, @function
        .balign 64
software_gate_enclu:
        endbr64
        cmpl    $SGX_LEAF_EEXIT, %eax
        jne     gate_leaf
        movq    software_gate_current(%rip), %rcx
        cmpq    GATE_HOST_RSP(%rcx), %rsp
        jne     gate_leaf
        cmpq    GATE_HOST_RBP(%rcx), %rbp
        jne     gate_leaf
        cmpq    GATE_AEP(%rcx), %rbx
        jne     gate_leaf
        cmpq    $0, GATE_FS_BASE(%rcx)
        je      1f
        movq    GATE_HOST_FS(%rcx), %rcx
        wrfsbase %rcx
        movq    software_gate_current(%rip), %rcx
1:      movq    $0, GATE_INSIDE(%rcx)
        movq    GATE_AEP(%rcx), %rcx
        jmpq    *%rbx
        .size   software_gate_enclu, . - software_gate_enclu

        .globl  software_gate_returned
        .hidden software_gate_returned
        .type   software_gate_returned, @function
software_gate_returned:
        endbr64
        movq    software_gate_current(%rip), %rax
        movq    %rdi, GATE_RDI(%rax)
        movq    %rsi, GATE_RSI(%rax)
        movq    %rdx, GATE_RDX(%rax)
        movq    %r8, GATE_R8(%rax)
        movq    %r9, GATE_R9(%rax)
        .size   software_gate_returned, . - software_gate_returned
        /* fall through */

        .globl  software_gate_unwind
        .hidden software_gate_unwind
        .type   software_gate_unwind, @function
software_gate_unwind:
        pushq   8(%rsp)
        popfq
        ldmxcsr (%rsp)
        fldcw   4(%rsp)
        addq    $24, %rsp
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbx
        popq    %rbp
        ret
        .size   software_gate_unwind, . - software_gate_unwind

/*
 * Everything but a good EEXIT: software_leaf() decides. The enclave's registers go into its own SSA frame, which holds
 * nothing else as long as no exit was asynchronous, and none of them stays where the host's code could spill it.
 */
        .type   gate_leaf, @function
        .balign 64
gate_leaf:
        movl    %eax, gate_leaf_number(%rip)
        movq    software_gate_current(%rip), %rax
        movq    GATE_GPRSGX(%rax), %rax
        movq    %rcx, GPRSGX_RCX(%rax)
        movq    %rdx, GPRSGX_RDX(%rax)
        movq    %rbx, GPRSGX_RBX(%rax)
        movq    %rsp, GPRSGX_RSP(%rax)
        movq    %rbp, GPRSGX_RBP(%rax)
        movq    %rsi, GPRSGX_RSI(%rax)
        movq    %rdi, GPRSGX_RDI(%rax)
        movq    %r8, GPRSGX_R8(%rax)
        movq    %r9, GPRSGX_R9(%rax)
        movq    %r10, GPRSGX_R10(%rax)
        movq    %r11, GPRSGX_R11(%rax)
        movq    %r12, GPRSGX_R12(%rax)
        movq    %r13, GPRSGX_R13(%rax)
        movq    %r14, GPRSGX_R14(%rax)
        movq    %r15, GPRSGX_R15(%rax)
        movq    %rax, %rbx              /* from here on RBX: GPRSGX, R12: struct gate */
        movq    software_gate_current(%rip), %r12
        movl    gate_leaf_number(%rip), %eax
        movq    %rax, GATE_LEAF(%r12)
        movq    %rax, GPRSGX_RAX(%rbx)
        movq    GATE_HOST_RSP(%r12), %rsp
        pushfq
        popq    GPRSGX_RFLAGS(%rbx)
        pushq   8(%rsp)
        popfq
        cmpq    $0, GATE_FS_BASE(%r12)
        je      1f
        rdfsbase %r13                   /* R13: the enclave's FS base */
        movq    %r13, GPRSGX_FSBASE(%rbx)
        movq    GATE_HOST_FS(%r12), %rax
        wrfsbase %rax
1:      movq    $0, GATE_INSIDE(%r12)
        movq    GATE_FRAME(%r12), %r14  /* R14: the XSAVE area; its header must be zero */
        xorl    %eax, %eax
        movq    %rax, 512(%r14)
        movq    %rax, 520(%r14)
        movq    %rax, 528(%r14)
        movq    %rax, 536(%r14)
        movq    %rax, 544(%r14)
        movq    %rax, 552(%r14)
        movq    %rax, 560(%r14)
        movq    %rax, 568(%r14)
        movl    GATE_XFRM(%r12), %eax
        movl    GATE_XFRM+4(%r12), %edx
        xsave64 (%r14)
        xrstor64 gate_clean_state(%rip) /* the host's code could spill vector registers, too */
        movq    GATE_LEAF(%r12), %rdi
        movq    GPRSGX_RBX(%rbx), %rsi
        movq    GPRSGX_RCX(%rbx), %rdx
        movq    GPRSGX_RDX(%rbx), %rcx
        xorl    %eax, %eax
        xorl    %ebp, %ebp
        xorl    %r8d, %r8d
        xorl    %r9d, %r9d
        xorl    %r10d, %r10d
        xorl    %r11d, %r11d
        xorl    %r15d, %r15d
        call    software_leaf
        testq   %rax, %rax
        js      software_gate_unwind
        movq    %rax, GPRSGX_RAX(%rbx)
        movl    GATE_XFRM(%r12), %eax
        movl    GATE_XFRM+4(%r12), %edx
        xrstor64 (%r14)
        cmpq    $0, GATE_FS_BASE(%r12)
        je      2f
        wrfsbase %r13
2:      movq    GPRSGX_RFLAGS(%rbx), %rcx
        andq    $~FLAGS_ARITHMETIC, %rcx
        cmpq    $0, GPRSGX_RAX(%rbx)
        je      3f
        orq     $FLAGS_ZF, %rcx
3:      movq    $1, GATE_INSIDE(%r12)
        pushq   %rcx
        popfq                           /* nothing below changes a flag */
        movq    %rbx, %rax
        movq    GPRSGX_RCX(%rax), %rcx
        movq    GPRSGX_RDX(%rax), %rdx
        movq    GPRSGX_RBX(%rax), %rbx
        movq    GPRSGX_RSP(%rax), %rsp
        movq    GPRSGX_RBP(%rax), %rbp
        movq    GPRSGX_RSI(%rax), %rsi
        movq    GPRSGX_RDI(%rax), %rdi
        movq    GPRSGX_R8(%rax), %r8
        movq    GPRSGX_R9(%rax), %r9
        movq    GPRSGX_R10(%rax), %r10
        movq    GPRSGX_R11(%rax), %r11
        movq    GPRSGX_R12(%rax), %r12
        movq    GPRSGX_R13(%rax), %r13
        movq    GPRSGX_R14(%rax), %r14
        movq    GPRSGX_R15(%rax), %r15
        movq    GPRSGX_RAX(%rax), %rax
        ret                             /* the stub's own RET */
        .size   gate_leaf, . - gate_leaf

/* The handler may run with AC set: the kernel leaves it. The signal's number, siginfo and context stay in place. */
        .globl  software_fault_entry
        .hidden software_fault_entry
        .type   software_fault_entry, @function
software_fault_entry:
        endbr64
        pushfq
        andl    $~FLAGS_AC, (%rsp)
        popfq
        jmp     software_fault_handler
        .size   software_fault_entry, . - software_fault_entry

        .section .rodata, "a", @progbits
        .balign 64
gate_clean_state:                       /* XSTATE_BV 0: every component is initialised; MXCSR is read all the same */
        .skip   24
        .long   0x1F80
        .skip   548

        .local  gate_leaf_number
        .comm   gate_leaf_number, 4, 4
