#include "untrusted/swtpm/suboptions.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define MODE_MAX 07777u
#define PORT_MAX 65535u

static bool number(const char *text, int base, unsigned most, unsigned *out)
{
    char *end = NULL;
    if (*text < '0' || *text > '9') return false;
    const unsigned long value = strtoul(text, &end, base);
    if (*end || value > most) return false;
    *out = (unsigned)value;
    return true;
}

static bool take_text(const char *value, void *out)
{
    if (!value || !*value) return false;
    *(const char **)out = value;
    return true;
}

static bool take_flag(const char *value, void *out)
{
    if (value && strcmp(value, "true") != 0 && strcmp(value, "false") != 0) return false;
    *(bool *)out = !value || strcmp(value, "true") == 0;
    return true;
}

static bool take_number(const char *value, void *out)
{
    return value && number(value, 10, INT_MAX, out);
}

static bool take_octal(const char *value, void *out)
{
    return value && number(value, 8, MODE_MAX, out);
}

static bool take_fd(const char *value, void *out)
{
    unsigned fd = 0;
    if (!value || !number(value, 10, INT_MAX, &fd)) return false;
    *(int *)out = (int)fd;
    return true;
}

static bool take_port(const char *value, void *out)
{
    unsigned port = 0;
    if (!value || !number(value, 10, PORT_MAX, &port) || port == 0) return false;
    *(unsigned *)out = port;
    return true;
}

static const struct {
    bool (*take)(const char *value, void *out);
    const char *wanted;
} kinds[] = {
    [SUB_TEXT] = {take_text, "a value"},
    [SUB_FLAG] = {take_flag, "true, false or no value"},
    [SUB_NUMBER] = {take_number, "a number"},
    [SUB_OCTAL] = {take_octal, "an octal number"},
    [SUB_FD] = {take_fd, "a file descriptor"},
    [SUB_PORT] = {take_port, "a port, 1 to 65535"},
    [SUB_IGNORED] = {NULL, NULL},
    [SUB_REFUSED] = {NULL, NULL},
};

static struct err take(const char *option, char *item, const struct sub *table, void *out, struct explanation *why)
{
    char *value = strchr(item, '=');
    if (value) *value++ = '\0';
    const struct sub *sub = table;
    while (sub->name && strcmp(sub->name, item) != 0)
        sub++;
    if (!sub->name) return explain(why, FAIL(USAGE), "--%s has no %.60s", option, item);
    if (sub->kind == SUB_REFUSED) return explain(why, FAIL(USAGE), "--%s %s: %s", option, sub->name, sub->why);
    if (sub->kind == SUB_IGNORED) return OK;
    if (kinds[sub->kind].take(value, (char *)out + sub->offset)) return OK;
    return explain(why, FAIL(USAGE), "--%s %s wants %s", option, sub->name, kinds[sub->kind].wanted);
}

struct err suboptions_parse(const char *option, char *text, const struct sub *table, void *out, struct explanation *why)
{
    char *rest = text;
    for (char *item; (item = strsep(&rest, ",")) != NULL;)
        if (*item) TRY(take(option, item, table, out, why));
    return OK;
}
