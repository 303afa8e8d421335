#include "untrusted/front/endpoints.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "untrusted/host/log.h"

#define INHERITED_FD_MAX 1024

static struct err usage(const char *what, const char *text)
{
    log_line(LOG_LEVEL_ERROR, "%s: %s (--help lists the options)", what, text);
    return FAIL(USAGE);
}

static struct err add_pair(struct endpoints *e, const char *text, const struct protocol *first,
                           const struct protocol *second, const char *suffix)
{
    struct address address;
    struct address beside;
    const unsigned channel = (unsigned)e->count / 2;
    if (e->count + 2 > FRONT_ENDPOINTS_MAX) return usage("there are too many addresses", text);
    if (address_parse(text, &address).code || address_beside(&address, suffix, &beside).code)
        return usage("this is no address to listen on", text);
    e->places[e->count++] = (struct endpoint_place){.protocol = first, .channel = channel, .address = address};
    e->places[e->count++] = (struct endpoint_place){.protocol = second, .channel = channel, .address = beside};
    return OK;
}

struct err endpoints_add_swtpm(struct endpoints *e, const char *text)
{
    return add_pair(e, text, &protocol_stream, &protocol_control, ".ctrl");
}

struct err endpoints_add_mssim(struct endpoints *e, const char *text)
{
    if (strncmp(text, "tcp:", 4) != 0) return usage("the simulator's protocol is served on TCP only", text);
    return add_pair(e, text, &protocol_mssim_command, &protocol_mssim_platform, "");
}

struct err endpoints_take_family(struct endpoints *e, const char *text)
{
    e->of_12 = strcmp(text, "1.2") == 0;
    return e->of_12 || strcmp(text, "2.0") == 0 ? OK : usage("--tpm wants 2.0 or 1.2, not", text);
}

struct err endpoints_settle(struct endpoints *e)
{
    for (size_t i = 0; e->of_12 && i < e->count; i++) {
        struct endpoint_place *place = &e->places[i];
        if (!place->protocol->of_12) return usage("a TPM 1.2 is not served as", place->protocol->name);
        place->protocol = place->protocol->of_12;
    }
    return OK;
}

/* -1 for "none", -2 for what is no descriptor. */
static int parse_descriptor(const char *text)
{
    char *end = NULL;
    if (strcmp(text, "none") == 0) return -1;
    if (*text < '0' || *text > '9') return -2;
    const long number = strtol(text, &end, 10);
    return *end == '\0' && number > STDERR_FILENO && number < INHERITED_FD_MAX ? (int)number : -2;
}

struct err endpoints_add_inherited(struct endpoints *e, const char *text)
{
    static const struct {
        const char *prefix;
        const struct protocol *protocol;
        bool connected;
    } roles[] = {
        {"data:", &protocol_stream, false},
        {"control:", &protocol_control, false},
        {"data-client:", &protocol_stream, true},
        {"control-client:", &protocol_control, true},
    };
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++) {
        const size_t size = strlen(roles[i].prefix);
        if (strncmp(text, roles[i].prefix, size) != 0) continue;
        const int fd = parse_descriptor(text + size);
        if (fd < -1 || (fd < 0 && i > 0)) break;
        if (e->count == FRONT_ENDPOINTS_MAX) return usage("there are too many addresses", text);
        e->places[e->count++] = (struct endpoint_place){
            .protocol = roles[i].protocol, .inherited = true, .connected = roles[i].connected, .fd = fd};
        return OK;
    }
    return usage("this is no descriptor to serve", text);
}

void endpoints_release_clients(const struct endpoints *e, int fds[FRONT_ENDPOINTS_MAX])
{
    for (size_t i = 0; i < e->count; i++) {
        if (!e->places[i].connected || fds[i] < 0) continue;
        (void)close(fds[i]);
        fds[i] = -1;
    }
}

struct err endpoints_listen(const struct endpoints *e, uid_t uid, gid_t gid, int out_fds[FRONT_ENDPOINTS_MAX])
{
    for (size_t i = 0; i < e->count; i++) {
        if (e->places[i].inherited) {
            out_fds[i] = e->places[i].fd;
            continue;
        }
        struct err result = address_listen(&e->places[i].address, uid, gid, &out_fds[i]);
        if (!result.code) continue;
        const int why = errno;
        char place[ADDRESS_TEXT_SIZE];
        address_format(&e->places[i].address, place);
        log_line(LOG_LEVEL_ERROR, "listening for %s at %s: %s: %s", e->places[i].protocol->name, place,
                 err_sentence(result), strerror(why));
        return result;
    }
    return OK;
}

struct err endpoints_serve(const struct endpoints *e, const int fds[FRONT_ENDPOINTS_MAX], struct front *front)
{
    for (size_t i = 0; i < e->count; i++) {
        const struct endpoint_place *place = &e->places[i];
        TRY(place->connected ? front_connected(front, place->protocol, place->channel, fds[i])
                             : front_listen(front, place->protocol, place->channel, fds[i]));
    }
    return OK;
}

void endpoints_remove(const struct endpoints *e)
{
    for (size_t i = 0; i < e->count; i++)
        address_remove(&e->places[i].address);
}
