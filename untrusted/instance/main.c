/*
 * vtpm-instance: serves one TPM 2.0 that lives in an SGX enclave of its own.
 *
 * What has to be opened with the privileges it was started with is opened here; then they are given up, and the keeper
 * makes the process that loads the enclave.
 */
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "untrusted/front/confine.h"
#include "untrusted/host/hygiene.h"
#include "untrusted/host/log.h"
#include "untrusted/instance/keeper.h"
#include "untrusted/sgx/choice.h"
#include "untrusted/sgx/kernel.h"

static struct err complain(const char *what, const char *which, struct err result)
{
    if (result.code)
        log_line(LOG_LEVEL_ERROR, "%s %s: %s%s%s", what, which, err_sentence(result),
                 result.code == ERR_SYSTEM ? ": " : "", result.code == ERR_SYSTEM ? strerror(errno) : "");
    return result;
}

/* Only what the processor puts on the stack of a fault may interrupt: the rest comes when it is asked for. */
static void block_signals(void)
{
    static const int synchronous[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGABRT};
    sigset_t mask;
    sigfillset(&mask);
    for (size_t i = 0; i < sizeof synchronous / sizeof synchronous[0]; i++)
        sigdelset(&mask, synchronous[i]);
    sigprocmask(SIG_SETMASK, &mask, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* Root becomes the named user; anybody else stays who he is. */
static struct err choose_user(const struct options *options, struct identity *out_identity)
{
    *out_identity = (struct identity){.uid = geteuid(), .gid = getegid()};
    if (geteuid() != 0) return OK;
    const struct passwd *entry = options->user ? getpwnam(options->user) : NULL;
    if (options->user && !entry) {
        log_line(LOG_LEVEL_ERROR, "--user %s: there is no such user", options->user);
        return FAIL(USAGE);
    }
    if (!entry || entry->pw_uid == 0) {
        log_line(LOG_LEVEL_ERROR, "this would run as root: name a user of its own with --user");
        return FAIL(USAGE);
    }
    *out_identity = (struct identity){.uid = entry->pw_uid, .gid = entry->pw_gid};
    return OK;
}

/* What this process maps, and what is measured. */
static struct err open_image(const struct options *options, struct worker_resources *resources)
{
    int file_fd = open(options->image, O_RDONLY | O_CLOEXEC);
    ENSURE(file_fd >= 0, SYSTEM);
    struct err result = device_seal(resources->device, resources->device_fds[0], file_fd, &resources->image_fd);
    close(file_fd);
    return result;
}

static struct err open_device(const struct options *options, struct worker_resources *resources)
{
    resources->device = device_choose(options->device);
    while (resources->device_fd_count < WORKER_DEVICE_STOCK) {
        int *fd = &resources->device_fds[resources->device_fd_count];
        TRY(device_connect(resources->device, options->cpu, fd));
        resources->device_fd_count++;
    }
    return OK;
}

/* Whoever may connect as the user that it has become keeps no place of vtpm-cpu's occupied. */
static void thin_out_device(const struct options *options, struct worker_resources *resources)
{
    int fd = -1;
    if (device_connect(resources->device, options->cpu, &fd).code) return;
    close(fd);
    while (resources->device_fd_count > 0)
        close(resources->device_fds[--resources->device_fd_count]);
}

static struct err parse_image(int fd, struct image *out_image)
{
    struct stat status;
    ENSURE(fstat(fd, &status) == 0, SYSTEM);
    ENSURE(status.st_size > 0 && status.st_size <= (off_t)IMAGE_SIZE_MAX, TOO_LARGE);
    void *file = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, fd, 0);
    ENSURE(file != MAP_FAILED, SYSTEM);
    return image_parse(span_of(file, (size_t)status.st_size), out_image);
}

static struct err listen_everywhere(const struct options *options, const struct identity *identity,
                                    struct worker_resources *resources)
{
    TRY(endpoints_listen(&options->endpoints, identity->uid, identity->gid, resources->listen_fds));
    if (!options->separate_front) return OK;
    return complain("listening for", "vtpm-front",
                    address_listen(&options->front, identity->uid, identity->gid, &resources->front_fd));
}

static struct err open_resources(const struct options *options, struct image *image, struct worker_resources *resources)
{
    struct identity identity;
    TRY(choose_user(options, &identity));
    struct err opened = open_device(options, resources);
    const bool sgx = resources->device == DEVICE_SGX;
    TRY(complain(sgx ? "the SGX device" : "vtpm-cpu at", sgx ? KERNEL_DEVICE_PATH : options->cpu, opened));
    TRY(complain("the enclave image", options->image, open_image(options, resources)));
    TRY(complain("the enclave image", options->image, parse_image(resources->image_fd, image)));
    TRY(listen_everywhere(options, &identity, resources));
    TRY(complain("becoming the user", options->user ? options->user : "of now", confine_user(&identity)));
    thin_out_device(options, resources);
    TRY(complain("limits of", "the process", confine_limits()));
    return complain("hygiene of", "the process", hygiene_apply());
}

static int run(const struct options *options)
{
    static struct image image;
    static char id[ID_TEXT_SIZE];
    struct worker_resources resources = {.options = options, .image = &image};
    id_format(&options->id, id);
    log_about(id);
    block_signals();
    if (open_resources(options, &image, &resources).code) return EXIT_FAILURE;
    int code = keeper_run(&resources);
    endpoints_remove(&options->endpoints);
    if (options->separate_front) address_remove(&options->front);
    return code;
}

int main(int argc, char **argv)
{
    static struct options options;
    enum command_action action = COMMAND_RUN;
    log_open("vtpm-instance");
    if (hygiene_clean_environment(argv).code) return EXIT_FAILURE;
    if (options_parse(argc, argv, &action, &options).code) return EXIT_FAILURE;
    switch (action) {
    case COMMAND_HELP:
        fputs(options_help, stdout);
        return EXIT_SUCCESS;
    case COMMAND_VERSION:
        puts("vtpm-instance " VTPM_VERSION);
        return EXIT_SUCCESS;
    case COMMAND_RUN:
        return run(&options);
    }
    return EXIT_FAILURE;
}
