/*
 * Answers to the anchor's commands from a host that has no TPM. The first byte chooses the operation; then each answer is
 * u8 kind, u8 size and as many bytes: an answer as they are, an error code, or changes (offset, exclusive-or) to an
 * answer of the right shape, without which what follows the session's start would never be reached.
 *
 * Holds: no value is ever accepted, and after a refusal nothing more is.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fakes/runtime.h"
#include "trusted/anchor/commands.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NV_INDEX UINT32_C(0x01800123)

enum operation { DEFINE, READ, MOVE, PARSE, OPERATIONS };
enum kind { RAW, ERROR_CODE, SHAPED, KINDS };

static struct crypto crypto;
static struct anchor_config config = {.kind = ANCHOR_TPM, .nv_index = NV_INDEX, .auth = "not known to the host"};

/* TPM2B_PUBLIC of the anchor's template; the point is P-256's generator. */
static const uint8_t public_area[] = {
    0,    90,   0x00, 0x23, 0x00, 0x0b, 0x00, 0x03, 0x04, 0x72, 0x00, 0x00, 0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00,
    0x10, 0x00, 0x03, 0x00, 0x10, 0,    32,   0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5,
    0x63, 0xa4, 0x40, 0xf2, 0x77, 0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2,
    0x96, 0,    32,   0x4f, 0xe3, 0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16,
    0x2b, 0xce, 0x33, 0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5};

static void must(bool holds)
{
    if (!holds) abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct reader r = reader_of(span_of(public_area, sizeof public_area));
    struct p256_point point;
    (void)argc;
    (void)argv;
    must(crypto_init(&crypto).code == ERR_NONE);
    must(tpm_key_parse(&crypto, &r, config.key_name, &point).code == ERR_NONE);
    must(nv_name(&crypto, NV_INDEX, true, config.index_name).code == ERR_NONE);
    return 0;
}

static struct span answer_of(enum tpm_tag tag, uint32_t code, const void *body, size_t size)
{
    static uint8_t bytes[ANCHOR_EXCHANGE_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);
    must(tpm_command_header(tag, TPM_HEADER_SIZE + size, code, &w).code == ERR_NONE);
    must(write_bytes(&w, body, size).code == ERR_NONE);
    return writer_span(&w);
}

/* With a nonce and an HMAC of zeros. */
static struct span authorised(size_t parameters)
{
    uint8_t body[4 + NV_ANSWER_SIZE + 2 + SESSION_NONCE_SIZE + 1 + 2 + SHA256_SIZE] = {0};
    uint8_t *after = body + 4 + parameters;
    body[3] = (uint8_t)parameters;
    if (parameters > 0) body[5] = ANCHOR_VALUE_SIZE;
    after[1] = SESSION_NONCE_SIZE;
    after[2 + SESSION_NONCE_SIZE] = 1;
    after[2 + SESSION_NONCE_SIZE + 2] = SHA256_SIZE;
    return answer_of(TPM_ST_SESSIONS, 0, body, sizeof body - NV_ANSWER_SIZE + parameters);
}

static struct span shape_for(struct span request)
{
    static const uint8_t started[4 + 2 + SESSION_NONCE_SIZE] = {0x02, 0, 0, 0, 0, SESSION_NONCE_SIZE};
    static const uint8_t created[4] = {0x80};
    must(request.size >= TPM_HEADER_SIZE);
    switch (request.data[8] << 8 | request.data[9]) {
    case 0x173:
        return answer_of(TPM_ST_NO_SESSIONS, 0, public_area, sizeof public_area);
    case 0x131:
        return answer_of(TPM_ST_SESSIONS, 0, created, sizeof created);
    case 0x120:
        return answer_of(TPM_ST_SESSIONS, 0, NULL, 0);
    case 0x165:
        return answer_of(TPM_ST_NO_SESSIONS, 0, NULL, 0);
    case 0x176:
        return answer_of(TPM_ST_NO_SESSIONS, 0, started, sizeof started);
    case 0x14e:
        return authorised(NV_ANSWER_SIZE);
    default:
        return authorised(0);
    }
}

static struct span changed(struct span shape, struct span changes)
{
    static uint8_t bytes[ANCHOR_EXCHANGE_MAX];
    memcpy(bytes, shape.data, shape.size);
    for (size_t i = 0; i + 2 <= changes.size; i += 2)
        bytes[changes.data[i] % shape.size] ^= changes.data[i + 1];
    return span_of(bytes, shape.size);
}

static struct span next_answer(struct reader *input, struct span request)
{
    uint8_t kind, size;
    struct span bytes;
    if (read_u8(input, &kind).code || read_u8(input, &size).code || read_span(input, size, &bytes).code)
        return span_empty();
    switch (kind % KINDS) {
    case RAW:
        return bytes;
    case ERROR_CODE:
        return answer_of(TPM_ST_NO_SESSIONS, bytes.size < 2 ? 0x18b : (uint32_t)bytes.data[0] << 8 | bytes.data[1],
                         NULL, 0);
    default:
        return changed(shape_for(request), bytes);
    }
}

static struct err begin(enum operation operation, struct writer *request, struct anchor **out)
{
    static const uint8_t from[ANCHOR_VALUE_SIZE], record_hash[SHA256_SIZE];
    if (operation == DEFINE) return anchor_define(&crypto, ANCHOR_TPM, NV_INDEX, span_of("owner", 5), request, out);
    TRY(anchor_open(&crypto, &config, out));
    return operation == READ ? anchor_read(*out, request) : anchor_move(*out, from, record_hash, request);
}

static void parse(struct reader *input)
{
    uint8_t bytes[ANCHOR_CONFIG_SIZE];
    struct anchor_config parsed;
    const uint8_t *start = input->next;
    struct writer w = writer_of(bytes, sizeof bytes);
    if (anchor_config_parse(input, &parsed).code) return;
    must(anchor_config_write(&parsed, &w).code == ERR_NONE);
    must(memcmp(bytes, start, sizeof bytes) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t bytes[ANCHOR_EXCHANGE_MAX];
    struct reader input = reader_of(span_of(data, size));
    struct writer request = writer_of(bytes, sizeof bytes);
    struct anchor *anchor DEFER(anchor_close) = NULL;
    struct err err = OK;
    uint8_t operation;
    if (read_u8(&input, &operation).code) return 0;
    operation %= OPERATIONS;
    if (operation == PARSE) {
        parse(&input);
        return 0;
    }
    must(begin((enum operation)operation, &request, &anchor).code == ERR_NONE);
    while (err.code == ERR_NONE && input.left > 0) {
        struct anchor_state there;
        struct span answer = next_answer(&input, writer_span(&request));
        request = writer_of(bytes, sizeof bytes);
        err = anchor_answer(anchor, answer, &request, &there);
        must(!there.done && (err.code != ERR_NONE || request.size > 0));
    }
    if (err.code) must(anchor_read(anchor, &request).code == ERR_CALL_STATE);
    return 0;
}
