/* Places in the enclave image that enclave/enclave.ld names. */
#pragma once

#include <elf.h>
#include <stdint.h>

#define LINKER_SYMBOL extern __attribute__((visibility("hidden")))

LINKER_SYMBOL uint8_t enclave_base[];
LINKER_SYMBOL uint8_t enclave_end[]; /* behind the last page */
LINKER_SYMBOL const Elf64_Dyn enclave_dynamic[];
LINKER_SYMBOL uint8_t enclave_writable_start[]; /* relocated constants, data, bss */
LINKER_SYMBOL uint8_t enclave_writable_end[];
LINKER_SYMBOL uint8_t enclave_heap[]; /* not measured: the host chose its content */
LINKER_SYMBOL uint8_t enclave_heap_end[];
LINKER_SYMBOL uint8_t enclave_stack[];
LINKER_SYMBOL uint8_t enclave_stack_top[];
LINKER_SYMBOL uint8_t enclave_tls[];
