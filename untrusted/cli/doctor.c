#include "untrusted/cli/doctor.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "untrusted/host/log.h"
#include "untrusted/sgx/kernel.h"

#define MIB                    (UINT64_C(1) << 20)
#define KERNEL_WITH_DRIVER     5u, 11u
#define FEATURE_CONTROL_LOCKED (UINT64_C(1) << 0)
#define FEATURE_CONTROL_SGX_LC (UINT64_C(1) << 17)
#define FEATURE_CONTROL_SGX    (UINT64_C(1) << 18)
#define MEMLOCK_SGX            (1 * MIB)  /* connections' buffers and keys; the enclaves need none */
#define MEMLOCK_SOFTWARE       (8 * MIB)  /* the manager's enclave; an instance's is smaller */
#define MEMLOCK_SERVICE        (20 * MIB) /* LimitMEMLOCK of vtpmd.service: two managers during an upgrade */
#define PLAUSIBLE_FROM         1767225600 /* 2026-01-01: older than this release */
#define PLAUSIBLE_TO           4102444800 /* 2100-01-01 */

const char doctor_untried[] =
    "This release was never run on SGX hardware: for SGX, what is said here is what the SDM and "
    "the kernel's documentation say. vtpmctl selftest tries it.";

/* Of a check that has nothing to say here: it is left out. */
#define NOTHING ((struct doctor_finding){0})

__attribute__((format(printf, 2, 3))) static struct doctor_finding say(enum doctor_verdict verdict, const char *format,
                                                                       ...)
{
    struct doctor_finding finding = {.verdict = verdict};
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(finding.found, sizeof finding.found, format, arguments);
    va_end(arguments);
    return finding;
}

__attribute__((format(printf, 2, 3))) static struct doctor_finding advise(struct doctor_finding finding,
                                                                          const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(finding.cure, sizeof finding.cure, format, arguments);
    va_end(arguments);
    return finding;
}

/* --- the processor and its firmware --- */

/* CPUID.1:ECX. What the enclaves' libcrypto and their random numbers take for granted (trusted/runtime/cpuid.c). */
static const struct {
    const char *name;
    unsigned bit;
} features[] = {{"PCLMULQDQ", 1}, {"SSSE3", 9},  {"SSE4.1", 19},
                {"AES-NI", 25},   {"XSAVE", 27}, {"RDRAND", 30}}; /* 27: OSXSAVE, the kernel's use of it */

static struct doctor_finding judge_processor(const struct doctor_facts *f, enum device_kind)
{
    char missing[64] = "";
    for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
        if (f->features & UINT32_C(1) << features[i].bit) continue;
        const size_t used = strlen(missing);
        (void)snprintf(missing + used, sizeof missing - used, " %s", features[i].name);
    }
    if (!*missing) return say(DOCTOR_OK, "%s, %s%s", f->vendor, f->brand, f->hypervisor ? "; a guest" : "");
    const struct doctor_finding found = say(DOCTOR_PROBLEM, "%s, %s: it lacks%s", f->vendor, f->brand, missing);
    if (f->hypervisor)
        return advise(found,
                      "give this guest the processor of its host (QEMU: -accel kvm -cpu host; without KVM: -cpu max)");
    return advise(found, "the enclaves' cryptography cannot run here: use a newer processor");
}

static struct doctor_finding judge_sgx(const struct doctor_facts *f, enum device_kind)
{
    if (f->SGX && f->SGX1) return say(DOCTOR_OK, "SGX1%s (SGX2 is not needed)", f->SGX2 ? " and SGX2" : ", no SGX2");
    if (f->SGX) {
        const struct doctor_finding found =
            say(DOCTOR_PROBLEM, "the processor has SGX, but it is not enabled: CPUID 12H shows no SGX1");
        return advise(found, "enable SGX in the firmware's setup (\"Software Guard Extensions\": Enabled, not Software "
                             "Controlled) and give it memory (PRMRR size); docs/hardware.md");
    }
    const struct doctor_finding found = say(DOCTOR_PROBLEM, "the processor has no SGX, or the firmware hides it");
    if (f->hypervisor)
        return advise(found, "this is a guest: its host has to have SGX and to give it some (QEMU: -cpu host,+sgx and "
                             "memory-backend-epc)");
    if (strcmp(f->vendor, "GenuineIntel") != 0)
        return advise(found, "processors of this vendor have none: use an Intel Xeon of the third generation or newer");
    return advise(
        found, "enable it in the firmware's setup (\"Software Guard Extensions\"); processors for desktops have none "
               "since the 11th generation");
}

static struct doctor_finding judge_launch_control(const struct doctor_facts *f, enum device_kind)
{
    if (!f->SGX) return NOTHING;
    if (f->SGX_LC) return say(DOCTOR_OK, "flexible launch control (FLC): the kernel launches any signer's enclave");
    const struct doctor_finding found =
        say(DOCTOR_PROBLEM, "no flexible launch control (FLC): Linux drives no SGX without it");
    return advise(found,
                  "set \"SGX Launch Control\" to Unlocked in the firmware's setup; processors before 2018 have none");
}

static struct doctor_finding judge_feature_control(const struct doctor_facts *f)
{
    const uint64_t wanted = FEATURE_CONTROL_SGX | FEATURE_CONTROL_SGX_LC;
    const uint64_t value = f->IA32_FEATURE_CONTROL;
    if ((value & wanted) == wanted && value & FEATURE_CONTROL_LOCKED)
        return say(DOCTOR_OK, "IA32_FEATURE_CONTROL 0x%llx: SGX is enabled, launch control is the kernel's",
                   (unsigned long long)value);
    const struct doctor_finding found =
        say(DOCTOR_PROBLEM, "IA32_FEATURE_CONTROL 0x%llx:%s%s%s", (unsigned long long)value,
            value & FEATURE_CONTROL_SGX ? "" : " SGX is off;",
            value & FEATURE_CONTROL_SGX_LC ? "" : " launch control is off;",
            value & FEATURE_CONTROL_LOCKED ? " locked" : " not locked");
    return advise(
        found,
        "in the firmware's setup: SGX Enabled, SGX Launch Control Unlocked (\"Locked\" is another signer's only)");
}

static struct doctor_finding judge_firmware(const struct doctor_facts *f, enum device_kind)
{
    if (!f->SGX) return NOTHING;
    if (f->feature_control_known) return judge_feature_control(f);
    if (f->kernel_sees_sgx) return say(DOCTOR_OK, "the kernel found SGX enabled (flags of /proc/cpuinfo)");
    const struct doctor_finding found =
        say(DOCTOR_PROBLEM, "the kernel does not use SGX (no \"sgx\" in the flags of /proc/cpuinfo)");
    return advise(found,
                  "the firmware left it disabled, or locked without launch control: enable both in its setup; and boot "
                  "without nosgx. For more: modprobe msr, and this as root");
}

static struct doctor_finding judge_epc(const struct doctor_facts *f, enum device_kind)
{
    char used[64] = "";
    if (!f->SGX1) return NOTHING;
    if (f->epc_size < DOCTOR_EPC_MANAGER + DOCTOR_EPC_INSTANCE) {
        const struct doctor_finding found =
            say(f->epc_size ? DOCTOR_NOTE : DOCTOR_PROBLEM, "%llu MiB of memory for enclaves (EPC)",
                (unsigned long long)(f->epc_size / MIB));
        return advise(found,
                      "raise it in the firmware's setup (PRMRR size, \"SGX memory\"): a manager takes %llu MiB, an "
                      "instance %llu",
                      (unsigned long long)(DOCTOR_EPC_MANAGER / MIB), (unsigned long long)(DOCTOR_EPC_INSTANCE / MIB));
    }
    if (f->epc_used_known)
        (void)snprintf(used, sizeof used, ", %llu MiB of it in use", (unsigned long long)(f->epc_used / MIB));
    return say(DOCTOR_OK,
               "%llu MiB of memory for enclaves (EPC)%s: room for %llu instances; more are paged out, slowly",
               (unsigned long long)(f->epc_size / MIB), used,
               (unsigned long long)((f->epc_size - DOCTOR_EPC_MANAGER) / DOCTOR_EPC_INSTANCE));
}

/* --- the kernel and its device --- */

static struct doctor_finding judge_kernel(const struct doctor_facts *f, enum device_kind)
{
    static const unsigned first[] = {KERNEL_WITH_DRIVER};
    if (f->major > first[0] || (f->major == first[0] && f->minor >= first[1]))
        return say(DOCTOR_OK, "Linux %s", f->release);
    const struct doctor_finding found = say(
        DOCTOR_PROBLEM, "Linux %s has no SGX driver of its own; drivers from elsewhere are not supported", f->release);
    return advise(found, "use a kernel from %u.%u on", first[0], first[1]);
}

static struct doctor_finding judge_absence(const struct doctor_facts *f)
{
    const struct doctor_finding found = say(DOCTOR_PROBLEM, "there is no %s", KERNEL_DEVICE_PATH);
    if (f->driver && f->container)
        return advise(found, "the kernel has it, and this is a container: start it with the device (--device %s)",
                      KERNEL_DEVICE_PATH);
    if (f->driver)
        return advise(found,
                      "the kernel has it, and this /dev does not: a service needs PrivateDevices=no and "
                      "DeviceAllow=%s rw, another namespace the device in it",
                      KERNEL_DEVICE_PATH);
    return advise(
        found,
        "the kernel has made none: see firmware above, dmesg | grep -i sgx, and use a kernel that was built with "
        "CONFIG_X86_SGX=y");
}

static struct doctor_finding judge_device(const struct doctor_facts *f, enum device_kind)
{
    if (!f->SGX && f->node == DOCTOR_NODE_ABSENT) return NOTHING;
    if (f->node == DOCTOR_NODE_ABSENT) return judge_absence(f);
    if (f->node == DOCTOR_NODE_DEVICE && f->obstacle.code != ERR_SGX_NO_DEVICE)
        return say(DOCTOR_OK, "%s", KERNEL_DEVICE_PATH);
    const struct doctor_finding found =
        say(DOCTOR_PROBLEM, "%s is %s", KERNEL_DEVICE_PATH,
            f->node == DOCTOR_NODE_DEVICE ? "a device that no driver answers for" : "no device");
    return advise(found, "remove it, and let udev make it: udevadm trigger");
}

static struct doctor_finding judge_access(const struct doctor_facts *f, enum device_kind)
{
    const bool own = strcmp(f->group, "root") != 0 && *f->group;
    if (f->node != DOCTOR_NODE_DEVICE) return NOTHING;
    const char *who = f->obstacle.code == ERR_SGX_DEVICE_DENIED ? f->user : f->service_may == DOCTOR_NO ? "vtpm" : NULL;
    if (!who) return say(DOCTOR_OK, "%s may open it%s", f->user, f->service_may == DOCTOR_YES ? ", vtpm too" : "");
    const struct doctor_finding found = say(DOCTOR_PROBLEM, "the user %s may not open %s", who, KERNEL_DEVICE_PATH);
    if (own)
        return advise(found, "add the user %s to the group %s (usermod -aG %s %s) and start vtpmd anew", who, f->group,
                      f->group, who);
    return advise(found,
                  "give the device to a group: groupadd --system sgx, then udev's rule SUBSYSTEM==\"misc\", "
                  "KERNEL==\"sgx_enclave\", GROUP=\"sgx\", MODE=\"0660\"; add the user %s to it",
                  who);
}

static struct doctor_finding judge_noexec(const struct doctor_facts *f, enum device_kind)
{
    if (f->node != DOCTOR_NODE_DEVICE) return NOTHING;
    if (!f->noexec) return say(DOCTOR_OK, "/dev is not mounted noexec");
    const struct doctor_finding found =
        say(DOCTOR_PROBLEM, "/dev is mounted noexec, and an enclave's code is mapped from there");
    return advise(found, "mount -o remount,exec /dev; in a container or a service with a /dev of its own, there");
}

static struct doctor_finding judge_vdso(const struct doctor_facts *f, enum device_kind)
{
    if (f->vdso) return say(DOCTOR_OK, "__vdso_sgx_enter_enclave is there");
    if (!f->SGX) return NOTHING;
    const struct doctor_finding found = say(DOCTOR_PROBLEM, "the vDSO has no __vdso_sgx_enter_enclave");
    return advise(found, "use a kernel that was built with CONFIG_X86_SGX=y, and boot without vdso=0");
}

static struct doctor_finding judge_aesm(const struct doctor_facts *f, enum device_kind)
{
    if (!f->SGX) return NOTHING;
    return say(DOCTOR_NOTE, "the quoting service (AESM) %s; this release makes no quotes and does not need it",
               f->aesm ? "is there" : "is not there");
}

/* --- what both devices run on --- */

static struct doctor_finding judge_secret_memory(const struct doctor_facts *f, enum device_kind)
{
    if (f->secret_memory.code != ERR_NO_SECRET_MEMORY)
        return say(DOCTOR_OK, "the kernel gives secret memory (memfd_secret)");
    const struct doctor_finding found = say(DOCTOR_PROBLEM, "this kernel gives no secret memory (memfd_secret)");
    return advise(
        found,
        "boot with secretmem.enable=1, or use a kernel from 6.5 on; in a container, let its seccomp profile allow "
        "memfd_secret. With --ordinary-memory it goes without, unprotected");
}

static struct doctor_finding judge_memlock(const struct doctor_facts *f, enum device_kind device)
{
    const uint64_t needed = device == DEVICE_SGX ? MEMLOCK_SGX : MEMLOCK_SOFTWARE;
    const unsigned long long service = MEMLOCK_SERVICE / MIB;
    if (f->memlock_free) return say(DOCTOR_OK, "nothing limits locked memory for %s", f->user);
    const unsigned long long kib = f->memlock / 1024;
    if (f->memlock >= MEMLOCK_SERVICE) return say(DOCTOR_OK, "RLIMIT_MEMLOCK is %llu KiB", kib);
    return advise(
        f->memlock < needed
            ? say(DOCTOR_PROBLEM, "RLIMIT_MEMLOCK is %llu KiB", kib)
            : say(DOCTOR_NOTE, "RLIMIT_MEMLOCK is %llu KiB, enough unless vtpmd is upgraded while it runs", kib),
        "raise it to %llu MiB (ulimit -l %llu; for good in limits.conf); vtpmd.service has a limit of its own", service,
        service * 1024);
}

static struct doctor_finding judge_fsgsbase(const struct doctor_facts *f, enum device_kind device)
{
    if (device == DEVICE_SGX) return NOTHING;
    if (f->fsgsbase) return say(DOCTOR_OK, "an enclave has a stack canary of its own");
    const struct doctor_finding found =
        say(DOCTOR_NOTE, "the kernel lacks FSGSBASE: on the software device, enclaves share their host's stack canary");
    return advise(found, "boot without nofsgsbase, a kernel from 5.9 on; in a guest, with a processor that has it");
}

static struct doctor_finding judge_user_dispatch(const struct doctor_facts *f, enum device_kind device)
{
    if (device == DEVICE_SGX) return NOTHING;
    if (f->user_dispatch) return say(DOCTOR_OK, "system calls of an enclave are caught");
    const struct doctor_finding found =
        say(DOCTOR_PROBLEM, "system calls of an enclave cannot be caught, and the software device runs none that way");
    return advise(found, "use a kernel from 5.11 on; in a sandbox, let it allow prctl PR_SET_SYSCALL_USER_DISPATCH");
}

static struct doctor_finding judge_landlock(const struct doctor_facts *f, enum device_kind)
{
    if (f->landlock) return say(DOCTOR_OK, "ABI %d", f->landlock);
    const struct doctor_finding found =
        say(DOCTOR_NOTE, "the kernel has no Landlock: files are guarded by their modes and by seccomp only");
    return advise(found, "boot with lsm=landlock, and what it has now behind that");
}

static struct doctor_finding judge_seccomp(const struct doctor_facts *f, enum device_kind)
{
    if (f->seccomp) return say(DOCTOR_OK, "system calls can be filtered");
    const struct doctor_finding found =
        say(DOCTOR_PROBLEM, "system calls cannot be filtered, and no program here serves unfiltered");
    return advise(found, "use a kernel with CONFIG_SECCOMP_FILTER=y; in a sandbox, let it allow seccomp");
}

static struct doctor_finding judge_clock(const struct doctor_facts *f, enum device_kind)
{
    const bool plausible = f->now >= PLAUSIBLE_FROM && f->now < PLAUSIBLE_TO;
    if (plausible && f->synchronised) return say(DOCTOR_OK, "synchronised");
    const struct doctor_finding found =
        say(DOCTOR_NOTE, "%s: a TPM's lockout heals by it, events and certificates are dated by it",
            plausible ? "the clock is not synchronised" : "the clock is wrong by years");
    return advise(found, "run an NTP client (timedatectl set-ntp true)");
}

static struct doctor_finding judge_smt(const struct doctor_facts *f, enum device_kind)
{
    if (f->smt == DOCTOR_UNKNOWN) return NOTHING;
    if (f->smt == DOCTOR_NO) return say(DOCTOR_OK, "off");
    const struct doctor_finding found =
        say(DOCTOR_NOTE, "hyper-threads are on: whoever runs beside an enclave on its core sees more of it (side "
                         "channels); an attested platform may have to have them off");
    return advise(found, "boot with nosmt if that counts for you");
}

/* AUTO: both devices. */
static const struct check {
    const char *name;
    enum device_kind device;
    struct doctor_finding (*judge)(const struct doctor_facts *facts, enum device_kind device);
} checks[] = {
    {"processor", DEVICE_AUTO, judge_processor},
    {"SGX", DEVICE_SGX, judge_sgx},
    {"FLC", DEVICE_SGX, judge_launch_control},
    {"firmware", DEVICE_SGX, judge_firmware},
    {"EPC", DEVICE_SGX, judge_epc},
    {"kernel", DEVICE_SGX, judge_kernel},
    {"device", DEVICE_SGX, judge_device},
    {"access", DEVICE_SGX, judge_access},
    {"noexec", DEVICE_SGX, judge_noexec},
    {"vDSO", DEVICE_SGX, judge_vdso},
    {"AESM", DEVICE_SGX, judge_aesm},
    {"memfd_secret", DEVICE_AUTO, judge_secret_memory},
    {"memlock", DEVICE_AUTO, judge_memlock},
    {"FSGSBASE", DEVICE_SOFTWARE, judge_fsgsbase},
    {"user dispatch", DEVICE_SOFTWARE, judge_user_dispatch},
    {"seccomp", DEVICE_AUTO, judge_seccomp},
    {"Landlock", DEVICE_AUTO, judge_landlock},
    {"clock", DEVICE_AUTO, judge_clock},
    {"SMT", DEVICE_SGX, judge_smt},
};
_Static_assert(sizeof checks / sizeof *checks <= DOCTOR_CHECKS_MAX, "a report has room for every check");

const char *doctor_verdict_name(enum doctor_verdict verdict)
{
    static const char *const names[] = {"ok", "note", "problem"};
    return names[verdict];
}

const char *doctor_found(const struct doctor_report *report, const char *check)
{
    for (size_t i = 0; i < report->count; i++)
        if (strcmp(report->findings[i].check, check) == 0) return report->findings[i].found;
    return "";
}

const struct doctor_finding *doctor_first_problem(const struct doctor_report *report)
{
    for (size_t i = 0; i < report->count; i++)
        if (report->findings[i].verdict == DOCTOR_PROBLEM) return &report->findings[i];
    return NULL;
}

/* why_not_sgx: what stands in SGX's way, where the software device is taken instead. */
static void conclude(enum device_kind wanted, const char *why_not_sgx, struct doctor_report *report)
{
    const char *device = device_kind_name(report->device);
    const char *can = report->usable ? "can be used here" : "cannot be used here";
    if (wanted != DEVICE_AUTO)
        (void)snprintf(report->conclusion, sizeof report->conclusion, "the %s device %s", device, can);
    else if (report->device == DEVICE_SGX)
        (void)snprintf(report->conclusion, sizeof report->conclusion, "auto takes the sgx device, as %s opens; it %s",
                       KERNEL_DEVICE_PATH, can);
    else
        (void)snprintf(report->conclusion, sizeof report->conclusion, "auto takes the software device, as %s; it %s",
                       why_not_sgx, can);
}

void doctor_judge(const struct doctor_facts *facts, enum device_kind wanted, struct doctor_report *out_report)
{
    const enum device_kind automatic = facts->obstacle.code ? DEVICE_SOFTWARE : DEVICE_SGX; /* as device_choose */
    struct doctor_finding obstacle = say(DOCTOR_OK, "%s", err_sentence(facts->obstacle));
    *out_report = (struct doctor_report){.device = wanted == DEVICE_AUTO ? automatic : wanted};
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        struct doctor_finding finding = checks[i].judge(facts, out_report->device);
        finding.check = checks[i].name;
        if (finding.verdict == DOCTOR_PROBLEM && checks[i].device == DEVICE_SGX && obstacle.verdict == DOCTOR_OK)
            obstacle = finding;
        const bool other = checks[i].device != DEVICE_AUTO && checks[i].device != out_report->device;
        if (other && finding.verdict == DOCTOR_PROBLEM) finding.verdict = DOCTOR_NOTE;
        if (*finding.found) out_report->findings[out_report->count++] = finding;
    }
    out_report->usable =
        !doctor_first_problem(out_report) && (out_report->device == DEVICE_SOFTWARE || !facts->obstacle.code);
    conclude(wanted, obstacle.found, out_report);
}
