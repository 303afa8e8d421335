/*
 * trusted/runtime for programs of an ordinary process: a processor with a fixed secret that a test can change, so that
 * it can play another device, another image or newer firmware.
 */
#pragma once

#include <stdint.h>
#include <time.h>

#include "abi/sgx.h"

struct fake_processor {
    uint8_t secret[16];
    uint8_t CPUSVN[16];
    uint8_t MRENCLAVE[SGX_HASH_SIZE];
    uint64_t XFRM;
    uint16_t ISVSVN;
    uint16_t ISVPRODID;
};

/* What EREPORT and EGETKEY answer from. */
extern struct fake_processor fake_processor;

/*
 * Puts the MAC on a REPORT for target, whatever it says: what this processor would answer to an enclave of any
 * identity. EREPORT does it for the identity in fake_processor; EGETKEY gives that identity the REPORT key, and SEAL
 * keys.
 */
void fake_report_mac(const struct sgx_targetinfo *target, struct sgx_report *report);

/* How often cpuid_set_hints was called, and with what last. */
struct fake_hints {
    unsigned calls;
    uint32_t hints[4];
    uint64_t xfrm;
};
extern struct fake_hints fake_hints;

/* As they are when the program starts; the clock goes back to 0, which only a test can do. */
void fake_runtime_reset(void);

/* With -Wl,--wrap=clock_gettime: libtpms' time is clock_now(), as in the enclave. */
int __wrap_clock_gettime(clockid_t clock, struct timespec *out);
