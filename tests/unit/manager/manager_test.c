/* The program as a whole: its lives, its verbs, what waits for a store, what is in the ledger afterwards. */
#include "tests/fakes/assertions.h"

#include <stdio.h>
#include <string.h>

#include "tests/unit/manager/rig.h"

static struct rig rig;

static int begin(void **state)
{
    (void)state;
    rig_identities("the manager image", "the instance image");
    rig_open(&rig);
    return 0;
}

static int finish(void **state)
{
    (void)state;
    rig_end(&rig);
    struct rig_shared *shared = rig.shared;
    memset(&rig, 0, sizeof rig);
    rig.shared = shared;
    return 0;
}

static struct ledger_row create(const char *label)
{
    struct ledger_row row;
    assert_int_equal(rig_create(&rig, label, NULL, NULL, &row), ERR_NONE);
    return row;
}

/* ---- lives ---- */

static void a_blank_manager_knows_start_who_and_greet(void **state)
{
    (void)state;
    static const uint8_t body[256];
    rig_boot(&rig);
    assert_int_equal(rig_call(&rig, MANAGER_ROWS, span_of(body, 4)), ERR_CALL_STATE);
    assert_int_equal(rig_call(&rig, MANAGER_LOADED, span_empty()), ERR_CALL_STATE);
    assert_int_equal(rig_call(&rig, MANAGER_RECORD, span_of(body, 64)), ERR_CALL_STATE);
    assert_int_equal(rig_call(&rig, MANAGER_PEER, span_of(body, 64)), ERR_CALL_STATE);
    assert_int_equal(rig_call(&rig, MANAGER_ANCHORED, span_of(body, 8)), ERR_CALL_STATE);
    assert_int_equal(rig_call(&rig, MANAGER_GIVE, span_of(body, 250)), ERR_CALL_STATE);
    assert_int_equal(rig_call(&rig, 77, span_empty()), ERR_CALL_UNKNOWN);
    assert_int_equal(rig_call(&rig, MANAGER_WHO, span_of(body, 48)), ERR_NONE);
    assert_int_equal(rig_effect(&rig, MANAGER_EFFECT_MESSAGE, 0).size, 128);
    assert_int_equal(rig_start_new(&rig), ERR_NONE);
}

static void there_is_no_second_start(void **state)
{
    (void)state;
    assert_int_equal(rig_start_open(&rig), ERR_CALL_STATE);
}

static void a_new_domain_stores_master_and_head(void **state)
{
    (void)state;
    assert_int_equal(rig.disk.row_count, 0);
    assert_true(rig.disk.master.size > 0 && rig.disk.head.size > 0);
    rig_reopen(&rig);
}

static void a_start_with_a_bad_body_leaves_the_enclave_blank(void **state)
{
    (void)state;
    static const uint8_t body[4 + 48 + 32 + 8] = {4};
    rig_boot(&rig);
    assert_int_equal(rig_call(&rig, MANAGER_START, span_of(body, sizeof body - 8)), ERR_BAD_VALUE);
    static const uint8_t open[4 + 48 + 32 + 8] = {MANAGER_START_OPEN};
    assert_int_equal(rig_call(&rig, MANAGER_START, span_of(open, sizeof open)), ERR_STATE_MISSING);
    uint8_t new[4 + 48 + 32 + 12 + 8 + 65] = {MANAGER_START_NEW};
    assert_int_equal(rig_call(&rig, MANAGER_START, span_of(new, 4 + 48 + 32 + 19)), ERR_TRUNCATED);
    assert_int_equal(rig_call(&rig, MANAGER_START, span_of(new, 4 + 48 + 32 + 21)), ERR_TRAILING);
    new[4 + 48 + 32 + 8] = 65; /* bytes of the owner's authValue */
    assert_int_equal(rig_call(&rig, MANAGER_START, span_of(new, sizeof new)), ERR_TOO_LARGE);
    assert_int_equal(rig_start_new(&rig), ERR_NONE);
}

static struct span status(void)
{
    struct span results;
    assert_int_equal(rig_ask(&rig, MANAGER_STATUS, span_empty(), &results), ERR_NONE);
    assert_int_equal(results.size, MANAGER_STATUS_SIZE);
    return results;
}

static void what_was_stored_is_there_in_a_later_life(void **state)
{
    (void)state;
    uint8_t before[MANAGER_STATUS_SIZE];
    struct fake_instance fake;
    static const uint8_t owner[32] = "the owner", front[32] = "the front";
    struct ledger_row first = create("first"), second;
    assert_int_equal(rig_create(&rig, "second", owner, front, &second), ERR_NONE);
    struct ledger_row third = create("third");
    rig_serve(&rig, &first.id, 1, &fake);
    rig_commit(&rig, &fake, 1, 0x11);
    assert_int_equal(rig_delete(&rig, &third.id, NULL), ERR_NONE);
    first = rig_row(&rig, &first.id);
    third = rig_row(&rig, &third.id);
    memcpy(before, status().data, sizeof before);

    rig_reopen(&rig);
    /* all but the ledger's version and the anchor's value: there is a start record now */
    assert_memory_equal(before, status().data, 160);
    assert_memory_equal(before + 168, status().data + 168, 40);
    assert_memory_equal(rig.anchor, status().data + 208, ANCHOR_VALUE_SIZE);
    struct ledger_row row = rig_row(&rig, &first.id);
    assert_memory_equal(&row, &first, sizeof row);
    row = rig_row(&rig, &second.id);
    assert_memory_equal(&row, &second, sizeof row);
    row = rig_row(&rig, &third.id);
    assert_memory_equal(&row, &third, sizeof row);
    assert_int_equal(row.state, MANAGER_DELETED);
    fake_instance_close(&fake);
}

static void status_counts(void **state)
{
    (void)state;
    struct ledger_row a = create("a"), b = create("b");
    create("c");
    struct fake_instance fake;
    rig_serve(&rig, &a.id, 1, &fake);
    assert_int_equal(rig_delete(&rig, &b.id, NULL), ERR_NONE);
    struct reader r = reader_of(status());
    struct span skipped;
    uint32_t security = 0, slots = 0, held = 0, deleted = 0;
    assert_ok(read_span(&r, 16, &skipped));
    assert_ok(read_span(&r, 32, &skipped));
    assert_memory_equal(skipped.data, "the manager image", 17);
    assert_ok(read_span(&r, 32, &skipped));
    assert_memory_equal(skipped.data, "the instance image", 18);
    assert_ok(read_span(&r, 64, &skipped));
    assert_ok(read_u32(&r, &security));
    assert_ok(read_u32(&r, &slots));
    assert_ok(read_u32(&r, &held));
    assert_ok(read_u32(&r, &deleted));
    assert_int_equal(security, 1);
    assert_int_equal(slots, 3);
    assert_int_equal(held, 1);
    assert_int_equal(deleted, 1);
    fake_instance_close(&fake);
}

/* ---- create ---- */

static void create_draws_an_id_and_says_the_row(void **state)
{
    (void)state;
    static const uint8_t owner[32] = "an owner", front[32] = "a front-end";
    struct ledger_row row;
    rig.time = 1234567;
    assert_int_equal(rig_create(&rig, "web1", owner, front, &row), ERR_NONE);
    assert_int_equal(row.id.bytes[6] & 0xf0, 0x40);
    assert_int_equal(row.id.bytes[8] & 0xc0, 0x80);
    assert_string_equal(row.label, "web1");
    assert_int_equal(row.state, MANAGER_PROVISIONED);
    assert_int_equal(row.slot, 0);
    assert_int_equal(row.epoch + row.start + row.version + row.deaths, 0);
    assert_int_equal(row.created, 1234567);
    assert_memory_equal(row.owner, owner, 32);
    assert_memory_equal(row.front_key, front, 32);
    struct ledger_row other = create("web2");
    assert_memory_not_equal(&other.id, &row.id, sizeof row.id);
    assert_int_equal(other.slot, 1);
}

static void a_label_has_an_alphabet(void **state)
{
    (void)state;
    static const char *const bad[] = {"", ".web", "-web", "_web", "we b", "web/1", "web\n", "w\xc3\xa9"};
    static const char *const good[] = {"w", "1", "web-1_a.b",
                                       "A23456789012345678901234567890123456789012345678901234567890123"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(rig_create(&rig, bad[i], NULL, NULL, NULL), ERR_LABEL_BAD);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_int_equal(rig_create(&rig, good[i], NULL, NULL, NULL), ERR_NONE);
    char unended[MANAGER_LABEL_SIZE + 1] = "A234567890123456789012345678901234567890123456789012345678901234";
    assert_int_equal(rig_create(&rig, unended, NULL, NULL, NULL), ERR_LABEL_BAD);
    uint8_t hidden[MANAGER_LABEL_SIZE + 72] = "web\0x";
    hidden[MANAGER_LABEL_SIZE + 64] = MANAGER_ORIGIN_HERE;
    hidden[MANAGER_LABEL_SIZE + 65] = PEER_LOCKOUT_TIME;
    assert_int_equal(rig_ask(&rig, MANAGER_CREATE, span_of(hidden, sizeof hidden), NULL), ERR_LABEL_BAD);
}

static void an_origin_is_one_of_two(void **state)
{
    (void)state;
    uint8_t arguments[MANAGER_LABEL_SIZE + 72] = "web";
    uint8_t *const origin = arguments + MANAGER_LABEL_SIZE + 64;
    const struct span all = span_of(arguments, sizeof arguments);
    origin[1] = PEER_LOCKOUT_TIME;
    assert_int_equal(rig_ask(&rig, MANAGER_CREATE, all, NULL), ERR_BAD_VALUE);
    origin[0] = MANAGER_ORIGIN_CLONE; /* which only a source can be given for */
    assert_int_equal(rig_ask(&rig, MANAGER_CREATE, all, NULL), ERR_BAD_VALUE);
    origin[0] = MANAGER_ORIGIN_IMPORTED;
    origin[7] = 1;
    assert_int_equal(rig_ask(&rig, MANAGER_CREATE, all, NULL), ERR_BAD_VALUE);
    origin[7] = 0;
    origin[1] = PEER_LOCKOUT_NEVER + 1;
    assert_int_equal(rig_ask(&rig, MANAGER_CREATE, all, NULL), ERR_BAD_VALUE);
    origin[1] = 0;
    assert_int_equal(rig_ask(&rig, MANAGER_CREATE, all, NULL), ERR_BAD_VALUE);
    origin[1] = PEER_LOCKOUT_NEVER;
    origin[2] = PEER_FAMILY_12 + 1;
    assert_int_equal(rig_ask(&rig, MANAGER_CREATE, all, NULL), ERR_BAD_VALUE);
    origin[2] = PEER_FAMILY_12; /* which is neither imported nor has a policy */
    assert_int_equal(rig_ask(&rig, MANAGER_CREATE, all, NULL), ERR_TPM_FAMILY);
    origin[1] = PEER_LOCKOUT_TIME;
    assert_int_equal(rig_ask(&rig, MANAGER_CREATE, all, NULL), ERR_TPM_FAMILY);
    origin[0] = MANAGER_ORIGIN_HERE;
    origin[1] = PEER_LOCKOUT_START_ONLY;
    assert_int_equal(rig_ask(&rig, MANAGER_CREATE, all, NULL), ERR_TPM_FAMILY);
    origin[1] = PEER_LOCKOUT_TIME;
    origin[3] = PEER_SNAPSHOTS_ALLOWED;
    assert_int_equal(rig_ask(&rig, MANAGER_CREATE, all, NULL), ERR_TPM_FAMILY);
    origin[0] = MANAGER_ORIGIN_IMPORTED;
    origin[1] = PEER_LOCKOUT_NEVER;
    origin[2] = PEER_FAMILY_20;
    origin[3] = PEER_SNAPSHOTS_ALLOWED + 1;
    assert_int_equal(rig_ask(&rig, MANAGER_CREATE, all, NULL), ERR_BAD_VALUE);
    origin[3] = PEER_SNAPSHOTS_ALLOWED;
    assert_int_equal(rig_ask(&rig, MANAGER_CREATE, span_of(arguments, sizeof arguments - 1), NULL), ERR_TRUNCATED);
    assert_int_equal(rig_ask(&rig, MANAGER_CREATE, all, NULL), ERR_NONE);
}

/* Family and snapshots took two of the zeros behind the row: whoever has chosen neither has the rows that he had. */
static void a_row_without_a_choice_is_as_it_was(void **state)
{
    (void)state;
    static const uint8_t zeros[6];
    struct ledger_row row = create("web");
    uint8_t sealed[ROW_SEALED_SIZE];
    uint8_t *const family = sealed + MANAGER_ROW_SIZE - sizeof zeros;
    struct writer w = writer_of(sealed, sizeof sealed);
    assert_ok(row_write_sealed(&row, &w));
    assert_memory_equal(family, zeros, sizeof zeros);
    *family = PEER_FAMILY_12;
    assert_ok(row_parse_sealed(writer_span(&w), &row));
    assert_int_equal(row.family, PEER_FAMILY_12);
    *family = PEER_FAMILY_20;
    family[1] = PEER_SNAPSHOTS_ALLOWED;
    assert_ok(row_parse_sealed(writer_span(&w), &row));
    assert_int_equal(row.snapshots, PEER_SNAPSHOTS_ALLOWED);
    family[2] = 7;
    assert_ok(row_parse_sealed(writer_span(&w), &row));
    assert_int_equal(row.loads, 7);
    family[2] = 0;
    family[1] = PEER_SNAPSHOTS_REFUSED;
    for (size_t i = 0; i < sizeof zeros; i++) {
        family[i] = PEER_FAMILY_12 + 1;
        assert_err(row_parse_sealed(writer_span(&w), &row), BAD_VALUE);
        family[i] = 0;
    }
}

static void a_label_is_unique_among_the_living(void **state)
{
    (void)state;
    struct ledger_row row = create("web1");
    assert_int_equal(rig_create(&rig, "web1", NULL, NULL, NULL), ERR_LABEL_TAKEN);
    assert_int_equal(rig_delete(&rig, &row.id, NULL), ERR_NONE);
    create("web1");
    assert_int_equal(rig_create(&rig, "web1", NULL, NULL, NULL), ERR_LABEL_TAKEN);
    rig_reopen(&rig);
    assert_int_equal(rig_create(&rig, "web1", NULL, NULL, NULL), ERR_LABEL_TAKEN);
}

/* ---- what waits ---- */

static void an_answer_waits_for_its_store(void **state)
{
    (void)state;
    rig.hold_stores = true;
    assert_int_equal(rig_create(&rig, "web1", NULL, NULL, NULL), RIG_NOT_ANSWERED);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_STORE), 1);
    assert_int_equal(rig.disk.row_count, 0);
    rig_store(&rig);
    assert_int_equal(rig_answer(&rig, NULL), ERR_NONE);
    assert_int_equal(rig.disk.row_count, 1);
}

static void what_an_answer_tells_of_a_store_waits_for_it(void **state)
{
    (void)state;
    struct ledger_row row = create("web1");
    rig.hold_stores = true;
    assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &row.id, NULL), RIG_NOT_ANSWERED);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_CREATE_ENCLAVE), 0);
    assert_int_equal(rig_on(&rig, MANAGER_SHOW, &row.id, NULL), RIG_NOT_ANSWERED);
    static const uint8_t first[8];
    assert_int_equal(rig_ask(&rig, MANAGER_LIST, span_of(first, sizeof first), NULL), RIG_NOT_ANSWERED);
    assert_int_equal(rig_attach(&rig, &row.id, 1), RIG_NOT_ANSWERED);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_SEND), 0);
    rig_store(&rig);
    assert_int_equal(rig_answer(&rig, NULL), ERR_NONE);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_RECORD), 4);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_CREATE_ENCLAVE), 1);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_SEND), 1);
}

static void what_does_not_depend_on_it_does_not_wait(void **state)
{
    (void)state;
    struct ledger_row row = create("web1");
    rig.hold_stores = true;
    assert_int_equal(rig_create(&rig, "web2", NULL, NULL, NULL), RIG_NOT_ANSWERED);
    assert_int_equal(rig_on(&rig, MANAGER_SHOW, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_ask(&rig, MANAGER_STATUS, span_empty(), NULL), ERR_NONE);
    rig_store(&rig);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_RECORD), 1);
}

static void one_store_at_a_time_and_the_next_takes_all_that_waits(void **state)
{
    (void)state;
    rig.hold_stores = true;
    for (int i = 0; i < 5; i++) {
        char label[] = {'a' + i, '\0'};
        assert_int_equal(rig_create(&rig, label, NULL, NULL, NULL), RIG_NOT_ANSWERED);
        assert_int_equal(rig_count(&rig, MANAGER_EFFECT_STORE), i == 0);
    }
    rig_store(&rig);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_RECORD), 1);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_STORE), 1);
    assert_int_equal(rig.disk.row_count, 1);
    rig_store(&rig);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_RECORD), 4);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_STORE), 0);
    assert_int_equal(rig.disk.row_count, 5);
    rig.hold_stores = false;
    rig_reopen(&rig);
}

static void a_store_takes_at_most_its_rows(void **state)
{
    (void)state;
    rig.hold_stores = true;
    for (unsigned i = 0; i < 2 * MANAGER_ROWS_PER_STORE + 2; i++) {
        char label[16];
        (void)snprintf(label, sizeof label, "n%u", i);
        assert_int_equal(rig_create(&rig, label, NULL, NULL, NULL), RIG_NOT_ANSWERED);
    }
    rig_store(&rig);
    assert_int_equal(rig.disk.row_count, 1);
    rig_store(&rig);
    assert_int_equal(rig.disk.row_count, 1 + MANAGER_ROWS_PER_STORE);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_RECORD), MANAGER_ROWS_PER_STORE);
    /* the root that is durable now is over these rows, not over those that wait */
    static struct rig_disk kept;
    uint8_t kept_anchor[ANCHOR_VALUE_SIZE];
    kept = rig.disk;
    memcpy(kept_anchor, rig.anchor, sizeof kept_anchor);
    rig_store(&rig);
    rig_store(&rig);
    assert_int_equal(rig_answer(&rig, NULL), ERR_NONE);
    assert_int_equal(rig.disk.row_count, 2 * MANAGER_ROWS_PER_STORE + 2);
    rig.hold_stores = false;
    rig_reopen(&rig);
    rig.disk = kept;
    memcpy(rig.anchor, kept_anchor, sizeof kept_anchor);
    rig_reopen(&rig);
}

static void only_the_number_of_the_store_under_way_is_taken(void **state)
{
    (void)state;
    rig.hold_stores = true;
    assert_int_equal(rig_create(&rig, "web1", NULL, NULL, NULL), RIG_NOT_ANSWERED);
    const uint64_t wrong[] = {0, rig.held_store - 1, rig.held_store + 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(rig_call(&rig, MANAGER_ANCHORED, span_of(&wrong[i], 8)), ERR_BAD_VALUE);
        assert_int_equal(rig_answer(&rig, NULL), RIG_NOT_ANSWERED);
    }
    uint64_t right = rig.held_store;
    rig_store(&rig);
    assert_int_equal(rig_answer(&rig, NULL), ERR_NONE);
    assert_int_equal(rig_call(&rig, MANAGER_ANCHORED, span_of(&right, 8)), ERR_BAD_VALUE);
}

static void what_waits_is_bounded(void **state)
{
    (void)state;
    struct ledger_row row = create("web1");
    rig.hold_stores = true;
    assert_int_equal(rig_on(&rig, MANAGER_START_INSTANCE, &row.id, NULL), RIG_NOT_ANSWERED);
    unsigned accepted = 0;
    while (rig_on(&rig, MANAGER_SHOW, &row.id, NULL) == RIG_NOT_ANSWERED)
        assert_in_range(++accepted, 1, 1000);
    assert_int_equal(rig_answer(&rig, NULL), ERR_CALL_BUSY);
    rig_store(&rig);
    assert_int_equal(rig_count(&rig, MANAGER_EFFECT_RECORD), accepted + 1);
    assert_int_equal(rig_on(&rig, MANAGER_SHOW, &row.id, NULL), ERR_NONE);
}

/* ---- list, and requests that make no sense ---- */

static void list_goes_on_where_it_ended(void **state)
{
    (void)state;
    for (unsigned i = 0; i < MANAGER_LIST_MAX + 3; i++) {
        char label[16];
        (void)snprintf(label, sizeof label, "n%u", i);
        create(label);
    }
    uint32_t first[2] = {0, 0};
    struct span results;
    uint32_t count = 0, next = 0;
    struct ledger_row row;
    assert_int_equal(rig_ask(&rig, MANAGER_LIST, span_of(first, 8), &results), ERR_NONE);
    struct reader r = reader_of(results);
    assert_ok(read_u32(&r, &count));
    assert_ok(read_u32(&r, &next));
    assert_int_equal(count, MANAGER_LIST_MAX);
    assert_int_equal(next, MANAGER_LIST_MAX);
    assert_int_equal(r.left, count * MANAGER_ROW_SIZE);
    first[0] = next;
    assert_int_equal(rig_ask(&rig, MANAGER_LIST, span_of(first, 8), &results), ERR_NONE);
    r = reader_of(results);
    assert_ok(read_u32(&r, &count));
    assert_ok(read_u32(&r, &next));
    assert_int_equal(count, 3);
    assert_int_equal(next, 0);
    rig_parse_row(span_of(r.next, MANAGER_ROW_SIZE), &row);
    assert_string_equal(row.label, "n24");
    first[0] = 1000;
    assert_int_equal(rig_ask(&rig, MANAGER_LIST, span_of(first, 8), &results), ERR_NONE);
    assert_int_equal(results.size, 8);
}

static void malformed_requests_are_answered(void **state)
{
    (void)state;
    static const uint8_t body[512];
    const uint16_t verbs[] = {
        MANAGER_CREATE,    MANAGER_START_INSTANCE, MANAGER_ATTACH,    MANAGER_REATTACH, MANAGER_DETACH,
        MANAGER_STOPPED,   MANAGER_DECLARE_DEAD,   MANAGER_CHALLENGE, MANAGER_DELETE,   MANAGER_SHOW,
        MANAGER_LIST,      MANAGER_REVERT,         MANAGER_SET_OWNER, MANAGER_CLONE,    MANAGER_ATTACH_INCOMING,
        MANAGER_MEMBER_ASK};
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        assert_int_equal(rig_ask(&rig, verbs[i], span_empty(), NULL), ERR_TRUNCATED);
        uint16_t code = rig_ask(&rig, verbs[i], span_of(body, sizeof body), NULL);
        assert_true(code == ERR_TRAILING || code == ERR_NO_INSTANCE || (i == 0 && code == ERR_BAD_VALUE));
    }
    assert_int_equal(rig_ask(&rig, MANAGER_MEMBER_ANSWER, span_empty(), NULL), ERR_TRUNCATED);
    assert_int_equal(rig_ask(&rig, MANAGER_MEMBER_ANSWER, span_of(body, sizeof body), NULL), ERR_BAD_VALUE);
    assert_int_equal(rig_ask(&rig, MANAGER_MEMBER_TAKE, span_empty(), NULL), ERR_TRUNCATED);
    assert_int_equal(rig_ask(&rig, MANAGER_MEMBER_TAKE, span_of(body, sizeof body), NULL), ERR_VERB_STATE);
    assert_int_equal(rig_ask(&rig, MANAGER_STATUS, span_of(body, 1), NULL), ERR_TRAILING);
    assert_int_equal(rig_ask(&rig, 0, span_empty(), NULL), ERR_CALL_UNKNOWN);
    assert_int_equal(rig_ask(&rig, MANAGER_MEMBER_TAKE + 1, span_empty(), NULL), ERR_CALL_UNKNOWN);
    create("goes-on");
}

static void an_altered_record_ends_k1_and_nothing_else(void **state)
{
    (void)state;
    struct ledger_row row = create("web1");
    struct fake_instance fake;
    rig_serve(&rig, &row.id, 1, &fake);
    uint8_t record[RECORD_OVERHEAD + 16] = {RECORD_DATA, 0, 0, 0, 16};
    assert_int_equal(rig_call(&rig, MANAGER_RECORD, span_of(record, sizeof record)), ERR_LINK_RECORD);
    assert_int_equal(rig_call(&rig, MANAGER_RECORD, span_of(record, sizeof record)), ERR_LINK_CLOSED);
    rig_commit(&rig, &fake, 1, 0x42);
    fake_instance_close(&fake);
    rig_reopen(&rig);
    row = rig_row(&rig, &row.id);
    assert_int_equal(row.version, 1);
}

int main(void)
{
#define MANAGER_TEST(test) cmocka_unit_test_setup_teardown(test, begin, finish)
    const struct CMUnitTest tests[] = {
        MANAGER_TEST(a_blank_manager_knows_start_who_and_greet),
        MANAGER_TEST(there_is_no_second_start),
        MANAGER_TEST(a_new_domain_stores_master_and_head),
        MANAGER_TEST(a_start_with_a_bad_body_leaves_the_enclave_blank),
        MANAGER_TEST(what_was_stored_is_there_in_a_later_life),
        MANAGER_TEST(status_counts),
        MANAGER_TEST(create_draws_an_id_and_says_the_row),
        MANAGER_TEST(a_label_has_an_alphabet),
        MANAGER_TEST(an_origin_is_one_of_two),
        MANAGER_TEST(a_row_without_a_choice_is_as_it_was),
        MANAGER_TEST(a_label_is_unique_among_the_living),
        MANAGER_TEST(an_answer_waits_for_its_store),
        MANAGER_TEST(what_an_answer_tells_of_a_store_waits_for_it),
        MANAGER_TEST(what_does_not_depend_on_it_does_not_wait),
        MANAGER_TEST(one_store_at_a_time_and_the_next_takes_all_that_waits),
        MANAGER_TEST(a_store_takes_at_most_its_rows),
        MANAGER_TEST(only_the_number_of_the_store_under_way_is_taken),
        MANAGER_TEST(what_waits_is_bounded),
        MANAGER_TEST(list_goes_on_where_it_ended),
        MANAGER_TEST(malformed_requests_are_answered),
        MANAGER_TEST(an_altered_record_ends_k1_and_nothing_else),
    };
    return cmocka_run_group_tests_name("manager", tests, NULL, NULL);
}
