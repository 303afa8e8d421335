/*
 * The ledger of a trust domain: its rows in memory, the tree over them, and the record ("head") that each store makes
 * (docs/ledger.md).
 *
 * Guarantees: rows and head that were loaded are those that one store wrote together, each authenticated, in the
 * order of their slots; a store holds the head and every row that changed, up to MANAGER_ROWS_PER_STORE, and the head's
 * root is over what is durable with it, never over a row that waits for a later store; each head is made on a value of
 * the anchor that was seen, and nothing is stored after it before the anchor was seen to have moved to it; ids and UUIDs
 * among the labels never come twice. A changed row costs one hash for each level of the tree. That what was loaded is
 * the newest that there was, is as true as what the anchor answered (ledger_meet_anchor).
 */
#pragma once

#include "trusted/ledger/master.h"
#include "trusted/ledger/table.h"
#include "trusted/ledger/tree.h"

#define LEDGER_HEAD_SIZE       (16u + 16u + 8u + 2u * SHA256_SIZE + 4u + 4u + SGX_HASH_SIZE + 32u)
/* The slot of a row that is in no slot of this ledger. */
#define LEDGER_ELSEWHERE       UINT32_MAX
/* A row in MANAGER_EFFECT_STORE, with slot, id, version and size. */
#define LEDGER_STORED_ROW_SIZE (32u + BLOB_HEADER_SIZE + ROW_SEALED_SIZE + BLOB_TAG_SIZE)
#define LEDGER_STORE_MAX                                                                                               \
    (16u + 4u + BLOB_HEADER_SIZE + LEDGER_HEAD_SIZE + BLOB_TAG_SIZE + 4u + MASTER_BLOB_MAX +                           \
     MANAGER_ROWS_PER_STORE * LEDGER_STORED_ROW_SIZE)

_Static_assert(MANAGER_INSTANCES_MAX <= TREE_LEAVES, "every slot is a leaf");

/* How many rows there are. */
struct ledger_counts {
    uint32_t slots; /* tombstones included */
    uint32_t held;
    uint32_t deleted;
};

/* Who seals, and for what. */
struct ledger_owner {
    const struct crypto *crypto;
    struct sgx_report own; /* of this enclave */
    uint32_t security_version;
};

struct ledger {
    struct ledger_owner owner;
    struct instance_id domain;
    uint8_t master[MASTER_SIZE];
    struct anchor_config anchor; /* sealed with the master secret */
    struct recovery_rule recovery;
    struct instance_id member;           /* of this ledger in its domain */
    bool joined;                         /* the domain is another one's: its key was given, and not derived */
    uint8_t domain_key[DOMAIN_KEY_SIZE]; /* what members know each other by */
    uint32_t security_version;
    bool record_due;                    /* a store is due though no row changed: the start record, or a question */
    bool master_pending;                /* the next store has the master secret too */
    bool master_last;                   /* no store before the last row of a recovery: half of one opens nowhere */
    uint8_t predecessor[SGX_HASH_SIZE]; /* rows may still be sealed under it; zeros: none */
    uint8_t own_root[BLOB_ROOT_SIZE];
    uint8_t predecessor_root[BLOB_ROOT_SIZE];

    uint64_t version;                 /* of the newest head that was made */
    uint64_t durable;                 /* of the newest one that is stored and anchored; version or one less */
    uint8_t record[SHA256_SIZE];      /* hash of the newest head that was made */
    uint8_t value[ANCHOR_VALUE_SIZE]; /* the anchor's, as it was seen last: what that head, or the next, is made on */
    uint8_t next[ANCHOR_VALUE_SIZE];  /* the anchor's with that head */
    uint8_t root[SHA256_SIZE];        /* of the newest one that is durable */
    uint8_t next_root[SHA256_SIZE];   /* of the newest that was made */
    uint32_t expected_slots;          /* while loading: what the head says */

    struct ledger_counts made;   /* in the newest head that was made */
    struct ledger_counts counts; /* in the newest one that is durable */
    struct table table;
    struct tree tree;
    uint32_t first_dirty, last_dirty, dirty_count;
};

void ledger_close(struct ledger *ledger);

/* A new domain; its first store is due after ledger_found_anchor. out is zeroed or closed. ERR_NO_MEMORY, ERR_CRYPTO.
 */
struct err ledger_new(const struct ledger_owner *owner, struct ledger *out);
/* The new domain's anchor is defined, and stands at this value. */
void ledger_found_anchor(struct ledger *ledger, const struct anchor_config *anchor,
                         const uint8_t value[ANCHOR_VALUE_SIZE]);

/*
 * Begins to load. The errors of master_open; of blob_open; ERR_LEDGER_OTHER_IMAGE, ERR_DOWNGRADE.
 */
struct err ledger_open(const struct ledger_owner *owner, struct span master, struct span head, struct ledger *out);

/* What an old manager gives to the new one. */
struct ledger_inheritance {
    struct instance_id domain;
    uint8_t master[MASTER_SIZE];
    struct anchor_config anchor;
    struct recovery_rule recovery;
    uint8_t value[ANCHOR_VALUE_SIZE];   /* the anchor's with the newest head */
    uint8_t predecessor[SGX_HASH_SIZE]; /* the old manager */
    bool joined;
    uint8_t domain_key[DOMAIN_KEY_SIZE]; /* joined */
};

/* The same with what the old manager gave; head has to be the very one that led to the value. ERR_LEDGER_ROOT. */
struct err ledger_inherit(const struct ledger_owner *owner, const struct ledger_inheritance *from, struct span head,
                          struct ledger *out);

/*
 * The same with a master secret that its recovery keys gave, under whatever manager the head was sealed, and without an
 * anchor: that is a new one, after loading. ERR_LEDGER_OTHER_IMAGE: some rows are still under another manager.
 */
struct err ledger_recover(const struct ledger_owner *owner, const struct instance_id *domain,
                          const uint8_t master[MASTER_SIZE], const struct recovery_rule *rule, struct span head,
                          struct ledger *out);

/* The row of the next slot. ERR_LEDGER_ROOT, the errors of blob_open, ERR_LEDGER_OTHER_IMAGE, ERR_NO_MEMORY. */
struct err ledger_load_row(struct ledger *ledger, struct span blob);
/* All rows were given. ERR_LEDGER_ROOT. What is not sealed by this enclave is marked as changed. */
struct err ledger_loaded(struct ledger *ledger);
/*
 * What the anchor says after loading: it stands where the head left it, or where the head was made, when the head was
 * stored and not anchored any more; then *out_behind is true, and the anchor is to be moved to next with record.
 * ERR_ANCHOR_VALUE.
 */
struct err ledger_meet_anchor(struct ledger *ledger, const uint8_t seen[ANCHOR_VALUE_SIZE], bool *out_behind);

/*
 * The ledger becomes a member of this domain, with the store that is to be asked for. ERR_NOT_EMPTY: it has had an
 * instance, or recovery keys, whose holders are others than that domain's.
 */
struct err ledger_join(struct ledger *ledger, const struct instance_id *domain, const uint8_t key[DOMAIN_KEY_SIZE]);
struct err ledger_check_join(const struct ledger *ledger);

/* How many rows there are, stored or not. */
uint32_t ledger_slots(const struct ledger *ledger);
/* The row of a slot below that. The caller wipes out. */
void ledger_read(const struct ledger *ledger, uint32_t slot, struct ledger_row *out);
/* ERR_NO_INSTANCE; a tombstone is one. The caller wipes out. */
struct err ledger_find(const struct ledger *ledger, const struct instance_id *id, struct ledger_row *out);
/* ERR_LABEL_TAKEN if a living instance has the label, or if it is a UUID and was an id or a label ever. */
struct err ledger_check_label(const struct ledger *ledger, const char *label);

/*
 * Adds a row, which has its id and label, as the last slot; puts a changed one back. Each goes into a store, and
 * row->store says into which. ERR_LEDGER_FULL, ERR_NO_MEMORY: nothing was changed.
 */
struct err ledger_add(struct ledger *ledger, struct ledger_row *row);
/*
 * A row that comes from another member, one start later than its row there: added, or put in the place of the one that
 * moved away from here. row->slot says where. ERR_DELETED; ERR_VERB_STATE: it lives here, or what moved away is as new;
 * ERR_LABEL_TAKEN, as long as an instance lives that has its label.
 */
struct err ledger_check_arrival(const struct ledger *ledger, const struct ledger_row *row);
struct err ledger_take_arrival(struct ledger *ledger, struct ledger_row *row);
struct err ledger_change(struct ledger *ledger, struct ledger_row *row);

/*
 * A store is to be made from now on even if no row changed; returns its number. When it is durable and anchored, this
 * manager was the only one at a moment after this call.
 */
uint64_t ledger_ask_record(struct ledger *ledger);

/* True if there is something to store and nothing under way. */
bool ledger_store_due(const struct ledger *ledger);
/* Writes MANAGER_EFFECT_STORE's payload, at most LEDGER_STORE_MAX bytes. ERR_CRYPTO: the ledger cannot be used any
 * more. */
struct err ledger_store(struct ledger *ledger, struct writer *out);
/* The store under way is durable, and the anchor stands there. ERR_ANCHOR_VALUE if it does not. */
struct err ledger_anchored(struct ledger *ledger, const uint8_t seen[ANCHOR_VALUE_SIZE]);
