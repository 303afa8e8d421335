#include "untrusted/daemon/admin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "untrusted/daemon/admin_client.h"
#include "untrusted/daemon/view.h"
#include "untrusted/host/log.h"

#define CLIENTS_MAX  64u
#define OUTPUT_MAX   (16u * 1024u * 1024u) /* bytes that a client may leave unread */
#define OUTPUT_PAUSE (256u * 1024u)        /* no new request is taken above it */
#define LINES_A_TURN 16u                   /* before the loop sees to its other sources */
#define STALL_SEC    30                    /* a client that took nothing for so long gives way to another */

time_t client_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec;
}

/* --- clients -------------------------------------------------------------------------------------------------------
 */

static void forget_taken(struct client *c)
{
    while (c->taken_count > 0)
        (void)close(c->taken[--c->taken_count]);
}

static void free_client(struct client *c)
{
    struct client **place = &c->admin->clients;
    while (*place != c)
        place = &(*place)->next;
    *place = c->next;
    if (!c->holds) c->admin->client_count--;
    json_decref(c->id);
    json_decref(c->list);
    if (c->passed >= 0) close(c->passed);
    forget_taken(c);
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
        if (c->holds) verbs_leave(c);
    }
    if (!c->under_way && !c->working) free_client(c);
}

static void watch(struct client *c)
{
    uint32_t events = 0;
    if ((!c->under_way || c->awaits) && !c->closing && c->output_size < OUTPUT_PAUSE) events |= EPOLLIN;
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
    if (done || !c->output_size) c->took = client_now();
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

void client_answer(struct client *c, const char *name, json_t *value)
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

/* What another vtpmd says of an instance names it already. */
static bool begins_with(const char *reason, const char *who)
{
    const size_t size = strlen(who);
    return strncmp(reason, who, size) == 0 && reason[size] == ':';
}

void client_answer_error(struct client *c, struct err error, const char *who, const char *reason)
{
    char desc[REASON_SIZE + REQUEST_TEXT_MAX + 128];
    if (!who && *c->about && !(reason && begins_with(reason, c->about))) who = c->about;
    (void)snprintf(desc, sizeof desc, "%s%s%s", who ? who : "", who ? ": " : "",
                   reason && *reason ? reason : err_sentence(error));
    client_answer(c, "error", view_error(error, desc));
}

void client_say(struct client *c, json_t *message)
{
    if (!put_json(c, message)) drop(c);
}

void client_tell(void *ctx, const char *line, size_t size)
{
    struct client *c = ctx;
    if (c->fd >= 0 && !put(c, line, size)) drop(c); /* it reads nothing */
}

/* --- reading -------------------------------------------------------------------------------------------------------
 */

static void log_act(const struct client *c, const struct request *request)
{
    static const unsigned looking = 1u << REQUEST_LIST | 1u << REQUEST_SHOW | 1u << REQUEST_SNAPSHOTS |
                                    1u << REQUEST_SUBSCRIBE | 1u << REQUEST_STATUS | 1u << REQUEST_VERSION |
                                    1u << REQUEST_STORE_CHECK | 1u << REQUEST_STORE_BACKUP | 1u << REQUEST_AWAIT |
                                    1u << REQUEST_STATE | 1u << REQUEST_MEMBER;
    if (!(looking & (1u << request->verb)))
        log_line(LOG_LEVEL_NOTICE, "%s%s%s%s%s asked for by process %d (user %u)", request->execute,
                 *c->about ? " " : "", c->about, request->force ? " with force" : "",
                 request->declare_dead ? ", declaring its holder dead," : "", (int)c->pid, (unsigned)c->uid);
}

static void take_line(struct client *c, struct span line)
{
    struct request request;
    char reason[REQUEST_REASON_SIZE] = "";
    struct err result = request_parse(line, &request, reason);
    const char *about = request.instance ? request.instance : request.label;
    (void)snprintf(c->about, sizeof c->about, "%s", about ? about : "");
    c->under_way = true;
    c->id = json_incref(request.id);
    if (result.code) {
        c->closing = !request.root;
        client_answer_error(c, result, NULL, reason);
    } else {
        log_act(c, &request);
        verbs_run(c, &request);
    }
    request_free(&request);
    forget_taken(c);
}

/* A line that cannot end any more within what a line may have. */
static void refuse_long_line(struct client *c)
{
    c->under_way = true;
    c->closing = true;
    *c->about = 0;
    c->input_size = 0;
    client_answer_error(c, FAIL(TOO_LARGE), NULL, "a request has at most 65536 bytes");
}

static void take_lines(struct client *c)
{
    size_t start = 0;
    unsigned taken = 0;
    c->working = true;
    c->more = false;
    while ((!c->under_way || c->awaits) && !c->closing && c->fd >= 0 && c->output_size < OUTPUT_PAUSE) {
        const char *end = memchr(c->input + start, '\n', c->input_size - start);
        if (!end) break;
        if (c->awaits) verbs_await_no_more(c);
        if (c->fd < 0) break;
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

/* As recv. Descriptors above what a request can have are dropped. */
static ssize_t receive(struct client *c, void *bytes, size_t size)
{
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(HANDED_MAX * sizeof(int))];
    } control;
    struct iovec part = {bytes, size};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(c->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    for (struct cmsghdr *m = got > 0 ? CMSG_FIRSTHDR(&message) : NULL; m; m = CMSG_NXTHDR(&message, m)) {
        if (m->cmsg_level != SOL_SOCKET || m->cmsg_type != SCM_RIGHTS) continue;
        for (size_t i = 0; i < (m->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
            int fd = -1;
            memcpy(&fd, CMSG_DATA(m) + i * sizeof fd, sizeof fd);
            const int high = c->taken_count < HANDED_MAX ? fcntl(fd, F_DUPFD_CLOEXEC, PROCESS_LOWEST_FD) : -1;
            (void)close(fd);
            if (high >= 0) c->taken[c->taken_count++] = high;
        }
    }
    return got;
}

static int on_client(sd_event_source *source, int fd, uint32_t events, void *ctx)
{
    (void)source, (void)fd;
    struct client *c = ctx;
    const bool full = c->input_size == sizeof c->input;
    const bool gone = events & (EPOLLHUP | EPOLLERR);
    /* With no room the end cannot be read, and the loop would be told of it again and again. */
    if (((events & EPOLLOUT) && !flush(c)) || (gone && full)) {
        drop(c);
        return 0;
    }
    if (((events & EPOLLIN) || gone) && !full) {
        ssize_t got = receive(c, c->input + c->input_size, sizeof c->input - c->input_size);
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
        if (c->output_size && client_now() - c->took >= STALL_SEC) drop(c);
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
    *admin = (struct admin){.supervisor = options->supervisor,
                            .device = options->device,
                            .listen_fd = options->listen_fd,
                            .born = client_now()};
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
        if (c->subscribed) client_tell(c, line, size);
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
        c->holds = NULL;
        drop(c);
    }
    sd_event_source_disable_unref(a->source);
    close(a->listen_fd);
    free(a);
    *admin = NULL;
}
