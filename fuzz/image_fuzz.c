/*
 * Any bytes as an enclave image file: the parser refuses them, or what it hands out is what image.h promises, down to
 * the last byte of every page.
 */
#include <stdlib.h>

#include "untrusted/sgx/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition) abort();
}

static void check_segment(const struct image *image, const struct image_segment *segment)
{
    require(segment->size > 0 && segment->size <= image->size && segment->offset <= image->size - segment->size);
    require(!(segment->secinfo_flags & SGX_SECINFO_W && segment->secinfo_flags & SGX_SECINFO_X));
    volatile uint8_t sum = 0;
    for (uint64_t offset = 0; segment->file_offset && offset < segment->size; offset += SGX_PAGE_SIZE) {
        const uint8_t *page = image_page(image, segment, offset);
        require(page >= image->file.data && page + SGX_PAGE_SIZE <= image->file.data + image->file.size);
        for (size_t i = 0; i < SGX_PAGE_SIZE; i++)
            sum = (uint8_t)(sum + page[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct image image;
    if (image_parse(span_of(data, size), &image).code != ERR_NONE) return 0;
    require(image.segment_count >= 1 && image.segment_count <= IMAGE_SEGMENTS_MAX);
    require(image.signature_count >= 1 && image.signature_count <= IMAGE_SIGNATURES_MAX);
    for (uint32_t i = 0; i < image.segment_count; i++) {
        check_segment(&image, &image.segments[i]);
        for (uint32_t j = 0; j < i; j++) {
            const struct image_segment *a = &image.segments[i], *b = &image.segments[j];
            require(a->offset + a->size <= b->offset || b->offset + b->size <= a->offset);
        }
    }
    uint32_t index = 0;
    struct sgx_secs secs;
    if (image_select_signature(&image, UINT64_MAX, &index).code == ERR_NONE) image_secs(&image, index, 0, &secs);
    require(index < image.signature_count);
    return 0;
}
