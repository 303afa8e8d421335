/*
 * swtpm's control channel. All integers are big-endian; there is no length field, each command has its own.
 *
 * Guarantees: what GET_CAPABILITY claims is exactly the rows of the table; everything else is TPM_BAD_ORDINAL. As with
 * swtpm, bytes behind a complete request that arrived with it belong to it: nobody pipelines on this channel.
 * Not guaranteed: a request for a locality is believed, as it comes over the transport that the operator gave away.
 */
#include "untrusted/front/frame.h"

#include <string.h>

#define TPM_SUCCESS                     0x00u
#define TPM_BAD_ORDINAL                 0x0au
#define TPM_BAD_LOCALITY                0x3du

#define CAPABILITY_INIT                 UINT32_C(0x0001)
#define CAPABILITY_SHUTDOWN             UINT32_C(0x0002)
#define CAPABILITY_GET_TPMESTABLISHED   UINT32_C(0x0004)
#define CAPABILITY_SET_LOCALITY         UINT32_C(0x0008)
#define CAPABILITY_CANCEL_TPM_CMD       UINT32_C(0x0020)
#define CAPABILITY_RESET_TPMESTABLISHED UINT32_C(0x0080)
#define CAPABILITY_STOP                 UINT32_C(0x0400)
#define CAPABILITY_GET_CONFIG           UINT32_C(0x0800)
#define CAPABILITY_SET_DATAFD           UINT32_C(0x1000)
#define CAPABILITY_SET_BUFFERSIZE       UINT32_C(0x2000)
#define CAPABILITY_GET_INFO             UINT32_C(0x4000)
#define CAPABILITY_SEND_COMMAND_HEADER  UINT32_C(0x8000) /* of the data channel */

#define INIT_DELETE_VOLATILE            1u

#define INFO_TEXT_MAX                   (ANSWER_MAX - 12u)

struct control_command {
    uint32_t number;
    size_t body_size;    /* bytes */
    bool surplus;        /* more bytes than the body's may have come with it */
    uint32_t capability; /* the bit that announces it */
    /* Returns the result; when it is TPM_SUCCESS, out_message says what else there is to answer or to do. */
    uint32_t (*handle)(struct reader *body, bool powered, struct message *out_message);
};

static uint32_t capabilities(void);

/* The body's size was checked against its row. */
static uint32_t body_u32(struct reader *body)
{
    uint32_t value = 0;
    return read_be32(body, &value).code ? 0 : value;
}

static void answer_u32s(struct message *message, const uint32_t *values, size_t count)
{
    struct writer w = writer_of(message->answer, sizeof message->answer);
    for (size_t i = 0; i < count; i++)
        if (write_be32(&w, values[i]).code) return;
    message->answer_size = (uint16_t)w.size;
}

static uint32_t get_capability(struct reader *body, bool powered, struct message *out_message)
{
    (void)body, (void)powered;
    answer_u32s(out_message, (const uint32_t[]){0, capabilities()}, 2);
    return TPM_SUCCESS;
}

/* There is no volatile state on disk, so DELETE_VOLATILE has nothing to delete. */
static uint32_t init(struct reader *body, bool powered, struct message *out_message)
{
    (void)powered;
    if (body_u32(body) & ~INIT_DELETE_VOLATILE) return TPM_BAD_PARAMETER;
    out_message->verb = FRONT_RESET;
    return TPM_SUCCESS;
}

static uint32_t shutdown_process(struct reader *body, bool powered, struct message *out_message)
{
    (void)body, (void)powered;
    out_message->verb = FRONT_SHUTDOWN;
    return TPM_SUCCESS;
}

static uint32_t set_locality(struct reader *body, bool powered, struct message *out_message)
{
    (void)powered;
    uint8_t locality = 0;
    if (read_u8(body, &locality).code) return TPM_BAD_PARAMETER;
    if (locality > LOCALITY_MAX) return TPM_BAD_LOCALITY;
    out_message->locality = locality;
    out_message->sets_locality = true;
    return TPM_SUCCESS;
}

/* u32 result, u8 bit, u8[3] 0, and as long when it fails: QEMU reads eight bytes whatever the first four say. */
static uint32_t get_established(struct reader *body, bool powered, struct message *out_message)
{
    (void)body;
    if (!powered) return TPM_BAD_ORDINAL;
    out_message->verb = FRONT_ESTABLISHED;
    answer_u32s(out_message, (const uint32_t[]){TPM_SUCCESS, 0}, 2);
    return TPM_SUCCESS;
}

/* The locality is the one it comes with, not the channel's. */
static uint32_t reset_established(struct reader *body, bool powered, struct message *out_message)
{
    uint8_t locality = 0;
    if (read_u8(body, &locality).code) return TPM_BAD_PARAMETER;
    if (!powered) return TPM_BAD_ORDINAL;
    if (locality > LOCALITY_MAX) return TPM_BAD_LOCALITY;
    out_message->verb = FRONT_RESET_ESTABLISHED;
    out_message->locality = locality;
    out_message->refusal = TPM_BAD_LOCALITY;
    return TPM_SUCCESS;
}

/* What becomes of the descriptor is the front's to say. */
static uint32_t set_datafd(struct reader *body, bool powered, struct message *out_message)
{
    (void)body, (void)powered;
    out_message->adopts = true;
    return TPM_SUCCESS;
}

/* A command runs to its end inside the enclave: as with swtpm, the answer is success and nothing happens. */
static uint32_t cancel(struct reader *body, bool powered, struct message *out_message)
{
    (void)body, (void)out_message;
    return powered ? TPM_SUCCESS : TPM_BAD_ORDINAL;
}

static uint32_t stop(struct reader *body, bool powered, struct message *out_message)
{
    (void)body, (void)powered;
    out_message->verb = FRONT_POWER_OFF;
    return TPM_SUCCESS;
}

/* No key was given from outside: the enclave has its own. */
static uint32_t get_config(struct reader *body, bool powered, struct message *out_message)
{
    (void)body, (void)powered;
    answer_u32s(out_message, (const uint32_t[]){TPM_SUCCESS, 0}, 2);
    return TPM_SUCCESS;
}

/* The buffer of the TPM has one size, which is answered whatever is asked for. */
static uint32_t set_buffersize(struct reader *body, bool powered, struct message *out_message)
{
    if (body_u32(body) != 0 && powered) return TPM_BAD_ORDINAL;
    answer_u32s(out_message, (const uint32_t[]){TPM_SUCCESS, TPM_MESSAGE_MAX, TPM_MESSAGE_MAX, TPM_MESSAGE_MAX}, 4);
    return TPM_SUCCESS;
}

/* What libtpms 0.9 says of itself (TPMLIB_GetInfo), in the order of the flags' bits; other flags have nothing. */
static size_t info_text(uint64_t flags, char out_text[INFO_TEXT_MAX])
{
    static const char *const members[] = {
        "\"TPMSpecification\":{\"family\":\"2.0\",\"level\":0,\"revision\":164}",
        "\"TPMAttributes\":{\"manufacturer\":\"id:00001014\",\"version\":\"id:20191023\",\"model\":\"swtpm\"}",
        "\"TPMFeatures\":{\"RSAKeySizes\":[1024,2048,3072],\"CamelliaKeySizes\":[128,256]}",
    };
    char *next = out_text;
    *next++ = '{';
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        if (!(flags >> i & 1)) continue;
        if (next > out_text + 1) *next++ = ',';
        next = stpcpy(next, members[i]);
    }
    (void)strcpy(next, "}");
    return (size_t)(next - out_text) + 2; /* with the NUL */
}

/* u64 flags, u32 offset, u32 0; answered u32 result, u32 bytes of all, u32 bytes in this answer, the bytes. */
static uint32_t get_info(struct reader *body, bool powered, struct message *out_message)
{
    (void)powered;
    char text[INFO_TEXT_MAX];
    const uint64_t high = body_u32(body);
    const size_t size = info_text(high << 32 | body_u32(body), text);
    const uint32_t offset = body_u32(body);
    if (offset >= size - 1) return TPM_BAD_PARAMETER;
    const uint32_t left = (uint32_t)size - offset;
    answer_u32s(out_message, (const uint32_t[]){TPM_SUCCESS, (uint32_t)size, left}, 3);
    memcpy(out_message->answer + out_message->answer_size, text + offset, left);
    out_message->answer_size = (uint16_t)(out_message->answer_size + left);
    return TPM_SUCCESS;
}

/* QEMU sends localities with three bytes of padding, tpm2-tss without. */
static const struct control_command commands[] = {
    {0x01, 0, true, 0, get_capability},
    {0x02, 4, false, CAPABILITY_INIT, init},
    {0x03, 0, false, CAPABILITY_SHUTDOWN, shutdown_process},
    {0x04, 0, false, CAPABILITY_GET_TPMESTABLISHED, get_established},
    {0x05, 1, true, CAPABILITY_SET_LOCALITY, set_locality},
    {0x09, 0, false, CAPABILITY_CANCEL_TPM_CMD, cancel},
    {0x0b, 1, true, CAPABILITY_RESET_TPMESTABLISHED, reset_established},
    {0x0e, 0, false, CAPABILITY_STOP, stop},
    {0x0f, 0, false, CAPABILITY_GET_CONFIG, get_config},
    {0x10, 0, true, CAPABILITY_SET_DATAFD, set_datafd},
    {0x11, 4, false, CAPABILITY_SET_BUFFERSIZE, set_buffersize},
    {0x12, 16, false, CAPABILITY_GET_INFO, get_info},
};
#define COMMAND_COUNT (sizeof commands / sizeof commands[0])

static uint32_t capabilities(void)
{
    uint32_t bits = CAPABILITY_SEND_COMMAND_HEADER;
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        bits |= commands[i].capability;
    return bits;
}

static const struct control_command *find(uint32_t number)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        if (commands[i].number == number) return &commands[i];
    return NULL;
}

static void control_parse(struct span received, const struct channel *channel, bool powered,
                          struct message *out_message)
{
    *out_message = (struct message){.locality = channel->locality, .failure = TPM_RC_FAILURE};
    struct reader body = reader_of(received);
    uint32_t number = 0;
    if (read_be32(&body, &number).code) return;
    const struct control_command *command = find(number);
    if (command && body.left < command->body_size) return;
    out_message->size = received.size;

    uint32_t result = TPM_BAD_ORDINAL;
    if (command && body.left > command->body_size && !command->surplus)
        result = TPM_BAD_PARAMETER;
    else if (command)
        result = command->handle(&body, powered, out_message);
    if (channel->rejects_locality_4 && out_message->sets_locality && out_message->locality == LOCALITY_MAX) {
        out_message->sets_locality = false;
        result = TPM_BAD_LOCALITY;
    }
    if (result != TPM_SUCCESS || out_message->answer_size == 0) message_answer_code(out_message, result);
}

const struct protocol protocol_control = {
    .name = "swtpm control",
    .passes_descriptors = true,
    .parse = control_parse,
    .failure = TPM_RC_FAILURE,
};
