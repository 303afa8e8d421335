/*
 * The host and the anchor: a whole older store (S1), a life that ends between store, anchor and answer (S9), two
 * managers on copies of one store and moves that are withheld (S10), answers that are not what they have to be.
 */
#include "tests/fakes/assertions.h"

#include <string.h>

#include "tests/unit/manager/rig.h"

static struct rig rig;
static struct rig other;
static struct ledger_row row;

static int begin(void **state)
{
    (void)state;
    rig_identities("the manager image", "the instance image");
    rig_open(&rig);
    assert_int_equal(rig_create(&rig, "first", NULL, NULL, &row), ERR_NONE);
    return 0;
}

static void forget(struct rig *old)
{
    rig_end(old);
    struct rig_shared *shared = old->shared;
    memset(old, 0, sizeof *old);
    old->shared = shared;
}

static int finish(void **state)
{
    (void)state;
    forget(&rig);
    forget(&other);
    return 0;
}

static void move(struct rig *from, struct rig *to)
{
    memcpy(to->anchor, from->anchor, sizeof to->anchor);
}

static void copy(struct rig *from, struct rig *to)
{
    to->disk = from->disk;
    move(from, to);
}

/* Up to the end of LOADED, and of the exchanges that follow unless they are held. */
static uint16_t offer(struct rig *to)
{
    rig_boot(to);
    assert_int_equal(rig_start_open(to), ERR_NONE);
    assert_int_equal(rig_rows(to), ERR_NONE);
    return rig_loaded(to);
}

static void assert_dead(struct rig *dead)
{
    static const uint8_t body[64];
    assert_int_equal(rig_call(dead, MANAGER_RECORD, span_of(body, sizeof body)), ERR_ENCLAVE_DEAD);
    assert_int_equal(rig_call(dead, MANAGER_ANCHORED, span_of(body, 40)), ERR_ENCLAVE_DEAD);
}

static unsigned count_ready(const struct rig *of)
{
    unsigned count = 0;
    for (size_t i = 0; i < of->effect_count; i++)
        count += of->effects[i].kind == MANAGER_EFFECT_RECORD && of->effects[i].bytes.size == MANAGER_K1_HEADER_SIZE &&
                 of->effects[i].bytes.data[0] == MANAGER_READY;
    return count;
}

/* ---- the start ---- */

static void nobody_is_answered_before_the_start_record_is_anchored(void **state)
{
    (void)state;
    rig.hold_stores = true;
    assert_int_equal(offer(&rig), ERR_NONE);
    rig_finish_k1(&rig);
    for (int exchange = 0; exchange < 2; exchange++) { /* READ; MOVE to the start record */
        assert_true(rig.held_exchange && (rig.held_store != 0) == (exchange == 1));
        assert_int_equal(rig_on(&rig, MANAGER_SHOW, &row.id, NULL), ERR_CALL_BUSY);
        assert_int_equal(count_ready(&rig), 0);
        rig_store(&rig);
    }
    assert_false(rig.held_exchange);
    assert_int_equal(count_ready(&rig), 1);
    assert_int_equal(rig_on(&rig, MANAGER_SHOW, &row.id, NULL), ERR_NONE);
    assert_int_equal(count_ready(&rig), 0);
}

static void ready_waits_for_the_end_of_k1s_handshake(void **state)
{
    (void)state;
    assert_int_equal(offer(&rig), ERR_NONE);
    assert_int_equal(count_ready(&rig), 0);
    rig_finish_k1(&rig);
    assert_int_equal(count_ready(&rig), 1);
}

static void every_start_moves_the_anchor(void **state)
{
    (void)state;
    uint8_t before[ANCHOR_VALUE_SIZE];
    for (int i = 0; i < 3; i++) {
        memcpy(before, rig.anchor, sizeof before);
        rig_reopen(&rig);
        assert_memory_not_equal(before, rig.anchor, sizeof before);
    }
}

/* ---- S1 ---- */

static void an_older_store_is_refused(void **state)
{
    (void)state;
    static struct rig_disk older;
    older = rig.disk;
    assert_int_equal(rig_delete(&rig, &row.id, NULL), ERR_NONE);
    rig.disk = older;
    assert_int_equal(offer(&rig), ERR_ANCHOR_VALUE);
    assert_dead(&rig);
}

/* Nothing was changed by hand: a start is a record too. */
static void the_store_before_the_newest_start_is_refused(void **state)
{
    (void)state;
    static struct rig_disk older;
    older = rig.disk;
    rig_reopen(&rig);
    rig.disk = older;
    assert_int_equal(offer(&rig), ERR_ANCHOR_VALUE);
}

/* ---- S9 ---- */

static void a_life_that_ends_between_store_and_anchor_loses_nothing(void **state)
{
    (void)state;
    struct ledger_row second;
    uint8_t before[ANCHOR_VALUE_SIZE];
    memcpy(before, rig.anchor, sizeof before);
    rig.hold_stores = true;
    assert_int_equal(rig_delete(&rig, &row.id, NULL), RIG_NOT_ANSWERED);
    rig_keep(&rig);
    /* READ; MOVE to the record that was left, with number 0; MOVE to the start record */
    assert_int_equal(offer(&rig), ERR_NONE);
    rig_store(&rig);
    assert_true(rig.held_exchange && rig.held_number == 0 && rig.held_store == 0);
    assert_memory_equal(rig.held_request + 8, before, sizeof before);
    rig_store(&rig);
    assert_true(rig.held_store != 0);
    rig.hold_stores = false;
    rig_finish_k1(&rig);
    assert_int_equal(rig_row(&rig, &row.id).state, MANAGER_DELETED);
    assert_int_equal(rig_create(&rig, "second", NULL, NULL, &second), ERR_NONE);
    rig_reopen(&rig);
    assert_int_equal(rig_row(&rig, &second.id).slot, 1);
}

/* It was not durable, and nobody was told: the one before is the newest. */
static void a_life_that_ends_before_its_store_goes_on_from_the_one_before(void **state)
{
    (void)state;
    rig.hold_stores = true;
    assert_int_equal(rig_delete(&rig, &row.id, NULL), RIG_NOT_ANSWERED);
    rig.hold_stores = false;
    rig_reopen(&rig);
    assert_int_equal(rig_row(&rig, &row.id).state, MANAGER_PROVISIONED);
}

static void a_life_that_ends_between_anchor_and_answer_loses_nothing(void **state)
{
    (void)state;
    rig.hold_stores = true;
    assert_int_equal(rig_delete(&rig, &row.id, NULL), RIG_NOT_ANSWERED);
    rig_keep(&rig);
    memcpy(rig.anchor, rig.held_request + 8 + ANCHOR_VALUE_SIZE, ANCHOR_VALUE_SIZE);
    rig.hold_stores = false;
    rig_reopen(&rig);
    assert_int_equal(rig_row(&rig, &row.id).state, MANAGER_DELETED);
}

/* An anchor that moved without its store being durable: a host that broke the order has no store that fits any more. */
static void an_anchor_that_moved_before_its_store_is_noticed(void **state)
{
    (void)state;
    rig.hold_stores = true;
    assert_int_equal(rig_delete(&rig, &row.id, NULL), RIG_NOT_ANSWERED);
    memcpy(rig.anchor, rig.held_request + 8 + ANCHOR_VALUE_SIZE, ANCHOR_VALUE_SIZE);
    rig.hold_stores = false;
    assert_int_equal(offer(&rig), ERR_ANCHOR_VALUE);
}

/* ---- S10 ---- */

/* Both have read the anchor, and made their start records; the one's move is withheld until the other is up. */
static void of_two_managers_on_one_store_one_goes_on(void **state)
{
    (void)state;
    copy(&rig, &other);
    other.hold_stores = true;
    assert_int_equal(offer(&other), ERR_NONE);
    rig_finish_k1(&other);
    rig_store(&other);
    assert_true(other.held_store != 0);

    rig_reopen(&rig);
    assert_int_equal(rig_delete(&rig, &row.id, NULL), ERR_NONE);

    move(&rig, &other);
    assert_int_equal(rig_exchange(&other), ERR_ANCHOR_VALUE);
    assert_int_equal(other.effect_count, 0);
    assert_memory_equal(other.anchor, rig.anchor, sizeof rig.anchor);
    assert_dead(&other);
    /* its record is on a disk, and is a direct successor of the one that both began with */
    other.hold_stores = false;
    assert_int_equal(offer(&other), ERR_ANCHOR_VALUE);
    rig_reopen(&rig);
}

/* One runs, another one is started on a copy of its store, and takes the anchor over. */
static void a_manager_whose_anchor_was_taken_over_answers_nothing_any_more(void **state)
{
    (void)state;
    copy(&rig, &other);
    rig_reopen(&other);
    move(&other, &rig);
    rig.hold_stores = true;
    assert_int_equal(rig_create(&rig, "second", NULL, NULL, NULL), RIG_NOT_ANSWERED);
    assert_int_equal(rig_exchange(&rig), ERR_ANCHOR_VALUE);
    assert_int_equal(rig.effect_count, 0);
    assert_dead(&rig);
    assert_memory_equal(rig.anchor, other.anchor, sizeof rig.anchor);
    assert_int_equal(rig_create(&other, "third", NULL, NULL, NULL), ERR_NONE);
}

/* Both anchor the record that was left, which is the same; then there is one start record too many. */
static void of_two_managers_that_catch_up_one_goes_on(void **state)
{
    (void)state;
    rig.hold_stores = true;
    assert_int_equal(rig_delete(&rig, &row.id, NULL), RIG_NOT_ANSWERED);
    rig_keep(&rig);
    copy(&rig, &other);
    assert_int_equal(offer(&rig), ERR_NONE);
    other.hold_stores = true;
    assert_int_equal(offer(&other), ERR_NONE);
    rig_store(&rig);
    rig_store(&other);
    rig_store(&rig);
    move(&rig, &other);
    rig_store(&other); /* from is not where it stands, and to is */
    rig_store(&rig);
    move(&rig, &other);
    assert_int_equal(rig_exchange(&other), ERR_ANCHOR_VALUE);
    assert_dead(&other);
    rig.hold_stores = false;
    rig_finish_k1(&rig);
    assert_int_equal(count_ready(&rig), 1);
}

static void the_record_of_one_copy_does_not_fit_the_anchor_of_another(void **state)
{
    (void)state;
    copy(&rig, &other);
    rig_reopen(&rig);
    rig_reopen(&other);
    move(&rig, &other);
    assert_int_equal(offer(&other), ERR_ANCHOR_VALUE);
}

/* ---- answers ---- */

static void an_anchor_that_does_not_move_ends_the_manager(void **state)
{
    (void)state;
    rig.hold_stores = true;
    assert_int_equal(rig_create(&rig, "second", NULL, NULL, NULL), RIG_NOT_ANSWERED);
    rig.anchor_stuck = true;
    assert_int_equal(rig_exchange(&rig), ERR_ANCHOR_VALUE);
    assert_int_equal(rig.effect_count, 0);
    assert_dead(&rig);
}

static void an_anchor_that_stands_elsewhere_ends_the_manager(void **state)
{
    (void)state;
    for (size_t i = 0; i < ANCHOR_VALUE_SIZE; i++) {
        rig_reopen(&rig);
        rig.hold_stores = true;
        assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &row.id, NULL), RIG_NOT_ANSWERED);
        uint8_t kept[ANCHOR_VALUE_SIZE];
        memcpy(kept, rig.anchor, sizeof kept);
        memcpy(rig.anchor, rig.held_request + 8 + ANCHOR_VALUE_SIZE, ANCHOR_VALUE_SIZE);
        rig.anchor[i] ^= 1;
        assert_int_equal(rig_exchange(&rig), ERR_ANCHOR_VALUE);
        assert_int_equal(rig.effect_count, 0);
        memcpy(rig.anchor, kept, sizeof kept);
        rig.hold_stores = false;
    }
}

static void an_answer_of_another_size_ends_the_manager(void **state)
{
    (void)state;
    uint8_t body[sizeof(uint64_t) + ANCHOR_VALUE_SIZE + 1] = {0};
    for (size_t size = sizeof(uint64_t); size <= sizeof body; size++) {
        if (size == sizeof body - 1) continue;
        rig_reopen(&rig);
        rig.hold_stores = true;
        assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &row.id, NULL), RIG_NOT_ANSWERED);
        memcpy(body, &rig.held_number, sizeof rig.held_number);
        assert_int_equal(rig_call(&rig, MANAGER_ANCHORED, span_of(body, size)), ERR_ANCHOR_ANSWER);
        assert_dead(&rig);
        rig.hold_stores = false;
    }
}

static void an_answer_to_nothing_changes_nothing(void **state)
{
    (void)state;
    uint8_t body[sizeof(uint64_t) + ANCHOR_VALUE_SIZE] = {0};
    memcpy(body + sizeof(uint64_t), rig.anchor, sizeof rig.anchor);
    for (body[0] = 0; body[0] < 4; body[0]++)
        assert_int_equal(rig_call(&rig, MANAGER_ANCHORED, span_of(body, sizeof body)), ERR_BAD_VALUE);
    assert_int_equal(rig_on(&rig, MANAGER_SHOW, &row.id, NULL), ERR_NONE);
}

int main(void)
{
#define ANCHOR_TEST(test) cmocka_unit_test_setup_teardown(test, begin, finish)
    const struct CMUnitTest tests[] = {
        ANCHOR_TEST(nobody_is_answered_before_the_start_record_is_anchored),
        ANCHOR_TEST(ready_waits_for_the_end_of_k1s_handshake),
        ANCHOR_TEST(every_start_moves_the_anchor),
        ANCHOR_TEST(an_older_store_is_refused),
        ANCHOR_TEST(the_store_before_the_newest_start_is_refused),
        ANCHOR_TEST(a_life_that_ends_between_store_and_anchor_loses_nothing),
        ANCHOR_TEST(a_life_that_ends_before_its_store_goes_on_from_the_one_before),
        ANCHOR_TEST(a_life_that_ends_between_anchor_and_answer_loses_nothing),
        ANCHOR_TEST(an_anchor_that_moved_before_its_store_is_noticed),
        ANCHOR_TEST(of_two_managers_on_one_store_one_goes_on),
        ANCHOR_TEST(a_manager_whose_anchor_was_taken_over_answers_nothing_any_more),
        ANCHOR_TEST(of_two_managers_that_catch_up_one_goes_on),
        ANCHOR_TEST(the_record_of_one_copy_does_not_fit_the_anchor_of_another),
        ANCHOR_TEST(an_anchor_that_does_not_move_ends_the_manager),
        ANCHOR_TEST(an_anchor_that_stands_elsewhere_ends_the_manager),
        ANCHOR_TEST(an_answer_of_another_size_ends_the_manager),
        ANCHOR_TEST(an_answer_to_nothing_changes_nothing),
    };
    return cmocka_run_group_tests_name("anchor", tests, NULL, NULL);
}
