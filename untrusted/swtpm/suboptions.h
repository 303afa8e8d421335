/*
 * The comma lists that are values of swtpm's options: key=value, or a flag by itself.
 *
 * Guarantees: what is not in the table, lacks its value or has one that cannot be, is refused with a sentence that names
 * option and key; nothing is written for a key that is refused.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "untrusted/cli/explain.h"

enum sub_kind {
    SUB_TEXT,    /* const char *: part of the text that was parsed */
    SUB_FLAG,    /* bool; also =true and =false */
    SUB_NUMBER,  /* unsigned */
    SUB_OCTAL,   /* unsigned: mode bits */
    SUB_FD,      /* int, 0 or more */
    SUB_PORT,    /* unsigned, 1 to 65535 */
    SUB_IGNORED, /* nothing: it has no meaning here and is no mistake */
    SUB_REFUSED, /* nothing */
};

struct sub {
    const char *name; /* NULL: the table's end */
    enum sub_kind kind;
    size_t offset;
    const char *why; /* SUB_REFUSED: why, and what to use instead */
};

/* Takes text apart in place: it has to live as long as out. ERR_USAGE. */
struct err suboptions_parse(const char *option, char *text, const struct sub *table, void *out,
                            struct explanation *why);
