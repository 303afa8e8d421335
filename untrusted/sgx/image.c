/*
 * The enclave image parser. What it guarantees stands in the header; the checks follow the file from front
 * to back: header, signatures, segments, then what needs all segments (overlap, thread, stub).
 *
 * The content of the segments lies in the file in their order and without a gap, so no byte of a file that
 * was accepted is without a meaning. Whether EINIT will accept a SIGSTRUCT is not decided here.
 */
#include "untrusted/sgx/image.h"

#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"

#define XSAVE_LEGACY_SIZE 576u /* legacy part and header: standard format, SDM volume 1, 13.4 */
#define MISC_EXINFO       UINT32_C(1)
#define MISC_EXINFO_SIZE  16u

#define FLAGS_KNOWN                                                                                                    \
    (SGX_FLAGS_DEBUG | SGX_FLAGS_MODE64BIT | SGX_FLAGS_PROVISIONKEY | SGX_FLAGS_EINITTOKENKEY | SGX_FLAGS_CET |        \
     SGX_FLAGS_KSS | SGX_FLAGS_AEXNOTIFY)
#define XFRM_KNOWN (SGX_XFRM_LEGACY | SGX_XFRM_AVX | SGX_XFRM_MPX | SGX_XFRM_AVX512 | SGX_XFRM_PKRU | SGX_XFRM_AMX)
#define SECINFO_RW (SGX_SECINFO_REG | SGX_SECINFO_R | SGX_SECINFO_W)
#define SECINFO_RX (SGX_SECINFO_REG | SGX_SECINFO_R | SGX_SECINFO_X)

/* enclu; ret */
const uint8_t image_stub[IMAGE_STUB_SIZE] = {
    0x0F, 0x01, 0xD7, 0xC3, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC,
    0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC,
    0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC,
    0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC,
};

/* Where each extended component ends in an XSAVE area of the standard format (SDM volume 1, 13.4.3) */
static const struct {
    uint64_t xfrm;
    uint32_t end; /* bytes */
} components[] = {
    {SGX_XFRM_AVX, 832}, {SGX_XFRM_MPX, 1088}, {SGX_XFRM_AVX512, 2688}, {SGX_XFRM_PKRU, 2696}, {SGX_XFRM_AMX, 11008},
};

static bool page_aligned(uint64_t value)
{
    return value % SGX_PAGE_SIZE == 0;
}

static bool all_zero(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (data[i]) return false;
    return true;
}

static bool all_or_none(uint64_t xfrm, uint64_t bits)
{
    return (xfrm & bits) == 0 || (xfrm & bits) == bits;
}

/* What XSETBV would accept (SDM volume 1, 13.3) */
static bool xfrm_legal(uint64_t xfrm)
{
    if ((xfrm & SGX_XFRM_LEGACY) != SGX_XFRM_LEGACY || xfrm & ~XFRM_KNOWN) return false;
    if ((xfrm & SGX_XFRM_AVX512) && !(xfrm & SGX_XFRM_AVX)) return false;
    return all_or_none(xfrm, SGX_XFRM_MPX) && all_or_none(xfrm, SGX_XFRM_AVX512) && all_or_none(xfrm, SGX_XFRM_AMX);
}

/* Bytes of an SSA frame: XSAVE area, MISC, GPRSGX */
static uint64_t ssa_frame_size(uint64_t xfrm, uint32_t miscselect)
{
    uint64_t size = XSAVE_LEGACY_SIZE;
    for (size_t i = 0; i < sizeof components / sizeof *components; i++)
        if (xfrm & components[i].xfrm && size < components[i].end) size = components[i].end;
    if (miscselect & MISC_EXINFO) size += MISC_EXINFO_SIZE;
    return size + sizeof(struct sgx_gprsgx);
}

/* A file that has not even the magic is some other file, however short it is. */
static struct err check_frame(struct span file)
{
    ENSURE(file.size >= sizeof IMAGE_MAGIC, IMAGE_MAGIC);
    ENSURE(memcmp(file.data, IMAGE_MAGIC, sizeof IMAGE_MAGIC) == 0, IMAGE_MAGIC);
    ENSURE(page_aligned(file.size) && file.size <= IMAGE_SIZE_MAX,
           IMAGE_FORMAT); /* it is not empty: one page at least */
    return OK;
}

static struct err parse_header(struct reader *r, struct image *image)
{
    uint32_t format = 0, reserved = 0;
    uint64_t file_size = 0;
    struct span magic;
    TRY(read_span(r, sizeof IMAGE_MAGIC, &magic));
    TRY(read_u32(r, &format));
    TRY(read_u32(r, &image->signature_count));
    TRY(read_u64(r, &file_size));
    TRY(read_u64(r, &image->size));
    TRY(read_u32(r, &image->ssaframesize));
    TRY(read_u32(r, &image->miscselect));
    TRY(read_u64(r, &image->attributes_flags));
    TRY(read_u64(r, &image->stub_offset));
    TRY(read_u32(r, &image->segment_count));
    TRY(read_u32(r, &reserved));
    ENSURE(format == IMAGE_FORMAT && reserved == 0 && file_size == image->file.size, IMAGE_FORMAT);
    ENSURE(image->signature_count >= 1 && image->signature_count <= IMAGE_SIGNATURES_MAX, IMAGE_FORMAT);
    ENSURE(image->segment_count >= 1 && image->segment_count <= IMAGE_SEGMENTS_MAX, IMAGE_FORMAT);
    ENSURE(image->size >= SGX_SIZE_MIN && image->size <= IMAGE_ELRANGE_MAX, IMAGE_FORMAT);
    ENSURE((image->size & (image->size - 1)) == 0, IMAGE_FORMAT);
    ENSURE((image->miscselect & ~MISC_EXINFO) == 0, IMAGE_FORMAT);
    ENSURE((image->attributes_flags & ~FLAGS_KNOWN) == 0, IMAGE_FORMAT);
    ENSURE(image->attributes_flags & SGX_FLAGS_MODE64BIT, IMAGE_FORMAT);
    return OK;
}

static struct err check_signature(const struct image *image, uint32_t index)
{
    const struct sgx_sigstruct *s = &image->signatures[index];
    ENSURE(s->ATTRIBUTEMASK.FLAGS == UINT64_MAX && s->ATTRIBUTEMASK.XFRM == UINT64_MAX, IMAGE_FORMAT);
    ENSURE(memcmp(s->ENCLAVEHASH, image->signatures[0].ENCLAVEHASH, SGX_HASH_SIZE) == 0, IMAGE_FORMAT);
    ENSURE(xfrm_legal(s->ATTRIBUTES.XFRM), IMAGE_FORMAT);
    uint64_t frame = ssa_frame_size(s->ATTRIBUTES.XFRM, image->miscselect);
    ENSURE(frame <= (uint64_t)image->ssaframesize * SGX_PAGE_SIZE, IMAGE_FORMAT);
    for (uint32_t i = 0; i < index; i++)
        ENSURE(s->ATTRIBUTES.XFRM != image->signatures[i].ATTRIBUTES.XFRM, IMAGE_FORMAT);
    return OK;
}

static struct err parse_signatures(struct image *image)
{
    ENSURE(image->file.size / SGX_PAGE_SIZE >= 1 + (uint64_t)image->signature_count, IMAGE_FORMAT);
    for (uint32_t i = 0; i < image->signature_count; i++) {
        const uint8_t *page = image->file.data + (1 + (size_t)i) * SGX_PAGE_SIZE;
        memcpy(&image->signatures[i], page, sizeof image->signatures[i]);
        ENSURE(all_zero(page + sizeof *image->signatures, SGX_PAGE_SIZE - sizeof *image->signatures), IMAGE_FORMAT);
        TRY(check_signature(image, i));
    }
    return OK;
}

/*
 * What EADD accepts, and no more than an enclave needs: no page both writable and executable; nothing that
 * the enclave could trust in a page that MRENCLAVE does not cover.
 */
static struct err check_permissions(const struct image_segment *segment)
{
    uint64_t flags = segment->secinfo_flags;
    if (flags == SGX_SECINFO_TCS) {
        ENSURE(segment->measured, IMAGE_SEGMENT);
        return OK;
    }
    ENSURE((flags & SGX_SECINFO_TYPE_MASK) == SGX_SECINFO_REG, IMAGE_SEGMENT);
    ENSURE((flags & ~(SECINFO_RW | SGX_SECINFO_X)) == 0 && flags & SGX_SECINFO_R, IMAGE_SEGMENT);
    ENSURE(!(flags & SGX_SECINFO_W && flags & SGX_SECINFO_X), IMAGE_SEGMENT);
    if (!segment->measured) ENSURE(flags == SECINFO_RW && segment->file_offset == 0, IMAGE_SEGMENT);
    return OK;
}

/*
 * content_end: where the content of the segments before this one ends in the file. It cannot wrap, because no segment
 * is larger than ELRANGE; whether it is inside the file is checked behind the last segment, before anybody reads
 * content.
 */
static struct err parse_segment(struct reader *r, const struct image *image, uint64_t *content_end,
                                struct image_segment *segment)
{
    uint64_t flags = 0, end = 0;
    TRY(read_u64(r, &segment->offset));
    TRY(read_u64(r, &segment->size));
    TRY(read_u64(r, &segment->file_offset));
    TRY(read_u64(r, &segment->secinfo_flags));
    TRY(read_u64(r, &flags));
    ENSURE((flags & ~(IMAGE_SEGMENT_MEASURED | IMAGE_SEGMENT_PUBLIC)) == 0, IMAGE_SEGMENT);
    segment->measured = flags & IMAGE_SEGMENT_MEASURED;
    segment->public = flags & IMAGE_SEGMENT_PUBLIC;
    ENSURE(page_aligned(segment->offset) && page_aligned(segment->size) && segment->size > 0, IMAGE_SEGMENT);
    ENSURE(checked_add(segment->offset, segment->size, &end) && end <= image->size, IMAGE_SEGMENT);
    if (segment->file_offset != 0) {
        ENSURE(segment->file_offset == *content_end, IMAGE_SEGMENT);
        *content_end += segment->size;
    }
    return check_permissions(segment);
}

static struct err parse_segments(struct reader *r, struct image *image)
{
    uint64_t content_end = (1 + (uint64_t)image->signature_count) * SGX_PAGE_SIZE;
    for (uint32_t i = 0; i < image->segment_count; i++) {
        struct image_segment *segment = &image->segments[i];
        TRY(parse_segment(r, image, &content_end, segment));
        for (uint32_t j = 0; j < i; j++) {
            const struct image_segment *other = &image->segments[j];
            bool apart =
                segment->offset >= other->offset + other->size || other->offset >= segment->offset + segment->size;
            ENSURE(apart, IMAGE_SEGMENT);
        }
    }
    ENSURE(content_end == image->file.size, IMAGE_SEGMENT);
    ENSURE(all_zero(r->next, r->left), IMAGE_FORMAT);
    return OK;
}

/* The segment that holds the byte at offset in ELRANGE, or NULL */
static const struct image_segment *segment_at(const struct image *image, uint64_t offset)
{
    for (uint32_t i = 0; i < image->segment_count; i++) {
        const struct image_segment *segment = &image->segments[i];
        if (offset >= segment->offset && offset - segment->offset < segment->size) return segment;
    }
    return NULL;
}

/* The SSA frames must lie wholly in pages that AEX can write (EENTER "Operation"). */
static struct err check_ssa(const struct image *image, const struct sgx_tcs *tcs)
{
    uint64_t pages = (uint64_t)tcs->NSSA * image->ssaframesize;
    ENSURE(pages >= 1 && pages <= image->size / SGX_PAGE_SIZE, IMAGE_SEGMENT);
    uint64_t position = tcs->OSSA;
    uint64_t end = 0;
    ENSURE(checked_add(position, pages * SGX_PAGE_SIZE, &end), IMAGE_SEGMENT);
    while (position < end) {
        const struct image_segment *segment = segment_at(image, position);
        ENSURE(segment && segment->secinfo_flags == SECINFO_RW, IMAGE_SEGMENT);
        position = segment->offset + segment->size;
    }
    return OK;
}

/*
 * EADD clears STATE, CSSA, AEP and DBGOPTIN in its copy, so a file that sets one of them would be measured
 * as other bytes than it holds; EENTER checks the rest.
 */
static struct err check_tcs(const struct image *image, const uint8_t *page)
{
    struct sgx_tcs tcs;
    memcpy(&tcs, page, sizeof tcs);
    bool aex_notify = image->attributes_flags & SGX_FLAGS_AEXNOTIFY;
    ENSURE(tcs.STATE == 0 && tcs.CSSA == 0 && tcs.AEP == 0, IMAGE_SEGMENT);
    ENSURE(tcs.FLAGS == (aex_notify ? SGX_TCS_AEXNOTIFY : 0), IMAGE_SEGMENT);
    ENSURE(all_zero(tcs.reserved, sizeof tcs.reserved), IMAGE_SEGMENT);
    ENSURE(page_aligned(tcs.OSSA) && page_aligned(tcs.OFSBASE) && page_aligned(tcs.OGSBASE), IMAGE_SEGMENT);
    ENSURE(tcs.OFSBASE < image->size && tcs.OGSBASE < image->size, IMAGE_SEGMENT);
    const struct image_segment *entry = segment_at(image, tcs.OENTRY);
    ENSURE(entry && entry->secinfo_flags == SECINFO_RX, IMAGE_SEGMENT);
    return check_ssa(image, &tcs);
}

static struct err check_threads(const struct image *image)
{
    bool found = false;
    for (uint32_t i = 0; i < image->segment_count; i++) {
        const struct image_segment *segment = &image->segments[i];
        if (segment->secinfo_flags != SGX_SECINFO_TCS) continue;
        found = true;
        for (uint64_t offset = 0; offset < segment->size; offset += SGX_PAGE_SIZE) {
            const uint8_t *page = image_page(image, segment, offset);
            ENSURE(page, IMAGE_SEGMENT);
            TRY(check_tcs(image, page));
        }
    }
    ENSURE(found, IMAGE_SEGMENT);
    return OK;
}

static struct err check_stub(const struct image *image)
{
    const struct image_segment *segment = segment_at(image, image->stub_offset);
    ENSURE(page_aligned(image->stub_offset) && segment && segment->secinfo_flags == SECINFO_RX, IMAGE_STUB);
    const uint8_t *page = image_page(image, segment, image->stub_offset - segment->offset);
    ENSURE(page && memcmp(page, image_stub, sizeof image_stub) == 0, IMAGE_STUB);
    return OK;
}

struct err image_parse(struct span file, struct image *out_image)
{
    TRY(check_frame(file));
    struct image image = {.file = file};
    struct reader r = reader_of(span_of(file.data, SGX_PAGE_SIZE));
    TRY(parse_header(&r, &image));
    TRY(parse_signatures(&image));
    TRY(parse_segments(&r, &image));
    TRY(check_threads(&image));
    TRY(check_stub(&image));
    *out_image = image;
    return OK;
}

const uint8_t *image_page(const struct image *image, const struct image_segment *segment, uint64_t offset)
{
    if (segment->file_offset == 0) return NULL;
    return image->file.data + segment->file_offset + offset;
}

void image_secs(const struct image *image, uint32_t signature_index, uint64_t base, struct sgx_secs *out_secs)
{
    *out_secs = (struct sgx_secs){
        .SIZE = image->size,
        .BASEADDR = base,
        .SSAFRAMESIZE = image->ssaframesize,
        .MISCSELECT = image->miscselect,
        .ATTRIBUTES = {.FLAGS = image->attributes_flags, .XFRM = image->signatures[signature_index].ATTRIBUTES.XFRM},
    };
}

struct err image_select_signature(const struct image *image, uint64_t host_xcr0, uint32_t *out_index)
{
    int best = 0;
    uint32_t index = 0;
    for (uint32_t i = 0; i < image->signature_count; i++) {
        uint64_t xfrm = image->signatures[i].ATTRIBUTES.XFRM;
        if (xfrm & ~host_xcr0 || __builtin_popcountll(xfrm) <= best) continue;
        best = __builtin_popcountll(xfrm);
        index = i;
    }
    ENSURE(best > 0, IMAGE_NO_XFRM);
    *out_index = index;
    return OK;
}
