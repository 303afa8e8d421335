#include "tests/unit/daemon/host.h"

#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fakes/assertions.h"
#include "tests/fakes/program.h"
#include "tests/fakes/runtime.h"
#include "trusted/manager/image.h"
#include "untrusted/host/clock.h"
#include "untrusted/wire/pass.h"

#define TURN_USEC 20000u
#define TURNS_MAX 500u

/* --- the manager --------------------------------------------------------------------------------------------------
 */

static struct manager_image image = {.security_version = 1};

const struct manager_image *manager_image(void)
{
    return &image;
}

static bool move(int fd, void *data, size_t size, bool out)
{
    uint8_t *next = data;
    for (size_t left = size; left > 0;) {
        ssize_t got = out ? send(fd, next, left, MSG_NOSIGNAL) : read(fd, next, left);
        if (got <= 0) return false;
        next += got;
        left -= (size_t)got;
    }
    return true;
}

static _Noreturn void live(const struct host *host, int fd)
{
    static uint8_t input[CALL_INPUT_MAX + 16];
    static uint8_t output[CALL_OUTPUT_MAX + 8];
    uint32_t size = 0;
    memcpy(fake_processor.MRENCLAVE, host->mrenclave, sizeof host->mrenclave);
    fake_processor.ISVPRODID = PRODID_MANAGER;
    while (move(fd, &size, sizeof size, false) && size <= sizeof input && move(fd, input, size, false)) {
        uint32_t number = 0;
        uint64_t time = 0;
        size_t out = 0;
        memcpy(&number, input, 4);
        memcpy(&time, input + 8, 8);
        uint32_t head[2] = {program_call(number, time, span_of(input + 16, size - 16), output + 8, &out).code, 0};
        head[1] = (uint32_t)out;
        memcpy(output, head, sizeof head);
        size = (uint32_t)(head[0] ? 8 : 8 + out);
        if (!move(fd, &size, sizeof size, true) || !move(fd, output, size, true)) break;
    }
    _exit(0);
}

static struct err call_manager(void *ctx, struct span input, uint8_t *output, size_t capacity, size_t *out_size)
{
    struct host *host = ctx;
    uint32_t size = (uint32_t)input.size;
    bool done = move(host->manager_fd, &size, sizeof size, true) &&
                move(host->manager_fd, (void *)(uintptr_t)input.data, input.size, true) &&
                move(host->manager_fd, &size, sizeof size, false) && size <= capacity &&
                move(host->manager_fd, output, size, false);
    ENSURE(done, ENCLAVE_DEAD);
    *out_size = size;
    return OK;
}

static void boot_manager(struct host *host)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    fflush(NULL);
    host->manager_pid = fork();
    assert_true(host->manager_pid >= 0);
    if (host->manager_pid == 0) {
        close(pair[0]);
        live(host, pair[1]);
    }
    close(pair[1]);
    host->manager_fd = pair[0];
    const struct manager_door door = {host, call_manager};
    const struct manager_listener listener = supervisor_listener(&host->supervisor);
    assert_ok(manager_open(fake_instance_crypto(), &door, host->mrenclave, &listener, &host->supervisor.manager));
}

/* --- vtpmd --------------------------------------------------------------------------------------------------------
 */

static void on_told(void *ctx, const char *line, size_t size)
{
    struct host *host = ctx;
    size_t used = strlen(host->events);
    if (used + size < sizeof host->events) memcpy(host->events + used, line, size);
}

static void begin(struct host *host)
{
    struct supervisor *s = &host->supervisor;
    *s = (struct supervisor){.config = &host->config,
                             .instance_uid = geteuid(),
                             .instance_gid = getegid(),
                             .instance_mrenclave = host->admitted,
                             .crypto = fake_instance_crypto(),
                             .listen_fd = -1};
    assert_true(sd_event_new(&s->event) >= 0);
    assert_ok(events_open(host, on_told, &s->events));
    assert_ok(store_open(host->directory, &host->store));
    s->store = host->store;
    assert_ok(anchor_host_open(ANCHOR_FILE, host->anchor_path, &host->anchor));
    s->anchor = host->anchor;
    boot_manager(host);
}

static void serve(struct host *host)
{
    struct supervisor *s = &host->supervisor;
    assert_ok(supervisor_load(s));
    assert_ok(committer_open(s->event, host->store, host->anchor, &s->committer));
    assert_ok(supervisor_serve(s));
}

static void end(struct host *host)
{
    supervisor_end(&host->supervisor);
    events_close(&host->supervisor.events);
    sd_event_unref(host->supervisor.event);
    anchor_host_close(&host->anchor);
    store_close(&host->store);
    close(host->manager_fd);
    kill(host->manager_pid, SIGKILL);
    assert_int_equal(waitpid(host->manager_pid, NULL, 0), host->manager_pid);
}

static int listen_for_keepers(const struct host *host)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s/keeper.sock", host->directory);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 8), 0);
    return fd;
}

void host_open(struct host *host)
{
    char path[128];
    *host = (struct host){.directory = "/tmp/vtpm-host-XXXXXX"};
    assert_non_null(mkdtemp(host->directory));
    (void)snprintf(path, sizeof path, "%s/instances", host->directory);
    assert_int_equal(mkdir(path, 0700), 0);
    static char program[] = FAKE_KEEPER;
    static char nothing[] = "/nowhere";
    static char user[] = "root";
    host->config = (struct config){.state_dir = host->directory,
                                   .run_dir = host->directory,
                                   .cpu = nothing,
                                   .instance_image = nothing,
                                   .instance_program = program,
                                   .user = user,
                                   .commit_timeout = 20,
                                   .anchor = ANCHOR_FILE,
                                   .anchor_file = host->anchor_path,
                                   .rebuild = true};
    memcpy(host->mrenclave, "the manager", 11);
    memcpy(host->admitted, "the instance", 12);
    memcpy(image.instance, host->admitted, sizeof image.instance);
    memcpy(fake_processor.MRENCLAVE, host->admitted, sizeof host->admitted);
    fake_processor.ISVPRODID = PRODID_INSTANCE;
    host->keeper_fd = listen_for_keepers(host);
    assert_ok(store_init(host->directory));
    (void)snprintf(host->anchor_path, sizeof host->anchor_path, "%s/anchor", host->directory);
    assert_ok(anchor_file_make(host->anchor_path));
    begin(host);
    assert_ok(
        manager_start_new(host->supervisor.manager, &(struct manager_anchor){.kind = ANCHOR_FILE}, NULL, NULL, NULL));
    serve(host);
}

static struct err add_row(void *ctx, const struct store_row *row)
{
    return manager_add_row(ctx, row->blob);
}

void host_restart(struct host *host, void (*between)(struct host *host))
{
    uint8_t *master = NULL, *head = NULL;
    size_t master_size = 0, head_size = 0;
    end(host);
    if (between) between(host);
    begin(host);
    struct manager *manager = host->supervisor.manager;
    assert_ok(store_read_master(host->store, &master, &master_size));
    assert_ok(store_read_head(host->store, &head, &head_size));
    assert_ok(manager_start_open(manager, span_of(master, master_size), span_of(head, head_size)));
    assert_ok(store_each_row(host->store, manager, add_row));
    assert_ok(manager_loaded(manager));
    free(master);
    free(head);
    serve(host);
    if (host->supervisor.roster.count) host->instance = host->supervisor.roster.list[0];
}

void host_close(struct host *host)
{
    char command[128];
    end(host);
    close(host->keeper_fd);
    (void)snprintf(command, sizeof command, "rm -r %s", host->directory);
    assert_int_equal(system(command), 0);
}

void host_run(struct host *host, uint64_t usec)
{
    for (uint64_t end_at = clock_now_usec() + usec; clock_now_usec() < end_at;)
        assert_true(sd_event_run(host->supervisor.event, TURN_USEC) >= 0);
}

void host_until(struct host *host, bool (*done)(void *ctx), void *ctx)
{
    for (unsigned i = 0; i < TURNS_MAX && !done(ctx); i++)
        assert_true(sd_event_run(host->supervisor.event, TURN_USEC) >= 0);
    assert_true(done(ctx));
}

unsigned host_count_descriptors(void)
{
    unsigned count = 0;
    DIR *list = opendir("/proc/self/fd");
    assert_non_null(list);
    while (readdir(list))
        count++;
    closedir(list);
    return count;
}

bool host_told(const struct host *host, const char *event)
{
    char text[64];
    (void)snprintf(text, sizeof text, "\"event\":\"%s\"", event);
    return strstr(host->events, text) != NULL;
}

struct admin *host_open_admin(struct host *host)
{
    struct admin *admin = NULL;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s/admin.sock", host->directory);
    const struct admin_options options = {
        .supervisor = &host->supervisor,
        .listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0),
        .device = {.name = "software", .limits = "", .memory = "secret"},
    };
    assert_int_equal(bind(options.listen_fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(options.listen_fd, 128), 0);
    assert_ok(admin_open(&options, &admin));
    return admin;
}

int host_connect_admin(const struct host *host)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s/admin.sock", host->directory);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* --- acts ---------------------------------------------------------------------------------------------------------
 */

void host_done(void *ctx, struct err result, const char *reason, struct instance *instance)
{
    struct host *host = ctx;
    assert_false(host->answered);
    host->answered = true;
    host->result = result;
    (void)snprintf(host->reason, sizeof host->reason, "%s", reason ? reason : "");
    if (instance) host->instance = instance;
}

static bool is_answered(void *ctx)
{
    return ((struct host *)ctx)->answered;
}

void host_await_answer(struct host *host)
{
    host_until(host, is_answered, host);
}

void host_start(struct host *host, bool declare_dead)
{
    host->answered = false;
    act_start(host->instance, declare_dead, true, host_done, host);
}

void host_stop(struct host *host)
{
    host->answered = false;
    act_stop(host->instance, host_done, host);
}

void host_create(struct host *host, const char *label, json_t *listen)
{
    struct create create = {.listen = listen, .start = true, .lockout_heals = PEER_LOCKOUT_TIME};
    memcpy(create.label, label, strlen(label));
    memcpy(create.owner, host->owner, sizeof create.owner);
    host->answered = false;
    act_create(&host->supervisor, &create, host_done, host);
}

struct asked {
    bool answered;
    uint8_t *nonce;
    struct manager_status *status;
};

static void on_reply(void *ctx, struct err result, struct reader *results)
{
    struct asked *asked = ctx;
    assert_ok(result);
    if (asked->nonce) assert_ok(read_bytes(results, asked->nonce, SHA256_SIZE));
    if (asked->status) assert_ok(effects_read_status(results, asked->status));
    asked->answered = true;
}

static bool has_reply(void *ctx)
{
    return ((struct asked *)ctx)->answered;
}

static void ask(struct host *host, enum manager_verb verb, struct span arguments, struct asked *asked)
{
    assert_ok(manager_ask(host->supervisor.manager, verb, arguments, on_reply, asked));
    host_until(host, has_reply, asked);
}

void host_challenge(struct host *host, uint8_t out_nonce[SHA256_SIZE])
{
    struct asked asked = {.nonce = out_nonce};
    ask(host, MANAGER_CHALLENGE, span_of(host->instance->row.id.bytes, INSTANCE_ID_SIZE), &asked);
}

void host_status(struct host *host, struct manager_status *out_status)
{
    struct asked asked = {.status = out_status};
    ask(host, MANAGER_STATUS, span_empty(), &asked);
}

/* --- instances ----------------------------------------------------------------------------------------------------
 */

static bool has_input(int fd)
{
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    return poll(&wait, 1, 0) > 0;
}

static bool is_readable(void *ctx)
{
    return has_input(*(int *)ctx);
}

bool guest_comes(struct host *host, uint64_t usec)
{
    host_run(host, usec);
    return has_input(host->keeper_fd);
}

static void take_connection(struct guest *guest)
{
    uint8_t what = 0;
    host_until(guest->host, is_readable, &guest->line);
    assert_ok(pass_receive(guest->line, &what, &guest->fd));
    guest->rebuilt = what == 'r';
    assert_ok(wire_stream_open(guest->fd, WIRE_BODY_MAX, &guest->stream));
}

static void hang_up(struct guest *guest)
{
    if (!guest->stream) return;
    wire_stream_close(&guest->stream);
    close(guest->fd);
}

void guest_accept(struct host *host, struct guest *out)
{
    *out = (struct guest){.host = host};
    host_until(host, is_readable, &host->keeper_fd);
    out->line = accept(host->keeper_fd, NULL, NULL);
    assert_true(out->line >= 0);
    take_connection(out);
}

static bool exists(void *ctx)
{
    struct host *host = ctx;
    if (host->supervisor.roster.count) host->instance = host->supervisor.roster.list[0];
    return host->supervisor.roster.count > 0;
}

void guest_make(struct host *host, struct guest *out)
{
    host_create(host, "one", NULL);
    host_until(host, exists, host);
    guest_accept(host, out);
    guest_hello(out, false);
    guest_serve(out);
    host_await_answer(host);
    assert_ok(host->result);
}

void guest_reconnect(struct guest *guest)
{
    hang_up(guest);
    assert_int_equal(send(guest->line, "c", 1, MSG_NOSIGNAL), 1);
    take_connection(guest);
}

void guest_hello(struct guest *guest, bool separate)
{
    struct hello_instance hello = {.separate_front = separate, .id = guest->host->instance->row.id};
    if (!separate) memcpy(hello.front_share, "the share of the front-end", 26);
    fake_instance_close(&guest->enclave);
    fake_instance_open(&guest->enclave, &hello.id, 0);
    assert_ok(wire_send_hello_instance(guest->stream, &hello));
}

static struct err receive(struct guest *guest, struct wire_frame *out_frame)
{
    for (unsigned i = 0; i < TURNS_MAX; i++) {
        TRY(wire_receive(guest->stream, out_frame));
        if (out_frame->kind) return OK;
        assert_true(sd_event_run(guest->host->supervisor.event, TURN_USEC) >= 0);
    }
    fail_msg("vtpmd says nothing");
    return OK;
}

struct span guest_expect(struct guest *guest, enum wire_kind kind)
{
    struct wire_frame frame = {0};
    assert_ok(receive(guest, &frame));
    assert_int_equal(frame.kind, kind);
    return frame.body;
}

uint16_t guest_expect_closed(struct guest *guest)
{
    struct err why = OK;
    for (;;) {
        struct wire_frame frame = {0};
        struct err result = receive(guest, &frame);
        if (result.code) {
            assert_err(result, PEER_CLOSED);
            return why.code;
        }
        if (frame.kind == WIRE_REFUSED) assert_ok(wire_parse_refused(frame.body, &why));
    }
}

void guest_say(struct guest *guest, struct span message)
{
    assert_ok(wire_send(guest->stream, WIRE_PEER, &message, 1));
}

void guest_prove(struct guest *guest)
{
    guest_say(guest, fake_instance_prove(&guest->enclave, guest_expect(guest, WIRE_PEER)));
}

void guest_serve(struct guest *guest)
{
    uint8_t admission[PEER_MESSAGE_MAX];
    guest_prove(guest);
    struct span message = guest_expect(guest, WIRE_PEER);
    memcpy(admission, message.data, message.size);
    size_t size = message.size;
    fake_instance_admit(&guest->enclave, span_of(admission, size), guest_expect(guest, WIRE_PEER));
    guest->version = guest->enclave.provision.version;
    memcpy(guest->digest, guest->enclave.provision.digest, sizeof guest->digest);
    uint64_t version = 0;
    struct span sealed;
    assert_ok(wire_parse_state(guest_expect(guest, WIRE_STATE), &version, &sealed));
    assert_int_equal(version, guest->version);
    assert_true(sealed.size < sizeof guest->state);
    memset(guest->state, 0, sizeof guest->state);
    if (sealed.size) memcpy(guest->state, sealed.data, sealed.size);
    guest_say(guest, fake_instance_ready(&guest->enclave));
    (void)guest_expect(guest, WIRE_LINK);
}

void guest_send_commit(struct guest *guest)
{
    const char *text = guest->sealed ? guest->sealed : "sealed";
    const struct span sealed = span_of(text, strlen(text));
    assert_ok(hash_sha256(fake_instance_crypto(), &sealed, 1, guest->digest));
    struct span message = fake_instance_commit(&guest->enclave, ++guest->version, guest->digest);
    assert_ok(wire_send_commit(guest->stream, guest->version, sealed, message));
}

void guest_expect_anchored(struct guest *guest)
{
    (void)fake_instance_hear(&guest->enclave, guest_expect(guest, WIRE_PEER), PEER_ANCHORED);
}

void guest_receipt(struct guest *guest)
{
    uint8_t receipt[PEER_RECEIPT_SIZE];
    fake_instance_receipt(&guest->enclave, guest->version, guest->digest, receipt);
    const struct span part = span_of(receipt, sizeof receipt);
    assert_ok(wire_send(guest->stream, WIRE_RECEIPT, &part, 1));
}

void guest_redeem(struct guest *guest, uint64_t start, uint64_t version)
{
    uint8_t fields[PEER_REDEEM_SIZE];
    struct writer w = writer_of(fields, sizeof fields);
    assert_ok(write_u64(&w, 0));
    assert_ok(write_u64(&w, start));
    assert_ok(write_u64(&w, version));
    guest_say(guest, fake_instance_say(&guest->enclave, PEER_REDEEM, writer_span(&w)));
}

void guest_end(struct guest *guest)
{
    hang_up(guest);
    fake_instance_close(&guest->enclave);
    if (guest->line > 0) {
        (void)send(guest->line, "x", 1, MSG_NOSIGNAL); /* the manager's process may have this line, too */
        close(guest->line);
    }
    guest->line = -1;
}
