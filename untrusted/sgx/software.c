#include "untrusted/sgx/software.h"

#include <cpuid.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/checked.h"
#include "untrusted/host/log.h"
#include "untrusted/sgx/cpu_client.h"
#include "untrusted/sgx/elrange.h"
#include "untrusted/sgx/software_gate.h"
#include "untrusted/sgx/software_map.h"
#include "untrusted/sgx/xfrm.h"

#define HWCAP2_FSGSBASE 2u    /* AT_HWCAP2: the kernel keeps what WRFSBASE wrote */
#define PAGE_ADDED      0x40u /* in page_flags, with the SECINFO permission bits of a REG page */

#define NO_TCS          UINT64_MAX

enum software_state {
    STATE_OPENED = 1,
    STATE_CREATED,
    STATE_INITIALISED,
    STATE_DEAD,
};

struct software {
    struct device device;
    enum software_state state;
    int cpu_fd;
    uint64_t stub_offset;
    struct sgx_secs secs;
    struct software_map map;
    size_t run_count;
    struct device_pages runs[IMAGE_SEGMENTS_MAX];
    uint8_t *page_flags; /* one for each page of ELRANGE */
    uint64_t tcs_offset;
    struct gate gate;
};

static atomic_flag gate_taken = ATOMIC_FLAG_INIT;

/* Of the calling thread. */
static _Thread_local uint64_t thread_number; /* 0: the thread is not prepared */

static struct software *software_of(struct device *device)
{
    return (struct software *)device;
}

static struct err software_create(struct device *device, struct sgx_secs *secs)
{
    struct software *s = software_of(device);
    ENSURE(s->state == STATE_OPENED, SGX_ORDER);
    ENSURE(secs->SIZE >= SGX_SIZE_MIN && (secs->SIZE & (secs->SIZE - 1)) == 0 && secs->SIZE <= IMAGE_ELRANGE_MAX,
           SGX_SECS);
    s->page_flags = calloc(secs->SIZE / SGX_PAGE_SIZE, 1);
    ENSURE(s->page_flags, NO_MEMORY);
    TRY(elrange_reserve(secs->SIZE, &s->map.base));
    s->map.size = secs->SIZE;
    secs->BASEADDR = s->map.base;
    TRY(cpu_create(s->cpu_fd, secs, s->map.image_fd));
    s->secs = *secs;
    s->state = STATE_CREATED;
    return OK;
}

static struct err software_add_pages(struct device *device, const struct device_pages *pages)
{
    struct software *s = software_of(device);
    ENSURE(s->state == STATE_CREATED, SGX_ORDER);
    ENSURE(s->run_count < IMAGE_SEGMENTS_MAX, TOO_LARGE);
    ENSURE(pages->offset <= s->map.size && pages->length <= s->map.size - pages->offset, SGX_SECINFO);
    TRY(cpu_add_pages(s->cpu_fd, pages)); /* which checks the run against the image and the pages before */
    bool regular = (pages->secinfo.FLAGS & SGX_SECINFO_TYPE_MASK) == SGX_SECINFO_REG;
    ENSURE(regular || s->tcs_offset == NO_TCS, SGX_SECINFO); /* one thread, one TCS */
    if (!regular) s->tcs_offset = pages->offset;
    for (uint64_t offset = pages->offset; regular && offset < pages->offset + pages->length; offset += SGX_PAGE_SIZE)
        s->page_flags[offset / SGX_PAGE_SIZE] = (uint8_t)(PAGE_ADDED | (pages->secinfo.FLAGS & 7));
    s->runs[s->run_count++] = *pages;
    return OK;
}

static const struct device_pages *run_at(const struct software *s, uint64_t offset)
{
    for (size_t i = 0; i < s->run_count; i++)
        if (offset - s->runs[i].offset < s->runs[i].length) return &s->runs[i];
    return NULL;
}

static struct err read_tcs(const struct software *s, struct sgx_tcs *out_tcs)
{
    const struct device_pages *run = run_at(s, s->tcs_offset);
    ENSURE(run && run->length == SGX_PAGE_SIZE && run->file_offset, SGX_SECINFO);
    ssize_t size = pread(s->map.image_fd, out_tcs, sizeof *out_tcs, (off_t)run->file_offset);
    ENSURE(size == sizeof *out_tcs, SYSTEM);
    return OK;
}

static uint32_t xsave_size(uint64_t xfrm)
{
    uint32_t size = 576;
    for (unsigned int component = 2; component < 63; component++) {
        unsigned int length = 0, offset = 0, ecx = 0, edx = 0;
        if (!(xfrm & UINT64_C(1) << component)) continue;
        if (__get_cpuid_count(0x0D, component, &length, &offset, &ecx, &edx) && offset + length > size)
            size = offset + length;
    }
    return size;
}

static struct err make_gate(struct software *s)
{
    struct sgx_tcs tcs;
    TRY(read_tcs(s, &tcs));
    uint64_t frame = s->map.base + tcs.OSSA;
    s->device.own_canary = (getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE) != 0;
    s->gate = (struct gate){
        .entry = s->map.base + tcs.OENTRY,
        .tcs = s->map.base + s->tcs_offset,
        .aep = (uint64_t)(uintptr_t)software_gate_returned,
        .frame = frame,
        .gprsgx = frame + (uint64_t)s->secs.SSAFRAMESIZE * SGX_PAGE_SIZE - sizeof(struct sgx_gprsgx),
        .xfrm = s->secs.ATTRIBUTES.XFRM,
        .fs_base = s->device.own_canary ? s->map.base + tcs.OFSBASE : 0,
        .gs_base = s->map.base + tcs.OGSBASE,
        .stub = s->map.base + s->stub_offset,
        .xsave_size = xsave_size(s->secs.ATTRIBUTES.XFRM),
        .miscselect = s->secs.MISCSELECT,
        .owner = s,
    };
    return OK;
}

/*
 * Whatever of this may not be allowed any more once the process has confined itself. GS stays the host's: no image reads it
 * (tools/check-image), and where the kernel hides FSGSBASE another base costs a virtual machine microseconds at each
 * switch between processes.
 */
static struct err prepare_thread(void)
{
    TRY(software_fault_thread());
    TRY(elrange_confine_thread());
    thread_number = (uint64_t)gettid();
    return OK;
}

static struct err map_enclave(struct software *s)
{
    TRY(software_map_runs(&s->map, s->runs, s->run_count));
    const struct device_pages *run = run_at(s, s->stub_offset);
    if (!run || !(run->secinfo.FLAGS & SGX_SECINFO_X)) return (struct err){ERR_IMAGE_STUB};
    return software_map_stub(&s->map, s->map.base + s->stub_offset, run->file_offset + (s->stub_offset - run->offset),
                             software_gate_enclu);
}

static struct err software_init(struct device *device, const struct sgx_sigstruct *sigstruct)
{
    struct software *s = software_of(device);
    ENSURE(s->state == STATE_CREATED, SGX_ORDER);
    s->state = STATE_DEAD;
    TRY(cpu_init(s->cpu_fd, sigstruct));
    TRY(make_gate(s));
    TRY(map_enclave(s));
    TRY(software_fault_install(s->map.ordinary_memory));
    TRY(prepare_thread());
    s->state = STATE_INITIALISED;
    return OK;
}

static void take_result(struct software *s, struct device_run *run)
{
    *run = (struct device_run){.function = SGX_EEXIT};
    if (!s->gate.faulted) {
        run->rdi = s->gate.rdi;
        run->rsi = s->gate.rsi;
        run->rdx = s->gate.rdx;
        run->r8 = s->gate.r8;
        run->r9 = s->gate.r9;
        return;
    }
    s->state = STATE_DEAD;
    run->function = SGX_ERESUME;
    run->exception_vector = s->gate.vector;
    run->exception_error_code = s->gate.error_code;
    run->exception_addr = s->gate.address;
}

static struct err software_enter(struct device *device, uint64_t tcs_offset, struct device_run *run)
{
    struct software *s = software_of(device);
    ENSURE(s->state != STATE_DEAD, SGX_FAULT);
    ENSURE(s->state == STATE_INITIALISED, SGX_ORDER);
    ENSURE(tcs_offset == s->tcs_offset, SGX_TCS_BUSY);
    if (atomic_flag_test_and_set_explicit(&gate_taken, memory_order_acquire))
        return software_gate_current == &s->gate ? FAIL(SGX_TCS_BUSY) : FAIL(ENCLAVE_ENTERED);
    struct err result = thread_number ? OK : prepare_thread();
    if (!result.code) {
        s->gate.thread = thread_number;
        s->gate.rdi = run->rdi;
        s->gate.rsi = run->rsi;
        s->gate.rdx = run->rdx;
        s->gate.r8 = run->r8;
        s->gate.r9 = run->r9;
        software_gate_enter(&s->gate);
        take_result(s, run);
    }
    atomic_flag_clear_explicit(&gate_taken, memory_order_release);
    return result;
}

/* An operand of a leaf: what the processor would fault on. True if there is nothing. */
static bool operand_good(const struct software *s, uint64_t address, uint64_t size, uint64_t alignment, uint8_t needed,
                         struct gate_fault *out_fault)
{
    *out_fault = (struct gate_fault){.vector = VECTOR_GP};
    uint64_t offset = address - s->map.base;
    if (address % alignment != 0 || offset >= s->map.size || s->map.size - offset < size) return false;
    *out_fault = (struct gate_fault){.vector = VECTOR_PF, .address = address, .error_code = 0x8005};
    /* An operand never crosses a page: its alignment is not below its size, but for REPORTDATA and keys, which fit. */
    uint8_t flags = s->page_flags[offset / SGX_PAGE_SIZE];
    return (flags & (PAGE_ADDED | needed)) == (PAGE_ADDED | needed);
}

static bool leaf_ereport(struct software *s, uint64_t rbx, uint64_t rcx, uint64_t rdx, struct gate_fault *fault)
{
    if (!operand_good(s, rbx, sizeof(struct sgx_targetinfo), 512, SGX_SECINFO_R, fault)) return false;
    if (!operand_good(s, rcx, SGX_REPORTDATA_SIZE, SGX_REPORTDATA_ALIGNMENT, SGX_SECINFO_R, fault)) return false;
    if (!operand_good(s, rdx, SGX_REPORT_SIZE, 512, SGX_SECINFO_R | SGX_SECINFO_W, fault)) return false;
    *fault = (struct gate_fault){.vector = VECTOR_GP};
    struct err result = cpu_ereport(s->cpu_fd, (const void *)rbx, (const void *)rcx, (void *)rdx);
    if (result.code && result.code != ERR_SGX_FAULT)
        log_line(LOG_LEVEL_ERROR, "EREPORT failed, the enclave is stopped: %s", err_sentence(result));
    return !result.code;
}

static bool leaf_egetkey(struct software *s, uint64_t rbx, uint64_t rcx, uint32_t *out_rax, struct gate_fault *fault)
{
    if (!operand_good(s, rbx, sizeof(struct sgx_keyrequest), 512, SGX_SECINFO_R, fault)) return false;
    if (!operand_good(s, rcx, SGX_KEY_SIZE, 16, SGX_SECINFO_R | SGX_SECINFO_W, fault)) return false;
    *fault = (struct gate_fault){.vector = VECTOR_GP};
    struct err result = cpu_egetkey(s->cpu_fd, (const void *)rbx, out_rax, (void *)rcx);
    if (result.code && result.code != ERR_SGX_FAULT)
        log_line(LOG_LEVEL_ERROR, "EGETKEY failed, the enclave is stopped: %s", err_sentence(result));
    return !result.code;
}

int64_t software_leaf(uint64_t leaf, uint64_t rbx, uint64_t rcx, uint64_t rdx)
{
    struct gate *gate = software_gate_current;
    struct software *s = gate->owner;
    /* Any other leaf is #GP: EENTER and ERESUME inside, SGX2, and an EEXIT that does not go where the host waits. */
    struct gate_fault fault = {.vector = VECTOR_GP};
    uint32_t rax = 0;
    bool good = false;
    if (leaf == SGX_EREPORT)
        good = leaf_ereport(s, rbx, rcx, rdx, &fault);
    else if (leaf == SGX_EGETKEY)
        good = leaf_egetkey(s, rbx, rcx, &rax, &fault);
    if (good) return rax;
    ((struct sgx_gprsgx *)gate->gprsgx)->RIP = gate->stub;
    software_fault_record(gate, &fault);
    return -1;
}

static void software_release_processor(struct device *device)
{
    struct software *s = software_of(device);
    if (s->cpu_fd >= 0) close(s->cpu_fd);
    s->cpu_fd = -1;
}

static void software_destroy(struct device *device)
{
    struct software *s = software_of(device);
    if (s->map.base) software_map_remove(&s->map, s->runs, s->run_count);
    if (software_gate_current == &s->gate) software_gate_current = NULL;
    software_release_processor(device);
    free(s->page_flags);
    free(s);
}

static const struct device_ops software_ops = {
    .name = "software",
    .create = software_create,
    .add_pages = software_add_pages,
    .init = software_init,
    .enter = software_enter,
    .release_processor = software_release_processor,
    .destroy = software_destroy,
};

struct err software_device_open(const struct software_options *options, const struct image *image,
                                struct device **out_device)
{
    struct software *s = calloc(1, sizeof *s);
    ENSURE(s, NO_MEMORY);
    s->device = (struct device){
        .ops = &software_ops,
        .limits = options->ordinary_memory ? SOFTWARE_LIMITS_ORDINARY : SOFTWARE_LIMITS,
        .memory = options->ordinary_memory ? "ordinary" : "secret",
        .xfrm = xfrm_of_host(),
    };
    s->state = STATE_OPENED;
    s->tcs_offset = NO_TCS;
    s->cpu_fd = options->cpu_fd;
    s->stub_offset = image->stub_offset;
    s->map.image_fd = options->image_fd;
    s->map.ordinary_memory = options->ordinary_memory;
    if (options->ordinary_memory)
        log_line(LOG_LEVEL_WARNING, "memory: ordinary. The enclave's keys and state are NOT protected: every reader of "
                                    "this process's memory sees them");
    *out_device = &s->device;
    return OK;
}
