#include "base/id.h"

#include <stdbool.h>
#include <string.h>

static bool hyphen_before(size_t byte)
{
    return byte == 4 || byte == 6 || byte == 8 || byte == 10;
}

void id_format(const struct instance_id *id, char out_text[ID_TEXT_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    char *next = out_text;
    for (size_t i = 0; i < sizeof id->bytes; i++) {
        if (hyphen_before(i)) *next++ = '-';
        *next++ = digits[id->bytes[i] >> 4];
        *next++ = digits[id->bytes[i] & 15];
    }
    *next = '\0';
}

static struct err parse_digit(char c, uint8_t *out_digit)
{
    if (c >= '0' && c <= '9')
        *out_digit = (uint8_t)(c - '0');
    else if (c >= 'a' && c <= 'f')
        *out_digit = (uint8_t)(c - 'a' + 10);
    else if (c >= 'A' && c <= 'F')
        *out_digit = (uint8_t)(c - 'A' + 10);
    else
        return FAIL(BAD_VALUE);
    return OK;
}

struct err id_parse(const char *text, struct instance_id *out_id)
{
    struct instance_id id;
    ENSURE(strlen(text) == ID_TEXT_SIZE - 1, BAD_VALUE);
    for (size_t i = 0; i < sizeof id.bytes; i++) {
        uint8_t high = 0;
        uint8_t low = 0;
        if (hyphen_before(i)) ENSURE(*text++ == '-', BAD_VALUE);
        TRY(parse_digit(*text++, &high));
        TRY(parse_digit(*text++, &low));
        id.bytes[i] = (uint8_t)(high << 4 | low);
    }
    *out_id = id;
    return OK;
}
