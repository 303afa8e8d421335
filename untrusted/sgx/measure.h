/* MRENCLAVE: the SHA-256 that ECREATE, EADD and EEXTEND build up (SDM volume 3D, 38.1 "Enclave measurement"). */
#pragma once

#include <stdbool.h>

#include "abi/sgx.h"
#include "base/err.h"
#include "untrusted/sgx/image.h"

struct measurement; /* a running SHA-256 (EVP_MD_CTX); opened by measurement_create */

/* ECREATE. The caller ends it with measurement_close. ERR_CRYPTO. */
struct err measurement_create(uint32_t ssaframesize, uint64_t size, struct measurement **out_measurement);
/* EADD of one page; secinfo_flags are those after EADD cleared a TCS' permissions. */
struct err measurement_add(struct measurement *m, uint64_t offset, uint64_t secinfo_flags);
/* The sixteen EEXTENDs of one page. content is 4096 bytes. */
struct err measurement_extend_page(struct measurement *m, uint64_t offset, const uint8_t *content);
/* EINIT's end of the hash. */
struct err measurement_finish(struct measurement *m, uint8_t out_mrenclave[SGX_HASH_SIZE]);
void measurement_close(struct measurement **m);

/* MRENCLAVE of an image's segments. */
struct err measure_image(const struct image *image, uint8_t out_mrenclave[SGX_HASH_SIZE]);
