/* EENTER through the vDSO (kernel_gate.h). */
        .section .note.GNU-stack, "", @progbits
        .text

/* int kernel_gate_enter(void *enter, struct device_run *run, struct sgx_enclave_run *enclave_run) */
        .globl  kernel_gate_enter
        .hidden kernel_gate_enter
        .type   kernel_gate_enter, @function
        .balign 64
kernel_gate_enter:
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
        movq    %rsi, 16(%rsp)
        movq    %rdi, %rax
        subq    $8, %rsp
        pushq   %rdx                    /* the seventh argument, where the stack is aligned to 16 */
        movq    (%rsi), %rdi
        movq    16(%rsi), %rdx
        movq    24(%rsi), %r8
        movq    32(%rsi), %r9
        movq    8(%rsi), %rsi
        movl    $2, %ecx                /* EENTER */
        call    *%rax
        addq    $16, %rsp
        movq    16(%rsp), %rcx
        movq    %rdi, (%rcx)
        movq    %rsi, 8(%rcx)
        movq    %rdx, 16(%rcx)
        movq    %r8, 24(%rcx)
        movq    %r9, 32(%rcx)
        pushq   8(%rsp)                 /* DF, AC */
        popfq
        fninit                          /* after #MF an exception is pending, which FLDCW would raise */
        fldcw   4(%rsp)
        ldmxcsr (%rsp)
        addq    $24, %rsp
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbx
        popq    %rbp
        ret
        .size   kernel_gate_enter, . - kernel_gate_enter
