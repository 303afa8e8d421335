/* Arithmetic that reports its overflow. The output is written only when the result is right. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

[[nodiscard]] static inline bool checked_add(uint64_t a, uint64_t b, uint64_t *out_sum)
{
    uint64_t sum = 0;
    if (__builtin_add_overflow(a, b, &sum)) return false;
    *out_sum = sum;
    return true;
}

/* Rounds value up to a multiple of alignment, which is a power of two. */
[[nodiscard]] static inline bool checked_align_up(uint64_t value, uint64_t alignment, uint64_t *out_aligned)
{
    uint64_t sum = 0;
    if (!checked_add(value, alignment - 1, &sum)) return false;
    *out_aligned = sum & ~(alignment - 1);
    return true;
}
