#include "benchmark/target.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <libtpms/tpm_error.h>
#include <libtpms/tpm_library.h>
#include <libtpms/tpm_nvfilename.h>

#define TPM_RC_RETRY  UINT32_C(0x922)
#define HEADER_SIZE   10u
#define SIZE_OFFSET   2u
#define STATUS_OFFSET 6u

/* libtpms has no context argument, so its state file is a global here. */
static struct {
    unsigned char *data;
    uint32_t size;
} permanent;

void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("bench: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static uint32_t be32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

bool target_try_connect(struct target *target, const char *name, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path)) die("the path of the socket is too long: %s", path);
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket: %s", strerror(errno));
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) != 0) {
        close(fd);
        return false;
    }
    *target = (struct target){.name = name, .fd = fd};
    return true;
}

void target_connect(struct target *target, const char *name, const char *path)
{
    if (!target_try_connect(target, name, path)) die("%s: %s: %s", name, path, strerror(errno));
}

static TPM_RESULT nvram_init(void)
{
    return TPM_SUCCESS;
}

static TPM_RESULT nvram_load(unsigned char **out_data, uint32_t *out_size, uint32_t number, const char *name)
{
    (void)number;
    if (strcmp(name, TPM_PERMANENT_ALL_NAME) != 0 || !permanent.data) return TPM_RETRY;
    *out_data = malloc(permanent.size);
    if (!*out_data) return TPM_FAIL;
    memcpy(*out_data, permanent.data, permanent.size);
    *out_size = permanent.size;
    return TPM_SUCCESS;
}

static TPM_RESULT nvram_store(const unsigned char *data, uint32_t size, uint32_t number, const char *name)
{
    (void)number;
    if (strcmp(name, TPM_PERMANENT_ALL_NAME) != 0) return TPM_SUCCESS;
    unsigned char *copy = realloc(permanent.data, size);
    if (!copy) return TPM_FAIL;
    memcpy(copy, data, size);
    permanent.data = copy;
    permanent.size = size;
    return TPM_SUCCESS;
}

static TPM_RESULT nvram_delete(uint32_t number, const char *name, TPM_BOOL must_exist)
{
    (void)number;
    (void)name;
    (void)must_exist;
    return TPM_SUCCESS;
}

void target_open_libtpms(struct target *target, const char *name)
{
    struct libtpms_callbacks callbacks = {
        .sizeOfStruct = sizeof(callbacks),
        .tpm_nvram_init = nvram_init,
        .tpm_nvram_loaddata = nvram_load,
        .tpm_nvram_storedata = nvram_store,
        .tpm_nvram_deletename = nvram_delete,
    };
    *target = (struct target){.name = name, .in_process = true, .fd = -1};
    if (TPMLIB_ChooseTPMVersion(TPMLIB_TPM_VERSION_2) != TPM_SUCCESS ||
        TPMLIB_RegisterCallbacks(&callbacks) != TPM_SUCCESS || TPMLIB_MainInit() != TPM_SUCCESS)
        die("libtpms does not start");
}

void target_close(struct target *target)
{
    if (!target->in_process) {
        close(target->fd);
        return;
    }
    TPMLIB_Terminate();
    free(permanent.data);
    permanent.data = NULL;
}

static void process(struct target *target, const uint8_t *command, size_t size)
{
    static unsigned char *response; /* libtpms keeps and reuses this buffer */
    static uint32_t capacity;
    uint32_t response_size = 0;
    if (TPMLIB_Process(&response, &response_size, &capacity, (unsigned char *)(uintptr_t)command, (uint32_t)size) !=
            TPM_SUCCESS ||
        response_size < HEADER_SIZE || response_size > sizeof(target->response))
        die("libtpms fails");
    memcpy(target->response, response, response_size);
    target->response_size = response_size;
}

static void converse(struct target *target, const uint8_t *command, size_t size)
{
    if (send(target->fd, command, size, MSG_NOSIGNAL) != (ssize_t)size) die("%s: %s", target->name, strerror(errno));
    size_t have = 0;
    size_t wanted = HEADER_SIZE;
    while (have < wanted) {
        ssize_t got = recv(target->fd, target->response + have, sizeof(target->response) - have, 0);
        if (got <= 0) die("%s ends the connection: %s", target->name, got ? strerror(errno) : "closed");
        have += (size_t)got;
        if (have >= HEADER_SIZE) wanted = be32(target->response + SIZE_OFFSET);
        if (wanted < HEADER_SIZE || wanted > sizeof(target->response)) die("%s answers no TPM response", target->name);
    }
    target->response_size = have;
}

uint32_t target_exchange(struct target *target, const uint8_t *command, size_t size)
{
    uint32_t status = TPM_RC_RETRY;
    while (status == TPM_RC_RETRY) {
        if (target->in_process)
            process(target, command, size);
        else
            converse(target, command, size);
        status = be32(target->response + STATUS_OFFSET);
    }
    return status;
}
