/* The identity of an enclave image, for people and for programs. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "base/err.h"
#include "untrusted/cli/explain.h"
#include "untrusted/sgx/image.h"

struct identity_of_image {
    uint8_t mrenclave[SGX_HASH_SIZE];
    uint8_t mrsigner[SGX_HASH_SIZE];
};

/*
 * Checks that every SIGSTRUCT verifies, that all are one signer's word about one enclave, and that its ENCLAVEHASH is
 * what the pages give. ERR_SGX_*; ERR_IMAGE_FORMAT if the SIGSTRUCTs contradict each other.
 */
struct err show_check(const struct image *image, const char *path, struct identity_of_image *out_identity,
                      struct explanation *why);

/* Prints what show_check accepted. Whether it arrived is for the owner of out to find out. */
void show_print(const struct image *image, const struct identity_of_image *identity, bool json, FILE *out);
