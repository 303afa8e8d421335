#include "untrusted/cli/ctl_tpm.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"

#define RESPONSE_MAX 4096u
#define HEADER_SIZE  10u

#define OWNER        0x40, 0, 0, 1                                           /* TPM_RH_OWNER */
#define INDEX        0x01, 0x80, 0x02, 0                                     /* of NV */
#define EMPTY_AUTH   0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0                /* TPM_RS_PW */
#define PUBLIC       0, 14, INDEX, 0, 0x0B, 0x02, 0x02, 0, 0x02, 0, 0, 0, 32 /* SHA-256; OWNERWRITE, OWNERREAD, NO_DA */

static const struct command {
    const char *name;
    size_t size;
    uint8_t bytes[72];
    size_t data_at, answer_at; /* where CTL_TPM_DATA_SIZE bytes of it, or of the response, are; 0: none */
} commands[] = {
    [CTL_TPM_STARTUP] = {"TPM2_Startup", 12, {0x80, 1, 0, 0, 0, 12, 0, 0, 0x01, 0x44, 0, 0 /* TPM_SU_CLEAR */}, 0, 0},
    [CTL_TPM_SELF_TEST] = {"TPM2_SelfTest", 11, {0x80, 1, 0, 0, 0, 11, 0, 0, 0x01, 0x43, 1 /* fullTest */}, 0, 0},
    [CTL_TPM_GET_RANDOM] = {"TPM2_GetRandom", 12, {0x80, 1, 0, 0, 0, 12, 0, 0, 0x01, 0x7B, 0, 32}, 0, 12},
    [CTL_TPM_NV_DEFINE] = {"TPM2_NV_DefineSpace",
                           45,
                           {0x80, 2, 0, 0, 0, 45, 0, 0, 0x01, 0x2A, OWNER, EMPTY_AUTH, 0, 0 /* auth */, PUBLIC},
                           0,
                           0},
    [CTL_TPM_NV_WRITE] =
        {"TPM2_NV_Write", 67, {0x80, 2, 0, 0, 0, 67, 0, 0, 0x01, 0x37, OWNER, INDEX, EMPTY_AUTH, 0, 32}, 33, 0},
    [CTL_TPM_NV_READ] =
        {"TPM2_NV_Read", 35, {0x80, 2, 0, 0, 0, 35, 0, 0, 0x01, 0x4E, OWNER, INDEX, EMPTY_AUTH, 0, 32, 0, 0}, 0, 16},
};

const char *ctl_tpm_name(enum ctl_tpm_command command)
{
    return commands[command].name;
}

struct err ctl_tpm_connect(const char *path, int *out_fd, struct explanation *why)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct timeval patience = {.tv_sec = CTL_TPM_SECONDS};
    ENSURE(strlen(path) < sizeof address.sun_path, TOO_LARGE);
    memcpy(address.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ENSURE(fd >= 0, SYSTEM);
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0 &&
        connect(fd, (const struct sockaddr *)&address, sizeof address) == 0) {
        *out_fd = fd;
        return OK;
    }
    const struct err err = explain(why, FAIL(SYSTEM), "%s: %s", path, strerror(errno));
    close(fd);
    return err;
}

static struct err receive(int fd, uint8_t response[RESPONSE_MAX], uint32_t *out_size, uint32_t *out_code)
{
    uint16_t tag = 0;
    ENSURE(recv(fd, response, HEADER_SIZE, MSG_WAITALL) == (ssize_t)HEADER_SIZE, PROTOCOL);
    struct reader r = reader_of(span_of(response, HEADER_SIZE));
    TRY(read_be16(&r, &tag));
    TRY(read_be32(&r, out_size));
    TRY(read_be32(&r, out_code));
    ENSURE(*out_size >= HEADER_SIZE && *out_size <= RESPONSE_MAX, PROTOCOL);
    const ssize_t rest = (ssize_t)(*out_size - HEADER_SIZE);
    ENSURE(!rest || recv(fd, response + HEADER_SIZE, (size_t)rest, MSG_WAITALL) == rest, PROTOCOL);
    return OK;
}

struct err ctl_tpm_run(int fd, enum ctl_tpm_command number, uint8_t data[CTL_TPM_DATA_SIZE], struct explanation *why)
{
    struct command command = commands[number];
    uint8_t response[RESPONSE_MAX];
    uint32_t size = 0, code = 0;
    if (command.data_at) memcpy(command.bytes + command.data_at, data, CTL_TPM_DATA_SIZE);
    if (send(fd, command.bytes, command.size, MSG_NOSIGNAL) != (ssize_t)command.size ||
        receive(fd, response, &size, &code).code)
        return explain(why, FAIL(PROTOCOL), "%s: the TPM does not answer", command.name);
    if (code) return explain(why, FAIL(TPM), "%s: the TPM refused with 0x%x", command.name, (unsigned)code);
    if (!command.answer_at) return OK;
    if (size < command.answer_at + CTL_TPM_DATA_SIZE)
        return explain(why, FAIL(PROTOCOL), "%s: the TPM's answer is too short", command.name);
    memcpy(data, response + command.answer_at, CTL_TPM_DATA_SIZE);
    return OK;
}
