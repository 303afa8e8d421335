/* What lies where in an enclave: the pages that an ELF file asks for, before they are written as an image file. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct layout_page {
    uint64_t secinfo_flags; /* 0: there is no page, it guards its neighbours */
    bool measured;
    bool public;
};

struct layout {
    uint64_t size;        /* SECS.SIZE */
    uint64_t stub_offset; /* in ELRANGE, bytes */
    size_t page_count;    /* up to the last page that is there */
    struct layout_page *pages;
    uint8_t *content; /* page_count pages */
};

void layout_close(struct layout *layout);
