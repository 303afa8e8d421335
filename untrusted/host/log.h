/*
 * Lines for the operator, on standard error.
 *
 * Guarantees: one call is one line and one write(2); control characters in it, whoever put them there, come out as
 * '?', so nobody can forge a second line or steer a terminal. It does not guarantee that a line is kept, nor does it
 * hide secrets: callers never pass any.
 */
#pragma once

#include "base/err.h"

/* The numbers are those of syslog(3) and of the journal's "<N>" prefix (sd-daemon(3)). */
enum log_level {
    LOG_LEVEL_ERROR = 3,
    LOG_LEVEL_WARNING = 4,
    LOG_LEVEL_NOTICE = 5,
    LOG_LEVEL_INFO = 6,
};

/*
 * Names the program in front of every line. If standard error is the journal (JOURNAL_STREAM names it), lines carry
 * their level instead, as the journal adds the name itself. program stays the caller's and must outlive all logging.
 */
void log_open(const char *program);

/* From now on every line says that it is about this, in the journal too. Must outlive all logging. */
void log_about(const char *subject);

/* Writes one line of at most 1023 bytes; the rest is cut off. errno is left as it was. */
void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The sentence that a person reads for an error (base/err.h). Never NULL. */
const char *err_sentence(struct err error);
