#include "untrusted/daemon/snapshots.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "abi/blob.h"
#include "untrusted/daemon/supervisor.h"

struct job {
    struct instance_id id;
    const struct crypto *crypto;
    enum snapshots_work what;
    char name[MANAGER_LABEL_SIZE];
    snapshots_done *done;
    void *ctx;
    struct err result; /* not the committer's to try again */
    struct snapshot *list;
    size_t count;
    uint8_t *stored; /* READ */
    size_t stored_size;
};

/* --- on the committer's thread ------------------------------------------------------------------------------------- */

static struct err add(void *ctx, const struct store_snapshot *stored)
{
    struct job *job = ctx;
    const struct span state = span_of(stored->blob.data, store_state_size(stored->blob));
    struct snapshot *list = reallocarray(job->list, job->count + 1, sizeof list[0]);
    ENSURE(list, NO_MEMORY);
    job->list = list;
    struct snapshot *snapshot = &list[job->count];
    *snapshot = (struct snapshot){.version = stored->version, .created = stored->created, .size = state.size};
    (void)snprintf(snapshot->name, sizeof snapshot->name, "%s", stored->name);
    if (state.size >= BLOB_HEADER_SIZE)
        memcpy(snapshot->manager, state.data + BLOB_OFFSET_MRENCLAVE, sizeof snapshot->manager);
    TRY(hash_sha256(job->crypto, &state, 1, snapshot->digest));
    job->count++;
    return OK;
}

static struct err read_one(struct job *job, struct store *store)
{
    struct store_snapshot stored = {.name = job->name};
    TRY(store_snapshot_read(store, &job->id, job->name, &stored.version, &stored.created, &job->stored,
                            &job->stored_size));
    stored.blob = span_of(job->stored, job->stored_size);
    return add(job, &stored);
}

static struct err read_newest(struct job *job, struct store *store)
{
    struct store_snapshot stored = {.name = job->name};
    TRY(store_read_stored(store, &job->id, &stored.version, &job->stored, &job->stored_size));
    stored.blob = span_of(job->stored, job->stored_size);
    return add(job, &stored);
}

static struct err work(struct job *job, struct store *store)
{
    switch (job->what) {
    case SNAPSHOTS_LIST:
        return store_each_snapshot(store, &job->id, job, add);
    case SNAPSHOTS_DELETE:
        return store_snapshot_delete(store, &job->id, job->name);
    case SNAPSHOTS_TAKE:
        TRY(store_snapshot_take(store, &job->id, job->name));
        break;
    case SNAPSHOTS_READ:
        break;
    case SNAPSHOTS_NEWEST:
        return read_newest(job, store);
    }
    return read_one(job, store);
}

static struct err run_job(void *ctx, struct store *store, struct anchor_host *anchor)
{
    (void)anchor;
    struct job *job = ctx;
    job->result = work(job, store);
    return OK;
}

/* --- on the loop's ------------------------------------------------------------------------------------------------- */

static void end_job(void *ctx, struct err result)
{
    struct job *job = ctx;
    const struct span stored = span_of(job->stored, job->stored_size);
    const struct snapshots_answer answer = {
        .result = result.code ? result : job->result,
        .list = job->list,
        .count = job->count,
        .state = span_of(stored.data, stored.size ? store_state_size(stored) : 0),
        .whole = stored,
    };
    job->done(job->ctx, &answer);
    free(job->list);
    free(job->stored);
    free(job);
}

struct err snapshots_work(struct instance *instance, enum snapshots_work what, const char *name, snapshots_done *done,
                          void *ctx)
{
    struct job *job = malloc(sizeof *job);
    ENSURE(job, NO_MEMORY);
    *job = (struct job){
        .id = instance->row.id, .crypto = instance->supervisor->crypto, .what = what, .done = done, .ctx = ctx};
    (void)snprintf(job->name, sizeof job->name, "%s", name ? name : "");
    struct err result =
        committer_submit(instance->supervisor->committer, &(struct committer_job){job, run_job, end_job});
    if (result.code) free(job);
    return result;
}
