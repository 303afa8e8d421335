#include "untrusted/host/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE_MAX_SIZE 1024u

static struct {
    const char *program;
    const char *subject; /* NULL: none */
    bool journal;
} log_state;

static bool stderr_is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long device = 0;
    unsigned long long inode = 0;
    struct stat status;
    if (!stream || sscanf(stream, "%llu:%llu", &device, &inode) != 2) return false;
    if (fstat(STDERR_FILENO, &status) != 0) return false;
    return status.st_dev == device && status.st_ino == inode;
}

void log_open(const char *program)
{
    log_state.program = program;
    log_state.journal = stderr_is_journal();
}

void log_about(const char *subject)
{
    log_state.subject = subject;
}

static size_t log_prefix(enum log_level level, char line[LINE_MAX_SIZE])
{
    const char *subject = log_state.subject ? log_state.subject : "";
    const char *colon = log_state.subject ? ": " : "";
    int size = 0;
    if (log_state.journal)
        size = snprintf(line, LINE_MAX_SIZE, "<%d>%s%s", (int)level, subject, colon);
    else if (log_state.program)
        size = snprintf(line, LINE_MAX_SIZE, "%s: %s%s", log_state.program, subject, colon);
    if (size < 0) return 0;
    return (size_t)size < LINE_MAX_SIZE / 2 ? (size_t)size : LINE_MAX_SIZE / 2;
}

void log_line(enum log_level level, const char *format, ...)
{
    int saved_errno = errno;
    char line[LINE_MAX_SIZE];
    size_t start = log_prefix(level, line);
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(line + start, sizeof line - start, format, arguments);
    va_end(arguments);
    size_t end = start;
    if (size > 0) end += (size_t)size < sizeof line - start ? (size_t)size : sizeof line - start - 1;
    for (size_t i = start; i < end; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7F) line[i] = '?';
    line[end++] = '\n';
    /* Nobody is left to be told when this fails. */
    ssize_t ignored = write(STDERR_FILENO, line, end);
    (void)ignored;
    errno = saved_errno;
}

const char *err_sentence(struct err error)
{
    switch (error.code) {
#define ERR_SENTENCE(name, value, sentence)                                                                            \
    case value:                                                                                                        \
        return sentence;
        ERR_LIST(ERR_SENTENCE)
#undef ERR_SENTENCE
    default:
        return "an error that this release does not know";
    }
}
