#include "tests/fakes/assertions.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "untrusted/daemon/committer.h"

static char directory[64];
static struct store *store;
static struct anchor_host *anchor;
static sd_event *event;
static struct committer *committer;

static int make(void **state)
{
    (void)state;
    strcpy(directory, "/tmp/vtpm-committer-XXXXXX");
    char path[80];
    if (!mkdtemp(directory) || store_init(directory).code || store_open(directory, &store).code) return -1;
    (void)snprintf(path, sizeof path, "%s/anchor", directory);
    if (anchor_file_make(path).code || anchor_host_open(ANCHOR_FILE, path, &anchor).code) return -1;
    return sd_event_new(&event) < 0 || committer_open(event, store, anchor, &committer).code;
}

static int unmake(void **state)
{
    (void)state;
    char command[100];
    committer_close(&committer);
    anchor_host_close(&anchor);
    store_close(&store);
    sd_event_unref(event);
    (void)snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

struct work {
    atomic_uint failures; /* that are still to come */
    atomic_uint runs;
    unsigned dones;
    unsigned order;
    struct err result;
};

static unsigned order;

static struct err run(void *ctx, struct store *given, struct anchor_host *given_anchor)
{
    struct work *work = ctx;
    assert_ptr_equal(given, store);
    assert_ptr_equal(given_anchor, anchor);
    atomic_fetch_add(&work->runs, 1);
    if (atomic_load(&work->failures) == 0) return OK;
    atomic_fetch_sub(&work->failures, 1);
    return FAIL(STORE_IO);
}

static struct err run_anchor(void *ctx, struct store *given, struct anchor_host *given_anchor)
{
    struct err result = run(ctx, given, given_anchor);
    return result.code ? FAIL(ANCHOR_IO) : OK;
}

static struct err run_bad(void *ctx, struct store *given, struct anchor_host *given_anchor)
{
    (void)given, (void)given_anchor;
    struct work *work = ctx;
    atomic_fetch_add(&work->runs, 1);
    return FAIL(BAD_VALUE);
}

static struct err run_slowly(void *ctx, struct store *given, struct anchor_host *given_anchor)
{
    (void)ctx, (void)given, (void)given_anchor;
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    return OK;
}

static void done(void *ctx, struct err result)
{
    struct work *work = ctx;
    work->dones++;
    work->order = ++order;
    work->result = result;
}

static void submit(struct work *work, struct err (*job)(void *ctx, struct store *store, struct anchor_host *anchor))
{
    assert_ok(committer_submit(committer, &(struct committer_job){work, job, done}));
}

static void wait_for(const struct work *work)
{
    for (unsigned i = 0; i < 100 && !work->dones; i++)
        (void)sd_event_run(event, 100000);
    assert_int_equal(work->dones, 1);
}

static void jobs_are_done_in_their_order(void **state)
{
    (void)state;
    static struct work works[5];
    order = 0;
    for (size_t i = 0; i < 5; i++)
        submit(&works[i], run);
    wait_for(&works[4]);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(works[i].order, i + 1);
        assert_ok(works[i].result);
    }
}

static void a_failing_disk_is_tried_again_until_it_works(void **state)
{
    (void)state;
    static struct work failing = {.failures = 4};
    static struct work behind;
    order = 0;
    submit(&failing, run);
    submit(&behind, run);
    wait_for(&failing);
    wait_for(&behind);
    assert_ok(failing.result);
    assert_int_equal(atomic_load(&failing.runs), 5);
    assert_int_equal(failing.order, 1);
}

static void an_anchor_that_is_not_there_is_tried_again(void **state)
{
    (void)state;
    static struct work failing = {.failures = 3};
    submit(&failing, run_anchor);
    wait_for(&failing);
    assert_ok(failing.result);
    assert_int_equal(atomic_load(&failing.runs), 4);
}

static void other_errors_are_reported_at_once(void **state)
{
    (void)state;
    static struct work work;
    submit(&work, run_bad);
    wait_for(&work);
    assert_err(work.result, BAD_VALUE);
    assert_int_equal(atomic_load(&work.runs), 1);
}

static void the_loop_goes_on_while_the_disk_stalls(void **state)
{
    (void)state;
    static struct work work;
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    submit(&work, run_slowly);
    (void)sd_event_run(event, 0);
    clock_gettime(CLOCK_MONOTONIC, &after);
    assert_int_equal(work.dones, 0);
    assert_true((after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000 < 100);
    wait_for(&work);
}

static void how_long_a_job_runs_is_known(void **state)
{
    (void)state;
    static struct work work;
    assert_int_equal(committer_running_usec(committer), 0);
    submit(&work, run_slowly);
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    uint64_t running = committer_running_usec(committer);
    assert_true(running > 0 && running < UINT64_C(60000000));
    wait_for(&work);
    assert_int_equal(committer_running_usec(committer), 0);
}

static void closing_ends_what_waits(void **state)
{
    (void)state;
    static struct work failing = {.failures = 1000};
    static struct work behind;
    submit(&failing, run);
    submit(&behind, run);
    committer_close(&committer);
    assert_int_equal(failing.dones, 1);
    assert_int_equal(behind.dones, 1);
    assert_err(behind.result, STORE_IO);
    assert_int_equal(atomic_load(&behind.runs), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make, unmake)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(jobs_are_done_in_their_order),
        TEST(a_failing_disk_is_tried_again_until_it_works),
        TEST(an_anchor_that_is_not_there_is_tried_again),
        TEST(other_errors_are_reported_at_once),
        TEST(the_loop_goes_on_while_the_disk_stalls),
        TEST(how_long_a_job_runs_is_known),
        TEST(closing_ends_what_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
