/* The name of an instance, or of a trust domain: a UUID, written in lower case with hyphens (RFC 9562, 4). */
#pragma once

#include <stdint.h>

#include "base/err.h"

#define INSTANCE_ID_SIZE 16u
#define ID_TEXT_SIZE     37u /* bytes with the NUL */

struct instance_id {
    uint8_t bytes[INSTANCE_ID_SIZE];
};

void id_format(const struct instance_id *id, char out_text[ID_TEXT_SIZE]);

/* Takes upper case too. ERR_BAD_VALUE. */
struct err id_parse(const char *text, struct instance_id *out_id);
