/*
 * Guarantees: the same layout gives the same bytes. Segments come in ascending order; neighbouring pages of one kind
 * are one segment, and pages of zeros take no room in the file. It does not guarantee that the image is accepted:
 * whoever completes it parses it again.
 */
#include "untrusted/cli/draft.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

static bool page_has_content(const struct layout *layout, size_t index)
{
    const uint8_t *page = layout->content + index * SGX_PAGE_SIZE;
    for (size_t i = 0; i < SGX_PAGE_SIZE; i++)
        if (page[i]) return true;
    return false;
}

/* A segment of the one page; its content, if it has some, is placed at content_end in the file. */
static struct image_segment segment_of(const struct layout *layout, size_t index, uint64_t content_end)
{
    const struct layout_page *page = &layout->pages[index];
    return (struct image_segment){
        .offset = index * SGX_PAGE_SIZE,
        .size = SGX_PAGE_SIZE,
        .file_offset = page_has_content(layout, index) ? content_end : 0,
        .secinfo_flags = page->secinfo_flags,
        .measured = page->measured,
        .public = page->public,
    };
}

static bool joins(const struct image_segment *last, const struct image_segment *next)
{
    return last->offset + last->size == next->offset && last->secinfo_flags == next->secinfo_flags &&
           last->measured == next->measured && last->public == next->public &&
           (last->file_offset == 0) == (next->file_offset == 0);
}

/* Returns where the content ends in the file. */
static struct err make_segments(const struct layout *layout, struct image *image, uint64_t *out_content_end,
                                struct explanation *why)
{
    uint64_t content_end = (1 + (uint64_t)image->signature_count) * SGX_PAGE_SIZE;
    for (size_t i = 0; i < layout->page_count; i++) {
        if (layout->pages[i].secinfo_flags == 0) continue;
        struct image_segment next = segment_of(layout, i, content_end);
        if (next.file_offset) content_end += SGX_PAGE_SIZE;
        struct image_segment *last = image->segment_count ? &image->segments[image->segment_count - 1] : NULL;
        if (last && joins(last, &next)) {
            last->size += SGX_PAGE_SIZE;
            continue;
        }
        if (image->segment_count == IMAGE_SEGMENTS_MAX)
            return explain(why, FAIL(TOO_LARGE),
                           "the enclave changes its kind of page more than %u times (zero pages between others count); "
                           "link it so that equal pages lie together",
                           IMAGE_SEGMENTS_MAX);
        image->segments[image->segment_count++] = next;
    }
    *out_content_end = content_end;
    return OK;
}

static struct err write_segment(struct writer *w, const struct image_segment *segment)
{
    uint64_t flags = (segment->measured ? IMAGE_SEGMENT_MEASURED : 0) | (segment->public ? IMAGE_SEGMENT_PUBLIC : 0);
    TRY(write_u64(w, segment->offset));
    TRY(write_u64(w, segment->size));
    TRY(write_u64(w, segment->file_offset));
    TRY(write_u64(w, segment->secinfo_flags));
    return write_u64(w, flags);
}

static struct err write_header(uint8_t *page, const struct image *image)
{
    struct writer w = writer_of(page, SGX_PAGE_SIZE);
    TRY(write_bytes(&w, IMAGE_MAGIC, sizeof IMAGE_MAGIC));
    TRY(write_u32(&w, IMAGE_FORMAT));
    TRY(write_u32(&w, image->signature_count));
    TRY(write_u64(&w, image->file.size));
    TRY(write_u64(&w, image->size));
    TRY(write_u32(&w, image->ssaframesize));
    TRY(write_u32(&w, image->miscselect));
    TRY(write_u64(&w, image->attributes_flags));
    TRY(write_u64(&w, image->stub_offset));
    TRY(write_u32(&w, image->segment_count));
    TRY(write_u32(&w, 0));
    for (uint32_t i = 0; i < image->segment_count; i++)
        TRY(write_segment(&w, &image->segments[i]));
    return OK;
}

struct err draft_open(const struct layout *layout, uint32_t signature_count, struct draft *out_draft,
                      struct explanation *why)
{
    struct draft draft DEFER(draft_close) = {0};
    struct image *image = &draft.image;
    image->size = layout->size;
    image->ssaframesize = DRAFT_SSAFRAMESIZE;
    image->miscselect = DRAFT_MISCSELECT;
    image->attributes_flags = DRAFT_FLAGS;
    image->stub_offset = layout->stub_offset;
    image->signature_count = signature_count;
    uint64_t size = 0;
    TRY(make_segments(layout, image, &size, why));
    draft.data = calloc(1, size);
    ENSURE(draft.data, NO_MEMORY);
    image->file = span_of(draft.data, size);
    for (uint32_t i = 0; i < image->segment_count; i++) {
        const struct image_segment *segment = &image->segments[i];
        if (segment->file_offset == 0) continue;
        memcpy(draft.data + segment->file_offset, layout->content + segment->offset, segment->size);
    }
    TRY(write_header(draft.data, image));
    *out_draft = draft;
    draft.data = NULL;
    return OK;
}

void draft_set_signature(struct draft *draft, uint32_t index, const struct sgx_sigstruct *sigstruct)
{
    draft->image.signatures[index] = *sigstruct;
    memcpy(draft->data + (1 + (size_t)index) * SGX_PAGE_SIZE, sigstruct, sizeof *sigstruct);
}

void draft_close(struct draft *draft)
{
    free(draft->data);
    *draft = (struct draft){0};
}
