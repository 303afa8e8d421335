#include "untrusted/front/front.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/memory.h"
#include "untrusted/host/clock.h"
#include "untrusted/host/log.h"

#define SWEEP_USEC          UINT64_C(1000000)
#define AGAIN_USEC          UINT64_C(5000)
/* With more, sd-event reads a file to spread wake-ups, which a confined process may not. */
#define TIMER_ACCURACY_USEC 1
#define STARTUP_SIZE        12u
#define COMMANDS_A_TURN     8u /* of one client before the loop sees to its other sources */

enum connection_state {
    CONNECTION_FREE,
    CONNECTION_READING,
    CONNECTION_QUEUED,  /* its message waits for its turn */
    CONNECTION_RUNNING, /* its message is with the owner */
    CONNECTION_SENDING, /* the client has not taken all of the answer */
};

struct endpoint {
    struct front *front;
    const struct protocol *protocol;
    struct channel *channel;
    int fd;    /* -1: nobody is listened for */
    bool lone; /* for one connection, which was there before this process: its end is the process's */
    sd_event_source *source;
};

/* What follows a message, and the answer that it ends in. */
struct following {
    enum follows what; /* FOLLOWS_NOTHING: nothing does */
    size_t left;       /* bytes */
    uint8_t blob;
    uint32_t result; /* of the first part that failed; 0: none did */
};

/* A blob of an export that a client gave, for the next reset. */
struct given_blob {
    uint8_t *bytes; /* owned; NULL: none is there */
    size_t size;
    size_t taken;
    const struct connection *giver; /* until all of it has come */
};

struct connection {
    struct front *front;
    const struct endpoint *endpoint;
    enum connection_state state;
    int fd;
    sd_event_source *source;
    uint32_t events;            /* that the source waits for */
    struct pool_buffer *buffer; /* only while it has bytes, a message or an answer pending */
    size_t received;            /* bytes in buffer->received */
    size_t response_size;       /* bytes in buffer->response */
    size_t response_sent;
    uint64_t opened;            /* µs, as all times here */
    uint64_t stalled_since;     /* when the unfinished message or answer began; 0: there is none */
    uint64_t starved_since;     /* when it found no buffer; 0: it did not */
    bool spoken;                /* it has completed a message */
    bool adopted;               /* a client passed it over its control connection, */
    struct connection *machine; /* which is this one, as long as it lasts */
    int passed;                 /* the descriptor that came last, until a message takes it; -1: none */
    struct message message;     /* valid from QUEUED until it is answered */
    struct following following;
    uint8_t *large; /* an answer that is larger than buffer->response, owned; then it is that which is sent */
};

struct front {
    sd_event *event;
    struct front_owner owner;
    struct front_manners manners;
    bool starting_up; /* TPM2_Startup has to be the first command, or is with the owner */
    bool ending;      /* a connection has ended whose end is the process's */
    struct pool pool;
    struct channel channels[FRONT_ENDPOINTS_MAX];
    struct endpoint endpoints[FRONT_ENDPOINTS_MAX];
    size_t endpoint_count;
    struct connection connections[FRONT_CONNECTIONS_MAX];
    struct connection *queue[FRONT_CONNECTIONS_MAX]; /* a ring */
    size_t queue_head;
    size_t queue_count;
    bool busy;                  /* a request is with the owner */
    enum front_verb verb;       /* of that request */
    struct connection *running; /* whose request it is; NULL if the client has gone */
    sd_event_source *again;     /* asks for it again */
    uint64_t unleased_since;    /* when it was refused for want of a lease; 0: it was not */
    bool dispatching;
    bool powered;
    bool listeners_paused; /* no descriptor was left to accept with */
    sd_event_source *sweep;
    bool sweep_armed;
    struct given_blob blobs[BLOB_COUNT];
    uint8_t *export_given; /* both of them, while the reset that goes on from them is with the owner; owned */
    size_t export_size;
    unsigned refused; /* since the last sweep, for the log */
    unsigned stalled;
};

static void connection_advance(struct connection *c);

static void arm_sweep(struct front *front)
{
    if (front->sweep_armed) return;
    front->sweep_armed = sd_event_source_set_time_relative(front->sweep, SWEEP_USEC) >= 0 &&
                         sd_event_source_set_enabled(front->sweep, SD_EVENT_ONESHOT) >= 0;
}

static void wait_for(struct connection *c, uint32_t events)
{
    if (c->events == events) return;
    if (sd_event_source_set_io_events(c->source, events) >= 0) c->events = events;
}

static void queue_push(struct front *front, struct connection *c)
{
    front->queue[(front->queue_head + front->queue_count++) % FRONT_CONNECTIONS_MAX] = c;
}

static struct connection *queue_pop(struct front *front)
{
    struct connection *c = front->queue[front->queue_head];
    front->queue_head = (front->queue_head + 1) % FRONT_CONNECTIONS_MAX;
    front->queue_count--;
    return c;
}

static void queue_remove(struct front *front, const struct connection *c)
{
    size_t count = front->queue_count;
    for (size_t i = 0; i < count; i++) {
        struct connection *waiting = queue_pop(front);
        if (waiting != c) queue_push(front, waiting);
    }
}

/* --- buffers --- */

static void feed_starved(struct front *front)
{
    struct connection *oldest = NULL;
    for (size_t i = 0; i < FRONT_CONNECTIONS_MAX; i++) {
        struct connection *c = &front->connections[i];
        if (c->starved_since && c->events == 0 && (!oldest || c->starved_since < oldest->starved_since)) oldest = c;
    }
    if (oldest) wait_for(oldest, EPOLLIN);
}

static void forget_response(struct connection *c)
{
    if (!c->large) wipe(c->buffer->response, c->response_size);
    free(c->large);
    c->large = NULL;
    c->response_size = c->response_sent = 0;
}

static void release_buffer(struct connection *c)
{
    if (!c->buffer) return;
    bool was_empty = c->front->pool.free_count == 0;
    wipe(c->buffer->received, c->received);
    forget_response(c);
    c->received = 0;
    pool_give(&c->front->pool, &c->buffer);
    if (was_empty) feed_starved(c->front);
}

static void drop_blob(struct given_blob *blob)
{
    free(blob->bytes);
    *blob = (struct given_blob){0};
}

/* Forgets the connection, and what it has not given all of; its descriptor stays open. */
static void connection_detach(struct connection *c)
{
    struct front *front = c->front;
    if (c->state == CONNECTION_QUEUED) queue_remove(front, c);
    if (c->state == CONNECTION_RUNNING) front->running = NULL;
    c->starved_since = 0;
    for (size_t i = 0; i < FRONT_CONNECTIONS_MAX; i++)
        if (front->connections[i].machine == c) front->connections[i].machine = NULL;
    for (size_t i = 0; i < BLOB_COUNT; i++)
        if (front->blobs[i].giver == c) drop_blob(&front->blobs[i]);
    release_buffer(c);
    c->source = sd_event_source_disable_unref(c->source);
    if (c->passed >= 0) close(c->passed);
    *c = (struct connection){.front = front, .fd = -1, .passed = -1};
}

static bool ends_process(const struct connection *c)
{
    const bool data = c->endpoint->protocol == &protocol_stream;
    return c->endpoint->lone || (c->front->manners.terminates && data && c->spoken);
}

static void connection_close(struct connection *c)
{
    int fd = c->fd;
    if (ends_process(c)) c->front->ending = true;
    connection_detach(c);
    close(fd);
}

/* The connection that has kept something unfinished for the longest time; with_buffer: of those that hold a buffer. */
static struct connection *longest_stalled(struct front *front, bool with_buffer)
{
    struct connection *oldest = NULL;
    for (size_t i = 0; i < FRONT_CONNECTIONS_MAX; i++) {
        struct connection *c = &front->connections[i];
        if (c->stalled_since == 0 || (with_buffer && !c->buffer)) continue;
        if (!oldest || c->stalled_since < oldest->stalled_since) oldest = c;
    }
    return oldest;
}

static bool take_buffer(struct connection *c)
{
    struct front *front = c->front;
    if (c->buffer) return true;
    c->buffer = pool_take(&front->pool);
    if (!c->buffer) {
        struct connection *stalled = longest_stalled(front, true);
        if (stalled) {
            front->stalled++;
            arm_sweep(front);
            connection_close(stalled);
            c->buffer = pool_take(&front->pool);
        }
    }
    if (c->buffer) {
        c->starved_since = 0;
        return true;
    }
    if (!c->starved_since) c->starved_since = clock_now_usec();
    wait_for(c, 0);
    return false;
}

/* --- answers --- */

/* Forgets the message that was answered and, if the client wants so, the client. */
static void connection_finish(struct connection *c)
{
    const bool data = c->endpoint->protocol == &protocol_stream;
    bool end = c->message.close || (data && c->front->manners.disconnects);
    size_t size = c->message.size;
    c->stalled_since = 0;
    c->message = (struct message){0};
    c->state = CONNECTION_READING;
    if (end) {
        connection_close(c);
        return;
    }
    forget_response(c);
    size_t rest = c->received - size;
    if (rest) memmove(c->buffer->received, c->buffer->received + size, rest);
    wipe(c->buffer->received + rest, size);
    c->received = rest;
    if (rest == 0) release_buffer(c);
    wait_for(c, EPOLLIN);
}

/* Only what is sealed is ever larger than a buffer, so it may lie in ordinary memory. */
static uint8_t *room_for(struct connection *c, size_t size)
{
    if (size <= sizeof c->buffer->response) return c->buffer->response;
    c->large = malloc(size);
    return c->large;
}

static void keep_rest(struct connection *c, const struct iovec *parts, size_t count, size_t size, size_t sent)
{
    uint8_t *rest = room_for(c, size - sent);
    if (!rest) {
        connection_close(c);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        size_t skip = sent < parts[i].iov_len ? sent : parts[i].iov_len;
        sent -= skip;
        memcpy(rest + c->response_size, (const uint8_t *)parts[i].iov_base + skip, parts[i].iov_len - skip);
        c->response_size += parts[i].iov_len - skip;
    }
    c->state = CONNECTION_SENDING;
    c->stalled_since = clock_now_usec();
    arm_sweep(c->front);
    wait_for(c, EPOLLOUT);
}

/* Bytes that were sent, 0 if none can be sent now, -1 if the client has gone. */
static ssize_t send_parts(int fd, struct iovec *parts, size_t count)
{
    const struct msghdr header = {.msg_iov = parts, .msg_iovlen = count};
    const int flags = MSG_NOSIGNAL | MSG_DONTWAIT;
    ssize_t sent = count == 1 ? send(fd, parts[0].iov_base, parts[0].iov_len, flags) : sendmsg(fd, &header, flags);
    if (sent >= 0) return sent;
    return errno == EAGAIN || errno == EINTR ? 0 : -1;
}

static void connection_send(struct connection *c, struct iovec *parts, size_t count)
{
    size_t size = 0;
    for (size_t i = 0; i < count; i++)
        size += parts[i].iov_len;
    ssize_t sent = send_parts(c->fd, parts, count);
    if (sent < 0)
        connection_close(c);
    else if ((size_t)sent < size)
        keep_rest(c, parts, count, size, (size_t)sent);
    else
        connection_finish(c);
}

/* A TPM response, in its frame if the command came in one. */
static void connection_respond(struct connection *c, struct span response)
{
    uint8_t head[4] = {0, 0, (uint8_t)(response.size >> 8), (uint8_t)response.size};
    uint8_t acknowledgement[4] = {0};
    struct iovec parts[3];
    size_t count = 0;
    if (c->message.framed) parts[count++] = (struct iovec){head, sizeof head};
    parts[count++] = (struct iovec){(void *)(uintptr_t)response.data, response.size};
    if (c->message.framed) parts[count++] = (struct iovec){acknowledgement, sizeof acknowledgement};
    connection_send(c, parts, count);
}

static void connection_respond_code(struct connection *c, uint32_t code)
{
    uint8_t response[TPM_HEADER_SIZE];
    tpm_error_response(c->endpoint->protocol->dialect, code, response);
    connection_respond(c, span_of(response, sizeof response));
}

/* tail goes behind what is not framed. */
static void connection_answer_with(struct connection *c, struct span tail)
{
    if (c->message.framed) {
        connection_respond(c, span_of(c->message.answer, c->message.answer_size));
        return;
    }
    if (c->message.answer_size == 0) {
        connection_finish(c);
        return;
    }
    struct iovec parts[] = {{c->message.answer, c->message.answer_size}, {(void *)(uintptr_t)tail.data, tail.size}};
    connection_send(c, parts, tail.size ? 2 : 1);
}

static void connection_answer(struct connection *c)
{
    connection_answer_with(c, span_empty());
}

/* --- whose turn it is --- */

static bool switches_power(enum front_verb verb)
{
    return verb >= FRONT_RESET && verb <= FRONT_SHUTDOWN;
}

static void put_code(struct connection *c, uint32_t code)
{
    const uint8_t bytes[4] = {(uint8_t)(code >> 24), (uint8_t)(code >> 16), (uint8_t)(code >> 8), (uint8_t)code};
    memcpy(c->message.answer, bytes, sizeof bytes);
}

/* What failed of what follows a message is answered behind the last of it. */
static void answer_part(struct connection *c, struct err result)
{
    struct following *following = &c->following;
    if (result.code && !following->result) following->result = c->message.failure;
    if (following->left == 0) {
        c->message.answer_size = 4;
        put_code(c, following->result);
        *following = (struct following){0};
    }
    connection_answer(c);
}

static void answer_verb(struct connection *c, struct err result, struct span response)
{
    struct message *message = &c->message;
    struct span tail = span_empty();
    if (message->finish) {
        message->finish(message, result, response, &tail);
    } else if (result.code && message->answer_size) {
        const bool refused = result.code == ERR_BAD_VALUE && message->refusal;
        put_code(c, refused ? message->refusal : message->failure);
        message->answer_size = 4;
    }
    connection_answer_with(c, tail);
}

static void answer_outcome(struct connection *c, struct err result, struct span response)
{
    if (c->following.what != FOLLOWS_NOTHING) {
        answer_part(c, result);
        return;
    }
    if (c->message.verb != FRONT_COMMAND) {
        answer_verb(c, result, response);
        return;
    }
    const struct dialect *dialect = c->endpoint->protocol->dialect;
    if (result.code == ERR_LEASE)
        connection_respond_code(c, dialect->retry);
    else if (result.code || response.size < TPM_HEADER_SIZE || response.size > TPM_MESSAGE_MAX)
        connection_respond_code(c, dialect->failure);
    else
        connection_respond(c, response);
}

static void drop_export(struct front *front)
{
    free(front->export_given);
    front->export_given = NULL;
    front->export_size = 0;
}

/* Both blobs behind each other, which is what the owner wants; they are used once. One that is still on its way is none. */
static struct err take_blobs(struct front *front, struct span *out)
{
    const struct given_blob *permanent = &front->blobs[0];
    const struct given_blob *volatile_state = &front->blobs[1];
    const size_t first = permanent->giver ? 0 : permanent->taken;
    const size_t second = volatile_state->giver ? 0 : volatile_state->taken;
    if (!front->export_given && first + second > 0) { /* else it is asked for again, or there is none */
        front->export_given = malloc(first + second);
        ENSURE(front->export_given, NO_MEMORY); /* without it the machine would be reset */
        front->export_size = first + second;
        if (first) memcpy(front->export_given, permanent->bytes, first);
        if (second) memcpy(front->export_given + first, volatile_state->bytes, second);
    }
    for (size_t i = 0; i < BLOB_COUNT; i++)
        drop_blob(&front->blobs[i]);
    *out = span_of(front->export_given, front->export_size);
    return OK;
}

static void perform(struct front *front)
{
    const struct message *message = &front->running->message;
    const bool located = message->verb == FRONT_COMMAND || message->verb == FRONT_RESET_ESTABLISHED;
    struct front_request request = {
        .verb = message->verb,
        .locality = located ? message->locality : 0,
        .command = message->command,
        .number = message->number,
    };
    struct err taken = message->verb == FRONT_RESET ? take_blobs(front, &request.command) : OK;
    if (taken.code)
        front_done(front, taken, span_empty());
    else
        front->owner.perform(front->owner.ctx, &request);
}

static void start(struct front *front, struct connection *c)
{
    if (c->message.verb == FRONT_COMMAND && !front->powered) {
        uint32_t code = c->endpoint->protocol->response_when_off;
        if (code)
            connection_respond_code(c, code);
        else
            connection_respond(c, span_empty());
        connection_advance(c);
        return;
    }
    c->state = CONNECTION_RUNNING;
    front->busy = true;
    front->verb = c->message.verb;
    front->running = c;
    perform(front);
}

/* What nobody sent: the outcome goes nowhere. */
static void perform_own(struct front *front, enum front_verb verb, struct span command)
{
    const struct front_request request = {.verb = verb, .command = command};
    front->busy = true;
    front->verb = verb;
    front->running = NULL;
    front->owner.perform(front->owner.ctx, &request);
}

static const struct dialect *dialect_of(const struct front *front)
{
    return front->manners.of_12 ? &dialect_12 : &dialect_20;
}

static void start_up(struct front *front)
{
    const struct dialect *dialect = dialect_of(front);
    const uint16_t type = dialect->startup.clear + (front->manners.from_saved ? 1 : 0);
    uint8_t command[STARTUP_SIZE];
    struct writer w = writer_of(command, sizeof command);
    const bool fits = !write_be16(&w, dialect->startup.tag).code && !write_be32(&w, STARTUP_SIZE).code &&
                      !write_be32(&w, dialect->startup.code).code && !write_be16(&w, type).code;
    if (fits) perform_own(front, FRONT_COMMAND, writer_span(&w));
}

static void dispatch(struct front *front)
{
    if (front->dispatching) return;
    front->dispatching = true;
    if (front->starting_up && !front->busy) start_up(front);
    while (!front->busy && front->queue_count)
        start(front, queue_pop(front));
    if (front->ending && !front->busy) perform_own(front, FRONT_SHUTDOWN, span_empty());
    front->dispatching = false;
}

static void started_up(struct front *front, struct err result, struct span response)
{
    struct reader r = reader_of(response);
    struct span head;
    uint32_t code = 0;
    front->starting_up = false;
    const bool read = !result.code && !read_span(&r, TPM_HEADER_SIZE - 4, &head).code && !read_be32(&r, &code).code;
    if (!read || (code && code != dialect_of(front)->startup.done))
        log_line(LOG_LEVEL_ERROR, "the TPM was not started: %s, response code %#x", err_sentence(result),
                 (unsigned)code);
}

static int on_again(sd_event_source *source, uint64_t usec, void *ctx)
{
    (void)source, (void)usec;
    struct front *front = ctx;
    if (front->running)
        perform(front);
    else
        front_done(front, FAIL(LEASE), span_empty());
    return 0;
}

/* A manager that is slow, or is being restarted, is no reason for a client to believe that its TPM is broken. */
static bool ask_again(struct front *front)
{
    if (!front->unleased_since) front->unleased_since = clock_now_usec();
    if (clock_now_usec() - front->unleased_since >= FRONT_LEASE_USEC) return false;
    return sd_event_source_set_time_relative(front->again, AGAIN_USEC) >= 0 &&
           sd_event_source_set_enabled(front->again, SD_EVENT_ONESHOT) >= 0;
}

/* An operator wants to know why a machine does not come back from what was saved of it, or cannot be saved. */
static void explain_refusal(const struct front *front, struct err result)
{
    if (result.code && front->export_given)
        log_line(LOG_LEVEL_ERROR, "the state that a client gave is not gone on from: %s", err_sentence(result));
    else if (result.code && front->verb == FRONT_EXPORT)
        log_line(LOG_LEVEL_ERROR, "the TPM's state is not given to a client: %s", err_sentence(result));
}

void front_done(struct front *front, struct err result, struct span response)
{
    struct connection *c = front->running;
    if (c && result.code == ERR_LEASE && ask_again(front)) return;
    if (front->verb == FRONT_SHUTDOWN) front->ending = false;
    if (front->starting_up) started_up(front, result, response);
    front->unleased_since = 0;
    explain_refusal(front, result);
    drop_export(front);
    front->busy = false;
    front->running = NULL;
    if (switches_power(front->verb))
        front->powered = !result.code && (front->verb == FRONT_RESET || front->verb == FRONT_POWER_ON);
    if (c) {
        answer_outcome(c, result, response);
        connection_advance(c);
    }
    dispatch(front);
}

static struct err connection_open(struct front *front, const struct endpoint *endpoint, int fd,
                                  struct connection **out_connection);

static const struct endpoint *data_endpoint(const struct front *front, const struct channel *channel)
{
    for (size_t i = 0; i < front->endpoint_count; i++)
        if (front->endpoints[i].channel == channel && front->endpoints[i].protocol->data) return &front->endpoints[i];
    return NULL;
}

static bool has_adopted(const struct front *front, const struct channel *channel)
{
    for (size_t i = 0; i < FRONT_CONNECTIONS_MAX; i++)
        if (front->connections[i].adopted && front->connections[i].endpoint->channel == channel) return true;
    return false;
}

/* As with swtpm there is one at a time; its end makes place for another. */
static void adopt_passed(struct connection *c)
{
    const struct channel *channel = c->endpoint->channel;
    const struct endpoint *data = data_endpoint(c->front, channel);
    struct connection *adopted = NULL;
    const int fd = c->passed;
    if (fd < 0 || !data || has_adopted(c->front, channel)) {
        put_code(c, fd < 0 || !data ? TPM_BAD_PARAMETER : TPM_IOERROR);
        return;
    }
    c->passed = -1;
    if (connection_open(c->front, data, fd, &adopted).code) {
        put_code(c, TPM_IOERROR);
        return;
    }
    adopted->adopted = true;
    adopted->machine = c;
}

/* The answer is that it failed, and nothing else comes of it. */
static void refuse_message(struct connection *c)
{
    c->message.verb = FRONT_NOTHING;
    c->message.finish = NULL;
    c->message.answer_size = 4;
    put_code(c, TPM_FAIL);
}

/* A machine is on this TPM, and another client would switch it off, or on: swtpm would let that one wait. */
static bool is_anothers(const struct connection *c)
{
    const struct front *front = c->front;
    if (!switches_power(c->message.verb)) return false;
    for (size_t i = 0; i < FRONT_CONNECTIONS_MAX; i++) {
        const struct connection *data = &front->connections[i];
        if (data->machine && data->endpoint->channel == c->endpoint->channel && data->machine != c) return true;
    }
    return false;
}

/* --- what follows a message --- */

static bool begin_blob(const struct connection *c)
{
    const struct message *message = &c->message;
    struct given_blob *blob = &c->front->blobs[message->blob];
    drop_blob(blob);
    if (message->follow_size == 0) return true;
    uint8_t *bytes = malloc(message->follow_size);
    if (bytes) *blob = (struct given_blob){.bytes = bytes, .size = message->follow_size, .giver = c};
    return bytes;
}

/* The answer comes behind it; if there is nothing, at once. */
static void begin_following(struct connection *c)
{
    struct message *message = &c->message;
    if (message->follows == FOLLOWS_BLOB && !begin_blob(c)) {
        message->follow_size = 0;
        put_code(c, TPM_FAIL);
    }
    if (message->follow_size == 0) return;
    c->following = (struct following){.what = message->follows, .left = message->follow_size, .blob = message->blob};
    message->answer_size = 0;
}

static void keep_part(struct connection *c, struct span part)
{
    struct given_blob *blob = &c->front->blobs[c->following.blob];
    if (blob->giver != c) { /* another client has begun the same one meanwhile, or a reset came between */
        c->following.result = TPM_FAIL;
        return;
    }
    memcpy(blob->bytes + blob->taken, part.data, part.size);
    blob->taken += part.size;
    if (blob->taken == blob->size) blob->giver = NULL;
}

/* One part of what follows, as a message of its own. */
static void take_part(struct connection *c)
{
    struct following *following = &c->following;
    size_t size = c->received < following->left ? c->received : following->left;
    if (size > PART_MAX) size = PART_MAX;
    const struct span part = span_of(c->buffer->received, size);
    c->message = (struct message){.size = size, .failure = TPM_RC_FAILURE};
    following->left -= size;
    if (following->what == FOLLOWS_BLOB) {
        keep_part(c, part);
    } else if (!following->result) {
        c->message.verb = FRONT_HASH_DATA;
        c->message.command = part;
    }
}

/* It may stop in the middle as well as within a message. */
static void watch_following(struct connection *c)
{
    if (c->state != CONNECTION_READING || c->following.what == FOLLOWS_NOTHING || c->stalled_since) return;
    c->stalled_since = clock_now_usec();
    arm_sweep(c->front);
}

/* The next message. False if it is not complete. */
static bool next_message(struct connection *c)
{
    struct front *front = c->front;
    if (c->following.what != FOLLOWS_NOTHING) {
        take_part(c);
        return true;
    }
    c->endpoint->protocol->parse(span_of(c->buffer->received, c->received), c->endpoint->channel, front->powered,
                                 &c->message);
    if (c->message.size && c->message.follows != FOLLOWS_NOTHING) begin_following(c);
    return c->message.size;
}

/* What needs no turn is answered at once. */
static void answer_now(struct connection *c)
{
    const bool is_part = c->following.what != FOLLOWS_NOTHING && c->message.follows == FOLLOWS_NOTHING;
    if (is_part)
        answer_part(c, OK);
    else
        connection_answer(c);
}

/* Goes through what was received until something is missing: bytes, the TPM's turn, or the client's willingness. */
static void connection_advance(struct connection *c)
{
    struct front *front = c->front;
    while (c->state == CONNECTION_READING && c->received) {
        struct message *message = &c->message;
        if (!next_message(c)) {
            if (!c->stalled_since) c->stalled_since = clock_now_usec();
            arm_sweep(front);
            return;
        }
        c->stalled_since = 0;
        c->spoken = true;
        if (message->sets_locality) c->endpoint->channel->locality = message->locality;
        if (message->adopts) adopt_passed(c);
        if (is_anothers(c)) refuse_message(c);
        if (message->verb == FRONT_NOTHING) {
            answer_now(c);
        } else {
            c->state = CONNECTION_QUEUED;
            queue_push(front, c);
        }
    }
    watch_following(c);
}

/* --- events --- */

/* All descriptors that came are closed but the last one, and that when nothing takes it. */
static void take_descriptors(struct connection *c, struct msghdr *header)
{
    for (struct cmsghdr *m = CMSG_FIRSTHDR(header); m; m = CMSG_NXTHDR(header, m)) {
        if (m->cmsg_level != SOL_SOCKET || m->cmsg_type != SCM_RIGHTS) continue;
        for (size_t i = 0; i < (m->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
            if (c->passed >= 0) close(c->passed);
            memcpy(&c->passed, CMSG_DATA(m) + i * sizeof(int), sizeof(int));
        }
    }
}

static ssize_t receive_some(struct connection *c, uint8_t *bytes, size_t size)
{
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(4 * sizeof(int))];
    } control;
    struct iovec part = {bytes, size};
    struct msghdr header = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    if (!c->endpoint->protocol->passes_descriptors) return recv(c->fd, bytes, size, MSG_DONTWAIT);
    ssize_t got = recvmsg(c->fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got >= 0) take_descriptors(c, &header);
    return got;
}

/* False if nothing came. */
static bool connection_receive(struct connection *c)
{
    if (!take_buffer(c)) return false;
    ssize_t size = receive_some(c, c->buffer->received + c->received, RECEIVE_MAX - c->received);
    if (size > 0) {
        c->received += (size_t)size;
        connection_advance(c);
    } else if (size == 0 || (errno != EAGAIN && errno != EINTR)) {
        connection_close(c);
    } else if (c->received == 0) {
        release_buffer(c);
    }
    return size > 0;
}

/*
 * A client whose command is answered often has the next one there at once: while this process waited for its turn on the
 * core, or while it served another. That is looked for before the loop is asked, which costs more.
 */
static void connection_serve(struct connection *c)
{
    for (size_t i = 0; i < COMMANDS_A_TURN; i++) {
        if (!connection_receive(c)) return;
        dispatch(c->front);
        if (c->state != CONNECTION_READING || c->received) return;
    }
}

static void connection_flush(struct connection *c)
{
    uint8_t *response = c->large ? c->large : c->buffer->response;
    struct iovec rest = {response + c->response_sent, c->response_size - c->response_sent};
    ssize_t sent = send_parts(c->fd, &rest, 1);
    if (sent < 0) {
        connection_close(c);
        return;
    }
    c->response_sent += (size_t)sent;
    if (c->response_sent < c->response_size) return;
    connection_finish(c);
    connection_advance(c);
}

static int on_connection(sd_event_source *source, int fd, uint32_t events, void *ctx)
{
    (void)source, (void)fd;
    struct connection *c = ctx;
    struct front *front = c->front;
    if (c->state == CONNECTION_SENDING)
        connection_flush(c);
    else if ((events & (EPOLLHUP | EPOLLERR)) && !(events & EPOLLIN))
        connection_close(c);
    else if (c->state == CONNECTION_READING)
        connection_serve(c);
    else
        wait_for(c, 0); /* it has more to say, but its turn comes first */
    dispatch(front);
    return 0;
}

static void pause_listeners(struct front *front, bool pause)
{
    front->listeners_paused = pause;
    for (size_t i = 0; i < front->endpoint_count; i++)
        if (front->endpoints[i].source)
            (void)sd_event_source_set_enabled(front->endpoints[i].source, pause ? SD_EVENT_OFF : SD_EVENT_ON);
    if (pause) arm_sweep(front);
}

static struct connection *longest_silent(struct front *front)
{
    struct connection *oldest = NULL;
    for (size_t i = 0; i < FRONT_CONNECTIONS_MAX; i++) {
        struct connection *c = &front->connections[i];
        if (c->state != CONNECTION_READING || c->spoken || c->received) continue;
        if (!oldest || c->opened < oldest->opened) oldest = c;
    }
    return oldest;
}

static struct connection *free_connection(struct front *front)
{
    for (size_t i = 0; i < FRONT_CONNECTIONS_MAX; i++)
        if (front->connections[i].state == CONNECTION_FREE) return &front->connections[i];
    return NULL;
}

/* A free place, made if need be at the cost of who stalls, then of who never completed a message. */
static struct connection *make_place(struct front *front)
{
    struct connection *place = free_connection(front);
    if (place) return place;
    struct connection *victim = longest_stalled(front, false);
    if (!victim) victim = longest_silent(front);
    arm_sweep(front);
    if (!victim) return NULL;
    front->stalled++;
    connection_close(victim);
    return victim;
}

/* Takes fd over. */
static struct err connection_open(struct front *front, const struct endpoint *endpoint, int fd,
                                  struct connection **out_connection)
{
    struct connection *c = make_place(front);
    if (!c) {
        front->refused++;
        close(fd);
        return FAIL(NO_SPACE);
    }
    if (sd_event_add_io(front->event, &c->source, fd, EPOLLIN, on_connection, c) < 0) {
        close(fd);
        return FAIL(SYSTEM);
    }
    c->endpoint = endpoint;
    c->state = CONNECTION_READING;
    c->fd = fd;
    c->events = EPOLLIN;
    c->opened = clock_now_usec();
    c->passed = -1;
    *out_connection = c;
    return OK;
}

static int on_accept(sd_event_source *source, int fd, uint32_t events, void *ctx)
{
    (void)source, (void)events;
    const struct endpoint *endpoint = ctx;
    struct front *front = endpoint->front;
    int client = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (client >= 0) {
        struct connection *c = NULL;
        struct err result = connection_open(front, endpoint, client, &c);
        if (result.code == ERR_SYSTEM) pause_listeners(front, true);
        return 0;
    }
    bool passing = errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
    if (!passing) {
        log_line(LOG_LEVEL_WARNING, "no client can be accepted for a second (%s); raise LimitNOFILE= if this goes on",
                 strerror(errno));
        pause_listeners(front, true);
    }
    return 0;
}

static int on_sweep(sd_event_source *source, uint64_t usec, void *ctx)
{
    (void)source, (void)usec;
    struct front *front = ctx;
    front->sweep_armed = false;
    uint64_t time = clock_now_usec();
    bool unfinished = false;
    for (size_t i = 0; i < FRONT_CONNECTIONS_MAX; i++) {
        struct connection *c = &front->connections[i];
        if (c->stalled_since && time - c->stalled_since >= FRONT_STALL_USEC) {
            front->stalled++;
            connection_close(c);
        }
        if (c->stalled_since) unfinished = true;
    }
    if (front->stalled || front->refused)
        log_line(LOG_LEVEL_NOTICE, "%u clients were closed because they stalled, %u refused because %u are connected",
                 front->stalled, front->refused, FRONT_CONNECTIONS_MAX);
    front->stalled = front->refused = 0;
    if (front->listeners_paused) pause_listeners(front, false);
    if (unfinished) arm_sweep(front);
    dispatch(front);
    return 0;
}

/* --- life --- */

static bool open_timer(struct front *front, sd_event_time_handler_t handler, sd_event_source **out)
{
    return sd_event_add_time(front->event, out, CLOCK_MONOTONIC, UINT64_MAX, TIMER_ACCURACY_USEC, handler, front) >=
               0 &&
           sd_event_source_set_enabled(*out, SD_EVENT_OFF) >= 0;
}

struct err front_open(sd_event *event, const struct front_owner *owner, void *memory, struct front **out_front)
{
    struct front *front = calloc(1, sizeof *front);
    ENSURE(front, NO_MEMORY);
    front->event = sd_event_ref(event);
    front->owner = *owner;
    front->powered = true;
    pool_init(&front->pool, memory);
    for (size_t i = 0; i < FRONT_CONNECTIONS_MAX; i++)
        front->connections[i] = (struct connection){.front = front, .fd = -1, .passed = -1};
    if (!open_timer(front, on_sweep, &front->sweep) || !open_timer(front, on_again, &front->again)) {
        front_close(&front);
        return FAIL(NO_MEMORY);
    }
    *out_front = front;
    return OK;
}

struct err front_listen(struct front *front, const struct protocol *protocol, unsigned channel, int listen_fd)
{
    if (front->endpoint_count == FRONT_ENDPOINTS_MAX || channel >= FRONT_ENDPOINTS_MAX) {
        close(listen_fd);
        return FAIL(TOO_LARGE);
    }
    struct endpoint *endpoint = &front->endpoints[front->endpoint_count];
    *endpoint =
        (struct endpoint){.front = front, .protocol = protocol, .channel = &front->channels[channel], .fd = listen_fd};
    endpoint->channel->rejects_locality_4 = front->manners.rejects_locality_4;
    front->endpoint_count++;
    if (listen_fd < 0) return OK;
    ENSURE(sd_event_add_io(front->event, &endpoint->source, listen_fd, EPOLLIN, on_accept, endpoint) >= 0, SYSTEM);
    return OK;
}

struct err front_connected(struct front *front, const struct protocol *protocol, unsigned channel, int fd)
{
    struct connection *c = NULL;
    struct err result = front_listen(front, protocol, channel, -1);
    if (result.code && fd >= 0) close(fd);
    TRY(result);
    struct endpoint *endpoint = &front->endpoints[front->endpoint_count - 1];
    endpoint->lone = true;
    return fd >= 0 ? connection_open(front, endpoint, fd, &c) : OK;
}

void front_behave(struct front *front, const struct front_manners *manners)
{
    front->manners = *manners;
    front->powered = !manners->off;
    front->starting_up = manners->starts_up;
}

/* Blobs are not handed over. A client who would go on from them has to see that, and not a TPM that was reset. */
static bool loses_blobs(const struct connection *c)
{
    const struct given_blob *blobs = c->front->blobs;
    return !c->endpoint->protocol->data && (blobs[0].bytes || blobs[1].bytes);
}

size_t front_hand_over(struct front *front, struct front_session out_sessions[FRONT_CONNECTIONS_MAX])
{
    size_t count = 0;
    for (size_t i = 0; i < FRONT_CONNECTIONS_MAX; i++) {
        struct connection *c = &front->connections[i];
        if (c->state == CONNECTION_FREE) continue;
        bool between = c->received == 0 && c->following.what == FOLLOWS_NOTHING;
        bool idle = c->state == CONNECTION_READING && between && !loses_blobs(c);
        bool waits = c->state == CONNECTION_RUNNING && c->message.verb == FRONT_RESET && !front->export_given &&
                     c->received == c->message.size;
        if (idle || waits) {
            out_sessions[count++] = (struct front_session){c->fd, (uint8_t)(c->endpoint - front->endpoints), waits};
            connection_detach(c);
        } else {
            connection_close(c);
        }
    }
    return count;
}

struct err front_adopt(struct front *front, const struct front_session *session)
{
    if (session->endpoint >= front->endpoint_count || (session->waits && front->busy)) {
        close(session->fd);
        return FAIL(BAD_VALUE);
    }
    const struct endpoint *endpoint = &front->endpoints[session->endpoint];
    struct connection *c = NULL;
    TRY(connection_open(front, endpoint, session->fd, &c));
    c->spoken = true;
    if (!session->waits) return OK;
    if (!take_buffer(c)) {
        connection_close(c);
        return FAIL(NO_SPACE);
    }
    c->message = (struct message){.verb = FRONT_RESET, .answer_size = 4, .failure = endpoint->protocol->failure};
    c->state = CONNECTION_RUNNING;
    front->busy = true;
    front->verb = FRONT_RESET;
    front->running = c;
    return OK;
}

void front_close(struct front **front)
{
    struct front *f = *front;
    if (!f) return;
    for (size_t i = 0; i < FRONT_CONNECTIONS_MAX; i++)
        if (f->connections[i].state != CONNECTION_FREE) connection_close(&f->connections[i]);
    for (size_t i = 0; i < f->endpoint_count; i++) {
        sd_event_source_disable_unref(f->endpoints[i].source);
        if (f->endpoints[i].fd >= 0) close(f->endpoints[i].fd);
    }
    for (size_t i = 0; i < BLOB_COUNT; i++)
        drop_blob(&f->blobs[i]);
    drop_export(f);
    sd_event_source_disable_unref(f->sweep);
    sd_event_source_disable_unref(f->again);
    sd_event_unref(f->event);
    free(f);
    *front = NULL;
}
