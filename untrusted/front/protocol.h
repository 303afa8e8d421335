/*
 * What a client protocol is to the front: a function that turns received bytes into one message, and how the outcome
 * of a message is answered. The functions are pure: they touch no descriptor, change no state, keep no pointer but the
 * span of the command that they found in the received bytes.
 */
#pragma once

#include <stdbool.h>

#include "base/err.h"
#include "base/span.h"

#define TPM_HEADER_SIZE     10u   /* tag, size, code (TPM 2.0 Library, Part 1, 18.1) */
#define TPM_MESSAGE_MAX     4096u /* bytes of a command or a response */
#define FRAME_HEADER_SIZE   9u    /* u32 number, u8 locality, u32 size */
#define RECEIVE_MAX         (FRAME_HEADER_SIZE + TPM_MESSAGE_MAX)
#define RESPONSE_MAX        (4u + TPM_MESSAGE_MAX + 4u) /* u32 size, response, u32 0 */
#define LOCALITY_MAX        4u
#define ANSWER_MAX          16u

#define PART_MAX            4096u /* of what follows a message, with the owner at a time */
#define BLOB_MAX            (256u * 1024u)
#define BLOB_COUNT          2u /* of an export: what is permanent, and what is volatile */

#define TPM_BAD_PARAMETER   0x03u /* TPM 1.2 Main, Part 2, 16, which the control channel speaks; so the next two */
#define TPM_FAIL            0x09u
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
    FRONT_HASH_START,
    FRONT_HASH_DATA,
    FRONT_HASH_END,
    FRONT_BUFFER_SIZE,
    FRONT_INFO,
    FRONT_STORE_VOLATILE,
    FRONT_EXPORT, /* the TPM as it is, for another process to go on from */
    FRONT_LOCK,   /* this one goes on, and no other */
    FRONT_VERB_COUNT,
};

/* What the clients of one address share. */
struct channel {
    uint8_t locality; /* of the commands that carry none themselves */
    bool rejects_locality_4;
};

enum follows {
    FOLLOWS_NOTHING,
    FOLLOWS_HASHED, /* each part is a FRONT_HASH_DATA */
    FOLLOWS_BLOB,   /* it is kept for the next FRONT_RESET; blob says as which */
};

struct message {
    size_t size; /* bytes that it takes of those received; 0: it is not complete yet */
    enum front_verb verb;
    uint64_t number;      /* FRONT_BUFFER_SIZE: wanted; FRONT_INFO: flags */
    uint32_t offset;      /* of what is to be answered */
    uint32_t follow_size; /* bytes behind it, that the answer waits for */
    enum follows follows;
    uint8_t blob;
    uint8_t locality;
    bool sets_locality;  /* locality is the channel's from now on */
    bool framed;         /* the response goes between u32 size and u32 0 */
    bool close;          /* once it is answered */
    bool adopts;         /* the descriptor that came with it becomes a data connection */
    struct span command; /* FRONT_COMMAND: part of the received bytes */
    uint32_t failure;    /* sent instead of answer's first bytes when another verb than FRONT_COMMAND failed */
    uint32_t refusal;    /* the same, if the TPM refused it (ERR_BAD_VALUE); 0: failure */
    /* Makes the answer of what came of a verb; what is in *out_tail, a part of response, goes behind it. NULL: response is of
     * no interest. */
    void (*finish)(struct message *message, struct err result, struct span response, struct span *out_tail);
    uint8_t answer_size; /* bytes; 0: no answer */
    uint8_t answer[ANSWER_MAX];
};

/* How a command is answered that does not reach the TPM: in the form and the codes of its family. */
struct dialect {
    uint16_t tag;          /* of a response without sessions */
    uint32_t failure;      /* the TPM did not run it */
    uint32_t retry;        /* the TPM could not start it now */
    uint32_t command_size; /* no command has this size */
    uint32_t locality;     /* there is no such locality */
    struct {
        uint16_t tag;
        uint32_t code;  /* of TPM2_Startup, TPM_Startup */
        uint16_t clear; /* its argument; the number behind it goes on from what was saved */
        uint32_t done;  /* the answer of a TPM that was started already */
    } startup;
};

extern const struct dialect dialect_20;
extern const struct dialect dialect_12;

struct protocol {
    const char *name;
    bool data; /* a descriptor that a client passes over the control channel becomes a connection of this one */
    bool passes_descriptors; /* a client may send one with a message (SCM_RIGHTS) */
    /* Called with 1 to RECEIVE_MAX bytes. A message of RECEIVE_MAX bytes is always complete. */
    void (*parse)(struct span received, const struct channel *channel, bool powered, struct message *out_message);
    const struct dialect *dialect;
    const struct protocol *of_12; /* the same before a TPM 1.2; NULL: it is of TPM 2.0, or is the one of TPM 1.2 */
    uint32_t response_when_off;   /* response code to a command while the TPM is off; 0: an empty response */
    uint32_t failure;             /* of another verb than a command, for a client whose message another process read */
};

extern const struct protocol protocol_stream;         /* swtpm's data channel */
extern const struct protocol protocol_control;        /* swtpm's control channel */
extern const struct protocol protocol_mssim_command;  /* the simulator's command port */
extern const struct protocol protocol_mssim_platform; /* the simulator's platform port */

extern const struct protocol protocol_stream_12; /* swtpm's two before a TPM 1.2 */
extern const struct protocol protocol_control_12;

/* The response that says nothing but code: tag, 10, code. */
void tpm_error_response(const struct dialect *dialect, uint32_t code, uint8_t out_response[TPM_HEADER_SIZE]);
