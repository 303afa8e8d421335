/* The kernel's device against a driver of the tests' own: what it asks for, and what it makes of every refusal. */
#include "tests/fakes/assertions.h"

#include <asm/sgx.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/fakes/fake_sgx.h"
#include "tests/unit/sgx/sample.h"
#include "untrusted/sgx/choice.h"
#include "untrusted/sgx/enclave.h"
#include "untrusted/sgx/kernel.h"
#include "untrusted/sgx/kernel_gate.h"

static uint8_t *file; /* of the sample image */
static struct image image;

static int set_up(void **state)
{
    (void)state;
    fake_sgx_reset();
    file = mmap(NULL, SAMPLE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(file != MAP_FAILED);
    sample_image(file);
    assert_ok(image_parse(span_of(file, SAMPLE_SIZE), &image));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    munmap(file, SAMPLE_SIZE);
    fake_sgx_reset();
    return 0;
}

struct opening {
    struct device *device;
    struct err result;
};

static void open_body(void *ctx)
{
    struct opening *opening = ctx;
    int fd = -1;
    opening->result = kernel_connect(&fd);
    if (!opening->result.code) opening->result = kernel_device_open(fd, &image, &opening->device);
}

static struct err open_device(struct device **out_device)
{
    struct opening opening = {0};
    fake_sgx_watched(open_body, &opening);
    if (!opening.result.code) {
        fake_sgx_watch(opening.device);
        *out_device = opening.device;
    }
    return opening.result;
}

/* The whole way, as enclave.c goes it. */
static struct err load(struct enclave **out_enclave)
{
    struct device *device = NULL;
    TRY(open_device(&device));
    return enclave_open(device, &image, out_enclave);
}

static void image_is_loaded_as_it_was_signed(void **state)
{
    (void)state;
    struct enclave *enclave = NULL;
    assert_ok(load(&enclave));
    assert_memory_equal(fake_sgx_seen.mrenclave, image.signatures[0].ENCLAVEHASH, SGX_HASH_SIZE);
    assert_int_equal(fake_sgx_seen.added_pages, 10);
    assert_int_equal(fake_sgx_seen.add_calls, SAMPLE_SEGMENTS);
    enclave_close(&enclave);
}

static void short_counts_and_signals_are_gone_on_from(void **state)
{
    (void)state;
    struct enclave *enclave = NULL;
    fake_sgx_faults.short_pages = 1;
    fake_sgx_faults.interruptions = 3;
    assert_ok(load(&enclave));
    assert_int_equal(fake_sgx_seen.added_pages, 10);
    assert_int_equal(fake_sgx_seen.add_calls, 13);
    enclave_close(&enclave);
}

static struct err build(struct device *device)
{
    struct sgx_secs secs;
    image_secs(&image, 0, 0, &secs);
    TRY(device->ops->create(device, &secs));
    for (uint32_t i = 0; i < image.segment_count; i++) {
        const struct image_segment *segment = &image.segments[i];
        const struct device_pages pages = {
            .offset = segment->offset,
            .length = segment->size,
            .file_offset = segment->file_offset,
            .secinfo = {.FLAGS = segment->secinfo_flags},
            .measured = segment->measured,
        };
        TRY(device->ops->add_pages(device, &pages));
    }
    return OK;
}

static void interrupted_einit_is_asked_again(void **state)
{
    (void)state;
    struct device *device = NULL;
    assert_ok(open_device(&device));
    assert_ok(build(device));
    fake_sgx_faults.interruptions = 2;
    assert_ok(device->ops->init(device, &image.signatures[0]));
    device->ops->destroy(device);
}

/* As many zero pages as no buffer holds at once. */
static void large_zero_runs_are_added_in_parts(void **state)
{
    (void)state;
    struct device *device = NULL;
    struct sgx_secs secs = {.SIZE = 1 << 20, .SSAFRAMESIZE = 1, .ATTRIBUTES = {SGX_FLAGS_MODE64BIT, 3}};
    const struct device_pages pages = {.offset = 4096, .length = 200 * 4096, .secinfo = {.FLAGS = 0x203}};
    assert_ok(open_device(&device));
    assert_ok(device->ops->create(device, &secs));
    assert_int_equal(secs.BASEADDR % secs.SIZE, 0);
    assert_ok(device->ops->add_pages(device, &pages));
    assert_int_equal(fake_sgx_seen.added_pages, 200);
    assert_int_equal(fake_sgx_seen.add_calls, 13); /* 64 KiB each */
    device->ops->destroy(device);
}

/* What /proc/self/maps says of the page at address. */
static void permissions_at(uint64_t address, char out[5])
{
    char line[256];
    FILE *maps = fopen("/proc/self/maps", "re");
    assert_non_null(maps);
    strcpy(out, "");
    while (fgets(line, sizeof line, maps)) {
        unsigned long start = 0, end = 0;
        char permissions[5];
        if (sscanf(line, "%lx-%lx %4s", &start, &end, permissions) == 3 && start <= address && address < end)
            strcpy(out, permissions);
    }
    fclose(maps);
}

static void guard_pages_stay_reserved_and_nothing_else_of_the_range_is(void **state)
{
    (void)state;
    struct device *device = NULL;
    char guard[5], page[5];
    assert_ok(open_device(&device));
    assert_ok(build(device));
    assert_ok(device->ops->init(device, &image.signatures[0]));
    uint64_t base = fake_sgx_base();
    permissions_at(base + 4 * 4096, guard);
    permissions_at(base + 5 * 4096, page);
    assert_string_equal(guard, "---p");
    assert_string_equal(page, "---s"); /* the driver's mapping */
    assert_int_equal(fake_sgx_protection(0), PROT_READ | PROT_EXEC);
    assert_int_equal(fake_sgx_protection(1), PROT_READ);
    assert_int_equal(fake_sgx_protection(3), PROT_READ | PROT_WRITE);
    assert_int_equal(fake_sgx_protection(4), -1);
    assert_int_equal(fake_sgx_protection(12), PROT_READ | PROT_WRITE); /* the TCS */
    device->ops->destroy(device);
    permissions_at(base + 4 * 4096, guard);
    assert_string_equal(guard, "");
}

/* A forked child would enter through the same TCS. */
static void forked_child_has_no_page_of_it(void **state)
{
    (void)state;
    struct enclave *enclave = NULL;
    char line[512];
    size_t seen = 0;
    bool inside = false;
    assert_ok(load(&enclave));
    FILE *smaps = fopen("/proc/self/smaps", "re");
    assert_non_null(smaps);
    while (fgets(line, sizeof line, smaps)) {
        unsigned long start = 0, end = 0;
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2) inside = start - fake_sgx_base() < SAMPLE_ELRANGE;
        if (!inside || strncmp(line, "VmFlags:", 8) != 0) continue;
        assert_non_null(strstr(line, " dc")); /* DONTFORK */
        seen++;
    }
    fclose(smaps);
    assert_true(seen > 5);
    enclave_close(&enclave);
}

static size_t open_descriptors(void)
{
    size_t count = 0;
    for (int fd = 0; fd < 64; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void no_descriptor_is_left_once_it_runs(void **state)
{
    (void)state;
    struct enclave *enclave = NULL;
    size_t before = open_descriptors();
    assert_ok(load(&enclave));
    assert_int_equal(open_descriptors(), before);
    enclave_close(&enclave);
    fake_sgx_faults.launch_refused = true;
    assert_err(load(&enclave), SGX_LAUNCH);
    assert_int_equal(open_descriptors(), before);
}

/* --- refusals --- */

static void what_keeps_a_device_from_opening_is_named(void **state)
{
    (void)state;
    static const struct {
        int error;
        uint16_t code;
    } cases[] = {
        {ENOENT, ERR_SGX_NO_DEVICE},     {ENODEV, ERR_SGX_NO_DEVICE},    {ENXIO, ERR_SGX_NO_DEVICE},
        {EACCES, ERR_SGX_DEVICE_DENIED}, {EPERM, ERR_SGX_DEVICE_DENIED}, {EMFILE, ERR_SYSTEM},
    };
    struct device *device = NULL;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fake_sgx_faults.open_error = cases[i].error;
        assert_int_equal(open_device(&device).code, cases[i].code);
    }
    fake_sgx_faults = (struct fake_sgx_faults){.noexec = true};
    assert_err(open_device(&device), SGX_NOEXEC);
    fake_sgx_faults = (struct fake_sgx_faults){.no_vdso = true};
    assert_err(open_device(&device), SGX_VDSO);
}

static void probe_body(void *ctx)
{
    *(struct err *)ctx = kernel_device_probe();
}

static void probe_answers_what_opening_would(void **state)
{
    (void)state;
    struct err result = FAIL(SYSTEM);
    size_t before = open_descriptors();
    fake_sgx_watched(probe_body, &result);
    assert_ok(result);
    fake_sgx_faults.no_vdso = true;
    fake_sgx_watched(probe_body, &result);
    assert_err(result, SGX_VDSO);
    fake_sgx_faults.open_error = EACCES;
    fake_sgx_watched(probe_body, &result);
    assert_err(result, SGX_DEVICE_DENIED);
    assert_int_equal(open_descriptors(), before);
}

static void choose_body(void *ctx)
{
    enum device_kind *kind = ctx;
    *kind = device_choose(*kind);
}

static enum device_kind choose(enum device_kind wanted)
{
    fake_sgx_watched(choose_body, &wanted);
    return wanted;
}

static void auto_is_the_processor_s_where_it_works(void **state)
{
    (void)state;
    assert_int_equal(choose(DEVICE_AUTO), DEVICE_SGX);
    assert_int_equal(choose(DEVICE_SOFTWARE), DEVICE_SOFTWARE);
    fake_sgx_faults.open_error = EACCES;
    assert_int_equal(choose(DEVICE_AUTO), DEVICE_SOFTWARE);
    assert_int_equal(choose(DEVICE_SGX), DEVICE_SGX); /* and its opening says what is wrong */
}

static void processors_are_told_apart(void **state)
{
    (void)state;
    uint8_t cpusvn[16] = {11, 11, 2, 2, 255, 1};
    assert_int_equal(device_kind_of(cpusvn), DEVICE_SGX);
    assert_int_equal(device_kind_of((const uint8_t *)"vtpm software\0\0\1"), DEVICE_SOFTWARE);
}

static void full_epc_is_named(void **state)
{
    (void)state;
    struct enclave *enclave = NULL;
    fake_sgx_faults.epc_pages = 5;
    assert_err(load(&enclave), SGX_EPC);
}

static void source_that_may_not_be_executed_is_named(void **state)
{
    (void)state;
    struct enclave *enclave = NULL;
    /* Nothing in secret memory ever may. */
    int fd = (int)syscall(SYS_memfd_secret, 0);
    struct rlimit limit;
    if (fd < 0 || getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || ftruncate(fd, SAMPLE_SIZE) != 0) {
        print_message("no secret memory here: a source without VM_MAYEXEC was not tried\n");
        skip();
    }
    uint8_t *secret = mmap(NULL, SAMPLE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(secret != MAP_FAILED);
    memcpy(secret, file, SAMPLE_SIZE);
    assert_ok(image_parse(span_of(secret, SAMPLE_SIZE), &image));
    assert_err(load(&enclave), SGX_SOURCE);
    munmap(secret, SAMPLE_SIZE);
    close(fd);
}

static void personality_is_told_from_wrong_permissions(void **state)
{
    (void)state;
    struct enclave *enclave = NULL;
    fake_sgx_faults.read_implies_exec = true; /* of the driver's mind: the process itself is not */
    assert_err(load(&enclave), SGX_SECINFO);
    fake_sgx_faults.read_implies_exec = false;
    int before = personality(0xFFFFFFFF);
    if (personality((unsigned long)before | READ_IMPLIES_EXEC) < 0) skip();
    fake_sgx_faults.read_implies_exec = true;
    struct err result = load(&enclave);
    personality((unsigned long)before);
    assert_err(result, SGX_PERSONALITY);
}

static void wrong_secs_is_refused(void **state)
{
    (void)state;
    struct device *device = NULL;
    struct sgx_secs secs;
    image_secs(&image, 0, 0, &secs);
    assert_ok(open_device(&device));
    secs.ATTRIBUTES.FLAGS |= SGX_FLAGS_INIT; /* EIO */
    assert_err(device->ops->create(device, &secs), SGX_SECS);
    device->ops->destroy(device);
    image_secs(&image, 0, 0, &secs);
    secs.SIZE += 4096;
    assert_ok(open_device(&device));
    assert_err(device->ops->create(device, &secs), SGX_SECS);
    device->ops->destroy(device);
}

/* EINIT says EPERM to all of them. */
static struct err init_after(void (*change)(struct sgx_sigstruct *sigstruct))
{
    struct device *device = NULL;
    struct sgx_sigstruct sigstruct = image.signatures[0];
    change(&sigstruct);
    assert_ok(open_device(&device));
    assert_ok(build(device));
    struct err result = device->ops->init(device, &sigstruct);
    device->ops->destroy(device);
    return result;
}

static void change_header(struct sgx_sigstruct *sigstruct)
{
    sigstruct->HEADER2[3] ^= 1;
}

static void change_q1(struct sgx_sigstruct *sigstruct)
{
    sigstruct->Q1[9] ^= 1;
}

static void change_date(struct sgx_sigstruct *sigstruct)
{
    sigstruct->DATE ^= 1;
}

static void change_vendor(struct sgx_sigstruct *sigstruct)
{
    sigstruct->VENDOR = 1; /* EINVAL, before any EINIT */
}

static void take_other_xfrm(struct sgx_sigstruct *sigstruct)
{
    *sigstruct = image.signatures[1];
}

static void refused_einit_names_its_reason(void **state)
{
    (void)state;
    assert_err(init_after(change_header), SGX_SIG_STRUCT);
    assert_err(init_after(change_vendor), SGX_SIG_STRUCT);
    assert_err(init_after(change_q1), SGX_SIGNATURE);
    assert_err(init_after(change_date), SGX_SIGNATURE);
    assert_err(init_after(take_other_xfrm), SGX_ATTRIBUTE);
}

static void changed_page_is_a_wrong_measurement(void **state)
{
    (void)state;
    struct enclave *enclave = NULL;
    file[SAMPLE_DATA_FILE + 77] ^= 1;
    assert_err(load(&enclave), SGX_MEASUREMENT);
}

static void launch_control_is_what_is_left(void **state)
{
    (void)state;
    struct enclave *enclave = NULL;
    fake_sgx_faults.launch_refused = true;
    assert_err(load(&enclave), SGX_LAUNCH);
}

static void after_a_refusal_nothing_goes_on(void **state)
{
    (void)state;
    struct device *device = NULL;
    struct device_run run = {0};
    assert_ok(open_device(&device));
    assert_ok(build(device));
    fake_sgx_faults.launch_refused = true;
    assert_err(device->ops->init(device, &image.signatures[0]), SGX_LAUNCH);
    fake_sgx_faults.launch_refused = false;
    assert_err(device->ops->init(device, &image.signatures[0]), SGX_ORDER);
    assert_err(device->ops->enter(device, SAMPLE_TCS_OFFSET, &run), SGX_FAULT);
    device->ops->destroy(device);
}

/* --- entering --- */

static struct device *running(void)
{
    struct device *device = NULL;
    assert_ok(open_device(&device));
    assert_ok(build(device));
    assert_ok(device->ops->init(device, &image.signatures[0]));
    return device;
}

static void registers_go_in_and_come_back(void **state)
{
    (void)state;
    struct device *device = running();
    struct device_run run = {.rdi = 1, .rsi = 20, .rdx = 300, .r8 = 4000, .r9 = 50000};
    assert_ok(device->ops->enter(device, SAMPLE_TCS_OFFSET, &run));
    assert_int_equal(run.function, SGX_EEXIT);
    assert_int_equal(run.rdi, 54320);
    assert_int_equal(run.rsi, 20);
    assert_int_equal(run.r9, 50000);
    assert_false(fake_sgx_seen.misaligned);
    device->ops->destroy(device);
}

static void registers_of_the_caller_are_kept(void **state)
{
    (void)state;
    static uint64_t kept[5];
    struct device_run registers = {0};
    struct sgx_enclave_run run = {0};
    void *in = &registers, *out = &run;
    void *enter = (void *)(uintptr_t)fake_sgx_enter_enclave; /* which changes R12 to R15 */
    __asm__ volatile("leaq -128(%%rsp), %%rsp\n"             /* the red zone */
                     "movq $1, %%rbx\n movq $2, %%r12\n movq $3, %%r13\n movq $4, %%r14\n movq $5, %%r15\n"
                     "call kernel_gate_enter\n"
                     "leaq 128(%%rsp), %%rsp\n"
                     "leaq %3, %%rax\n"
                     "movq %%rbx, (%%rax)\n movq %%r12, 8(%%rax)\n movq %%r13, 16(%%rax)\n movq %%r14, 24(%%rax)\n"
                     "movq %%r15, 32(%%rax)\n"
                     : "+D"(enter), "+S"(in), "+d"(out), "=m"(kept)
                     :
                     : "rax", "rbx", "rcx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
    for (uint64_t i = 0; i < 5; i++)
        assert_int_equal(kept[i], i + 1);
}

/* The fake leaves with DF and AC set, exceptions unmasked and one of the x87's pending. */
static void host_has_its_state_back_whatever_the_enclave_left(void **state)
{
    (void)state;
    struct device *device = running();
    struct device_run run = {0};
    uint64_t flags = 0;
    uint32_t mxcsr[2] = {0};
    uint16_t control[2] = {0};
    __asm__ volatile("stmxcsr %0; fnstcw %1" : "=m"(mxcsr[0]), "=m"(control[0]));
    assert_ok(device->ops->enter(device, SAMPLE_TCS_OFFSET, &run));
    __asm__ volatile("pushfq; popq %0" : "=r"(flags));
    __asm__ volatile("stmxcsr %0; fnstcw %1" : "=m"(mxcsr[1]), "=m"(control[1]));
    __asm__ volatile("fwait; fld1; fstp %%st(0)" : : : "st");
    assert_int_equal(flags & 0x40400, 0);
    assert_int_equal(mxcsr[0], mxcsr[1]);
    assert_int_equal(control[0], control[1]);
    device->ops->destroy(device);
}

static void lost_epc_is_a_fault_of_eenter_and_final(void **state)
{
    (void)state;
    struct device *device = running();
    struct device_run run = {0};
    fake_sgx_faults.lost_vector = 13;
    assert_ok(device->ops->enter(device, SAMPLE_TCS_OFFSET, &run));
    assert_int_equal(run.function, SGX_EENTER);
    assert_int_equal(run.exception_vector, 13);
    fake_sgx_faults.lost_vector = 0;
    assert_err(device->ops->enter(device, SAMPLE_TCS_OFFSET, &run), SGX_FAULT);
    device->ops->destroy(device);
}

static void lost_epc_ends_the_enclave_for_its_caller(void **state)
{
    (void)state;
    struct enclave *enclave = NULL;
    static uint64_t buffer[8];
    uint8_t *bytes = (uint8_t *)buffer;
    size_t size = 0;
    uint16_t vector = 0;
    uint64_t address = 0;
    assert_ok(load(&enclave));
    fake_sgx_faults.lost_vector = 14;
    assert_err(enclave_call(enclave, span_of(bytes, 32), bytes + 32, 32, &size), SGX_FAULT);
    enclave_fault(enclave, &vector, &address);
    assert_int_equal(vector, 14);
    assert_err(enclave_call(enclave, span_of(bytes, 32), bytes + 32, 32, &size), ENCLAVE_DEAD);
    enclave_close(&enclave);
}

/* In the middle of a step: what came of it is gone, too. */
static void epc_that_is_lost_meanwhile_ends_what_is_inside(void **state)
{
    (void)state;
    struct device *device = running();
    struct device_run run = {.rsi = 7};
    fake_sgx_power->until_loss = 2;
    assert_ok(device->ops->enter(device, SAMPLE_TCS_OFFSET, &run));
    assert_int_equal(run.function, SGX_EEXIT);
    run = (struct device_run){.rsi = 7};
    assert_ok(device->ops->enter(device, SAMPLE_TCS_OFFSET, &run));
    assert_int_equal(run.function, SGX_ERESUME);
    assert_int_equal(run.exception_vector, 14);
    assert_int_equal(run.rdi, 0);
    assert_err(device->ops->enter(device, SAMPLE_TCS_OFFSET, &run), SGX_FAULT);
    device->ops->destroy(device);
    device = running(); /* another one is as good as ever */
    assert_ok(device->ops->enter(device, SAMPLE_TCS_OFFSET, &run));
    assert_int_equal(run.function, SGX_EEXIT);
    device->ops->destroy(device);
}

static void epc_that_is_lost_before_einit_fails_what_is_made(void **state)
{
    (void)state;
    struct device *device = NULL;
    assert_ok(open_device(&device));
    fake_sgx_power->until_loss = 3; /* CREATE, a segment, and the next one is not added any more */
    assert_err(build(device), SGX_SECINFO);
    device->ops->destroy(device);
    assert_ok(open_device(&device));
    assert_ok(build(device));
    fake_sgx_power->losses++;
    assert_err(device->ops->init(device, &image.signatures[0]), SYSTEM);
    assert_int_equal(errno, EIO);
    device->ops->destroy(device);
}

static void other_place_than_the_tcs_is_refused(void **state)
{
    (void)state;
    struct device *device = running();
    struct device_run run = {0};
    assert_err(device->ops->enter(device, 0, &run), SGX_TCS_BUSY);
    assert_ok(device->ops->enter(device, SAMPLE_TCS_OFFSET, &run));
    device->ops->destroy(device);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(image_is_loaded_as_it_was_signed),
        TEST(short_counts_and_signals_are_gone_on_from),
        TEST(interrupted_einit_is_asked_again),
        TEST(large_zero_runs_are_added_in_parts),
        TEST(guard_pages_stay_reserved_and_nothing_else_of_the_range_is),
        TEST(forked_child_has_no_page_of_it),
        TEST(no_descriptor_is_left_once_it_runs),
        TEST(what_keeps_a_device_from_opening_is_named),
        TEST(probe_answers_what_opening_would),
        TEST(auto_is_the_processor_s_where_it_works),
        TEST(processors_are_told_apart),
        TEST(full_epc_is_named),
        TEST(source_that_may_not_be_executed_is_named),
        TEST(personality_is_told_from_wrong_permissions),
        TEST(wrong_secs_is_refused),
        TEST(refused_einit_names_its_reason),
        TEST(changed_page_is_a_wrong_measurement),
        TEST(launch_control_is_what_is_left),
        TEST(after_a_refusal_nothing_goes_on),
        TEST(registers_go_in_and_come_back),
        TEST(registers_of_the_caller_are_kept),
        TEST(host_has_its_state_back_whatever_the_enclave_left),
        TEST(lost_epc_is_a_fault_of_eenter_and_final),
        TEST(lost_epc_ends_the_enclave_for_its_caller),
        TEST(epc_that_is_lost_meanwhile_ends_what_is_inside),
        TEST(epc_that_is_lost_before_einit_fails_what_is_made),
        TEST(other_place_than_the_tcs_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
