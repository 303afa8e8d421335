#include "untrusted/sgx/kernel.h"

#include <asm/sgx.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/checked.h"
#include "untrusted/host/log.h"
#include "untrusted/sgx/elrange.h"
#include "untrusted/sgx/kernel_gate.h"
#include "untrusted/sgx/measure.h"
#include "untrusted/sgx/sigstruct.h"
#include "untrusted/sgx/vdso.h"
#include "untrusted/sgx/xfrm.h"

#define ZEROS_SIZE 65536u
#define NO_TCS     UINT64_MAX

enum kernel_state {
    STATE_OPENED = 1,
    STATE_CREATED,
    STATE_INITIALISED,
    STATE_DEAD,
};

struct kernel {
    struct device device;
    enum kernel_state state;
    int fd; /* -1 once everything is mapped: the mappings keep the enclave */
    void *enter;
    const struct image *image;
    struct sgx_secs secs;
    uint64_t tcs_offset;
    atomic_flag entered;
    struct image added; /* what the driver was given; no signatures */
};

static struct kernel *kernel_of(struct device *device)
{
    return (struct kernel *)device;
}

/* --- errno, as arch/x86/kernel/cpu/sgx/{driver,ioctl,encl}.c mean it --- */

struct meaning {
    int error;
    uint16_t code;
};

#define MEANINGS 5u

static const struct meaning open_meanings[MEANINGS] = {
    {ENOENT, ERR_SGX_NO_DEVICE},     {ENODEV, ERR_SGX_NO_DEVICE},    {ENXIO, ERR_SGX_NO_DEVICE},
    {EACCES, ERR_SGX_DEVICE_DENIED}, {EPERM, ERR_SGX_DEVICE_DENIED},
};
/* EIO: the instruction faulted. The driver does not say over what. */
static const struct meaning create_meanings[MEANINGS] = {
    {EINVAL, ERR_SGX_SECS},
    {EIO, ERR_SGX_SECS},
    {ENOMEM, ERR_SGX_EPC},
};
/* EBUSY: there is a page already. Nobody else has this descriptor. */
static const struct meaning add_meanings[MEANINGS] = {
    {EINVAL, ERR_SGX_SECINFO}, {EIO, ERR_SGX_SECINFO},   {EBUSY, ERR_SGX_SECINFO},
    {ENOMEM, ERR_SGX_EPC},     {EACCES, ERR_SGX_SOURCE},
};
/* EINVAL: the SIGSTRUCT demands what this processor lacks. EACCES: the attribute is not this descriptor's to have. */
static const struct meaning init_meanings[MEANINGS] = {
    {EPERM, ERR_SGX_LAUNCH},
    {EINVAL, ERR_SGX_ATTRIBUTE},
    {EACCES, ERR_SGX_ATTRIBUTE},
};
static const struct meaning map_meanings[MEANINGS] = {
    {EPERM, ERR_SGX_NOEXEC},
    {EACCES, ERR_SGX_SECINFO},
    {ENOMEM, ERR_NO_MEMORY},
};

static struct err meaning_of(const struct meaning meanings[MEANINGS], int error)
{
    for (size_t i = 0; i < MEANINGS; i++)
        if (meanings[i].error == error) return (struct err){meanings[i].code};
    errno = error;
    return FAIL(SYSTEM);
}

/* --- what there is --- */

struct err kernel_connect(int *out_fd)
{
    struct statvfs mount;
    int fd = open(KERNEL_DEVICE_PATH, O_RDWR | O_CLOEXEC);
    if (fd < 0) return meaning_of(open_meanings, errno);
    if (fstatvfs(fd, &mount) == 0 && mount.f_flag & ST_NOEXEC) {
        close(fd);
        return FAIL(SGX_NOEXEC);
    }
    *out_fd = fd;
    return OK;
}

struct err kernel_device_probe(void)
{
    int fd = -1;
    TRY(kernel_connect(&fd));
    close(fd);
    ENSURE(vdso_sgx_enter_enclave(), SGX_VDSO);
    return OK;
}

/* --- making it --- */

static struct err kernel_create(struct device *device, struct sgx_secs *secs)
{
    struct kernel *k = kernel_of(device);
    ENSURE(k->state == STATE_OPENED, SGX_ORDER);
    ENSURE(secs->SIZE >= SGX_SIZE_MIN && (secs->SIZE & (secs->SIZE - 1)) == 0 && secs->SIZE <= IMAGE_ELRANGE_MAX,
           SGX_SECS);
    k->state = STATE_DEAD;
    TRY(elrange_reserve(secs->SIZE, &secs->BASEADDR));
    k->secs = *secs;
    const struct sgx_enclave_create create = {.src = (uintptr_t)secs};
    if (ioctl(k->fd, SGX_IOC_ENCLAVE_CREATE, &create) != 0) return meaning_of(create_meanings, errno);
    k->added = (struct image){.file = k->image->file, .size = secs->SIZE, .ssaframesize = secs->SSAFRAMESIZE};
    k->state = STATE_CREATED;
    return OK;
}

/* One ioctl. It may add fewer pages than it was asked for: a signal came. */
static struct err add_part(const struct kernel *k, struct sgx_enclave_add_pages *add)
{
    add->count = 0;
    int error = ioctl(k->fd, SGX_IOC_ENCLAVE_ADD_PAGES, add) != 0 ? errno : 0;
    if (error && error != EINTR) return meaning_of(add_meanings, error);
    ENSURE(error || add->count > 0, SYSTEM);
    ENSURE(add->count <= add->length && add->count % SGX_PAGE_SIZE == 0, SYSTEM);
    return OK;
}

static struct err add_segment(const struct kernel *k, const struct image_segment *segment)
{
    static _Alignas(SGX_PAGE_SIZE) uint8_t zeros[ZEROS_SIZE];
    const struct sgx_secinfo secinfo = {.FLAGS = segment->secinfo_flags};
    for (uint64_t done = 0; done < segment->size;) {
        const uint8_t *content = image_page(&k->added, segment, done);
        uint64_t left = segment->size - done;
        struct sgx_enclave_add_pages add = {
            .src = (uintptr_t)(content ? content : zeros),
            .offset = segment->offset + done,
            .length = content || left < ZEROS_SIZE ? left : ZEROS_SIZE,
            .secinfo = (uintptr_t)&secinfo,
            .flags = segment->measured ? SGX_PAGE_MEASURE : 0,
        };
        TRY(add_part(k, &add));
        done += add.count;
    }
    return OK;
}

static bool all_zero(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (data[i]) return false;
    return true;
}

/* Where the driver would read beside the image, or an address would wrap. Everything else is the driver's to refuse. */
static struct err check_pages(const struct kernel *k, const struct device_pages *pages)
{
    uint64_t end = 0;
    ENSURE(all_zero(pages->secinfo.reserved, sizeof pages->secinfo.reserved), SGX_SECINFO);
    ENSURE(checked_add(pages->offset, pages->length, &end) && end <= k->secs.SIZE && pages->length, SGX_SECINFO);
    if (pages->file_offset == 0) return OK;
    ENSURE(checked_add(pages->file_offset, pages->length, &end) && end <= k->added.file.size, SGX_SECINFO);
    return OK;
}

static struct err kernel_add_pages(struct device *device, const struct device_pages *pages)
{
    struct kernel *k = kernel_of(device);
    ENSURE(k->state == STATE_CREATED, SGX_ORDER);
    ENSURE(k->added.segment_count < IMAGE_SEGMENTS_MAX, TOO_LARGE);
    TRY(check_pages(k, pages));
    bool tcs = (pages->secinfo.FLAGS & SGX_SECINFO_TYPE_MASK) == SGX_SECINFO_TCS;
    ENSURE(!tcs || k->tcs_offset == NO_TCS, SGX_SECINFO); /* one thread, one TCS */
    struct image_segment *segment = &k->added.segments[k->added.segment_count];
    *segment = (struct image_segment){
        .offset = pages->offset,
        .size = pages->length,
        .file_offset = pages->file_offset,
        .secinfo_flags = pages->secinfo.FLAGS,
        .measured = pages->measured,
    };
    TRY(add_segment(k, segment));
    if (tcs) k->tcs_offset = pages->offset;
    k->added.segment_count++;
    return OK;
}

/*
 * The driver has one answer to everything that EINIT refuses. What a processor checks can be checked again here; what
 * passes is the processor's own: its launch key, or an interrupt.
 */
static struct err explain_einit(const struct kernel *k, const struct sgx_sigstruct *sigstruct, struct err otherwise)
{
    const char *field = NULL;
    uint8_t mrenclave[SGX_HASH_SIZE];
    TRY(measure_image(&k->added, mrenclave));
    struct err result = sigstruct_examine(sigstruct, &k->secs, mrenclave, &field);
    if (result.code) log_line(LOG_LEVEL_ERROR, "EINIT: of the SIGSTRUCT, it is %s", field);
    return result.code ? result : otherwise;
}

static struct err einit(const struct kernel *k, const struct sgx_sigstruct *sigstruct)
{
    const struct sgx_enclave_init init = {.sigstruct = (uintptr_t)sigstruct};
    int failed = 0;
    do
        failed = ioctl(k->fd, SGX_IOC_ENCLAVE_INIT, &init);
    while (failed && errno == EINTR);
    if (!failed) return OK;
    return explain_einit(k, sigstruct, meaning_of(init_meanings, errno));
}

static int protection_of(const struct image_segment *segment)
{
    int protection = PROT_NONE;
    if (segment->secinfo_flags == SGX_SECINFO_TCS) return PROT_READ | PROT_WRITE; /* the driver wants no other */
    if (segment->secinfo_flags & SGX_SECINFO_R) protection |= PROT_READ;
    if (segment->secinfo_flags & SGX_SECINFO_W) protection |= PROT_WRITE;
    if (segment->secinfo_flags & SGX_SECINFO_X) protection |= PROT_EXEC;
    return protection;
}

/* What no segment covers stays as it was reserved: without any permission. */
static struct err map_segments(const struct kernel *k)
{
    for (uint32_t i = 0; i < k->added.segment_count; i++) {
        const struct image_segment *segment = &k->added.segments[i];
        void *mapped = mmap((void *)(k->secs.BASEADDR + segment->offset), segment->size, protection_of(segment),
                            MAP_SHARED | MAP_FIXED, k->fd, 0);
        if (mapped != MAP_FAILED) continue;
        int error = errno;
        int flags = personality(0xFFFFFFFF); /* a sandbox may refuse to say */
        if (error == EACCES && flags >= 0 && flags & READ_IMPLIES_EXEC) return FAIL(SGX_PERSONALITY);
        return meaning_of(map_meanings, error);
    }
    ENSURE(madvise((void *)k->secs.BASEADDR, k->secs.SIZE, MADV_DONTFORK) == 0, SYSTEM);
    return OK;
}

static struct err kernel_init(struct device *device, const struct sgx_sigstruct *sigstruct)
{
    struct kernel *k = kernel_of(device);
    ENSURE(k->state == STATE_CREATED, SGX_ORDER);
    k->state = STATE_DEAD;
    TRY(einit(k, sigstruct));
    TRY(map_segments(k));
    close(k->fd);
    k->fd = -1;
    k->state = STATE_INITIALISED;
    return OK;
}

/* --- running it --- */

static struct err enter(struct kernel *k, struct device_run *run)
{
    struct sgx_enclave_run enclave_run = {.tcs = k->secs.BASEADDR + k->tcs_offset};
    int result = kernel_gate_enter(k->enter, run, &enclave_run);
    if (result != 0) {
        errno = -result;
        return FAIL(SYSTEM);
    }
    run->function = enclave_run.function;
    if (run->function == SGX_EEXIT) return OK;
    k->state = STATE_DEAD;
    *run = (struct device_run){
        .function = enclave_run.function,
        .exception_vector = enclave_run.exception_vector,
        .exception_error_code = enclave_run.exception_error_code,
        .exception_addr = enclave_run.exception_addr,
    };
    return OK;
}

static struct err kernel_enter(struct device *device, uint64_t tcs_offset, struct device_run *run)
{
    struct kernel *k = kernel_of(device);
    ENSURE(k->state != STATE_DEAD, SGX_FAULT);
    ENSURE(k->state == STATE_INITIALISED, SGX_ORDER);
    ENSURE(tcs_offset == k->tcs_offset, SGX_TCS_BUSY);
    /* The processor would say #GP, which is what it says of an enclave that is gone, too. */
    if (atomic_flag_test_and_set_explicit(&k->entered, memory_order_acquire)) return FAIL(SGX_TCS_BUSY);
    struct err result = enter(k, run);
    atomic_flag_clear_explicit(&k->entered, memory_order_release);
    return result;
}

static void kernel_release_processor(struct device *device)
{
    (void)device; /* the processor answers every enclave */
}

static void kernel_destroy(struct device *device)
{
    struct kernel *k = kernel_of(device);
    if (k->secs.BASEADDR) munmap((void *)k->secs.BASEADDR, k->secs.SIZE);
    if (k->fd >= 0) close(k->fd);
    free(k);
}

static const struct device_ops kernel_ops = {
    .name = "sgx",
    .create = kernel_create,
    .add_pages = kernel_add_pages,
    .init = kernel_init,
    .enter = kernel_enter,
    .release_processor = kernel_release_processor,
    .destroy = kernel_destroy,
};

static struct err open_with(int device_fd, const struct image *image, struct device **out_device)
{
    void *enter = vdso_sgx_enter_enclave();
    ENSURE(enter, SGX_VDSO);
    struct kernel *k = calloc(1, sizeof *k);
    ENSURE(k, NO_MEMORY);
    *k = (struct kernel){
        .device = {.ops = &kernel_ops, .limits = KERNEL_LIMITS, .memory = "EPC", .own_canary = true},
        .state = STATE_OPENED,
        .fd = device_fd,
        .enter = enter,
        .image = image,
        .tcs_offset = NO_TCS,
        .entered = ATOMIC_FLAG_INIT,
    };
    k->device.xfrm = xfrm_of_enclaves();
    *out_device = &k->device;
    return OK;
}

struct err kernel_device_open(int device_fd, const struct image *image, struct device **out_device)
{
    struct err result = open_with(device_fd, image, out_device);
    if (result.code) close(device_fd);
    return result;
}
