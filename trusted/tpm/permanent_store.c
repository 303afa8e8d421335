/*
 * How libtpms' permanent state becomes bytes (TPM2_PersistentAllStore).
 *
 * libtpms' own allocates 277 KB for each commit and gives them back when it has used some kilobytes; the heap would
 * have to touch and wipe all of them. This one marshals into memory that only costs where it is written, and allocates
 * what the state needs. The linker puts it in the other's place (--wrap); the bytes are those of the same marshalling
 * function, and the room that it must find behind them is the same.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <libtpms/tpm_error.h>
#include <libtpms/tpm_types.h>

#include "abi/call.h"
#include "base/memory.h"

/* The marshalling functions do not report a lack of room: libtpms wants room for its largest part to be left over. */
#define LARGEST_PART (66 * 1024)

/* libtpms: writes at *buffer, moves it, takes what it wrote from *size; returns the bytes written. */
uint32_t PERSISTENT_ALL_Marshal(uint8_t **buffer, int32_t *size);

TPM_RESULT __wrap_TPM2_PersistentAllStore(unsigned char **out, uint32_t *out_size);

/* The caller frees *out. */
TPM_RESULT __wrap_TPM2_PersistentAllStore(unsigned char **out, uint32_t *out_size)
{
    static uint8_t scratch[STATE_MAX + LARGEST_PART];
    uint8_t *next = scratch;
    int32_t left = sizeof scratch;
    uint32_t written = PERSISTENT_ALL_Marshal(&next, &left);
    TPM_RESULT result = TPM_SIZE;
    unsigned char *copy = left >= LARGEST_PART ? malloc(written) : NULL;
    if (copy) {
        memcpy(copy, scratch, written);
        *out = copy;
        *out_size = written;
        result = TPM_SUCCESS;
    }
    wipe(scratch, written);
    return result;
}
