#include "untrusted/daemon/effects.h"

#include <string.h>

static struct err read_blob(struct reader *r, struct span *out)
{
    uint32_t size = 0;
    TRY(read_u32(r, &size));
    return read_span(r, size, out);
}

static struct err read_fixed(struct reader *r, size_t size, const uint8_t **out)
{
    struct span bytes;
    TRY(read_span(r, size, &bytes));
    *out = bytes.data;
    return OK;
}

static struct err read_padding(struct reader *r, size_t size)
{
    struct span padding;
    TRY(read_span(r, size, &padding));
    for (size_t i = 0; i < size; i++)
        ENSURE(padding.data[i] == 0, BAD_VALUE);
    return OK;
}

static struct err read_id(struct reader *r, struct instance_id *out)
{
    return read_bytes(r, out->bytes, sizeof out->bytes);
}

/* --- effects -------------------------------------------------------------------------------------------------------
 */

static struct err parse_link(struct reader *r, struct effects *effects, struct effect *effect)
{
    (void)effects;
    TRY(read_fixed(r, X25519_SIZE, &effect->share));
    return read_fixed(r, LINK_MRENCLAVE_SIZE, &effect->program);
}

static struct err parse_bytes(struct reader *r, struct effects *effects, struct effect *effect)
{
    (void)effects;
    ENSURE(r->left > 0, BAD_VALUE);
    return read_span(r, r->left, &effect->bytes);
}

static struct err parse_create_enclave(struct reader *r, struct effects *effects, struct effect *effect)
{
    (void)effects;
    TRY(read_id(r, &effect->id));
    TRY(read_u64(r, &effect->number));
    return read_fixed(r, LINK_MRENCLAVE_SIZE, &effect->program);
}

static struct err parse_send(struct reader *r, struct effects *effects, struct effect *effect)
{
    TRY(read_u64(r, &effect->channel));
    ENSURE(r->left <= PEER_MESSAGE_MAX, TOO_LARGE);
    return parse_bytes(r, effects, effect);
}

static struct err parse_state(struct reader *r, struct effects *effects, struct effect *effect)
{
    (void)effects;
    TRY(read_u64(r, &effect->channel));
    TRY(read_id(r, &effect->id));
    return read_u64(r, &effect->number);
}

static struct err parse_row(struct reader *r, struct store_row *row)
{
    TRY(read_u32(r, &row->slot));
    TRY(read_id(r, &row->id));
    TRY(read_u64(r, &row->version));
    TRY(read_blob(r, &row->blob));
    ENSURE(row->blob.size > 0 && row->slot < MANAGER_INSTANCES_MAX, BAD_VALUE);
    return OK;
}

static struct err parse_store(struct reader *r, struct effects *effects, struct effect *effect)
{
    uint32_t count = 0;
    ENSURE(effects->head.size == 0 && !effects->anchored, BAD_VALUE); /* at most one, and its ANCHOR is behind it */
    TRY(read_u64(r, &effect->number));
    TRY(read_u32(r, &count));
    TRY(read_padding(r, 4));
    ENSURE(count <= MANAGER_ROWS_PER_STORE, TOO_LARGE);
    TRY(read_blob(r, &effects->head));
    ENSURE(effects->head.size > 0, BAD_VALUE);
    TRY(read_blob(r, &effects->master));
    for (uint32_t i = 0; i < count; i++)
        TRY(parse_row(r, &effects->rows[i]));
    effects->row_count = count;
    effects->store_number = effect->number;
    return OK;
}

static struct err read_anchor_kind(uint32_t number, enum anchor_kind *out_kind)
{
    ENSURE(number == ANCHOR_FILE || number == ANCHOR_TPM, BAD_VALUE);
    *out_kind = number;
    return OK;
}

static struct err parse_anchor(struct reader *r, struct effects *effects, struct effect *effect)
{
    uint8_t kind = 0;
    ENSURE(!effects->anchored, BAD_VALUE); /* at most one */
    effects->anchored = true;
    TRY(read_u64(r, &effect->number));
    TRY(read_u8(r, &kind));
    TRY(read_padding(r, 7));
    TRY(read_anchor_kind(kind, &effect->anchor));
    ENSURE(effects->head.size == 0 || effects->store_number == effect->number, BAD_VALUE);
    ENSURE(r->left <= ANCHOR_EXCHANGE_MAX, TOO_LARGE);
    return parse_bytes(r, effects, effect);
}

static struct err parse_close(struct reader *r, struct effects *effects, struct effect *effect)
{
    (void)effects;
    TRY(read_u64(r, &effect->channel));
    TRY(read_u16(r, &effect->code.code));
    ENSURE(effect->code.code, BAD_VALUE);
    return read_padding(r, 6);
}

static struct err (*const parsers[])(struct reader *r, struct effects *effects, struct effect *effect) = {
    [MANAGER_EFFECT_LINK] = parse_link,     [MANAGER_EFFECT_RECORD] = parse_bytes,
    [MANAGER_EFFECT_SEND] = parse_send,     [MANAGER_EFFECT_CREATE_ENCLAVE] = parse_create_enclave,
    [MANAGER_EFFECT_STATE] = parse_state,   [MANAGER_EFFECT_STORE] = parse_store,
    [MANAGER_EFFECT_CLOSE] = parse_close,   [MANAGER_EFFECT_MESSAGE] = parse_bytes,
    [MANAGER_EFFECT_ANCHOR] = parse_anchor,
};

static struct err parse_effect(struct reader *r, struct effects *effects)
{
    uint32_t kind = 0;
    struct span bytes;
    TRY(read_u32(r, &kind));
    TRY(read_blob(r, &bytes));
    TRY(read_padding(r, (CALL_ALIGNMENT - bytes.size % CALL_ALIGNMENT) % CALL_ALIGNMENT));
    ENSURE(kind < sizeof parsers / sizeof parsers[0] && parsers[kind], BAD_VALUE);
    ENSURE(effects->count < EFFECTS_MAX, TOO_LARGE);
    struct effect *effect = &effects->list[effects->count++];
    *effect = (struct effect){.kind = kind};
    struct reader payload = reader_of(bytes);
    TRY(parsers[kind](&payload, effects, effect));
    return reader_end(&payload);
}

static struct err parse_head(struct reader *r, uint32_t *out_code)
{
    uint32_t size = 0;
    TRY(read_u32(r, out_code));
    TRY(read_u32(r, &size));
    ENSURE(size >= r->left, TRAILING);
    ENSURE(size <= r->left, TRUNCATED);
    ENSURE(*out_code <= UINT16_MAX, BAD_VALUE);
    ENSURE(!*out_code || r->left == 0, TRAILING);
    return OK;
}

struct err effects_parse(struct span output, struct effects *out_effects, bool *out_parsed)
{
    struct reader r = reader_of(output);
    uint32_t code = 0;
    *out_parsed = false;
    out_effects->count = 0;
    out_effects->row_count = 0;
    out_effects->anchored = false;
    out_effects->head = out_effects->master = span_empty();
    TRY(parse_head(&r, &code));
    while (r.left)
        TRY(parse_effect(&r, out_effects));
    ENSURE(out_effects->head.size == 0 || out_effects->anchored, BAD_VALUE);
    *out_parsed = true;
    return (struct err){(uint16_t)code};
}

/* --- K1 ------------------------------------------------------------------------------------------------------------
 */

static struct err read_flag(struct reader *r, bool *out)
{
    uint8_t flag = 0;
    TRY(read_u8(r, &flag));
    ENSURE(flag <= 1, BAD_VALUE);
    *out = flag;
    return OK;
}

static struct err read_row_head(struct reader *r, struct manager_row *row)
{
    uint8_t state = 0;
    TRY(read_u32(r, &row->slot));
    TRY(read_u8(r, &state));
    ENSURE(state >= MANAGER_PROVISIONED && state <= MANAGER_MOVED, BAD_VALUE);
    ENSURE(row->slot < MANAGER_INSTANCES_MAX, BAD_VALUE);
    row->state = state;
    TRY(read_flag(r, &row->has_owner));
    TRY(read_flag(r, &row->has_front_key));
    TRY(read_u8(r, &row->origin));
    ENSURE(row->origin >= MANAGER_ORIGIN_HERE && row->origin <= MANAGER_ORIGIN_CLONE, BAD_VALUE);
    return OK;
}

struct err effects_read_row(struct reader *r, struct manager_row *out_row)
{
    struct manager_row row = {0};
    TRY(read_row_head(r, &row));
    TRY(read_id(r, &row.id));
    TRY(read_bytes(r, row.label, sizeof row.label));
    ENSURE(memchr(row.label, 0, sizeof row.label), BAD_VALUE);
    uint64_t *const numbers[] = {&row.epoch, &row.start, &row.version, &row.created, &row.deaths};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        TRY(read_u64(r, numbers[i]));
    TRY(read_bytes(r, row.digest, sizeof row.digest));
    TRY(read_bytes(r, row.owner, sizeof row.owner));
    TRY(read_bytes(r, row.front_key, sizeof row.front_key));
    TRY(read_bytes(r, row.holder, sizeof row.holder));
    TRY(read_bytes(r, row.suspended, sizeof row.suspended));
    TRY(read_id(r, &row.source));
    TRY(read_u8(r, &row.lockout_heals));
    ENSURE(row.lockout_heals >= PEER_LOCKOUT_TIME && row.lockout_heals <= PEER_LOCKOUT_NEVER, BAD_VALUE);
    TRY(read_flag(r, &row.reverted));
    TRY(read_u8(r, &row.family));
    TRY(read_u8(r, &row.snapshots));
    ENSURE(row.family <= PEER_FAMILY_12 && row.snapshots <= PEER_SNAPSHOTS_ALLOWED, BAD_VALUE);
    TRY(read_u32(r, &row.loads));
    *out_row = row;
    return OK;
}

struct err effects_read_status(struct reader *r, struct manager_status *out_status)
{
    struct manager_status status = {0};
    uint32_t anchor = 0;
    TRY(read_id(r, &status.domain));
    TRY(read_bytes(r, status.manager, sizeof status.manager));
    TRY(read_bytes(r, status.instance, sizeof status.instance));
    TRY(read_bytes(r, status.signer, sizeof status.signer));
    TRY(read_bytes(r, status.release_key, sizeof status.release_key));
    TRY(read_u32(r, &status.security_version));
    TRY(read_u32(r, &status.slots));
    TRY(read_u32(r, &status.held));
    TRY(read_u32(r, &status.deleted));
    TRY(read_u64(r, &status.ledger_version));
    TRY(read_bytes(r, status.ledger_root, sizeof status.ledger_root));
    TRY(read_u32(r, &anchor));
    TRY(read_anchor_kind(anchor, &status.anchor));
    TRY(read_u32(r, &status.anchor_nv_index));
    TRY(read_bytes(r, status.anchor_value, sizeof status.anchor_value));
    TRY(read_u32(r, &status.recovery_threshold));
    TRY(read_u32(r, &status.recovery_count));
    TRY(read_id(r, &status.member));
    *out_status = status;
    return OK;
}

struct err effects_read_started(struct reader *r, struct link_binding *out_binding, bool *out_incoming,
                                uint8_t out_share[X25519_SIZE])
{
    struct link_binding binding = {0};
    uint8_t kind = 0;
    TRY(read_id(r, &binding.instance));
    TRY(read_u64(r, &binding.epoch));
    TRY(read_u64(r, &binding.start));
    TRY(read_u8(r, &kind));
    TRY(read_flag(r, out_incoming));
    TRY(read_padding(r, 6));
    ENSURE(kind == LINK_K2_NAMED || kind == LINK_K2_ENROLLED, BAD_VALUE);
    binding.kind = kind;
    TRY(read_bytes(r, out_share, X25519_SIZE));
    TRY(read_bytes(r, binding.manager, sizeof binding.manager));
    TRY(read_bytes(r, binding.program, sizeof binding.program));
    *out_binding = binding;
    return OK;
}
