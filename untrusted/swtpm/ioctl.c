/*
 * swtpm_ioctl: asks a swtpm, Debian's or ours, something over its control channel. Options and output are those of
 * swtpm_ioctl 0.7.1 byte for byte, because scripts read them.
 *
 * Not here: the character devices of swtpm's CUSE interface, which Debian does not build.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "untrusted/swtpm/control_client.h"

#define COMPATIBLE_VERSION   "0.7.1"
#define INIT_DELETE_VOLATILE 1u
#define STATE_DECRYPTED      1u
#define HASH_CHUNK           4096u
#define STATE_MAX            (16u << 20)
#define LOCALITY_MAX         4u

static const char usage[] = "TPM emulator control tool version " COMPATIBLE_VERSION "\n"
                            "\n"
                            "Usage: swtpm_ioctl command <device path>\n"
                            "\n"
                            "The following commands are supported:\n"
                            "--tcp [<host>]:[<prt>]: connect to TPM on given host and port;\n"
                            "                        default host is 127.0.0.1, default port is 6546\n"
                            "--unix <path>         : connect to TPM using UnixIO socket\n"
                            "-c                    : get ptm capabilities\n"
                            "-i                    : do a hardware TPM_Init; if volatile state is found,\n"
                            "                        it will resume the TPM with it and delete it\n"
                            "                        afterwards\n"
                            "--stop                : stop the TPM without exiting\n"
                            "-s                    : shutdown the TPM; stops and exists\n"
                            "-e                    : get the tpmEstablished bit\n"
                            "-r <loc>              : reset the tpmEstablished bit; use the given locality\n"
                            "-v                    : store the TPM's volatile data\n"
                            "-C                    : cancel an ongoing TPM command\n"
                            "-l <loc>              : set the locality to the given number; valid\n"
                            "                        localities are 0-4\n"
                            "-h <data>             : hash the given data; if data is '-' then data are\n"
                            "                        read from stdin\n"
                            "--save <type> <file>  : store the TPM state blob of given type in a file;\n"
                            "                        type may be one of volatile, permanent, or savestate\n"
                            "--load <type> <file>  : load the TPM state blob of given type from a file;\n"
                            "                        type may be one of volatile, permanent, or savestate\n"
                            "-g                    : get configuration flags indicating which keys are in\n"
                            "                        use\n"
                            "-b <buffersize>       : set the buffer size of the TPM and get its current\n"
                            "                        size; get minimum and maximum supported sizes\n"
                            "--info <flags>        : get TPM implementation specific information;\n"
                            "                        flags must be an integer value\n"
                            "--lock-storage <n>    : take the lock on the state, n tries of 10 ms\n"
                            "--version             : display version and exit\n"
                            "--help                : display help screen and exit\n";

struct call {
    int fd;
    const char *value; /* of the option */
    const char *file;  /* behind it */
};

/* --- asking --- */

/* False after a sentence. */
static bool ask(const struct call *call, enum control_number number, struct span body, const char *name, void *out,
                size_t size)
{
    uint32_t result = 0;
    const bool always = number == CONTROL_GET_ESTABLISHED;
    if (control_ask(call->fd, number, body, &result, out, size, always && size > 4).code) {
        (void)fprintf(stderr, "Could not execute PTM_%s: %s\n", name, strerror(errno));
        return false;
    }
    if (result) (void)fprintf(stderr, "TPM result from PTM_%s: 0x%x\n", name, result);
    return result == 0;
}

static bool ask_word(const struct call *call, enum control_number number, uint32_t value, const char *name, void *out,
                     size_t size)
{
    const uint8_t body[4] = {(uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8), (uint8_t)value};
    return ask(call, number, span_of(body, sizeof body), name, out, size);
}

static uint32_t word(const uint8_t bytes[4])
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static bool number_of(const char *text, unsigned long *out)
{
    char *end = NULL;
    errno = 0;
    *out = strtoul(text, &end, 0);
    return *text && !*end && errno == 0 && *out <= UINT32_MAX;
}

static bool locality_of(const char *text, uint8_t out[1])
{
    unsigned long number = 0;
    if (!number_of(text, &number)) {
        (void)fprintf(stderr, "Could not get locality number from %s.\n", text);
        return false;
    }
    if (number > LOCALITY_MAX) (void)fprintf(stderr, "Locality outside valid range of [0..4].\n");
    out[0] = (uint8_t)number;
    return number <= LOCALITY_MAX;
}

/* --- what there is --- */

/* The answer is a 64-bit number, or a zero and a 32-bit one: the same bytes. */
static bool get_capability(const struct call *call)
{
    uint8_t low[4];
    uint32_t high = 0;
    if (control_ask(call->fd, CONTROL_GET_CAPABILITY, span_empty(), &high, low, sizeof low, true).code) {
        (void)fprintf(stderr, "Could not execute PTM_GET_CAPABILITY: %s\n", strerror(errno));
        return false;
    }
    printf("ptm capability is 0x%" PRIx64 "\n", (uint64_t)high << 32 | word(low));
    return true;
}

static bool init(const struct call *call)
{
    return ask_word(call, CONTROL_INIT, INIT_DELETE_VOLATILE, "INIT", NULL, 0);
}

static bool stop(const struct call *call)
{
    return ask(call, CONTROL_STOP, span_empty(), "STOP", NULL, 0);
}

static bool shut_down(const struct call *call)
{
    return ask(call, CONTROL_SHUTDOWN, span_empty(), "SHUTDOWN", NULL, 0);
}

static bool get_established(const struct call *call)
{
    uint8_t bit[4];
    if (!ask(call, CONTROL_GET_ESTABLISHED, span_empty(), "GET_TPMESTABLISHED", bit, sizeof bit)) return false;
    printf("tpmEstablished is %d\n", bit[0]);
    return true;
}

static bool reset_established(const struct call *call)
{
    uint8_t locality[1];
    return locality_of(call->value, locality) &&
           ask(call, CONTROL_RESET_ESTABLISHED, span_of(locality, 1), "RESET_TPMESTABLISHED", NULL, 0);
}

static bool set_locality(const struct call *call)
{
    uint8_t locality[1];
    return locality_of(call->value, locality) &&
           ask(call, CONTROL_SET_LOCALITY, span_of(locality, 1), "SET_LOCALITY", NULL, 0);
}

static bool store_volatile(const struct call *call)
{
    return ask(call, CONTROL_STORE_VOLATILE, span_empty(), "STORE_VOLATILE", NULL, 0);
}

static bool cancel(const struct call *call)
{
    return ask(call, CONTROL_CANCEL, span_empty(), "CANCEL_TPM_CMD", NULL, 0);
}

static bool get_config(const struct call *call)
{
    uint8_t flags[4];
    if (!ask(call, CONTROL_GET_CONFIG, span_empty(), "GET_CONFIG", flags, sizeof flags)) return false;
    printf("ptm configuration flags: 0x%x\n", word(flags));
    return true;
}

static bool set_buffersize(const struct call *call)
{
    uint8_t sizes[12];
    unsigned long wanted = 0;
    if (!number_of(call->value, &wanted)) {
        (void)fprintf(stderr, "Could not get buffersize from %s.\n", call->value);
        return false;
    }
    if (!ask_word(call, CONTROL_SET_BUFFERSIZE, (uint32_t)wanted, "SET_BUFFERSIZE", sizes, sizeof sizes)) return false;
    printf("TPM buffersize: %u\n", word(sizes));
    printf("minimum size  : %u\n", word(sizes + 4));
    printf("maximum size  : %u\n", word(sizes + 8));
    return true;
}

static bool get_info(const struct call *call)
{
    char text[CONTROL_TEXT_MAX];
    char *end = NULL;
    uint32_t result = 0;
    const uint64_t flags = strtoull(call->value, &end, 0);
    if (!*call->value || *end) {
        (void)fputs("Cannot parse info flags.\n", stderr);
        return false;
    }
    if (control_info(call->fd, flags, &result, text).code) {
        (void)fprintf(stderr, "Could not execute PTM_GET_INFO: %s\n", strerror(errno));
        return false;
    }
    if (result)
        (void)fprintf(stderr, "TPM result from PTM_GET_INFO: 0x%x\n", result);
    else
        printf("%s\n", text);
    return result == 0;
}

static bool lock_storage(const struct call *call)
{
    unsigned long tries = 0;
    if (!number_of(call->value, &tries)) {
        (void)fprintf(stderr, "Could not get number of retries from %s.\n", call->value);
        return false;
    }
    return ask_word(call, CONTROL_LOCK_STORAGE, (uint32_t)tries, "LOCK_STORAGE", NULL, 0);
}

/* --- hashing --- */

static bool hash_chunk(const struct call *call, const char *data, size_t size)
{
    uint8_t body[4 + HASH_CHUNK];
    struct writer w = writer_of(body, sizeof body);
    if (write_be32(&w, (uint32_t)size).code || write_bytes(&w, (const uint8_t *)data, size).code) return false;
    return ask(call, CONTROL_HASH_DATA, writer_span(&w), "HASH_DATA", NULL, 0);
}

static bool hash_text(const struct call *call, const char *text)
{
    for (size_t left = strlen(text); left > 0;) {
        const size_t size = left < HASH_CHUNK ? left : HASH_CHUNK;
        if (!hash_chunk(call, text, size)) return false;
        text += size;
        left -= size;
    }
    return true;
}

static bool hash_input(const struct call *call)
{
    char data[HASH_CHUNK];
    for (;;) {
        const ssize_t got = read(STDIN_FILENO, data, sizeof data);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) (void)fprintf(stderr, "Could not read from stdin: %s\n", strerror(errno));
        if (got <= 0) return got == 0;
        if (!hash_chunk(call, data, (size_t)got)) return false;
    }
}

static bool hash(const struct call *call)
{
    if (!ask(call, CONTROL_HASH_START, span_empty(), "HASH_START", NULL, 0)) return false;
    const bool hashed = strcmp(call->value, "-") == 0 ? hash_input(call) : hash_text(call, call->value);
    return hashed && ask(call, CONTROL_HASH_END, span_empty(), "HASH_END", NULL, 0);
}

/* --- states --- */

static bool type_of(const char *name, uint32_t *out_type)
{
    static const char *const names[] = {"permanent", "volatile", "savestate"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *out_type = (uint32_t)i + 1;
        return true;
    }
    (void)fprintf(stderr, "Unknown TPM state type '%s'", name);
    return false;
}

static void file_error(const char *what, const char *path)
{
    (void)fprintf(stderr, "Could not %s '%s'%s: %s\n", what, path, "", strerror(errno));
}

/* Three words, or four with the data's size. */
static struct span state_request(struct writer *w, uint32_t flags, uint32_t type, uint32_t last)
{
    const bool written = !write_be32(w, flags).code && !write_be32(w, type).code && !write_be32(w, last).code;
    return written ? writer_span(w) : span_empty();
}

static bool receive_state(const struct call *call, uint32_t type, int file)
{
    uint8_t body[12];
    uint8_t sizes[12];
    uint32_t result = 0;
    struct writer w = writer_of(body, sizeof body);
    const struct span request = state_request(&w, STATE_DECRYPTED, type, 0);
    struct err err = control_ask(call->fd, CONTROL_GET_STATEBLOB, request, &result, sizes, sizeof sizes, true);
    const uint32_t size = word(sizes + 8);
    if (err.code) (void)fprintf(stderr, "Could not execute ioctl PTM_GET_STATEBLOB: %s\n", strerror(errno));
    if (!err.code && result) (void)fprintf(stderr, "TPM result from PTM_GET_STATEBLOB: 0x%x\n", result);
    if (err.code || result) return false;
    for (uint32_t done = 0; done < size;) {
        uint8_t bytes[HASH_CHUNK];
        const ssize_t got = read(call->fd, bytes, size - done < sizeof bytes ? size - done : sizeof bytes);
        if (got <= 0 || write(file, bytes, (size_t)got) != got) {
            file_error("write to file", call->file);
            return false;
        }
        done += (uint32_t)got;
    }
    return true;
}

static bool save(const struct call *call)
{
    uint32_t type = 0;
    if (!type_of(call->value, &type)) return false;
    const int file = open(call->file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (file < 0) {
        (void)fprintf(stderr, "Could not open file '%s' for writing: %s\n", call->file, strerror(errno));
        return false;
    }
    const bool saved = receive_state(call, type, file);
    (void)close(file);
    return saved;
}

static bool send_state(const struct call *call, uint32_t type, int file, size_t size)
{
    const size_t head = 16;
    uint8_t *body = malloc(head - 4 + size + 4);
    if (!body) {
        (void)fprintf(stderr, "Could not allocate buffer with %zu bytes.\n", size);
        return false;
    }
    struct writer w = writer_of(body, head);
    (void)state_request(&w, 0, type, (uint32_t)size);
    const bool complete = read(file, body + w.size, size) == (ssize_t)size;
    if (!complete) (void)fprintf(stderr, "Could not read from file '%s': %s\n", call->file, strerror(errno));
    const bool sent =
        complete && ask(call, CONTROL_SET_STATEBLOB, span_of(body, w.size + size), "SET_STATEBLOB", NULL, 0);
    free(body);
    return sent;
}

static bool load(const struct call *call)
{
    struct stat status;
    uint32_t type = 0;
    if (!type_of(call->value, &type)) return false;
    const int file = open(call->file, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &status) != 0 || status.st_size > (off_t)STATE_MAX) {
        (void)fprintf(stderr, "Could not open file '%s' for reading: %s\n", call->file, strerror(errno));
        if (file >= 0) (void)close(file);
        return false;
    }
    const bool loaded = send_state(call, type, file, (size_t)status.st_size);
    (void)close(file);
    return loaded;
}

/* --- the command line --- */

enum { TCP = 1000, UNIX, DEVICE, VERSION, HELP };

static const struct command {
    const char *name;
    bool has_value, has_file;
    bool (*run)(const struct call *call);
} commands[] = {
    {"c", false, false, get_capability},  {"i", false, false, init},
    {"stop", false, false, stop},         {"s", false, false, shut_down},
    {"e", false, false, get_established}, {"r", true, false, reset_established},
    {"v", false, false, store_volatile},  {"C", false, false, cancel},
    {"l", true, false, set_locality},     {"h", true, false, hash},
    {"g", false, false, get_config},      {"b", true, false, set_buffersize},
    {"save", true, true, save},           {"load", true, true, load},
    {"info", true, false, get_info},      {"lock-storage", true, false, lock_storage},
};
#define COMMAND_COUNT (sizeof commands / sizeof *commands)

struct line {
    const char *tcp, *path, *device;
    const struct command *command;
    struct call call;
    int status; /* when nothing is to be done */
    bool ended;
};

static void make_table(struct option out[COMMAND_COUNT + 6])
{
    size_t i = 0;
    for (; i < COMMAND_COUNT; i++)
        out[i] = (struct option){commands[i].name, commands[i].has_value, NULL, (int)i};
    out[i++] = (struct option){"tcp", required_argument, NULL, TCP};
    out[i++] = (struct option){"unix", required_argument, NULL, UNIX};
    out[i++] = (struct option){"tpm-device", required_argument, NULL, DEVICE};
    out[i++] = (struct option){"version", no_argument, NULL, VERSION};
    out[i++] = (struct option){"help", no_argument, NULL, HELP};
    out[i] = (struct option){0};
}

static void finish(struct line *line, const char *text, FILE *out, int status)
{
    (void)fputs(text, out);
    line->ended = true;
    line->status = status;
}

static void take_command(struct line *line, const struct command *command, int argc, char **argv)
{
    if (line->command) {
        finish(line, "Only one command may be given.\n", stderr, EXIT_FAILURE);
        return;
    }
    line->command = command;
    line->call.value = optarg;
    if (!command->has_file) return;
    if (optind >= argc)
        finish(line, "Missing filename argument.\n", stderr, EXIT_FAILURE);
    else
        line->call.file = argv[optind++];
}

static void take_option(struct line *line, int option, int argc, char **argv)
{
    if (option == TCP) line->tcp = optarg;
    if (option == UNIX) line->path = optarg;
    if (option == DEVICE) line->device = optarg;
    if (option == VERSION)
        finish(line, "TPM emulator control tool version " COMPATIBLE_VERSION ", of enclave-vtpm " VTPM_VERSION "\n",
               stdout, EXIT_SUCCESS);
    if (option == HELP) finish(line, usage, stdout, EXIT_SUCCESS);
    if (option == '?') finish(line, "No valid command.\n", stderr, EXIT_FAILURE);
    if (option >= 0 && option < (int)COMMAND_COUNT) take_command(line, &commands[option], argc, argv);
}

static struct line parse(int argc, char **argv)
{
    struct option options[COMMAND_COUNT + 6];
    struct line line = {.call.fd = -1};
    make_table(options);
    for (int option; !line.ended && (option = getopt_long_only(argc, argv, "", options, NULL)) != -1;)
        take_option(&line, option, argc, argv);
    if (!line.ended && !line.command) finish(&line, "No valid command.\n", stderr, EXIT_FAILURE);
    if (!line.ended && optind < argc) line.device = argv[optind];
    return line;
}

static bool connect_to(struct line *line)
{
    struct explanation why = {0};
    struct err err = FAIL(USAGE);
    if (line->tcp)
        err = control_connect_tcp(line->tcp, &line->call.fd, &why);
    else if (line->path)
        err = control_connect_unix(line->path, &line->call.fd, &why);
    else
        err = explain(&why, err,
                      line->device ? "%s: character devices are not served here: use --unix or --tcp"
                                   : "Error: Missing device name.",
                      line->device);
    if (err.code) (void)fprintf(stderr, "%s\n", explanation_text(&why, err));
    return !err.code;
}

int main(int argc, char **argv)
{
    struct line line = parse(argc, argv);
    if (line.ended) return line.status;
    (void)signal(SIGPIPE, SIG_IGN);
    if (!connect_to(&line)) return EXIT_FAILURE;
    const bool done = line.command->run(&line.call);
    (void)close(line.call.fd);
    return done && fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
