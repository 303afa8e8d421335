#include "trusted/ledger/row.h"

#include <string.h>

#include "base/memory.h"

static bool is_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i]) return false;
    return true;
}

void row_wipe(struct ledger_row *row)
{
    wipe(row, sizeof *row);
}

bool row_has_owner(const struct ledger_row *row)
{
    return !is_zero(row->owner, sizeof row->owner);
}

bool row_has_front_key(const struct ledger_row *row)
{
    return !is_zero(row->front_key, sizeof row->front_key);
}

uint64_t row_era(const struct ledger_row *row)
{
    return row->epoch - row->deaths;
}

/* As a tombstone is. */
static bool has_no_keys(const struct ledger_row *row)
{
    return is_zero(row->digest, sizeof row->digest) && is_zero(row->holder, sizeof row->holder) &&
           is_zero(row->root_key, sizeof row->root_key) && is_zero(row->suspended, sizeof row->suspended) &&
           is_zero(row->floors, sizeof row->floors) && !row->reverted;
}

static bool is_alphanumeric(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

struct err row_check_label(const char label[MANAGER_LABEL_SIZE])
{
    size_t size = strnlen(label, MANAGER_LABEL_SIZE);
    ENSURE(size > 0 && size < MANAGER_LABEL_SIZE, LABEL_BAD);
    ENSURE(is_zero((const uint8_t *)label + size, MANAGER_LABEL_SIZE - size), LABEL_BAD);
    ENSURE(is_alphanumeric(label[0]), LABEL_BAD);
    for (size_t i = 0; i < size; i++)
        ENSURE(is_alphanumeric(label[i]) || label[i] == '.' || label[i] == '_' || label[i] == '-', LABEL_BAD);
    return OK;
}

static const uint8_t zeros[ROW_PADDING_SIZE];

struct err row_write(const struct ledger_row *row, struct writer *out)
{
    TRY(write_u32(out, row->slot));
    TRY(write_u8(out, (uint8_t)row->state));
    TRY(write_u8(out, row_has_owner(row)));
    TRY(write_u8(out, row_has_front_key(row)));
    TRY(write_u8(out, (uint8_t)row->origin));
    TRY(write_bytes(out, row->id.bytes, sizeof row->id.bytes));
    TRY(write_bytes(out, row->label, sizeof row->label));
    TRY(write_u64(out, row->epoch));
    TRY(write_u64(out, row->start));
    TRY(write_u64(out, row->version));
    TRY(write_u64(out, row->created));
    TRY(write_u64(out, row->deaths));
    TRY(write_bytes(out, row->digest, sizeof row->digest));
    TRY(write_bytes(out, row->owner, sizeof row->owner));
    TRY(write_bytes(out, row->front_key, sizeof row->front_key));
    TRY(write_bytes(out, row->holder, sizeof row->holder));
    TRY(write_bytes(out, row->suspended, sizeof row->suspended));
    TRY(write_bytes(out, row->source.bytes, sizeof row->source.bytes));
    TRY(write_u8(out, (uint8_t)row->lockout_heals));
    TRY(write_u8(out, row->reverted));
    TRY(write_u8(out, (uint8_t)row->family)); /* from here on zeros, unless somebody has chosen them */
    TRY(write_u8(out, (uint8_t)row->snapshots));
    return write_u32(out, row->loads);
}

struct err row_write_public(const struct ledger_row *row, struct writer *out)
{
    TRY(row_write(row, out));
    TRY(write_bytes(out, row->sealed_by, sizeof row->sealed_by));
    TRY(write_bytes(out, row->provisioned_by, sizeof row->provisioned_by));
    TRY(write_bytes(out, row->floors, sizeof row->floors));
    return write_bytes(out, zeros, sizeof zeros);
}

struct err row_write_sealed(const struct ledger_row *row, struct writer *out)
{
    TRY(row_write_public(row, out));
    return write_bytes(out, row->root_key, sizeof row->root_key);
}

struct err row_parse_sealed(struct span plaintext, struct ledger_row *out)
{
    struct reader r = reader_of(plaintext);
    struct ledger_row row = {0};
    uint8_t state = 0;
    uint8_t has_owner = 0;
    uint8_t has_front_key = 0;
    uint8_t origin = 0;
    uint8_t lockout_heals = 0;
    uint8_t reverted = 0;
    uint8_t family = 0;
    uint8_t snapshots = 0;
    uint8_t padding[sizeof zeros];
    TRY(read_u32(&r, &row.slot));
    TRY(read_u8(&r, &state));
    TRY(read_u8(&r, &has_owner));
    TRY(read_u8(&r, &has_front_key));
    TRY(read_u8(&r, &origin));
    TRY(read_bytes(&r, row.id.bytes, sizeof row.id.bytes));
    TRY(read_bytes(&r, row.label, sizeof row.label));
    TRY(read_u64(&r, &row.epoch));
    TRY(read_u64(&r, &row.start));
    TRY(read_u64(&r, &row.version));
    TRY(read_u64(&r, &row.created));
    TRY(read_u64(&r, &row.deaths));
    TRY(read_bytes(&r, row.digest, sizeof row.digest));
    TRY(read_bytes(&r, row.owner, sizeof row.owner));
    TRY(read_bytes(&r, row.front_key, sizeof row.front_key));
    TRY(read_bytes(&r, row.holder, sizeof row.holder));
    TRY(read_bytes(&r, row.suspended, sizeof row.suspended));
    TRY(read_bytes(&r, row.source.bytes, sizeof row.source.bytes));
    TRY(read_u8(&r, &lockout_heals));
    TRY(read_u8(&r, &reverted));
    TRY(read_u8(&r, &family));
    TRY(read_u8(&r, &snapshots));
    TRY(read_u32(&r, &row.loads));
    TRY(read_bytes(&r, row.sealed_by, sizeof row.sealed_by));
    TRY(read_bytes(&r, row.provisioned_by, sizeof row.provisioned_by));
    TRY(read_bytes(&r, row.floors, sizeof row.floors));
    TRY(read_bytes(&r, padding, sizeof padding));
    TRY(read_bytes(&r, row.root_key, sizeof row.root_key));
    TRY(reader_end(&r));
    row.state = state;
    row.origin = origin;
    row.lockout_heals = lockout_heals;
    row.reverted = reverted;
    row.family = family;
    row.snapshots = snapshots;
    ENSURE(state >= MANAGER_PROVISIONED && state <= MANAGER_MOVED, BAD_VALUE);
    ENSURE(origin >= MANAGER_ORIGIN_HERE && origin <= MANAGER_ORIGIN_CLONE, BAD_VALUE);
    ENSURE((origin == MANAGER_ORIGIN_CLONE) == !is_zero(row.source.bytes, sizeof row.source.bytes), BAD_VALUE);
    ENSURE(lockout_heals >= PEER_LOCKOUT_TIME && lockout_heals <= PEER_LOCKOUT_NEVER && reverted <= 1, BAD_VALUE);
    ENSURE(family <= PEER_FAMILY_12 && snapshots <= PEER_SNAPSHOTS_ALLOWED, BAD_VALUE);
    ENSURE(is_zero(padding, sizeof padding) && (snapshots || !row.loads), BAD_VALUE);
    ENSURE(row.deaths <= row.epoch, BAD_VALUE);
    ENSURE(!reverted || is_zero(row.suspended, sizeof row.suspended), BAD_VALUE);
    ENSURE(has_owner == row_has_owner(&row) && has_front_key == row_has_front_key(&row), BAD_VALUE);
    ENSURE(row_check_label(row.label).code == ERR_NONE, BAD_VALUE);
    ENSURE(state != MANAGER_DELETED || has_no_keys(&row), BAD_VALUE);
    ENSURE(state != MANAGER_MOVED || !is_zero(row.holder, sizeof row.holder), BAD_VALUE);
    *out = row;
    return OK;
}
