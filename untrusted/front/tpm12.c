/*
 * swtpm's two channels before a TPM 1.2. The control channel is the same, but for what it says of itself: there is no
 * framed command on the data channel, and what fails, fails in a TPM 1.2's words (TPM Main 1.2, Part 2, 16).
 *
 * Guarantees: as stream.c and control.c.
 */
#include "untrusted/front/frame.h"

#define TPM_TAG_RSP_COMMAND    0xc4u
#define TPM_FAIL               0x09u
#define TPM_BAD_PARAM_SIZE     0x19u
#define TPM_BAD_LOCALITY       0x3du
#define TPM_RETRY              0x800u

#define GET_CAPABILITY         0x01u
#define SEND_COMMAND_HEADER    0x80u /* the byte of the capabilities that it is in, and its place there */
#define SEND_COMMAND_HEADER_AT 6u

const struct dialect dialect_12 = {
    .tag = TPM_TAG_RSP_COMMAND,
    .failure = TPM_FAIL,
    .retry = TPM_RETRY,
    .command_size = TPM_BAD_PARAM_SIZE,
    .locality = TPM_BAD_LOCALITY,
    .startup = {.tag = 0x00c1, .code = 0x99, .clear = 1, .done = 0x26}, /* TPM_INVALID_POSTINIT */
};

static void stream_parse(struct span received, const struct channel *channel, bool powered, struct message *out_message)
{
    (void)powered;
    *out_message = (struct message){.locality = channel->locality};
    command_parse(received, &dialect_12, out_message);
}

static void control_parse(struct span received, const struct channel *channel, bool powered,
                          struct message *out_message)
{
    protocol_control.parse(received, channel, powered, out_message);
    out_message->failure = TPM_FAIL;
    struct reader r = reader_of(received);
    uint32_t number = 0;
    if (read_be32(&r, &number).code || number != GET_CAPABILITY || out_message->size == 0) return;
    out_message->answer[SEND_COMMAND_HEADER_AT] &= (uint8_t)~SEND_COMMAND_HEADER;
}

const struct protocol protocol_stream_12 = {
    .name = "swtpm data",
    .data = true,
    .dialect = &dialect_12,
    .parse = stream_parse,
    .response_when_off = TPM_FAIL,
};

const struct protocol protocol_control_12 = {
    .name = "swtpm control",
    .passes_descriptors = true,
    .dialect = &dialect_12,
    .parse = control_parse,
    .failure = TPM_FAIL,
};
