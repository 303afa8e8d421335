/* Entry, exit, the stub, and what cannot be said in C. RSP and RBP of the host are its own again at EEXIT. */
        .section .enclave.stub, "ax", @progbits
        .globl  probe_stub
        .hidden probe_stub
probe_stub:
        .byte   0x0f, 0x01, 0xd7, 0xc3
        .fill   60, 1, 0xcc

        .text
        .globl  probe_entry
        .hidden probe_entry
probe_entry:
        movq    %rsp, host_rsp(%rip)
        movq    %rsp, probe_entry_state+8(%rip)
        movq    %rbp, host_rbp(%rip)
        movq    %rcx, host_return(%rip)
        leaq    probe_stack_top(%rip), %rsp
        pushfq
        popq    probe_entry_state(%rip)
        movq    %rax, probe_entry_state+16(%rip)
        movq    %rbx, probe_entry_state+24(%rip)
        movq    %rcx, probe_entry_state+32(%rip)
        stmxcsr probe_entry_state+48(%rip)
        fnstcw  probe_entry_state+52(%rip)
        pushq   $0
        popfq
        fninit
        ldmxcsr mxcsr_default(%rip)
        movq    %r8, %rcx
        movq    %r9, %r8
        call    probe_main
        movq    %rax, %rdi
        xorl    %esi, %esi
leave:  movq    host_rsp(%rip), %rsp
        movq    host_rbp(%rip), %rbp
        movq    host_return(%rip), %rbx
        movl    $4, %eax
        jmp     probe_stub

/* uint64_t probe_enclu(leaf, rbx, rcx, rdx): RAX, and bit 32 if ZF was set */
        .globl  probe_enclu
        .hidden probe_enclu
probe_enclu:
        pushq   %rbx
        movl    %edi, %eax
        movq    %rsi, %rbx
        xchgq   %rdx, %rcx
        call    probe_stub
        setz    %cl
        movzbl  %cl, %ecx
        shlq    $32, %rcx
        orq     %rcx, %rax
        popq    %rbx
        ret

/* uint64_t probe_preserve(keyrequest, key): a bit for each register that EGETKEY changed */
        .macro  check register, number
        cmpq    $(0x1111 * \number), \register
        je      8f
        orq     $(1 << \number), %rax
8:
        .endm
        .globl  probe_preserve
        .hidden probe_preserve
probe_preserve:
        pushq   %rbx
        pushq   %rbp
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        movq    %rdi, %rbx
        movq    %rsi, %rcx
        movq    %rbx, saved_rbx(%rip)
        movq    %rcx, saved_rcx(%rip)
        movq    %rsp, saved_rsp(%rip)
        movq    $0x1111, %rdx
        movq    $0x2222, %rsi
        movq    $0x3333, %rdi
        movq    $0x4444, %rbp
        movq    $0x5555, %r8
        movq    $0x6666, %r9
        movq    $0x7777, %r10
        movq    $0x8888, %r11
        movq    $0x9999, %r12
        movq    $0xaaaa, %r13
        movq    $0xbbbb, %r14
        movq    $0xcccc, %r15
        movq    %r15, %xmm0
        movq    %r15, %xmm15
        fldpi
        movq    $0x1234567, %rax
        movq    %rax, -64(%rsp)         /* the red zone */
        movl    $1, %eax
        subq    $128, %rsp
        call    probe_stub
        leaq    128(%rsp), %rsp
        movl    $0, %eax
        check   %rdx, 1
        check   %rsi, 2
        check   %rdi, 3
        check   %rbp, 4
        check   %r8, 5
        check   %r9, 6
        check   %r10, 7
        check   %r11, 8
        check   %r12, 9
        check   %r13, 10
        check   %r14, 11
        check   %r15, 12
        movq    %xmm0, %rdx
        check   %rdx, 12
        movq    %xmm15, %rdx
        check   %rdx, 12
        cmpq    saved_rbx(%rip), %rbx
        je      1f
        orq     $(1 << 13), %rax
1:      cmpq    saved_rcx(%rip), %rcx
        je      2f
        orq     $(1 << 14), %rax
2:      cmpq    saved_rsp(%rip), %rsp
        je      3f
        orq     $(1 << 15), %rax
3:      fldpi
        fcomip  %st(1), %st
        je      4f
        orq     $(1 << 16), %rax
4:      fstp    %st(0)
        cmpq    $0x1234567, -64(%rsp)
        je      5f
        orq     $(1 << 17), %rax
5:      popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbp
        popq    %rbx
        ret

/* void probe_hold(flag, wait, value): value in R12 and XMM7 while waiting */
        .globl  probe_hold
        .hidden probe_hold
probe_hold:
        pushq   %r12
        movq    %rdx, %r12
        movq    %rdx, %xmm7
        movl    $1, (%rdi)
1:      pause
        cmpl    $0, (%rsi)
        je      1b
        popq    %r12
        ret

/* leaves in the worst state that is legal */
        .globl  probe_spoil
        .hidden probe_spoil
probe_spoil:
        ldmxcsr mxcsr_spoilt(%rip)
        fldcw   fcw_spoilt(%rip)
        pushq   $0x40400                /* AC, DF */
        popfq
        xorl    %edi, %edi
        jmp     leave_keeping_flags

leave_keeping_flags:
        movq    host_rsp(%rip), %rsp
        movq    host_rbp(%rip), %rbp
        movq    host_return(%rip), %rbx
        movl    $4, %eax
        jmp     probe_stub

        .globl  probe_eexit_elsewhere
        .hidden probe_eexit_elsewhere
probe_eexit_elsewhere:
        movq    host_rsp(%rip), %rsp
        movq    host_rbp(%rip), %rbp
        leaq    probe_entry(%rip), %rbx
        movl    $4, %eax
        jmp     probe_stub

        .globl  probe_eexit_stack
        .hidden probe_eexit_stack
probe_eexit_stack:
        movq    host_return(%rip), %rbx
        movl    $4, %eax
        jmp     probe_stub

        .balign 4096
        .globl  probe_code_page
        .hidden probe_code_page
probe_code_page:                        /* a page of code without the stub */
        .fill   4096, 1, 0xcc

        .section .rodata, "a", @progbits
        .balign 4
mxcsr_default: .long 0x1f80
mxcsr_spoilt:  .long 0x7f80             /* round toward zero */
fcw_spoilt:    .word 0x007f             /* single precision */

        .bss
        .balign 16
        .globl  probe_entry_state
        .hidden probe_entry_state
probe_entry_state: .skip 64
host_rsp:       .skip 8
host_rbp:       .skip 8
host_return:    .skip 8
saved_rbx:      .skip 8
saved_rcx:      .skip 8
saved_rsp:      .skip 8

        .section .note.GNU-stack, "", @progbits
