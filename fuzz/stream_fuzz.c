/*
 * What clients send: the raw TPM stream, swtpm's control channel, the simulator's two ports. The first byte chooses
 * the protocol, the power and the locality; the rest arrives whole, and then byte by byte, which must come to the same.
 */
#include <stdlib.h>
#include <string.h>

#include "untrusted/front/protocol.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct protocol *const protocols[8] = {
    &protocol_stream,    &protocol_control,    &protocol_mssim_command, &protocol_mssim_platform,
    &protocol_stream_12, &protocol_control_12, &protocol_stream_12,     &protocol_control_12,
};

#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) abort();                                                                                     \
    } while (0)

/* What the connection relies on (untrusted/front/protocol.h). */
static void check(const struct message *message, struct span received)
{
    REQUIRE(message->size <= received.size);
    if (message->size == 0) return;
    REQUIRE(message->verb < FRONT_VERB_COUNT);
    REQUIRE(message->locality <= LOCALITY_MAX || message->verb != FRONT_COMMAND);
    REQUIRE(message->locality <= LOCALITY_MAX || !message->sets_locality);
    REQUIRE(message->answer_size <= ANSWER_MAX);
    if (message->verb != FRONT_COMMAND) return;
    REQUIRE(message->command.size >= TPM_HEADER_SIZE && message->command.size <= TPM_MESSAGE_MAX);
    REQUIRE(message->command.data >= received.data);
    REQUIRE(message->command.data + message->command.size <= received.data + message->size);
}

static struct message parse(const struct protocol *protocol, struct span received, uint8_t choice)
{
    const struct channel channel = {.locality = (uint8_t)(choice >> 3) % (LOCALITY_MAX + 1)};
    struct message message;
    /* A copy of its own, so that the sanitiser sees a read behind the end. */
    uint8_t *copy = malloc(received.size);
    REQUIRE(copy);
    memcpy(copy, received.data, received.size);
    protocol->parse(span_of(copy, received.size), &channel, choice & 4, &message);
    check(&message, span_of(copy, received.size));
    free(copy);
    message.command.data = NULL;
    return message;
}

/* A stream has no borders but its own: the first message is the same, however much of it was waited for. */
static void check_byte_by_byte(const struct protocol *protocol, struct span received, uint8_t choice,
                               const struct message *whole)
{
    for (size_t size = 1; size < whole->size; size++)
        REQUIRE(parse(protocol, span_of(received.data, size), choice).size == 0);
    struct message exact = parse(protocol, span_of(received.data, whole->size), choice);
    REQUIRE(exact.size == whole->size && exact.verb == whole->verb && exact.command.size == whole->command.size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > RECEIVE_MAX + 1) return 0;
    const uint8_t choice = data[0];
    const struct protocol *protocol = protocols[(choice & 3) | (choice >> 5 & 4)];
    struct span received = span_of(data + 1, size - 1);
    while (received.size) {
        const struct message message = parse(protocol, received, choice);
        if (message.size == 0) break;
        /* Refusals, and the control channel, take all that has come. */
        if (message.size < 64 && message.verb == FRONT_COMMAND)
            check_byte_by_byte(protocol, received, choice, &message);
        if (message.close) break;
        received = span_of(received.data + message.size, received.size - message.size);
    }
    REQUIRE(received.size < RECEIVE_MAX);
    return 0;
}
