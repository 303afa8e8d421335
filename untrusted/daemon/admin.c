#include "untrusted/daemon/admin.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "untrusted/daemon/acts.h"
#include "untrusted/daemon/committer.h"
#include "untrusted/daemon/request.h"
#include "untrusted/daemon/store_work.h"
#include "untrusted/daemon/view.h"
#include "untrusted/host/log.h"

#define CLIENTS_MAX         64u
#define OUTPUT_MAX          (16u * 1024u * 1024u) /* bytes that a client may leave unread */
#define OUTPUT_PAUSE        (256u * 1024u)        /* no new request is taken above it */
#define LINES_A_TURN        16u                   /* before the loop sees to its other sources */
#define STALL_SEC           30                    /* a client that took nothing for so long gives way to another */
#define API_VERSION         1
#define STORE_PATIENCE_USEC UINT64_C(1000000) /* a job of the store that runs longer hangs */

struct client {
    struct admin *admin;
    struct client *next;
    int fd; /* -1: gone, and only what it asked for is still under way */
    sd_event_source *source;
    uint32_t events;
    pid_t pid;
    uid_t uid;
    bool under_way; /* a request */
    bool working;   /* lines are being taken */
    bool closing;   /* once everything is written */
    bool more;      /* lines that were read and have to wait their turn */
    time_t took;    /* when it last took something, or had taken everything */
    bool subscribed;
    bool progress;   /* of work on the store: it wants to be told */
    bool deleted;    /* of list: tombstones too */
    json_t *list;    /* the answer to list, as far as it is there */
    json_t *id;      /* of the request */
    int passed;      /* goes with the next byte that is written; -1: nothing */
    uint8_t *output; /* not written yet */
    size_t output_size;
    size_t output_capacity;
    size_t input_size;
    char input[REQUEST_SIZE_MAX];
};

struct admin {
    struct supervisor *supervisor;
    struct program_device device;
    struct manager_status status; /* as of the start: the domain and the identities do not change */
    int listen_fd;
    sd_event_source *source;
    struct client *clients;
    size_t client_count;
    bool store_work; /* under way */
    time_t born;
};

static time_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec;
}

/* --- clients -------------------------------------------------------------------------------------------------------
 */

static void free_client(struct client *c)
{
    struct client **place = &c->admin->clients;
    while (*place != c)
        place = &(*place)->next;
    *place = c->next;
    c->admin->client_count--;
    json_decref(c->id);
    json_decref(c->list);
    if (c->passed >= 0) close(c->passed);
    free(c->output);
    free(c);
}

/* The structure stays until what was asked is answered. */
static void drop(struct client *c)
{
    if (c->fd >= 0) {
        sd_event_source_disable_unref(c->source);
        c->source = NULL;
        close(c->fd);
        c->fd = -1;
    }
    if (!c->under_way && !c->working) free_client(c);
}

static void watch(struct client *c)
{
    uint32_t events = 0;
    if (!c->under_way && !c->closing && c->output_size < OUTPUT_PAUSE) events |= EPOLLIN;
    if (c->output_size || c->more) events |= EPOLLOUT;
    if (events != c->events && sd_event_source_set_io_events(c->source, events) >= 0) c->events = events;
}

/* --- writing -------------------------------------------------------------------------------------------------------
 */

static bool make_room(struct client *c, size_t size)
{
    if (c->output_size + size <= c->output_capacity) return true;
    size_t capacity = c->output_size + size + 4096;
    if (capacity > OUTPUT_MAX) return false;
    uint8_t *output = realloc(c->output, capacity);
    if (!output) return false;
    c->output = output;
    c->output_capacity = capacity;
    return true;
}

static ssize_t send_some(struct client *c, void *bytes, size_t size)
{
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {bytes, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (c->passed >= 0) {
        control.aligned = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.aligned), &c->passed, sizeof c->passed);
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
    }
    ssize_t sent = sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent <= 0 || c->passed < 0) return sent;
    close(c->passed);
    c->passed = -1;
    return sent;
}

static bool flush(struct client *c)
{
    size_t done = 0;
    while (done < c->output_size) {
        ssize_t sent = send_some(c, c->output + done, c->output_size - done);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && errno != EAGAIN) return false;
        if (sent < 0) break;
        done += (size_t)sent;
    }
    if (done || !c->output_size) c->took = now();
    c->output_size -= done;
    memmove(c->output, c->output + done, c->output_size);
    return c->output_size > 0 || !c->closing;
}

/* Never frees the client; whoever calls has to drop it on false. */
static bool put(struct client *c, const char *line, size_t size)
{
    if (c->fd < 0) return true;
    if (!make_room(c, size)) return false;
    memcpy(c->output + c->output_size, line, size);
    c->output_size += size;
    if (!flush(c)) return false;
    watch(c);
    return true;
}

static bool put_json(struct client *c, json_t *message)
{
    char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;
    json_decref(message);
    size_t size = text ? strlen(text) : 0;
    char *line = text ? realloc(text, size + 2) : NULL;
    if (!line) {
        free(text);
        return false;
    }
    memcpy(line + size, "\n", 2);
    bool fine = put(c, line, size + 1);
    free(line);
    return fine;
}

/* --- answering -----------------------------------------------------------------------------------------------------
 */

static void take_lines(struct client *c);

/* The end of a request: name is "return" or "error". */
static void answer(struct client *c, const char *name, json_t *value)
{
    json_t *message = json_pack("{s:o}", name, value);
    if (c->id) (void)json_object_set_new(message, "id", c->id);
    c->id = NULL;
    c->under_way = false;
    if (!put_json(c, message)) {
        drop(c);
        return;
    }
    if (c->fd < 0)
        drop(c);
    else if (!c->working)
        take_lines(c);
}

static void answer_error(struct client *c, struct err error, const char *who, const char *reason)
{
    char desc[REASON_SIZE + MANAGER_LABEL_SIZE + 128];
    (void)snprintf(desc, sizeof desc, "%s%s%s", who ? who : "", who ? ": " : "",
                   reason && *reason ? reason : err_sentence(error));
    answer(c, "error", view_error(error, desc));
}

static void on_act(void *ctx, struct err result, const char *reason, struct instance *instance)
{
    struct client *c = ctx;
    if (result.code)
        answer_error(c, result, instance ? instance->row.label : NULL, reason);
    else
        answer(c, "return", view_instance(instance));
}

/* --- the verbs -----------------------------------------------------------------------------------------------------
 */

static struct instance *named(struct client *c, const char *name)
{
    struct instance *instance = roster_named(&c->admin->supervisor->roster, name);
    if (!instance) answer_error(c, FAIL(NO_INSTANCE), name, NULL);
    return instance;
}

static void do_create(struct client *c, const struct request *request)
{
    struct create create = {.listen = request->listen, .start = request->start, .import = request->import};
    if (strlen(request->label) >= sizeof create.label) {
        answer_error(c, FAIL(LABEL_BAD), request->label, NULL);
        return;
    }
    memcpy(create.label, request->label, strlen(request->label));
    memcpy(create.owner, request->owner, sizeof create.owner);
    memcpy(create.front_key, request->front_key, sizeof create.front_key);
    act_create(c->admin->supervisor, &create, on_act, c);
}

static void list_from(struct client *c, uint32_t first);

static struct err take_page(struct client *c, struct reader *results, uint32_t *out_next)
{
    uint32_t count = 0;
    TRY(read_u32(results, &count));
    TRY(read_u32(results, out_next));
    for (uint32_t i = 0; i < count; i++) {
        struct manager_row row;
        TRY(effects_read_row(results, &row));
        struct instance *instance = roster_find(&c->admin->supervisor->roster, &row.id);
        if (!instance || (row.state == MANAGER_DELETED && !c->deleted)) continue;
        instance->row.version = row.version;
        memcpy(instance->row.digest, row.digest, sizeof row.digest);
        (void)json_array_append_new(c->list, view_instance(instance));
    }
    return OK;
}

static void on_page(void *ctx, struct err result, struct reader *results)
{
    struct client *c = ctx;
    uint32_t next = 0;
    if (!result.code) result = take_page(c, results, &next);
    if (result.code) {
        answer_error(c, result, NULL, NULL);
        return;
    }
    if (next) {
        list_from(c, next);
        return;
    }
    json_t *list = c->list;
    c->list = NULL;
    answer(c, "return", json_pack("{s:o}", "instances", list));
}

static void list_from(struct client *c, uint32_t first)
{
    const uint32_t arguments[2] = {first, 0};
    struct err result =
        manager_ask(c->admin->supervisor->manager, MANAGER_LIST, span_of(arguments, sizeof arguments), on_page, c);
    if (result.code) answer_error(c, result, NULL, NULL);
}

/* The manager's answer waits for what is being stored. An operator whose disk hangs wants one all the same: what was
 * known before. */
static bool store_hangs(const struct client *c)
{
    return committer_running_usec(c->admin->supervisor->committer) > STORE_PATIENCE_USEC;
}

static void list_as_known(struct client *c)
{
    const struct roster *roster = &c->admin->supervisor->roster;
    json_t *list = json_array();
    for (size_t i = 0; i < roster->count; i++)
        if (c->deleted || roster->list[i]->row.state != MANAGER_DELETED)
            (void)json_array_append_new(list, view_instance(roster->list[i]));
    answer(c, "return", json_pack("{s:o}", "instances", list));
}

static void do_list(struct client *c, const struct request *request)
{
    json_decref(c->list);
    c->list = NULL;
    c->deleted = request->deleted;
    if (store_hangs(c)) {
        list_as_known(c);
        return;
    }
    c->list = json_array();
    list_from(c, 0);
}

static void on_row(void *ctx, struct err result, struct reader *results)
{
    struct client *c = ctx;
    struct manager_row row;
    if (!result.code) result = effects_read_row(results, &row);
    struct instance *instance = result.code ? NULL : roster_find(&c->admin->supervisor->roster, &row.id);
    if (!instance) {
        answer_error(c, result.code ? result : FAIL(NO_INSTANCE), NULL, NULL);
        return;
    }
    instance->row.version = row.version;
    memcpy(instance->row.digest, row.digest, sizeof row.digest);
    answer(c, "return", view_instance(instance));
}

static void do_show(struct client *c, const struct request *request)
{
    struct instance *instance = named(c, request->instance);
    if (!instance) return;
    if (store_hangs(c)) {
        answer(c, "return", view_instance(instance));
        return;
    }
    struct err result = manager_ask(c->admin->supervisor->manager, MANAGER_SHOW,
                                    span_of(instance->row.id.bytes, sizeof instance->row.id.bytes), on_row, c);
    if (result.code) answer_error(c, result, instance->row.label, NULL);
}

static void do_start(struct client *c, const struct request *request)
{
    struct instance *instance = named(c, request->instance);
    if (instance) act_start(instance, request->declare_dead, request->wait, on_act, c);
}

static void do_stop(struct client *c, const struct request *request)
{
    struct instance *instance = named(c, request->instance);
    if (instance) act_stop(instance, on_act, c);
}

static void do_delete(struct client *c, const struct request *request)
{
    struct instance *instance = named(c, request->instance);
    if (instance) act_delete(instance, request->force, request->signature, on_act, c);
}

/* What the owner signs: OWNER_ACT of abi/manager.h. */
static struct err write_owner_act(const struct admin *admin, const struct instance *instance, struct span nonce,
                                  struct writer *w)
{
    static const char label[16] = OWNER_ACT_LABEL;
    static const uint8_t of_nothing[SHA256_SIZE] = {0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4,
                                                    0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b,
                                                    0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55};
    TRY(write_bytes(w, label, sizeof label));
    TRY(write_u16(w, MANAGER_DELETE));
    TRY(write_u16(w, 0));
    TRY(write_u32(w, 0));
    TRY(write_bytes(w, admin->status.domain.bytes, INSTANCE_ID_SIZE));
    TRY(write_bytes(w, instance->row.id.bytes, INSTANCE_ID_SIZE));
    TRY(write_u64(w, instance->row.epoch));
    TRY(write_span(w, nonce));
    TRY(write_bytes(w, admin->status.manager, sizeof admin->status.manager));
    return write_bytes(w, of_nothing, sizeof of_nothing);
}

struct challenged {
    struct client *client;
    const struct instance *instance;
};

static void on_challenge(void *ctx, struct err result, struct reader *results)
{
    struct challenged challenged = *(struct challenged *)ctx;
    struct client *c = challenged.client;
    uint8_t bytes[OWNER_ACT_SIZE];
    struct writer w = writer_of(bytes, sizeof bytes);
    struct span nonce = span_empty();
    free(ctx);
    if (!result.code) result = read_span(results, SHA256_SIZE, &nonce);
    if (!result.code) result = write_owner_act(c->admin, challenged.instance, nonce, &w);
    if (result.code) {
        answer_error(c, result, challenged.instance->row.label, NULL);
        return;
    }
    answer(c, "return",
           json_pack("{s:o, s:o}", "nonce", view_hex(nonce.data, nonce.size), "message", view_hex(bytes, w.size)));
}

static void do_challenge(struct client *c, const struct request *request)
{
    struct instance *instance = named(c, request->instance);
    if (!instance) return;
    if (strcmp(request->act, "delete") != 0) {
        answer_error(c, FAIL(BAD_VALUE), instance->row.label, "the owner's signature is for delete only");
        return;
    }
    struct challenged *challenged = malloc(sizeof *challenged);
    if (!challenged) {
        answer_error(c, FAIL(NO_MEMORY), NULL, NULL);
        return;
    }
    *challenged = (struct challenged){c, instance};
    struct err result =
        manager_ask(c->admin->supervisor->manager, MANAGER_CHALLENGE,
                    span_of(instance->row.id.bytes, sizeof instance->row.id.bytes), on_challenge, challenged);
    if (!result.code) return;
    free(challenged);
    answer_error(c, result, instance->row.label, NULL);
}

static void on_status(void *ctx, struct err result, struct reader *results)
{
    struct client *c = ctx;
    struct admin *admin = c->admin;
    struct manager_status status;
    if (!result.code) result = effects_read_status(results, &status);
    if (result.code) {
        answer_error(c, result, NULL, NULL);
        return;
    }
    answer(c, "return", view_status(admin->supervisor, &status, &admin->device, (uint64_t)(now() - admin->born)));
}

static void do_status(struct client *c, const struct request *request)
{
    (void)request;
    struct err result = manager_ask(c->admin->supervisor->manager, MANAGER_STATUS, span_empty(), on_status, c);
    if (result.code) answer_error(c, result, NULL, NULL);
}

static void do_version(struct client *c, const struct request *request)
{
    (void)request;
    answer(c, "return", json_pack("{s:s, s:i}", "version", VTPM_VERSION, "api", API_VERSION));
}

static void on_store_progress(void *ctx, uint64_t done, uint64_t all)
{
    struct client *c = ctx;
    if (!c->progress || c->fd < 0 || c->output_size) return; /* a slow reader is told less often */
    json_t *message = json_pack("{s:{s:I, s:I}}", "progress", "done", (json_int_t)done, "of", (json_int_t)all);
    if (c->id) (void)json_object_set(message, "id", c->id);
    if (!put_json(c, message)) drop(c);
}

static void on_store_done(void *ctx, struct err result, const char *reason, json_t *value, int fd)
{
    struct client *c = ctx;
    c->admin->store_work = false;
    c->passed = fd;
    if (result.code)
        answer_error(c, result, NULL, reason);
    else
        answer(c, "return", value);
}

static void do_store_work(struct client *c, const struct request *request)
{
    const struct store_work_listener listener = {c, on_store_progress, on_store_done};
    struct supervisor *supervisor = c->admin->supervisor;
    if (c->admin->store_work) {
        answer_error(c, FAIL(STORE_BUSY), NULL,
                     "the store is being checked or copied for somebody else: try again later");
        return;
    }
    log_line(LOG_LEVEL_NOTICE, "%s asked for by process %d (user %u)", request->execute, (int)c->pid, (unsigned)c->uid);
    struct err result = request->verb == REQUEST_STORE_CHECK ? store_work_check(supervisor, &listener)
                                                             : store_work_backup(supervisor, &listener);
    c->admin->store_work = !result.code;
    c->progress = request->progress;
    if (result.code) answer_error(c, result, NULL, NULL);
}

static void tell(void *ctx, const char *line, size_t size)
{
    struct client *c = ctx;
    if (c->fd >= 0 && !put(c, line, size)) drop(c); /* it reads nothing */
}

static void do_subscribe(struct client *c, const struct request *request)
{
    c->subscribed = true;
    answer(c, "return", json_object()); /* lines are being taken, so the client stays */
    if (request->since) events_since(c->admin->supervisor->events, request->since, c, tell);
}

static void (*const verbs[])(struct client *c, const struct request *request) = {
    [REQUEST_CREATE] = do_create,
    [REQUEST_LIST] = do_list,
    [REQUEST_SHOW] = do_show,
    [REQUEST_START] = do_start,
    [REQUEST_STOP] = do_stop,
    [REQUEST_CHALLENGE] = do_challenge,
    [REQUEST_DELETE] = do_delete,
    [REQUEST_SUBSCRIBE] = do_subscribe,
    [REQUEST_STATUS] = do_status,
    [REQUEST_VERSION] = do_version,
    [REQUEST_STORE_CHECK] = do_store_work,
    [REQUEST_STORE_BACKUP] = do_store_work,
};

/* --- reading -------------------------------------------------------------------------------------------------------
 */

static void log_act(const struct client *c, const struct request *request)
{
    static const unsigned changing = 1u << REQUEST_CREATE | 1u << REQUEST_START | 1u << REQUEST_STOP |
                                     1u << REQUEST_CHALLENGE | 1u << REQUEST_DELETE;
    const char *about = request->label ? request->label : request->instance;
    if (changing & (1u << request->verb))
        log_line(LOG_LEVEL_NOTICE, "%s %s%s%s asked for by process %d (user %u)", request->execute, about,
                 request->force ? " with force" : "", request->declare_dead ? ", declaring its holder dead," : "",
                 (int)c->pid, (unsigned)c->uid);
}

static void take_line(struct client *c, struct span line)
{
    struct request request;
    char reason[REQUEST_REASON_SIZE] = "";
    struct err result = request_parse(line, &request, reason);
    c->under_way = true;
    c->id = json_incref(request.id);
    if (result.code) {
        c->closing = !request.root;
        answer_error(c, result, NULL, reason);
    } else {
        log_act(c, &request);
        verbs[request.verb](c, &request);
    }
    request_free(&request);
}

/* A line that cannot end any more within what a line may have. */
static void refuse_long_line(struct client *c)
{
    c->under_way = true;
    c->closing = true;
    c->input_size = 0;
    answer_error(c, FAIL(TOO_LARGE), NULL, "a request has at most 65536 bytes");
}

static void take_lines(struct client *c)
{
    size_t start = 0;
    unsigned taken = 0;
    c->working = true;
    c->more = false;
    while (!c->under_way && !c->closing && c->fd >= 0 && c->output_size < OUTPUT_PAUSE) {
        const char *end = memchr(c->input + start, '\n', c->input_size - start);
        if (!end) break;
        c->more = taken++ == LINES_A_TURN;
        if (c->more) break;
        const struct span line = span_of(c->input + start, (size_t)(end - c->input) - start);
        start += line.size + 1;
        take_line(c, line);
    }
    c->input_size -= start;
    memmove(c->input, c->input + start, c->input_size);
    bool full = c->input_size == sizeof c->input && !memchr(c->input, '\n', sizeof c->input);
    if (!c->under_way && c->fd >= 0 && full) refuse_long_line(c);
    c->working = false;
    if (c->fd < 0)
        drop(c);
    else if (c->closing && !c->under_way && !c->output_size)
        drop(c);
    else
        watch(c);
}

static int on_client(sd_event_source *source, int fd, uint32_t events, void *ctx)
{
    (void)source;
    struct client *c = ctx;
    if ((events & EPOLLOUT) && !flush(c)) {
        drop(c);
        return 0;
    }
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && c->input_size < sizeof c->input) {
        ssize_t got = recv(fd, c->input + c->input_size, sizeof c->input - c->input_size, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
            drop(c);
            return 0;
        }
        if (got > 0) c->input_size += (size_t)got;
    }
    take_lines(c);
    return 0;
}

/* --- connections ---------------------------------------------------------------------------------------------------
 */

/* With all places taken, for a new client. */
static void drop_stalled(struct admin *admin)
{
    for (struct client *c = admin->clients, *next = NULL; c && admin->client_count >= CLIENTS_MAX; c = next) {
        next = c->next;
        if (c->output_size && now() - c->took >= STALL_SEC) drop(c);
    }
}

static void add_client(struct admin *admin, int fd)
{
    drop_stalled(admin);
    struct ucred peer = {0};
    socklen_t size = sizeof peer;
    struct client *c = admin->client_count < CLIENTS_MAX ? calloc(1, sizeof *c) : NULL;
    bool known = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0;
    if (!c || !known || sd_event_add_io(admin->supervisor->event, &c->source, fd, EPOLLIN, on_client, c) < 0) {
        log_line(LOG_LEVEL_WARNING, "admin.sock: process %d (user %u) was turned away: too many connections",
                 (int)peer.pid, (unsigned)peer.uid);
        free(c);
        close(fd);
        return;
    }
    c->admin = admin;
    c->fd = fd;
    c->passed = -1;
    c->events = EPOLLIN;
    c->pid = peer.pid;
    c->uid = peer.uid;
    c->next = admin->clients;
    admin->clients = c;
    admin->client_count++;
    json_t *greeting = json_pack("{s:{s:s, s:i}}", "vtpm", "version", VTPM_VERSION, "api", API_VERSION);
    if (!put_json(c, greeting)) drop(c);
}

static int on_connection(sd_event_source *source, int fd, uint32_t events, void *ctx)
{
    (void)source, (void)events;
    int connection = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (connection >= 0) add_client(ctx, connection);
    return 0;
}

static void on_first_status(void *ctx, struct err result, struct reader *results)
{
    struct admin *admin = ctx;
    if (!result.code) result = effects_read_status(results, &admin->status);
    if (result.code) log_line(LOG_LEVEL_ERROR, "the manager does not say its status: %s", err_sentence(result));
}

struct err admin_open(const struct admin_options *options, struct admin **out_admin)
{
    struct admin *admin = calloc(1, sizeof *admin);
    if (!admin) {
        close(options->listen_fd);
        return FAIL(NO_MEMORY);
    }
    *admin = (struct admin){
        .supervisor = options->supervisor, .device = options->device, .listen_fd = options->listen_fd, .born = now()};
    struct err result = manager_ask(options->supervisor->manager, MANAGER_STATUS, span_empty(), on_first_status, admin);
    if (!result.code && sd_event_add_io(options->supervisor->event, &admin->source, admin->listen_fd, EPOLLIN,
                                        on_connection, admin) < 0)
        result = FAIL(SYSTEM);
    if (result.code) {
        admin_close(&admin);
        return result;
    }
    *out_admin = admin;
    return OK;
}

void admin_tell(struct admin *admin, const char *line, size_t size)
{
    for (struct client *c = admin->clients, *next = NULL; c; c = next) {
        next = c->next;
        if (c->subscribed) tell(c, line, size);
    }
}

void admin_close(struct admin **admin)
{
    struct admin *a = *admin;
    if (!a) return;
    while (a->clients) {
        struct client *c = a->clients;
        c->under_way = false;
        c->working = false;
        drop(c);
    }
    sd_event_source_disable_unref(a->source);
    close(a->listen_fd);
    free(a);
    *admin = NULL;
}
