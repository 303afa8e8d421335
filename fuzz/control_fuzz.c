/*
 * A whole front between clients who do anything and an owner who answers with anything. There are two clients of the
 * control channel and two of the data channel, over socket pairs. The input is a series of steps, each a kind, a client,
 * a size (a byte each) and so many bytes:
 *
 *   SEND     bytes to the front, as one piece
 *   FILL     the first byte, repeated up to the second, times 64
 *   TAKE     what has come for the client, at most so many bytes times 64
 *   LEAVE    the client goes, and another one takes its place
 *   PASS     SEND with a descriptor
 *   HOLD     the owner keeps what it is asked for, until ANSWER
 *   ANSWER   the outcome of the request that is kept: its code by the first byte, its response the rest
 *   RESPOND  the outcome, and the response, of all requests that are not kept
 *   PROCESS  the front is handed over to another one
 *
 * Holds: the owner is never asked for two things at a time, and for nothing but what its header allows; the front comes to
 * rest; whatever came, it serves a client who comes behind; at the end all clients are hung up on, no descriptor is left
 * and the memory is wiped.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "untrusted/front/front.h"
#include "untrusted/front/pool.h"
#include "untrusted/host/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CLIENTS       4u
#define ENDPOINTS     2u
#define TURNS_MAX     20000u
#define SEND_BUFFER   4608
#define RESPONSE_MOST (4u + 2 * BLOB_MAX)

#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) abort();                                                                                     \
    } while (0)

enum step { SEND, FILL, TAKE, LEAVE, PASS, HOLD, ANSWER, RESPOND, PROCESS, STEP_COUNT };

static sd_event *event;
static struct front *front;
static uint8_t memory[POOL_MEMORY_SIZE];
static int clients[CLIENTS];
static bool hold;
static bool is_open; /* a request that is kept */
static enum front_verb verb;
static struct err outcome;
static uint8_t given[256]; /* the response: the size of a part of an export, or a text, or anything */
static size_t given_size;

/* Nothing is logged: it would be most of the time. */
const char *err_sentence(struct err error)
{
    (void)error;
    return "";
}

void log_line(enum log_level level, const char *format, ...)
{
    (void)level, (void)format;
}

/* What is asked for again is asked for at once, so that the loop comes to rest without waiting. */
int __real_sd_event_source_set_time_relative(sd_event_source *source, uint64_t usec);
int __wrap_sd_event_source_set_time_relative(sd_event_source *source, uint64_t usec);
static unsigned refusals; /* for want of a lease, of one request */

int __wrap_sd_event_source_set_time_relative(sd_event_source *source, uint64_t usec)
{
    return __real_sd_event_source_set_time_relative(source, usec < 100000 ? 0 : usec);
}

/* --- the owner --- */

static struct err code_of(uint8_t choice)
{
    static const struct err codes[] = {{ERR_NONE},    {ERR_NONE},      {ERR_NONE},  {ERR_BAD_VALUE},
                                       {ERR_TPM_OFF}, {ERR_STATE_OLD}, {ERR_LEASE}, {ERR_LINK_CLOSED}};
    return codes[choice % (sizeof codes / sizeof codes[0])];
}

/* As long as the verb's may be; of an export the parts are as long as the bytes say. */
static struct span response_for(enum front_verb wanted, uint8_t out[RESPONSE_MOST])
{
    uint32_t number = 0;
    struct reader r = reader_of(span_of(given, given_size));
    if (read_u32(&r, &number).code) number = 0;
    memcpy(out, given, given_size);
    memset(out + given_size, 'e', RESPONSE_MOST - given_size);
    if (wanted == FRONT_COMMAND)
        return span_of(out, TPM_HEADER_SIZE + number % (TPM_MESSAGE_MAX - TPM_HEADER_SIZE + 1));
    if (wanted == FRONT_EXPORT) return span_of(out, given_size < 8 ? given_size : number % RESPONSE_MOST);
    return span_of(out, given_size);
}

static void answer(void)
{
    static uint8_t response[RESPONSE_MOST];
    const struct err result = outcome.code == ERR_LEASE && refusals++ > 3 ? FAIL(TPM) : outcome;
    is_open = false;
    if (result.code != ERR_LEASE) refusals = 0;
    front_done(front, result, result.code ? span_empty() : response_for(verb, response));
}

static void perform(void *ctx, const struct front_request *request)
{
    (void)ctx;
    static uint8_t copy[2 * BLOB_MAX];
    REQUIRE(!is_open);
    REQUIRE(request->verb > FRONT_NOTHING && request->verb < FRONT_VERB_COUNT);
    REQUIRE(request->locality <= LOCALITY_MAX);
    const size_t size = request->command.size;
    if (request->verb == FRONT_COMMAND)
        REQUIRE(size >= TPM_HEADER_SIZE && size <= TPM_MESSAGE_MAX);
    else if (request->verb == FRONT_HASH_DATA)
        REQUIRE(size >= 1 && size <= PART_MAX);
    else
        REQUIRE(request->verb == FRONT_RESET ? size <= 2 * BLOB_MAX : size == 0);
    if (size) memcpy(copy, request->command.data, size); /* for the sanitiser */
    is_open = true;
    verb = request->verb;
    if (!hold) answer();
}

/* --- the clients --- */

static unsigned endpoint_of(unsigned client)
{
    return client % ENDPOINTS;
}

static int connect_to(unsigned endpoint)
{
    int pair[2];
    const int small = SEND_BUFFER;
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
    REQUIRE(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small) == 0);
    const struct front_session session = {.fd = pair[0], .endpoint = (uint8_t)endpoint};
    REQUIRE(front_adopt(front, &session).code == 0);
    return pair[1];
}

static void pump(void)
{
    unsigned turns = 0;
    while (sd_event_run(event, 0) > 0)
        REQUIRE(turns++ < TURNS_MAX);
}

static void send_to(unsigned client, const void *bytes, size_t size, int fd)
{
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {(void *)(uintptr_t)bytes, size};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (size == 0) return;
    if (fd >= 0) {
        header.msg_control = &control;
        header.msg_controllen = sizeof control;
        control.aligned =
            (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.aligned), &fd, sizeof fd);
    }
    (void)!sendmsg(clients[client], &header, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* False if it is hung up on. */
static bool take(int client, size_t size)
{
    uint8_t bytes[4096];
    while (size > 0) {
        ssize_t got = recv(client, bytes, size < sizeof bytes ? size : sizeof bytes, MSG_DONTWAIT);
        if (got == 0) return false;
        if (got < 0) return errno == EAGAIN;
        size -= (size_t)got;
    }
    return true;
}

static void fill(unsigned client, struct span bytes)
{
    uint8_t filler[64];
    if (bytes.size < 2) return;
    memset(filler, bytes.data[0], sizeof filler);
    for (unsigned i = 0; i < bytes.data[1]; i++) {
        send_to(client, filler, sizeof filler, -1);
        if (i % 32 == 0) pump();
    }
}

static void leave(unsigned client)
{
    close(clients[client]);
    pump();
    clients[client] = connect_to(endpoint_of(client));
}

static void pass(unsigned client, struct span bytes)
{
    int pair[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
    send_to(client, bytes.data, bytes.size, pair[0]);
    close(pair[0]);
    close(pair[1]);
}

/* --- the process --- */

static void open_front(void)
{
    static const struct protocol *const protocols[ENDPOINTS] = {&protocol_control, &protocol_stream};
    const struct front_owner owner = {.perform = perform};
    REQUIRE(front_open(event, &owner, memory, &front).code == 0);
    for (unsigned i = 0; i < ENDPOINTS; i++)
        REQUIRE(front_listen(front, protocols[i], 0, -1).code == 0);
}

static void close_front(void)
{
    front_close(&front);
    for (size_t i = 0; i < sizeof memory; i++)
        REQUIRE(memory[i] == 0);
    is_open = false; /* whoever asked has gone with it */
    refusals = 0;
}

static void hand_over(void)
{
    struct front_session sessions[FRONT_CONNECTIONS_MAX];
    size_t count = front_hand_over(front, sessions);
    bool waits = false;
    REQUIRE(count <= FRONT_CONNECTIONS_MAX);
    close_front();
    open_front();
    for (size_t i = 0; i < count; i++) {
        REQUIRE(front_adopt(front, &sessions[i]).code == 0);
        REQUIRE(!waits || !sessions[i].waits);
        waits = waits || sessions[i].waits;
    }
    is_open = waits;
    verb = FRONT_RESET;
    if (is_open && !hold) answer();
}

static void choose_response(struct span bytes)
{
    outcome = code_of(bytes.size ? bytes.data[0] : 0);
    given_size = bytes.size ? bytes.size - 1 : 0;
    if (given_size) memcpy(given, bytes.data + 1, given_size);
}

static void step(enum step kind, unsigned client, struct span bytes)
{
    switch (kind) {
    case SEND:
        send_to(client, bytes.data, bytes.size, -1);
        break;
    case FILL:
        fill(client, bytes);
        break;
    case TAKE:
        (void)take(clients[client], bytes.size * 64);
        break;
    case LEAVE:
        leave(client);
        break;
    case PASS:
        pass(client, bytes);
        break;
    case HOLD:
        hold = true;
        break;
    case ANSWER:
        if (!is_open) break;
        choose_response(bytes);
        answer();
        break;
    case RESPOND:
        hold = false;
        choose_response(bytes);
        if (is_open) answer();
        break;
    default:
        hand_over();
    }
    pump();
}

/* Whatever has come before. */
static void serve_one_more(void)
{
    static const uint8_t get_capability[4] = {0, 0, 0, 1};
    uint8_t bytes[8];
    int fd = connect_to(0);
    REQUIRE(send(fd, get_capability, sizeof get_capability, MSG_NOSIGNAL) == sizeof get_capability);
    pump();
    REQUIRE(recv(fd, bytes, sizeof bytes, MSG_DONTWAIT) == sizeof bytes);
    close(fd);
    pump();
}

static int lowest_descriptor(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    REQUIRE(fd >= 0);
    close(fd);
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader r = reader_of(span_of(data, size));
    uint8_t kind = 0, client = 0, count = 0;
    struct span bytes;
    const int before = lowest_descriptor();
    hold = false;
    outcome = OK;
    given_size = 0;
    REQUIRE(sd_event_new(&event) >= 0);
    open_front();
    for (unsigned i = 0; i < CLIENTS; i++)
        clients[i] = connect_to(endpoint_of(i));
    while (!read_u8(&r, &kind).code && !read_u8(&r, &client).code && !read_u8(&r, &count).code) {
        (void)read_span(&r, count < r.left ? count : r.left, &bytes).code;
        step((enum step)(kind % STEP_COUNT), client % CLIENTS, bytes);
    }
    step(RESPOND, 0, span_empty());
    REQUIRE(!is_open);
    serve_one_more();
    close_front();
    for (unsigned i = 0; i < CLIENTS; i++) {
        REQUIRE(!take(clients[i], SIZE_MAX));
        close(clients[i]);
    }
    event = sd_event_unref(event);
    REQUIRE(lowest_descriptor() == before);
    return 0;
}
