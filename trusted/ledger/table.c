#include "trusted/ledger/table.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* Behind the label come the owner, the enrolled key and the source, where there is one, and the rest of a living row. */
struct packed_row {
    struct instance_id id;
    struct table_notes notes;
    uint64_t epoch;
    uint64_t start;
    uint64_t version;
    uint64_t created;
    uint64_t deaths;
    uint32_t next_in_ids; /* slot + 1, 0: none; so the next one */
    uint32_t next_in_labels;
    uint32_t loads;
    uint16_t sealed_by; /* place in images + 1; so the next one */
    uint16_t provisioned_by;
    uint8_t state;
    uint8_t origin;
    bool has_owner;
    bool has_front_key;
    bool reverted;
    uint8_t lockout_heals : 4; /* one byte for all: a row has no room for another */
    uint8_t family : 2;
    uint8_t snapshots : 2;
    uint8_t label_size;
    uint8_t rest[];
};

/* As trusted/runtime/heap.c does: header, guard, units of 16 bytes. */
#define HEAP_COST(size) (((size) + 9u + 15u) / 16u * 16u + 16u)

struct living {
    uint8_t digest[SHA256_SIZE];
    uint8_t holder[ED25519_PUBLIC_SIZE];
    uint8_t root_key[BLOB_ROOT_SIZE];
    uint8_t suspended[SHA256_SIZE];
    uint8_t floors[PEER_FLOORS_SIZE];
};

struct parts {
    size_t label_size;
    bool owner, front_key, source, lives;
};

static size_t size_with(struct parts parts)
{
    return offsetof(struct packed_row, rest) + parts.label_size + (parts.owner ? ED25519_PUBLIC_SIZE : 0) +
           (parts.front_key ? X25519_SIZE : 0) + (parts.source ? INSTANCE_ID_SIZE : 0) +
           (parts.lives ? sizeof(struct living) : 0);
}

static size_t packed_size(const struct packed_row *row)
{
    return size_with((struct parts){row->label_size, row->has_owner, row->has_front_key,
                                    row->origin == MANAGER_ORIGIN_CLONE, row->state != MANAGER_DELETED});
}

static size_t size_of(const struct ledger_row *row)
{
    return size_with((struct parts){strnlen(row->label, sizeof row->label), row_has_owner(row), row_has_front_key(row),
                                    row->origin == MANAGER_ORIGIN_CLONE, row->state != MANAGER_DELETED});
}

static void free_row(struct table *table, struct packed_row *row)
{
    size_t size = packed_size(row);
    table->size -= HEAP_COST(size);
    wipe(row, size);
    free(row);
}

void table_close(struct table *table)
{
    for (uint32_t slot = 0; slot < table->count; slot++)
        free_row(table, table->rows[slot]);
    free(table->images);
    wipe(table, sizeof *table);
}

/* ---- packing ---- */

static uint8_t *put(uint8_t *place, const void *bytes, size_t size)
{
    memcpy(place, bytes, size);
    return place + size;
}

static const uint8_t *take(const uint8_t *place, void *out, size_t size)
{
    memcpy(out, place, size);
    return place + size;
}

/* There are as many names as managers that sealed what is still there: one, or a few. */
static struct err name_image(struct table *table, const uint8_t image[SGX_HASH_SIZE], uint16_t *out)
{
    static const uint8_t nobody[SGX_HASH_SIZE];
    *out = 0;
    if (memcmp(image, nobody, sizeof nobody) == 0) return OK;
    for (uint32_t i = 0; i < table->image_count; i++) {
        if (memcmp(table->images[i], image, SGX_HASH_SIZE) != 0) continue;
        *out = (uint16_t)(i + 1);
        return OK;
    }
    ENSURE(table->image_count < UINT16_MAX, NO_MEMORY);
    void *images = realloc(table->images, (table->image_count + 1) * sizeof *table->images);
    ENSURE(images, NO_MEMORY);
    table->images = images;
    memcpy(table->images[table->image_count], image, SGX_HASH_SIZE);
    *out = (uint16_t)++table->image_count;
    return OK;
}

static void image_of(const struct table *table, uint16_t name, uint8_t out[SGX_HASH_SIZE])
{
    if (name) memcpy(out, table->images[name - 1], SGX_HASH_SIZE);
}

/* Everything but the notes and the places in the buckets. */
static void pack(const struct ledger_row *row, uint16_t sealed_by, uint16_t provisioned_by, struct packed_row *out)
{
    out->id = row->id;
    out->epoch = row->epoch;
    out->start = row->start;
    out->version = row->version;
    out->created = row->created;
    out->deaths = row->deaths;
    out->loads = row->loads;
    out->sealed_by = sealed_by;
    out->provisioned_by = provisioned_by;
    out->state = (uint8_t)row->state;
    out->origin = (uint8_t)row->origin;
    out->has_owner = row_has_owner(row);
    out->has_front_key = row_has_front_key(row);
    out->reverted = row->reverted;
    out->lockout_heals = (uint8_t)row->lockout_heals & 0xf;
    out->family = (uint8_t)row->family & 3;
    out->snapshots = (uint8_t)row->snapshots & 3;
    out->label_size = (uint8_t)strnlen(row->label, sizeof row->label);
    uint8_t *place = put(out->rest, row->label, out->label_size);
    if (out->has_owner) place = put(place, row->owner, sizeof row->owner);
    if (out->has_front_key) place = put(place, row->front_key, sizeof row->front_key);
    if (row->origin == MANAGER_ORIGIN_CLONE) place = put(place, row->source.bytes, sizeof row->source.bytes);
    if (row->state == MANAGER_DELETED) return;
    place = put(place, row->digest, sizeof row->digest);
    place = put(place, row->holder, sizeof row->holder);
    place = put(place, row->root_key, sizeof row->root_key);
    place = put(place, row->suspended, sizeof row->suspended);
    put(place, row->floors, sizeof row->floors);
}

void table_read(const struct table *table, uint32_t slot, struct ledger_row *out)
{
    const struct packed_row *row = table->rows[slot];
    *out = (struct ledger_row){.slot = slot,
                               .state = row->state,
                               .origin = row->origin,
                               .id = row->id,
                               .epoch = row->epoch,
                               .start = row->start,
                               .version = row->version,
                               .created = row->created,
                               .deaths = row->deaths,
                               .lockout_heals = row->lockout_heals,
                               .family = row->family,
                               .snapshots = row->snapshots,
                               .loads = row->loads,
                               .reverted = row->reverted,
                               .store = row->notes.store};
    image_of(table, row->sealed_by, out->sealed_by);
    image_of(table, row->provisioned_by, out->provisioned_by);
    const uint8_t *place = take(row->rest, out->label, row->label_size);
    if (row->has_owner) place = take(place, out->owner, sizeof out->owner);
    if (row->has_front_key) place = take(place, out->front_key, sizeof out->front_key);
    if (out->origin == MANAGER_ORIGIN_CLONE) place = take(place, out->source.bytes, sizeof out->source.bytes);
    if (row->state == MANAGER_DELETED) return;
    place = take(place, out->digest, sizeof out->digest);
    place = take(place, out->holder, sizeof out->holder);
    place = take(place, out->root_key, sizeof out->root_key);
    place = take(place, out->suspended, sizeof out->suspended);
    take(place, out->floors, sizeof out->floors);
}

/* ---- finding ---- */

struct table_notes *table_notes(const struct table *table, uint32_t slot)
{
    return &table->rows[slot]->notes;
}

/* Ids are random: some of their bytes are as good as any hash. */
static uint32_t id_bucket(const struct instance_id *id)
{
    uint32_t word = 0;
    memcpy(&word, id->bytes, sizeof word);
    return word % TABLE_BUCKETS;
}

/* FNV-1a. Only the operator chooses labels, and only a create looks here. */
static uint32_t label_bucket(const char *label)
{
    uint32_t hash = 2166136261u;
    for (; *label; label++)
        hash = (hash ^ (uint8_t)*label) * 16777619u;
    return hash % TABLE_BUCKETS;
}

bool table_find(const struct table *table, const struct instance_id *id, uint32_t *out_slot)
{
    const struct packed_row *row = NULL;
    for (uint32_t next = table->ids[id_bucket(id)]; next; next = row->next_in_ids) {
        row = table->rows[next - 1];
        if (memcmp(row->id.bytes, id->bytes, INSTANCE_ID_SIZE) != 0) continue;
        *out_slot = next - 1;
        return true;
    }
    return false;
}

bool table_has_label(const struct table *table, const char *label, bool dead_count)
{
    const size_t size = strlen(label);
    const struct packed_row *row = NULL;
    for (uint32_t next = table->labels[label_bucket(label)]; next; next = row->next_in_labels) {
        row = table->rows[next - 1];
        bool counts = dead_count || row->state != MANAGER_DELETED;
        if (counts && row->label_size == size && memcmp(row->rest, label, size) == 0) return true;
    }
    return false;
}

/* ---- changing ---- */

bool table_has_room(const struct table *table, const struct ledger_row *row)
{
    return table->count < MANAGER_INSTANCES_MAX && table->size + HEAP_COST(size_of(row)) <= TABLE_SIZE_MAX;
}

struct err table_add(struct table *table, const struct ledger_row *row)
{
    const size_t size = size_of(row);
    uint16_t sealed_by = 0;
    uint16_t provisioned_by = 0;
    ENSURE(table->count < MANAGER_INSTANCES_MAX, LEDGER_FULL);
    TRY(name_image(table, row->sealed_by, &sealed_by));
    TRY(name_image(table, row->provisioned_by, &provisioned_by));
    struct packed_row *added = calloc(1, size);
    ENSURE(added, NO_MEMORY);
    pack(row, sealed_by, provisioned_by, added);
    uint32_t *first_in_ids = &table->ids[id_bucket(&row->id)];
    uint32_t *first_in_labels = &table->labels[label_bucket(row->label)];
    added->next_in_ids = *first_in_ids;
    added->next_in_labels = *first_in_labels;
    table->rows[table->count++] = added;
    table->size += HEAP_COST(size);
    *first_in_ids = *first_in_labels = table->count;
    return OK;
}

/* A row changes its size when it gets another owner or none, and when it is deleted. */
struct err table_write(struct table *table, const struct ledger_row *row)
{
    const size_t size = size_of(row);
    uint16_t sealed_by = 0;
    uint16_t provisioned_by = 0;
    TRY(name_image(table, row->sealed_by, &sealed_by));
    TRY(name_image(table, row->provisioned_by, &provisioned_by));
    struct packed_row *old = table->rows[row->slot];
    if (size == packed_size(old)) {
        pack(row, sealed_by, provisioned_by, old);
        return OK;
    }
    struct packed_row *other = malloc(size);
    ENSURE(other, NO_MEMORY);
    memcpy(other, old, offsetof(struct packed_row, rest)); /* sizeof has padding, for which there may be no room */
    pack(row, sealed_by, provisioned_by, other);
    table->rows[row->slot] = other;
    table->size += HEAP_COST(size);
    free_row(table, old);
    return OK;
}
