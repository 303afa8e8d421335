#include "trusted/anchor/anchor.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum anchor_step { ANCHOR_READY, ANCHOR_BUSY, ANCHOR_FAILED };

struct anchor {
    const struct crypto *crypto;
    struct anchor_config config;
    enum anchor_step step;
};

void anchor_close(struct anchor **anchor)
{
    if (*anchor) wipe(*anchor, sizeof **anchor);
    free(*anchor);
    *anchor = NULL;
}

const struct anchor_config *anchor_config(const struct anchor *anchor)
{
    return &anchor->config;
}

static struct err file_request(enum anchor_file_verb verb, const uint8_t from[ANCHOR_VALUE_SIZE],
                               const uint8_t to[ANCHOR_VALUE_SIZE], struct writer *out)
{
    uint8_t *unused;
    ENSURE(out->capacity - out->size >= ANCHOR_FILE_REQUEST_SIZE, NO_SPACE);
    TRY(write_u8(out, (uint8_t)verb));
    TRY(write_zeros(out, 7, &unused));
    TRY(write_bytes(out, from, ANCHOR_VALUE_SIZE));
    return write_bytes(out, to, ANCHOR_VALUE_SIZE);
}

static struct err file_read(struct writer *out)
{
    static const uint8_t nothing[ANCHOR_VALUE_SIZE];
    return file_request(ANCHOR_FILE_READ, nothing, nothing, out);
}

struct err anchor_define(const struct crypto *crypto, enum anchor_kind kind, uint32_t nv_index, struct span owner_auth,
                         struct writer *out_request, struct anchor **out_anchor)
{
    struct anchor_config config = {.kind = kind, .nv_index = nv_index};
    ENSURE(kind == ANCHOR_FILE && owner_auth.size == 0, BAD_VALUE);
    struct anchor *anchor DEFER(anchor_close) = NULL;
    TRY(anchor_open(crypto, &config, &anchor));
    TRY(anchor_read(anchor, out_request));
    *out_anchor = anchor;
    anchor = NULL;
    return OK;
}

static bool is_whole(const struct anchor_config *config)
{
    static const struct anchor_config file = {.kind = ANCHOR_FILE};
    return memcmp(config, &file, sizeof file) == 0;
}

struct err anchor_open(const struct crypto *crypto, const struct anchor_config *config, struct anchor **out_anchor)
{
    ENSURE(is_whole(config), BAD_VALUE);
    struct anchor *anchor = calloc(1, sizeof *anchor);
    ENSURE(anchor, NO_MEMORY);
    anchor->crypto = crypto;
    anchor->config = *config;
    *out_anchor = anchor;
    return OK;
}

struct err anchor_read(struct anchor *anchor, struct writer *out_request)
{
    ENSURE(anchor->step == ANCHOR_READY, CALL_STATE);
    TRY(file_read(out_request));
    anchor->step = ANCHOR_BUSY;
    return OK;
}

struct err anchor_move(struct anchor *anchor, const uint8_t from[ANCHOR_VALUE_SIZE],
                       const uint8_t record_hash[SHA256_SIZE], struct writer *out_request)
{
    uint8_t to[ANCHOR_VALUE_SIZE];
    ENSURE(anchor->step == ANCHOR_READY, CALL_STATE);
    TRY(anchor_next(anchor->crypto, from, record_hash, to));
    TRY(file_request(ANCHOR_FILE_MOVE, from, to, out_request));
    anchor->step = ANCHOR_BUSY;
    return OK;
}

struct err anchor_next(const struct crypto *crypto, const uint8_t from[ANCHOR_VALUE_SIZE],
                       const uint8_t record_hash[SHA256_SIZE], uint8_t out[ANCHOR_VALUE_SIZE])
{
    struct span parts[] = {span_of(from, ANCHOR_VALUE_SIZE), span_of(record_hash, SHA256_SIZE)};
    return hash_sha256(crypto, parts, 2, out);
}

struct err anchor_answer(struct anchor *anchor, struct span answer, struct writer *out_request,
                         struct anchor_state *out)
{
    (void)out_request;
    ENSURE(anchor->step == ANCHOR_BUSY, CALL_STATE);
    anchor->step = ANCHOR_FAILED;
    ENSURE(answer.size == ANCHOR_VALUE_SIZE, ANCHOR_ANSWER);
    memcpy(out->value, answer.data, ANCHOR_VALUE_SIZE);
    out->done = true;
    anchor->step = ANCHOR_READY;
    return OK;
}

struct err anchor_config_write(const struct anchor_config *config, struct writer *out)
{
    ENSURE(out->capacity - out->size >= ANCHOR_CONFIG_SIZE, NO_SPACE);
    TRY(write_u32(out, config->kind));
    TRY(write_u32(out, config->nv_index));
    TRY(write_bytes(out, config->index_name, ANCHOR_NAME_SIZE));
    TRY(write_bytes(out, config->key_name, ANCHOR_NAME_SIZE));
    return write_bytes(out, config->auth, ANCHOR_AUTH_SIZE);
}

struct err anchor_config_parse(struct reader *reader, struct anchor_config *out)
{
    struct anchor_config config = {0};
    uint32_t kind;
    ENSURE(reader->left >= ANCHOR_CONFIG_SIZE, TRUNCATED);
    TRY(read_u32(reader, &kind));
    config.kind = (enum anchor_kind)kind;
    TRY(read_u32(reader, &config.nv_index));
    TRY(read_bytes(reader, config.index_name, ANCHOR_NAME_SIZE));
    TRY(read_bytes(reader, config.key_name, ANCHOR_NAME_SIZE));
    TRY(read_bytes(reader, config.auth, ANCHOR_AUTH_SIZE));
    ENSURE(is_whole(&config), BAD_VALUE);
    *out = config;
    wipe(&config, sizeof config);
    return OK;
}
