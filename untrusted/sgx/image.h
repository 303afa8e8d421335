/*
 * The enclave image file: what the loader adds page by page, and who signed it.
 *
 * Guarantees: an image that image_parse() accepted has every offset and size inside the file and
 * inside ELRANGE, segments that neither overlap nor wrap, and permissions that EADD accepts; content lies in the order
 * of the segments, without gaps; pages that are not measured are writable zero pages; every TCS is measured, there is
 * one at least, and its entry lies in code.
 * It does not guarantee that anybody trustworthy signed it: that is what EINIT and whoever reads
 * MRENCLAVE and MRSIGNER decide.
 *
 *   file, all integers little-endian
 *     0 x 1000  header page
 *       0  u8[8]  magic "VTPMIMG\0"
 *       8  u32    format = 1
 *      12  u32    number of SIGSTRUCTs, 1 to 4: one for each XFRM that the signer allows. Each
 *                 masks every bit of ATTRIBUTES, and all have the same ENCLAVEHASH.
 *      16  u64    size of the file, bytes
 *      24  u64    SECS.SIZE
 *      32  u32    SECS.SSAFRAMESIZE, pages
 *      36  u32    SECS.MISCSELECT
 *      40  u64    SECS.ATTRIBUTES.FLAGS
 *      48  u64    offset in ELRANGE of the page that begins with the ENCLU stub
 *      56  u32    number of segments, 1 to 48
 *      60  u32    0
 *      64  segments, 40 bytes each, in the order in which they are added and measured
 *            0  u64  offset in ELRANGE       page-aligned
 *            8  u64  size, bytes             multiple of a page
 *           16  u64  offset in the file      page-aligned; 0: the pages are zero
 *           24  u64  SECINFO.FLAGS
 *           32  u64  bit 0: measured by EEXTEND; bit 1: public, never holds a secret
 *       the rest is zero
 *     1000 x (1 + i)  SIGSTRUCT i, zeros up to the end of the page
 *     then            the content of the segments
 */
#pragma once

#include <stdbool.h>

#include "abi/sgx.h"
#include "base/err.h"
#include "base/span.h"

#define IMAGE_MAGIC            "VTPMIMG" /* with its NUL: 8 bytes */
#define IMAGE_FORMAT           1u
#define IMAGE_SIGNATURES_MAX   4u
#define IMAGE_SEGMENTS_MAX     48u
#define IMAGE_SEGMENTS_OFFSET  64u
#define IMAGE_SEGMENT_SIZE     40u
#define IMAGE_SEGMENT_MEASURED UINT64_C(1)
#define IMAGE_SEGMENT_PUBLIC   UINT64_C(2)
#define IMAGE_SIZE_MAX         (64u * 1024u * 1024u)

/* The filter that keeps system calls out of ELRANGE compares 32 bits, so ELRANGE may not be larger. */
#define IMAGE_ELRANGE_MAX      (UINT64_C(1) << 32)

/* The 64 bytes at the head of the stub page: "enclu; ret" filled up with int3. */
#define IMAGE_STUB_SIZE        64u
extern const uint8_t image_stub[IMAGE_STUB_SIZE];

struct image_segment {
    uint64_t offset;      /* in ELRANGE, bytes */
    uint64_t size;        /* bytes */
    uint64_t file_offset; /* bytes; 0: zero pages */
    uint64_t secinfo_flags;
    bool measured;
    bool public;
};

struct image {
    struct span file; /* the whole file */
    uint64_t size;    /* SECS.SIZE */
    uint32_t ssaframesize;
    uint32_t miscselect;
    uint64_t attributes_flags;
    uint64_t stub_offset;
    uint32_t signature_count;
    struct sgx_sigstruct signatures[IMAGE_SIGNATURES_MAX];
    uint32_t segment_count;
    struct image_segment segments[IMAGE_SEGMENTS_MAX];
};

/*
 * Parses and checks a whole image file. The bytes stay the caller's and must not change while
 * out_image is used: map them from a sealed descriptor. ERR_IMAGE_*.
 */
struct err image_parse(struct span file, struct image *out_image);

/* The content of a page of a segment, or NULL when the page is zero. offset is in the segment, bytes. */
const uint8_t *image_page(const struct image *image, const struct image_segment *segment, uint64_t offset);

/* The SECS that the image asks for at base, with the XFRM of signature index. Sizes and offsets as ECREATE wants. */
void image_secs(const struct image *image, uint32_t signature_index, uint64_t base, struct sgx_secs *out_secs);

/*
 * The signature whose XFRM is the largest subset of host_xcr0. ERR_IMAGE_NO_XFRM.
 */
struct err image_select_signature(const struct image *image, uint64_t host_xcr0, uint32_t *out_index);
