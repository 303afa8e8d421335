/*
 * How long a TPM command takes: ours, Debian's swtpm and libtpms inside this process, in turns, so that what else the
 * machine does meets all three alike. One persistent connection each, one command in flight.
 *
 *     latency OURS_SOCKET SWTPM_SOCKET SAMPLES DISK_DIRECTORY DISK_SIZE
 *     latency --fast LABEL OURS_SOCKET SWTPM_SOCKET SAMPLES     the commands that neither compute nor commit, p50 only
 *     latency --once SOCKET...     TPM2_Startup and one TPM2_GetRandom each: brings a TPM to where it idles
 *
 * Prints lines of "name TAB unit TAB ours TAB swtpm TAB floor", "-" where there is none. It measures a round trip as a
 * client sees it, the scheduler included; whoever starts it says on which cores the three run.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "benchmark/commands.h"
#include "benchmark/sample.h"
#include "benchmark/target.h"

#define TARGETS       3u
#define ROUNDS        8u
#define WARM_UP       8u
#define TPM_RC_INIT   UINT32_C(0x100)
#define HANDLE_OFFSET 10u

enum kind {
    PLAIN,    /* one command again and again */
    NUMBERED, /* each command has another number in it */
    PRIMARY,  /* numbered, and makes an object that has to be flushed */
};

struct operation {
    const char *name;
    enum kind kind;
    size_t share;                            /* one of how many samples is taken: slow commands get fewer */
    struct err (*prepare)(struct writer *w); /* makes the key or index that is used, or NULL */
    struct err (*fill)(struct writer *w);    /* gives the index a value: reading wants one */
    struct err (*finish)(struct writer *w);  /* removes the index; a key is flushed */
    struct err (*plain)(struct writer *w);
    struct err (*with_number)(struct writer *w, uint32_t number); /* number or key handle */
};

struct command {
    uint8_t bytes[COMMAND_MAX];
    size_t size;
};

static struct err create_signing_rsa(struct writer *w)
{
    return command_create_rsa(w, 0);
}

static struct err create_signing_ecc(struct writer *w)
{
    return command_create_ecc(w, 0);
}

static struct err fill_index(struct writer *w)
{
    return command_nv_write(w, 0);
}

static const struct operation operations[] = {
    {.name = "GetRandom 32", .share = 1, .plain = command_get_random},
    {.name = "PCR_Read", .share = 1, .plain = command_pcr_read},
    {.name = "PCR_Extend", .share = 1, .plain = command_pcr_extend},
    {.name = "Hash 1 KiB", .share = 1, .plain = command_hash},
    {.name = "HMAC 1 KiB", .share = 1, .prepare = command_create_hmac_key, .with_number = command_hmac},
    {.name = "NV_Read 32",
     .share = 1,
     .prepare = command_nv_define,
     .fill = fill_index,
     .finish = command_nv_undefine,
     .plain = command_nv_read},
    {.name = "NV_Write 32",
     .kind = NUMBERED,
     .share = 3,
     .prepare = command_nv_define,
     .finish = command_nv_undefine,
     .with_number = command_nv_write},
    {.name = "RSA-2048 sign", .share = 5, .prepare = create_signing_rsa, .with_number = command_sign_rsa},
    {.name = "P-256 sign", .share = 3, .prepare = create_signing_ecc, .with_number = command_sign_ecc},
    {.name = "RSA-2048 CreatePrimary", .kind = PRIMARY, .share = 25, .with_number = command_create_rsa},
    {.name = "P-256 CreatePrimary", .kind = PRIMARY, .share = 10, .with_number = command_create_ecc},
};

static void build(struct command *command, struct err (*plain)(struct writer *w),
                  struct err (*with_number)(struct writer *w, uint32_t number), uint32_t number)
{
    struct writer w = writer_of(command->bytes, sizeof(command->bytes));
    struct err failed = plain ? plain(&w) : with_number(&w, number);
    if (failed.code) die("a command does not fit into its buffer");
    command->size = w.size;
}

static void expect_success(struct target *target, const struct command *command, const char *what)
{
    uint32_t status = target_exchange(target, command->bytes, command->size);
    if (status) die("%s: %s: response code 0x%03x", target->name, what, status);
}

static uint32_t handle_of(const struct target *target)
{
    uint32_t handle = 0;
    for (size_t i = 0; i < sizeof(handle); i++)
        handle = handle << 8 | target->response[HANDLE_OFFSET + i];
    return handle;
}

static void flush(struct target *target, uint32_t handle)
{
    struct command command;
    build(&command, NULL, command_flush, handle);
    expect_success(target, &command, "FlushContext");
}

/* Returns the handle of the key that the operation uses, or 0. */
static uint32_t prepare(struct target *target, const struct operation *operation)
{
    if (!operation->prepare) return 0;
    struct command command;
    build(&command, operation->prepare, NULL, 0);
    expect_success(target, &command, operation->name);
    uint32_t key = operation->finish ? 0 : handle_of(target);
    if (operation->fill) {
        build(&command, operation->fill, NULL, 0);
        expect_success(target, &command, operation->name);
    }
    return key;
}

static void finish(struct target *target, const struct operation *operation, uint32_t key)
{
    if (key) flush(target, key);
    if (!operation->finish) return;
    struct command command;
    build(&command, operation->finish, NULL, 0);
    expect_success(target, &command, operation->name);
}

/* Takes count samples, beginning with the given number of them. */
static void sample(struct target *target, const struct operation *operation, uint32_t key, uint32_t first, size_t count,
                   double *out_us)
{
    struct command command;
    for (size_t i = 0; i < count; i++) {
        build(&command, operation->plain, operation->with_number, operation->kind == PLAIN ? key : first + (uint32_t)i);
        double start = now_us();
        uint32_t status = target_exchange(target, command.bytes, command.size);
        out_us[i] = now_us() - start;
        if (status) die("%s: %s: response code 0x%03x", target->name, operation->name, status);
        if (operation->kind == PRIMARY) flush(target, handle_of(target));
    }
}

static double percentile(double *samples, size_t count, double part)
{
    qsort(samples, count, sizeof(*samples), sample_compare);
    return samples[(size_t)((double)(count - 1) * part)];
}

static void measure(struct target *targets, const struct operation *operation, size_t samples, const char *label)
{
    size_t each_round = samples / operation->share / ROUNDS + 1;
    size_t count = each_round * ROUNDS;
    double *us[TARGETS];
    uint32_t keys[TARGETS];
    double warm_up[WARM_UP];
    for (size_t t = 0; t < TARGETS; t++) {
        us[t] = calloc(count, sizeof(double));
        if (!us[t]) die("out of memory");
        keys[t] = prepare(&targets[t], operation);
        sample(&targets[t], operation, keys[t], UINT32_MAX - WARM_UP, operation->kind == PRIMARY ? 1 : WARM_UP,
               warm_up);
    }
    for (size_t round = 0; round < ROUNDS; round++)
        for (size_t t = 0; t < TARGETS; t++)
            sample(&targets[t], operation, keys[t], (uint32_t)(1 + round * each_round), each_round,
                   us[t] + round * each_round);
    static const struct {
        const char *name;
        double part;
    } shown[] = {{"p50", 0.5}, {"p99", 0.99}};
    for (size_t i = 0; i < (*label ? 1 : sizeof(shown) / sizeof(*shown)); i++)
        printf("%s%s %s\tus\t%.1f\t%.1f\t%.1f\n", operation->name, label, shown[i].name,
               percentile(us[0], count, shown[i].part), percentile(us[1], count, shown[i].part),
               percentile(us[2], count, shown[i].part));
    fflush(stdout);
    for (size_t t = 0; t < TARGETS; t++) {
        finish(&targets[t], operation, keys[t]);
        free(us[t]);
    }
}

/*
 * What one durable write of size bytes costs here without any TPM: over a file that has its blocks, or into one that
 * was cut to nothing and gets them anew.
 */
static void measure_disk(const char *directory, size_t size, size_t samples, bool in_place)
{
    char path[4096];
    if ((size_t)snprintf(path, sizeof(path), "%s/bench-write", directory) >= sizeof(path)) die("the path is too long");
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    double *us = calloc(samples, sizeof(*us));
    uint8_t *data = calloc(1, size);
    if (fd < 0 || !us || !data) die("%s: %s", path, strerror(errno));
    if (in_place && (pwrite(fd, data, size, 0) != (ssize_t)size || fsync(fd) != 0))
        die("%s: %s", path, strerror(errno));
    for (size_t i = 0; i < samples; i++) {
        memset(data, (int)i, size);
        double start = now_us();
        if (!in_place && ftruncate(fd, 0) != 0) die("%s: %s", path, strerror(errno));
        if (pwrite(fd, data, size, 0) != (ssize_t)size || fdatasync(fd) != 0) die("%s: %s", path, strerror(errno));
        us[i] = now_us() - start;
    }
    const char *how = in_place ? "in place" : "truncated file";
    printf("write + fdatasync, %s p50\tus\t-\t-\t%.1f\n", how, percentile(us, samples, 0.5));
    printf("write + fdatasync, %s p99\tus\t-\t-\t%.1f\n", how, percentile(us, samples, 0.99));
    close(fd);
    unlink(path);
    free(us);
    free(data);
}

static void start_up(struct target *target)
{
    struct command command;
    build(&command, command_startup, NULL, 0);
    uint32_t status = target_exchange(target, command.bytes, command.size);
    if (status && status != TPM_RC_INIT) die("%s: TPM2_Startup: response code 0x%03x", target->name, status);
}

static int use_once(char **paths)
{
    static struct target target;
    struct command command;
    build(&command, command_get_random, NULL, 0);
    for (; *paths; paths++) {
        target_connect(&target, *paths, *paths);
        start_up(&target);
        expect_success(&target, &command, "GetRandom");
        target_close(&target);
    }
    return 0;
}

static void measure_all(const char *ours, const char *swtpm, size_t samples, const char *label)
{
    static struct target targets[TARGETS];
    if (samples == 0) die("SAMPLES is a positive number");
    target_connect(&targets[0], "ours", ours);
    target_connect(&targets[1], "swtpm", swtpm);
    target_open_libtpms(&targets[2], "libtpms");
    for (size_t t = 0; t < TARGETS; t++)
        start_up(&targets[t]);
    for (size_t i = 0; i < sizeof(operations) / sizeof(*operations); i++)
        if (!*label || operations[i].share == 1) measure(targets, &operations[i], samples, label);
    for (size_t t = 0; t < TARGETS; t++)
        target_close(&targets[t]);
}

int main(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[1], "--once") == 0) return use_once(argv + 2);
    if (argc == 6 && strcmp(argv[1], "--fast") == 0) {
        measure_all(argv[3], argv[4], strtoul(argv[5], NULL, 10), argv[2]);
        return 0;
    }
    if (argc != 6) die("usage: latency OURS_SOCKET SWTPM_SOCKET SAMPLES DISK_DIRECTORY DISK_SIZE");
    size_t samples = strtoul(argv[3], NULL, 10);
    size_t disk_size = strtoul(argv[5], NULL, 10);
    if (disk_size == 0) die("DISK_SIZE is a positive number");
    measure_all(argv[1], argv[2], samples, "");
    measure_disk(argv[4], disk_size, samples / 3 + 1, true);
    measure_disk(argv[4], disk_size, samples / 3 + 1, false);
    return 0;
}
