/*
 * swtpm's control channel. All integers are big-endian; there is no length field, each command has its own.
 *
 * Guarantees: what GET_CAPABILITY claims is exactly the rows of the table; everything else is TPM_BAD_ORDINAL. As with
 * swtpm, bytes behind a complete request that arrived with it belong to it: nobody pipelines on this channel. What
 * HASH_DATA and SET_STATEBLOB carry follows them in as many pieces as it likes, and the answer comes behind it.
 * Not guaranteed: a request for a locality is believed, as it comes over the transport that the operator gave away.
 */
#include "untrusted/front/frame.h"

#include <string.h>

#define TPM_SUCCESS                     0x00u
#define TPM_BAD_ORDINAL                 0x0au
#define TPM_BAD_LOCALITY                0x3du
#define TPM_RETRY                       0x800u /* there is no such blob */

#define CAPABILITY_INIT                 UINT32_C(0x0001)
#define CAPABILITY_SHUTDOWN             UINT32_C(0x0002)
#define CAPABILITY_GET_TPMESTABLISHED   UINT32_C(0x0004)
#define CAPABILITY_SET_LOCALITY         UINT32_C(0x0008)
#define CAPABILITY_HASHING              UINT32_C(0x0010)
#define CAPABILITY_CANCEL_TPM_CMD       UINT32_C(0x0020)
#define CAPABILITY_STORE_VOLATILE       UINT32_C(0x0040)
#define CAPABILITY_RESET_TPMESTABLISHED UINT32_C(0x0080)
#define CAPABILITY_GET_STATEBLOB        UINT32_C(0x0100)
#define CAPABILITY_SET_STATEBLOB        UINT32_C(0x0200)
#define CAPABILITY_STOP                 UINT32_C(0x0400)
#define CAPABILITY_GET_CONFIG           UINT32_C(0x0800)
#define CAPABILITY_SET_DATAFD           UINT32_C(0x1000)
#define CAPABILITY_SET_BUFFERSIZE       UINT32_C(0x2000)
#define CAPABILITY_GET_INFO             UINT32_C(0x4000)
#define CAPABILITY_SEND_COMMAND_HEADER  UINT32_C(0x8000) /* of the data channel */
#define CAPABILITY_LOCK_STORAGE         UINT32_C(0x10000)

#define INIT_DELETE_VOLATILE            1u

#define BLOB_PERMANENT                  1u
#define BLOB_VOLATILE                   2u
#define BLOB_SAVESTATE                  3u
#define INFO_LENGTH_MAX                 3072u
#define BLOB_HEAD_SIZE                  16u /* of GET_ and SET_STATEBLOB, with the number */
#define HASH_HEAD_SIZE                  8u

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
static void finish_established(struct message *message, struct err result, struct span response, struct span *out_tail)
{
    (void)out_tail;
    const bool told = !result.code && response.size == 1;
    answer_u32s(message, (const uint32_t[]){told ? TPM_SUCCESS : message->failure, 0}, 2);
    if (told) message->answer[4] = response.data[0];
}

static uint32_t get_established(struct reader *body, bool powered, struct message *out_message)
{
    (void)body;
    if (!powered) return TPM_BAD_ORDINAL;
    out_message->verb = FRONT_ESTABLISHED;
    out_message->finish = finish_established;
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

static void finish_buffersize(struct message *message, struct err result, struct span response, struct span *out_tail)
{
    (void)out_tail;
    struct reader r = reader_of(response);
    uint32_t values[4] = {TPM_SUCCESS};
    for (size_t i = 1; i < 4 && !result.code; i++)
        result = read_u32(&r, &values[i]);
    if (result.code)
        message_answer_code(message, message->failure);
    else
        answer_u32s(message, values, 4);
}

static uint32_t set_buffersize(struct reader *body, bool powered, struct message *out_message)
{
    out_message->number = body_u32(body);
    if (out_message->number != 0 && powered) return TPM_BAD_ORDINAL;
    out_message->verb = FRONT_BUFFER_SIZE;
    out_message->finish = finish_buffersize;
    return TPM_SUCCESS;
}

static uint32_t hash_start(struct reader *body, bool powered, struct message *out_message)
{
    (void)body;
    if (!powered) return TPM_BAD_ORDINAL;
    out_message->verb = FRONT_HASH_START;
    return TPM_SUCCESS;
}

static uint32_t hash_end(struct reader *body, bool powered, struct message *out_message)
{
    (void)body;
    if (!powered) return TPM_BAD_ORDINAL;
    out_message->verb = FRONT_HASH_END;
    return TPM_SUCCESS;
}

/* The bytes may be more than come at once. */
static uint32_t hash_data(struct reader *body, bool powered, struct message *out_message)
{
    const uint32_t size = body_u32(body);
    if (!powered) return TPM_BAD_ORDINAL;
    out_message->size = HASH_HEAD_SIZE;
    out_message->follows = FOLLOWS_HASHED;
    out_message->follow_size = size;
    return TPM_SUCCESS;
}

static uint32_t store_volatile(struct reader *body, bool powered, struct message *out_message)
{
    (void)body;
    if (!powered) return TPM_BAD_ORDINAL;
    out_message->verb = FRONT_STORE_VOLATILE;
    return TPM_SUCCESS;
}

/* How often to try, and how long, is of no interest: who holds the state is decided once. */
static uint32_t lock_storage(struct reader *body, bool powered, struct message *out_message)
{
    (void)body, (void)powered;
    out_message->verb = FRONT_LOCK;
    out_message->failure = TPM_FAIL;
    return TPM_SUCCESS;
}

/* The text is answered from offset on, at most INFO_LENGTH_MAX bytes of it. */
static void finish_info(struct message *message, struct err result, struct span response, struct span *out_tail)
{
    if (result.code || response.size == 0) {
        message_answer_code(message, message->failure);
        return;
    }
    if (message->offset >= response.size - 1) {
        message_answer_code(message, TPM_BAD_PARAMETER);
        return;
    }
    const size_t left = response.size - message->offset;
    *out_tail = span_of(response.data + message->offset, left < INFO_LENGTH_MAX ? left : INFO_LENGTH_MAX);
    answer_u32s(message, (const uint32_t[]){TPM_SUCCESS, (uint32_t)response.size, (uint32_t)out_tail->size}, 3);
}

static uint32_t get_info(struct reader *body, bool powered, struct message *out_message)
{
    (void)powered;
    const uint32_t high = body_u32(body);
    const uint32_t low = body_u32(body);
    out_message->number = (uint64_t)high << 32 | low;
    out_message->offset = body_u32(body);
    out_message->verb = FRONT_INFO;
    out_message->finish = finish_info;
    return TPM_SUCCESS;
}

/* u32 result, u32 flags, u32 size of the whole, u32 size of what follows; so long whatever the result is. */
static void answer_blob(struct message *message, uint32_t result, size_t size)
{
    answer_u32s(message, (const uint32_t[]){result, 0, (uint32_t)size, (uint32_t)size}, 4);
}

static void finish_blob(struct message *message, struct err result, struct span response, struct span *out_tail)
{
    struct reader r = reader_of(response);
    struct span parts[BLOB_COUNT] = {0};
    uint32_t permanent_size = 0;
    if (!result.code) result = read_u32(&r, &permanent_size);
    if (!result.code) result = read_span(&r, permanent_size, &parts[0]);
    if (result.code) {
        answer_blob(message, TPM_FAIL, 0);
        return;
    }
    parts[1] = span_of(r.next, r.left);
    const struct span blob = parts[message->blob];
    const size_t skipped = message->offset < blob.size ? message->offset : blob.size;
    *out_tail = span_of(blob.data + skipped, blob.size - skipped);
    answer_blob(message, TPM_SUCCESS, out_tail->size);
}

/* They are sealed, whether a client wants them decrypted or not. */
static uint32_t get_stateblob(struct reader *body, bool powered, struct message *out_message)
{
    (void)body_u32(body);
    const uint32_t type = body_u32(body);
    out_message->offset = body_u32(body);
    if (type < BLOB_PERMANENT || type > BLOB_SAVESTATE) {
        answer_blob(out_message, TPM_BAD_PARAMETER, 0);
    } else if (type == BLOB_SAVESTATE) { /* a TPM 2.0 has none */
        answer_blob(out_message, TPM_RETRY, 0);
    } else if (!powered) {
        answer_blob(out_message, TPM_BAD_ORDINAL, 0);
    } else {
        out_message->verb = FRONT_EXPORT;
        out_message->blob = (uint8_t)(type - BLOB_PERMANENT);
        out_message->finish = finish_blob;
    }
    return TPM_SUCCESS;
}

/* Of no bytes: it is forgotten. What is in it is looked at by INIT. */
static uint32_t set_stateblob(struct reader *body, bool powered, struct message *out_message)
{
    (void)body_u32(body);
    const uint32_t type = body_u32(body);
    const uint32_t size = body_u32(body);
    if (powered) return TPM_BAD_ORDINAL;
    if (type < BLOB_PERMANENT || type > BLOB_SAVESTATE || size > BLOB_MAX) return TPM_BAD_PARAMETER;
    if (type == BLOB_SAVESTATE) return size ? TPM_BAD_PARAMETER : TPM_SUCCESS;
    out_message->size = BLOB_HEAD_SIZE;
    out_message->follows = FOLLOWS_BLOB;
    out_message->follow_size = size;
    out_message->blob = (uint8_t)(type - BLOB_PERMANENT);
    return TPM_SUCCESS;
}

/* QEMU sends localities with three bytes of padding, tpm2-tss without. */
static const struct control_command commands[] = {
    {0x01, 0, true, 0, get_capability},
    {0x02, 4, false, CAPABILITY_INIT, init},
    {0x03, 0, false, CAPABILITY_SHUTDOWN, shutdown_process},
    {0x04, 0, false, CAPABILITY_GET_TPMESTABLISHED, get_established},
    {0x05, 1, true, CAPABILITY_SET_LOCALITY, set_locality},
    {0x06, 0, false, CAPABILITY_HASHING, hash_start},
    {0x07, 4, true, CAPABILITY_HASHING, hash_data},
    {0x08, 0, false, CAPABILITY_HASHING, hash_end},
    {0x09, 0, false, CAPABILITY_CANCEL_TPM_CMD, cancel},
    {0x0a, 0, false, CAPABILITY_STORE_VOLATILE, store_volatile},
    {0x0b, 1, true, CAPABILITY_RESET_TPMESTABLISHED, reset_established},
    {0x0c, 12, false, CAPABILITY_GET_STATEBLOB, get_stateblob},
    {0x0d, 12, true, CAPABILITY_SET_STATEBLOB, set_stateblob},
    {0x0e, 0, false, CAPABILITY_STOP, stop},
    {0x0f, 0, false, CAPABILITY_GET_CONFIG, get_config},
    {0x10, 0, true, CAPABILITY_SET_DATAFD, set_datafd},
    {0x11, 4, false, CAPABILITY_SET_BUFFERSIZE, set_buffersize},
    {0x12, 16, false, CAPABILITY_GET_INFO, get_info},
    {0x13, 4, false, CAPABILITY_LOCK_STORAGE, lock_storage},
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
    const bool made_later = out_message->finish != NULL;
    if (result != TPM_SUCCESS || (out_message->answer_size == 0 && !made_later))
        message_answer_code(out_message, result);
}

const struct protocol protocol_control = {
    .name = "swtpm control",
    .passes_descriptors = true,
    .dialect = &dialect_20,
    .of_12 = &protocol_control_12,
    .parse = control_parse,
    .failure = TPM_RC_FAILURE,
};
