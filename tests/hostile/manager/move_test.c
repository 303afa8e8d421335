/*
 * Between two managers: a host that carries what they say alters, repeats, reorders and misdirects it, a manager that is
 * none of theirs asks, and a store is put back (S6, S7, D1, O1). What goes well is in tests/unit/manager/move_test.c.
 */
#include "tests/fakes/assertions.h"

#include <string.h>

#include "crypto/aead.h"
#include "tests/fakes/runtime.h"
#include "tests/unit/manager/rig.h"
#include "trusted/ledger/ledger.h"
#include "trusted/state/blob.h"

static struct rig home, away, third;
static struct ledger_row row, second;
static struct fake_instance holder, candidate;

static struct ledger_row make(const char *label, const uint8_t *owner, uint64_t channel)
{
    struct ledger_row made;
    assert_int_equal(rig_create(&home, label, owner, NULL, &made), ERR_NONE);
    rig_serve(&home, &made.id, channel, &holder);
    rig_commit(&home, &holder, 1, 0x11);
    assert_int_equal(rig_stop(&home, &holder), ERR_NONE);
    return made;
}

static int begin(void **state)
{
    (void)state;
    rig_identities("the manager image", "the instance image");
    rig_open(&home);
    rig_open(&away);
    rig_open(&third);
    assert_int_equal(rig_member(&away, &home, MEMBER_JOIN, NULL, NULL), ERR_NONE);
    assert_int_equal(rig_member(&third, &away, MEMBER_JOIN, NULL, NULL), ERR_NONE); /* any member lets another one in */
    row = make("web1", NULL, 7);
    fake_instance_close(&holder);
    second = make("web2", NULL, 8);
    return 0;
}

static int finish(void **state)
{
    (void)state;
    fake_instance_close(&holder);
    fake_instance_close(&candidate);
    rig_forget(&home);
    rig_forget(&away);
    rig_forget(&third);
    return 0;
}

static void look(struct rig *asker, const struct instance_id *id)
{
    assert_int_equal(rig_member(asker, &home, MEMBER_LOOK, id, NULL), ERR_NONE);
}

static struct rig_message ask(struct rig *asker, enum member_act what, const struct instance_id *id)
{
    struct rig_message question;
    assert_int_equal(rig_member_ask(asker, what, id, &question), ERR_NONE);
    return question;
}

static struct rig_message answer(struct rig *answerer, const struct rig_message *question)
{
    struct rig_message told;
    assert_int_equal(rig_member_answer(answerer, question, &told), ERR_NONE);
    return told;
}

static bool is_here(struct rig *rig, const struct instance_id *id)
{
    struct ledger_row now;
    return rig_on(rig, MANAGER_SHOW, id, &now) == ERR_NONE && now.state != MANAGER_MOVED;
}

/* Wherever it is, it is there alone. */
static void assert_only_at(struct rig *rig)
{
    assert_int_equal(is_here(&home, &row.id), rig == &home);
    assert_int_equal(is_here(&away, &row.id), rig == &away);
    assert_int_equal(is_here(&third, &row.id), rig == &third);
}

/* ---- what is carried ---- */

static void a_question_with_any_byte_changed_moves_nothing(void **state)
{
    (void)state;
    look(&away, &row.id);
    const struct rig_message question = ask(&away, MEMBER_MOVE, &row.id);
    assert_int_equal(question.size, MEMBER_QUESTION_SIZE);
    for (size_t i = 0; i < question.size; i++) {
        struct rig_message altered = question;
        altered.bytes[i] ^= 1u << (i % 8);
        assert_int_not_equal(rig_member_answer(&home, &altered, NULL), ERR_NONE);
    }
    struct rig_message cut = question;
    for (cut.size = 0; cut.size < question.size; cut.size += 13)
        assert_int_not_equal(rig_member_answer(&home, &cut, NULL), ERR_NONE);
    cut.size = question.size + 1;
    cut.bytes[question.size] = 0;
    assert_int_not_equal(rig_member_answer(&home, &cut, NULL), ERR_NONE);
    assert_only_at(&home);
}

static void an_answer_with_any_byte_changed_is_not_taken_and_the_right_one_is(void **state)
{
    (void)state;
    look(&away, &row.id);
    const struct rig_message question = ask(&away, MEMBER_MOVE, &row.id);
    const struct rig_message told = answer(&home, &question);
    for (size_t i = 0; i < told.size; i++) {
        struct rig_message altered = told;
        altered.bytes[i] ^= 1u << (i % 8);
        assert_int_not_equal(rig_member_take(&away, &row.id, &altered, NULL), ERR_NONE);
    }
    struct rig_message cut = told;
    for (cut.size = 0; cut.size < told.size; cut.size += 17)
        assert_int_not_equal(rig_member_take(&away, &row.id, &cut, NULL), ERR_NONE);
    assert_int_equal(rig_member_take(&away, &row.id, &told, NULL), ERR_NONE);
    assert_only_at(&away);
}

static void an_answer_is_good_once(void **state)
{
    (void)state;
    look(&away, &row.id);
    struct rig_message question = ask(&away, MEMBER_MOVE, &row.id);
    const struct rig_message told = answer(&home, &question);
    question = ask(&away, MEMBER_MOVE, &row.id); /* and another one is asked meanwhile */
    assert_int_equal(rig_member_take(&away, &row.id, &told, NULL), ERR_PEER_TRANSCRIPT);
    const struct rig_message again = answer(&home, &question);
    assert_int_equal(rig_member_take(&away, &row.id, &again, NULL), ERR_NONE);
    assert_int_equal(rig_member_take(&away, &row.id, &again, NULL), ERR_VERB_STATE);
}

static void an_answer_is_good_for_what_was_asked(void **state)
{
    (void)state;
    look(&away, &row.id);
    look(&away, &second.id);
    const struct rig_message about_row = ask(&away, MEMBER_MOVE, &row.id);
    const struct rig_message about_second = ask(&away, MEMBER_MOVE, &second.id);
    const struct rig_message told = answer(&home, &about_row);
    const struct rig_message second_told = answer(&home, &about_second);
    assert_int_equal(rig_member_take(&away, &second.id, &told, NULL), ERR_PEER_TRANSCRIPT);
    assert_int_equal(rig_member_take(&away, &row.id, &second_told, NULL), ERR_PEER_TRANSCRIPT);
    assert_int_equal(rig_member_take(&away, &row.id, &told, NULL), ERR_NONE);
    assert_int_equal(rig_member_take(&away, &second.id, &second_told, NULL), ERR_NONE);
}

static void what_was_said_does_not_reflect(void **state)
{
    (void)state;
    look(&away, &row.id);
    const struct rig_message question = ask(&away, MEMBER_MOVE, &row.id);
    assert_int_equal(rig_member_answer(&away, &question, NULL), ERR_BAD_VALUE);
    assert_int_not_equal(rig_member_take(&away, &row.id, &question, NULL), ERR_NONE);
    const struct rig_message told = answer(&home, &question);
    assert_int_not_equal(rig_member_answer(&home, &told, NULL), ERR_NONE);
    assert_int_not_equal(rig_member_answer(&away, &told, NULL), ERR_NONE);
}

static void a_question_of_long_ago_does_not_fetch_it_again(void **state)
{
    (void)state;
    look(&away, &row.id);
    const struct rig_message move = ask(&away, MEMBER_MOVE, &row.id);
    const struct rig_message told = answer(&home, &move);
    assert_int_equal(rig_member_take(&away, &row.id, &told, NULL), ERR_NONE);
    const struct rig_message confirm = ask(&away, MEMBER_CONFIRM, &row.id);
    assert_int_equal(rig_member(&home, &away, MEMBER_LOOK, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&home, &away, MEMBER_MOVE, &row.id, NULL), ERR_NONE);
    assert_only_at(&home);
    assert_int_equal(rig_member_answer(&home, &move, NULL), ERR_FENCED);
    assert_int_equal(rig_member_answer(&home, &confirm, NULL), ERR_MOVED);
    assert_only_at(&home);
    fake_instance_close(&candidate);
    rig_serve(&home, &row.id, 9, &candidate); /* its key is there */
    rig_commit(&home, &candidate, 2, 0x22);
}

/* ---- to whom ---- */

static void of_two_that_ask_one_gets_it(void **state)
{
    (void)state;
    look(&away, &row.id);
    look(&third, &row.id);
    const struct rig_message first = ask(&away, MEMBER_MOVE, &row.id);
    const struct rig_message other = ask(&third, MEMBER_MOVE, &row.id);
    const struct rig_message told = answer(&home, &first);
    assert_int_equal(rig_member_answer(&home, &other, NULL), ERR_MOVED);
    assert_int_equal(rig_member_take(&third, &row.id, &told, NULL),
                     ERR_PEER_TRANSCRIPT); /* nor by the other's answer */
    assert_int_equal(rig_member_take(&away, &row.id, &told, NULL), ERR_NONE);
    assert_only_at(&away);
}

static void a_third_member_is_told_nothing_of_what_has_moved(void **state)
{
    (void)state;
    look(&away, &row.id);
    const struct rig_message question = ask(&away, MEMBER_MOVE, &row.id);
    (void)answer(&home, &question);
    assert_int_equal(rig_member(&third, &home, MEMBER_LOOK, &row.id, NULL), ERR_MOVED);
    const struct rig_message confirm = ask(&away, MEMBER_LOOK, &row.id);
    assert_int_equal(rig_member_answer(&third, &confirm, NULL), ERR_NO_INSTANCE);
    look(&away, &row.id);
    assert_int_equal(rig_member(&away, &home, MEMBER_MOVE, &row.id, NULL), ERR_NONE);
    assert_only_at(&away);
}

static void who_has_nothing_of_it_confirms_nothing(void **state)
{
    (void)state;
    look(&away, &row.id);
    const struct rig_message question = ask(&away, MEMBER_MOVE, &row.id);
    (void)answer(&home, &question);
    /* As a row of its own with that id is not to be had, by a row that it had before and that has moved on. */
    assert_int_equal(rig_member_ask(&away, MEMBER_CONFIRM, &row.id, NULL), ERR_NO_INSTANCE);
    look(&third, &second.id);
    assert_int_equal(rig_member(&third, &home, MEMBER_MOVE, &second.id, NULL), ERR_NONE);
    const struct rig_message confirm = ask(&third, MEMBER_CONFIRM, &second.id);
    struct rig_message other = confirm;
    memcpy(other.bytes + 40, row.id.bytes, INSTANCE_ID_SIZE);
    assert_int_equal(rig_member_answer(&home, &other, NULL), ERR_PEER_TRANSCRIPT);
    look(&away, &row.id); /* the key is there */
}

/* Its tombstone is of an earlier stay. */
static void who_had_it_before_confirms_nothing(void **state)
{
    (void)state;
    look(&away, &row.id);
    assert_int_equal(rig_member(&away, &home, MEMBER_MOVE, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&home, &away, MEMBER_LOOK, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&home, &away, MEMBER_MOVE, &row.id, NULL), ERR_NONE);
    look(&away, &row.id);
    const struct rig_message question = ask(&away, MEMBER_MOVE, &row.id);
    (void)answer(&home, &question);
    assert_int_equal(rig_member(&away, &home, MEMBER_CONFIRM, &row.id, NULL), ERR_MOVED);
    look(&away, &row.id); /* the key is there */
    assert_int_equal(rig_member(&away, &home, MEMBER_MOVE, &row.id, NULL), ERR_NONE);
    assert_only_at(&away);
}

static void who_has_passed_it_on_fetches_it_no_more_and_confirms_still(void **state)
{
    (void)state;
    look(&away, &row.id);
    assert_int_equal(rig_member(&away, &home, MEMBER_MOVE, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&third, &away, MEMBER_LOOK, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&third, &away, MEMBER_MOVE, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &row.id, NULL), ERR_VERB_STATE); /* told, and not taken */
    assert_int_equal(rig_member(&third, &home, MEMBER_LOOK, &row.id, NULL), ERR_MOVED);
    assert_int_equal(rig_member(&third, &home, MEMBER_CONFIRM, &row.id, NULL), ERR_MOVED);
    assert_int_equal(rig_member(&third, &away, MEMBER_CONFIRM, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&away, &home, MEMBER_CONFIRM, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&away, &home, MEMBER_LOOK, &row.id, NULL), ERR_MOVED); /* there is nothing to tell */
    assert_only_at(&third);
    assert_int_equal(rig_member(&home, &third, MEMBER_LOOK, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&home, &third, MEMBER_MOVE, &row.id, NULL), ERR_NONE);
    assert_only_at(&home);
}

static void a_manager_of_another_domain_gets_nothing(void **state)
{
    (void)state;
    static struct rig other;
    static const uint8_t owner[32] = "the key of an owner, any";
    struct ledger_row owned;
    fake_instance_close(&holder);
    owned = make("owned", owner, 9);
    rig_open(&other);
    assert_int_equal(rig_member(&other, &home, MEMBER_LOOK, &row.id, NULL), ERR_OTHER_DOMAIN);
    assert_int_equal(rig_member(&other, &home, MEMBER_LOOK, &owned.id, NULL), ERR_OTHER_DOMAIN);
    struct rig_message question = ask(&other, MEMBER_LOOK, &row.id);
    look(&away, &row.id);
    const struct rig_message ours = ask(&away, MEMBER_MOVE, &row.id);
    memcpy(question.bytes + 8, ours.bytes + 8, INSTANCE_ID_SIZE); /* it says that it is of this one */
    assert_int_equal(rig_member_answer(&home, &question, NULL), ERR_PEER_TRANSCRIPT);
    assert_only_at(&home);
    rig_forget(&other);
}

static void a_manager_of_another_image_is_let_in_nowhere(void **state)
{
    (void)state;
    static struct rig other;
    rig_identities("another manager image", "the instance image");
    rig_open(&other);
    rig_identities("the manager image", "the instance image");
    assert_int_equal(rig_member(&other, &home, MEMBER_JOIN, NULL, NULL), ERR_PEER_REPORT);
    rig_identities("another manager image", "the instance image");
    rig_forget(&other);
    rig_open(&other);
    const struct rig_message question = ask(&third, MEMBER_LOOK, &row.id);
    assert_int_equal(rig_member_answer(&other, &question, NULL), ERR_OTHER_DOMAIN);
    rig_forget(&other);
}

static void to_a_weaker_anchor_nothing_goes(void **state)
{
    (void)state;
    struct rig_message question = ask(&away, MEMBER_LOOK, &row.id);
    question.bytes[2] = ANCHOR_FILE - 1;
    assert_int_equal(rig_member_answer(&home, &question, NULL), ERR_WEAKER_ANCHOR);
    static struct rig other;
    rig_open(&other);
    question = ask(&other, MEMBER_JOIN, NULL);
    question.bytes[2] = ANCHOR_FILE - 1;
    assert_int_equal(rig_member_answer(&home, &question, NULL), ERR_WEAKER_ANCHOR);
    rig_forget(&other);
}

/* O1: within the domain it moves without its owner, who is asked there as he was here. */
static void the_owner_goes_with_it(void **state)
{
    (void)state;
    static const uint8_t owner[32] = "the key of an owner, any";
    struct ledger_row moved;
    fake_instance_close(&holder);
    const struct ledger_row owned = make("owned", owner, 9);
    look(&away, &owned.id);
    assert_int_equal(rig_member(&away, &home, MEMBER_MOVE, &owned.id, &moved), ERR_NONE);
    assert_memory_equal(moved.owner, owner, sizeof owner);
    assert_int_equal(rig_delete(&away, &owned.id, NULL), ERR_OWNER_SIGNATURE);
    assert_int_equal(rig_delete(&home, &owned.id, NULL), ERR_MOVED);
}

/* ---- who is a member ---- */

static const struct crypto *crypto(void)
{
    return fake_instance_crypto();
}

static struct err seal_head(const struct instance_id *domain, const uint8_t *master, struct rig_blob *out)
{
    uint8_t plaintext[LEDGER_HEAD_SIZE] = "vtpm head v1";
    uint8_t root[BLOB_ROOT_SIZE];
    const struct span nothing = span_empty();
    struct writer w = writer_of(out->bytes, sizeof out->bytes);
    struct blob_header header = {.kind = BLOB_LEDGER_HEAD, .id = *domain, .version = 1};
    memcpy(header.manager, home.MRENCLAVE, sizeof header.manager);
    memcpy(plaintext + 16, domain->bytes, INSTANCE_ID_SIZE);
    plaintext[32] = 1;                                       /* version */
    TRY(hash_sha256(crypto(), &nothing, 1, plaintext + 72)); /* of a tree without a leaf */
    TRY(blob_ledger_root(crypto(), master, home.MRENCLAVE, root));
    TRY(blob_seal(crypto(), span_of(root, sizeof root), &header, span_empty(), span_of(plaintext, sizeof plaintext),
                  &w));
    out->size = w.size;
    return OK;
}

/* A recovery record of that domain with a master secret of its author's, who holds the only key. */
static struct err forge(struct rig *forger, const struct instance_id *domain)
{
    static const char label[] = "vtpm recovery v1";
    static const uint8_t master[BLOB_ROOT_SIZE] = "a secret that its author knows";
    struct recovery_share share = {.index = 1, .value = "and the one that opens it"};
    struct writer w = writer_of(forger->record, sizeof forger->record);
    struct aead_key key;
    uint8_t *sealed = NULL;
    forger->recovery = (struct recovery_rule){1, 1};
    TRY(x25519_generate(crypto(), &forger->holders[0]));
    TRY(write_bytes(&w, label, sizeof label - 1));
    TRY(write_bytes(&w, domain->bytes, INSTANCE_ID_SIZE));
    TRY(write_bytes(&w, (const uint8_t[8]){1, 1}, 8));
    TRY(write_bytes(&w, master, 32)); /* salt */
    const struct span head = writer_span(&w);
    TRY(write_bytes(&w, forger->holders[0].public, X25519_SIZE));
    TRY(recovery_seal_share(crypto(), &share, forger->holders[0].public, head, &w));
    const struct span before = writer_span(&w);
    TRY(recovery_master_key(crypto(), share.value, span_of(master, 32), &key));
    TRY(write_zeros(&w, RECOVERY_MASTER_SIZE, &sealed));
    TRY(aead_seal(crypto(), &key, before, span_of(master, sizeof master), sealed, sealed + sizeof master));
    forger->record_size = w.size;
    return seal_head(domain, master, &forger->disk.head);
}

/* Its master secret, and so its rows, are open to whoever made it: a domain is not its number. */
static void a_ledger_recovered_from_a_record_of_ones_own_is_no_member(void **state)
{
    (void)state;
    static struct rig forger;
    struct instance_id domain, now;
    struct span status = {0};
    assert_int_equal(rig_ask(&home, MANAGER_STATUS, span_empty(), &status), ERR_NONE);
    memcpy(domain.bytes, status.data, sizeof domain.bytes);
    assert_ok(forge(&forger, &domain));
    rig_boot(&forger);
    assert_int_equal(rig_start_recover(&forger), ERR_NONE);
    assert_int_equal(rig_share(&forger, 0), ERR_NONE);
    assert_int_equal(rig_loaded(&forger), ERR_NONE);
    rig_finish_k1(&forger);
    assert_int_equal(rig_ask(&forger, MANAGER_STATUS, span_empty(), &status), ERR_NONE);
    memcpy(now.bytes, status.data, sizeof now.bytes);
    assert_memory_equal(&now, &domain, sizeof domain); /* so far it goes */
    assert_int_equal(rig_member(&forger, &home, MEMBER_LOOK, &row.id, NULL), ERR_PEER_TRANSCRIPT);
    const struct rig_message question = ask(&third, MEMBER_LOOK, &row.id);
    assert_int_equal(rig_member_answer(&forger, &question, NULL), ERR_PEER_TRANSCRIPT);
    assert_only_at(&home);
    rig_forget(&forger);
}

/* ---- what is put back ---- */

static uint16_t open_with(struct rig *rig, const struct rig_disk *disk)
{
    rig->disk = *disk;
    rig_boot(rig);
    assert_int_equal(rig_start_open(rig), ERR_NONE);
    assert_int_equal(rig_rows(rig), ERR_NONE);
    return rig_loaded(rig);
}

static void a_source_put_back_to_before_the_move_is_refused(void **state)
{
    (void)state;
    static struct rig_disk before;
    before = home.disk;
    look(&away, &row.id);
    assert_int_equal(rig_member(&away, &home, MEMBER_MOVE, &row.id, NULL), ERR_NONE);
    assert_int_equal(open_with(&home, &before), ERR_ANCHOR_VALUE);
}

static void a_target_put_back_to_after_the_move_is_refused_once_it_moved_on(void **state)
{
    (void)state;
    static struct rig_disk there;
    look(&away, &row.id);
    assert_int_equal(rig_member(&away, &home, MEMBER_MOVE, &row.id, NULL), ERR_NONE);
    there = away.disk;
    assert_int_equal(rig_member(&third, &away, MEMBER_LOOK, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&third, &away, MEMBER_MOVE, &row.id, NULL), ERR_NONE);
    assert_only_at(&third);
    assert_int_equal(open_with(&away, &there), ERR_ANCHOR_VALUE);
}

/* With an anchor of kind file it opens. Where the instance has been since then, nobody takes it back from there. */
static void what_comes_from_a_member_put_back_with_its_anchor_is_refused_where_it_was_since(void **state)
{
    (void)state;
    static struct rig_disk there;
    uint8_t anchor[ANCHOR_VALUE_SIZE];
    look(&away, &row.id);
    assert_int_equal(rig_member(&away, &home, MEMBER_MOVE, &row.id, NULL), ERR_NONE);
    there = away.disk;
    memcpy(anchor, away.anchor, sizeof anchor);
    assert_int_equal(rig_member(&home, &away, MEMBER_LOOK, &row.id, NULL), ERR_NONE);
    assert_int_equal(rig_member(&home, &away, MEMBER_MOVE, &row.id, NULL), ERR_NONE);
    look(&third, &row.id);
    assert_int_equal(rig_member(&third, &home, MEMBER_MOVE, &row.id, NULL), ERR_NONE);
    memcpy(away.anchor, anchor, sizeof anchor);
    assert_int_equal(open_with(&away, &there), ERR_NONE);
    rig_finish_k1(&away);
    assert_int_equal(rig_member(&home, &away, MEMBER_LOOK, &row.id, NULL), ERR_VERB_STATE);
}

/* D1: the row of before the move, in the store of after it. */
static void a_moved_instance_put_back_in_its_old_row_is_refused(void **state)
{
    (void)state;
    static struct rig_disk mixed;
    static struct rig_disk before;
    before = home.disk;
    look(&away, &row.id);
    assert_int_equal(rig_member(&away, &home, MEMBER_MOVE, &row.id, NULL), ERR_NONE);
    mixed = home.disk;
    mixed.rows[row.slot] = before.rows[row.slot];
    assert_int_equal(open_with(&home, &mixed), ERR_LEDGER_ROOT);
}

int main(void)
{
#define MOVE_TEST(test) cmocka_unit_test_setup_teardown(test, begin, finish)
    const struct CMUnitTest tests[] = {
        MOVE_TEST(a_question_with_any_byte_changed_moves_nothing),
        MOVE_TEST(an_answer_with_any_byte_changed_is_not_taken_and_the_right_one_is),
        MOVE_TEST(an_answer_is_good_once),
        MOVE_TEST(an_answer_is_good_for_what_was_asked),
        MOVE_TEST(what_was_said_does_not_reflect),
        MOVE_TEST(a_question_of_long_ago_does_not_fetch_it_again),
        MOVE_TEST(of_two_that_ask_one_gets_it),
        MOVE_TEST(a_third_member_is_told_nothing_of_what_has_moved),
        MOVE_TEST(who_has_nothing_of_it_confirms_nothing),
        MOVE_TEST(who_had_it_before_confirms_nothing),
        MOVE_TEST(who_has_passed_it_on_fetches_it_no_more_and_confirms_still),
        MOVE_TEST(a_manager_of_another_domain_gets_nothing),
        MOVE_TEST(a_manager_of_another_image_is_let_in_nowhere),
        MOVE_TEST(to_a_weaker_anchor_nothing_goes),
        MOVE_TEST(the_owner_goes_with_it),
        MOVE_TEST(a_ledger_recovered_from_a_record_of_ones_own_is_no_member),
        MOVE_TEST(a_source_put_back_to_before_the_move_is_refused),
        MOVE_TEST(a_target_put_back_to_after_the_move_is_refused_once_it_moved_on),
        MOVE_TEST(what_comes_from_a_member_put_back_with_its_anchor_is_refused_where_it_was_since),
        MOVE_TEST(a_moved_instance_put_back_in_its_old_row_is_refused),
    };
    return cmocka_run_group_tests_name("manager move", tests, NULL, NULL);
}
