/*
 * A trust domain is brought back by its recovery keys on another processor, beside another anchor, by a manager of
 * another image; and by nobody else: not by fewer holders, not with answers to another request, not with a record or a
 * ledger that the host altered. What was deleted stays deleted, and nobody goes on as the holder he was.
 */
#include "tests/fakes/assertions.h"

#include <stdio.h>
#include <string.h>

#include "tests/fakes/runtime.h"
#include "tests/unit/manager/rig.h"

static struct rig rig;
static struct rig_disk good;
static struct ledger_row rows[3];

/* Two of three. Three instances: one is held and has a state, one was never started, one is deleted. */
static int begin(void **state)
{
    (void)state;
    struct fake_instance fake;
    fake_runtime_reset();
    rig_identities("the manager image", "the instance image");
    memset(&rig.disk, 0, sizeof rig.disk);
    rig.recovery = (struct recovery_rule){2, 3};
    rig_open(&rig);
    assert_int_equal(rig_create(&rig, "first", NULL, NULL, &rows[0]), ERR_NONE);
    assert_int_equal(rig_create(&rig, "second", NULL, NULL, &rows[1]), ERR_NONE);
    assert_int_equal(rig_create(&rig, "third", NULL, NULL, &rows[2]), ERR_NONE);
    rig_serve(&rig, &rows[0].id, 1, &fake);
    memset(fake.suspended, 0x66, sizeof fake.suspended);
    rig_commit(&rig, &fake, 1, 0x11);
    rows[0] = rig_row(&rig, &rows[0].id);
    assert_int_equal(rig_delete(&rig, &rows[2].id, NULL), ERR_NONE);
    fake_instance_close(&fake);
    good = rig.disk;
    return 0;
}

static int finish(void **state)
{
    (void)state;
    rig_end(&rig);
    return 0;
}

/* Another processor, which opens nothing of the old one's. */
static void move_house(void)
{
    memset(fake_processor.secret, 0x77, sizeof fake_processor.secret);
    memset(rig.anchor, 0x55, sizeof rig.anchor);
    rig_boot(&rig);
}

static void load(void)
{
    assert_int_equal(rig_rows(&rig), ERR_NONE);
    assert_int_equal(rig_loaded(&rig), ERR_NONE);
    rig_finish_k1(&rig);
}

static void recover(void)
{
    move_house();
    assert_int_equal(rig_start_recover(&rig), ERR_NONE);
    assert_int_equal(rig_share(&rig, 2), ERR_NONE);
    assert_int_equal(rig_share(&rig, 0), ERR_NONE);
    load();
}

static void enough_holders_bring_it_back(void **state)
{
    (void)state;
    static const uint8_t nothing[SHA256_SIZE];
    recover();
    const struct ledger_row row = rig_row(&rig, &rows[0].id);
    assert_int_equal(row.state, MANAGER_STOPPED_STATE);
    assert_int_equal(row.epoch, rows[0].epoch + 1);
    assert_int_equal(row.version, rows[0].version);
    assert_memory_equal(row.digest, rows[0].digest, sizeof row.digest);
    assert_true(row.reverted);
    assert_memory_equal(row.suspended, nothing, sizeof row.suspended);
    assert_memory_equal(row.holder, nothing, sizeof row.holder);
    assert_int_equal(rig_row(&rig, &rows[1].id).epoch, rows[1].epoch + 1);
    assert_int_equal(rig_row(&rig, &rows[1].id).state, MANAGER_PROVISIONED);
    assert_false(rig_row(&rig, &rows[1].id).reverted);
    assert_int_equal(rig_row(&rig, &rows[2].id).state, MANAGER_DELETED);
    assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &rows[2].id, NULL), ERR_DELETED);
}

static void what_was_held_starts_as_put_back(void **state)
{
    (void)state;
    struct fake_instance fake;
    recover();
    rig_serve(&rig, &rows[0].id, 1, &fake);
    assert_int_equal(fake.provision.mode, PEER_MODE_REVERTED);
    assert_int_equal(fake.provision.version, rows[0].version);
    fake_instance_close(&fake);
}

static void what_was_recovered_opens_here_and_nowhere_else(void **state)
{
    (void)state;
    recover();
    rig_reopen(&rig);
    assert_int_equal(rig_row(&rig, &rows[0].id).state, MANAGER_STOPPED_STATE);
    memset(fake_processor.secret, 0x33, sizeof fake_processor.secret);
    rig_boot(&rig);
    assert_int_not_equal(rig_start_open(&rig), ERR_NONE);
}

static void it_may_be_recovered_again(void **state)
{
    (void)state;
    recover();
    memset(fake_processor.secret, 0x33, sizeof fake_processor.secret);
    rig_boot(&rig);
    assert_int_equal(rig_start_recover(&rig), ERR_NONE);
    assert_int_equal(rig_share(&rig, 1), ERR_NONE);
    assert_int_equal(rig_share(&rig, 2), ERR_NONE);
    load();
    assert_int_equal(rig_row(&rig, &rows[0].id).epoch, rows[0].epoch + 2);
}

static void a_manager_of_another_image_may_recover(void **state)
{
    (void)state;
    rig_identities("another manager image", "the instance image");
    recover();
    assert_int_equal(rig_row(&rig, &rows[0].id).state, MANAGER_STOPPED_STATE);
    rig_reopen(&rig);
    rig_identities("the manager image", "the instance image");
}

static void but_none_of_a_lower_security_version(void **state)
{
    (void)state;
    const uint32_t before = rig_image.security_version;
    rig_image.security_version = before - 1;
    move_house();
    assert_int_equal(rig_start_recover(&rig), ERR_NONE);
    assert_int_equal(rig_share(&rig, 2), ERR_NONE);
    assert_int_equal(rig_share(&rig, 0), ERR_DOWNGRADE);
    rig_image.security_version = before;
}

static void fewer_holders_open_nothing(void **state)
{
    (void)state;
    move_house();
    assert_int_equal(rig_start_recover(&rig), ERR_NONE);
    assert_int_equal(rig_share(&rig, 1), ERR_NONE);
    assert_int_equal(rig_share(&rig, 1), ERR_BAD_VALUE); /* not twice the same */
    assert_int_equal(rig_rows(&rig), ERR_CALL_STATE);
    assert_int_equal(rig_loaded(&rig), ERR_CALL_STATE);
    assert_int_equal(rig_share(&rig, 0), ERR_NONE); /* and nothing was lost by trying */
    load();
}

/* Of a manager that was asked before, with a key that is gone. */
static void answers_to_another_request_are_refused(void **state)
{
    (void)state;
    uint8_t answer[RECOVERY_ANSWER_SIZE];
    struct writer w = writer_of(answer, sizeof answer);
    struct recovery_record record;
    move_house();
    assert_int_equal(rig_start_recover(&rig), ERR_NONE);
    assert_ok(recovery_parse(span_of(rig.record, rig.record_size), &record));
    assert_ok(recovery_answer(fake_instance_crypto(), &record, &rig.holders[0],
                              span_of(rig.request, sizeof rig.request), &w));
    rig_boot(&rig);
    assert_int_equal(rig_start_recover(&rig), ERR_NONE);
    assert_int_equal(rig_call(&rig, MANAGER_SHARE, writer_span(&w)), ERR_AUTHENTICATION);
    assert_int_equal(rig_share(&rig, 0), ERR_NONE);
    assert_int_equal(rig_share(&rig, 1), ERR_NONE);
    load();
}

static void each_changed_byte_of_an_answer_is_refused(void **state)
{
    (void)state;
    uint8_t answer[RECOVERY_ANSWER_SIZE];
    struct writer w = writer_of(answer, sizeof answer);
    struct recovery_record record;
    move_house();
    assert_int_equal(rig_start_recover(&rig), ERR_NONE);
    assert_ok(recovery_parse(span_of(rig.record, rig.record_size), &record));
    assert_ok(recovery_answer(fake_instance_crypto(), &record, &rig.holders[0],
                              span_of(rig.request, sizeof rig.request), &w));
    for (size_t i = 0; i < sizeof answer; i++) {
        answer[i] ^= 0x40;
        const uint16_t code = rig_call(&rig, MANAGER_SHARE, writer_span(&w));
        if (code != ERR_AUTHENTICATION && code != ERR_BAD_VALUE) fail_msg("byte %zu: %u", i, code);
        answer[i] ^= 0x40;
    }
    assert_int_equal(rig_call(&rig, MANAGER_SHARE, span_of(answer, sizeof answer - 1)), ERR_TRUNCATED);
}

/* A holder who answers well formed nonsense spoils the attempt, and gets nothing by it. */
static void a_wrong_share_ends_the_attempt(void **state)
{
    (void)state;
    uint8_t bytes[RECOVERY_RECORD_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);
    const struct recovery_share wrong = {.index = 1, .value = "wrong"};
    assert_ok(recovery_seal_share(fake_instance_crypto(), &wrong, rig.holders[0].public,
                                  span_of(rig.record, RECOVERY_HEAD_SIZE), &w));
    memcpy(rig.record + RECOVERY_HEAD_SIZE + X25519_SIZE, bytes, RECOVERY_SEALED_SIZE);
    move_house();
    assert_int_equal(rig_start_recover(&rig), ERR_NONE);
    assert_int_equal(rig_share(&rig, 0), ERR_NONE);
    assert_int_equal(rig_share(&rig, 1), ERR_AUTHENTICATION);
    assert_int_equal(rig_share(&rig, 2), ERR_ENCLAVE_DEAD);
}

/* What the enclave is given; holders have the right one, and the last two bytes of the head do not matter to parsing. */
static void each_changed_byte_of_the_record_is_refused(void **state)
{
    (void)state;
    uint8_t right[RECOVERY_RECORD_MAX];
    memcpy(right, rig.record, rig.record_size);
    move_house();
    for (size_t i = 0; i < rig.record_size; i++) {
        rig.record[i] ^= 1;
        rig_boot(&rig);
        uint16_t code = rig_start_recover(&rig);
        memcpy(rig.record, right, rig.record_size);
        if (code) continue;
        /* A changed domain is in the request, and its holders see that it is another one. */
        if (i >= 16 && i < 32) continue;
        code = rig_share(&rig, 0);
        if (!code) code = rig_share(&rig, 1);
        if (!code) code = rig_rows(&rig);
        if (!code) fail_msg("byte %zu was changed, and nobody noticed", i);
    }
}

static void holders_refuse_another_domain_and_other_keys(void **state)
{
    (void)state;
    uint8_t answer[RECOVERY_ANSWER_SIZE];
    struct writer w = writer_of(answer, sizeof answer);
    struct recovery_record record;
    struct x25519_key stranger;
    move_house();
    assert_int_equal(rig_start_recover(&rig), ERR_NONE);
    assert_ok(recovery_parse(span_of(rig.record, rig.record_size), &record));
    const struct span request = span_of(rig.request, sizeof rig.request);
    assert_ok(x25519_generate(fake_instance_crypto(), &stranger));
    assert_err(recovery_answer(fake_instance_crypto(), &record, &stranger, request, &w), KEY_UNUSABLE);
    rig.request[16] ^= 1;
    assert_err(recovery_answer(fake_instance_crypto(), &record, &rig.holders[0], request, &w), BAD_VALUE);
}

static void an_altered_ledger_is_refused(void **state)
{
    (void)state;
    struct rig_blob *const blobs[] = {&rig.disk.head, &rig.disk.rows[0].blob, &rig.disk.rows[2].blob};
    for (size_t i = 0; i < 3; i++)
        for (size_t place = 0; place < blobs[i]->size; place += 13) {
            move_house();
            blobs[i]->bytes[place] ^= 1;
            uint16_t code = rig_start_recover(&rig);
            if (!code) code = rig_share(&rig, 0);
            if (!code) code = rig_share(&rig, 1);
            if (!code) code = rig_rows(&rig);
            if (!code) code = rig_loaded(&rig);
            if (!code) fail_msg("byte %zu of blob %zu was changed, and nobody noticed", place, i);
            blobs[i]->bytes[place] ^= 1;
        }
}

/* 70 rows take two stores. Until the second one is there, there is no master secret that this processor opens. */
static void half_a_recovery_opens_nowhere(void **state)
{
    (void)state;
    struct ledger_row row;
    for (unsigned i = 0; i < 70; i++) {
        char label[16];
        (void)snprintf(label, sizeof label, "more-%u", i);
        assert_int_equal(rig_create(&rig, label, NULL, NULL, &row), ERR_NONE);
    }
    move_house();
    assert_int_equal(rig_start_recover(&rig), ERR_NONE);
    assert_int_equal(rig_share(&rig, 0), ERR_NONE);
    assert_int_equal(rig_share(&rig, 1), ERR_NONE);
    assert_int_equal(rig_rows(&rig), ERR_NONE);
    rig.hold_stores = true;
    assert_int_equal(rig_loaded(&rig), ERR_NONE);
    rig_finish_k1(&rig);
    rig_store(&rig); /* the anchor is defined; */
    rig_store(&rig); /* the first store */
    rig_boot(&rig);
    rig.hold_stores = false;
    assert_int_not_equal(rig_start_open(&rig), ERR_NONE);
}

static void status_says_how_many_of_how_many(void **state)
{
    (void)state;
    struct span results;
    uint32_t numbers[2];
    assert_int_equal(rig_ask(&rig, MANAGER_STATUS, span_empty(), &results), ERR_NONE);
    memcpy(numbers, results.data + MANAGER_STATUS_SIZE - INSTANCE_ID_SIZE - sizeof numbers, sizeof numbers);
    assert_int_equal(numbers[0], 2);
    assert_int_equal(numbers[1], 3);
    rig_reopen(&rig);
    assert_int_equal(rig_ask(&rig, MANAGER_STATUS, span_empty(), &results), ERR_NONE);
    memcpy(numbers, results.data + MANAGER_STATUS_SIZE - INSTANCE_ID_SIZE - sizeof numbers, sizeof numbers);
    assert_int_equal(numbers[0], 2);
}

static void rules_that_are_none_are_refused(void **state)
{
    (void)state;
    static const struct recovery_rule rules[] = {{1, 0}, {0, 1}, {3, 2}, {9, 9}, {1, 9}};
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        uint8_t body[4 + 48 + 32 + 12 + 8 + 9 * 32] = {MANAGER_START_NEW};
        memset(body + 104, 9, sizeof body - 104);
        body[84] = ANCHOR_FILE;
        body[96] = rules[i].threshold;
        body[100] = rules[i].count;
        rig_boot(&rig);
        assert_int_equal(rig_call(&rig, MANAGER_START, span_of(body, 104u + rules[i].count * 32u)), ERR_BAD_VALUE);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, finish)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(enough_holders_bring_it_back),
        TEST(what_was_held_starts_as_put_back),
        TEST(what_was_recovered_opens_here_and_nowhere_else),
        TEST(it_may_be_recovered_again),
        TEST(a_manager_of_another_image_may_recover),
        TEST(but_none_of_a_lower_security_version),
        TEST(fewer_holders_open_nothing),
        TEST(answers_to_another_request_are_refused),
        TEST(each_changed_byte_of_an_answer_is_refused),
        TEST(a_wrong_share_ends_the_attempt),
        TEST(each_changed_byte_of_the_record_is_refused),
        TEST(holders_refuse_another_domain_and_other_keys),
        TEST(an_altered_ledger_is_refused),
        TEST(half_a_recovery_opens_nowhere),
        TEST(status_says_how_many_of_how_many),
        TEST(rules_that_are_none_are_refused),
    };
    return cmocka_run_group_tests_name("recovery", tests, NULL, NULL);
}
