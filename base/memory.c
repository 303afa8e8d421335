#include "base/memory.h"

#include <stdint.h>
#include <string.h>

void wipe(void *data, size_t size)
{
    if (size == 0) return;
    memset(data, 0, size);
    __asm__ volatile("" : : "r"(data) : "memory");
}

bool ct_equal(const void *a, const void *b, size_t size)
{
    const uint8_t *left = a;
    const uint8_t *right = b;
    uint8_t difference = 0;
    for (size_t i = 0; i < size; i++) {
        difference |= (uint8_t)(left[i] ^ right[i]);
        __asm__ volatile("" : "+r"(difference)); /* no early exit may be deduced */
    }
    return difference == 0;
}
