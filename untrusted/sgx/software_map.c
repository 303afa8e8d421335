#include "untrusted/sgx/software_map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "untrusted/host/secret_memory.h"
#include "untrusted/sgx/image.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

/* jmp *2(%rip), then the address: aligned, as the enclave may have AC set when it leaves */
static const uint8_t stub_jump[] = {0xFF, 0x25, 2, 0, 0, 0, 0xCC, 0xCC};

#define PERMISSIONS (SGX_SECINFO_R | SGX_SECINFO_W | SGX_SECINFO_X)

static void close_fd(const int *fd)
{
    if (*fd >= 0) close(*fd);
}

static bool is_tcs(const struct device_pages *run)
{
    return (run->secinfo.FLAGS & SGX_SECINFO_TYPE_MASK) == SGX_SECINFO_TCS;
}

static bool is_writable(const struct device_pages *run)
{
    return !is_tcs(run) && (run->secinfo.FLAGS & SGX_SECINFO_W);
}

static bool is_secret(const struct device_pages *run)
{
    return is_writable(run) && !run->public;
}

static int protection_of(const struct device_pages *run)
{
    int protection = PROT_NONE;
    if (run->secinfo.FLAGS & SGX_SECINFO_R) protection |= PROT_READ;
    if (run->secinfo.FLAGS & SGX_SECINFO_W) protection |= PROT_WRITE;
    if (run->secinfo.FLAGS & SGX_SECINFO_X) protection |= PROT_EXEC;
    return protection;
}

static struct err map_file(const struct software_map *map, const struct device_pages *run)
{
    int sharing = is_writable(run) ? MAP_PRIVATE : MAP_SHARED;
    void *mapped = mmap((void *)(map->base + run->offset), run->length, protection_of(run), sharing | MAP_FIXED,
                        map->image_fd, (off_t)run->file_offset);
    ENSURE(mapped != MAP_FAILED, NO_MEMORY);
    return OK;
}

static struct err map_zeros(const struct software_map *map, const struct device_pages *run)
{
    void *mapped = mmap((void *)(map->base + run->offset), run->length, protection_of(run),
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    ENSURE(mapped != MAP_FAILED, NO_MEMORY);
    return OK;
}

static struct err copy_content(const struct software_map *map, const struct device_pages *run)
{
    uint8_t *to = (uint8_t *)(map->base + run->offset);
    for (uint64_t done = 0; done < run->length;) {
        ssize_t count = pread(map->image_fd, to + done, run->length - done, (off_t)(run->file_offset + done));
        if (count < 0 && errno == EINTR) continue;
        ENSURE(count > 0, SYSTEM);
        done += (uint64_t)count;
    }
    return OK;
}

static struct err map_secrets(const struct software_map *map, const struct device_pages *runs, size_t count)
{
    int fd DEFER(close_fd) = -1;
    uint64_t total = 0;
    uint64_t offset = 0;
    for (size_t i = 0; i < count; i++)
        if (is_secret(&runs[i])) total += runs[i].length;
    if (total == 0) return OK;
    if (!map->ordinary_memory) TRY(secret_memory_descriptor(total, &fd));
    for (size_t i = 0; i < count; i++) {
        if (!is_secret(&runs[i])) continue;
        if (map->ordinary_memory)
            TRY(map_zeros(map, &runs[i]));
        else
            TRY(secret_memory_map_at(fd, offset, (void *)(map->base + runs[i].offset), runs[i].length));
        offset += runs[i].length;
    }
    return OK;
}

struct err software_map_runs(const struct software_map *map, const struct device_pages *runs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t permissions = runs[i].secinfo.FLAGS & PERMISSIONS;
        ENSURE(!((permissions & SGX_SECINFO_W) && (permissions & SGX_SECINFO_X)), SGX_SECINFO);
        ENSURE(!(permissions & SGX_SECINFO_X) || runs[i].file_offset, IMAGE_SEGMENT);
        if (is_tcs(&runs[i]) || is_secret(&runs[i])) continue;
        TRY(runs[i].file_offset ? map_file(map, &runs[i]) : map_zeros(map, &runs[i]));
    }
    TRY(map_secrets(map, runs, count));
    ENSURE(madvise((void *)map->base, map->size, MADV_DONTFORK) == 0, SYSTEM);
    ENSURE(madvise((void *)map->base, map->size, MADV_DONTDUMP) == 0, SYSTEM);
    for (size_t i = 0; i < count; i++)
        if (is_secret(&runs[i]) && runs[i].file_offset) TRY(copy_content(map, &runs[i]));
    return OK;
}

/* A sealed, read-only descriptor of one page. */
static struct err seal_page(const uint8_t page[SGX_PAGE_SIZE], int *out_fd)
{
    char path[40];
    int seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    int fd DEFER(close_fd) = memfd_create("vtpm-stub", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) fd = memfd_create("vtpm-stub", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    ENSURE(fd >= 0, NO_MEMORY);
    ENSURE(pwrite(fd, page, SGX_PAGE_SIZE, 0) == SGX_PAGE_SIZE, NO_MEMORY);
    ENSURE(fcntl(fd, F_ADD_SEALS, seals) == 0, SYSTEM);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    *out_fd = open(path, O_RDONLY | O_CLOEXEC);
    ENSURE(*out_fd >= 0, SYSTEM);
    return OK;
}

struct err software_map_stub(const struct software_map *map, uint64_t address, uint64_t file_offset,
                             void (*target)(void))
{
    uint8_t page[SGX_PAGE_SIZE];
    int fd DEFER(close_fd) = -1;
    uintptr_t jump_to = (uintptr_t)target;
    ENSURE(pread(map->image_fd, page, sizeof page, (off_t)file_offset) == sizeof page, SYSTEM);
    bool stub = memcmp(page, image_stub, IMAGE_STUB_SIZE) == 0;
    if (!stub) return (struct err){ERR_IMAGE_STUB};
    memcpy(page, stub_jump, sizeof stub_jump);
    memcpy(page + sizeof stub_jump, &jump_to, sizeof jump_to);
    TRY(seal_page(page, &fd));
    void *mapped = mmap((void *)address, SGX_PAGE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, 0);
    ENSURE(mapped != MAP_FAILED, NO_MEMORY);
    ENSURE(madvise(mapped, SGX_PAGE_SIZE, MADV_DONTFORK) == 0, SYSTEM);
    ENSURE(madvise(mapped, SGX_PAGE_SIZE, MADV_DONTDUMP) == 0, SYSTEM);
    return OK;
}

void software_map_remove(const struct software_map *map, const struct device_pages *runs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        /* Of what was not mapped, no page is resident. */
        if (!is_secret(&runs[i])) continue;
        secret_memory_wipe_touched((void *)(map->base + runs[i].offset), runs[i].length);
    }
    munmap((void *)map->base, map->size);
}
