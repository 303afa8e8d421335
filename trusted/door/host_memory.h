/*
 * Host memory, seen from inside the enclave.
 *
 * Guarantees: nothing is read from or written to memory that is not wholly outside the enclave; each word of the host
 * is read once. Accesses are whole aligned words of 8 bytes, so that no stale data of the processor's buffers comes in
 * or goes out with them (CVE-2022-21233; CVE-2022-21166).
 */
#pragma once

#include <stdint.h>

#include "base/err.h"

/* An address that the host chose: the compiler will not dereference it. */
struct host_ptr {
    uintptr_t va;
};

#define HOST_WORD 8u

/*
 * ERR_CALL_ALIGNMENT unless va is a multiple of 8; ERR_CALL_RANGE unless [va, va + size) lies wholly outside the
 * enclave and does not wrap. A size of 0 is refused: there is no call without a record. Speculation ends here too.
 */
struct err host_range_check(struct host_ptr host, uint64_t size);

/* Copies size bytes, and up to the next multiple of 8 zeros, into to, which has room for them. The range was checked.
 */
void host_copy_in(void *to, struct host_ptr from, uint64_t size);

/* Copies size bytes to the host, and zeros up to the next multiple of 8. The range was checked with that multiple. */
void host_copy_out(struct host_ptr to, const void *from, uint64_t size);
