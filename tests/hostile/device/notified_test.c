/*
 * The two enclave images of this build, loaded by a process whose system calls on /dev/sgx_enclave the kernel hands to
 * the driver of tests/fakes/fake_sgx.h: real calls, with real results (seccomp user notification).
 */
#include "tests/fakes/assertions.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fakes/fake_sgx.h"
#include "untrusted/sgx/choice.h"
#include "untrusted/sgx/enclave.h"

static const char *paths[2]; /* of the images */
static _Atomic int listener = -1;

static const int notified[] = {SYS_openat, SYS_ioctl, SYS_mmap, SYS_mprotect, SYS_munmap, SYS_close, SYS_fstatfs};
#define NOTIFIED_COUNT (sizeof notified / sizeof *notified)

/* The other thread, which is not filtered: it was there before. */
static void *drive(void *ctx)
{
    (void)ctx;
    while (listener < 0)
        sched_yield();
    for (;;) {
        struct seccomp_notif asked = {0};
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked) != 0) return NULL;
        struct seccomp_notif_resp answer = {.id = asked.id};
        uint64_t arguments[6];
        int64_t result = 0;
        memcpy(arguments, asked.data.args, sizeof arguments);
        if (!fake_sgx_system_call(asked.data.nr, arguments, &result))
            answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        else if (result < 0 && result > -4096)
            answer.error = (int)result;
        else
            answer.val = result;
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer) != 0) return NULL;
    }
}

static bool start_driver(void)
{
    pthread_t thread;
    struct sock_filter code[NOTIFIED_COUNT + 3];
    size_t count = 0;
    code[count++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < NOTIFIED_COUNT; i++) {
        const uint8_t to_notify = (uint8_t)(NOTIFIED_COUNT - i);
        code[count++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)notified[i], to_notify, 0);
    }
    code[count++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[count++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
    const struct sock_fprog program = {.len = (unsigned short)count, .filter = code};
    if (pthread_create(&thread, NULL, drive, NULL) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return false;
    listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
    return listener >= 0;
}

static struct err open_image(const char *path, int *out_fd, struct image *out_image)
{
    struct stat status;
    int file_fd = open(path, O_RDONLY | O_CLOEXEC);
    ENSURE(file_fd >= 0, SYSTEM);
    struct err result = device_seal(DEVICE_SGX, -1, file_fd, out_fd);
    close(file_fd);
    TRY(result);
    ENSURE(fstat(*out_fd, &status) == 0, SYSTEM);
    void *bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, *out_fd, 0);
    ENSURE(bytes != MAP_FAILED, SYSTEM);
    return image_parse(span_of(bytes, (size_t)status.st_size), out_image);
}

static struct err load_and_call(const char *path)
{
    static struct image image;
    static uint64_t buffer[8];
    struct device_options options = {.kind = device_choose(DEVICE_AUTO)};
    struct device *device = NULL;
    struct enclave *enclave = NULL;
    uint8_t *bytes = (uint8_t *)buffer;
    size_t size = 0;
    ENSURE(options.kind == DEVICE_SGX, SGX_NO_DEVICE);
    TRY(device_connect(options.kind, "", &options.device_fd));
    TRY(open_image(path, &options.image_fd, &image));
    TRY(device_open(&options, &image, &device));
    TRY(enclave_open(device, &image, &enclave));
    ENSURE(memcmp(fake_sgx_seen.mrenclave, image.signatures[0].ENCLAVEHASH, SGX_HASH_SIZE) == 0, SGX_MEASUREMENT);
    /* Behind this driver there is an echo, which sums up what the call says: no error code. */
    struct err result = enclave_call(enclave, span_of(bytes, 32), bytes + 32, 32, &size);
    ENSURE(result.code == ERR_BAD_VALUE && fake_sgx_seen.entered == 1, SGX_FAULT);
    enclave_close(&enclave);
    return OK;
}

static int status_of_loading(const char *path)
{
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) _exit(start_driver() ? load_and_call(path).code : 255);
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void image_of_an_instance_is_loaded_by_real_system_calls(void **state)
{
    (void)state;
    assert_int_equal(status_of_loading(paths[0]), 0);
}

static void image_of_the_manager_is_loaded_by_real_system_calls(void **state)
{
    (void)state;
    assert_int_equal(status_of_loading(paths[1]), 0);
}

int main(int argc, char **argv)
{
    if (argc != 3) return 2;
    paths[0] = argv[1];
    paths[1] = argv[2];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(image_of_an_instance_is_loaded_by_real_system_calls),
        cmocka_unit_test(image_of_the_manager_is_loaded_by_real_system_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
