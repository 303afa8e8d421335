/* Whole files: read at once, written so that nobody ever sees a half. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/span.h"
#include "untrusted/cli/explain.h"

struct file {
    uint8_t *data;
    size_t size; /* bytes */
};

/* Reads a file of at most limit bytes. The caller ends it with file_close. ERR_SYSTEM, ERR_TOO_LARGE. */
struct err file_read(const char *path, size_t limit, struct file *out_file, struct explanation *why);

/* Replaces path by a file with these bytes: the old one or the new one is there, whenever the machine stops.
 * ERR_SYSTEM. */
struct err file_replace(const char *path, struct span bytes, struct explanation *why);

void file_close(struct file *file);
