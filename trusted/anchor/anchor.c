#include "trusted/anchor/anchor.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "trusted/anchor/commands.h"
#include "trusted/runtime/entropy.h"

/* What was asked last; the names but for the first three are the TPM's commands. */
enum anchor_step {
    ANCHOR_READY,
    ANCHOR_FAILED,
    ANCHOR_FILE_ASKED,
    ANCHOR_READ_PUBLIC,
    ANCHOR_CREATE_PRIMARY,
    ANCHOR_MAKE_PERSISTENT,
    ANCHOR_FLUSH_KEY,
    ANCHOR_START_SESSION,
    ANCHOR_NV_DEFINE,
    ANCHOR_NV_EXTEND,
    ANCHOR_NV_READ,
    ANCHOR_FLUSH_SESSION,
};

struct anchor {
    const struct crypto *crypto;
    struct anchor_config config;
    enum anchor_step step;

    /* The rest: a TPM's. */
    bool defining;
    bool to_extend; /* record_hash has not been seen to be in the index */
    bool again;     /* this read or move is in its second session */
    uint8_t from[ANCHOR_VALUE_SIZE];
    uint8_t record_hash[SHA256_SIZE];
    uint32_t new_key;
    struct p256_point key;
    struct tpm_session session;
    uint8_t owner_auth[ANCHOR_OWNER_AUTH_MAX]; /* while defining */
    size_t owner_auth_size;
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

static bool is_nv_index(uint32_t handle)
{
    return handle >> 24 == 0x01;
}

static bool is_whole(const struct anchor_config *config)
{
    static const struct anchor_config file = {.kind = ANCHOR_FILE};
    if (config->kind == ANCHOR_FILE) return memcmp(config, &file, sizeof file) == 0;
    return config->kind == ANCHOR_TPM && is_nv_index(config->nv_index);
}

static struct err file_request(struct anchor *anchor, enum anchor_file_verb verb, const uint8_t from[ANCHOR_VALUE_SIZE],
                               const uint8_t to[ANCHOR_VALUE_SIZE], struct writer *out)
{
    uint8_t *unused;
    ENSURE(out->capacity - out->size >= ANCHOR_FILE_REQUEST_SIZE, NO_SPACE);
    anchor->step = ANCHOR_FILE_ASKED;
    TRY(write_u8(out, (uint8_t)verb));
    TRY(write_zeros(out, 7, &unused));
    TRY(write_bytes(out, from, ANCHOR_VALUE_SIZE));
    return write_bytes(out, to, ANCHOR_VALUE_SIZE);
}

static struct span owner_auth(const struct anchor *anchor)
{
    return span_of(anchor->owner_auth, anchor->owner_auth_size);
}

static bool on_index(enum anchor_step step)
{
    return step == ANCHOR_NV_DEFINE || step == ANCHOR_NV_EXTEND || step == ANCHOR_NV_READ;
}

/* The command of a step with the session; the same bytes when it is written and when its answer is checked. */
static struct err nv_command(const struct anchor *anchor, enum anchor_step step, struct nv_command *out)
{
    if (step == ANCHOR_NV_DEFINE) return nv_define(&anchor->config, owner_auth(anchor), out);
    if (step == ANCHOR_NV_EXTEND) return nv_extend(&anchor->config, anchor->record_hash, out);
    return nv_read(&anchor->config, out);
}

static void wipe_nv_command(struct nv_command *command)
{
    wipe(command, sizeof *command);
}

static struct err write_command(struct anchor *anchor, enum anchor_step step, struct writer *out)
{
    struct nv_command nv DEFER(wipe_nv_command) = {0};
    switch (step) {
    case ANCHOR_READ_PUBLIC:
        return tpm_read_public(out);
    case ANCHOR_CREATE_PRIMARY:
        return tpm_create_primary(owner_auth(anchor), out);
    case ANCHOR_MAKE_PERSISTENT:
        return tpm_make_persistent(owner_auth(anchor), anchor->new_key, out);
    case ANCHOR_FLUSH_KEY:
        return tpm_flush(anchor->new_key, out);
    case ANCHOR_FLUSH_SESSION:
        return tpm_flush(anchor->session.handle, out);
    case ANCHOR_START_SESSION:
        return session_start(anchor->crypto, &anchor->session, ANCHOR_KEY_HANDLE, &anchor->key, out);
    default:
        break;
    }
    TRY(nv_command(anchor, step, &nv));
    return session_command(anchor->crypto, &anchor->session, &nv.command, out);
}

/* Before any answer that does not lead on, the step is FAILED. */
static struct err ask(struct anchor *anchor, enum anchor_step step, struct writer *out)
{
    TRY(write_command(anchor, step, out));
    anchor->step = step;
    return OK;
}

struct err anchor_define(const struct crypto *crypto, enum anchor_kind kind, uint32_t nv_index, struct span owner_auth,
                         struct writer *out_request, struct anchor **out_anchor)
{
    struct anchor_config config = {.kind = kind, .nv_index = nv_index};
    struct anchor *anchor DEFER(anchor_close) = NULL;
    ENSURE(owner_auth.size <= (kind == ANCHOR_TPM ? ANCHOR_OWNER_AUTH_MAX : 0), BAD_VALUE);
    TRY(anchor_open(crypto, &config, &anchor));
    if (kind == ANCHOR_TPM) {
        anchor->defining = true;
        if (owner_auth.size > 0) memcpy(anchor->owner_auth, owner_auth.data, owner_auth.size);
        anchor->owner_auth_size = owner_auth.size;
        entropy_fill(anchor->config.auth, sizeof anchor->config.auth);
        /* The first extend: two indices never go through the same values. */
        entropy_fill(anchor->record_hash, sizeof anchor->record_hash);
        TRY(nv_name(crypto, nv_index, false, anchor->config.index_name));
    }
    TRY(anchor_read(anchor, out_request));
    *out_anchor = anchor;
    anchor = NULL;
    return OK;
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

/* first: with the session that there is. Without one it begins with reading, which shows what is left to do. */
static struct err begin(struct anchor *anchor, enum anchor_step first, struct writer *out)
{
    anchor->again = false;
    anchor->to_extend = first == ANCHOR_NV_EXTEND;
    return ask(anchor, anchor->session.handle ? first : ANCHOR_READ_PUBLIC, out);
}

struct err anchor_read(struct anchor *anchor, struct writer *out_request)
{
    static const uint8_t nothing[ANCHOR_VALUE_SIZE];
    ENSURE(anchor->step == ANCHOR_READY, CALL_STATE);
    if (anchor->config.kind == ANCHOR_FILE)
        return file_request(anchor, ANCHOR_FILE_READ, nothing, nothing, out_request);
    return begin(anchor, ANCHOR_NV_READ, out_request);
}

struct err anchor_move(struct anchor *anchor, const uint8_t from[ANCHOR_VALUE_SIZE],
                       const uint8_t record_hash[SHA256_SIZE], struct writer *out_request)
{
    uint8_t to[ANCHOR_VALUE_SIZE];
    ENSURE(anchor->step == ANCHOR_READY, CALL_STATE);
    TRY(anchor_next(anchor->crypto, from, record_hash, to));
    if (anchor->config.kind == ANCHOR_FILE) return file_request(anchor, ANCHOR_FILE_MOVE, from, to, out_request);
    memcpy(anchor->from, from, ANCHOR_VALUE_SIZE);
    memcpy(anchor->record_hash, record_hash, SHA256_SIZE);
    return begin(anchor, ANCHOR_NV_EXTEND, out_request);
}

struct err anchor_next(const struct crypto *crypto, const uint8_t from[ANCHOR_VALUE_SIZE],
                       const uint8_t record_hash[SHA256_SIZE], uint8_t out[ANCHOR_VALUE_SIZE])
{
    struct span parts[] = {span_of(from, ANCHOR_VALUE_SIZE), span_of(record_hash, SHA256_SIZE)};
    return hash_sha256(crypto, parts, 2, out);
}

/*
 * An error is not authenticated: it may mean that the TPM lost the session in a reset, or that the host says so. Once
 * in a read or a move the session is started anew, and what to do is chosen by what the index says then. An extend
 * whose answer was lost is never repeated blindly.
 */
static struct err refused(struct anchor *anchor, enum anchor_step asked, uint32_t code, struct writer *out_request)
{
    if (on_index(asked) && !anchor->defining && !anchor->again) {
        anchor->again = true;
        return ask(anchor, ANCHOR_FLUSH_SESSION, out_request);
    }
    if (asked == ANCHOR_READ_PUBLIC && anchor->defining && code == TPM_RC_HANDLE_1)
        return ask(anchor, ANCHOR_CREATE_PRIMARY, out_request);
    ENSURE(anchor->defining || (code != TPM_RC_HANDLE_1 && code != TPM_RC_BAD_AUTH_1), ANCHOR_IDENTITY);
    return FAIL(ANCHOR_REFUSED);
}

static struct err take_key(struct anchor *anchor, struct reader *answer)
{
    uint8_t name[ANCHOR_NAME_SIZE];
    TRY(tpm_key_parse(anchor->crypto, answer, name, &anchor->key));
    if (anchor->defining) memcpy(anchor->config.key_name, name, sizeof name);
    ENSURE(memcmp(anchor->config.key_name, name, sizeof name) == 0, ANCHOR_IDENTITY);
    return OK;
}

/* The parameters of the answer, of exactly this size. */
static struct err check(struct anchor *anchor, enum anchor_step asked, struct reader *answer, void *out, size_t size)
{
    struct nv_command nv DEFER(wipe_nv_command) = {0};
    TRY(nv_command(anchor, asked, &nv));
    return session_answer(anchor->crypto, &anchor->session, &nv.command, answer, out, size);
}

static struct err extended(struct anchor *anchor, struct reader *answer, struct writer *out_request)
{
    TRY(check(anchor, ANCHOR_NV_EXTEND, answer, NULL, 0));
    anchor->to_extend = false;
    if (anchor->defining) TRY(nv_name(anchor->crypto, anchor->config.nv_index, true, anchor->config.index_name));
    return ask(anchor, ANCHOR_NV_READ, out_request);
}

static struct err was_read(struct anchor *anchor, struct reader *answer, struct writer *out_request,
                           struct anchor_state *out)
{
    uint8_t buffer[NV_ANSWER_SIZE];
    TRY(check(anchor, ANCHOR_NV_READ, answer, buffer, sizeof buffer));
    ENSURE(((size_t)buffer[0] << 8 | buffer[1]) == ANCHOR_VALUE_SIZE, ANCHOR_ANSWER);
    if (anchor->to_extend && memcmp(buffer + 2, anchor->from, ANCHOR_VALUE_SIZE) == 0)
        return ask(anchor, ANCHOR_NV_EXTEND, out_request);
    memcpy(out->value, buffer + 2, ANCHOR_VALUE_SIZE);
    out->done = true;
    anchor->defining = false;
    wipe(anchor->owner_auth, sizeof anchor->owner_auth);
    anchor->step = ANCHOR_READY;
    return OK;
}

static struct err tpm_answer(struct anchor *anchor, enum anchor_step asked, struct span answer,
                             struct writer *out_request, struct anchor_state *out)
{
    struct reader r;
    uint32_t code;
    bool plain = asked == ANCHOR_READ_PUBLIC || asked == ANCHOR_START_SESSION || asked == ANCHOR_FLUSH_KEY ||
                 asked == ANCHOR_FLUSH_SESSION;
    TRY(tpm_answer_header(answer, plain ? TPM_ST_NO_SESSIONS : TPM_ST_SESSIONS, &r, &code));
    /* A session that the TPM has lost cannot be flushed. */
    if (asked == ANCHOR_FLUSH_SESSION) return ask(anchor, ANCHOR_READ_PUBLIC, out_request);
    if (code != 0) return refused(anchor, asked, code, out_request);

    switch (asked) {
    case ANCHOR_READ_PUBLIC:
        TRY(take_key(anchor, &r));
        return ask(anchor, ANCHOR_START_SESSION, out_request);
    case ANCHOR_CREATE_PRIMARY:
        ENSURE(r.left >= 4, ANCHOR_ANSWER);
        TRY(read_be32(&r, &anchor->new_key));
        return ask(anchor, ANCHOR_MAKE_PERSISTENT, out_request);
    case ANCHOR_MAKE_PERSISTENT:
        return ask(anchor, ANCHOR_FLUSH_KEY, out_request);
    case ANCHOR_FLUSH_KEY:
        return ask(anchor, ANCHOR_READ_PUBLIC, out_request);
    case ANCHOR_START_SESSION:
        TRY(session_started(anchor->crypto, &anchor->session, &r));
        return ask(anchor, anchor->defining ? ANCHOR_NV_DEFINE : ANCHOR_NV_READ, out_request);
    case ANCHOR_NV_DEFINE:
        TRY(check(anchor, asked, &r, NULL, 0));
        return ask(anchor, ANCHOR_NV_EXTEND, out_request);
    case ANCHOR_NV_EXTEND:
        return extended(anchor, &r, out_request);
    default:
        return was_read(anchor, &r, out_request, out);
    }
}

struct err anchor_answer(struct anchor *anchor, struct span answer, struct writer *out_request,
                         struct anchor_state *out)
{
    enum anchor_step asked = anchor->step;
    ENSURE(asked != ANCHOR_READY && asked != ANCHOR_FAILED, CALL_STATE);
    anchor->step = ANCHOR_FAILED;
    *out = (struct anchor_state){0};
    if (asked != ANCHOR_FILE_ASKED) return tpm_answer(anchor, asked, answer, out_request, out);
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
    struct err whole = is_whole(&config) ? OK : FAIL(BAD_VALUE);
    if (!whole.code) *out = config;
    wipe(&config, sizeof config);
    return whole;
}
