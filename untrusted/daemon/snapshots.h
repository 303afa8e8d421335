/*
 * Snapshots: copies of the sealed states of an instance, which vtpmd keeps for its operator and its owner.
 *
 * Guarantees: what is answered is durable; a disk that fails is told to whoever asked and holds up nothing. A snapshot
 * protects nothing by itself: it is the owner who says which one becomes the newest state, by its digest.
 */
#pragma once

#include "untrusted/daemon/instance.h"

/* What the names begin with that vtpmd gives itself: of states that were replaced (revert). */
#define SNAPSHOT_RESERVED "before-version-"

struct snapshot {
    char name[MANAGER_LABEL_SIZE];
    uint64_t version;                     /* that the state was stored as */
    uint64_t created;                     /* seconds since 1970 */
    uint8_t digest[SHA256_SIZE];          /* of the sealed state */
    uint8_t manager[LINK_MRENCLAVE_SIZE]; /* MRENCLAVE under which it was sealed, as its header says */
    size_t size;                          /* bytes of the sealed state */
};

enum snapshots_work {
    SNAPSHOTS_TAKE, /* of what is stored as the newest state */
    SNAPSHOTS_LIST,
    SNAPSHOTS_READ,
    SNAPSHOTS_NEWEST, /* of the newest state, which is no snapshot and has no name */
    SNAPSHOTS_DELETE,
};

/* Valid during the call. list: all of them (LIST), else the one that was named; state: of READ. */
struct snapshots_answer {
    struct err result; /* ERR_NO_SNAPSHOT, ERR_SNAPSHOT_EXISTS, ERR_STATE_MISSING, ERR_STORE_IO, ERR_NO_MEMORY */
    const struct snapshot *list;
    size_t count;
    struct span state; /* sealed, without a volatile one behind it */
    struct span whole; /* with it, as it is stored */
};

typedef void snapshots_done(void *ctx, const struct snapshots_answer *answer);

/* name: as a label; NULL for LIST and NEWEST. ERR_NO_MEMORY: done is not called. */
struct err snapshots_work(struct instance *instance, enum snapshots_work what, const char *name, snapshots_done *done,
                          void *ctx);
