#include "trusted/runtime/panic.h"

#include "base/err.h"
#include "base/memory.h"
#include "trusted/runtime/heap.h"

/* entry.S */
extern uint32_t enclave_dead;
_Noreturn void enclave_leave(uint64_t code, uint64_t size);

_Noreturn void panic(enum panic_event event)
{
    enclave_dead = 1;
    heap_wipe();
    enclave_leave(ERR_ENCLAVE_DEAD, event);
}

/* GCC calls it when the canary of a frame has changed. */
_Noreturn void __stack_chk_fail(void);

_Noreturn void __stack_chk_fail(void)
{
    panic(PANIC_STACK);
}
