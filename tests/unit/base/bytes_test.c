/* reader and writer: byte order, bounds, and nothing moved when something does not fit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"

static const uint8_t counting[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};

static struct reader reader_of_counting(void)
{
    return reader_of(span_of(counting, sizeof counting));
}

static void u8_is_read(void **state)
{
    (void)state;
    struct reader r = reader_of_counting();
    uint8_t value = 0;
    assert_int_equal(read_u8(&r, &value).code, ERR_NONE);
    assert_int_equal(value, 0x01);
    assert_int_equal(r.left, 8);
}

static void u16_is_read_little_endian(void **state)
{
    (void)state;
    struct reader r = reader_of_counting();
    uint16_t value = 0;
    assert_int_equal(read_u16(&r, &value).code, ERR_NONE);
    assert_int_equal(value, 0x0201);
    assert_int_equal(r.left, 7);
}

static void u32_is_read_little_endian(void **state)
{
    (void)state;
    struct reader r = reader_of_counting();
    uint32_t value = 0;
    assert_int_equal(read_u32(&r, &value).code, ERR_NONE);
    assert_int_equal(value, 0x04030201);
    assert_int_equal(r.left, 5);
}

static void u64_is_read_little_endian(void **state)
{
    (void)state;
    struct reader r = reader_of_counting();
    uint64_t value = 0;
    assert_int_equal(read_u64(&r, &value).code, ERR_NONE);
    assert_true(value == UINT64_C(0x0807060504030201));
    assert_int_equal(r.left, 1);
}

static void be16_is_read_big_endian(void **state)
{
    (void)state;
    struct reader r = reader_of_counting();
    uint16_t value = 0;
    assert_int_equal(read_be16(&r, &value).code, ERR_NONE);
    assert_int_equal(value, 0x0102);
}

static void be32_is_read_big_endian(void **state)
{
    (void)state;
    struct reader r = reader_of_counting();
    uint32_t value = 0;
    assert_int_equal(read_be32(&r, &value).code, ERR_NONE);
    assert_int_equal(value, 0x01020304);
}

static void bytes_are_copied(void **state)
{
    (void)state;
    struct reader r = reader_of_counting();
    uint8_t copy[4] = {0};
    assert_int_equal(read_bytes(&r, copy, sizeof copy).code, ERR_NONE);
    assert_memory_equal(copy, counting, sizeof copy);
    assert_ptr_equal(r.next, counting + 4);
}

static void span_is_lent(void **state)
{
    (void)state;
    struct reader r = reader_of_counting();
    struct span part = span_empty();
    assert_int_equal(read_span(&r, 9, &part).code, ERR_NONE);
    assert_ptr_equal(part.data, counting);
    assert_int_equal(part.size, 9);
    assert_int_equal(r.left, 0);
}

static void nothing_is_read_from_nothing(void **state)
{
    (void)state;
    struct reader r = reader_of(span_empty());
    assert_int_equal(read_bytes(&r, NULL, 0).code, ERR_NONE);
}

/* Each reading function at an end one byte too near: refused, reader and output as they were. */
static void assert_untouched(const struct reader *r, size_t left, uint64_t output)
{
    assert_int_equal(r->left, left);
    assert_ptr_equal(r->next, counting);
    assert_true(output == 0x5A);
}

static void cut_u8_is_refused(void **state)
{
    (void)state;
    struct reader r = reader_of(span_of(counting, 0));
    uint8_t value = 0x5A;
    assert_int_equal(read_u8(&r, &value).code, ERR_TRUNCATED);
    assert_untouched(&r, 0, value);
}

static void cut_u16_is_refused(void **state)
{
    (void)state;
    struct reader r = reader_of(span_of(counting, 1));
    uint16_t value = 0x5A;
    assert_int_equal(read_u16(&r, &value).code, ERR_TRUNCATED);
    assert_untouched(&r, 1, value);
}

static void cut_u32_is_refused(void **state)
{
    (void)state;
    struct reader r = reader_of(span_of(counting, 3));
    uint32_t value = 0x5A;
    assert_int_equal(read_u32(&r, &value).code, ERR_TRUNCATED);
    assert_untouched(&r, 3, value);
}

static void cut_u64_is_refused(void **state)
{
    (void)state;
    struct reader r = reader_of(span_of(counting, 7));
    uint64_t value = 0x5A;
    assert_int_equal(read_u64(&r, &value).code, ERR_TRUNCATED);
    assert_untouched(&r, 7, value);
}

static void cut_be16_is_refused(void **state)
{
    (void)state;
    struct reader r = reader_of(span_of(counting, 1));
    uint16_t value = 0x5A;
    assert_int_equal(read_be16(&r, &value).code, ERR_TRUNCATED);
    assert_untouched(&r, 1, value);
}

static void cut_be32_is_refused(void **state)
{
    (void)state;
    struct reader r = reader_of(span_of(counting, 3));
    uint32_t value = 0x5A;
    assert_int_equal(read_be32(&r, &value).code, ERR_TRUNCATED);
    assert_untouched(&r, 3, value);
}

static void cut_bytes_are_refused(void **state)
{
    (void)state;
    struct reader r = reader_of_counting();
    uint8_t copy[10] = {0x5A};
    assert_int_equal(read_bytes(&r, copy, sizeof copy).code, ERR_TRUNCATED);
    assert_untouched(&r, 9, copy[0]);
}

static void huge_span_is_refused(void **state)
{
    (void)state;
    struct reader r = reader_of_counting();
    struct span part = span_of(counting, 0x5A);
    assert_int_equal(read_span(&r, SIZE_MAX, &part).code, ERR_TRUNCATED);
    assert_untouched(&r, 9, part.size);
}

static void end_is_an_end(void **state)
{
    (void)state;
    const struct reader r = reader_of(span_of(counting, 0));
    assert_int_equal(reader_end(&r).code, ERR_NONE);
}

static void trailing_byte_is_refused(void **state)
{
    (void)state;
    const struct reader r = reader_of(span_of(counting, 1));
    assert_int_equal(reader_end(&r).code, ERR_TRAILING);
}

static void everything_is_written_one_behind_the_other(void **state)
{
    (void)state;
    static const uint8_t expected[] = {0x01, 0x03, 0x02, 0x07, 0x06, 0x05, 0x04, 0x0F, 0x0E, 0x0D, 0x0C, 0x0B,
                                       0x0A, 0x09, 0x08, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 'a',  'b',  'c'};
    uint8_t bytes[sizeof expected];
    struct writer w = writer_of(bytes, sizeof bytes);
    assert_int_equal(write_u8(&w, 0x01).code, ERR_NONE);
    assert_int_equal(write_u16(&w, 0x0203).code, ERR_NONE);
    assert_int_equal(write_u32(&w, 0x04050607).code, ERR_NONE);
    assert_int_equal(write_u64(&w, UINT64_C(0x08090A0B0C0D0E0F)).code, ERR_NONE);
    assert_int_equal(write_be16(&w, 0x1011).code, ERR_NONE);
    assert_int_equal(write_be32(&w, 0x12131415).code, ERR_NONE);
    assert_int_equal(write_bytes(&w, "ab", 2).code, ERR_NONE);
    assert_int_equal(write_span(&w, span_of("c", 1)).code, ERR_NONE);
    const struct span written = writer_span(&w);
    assert_int_equal(written.size, sizeof expected);
    assert_memory_equal(written.data, expected, sizeof expected);
}

static void reserved_bytes_are_zero(void **state)
{
    (void)state;
    static const uint8_t zeros[4];
    uint8_t bytes[6];
    memset(bytes, 0xFF, sizeof bytes);
    struct writer w = writer_of(bytes, sizeof bytes);
    uint8_t *place = NULL;
    assert_int_equal(write_zeros(&w, sizeof zeros, &place).code, ERR_NONE);
    assert_ptr_equal(place, bytes);
    assert_memory_equal(bytes, zeros, sizeof zeros);
    assert_int_equal(bytes[4], 0xFF);
    assert_int_equal(w.size, sizeof zeros);
}

static void what_does_not_fit_is_not_written(void **state)
{
    (void)state;
    uint8_t bytes[8] = {[7] = 0x5A};
    uint8_t *place = bytes;
    struct writer w = writer_of(bytes, 7);
    assert_int_equal(write_u32(&w, 0).code, ERR_NONE);
    assert_int_equal(write_u32(&w, UINT32_MAX).code, ERR_NO_SPACE);
    assert_int_equal(write_be32(&w, UINT32_MAX).code, ERR_NO_SPACE);
    assert_int_equal(write_u64(&w, UINT64_MAX).code, ERR_NO_SPACE);
    assert_int_equal(write_bytes(&w, counting, 4).code, ERR_NO_SPACE);
    assert_int_equal(write_bytes(&w, counting, SIZE_MAX).code, ERR_NO_SPACE);
    assert_int_equal(write_zeros(&w, 4, &place).code, ERR_NO_SPACE);
    assert_ptr_equal(place, bytes);
    assert_int_equal(w.size, 4);
    assert_int_equal(bytes[4] | bytes[5] | bytes[6], 0);
    assert_int_equal(bytes[7], 0x5A);
}

static void full_writer_takes_no_byte(void **state)
{
    (void)state;
    uint8_t bytes[1] = {0};
    struct writer w = writer_of(bytes, 0);
    assert_int_equal(write_u8(&w, 1).code, ERR_NO_SPACE);
    assert_int_equal(write_u16(&w, 1).code, ERR_NO_SPACE);
    assert_int_equal(write_be16(&w, 1).code, ERR_NO_SPACE);
    assert_int_equal(bytes[0], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(u8_is_read),
        cmocka_unit_test(u16_is_read_little_endian),
        cmocka_unit_test(u32_is_read_little_endian),
        cmocka_unit_test(u64_is_read_little_endian),
        cmocka_unit_test(be16_is_read_big_endian),
        cmocka_unit_test(be32_is_read_big_endian),
        cmocka_unit_test(bytes_are_copied),
        cmocka_unit_test(span_is_lent),
        cmocka_unit_test(nothing_is_read_from_nothing),
        cmocka_unit_test(cut_u8_is_refused),
        cmocka_unit_test(cut_u16_is_refused),
        cmocka_unit_test(cut_u32_is_refused),
        cmocka_unit_test(cut_u64_is_refused),
        cmocka_unit_test(cut_be16_is_refused),
        cmocka_unit_test(cut_be32_is_refused),
        cmocka_unit_test(cut_bytes_are_refused),
        cmocka_unit_test(huge_span_is_refused),
        cmocka_unit_test(end_is_an_end),
        cmocka_unit_test(trailing_byte_is_refused),
        cmocka_unit_test(everything_is_written_one_behind_the_other),
        cmocka_unit_test(reserved_bytes_are_zero),
        cmocka_unit_test(what_does_not_fit_is_not_written),
        cmocka_unit_test(full_writer_takes_no_byte),
    };
    return cmocka_run_group_tests_name("bytes", tests, NULL, NULL);
}
