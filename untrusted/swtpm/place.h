/*
 * A state directory of swtpm's, as it is used here: which instance it stands for, and the copies of its state there.
 *
 *   vtpm-instance      one line: the id of the instance. Whoever has this file and may ask vtpmd has the TPM.
 *   vtpm-copied        one line: SHA-256 of what was last written to the next one
 *   tpm2-00.permall    a copy of the instance's newest sealed state, for people's habits (backups, ls); of a TPM 1.2 it is
 *                      tpm-00.permall
 *
 * Guarantees: a directory that holds a TPM of swtpm's, or names an instance that there is not, is never taken for an
 * empty one. A copy is never read to start a TPM; one that somebody changed is kept beside before it is replaced.
 */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/id.h"
#include "base/span.h"
#include "untrusted/cli/explain.h"

#define PLACE_MARKER    "vtpm-instance"
#define PLACE_COPY      "tpm2-00.permall"
#define PLACE_COPY_12   "tpm-00.permall"
#define PLACE_LABEL_MAX 64u /* with its NUL */

struct place {
    const char *directory;
    unsigned mode;    /* of the copies */
    const char *copy; /* the name of the copy */
    bool of_12;       /* it is for a TPM 1.2 */
    bool has_id;
    char id[ID_TEXT_SIZE];
};

/* Reads the marker, if there is one. ERR_SYSTEM, ERR_BAD_VALUE (it is no marker), ERR_STATE_MISSING (a state of swtpm's
 * and no marker). */
struct err place_open(const char *directory, unsigned mode, bool of_12, struct place *out_place,
                      struct explanation *why);
/* There must be none. Durable on success. ERR_SYSTEM. */
struct err place_mark(struct place *place, const char *id, struct explanation *why);
/* It names nothing any more. */
void place_forget(const struct place *place);

/*
 * What an instance for this directory is called: the UUID in its path if there is one, else its last names; random: a part
 * that makes it unlike others, or NULL.
 */
void place_label(const char *directory, const char *random, char out_label[PLACE_LABEL_MAX]);

/* Replaces the copy. out_aside: where the one before was put because somebody had changed it, or "". ERR_SYSTEM. */
struct err place_copy(const struct place *place, struct span state, char out_aside[PATH_MAX], struct explanation *why);
/* Bytes of the copy; 0: there is none. */
size_t place_copy_size(const struct place *place);
