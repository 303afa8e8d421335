/*
 * Entry and exit of both devices (row B3): EENTER gives the enclave what SGX gives it, whatever state the host
 * is in; EEXIT gives the host its own state back, whatever the enclave left.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/auxv.h>

#include <cmocka.h>

#include "tests/hostile/device/probe.h"
#include "tests/hostile/device/rig.h"
#include "untrusted/sgx/software_gate.h"

#define FLAG_DF         0x400u
#define FLAG_AC         0x40000u
#define FCW_SINGLE      0x007Fu
#define MXCSR_TO_ZERO   0x7F80u
#define HWCAP2_FSGSBASE 2u

static struct rig rig;

/* Linked in the place of the real ones (--wrap). */
unsigned long __real_getauxval(unsigned long type);
unsigned long __wrap_getauxval(unsigned long type);
extern uint64_t poison_flags;       /* poison.S ors them into RFLAGS right before EENTER */
extern uint64_t poison_flags_after; /* RFLAGS right after it */

static bool hide_fsgsbase;

unsigned long __wrap_getauxval(unsigned long type)
{
    unsigned long value = __real_getauxval(type);
    return type == AT_HWCAP2 && hide_fsgsbase ? value & ~(unsigned long)HWCAP2_FSGSBASE : value;
}

static int set_up(void **state)
{
    (void)state;
    hide_fsgsbase = false;
    poison_flags = 0;
    rig_start(&rig);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    rig_stop(&rig);
    return 0;
}

static void carries_registers(void **state)
{
    (void)state;
    rig_open(&rig);
    assert_int_equal(rig_call(&rig, PROBE_ECHO, 1, 20, 300, 4000), 4321);
}

static void entry_registers_are_those_of_eenter(void **state)
{
    (void)state;
    struct probe_state entry = {0};
    rig_open(&rig);
    uint64_t tcs = rig_call(&rig, PROBE_ADDRESS, PLACE_TCS, 0, 0, 0);
    uint64_t base = rig_call(&rig, PROBE_ADDRESS, PLACE_BASE, 0, 0, 0);
    rig_call(&rig, PROBE_ENTRY_STATE, (uint64_t)&entry, 0, 0, 0);
    assert_int_equal(entry.rax, 0); /* CSSA */
    assert_int_equal(entry.rbx, tcs);
    assert_true(entry.rcx - base >= rig.image.size);
    assert_true(entry.rsp - base >= rig.image.size);
}

static void ssa_frame_names_the_host_stack(void **state)
{
    (void)state;
    struct probe_state entry = {0};
    uint8_t end_of_frame[200];
    struct sgx_gprsgx saved;
    rig_open(&rig);
    rig_call(&rig, PROBE_SSA, (uint64_t)end_of_frame, 0, 0, 0);
    rig_call(&rig, PROBE_ENTRY_STATE, (uint64_t)&entry, 0, 0, 0);
    memcpy(&saved, end_of_frame + 200 - sizeof saved, sizeof saved);
    assert_true(saved.URSP - entry.rsp < 4096 || entry.rsp - saved.URSP < 4096);
}

static void host_flags_and_modes_reach_the_enclave(void **state)
{
    (void)state;
    struct probe_state entry = {0};
    uint32_t old_mxcsr = 0, mxcsr = MXCSR_TO_ZERO;
    uint16_t old_fcw = 0, fcw = FCW_SINGLE;
    rig_open(&rig);
    poison_flags = FLAG_DF | FLAG_AC;
    __asm__ volatile("stmxcsr %0; fnstcw %1" : "=m"(old_mxcsr), "=m"(old_fcw));
    __asm__ volatile("ldmxcsr %0; fldcw %1" : : "m"(mxcsr), "m"(fcw));
    uint64_t result = rig_call(&rig, PROBE_ENTRY_STATE, (uint64_t)&entry, 0, 0, 0);
    __asm__ volatile("ldmxcsr %0; fldcw %1" : : "m"(old_mxcsr), "m"(old_fcw));
    assert_int_equal(result, 0);
    assert_int_equal(entry.rflags & (FLAG_DF | FLAG_AC), FLAG_DF | FLAG_AC);
    assert_int_equal(entry.mxcsr, MXCSR_TO_ZERO);
    assert_int_equal(entry.fcw, FCW_SINGLE);
}

static void host_has_its_modes_back_after_exit(void **state)
{
    (void)state;
    uint32_t mxcsr_before = 0, mxcsr_after = 0;
    uint16_t fcw_before = 0, fcw_after = 0;
    rig_open(&rig);
    __asm__ volatile("stmxcsr %0; fnstcw %1" : "=m"(mxcsr_before), "=m"(fcw_before));
    rig_call(&rig, PROBE_SPOIL, 0, 0, 0, 0);
    __asm__ volatile("stmxcsr %0; fnstcw %1" : "=m"(mxcsr_after), "=m"(fcw_after));
    assert_int_equal(poison_flags_after & (FLAG_DF | FLAG_AC), 0);
    assert_int_equal(mxcsr_after, mxcsr_before);
    assert_int_equal(fcw_after, fcw_before);
}

static void another_tcs_is_refused(void **state)
{
    (void)state;
    struct device_run run = {.rdi = PROBE_ECHO};
    rig_open(&rig);
    assert_int_equal(rig.device->ops->enter(rig.device, rig.tcs_offset + 4096, &run).code, ERR_SGX_TCS_BUSY);
    assert_int_equal(rig_call(&rig, PROBE_ECHO, 1, 0, 0, 0), 1);
}

static _Atomic uint32_t spinning;
static _Atomic uint32_t go_on;

static void *spin_thread(void *ctx)
{
    (void)ctx;
    struct device_run run;
    struct err result = rig_enter(&rig, PROBE_SPIN, (uint64_t)&spinning, (uint64_t)&go_on, &run);
    return (void *)(uintptr_t)(result.code || run.function != SGX_EEXIT);
}

static pthread_t start_spinning(void)
{
    pthread_t thread;
    spinning = 0;
    go_on = 0;
    assert_int_equal(pthread_create(&thread, NULL, spin_thread, NULL), 0);
    while (!spinning)
        sched_yield();
    return thread;
}

static void stop_spinning(pthread_t thread)
{
    void *failed = NULL;
    go_on = 1;
    assert_int_equal(pthread_join(thread, &failed), 0);
    assert_null(failed);
}

static void second_entry_is_refused_while_one_runs(void **state)
{
    (void)state;
    struct device_run run;
    rig_open(&rig);
    pthread_t thread = start_spinning();
    struct err result = rig_enter(&rig, PROBE_ECHO, 0, 0, &run);
    stop_spinning(thread);
    assert_int_equal(result.code, ERR_SGX_TCS_BUSY);
    assert_int_equal(rig_call(&rig, PROBE_ECHO, 7, 0, 0, 0), 7);
}

static void another_enclave_is_refused_while_one_runs(void **state)
{
    (void)state;
    struct device *other = NULL;
    struct device_run run = {.rdi = PROBE_ECHO};
    rig_open(&rig);
    assert_int_equal(rig_device(&rig, false, &other).code, 0);
    assert_int_equal(rig_build(&rig, other, NULL).code, 0);
    assert_int_equal(other->ops->init(other, &rig.image.signatures[0]).code, 0);
    pthread_t thread = start_spinning();
    struct err result = other->ops->enter(other, rig.tcs_offset, &run);
    stop_spinning(thread);
    assert_int_equal(result.code, ERR_ENCLAVE_ENTERED);
    run = (struct device_run){.rdi = PROBE_ECHO, .rsi = 3};
    assert_int_equal(other->ops->enter(other, rig.tcs_offset, &run).code, 0);
    assert_int_equal(run.rdi, 3);
    assert_int_equal(rig_call(&rig, PROBE_ECHO, 9, 0, 0, 0), 9);
    other->ops->destroy(other);
}

static uint64_t host_canary(void)
{
    uint64_t value = 0;
    __asm__ volatile("movq %%fs:0x28, %0" : "=r"(value));
    return value;
}

static void canary_is_the_enclave_s_own(void **state)
{
    (void)state;
    if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE)) {
        print_message("this kernel hides FSGSBASE: the enclave's own canary cannot be tested\n");
        skip();
    }
    rig_open(&rig);
    assert_true(rig.device->own_canary);
    assert_int_equal(rig_call(&rig, PROBE_HOST_CANARY, 0, 0, 0, 0), 0); /* the probe's page is zero */
    assert_int_not_equal(host_canary(), 0);
}

static void canary_is_the_host_s_where_fsgsbase_is_hidden(void **state)
{
    (void)state;
    hide_fsgsbase = true;
    rig_open(&rig);
    assert_false(rig.device->own_canary);
    assert_int_equal(rig_call(&rig, PROBE_HOST_CANARY, 0, 0, 0, 0), host_canary());
}

static volatile bool busy;

static void pin(int core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    assert_int_equal(sched_setaffinity(0, sizeof set, &set), 0);
}

static void *busy_thread(void *ctx)
{
    (void)ctx;
    while (busy)
        ;
    return NULL;
}

/* Preempted again and again: FS must be the enclave's whenever it goes on. */
static void canaries_under_preemption(void)
{
    pthread_t thread;
    cpu_set_t before;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    pin(sched_getcpu());
    busy = true;
    assert_int_equal(pthread_create(&thread, NULL, busy_thread, NULL), 0);
    for (int i = 0; i < 20; i++)
        assert_int_not_equal(rig_call(&rig, PROBE_CANARIES, 2, 0, 0, 0), 0);
    busy = false;
    pthread_join(thread, NULL);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

static void own_canary_survives_preemption(void **state)
{
    (void)state;
    rig_open(&rig);
    canaries_under_preemption();
}

static void host_canary_survives_preemption(void **state)
{
    (void)state;
    hide_fsgsbase = true;
    rig_open(&rig);
    canaries_under_preemption();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(int argc, char **argv)
{
    rig_arguments(argc, argv);
    const struct CMUnitTest tests[] = {
        TEST(carries_registers),
        TEST(entry_registers_are_those_of_eenter),
        TEST(ssa_frame_names_the_host_stack),
        TEST(host_flags_and_modes_reach_the_enclave),
        TEST(host_has_its_modes_back_after_exit),
        TEST(another_tcs_is_refused),
        TEST(second_entry_is_refused_while_one_runs),
        TEST(canary_is_the_enclave_s_own),
        TEST(own_canary_survives_preemption),
        /* from here on of the software device alone */
        TEST(another_enclave_is_refused_while_one_runs),
        TEST(canary_is_the_host_s_where_fsgsbase_is_hidden),
        TEST(host_canary_survives_preemption),
    };
    const size_t count = rig_is_sgx ? 9 : sizeof tests / sizeof *tests;
    return _cmocka_run_group_tests("entry", tests, count, NULL, NULL);
}
