#include "untrusted/swtpm/device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vtpm_proxy.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"

#define VTPMX            "/dev/vtpmx"
#define MESSAGE_MAX      4096u
#define HEADER_SIZE      10u
#define SET_LOCALITY     0x20001000u /* tpm_vtpm_proxy's */
#define CMD_SET_LOCALITY 5u          /* of the control channel */
#define RC_SUCCESS       0u
#define RC_LOCALITY      0x107u
#define RC_INSUFFICIENT  0x9au
#define RC_FAILURE       0x101u

static struct err make_proxy(int *out_fd, struct explanation *why)
{
    struct vtpm_proxy_new_dev made = {.flags = VTPM_PROXY_FLAG_TPM2};
    const int control = open(VTPMX, O_RDWR | O_CLOEXEC);
    if (control < 0)
        return explain(why, FAIL(SYSTEM), "--vtpm-proxy: " VTPMX ": %s (modprobe tpm_vtpm_proxy)", strerror(errno));
    const bool done = ioctl(control, VTPM_PROXY_IOC_NEW_DEV, &made) == 0;
    (void)close(control);
    if (!done) return explain(why, FAIL(SYSTEM), "--vtpm-proxy: " VTPMX ": %s", strerror(errno));
    printf("New TPM device: /dev/tpm%u (major/minor = %u/%u)\n", made.tpm_num, made.major, made.minor);
    (void)fflush(stdout);
    *out_fd = (int)made.fd;
    return OK;
}

struct err device_open(const struct swtpm_options *options, int *out_fd, struct explanation *why)
{
    if (options->device) return make_proxy(out_fd, why);
    *out_fd = options->data_fd >= 0 ? options->data_fd : open(options->device_path, O_RDWR | O_CLOEXEC);
    if (*out_fd >= 0) return OK;
    return explain(why, FAIL(SYSTEM), "--chardev %.200s: %s", options->device_path, strerror(errno));
}

/* --- the relay --- */

static size_t put_code(uint8_t *response, uint32_t code)
{
    struct writer w = writer_of(response, HEADER_SIZE);
    const bool fits = !write_be16(&w, 0x8001).code && !write_be32(&w, HEADER_SIZE).code && !write_be32(&w, code).code;
    return fits ? HEADER_SIZE : 0;
}

static uint32_t code_of(const uint8_t *message)
{
    return (uint32_t)message[6] << 24 | (uint32_t)message[7] << 16 | (uint32_t)message[8] << 8 | message[9];
}

static bool set_locality(int control, uint8_t locality)
{
    const uint8_t request[] = {0, 0, 0, CMD_SET_LOCALITY, locality};
    uint8_t answer[4] = {1};
    return send(control, request, sizeof request, MSG_NOSIGNAL) == (ssize_t)sizeof request &&
           recv(control, answer, sizeof answer, MSG_WAITALL) == (ssize_t)sizeof answer &&
           memcmp(answer, (const uint8_t[4]){0}, sizeof answer) == 0;
}

static size_t answer_locality(const uint8_t *command, size_t size, int control, bool allowed, uint8_t *response)
{
    if (!allowed) return put_code(response, RC_FAILURE);
    if (size < HEADER_SIZE + 1) return put_code(response, RC_INSUFFICIENT);
    return put_code(response, set_locality(control, command[HEADER_SIZE]) ? RC_SUCCESS : RC_LOCALITY);
}

static bool receive_all(int data, uint8_t *bytes, size_t size)
{
    return recv(data, bytes, size, MSG_WAITALL) == (ssize_t)size;
}

/* 0: the TPM has gone. */
static size_t ask(int data, const uint8_t *command, size_t size, uint8_t *response)
{
    if (send(data, command, size, MSG_NOSIGNAL) != (ssize_t)size) return 0;
    if (!receive_all(data, response, HEADER_SIZE)) return 0;
    const size_t total = (size_t)response[2] << 24 | (size_t)response[3] << 16 | (size_t)response[4] << 8 | response[5];
    if (total < HEADER_SIZE || total > MESSAGE_MAX) return 0;
    return receive_all(data, response + HEADER_SIZE, total - HEADER_SIZE) ? total : 0;
}

/* The size of what the device asks, 0 once there is none any more. */
static size_t next_command(int device, int data, uint8_t *command)
{
    struct pollfd both[] = {{.fd = device, .events = POLLIN}, {.fd = data, .events = 0}};
    for (;;) {
        if (poll(both, 2, -1) < 0 && errno != EINTR) return 0;
        if (both[1].revents || (both[0].revents && !(both[0].revents & POLLIN))) return 0;
        if (!(both[0].revents & POLLIN)) continue;
        const ssize_t size = read(device, command, MESSAGE_MAX);
        if (size < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        return size > 0 ? (size_t)size : 0;
    }
}

void device_relay(int device, int data, int control, bool allow_locality)
{
    static uint8_t command[MESSAGE_MAX];
    static uint8_t response[MESSAGE_MAX];
    for (size_t size; (size = next_command(device, data, command)) > 0;) {
        const bool sets = size >= HEADER_SIZE && code_of(command) == SET_LOCALITY;
        const size_t answer = sets ? answer_locality(command, size, control, allow_locality, response)
                                   : ask(data, command, size, response);
        if (answer == 0 || write(device, response, answer) != (ssize_t)answer) return;
    }
}
