# The smallest enclave that has every part: stub, code, constants, relocated constants, data, bss.
        .section .enclave.stub, "ax", @progbits
stub:   .byte   0x0f, 0x01, 0xd7, 0xc3
        .fill   60, 1, 0xcc

        .text
        .globl  entry
        .hidden entry
entry:  leaq    counter(%rip), %rax
        ret

        .section .rodata, "a", @progbits
text:   .asciz  "constants"

        .section .data.rel.ro, "aw", @progbits
        .balign 8
        .quad   text
        .quad   entry

        .data
        .balign 8
        .quad   counter
        .quad   0x1122334455667788

        .bss
        .balign 8
counter: .skip  8192

        .section .note.GNU-stack, "", @progbits
