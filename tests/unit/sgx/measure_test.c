/* MRENCLAVE against values that two foreign implementations agree on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/sgx/sample.h"
#include "untrusted/sgx/image.h"
#include "untrusted/sgx/measure.h"

#define RW (SGX_SECINFO_REG | SGX_SECINFO_R | SGX_SECINFO_W)
#define RX (SGX_SECINFO_REG | SGX_SECINFO_R | SGX_SECINFO_X)

static const uint8_t vector_a[SGX_HASH_SIZE] = {0x3E, 0xB9, 0x24, 0xAE, 0x27, 0xDA, 0x02, 0x38, 0x99, 0x7D, 0x7C,
                                                0x1E, 0x28, 0x58, 0xC7, 0x43, 0x62, 0x09, 0x54, 0x77, 0xC1, 0xDD,
                                                0x14, 0xF3, 0xBA, 0x1C, 0xC2, 0xC2, 0x4D, 0x1F, 0x37, 0x9D};
static const uint8_t vector_b[SGX_HASH_SIZE] = {0x0F, 0xA5, 0xE8, 0x10, 0xA9, 0x30, 0x61, 0x80, 0x01, 0x12, 0xD4,
                                                0x15, 0xEE, 0xDB, 0xBE, 0xCD, 0x71, 0xFD, 0xC9, 0x96, 0xC1, 0xEE,
                                                0x61, 0xAB, 0x0E, 0xD0, 0x34, 0x28, 0x99, 0xCC, 0x8C, 0x72};
static const uint8_t vector_c[SGX_HASH_SIZE] = {0x92, 0xDE, 0xC2, 0x8A, 0xCB, 0xB1, 0x56, 0x71, 0xDE, 0x46, 0xE4,
                                                0x0A, 0xA6, 0x41, 0x03, 0xBB, 0x3A, 0x09, 0x70, 0x9A, 0x4C, 0x3F,
                                                0x06, 0x90, 0xAB, 0x7A, 0x32, 0x76, 0x11, 0xA1, 0xF1, 0xF3};

static struct measurement *create(uint32_t ssaframesize, uint64_t size)
{
    struct measurement *m = NULL;
    assert_int_equal(measurement_create(ssaframesize, size, &m).code, ERR_NONE);
    return m;
}

static void add(struct measurement *m, uint64_t offset, uint64_t secinfo_flags, const uint8_t *measured_content)
{
    assert_int_equal(measurement_add(m, offset, secinfo_flags).code, ERR_NONE);
    if (measured_content) assert_int_equal(measurement_extend_page(m, offset, measured_content).code, ERR_NONE);
}

static void assert_finish(struct measurement *m, const uint8_t expected[SGX_HASH_SIZE])
{
    uint8_t mrenclave[SGX_HASH_SIZE];
    assert_int_equal(measurement_finish(m, mrenclave).code, ERR_NONE);
    measurement_close(&m);
    assert_null(m);
    assert_memory_equal(mrenclave, expected, sizeof mrenclave);
}

static void thread_page(uint64_t ossa, uint32_t nssa, uint64_t oentry, uint64_t base, uint8_t out_page[SGX_PAGE_SIZE])
{
    struct sgx_tcs tcs = {.OSSA = ossa, .NSSA = nssa, .OENTRY = oentry, .OFSBASE = base, .OGSBASE = base};
    tcs.FSLIMIT = UINT32_MAX;
    tcs.GSLIMIT = UINT32_MAX;
    memcpy(out_page, &tcs, sizeof tcs);
}

static void one_measured_page(void **state)
{
    (void)state;
    uint8_t page[SGX_PAGE_SIZE];
    sample_page(1, 0, page);
    struct measurement *m = create(1, 0x2000);
    add(m, 0, RX, page);
    assert_finish(m, vector_a);
}

static void thread_and_unmeasured_page(void **state)
{
    (void)state;
    static const uint8_t zero[SGX_PAGE_SIZE];
    uint8_t code[SGX_PAGE_SIZE], tcs[SGX_PAGE_SIZE];
    sample_page(7, 3, code);
    thread_page(0x2000, 2, 0x10, 0x4000, tcs);
    struct measurement *m = create(1, 0x8000);
    add(m, 0x0000, RX, code);
    add(m, 0x1000, SGX_SECINFO_TCS, tcs);
    add(m, 0x2000, RW, zero);
    add(m, 0x3000, RW, zero);
    add(m, 0x4000, RW, zero);
    add(m, 0x5000, RW, NULL);
    assert_finish(m, vector_b);
}

static void descending_order_with_holes(void **state)
{
    (void)state;
    uint8_t code[SGX_PAGE_SIZE], data[SGX_PAGE_SIZE], tcs[SGX_PAGE_SIZE];
    sample_page(13, 5, code);
    sample_page(255, 255, data);
    thread_page(0x5000, 1, 0, 0x9000, tcs);
    struct measurement *m = create(2, 0x10000);
    add(m, 0xF000, RW, NULL);
    add(m, 0x9000, RW, data);
    add(m, 0x4000, SGX_SECINFO_TCS, tcs);
    add(m, 0x0000, RX, code);
    assert_finish(m, vector_c);
}

static void image_segments_are_the_same_instructions(void **state)
{
    (void)state;
    uint8_t content[2 * SGX_PAGE_SIZE]; /* the content of vector B as it could lie in a file */
    sample_page(7, 3, content);
    thread_page(0x2000, 2, 0x10, 0x4000, content + SGX_PAGE_SIZE);
    uint8_t file[3 * SGX_PAGE_SIZE] = {0};
    memcpy(file + SGX_PAGE_SIZE, content, sizeof content);
    struct image image = {
        .file = span_of(file, sizeof file),
        .size = 0x8000,
        .ssaframesize = 1,
        .segment_count = 4,
        .segments = {{0x0000, 0x1000, 0x1000, RX, true, true},
                     {0x1000, 0x1000, 0x2000, SGX_SECINFO_TCS, true, false},
                     {0x2000, 0x3000, 0, RW, true, false},
                     {0x5000, 0x1000, 0, RW, false, false}},
    };
    uint8_t mrenclave[SGX_HASH_SIZE];
    assert_int_equal(measure_image(&image, mrenclave).code, ERR_NONE);
    assert_memory_equal(mrenclave, vector_b, sizeof mrenclave);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_measured_page),
        cmocka_unit_test(thread_and_unmeasured_page),
        cmocka_unit_test(descending_order_with_holes),
        cmocka_unit_test(image_segments_are_the_same_instructions),
    };
    return cmocka_run_group_tests_name("measure", tests, NULL, NULL);
}
