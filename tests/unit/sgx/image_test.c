/* The image parser: one change of a good file, one refusal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/sgx/sample.h"
#include "untrusted/sgx/image.h"
#include "untrusted/sgx/sigstruct.h"

/* Where the fields of the file lie; sample.h says what the segments are. */
#define SEGMENT(i)       (64 + 40 * (i))
#define SEGMENT_SIZE(i)  (SEGMENT(i) + 8)
#define SEGMENT_FILE(i)  (SEGMENT(i) + 16)
#define SEGMENT_PERMS(i) (SEGMENT(i) + 24)
#define SEGMENT_FLAGS(i) (SEGMENT(i) + 32)
#define SIG(i, field)    (0x1000 * (1 + (i)) + offsetof(struct sgx_sigstruct, field))
#define XFRM(i)          (SIG(i, ATTRIBUTES) + 8)
#define TCS(field)       (SAMPLE_TCS_FILE + offsetof(struct sgx_tcs, field))

enum { CODE, CONSTANTS, RELRO, DATA, HEAP, STACK, THREAD };

struct edit {
    size_t offset;
    unsigned width; /* bytes of value, little-endian; 0: no edit */
    uint64_t value;
};

struct change {
    const char *name;
    uint16_t expected;
    struct edit edits[3];
};

static const struct change changes[] = {
    {"no change at all is accepted", ERR_NONE, {{0}}},
    {"magic", ERR_IMAGE_MAGIC, {{0, 1, 'v'}}},
    {"magic without its NUL", ERR_IMAGE_MAGIC, {{7, 1, 1}}},

    {"format", ERR_IMAGE_FORMAT, {{8, 4, 2}}},
    {"no signature", ERR_IMAGE_FORMAT, {{12, 4, 0}}},
    {"five signatures", ERR_IMAGE_FORMAT, {{12, 4, 5}}},
    {"size of the file", ERR_IMAGE_FORMAT, {{16, 8, SAMPLE_SIZE + 0x1000}}},
    {"ELRANGE not a power of two", ERR_IMAGE_FORMAT, {{24, 8, 0x18000}}},
    {"ELRANGE of one page", ERR_IMAGE_FORMAT, {{24, 8, 0x1000}}},
    {"ELRANGE of nothing", ERR_IMAGE_FORMAT, {{24, 8, 0}}},
    {"ELRANGE of 4 GiB is accepted", ERR_NONE, {{24, 8, UINT64_C(1) << 32}}},
    {"ELRANGE above 4 GiB", ERR_IMAGE_FORMAT, {{24, 8, UINT64_C(1) << 33}}},
    {"SSA frame of no page", ERR_IMAGE_FORMAT, {{32, 4, 0}}},
    {"unknown MISCSELECT", ERR_IMAGE_FORMAT, {{36, 4, 2}}},
    {"EXINFO is accepted", ERR_NONE, {{36, 4, 1}}},
    {"FLAGS with INIT", ERR_IMAGE_FORMAT, {{40, 8, 5}}},
    {"FLAGS with a reserved bit", ERR_IMAGE_FORMAT, {{40, 8, 0xC}}},
    {"FLAGS without MODE64BIT", ERR_IMAGE_FORMAT, {{40, 8, 0}}},
    {"FLAGS with DEBUG are EINIT's business", ERR_NONE, {{40, 8, 6}}},
    {"no segment", ERR_IMAGE_FORMAT, {{56, 4, 0}}},
    {"49 segments", ERR_IMAGE_FORMAT, {{56, 4, 49}}},
    {"reserved word", ERR_IMAGE_FORMAT, {{60, 4, 1}}},
    {"bytes behind the segments", ERR_IMAGE_FORMAT, {{SEGMENT(7), 1, 1}}},
    {"bytes at the end of the header page", ERR_IMAGE_FORMAT, {{0xFFF, 1, 1}}},

    {"bytes behind a SIGSTRUCT", ERR_IMAGE_FORMAT, {{0x2000 + 1808, 1, 1}}},
    {"bytes at the end of a SIGSTRUCT's page", ERR_IMAGE_FORMAT, {{0x3FFF, 1, 1}}},
    {"FLAGS not masked wholly", ERR_IMAGE_FORMAT, {{SIG(1, ATTRIBUTEMASK), 1, 0xFD}}},
    {"XFRM not masked wholly", ERR_IMAGE_FORMAT, {{SIG(2, ATTRIBUTEMASK) + 8, 1, 0x1B}}},
    {"another ENCLAVEHASH", ERR_IMAGE_FORMAT, {{SIG(2, ENCLAVEHASH), 1, 0xAA}}},
    {"XFRM without SSE", ERR_IMAGE_FORMAT, {{XFRM(0), 8, 0x1}}},
    {"XFRM with a part of AVX-512", ERR_IMAGE_FORMAT, {{XFRM(2), 8, 0x67}}},
    {"XFRM with AVX-512 without AVX", ERR_IMAGE_FORMAT, {{XFRM(2), 8, 0xE3}}},
    {"XFRM with half of MPX", ERR_IMAGE_FORMAT, {{XFRM(2), 8, 0xF}}},
    {"XFRM with an unknown bit", ERR_IMAGE_FORMAT, {{XFRM(2), 8, 0x107}}},
    {"XFRM with PKRU is accepted", ERR_NONE, {{XFRM(2), 8, 0x2E7}}},
    {"XFRM that is there already", ERR_IMAGE_FORMAT, {{XFRM(2), 8, 0x7}}},
    {"XFRM with AMX and a frame of one page", ERR_IMAGE_FORMAT, {{XFRM(2), 8, 0x60007}}},
    {"XFRM with AMX and a frame of two pages", ERR_IMAGE_FORMAT, {{XFRM(2), 8, 0x60007}, {32, 4, 2}}},
    {"XFRM with AMX and a frame of three pages is accepted",
     ERR_NONE,
     {{XFRM(2), 8, 0x60007}, {32, 4, 3}, {TCS(NSSA), 4, 1}}},
    {"XFRM with half of AMX", ERR_IMAGE_FORMAT, {{XFRM(2), 8, 0x20007}, {32, 4, 3}}},

    {"segment off a page's start", ERR_IMAGE_SEGMENT, {{SEGMENT(HEAP), 8, 0x5800}}},
    {"segment of half a page", ERR_IMAGE_SEGMENT, {{SEGMENT_SIZE(HEAP), 8, 0x800}}},
    {"segment of nothing", ERR_IMAGE_SEGMENT, {{SEGMENT_SIZE(HEAP), 8, 0}}},
    {"segment that wraps around", ERR_IMAGE_SEGMENT, {{SEGMENT_SIZE(HEAP), 8, UINT64_MAX & ~UINT64_C(0xFFF)}}},
    {"segment behind ELRANGE", ERR_IMAGE_SEGMENT, {{SEGMENT(HEAP), 8, 0x10000}}},
    {"segment across the end of ELRANGE",
     ERR_IMAGE_SEGMENT,
     {{SEGMENT(HEAP), 8, 0xF000}, {SEGMENT_SIZE(HEAP), 8, 0x2000}}},
    {"segment at the end of ELRANGE is accepted", ERR_NONE, {{SEGMENT(HEAP), 8, 0xF000}}},
    {"segment over the one before", ERR_IMAGE_SEGMENT, {{SEGMENT(HEAP), 8, 0x3000}}},
    {"segment over the one behind", ERR_IMAGE_SEGMENT, {{SEGMENT_SIZE(HEAP), 8, 0x3000}}},
    {"segment around another", ERR_IMAGE_SEGMENT, {{SEGMENT(HEAP), 8, 0}, {SEGMENT_SIZE(HEAP), 8, 0x10000}}},
    {"content off a page's start", ERR_IMAGE_SEGMENT, {{SEGMENT_FILE(DATA), 8, 0x7800}}},
    {"content in the SIGSTRUCTs", ERR_IMAGE_SEGMENT, {{SEGMENT_FILE(CODE), 8, 0x3000}}},
    {"content twice", ERR_IMAGE_SEGMENT, {{SEGMENT_FILE(DATA), 8, 0x6000}}},
    {"content behind the file", ERR_IMAGE_SEGMENT, {{SEGMENT_FILE(THREAD), 8, SAMPLE_SIZE}}},
    {"content across the end of the file", ERR_IMAGE_SEGMENT, {{SEGMENT_SIZE(THREAD), 8, 0x2000}}},
    {"content that nothing uses", ERR_IMAGE_SEGMENT, {{SEGMENT_FILE(DATA), 8, 0}}},
    {"writable and executable", ERR_IMAGE_SEGMENT, {{SEGMENT_PERMS(DATA), 8, 0x207}}},
    {"writable and not readable", ERR_IMAGE_SEGMENT, {{SEGMENT_PERMS(DATA), 8, 0x202}}},
    {"neither readable nor writable", ERR_IMAGE_SEGMENT, {{SEGMENT_PERMS(DATA), 8, 0x200}}},
    {"executable and not readable", ERR_IMAGE_SEGMENT, {{SEGMENT_PERMS(DATA), 8, 0x204}}},
    {"SECINFO with PENDING", ERR_IMAGE_SEGMENT, {{SEGMENT_PERMS(DATA), 8, 0x20B}}},
    {"page of type SECS", ERR_IMAGE_SEGMENT, {{SEGMENT_PERMS(DATA), 8, 0x003}}},
    {"page of type VA", ERR_IMAGE_SEGMENT, {{SEGMENT_PERMS(DATA), 8, 0x303}}},
    {"TCS with permissions", ERR_IMAGE_SEGMENT, {{SEGMENT_PERMS(THREAD), 8, 0x103}}},
    {"unknown flag of a segment", ERR_IMAGE_SEGMENT, {{SEGMENT_FLAGS(DATA), 8, 5}}},
    {"code that is not measured", ERR_IMAGE_SEGMENT, {{SEGMENT_FLAGS(CODE), 8, 2}}},
    {"constants of zeros that are not measured", ERR_IMAGE_SEGMENT, {{SEGMENT_PERMS(HEAP), 8, 0x201}}},
    {"code of zeros that is not measured", ERR_IMAGE_SEGMENT, {{SEGMENT_PERMS(HEAP), 8, 0x205}}},
    {"data that is not measured", ERR_IMAGE_SEGMENT, {{SEGMENT_FLAGS(DATA), 8, 0}}},
    {"TCS that is not measured", ERR_IMAGE_SEGMENT, {{SEGMENT_FLAGS(THREAD), 8, 0}}},
    {"stack that is not measured is accepted", ERR_NONE, {{SEGMENT_FLAGS(STACK), 8, 0}}},

    {"no TCS", ERR_IMAGE_SEGMENT, {{SEGMENT_PERMS(THREAD), 8, 0x203}}},
    {"TCS of zeros", ERR_IMAGE_SEGMENT, {{SEGMENT_PERMS(STACK), 8, 0x100}}},
    {"TCS with STATE", ERR_IMAGE_SEGMENT, {{TCS(STATE), 8, 1}}},
    {"TCS with DBGOPTIN", ERR_IMAGE_SEGMENT, {{TCS(FLAGS), 8, 1}}},
    {"TCS with AEXNOTIFY that ATTRIBUTES lack", ERR_IMAGE_SEGMENT, {{TCS(FLAGS), 8, 2}}},
    {"TCS without AEXNOTIFY that ATTRIBUTES have", ERR_IMAGE_SEGMENT, {{40, 8, 0x404}}},
    {"TCS with CSSA", ERR_IMAGE_SEGMENT, {{TCS(CSSA), 4, 1}}},
    {"TCS with AEP", ERR_IMAGE_SEGMENT, {{TCS(AEP), 8, 1}}},
    {"TCS with a reserved byte", ERR_IMAGE_SEGMENT, {{TCS(reserved) + 4023, 1, 1}}},
    {"OSSA off a page's start", ERR_IMAGE_SEGMENT, {{TCS(OSSA), 8, 0x8010}}},
    {"OSSA behind ELRANGE", ERR_IMAGE_SEGMENT, {{TCS(OSSA), 8, 0x10000}}},
    {"OSSA that wraps around", ERR_IMAGE_SEGMENT, {{TCS(OSSA), 8, UINT64_MAX & ~UINT64_C(0xFFF)}}},
    {"no SSA frame", ERR_IMAGE_SEGMENT, {{TCS(NSSA), 4, 0}}},
    {"one SSA frame is accepted", ERR_NONE, {{TCS(NSSA), 4, 1}}},
    {"SSA frames up to a hole", ERR_IMAGE_SEGMENT, {{TCS(NSSA), 4, 4}}},
    {"more SSA frames than ELRANGE has room", ERR_IMAGE_SEGMENT, {{TCS(NSSA), 4, UINT32_MAX}}},
    {"SSA frames whose size wraps around", ERR_IMAGE_SEGMENT, {{TCS(NSSA), 4, 1u << 31}, {32, 4, 1u << 21}}},
    {"SSA frames in constants", ERR_IMAGE_SEGMENT, {{TCS(OSSA), 8, 0x1000}}},
    {"SSA frames in the TCS", ERR_IMAGE_SEGMENT, {{TCS(OSSA), 8, 0xC000}}},
    {"SSA frames across two segments are accepted", ERR_NONE, {{TCS(OSSA), 8, 0x2000}}},
    {"OFSBASE off a page's start", ERR_IMAGE_SEGMENT, {{TCS(OFSBASE), 8, 0xA008}}},
    {"OFSBASE behind ELRANGE", ERR_IMAGE_SEGMENT, {{TCS(OFSBASE), 8, 0x10000}}},
    {"OGSBASE off a page's start", ERR_IMAGE_SEGMENT, {{TCS(OGSBASE), 8, 0xA008}}},
    {"OGSBASE behind ELRANGE", ERR_IMAGE_SEGMENT, {{TCS(OGSBASE), 8, 0x10000}}},
    {"entry point in data", ERR_IMAGE_SEGMENT, {{TCS(OENTRY), 8, 0x3000}}},
    {"entry point in a hole", ERR_IMAGE_SEGMENT, {{TCS(OENTRY), 8, 0x4000}}},

    {"stub off a page's start", ERR_IMAGE_STUB, {{48, 8, 0x40}}},
    {"stub in constants", ERR_IMAGE_STUB, {{48, 8, 0x1000}}},
    {"stub in code of zeros",
     ERR_IMAGE_STUB,
     {{48, 8, 0x5000}, {SEGMENT_PERMS(HEAP), 8, 0x205}, {SEGMENT_FLAGS(HEAP), 8, 1}}},
    {"stub in a hole", ERR_IMAGE_STUB, {{48, 8, 0x4000}}},
    {"stub behind ELRANGE", ERR_IMAGE_STUB, {{48, 8, UINT64_MAX & ~UINT64_C(0xFFF)}}},
    {"stub without ENCLU", ERR_IMAGE_STUB, {{SAMPLE_CODE_FILE, 1, 0x90}}},
    {"stub with another filler", ERR_IMAGE_STUB, {{SAMPLE_CODE_FILE + 63, 1, 0x90}}},
};

static uint8_t good_file[SAMPLE_SIZE];

static int make_good_file(void **state)
{
    (void)state;
    sample_image(good_file);
    return 0;
}

static void apply(uint8_t *file, const struct edit *edit)
{
    for (unsigned i = 0; i < edit->width; i++)
        file[edit->offset + i] = (uint8_t)(edit->value >> (8 * i));
}

/* Of exactly size bytes, so that the sanitiser sees a read behind it */
static uint8_t *copy_of_good_file(size_t size)
{
    uint8_t *file = malloc(size ? size : 1);
    assert_non_null(file);
    memcpy(file, good_file, size);
    return file;
}

static void one_change(void **state)
{
    const struct change *change = *state;
    uint8_t *file = copy_of_good_file(SAMPLE_SIZE);
    for (size_t i = 0; i < sizeof change->edits / sizeof *change->edits; i++)
        apply(file, &change->edits[i]);
    struct image image;
    uint16_t code = image_parse(span_of(file, SAMPLE_SIZE), &image).code;
    free(file);
    assert_int_equal(code, change->expected);
}

/* states_it: the file's own size field says the same. */
static uint16_t parse_resized(size_t size, bool states_it)
{
    uint8_t *file = calloc(1, size ? size : 1);
    assert_non_null(file);
    memcpy(file, good_file, size < SAMPLE_SIZE ? size : SAMPLE_SIZE);
    const struct edit statement = {16, 8, size};
    if (states_it) apply(file, &statement);
    struct image image;
    uint16_t code = image_parse(span_of(file, size), &image).code;
    free(file);
    return code;
}

static void every_shorter_file_is_refused(void **state)
{
    (void)state;
    for (size_t size = 0; size < SAMPLE_SIZE; size += size < 128 ? 1 : 61)
        assert_int_equal(parse_resized(size, false), size < 8 ? ERR_IMAGE_MAGIC : ERR_IMAGE_FORMAT);
}

static void shorter_file_of_part_pages_that_says_so_is_refused(void **state)
{
    (void)state;
    for (size_t size = 64; size < SAMPLE_SIZE; size += 64)
        if (size % SGX_PAGE_SIZE) assert_int_equal(parse_resized(size, true), ERR_IMAGE_FORMAT);
}

static void file_that_ends_in_its_signatures_is_refused(void **state)
{
    (void)state;
    for (size_t size = SGX_PAGE_SIZE; size < SAMPLE_CODE_FILE; size += SGX_PAGE_SIZE)
        assert_int_equal(parse_resized(size, true), ERR_IMAGE_FORMAT);
}

static void file_that_ends_in_its_content_is_refused(void **state)
{
    (void)state;
    for (size_t size = SAMPLE_CODE_FILE; size < SAMPLE_SIZE; size += SGX_PAGE_SIZE)
        assert_int_equal(parse_resized(size, true), ERR_IMAGE_SEGMENT);
}

static void longer_file_is_refused(void **state)
{
    (void)state;
    assert_int_equal(parse_resized(SAMPLE_SIZE + SGX_PAGE_SIZE, false), ERR_IMAGE_FORMAT);
}

static void content_that_no_segment_has_is_refused(void **state)
{
    (void)state;
    assert_int_equal(parse_resized(SAMPLE_SIZE + SGX_PAGE_SIZE, true), ERR_IMAGE_SEGMENT);
}

static void file_above_the_limit_is_refused(void **state)
{
    (void)state;
    assert_int_equal(parse_resized(IMAGE_SIZE_MAX, true), ERR_IMAGE_SEGMENT);
    assert_int_equal(parse_resized(IMAGE_SIZE_MAX + SGX_PAGE_SIZE, true), ERR_IMAGE_FORMAT);
}

/* The good file with another number of SIGSTRUCTs, which differ in XFRM */
static uint16_t parse_with_signatures(unsigned count)
{
    static const uint64_t variants[] = {0x3, 0x7, 0xE7, 0x203, 0x207};
    const size_t content = SAMPLE_SIZE - SAMPLE_CODE_FILE;
    const size_t size = (1 + count) * (size_t)SGX_PAGE_SIZE + content;
    uint8_t *file = calloc(1, size);
    assert_non_null(file);
    memcpy(file, good_file, SGX_PAGE_SIZE);
    memcpy(file + size - content, good_file + SAMPLE_CODE_FILE, content);
    const struct edit edits[] = {
        {12, 4, count},
        {16, 8, size},
        {SEGMENT_FILE(CODE), 8, size - content},
        {SEGMENT_FILE(CONSTANTS), 8, size - content + 0x1000},
        {SEGMENT_FILE(RELRO), 8, size - content + 0x2000},
        {SEGMENT_FILE(DATA), 8, size - content + 0x3000},
        {SEGMENT_FILE(THREAD), 8, size - content + 0x4000},
    };
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++)
        apply(file, &edits[i]);
    for (unsigned i = 0; i < count; i++) {
        const struct edit xfrm = {XFRM(i), 8, variants[i]};
        memcpy(file + SGX_PAGE_SIZE * (1 + i), good_file + SGX_PAGE_SIZE, sizeof(struct sgx_sigstruct));
        apply(file, &xfrm);
    }
    struct image image;
    uint16_t code = image_parse(span_of(file, size), &image).code;
    free(file);
    return code;
}

static void one_signature_is_accepted(void **state)
{
    (void)state;
    assert_int_equal(parse_with_signatures(1), ERR_NONE);
}

static void four_signatures_are_accepted(void **state)
{
    (void)state;
    assert_int_equal(parse_with_signatures(4), ERR_NONE);
}

static void five_signatures_are_refused(void **state)
{
    (void)state;
    assert_int_equal(parse_with_signatures(5), ERR_IMAGE_FORMAT);
}

static void forty_eight_segments_are_accepted(void **state)
{
    (void)state;
    uint8_t *file = copy_of_good_file(SAMPLE_SIZE);
    const struct edit edits[] = {{24, 8, 0x100000}, {56, 4, IMAGE_SEGMENTS_MAX}};
    apply(file, &edits[0]);
    apply(file, &edits[1]);
    for (unsigned i = SAMPLE_SEGMENTS; i < IMAGE_SEGMENTS_MAX; i++) {
        const struct edit fields[] = {
            {SEGMENT(i), 8, SAMPLE_ELRANGE + 2 * (uint64_t)SGX_PAGE_SIZE * i},
            {SEGMENT_SIZE(i), 8, SGX_PAGE_SIZE},
            {SEGMENT_PERMS(i), 8, 0x203},
        };
        for (size_t j = 0; j < sizeof fields / sizeof *fields; j++)
            apply(file, &fields[j]);
    }
    struct image image;
    uint16_t code = image_parse(span_of(file, SAMPLE_SIZE), &image).code;
    free(file);
    assert_int_equal(code, ERR_NONE);
}

/* Puts a whole stub at a place of the file and names it. */
static uint16_t parse_with_stub_at(size_t place, uint64_t stub_offset)
{
    uint8_t *file = copy_of_good_file(SAMPLE_SIZE);
    memcpy(file + place, image_stub, sizeof image_stub);
    const struct edit edit = {48, 8, stub_offset};
    apply(file, &edit);
    struct image image;
    uint16_t code = image_parse(span_of(file, SAMPLE_SIZE), &image).code;
    free(file);
    return code;
}

static void stub_inside_a_page_is_refused(void **state)
{
    (void)state;
    assert_int_equal(parse_with_stub_at(SAMPLE_CODE_FILE + 0x40, 0x40), ERR_IMAGE_STUB);
}

static void stub_that_is_not_executable_is_refused(void **state)
{
    (void)state;
    assert_int_equal(parse_with_stub_at(SAMPLE_CODE_FILE + 0x1000, 0x1000), ERR_IMAGE_STUB);
}

static void refused_file_leaves_the_output_alone(void **state)
{
    (void)state;
    uint8_t *file = copy_of_good_file(SAMPLE_SIZE);
    file[SAMPLE_CODE_FILE] = 0x90;
    struct image image, before;
    memset(&image, 0x5A, sizeof image);
    memset(&before, 0x5A, sizeof before);
    uint16_t code = image_parse(span_of(file, SAMPLE_SIZE), &image).code;
    free(file);
    assert_int_equal(code, ERR_IMAGE_STUB);
    assert_memory_equal(&image, &before, sizeof image);
}

static struct image parse_good_file(void)
{
    struct image image;
    assert_int_equal(image_parse(span_of(good_file, sizeof good_file), &image).code, ERR_NONE);
    return image;
}

static void fields_are_those_of_the_file(void **state)
{
    (void)state;
    const struct image image = parse_good_file();
    assert_int_equal(image.size, SAMPLE_ELRANGE);
    assert_int_equal(image.ssaframesize, 1);
    assert_int_equal(image.signature_count, SAMPLE_SIGNATURES);
    assert_int_equal(image.segment_count, SAMPLE_SEGMENTS);
    const struct image_segment *relro = &image.segments[RELRO];
    assert_int_equal(relro->offset, 0x2000);
    assert_int_equal(relro->size, 0x1000);
    assert_int_equal(relro->secinfo_flags, 0x203);
    assert_true(relro->measured && relro->public);
    const struct image_segment *heap = &image.segments[HEAP];
    assert_false(heap->measured || heap->public);
}

static void signatures_verify(void **state)
{
    (void)state;
    const struct image image = parse_good_file();
    for (uint32_t i = 0; i < image.signature_count; i++)
        assert_int_equal(sigstruct_verify(&image.signatures[i]).code, ERR_NONE);
}

static void page_of_content_lies_in_the_file(void **state)
{
    (void)state;
    const struct image image = parse_good_file();
    assert_ptr_equal(image_page(&image, &image.segments[DATA], 0), good_file + SAMPLE_DATA_FILE);
}

static void later_page_of_content_lies_behind_the_first(void **state)
{
    (void)state;
    struct image image = {.file = span_of(good_file, sizeof good_file)};
    const struct image_segment segment = {.size = 0x3000, .file_offset = 0x4000};
    assert_ptr_equal(image_page(&image, &segment, 0x2000), good_file + 0x6000);
}

static void zero_page_has_no_content(void **state)
{
    (void)state;
    const struct image image = parse_good_file();
    assert_null(image_page(&image, &image.segments[HEAP], 0));
}

static void secs_is_what_the_image_asks_for(void **state)
{
    (void)state;
    const struct image image = parse_good_file();
    struct sgx_secs secs;
    image_secs(&image, 2, 0x70000000, &secs);
    const struct sgx_secs expected = {
        .SIZE = SAMPLE_ELRANGE,
        .BASEADDR = 0x70000000,
        .SSAFRAMESIZE = 1,
        .ATTRIBUTES = {.FLAGS = SGX_FLAGS_MODE64BIT, .XFRM = 0xE7},
    };
    assert_memory_equal(&secs, &expected, sizeof secs);
}

static void assert_selected(uint64_t host_xcr0, uint64_t expected_xfrm)
{
    const struct image image = parse_good_file();
    uint32_t index = 0;
    assert_int_equal(image_select_signature(&image, host_xcr0, &index).code, ERR_NONE);
    assert_int_equal(image.signatures[index].ATTRIBUTES.XFRM, expected_xfrm);
}

static void largest_subset_is_selected_on_a_small_host(void **state)
{
    (void)state;
    assert_selected(0x3, 0x3);
}

static void largest_subset_is_selected_on_a_middle_host(void **state)
{
    (void)state;
    assert_selected(0x207, 0x7);
}

static void largest_subset_is_selected_on_a_large_host(void **state)
{
    (void)state;
    assert_selected(0x602E7, 0xE7);
}

static void host_without_sse_gets_nothing(void **state)
{
    (void)state;
    const struct image image = parse_good_file();
    uint32_t index = 77;
    assert_int_equal(image_select_signature(&image, 0x1, &index).code, ERR_IMAGE_NO_XFRM);
    assert_int_equal(index, 77);
}

static const struct CMUnitTest fixed_tests[] = {
    cmocka_unit_test(every_shorter_file_is_refused),
    cmocka_unit_test(shorter_file_of_part_pages_that_says_so_is_refused),
    cmocka_unit_test(file_that_ends_in_its_signatures_is_refused),
    cmocka_unit_test(file_that_ends_in_its_content_is_refused),
    cmocka_unit_test(longer_file_is_refused),
    cmocka_unit_test(content_that_no_segment_has_is_refused),
    cmocka_unit_test(file_above_the_limit_is_refused),
    cmocka_unit_test(one_signature_is_accepted),
    cmocka_unit_test(four_signatures_are_accepted),
    cmocka_unit_test(five_signatures_are_refused),
    cmocka_unit_test(forty_eight_segments_are_accepted),
    cmocka_unit_test(stub_inside_a_page_is_refused),
    cmocka_unit_test(stub_that_is_not_executable_is_refused),
    cmocka_unit_test(refused_file_leaves_the_output_alone),
    cmocka_unit_test(fields_are_those_of_the_file),
    cmocka_unit_test(signatures_verify),
    cmocka_unit_test(page_of_content_lies_in_the_file),
    cmocka_unit_test(later_page_of_content_lies_behind_the_first),
    cmocka_unit_test(zero_page_has_no_content),
    cmocka_unit_test(secs_is_what_the_image_asks_for),
    cmocka_unit_test(largest_subset_is_selected_on_a_small_host),
    cmocka_unit_test(largest_subset_is_selected_on_a_middle_host),
    cmocka_unit_test(largest_subset_is_selected_on_a_large_host),
    cmocka_unit_test(host_without_sse_gets_nothing),
};
#define FIXED_TESTS (sizeof fixed_tests / sizeof *fixed_tests)
#define CHANGES     (sizeof changes / sizeof *changes)

int main(void)
{
    struct CMUnitTest tests[FIXED_TESTS + CHANGES];
    memcpy(tests, fixed_tests, sizeof fixed_tests);
    for (size_t i = 0; i < CHANGES; i++)
        tests[FIXED_TESTS + i] = (struct CMUnitTest){
            .name = changes[i].name,
            .test_func = one_change,
            .initial_state = (void *)(uintptr_t)&changes[i],
        };
    return cmocka_run_group_tests_name("image", tests, make_good_file, NULL);
}
