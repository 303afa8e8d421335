/*
 * A TPM command in the simulator's SEND_COMMAND framing. swtpm's data channel takes it too.
 *
 * Guarantees: a size outside 10 to 4096 is answered and the connection ended, because nothing tells where the next
 * message begins; a locality that does not exist is answered and changes nothing. That the command's own header says
 * the same size is the TPM's to check.
 */
#include "untrusted/front/frame.h"

#include <string.h>

#define TPM_ST_NO_SESSIONS 0x8001u

const struct dialect dialect_20 = {
    .tag = TPM_ST_NO_SESSIONS,
    .failure = TPM_RC_FAILURE,
    .retry = TPM_RC_RETRY,
    .command_size = TPM_RC_COMMAND_SIZE,
    .locality = TPM_RC_LOCALITY,
    .startup = {.tag = 0x8001, .code = 0x144, .clear = 0, .done = 0x100}, /* TPM_RC_INITIALIZE */
};

void tpm_error_response(const struct dialect *dialect, uint32_t code, uint8_t out_response[TPM_HEADER_SIZE])
{
    const uint8_t response[TPM_HEADER_SIZE] = {(uint8_t)(dialect->tag >> 8),
                                               (uint8_t)dialect->tag,
                                               0,
                                               0,
                                               0,
                                               TPM_HEADER_SIZE,
                                               (uint8_t)(code >> 24),
                                               (uint8_t)(code >> 16),
                                               (uint8_t)(code >> 8),
                                               (uint8_t)code};
    memcpy(out_response, response, sizeof response);
}

void message_answer_code(struct message *message, uint32_t code)
{
    message->answer[0] = (uint8_t)(code >> 24);
    message->answer[1] = (uint8_t)(code >> 16);
    message->answer[2] = (uint8_t)(code >> 8);
    message->answer[3] = (uint8_t)code;
    message->answer_size = 4;
}

void message_refuse_command(struct message *message, const struct dialect *dialect, uint32_t code)
{
    message->verb = FRONT_NOTHING;
    message->command = span_empty();
    tpm_error_response(dialect, code, message->answer);
    message->answer_size = TPM_HEADER_SIZE;
}

void frame_parse(struct span received, struct message *out_message)
{
    struct reader r = reader_of(received);
    uint32_t number = 0;
    uint8_t locality = 0;
    uint32_t size = 0;
    if (read_be32(&r, &number).code || read_u8(&r, &locality).code || read_be32(&r, &size).code) return;
    out_message->framed = true;
    if (size < TPM_HEADER_SIZE || size > TPM_MESSAGE_MAX) {
        out_message->size = received.size;
        out_message->close = true;
        message_refuse_command(out_message, &dialect_20, TPM_RC_COMMAND_SIZE);
        return;
    }
    if (read_span(&r, size, &out_message->command).code) return;
    out_message->size = FRAME_HEADER_SIZE + size;
    out_message->verb = FRONT_COMMAND;
    out_message->locality = locality;
    if (locality > LOCALITY_MAX) message_refuse_command(out_message, &dialect_20, TPM_RC_LOCALITY);
}

void command_parse(struct span received, const struct dialect *dialect, struct message *out_message)
{
    struct reader r = reader_of(received);
    uint16_t tag = 0;
    uint32_t size = 0;
    if (read_be16(&r, &tag).code || read_be32(&r, &size).code) return;
    if (size < TPM_HEADER_SIZE || size > TPM_MESSAGE_MAX) {
        out_message->size = received.size;
        out_message->close = true;
        message_refuse_command(out_message, dialect, dialect->command_size);
        return;
    }
    if (received.size < size) return;
    out_message->size = size;
    out_message->verb = FRONT_COMMAND;
    out_message->command = span_of(received.data, size);
}
