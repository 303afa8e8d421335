/* An image file in the making: header and content are there, the places of the SIGSTRUCTs are filled in one by one. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "untrusted/cli/explain.h"
#include "untrusted/cli/layout.h"
#include "untrusted/sgx/image.h"

/* What every enclave of this project asks for */
#define DRAFT_FLAGS        SGX_FLAGS_MODE64BIT
#define DRAFT_MISCSELECT   0u
#define DRAFT_SSAFRAMESIZE 1u

struct draft {
    struct image image; /* what the file describes, the SIGSTRUCTs too once they are set; its span is the whole file */
    uint8_t *data;
};

/* Writes layout as an image file for signature_count SIGSTRUCTs. Ended by draft_close. ERR_TOO_LARGE, ERR_NO_MEMORY. */
struct err draft_open(const struct layout *layout, uint32_t signature_count, struct draft *out_draft,
                      struct explanation *why);

void draft_set_signature(struct draft *draft, uint32_t index, const struct sgx_sigstruct *sigstruct);

void draft_close(struct draft *draft);
