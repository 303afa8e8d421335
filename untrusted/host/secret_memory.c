#include "untrusted/host/secret_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/memory.h"

#define PAGE 4096u

struct err secret_memory_descriptor(size_t size, int *out_fd)
{
    ENSURE(size > 0 && size <= INT64_MAX, BAD_VALUE);
    int fd = (int)syscall(SYS_memfd_secret, O_CLOEXEC);
    /* ENOSYS: not built in, or not switched on at boot; EPERM: a sandbox around us */
    ENSURE(fd >= 0 || errno == EMFILE || errno == ENFILE || errno == ENOMEM, NO_SECRET_MEMORY);
    ENSURE(fd >= 0, NO_MEMORY);
    if (ftruncate(fd, (off_t)size) != 0) {
        close(fd);
        return FAIL(NO_MEMORY);
    }
    *out_fd = fd;
    return OK;
}

struct err secret_memory_map_at(int fd, size_t offset, void *address, size_t size)
{
    void *mapped = mmap(address, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (off_t)offset);
    if (mapped != MAP_FAILED) return OK;
    ENSURE(errno != EAGAIN && errno != EPERM, MEMLOCK);
    return FAIL(NO_MEMORY);
}

static struct err map_ordinary(void *address, size_t size)
{
    void *mapped = mmap(address, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    ENSURE(mapped != MAP_FAILED, NO_MEMORY);
    return OK;
}

static struct err map_secret(void *address, size_t size)
{
    int fd = -1;
    TRY(secret_memory_descriptor(size, &fd));
    struct err result = secret_memory_map_at(fd, 0, address, size);
    close(fd);
    return result;
}

struct err secret_memory_open(size_t size, bool ordinary, struct secret_memory *out_memory)
{
    uint64_t rounded = 0;
    ENSURE(size > 0 && checked_align_up(size, PAGE, &rounded) && rounded <= INT64_MAX, BAD_VALUE);
    size_t reserved = rounded + 2 * PAGE;
    uint8_t *start = mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ENSURE(start != MAP_FAILED, NO_MEMORY);
    struct err result = ordinary ? map_ordinary(start + PAGE, rounded) : map_secret(start + PAGE, rounded);
    bool kept_apart = madvise(start, reserved, MADV_DONTFORK) == 0 && madvise(start, reserved, MADV_DONTDUMP) == 0;
    if (!result.code && !kept_apart) result = FAIL(SYSTEM);
    if (result.code) {
        munmap(start, reserved);
        return result;
    }
    *out_memory = (struct secret_memory){.data = start + PAGE, .size = rounded};
    return OK;
}

void secret_memory_close(struct secret_memory *memory)
{
    if (!memory->data) return;
    secret_memory_wipe_touched(memory->data, memory->size);
    munmap((uint8_t *)memory->data - PAGE, memory->size + 2 * PAGE);
    *memory = (struct secret_memory){0};
}

void secret_memory_wipe_touched(void *data, size_t size)
{
    uint8_t *bytes = data;
    for (size_t offset = 0; offset < size; offset += PAGE) {
        unsigned char resident = 1;
        /* The first touch of a secret page costs more than all its life: pages nobody touched are left alone. */
        bool known = mincore(bytes + offset, PAGE, &resident) == 0;
        if (known ? !(resident & 1) : errno == ENOMEM) continue; /* ENOMEM: nothing is mapped, an mmap before failed */
        wipe(bytes + offset, PAGE);
    }
}
