#include "tests/fakes/fake_front.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/fakes/assertions.h"

static uint64_t time_moved;

uint64_t __real_clock_now_usec(void);
uint64_t __wrap_clock_now_usec(void);

uint64_t __wrap_clock_now_usec(void)
{
    return __real_clock_now_usec() + time_moved;
}

static void answer(struct fake_front *f)
{
    uint8_t response[TPM_MESSAGE_MAX] = {0x80, 0x01};
    f->open_requests--;
    if (f->verb != FRONT_COMMAND) {
        const uint8_t bit = 1;
        struct err outcome = f->failing > 1 ? OK : f->outcome;
        if (f->failing) f->failing--;
        bool tells = f->verb == FRONT_ESTABLISHED && !outcome.code;
        front_done(f->front, outcome, f->verb == FRONT_EXPORT ? f->export : span_of(&bit, tells ? 1 : 0));
        return;
    }
    if (f->refusal.code) {
        front_done(f->front, f->refusal, span_empty());
        return;
    }
    response[4] = (uint8_t)(f->response_size >> 8);
    response[5] = (uint8_t)f->response_size;
    size_t tail = f->command_size < f->response_size - 10 ? f->command_size : f->response_size - 10;
    memcpy(response + f->response_size - tail, f->command + f->command_size - tail, tail);
    front_done(f->front, OK, span_of(response, f->response_size));
}

static void perform(void *ctx, const struct front_request *request)
{
    struct fake_front *f = ctx;
    assert_int_equal(f->open_requests, 0);
    f->open_requests++;
    f->count++;
    f->verb = request->verb;
    f->locality = request->locality;
    f->command_size = request->command.size;
    if (request->command.size) memcpy(f->command, request->command.data, request->command.size);
    if (f->eager) {
        f->eager--;
        client_send(f->eager_fd, f->command, f->command_size);
    }
    if (!f->hold) answer(f);
}

static int listen_somewhere(void)
{
    const struct sockaddr_un nameless = {.sun_family = AF_UNIX}; /* autobind, unix(7) */
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&nameless, sizeof nameless.sun_family), 0);
    assert_int_equal(listen(fd, 128), 0);
    return fd;
}

void fake_front_open(struct fake_front *f)
{
    const struct protocol *protocols[] = {&protocol_stream, &protocol_control, &protocol_mssim_command,
                                          &protocol_mssim_platform};
    const struct front_owner owner = {.ctx = f, .perform = perform};
    *f = (struct fake_front){.response_size = 10};
    time_moved = 0;
    f->memory = calloc(1, POOL_MEMORY_SIZE);
    assert_non_null(f->memory);
    assert_true(sd_event_new(&f->event) >= 0);
    assert_ok(front_open(f->event, &owner, f->memory, &f->front));
    for (int i = 0; i < ENDPOINT_COUNT; i++) {
        f->listen_fds[i] = listen_somewhere();
        assert_ok(front_listen(f->front, protocols[i], (unsigned)i / 2, f->listen_fds[i]));
    }
}

void fake_front_close(struct fake_front *f)
{
    front_close(&f->front);
    assert_null(f->front);
    assert_true(fake_front_memory_is_wiped(f));
    sd_event_unref(f->event);
    free(f->memory);
}

void fake_front_release(struct fake_front *f)
{
    assert_int_equal(f->open_requests, 1);
    answer(f);
}

int fake_front_connect(const struct fake_front *f, int endpoint)
{
    struct sockaddr_un address;
    socklen_t size = sizeof address;
    assert_int_equal(getsockname(f->listen_fds[endpoint], (struct sockaddr *)&address, &size), 0);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, size), 0);
    return fd;
}

void fake_front_pump(struct fake_front *f)
{
    while (sd_event_run(f->event, 0) > 0)
        ;
}

void fake_front_pass_time(struct fake_front *f, uint64_t usec)
{
    fake_front_pump(f);
    time_moved += usec;
    assert_true(sd_event_run(f->event, UINT64_C(3000000)) > 0);
    fake_front_pump(f);
}

bool fake_front_memory_is_wiped(const struct fake_front *f)
{
    const uint8_t *bytes = f->memory;
    for (size_t i = 0; i < POOL_MEMORY_SIZE; i++)
        if (bytes[i]) return false;
    return true;
}

void client_send(int fd, const void *bytes, size_t size)
{
    assert_int_equal(send(fd, bytes, size, MSG_NOSIGNAL), size);
}

ssize_t client_receive(int fd, void *out_bytes, size_t size)
{
    ssize_t received = recv(fd, out_bytes, size, 0);
    if (received > 0) return received;
    return received < 0 && errno == EAGAIN ? 0 : -1;
}
