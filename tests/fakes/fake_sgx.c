#include "tests/fakes/fake_sgx.h"

#include <asm/sgx.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/fakes/fake_sgx_inner.h"
#include "untrusted/cpu/processor.h"
#include "untrusted/sgx/kernel.h"
#include "untrusted/sgx/measure.h"
#include "untrusted/sgx/xfrm.h"

#define ENCLAVES_MAX 8u
#define PAGE_TCS     0x80u
#define PAGE_THERE   0x40u
#define VECTOR_GP    13u
#define VECTOR_PF    14u
#define PF_SGX       0x8007u /* the EPCM says no */

/* Of one descriptor. */
struct enclave {
    bool open; /* the descriptor is */
    bool unmapped;
    int fd;
    bool created, initialised;
    struct processor_enclave processor;
    struct measurement *measurement;
    uint8_t *pages;  /* for each page of ELRANGE: what was added */
    uint8_t *mapped; /* and with which protection it is mapped; PAGE_THERE if it is */
    uint32_t losses; /* of the EPC, before it was created */
    bool runs;       /* not an echo */
    struct fake_sgx_inner inner;
};

struct fake_sgx_faults fake_sgx_faults;
struct fake_sgx_seen fake_sgx_seen;

static struct fake_sgx_power own_power;
struct fake_sgx_power *fake_sgx_power = &own_power;

static struct enclave enclaves[ENCLAVES_MAX];
static const char *inner_cpu; /* NULL: there is an echo */
static bool inner_ordinary_memory;

static void forget(struct enclave *e)
{
    fake_sgx_inner_close(&e->inner);
    if (e->open) close(e->fd);
    measurement_close(&e->measurement);
    processor_enclave_close(&e->processor);
    free(e->pages);
    free(e->mapped);
    *e = (struct enclave){.fd = -1};
}

void fake_sgx_reset(void)
{
    for (size_t i = 0; i < ENCLAVES_MAX; i++)
        forget(&enclaves[i]);
    fake_sgx_faults = (struct fake_sgx_faults){0};
    fake_sgx_seen = (struct fake_sgx_seen){0};
    own_power = (struct fake_sgx_power){0};
    inner_cpu = NULL;
}

void fake_sgx_run_on(const char *cpu, bool ordinary_memory)
{
    inner_cpu = cpu;
    inner_ordinary_memory = ordinary_memory;
}

/* What happens now may be when the machine loses its power. */
static void take_step(void)
{
    uint32_t left = fake_sgx_power->until_loss;
    while (left && !atomic_compare_exchange_weak(&fake_sgx_power->until_loss, &left, left - 1))
        ;
    if (left == 1) fake_sgx_power->losses++;
}

static bool is_lost(const struct enclave *e)
{
    return e->created && e->losses != fake_sgx_power->losses;
}

static struct enclave *of_descriptor(int fd)
{
    for (size_t i = 0; i < ENCLAVES_MAX; i++)
        if (enclaves[i].open && enclaves[i].fd == fd) return &enclaves[i];
    return NULL;
}

/* Descriptor or not: mappings keep an enclave. */
static struct enclave *of_address(uint64_t address)
{
    for (size_t i = 0; i < ENCLAVES_MAX; i++) {
        struct enclave *e = &enclaves[i];
        if (e->created && address - e->processor.secs.BASEADDR < e->processor.secs.SIZE) return e;
    }
    return NULL;
}

/* --- files --- */

static int64_t do_open(void)
{
    if (fake_sgx_faults.open_error) return -fake_sgx_faults.open_error;
    for (size_t i = 0; i < ENCLAVES_MAX; i++) {
        struct enclave *e = &enclaves[i];
        if (e->open || e->created) continue;
        e->fd = memfd_create("fake-sgx", MFD_CLOEXEC);
        if (e->fd < 0) return -errno;
        e->open = true;
        e->runs = inner_cpu != NULL;
        fake_sgx_seen.opened++;
        return e->fd;
    }
    return -EMFILE;
}

static int64_t do_close(struct enclave *e)
{
    e->open = false;
    int64_t result = close(e->fd) == 0 ? 0 : -errno;
    if (!e->created || e->unmapped) forget(e);
    return result;
}

static int64_t do_fstatfs(const struct enclave *e, struct statfs *out)
{
    if (fstatfs(e->fd, out) != 0) return -errno;
    if (fake_sgx_faults.noexec) out->f_flags |= ST_NOEXEC;
    return 0;
}

/* --- ioctls (ioctl.c) --- */

static int64_t do_create(struct enclave *e, const struct sgx_enclave_create *argument)
{
    static struct sgx_secs secs; /* a page */
    if (e->created) return -EINVAL;
    memcpy(&secs, (const void *)argument->src, sizeof secs);
    if (!secs.SIZE || (secs.SIZE & (secs.SIZE - 1))) return -EINVAL;
    if (processor_ecreate(&e->processor, &secs, xfrm_of_host()).code) return -EIO;
    if (measurement_create(secs.SSAFRAMESIZE, secs.SIZE, &e->measurement).code) return -ENOMEM;
    e->pages = calloc(secs.SIZE / SGX_PAGE_SIZE, 1);
    e->mapped = calloc(secs.SIZE / SGX_PAGE_SIZE, 1);
    if (!e->pages || !e->mapped) abort();
    if (ftruncate(e->fd, (off_t)secs.SIZE) != 0) return -ENOMEM;
    e->created = true;
    e->losses = fake_sgx_power->losses;
    e->inner.secs = secs;
    return 0;
}

static bool all_zero(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (data[i]) return false;
    return true;
}

static bool secinfo_good(const struct sgx_secinfo *secinfo)
{
    uint64_t type = secinfo->FLAGS & SGX_SECINFO_TYPE_MASK;
    uint64_t permissions = secinfo->FLAGS & 7;
    if (type != SGX_SECINFO_REG && type != SGX_SECINFO_TCS) return false;
    if ((permissions & SGX_SECINFO_W) && !(permissions & SGX_SECINFO_R)) return false;
    if (type == SGX_SECINFO_TCS && permissions) return false;
    if (secinfo->FLAGS & ~(SGX_SECINFO_TYPE_MASK | 7)) return false;
    return all_zero(secinfo->reserved, sizeof secinfo->reserved);
}

/* VM_READ and VM_MAYEXEC of the page at source: 0, -EFAULT or -EACCES. */
static int64_t check_source(uint64_t source)
{
    char line[512];
    bool inside = false;
    int64_t result = -EFAULT;
    FILE *smaps = fopen("/proc/self/smaps", "re");
    if (!smaps) abort();
    while (fgets(line, sizeof line, smaps)) {
        unsigned long start = 0, end = 0;
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2) inside = source - start < end - start;
        if (!inside || strncmp(line, "VmFlags:", 8) != 0) continue;
        if (strstr(line, " rd ")) result = strstr(line, " me ") ? 0 : -EACCES;
        break;
    }
    fclose(smaps);
    return result;
}

static int64_t add_page(struct enclave *e, const struct sgx_enclave_add_pages *argument, uint64_t done,
                        const struct sgx_secinfo *secinfo)
{
    const uint8_t *content = (const uint8_t *)(argument->src + done);
    uint64_t offset = argument->offset + done;
    uint8_t *page = &e->pages[offset / SGX_PAGE_SIZE];
    if (fake_sgx_faults.epc_pages && fake_sgx_seen.added_pages >= fake_sgx_faults.epc_pages) return -ENOMEM;
    if (*page) return -EBUSY;
    if (processor_eadd(&e->processor, offset, secinfo, content).code) return -EIO;
    if (measurement_add(e->measurement, offset, secinfo->FLAGS).code) return -EIO;
    if ((argument->flags & SGX_PAGE_MEASURE) && measurement_extend_page(e->measurement, offset, content).code)
        return -EIO;
    if (e->runs) fake_sgx_inner_add(&e->inner, offset, secinfo, argument->flags & SGX_PAGE_MEASURE, content);
    *page = PAGE_THERE | (uint8_t)(secinfo->FLAGS & 7);
    if (secinfo->FLAGS == SGX_SECINFO_TCS) *page = PAGE_THERE | PAGE_TCS;
    fake_sgx_seen.added_pages++;
    return 0;
}

static bool interrupted(void)
{
    if (!fake_sgx_faults.interruptions) return false;
    fake_sgx_faults.interruptions--;
    return true;
}

static int64_t do_add_pages(struct enclave *e, struct sgx_enclave_add_pages *argument)
{
    struct sgx_secinfo secinfo;
    uint64_t size = e->processor.secs.SIZE;
    fake_sgx_seen.add_calls++;
    if (!e->created || e->initialised) return -EINVAL;
    if (argument->offset % SGX_PAGE_SIZE || !argument->length || argument->length % SGX_PAGE_SIZE) return -EINVAL;
    if (argument->offset > size || argument->length > size - argument->offset) return -EINVAL;
    if (argument->src % SGX_PAGE_SIZE) return -EINVAL;
    memcpy(&secinfo, (const void *)argument->secinfo, sizeof secinfo);
    if (!secinfo_good(&secinfo)) return -EINVAL;
    if (is_lost(e)) return -EIO;
    int64_t result = interrupted() ? -EINTR : check_source(argument->src);
    uint64_t done = 0;
    for (; !result && done < argument->length; done += SGX_PAGE_SIZE) {
        if (fake_sgx_faults.short_pages && done >= fake_sgx_faults.short_pages * (uint64_t)SGX_PAGE_SIZE) break;
        result = add_page(e, argument, done, &secinfo);
        if (result) break;
    }
    argument->count = done;
    return result;
}

static int64_t do_init(struct enclave *e, const struct sgx_enclave_init *argument)
{
    static struct sgx_sigstruct sigstruct;
    if (!e->created || e->initialised) return -EINVAL;
    if (interrupted()) return -EINTR;
    memcpy(&sigstruct, (const void *)argument->sigstruct, sizeof sigstruct);
    if (sigstruct.VENDOR != 0 && sigstruct.VENDOR != 0x8086) return -EINVAL;
    if (sigstruct.ATTRIBUTES.FLAGS & sigstruct.ATTRIBUTEMASK.FLAGS & ~(uint64_t)PROCESSOR_FLAGS) return -EINVAL;
    if (sigstruct.ATTRIBUTES.XFRM & sigstruct.ATTRIBUTEMASK.XFRM & ~xfrm_of_host()) return -EINVAL;
    if (sigstruct.MISCSELECT & sigstruct.MISCMASK & ~PROCESSOR_MISCSELECT) return -EINVAL;
    if (is_lost(e)) return -EIO;
    if (fake_sgx_faults.launch_refused) return -EPERM;
    if (e->measurement && measurement_finish(e->measurement, fake_sgx_seen.mrenclave).code) return -EIO;
    measurement_close(&e->measurement);
    if (processor_einit(&e->processor, &sigstruct, fake_sgx_seen.mrenclave).code) return -EPERM;
    e->inner.sigstruct = sigstruct;
    e->initialised = true;
    return 0;
}

static int64_t do_ioctl(struct enclave *e, uint64_t request, uint64_t argument)
{
    if (fake_sgx_faults.busy) return -EBUSY;
    take_step();
    if (request == SGX_IOC_ENCLAVE_CREATE) return do_create(e, (const void *)argument);
    if (request == SGX_IOC_ENCLAVE_ADD_PAGES) return do_add_pages(e, (void *)argument);
    if (request == SGX_IOC_ENCLAVE_INIT) return do_init(e, (const void *)argument);
    if (request == SGX_IOC_ENCLAVE_PROVISION) return -EINVAL; /* of no provision file */
    if (request == SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS) return -ENODEV;
    if (request == SGX_IOC_ENCLAVE_MODIFY_TYPES) return -ENODEV;
    if (request == SGX_IOC_ENCLAVE_REMOVE_PAGES) return -ENODEV;
    return -ENOTTY;
}

/* --- mappings (encl.c, sgx_encl_may_map) --- */

static uint8_t most_allowed(uint8_t page)
{
    return page & PAGE_TCS ? PROT_READ | PROT_WRITE : page & 7; /* SECINFO's bits are PROT_'s */
}

static int64_t may_map(const struct enclave *e, uint64_t start, uint64_t size, int protection)
{
    uint64_t base = e->processor.secs.BASEADDR;
    if (e->initialised && (start < base || start + size > base + e->processor.secs.SIZE)) return -EACCES;
    if (fake_sgx_faults.read_implies_exec) return -EACCES;
    for (uint64_t at = start; e->created && at < start + size; at += SGX_PAGE_SIZE) {
        if (at - base >= e->processor.secs.SIZE) continue;
        uint8_t page = e->pages[(at - base) / SGX_PAGE_SIZE];
        if (page && protection & ~most_allowed(page)) return -EACCES;
    }
    return 0;
}

static void note_mapping(struct enclave *e, uint64_t start, uint64_t size, int protection)
{
    uint64_t offset = start - e->processor.secs.BASEADDR;
    for (uint64_t at = 0; e->created && at < size && offset + at < e->processor.secs.SIZE; at += SGX_PAGE_SIZE)
        e->mapped[(offset + at) / SGX_PAGE_SIZE] = PAGE_THERE | (uint8_t)protection;
}

/* The host has no use for these pages, so it may not even read them here. */
static int64_t do_mmap(struct enclave *e, const uint64_t arguments[6])
{
    int protection = (int)arguments[2];
    int flags = (int)arguments[3];
    if (fake_sgx_faults.noexec && protection & PROT_EXEC) return -EPERM;
    if ((flags & MAP_TYPE) == MAP_PRIVATE) return -EINVAL;
    int64_t result = may_map(e, arguments[0], arguments[1], protection);
    if (result) return result;
    void *mapped = mmap((void *)arguments[0], arguments[1], PROT_NONE, MAP_SHARED | (flags & MAP_FIXED), e->fd, 0);
    if (mapped == MAP_FAILED) return -errno;
    note_mapping(e, (uint64_t)mapped, arguments[1], protection);
    return (int64_t)mapped;
}

static int64_t do_mprotect(struct enclave *e, const uint64_t arguments[6])
{
    int64_t result = may_map(e, arguments[0], arguments[1], (int)arguments[2]);
    if (!result) note_mapping(e, arguments[0], arguments[1], (int)arguments[2]);
    return result;
}

static int64_t do_munmap(struct enclave *e, const uint64_t arguments[6])
{
    int64_t result = munmap((void *)arguments[0], arguments[1]) == 0 ? 0 : -errno;
    e->unmapped = arguments[1] >= e->processor.secs.SIZE;
    if (e->unmapped && !e->open) forget(e);
    return result;
}

uint64_t fake_sgx_base(void)
{
    return enclaves[0].processor.secs.BASEADDR;
}

int fake_sgx_protection(uint64_t page)
{
    uint8_t mapped = enclaves[0].mapped[page];
    return mapped & PAGE_THERE ? mapped & 7 : -1;
}

/* Linked in the place of the real ones (--wrap). */
void *__wrap_vdso_sgx_enter_enclave(void);
uint64_t __wrap_xfrm_of_enclaves(void);

void *__wrap_vdso_sgx_enter_enclave(void)
{
    return fake_sgx_faults.no_vdso ? NULL : (void *)(uintptr_t)fake_sgx_enter_enclave;
}

uint64_t __wrap_xfrm_of_enclaves(void)
{
    return xfrm_of_host();
}

static bool is_mapped(const struct enclave *e, uint64_t address)
{
    return e->created && e->mapped[(address - e->processor.secs.BASEADDR) / SGX_PAGE_SIZE] & PAGE_THERE;
}

bool fake_sgx_system_call(long number, const uint64_t arguments[6], int64_t *out_result)
{
    struct enclave *e = NULL;
    if (number == SYS_openat && strcmp((const char *)arguments[1], KERNEL_DEVICE_PATH) == 0) {
        *out_result = do_open();
        return true;
    }
    if (number == SYS_ioctl || number == SYS_close || number == SYS_fstatfs) e = of_descriptor((int)arguments[0]);
    if (number == SYS_mmap) e = of_descriptor((int)arguments[4]);
    if (number == SYS_mprotect || number == SYS_munmap) e = of_address(arguments[0]);
    if (!e || (number == SYS_mprotect && !is_mapped(e, arguments[0]))) return false;
    if (number == SYS_ioctl) *out_result = do_ioctl(e, arguments[1], arguments[2]);
    if (number == SYS_close) *out_result = do_close(e);
    if (number == SYS_fstatfs) *out_result = do_fstatfs(e, (struct statfs *)arguments[1]);
    if (number == SYS_mmap) *out_result = do_mmap(e, arguments);
    if (number == SYS_mprotect) *out_result = do_mprotect(e, arguments);
    if (number == SYS_munmap) *out_result = do_munmap(e, arguments);
    return true;
}

/* --- entering (vdso/vsgx.S) --- */

static int excepted(struct sgx_enclave_run *run, uint32_t function, uint16_t vector, uint16_t error_code,
                    uint64_t address)
{
    run->function = function;
    run->exception_vector = vector;
    run->exception_error_code = error_code;
    run->exception_addr = address;
    return 0;
}

/* Without an enclave to run: RDI is the sum of the rest. */
static int echo(struct device_run *registers, struct sgx_enclave_run *run)
{
    registers->rdi = registers->rsi + registers->rdx + registers->r8 + registers->r9;
    run->function = SGX_EEXIT;
    return 0;
}

static int run_inner(struct enclave *e, struct device_run *registers, struct sgx_enclave_run *run)
{
    struct fake_sgx_inner *inner = &e->inner;
    if (!inner->device) fake_sgx_inner_start(inner, inner_cpu, inner_ordinary_memory);
    struct err result = inner->device->ops->enter(inner->device, run->tcs - e->processor.secs.BASEADDR, registers);
    if (result.code) return excepted(run, SGX_EENTER, VECTOR_GP, 0, 0);
    run->function = registers->function;
    if (run->function == SGX_EEXIT) return 0;
    return excepted(run, registers->function, registers->exception_vector, registers->exception_error_code,
                    registers->exception_addr);
}

int fake_sgx_entered(struct device_run *registers, struct sgx_enclave_run *run, uint64_t function, uint64_t stack)
{
    fake_sgx_seen.entered++;
    fake_sgx_seen.misaligned |= (stack & 15) != 0;
    if ((uint32_t)function != SGX_EENTER && (uint32_t)function != SGX_ERESUME) return -EINVAL;
    if (!all_zero(run->reserved, sizeof run->reserved)) return -EINVAL;
    if (fake_sgx_faults.lost_vector) return excepted(run, SGX_EENTER, fake_sgx_faults.lost_vector, 0, 0);
    struct enclave *e = of_address(run->tcs);
    if (run->tcs % SGX_PAGE_SIZE) return excepted(run, SGX_EENTER, VECTOR_GP, 0, 0);
    if (!e || !is_mapped(e, run->tcs)) return excepted(run, SGX_EENTER, VECTOR_PF, 6, run->tcs);
    uint64_t page = (run->tcs - e->processor.secs.BASEADDR) / SGX_PAGE_SIZE;
    if (!(e->pages[page] & PAGE_TCS)) return excepted(run, SGX_EENTER, VECTOR_PF, PF_SGX, run->tcs);
    if ((e->mapped[page] & 7) != (PROT_READ | PROT_WRITE)) return excepted(run, SGX_EENTER, VECTOR_PF, 7, run->tcs);
    if (!e->initialised) return excepted(run, SGX_EENTER, VECTOR_GP, 0, 0);
    if (is_lost(e)) return excepted(run, SGX_EENTER, VECTOR_PF, PF_SGX, run->tcs);
    take_step();
    int result = e->runs ? run_inner(e, registers, run) : echo(registers, run);
    return is_lost(e) ? excepted(run, SGX_ERESUME, VECTOR_PF, PF_SGX, 0) : result;
}
