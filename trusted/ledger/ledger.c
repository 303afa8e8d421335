#include "trusted/ledger/ledger.h"

#include <string.h>

#include "base/memory.h"
#include "crypto/hkdf.h"
#include "trusted/runtime/entropy.h"

#define HEAD_LABEL       "vtpm head v1"
#define HEAD_RANDOM_SIZE 32u

/* A head, parsed. */
struct head {
    struct instance_id domain;
    uint64_t version;
    uint8_t base[SHA256_SIZE];
    uint8_t root[SHA256_SIZE];
    uint32_t slots;
    uint32_t security_version;
    uint8_t predecessor[SGX_HASH_SIZE];
    uint8_t random[HEAD_RANDOM_SIZE];
};

static struct err write_head(const struct head *head, struct writer *out)
{
    static const char label[16] = HEAD_LABEL;
    TRY(write_bytes(out, label, sizeof label));
    TRY(write_bytes(out, head->domain.bytes, sizeof head->domain.bytes));
    TRY(write_u64(out, head->version));
    TRY(write_bytes(out, head->base, sizeof head->base));
    TRY(write_bytes(out, head->root, sizeof head->root));
    TRY(write_u32(out, head->slots));
    TRY(write_u32(out, head->security_version));
    TRY(write_bytes(out, head->predecessor, sizeof head->predecessor));
    return write_bytes(out, head->random, sizeof head->random);
}

static struct err parse_head(struct span plaintext, struct head *out)
{
    static const char expected[16] = HEAD_LABEL;
    struct reader r = reader_of(plaintext);
    char label[16];
    TRY(read_bytes(&r, label, sizeof label));
    ENSURE(memcmp(label, expected, sizeof label) == 0, BAD_VALUE);
    TRY(read_bytes(&r, out->domain.bytes, sizeof out->domain.bytes));
    TRY(read_u64(&r, &out->version));
    TRY(read_bytes(&r, out->base, sizeof out->base));
    TRY(read_bytes(&r, out->root, sizeof out->root));
    TRY(read_u32(&r, &out->slots));
    TRY(read_u32(&r, &out->security_version));
    TRY(read_bytes(&r, out->predecessor, sizeof out->predecessor));
    TRY(read_bytes(&r, out->random, sizeof out->random));
    return reader_end(&r);
}

static struct err hash_of(const struct ledger *ledger, struct span bytes, uint8_t out[SHA256_SIZE])
{
    return hash_sha256(ledger->owner.crypto, &bytes, 1, out);
}

void ledger_close(struct ledger *ledger)
{
    table_close(&ledger->table);
    tree_close(&ledger->tree);
    wipe(ledger, sizeof *ledger);
}

/* A UUID of version 4 (RFC 9562, 5.4). */
static void draw_domain(struct instance_id *out)
{
    entropy_fill(out->bytes, sizeof out->bytes);
    out->bytes[6] = (uint8_t)((out->bytes[6] & 0x0f) | 0x40);
    out->bytes[8] = (uint8_t)((out->bytes[8] & 0x3f) | 0x80);
}

static struct err begin(const struct ledger_owner *owner, struct ledger *out)
{
    *out = (struct ledger){.owner = *owner, .security_version = owner->security_version, .record_due = true};
    return tree_open(&out->tree);
}

static struct err derive_membership(struct ledger *ledger)
{
    static const char member[] = "vtpm member";
    static const char domain[] = "vtpm domain";
    const struct crypto *crypto = ledger->owner.crypto;
    const struct span master = span_of(ledger->master, sizeof ledger->master);
    TRY(hkdf_sha256(crypto, master, span_empty(), span_of(member, sizeof member - 1), ledger->member.bytes,
                    sizeof ledger->member.bytes));
    if (ledger->joined) return OK;
    return hkdf_sha256(crypto, master, span_of(ledger->domain.bytes, INSTANCE_ID_SIZE),
                       span_of(domain, sizeof domain - 1), ledger->domain_key, sizeof ledger->domain_key);
}

static struct err derive_roots(struct ledger *ledger)
{
    const struct crypto *crypto = ledger->owner.crypto;
    TRY(derive_membership(ledger));
    TRY(blob_ledger_root(crypto, ledger->master, ledger->owner.own.MRENCLAVE, ledger->own_root));
    return blob_ledger_root(crypto, ledger->master, ledger->predecessor, ledger->predecessor_root);
}

struct err ledger_new(const struct ledger_owner *owner, struct ledger *out)
{
    TRY(begin(owner, out));
    draw_domain(&out->domain);
    entropy_fill(out->master, sizeof out->master);
    out->master_pending = true;
    TRY(tree_root(owner->crypto, &out->tree, out->root));
    return derive_roots(out);
}

void ledger_found_anchor(struct ledger *ledger, const struct anchor_config *anchor,
                         const uint8_t value[ANCHOR_VALUE_SIZE])
{
    ledger->anchor = *anchor;
    memcpy(ledger->value, value, sizeof ledger->value);
}

/* Opens a head that was sealed under sealer, whose root is given. */
static struct err open_head(struct ledger *ledger, struct span blob, const uint8_t sealer[SGX_HASH_SIZE],
                            const uint8_t root[BLOB_ROOT_SIZE], struct head *out)
{
    struct blob_header header;
    TRY(blob_peek(blob, BLOB_LEDGER_HEAD, &header));
    ENSURE(memcmp(header.manager, sealer, sizeof header.manager) == 0, LEDGER_OTHER_IMAGE);
    struct blob opened DEFER(blob_free) = {0};
    TRY(blob_open(ledger->owner.crypto, span_of(root, BLOB_ROOT_SIZE), blob, BLOB_LEDGER_HEAD, &opened));
    struct span plaintext = span_of(opened.plaintext, opened.plaintext_size);
    TRY(parse_head(plaintext, out));
    ENSURE(memcmp(out->domain.bytes, ledger->domain.bytes, INSTANCE_ID_SIZE) == 0, LEDGER_ROOT);
    ENSURE(out->slots <= MANAGER_INSTANCES_MAX, LEDGER_ROOT);
    ENSURE(out->security_version <= ledger->owner.security_version, DOWNGRADE);
    memcpy(ledger->value, out->base, sizeof ledger->value);
    TRY(hash_of(ledger, plaintext, ledger->record));
    return anchor_next(ledger->owner.crypto, ledger->value, ledger->record, ledger->next);
}

static void take_head(struct ledger *ledger, const struct head *head)
{
    ledger->version = ledger->durable = head->version;
    memcpy(ledger->root, head->root, sizeof ledger->root);
    memcpy(ledger->next_root, head->root, sizeof ledger->next_root);
    ledger->expected_slots = head->slots;
}

struct err ledger_open(const struct ledger_owner *owner, struct span master, struct span head, struct ledger *out)
{
    struct head parsed = {0};
    TRY(begin(owner, out));
    struct master opened DEFER(master_wipe) = {0};
    TRY(master_open(owner->crypto, &owner->own, master, &opened));
    out->domain = opened.domain;
    memcpy(out->master, opened.secret, sizeof out->master);
    out->anchor = opened.anchor;
    out->recovery = opened.recovery;
    out->joined = opened.joined;
    memcpy(out->domain_key, opened.domain_key, sizeof out->domain_key);
    TRY(derive_roots(out));
    TRY(open_head(out, head, owner->own.MRENCLAVE, out->own_root, &parsed));
    memcpy(out->predecessor, parsed.predecessor, sizeof out->predecessor);
    take_head(out, &parsed);
    return derive_roots(out);
}

struct err ledger_inherit(const struct ledger_owner *owner, const struct ledger_inheritance *from, struct span head,
                          struct ledger *out)
{
    struct head parsed = {0};
    TRY(begin(owner, out));
    out->domain = from->domain;
    memcpy(out->master, from->master, sizeof out->master);
    out->anchor = from->anchor;
    out->recovery = from->recovery;
    out->joined = from->joined;
    memcpy(out->domain_key, from->domain_key, sizeof out->domain_key);
    memcpy(out->predecessor, from->predecessor, sizeof out->predecessor);
    TRY(derive_roots(out));
    TRY(open_head(out, head, out->predecessor, out->predecessor_root, &parsed));
    ENSURE(memcmp(out->next, from->value, sizeof out->next) == 0, LEDGER_ROOT);
    take_head(out, &parsed);
    out->master_pending = true;
    return OK;
}

struct err ledger_recover(const struct ledger_owner *owner, const struct instance_id *domain,
                          const uint8_t master[MASTER_SIZE], const struct recovery_rule *rule, struct span head,
                          struct ledger *out)
{
    static const uint8_t none[SGX_HASH_SIZE];
    struct blob_header header;
    struct head parsed = {0};
    TRY(begin(owner, out));
    TRY(blob_peek(head, BLOB_LEDGER_HEAD, &header));
    out->domain = *domain;
    out->recovery = *rule;
    memcpy(out->master, master, sizeof out->master);
    memcpy(out->predecessor, header.manager, sizeof out->predecessor);
    TRY(derive_roots(out));
    TRY(open_head(out, head, out->predecessor, out->predecessor_root, &parsed));
    ENSURE(memcmp(parsed.predecessor, none, sizeof none) == 0, LEDGER_OTHER_IMAGE);
    take_head(out, &parsed);
    out->master_pending = out->master_last = true;
    return OK;
}

struct err ledger_check_join(const struct ledger *ledger)
{
    ENSURE(ledger->table.count == 0 && ledger->recovery.count == 0, NOT_EMPTY);
    return OK;
}

struct err ledger_join(struct ledger *ledger, const struct instance_id *domain, const uint8_t key[DOMAIN_KEY_SIZE])
{
    TRY(ledger_check_join(ledger));
    ledger->domain = *domain;
    ledger->joined = true;
    memcpy(ledger->domain_key, key, sizeof ledger->domain_key);
    ledger->master_pending = true;
    return OK;
}

/* ---- rows ---- */

uint32_t ledger_slots(const struct ledger *ledger)
{
    return ledger->table.count;
}

void ledger_read(const struct ledger *ledger, uint32_t slot, struct ledger_row *out)
{
    table_read(&ledger->table, slot, out);
}

struct err ledger_find(const struct ledger *ledger, const struct instance_id *id, struct ledger_row *out)
{
    uint32_t slot = 0;
    ENSURE(table_find(&ledger->table, id, &slot), NO_INSTANCE);
    table_read(&ledger->table, slot, out);
    return OK;
}

static struct err check_label(const struct ledger *ledger, const char *label, bool arrives)
{
    struct instance_id id;
    uint32_t slot = 0;
    bool is_uuid = id_parse(label, &id).code == ERR_NONE;
    ENSURE(!is_uuid || !table_find(&ledger->table, &id, &slot), LABEL_TAKEN);
    ENSURE(!table_has_label(&ledger->table, label, is_uuid && !arrives), LABEL_TAKEN);
    return OK;
}

struct err ledger_check_label(const struct ledger *ledger, const char *label)
{
    return check_label(ledger, label, false);
}

/* Stores take the rows in the order in which they were changed, so the place in the queue says which store it is. */
static void enqueue(struct ledger *ledger, uint32_t slot)
{
    struct table_notes *notes = table_notes(&ledger->table, slot);
    if (notes->dirty) return;
    notes->dirty = true;
    notes->store = ledger->version + 1 + ledger->dirty_count / MANAGER_ROWS_PER_STORE;
    notes->next_dirty = 0;
    if (ledger->last_dirty)
        table_notes(&ledger->table, ledger->last_dirty - 1)->next_dirty = slot + 1;
    else
        ledger->first_dirty = slot + 1;
    ledger->last_dirty = slot + 1;
    ledger->dirty_count++;
}

struct err ledger_add(struct ledger *ledger, struct ledger_row *row)
{
    ENSURE(table_has_room(&ledger->table, row), LEDGER_FULL);
    TRY(table_add(&ledger->table, row));
    row->slot = ledger->table.count - 1;
    enqueue(ledger, row->slot);
    row->store = table_notes(&ledger->table, row->slot)->store;
    return OK;
}

struct err ledger_change(struct ledger *ledger, struct ledger_row *row)
{
    TRY(table_write(&ledger->table, row));
    enqueue(ledger, row->slot);
    row->store = table_notes(&ledger->table, row->slot)->store;
    return OK;
}

struct err ledger_check_arrival(const struct ledger *ledger, const struct ledger_row *row)
{
    struct ledger_row old DEFER(row_wipe) = {0};
    if (ledger_find(ledger, &row->id, &old).code) {
        /* What was deleted does not keep it out: it may have been given here already, and to nobody else. */
        TRY(check_label(ledger, row->label, true));
        ENSURE(table_has_room(&ledger->table, row), LEDGER_FULL);
        return OK;
    }
    ENSURE(old.state != MANAGER_DELETED, DELETED);
    ENSURE(old.state == MANAGER_MOVED && old.start < row->start, VERB_STATE);
    ENSURE(memcmp(old.label, row->label, sizeof old.label) == 0 && old.origin == row->origin, BAD_VALUE);
    ENSURE(row_has_owner(&old) || !row_has_owner(row) || table_has_room(&ledger->table, row), LEDGER_FULL);
    return OK;
}

struct err ledger_take_arrival(struct ledger *ledger, struct ledger_row *row)
{
    TRY(ledger_check_arrival(ledger, row));
    row->start++;
    return table_find(&ledger->table, &row->id, &row->slot) ? ledger_change(ledger, row) : ledger_add(ledger, row);
}

static uint32_t take_dirty(struct ledger *ledger)
{
    uint32_t slot = ledger->first_dirty - 1;
    struct table_notes *notes = table_notes(&ledger->table, slot);
    ledger->first_dirty = notes->next_dirty;
    if (!ledger->first_dirty) ledger->last_dirty = 0;
    ledger->dirty_count--;
    notes->dirty = false;
    return slot;
}

/* The row is in the tree as it is now: so in the counts. */
static void count(struct ledger *ledger, const struct ledger_row *row)
{
    struct table_notes *notes = table_notes(&ledger->table, row->slot);
    struct ledger_counts *made = &ledger->made;
    made->slots = ledger->tree.count;
    made->held += (row->state == MANAGER_HELD) - (notes->stored_state == MANAGER_HELD);
    made->deleted += (row->state == MANAGER_DELETED) - (notes->stored_state == MANAGER_DELETED);
    notes->stored_state = (uint8_t)row->state;
}

/* ---- loading ---- */

static struct err set_leaf(struct ledger *ledger, const struct ledger_row *row)
{
    uint8_t public[ROW_PUBLIC_SIZE];
    struct writer w = writer_of(public, sizeof public);
    TRY(row_write_public(row, &w));
    TRY(tree_set(ledger->owner.crypto, &ledger->tree, row->slot, writer_span(&w)));
    count(ledger, row);
    return OK;
}

static bool same_hash(const uint8_t *a, const uint8_t *b)
{
    return memcmp(a, b, SGX_HASH_SIZE) == 0;
}

struct err ledger_load_row(struct ledger *ledger, struct span blob)
{
    struct blob_header header;
    TRY(blob_peek(blob, BLOB_LEDGER_ROW, &header));
    bool own = same_hash(header.manager, ledger->owner.own.MRENCLAVE);
    ENSURE(own || same_hash(header.manager, ledger->predecessor), LEDGER_OTHER_IMAGE);
    const uint32_t slot = ledger->table.count;
    uint32_t twin = 0;
    ENSURE(slot < ledger->expected_slots, LEDGER_ROOT);

    struct blob opened DEFER(blob_free) = {0};
    struct ledger_row row DEFER(row_wipe) = {0};
    TRY(blob_open(ledger->owner.crypto, span_of(own ? ledger->own_root : ledger->predecessor_root, BLOB_ROOT_SIZE),
                  blob, BLOB_LEDGER_ROW, &opened));
    TRY(row_parse_sealed(span_of(opened.plaintext, opened.plaintext_size), &row));
    ENSURE(row.slot == slot && opened.header.number == slot, LEDGER_ROOT);
    ENSURE(memcmp(opened.header.id.bytes, row.id.bytes, INSTANCE_ID_SIZE) == 0, LEDGER_ROOT);
    ENSURE(opened.header.version <= ledger->version && !table_find(&ledger->table, &row.id, &twin), LEDGER_ROOT);
    TRY(table_add(&ledger->table, &row));
    table_notes(&ledger->table, slot)->dirty = !own; /* until ledger_loaded, which queues it */
    return set_leaf(ledger, &row);
}

struct err ledger_loaded(struct ledger *ledger)
{
    uint8_t root[SHA256_SIZE];
    ENSURE(ledger->table.count == ledger->expected_slots, LEDGER_ROOT);
    TRY(tree_root(ledger->owner.crypto, &ledger->tree, root));
    ENSURE(memcmp(root, ledger->root, sizeof root) == 0, LEDGER_ROOT);
    ledger->counts = ledger->made;
    for (uint32_t slot = 0; slot < ledger->table.count; slot++) {
        struct table_notes *notes = table_notes(&ledger->table, slot);
        if (!notes->dirty) continue;
        notes->dirty = false;
        enqueue(ledger, slot);
    }
    return OK;
}

struct err ledger_meet_anchor(struct ledger *ledger, const uint8_t seen[ANCHOR_VALUE_SIZE], bool *out_behind)
{
    *out_behind = same_hash(seen, ledger->value);
    ENSURE(*out_behind || same_hash(seen, ledger->next), ANCHOR_VALUE);
    memcpy(ledger->value, seen, sizeof ledger->value);
    return OK;
}

/* ---- stores ---- */

uint64_t ledger_ask_record(struct ledger *ledger)
{
    ledger->record_due = true;
    return ledger->version + 1;
}

bool ledger_store_due(const struct ledger *ledger)
{
    return ledger->durable == ledger->version && (ledger->dirty_count > 0 || ledger->record_due);
}

static void wipe_plaintext(uint8_t (*plaintext)[ROW_SEALED_SIZE])
{
    wipe(plaintext, sizeof *plaintext);
}

/* u32 size, then the blob. */
static struct err write_sealed(struct ledger *ledger, const struct blob_header *header, struct span plaintext,
                               struct writer *out)
{
    TRY(write_u32(out, (uint32_t)blob_size(header->kind, plaintext.size)));
    return blob_seal(ledger->owner.crypto, span_of(ledger->own_root, sizeof ledger->own_root), header, span_empty(),
                     plaintext, out);
}

static struct err store_row(struct ledger *ledger, uint32_t slot, struct writer *out)
{
    struct ledger_row row DEFER(row_wipe) = {0};
    table_read(&ledger->table, slot, &row);
    struct blob_header header = {
        .kind = BLOB_LEDGER_ROW, .id = row.id, .epoch = row.epoch, .version = ledger->version + 1, .number = row.slot};
    memcpy(header.manager, ledger->owner.own.MRENCLAVE, sizeof header.manager);
    uint8_t plaintext[ROW_SEALED_SIZE] DEFER(wipe_plaintext) = {0};
    struct writer w = writer_of(plaintext, sizeof plaintext);
    TRY(row_write_sealed(&row, &w));
    TRY(write_u32(out, row.slot));
    TRY(write_bytes(out, row.id.bytes, sizeof row.id.bytes));
    TRY(write_u64(out, row.version));
    TRY(write_sealed(ledger, &header, writer_span(&w), out));
    return set_leaf(ledger, &row);
}

/* The head over the tree as it is now, in which no row is that waits for a later store. */
static struct err store_head(struct ledger *ledger, struct writer *out)
{
    struct head head = {.domain = ledger->domain,
                        .version = ledger->version + 1,
                        .slots = ledger->tree.count,
                        .security_version = ledger->security_version};
    memcpy(head.base, ledger->value, sizeof head.base);
    memcpy(head.predecessor, ledger->predecessor, sizeof head.predecessor);
    entropy_fill(head.random, sizeof head.random);
    TRY(tree_root(ledger->owner.crypto, &ledger->tree, head.root));
    uint8_t plaintext[LEDGER_HEAD_SIZE];
    struct writer w = writer_of(plaintext, sizeof plaintext);
    TRY(write_head(&head, &w));
    struct blob_header header = {.kind = BLOB_LEDGER_HEAD, .id = ledger->domain, .version = head.version};
    memcpy(header.manager, ledger->owner.own.MRENCLAVE, sizeof header.manager);
    TRY(write_sealed(ledger, &header, writer_span(&w), out));
    memcpy(ledger->next_root, head.root, sizeof ledger->next_root);
    TRY(hash_of(ledger, writer_span(&w), ledger->record));
    return anchor_next(ledger->owner.crypto, ledger->value, ledger->record, ledger->next);
}

static struct err store_master(struct ledger *ledger, struct writer *out)
{
    if (!ledger->master_pending || (ledger->master_last && ledger->first_dirty)) return write_u32(out, 0);
    uint8_t blob[MASTER_BLOB_MAX];
    struct writer w = writer_of(blob, sizeof blob);
    struct master master DEFER(master_wipe) = {
        .domain = ledger->domain, .anchor = ledger->anchor, .recovery = ledger->recovery, .joined = ledger->joined};
    memcpy(master.secret, ledger->master, sizeof master.secret);
    memcpy(master.domain_key, ledger->domain_key, sizeof master.domain_key);
    TRY(master_seal(ledger->owner.crypto, &ledger->owner.own, &master, &w));
    TRY(write_u32(out, (uint32_t)w.size));
    TRY(write_span(out, writer_span(&w)));
    ledger->master_pending = false;
    return OK;
}

/* The rows come first into a buffer of their own, because the head, which goes before them, is over them. */
struct err ledger_store(struct ledger *ledger, struct writer *out)
{
    static uint8_t rows_buffer[MANAGER_ROWS_PER_STORE * LEDGER_STORED_ROW_SIZE];
    struct writer rows = writer_of(rows_buffer, sizeof rows_buffer);
    uint32_t rows_count = 0;
    for (; ledger->first_dirty && rows_count < MANAGER_ROWS_PER_STORE; rows_count++)
        TRY(store_row(ledger, take_dirty(ledger), &rows));
    /* Rows of the predecessor are in the queue from the first moment on: with this store there are none left. */
    if (!ledger->first_dirty) memset(ledger->predecessor, 0, sizeof ledger->predecessor);
    TRY(write_u64(out, ledger->version + 1));
    TRY(write_u32(out, rows_count));
    TRY(write_u32(out, 0));
    TRY(store_head(ledger, out));
    TRY(store_master(ledger, out));
    TRY(write_span(out, writer_span(&rows)));
    ledger->version++;
    ledger->record_due = false;
    return OK;
}

struct err ledger_anchored(struct ledger *ledger, const uint8_t seen[ANCHOR_VALUE_SIZE])
{
    ENSURE(same_hash(seen, ledger->next), ANCHOR_VALUE);
    ledger->durable = ledger->version;
    ledger->counts = ledger->made;
    memcpy(ledger->value, ledger->next, sizeof ledger->value);
    memcpy(ledger->root, ledger->next_root, sizeof ledger->root);
    return OK;
}
