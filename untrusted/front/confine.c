#include "untrusted/front/confine.h"

#include <errno.h>
#include <grp.h>
#include <linux/landlock.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "untrusted/front/front.h"
#include "untrusted/host/log.h"

struct err confine_user(const struct identity *identity)
{
    if (geteuid() != 0) return OK;
    ENSURE(setgroups(0, NULL) == 0, SANDBOX); /* what it needs, its own user may */
    ENSURE(setresgid(identity->gid, identity->gid, identity->gid) == 0, SANDBOX);
    ENSURE(setresuid(identity->uid, identity->uid, identity->uid) == 0, SANDBOX);
    ENSURE(setuid(0) != 0, SANDBOX); /* there is no way back */
    return OK;
}

struct err confine_limits(void)
{
    const rlim_t descriptors = FRONT_CONNECTIONS_MAX + FRONT_ENDPOINTS_MAX + 64;
    const struct rlimit files = {descriptors, descriptors};
    struct rlimit locked;
    ENSURE(setrlimit(RLIMIT_NOFILE, &files) == 0, SANDBOX);
    ENSURE(getrlimit(RLIMIT_MEMLOCK, &locked) == 0, SANDBOX);
    locked.rlim_cur = locked.rlim_max;
    ENSURE(setrlimit(RLIMIT_MEMLOCK, &locked) == 0, SANDBOX);
    return OK;
}

/* --- Landlock (Documentation/userspace-api/landlock.rst), by number where the C library's headers are older --- */

#define ACCESS_TRUNCATE  (UINT64_C(1) << 14) /* ABI 3 */
#define ACCESS_IOCTL_DEV (UINT64_C(1) << 15) /* ABI 5 */
#define ACCESS_FIRST     ((UINT64_C(1) << 13) - 1)
#define ACCESS_REFER     (UINT64_C(1) << 13) /* ABI 2 */

struct ruleset {
    uint64_t handled_access_fs;
    uint64_t handled_access_net; /* ABI 4 */
    uint64_t scoped;             /* ABI 6 */
};

/* Everything that this ABI can deny: files, TCP, abstract sockets and signals of others. */
static struct ruleset ruleset_of(int abi, size_t *out_size)
{
    struct ruleset ruleset = {.handled_access_fs = ACCESS_FIRST};
    *out_size = offsetof(struct ruleset, handled_access_net);
    if (abi >= 2) ruleset.handled_access_fs |= ACCESS_REFER;
    if (abi >= 3) ruleset.handled_access_fs |= ACCESS_TRUNCATE;
    if (abi >= 5) ruleset.handled_access_fs |= ACCESS_IOCTL_DEV;
    if (abi >= 4) {
        ruleset.handled_access_net = 3; /* bind, connect */
        *out_size = offsetof(struct ruleset, scoped);
    }
    if (abi >= 6) {
        ruleset.scoped = 3; /* abstract unix sockets, signals */
        *out_size = sizeof ruleset;
    }
    return ruleset;
}

static struct err restrict_to(int ruleset_fd)
{
    ENSURE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, SANDBOX);
    ENSURE(syscall(SYS_landlock_restrict_self, ruleset_fd, 0) == 0, SANDBOX);
    return OK;
}

struct err confine_files(void)
{
    int abi = (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi < 1) {
        ENSURE(errno == ENOSYS || errno == EOPNOTSUPP, SANDBOX);
        log_line(LOG_LEVEL_WARNING, "this kernel has no Landlock (boot with lsm=landlock,...): files are guarded by "
                                    "their modes and by the list of system calls only");
        return OK;
    }
    size_t size = 0;
    struct ruleset ruleset = ruleset_of(abi, &size);
    int fd = (int)syscall(SYS_landlock_create_ruleset, &ruleset, size, 0);
    ENSURE(fd >= 0, SANDBOX);
    struct err result = restrict_to(fd);
    close(fd);
    return result;
}

/* --- the list of system calls --- */

/* A command. */
static const int hot[] = {SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait2), SCMP_SYS(recvfrom), SCMP_SYS(sendto)};

/* A connection. */
static const int warm[] = {
    SCMP_SYS(accept4), SCMP_SYS(close),   SCMP_SYS(epoll_ctl), SCMP_SYS(futex),
    SCMP_SYS(read),    SCMP_SYS(recvmsg), SCMP_SYS(sendmsg),   SCMP_SYS(write),
};

/* Timers, memory, faults, the end (sd-event closes its signal sources one by one). */
static const int cold[] = {
    SCMP_SYS(timerfd_create), SCMP_SYS(timerfd_settime), SCMP_SYS(clock_gettime), SCMP_SYS(epoll_pwait),
    SCMP_SYS(madvise),        SCMP_SYS(mincore),         SCMP_SYS(munmap),        SCMP_SYS(brk),
    SCMP_SYS(getrandom),      SCMP_SYS(getpid),          SCMP_SYS(gettid),        SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),   SCMP_SYS(restart_syscall), SCMP_SYS(signalfd4),     SCMP_SYS(exit),
    SCMP_SYS(exit_group),     SCMP_SYS(rt_sigaction),
};

#define COUNT(list) (sizeof(list) / sizeof(list)[0])
#define FIRST       200u
#define SECOND      100u

static bool allow(scmp_filter_ctx filter, const int *numbers, size_t count, uint8_t priority)
{
    for (size_t i = 0; i < count; i++) {
        if (seccomp_rule_add(filter, SCMP_ACT_ALLOW, numbers[i], 0) != 0) return false;
        if (priority && seccomp_syscall_priority(filter, numbers[i], priority) != 0) return false;
    }
    return true;
}

/* Memory may be asked for and given back, but never be executable. */
static bool allow_plain_memory(scmp_filter_ctx filter)
{
    const struct scmp_arg_cmp not_executable = SCMP_A2_64(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);
    return seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, &not_executable) == 0 &&
           seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, &not_executable) == 0;
}

static bool allow_list(scmp_filter_ctx filter)
{
    return allow(filter, hot, COUNT(hot), FIRST) && allow(filter, warm, COUNT(warm), SECOND) &&
           allow(filter, cold, COUNT(cold), 0) && allow_plain_memory(filter);
}

struct err confine_system_calls(void)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    ENSURE(filter, SANDBOX);
    bool loaded =
        seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1) == 0 && allow_list(filter) && seccomp_load(filter) == 0;
    seccomp_release(filter);
    ENSURE(loaded, SANDBOX);
    return OK;
}
