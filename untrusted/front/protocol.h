/*
 * What a client protocol is to the front: a function that turns received bytes into one message, and how the outcome
 * of a message is answered. The functions are pure: they touch no descriptor, change no state, keep no pointer but the
 * span of the command that they found in the received bytes.
 */
#pragma once

#include <stdbool.h>

#include "base/span.h"

#define TPM_HEADER_SIZE     10u   /* tag, size, code (TPM 2.0 Library, Part 1, 18.1) */
#define TPM_MESSAGE_MAX     4096u /* bytes of a command or a response */
#define FRAME_HEADER_SIZE   9u    /* u32 number, u8 locality, u32 size */
#define RECEIVE_MAX         (FRAME_HEADER_SIZE + TPM_MESSAGE_MAX)
#define RESPONSE_MAX        (4u + TPM_MESSAGE_MAX + 4u) /* u32 size, response, u32 0 */
#define LOCALITY_MAX        4u
#define ANSWER_MAX          256u

#define TPM_BAD_PARAMETER   0x03u /* TPM 1.2 Main, Part 2, 16, which the control channel speaks; so the next one */
#define TPM_IOERROR         0x1fu
#define TPM_RC_FAILURE      0x101u
#define TPM_RC_LOCALITY     0x107u
#define TPM_RC_COMMAND_SIZE 0x142u
#define TPM_RC_RETRY        0x922u

/* What a message wants of the TPM. */
enum front_verb {
    FRONT_NOTHING,
    FRONT_COMMAND,
    FRONT_RESET,     /* _TPM_Init, whether the TPM is on or off */
    FRONT_POWER_ON,  /* nothing if it is on */
    FRONT_POWER_OFF, /* nothing if it is off */
    FRONT_SHUTDOWN,  /* power off, then the process ends */
    FRONT_ESTABLISHED,
    FRONT_RESET_ESTABLISHED,
    FRONT_VERB_COUNT,
};

/* What the clients of one address share. */
struct channel {
    uint8_t locality; /* of the commands that carry none themselves */
    bool rejects_locality_4;
};

struct message {
    size_t size; /* bytes that it takes of those received; 0: it is not complete yet */
    enum front_verb verb;
    uint8_t locality;
    bool sets_locality;   /* locality is the channel's from now on */
    bool framed;          /* the response goes between u32 size and u32 0 */
    bool close;           /* once it is answered */
    bool adopts;          /* the descriptor that came with it becomes a data connection */
    struct span command;  /* FRONT_COMMAND: part of the received bytes */
    uint32_t failure;     /* sent instead of answer's first bytes when another verb than FRONT_COMMAND failed */
    uint32_t refusal;     /* the same, if the TPM refused it (ERR_BAD_VALUE); 0: failure */
    uint16_t answer_size; /* bytes; 0: no answer */
    uint8_t answer[ANSWER_MAX];
};

struct protocol {
    const char *name;
    bool passes_descriptors; /* a client may send one with a message (SCM_RIGHTS) */
    /* Called with 1 to RECEIVE_MAX bytes. A message of RECEIVE_MAX bytes is always complete. */
    void (*parse)(struct span received, const struct channel *channel, bool powered, struct message *out_message);
    uint32_t response_when_off; /* response code to a command while the TPM is off; 0: an empty response */
    uint32_t failure;           /* of another verb than a command, for a client whose message another process read */
};

extern const struct protocol protocol_stream;         /* swtpm's data channel */
extern const struct protocol protocol_control;        /* swtpm's control channel */
extern const struct protocol protocol_mssim_command;  /* the simulator's command port */
extern const struct protocol protocol_mssim_platform; /* the simulator's platform port */

/* The response that says nothing but code: TPM_ST_NO_SESSIONS, 10, code. */
void tpm_error_response(uint32_t code, uint8_t out_response[TPM_HEADER_SIZE]);
