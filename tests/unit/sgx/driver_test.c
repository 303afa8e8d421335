/* The rules of the driver of the tests' own, broken one by one from the caller's side: what the kernel answers. */
#include "tests/fakes/assertions.h"

#include <asm/sgx.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/fakes/fake_sgx.h"
#include "tests/unit/sgx/sample.h"
#include "untrusted/cli/signature.h"
#include "untrusted/sgx/elrange.h"
#include "untrusted/sgx/image.h"
#include "untrusted/sgx/kernel.h"
#include "untrusted/sgx/kernel_gate.h"
#include "untrusted/sgx/measure.h"

#define RW UINT64_C(0x203)

static uint8_t *file; /* of the sample image */
static struct image image;
static int64_t fd;
static uint64_t base;

/* As system calls answer: a negative errno. */
static int64_t call(long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e)
{
    const uint64_t arguments[6] = {a, b, c, d, e, 0};
    int64_t result = 0;
    assert_true(fake_sgx_system_call(number, arguments, &result));
    return result;
}

static int set_up(void **state)
{
    (void)state;
    fake_sgx_reset();
    file = mmap(NULL, SAMPLE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(file != MAP_FAILED);
    sample_image(file);
    assert_ok(image_parse(span_of(file, SAMPLE_SIZE), &image));
    assert_ok(elrange_reserve(SAMPLE_ELRANGE, &base));
    fd = call(SYS_openat, 0, (uintptr_t)KERNEL_DEVICE_PATH, 0, 0, 0);
    assert_true(fd >= 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    munmap((void *)base, SAMPLE_ELRANGE);
    munmap(file, SAMPLE_SIZE);
    fake_sgx_reset();
    return 0;
}

static int64_t ioctl_of(uint64_t request, const void *argument)
{
    return call(SYS_ioctl, (uint64_t)fd, request, (uintptr_t)argument, 0, 0);
}

static int64_t create_with(void (*change)(struct sgx_secs *secs))
{
    static struct sgx_secs secs;
    const struct sgx_enclave_create create = {.src = (uintptr_t)&secs};
    image_secs(&image, 0, base, &secs);
    if (change) change(&secs);
    return ioctl_of(SGX_IOC_ENCLAVE_CREATE, &create);
}

static void odd_size(struct sgx_secs *secs)
{
    secs->SIZE += 4096;
}

static void small_size(struct sgx_secs *secs)
{
    secs->SIZE = 4096;
}

static void unaligned_base(struct sgx_secs *secs)
{
    secs->BASEADDR += 4096;
}

static void init_set(struct sgx_secs *secs)
{
    secs->ATTRIBUTES.FLAGS |= SGX_FLAGS_INIT;
}

static void no_sse(struct sgx_secs *secs)
{
    secs->ATTRIBUTES.XFRM = 1;
}

static void half_avx512(struct sgx_secs *secs)
{
    secs->ATTRIBUTES.XFRM = 0x27;
}

static void no_ssa(struct sgx_secs *secs)
{
    secs->SSAFRAMESIZE = 0;
}

static void reserved_byte(struct sgx_secs *secs)
{
    secs->reserved4[3833] = 1;
}

static void configid(struct sgx_secs *secs)
{
    secs->CONFIGID[0] = 1;
}

static void create_has_its_rules(void **state)
{
    (void)state;
    assert_int_equal(create_with(odd_size), -EINVAL);
    assert_int_equal(create_with(small_size), -EIO);
    assert_int_equal(create_with(unaligned_base), -EIO);
    assert_int_equal(create_with(init_set), -EIO);
    assert_int_equal(create_with(no_sse), -EIO);
    assert_int_equal(create_with(half_avx512), -EIO);
    assert_int_equal(create_with(no_ssa), -EIO);
    assert_int_equal(create_with(reserved_byte), -EIO);
    assert_int_equal(create_with(configid), -EIO);
    assert_int_equal(create_with(NULL), 0);
    assert_int_equal(create_with(NULL), -EINVAL);
}

struct addition {
    uint64_t src, offset, length, secinfo_flags;
    uint8_t reserved;
    int64_t expected;
};

static int64_t add(const struct addition *a, uint64_t *out_count)
{
    struct sgx_secinfo secinfo = {.FLAGS = a->secinfo_flags, .reserved = {[55] = a->reserved}};
    struct sgx_enclave_add_pages argument = {.src = a->src ? a->src + (uintptr_t)file : (uintptr_t)file,
                                             .offset = a->offset,
                                             .length = a->length,
                                             .secinfo = (uintptr_t)&secinfo,
                                             .flags = SGX_PAGE_MEASURE};
    int64_t result = ioctl_of(SGX_IOC_ENCLAVE_ADD_PAGES, &argument);
    if (out_count) *out_count = argument.count;
    return result;
}

static void add_pages_has_its_rules(void **state)
{
    (void)state;
    static const struct addition cases[] = {
        {0, 1, 4096, RW, 0, -EINVAL},
        {0, 0, 4095, RW, 0, -EINVAL},
        {0, 0, 0, RW, 0, -EINVAL},
        {8, 0, 4096, RW, 0, -EINVAL},
        {0, SAMPLE_ELRANGE, 4096, RW, 0, -EINVAL},
        {0, SAMPLE_ELRANGE - 4096, 8192, RW, 0, -EINVAL},
        {0, UINT64_MAX - 4095, 8192, RW, 0, -EINVAL},
        {0, 0, 4096, 0x303, 0, -EINVAL}, /* type VA */
        {0, 0, 4096, 0x202, 0, -EINVAL}, /* W without R */
        {0, 0, 4096, 0x103, 0, -EINVAL}, /* a TCS with permissions */
        {0, 0, 4096, 0x20B, 0, -EINVAL}, /* PENDING */
        {0, 0, 4096, RW, 1, -EINVAL},
        {0, 0, 4096, 0x100, 0, -EIO}, /* what lies there is no TCS */
        {0, 0, 4096, RW, 0, 0},
        {0, 0, 4096, RW, 0, -EBUSY},
        {0, SAMPLE_ELRANGE - 4096, 4096, RW, 0, 0},
    };
    assert_int_equal(add(&cases[13], NULL), -EINVAL); /* before CREATE */
    assert_int_equal(create_with(NULL), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(add(&cases[i], NULL), cases[i].expected);
}

static void bad_source_is_efault(void **state)
{
    (void)state;
    const struct addition nowhere = {.src = UINT64_MAX - (uintptr_t)file - 4095, .length = 4096, .secinfo_flags = RW};
    assert_int_equal(create_with(NULL), 0);
    assert_int_equal(add(&nowhere, NULL), -EFAULT);
}

static void count_says_how_far_it_came(void **state)
{
    (void)state;
    const struct addition three = {.length = 3 * 4096, .secinfo_flags = RW};
    const struct addition around = {.offset = 0x3000 - 4096, .length = 3 * 4096, .secinfo_flags = RW};
    const struct addition later = {.offset = 0x6000, .length = 3 * 4096, .secinfo_flags = RW};
    uint64_t count = 7;
    assert_int_equal(create_with(NULL), 0);
    fake_sgx_faults.interruptions = 1;
    assert_int_equal(add(&three, &count), -EINTR);
    assert_int_equal(count, 0);
    fake_sgx_faults.short_pages = 2;
    assert_int_equal(add(&three, &count), 0);
    assert_int_equal(count, 2 * 4096);
    fake_sgx_faults = (struct fake_sgx_faults){0};
    assert_int_equal(add(&around, &count), 0);
    assert_int_equal(count, 3 * 4096);
    fake_sgx_faults.epc_pages = 6;
    assert_int_equal(add(&later, &count), -ENOMEM);
    assert_int_equal(count, 4096);
}

static int64_t init_with(const struct sgx_sigstruct *sigstruct)
{
    const struct sgx_enclave_init init = {.sigstruct = (uintptr_t)sigstruct};
    return ioctl_of(SGX_IOC_ENCLAVE_INIT, &init);
}

static void build(void)
{
    static uint8_t zeros[4 * 4096] __attribute__((aligned(4096)));
    assert_int_equal(create_with(NULL), 0);
    for (uint32_t i = 0; i < image.segment_count; i++) {
        const struct image_segment *segment = &image.segments[i];
        const struct sgx_secinfo secinfo = {.FLAGS = segment->secinfo_flags};
        struct sgx_enclave_add_pages argument = {
            .src = (uintptr_t)(segment->file_offset ? file + segment->file_offset : zeros),
            .offset = segment->offset,
            .length = segment->size,
            .secinfo = (uintptr_t)&secinfo,
            .flags = segment->measured ? SGX_PAGE_MEASURE : 0,
        };
        assert_int_equal(ioctl_of(SGX_IOC_ENCLAVE_ADD_PAGES, &argument), 0);
    }
}

static void init_has_its_rules(void **state)
{
    (void)state;
    struct sgx_sigstruct sigstruct = image.signatures[0];
    const struct addition page = {.offset = 0xF000, .length = 4096, .secinfo_flags = RW};
    assert_int_equal(init_with(&sigstruct), -EINVAL); /* before CREATE */
    build();
    sigstruct.VENDOR = 1;
    assert_int_equal(init_with(&sigstruct), -EINVAL);
    sigstruct = image.signatures[0];
    sigstruct.ATTRIBUTES.FLAGS |= SGX_FLAGS_KSS;
    assert_int_equal(init_with(&sigstruct), -EINVAL);
    sigstruct = image.signatures[0];
    sigstruct.SIGNATURE[0] ^= 1;
    assert_int_equal(init_with(&sigstruct), -EPERM);
    assert_int_equal(init_with(&image.signatures[1]), -EPERM); /* XFRM 7 for an enclave of 3 */
    assert_int_equal(init_with(&image.signatures[0]), 0);
    assert_int_equal(init_with(&image.signatures[0]), -EINVAL);
    assert_int_equal(add(&page, NULL), -EINVAL);
}

/*
 * Signed and measured as it is, but nothing lies where the TCS has its SSA frames. A processor would find out at EENTER;
 * vtpm-cpu, which is the processor here, does so before.
 */
static void thread_without_its_ssa_frames_is_refused(void **state)
{
    (void)state;
    struct measurement *m = NULL;
    struct sgx_sigstruct sigstruct;
    struct identity identity = {.attributes = {.FLAGS = SGX_FLAGS_MODE64BIT, .XFRM = 3}};
    const struct addition tcs = {
        .src = SAMPLE_TCS_FILE, .offset = SAMPLE_TCS_OFFSET, .length = 4096, .secinfo_flags = SGX_SECINFO_TCS};
    EVP_PKEY *key = sample_key();
    assert_ok(measurement_create(image.ssaframesize, SAMPLE_ELRANGE, &m));
    assert_ok(measurement_add(m, SAMPLE_TCS_OFFSET, SGX_SECINFO_TCS));
    assert_ok(measurement_extend_page(m, SAMPLE_TCS_OFFSET, file + SAMPLE_TCS_FILE));
    assert_ok(measurement_finish(m, identity.mrenclave));
    measurement_close(&m);
    signature_prepare(&identity, &sigstruct);
    assert_ok(signature_sign(&sigstruct, key));
    EVP_PKEY_free(key);
    assert_int_equal(create_with(NULL), 0);
    assert_int_equal(add(&tcs, NULL), 0);
    assert_int_equal(init_with(&sigstruct), -EPERM);
    assert_memory_equal(fake_sgx_seen.mrenclave, identity.mrenclave, SGX_HASH_SIZE);
}

static void one_ioctl_at_a_time(void **state)
{
    (void)state;
    fake_sgx_faults.busy = true;
    assert_int_equal(create_with(NULL), -EBUSY);
}

static void other_ioctls_are_refused(void **state)
{
    (void)state;
    const struct sgx_enclave_provision provision = {.fd = 0};
    struct sgx_enclave_restrict_permissions restrict_permissions = {0};
    assert_int_equal(ioctl_of(SGX_IOC_ENCLAVE_PROVISION, &provision), -EINVAL);
    assert_int_equal(ioctl_of(SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, &restrict_permissions), -ENODEV);
    assert_int_equal(ioctl_of(0x5401, NULL), -ENOTTY);
}

static int64_t map(uint64_t offset, uint64_t size, int protection, int flags)
{
    return call(SYS_mmap, base + offset, size, (uint64_t)protection, (uint64_t)(flags | MAP_FIXED), (uint64_t)fd);
}

static void no_page_is_mapped_with_more_than_it_was_added_with(void **state)
{
    (void)state;
    build();
    assert_int_equal(map(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE), -EINVAL);
    assert_int_equal(map(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED), -EACCES);     /* code */
    assert_int_equal(map(0x1000, 4096, PROT_READ | PROT_EXEC, MAP_SHARED), -EACCES); /* constants */
    assert_int_equal(map(0x3000, 4096, PROT_READ | PROT_EXEC, MAP_SHARED), -EACCES); /* data */
    assert_int_equal(map(0xC000, 4096, PROT_READ | PROT_EXEC, MAP_SHARED), -EACCES); /* TCS */
    assert_int_equal(map(0, 0x2000, PROT_READ | PROT_EXEC, MAP_SHARED), -EACCES);    /* code and constants */
    assert_int_equal(map(0xC000, 4096, PROT_READ | PROT_WRITE, MAP_SHARED), base + 0xC000);
    assert_int_equal(map(0, 4096, PROT_READ | PROT_EXEC, MAP_SHARED), base);
    assert_int_equal(call(SYS_mprotect, base, 4096, PROT_READ | PROT_WRITE, 0, 0), -EACCES);
    assert_int_equal(call(SYS_mprotect, base, 4096, PROT_READ, 0, 0), 0);
    assert_int_equal(init_with(&image.signatures[0]), 0);
    assert_int_equal(map(SAMPLE_ELRANGE - 4096, 8192, PROT_NONE, MAP_SHARED), -EACCES);
    fake_sgx_faults.noexec = true;
    assert_int_equal(map(0, 4096, PROT_READ | PROT_EXEC, MAP_SHARED), -EPERM);
    fake_sgx_faults = (struct fake_sgx_faults){.read_implies_exec = true};
    assert_int_equal(map(0, 4096, PROT_READ, MAP_SHARED), -EACCES);
}

/* The fake keeps as few registers as the kernel's function does, so C cannot call it by itself. */
static void enter_at(uint64_t address, struct sgx_enclave_run *run)
{
    struct device_run registers = {0};
    *run = (struct sgx_enclave_run){.tcs = address};
    assert_int_equal(kernel_gate_enter((void *)(uintptr_t)fake_sgx_enter_enclave, &registers, run), 0);
}

static void entry_faults_where_there_is_no_tcs(void **state)
{
    (void)state;
    struct sgx_enclave_run run;
    build();
    map(0xC000, 4096, PROT_READ | PROT_WRITE, MAP_SHARED);
    enter_at(base + 0xC000, &run);
    assert_int_equal(run.function, SGX_EENTER); /* before INIT */
    assert_int_equal(run.exception_vector, 13);
    assert_int_equal(init_with(&image.signatures[0]), 0);
    enter_at(base + 0xC001, &run);
    assert_int_equal(run.exception_vector, 13);
    enter_at(base + 0x3000, &run); /* not mapped */
    assert_int_equal(run.exception_vector, 14);
    map(0x3000, 4096, PROT_READ | PROT_WRITE, MAP_SHARED);
    enter_at(base + 0x3000, &run); /* data */
    assert_int_equal(run.exception_vector, 14);
    assert_int_equal(run.exception_error_code, 0x8007);
    map(0xC000, 4096, PROT_READ, MAP_SHARED);
    enter_at(base + 0xC000, &run); /* a TCS is written to */
    assert_int_equal(run.exception_vector, 14);
    assert_int_equal(run.exception_error_code, 7);
    map(0xC000, 4096, PROT_READ | PROT_WRITE, MAP_SHARED);
    enter_at(base + 0xC000, &run);
    assert_int_equal(run.function, SGX_EEXIT);
}

static void unknown_function_and_reserved_bytes_are_einval(void **state)
{
    (void)state;
    struct device_run registers = {0};
    struct sgx_enclave_run run = {.reserved = {[215] = 1}};
    assert_int_equal(fake_sgx_entered(&registers, &run, SGX_EENTER, 0), -EINVAL);
    run = (struct sgx_enclave_run){0};
    assert_int_equal(fake_sgx_entered(&registers, &run, SGX_EEXIT, 0), -EINVAL);
    assert_int_equal(fake_sgx_entered(&registers, &run, SGX_EENTER, 0), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(create_has_its_rules),
        TEST(add_pages_has_its_rules),
        TEST(bad_source_is_efault),
        TEST(count_says_how_far_it_came),
        TEST(init_has_its_rules),
        TEST(thread_without_its_ssa_frames_is_refused),
        TEST(one_ioctl_at_a_time),
        TEST(other_ioctls_are_refused),
        TEST(no_page_is_mapped_with_more_than_it_was_added_with),
        TEST(entry_faults_where_there_is_no_tcs),
        TEST(unknown_function_and_reserved_bytes_are_einval),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
