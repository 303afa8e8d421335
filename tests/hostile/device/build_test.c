/*
 * What EINIT must refuse (row E1), on both devices, and a client of vtpm-cpu that does not keep to the protocol.
 */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/hostile/device/probe.h"
#include "tests/hostile/device/rig.h"
#include "untrusted/sgx/cpu_client.h"
#include "untrusted/sgx/cpu_wire.h"

static struct rig rig;

static int set_up(void **state)
{
    (void)state;
    rig_start(&rig);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    rig_stop(&rig);
    return 0;
}

static struct err build_and_init(void (*change)(struct sgx_secs *secs), const struct sgx_sigstruct *sigstruct)
{
    struct device *device = NULL;
    TRY(rig_device(&rig, false, &device));
    struct err result = rig_build(&rig, device, change);
    if (!result.code) result = device->ops->init(device, sigstruct);
    device->ops->destroy(device);
    return result;
}

static void unchanged_image_is_initialised(void **state)
{
    (void)state;
    assert_int_equal(build_and_init(NULL, &rig.image.signatures[0]).code, 0);
}

/* A sealed copy of the image with one byte changed, in the place of the image. */
static int changed_copy(uint64_t offset)
{
    size_t size = rig.image.file.size;
    int fd = memfd_create("changed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    uint8_t byte = rig.image.file.data[offset] ^ 1;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, rig.image.file.data, size), (ssize_t)size);
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW), 0);
    return fd;
}

static void one_changed_byte_in_any_page_is_refused(void **state)
{
    (void)state;
    int image_fd = rig.image_fd;
    for (uint32_t i = 0; i < rig.image.segment_count; i++) {
        const struct image_segment *segment = &rig.image.segments[i];
        for (uint64_t page = 0; segment->file_offset && page < segment->size; page += SGX_PAGE_SIZE) {
            if (segment->secinfo_flags == SGX_SECINFO_TCS) continue;
            rig.image_fd = changed_copy(segment->file_offset + page + 4095 - i);
            assert_int_equal(build_and_init(NULL, &rig.image.signatures[0]).code, ERR_SGX_MEASUREMENT);
            close(rig.image_fd);
        }
    }
    rig.image_fd = image_fd;
}

/* The measurement of an image is remembered: for what was added, not for the image. */
static void same_image_added_otherwise_is_refused(void **state)
{
    (void)state;
    assert_int_equal(build_and_init(NULL, &rig.image.signatures[0]).code, 0);
    struct image_segment *segment = &rig.image.segments[0];
    segment->measured = false;
    assert_int_equal(build_and_init(NULL, &rig.image.signatures[0]).code, ERR_SGX_MEASUREMENT);
    segment->measured = true;
    rig.image.segment_count--;
    assert_int_equal(build_and_init(NULL, &rig.image.signatures[0]).code, ERR_SGX_MEASUREMENT);
    rig.image.segment_count++;
    rig.image.ssaframesize++;
    assert_int_equal(build_and_init(NULL, &rig.image.signatures[0]).code, ERR_SGX_MEASUREMENT);
    rig.image.ssaframesize--;
    assert_int_equal(build_and_init(NULL, &rig.image.signatures[0]).code, 0);
}

static void changed_tcs_is_refused(void **state)
{
    (void)state;
    int image_fd = rig.image_fd;
    const struct image_segment *tcs = NULL;
    for (uint32_t i = 0; i < rig.image.segment_count; i++)
        if (rig.image.segments[i].secinfo_flags == SGX_SECINFO_TCS) tcs = &rig.image.segments[i];
    assert_non_null(tcs);
    rig.image_fd = changed_copy(tcs->file_offset + offsetof(struct sgx_tcs, OENTRY));
    assert_int_equal(build_and_init(NULL, &rig.image.signatures[0]).code, ERR_SGX_MEASUREMENT);
    close(rig.image_fd);
    rig.image_fd = changed_copy(tcs->file_offset + offsetof(struct sgx_tcs, FLAGS)); /* DBGOPTIN */
    assert_int_equal(build_and_init(NULL, &rig.image.signatures[0]).code, ERR_SGX_SECINFO);
    close(rig.image_fd);
    rig.image_fd = image_fd;
}

static struct err init_with(void (*change)(struct sgx_sigstruct *sigstruct))
{
    struct sgx_sigstruct sigstruct = rig.image.signatures[0];
    change(&sigstruct);
    return build_and_init(NULL, &sigstruct);
}

static void change_modulus(struct sgx_sigstruct *sigstruct)
{
    sigstruct->MODULUS[100] ^= 1;
}

static void change_signature(struct sgx_sigstruct *sigstruct)
{
    sigstruct->SIGNATURE[0] ^= 1;
}

static void change_q1(struct sgx_sigstruct *sigstruct)
{
    sigstruct->Q1[5] ^= 1;
}

static void change_q2(struct sgx_sigstruct *sigstruct)
{
    sigstruct->Q2[5] ^= 1;
}

static void change_mask(struct sgx_sigstruct *sigstruct)
{
    sigstruct->ATTRIBUTEMASK.FLAGS ^= SGX_FLAGS_DEBUG;
}

static void change_hash(struct sgx_sigstruct *sigstruct)
{
    sigstruct->ENCLAVEHASH[0] ^= 1;
}

static void change_header(struct sgx_sigstruct *sigstruct)
{
    sigstruct->HEADER[0] ^= 1;
}

static void change_exponent(struct sgx_sigstruct *sigstruct)
{
    sigstruct->EXPONENT = 65537;
}

static void changed_sigstruct_is_refused(void **state)
{
    (void)state;
    assert_int_equal(init_with(change_modulus).code, ERR_SGX_SIGNATURE);
    assert_int_equal(init_with(change_signature).code, ERR_SGX_SIGNATURE);
    assert_int_equal(init_with(change_q1).code, ERR_SGX_SIGNATURE);
    assert_int_equal(init_with(change_q2).code, ERR_SGX_SIGNATURE);
    assert_int_equal(init_with(change_mask).code, ERR_SGX_SIGNATURE);
    assert_int_equal(init_with(change_hash).code, ERR_SGX_SIGNATURE);
    assert_int_equal(init_with(change_header).code, ERR_SGX_SIG_STRUCT);
    assert_int_equal(init_with(change_exponent).code, ERR_SGX_SIG_STRUCT);
}

static void set_debug(struct sgx_secs *secs)
{
    secs->ATTRIBUTES.FLAGS |= SGX_FLAGS_DEBUG;
}

static void set_init(struct sgx_secs *secs)
{
    secs->ATTRIBUTES.FLAGS |= SGX_FLAGS_INIT;
}

static void set_provisionkey(struct sgx_secs *secs)
{
    secs->ATTRIBUTES.FLAGS |= SGX_FLAGS_PROVISIONKEY;
}

static void set_miscselect(struct sgx_secs *secs)
{
    secs->MISCSELECT = 1;
}

static void set_configid(struct sgx_secs *secs)
{
    secs->CONFIGID[63] = 1;
}

static void other_attributes_are_refused(void **state)
{
    (void)state;
    const struct sgx_sigstruct *sigstruct = &rig.image.signatures[0];
    assert_int_equal(build_and_init(set_debug, sigstruct).code, ERR_SGX_ATTRIBUTE);
    assert_int_equal(build_and_init(set_miscselect, sigstruct).code, ERR_SGX_ATTRIBUTE);
    assert_int_equal(build_and_init(set_init, sigstruct).code, ERR_SGX_SECS);
    assert_int_equal(build_and_init(set_provisionkey, sigstruct).code, ERR_SGX_SECS);
    assert_int_equal(build_and_init(set_configid, sigstruct).code, ERR_SGX_SECS);
}

static void image_that_can_change_is_refused(void **state)
{
    (void)state;
    int image_fd = rig.image_fd;
    rig.image_fd = open(rig_image_path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(build_and_init(NULL, &rig.image.signatures[0]).code, ERR_IMAGE_UNSEALED);
    close(rig.image_fd);
    rig.image_fd = memfd_create("open", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(fcntl(rig.image_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
    assert_int_equal(build_and_init(NULL, &rig.image.signatures[0]).code, ERR_IMAGE_UNSEALED);
    close(rig.image_fd);
    rig.image_fd = image_fd;
}

static void pages_beside_the_image_are_refused(void **state)
{
    (void)state;
    static const struct device_pages wrong[] = {
        {.offset = 0, .length = 4096, .file_offset = UINT64_C(1) << 40, .secinfo = {.FLAGS = 0x205}},
        {.offset = 0, .length = 4096, .file_offset = UINT64_MAX - 4095, .secinfo = {.FLAGS = 0x205}},
        {.offset = UINT64_MAX - 4095, .length = 8192, .secinfo = {.FLAGS = 0x203}},
        {.offset = 1, .length = 4096, .secinfo = {.FLAGS = 0x203}},
        {.offset = 0, .length = 100, .secinfo = {.FLAGS = 0x203}},
        {.offset = 0, .length = 0, .secinfo = {.FLAGS = 0x203}},
        {.offset = 0, .length = 4096, .secinfo = {.FLAGS = 0x202}}, /* W without R */
        {.offset = 0, .length = 4096, .secinfo = {.FLAGS = 0x303}},
        {.offset = 0, .length = 4096, .secinfo = {.FLAGS = 0x103}}, /* a TCS with permissions */
        {.offset = 0, .length = 4096, .secinfo = {.FLAGS = 0x100}}, /* a TCS of zeros */
        {.offset = 0, .length = 4096, .secinfo = {.FLAGS = 0x203, .reserved = {[55] = 1}}},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct device *device = NULL;
        struct sgx_secs secs;
        image_secs(&rig.image, 0, 0, &secs);
        assert_int_equal(rig_device(&rig, false, &device).code, 0);
        assert_int_equal(device->ops->create(device, &secs).code, 0);
        assert_int_equal(device->ops->add_pages(device, &wrong[i]).code, ERR_SGX_SECINFO);
        device->ops->destroy(device);
    }
}

static void page_added_twice_is_refused(void **state)
{
    (void)state;
    struct device *device = NULL;
    assert_int_equal(rig_device(&rig, false, &device).code, 0);
    assert_int_equal(rig_build(&rig, device, NULL).code, 0);
    struct device_pages pages = {.offset = 0, .length = 4096, .secinfo = {.FLAGS = 0x203}};
    assert_int_equal(device->ops->add_pages(device, &pages).code, ERR_SGX_SECINFO);
    device->ops->destroy(device);
}

static void operations_out_of_order_are_refused(void **state)
{
    (void)state;
    struct device *device = NULL;
    struct sgx_secs secs;
    struct device_run run = {0};
    struct device_pages pages = {.offset = 0, .length = 4096, .secinfo = {.FLAGS = 0x203}};
    assert_int_equal(rig_device(&rig, false, &device).code, 0);
    assert_int_equal(device->ops->add_pages(device, &pages).code, ERR_SGX_ORDER);
    assert_int_equal(device->ops->init(device, &rig.image.signatures[0]).code, ERR_SGX_ORDER);
    assert_int_equal(device->ops->enter(device, 0, &run).code, ERR_SGX_ORDER);
    assert_int_equal(rig_build(&rig, device, NULL).code, 0);
    image_secs(&rig.image, 0, 0, &secs);
    assert_int_equal(device->ops->create(device, &secs).code, ERR_SGX_ORDER);
    assert_int_equal(device->ops->init(device, &rig.image.signatures[0]).code, 0);
    assert_int_equal(device->ops->add_pages(device, &pages).code, ERR_SGX_ORDER);
    assert_int_equal(device->ops->init(device, &rig.image.signatures[0]).code, ERR_SGX_ORDER);
    device->ops->destroy(device);
}

/* Sends a raw message; true if vtpm-cpu ended the connection for it. */
static bool is_disconnected(int fd, const void *message, size_t size)
{
    uint8_t reply[512];
    assert_int_equal(send(fd, message, size, MSG_NOSIGNAL), (ssize_t)size);
    return recv(fd, reply, sizeof reply, 0) <= 0;
}

static void broken_messages_end_the_connection(void **state)
{
    (void)state;
    static const struct {
        uint32_t message;
        size_t body;
    } wrong[] = {
        {0, 0},
        {7, 0},
        {UINT32_MAX, 0},
        {CPU_CREATE, 4096},
        {CPU_IMAGE, 0},
        {CPU_IMAGE, 10},
        {CPU_INIT, 1808},
        {CPU_EGETKEY, 512},
        {CPU_EREPORT, 576},
        {CPU_ADD_PAGES, CPU_ADD_PAGES_SIZE},
        {CPU_CREATE, 4097},
    };
    static uint8_t message[8192];
    int fd = -1;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(cpu_connect(rig.socket, &fd).code, 0);
        memcpy(message, &wrong[i].message, 4);
        assert_true(is_disconnected(fd, message, 4 + wrong[i].body));
        close(fd);
    }
    assert_int_equal(cpu_connect(rig.socket, &fd).code, 0);
    assert_true(is_disconnected(fd, message, 3));
    close(fd);
    assert_int_equal(build_and_init(NULL, &rig.image.signatures[0]).code, 0); /* the others go on */
}

/* A connection whose enclave has been initialised, without a device around it. */
static int running_client(void)
{
    struct sgx_secs secs;
    int fd = -1;
    assert_int_equal(cpu_connect(rig.socket, &fd).code, 0);
    image_secs(&rig.image, 0, 0, &secs);
    assert_int_equal(cpu_create(fd, &secs, rig.image_fd).code, 0);
    for (uint32_t i = 0; i < rig.image.segment_count; i++) {
        struct device_pages pages = rig_pages(&rig.image.segments[i]);
        assert_int_equal(cpu_add_pages(fd, &pages).code, 0);
    }
    assert_int_equal(cpu_init(fd, &rig.image.signatures[0]).code, 0);
    return fd;
}

static void message_of_another_size_ends_the_connection(void **state)
{
    (void)state;
    static const int differences[] = {-512, -1, 1, 64};
    static uint8_t message[1024] = {CPU_EGETKEY};
    uint8_t reply[64];
    message[4] = SGX_KEYNAME_REPORT;
    int fd = running_client();
    assert_int_equal(send(fd, message, 4 + 512, MSG_NOSIGNAL), 4 + 512);
    assert_int_equal(recv(fd, reply, sizeof reply, 0), 4 + 4 + SGX_KEY_SIZE);
    close(fd);
    for (size_t i = 0; i < sizeof differences / sizeof *differences; i++) {
        fd = running_client();
        assert_true(is_disconnected(fd, message, (size_t)(4 + 512 + differences[i])));
        close(fd);
    }
}

static size_t descriptors_of(pid_t process)
{
    char path[64];
    size_t count = 0;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)process);
    DIR *directory = opendir(path);
    assert_non_null(directory);
    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

static void surplus_descriptors_are_not_kept(void **state)
{
    (void)state;
    uint32_t message = CPU_IMAGE;
    int fds[2] = {rig.image_fd, rig.image_fd}, fd = -1;
    _Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(sizeof fds)] = {0};
    struct iovec part = {.iov_base = &message, .iov_len = sizeof message};
    struct msghdr header = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
    *rights = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fds)};
    memcpy(CMSG_DATA(rights), fds, sizeof fds);
    size_t before = descriptors_of(rig.cpu);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(cpu_connect(rig.socket, &fd).code, 0);
        assert_true(sendmsg(fd, &header, MSG_NOSIGNAL) > 0);
        assert_true(recv(fd, &message, sizeof message, 0) <= 0);
        close(fd);
    }
    assert_true(descriptors_of(rig.cpu) <= before + 2); /* the last connection may not be closed yet */
}

static void refused_client_gets_no_keys(void **state)
{
    (void)state;
    struct sgx_secs secs;
    struct sgx_keyrequest request = {.KEYNAME = SGX_KEYNAME_REPORT};
    uint8_t key[SGX_KEY_SIZE];
    uint32_t rax = 0;
    int fd = -1;
    assert_int_equal(cpu_connect(rig.socket, &fd).code, 0);
    image_secs(&rig.image, 0, 0, &secs);
    assert_int_equal(cpu_create(fd, &secs, rig.image_fd).code, 0);
    assert_int_equal(cpu_init(fd, &rig.image.signatures[0]).code, ERR_SGX_MEASUREMENT);
    assert_int_equal(cpu_egetkey(fd, &request, &rax, key).code, ERR_CPU_UNREACHABLE);
    close(fd);
}

static void image_must_be_a_readable_file(void **state)
{
    (void)state;
    int fds[2], cpu_fd = -1, sealed = -1;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    int path_fd = open(rig_image_path, O_PATH | O_CLOEXEC);
    assert_int_equal(cpu_connect(rig.socket, &cpu_fd).code, 0);
    assert_int_equal(cpu_image(cpu_fd, fds[0], &sealed).code, ERR_IMAGE_MAGIC);
    assert_int_equal(cpu_image(cpu_fd, path_fd, &sealed).code, ERR_IMAGE_MAGIC);
    close(fds[0]);
    close(fds[1]);
    close(path_fd);
    close(cpu_fd);
}

static void image_is_copied_once_and_again_after_a_change(void **state)
{
    (void)state;
    struct stat first, second, third;
    char path[128];
    int cpu_fd = -1, sealed[3];
    snprintf(path, sizeof path, "%s/secret", rig.directory);
    assert_int_equal(cpu_connect(rig.socket, &cpu_fd).code, 0);
    int file_fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(cpu_image(cpu_fd, file_fd, &sealed[0]).code, 0);
    assert_int_equal(cpu_image(cpu_fd, file_fd, &sealed[1]).code, 0);
    assert_int_equal(pwrite(file_fd, "changed", 7, 0), 7);
    assert_int_equal(cpu_image(cpu_fd, file_fd, &sealed[2]).code, 0);
    assert_int_equal(fstat(sealed[0], &first) | fstat(sealed[1], &second) | fstat(sealed[2], &third), 0);
    assert_int_equal(first.st_ino, second.st_ino);
    assert_int_not_equal(first.st_ino, third.st_ino);
    assert_true(write(sealed[0], "x", 1) < 0);
    for (size_t i = 0; i < 3; i++)
        close(sealed[i]);
    close(file_fd);
    close(cpu_fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(int argc, char **argv)
{
    rig_arguments(argc, argv);
    const struct CMUnitTest tests[] = {
        TEST(unchanged_image_is_initialised),
        TEST(one_changed_byte_in_any_page_is_refused),
        TEST(same_image_added_otherwise_is_refused),
        TEST(changed_tcs_is_refused),
        TEST(changed_sigstruct_is_refused),
        TEST(other_attributes_are_refused),
        TEST(pages_beside_the_image_are_refused),
        TEST(page_added_twice_is_refused),
        TEST(operations_out_of_order_are_refused),
        /* from here on of vtpm-cpu alone */
        TEST(image_that_can_change_is_refused),
        TEST(broken_messages_end_the_connection),
        TEST(message_of_another_size_ends_the_connection),
        TEST(surplus_descriptors_are_not_kept),
        TEST(refused_client_gets_no_keys),
        TEST(image_must_be_a_readable_file),
        TEST(image_is_copied_once_and_again_after_a_change),
    };
    const size_t count = rig_is_sgx ? 9 : sizeof tests / sizeof *tests;
    return _cmocka_run_group_tests("build", tests, count, NULL, NULL);
}
