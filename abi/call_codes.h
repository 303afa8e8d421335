/* The err codes that assembly needs, asserted equal to base/err.h where C sees both. */
#pragma once

#define ERR_CODE_ENCLAVE_DEAD 21
