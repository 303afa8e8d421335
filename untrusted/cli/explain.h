/*
 * What went wrong, said to the person at the terminal: the err says which kind of failure it is, the
 * explanation what it was in this case and what to do about it. Whoever finds the fault explains it.
 */
#pragma once

#include "base/err.h"

struct explanation {
    char text[512]; /* "" until somebody has explained */
};

/* Writes the sentence and returns err, so that a function can end with it. */
__attribute__((format(printf, 3, 4))) struct err explain(struct explanation *why, struct err err, const char *format,
                                                         ...);

/* The explanation, or, where nobody gave one, the general sentence of err. */
const char *explanation_text(const struct explanation *why, struct err err);
