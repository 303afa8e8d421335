/*
 * Runs inside a guest, without anything else: round trips at /dev/tpm0, the microseconds of each in a line of its own.
 *
 *     in-guest COMMAND SAMPLES
 *
 * COMMAND is random, read, extend or write. It is linked statically, because the guest has no library of its own. What
 * a number has in it besides the TPM: the guest's driver and its polling, the emulated device, QEMU.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "benchmark/commands.h"

#define DEVICE        "/dev/tpm0"
#define WARM_UP       20
#define HEADER_SIZE   10
#define STATUS_OFFSET 6
#define RC_RETRY      UINT32_C(0x922)
#define RC_NV_DEFINED UINT32_C(0x14C)

struct kind {
    const char *name;
    struct err (*write)(struct writer *w, uint32_t number);
};

static struct err write_random(struct writer *w, uint32_t number)
{
    (void)number;
    return command_get_random(w);
}

static struct err write_read(struct writer *w, uint32_t number)
{
    (void)number;
    return command_pcr_read(w);
}

static struct err write_extend(struct writer *w, uint32_t number)
{
    (void)number;
    return command_pcr_extend(w);
}

static const struct kind kinds[] = {
    {"random", write_random},
    {"read", write_read},
    {"extend", write_extend},
    {"write", command_nv_write},
};

__attribute__((noreturn)) static void fail(const char *what, const char *why)
{
    fprintf(stderr, "in-guest: %s: %s\n", what, why);
    exit(1);
}

static void must_fit(struct err result)
{
    if (result.code) fail("a command", "it does not fit into its buffer");
}

static double now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

/* The response code. */
static uint32_t exchange(int device, const struct writer *command)
{
    uint8_t response[COMMAND_MAX];
    if (write(device, command->start, command->size) != (ssize_t)command->size) fail(DEVICE, strerror(errno));
    if (read(device, response, sizeof(response)) < HEADER_SIZE) fail(DEVICE, "the response has no header");
    const uint8_t *status = response + STATUS_OFFSET;
    return (uint32_t)status[0] << 24 | (uint32_t)status[1] << 16 | (uint32_t)status[2] << 8 | status[3];
}

static double timed(int device, const struct kind *kind, uint32_t number)
{
    uint8_t bytes[COMMAND_MAX];
    struct writer command = writer_of(bytes, sizeof(bytes));
    must_fit(kind->write(&command, number));
    double begin = now_us();
    uint32_t status = 0;
    do {
        status = exchange(device, &command);
    } while (status == RC_RETRY);
    double took = now_us() - begin;
    if (status != 0) {
        fprintf(stderr, "in-guest: %s: response code 0x%03x\n", kind->name, status);
        exit(1);
    }
    return took;
}

/* The index that is written; of the round before it is there already. */
static void define(int device)
{
    uint8_t bytes[COMMAND_MAX];
    struct writer command = writer_of(bytes, sizeof(bytes));
    must_fit(command_nv_define(&command));
    uint32_t status = exchange(device, &command);
    if (status != 0 && status != RC_NV_DEFINED) fail("TPM2_NV_DefineSpace", "it is refused");
}

static const struct kind *kind_of(const char *name)
{
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(kinds[i].name, name) == 0) return &kinds[i];
    }
    fail(name, "there is no such command");
}

int main(int argc, char **argv)
{
    if (argc != 3) fail("usage", "in-guest COMMAND SAMPLES");
    const struct kind *kind = kind_of(argv[1]);
    uint32_t samples = (uint32_t)strtoul(argv[2], NULL, 10);
    int device = open(DEVICE, O_RDWR | O_CLOEXEC);
    if (device < 0) fail(DEVICE, strerror(errno));
    if (kind->write == command_nv_write) define(device);
    for (uint32_t i = 0; i < WARM_UP; i++) {
        (void)timed(device, kind, i);
    }
    for (uint32_t i = 0; i < samples; i++) {
        printf("%.1f\n", timed(device, kind, i));
    }
    close(device);
    return 0;
}
