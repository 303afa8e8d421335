#include "untrusted/cli/doctor_facts.h"

#include <cpuid.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "untrusted/host/secret_memory.h"
#include "untrusted/sgx/kernel.h"
#include "untrusted/sgx/vdso.h"

#define SERVICE_USER    "vtpm"
#define SERVICE_GROUPS  64
#define SERVICE_WORDS   1024u
#define LEAF_SGX        0x12u
#define LEAF_BRAND      0x80000002u
#define MSR_FEATURE     0x3A
#define BIT_HYPERVISOR  (UINT32_C(1) << 31) /* CPUID.1:ECX */
#define BIT_SGX         (UINT32_C(1) << 2)  /* CPUID.7.0:EBX */
#define BIT_SGX_LC      (UINT32_C(1) << 30) /* CPUID.7.0:ECX */
#define HWCAP2_FSGSBASE 2u
#define SECRET_TRY_SIZE 4096u
#define FILE_MAX        65536u

/* What fits of a file's text; "" if it cannot be read. */
static const char *text_of(const char *path)
{
    static char text[FILE_MAX];
    FILE *file = fopen(path, "re");
    size_t got = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file) (void)fclose(file);
    text[got] = '\0';
    return text;
}

/* --- the processor --- */

static uint64_t epc_size(void)
{
    uint64_t size = 0;
    unsigned a = 0, b = 0, c = 0, d = 0;
    for (unsigned section = 2; __get_cpuid_count(LEAF_SGX, section, &a, &b, &c, &d) && (a & 0xF) == 1; section++)
        size += (c & 0xFFFFF000u) | (uint64_t)(d & 0xFFFFFu) << 32;
    return size;
}

static void look_at_processor(struct doctor_facts *f)
{
    unsigned a = 0, b = 0, c = 0, d = 0;
    __cpuid(0, a, b, c, d);
    const unsigned vendor[3] = {b, d, c};
    memcpy(f->vendor, vendor, sizeof vendor);
    for (unsigned i = 0; i < 3 && __get_cpuid(LEAF_BRAND + i, &a, &b, &c, &d); i++) {
        const unsigned part[4] = {a, b, c, d};
        memcpy(f->brand + i * sizeof part, part, sizeof part);
    }
    if (__get_cpuid(1, &a, &b, &c, &d)) f->features = c;
    f->hypervisor = f->features & BIT_HYPERVISOR;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    f->SGX = b & BIT_SGX;
    f->SGX_LC = c & BIT_SGX_LC;
    if (!f->SGX || !__get_cpuid_count(LEAF_SGX, 0, &a, &b, &c, &d)) return;
    f->SGX1 = a & 1;
    f->SGX2 = a & 2;
    f->epc_size = epc_size();
}

static void look_at_firmware(struct doctor_facts *f)
{
    int fd = open("/dev/cpu/0/msr", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    f->feature_control_known = pread(fd, &f->IA32_FEATURE_CONTROL, 8, MSR_FEATURE) == 8;
    close(fd);
}

static bool has_flag(const char *flag)
{
    const char *flags = strstr(text_of("/proc/cpuinfo"), "\nflags");
    const char *end = flags ? strchr(flags + 1, '\n') : NULL;
    const size_t size = strlen(flag);
    for (const char *at = flags; end && (at = strstr(at, flag)) && at < end; at += size)
        if (at[-1] == ' ' && (at[size] == ' ' || at[size] == '\n')) return true;
    return false;
}

/* --- the kernel --- */

/* misc.current: lines of a resource's name and how much of it is in use. */
static void look_at_epc(struct doctor_facts *f)
{
    const char *line = strstr(text_of("/sys/fs/cgroup/misc.current"), "sgx_epc ");
    if (!line) return;
    f->epc_used_known = true;
    f->epc_used = strtoull(line + strlen("sgx_epc "), NULL, 10);
}

static void look_at_kernel(struct doctor_facts *f)
{
    struct utsname name = {0};
    const unsigned action = SECCOMP_RET_KILL_PROCESS;
    (void)uname(&name);
    (void)snprintf(f->release, sizeof f->release, "%.63s", name.release);
    (void)sscanf(name.release, "%u.%u", &f->major, &f->minor);
    f->kernel_sees_sgx = has_flag("sgx");
    f->driver = access("/sys/class/misc/sgx_enclave", F_OK) == 0;
    f->vdso = vdso_sgx_enter_enclave() != NULL;
    f->fsgsbase = getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE;
    const long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    f->landlock = abi > 0 ? (int)abi : 0;
    f->seccomp = syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
    f->user_dispatch = prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0) == 0;
    const char *smt = text_of("/sys/devices/system/cpu/smt/active");
    f->smt = *smt == '1' ? DOCTOR_YES : *smt == '0' ? DOCTOR_NO : DOCTOR_UNKNOWN;
    look_at_epc(f);
}

/* --- the device --- */

static bool group_named(const char *word, gid_t *out_group)
{
    char *end = NULL;
    const struct group *group = getgrnam(word);
    *out_group = group ? group->gr_gid : (gid_t)strtoul(word, &end, 10);
    return group || !*end;
}

static bool has_group(const struct passwd *account, const char *more, gid_t wanted)
{
    gid_t groups[SERVICE_GROUPS];
    int count = SERVICE_GROUPS;
    char words[SERVICE_WORDS];
    char *rest = NULL;
    if (getgrouplist(account->pw_name, account->pw_gid, groups, &count) < 0) count = SERVICE_GROUPS;
    for (int i = 0; i < count; i++)
        if (groups[i] == wanted) return true;
    (void)snprintf(words, sizeof words, "%s", more);
    for (const char *word = strtok_r(words, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest)) {
        gid_t group = 0;
        if (group_named(word, &group) && group == wanted) return true;
    }
    return false;
}

enum doctor_answer doctor_may_open(const struct stat *device, const char *account, const char *more_groups)
{
    const struct passwd *entry = getpwnam(account);
    if (!entry) return DOCTOR_UNKNOWN;
    mode_t wanted = 0006;
    if (device->st_uid == entry->pw_uid)
        wanted = 0600;
    else if (has_group(entry, more_groups, device->st_gid))
        wanted = 0060;
    return (device->st_mode & wanted) == wanted ? DOCTOR_YES : DOCTOR_NO;
}

/* Those that the unit, with what an operator has put beside it, adds to its account's; "" where systemd is not. */
static void service_groups(char out_words[SERVICE_WORDS])
{
    FILE *unit =
        popen("systemctl show --property=Group --property=SupplementaryGroups --value vtpmd.service 2>/dev/null", "re");
    const size_t got = unit ? fread(out_words, 1, SERVICE_WORDS - 1, unit) : 0;
    if (unit) (void)pclose(unit);
    out_words[got] = '\0';
}

static void look_at_device(struct doctor_facts *f)
{
    struct stat status;
    struct statvfs mount;
    char groups[SERVICE_WORDS];
    const struct passwd *user = getpwuid(geteuid());
    (void)snprintf(f->user, sizeof f->user, "%u", (unsigned)geteuid());
    if (user) (void)snprintf(f->user, sizeof f->user, "%.63s", user->pw_name);
    f->obstacle = kernel_device_probe();
    f->aesm = access("/run/aesmd/aesm.socket", F_OK) == 0;
    f->container = access("/run/systemd/container", F_OK) == 0 || access("/run/.containerenv", F_OK) == 0 ||
                   access("/.dockerenv", F_OK) == 0;
    if (stat(KERNEL_DEVICE_PATH, &status) != 0) return;
    f->node = S_ISCHR(status.st_mode) ? DOCTOR_NODE_DEVICE : DOCTOR_NODE_OTHER;
    f->noexec = statvfs(KERNEL_DEVICE_PATH, &mount) == 0 && mount.f_flag & ST_NOEXEC;
    const struct group *group = getgrgid(status.st_gid);
    (void)snprintf(f->group, sizeof f->group, "%.63s", group ? group->gr_name : "");
    service_groups(groups);
    f->service_may = doctor_may_open(&status, SERVICE_USER, groups);
}

/* --- memory and time --- */

static bool has_ipc_lock(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {0};
    return syscall(SYS_capget, &header, data) == 0 && data[0].effective & 1u << CAP_IPC_LOCK;
}

static void look_at_memory(struct doctor_facts *f)
{
    struct rlimit limit = {0};
    struct secret_memory memory = {0};
    f->secret_memory = secret_memory_open(SECRET_TRY_SIZE, false, &memory);
    secret_memory_close(&memory);
    (void)getrlimit(RLIMIT_MEMLOCK, &limit);
    f->memlock = limit.rlim_cur;
    f->memlock_free = limit.rlim_cur == RLIM_INFINITY || has_ipc_lock();
}

static void look_at_clock(struct doctor_facts *f)
{
    struct timex clock = {0};
    const int state = adjtimex(&clock);
    f->synchronised = state >= 0 && state != TIME_ERROR && !(clock.status & STA_UNSYNC);
    f->now = time(NULL);
}

void doctor_facts_gather(struct doctor_facts *out_facts)
{
    struct doctor_facts *f = out_facts;
    *f = (struct doctor_facts){0};
    look_at_processor(f);
    look_at_firmware(f);
    look_at_kernel(f);
    look_at_device(f);
    look_at_memory(f);
    look_at_clock(f);
}
