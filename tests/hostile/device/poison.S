/*
 * software_gate_enter, with flags and registers of the test's choice, and what the enclave left in registers: linked before the
 * real ones (--wrap).
 */
#define COMPONENTS 0xE7 /* x87, SSE, AVX, AVX-512 */

        .text
        .globl  __wrap_software_gate_enter
        .type   __wrap_software_gate_enter, @function
__wrap_software_gate_enter:
        pushq   %rbx
        pushq   %rbp
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        pushfq
        pushfq
        movq    poison_flags(%rip), %rax
        orq     %rax, (%rsp)
        cmpl    $0, poison_registers(%rip)
        je      1f
        movl    $COMPONENTS, %eax
        xorl    %edx, %edx
        xsave64 poison_host(%rip)
        xrstor64 poison_area(%rip)
        movabsq $0x5aa55aa55aa55aa5, %rbx
        movq    %rbx, %rbp
        movq    %rbx, %r11
        movq    %rbx, %r12
        movq    %rbx, %r13
        movq    %rbx, %r14
        movq    %rbx, %r15
1:      popfq
        call    __real_software_gate_enter
        pushfq
        popq    poison_flags_after(%rip)
        popfq
        cmpl    $0, poison_registers(%rip)
        je      2f
        movl    $COMPONENTS, %eax
        xorl    %edx, %edx
        xrstor64 poison_host(%rip)
2:      popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbp
        popq    %rbx
        ret
        .size   __wrap_software_gate_enter, . - __wrap_software_gate_enter

/* Where EEXIT arrives: RDI and RSI are results, RBX and RCX the way here, RSP and RBP the host's. */
        .globl  __wrap_software_gate_returned
        .type   __wrap_software_gate_returned, @function
__wrap_software_gate_returned:
        endbr64
        movq    %rdx, poison_left(%rip)
        movq    %r8, poison_left+8(%rip)
        movq    %r9, poison_left+16(%rip)
        movq    %r10, poison_left+24(%rip)
        movq    %r11, poison_left+32(%rip)
        movq    %r12, poison_left+40(%rip)
        movq    %r13, poison_left+48(%rip)
        movq    %r14, poison_left+56(%rip)
        movq    %r15, poison_left+64(%rip)
        movl    $COMPONENTS, %eax
        movq    %rdx, %r10
        xorl    %edx, %edx
        xsave64 poison_left_area(%rip)
        movq    %r10, %rdx
        jmp     __real_software_gate_returned
        .size   __wrap_software_gate_returned, . - __wrap_software_gate_returned

        .bss
        .balign 64
        .globl  poison_area
poison_area: .skip 4096
        .globl  poison_left_area
poison_left_area: .skip 4096
poison_host: .skip 4096
        .globl  poison_left
poison_left: .skip 72
        .globl  poison_flags
poison_flags: .skip 8
        .globl  poison_flags_after
poison_flags_after: .skip 8
        .globl  poison_registers
poison_registers: .skip 4

        .section .note.GNU-stack, "", @progbits
