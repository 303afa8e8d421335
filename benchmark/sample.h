/* Times, and a row of ./bench of them. */
#pragma once

#include <stddef.h>

#include "base/err.h"

double now_us(void);
/* For qsort, of doubles. */
int sample_compare(const void *a, const void *b);
/* Sorts them. */
void print_median(const char *name, double *us, size_t samples);
/* Ends the program if it failed. */
void check(const char *what, struct err result);
