/* A TPM2_GetRandom that throws libtpms into failure mode. */
#pragma once

#include <stdint.h>

#define FAILING_RANDOM_SIZE 31u
