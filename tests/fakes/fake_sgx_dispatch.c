/*
 * Syscall user dispatch (Documentation/admin-guide/syscall-user-dispatch.rst): while an operation of a watched device
 * runs, its system calls become signals, and what is not the driver's is forwarded.
 */
#include "tests/fakes/fake_sgx.h"

#include <linux/prctl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "untrusted/sgx/elrange.h"

#define SA_RESTORER_FLAG 0x04000000ul
#define ALLOW            0 /* SYSCALL_DISPATCH_FILTER_* */
#define BLOCK            1

extern char fake_sgx_allowed_start[], fake_sgx_allowed_end[]; /* fake_sgx_gate.S */
int64_t fake_sgx_raw(long number, const uint64_t arguments[6]);
void fake_sgx_restorer(void);

static volatile char selector = ALLOW;

static const struct device_ops *real_ops;
static struct device_ops watched_ops;

static void on_system_call(int signal, siginfo_t *info, void *context);

/* As the kernel has it: the C library would put its own restorer there, which may make no system call. */
struct kernel_sigaction {
    void (*handler)(int signal, siginfo_t *info, void *context);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};

static void dispatch(void)
{
    const struct kernel_sigaction action = {
        .handler = on_system_call, .flags = SA_SIGINFO | SA_RESTORER_FLAG, .restorer = fake_sgx_restorer};
    const uint64_t handled[6] = {SIGSYS, (uintptr_t)&action, 0, sizeof action.mask};
    const uint64_t start = (uintptr_t)fake_sgx_allowed_start;
    const uint64_t dispatched[6] = {PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, start,
                                    (uintptr_t)fake_sgx_allowed_end - start, (uintptr_t)&selector};
    if (fake_sgx_raw(SYS_rt_sigaction, handled) != 0 || fake_sgx_raw(SYS_prctl, dispatched) != 0) abort();
}

/* The software device behind the driver has a dispatch of its own, which takes the place of this one. */
static void on_system_call(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint64_t arguments[6] = {
        (uint64_t)registers[REG_RDI], (uint64_t)registers[REG_RSI], (uint64_t)registers[REG_RDX],
        (uint64_t)registers[REG_R10], (uint64_t)registers[REG_R8],  (uint64_t)registers[REG_R9],
    };
    int64_t result = 0;
    selector = ALLOW;
    if (!fake_sgx_system_call(registers[REG_RAX], arguments, &result))
        result = fake_sgx_raw(registers[REG_RAX], arguments);
    registers[REG_RAX] = result;
    dispatch();
    selector = BLOCK;
}

static void watch(void)
{
    dispatch();
    selector = BLOCK;
}

/* Leaves what the software device behind the driver has on this thread. */
static void unwatch(void)
{
    selector = ALLOW;
    if (elrange_confine_thread().code) abort();
}

void fake_sgx_watched(void (*body)(void *ctx), void *ctx)
{
    watch();
    body(ctx);
    unwatch();
}

static struct err watched_create(struct device *device, struct sgx_secs *secs)
{
    watch();
    struct err result = real_ops->create(device, secs);
    unwatch();
    return result;
}

static struct err watched_add_pages(struct device *device, const struct device_pages *pages)
{
    watch();
    struct err result = real_ops->add_pages(device, pages);
    unwatch();
    return result;
}

static struct err watched_init(struct device *device, const struct sgx_sigstruct *sigstruct)
{
    watch();
    struct err result = real_ops->init(device, sigstruct);
    unwatch();
    return result;
}

static void watched_destroy(struct device *device)
{
    watch();
    real_ops->destroy(device);
    unwatch();
}

void fake_sgx_watch(struct device *device)
{
    if (device->ops == &watched_ops) return;
    real_ops = device->ops;
    watched_ops = *real_ops;
    watched_ops.create = watched_create;
    watched_ops.add_pages = watched_add_pages;
    watched_ops.init = watched_init;
    watched_ops.destroy = watched_destroy;
    device->ops = &watched_ops;
}
