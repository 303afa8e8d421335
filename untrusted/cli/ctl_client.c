#include "untrusted/cli/ctl_client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "untrusted/cli/ctl_text.h"

#define API_VERSION 1

static struct err lose(struct ctl *ctl, struct err err)
{
    ctl->outcome = CTL_LOST;
    return err;
}

static void json_close(json_t **value)
{
    json_decref(*value);
}

static void text_close(char **text)
{
    free(*text);
}

void ctl_close(struct ctl *ctl)
{
    if (ctl->fd >= 0) (void)close(ctl->fd);
    free(ctl->received);
    *ctl = (struct ctl){.fd = -1};
}

static struct err explain_connect(const char *path, int number, struct explanation *why)
{
    if (number == ENOENT || number == ECONNREFUSED)
        return explain(why, FAIL(SYSTEM),
                       "%s: vtpmd does not run, or listens elsewhere (systemctl status vtpmd; --socket names another "
                       "socket)",
                       path);
    if (number == EACCES || number == EPERM)
        return explain(why, FAIL(SYSTEM),
                       "%s: no permission; be root or in the group that admin-group in vtpmd.conf names", path);
    return explain(why, FAIL(SYSTEM), "%s: %s", path, strerror(number));
}

static long long now_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Waits until the connection can be read or written; deadline in ms, 0: none. */
static struct err wait_ready(struct ctl *ctl, short events, long long deadline, const struct ctl_watch *watch,
                             struct explanation *why)
{
    for (;;) {
        struct pollfd waiting[2] = {{.fd = ctl->fd, .events = events},
                                    {.fd = watch ? watch->fd : -1, .events = POLLIN}};
        long long left = deadline ? deadline - now_ms() : -1;
        int ready = deadline && left <= 0 ? 0 : poll(waiting, 2, (int)left);
        if (ready < 0 && errno != EINTR)
            return lose(ctl, explain(why, FAIL(SYSTEM), "%s: %s", ctl->path, strerror(errno)));
        if (ready == 0)
            return lose(ctl, explain(why, FAIL(SYSTEM),
                                     "%s: vtpmd did not answer in time; it may still be doing what it was asked for "
                                     "(vtpmctl list shows it; --timeout waits longer)",
                                     ctl->path));
        if (ready > 0 && waiting[1].revents) watch->take(watch->ctx);
        if (ready > 0 && waiting[0].revents) return OK;
    }
}

/* As send; what is handed over goes with the first byte. */
static ssize_t send_some(struct ctl *ctl, const char *line, size_t size)
{
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(CTL_HANDED_MAX * sizeof(int))];
    } control = {0};
    struct iovec part = {(void *)(uintptr_t)line, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    const size_t bytes = ctl->handed_count * sizeof(int);
    if (ctl->handed) {
        control.aligned = (struct cmsghdr){CMSG_LEN(bytes), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.aligned), ctl->handed, bytes);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(bytes);
    }
    ssize_t sent = sendmsg(ctl->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) ctl->handed = NULL;
    return sent;
}

static struct err send_line(struct ctl *ctl, const char *line, size_t size, long long deadline, struct explanation *why)
{
    while (size > 0) {
        TRY(wait_ready(ctl, POLLOUT, deadline, NULL, why));
        ssize_t sent = send_some(ctl, line, size);
        if (sent < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (sent < 0) return lose(ctl, explain(why, FAIL(PEER_CLOSED), "%s: %s", ctl->path, strerror(errno)));
        line += sent;
        size -= (size_t)sent;
    }
    return OK;
}

/* The newline that ends the first line not handed out yet, from on */
static char *line_end(const struct ctl *ctl, size_t from)
{
    return ctl->used > from ? memchr(ctl->received + from, '\n', ctl->used - from) : NULL;
}

bool ctl_has_line(const struct ctl *ctl)
{
    return line_end(ctl, ctl->taken) != NULL;
}

static struct err make_room(struct ctl *ctl, struct explanation *why)
{
    if (ctl->taken > 0) {
        memmove(ctl->received, ctl->received + ctl->taken, ctl->used - ctl->taken);
        ctl->used -= ctl->taken;
        ctl->taken = 0;
    }
    if (ctl->used < ctl->capacity) return OK;
    if (ctl->used >= CTL_ANSWER_MAX)
        return lose(ctl, explain(why, FAIL(PROTOCOL), "%s: what listens there sends a line without an end", ctl->path));
    size_t capacity = ctl->capacity ? 2 * ctl->capacity : CTL_REQUEST_MAX;
    char *larger = realloc(ctl->received, capacity);
    ENSURE(larger, NO_MEMORY);
    ctl->received = larger;
    ctl->capacity = capacity;
    return OK;
}

/* As recv; a descriptor that comes along is taken if one is expected, and the kernel drops it otherwise. */
static ssize_t receive(struct ctl *ctl, void *bytes, size_t size)
{
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {bytes, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (ctl->passed) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
    }
    ssize_t got = recvmsg(ctl->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    const struct cmsghdr *head = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (!head || head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) return got;
    if (*ctl->passed >= 0) (void)close(*ctl->passed);
    memcpy(ctl->passed, CMSG_DATA(head), sizeof *ctl->passed);
    return got;
}

/* One line without its newline, in ctl's memory until the next call */
static struct err receive_line(struct ctl *ctl, long long deadline, const struct ctl_watch *watch,
                               const char **out_line, size_t *out_size, struct explanation *why)
{
    char *end = line_end(ctl, ctl->taken);
    while (!end) {
        TRY(make_room(ctl, why)); /* moves the rest to the front */
        TRY(wait_ready(ctl, POLLIN, deadline, watch, why));
        ssize_t got = receive(ctl, ctl->received + ctl->used, ctl->capacity - ctl->used);
        if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (got <= 0)
            return lose(ctl, explain(why, FAIL(PEER_CLOSED), "%s: vtpmd ended the connection%s%s", ctl->path,
                                     got < 0 ? ": " : "", got < 0 ? strerror(errno) : ""));
        size_t before = ctl->used;
        ctl->used += (size_t)got;
        end = line_end(ctl, before);
    }
    *out_line = ctl->received + ctl->taken;
    *out_size = (size_t)(end - *out_line);
    ctl->taken += *out_size + 1;
    return OK;
}

static struct err receive_before(struct ctl *ctl, long long deadline, const struct ctl_watch *watch,
                                 json_t **out_message, struct explanation *why)
{
    const char *line = NULL;
    size_t size = 0;
    TRY(receive_line(ctl, deadline, watch, &line, &size, why));
    json_t *message = json_loadb(line, size, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(message)) {
        json_decref(message);
        return lose(ctl,
                    explain(why, FAIL(PROTOCOL), "%s: what listens there does not speak as vtpmd does", ctl->path));
    }
    *out_message = message;
    return OK;
}

static long long deadline_in(unsigned seconds)
{
    return seconds ? now_ms() + (long long)seconds * 1000 : 0;
}

struct err ctl_receive(struct ctl *ctl, unsigned seconds, const struct ctl_watch *watch, json_t **out_message,
                       struct explanation *why)
{
    return receive_before(ctl, deadline_in(seconds), watch, out_message, why);
}

struct err ctl_connect(const char *path, int *out_fd, struct explanation *why)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return explain(why, FAIL(USAGE), "%s: longer than a unix socket's path can be", path);
    memcpy(address.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        const int number = errno;
        if (fd >= 0) (void)close(fd);
        struct err err = explain_connect(path, number, why);
        errno = number;
        return err;
    }
    *out_fd = fd;
    return OK;
}

static struct err connect_to(struct ctl *ctl, struct explanation *why)
{
    struct err err = ctl_connect(ctl->path, &ctl->fd, why);
    const bool absent = errno == ENOENT || errno == ECONNREFUSED;
    if (err.code == ERR_SYSTEM) ctl->outcome = absent ? CTL_ABSENT : CTL_LOST;
    return err;
}

struct err ctl_open(const char *path, unsigned seconds, struct ctl *out_ctl, struct explanation *why)
{
    *out_ctl = (struct ctl){.fd = -1, .path = path};
    json_t *message DEFER(json_close) = NULL;
    TRY(connect_to(out_ctl, why));
    TRY(ctl_receive(out_ctl, seconds, NULL, &message, why));
    const json_t *greeting = json_object_get(message, "vtpm");
    const json_t *api = json_object_get(greeting, "api");
    if (!json_is_integer(api) || !json_is_string(json_object_get(greeting, "version")))
        return lose(out_ctl, explain(why, FAIL(PROTOCOL), "%s: what listens there is no vtpmd", path));
    if (json_integer_value(api) != API_VERSION)
        return lose(out_ctl, explain(why, FAIL(PROTOCOL),
                                     "%s: vtpmd %.40s speaks version %lld of the admin API, this vtpmctl version %d; "
                                     "install those that belong together",
                                     path, shown_member(greeting, "version").text, (long long)json_integer_value(api),
                                     API_VERSION));
    return OK;
}

/* The daemon's error in its own words. A code that does not say that something failed is no code. */
static struct err take_refusal(struct ctl *ctl, const json_t *error, struct explanation *why)
{
    const json_t *code = json_object_get(error, "code");
    const json_t *hint = json_object_get(error, "hint");
    json_int_t value = json_integer_value(code);
    if (!json_is_integer(code) || value < 1 || value > UINT16_MAX || !json_is_string(json_object_get(error, "desc")))
        return lose(ctl, explain(why, FAIL(PROTOCOL), "%s: vtpmd answered with an error of another form", ctl->path));
    ctl->outcome = CTL_REFUSED;
    return explain(why, (struct err){(uint16_t)value}, "%.340s%s%.150s", shown_member(error, "desc").text,
                   json_is_string(hint) ? "\n  " : "", json_is_string(hint) ? shown_member(error, "hint").text : "");
}

static struct err send_request(struct ctl *ctl, const char *verb, json_t *arguments, long long deadline,
                               struct explanation *why)
{
    json_t *request DEFER(json_close) =
        json_pack("{s:s, s:o*, s:I}", "execute", verb, "arguments", arguments, "id", (json_int_t)++ctl->last_id);
    char *line DEFER(text_close) = request ? json_dumps(request, JSON_COMPACT) : NULL;
    ENSURE(line, NO_MEMORY);
    size_t size = strlen(line);
    if (size >= CTL_REQUEST_MAX) return explain(why, FAIL(USAGE), "the arguments of %s are too long", verb);
    line[size] = '\n'; /* in the place of the NUL */
    return send_line(ctl, line, size + 1, deadline, why);
}

/* Its answer is read by whoever asks next. */
void ctl_nudge(struct ctl *ctl)
{
    static const char line[] = "{\"execute\":\"version\",\"id\":0}\n";
    (void)send(ctl->fd, line, sizeof line - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static bool is_nudge(const json_t *answer)
{
    const json_t *id = json_object_get(answer, "id");
    return json_is_integer(id) && json_integer_value(id) == 0;
}

struct err ctl_call(struct ctl *ctl, const char *verb, json_t *arguments, unsigned seconds,
                    const struct ctl_watch *watch, json_t **out_return, struct explanation *why)
{
    long long deadline = deadline_in(seconds);
    json_t *answer DEFER(json_close) = NULL;
    TRY(send_request(ctl, verb, arguments, deadline, why));
    TRY(receive_before(ctl, deadline, watch, &answer, why));
    while (ctl->progress && json_is_object(json_object_get(answer, "progress"))) {
        ctl->progress(ctl->progress_ctx, json_object_get(answer, "progress"));
        json_decref(answer);
        answer = NULL;
        TRY(receive_before(ctl, deadline_in(seconds), watch, &answer, why));
    }
    while (is_nudge(answer)) {
        json_decref(answer);
        answer = NULL;
        TRY(receive_before(ctl, deadline, watch, &answer, why));
    }
    const json_t *id = json_object_get(answer, "id");
    const json_t *error = json_object_get(answer, "error");
    json_t *result = json_object_get(answer, "return");
    bool is_error = json_is_object(error) && !result;
    /* What could not be parsed is answered without an id, because the daemon does not know it. */
    bool is_ours = json_is_integer(id) && json_integer_value(id) == ctl->last_id;
    if (is_error && (is_ours || !id)) return take_refusal(ctl, error, why);
    if (!is_ours || error || !json_is_object(result))
        return lose(ctl, explain(why, FAIL(PROTOCOL), "%s: vtpmd answered something that %s was not asked for",
                                 ctl->path, verb));
    *out_return = json_incref(result);
    return OK;
}
