/*
 * Faults inside the enclave (row B3): each becomes an asynchronous exit, kills that enclave and nothing else, and shows
 * the host no register of it.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/hostile/device/probe.h"
#include "tests/hostile/device/rig.h"
#include "tests/unit/sgx/sample.h"
#include "untrusted/cli/signature.h"
#include "untrusted/sgx/elrange.h"

static struct rig rig;

static int set_up(void **state)
{
    (void)state;
    rig_start(&rig);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    rig_stop(&rig);
    return 0;
}

struct fault_case {
    enum probe_fault fault;
    uint16_t vector;
    uint32_t exitinfo;
};

/* MISCSELECT.EXINFO is 0 in the probe, so #GP and #PF are not told to the enclave. */
static const struct fault_case cases[] = {
    {FAULT_UD2, 6, 0x80000306},    {FAULT_INT3, 6, 0x80000306},        {FAULT_LOAD_NULL, 14, 0},
    {FAULT_DIVIDE, 0, 0x80000300}, {FAULT_WRITE_CODE, 14, 0},          {FAULT_WRITE_CONSTANT, 14, 0},
    {FAULT_READ_TCS, 14, 0},       {FAULT_READ_GUARD, 14, 0},          {FAULT_JUMP_NULL, 14, 0},
    {FAULT_EXECUTE_DATA, 14, 0},   {FAULT_ENCLU, 6, 0x80000306},       {FAULT_EEXIT_ELSEWHERE, 13, 0},
    {FAULT_EEXIT_STACK, 13, 0},    {FAULT_MISALIGNED, 17, 0x80000311}, {FAULT_STACK, 14, 0},
};

static const struct sgx_gprsgx *ssa_of(uint64_t ssa)
{
    return (const struct sgx_gprsgx *)(ssa + SGX_PAGE_SIZE - sizeof(struct sgx_gprsgx));
}

static void each_fault_is_reported_and_final(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct device_run run;
        rig_open(&rig);
        uint64_t ssa = rig_call(&rig, PROBE_ADDRESS, PLACE_SSA, 0, 0, 0);
        assert_int_equal(rig_enter(&rig, PROBE_FAULT, cases[i].fault, 0, &run).code, 0);
        assert_int_equal(run.function, SGX_ERESUME);
        assert_int_equal(run.exception_vector, cases[i].vector);
        assert_int_equal(ssa_of(ssa)->EXITINFO, cases[i].exitinfo);
        assert_int_equal(run.rdi | run.rsi | run.rdx | run.r8 | run.r9, 0);
        assert_int_equal(rig_enter(&rig, PROBE_ECHO, 0, 0, &run).code, ERR_SGX_FAULT);
        rig.device->ops->destroy(rig.device);
        rig.device = NULL;
    }
}

static void page_fault_names_the_page_only(void **state)
{
    (void)state;
    struct device_run run;
    rig_open(&rig);
    assert_int_equal(rig_enter(&rig, PROBE_FAULT, FAULT_LOAD_NULL, 0, &run).code, 0);
    assert_int_equal(run.exception_addr, 0); /* 0x123 was read */
    assert_int_equal(run.exception_error_code & 4, 4);
}

static void registers_are_saved_in_the_ssa_frame(void **state)
{
    (void)state;
    struct device_run run;
    rig_open(&rig);
    uint64_t base = rig_call(&rig, PROBE_ADDRESS, PLACE_BASE, 0, 0, 0);
    uint64_t ssa = rig_call(&rig, PROBE_ADDRESS, PLACE_SSA, 0, 0, 0);
    assert_int_equal(rig_enter(&rig, PROBE_FAULT, FAULT_DIVIDE, 0, &run).code, 0);
    assert_int_equal(ssa_of(ssa)->RAX, 1);
    assert_int_equal(ssa_of(ssa)->RDX, 0);
    assert_true(ssa_of(ssa)->RIP - base < rig.image.size);
    assert_true(ssa_of(ssa)->RSP - base < rig.image.size);
    assert_true(ssa_of(ssa)->GSBASE - base < rig.image.size);
}

struct exinfo {
    uint64_t MADDR;
    uint32_t ERRCD;
    uint32_t reserved;
};

static void select_exinfo(struct sgx_secs *secs)
{
    secs->MISCSELECT = 1;
}

/* The probe, by a signer who wants EXINFO. */
static void open_with_exinfo(void)
{
    struct sgx_sigstruct sigstruct = rig.image.signatures[0];
    EVP_PKEY *key = sample_key();
    sigstruct.MISCSELECT = 1;
    assert_int_equal(signature_sign(&sigstruct, key).code, 0);
    EVP_PKEY_free(key);
    assert_int_equal(rig_device(&rig, false, &rig.device).code, 0);
    assert_int_equal(rig_build(&rig, rig.device, NULL).code, 0);
    assert_int_equal(rig.device->ops->init(rig.device, &sigstruct).code, ERR_SGX_ATTRIBUTE);
    rig.device->ops->destroy(rig.device);
    assert_int_equal(rig_device(&rig, false, &rig.device).code, 0);
    assert_int_equal(rig_build(&rig, rig.device, select_exinfo).code, 0);
    assert_int_equal(rig.device->ops->init(rig.device, &sigstruct).code, 0);
}

/* SDM volume 3D, "EXINFO Structure": the whole address of a page fault, none of a protection fault. */
static void with_exinfo_an_enclave_is_told_of_both_faults_and_the_host_no_more_than_before(void **state)
{
    (void)state;
    const struct {
        enum probe_fault fault;
        uint32_t exitinfo;
        struct exinfo exinfo;
    } told[] = {
        {FAULT_LOAD_NULL, 0x8000030E, {.MADDR = 0x123, .ERRCD = 4}},
        {FAULT_EEXIT_ELSEWHERE, 0x8000030D, {0}},
        {FAULT_UD2,
         0x80000306,
         {.MADDR = UINT64_MAX, .ERRCD = UINT32_MAX, .reserved = UINT32_MAX}}, /* left as it was */
    };
    for (size_t i = 0; i < sizeof told / sizeof *told; i++) {
        struct device_run run;
        open_with_exinfo();
        const struct sgx_gprsgx *saved = ssa_of(rig_call(&rig, PROBE_ADDRESS, PLACE_SSA, 0, 0, 0));
        struct exinfo *exinfo = (struct exinfo *)(uintptr_t)saved - 1;
        memset(exinfo, 0xFF, sizeof *exinfo);
        assert_int_equal(rig_enter(&rig, PROBE_FAULT, told[i].fault, 0, &run).code, 0);
        assert_int_equal(saved->EXITINFO, told[i].exitinfo);
        assert_memory_equal(exinfo, &told[i].exinfo, sizeof *exinfo);
        assert_int_equal(run.exception_addr & (SGX_PAGE_SIZE - 1), 0);
        rig.device->ops->destroy(rig.device);
        rig.device = NULL;
    }
}

static void host_continues_after_a_fault(void **state)
{
    (void)state;
    struct device_run run;
    volatile double third = 1.0;
    uint32_t mxcsr_before = 0, mxcsr_after = 0;
    rig_open(&rig);
    __asm__ volatile("stmxcsr %0" : "=m"(mxcsr_before));
    assert_int_equal(rig_enter(&rig, PROBE_FAULT, FAULT_MISALIGNED, 0, &run).code, 0);
    __asm__ volatile("stmxcsr %0" : "=m"(mxcsr_after));
    uint64_t flags = 0;
    __asm__ volatile("pushfq; popq %0" : "=r"(flags));
    assert_int_equal(flags & 0x40400, 0); /* AC, DF */
    assert_int_equal(mxcsr_before, mxcsr_after);
    third = third / 3;
    assert_true(third > 0.33 && third < 0.34);
}

static void enter_to_syscall(void *ctx)
{
    (void)ctx;
    struct device_run run;
    struct err result = rig_enter(&rig, PROBE_FAULT, FAULT_SYSCALL, 0, &run);
    _exit(result.code ? 1 : 2);
}

static void open_and(void *ctx)
{
    void (*const *then)(void *) = ctx;
    rig.device = NULL;
    rig_open(&rig);
    (*then)(NULL);
}

static int status_of(void (*body)(void *))
{
    return rig_child(open_and, &body);
}

static void system_call_inside_kills_the_process(void **state)
{
    (void)state;
    int status = status_of(enter_to_syscall);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGSYS);
}

static void *enter_on_another_thread(void *ctx)
{
    enter_to_syscall(ctx);
    return NULL;
}

static void enter_to_syscall_later(void *ctx)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, enter_on_another_thread, ctx) == 0) pthread_join(thread, NULL);
    _exit(3);
}

static void so_does_one_on_a_thread_that_enters_later(void **state)
{
    (void)state;
    int status = status_of(enter_to_syscall_later);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGSYS);
}

/* A program of two pages around the limit that calls the kernel by its last instruction below, or by its first above. */
static void call_at_the_limit(bool above)
{
    static const uint8_t call[] = {0x0F, 0x05};
    const uint8_t ret = 0xC3;
    const size_t size = (size_t)2 * SGX_PAGE_SIZE;
    uint8_t *limit = (uint8_t *)ELRANGE_LIMIT;
    uint8_t *at = above ? limit : limit - sizeof call;
    uint8_t *pages = mmap(limit - SGX_PAGE_SIZE, size, PROT_READ | PROT_WRITE | PROT_EXEC,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (pages == MAP_FAILED || elrange_confine_thread().code) _exit(1);
    memcpy(at, call, sizeof call);
    memcpy(at + sizeof call, &ret, sizeof ret);
    long id = SYS_getpid;
    __asm__ volatile("call *%1" : "+a"(id) : "r"(at) : "rcx", "r11", "memory");
    _exit(id == getpid() ? 0 : 2);
}

static void call_below(void *ctx)
{
    (void)ctx;
    call_at_the_limit(false);
}

static void call_above(void *ctx)
{
    (void)ctx;
    call_at_the_limit(true);
}

static void the_limit_is_exact(void **state)
{
    (void)state;
    int status = rig_child(call_below, NULL);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGSYS);
    assert_int_equal(rig_child(call_above, NULL), 0);
}

/* What lay below the limit could not call the kernel. */
static void require_above_the_limit(const char *command)
{
    FILE *maps = popen(command, "r");
    unsigned long start = 0;
    size_t count = 0;
    assert_non_null(maps);
    while (fscanf(maps, "%lx-%*[^\n] ", &start) == 1) {
        assert_true(start > ELRANGE_LIMIT);
        count++;
    }
    assert_int_equal(pclose(maps), 0);
    assert_true(count > 5);
}

static void the_kernel_puts_nothing_below_the_limit(void **state)
{
    (void)state;
    rig_open(&rig);
    assert_true(rig_call(&rig, PROBE_ADDRESS, PLACE_BASE, 0, 0, 0) < ELRANGE_LIMIT);
    require_above_the_limit("cat /proc/self/maps");
    require_above_the_limit("ulimit -s unlimited && cat /proc/self/maps"); /* which leaves five sixths to the stack */
    require_above_the_limit("setarch -L cat /proc/self/maps");             /* where mappings grow upwards */
}

static void fault_and_go_on(void *ctx)
{
    (void)ctx;
    struct device_run run;
    struct err result = rig_enter(&rig, PROBE_FAULT, FAULT_UD2, 0, &run);
    _exit(!result.code && run.function == SGX_ERESUME && run.exception_vector == 6 ? 0 : 1);
}

static void enclave_of_a_forked_child_can_fault(void **state)
{
    (void)state;
    rig_open(&rig); /* what the parent has made does not go to the child */
    assert_int_equal(status_of(fault_and_go_on), 0);
}

static void crash(void *ctx)
{
    (void)ctx;
    __asm__ volatile("movl $1, 16");
}

static void raise_segv(void *ctx)
{
    (void)ctx;
    raise(SIGSEGV);
}

static void a_fault_of_the_host_kills_the_host(void **state)
{
    (void)state;
    int status = status_of(crash);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    status = status_of(raise_segv);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static volatile uint32_t *shared; /* whether the child is inside, and whether it may leave */

static void spin(void *ctx)
{
    (void)ctx;
    struct device_run run;
    struct err result = rig_enter(&rig, PROBE_SPIN, (uint64_t)&shared[0], (uint64_t)&shared[1], &run);
    _exit(result.code ? 1 : 2);
}

/* A signal from another process is no fault of the enclave: the process ends, as it would without one. */
static void signal_from_outside_kills_the_process(void **state)
{
    (void)state;
    int status = 0;
    void (*then)(void *) = spin;
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shared != MAP_FAILED);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) open_and(&then);
    while (!shared[0])
        sched_yield();
    kill(child, SIGSEGV);
    assert_int_equal(waitpid(child, &status, 0), child);
    munmap((void *)(uintptr_t)shared, 4096);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGSEGV);
}

static void forked_child_enters(void *ctx)
{
    (void)ctx;
    struct device_run run;
    struct err result = rig_enter(&rig, PROBE_ECHO, 0, 0, &run);
    _exit(result.code ? 1 : 2);
}

static void forked_child_has_no_enclave(void **state)
{
    (void)state;
    rig_open(&rig);
    int status = rig_child(forked_child_enters, NULL);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGSEGV);
    assert_int_equal(rig_call(&rig, PROBE_ECHO, 5, 0, 0, 0), 5);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(int argc, char **argv)
{
    rig_arguments(argc, argv);
    const struct CMUnitTest tests[] = {
        TEST(each_fault_is_reported_and_final),
        TEST(page_fault_names_the_page_only),
        TEST(registers_are_saved_in_the_ssa_frame),
        TEST(host_continues_after_a_fault),
        TEST(enclave_of_a_forked_child_can_fault),
        TEST(system_call_inside_kills_the_process),
        TEST(so_does_one_on_a_thread_that_enters_later),
        TEST(the_kernel_puts_nothing_below_the_limit),
        TEST(signal_from_outside_kills_the_process),
        /* from here on of the software device alone */
        TEST(the_limit_is_exact),
        TEST(a_fault_of_the_host_kills_the_host),
        TEST(forked_child_has_no_enclave),
        TEST(with_exinfo_an_enclave_is_told_of_both_faults_and_the_host_no_more_than_before),
    };
    const size_t count = rig_is_sgx ? 9 : sizeof tests / sizeof *tests;
    return _cmocka_run_group_tests("fault", tests, count, NULL, NULL);
}
