#include "benchmark/sample.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "benchmark/target.h"

double now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

int sample_compare(const void *a, const void *b)
{
    double left = *(const double *)a;
    double right = *(const double *)b;
    return (left > right) - (left < right);
}

void print_median(const char *name, double *us, size_t samples)
{
    qsort(us, samples, sizeof *us, sample_compare);
    printf("%s\tus\t%.1f\t-\t-\n", name, us[samples / 2]);
}

void check(const char *what, struct err result)
{
    if (result.code) die("%s: error %u", what, (unsigned)result.code);
}
