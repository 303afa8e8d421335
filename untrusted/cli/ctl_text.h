/*
 * What the daemon said, as a person reads it.
 *
 * Guarantees: no byte that steers a terminal comes out of here, whatever the daemon sent: control characters, and
 * characters that reverse, hide or join text, come out as '?'. The text itself may still be a lie.
 */
#pragma once

#include <stdio.h>

#include <jansson.h>

struct shown {
    char text[512];
};

/* text is UTF-8, as jansson guarantees; what does not fit is cut off between two characters. */
struct shown shown_text(const char *text);

/* A member of an object: a string or a number as it is, true and false as "yes" and "no"; "-" for null, for what is
 * missing and for anything else. path may lead through objects: "manager.mrenclave". */
struct shown shown_member(const json_t *object, const char *path);

/* A time in seconds since 1970-01-01 as date and time of day in UTC, "-" if it is none. */
struct shown shown_time(const json_t *seconds);

/* One JSON document and a newline; everything but printable ASCII is escaped. flags as of json_dumps. */
void shown_json(const json_t *value, size_t flags, FILE *out);
