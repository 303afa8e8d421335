/*
 * What __vdso_sgx_enter_enclave is to its caller: RBX and RBP are kept, and nothing else. And the part of the text that
 * may make system calls while they are watched.
 */
        .section .note.GNU-stack, "", @progbits
        .text
        .globl  fake_sgx_enter_enclave
        .type   fake_sgx_enter_enclave, @function
fake_sgx_enter_enclave:
        endbr64
        pushq   %rbp
        movq    %rsp, %rbp
        pushq   %rbx
        subq    $72, %rsp               /* struct device_run, and what aligns the stack */
        movq    %rdi, (%rsp)
        movq    %rsi, 8(%rsp)
        movq    %rdx, 16(%rsp)
        movq    %r8, 24(%rsp)
        movq    %r9, 32(%rsp)
        movq    %rsp, %rdi
        movq    16(%rbp), %rsi
        movl    %ecx, %edx
        leaq    16(%rbp), %rcx          /* where the caller's stack was at its CALL */
        call    fake_sgx_entered
        movq    (%rsp), %rdi
        movq    8(%rsp), %rsi
        movq    16(%rsp), %rdx
        movq    24(%rsp), %r8
        movq    32(%rsp), %r9
        fninit                          /* #Z, pending and not masked: the state after #MF */
        fldz
        fld1
        fdivp
        fldcw   spoilt_control(%rip)
        ldmxcsr spoilt_mxcsr(%rip)
        movq    $-1, %r12
        movq    $-1, %r13
        movq    $-1, %r14
        movq    $-1, %r15
        movq    $-1, %r10
        movq    $-1, %r11
        leaq    -8(%rbp), %rsp
        popq    %rbx
        popq    %rbp
        pushfq
        orl     $0x40400, (%rsp)        /* AC, DF */
        popfq
        ret
        .size   fake_sgx_enter_enclave, . - fake_sgx_enter_enclave

        .globl  fake_sgx_allowed_start
fake_sgx_allowed_start:

/* int64_t fake_sgx_raw(long number, const uint64_t arguments[6]) */
        .globl  fake_sgx_raw
        .type   fake_sgx_raw, @function
fake_sgx_raw:
        movq    %rdi, %rax
        movq    %rsi, %r11
        movq    (%r11), %rdi
        movq    8(%r11), %rsi
        movq    16(%r11), %rdx
        movq    24(%r11), %r10
        movq    32(%r11), %r8
        movq    40(%r11), %r9
        syscall
        ret
        .size   fake_sgx_raw, . - fake_sgx_raw

        .globl  fake_sgx_restorer
        .type   fake_sgx_restorer, @function
fake_sgx_restorer:
        movl    $15, %eax               /* rt_sigreturn */
        syscall
        nop
        .size   fake_sgx_restorer, . - fake_sgx_restorer
        .globl  fake_sgx_allowed_end
fake_sgx_allowed_end:

        .section .rodata
        .balign 4
spoilt_mxcsr:   .long 0x7F80
spoilt_control: .word 0x037B
