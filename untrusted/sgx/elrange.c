#include "untrusted/sgx/elrange.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/random.h>

#define PLACES_START (UINT64_C(1) << 45)
#define PLACES_SIZE  (UINT64_C(1) << 45)
#define TRIES        8u

struct err elrange_reserve(uint64_t size, uint64_t *out_base)
{
    for (unsigned int i = 0; i < TRIES; i++) {
        uint64_t random = 0;
        ENSURE(getrandom(&random, sizeof random, 0) == sizeof random, SYSTEM);
        uint64_t base = PLACES_START + (random % PLACES_SIZE & ~(size - 1));
        void *start = mmap((void *)base, size, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        if (start == MAP_FAILED && errno == EEXIST) continue; /* another enclave's */
        ENSURE(start != MAP_FAILED, NO_MEMORY);
        *out_base = base;
        return OK;
    }
    return FAIL(NO_MEMORY);
}
