/*
 * vtpmd: the host's end of the method. What it is and how it is started: docs/man/vtpmd.8.
 *
 * It makes the manager enclave, opens K1 to it, gives it the ledger from the store, and serves until SIGTERM. Instances
 * go on without it.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include "abi/blob.h"
#include "crypto/crypto.h"
#include "untrusted/daemon/admin.h"
#include "untrusted/daemon/recovery.h"
#include "untrusted/daemon/upgrade.h"
#include "untrusted/front/address.h"
#include "untrusted/host/hygiene.h"
#include "untrusted/host/log.h"

#define PATH_SIZE 4096u

struct daemon {
    struct config config;
    struct crypto crypto;
    struct program *manager_program;
    struct program *instance_program;
    struct enclave *enclave;
    struct program_device device;
    struct supervisor supervisor;
    struct store *store;
    struct anchor_host *anchor;
    struct admin *admin;
    uint64_t look_usec; /* from one look at the enclave to the next */
};

static struct err complain(const char *what, const char *which, struct err result)
{
    bool system = result.code == ERR_SYSTEM || result.code == ERR_STORE_IO;
    if (result.code)
        log_line(LOG_LEVEL_ERROR, "%s %s: %s%s%s", what, which, err_sentence(result), system ? ": " : "",
                 system ? strerror(errno) : "");
    return result;
}

static void hex(const uint8_t *bytes, size_t size, char *out_text)
{
    for (size_t i = 0; i < size; i++)
        (void)snprintf(out_text + 2 * i, 3, "%02x", bytes[i]);
}

/* --- the process ---------------------------------------------------------------------------------------------------
 */

/* Only what the processor puts on the stack of a fault may interrupt: the rest comes when it is asked for. */
static void block_signals(void)
{
    static const int synchronous[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGABRT};
    sigset_t mask;
    sigfillset(&mask);
    for (size_t i = 0; i < sizeof synchronous / sizeof synchronous[0]; i++)
        sigdelset(&mask, synchronous[i]);
    sigprocmask(SIG_SETMASK, &mask, NULL);
}

static struct err raise_descriptor_limit(void)
{
    struct rlimit limit;
    ENSURE(getrlimit(RLIMIT_NOFILE, &limit) == 0, SYSTEM);
    limit.rlim_cur = limit.rlim_max;
    ENSURE(setrlimit(RLIMIT_NOFILE, &limit) == 0, SYSTEM);
    return OK;
}

static struct err find_user(struct daemon *d)
{
    struct supervisor *s = &d->supervisor;
    s->instance_uid = geteuid();
    s->instance_gid = getegid();
    if (geteuid() != 0) return OK;
    const struct passwd *entry = d->config.user ? getpwnam(d->config.user) : NULL;
    if (!d->config.user)
        log_line(LOG_LEVEL_ERROR, "started by root, vtpmd wants the user that instances become: --user, or user in the "
                                  "configuration file");
    ENSURE(entry, USAGE);
    s->instance_uid = entry->pw_uid;
    s->instance_gid = entry->pw_gid;
    return OK;
}

static struct err make_directory(const char *path, mode_t mode)
{
    ENSURE(mkdir(path, mode) == 0 || errno == EEXIST, SYSTEM);
    return OK;
}

static struct err make_directories(const struct config *config)
{
    char path[PATH_SIZE];
    TRY(complain("the state directory", config->state_dir, make_directory(config->state_dir, 0700)));
    (void)snprintf(path, sizeof path, "%s/images", config->state_dir);
    TRY(complain("the directory", path, make_directory(path, 0700)));
    TRY(complain("the runtime directory", config->run_dir, make_directory(config->run_dir, 0755)));
    (void)snprintf(path, sizeof path, "%s/instances", config->run_dir);
    return complain("the directory", path, make_directory(path, 0755));
}

/* --- the manager ---------------------------------------------------------------------------------------------------
 */

static struct err call_enclave(void *ctx, struct span input, uint8_t *output, size_t capacity, size_t *out_size)
{
    struct daemon *d = ctx;
    struct err result = enclave_call(d->enclave, input, output, capacity, out_size);
    if (result.code == ERR_SGX_FAULT) {
        uint16_t vector = 0;
        uint64_t address = 0;
        enclave_fault(d->enclave, &vector, &address);
        log_line(LOG_LEVEL_ERROR, "the manager enclave faulted: vector %u, address %#llx", (unsigned)vector,
                 (unsigned long long)address);
    }
    return result;
}

static struct err make_manager(struct daemon *d)
{
    const struct config *config = &d->config;
    char mrenclave[2 * SGX_HASH_SIZE + 1];
    log_line(LOG_LEVEL_NOTICE, "step 1: first creation request: the manager enclave from %s", config->manager_image);
    TRY(program_open(config->manager_image, config, &d->manager_program));
    TRY(program_open(config->instance_image, config, &d->instance_program));
    TRY(program_load(d->manager_program, config, &d->enclave, &d->device));
    hex(program_mrenclave(d->manager_program), SGX_HASH_SIZE, mrenclave);
    log_line(LOG_LEVEL_NOTICE, "step 2: manager enclave created and measured, MRENCLAVE %s", mrenclave);
    log_line(LOG_LEVEL_NOTICE, "device: %s, memory: %s; it %s", d->device.name, d->device.memory, d->device.limits);
    const struct manager_door door = {.ctx = d, .call = call_enclave};
    const struct manager_listener listener = supervisor_listener(&d->supervisor);
    d->supervisor.instance_mrenclave = program_mrenclave(d->instance_program);
    TRY(crypto_init(&d->crypto));
    d->supervisor.crypto = &d->crypto;
    return manager_open(&d->crypto, &door, program_mrenclave(d->manager_program), &listener, &d->supervisor.manager);
}

static void log_k1(void)
{
    log_line(LOG_LEVEL_NOTICE, "step 3: K1 established with the code inside the enclave; what is forwarded is "
                               "ciphertext from here on");
}

/* The manager is needed again if the image of an upgrade has to take over from it. */
static struct err keep_image(const struct daemon *d)
{
    char mrenclave[2 * SGX_HASH_SIZE + 1];
    char path[PATH_SIZE];
    char new_path[PATH_SIZE];
    hex(program_mrenclave(d->manager_program), SGX_HASH_SIZE, mrenclave);
    (void)snprintf(path, sizeof path, "%s/images/%s.sgx", d->config.state_dir, mrenclave);
    (void)snprintf(new_path, sizeof new_path, "%s/images/new", d->config.state_dir);
    if (access(path, F_OK) == 0) return OK;
    const struct span file = d->manager_program->image.file;
    int fd = open(new_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    ENSURE(fd >= 0, SYSTEM);
    bool written = write(fd, file.data, file.size) == (ssize_t)file.size && fsync(fd) == 0;
    close(fd);
    ENSURE(written && rename(new_path, path) == 0, SYSTEM);
    return OK;
}

/* --- the anchor ----------------------------------------------------------------------------------------------------
 */

static struct err open_anchor(struct daemon *d)
{
    const struct config *config = &d->config;
    const bool is_file = config->anchor == ANCHOR_FILE;
    const char *place = is_file ? config->anchor_file : config->anchor_tpm;
    struct err result = anchor_host_open(config->anchor, place, &d->anchor);
    if (result.code == ERR_STORE_BUSY)
        log_line(LOG_LEVEL_ERROR, "the anchor %s is in use by another process", place);
    else if (result.code == ERR_ANCHOR_IO)
        log_line(
            LOG_LEVEL_ERROR,
            "the anchor %s: %s; the store in %s opens with the anchor that it was made with and no other: put that "
            "back (anchor-file in the configuration names it)",
            place, anchor_host_error(d->anchor), config->state_dir);
    TRY(result);
    if (is_file)
        log_line(LOG_LEVEL_WARNING, "anchor: file, %s: it does not protect against whoever can restore the disk",
                 place);
    else
        log_line(LOG_LEVEL_NOTICE, "anchor: tpm, %s", place);
    d->supervisor.anchor = d->anchor;
    return OK;
}

static struct err make_anchor(struct daemon *d)
{
    const char *path = d->config.anchor_file;
    struct err result = d->config.anchor == ANCHOR_FILE ? anchor_file_make(path) : OK;
    if (result.code == ERR_STORE_EXISTS)
        log_line(LOG_LEVEL_ERROR, "the anchor %s: another trust domain is anchored in it; nothing was changed", path);
    else if (result.code)
        log_line(LOG_LEVEL_ERROR, "the anchor %s: %s: %s", path, err_sentence(result),
                 result.code == ERR_ANCHOR_IO && errno ? strerror(errno) : "it is damaged, or in use");
    TRY(result);
    return open_anchor(d);
}

/* --- vtpmd --init --------------------------------------------------------------------------------------------------
 */

/* A store without a master is left from an --init that was cut off: it holds nothing yet. */
static struct err open_empty_store(struct daemon *d)
{
    uint8_t *master = NULL;
    size_t size = 0;
    struct err result = store_init(d->config.state_dir);
    if (result.code && result.code != ERR_STORE_EXISTS) return result;
    TRY(store_open(d->config.state_dir, &d->store));
    result = store_read_master(d->store, &master, &size);
    free(master);
    ENSURE(result.code, STORE_EXISTS);
    return result.code == ERR_STATE_MISSING ? OK : result;
}

static struct err keep_record(void *ctx, struct span record)
{
    const struct daemon *d = ctx;
    return recovery_keep_record(&d->config, d->store, record);
}

static struct manager_anchor chosen_anchor(const struct config *config)
{
    return (struct manager_anchor){.kind = config->anchor,
                                   .nv_index = config->anchor == ANCHOR_TPM ? config->anchor_nv_index : 0};
}

static struct err initialise(struct daemon *d)
{
    struct manager_recovery recovery;
    uint8_t *master = NULL;
    size_t size = 0;
    TRY(recovery_read_keys(&d->config, &recovery));
    TRY(make_manager(d));
    TRY(complain("the store in", d->config.state_dir, open_empty_store(d)));
    d->supervisor.store = d->store;
    TRY(make_anchor(d));
    const struct manager_anchor anchor = chosen_anchor(&d->config);
    TRY(complain(
        "the manager enclave", "at its first start",
        manager_start_new(d->supervisor.manager, &anchor, recovery.rule.count ? &recovery : NULL, d, keep_record)));
    log_k1();
    TRY(complain("the store in", d->config.state_dir, store_read_master(d->store, &master, &size)));
    free(master);
    log_line(LOG_LEVEL_NOTICE, "a new trust domain was made in %s; recovery: %s", d->config.state_dir,
             recovery.rule.count ? "see that its record, recovery-record, and backups of the store are kept elsewhere"
                                 : "none, so all its TPMs end with this processor or this anchor");
    return complain("keeping the manager image in", d->config.state_dir, keep_image(d));
}

/* --- vtpmd --recover -----------------------------------------------------------------------------------------------
 */

static struct err add_row(void *ctx, const struct store_row *row)
{
    return manager_add_row(ctx, row->blob);
}

static struct err recover(struct daemon *d)
{
    struct manager *manager = NULL;
    const struct manager_anchor anchor = chosen_anchor(&d->config);
    TRY(complain("the store in", d->config.state_dir, store_open(d->config.state_dir, &d->store)));
    d->supervisor.store = d->store;
    TRY(make_manager(d));
    manager = d->supervisor.manager;
    TRY(complain("recovering", d->config.state_dir, recovery_ask_holders(&d->config, d->store, manager, &anchor)));
    TRY(make_anchor(d));
    TRY(complain("the manager enclave", "loading the ledger", store_each_row(d->store, manager, add_row)));
    TRY(complain("the manager enclave", "loading the ledger", manager_loaded(manager)));
    log_k1();
    log_line(LOG_LEVEL_WARNING,
             "the trust domain in %s was recovered: every instance is in a new epoch, and what was "
             "stored since this copy of the store was made is gone",
             d->config.state_dir);
    return complain("keeping the manager image in", d->config.state_dir, keep_image(d));
}

/* --- serving -------------------------------------------------------------------------------------------------------
 */

static struct err open_ledger(struct daemon *d, struct span master, struct span head)
{
    struct manager *manager = d->supervisor.manager;
    const struct upgrade upgrade = {&d->config, &d->crypto, d->store, d->anchor, master, head};
    if (upgrade_is_needed(head, program_mrenclave(d->manager_program)))
        TRY(upgrade_run(&upgrade, manager));
    else
        TRY(manager_start_open(manager, master, head));
    TRY(store_each_row(d->store, manager, add_row));
    return manager_loaded(manager);
}

/*
 * No key of one device opens what was sealed on another, so this is the enclave's to refuse. But its refusal would read
 * like damage, and comes after the anchor was asked: the KEYREQUEST, which the seal authenticates, names the processor.
 */
static struct err check_device(const struct daemon *d)
{
    uint8_t *master = NULL;
    size_t size = 0;
    enum device_kind made_on = d->config.device;
    struct err found = store_read_master(d->store, &master, &size); /* what is wrong with it is told later */
    if (!found.code && size >= BLOB_HEADER_SIZE + BLOB_KEYREQUEST_SIZE)
        made_on = device_kind_of(master + BLOB_HEADER_SIZE + offsetof(struct sgx_keyrequest, CPUSVN));
    free(master);
    if (made_on == d->config.device) return OK;
    log_line(LOG_LEVEL_ERROR,
             "the store in %s was made on the device \"%s\", and vtpmd runs on \"%s\": set device = %s, or bring the "
             "trust domain over with its recovery keys (vtpmd --recover)",
             d->config.state_dir, device_kind_name(made_on), device_kind_name(d->config.device),
             device_kind_name(made_on));
    return FAIL(OTHER_DEVICE);
}

static struct err start_manager(struct daemon *d)
{
    uint8_t *master = NULL;
    uint8_t *head = NULL;
    size_t master_size = 0;
    size_t head_size = 0;
    struct err result = store_read_master(d->store, &master, &master_size);
    if (!result.code) result = store_read_head(d->store, &head, &head_size);
    if (result.code == ERR_STATE_MISSING) result = FAIL(STORE_MISSING);
    if (!result.code) result = open_ledger(d, span_of(master, master_size), span_of(head, head_size));
    free(master);
    free(head);
    return result;
}

static struct err listen_admin(const struct config *config, int *out_fd)
{
    char text[PATH_SIZE];
    struct address address;
    if (sd_listen_fds(0) > 0) {
        ENSURE(sd_is_socket_unix(SD_LISTEN_FDS_START, SOCK_STREAM, 1, NULL, 0) > 0, USAGE);
        int flags = fcntl(SD_LISTEN_FDS_START, F_GETFL);
        ENSURE(flags >= 0 && fcntl(SD_LISTEN_FDS_START, F_SETFL, flags | O_NONBLOCK) == 0, SYSTEM);
        *out_fd = SD_LISTEN_FDS_START;
        return OK;
    }
    const struct group *group = config->admin_group ? getgrnam(config->admin_group) : NULL;
    ENSURE(group || !config->admin_group, CONFIG);
    int size = snprintf(text, sizeof text, "unix:%s/admin.sock", config->run_dir);
    ENSURE(size > 0 && (size_t)size < sizeof text, TOO_LARGE);
    TRY(address_parse(text, &address));
    TRY(address_listen(&address, geteuid(), group ? group->gr_gid : getegid(), out_fd));
    ENSURE(chmod(text + 5, 0660) == 0, SYSTEM);
    return OK;
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *ctx)
{
    (void)info, (void)ctx;
    (void)sd_notify(0, "STOPPING=1");
    return sd_event_exit(sd_event_source_get_event(source), EXIT_SUCCESS);
}

static void told(void *ctx, const char *line, size_t size)
{
    struct daemon *d = ctx;
    if (d->admin) admin_tell(d->admin, line, size);
}

static struct err open_sockets(struct daemon *d)
{
    struct admin_options options = {.supervisor = &d->supervisor, .device = d->device};
    sd_event *event = d->supervisor.event;
    TRY(complain("listening in", d->config.run_dir, supervisor_serve(&d->supervisor)));
    TRY(complain("the admin socket in", d->config.run_dir, listen_admin(&d->config, &options.listen_fd)));
    TRY(complain("the admin socket in", d->config.run_dir, admin_open(&options, &d->admin)));
    ENSURE(sd_event_add_signal(event, NULL, SIGTERM, on_signal, NULL) >= 0, SYSTEM);
    ENSURE(sd_event_add_signal(event, NULL, SIGINT, on_signal, NULL) >= 0, SYSTEM);
    return OK;
}

static void on_status(void *ctx, struct err result, struct reader *results)
{
    (void)ctx, (void)result, (void)results;
}

/*
 * That its memory is lost, as when the host was suspended, an enclave shows to whoever enters it: vtpmd does so itself where
 * nobody asks for anything. What it finds is supervisor_give_up's.
 */
static int on_look(sd_event_source *source, uint64_t usec, void *ctx)
{
    (void)usec;
    struct daemon *d = ctx;
    struct err result = manager_ask(d->supervisor.manager, MANAGER_STATUS, span_empty(), on_status, NULL);
    if (!result.code && sd_event_source_set_time_relative(source, d->look_usec) >= 0)
        (void)sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
    return 0;
}

/* As often as the watchdog is told that vtpmd lives, and at once after a sleep that was longer: this clock goes on then. */
static struct err look_after_enclave(struct daemon *d)
{
    if (d->config.device != DEVICE_SGX || sd_watchdog_enabled(0, &d->look_usec) <= 0) return OK;
    d->look_usec /= 2;
    ENSURE(sd_event_add_time_relative(d->supervisor.event, NULL, CLOCK_BOOTTIME, d->look_usec, 0, on_look, d) >= 0,
           SYSTEM);
    return OK;
}

static struct err serve(struct daemon *d)
{
    struct supervisor *s = &d->supervisor;
    TRY(complain("the store in", d->config.state_dir, store_open(d->config.state_dir, &d->store)));
    s->store = d->store;
    TRY(complain("the store in", d->config.state_dir, check_device(d)));
    TRY(open_anchor(d));
    TRY(make_manager(d));
    TRY(complain("the manager enclave", "opening the ledger", start_manager(d)));
    log_k1();
    TRY(complain("keeping the manager image in", d->config.state_dir, keep_image(d)));
    TRY(complain("the manager enclave", "listing the ledger", supervisor_load(s)));
    log_line(LOG_LEVEL_NOTICE, "step 4: the manager answers under K1: %zu instances in the ledger", s->roster.count);
    TRY(committer_open(s->event, d->store, d->anchor, &s->committer));
    TRY(open_sockets(d));
    (void)sd_event_set_watchdog(s->event, true);
    TRY(complain("looking after", "the manager enclave", look_after_enclave(d)));
    puts("ready");
    (void)fflush(stdout);
    (void)sd_notify(0, "READY=1");
    return OK;
}

static void end(struct daemon *d)
{
    supervisor_end(&d->supervisor);
    admin_close(&d->admin);
    events_close(&d->supervisor.events);
    enclave_close(&d->enclave);
    program_close(&d->manager_program);
    program_close(&d->instance_program);
    anchor_host_close(&d->anchor);
    store_close(&d->store);
    sd_event_unref(d->supervisor.event);
    config_free(&d->config);
}

static struct err prepare(struct daemon *d)
{
    d->config.device = device_choose(d->config.device);
    TRY(find_user(d));
    TRY(raise_descriptor_limit());
    TRY(make_directories(&d->config));
    TRY(complain("hygiene of", "the process", hygiene_apply()));
    ENSURE(sd_event_new(&d->supervisor.event) >= 0, SYSTEM);
    return events_open(d, told, &d->supervisor.events);
}

static int run(struct daemon *d)
{
    struct err result = prepare(d);
    int code = EXIT_FAILURE;
    if (!result.code && d->config.init)
        code = initialise(d).code ? EXIT_FAILURE : EXIT_SUCCESS;
    else if (!result.code && d->config.recover)
        code = recover(d).code ? EXIT_FAILURE : EXIT_SUCCESS;
    else if (!result.code && !serve(d).code)
        code = sd_event_loop(d->supervisor.event);
    end(d);
    return code;
}

int main(int argc, char **argv)
{
    static struct daemon d = {.supervisor = {.listen_fd = -1}};
    d.supervisor.config = &d.config;
    enum config_action action = CONFIG_RUN;
    log_open("vtpmd");
    if (hygiene_clean_environment(argv).code) return EXIT_FAILURE;
    struct err result = config_load(argc, argv, &action, &d.config);
    if (result.code) return result.code == ERR_USAGE ? 2 : EXIT_FAILURE;
    if (action == CONFIG_HELP) fputs(config_help, stdout);
    if (action == CONFIG_VERSION) puts("vtpmd " VTPM_VERSION);
    if (action != CONFIG_RUN) return EXIT_SUCCESS;
    block_signals();
    return run(&d);
}
