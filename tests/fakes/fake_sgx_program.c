/*
 * The driver of the tests' own under a whole program: linked with --wrap, this stands where the program's own objects
 * call the C library for the device. They are the objects that are installed.
 *
 * FAKE_SGX names a file that is the machine: all programs of it map it, and the test that made it changes it. Without it
 * there is no device.
 */
#include "tests/fakes/fake_sgx.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* tests/system/sgx.py knows it. */
struct machine {
    struct fake_sgx_power power;
    _Atomic uint32_t open_error; /* errno of whoever opens the device */
    _Atomic uint32_t epc_pages;  /* that the enclaves of one process may have; 0: enough */
    uint32_t ordinary_memory;    /* there is no secret memory for the software device behind the driver */
    char cpu[108];               /* where the processor listens */
};

_Static_assert(offsetof(struct machine, cpu) == 20 && sizeof(struct machine) == 128, "tests/system/sgx.py");

static struct machine *machine;
static _Thread_local bool inside; /* the driver itself is at work */

__attribute__((constructor)) static void open_machine(void)
{
    const char *path = getenv("FAKE_SGX");
    if (!path) return;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    machine = mmap(NULL, sizeof *machine, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (machine == MAP_FAILED) abort();
    fake_sgx_power = &machine->power;
    fake_sgx_run_on(machine->cpu, machine->ordinary_memory);
}

/* As the C library: -1 and errno. False: the call is not about the device. */
static bool taken(long number, const uint64_t arguments[6], int64_t *out_result)
{
    if (inside) return false;
    fake_sgx_faults.open_error = machine ? (int)machine->open_error : ENOENT;
    fake_sgx_faults.epc_pages = machine ? machine->epc_pages : 0;
    inside = true;
    bool result = fake_sgx_system_call(number, arguments, out_result);
    inside = false;
    if (!result || *out_result >= 0 || *out_result < -4095) return result;
    errno = (int)-*out_result;
    *out_result = -1;
    return true;
}

int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);
int __real_close(int fd);
int __wrap_close(int fd);
void *__real_mmap64(void *address, size_t size, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *address, size_t size, int protection, int flags, int fd, off_t offset);
int __real_mprotect(void *address, size_t size, int protection);
int __wrap_mprotect(void *address, size_t size, int protection);
int __real_munmap(void *address, size_t size);
int __wrap_munmap(void *address, size_t size);

int __wrap_open64(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    const mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
    va_end(more);
    const uint64_t arguments[6] = {(uint64_t)AT_FDCWD, (uintptr_t)path, (uint64_t)flags};
    int64_t result = 0;
    return taken(SYS_openat, arguments, &result) ? (int)result : __real_open64(path, flags, mode);
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
    va_list more;
    va_start(more, request);
    void *argument = va_arg(more, void *);
    va_end(more);
    const uint64_t arguments[6] = {(uint64_t)fd, request, (uintptr_t)argument};
    int64_t result = 0;
    return taken(SYS_ioctl, arguments, &result) ? (int)result : __real_ioctl(fd, request, argument);
}

int __wrap_close(int fd)
{
    const uint64_t arguments[6] = {(uint64_t)fd};
    int64_t result = 0;
    return taken(SYS_close, arguments, &result) ? (int)result : __real_close(fd);
}

void *__wrap_mmap64(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    const uint64_t arguments[6] = {(uintptr_t)address, size,         (uint64_t)protection,
                                   (uint64_t)flags,    (uint64_t)fd, (uint64_t)offset};
    int64_t result = 0;
    return taken(SYS_mmap, arguments, &result) ? (void *)result
                                               : __real_mmap64(address, size, protection, flags, fd, offset);
}

int __wrap_mprotect(void *address, size_t size, int protection)
{
    const uint64_t arguments[6] = {(uintptr_t)address, size, (uint64_t)protection};
    int64_t result = 0;
    return taken(SYS_mprotect, arguments, &result) ? (int)result : __real_mprotect(address, size, protection);
}

int __wrap_munmap(void *address, size_t size)
{
    const uint64_t arguments[6] = {(uintptr_t)address, size};
    int64_t result = 0;
    return taken(SYS_munmap, arguments, &result) ? (int)result : __real_munmap(address, size);
}
