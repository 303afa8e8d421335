#include "untrusted/cli/ctl_text.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* C0, DEL and C1; then marks, overrides and isolates of direction, what has no width, separators of lines, tags. */
static const struct {
    uint32_t first, last;
} unprintable[] = {
    {0x00, 0x1f},     {0x7f, 0x9f},     {0xad, 0xad},     {0x61c, 0x61c},   {0x180e, 0x180e}, {0x200b, 0x200f},
    {0x2028, 0x202e}, {0x2060, 0x206f}, {0xfe00, 0xfe0f}, {0xfeff, 0xfeff}, {0xfff0, 0xfffb}, {0xe0000, 0xe0fff},
};

static bool is_printable(uint32_t character)
{
    for (size_t i = 0; i < sizeof unprintable / sizeof *unprintable; i++)
        if (character >= unprintable[i].first && character <= unprintable[i].last) return false;
    return true;
}

/* Bytes of the character that begins at text, and its code point; UTF-8 is well-formed here. */
static size_t decode(const unsigned char *text, uint32_t *out_character)
{
    size_t size = text[0] < 0x80 ? 1 : text[0] < 0xe0 ? 2 : text[0] < 0xf0 ? 3 : 4;
    uint32_t character = size == 1 ? text[0] : text[0] & (0x7fu >> size);
    for (size_t i = 1; i < size; i++)
        character = character << 6 | (text[i] & 0x3f);
    *out_character = character;
    return size;
}

struct shown shown_text(const char *text)
{
    struct shown shown = {0};
    size_t used = 0;
    for (const unsigned char *next = (const unsigned char *)text; *next;) {
        uint32_t character = 0;
        size_t size = decode(next, &character);
        if (used + size >= sizeof shown.text) break;
        if (is_printable(character)) {
            memcpy(shown.text + used, next, size);
            used += size;
        } else {
            shown.text[used++] = '?';
        }
        next += size;
    }
    return shown;
}

static const json_t *member(const json_t *object, const char *path)
{
    char name[64];
    for (const char *dot; (dot = strchr(path, '.')); path = dot + 1) {
        (void)snprintf(name, sizeof name, "%.*s", (int)(dot - path), path);
        object = json_object_get(object, name);
    }
    return json_object_get(object, path);
}

struct shown shown_member(const json_t *object, const char *path)
{
    const json_t *value = member(object, path);
    struct shown shown = {"-"};
    if (json_is_string(value)) return shown_text(json_string_value(value));
    if (json_is_integer(value))
        (void)snprintf(shown.text, sizeof shown.text, "%lld", (long long)json_integer_value(value));
    if (json_is_boolean(value)) (void)snprintf(shown.text, sizeof shown.text, json_is_true(value) ? "yes" : "no");
    return shown;
}

struct shown shown_time(const json_t *seconds)
{
    struct shown shown = {"-"};
    double value = json_number_value(seconds);
    if (!json_is_number(seconds) || !(value >= 0 && value < 253402300800.0)) return shown; /* the year 10000 */
    time_t whole = (time_t)value;
    struct tm time;
    if (gmtime_r(&whole, &time)) (void)strftime(shown.text, sizeof shown.text, "%Y-%m-%d %H:%M:%S UTC", &time);
    return shown;
}

void shown_json(const json_t *value, size_t flags, FILE *out)
{
    char *text = json_dumps(value, flags | JSON_ENSURE_ASCII);
    for (const char *next = text; next && *next; next++)
        if (*next == 0x7f) /* ASCII to jansson, yet not printable; it can only stand in a string */
            (void)fputs("\\u007f", out);
        else
            (void)fputc(*next, out);
    (void)fputc('\n', out);
    free(text);
}
