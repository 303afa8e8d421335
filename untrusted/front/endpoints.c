#include "untrusted/front/endpoints.h"

#include <errno.h>
#include <string.h>

#include "untrusted/host/log.h"

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
    e->places[e->count++] = (struct endpoint_place){first, channel, address};
    e->places[e->count++] = (struct endpoint_place){second, channel, beside};
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

struct err endpoints_listen(const struct endpoints *e, uid_t uid, gid_t gid, int out_fds[FRONT_ENDPOINTS_MAX])
{
    for (size_t i = 0; i < e->count; i++) {
        struct err result = address_listen(&e->places[i].address, uid, gid, &out_fds[i]);
        if (!result.code) continue;
        log_line(LOG_LEVEL_ERROR, "listening for %s: %s: %s", e->places[i].protocol->name, err_sentence(result),
                 strerror(errno));
        return result;
    }
    return OK;
}

struct err endpoints_serve(const struct endpoints *e, const int fds[FRONT_ENDPOINTS_MAX], struct front *front)
{
    for (size_t i = 0; i < e->count; i++)
        TRY(front_listen(front, e->places[i].protocol, e->places[i].channel, fds[i]));
    return OK;
}

void endpoints_remove(const struct endpoints *e)
{
    for (size_t i = 0; i < e->count; i++)
        address_remove(&e->places[i].address);
}
