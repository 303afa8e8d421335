/*
 * What libtpms takes for its hardware entropy source (_plat__GetEntropy; TPM 2.0 Library, Part 4, "Entropy.c").
 *
 * libtpms' own asks libcrypto, and where that fails goes on with the C library's rand(). This one fails closed: it is
 * libcrypto's generator, which the processor's RDRAND seeds, or it is the end of the enclave. The linker puts it in the
 * other's place (--wrap).
 */
#include <stdint.h>

#include <openssl/rand.h>

#include "trusted/runtime/panic.h"

int32_t __wrap__plat__GetEntropy(uint8_t *entropy, uint32_t amount);

/* amount 0 announces a start-up and asks for nothing. Returns the bytes written. */
int32_t __wrap__plat__GetEntropy(uint8_t *entropy, uint32_t amount)
{
    if (amount > INT32_MAX) panic(PANIC_INVARIANT);
    if (amount > 0 && RAND_bytes(entropy, (int)amount) != 1) panic(PANIC_ENTROPY);
    return (int32_t)amount;
}
