/*
 * The two ports of the TPM reference code's simulator. All integers are big-endian; what was done is acknowledged with
 * u32 0.
 *
 * Guarantees: what is not in the tables is refused as the simulator refuses what it does not know: the command port
 * closes, the platform port answers u32 1 and closes. Locality is the transport's byte. Not implemented are physical
 * presence, NV_OFF, the H-CRTM sequence (HASH_*), failure mode, alternative results and authenticated countdown timers.
 */
#include "untrusted/front/frame.h"

#include <string.h>

#define SERVER_VERSION   1u
#define FLAG_PLATFORM    1u /* there is a platform port */
#define FLAG_RAW_MODE    4u /* no resource manager in between */
#define PLATFORM_REFUSED 1u

struct mssim_command {
    uint32_t number;
    void (*parse)(struct span received, struct message *out_message);
};

static const struct mssim_command *find(const struct mssim_command *commands, size_t count, uint32_t number)
{
    for (size_t i = 0; i < count; i++)
        if (commands[i].number == number) return &commands[i];
    return NULL;
}

static void remote_handshake(struct span received, struct message *out_message)
{
    struct reader r = reader_of(received);
    uint32_t number = 0;
    uint32_t client_version = 0;
    if (read_be32(&r, &number).code || read_be32(&r, &client_version).code) return;
    out_message->size = 2 * sizeof(uint32_t);
    if (client_version == 0) {
        out_message->close = true;
        return;
    }
    const uint8_t answer[] = {0, 0, 0, SERVER_VERSION, 0, 0, 0, FLAG_PLATFORM | FLAG_RAW_MODE, 0, 0, 0, 0};
    memcpy(out_message->answer, answer, sizeof answer);
    out_message->answer_size = sizeof answer;
}

static void acknowledge(struct span received, struct message *out_message)
{
    (void)received;
    out_message->size = sizeof(uint32_t);
    message_answer_code(out_message, 0);
}

static void session_end(struct span received, struct message *out_message)
{
    (void)received;
    out_message->size = sizeof(uint32_t);
    out_message->close = true;
}

static void stop(struct span received, struct message *out_message)
{
    (void)received;
    out_message->size = sizeof(uint32_t);
    out_message->verb = FRONT_SHUTDOWN;
    out_message->close = true;
}

static void power_on(struct span received, struct message *out_message)
{
    acknowledge(received, out_message);
    out_message->verb = FRONT_POWER_ON;
}

static void power_off(struct span received, struct message *out_message)
{
    acknowledge(received, out_message);
    out_message->verb = FRONT_POWER_OFF;
}

static void reset(struct span received, struct message *out_message)
{
    acknowledge(received, out_message);
    out_message->verb = FRONT_RESET;
}

static const struct mssim_command port_commands[] = {
    {8, frame_parse},
    {15, remote_handshake},
    {20, session_end},
    {21, stop},
};

/* Cancelling has no effect, as with swtpm. NV is always there, so NV_ON is true already. */
static const struct mssim_command platform_commands[] = {
    {1, power_on},     {2, power_off},    {9, acknowledge}, /* CANCEL_ON */
    {10, acknowledge},                                      /* CANCEL_OFF */
    {11, acknowledge},                                      /* NV_ON */
    {17, reset},       {20, session_end}, {21, stop},
};

/* False if the number is in no row. */
static bool parse_with(const struct mssim_command *commands, size_t count, struct span received,
                       struct message *out_message)
{
    *out_message = (struct message){.failure = PLATFORM_REFUSED};
    struct reader r = reader_of(received);
    uint32_t number = 0;
    if (read_be32(&r, &number).code) return true;
    const struct mssim_command *command = find(commands, count, number);
    if (command) {
        command->parse(received, out_message);
        return true;
    }
    out_message->size = received.size;
    out_message->close = true;
    return false;
}

static void command_port_parse(struct span received, const struct channel *channel, bool powered,
                               struct message *out_message)
{
    (void)channel, (void)powered;
    (void)parse_with(port_commands, sizeof port_commands / sizeof port_commands[0], received, out_message);
}

static void platform_port_parse(struct span received, const struct channel *channel, bool powered,
                                struct message *out_message)
{
    (void)channel, (void)powered;
    size_t count = sizeof platform_commands / sizeof platform_commands[0];
    if (!parse_with(platform_commands, count, received, out_message))
        message_answer_code(out_message, PLATFORM_REFUSED);
}

const struct protocol protocol_mssim_command = {
    .name = "mssim command",
    .dialect = &dialect_20,
    .parse = command_port_parse,
    .failure = PLATFORM_REFUSED,
};

const struct protocol protocol_mssim_platform = {
    .name = "mssim platform",
    .dialect = &dialect_20,
    .parse = platform_port_parse,
    .failure = PLATFORM_REFUSED,
};
