#include "trusted/manager/recovery.h"

#include <string.h>

#include "base/memory.h"
#include "trusted/manager/image.h"
#include "trusted/manager/lifecycle.h"
#include "trusted/manager/manager.h"
#include "trusted/manager/shamir.h"
#include "trusted/runtime/entropy.h"

struct secret {
    uint8_t bytes[RECOVERY_SECRET_SIZE];
};

static void wipe_secret(struct secret *secret)
{
    wipe(secret, sizeof *secret);
}

struct shares {
    struct recovery_share list[RECOVERY_KEYS_MAX];
};

static void wipe_shares(struct shares *shares)
{
    wipe(shares, sizeof *shares);
}

void recovery_close(struct recovery *recovery)
{
    wipe(recovery, sizeof *recovery);
}

/* ---- the record ---- */

struct err recovery_parse_choice(struct reader *r, struct recovery_choice *out)
{
    uint32_t threshold = 0;
    uint32_t count = 0;
    TRY(read_u32(r, &threshold));
    TRY(read_u32(r, &count));
    ENSURE(threshold <= RECOVERY_KEYS_MAX && count <= RECOVERY_KEYS_MAX, BAD_VALUE);
    out->rule = (struct recovery_rule){(uint8_t)threshold, (uint8_t)count};
    TRY(recovery_check_rule(&out->rule));
    return read_span(r, count * X25519_SIZE, &out->keys);
}

static struct err write_head(const struct manager *manager, const struct recovery_rule *rule, struct writer *out)
{
    static const uint8_t label[16] = "vtpm recovery v1";
    uint8_t salt[RECOVERY_SECRET_SIZE];
    uint8_t *padding = NULL;
    entropy_fill(salt, sizeof salt);
    TRY(write_bytes(out, label, sizeof label));
    TRY(write_bytes(out, manager->ledger.domain.bytes, INSTANCE_ID_SIZE));
    TRY(write_u8(out, rule->threshold));
    TRY(write_u8(out, rule->count));
    TRY(write_zeros(out, 6, &padding));
    return write_bytes(out, salt, sizeof salt);
}

static struct err write_holders(const struct manager *manager, const struct recovery_choice *choice,
                                const struct secret *secret, struct writer *out)
{
    struct shares shares DEFER(wipe_shares) = {0};
    const struct span head = span_of(writer_span(out).data, RECOVERY_HEAD_SIZE);
    shamir_split(&choice->rule, secret->bytes, shares.list);
    for (uint8_t i = 0; i < choice->rule.count; i++) {
        const uint8_t *key = choice->keys.data + i * (size_t)X25519_SIZE;
        TRY(write_bytes(out, key, X25519_SIZE));
        TRY(recovery_seal_share(&manager->crypto, &shares.list[i], key, head, out));
    }
    return OK;
}

struct err recovery_make(struct manager *manager, const struct recovery_choice *choice, struct writer *out_record)
{
    uint8_t bytes[RECOVERY_RECORD_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);
    struct secret secret DEFER(wipe_secret) = {0};
    struct aead_key key DEFER(aead_key_wipe) = {0};
    uint8_t *sealed = NULL;
    entropy_fill(secret.bytes, sizeof secret.bytes);
    TRY(write_head(manager, &choice->rule, &w));
    TRY(write_holders(manager, choice, &secret, &w));
    const struct span before = writer_span(&w);
    const struct span salt = span_of(before.data + RECOVERY_HEAD_SIZE - RECOVERY_SECRET_SIZE, RECOVERY_SECRET_SIZE);
    TRY(recovery_master_key(&manager->crypto, secret.bytes, salt, &key));
    TRY(write_zeros(&w, RECOVERY_MASTER_SIZE, &sealed));
    TRY(aead_seal(&manager->crypto, &key, before, span_of(manager->ledger.master, MASTER_SIZE), sealed,
                  sealed + MASTER_SIZE));
    manager->ledger.recovery = choice->rule;
    return write_span(out_record, writer_span(&w));
}

/* ---- taking it over ---- */

struct err recovery_begin(struct manager *manager, struct span record, struct span head,
                          const struct anchor_choice *anchor, struct writer *out_request)
{
    struct recovery *recovery = &manager->recovery;
    struct recovery_record parsed;
    ENSURE(record.size <= sizeof recovery->record && head.size <= sizeof recovery->head, TOO_LARGE);
    memcpy(recovery->record, record.data, record.size);
    memcpy(recovery->head, head.data, head.size);
    memcpy(recovery->auth, anchor->owner_auth.data, anchor->owner_auth.size);
    recovery->record_size = record.size;
    recovery->head_size = head.size;
    recovery->auth_size = anchor->owner_auth.size;
    recovery->anchor_kind = anchor->kind;
    recovery->anchor_nv_index = anchor->nv_index;
    TRY(recovery_parse(span_of(recovery->record, recovery->record_size), &parsed));
    TRY(x25519_generate(&manager->crypto, &recovery->own));
    struct recovery_request request = {.domain = parsed.domain};
    struct writer w = writer_of(recovery->request, sizeof recovery->request);
    memcpy(request.key, recovery->own.public, sizeof request.key);
    memcpy(request.manager, manager->own.MRENCLAVE, sizeof request.manager);
    TRY(recovery_write_request(&request, &w));
    return write_span(out_request, writer_span(&w));
}

struct opened_master {
    uint8_t bytes[MASTER_SIZE];
};

static void wipe_master(struct opened_master *master)
{
    wipe(master, sizeof *master);
}

static struct err open_ledger(struct manager *manager, const struct recovery_record *record)
{
    const struct recovery *recovery = &manager->recovery;
    struct secret secret DEFER(wipe_secret) = {0};
    struct aead_key key DEFER(aead_key_wipe) = {0};
    struct opened_master master DEFER(wipe_master) = {0};
    shamir_join(recovery->shares, record->rule.threshold, secret.bytes);
    TRY(recovery_master_key(&manager->crypto, secret.bytes, record->salt, &key));
    TRY(aead_open(&manager->crypto, &key, record->before_master, span_of(record->master.data, MASTER_SIZE),
                  record->master.data + MASTER_SIZE, master.bytes));
    const struct ledger_owner owner = {&manager->crypto, manager->own, manager_image()->security_version};
    return ledger_recover(&owner, &record->domain, master.bytes, &record->rule,
                          span_of(recovery->head, recovery->head_size), &manager->ledger);
}

static bool is_there(const struct recovery *recovery, uint8_t index)
{
    for (uint8_t i = 0; i < recovery->count; i++)
        if (recovery->shares[i].index == index) return true;
    return false;
}

struct err recovery_take(struct manager *manager, struct span answer, bool *out_done)
{
    struct recovery *recovery = &manager->recovery;
    struct recovery_record record;
    struct recovery_share share DEFER(recovery_share_wipe) = {0};
    *out_done = false;
    TRY(recovery_parse(span_of(recovery->record, recovery->record_size), &record));
    TRY(recovery_open_answer(&manager->crypto, &recovery->own, span_of(recovery->request, sizeof recovery->request),
                             answer, &share));
    ENSURE(share.index >= 1 && share.index <= record.rule.count && !is_there(recovery, share.index), BAD_VALUE);
    recovery->shares[recovery->count++] = share;
    if (recovery->count < record.rule.threshold) return OK;
    *out_done = true;
    return open_ledger(manager, &record);
}

/* Whoever held it is on a processor, or beside an anchor, that is gone. */
static void restore(struct ledger_row *row)
{
    if (row->state == MANAGER_HELD || row->state == MANAGER_ALLOWED) lifecycle_step(row, ACT_DECLARE_DEAD);
    row->epoch++;
    row->reverted = row->version > 0;
    memset(row->holder, 0, sizeof row->holder);
    memset(row->suspended, 0, sizeof row->suspended);
}

struct err recovery_finish(struct manager *manager, struct writer *out)
{
    const struct recovery *recovery = &manager->recovery;
    const struct anchor_choice anchor = {recovery->anchor_kind, recovery->anchor_nv_index,
                                         span_of(recovery->auth, recovery->auth_size)};
    for (uint32_t slot = 0; slot < ledger_slots(&manager->ledger); slot++) {
        struct ledger_row row DEFER(row_wipe) = {0};
        ledger_read(&manager->ledger, slot, &row);
        if (row.state != MANAGER_DELETED && row.state != MANAGER_MOVED) restore(&row);
        TRY(ledger_change(&manager->ledger, &row));
    }
    struct err result = anchoring_define(manager, &anchor, out);
    recovery_close(&manager->recovery);
    return result;
}
