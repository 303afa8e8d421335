/*
 * The rows of a ledger in memory, by slot, id and label. A row takes what it has: an owner or an enrolled key only where
 * there is one, a tombstone no keys, an image's name a place in a list of names.
 *
 * Guarantees: a row that was added can be changed without memory, and deleted, whatever else was added; what a row no
 * longer needs is wiped.
 */
#pragma once

#include "trusted/ledger/row.h"

#define TABLE_BUCKETS  8192u
/*
 * What the heap has for rows beside every channel's session, bytes: 10,000 instances with UUIDs for labels, and owners;
 * or every slot, when 13,000 of them are deleted.
 */
#define TABLE_SIZE_MAX (3650u * 1024u)

/* What the ledger keeps about a slot, and does not store. */
struct table_notes {
    uint64_t store;       /* the row is durable when this store is */
    uint32_t next_dirty;  /* slot + 1, 0: none */
    bool dirty;           /* and waits for it to be made */
    uint8_t stored_state; /* enum manager_instance_state in the newest store that was made; 0: in none */
};

struct packed_row;

/* Zeroed is empty. */
struct table {
    uint32_t count;
    size_t size; /* of the heap, for rows */
    struct packed_row *rows[MANAGER_INSTANCES_MAX];
    uint32_t ids[TABLE_BUCKETS]; /* slot + 1 of the first row, 0: none */
    uint32_t labels[TABLE_BUCKETS];
    uint8_t (*images)[SGX_HASH_SIZE]; /* that sealed or admitted; a row has place + 1, 0: zeros */
    uint32_t image_count;
};

/* Wipes. */
void table_close(struct table *table);

/* False if a row like this one would take what the others may come to need. */
bool table_has_room(const struct table *table, const struct ledger_row *row);
/* Adds a row as the last slot, whatever row->slot says. ERR_LEDGER_FULL, ERR_NO_MEMORY. */
struct err table_add(struct table *table, const struct ledger_row *row);
/* The row of a slot below count, with slot and store. The caller wipes out. */
void table_read(const struct table *table, uint32_t slot, struct ledger_row *out);
/* Puts back a row whose id and label are as they were. ERR_NO_MEMORY: nothing is changed. */
struct err table_write(struct table *table, const struct ledger_row *row);

struct table_notes *table_notes(const struct table *table, uint32_t slot);

/* False if there is none; a tombstone is one. */
bool table_find(const struct table *table, const struct instance_id *id, uint32_t *out_slot);
/* True if a living row has the label, or any row if the dead count. */
bool table_has_label(const struct table *table, const char *label, bool dead_count);
