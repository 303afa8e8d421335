/*
 * What the software device does NOT hold against root: here the attacks are shown to succeed, as the threat model says.
 * On hardware both would find nothing.
 */
#include <linux/perf_event.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/hostile/device/probe.h"
#include "tests/hostile/device/rig.h"

#define SECRET            UINT64_C(0x5E2C7A1984D36BF0)
#define IN_MEMORY(secret) ((secret) ^ UINT64_C(0xA5A5A5A5A5A5A5A5)) /* as the probe keeps it */
#define RING_PAGES        64u

static struct rig rig;

static struct shared {
    volatile uint32_t inside;
    volatile uint32_t leave;
    uint64_t address; /* of a secret in the enclave's memory */
    volatile uint64_t taken;
} * shared;

static int set_up(void **state)
{
    (void)state;
    rig_start(&rig);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return shared == MAP_FAILED;
}

static int tear_down(void **state)
{
    (void)state;
    munmap(shared, sizeof *shared);
    rig_stop(&rig);
    return 0;
}

/* A process that is inside the enclave, with one secret in registers only, and one in its memory. */
static pid_t start_victim(void)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        rig_open(&rig);
        shared->address = rig_call(&rig, PROBE_SECRET, SECRET, 0, 0, 0);
        rig_call(&rig, PROBE_HOLD_REGISTER, (uint64_t)&shared->inside, (uint64_t)&shared->leave, SECRET, 0);
        _exit(0);
    }
    while (!shared->inside)
        sched_yield();
    return child;
}

static void stop_victim(pid_t child)
{
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

static void debugger_reads_registers_while_inside(void **state)
{
    (void)state;
    struct user_regs_struct registers = {0};
    struct user_fpregs_struct extended = {0};
    pid_t child = start_victim();
    long attached = ptrace(PTRACE_ATTACH, child, NULL, NULL);
    waitpid(child, NULL, 0);
    long read_general = ptrace(PTRACE_GETREGS, child, NULL, &registers);
    long read_extended = ptrace(PTRACE_GETFPREGS, child, NULL, &extended);
    stop_victim(child);
    assert_int_equal(attached | read_general | read_extended, 0);
    assert_int_equal(registers.r12, SECRET);
    assert_memory_equal((const uint8_t *)extended.xmm_space + 7 * 16, &(uint64_t){SECRET}, 8);
}

/* What an attacker would write there: any code of the process does. RDI: from where, RSI: to where. */
void take_and_stay(void);
__asm__("take_and_stay: mov (%rdi), %rax\n"
        "mov %rax, (%rsi)\n"
        "0: pause\n"
        "jmp 0b\n");

/* The memory that no interface reads (memory_test.c) is read by the thread that is made to. */
static void debugger_has_code_of_its_own_read_the_memory_while_inside(void **state)
{
    (void)state;
    struct user_regs_struct registers = {0};
    pid_t child = start_victim();
    long done = ptrace(PTRACE_ATTACH, child, NULL, NULL);
    waitpid(child, NULL, 0);
    done |= ptrace(PTRACE_GETREGS, child, NULL, &registers);
    registers.rip = (uintptr_t)take_and_stay;
    registers.rdi = shared->address;
    registers.rsi = (uintptr_t)&shared->taken;
    done |= ptrace(PTRACE_SETREGS, child, NULL, &registers);
    done |= ptrace(PTRACE_DETACH, child, NULL, NULL);
    for (unsigned i = 0; i < 10000 && !shared->taken; i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    stop_victim(child);
    assert_int_equal(done, 0);
    assert_int_equal(shared->taken, IN_MEMORY(SECRET));
}

static int sample(pid_t child)
{
    struct perf_event_attr attributes = {
        .type = PERF_TYPE_SOFTWARE,
        .size = sizeof attributes,
        .config = PERF_COUNT_SW_CPU_CLOCK,
        .sample_period = 100000,
        .sample_type = PERF_SAMPLE_REGS_USER | PERF_SAMPLE_STACK_USER,
        .sample_regs_user = UINT64_C(1) << 20, /* R12 (PERF_REG_X86_R12) */
        .sample_stack_user = 1024,
    };
    return (int)syscall(SYS_perf_event_open, &attributes, child, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

static void sampling_profiler_reads_registers_while_inside(void **state)
{
    (void)state;
    bool found = false;
    pid_t child = start_victim();
    int fd = sample(child);
    if (fd < 0) {
        stop_victim(child);
        print_message("perf_event_open is not to be had here: sampling was not tried\n");
        skip();
    }
    size_t size = (1 + RING_PAGES) * 4096;
    uint8_t *ring = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(ring != MAP_FAILED);
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    uint64_t wanted = SECRET;
    for (size_t at = 4096; at + 8 <= size; at += 8)
        if (memcmp(ring + at, &wanted, sizeof wanted) == 0) found = true;
    munmap(ring, size);
    close(fd);
    stop_victim(child);
    assert_true(found);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(int argc, char **argv)
{
    rig_arguments(argc, argv);
    const struct CMUnitTest tests[] = {
        TEST(debugger_reads_registers_while_inside),
        TEST(debugger_has_code_of_its_own_read_the_memory_while_inside),
        TEST(sampling_profiler_reads_registers_while_inside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
