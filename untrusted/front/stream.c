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
    command_parse(received, &dialect_20, out_message);
}

const struct protocol protocol_stream = {
    .name = "swtpm data",
    .data = true,
    .dialect = &dialect_20,
    .of_12 = &protocol_stream_12,
    .parse = stream_parse,
    .response_when_off = TPM_RC_FAILURE,
};
