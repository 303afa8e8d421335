/*
 * TPM2_GetRandom of exactly this many bytes fails an assertion of libtpms, which throws it into failure mode. Link with
 * --wrap=CryptRandomGenerate.
 */
#include "tests/fakes/failing_tpm.h"

/* libtpms' own names */
_Noreturn void TpmFail(const char *function, int line, int code);
uint16_t __real_CryptRandomGenerate(uint16_t size, uint8_t *out);
uint16_t __wrap_CryptRandomGenerate(uint16_t size, uint8_t *out);

uint16_t __wrap_CryptRandomGenerate(uint16_t size, uint8_t *out)
{
    if (size == FAILING_RANDOM_SIZE) TpmFail(__func__, __LINE__, 1);
    return __real_CryptRandomGenerate(size, out);
}
