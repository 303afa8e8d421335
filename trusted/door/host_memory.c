#include "trusted/door/host_memory.h"

#include <string.h>

#include "base/checked.h"
#include "trusted/runtime/layout.h"

/* SECS.SIZE, which ECREATE measures: vtpm-sign makes it the power of two that holds the image. */
static uint64_t elrange_size(void)
{
    uint64_t used = (uint64_t)(enclave_end - enclave_base);
    return UINT64_C(1) << (64 - __builtin_clzll(used - 1));
}

struct err host_range_check(struct host_ptr host, uint64_t size)
{
    ENSURE(host.va % HOST_WORD == 0, CALL_ALIGNMENT);
    uint64_t end = 0;
    uint64_t rounded = 0;
    ENSURE(size > 0 && host.va != 0, CALL_RANGE);
    ENSURE(checked_align_up(size, HOST_WORD, &rounded) && checked_add(host.va, rounded, &end), CALL_RANGE);

    uintptr_t enclave = (uintptr_t)enclave_base;
    ENSURE(end <= enclave || host.va >= enclave + elrange_size(), CALL_RANGE);
    __builtin_ia32_lfence(); /* bounds check bypass: nothing is loaded from a range that was not accepted */
    return OK;
}

void host_copy_in(void *to, struct host_ptr from, uint64_t size)
{
    const volatile uint64_t *words = (const volatile uint64_t *)from.va;
    uint8_t *out = to;
    for (uint64_t done = 0; done < size; done += HOST_WORD) {
        uint64_t word = words[done / HOST_WORD];
        uint64_t left = size - done;
        if (left < HOST_WORD) word &= (UINT64_C(1) << (8 * left)) - 1;
        memcpy(out + done, &word, sizeof word);
    }
}

void host_copy_out(struct host_ptr to, const void *from, uint64_t size)
{
    volatile uint64_t *words = (volatile uint64_t *)to.va;
    const uint8_t *in = from;
    for (uint64_t done = 0; done < size; done += HOST_WORD) {
        uint64_t word = 0;
        uint64_t left = size - done;
        memcpy(&word, in + done, left < HOST_WORD ? left : HOST_WORD);
        words[done / HOST_WORD] = word;
    }
}
