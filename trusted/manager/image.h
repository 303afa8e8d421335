/*
 * What is measured into this manager image besides its code (enclave/meson.build makes the definition; tests bring
 * their own).
 */
#pragma once

#include <stdint.h>

#include "abi/sgx.h"
#include "crypto/hash.h"

struct manager_image {
    uint8_t instance[SGX_HASH_SIZE];  /* MRENCLAVE of the instance image: the only one that is admitted */
    uint8_t release_key[SHA256_SIZE]; /* of the public key that signs manifests; zeros: none */
    uint32_t security_version;
};

const struct manager_image *manager_image(void);
