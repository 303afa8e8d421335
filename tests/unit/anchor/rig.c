#include "tests/unit/anchor/rig.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"

const struct lie honest = {.at = NOWHERE};

static uint32_t left_behind[256];
static size_t left_count;

void chip_make(struct chip *chip)
{
    *chip = (struct chip){.directory = "/tmp/vtpm-chip-XXXXXX", .wire = -1};
    assert_non_null(mkdtemp(chip->directory));
    chip_start(chip);
}

static int try_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int wire = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(wire >= 0);
    if (connect(wire, (struct sockaddr *)&address, sizeof address) == 0) return wire;
    close(wire);
    return -1;
}

static void wire_up(struct chip *chip)
{
    char path[100];
    (void)snprintf(path, sizeof path, "%s/tpm", chip->directory);
    for (unsigned i = 0; i < 2000 && chip->wire < 0; i++) {
        chip->wire = try_connect(path);
        if (chip->wire < 0) usleep(10000);
    }
    assert_true(chip->wire >= 0);
}

void chip_start(struct chip *chip)
{
    char server[128], control[128], state[128];
    (void)snprintf(server, sizeof server, "type=unixio,path=%s/tpm", chip->directory);
    (void)snprintf(control, sizeof control, "type=unixio,path=%s/tpm.ctrl", chip->directory);
    (void)snprintf(state, sizeof state, "dir=%s", chip->directory);
    chip->pid = fork();
    assert_true(chip->pid >= 0);
    if (chip->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC); /* its words would cut lines of TAP */
        dup2(nowhere, STDOUT_FILENO);
        dup2(nowhere, STDERR_FILENO);
        execlp("swtpm", "swtpm", "socket", "--tpm2", "--server", server, "--ctrl", control, "--tpmstate", state,
               "--flags", "not-need-init,startup-clear", (char *)NULL);
        _exit(127);
    }
    wire_up(chip);
}

static void unwire(struct chip *chip)
{
    close(chip->wire);
    chip->wire = -1;
}

void chip_stop(struct chip *chip)
{
    char path[100];
    unwire(chip);
    kill(chip->pid, SIGKILL);
    assert_int_equal(waitpid(chip->pid, NULL, 0), chip->pid);
    (void)snprintf(path, sizeof path, "%s/tpm", chip->directory);
    (void)unlink(path);
    (void)snprintf(path, sizeof path, "%s/tpm.ctrl", chip->directory);
    (void)unlink(path);
    left_count = 0;
}

void chip_remove(struct chip *chip)
{
    char command[100];
    chip_stop(chip);
    (void)snprintf(command, sizeof command, "rm -r %s", chip->directory);
    assert_int_equal(system(command), 0);
}

int chip_tool(struct chip *chip, const char *command, char *out, size_t size)
{
    char line[768];
    unwire(chip); /* swtpm serves one connection at a time */
    (void)snprintf(line, sizeof line, "TPM2TOOLS_TCTI=swtpm:path=%s/tpm timeout 60 %s", chip->directory, command);
    FILE *pipe = popen(line, "r");
    assert_non_null(pipe);
    size_t got = fread(out, 1, size - 1, pipe);
    out[got] = 0;
    int status = pclose(pipe);
    wire_up(chip);
    return status;
}

static void receive(struct chip *chip, uint8_t *out, size_t size)
{
    while (size > 0) {
        ssize_t got = read(chip->wire, out, size);
        assert_true(got > 0);
        out += got;
        size -= (size_t)got;
    }
}

static uint32_t be32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static bool makes_object(uint32_t command)
{
    return command == 0x176 || command == 0x131; /* StartAuthSession, CreatePrimary */
}

void carry(struct chip *chip, struct span request, struct exchange *out)
{
    assert_true(request.size >= 10 && request.size <= sizeof out->request);
    assert_int_equal(be32(request.data + 2), request.size);
    memcpy(out->request, request.data, request.size);
    out->request_size = request.size;
    assert_int_equal(write(chip->wire, request.data, request.size), request.size);
    receive(chip, out->answer, 10);
    out->answer_size = be32(out->answer + 2);
    assert_true(out->answer_size >= 10 && out->answer_size <= sizeof out->answer);
    receive(chip, out->answer + 10, out->answer_size - 10);
    if (makes_object(be32(request.data + 6)) && be32(out->answer + 6) == 0) {
        assert_true(left_count < sizeof left_behind / sizeof left_behind[0]);
        left_behind[left_count++] = be32(out->answer + 10);
    }
}

void chip_command(struct chip *chip, const void *bytes, size_t size, uint32_t expected_code)
{
    struct exchange exchange;
    carry(chip, span_of(bytes, size), &exchange);
    assert_int_equal(be32(exchange.answer + 6), expected_code);
}

void chip_flush(struct chip *chip)
{
    while (left_count > 0) {
        uint8_t flush[14] = {0x80, 0x01, 0, 0, 0, 14, 0, 0, 0x01, 0x65};
        struct exchange exchange;
        left_count--;
        for (int i = 0; i < 4; i++)
            flush[10 + i] = (uint8_t)(left_behind[left_count] >> (24 - 8 * i));
        carry(chip, span_of(flush, sizeof flush), &exchange); /* it may be gone */
    }
}

static void reset(struct chip *chip)
{
    chip_stop(chip);
    chip_start(chip);
}

/* The answer as the enclave gets it. */
static struct span told(const struct lie *lie, const struct exchange *exchange, uint8_t out[ANCHOR_EXCHANGE_MAX])
{
    static const uint8_t error[] = {0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x01}; /* TPM_RC_FAILURE */
    if (lie->refuse) return span_of(error, sizeof error);
    memcpy(out, exchange->answer, exchange->answer_size);
    if (lie->flipped != NOWHERE) out[lie->flipped] ^= 1u << (lie->flipped % 8);
    return span_of(out, lie->cut_to != NOWHERE ? lie->cut_to : exchange->answer_size);
}

struct err operate(struct chip *chip, struct anchor *anchor, const struct writer *first, const struct lie *lie,
                   struct run *run)
{
    uint8_t request[ANCHOR_EXCHANGE_MAX], changed[ANCHOR_EXCHANGE_MAX];
    struct span next = writer_span(first);
    *run = (struct run){0};
    for (;;) {
        bool lies = run->count == lie->at;
        assert_true(run->count < sizeof run->exchanges / sizeof run->exchanges[0]);
        struct exchange *exchange = &run->exchanges[run->count++];
        if (lies && lie->reset_before) reset(chip);
        carry(chip, next, exchange);
        if (lies && lie->reset_after) {
            reset(chip);
            carry(chip, next, exchange);
        }
        bool changes = lies && !lie->reset_before && !lie->reset_after;
        struct span answer = changes ? told(lie, exchange, changed) : span_of(exchange->answer, exchange->answer_size);
        struct writer w = writer_of(request, sizeof request);
        TRY(anchor_answer(anchor, answer, &w, &run->there));
        if (run->there.done) {
            assert_int_equal(w.size, 0);
            return OK;
        }
        next = writer_span(&w);
    }
}

bool is_authenticated(const struct exchange *exchange)
{
    uint32_t command = be32(exchange->request + 6);
    return command == 0x12a || command == 0x136 || command == 0x14e; /* NV_DefineSpace, NV_Extend, NV_Read */
}
