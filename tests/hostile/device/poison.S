/* software_gate_enter, with flags of the test's choice: linked before the real one (--wrap). */
        .text
        .globl  __wrap_software_gate_enter
        .type   __wrap_software_gate_enter, @function
__wrap_software_gate_enter:
        pushq   %rbx
        pushfq
        movq    (%rsp), %rbx
        movq    poison_flags(%rip), %rax
        orq     %rax, (%rsp)
        popfq
        call    __real_software_gate_enter
        pushfq
        popq    poison_flags_after(%rip)
        pushq   %rbx
        popfq
        popq    %rbx
        ret
        .size   __wrap_software_gate_enter, . - __wrap_software_gate_enter

        .bss
        .balign 8
        .globl  poison_flags
poison_flags: .skip 8
        .globl  poison_flags_after
poison_flags_after: .skip 8

        .section .note.GNU-stack, "", @progbits
