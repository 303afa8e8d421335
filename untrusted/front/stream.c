/*
 * swtpm's data channel: TPM commands with nothing around them, at the locality that the control channel set; or in the
 * simulator's framing, which sets that locality.
 *
 * Guarantees: exactly as many bytes as the header says become one command, however they arrive. A size that no command
 * can have is answered with TPM_RC_COMMAND_SIZE and ends the connection.
 */
#include "untrusted/front/frame.h"

#define TAG_NO_SESSIONS 0x8001u
#define TAG_SESSIONS    0x8002u
#define SEND_COMMAND    8u

static bool is_framed(uint16_t tag, uint32_t first)
{
    return tag != TAG_NO_SESSIONS && tag != TAG_SESSIONS && first == SEND_COMMAND;
}

static void stream_parse(struct span received, const struct channel *channel, bool powered, struct message *out_message)
{
    (void)powered;
    *out_message = (struct message){.locality = channel->locality};
    struct reader first = reader_of(received);
    uint32_t number = 0;
    if (read_be32(&first, &number).code) return;
    if (is_framed((uint16_t)(number >> 16), number)) {
        frame_parse(received, out_message);
        out_message->sets_locality = out_message->verb == FRONT_COMMAND;
        return;
    }

    struct reader r = reader_of(received);
    uint16_t tag = 0;
    uint32_t size = 0;
    if (read_be16(&r, &tag).code || read_be32(&r, &size).code) return;
    if (size < TPM_HEADER_SIZE || size > TPM_MESSAGE_MAX) {
        out_message->size = received.size;
        out_message->close = true;
        message_refuse_command(out_message, TPM_RC_COMMAND_SIZE);
        return;
    }
    if (received.size < size) return;
    out_message->size = size;
    out_message->verb = FRONT_COMMAND;
    out_message->command = span_of(received.data, size);
}

const struct protocol protocol_stream = {
    .name = "swtpm data",
    .parse = stream_parse,
    .response_when_off = TPM_RC_FAILURE,
};
