#include "untrusted/cli/explain.h"

#include <stdarg.h>
#include <stdio.h>

#include "untrusted/host/log.h"

struct err explain(struct explanation *why, struct err err, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(why->text, sizeof why->text, format, arguments);
    va_end(arguments);
    return err;
}

const char *explanation_text(const struct explanation *why, struct err err)
{
    return why->text[0] ? why->text : err_sentence(err);
}
