#include "untrusted/sgx/priming.h"

#include <cpuid.h>
#include <sys/random.h>

#include "abi/call.h"
#include "base/memory.h"

/* In the layout of OPENSSL_ia32cap(3). */
static struct err write_capability_hints(struct writer *w)
{
    unsigned a = 0, b = 0, c = 0, d = 0;
    unsigned words[4] = {0};
    if (__get_cpuid(1, &a, &b, &c, &d)) {
        words[0] = d;
        words[1] = c;
    }
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        words[2] = b;
        words[3] = c;
    }
    for (size_t i = 0; i < 4; i++)
        TRY(write_u32(w, words[i]));
    return OK;
}

struct err priming_write(struct writer *w)
{
    uint8_t entropy[HOST_ENTROPY_SIZE];
    TRY(write_capability_hints(w));
    ENSURE(getrandom(entropy, sizeof entropy, 0) == (ssize_t)sizeof entropy, SYSTEM);
    struct err result = write_bytes(w, entropy, sizeof entropy);
    wipe(entropy, sizeof entropy);
    return result;
}
