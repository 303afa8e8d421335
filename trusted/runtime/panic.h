/* The end of an enclave whose own invariants are broken. */
#pragma once

#include <stdint.h>

/* Numbers of the places that panic; the host sees the number in EEXIT's RSI and nothing else. */
enum panic_event {
    PANIC_RELOCATION = 2, /* the image's own relocation table is malformed */
    PANIC_ENTROPY,        /* RDRAND fails or repeats itself */
    PANIC_HEAP_OVERRUN,   /* a guard behind a heap block was overwritten */
    PANIC_HEAP_FREE,      /* double free, or free of what the heap never gave */
    PANIC_STACK,          /* __stack_chk_fail */
    PANIC_ABORT,          /* a library called abort() or failed an assertion */
    PANIC_LIBC,           /* a library called something of libc that has no meaning in an enclave */
    PANIC_INVARIANT,      /* one of our own conditions does not hold */
};

/* Wipes the heap and the caller's registers, marks the enclave dead and leaves it for good. Later entries are refused.
 */
_Noreturn void panic(enum panic_event event);
