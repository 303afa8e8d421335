/*
 * Memory of the software device (row M1): what the kernel's reading interfaces give root, what they do not, and what
 * happens where secret memory is not to be had.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/hostile/device/probe.h"
#include "tests/hostile/device/rig.h"
#include "untrusted/host/hygiene.h"
#include "untrusted/host/log.h"

#define NOBODY        65534u
#define MEMLOCK_LIMIT (4u << 20)
#define PATTERN       UINT64_C(0x35C1E72B9D4480F6)

static struct rig rig;

static int set_up(void **state)
{
    (void)state;
    rig_start(&rig);
    assert_int_equal(chmod(rig.socket, 0666), 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    rig_stop(&rig);
    return 0;
}

static void no_page_is_writable_and_executable(void **state)
{
    (void)state;
    rig_open(&rig);
    char *maps = rig_read_proc("/proc/self/maps");
    assert_null(strstr(maps, " rwx"));
    assert_null(strstr(maps, " -wx"));
    assert_non_null(strstr(maps, "secretmem"));
    free(maps);
}

static void secret_descriptor_is_closed(void **state)
{
    (void)state;
    char path[64], target[128];
    rig_open(&rig);
    for (int fd = 0; fd < 256; fd++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t size = readlink(path, target, sizeof target - 1);
        if (size < 0) continue;
        target[size] = '\0';
        assert_null(strstr(target, "secretmem"));
    }
}

static void code_cannot_be_written_through_proc(void **state)
{
    (void)state;
    rig_open(&rig);
    uint64_t stub = rig_call(&rig, PROBE_ADDRESS, PLACE_BASE, 0, 0, 0);
    uint64_t code = rig_call(&rig, PROBE_ADDRESS, PLACE_CODE, 0, 0, 0);
    uint64_t constants = rig_call(&rig, PROBE_ADDRESS, PLACE_CONSTANTS, 0, 0, 0);
    int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    uint8_t byte = 0xC3;
    assert_true(pwrite(fd, &byte, 1, (off_t)stub) < 0);
    assert_true(pwrite(fd, &byte, 1, (off_t)code) < 0);
    assert_true(pwrite(fd, &byte, 1, (off_t)constants) < 0);
    close(fd);
    assert_int_equal(rig_call(&rig, PROBE_ECHO, 6, 0, 0, 0), 6);
}

static void all_of_it_is_kept_from_forks_and_dumps(void **state)
{
    (void)state;
    rig_open(&rig);
    uint64_t base = rig_call(&rig, PROBE_ADDRESS, PLACE_BASE, 0, 0, 0);
    char *smaps = rig_read_proc("/proc/self/smaps");
    size_t seen = 0;
    bool inside = false;
    for (char *line = strtok(smaps, "\n"); line; line = strtok(NULL, "\n")) {
        unsigned long start = 0, end = 0;
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2) inside = start - base < rig.image.size;
        if (!inside || strncmp(line, "VmFlags:", 8) != 0) continue;
        assert_non_null(strstr(line, " dc")); /* DONTFORK */
        assert_non_null(strstr(line, " dd")); /* DONTDUMP */
        seen++;
    }
    assert_true(seen > 5);
    free(smaps);
}

/* A process that holds a running probe with a secret in it. */
struct holder {
    uint64_t address; /* of the secret */
    uint64_t code;
    volatile uint32_t ready;
};

static struct holder *holder;

static pid_t start_holder(void)
{
    holder = mmap(NULL, sizeof *holder, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(holder != MAP_FAILED);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        rig_open(&rig);
        holder->code = rig_call(&rig, PROBE_ADDRESS, PLACE_BASE, 0, 0, 0);
        holder->address = rig_call(&rig, PROBE_SECRET, PATTERN, 0, 0, 0);
        holder->ready = 1;
        for (;;)
            pause();
    }
    while (!holder->ready)
        sched_yield();
    return child;
}

static void stop_holder(pid_t child)
{
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    munmap(holder, sizeof *holder);
}

static int open_memory(pid_t child)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", (int)child);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void secret_cannot_be_read_where_it_lies(void **state)
{
    (void)state;
    uint8_t bytes[64];
    pid_t child = start_holder();
    int fd = open_memory(child);
    struct iovec local = {.iov_base = bytes, .iov_len = sizeof bytes};
    struct iovec remote = {.iov_base = (void *)holder->address, .iov_len = sizeof bytes};
    bool by_proc = pread(fd, bytes, sizeof bytes, (off_t)holder->address) > 0;
    bool by_vm = process_vm_readv(child, &local, 1, &remote, 1, 0) > 0;
    bool code_by_proc = pread(fd, bytes, sizeof bytes, (off_t)holder->code) == sizeof bytes;
    assert_int_equal(ptrace(PTRACE_ATTACH, child, NULL, NULL), 0);
    waitpid(child, NULL, 0);
    errno = 0;
    ptrace(PTRACE_PEEKDATA, child, holder->address, NULL);
    bool by_ptrace = errno == 0;
    close(fd);
    stop_holder(child);
    assert_true(code_by_proc); /* the interfaces work: it is the memory that refuses */
    assert_false(by_proc);
    assert_false(by_vm);
    assert_false(by_ptrace);
}

static bool find_in(int fd, unsigned long start, unsigned long end, uint64_t first, uint64_t second)
{
    static uint64_t block[1 << 14];
    for (unsigned long at = start; at < end; at += sizeof block) {
        size_t wanted = end - at < sizeof block ? end - at : sizeof block;
        ssize_t size = pread(fd, block, wanted, (off_t)at);
        for (ssize_t i = 0; i + 1 < size / 8; i++)
            if (block[i] == first && block[i + 1] == second) return true;
    }
    return false;
}

/* True if these 16 bytes, aligned to 8, are anywhere in the memory of the process that root can read. */
static bool search(pid_t child, uint64_t first, uint64_t second)
{
    char path[64];
    bool found = false;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)child);
    char *maps = rig_read_proc(path);
    int fd = open_memory(child);
    for (char *line = strtok(maps, "\n"); line && !found; line = strtok(NULL, "\n")) {
        unsigned long start = 0, end = 0;
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2) found = find_in(fd, start, end, first, second);
    }
    close(fd);
    free(maps);
    return found;
}

/* As the probe computes it: each byte of the seed xor 0xA5. */
static uint64_t pattern_inside(void)
{
    return PATTERN ^ UINT64_C(0xA5A5A5A5A5A5A5A5);
}

static void secret_is_nowhere_in_readable_memory(void **state)
{
    (void)state;
    volatile uint64_t planted[2] = {~pattern_inside(), ~pattern_inside()};
    pid_t child = start_holder();
    bool secret = search(child, pattern_inside(), pattern_inside());
    bool control = search(child, planted[0], planted[0]); /* the child has this process's stack */
    stop_holder(child);
    assert_true(control);
    assert_false(secret);
}

static void derived_keys_are_nowhere_in_vtpm_cpu(void **state)
{
    (void)state;
    struct sgx_keyrequest request = {.KEYNAME = SGX_KEYNAME_REPORT};
    uint64_t key[2];
    rig_open(&rig);
    for (uint8_t i = 0; i < 16; i++) {
        request.KEYID[0] = i;
        assert_int_equal(rig_call(&rig, PROBE_EGETKEY, (uint64_t)&request, (uint64_t)key, 0, 0), 0);
        assert_false(search(rig.cpu, key[0], key[1]));
    }
}

static void ordinary_memory_is_readable(void **state)
{
    (void)state;
    assert_int_equal(rig_device(&rig, true, &rig.device).code, 0);
    assert_int_equal(rig_build(&rig, rig.device, NULL).code, 0);
    assert_int_equal(rig.device->ops->init(rig.device, &rig.image.signatures[0]).code, 0);
    assert_string_equal(rig.device->memory, "ordinary");
    rig_call(&rig, PROBE_SECRET, PATTERN, 0, 0, 0);
    assert_true(search(getpid(), pattern_inside(), pattern_inside()));
}

static void become_nobody(rlim_t memlock)
{
    struct rlimit limit = {.rlim_cur = memlock, .rlim_max = memlock};
    bool done = setrlimit(RLIMIT_MEMLOCK, &limit) == 0 && setgroups(0, NULL) == 0 &&
                setresgid(NOBODY, NOBODY, NOBODY) == 0 && setresuid(NOBODY, NOBODY, NOBODY) == 0;
    if (!done) _exit(100);
}

static void runs_as_nobody(void *ctx)
{
    (void)ctx;
    become_nobody(MEMLOCK_LIMIT);
    if (hygiene_apply().code) _exit(101);
    rig_open(&rig);
    if (rig_call(&rig, PROBE_ECHO, 1, 2, 3, 4) != 10) _exit(102);
}

static void an_unprivileged_process_can_run_it(void **state)
{
    (void)state;
    assert_int_equal(rig_child(runs_as_nobody, NULL), 0);
}

static struct err open_and_init(bool ordinary)
{
    TRY(rig_device(&rig, ordinary, &rig.device));
    TRY(rig_build(&rig, rig.device, NULL));
    return rig.device->ops->init(rig.device, &rig.image.signatures[0]);
}

static void runs_with_little(void *ctx)
{
    (void)ctx;
    become_nobody(65536);
    _exit(open_and_init(false).code);
}

static void too_low_memlock_is_named(void **state)
{
    (void)state;
    int status = rig_child(runs_with_little, NULL);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), ERR_MEMLOCK);
    assert_non_null(strstr(err_sentence(FAIL(MEMLOCK)), "RLIMIT_MEMLOCK"));
}

static void hide_secret_memory(void)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    if (!filter || seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(memfd_secret), 0) != 0 ||
        seccomp_load(filter) != 0)
        _exit(100);
}

static void runs_without(void *ctx)
{
    (void)ctx;
    hide_secret_memory();
    _exit(open_and_init(false).code);
}

static void runs_without_but_accepted(void *ctx)
{
    (void)ctx;
    hide_secret_memory();
    if (open_and_init(true).code) _exit(101);
    if (rig_call(&rig, PROBE_ECHO, 1, 2, 3, 4) != 10) _exit(102);
}

static void kernel_without_secret_memory_is_refused_with_the_cure(void **state)
{
    (void)state;
    int status = rig_child(runs_without, NULL);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), ERR_NO_SECRET_MEMORY);
    assert_non_null(strstr(err_sentence(FAIL(NO_SECRET_MEMORY)), "secretmem.enable=1"));
}

static void ordinary_memory_works_when_it_is_accepted(void **state)
{
    (void)state;
    assert_int_equal(rig_child(runs_without_but_accepted, NULL), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(int argc, char **argv)
{
    rig_arguments(argc, argv);
    const struct CMUnitTest tests[] = {
        TEST(no_page_is_writable_and_executable),
        TEST(secret_descriptor_is_closed),
        TEST(code_cannot_be_written_through_proc),
        TEST(all_of_it_is_kept_from_forks_and_dumps),
        TEST(secret_cannot_be_read_where_it_lies),
        TEST(secret_is_nowhere_in_readable_memory),
        TEST(derived_keys_are_nowhere_in_vtpm_cpu),
        TEST(ordinary_memory_is_readable),
        TEST(an_unprivileged_process_can_run_it),
        TEST(too_low_memlock_is_named),
        TEST(kernel_without_secret_memory_is_refused_with_the_cure),
        TEST(ordinary_memory_works_when_it_is_accepted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
