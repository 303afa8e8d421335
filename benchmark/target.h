/*
 * A TPM that is measured: one behind a unix socket with one persistent connection, or libtpms in this very process with
 * its state in memory, which is the floor that no vTPM built on it can be below.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct target {
    const char *name;
    bool in_process;
    int fd; /* of the connection, unless in_process */
    uint8_t response[4096 + 64];
    size_t response_size;
};

/* These end the program with a sentence on stderr when they fail: a measurement that went wrong is none. */
void target_connect(struct target *target, const char *name, const char *path);
bool target_try_connect(struct target *target, const char *name, const char *path); /* false: nobody listens yet */
void target_open_libtpms(struct target *target, const char *name);
void target_close(struct target *target);

/*
 * One command and its whole response, sent again on TPM_RC_RETRY. Returns the response code. The time of it is what is
 * measured, so nothing else happens here.
 */
uint32_t target_exchange(struct target *target, const uint8_t *command, size_t size);

_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
