#include "untrusted/cpu/server.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <systemd/sd-event.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/memory.h"
#include "untrusted/cpu/build.h"
#include "untrusted/host/log.h"
#include "untrusted/sgx/xfrm.h"

#define DESCRIPTORS_OWN 32u

enum connection_state {
    STATE_NEW = 1,
    STATE_BUILDING = 2,
    STATE_RUNNING = 4,
    STATE_REFUSED = 8, /* by ECREATE, EADD or EINIT: no message is allowed any more */
};

struct connection {
    struct server *server;
    struct connection *next;
    sd_event_source *source; /* owns the socket */
    enum connection_state state;
    struct build build;
    struct processor_enclave enclave;
};

struct server {
    sd_event *event;
    sd_event_source *listener;
    struct server_secrets *secrets;
    struct build_images images;
    struct connection *connections;
    uint32_t connection_count;
    uint32_t connection_max;
    uint64_t host_xcr0;
};

/* A request, and what answers it. */
struct exchange {
    struct span body;
    int fd; /* came along, owned; -1: none */
    struct writer reply;
    int reply_fd; /* goes along, not owned; -1: none */
};

struct message_row {
    uint32_t message;
    uint32_t states;
    size_t size; /* bytes of body */
    bool descriptor;
    struct err (*handler)(struct connection *connection, struct exchange *exchange);
};

static struct err handle_image(struct connection *connection, struct exchange *exchange)
{
    return build_seal(&connection->server->images, exchange->fd, &exchange->reply_fd);
}

static struct err create(struct connection *connection, struct exchange *exchange)
{
    struct sgx_secs secs;
    memcpy(&secs, exchange->body.data, sizeof secs);
    TRY(processor_ecreate(&connection->enclave, &secs, connection->server->host_xcr0));
    TRY(build_start(&connection->build, &secs, exchange->fd));
    exchange->fd = -1;
    return OK;
}

static struct err add_pages(struct connection *connection, struct exchange *exchange)
{
    struct device_pages pages = {0};
    struct reader r = reader_of(exchange->body);
    uint32_t measured = 0;
    uint32_t zero = 0;
    TRY(read_u64(&r, &pages.offset));
    TRY(read_u64(&r, &pages.length));
    TRY(read_u64(&r, &pages.file_offset));
    TRY(read_u32(&r, &measured));
    TRY(read_u32(&r, &zero));
    TRY(read_u64(&r, &pages.secinfo.FLAGS));
    TRY(read_bytes(&r, pages.secinfo.reserved, sizeof pages.secinfo.reserved));
    TRY(reader_end(&r));
    ENSURE(measured <= 1 && zero == 0, BAD_VALUE);
    pages.measured = measured;
    return build_add(&connection->build, &connection->enclave, &pages);
}

static struct err init(struct connection *connection, struct exchange *exchange)
{
    struct sgx_sigstruct sigstruct;
    uint8_t mrenclave[SGX_HASH_SIZE];
    memcpy(&sigstruct, exchange->body.data, sizeof sigstruct);
    TRY(build_measure(&connection->build, &connection->server->images, mrenclave));
    TRY(processor_einit(&connection->enclave, &sigstruct, mrenclave));
    build_close(&connection->build);
    return OK;
}

static struct err advance(struct connection *connection, struct err result, enum connection_state next)
{
    connection->state = result.code ? STATE_REFUSED : next;
    return result;
}

static struct err handle_create(struct connection *connection, struct exchange *exchange)
{
    return advance(connection, create(connection, exchange), STATE_BUILDING);
}

static struct err handle_add_pages(struct connection *connection, struct exchange *exchange)
{
    return advance(connection, add_pages(connection, exchange), STATE_BUILDING);
}

static struct err handle_init(struct connection *connection, struct exchange *exchange)
{
    return advance(connection, init(connection, exchange), STATE_RUNNING);
}

static struct err handle_ereport(struct connection *connection, struct exchange *exchange)
{
    struct sgx_targetinfo target;
    uint8_t reportdata[SGX_REPORTDATA_SIZE];
    struct reader r = reader_of(exchange->body);
    TRY(read_bytes(&r, &target, sizeof target));
    TRY(read_bytes(&r, reportdata, sizeof reportdata));
    TRY(reader_end(&r));
    uint8_t *report = NULL;
    TRY(write_zeros(&exchange->reply, SGX_REPORT_SIZE, &report));
    return processor_ereport(&connection->server->secrets->processor, &connection->enclave, &target, reportdata,
                             report);
}

static struct err handle_egetkey(struct connection *connection, struct exchange *exchange)
{
    struct sgx_keyrequest request;
    memcpy(&request, exchange->body.data, sizeof request);
    uint8_t *reply = NULL; /* RAX and the key: the key is derived where it is sent from */
    uint32_t rax = 0;
    TRY(write_zeros(&exchange->reply, 4 + SGX_KEY_SIZE, &reply));
    TRY(processor_egetkey(&connection->server->secrets->processor, &connection->enclave, &request, &rax, reply + 4));
    exchange->reply.size -= 4 + SGX_KEY_SIZE;
    TRY(write_u32(&exchange->reply, rax));
    if (rax == SGX_SUCCESS) exchange->reply.size += SGX_KEY_SIZE;
    return OK;
}

static const struct message_row rows[] = {
    {CPU_IMAGE, STATE_NEW, 0, true, handle_image},
    {CPU_CREATE, STATE_NEW, sizeof(struct sgx_secs), true, handle_create},
    {CPU_ADD_PAGES, STATE_BUILDING, CPU_ADD_PAGES_SIZE, false, handle_add_pages},
    {CPU_INIT, STATE_BUILDING, sizeof(struct sgx_sigstruct), false, handle_init},
    {CPU_EREPORT, STATE_RUNNING, sizeof(struct sgx_targetinfo) + SGX_REPORTDATA_SIZE, false, handle_ereport},
    {CPU_EGETKEY, STATE_RUNNING, sizeof(struct sgx_keyrequest), false, handle_egetkey},
};

static void connection_close(struct connection *connection)
{
    struct server *server = connection->server;
    for (struct connection **at = &server->connections; *at; at = &(*at)->next)
        if (*at == connection) {
            *at = connection->next;
            break;
        }
    server->connection_count--;
    sd_event_source_disable_unref(connection->source);
    build_close(&connection->build);
    processor_enclave_close(&connection->enclave);
    free(connection);
}

static void close_fd(const int *fd)
{
    if (*fd >= 0) close(*fd);
}

static int message_descriptor(struct msghdr *message)
{
    int fd = -1;
    struct cmsghdr *rights = CMSG_FIRSTHDR(message);
    if (rights && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS &&
        rights->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(&fd, CMSG_DATA(rights), sizeof fd);
    return fd;
}

static struct err reply_send(int fd, struct span reply, int reply_fd)
{
    struct iovec part = {.iov_base = (void *)(uintptr_t)reply.data, .iov_len = reply.size};
    _Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(sizeof(int))] = {0};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (reply_fd >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(rights), &reply_fd, sizeof(int));
    }
    /* A client that does not take its reply is not waited for. */
    ENSURE(sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)reply.size, PEER_CLOSED);
    return OK;
}

static struct err answer(struct connection *connection, int socket_fd, struct span request, int *fd)
{
    struct server_secrets *secrets = connection->server->secrets;
    struct exchange exchange = {.fd = *fd, .reply_fd = -1};
    struct reader r = reader_of(request);
    uint32_t message = 0;
    TRY(read_u32(&r, &message));
    exchange.body = span_of(r.next, r.left);
    const struct message_row *row = NULL;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].message == message) row = &rows[i];
    ENSURE(row, BAD_VALUE);
    ENSURE(row->states & connection->state, SGX_ORDER);
    ENSURE(exchange.body.size >= row->size, TRUNCATED);
    ENSURE(exchange.body.size == row->size, TRAILING);
    ENSURE((exchange.fd >= 0) == row->descriptor, BAD_VALUE);
    exchange.reply = writer_of(secrets->reply + CPU_HEADER_SIZE, sizeof secrets->reply - CPU_HEADER_SIZE);
    struct err result = row->handler(connection, &exchange);
    *fd = exchange.fd;
    struct writer header = writer_of(secrets->reply, CPU_HEADER_SIZE);
    TRY(write_u32(&header, result.code));
    size_t body_size = result.code ? 0 : exchange.reply.size;
    struct err sent = reply_send(socket_fd, span_of(secrets->reply, CPU_HEADER_SIZE + body_size),
                                 result.code ? -1 : exchange.reply_fd);
    wipe(secrets->reply, sizeof secrets->reply);
    return sent;
}

static struct err serve_one(struct connection *connection, int socket_fd)
{
    uint8_t request[CPU_REQUEST_MAX];
    _Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(sizeof(int))]; /* CMSG_LEN: no room for a second one */
    struct iovec part = {.iov_base = request, .iov_len = sizeof request};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_LEN(sizeof(int))};
    ssize_t size = recvmsg(socket_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    int fd DEFER(close_fd) = size >= 0 ? message_descriptor(&message) : -1;
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return OK;
    ENSURE(size > 0, PEER_CLOSED);
    ENSURE(!(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)), TRAILING);
    return answer(connection, socket_fd, span_of(request, (size_t)size), &fd);
}

static int on_message(sd_event_source *source, int fd, uint32_t events, void *ctx)
{
    (void)source;
    (void)events;
    struct err result = serve_one(ctx, fd);
    if (result.code && result.code != ERR_PEER_CLOSED)
        log_line(LOG_LEVEL_WARNING, "a client broke the protocol and was disconnected: %s", err_sentence(result));
    if (result.code) connection_close(ctx);
    return 0;
}

static struct err connection_open(struct server *server, int fd)
{
    struct connection *connection = calloc(1, sizeof *connection);
    ENSURE(connection, NO_MEMORY);
    *connection = (struct connection){.server = server, .state = STATE_NEW, .build = {.image_fd = -1}};
    if (sd_event_add_io(server->event, &connection->source, fd, EPOLLIN, on_message, connection) < 0) {
        free(connection);
        return FAIL(NO_MEMORY);
    }
    connection->next = server->connections;
    server->connections = connection;
    server->connection_count++;
    if (sd_event_source_set_io_fd_own(connection->source, 1) >= 0) return OK;
    connection_close(connection);
    return FAIL(SYSTEM);
}

static int on_connect(sd_event_source *source, int listen_fd, uint32_t events, void *ctx)
{
    (void)source;
    (void)events;
    struct server *server = ctx;
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return 0;
    struct err result =
        server->connection_count < server->connection_max ? connection_open(server, fd) : FAIL(TOO_LARGE);
    if (!result.code) return 0;
    log_line(LOG_LEVEL_WARNING, "a connection was refused, %u are open: %s", server->connection_count,
             err_sentence(result));
    close(fd);
    return 0;
}

/* Two descriptors for each connection, and some for us: accept() never fails for want of one. */
static uint32_t connections_possible(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur <= DESCRIPTORS_OWN) return 0;
    rlim_t possible = (limit.rlim_cur - DESCRIPTORS_OWN) / 2;
    return possible < SERVER_CONNECTIONS_MAX ? (uint32_t)possible : SERVER_CONNECTIONS_MAX;
}

static struct err server_watch(struct server *server, int listen_fd)
{
    ENSURE(sd_event_new(&server->event) >= 0, SYSTEM);
    ENSURE(sd_event_add_signal(server->event, NULL, SIGTERM, NULL, NULL) >= 0, SYSTEM);
    ENSURE(sd_event_add_signal(server->event, NULL, SIGINT, NULL, NULL) >= 0, SYSTEM);
    ENSURE(sd_event_add_io(server->event, &server->listener, listen_fd, EPOLLIN, on_connect, server) >= 0, SYSTEM);
    ENSURE(sd_event_source_set_io_fd_own(server->listener, 1) >= 0, SYSTEM);
    return OK;
}

struct err server_open(int listen_fd, struct server_secrets *secrets, struct server **out_server)
{
    struct server *server DEFER(server_close) = calloc(1, sizeof *server);
    ENSURE(server, NO_MEMORY);
    server->secrets = secrets;
    server->host_xcr0 = xfrm_of_host();
    server->connection_max = connections_possible();
    TRY(server_watch(server, listen_fd));
    *out_server = server;
    server = NULL;
    return OK;
}

struct err server_run(struct server *server)
{
    ENSURE(sd_event_loop(server->event) >= 0, SYSTEM);
    return OK;
}

void server_close(struct server **server)
{
    if (!*server) return;
    while ((*server)->connections)
        connection_close((*server)->connections);
    sd_event_source_disable_unref((*server)->listener);
    sd_event_unref((*server)->event);
    build_images_close(&(*server)->images);
    free(*server);
    *server = NULL;
}
