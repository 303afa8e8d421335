#include "untrusted/sgx/elrange.h"

#include <errno.h>
#include <linux/prctl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>

#include "untrusted/host/log.h"

#define PLACES_SIZE  (UINT64_C(3) << 40) /* below them are the shadows of the sanitizers */
#define PLACES_START (ELRANGE_LIMIT - PLACES_SIZE)
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

/*
 * Dispatch lets through what comes from one range of addresses: here, everything above the enclaves. The kernel looks at
 * the address behind the instruction, which may be the limit itself.
 */
struct err elrange_confine_thread(void)
{
    const uint64_t first = ELRANGE_LIMIT + 1;
    const struct sigaction killing = {.sa_handler = SIG_DFL};
    ENSURE(sigaction(SIGSYS, &killing, NULL) == 0, SANDBOX);
    if (prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, first, UINT64_MAX - first, 0) == 0) return OK;
    log_line(LOG_LEVEL_ERROR,
             "system calls of an enclave cannot be caught (%s): the software device wants Linux 5.11, "
             "and a sandbox around it that allows prctl PR_SET_SYSCALL_USER_DISPATCH",
             strerror(errno));
    return FAIL(SANDBOX);
}
