/* The upgrade that the release key allows. What it does not allow is in tests/hostile/manager. */
#include "tests/fakes/assertions.h"

#include <string.h>

#include "tests/unit/manager/upgrade.h"

#define OLD "the old manager"
#define NEW "the new manager"

static struct rig old;
static struct rig new;
static struct upgrade upgrade;

static int begin(void **state)
{
    (void)state;
    upgrade_open(&upgrade);
    rig_identities(OLD, "the instance image");
    rig_image.security_version = 1;
    rig_open(&old);
    return 0;
}

static int finish(void **state)
{
    (void)state;
    rig_forget(&old);
    rig_forget(&new);
    return 0;
}

static void boot_new(void)
{
    rig_identities(NEW, "the next instance image");
    rig_image.security_version = 2;
    rig_boot(&new);
}

/* The new one has all that the old one had, and everything is sealed for it. */
static void hand_over(void)
{
    boot_new();
    upgrade_sign(&upgrade, OLD, NEW, 2);
    upgrade_greet(&upgrade, &old, &new);
    assert_int_equal(upgrade_give(&upgrade, &old), ERR_NONE);
    assert_int_equal(upgrade_take(&upgrade, &old, &new), ERR_NONE);
    assert_int_equal(rig_rows(&new), ERR_NONE);
    assert_int_equal(rig_loaded(&new), ERR_NONE);
    rig_finish_k1(&new);
}

static void hand_on(struct rig *from, struct rig *to)
{
    static struct upgrade own;
    memcpy(&own, &upgrade, sizeof own);
    rig_boot(to);
    upgrade_greet(&own, from, to);
    assert_int_equal(upgrade_give(&own, from), ERR_NONE);
    assert_int_equal(upgrade_take(&own, from, to), ERR_NONE);
    assert_int_equal(rig_rows(to), ERR_NONE);
    assert_int_equal(rig_loaded(to), ERR_NONE);
    rig_finish_k1(to);
}

static struct ledger_row create(const char *label)
{
    struct ledger_row row;
    assert_int_equal(rig_create(&old, label, NULL, NULL, &row), ERR_NONE);
    return row;
}

static void the_successor_has_the_ledger(void **state)
{
    (void)state;
    struct ledger_row first = create("first"), second = create("second");
    assert_int_equal(rig_delete(&old, &second.id, NULL), ERR_NONE);
    second = rig_row(&old, &second.id);
    hand_over();
    struct ledger_row row = rig_row(&new, &first.id);
    assert_memory_equal(&row, &first, sizeof row);
    row = rig_row(&new, &second.id);
    assert_memory_equal(&row, &second, sizeof row);
    rig_reopen(&new);
    row = rig_row(&new, &first.id);
    assert_memory_equal(&row, &first, sizeof row);
}

static void the_old_one_is_over(void **state)
{
    (void)state;
    static const uint8_t body[64];
    struct ledger_row row = create("first");
    hand_over();
    assert_int_equal(rig_call(&old, MANAGER_RECORD, span_of(body, sizeof body)), ERR_HANDED_OVER);
    assert_int_equal(rig_call(&old, MANAGER_WHO, span_empty()), ERR_HANDED_OVER);
    assert_int_equal(upgrade_give(&upgrade, &old), ERR_HANDED_OVER);
    (void)row;
}

/* The one that made the domain, and one that has joined; of another image than their own they are no members. */
static void members_know_each_other_when_both_were_upgraded(void **state)
{
    (void)state;
    static struct rig member, next_member;
    rig_open(&member);
    assert_int_equal(rig_member(&member, &old, MEMBER_JOIN, NULL, NULL), ERR_NONE);
    const struct ledger_row row = create("first");
    hand_over();
    assert_int_equal(rig_member(&member, &new, MEMBER_LOOK, &row.id, NULL), ERR_PEER_REPORT);
    hand_on(&member, &next_member);
    assert_int_equal(rig_member(&next_member, &new, MEMBER_LOOK, &row.id, NULL), ERR_NONE);
    rig_reopen(&next_member);
    assert_int_equal(rig_member(&next_member, &new, MEMBER_LOOK, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&next_member, &new, MEMBER_MOVE, &row.id, NULL), ERR_NONE);
    rig_forget(&member);
    rig_forget(&next_member);
}

/* U1: the image that was handed over from opens nothing any more. */
static void the_old_image_cannot_open_what_the_successor_stored(void **state)
{
    (void)state;
    create("first");
    hand_over();
    rig_end(&new);
    rig_identities(OLD, "the instance image");
    rig_image.security_version = 1;
    rig_boot(&new);
    assert_int_equal(rig_start_open(&new), ERR_LEDGER_OTHER_IMAGE);
}

static void an_instance_of_the_old_one_goes_on_and_its_state_is_found_later(void **state)
{
    (void)state;
    struct fake_instance fake;
    struct ledger_row row = create("first");
    uint8_t old_mrenclave[SGX_HASH_SIZE];
    memcpy(old_mrenclave, old.MRENCLAVE, sizeof old_mrenclave);
    rig_serve(&old, &row.id, 7, &fake);
    rig_commit(&old, &fake, 1, 0x11);
    hand_over();
    fake.channel = 1;
    assert_int_equal(rig_reattach(&new, &row.id, 1), ERR_NONE);
    assert_int_equal(rig_say(&new, &fake, fake_instance_resume(&fake)), ERR_NONE);
    struct span confirm = fake_instance_confirm(&fake, rig_sent(&new, &fake, 0));
    assert_int_equal(rig_say(&new, &fake, confirm), ERR_NONE);
    /* it still seals under the manager that provisioned it */
    rig_commit(&new, &fake, 2, 0x22);
    assert_int_equal(rig_stop(&new, &fake), ERR_NONE);
    fake_instance_close(&fake);
    rig_serve(&new, &row.id, 2, &fake);
    assert_memory_equal(fake.provision.sealed_by, old_mrenclave, 32);
    rig_commit(&new, &fake, 3, 0x33);
    assert_int_equal(rig_stop(&new, &fake), ERR_NONE);
    fake_instance_close(&fake);
    rig_serve(&new, &row.id, 3, &fake);
    assert_memory_equal(fake.provision.sealed_by, new.MRENCLAVE, 32);
    assert_memory_equal(fake.provision.sealed_by, NEW, strlen(NEW));
    fake_instance_close(&fake);
}

/* The new one is killed after each of the stores in which it seals the rows anew. */
static void a_half_finished_upgrade_goes_on(void **state)
{
    (void)state;
    const unsigned count = 2 * MANAGER_ROWS_PER_STORE + 5;
    struct ledger_row last = {0};
    for (unsigned i = 0; i < count; i++) {
        char label[] = {'n', (char)('a' + i / 26), (char)('a' + i % 26), '\0'};
        last = create(label);
    }
    boot_new();
    upgrade_sign(&upgrade, OLD, NEW, 2);
    upgrade_greet(&upgrade, &old, &new);
    assert_int_equal(upgrade_give(&upgrade, &old), ERR_NONE);
    assert_int_equal(upgrade_take(&upgrade, &old, &new), ERR_NONE);
    assert_int_equal(rig_rows(&new), ERR_NONE);
    new.hold_stores = true;
    assert_int_equal(rig_loaded(&new), ERR_NONE);
    rig_store(&new); /* the anchor is read; */
    rig_store(&new); /* the first of three */
    assert_true(new.held_store != 0);
    new.hold_stores = false;
    rig_reopen(&new);
    struct ledger_row row = rig_row(&new, &last.id);
    assert_memory_equal(&row, &last, sizeof row);
    rig_reopen(&new);
}

static void there_is_no_hand_over_while_a_store_is_under_way(void **state)
{
    (void)state;
    boot_new();
    upgrade_sign(&upgrade, OLD, NEW, 2);
    upgrade_greet(&upgrade, &old, &new);
    old.hold_stores = true;
    assert_int_equal(rig_create(&old, "web1", NULL, NULL, NULL), RIG_NOT_ANSWERED);
    assert_int_equal(upgrade_give(&upgrade, &old), ERR_CALL_BUSY);
    rig_store(&old);
    assert_int_equal(upgrade_give(&upgrade, &old), ERR_NONE);
}

int main(void)
{
#define HANDOVER_TEST(test) cmocka_unit_test_setup_teardown(test, begin, finish)
    const struct CMUnitTest tests[] = {
        HANDOVER_TEST(the_successor_has_the_ledger),
        HANDOVER_TEST(the_old_one_is_over),
        HANDOVER_TEST(the_old_image_cannot_open_what_the_successor_stored),
        HANDOVER_TEST(members_know_each_other_when_both_were_upgraded),
        HANDOVER_TEST(an_instance_of_the_old_one_goes_on_and_its_state_is_found_later),
        HANDOVER_TEST(a_half_finished_upgrade_goes_on),
        HANDOVER_TEST(there_is_no_hand_over_while_a_store_is_under_way),
    };
    return cmocka_run_group_tests_name("handover", tests, NULL, NULL);
}
