/* Bytes of a published vector, as it is printed. */
#pragma once

#include <stdio.h>
#include <string.h>

#include "base/span.h"

/* out has room for half of text's characters. */
static inline struct span from_hex(const char *text, uint8_t *out)
{
    size_t size = strlen(text) / 2;
    for (size_t i = 0; i < size; i++) {
        unsigned byte = 0;
        if (sscanf(text + 2 * i, "%2x", &byte) != 1) return span_empty();
        out[i] = (uint8_t)byte;
    }
    return span_of(out, size);
}
