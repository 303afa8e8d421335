/*
 * The enclave's pages in this process.
 *
 * Guarantees: no page is writable and executable; code is mapped shared from sealed memory, so no interface of the
 * kernel writes it; what may hold a secret is secret memory whose descriptor is closed; a page that was not added, and
 * a TCS, faults; a forked child has nothing of it.
 */
#pragma once

#include <stdbool.h>

#include "base/err.h"
#include "untrusted/sgx/device.h"

struct software_map {
    uint64_t base; /* of ELRANGE */
    uint64_t size;
    int image_fd; /* sealed; not owned */
    bool ordinary_memory;
};

/*
 * Maps every run with its final permissions and copies the content of the writable ones. ERR_SGX_SECINFO (a page
 * writable and executable), ERR_IMAGE_SEGMENT, ERR_NO_SECRET_MEMORY, ERR_MEMLOCK, ERR_NO_MEMORY.
 */
struct err software_map_runs(const struct software_map *map, const struct device_pages *runs, size_t count);

/*
 * Replaces the page at address, which begins with the ENCLU stub, by a copy whose stub jumps to target. file_offset is
 * the page's in the image. ERR_IMAGE_STUB.
 */
struct err software_map_stub(const struct software_map *map, uint64_t address, uint64_t file_offset,
                             void (*target)(void));

/* Wipes and unmaps. */
void software_map_remove(const struct software_map *map, const struct device_pages *runs, size_t count);
