#include "untrusted/sgx/sealed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

/* Linux 6.3; older headers lack it. A copy that cannot be executed as a program passes vm.memfd_noexec too. */
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

#define SEALS      (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
#define COPY_BLOCK 65536u

static void close_fd(const int *fd)
{
    if (*fd >= 0) close(*fd);
}

static struct err copy_block(int from, int to, uint64_t offset, size_t size)
{
    uint8_t block[COPY_BLOCK];
    for (size_t done = 0; done < size;) {
        ssize_t count = pread(from, block + done, size - done, (off_t)(offset + done));
        if (count < 0 && errno == EINTR) continue;
        ENSURE(count > 0, SYSTEM);
        done += (size_t)count;
    }
    for (size_t done = 0; done < size;) {
        ssize_t count = pwrite(to, block + done, size - done, (off_t)(offset + done));
        ENSURE(count > 0, NO_MEMORY);
        done += (size_t)count;
    }
    return OK;
}

struct err sealed_copy(int file_fd, uint64_t size, int *out_fd)
{
    int fd DEFER(close_fd) = memfd_create("vtpm-image", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) fd = memfd_create("vtpm-image", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    ENSURE(fd >= 0, NO_MEMORY);
    for (uint64_t offset = 0; offset < size; offset += COPY_BLOCK)
        TRY(copy_block(file_fd, fd, offset, size - offset < COPY_BLOCK ? (size_t)(size - offset) : COPY_BLOCK));
    ENSURE(fcntl(fd, F_ADD_SEALS, SEALS) == 0, SYSTEM);
    *out_fd = fd;
    fd = -1;
    return OK;
}

struct err sealed_reopen(int fd, int *out_fd)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    *out_fd = open(path, O_RDONLY | O_CLOEXEC);
    ENSURE(*out_fd >= 0, SYSTEM);
    return OK;
}
