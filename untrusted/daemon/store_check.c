/*
 * vtpmctl store check, vtpmd's half: store/check.h in slices, then the manager's rows, a page of them at a time, against
 * the states that are stored.
 *
 * The manager answers once all that its answer depends on is durable; so what is stored then is of the version that it
 * says, or newer. What differs is asked for again: a TPM that is being written to moves between the two looks.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crypto/hash.h"
#include "untrusted/daemon/store_work.h"
#include "untrusted/host/log.h"
#include "untrusted/store/check.h"

#define LOOKS_MAX 8u /* at an instance that differs */

struct compared {
    struct manager_row row;
    struct err stored; /* of reading it */
    uint64_t version;  /* that is stored */
    uint8_t digest[SHA256_SIZE];
};

struct checking {
    struct supervisor *supervisor;
    struct store_work_listener listener;
    struct store_check *check;
    struct err result; /* of a slice: not the committer's to try again */
    bool done;         /* with the slices */
    json_t *findings;
    struct compared page[MANAGER_LIST_MAX];
    size_t page_size, again; /* the one that is looked at again */
    unsigned looks;
    uint32_t next; /* slot of the next page; 0: there is none */
    uint64_t compared, busy;
};

static void found(void *ctx, const struct store_finding *finding)
{
    struct checking *c = ctx;
    (void)json_array_append_new(c->findings, json_pack("{s:s, s:s, s:s}", "subject", finding->subject, "fault",
                                                       finding->fault, "cure", finding->cure));
}

static void end(struct checking *c, struct err result)
{
    const struct store_work_listener listener = c->listener;
    json_t *answer = NULL;
    if (!result.code) {
        const struct store_checked *checked = store_checked(c->check);
        answer = json_pack("{s:O, s:I, s:I, s:I, s:I, s:I, s:I}", "findings", c->findings, "rows",
                           (json_int_t)checked->rows, "states", (json_int_t)checked->states, "snapshots",
                           (json_int_t)checked->snapshots, "other-manager", (json_int_t)checked->other_manager,
                           "compared", (json_int_t)c->compared, "busy", (json_int_t)c->busy);
        if (!answer) result = FAIL(NO_MEMORY);
    }
    json_decref(c->findings);
    store_check_close(&c->check);
    free(c);
    listener.done(listener.ctx, result, NULL, answer, -1);
}

static void go_on(struct checking *c, struct err result)
{
    if (result.code) end(c, result);
}

static void tell_progress(struct checking *c)
{
    uint64_t done = 0;
    uint64_t all = 0;
    store_check_progress(c->check, &done, &all);
    c->listener.progress(c->listener.ctx, done + c->compared, all + c->supervisor->roster.count);
}

/* --- against the manager -------------------------------------------------------------------------------------------
 */

static void look(struct checking *c, struct compared *compared, struct store *store)
{
    uint8_t *blob = NULL;
    size_t size = 0;
    compared->stored = store_read_stored(store, &compared->row.id, &compared->version, &blob, &size);
    if (compared->stored.code) return;
    const struct span bytes = span_of(blob, store_state_size(span_of(blob, size)));
    compared->stored = hash_sha256(c->supervisor->crypto, &bytes, 1, compared->digest);
    free(blob);
}

static struct err run_page(void *ctx, struct store *store, struct anchor_host *anchor)
{
    (void)anchor;
    struct checking *c = ctx;
    for (size_t i = 0; i < c->page_size; i++)
        if (c->page[i].row.version) look(c, &c->page[i], store);
    return OK;
}

static struct err run_again(void *ctx, struct store *store, struct anchor_host *anchor)
{
    (void)anchor;
    struct checking *c = ctx;
    if (c->page[c->again].row.version) look(c, &c->page[c->again], store);
    return OK;
}

static bool agrees(const struct compared *compared)
{
    if (compared->row.version == 0) return true; /* a state that is there all the same is store/check.h's to find */
    return !compared->stored.code && compared->version == compared->row.version &&
           memcmp(compared->digest, compared->row.digest, sizeof compared->digest) == 0;
}

static void judge(struct checking *c, const struct compared *compared)
{
    char subject[sizeof(((struct store_finding *)0)->subject)];
    char id[ID_TEXT_SIZE];
    const unsigned long long wanted = compared->row.version;
    id_format(&compared->row.id, id);
    (void)snprintf(subject, sizeof subject, "%s (%s)", compared->row.label, id);
    if (compared->stored.code == ERR_STATE_MISSING)
        store_check_tell(c->check, subject, store_cure_state,
                         "the manager has version %llu of its state, and none is stored", wanted);
    else if (compared->stored.code)
        store_check_tell(c->check, subject, store_cure_state, "its state cannot be read: %s",
                         err_sentence(compared->stored));
    else if (compared->version > compared->row.version)
        c->busy++; /* written to at each look */
    else if (compared->version < compared->row.version)
        store_check_tell(c->check, subject, store_cure_state,
                         "the manager has version %llu of its state, and the stored one is version %llu", wanted,
                         (unsigned long long)compared->version);
    else
        store_check_tell(c->check, subject, store_cure_state,
                         "the stored state is not the one that the manager has as version %llu: its SHA-256 differs",
                         wanted);
}

static void judge_page(struct checking *c);
static void ask_page(struct checking *c, uint32_t first);

static void on_looked_again(void *ctx, struct err result)
{
    struct checking *c = ctx;
    if (result.code) {
        end(c, result);
        return;
    }
    c->looks++;
    judge_page(c);
}

static void on_row_again(void *ctx, struct err result, struct reader *results)
{
    struct checking *c = ctx;
    if (!result.code) result = effects_read_row(results, &c->page[c->again].row);
    if (!result.code)
        result = committer_submit(c->supervisor->committer, &(struct committer_job){c, run_again, on_looked_again});
    go_on(c, result);
}

/* From c->again on. */
static void judge_page(struct checking *c)
{
    for (; c->again < c->page_size; c->again++, c->looks = 0) {
        const struct compared *compared = &c->page[c->again];
        if (!agrees(compared) && c->looks < LOOKS_MAX) {
            go_on(c, manager_ask(c->supervisor->manager, MANAGER_SHOW,
                                 span_of(compared->row.id.bytes, sizeof compared->row.id.bytes), on_row_again, c));
            return;
        }
        if (!agrees(compared)) judge(c, compared);
        c->compared++;
    }
    tell_progress(c);
    if (c->next)
        ask_page(c, c->next);
    else
        end(c, OK);
}

static void on_page_looked_at(void *ctx, struct err result)
{
    struct checking *c = ctx;
    if (result.code) {
        end(c, result);
        return;
    }
    c->again = 0;
    c->looks = 0;
    judge_page(c);
}

static struct err take_page(struct checking *c, struct reader *results)
{
    uint32_t count = 0;
    TRY(read_u32(results, &count));
    TRY(read_u32(results, &c->next));
    ENSURE(count <= MANAGER_LIST_MAX, TOO_LARGE);
    for (c->page_size = 0; c->page_size < count; c->page_size++) {
        c->page[c->page_size] = (struct compared){0};
        TRY(effects_read_row(results, &c->page[c->page_size].row));
    }
    return committer_submit(c->supervisor->committer, &(struct committer_job){c, run_page, on_page_looked_at});
}

static void on_page(void *ctx, struct err result, struct reader *results)
{
    struct checking *c = ctx;
    go_on(c, result.code ? result : take_page(c, results));
}

static void ask_page(struct checking *c, uint32_t first)
{
    const uint32_t arguments[2] = {first, 0};
    go_on(c, manager_ask(c->supervisor->manager, MANAGER_LIST, span_of(arguments, sizeof arguments), on_page, c));
}

/* --- the store by itself -------------------------------------------------------------------------------------------
 */

static struct err run_slice(void *ctx, struct store *store, struct anchor_host *anchor)
{
    (void)anchor;
    struct checking *c = ctx;
    const struct store_check_listener listener = {.ctx = c, .found = found};
    if (!c->check) c->result = store_check_open(store_handle(store), false, &listener, &c->check);
    if (!c->result.code) c->result = store_check_step(c->check, &c->done);
    return OK;
}

static void on_slice(void *ctx, struct err result)
{
    struct checking *c = ctx;
    if (!result.code) result = c->result;
    if (result.code) {
        end(c, result);
        return;
    }
    tell_progress(c);
    if (c->done)
        ask_page(c, 0);
    else
        go_on(c, committer_submit(c->supervisor->committer, &(struct committer_job){c, run_slice, on_slice}));
}

struct err store_work_check(struct supervisor *supervisor, const struct store_work_listener *listener)
{
    struct checking *c = calloc(1, sizeof *c);
    ENSURE(c, NO_MEMORY);
    *c = (struct checking){.supervisor = supervisor, .listener = *listener, .findings = json_array()};
    struct err result = c->findings
                            ? committer_submit(supervisor->committer, &(struct committer_job){c, run_slice, on_slice})
                            : FAIL(NO_MEMORY);
    if (!result.code) return OK;
    json_decref(c->findings);
    free(c);
    return result;
}
