/*
 * swtpm's control channel from the client's end: of any swtpm, not of ours alone.
 *
 * Guarantees: an answer is read to exactly the size that its command has; nothing that a server says is believed beyond
 * what the caller has room for. Calls wait for a server that does not answer.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/span.h"
#include "untrusted/cli/explain.h"

enum control_number {
    CONTROL_GET_CAPABILITY = 0x01,
    CONTROL_INIT = 0x02,
    CONTROL_SHUTDOWN = 0x03,
    CONTROL_GET_ESTABLISHED = 0x04,
    CONTROL_SET_LOCALITY = 0x05,
    CONTROL_HASH_START = 0x06,
    CONTROL_HASH_DATA = 0x07,
    CONTROL_HASH_END = 0x08,
    CONTROL_CANCEL = 0x09,
    CONTROL_STORE_VOLATILE = 0x0a,
    CONTROL_RESET_ESTABLISHED = 0x0b,
    CONTROL_GET_STATEBLOB = 0x0c,
    CONTROL_SET_STATEBLOB = 0x0d,
    CONTROL_STOP = 0x0e,
    CONTROL_GET_CONFIG = 0x0f,
    CONTROL_SET_BUFFERSIZE = 0x11,
    CONTROL_GET_INFO = 0x12,
    CONTROL_LOCK_STORAGE = 0x13,
};

#define CONTROL_TEXT_MAX 4096u

/* The descriptor is the caller's. ERR_SYSTEM. */
struct err control_connect_unix(const char *path, int *out_fd, struct explanation *why);
/* address: [HOST]:[PORT], as --tcp has it. */
struct err control_connect_tcp(const char *address, int *out_fd, struct explanation *why);

/*
 * Sends number and body. out_result is the first word of the answer; when it is 0, out holds the answer_size bytes behind
 * it. always: they come whatever it is. ERR_SYSTEM with errno.
 */
struct err control_ask(int fd, enum control_number number, struct span body, uint32_t *out_result, void *out,
                       size_t answer_size, bool always);

/* The text of GET_INFO, with a NUL. ERR_TOO_LARGE, ERR_SYSTEM. */
struct err control_info(int fd, uint64_t flags, uint32_t *out_result, char out_text[CONTROL_TEXT_MAX]);
