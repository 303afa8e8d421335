/* Writing effects (abi/call.h). */
#pragma once

#include "abi/call.h"
#include "base/bytes.h"

/* Writes an effect's header and reserves its payload of size bytes, which the caller fills. ERR_NO_SPACE. */
static inline struct err effect_begin(struct writer *out, uint32_t kind, size_t size, struct writer *out_payload)
{
    uint8_t *payload = NULL;
    size_t padded = (size + CALL_ALIGNMENT - 1) / CALL_ALIGNMENT * CALL_ALIGNMENT;
    TRY(write_u32(out, kind));
    TRY(write_u32(out, (uint32_t)size));
    TRY(write_zeros(out, padded, &payload));
    *out_payload = writer_of(payload, size);
    return OK;
}
