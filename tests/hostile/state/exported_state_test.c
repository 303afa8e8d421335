/*
 * What a host, or the client at the other end of K2, gives an enclave to go on from, and whom it lets say that it may
 * (S5 to S8; rules 7).
 */
#include "tests/fakes/assertions.h"

#include <stdlib.h>
#include <string.h>

#include "tests/fakes/exports.h"
#include "tests/fakes/runtime.h"
#include "trusted/state/blob.h"

#define PCR              10u
#define GUARDED_INDEX    0x01800001u
#define TPM_RC_AUTH_FAIL 0x98eu
#define TPM_RC_RETRY     0x922u
#define TPM_RC_LOCKOUT   0x921u

static struct client a, b, other; /* the enclave that exports, the one that is to take over, another instance */
static struct bundle taken;       /* the right one */
static struct bundle offered;     /* a copy of it, to be changed */

static void startup(struct client *c)
{
    struct tpm_message m;
    tpm_startup(&m, TPM_SU_CLEAR);
    assert_int_equal(tpm_response_code(client_command(c, &m)), 0);
}

static void extend(struct client *c)
{
    struct tpm_message m;
    tpm_pcr_extend(&m, PCR);
    assert_int_equal(tpm_response_code(client_command(c, &m)), 0);
}

static void serve(struct client *c)
{
    client_serve(c);
    startup(c);
    extend(c);
}

static int begin(void **state)
{
    (void)state;
    fake_runtime_reset();
    client_open(&a);
    serve(&a);
    exports_read(&a, &taken);
    offered = taken;
    exports_open_candidate(&a, &b);
    return 0;
}

static int finish(void **state)
{
    (void)state;
    client_close(&b);
    client_close(&a);
    return 0;
}

/* INIT over what is offered fails, and the TPM is off. */
static uint16_t offer_to(struct client *c)
{
    exports_give(c, &offered);
    uint16_t code = exports_check(c);
    assert_int_not_equal(code, ERR_NONE);
    assert_null(c->result.store.data);
    return code;
}

static uint16_t offer(void)
{
    uint16_t code = offer_to(&b);
    (void)client_run(&b, K2_ESTABLISHED, span_empty());
    assert_int_equal(b.code, ERR_TPM_OFF);
    return code;
}

static void give_the_right_one(void)
{
    exports_give(&b, &taken);
    assert_int_equal(exports_check(&b), ERR_NONE);
}

/* The first request that decides, as far as REDEEM. */
static void ask_to_redeem(void)
{
    struct tpm_message m;
    tpm_pcr_read(&m, PCR);
    assert_int_equal(client_request(&b, K2_COMMAND, tpm_message_span(&m)), ERR_NONE);
    assert_null(b.result.record.data);
    assert_null(b.result.store.data);
    client_carry(&b);
    assert_true(b.manager.redeems);
}

/* --- what is in it --- */

/* Each byte with CHECK_LONG=1, else some of each part. */
static void each_changed_byte_of_it_is_detected(void **state)
{
    (void)state;
    const char *is_long = getenv("CHECK_LONG");
    const bool all = is_long && *is_long == '1';
    const size_t second = taken.permanent_size;
    for (size_t at = 0; at < taken.size;) {
        offered.bytes[at] ^= (uint8_t)(1 << at % 8);
        (void)offer();
        offered.bytes[at] ^= (uint8_t)(1 << at % 8);
        const bool is_header = at < BLOB_HEADER_SIZE || (at >= second && at < second + BLOB_HEADER_SIZE);
        const size_t next = at + (all ? 1 : is_header ? 11 : 2003);
        at = at < second && next > second ? second : next;
    }
    offered.bytes[taken.size - 1] ^= 1; /* of the tag */
    (void)offer();
    give_the_right_one();
}

static void cuts_and_added_bytes_are_detected(void **state)
{
    (void)state;
    const size_t sizes[] = {1,
                            BLOB_HEADER_SIZE,
                            taken.permanent_size - 1,
                            taken.permanent_size,
                            taken.permanent_size + 1,
                            taken.size - 1,
                            taken.size + 1,
                            STATE_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        offered.size = sizes[i];
        (void)offer();
    }
    give_the_right_one();
}

static void the_parts_in_the_wrong_order_or_twice_are_refused(void **state)
{
    (void)state;
    const size_t first = taken.permanent_size, second = taken.size - first;
    memcpy(offered.bytes, taken.bytes + first, second);
    memcpy(offered.bytes + second, taken.bytes, first);
    assert_int_equal(offer(), ERR_STATE_FORMAT);
    offered.size = 2 * first;
    memcpy(offered.bytes, taken.bytes, first);
    memcpy(offered.bytes + first, taken.bytes, first);
    assert_int_equal(offer(), ERR_STATE_FORMAT);
    offered.size = second;
    memcpy(offered.bytes, taken.bytes + first, second);
    assert_int_equal(offer(), ERR_STATE_FORMAT);
    give_the_right_one();
}

static void parts_of_two_exports_do_not_go_together(void **state)
{
    (void)state;
    static struct bundle newer;
    extend(&a);
    exports_read(&a, &newer);
    assert_int_equal(newer.permanent_size, taken.permanent_size);
    memcpy(offered.bytes, newer.bytes, newer.permanent_size);
    assert_int_equal(offer(), ERR_STATE_NOT_RECORDED);
    offered = newer;
    memcpy(offered.bytes, taken.bytes, taken.permanent_size);
    assert_int_equal(offer(), ERR_STATE_NOT_RECORDED);
}

static void that_of_another_instance_is_refused(void **state)
{
    (void)state;
    client_open(&other);
    serve(&other);
    exports_read(&other, &offered);
    assert_int_equal(offer(), ERR_STATE_OTHER_INSTANCE);
    client_close(&other);
    give_the_right_one();
}

/* The very state that is the newest, sealed for the holder's own next start. */
static void a_sealed_state_is_no_export_and_an_export_no_state(void **state)
{
    (void)state;
    offered.size = a.stored.size;
    memcpy(offered.bytes, a.stored.blob, a.stored.size);
    assert_int_equal(offer(), ERR_STATE_FORMAT);
    static struct stored_state stored;
    stored = a.stored;
    stored.size = taken.permanent_size;
    memcpy(stored.blob, taken.bytes, taken.permanent_size);
    client_close(&b); /* before the other one: its process has that one's channel open as well */
    client_restart(&a);
    client_provision(&a);
    assert_int_not_equal(client_load(&a, &stored), ERR_NONE);
    assert_int_equal(client_load(&a, &a.stored), ERR_NONE);
    exports_open_candidate(&a, &b);
}

static void that_of_another_epoch_is_refused(void **state)
{
    (void)state;
    client_close(&b);
    a.manager.known.epoch++;
    exports_open_candidate(&a, &b);
    assert_int_equal(offer(), ERR_STATE_OLD);
}

static void that_of_an_earlier_start_is_refused(void **state)
{
    (void)state;
    client_close(&b);
    client_restart(&a);
    client_serve(&a);
    exports_open_candidate(&a, &b);
    assert_int_equal(offer(), ERR_STATE_OLD);
}

/* Whether it is the newest is the manager's to say: it is asked about the version that was sealed with it. */
static void an_older_version_is_redeemed_as_what_it_is(void **state)
{
    (void)state;
    static struct bundle newer;
    const uint64_t version = a.manager.recorded.version;
    extend(&a);
    exports_read(&a, &newer);
    assert_true(a.manager.recorded.version > version);
    give_the_right_one();
    ask_to_redeem();
    assert_int_equal(b.manager.redeem[2], version);
}

/* --- in which parts it comes --- */

static void parts_that_do_not_follow_each_other_are_refused(void **state)
{
    (void)state;
    static const struct {
        uint32_t size, offset;
        size_t part;
        uint16_t code;
    } strange[] = {
        {0, 0, 4, ERR_TOO_LARGE},
        {UINT32_MAX, 0, 4, ERR_TOO_LARGE},
        {STATE_MAX + 1, 0, 4, ERR_TOO_LARGE},
        {100, UINT32_MAX, 4, ERR_BAD_VALUE},
        {100, 4, 4, ERR_BAD_VALUE},
        {100, 0, 0, ERR_BAD_VALUE},
        {100, 0, 101, ERR_BAD_VALUE},
        {UINT32_MAX, UINT32_MAX, 4, ERR_BAD_VALUE},
    };
    static const uint8_t bytes[101];
    for (size_t i = 0; i < sizeof strange / sizeof strange[0]; i++)
        assert_int_equal(exports_give_part(&b, strange[i].size, strange[i].offset, span_of(bytes, strange[i].part)),
                         strange[i].code);
    give_the_right_one();
}

static void a_part_that_is_out_of_order_costs_those_before_it(void **state)
{
    (void)state;
    static const struct {
        uint32_t size, offset;
    } second[] = {{100, 51}, {100, 49}, {101, 50}, {99, 50}, {100, UINT32_MAX - 3}};
    const struct span half = span_of(taken.bytes, 50);
    for (size_t i = 0; i < sizeof second / sizeof second[0]; i++) {
        assert_int_equal(exports_give_part(&b, 100, 0, half), ERR_NONE);
        assert_int_equal(exports_give_part(&b, second[i].size, second[i].offset, half), ERR_BAD_VALUE);
        assert_int_equal(exports_give_part(&b, 100, 50, half), ERR_BAD_VALUE); /* there is no first half any more */
    }
    give_the_right_one();
}

static void half_of_one_is_nothing(void **state)
{
    (void)state;
    struct tpm_message m;
    const struct span half = span_of(taken.bytes, K2_PART_MAX / 2);
    assert_int_equal(exports_give_part(&b, (uint32_t)taken.size, 0, half), ERR_NONE);
    assert_int_equal(exports_check(&b), ERR_TPM_OFF);
    assert_false(b.manager.redeems);
    /* The holder is reset as if nothing had come, and its export is over. */
    assert_int_equal(exports_give_part(&a, (uint32_t)taken.size, 0, half), ERR_NONE);
    const uint64_t version = a.manager.recorded.version;
    assert_int_equal(exports_check(&a), ERR_NONE);
    assert_int_equal(a.manager.recorded.version, version + 1);
    tpm_pcr_read(&m, PCR);
    assert_int_equal(tpm_response_code(client_command(&a, &m)), 0x100); /* TPM_RC_INITIALIZE */
    give_the_right_one();
}

static void one_that_was_forgotten_is_not_there(void **state)
{
    (void)state;
    exports_give(&b, &taken);
    assert_int_equal(exports_give_part(&b, 0, 0, span_empty()), ERR_NONE);
    assert_int_equal(exports_check(&b), ERR_TPM_OFF);
    give_the_right_one();
}

static void junk_takes_nothing_from_one_that_was_checked(void **state)
{
    (void)state;
    give_the_right_one();
    memset(offered.bytes, 0xa5, offered.size);
    (void)offer_to(&b);
    ask_to_redeem(); /* over the right one */
    assert_int_equal(b.manager.redeem[2], a.manager.recorded.version);
}

static void a_candidate_takes_no_state_from_the_host(void **state)
{
    (void)state;
    client_close(&b);
    memset(&b, 0, sizeof b);
    b.manager = a.manager;
    b.manager.peer = (struct peer){0};
    b.manager.incoming = true;
    enclave_process_start(&b.enclave);
    client_provision(&b);
    assert_int_equal(client_load(&b, &a.stored), ERR_BAD_VALUE);
    static struct stored_state exported;
    exported.size = taken.size;
    memcpy(exported.blob, taken.bytes, taken.size);
    assert_int_equal(client_load(&b, &exported), ERR_BAD_VALUE);
}

/* --- reading and hashing --- */

static void it_is_read_at_any_offset_and_never_behind_its_end(void **state)
{
    (void)state;
    uint8_t bytes[4];
    const uint32_t offsets[] = {0,
                                1,
                                3,
                                4093,
                                taken.permanent_size - 1,
                                taken.permanent_size,
                                taken.permanent_size + 1,
                                (uint32_t)taken.size - 1};
    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        const struct span part = client_run(&a, K2_EXPORT_READ, u32_of(offsets[i], bytes));
        assert_int_equal(a.code, ERR_NONE);
        const size_t left = taken.size - offsets[i];
        assert_int_equal(part.size, left < K2_EXPORT_READ_MAX ? left : K2_EXPORT_READ_MAX);
        assert_memory_equal(part.data, taken.bytes + offsets[i], part.size);
    }
    const uint32_t behind[] = {(uint32_t)taken.size, (uint32_t)taken.size + 1, STATE_MAX, INT32_MAX, UINT32_MAX};
    for (size_t i = 0; i < sizeof behind / sizeof behind[0]; i++) {
        (void)client_run(&a, K2_EXPORT_READ, u32_of(behind[i], bytes));
        assert_int_equal(a.code, ERR_BAD_VALUE);
    }
    static const uint8_t five[5];
    (void)client_run(&a, K2_EXPORT_READ, span_of(five, 3));
    assert_int_equal(a.code, ERR_TRUNCATED);
    (void)client_run(&a, K2_EXPORT_READ, span_of(five, 5));
    assert_int_equal(a.code, ERR_TRAILING);
}

static void bytes_of_any_number_are_hashed(void **state)
{
    (void)state;
    static const uint8_t most[K2_MESSAGE_MAX - K2_HEADER_SIZE];
    const size_t sizes[] = {0, 1, sizeof most};
    (void)client_run(&a, K2_HASH_DATA, span_of(most, 1)); /* before a start: swallowed, or refused */
    (void)client_run(&a, K2_HASH_END, span_empty());
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        (void)client_run(&a, K2_HASH_START, span_empty());
        (void)client_run(&a, K2_HASH_DATA, span_of(most, sizes[i]));
        assert_int_equal(a.code, ERR_NONE);
        (void)client_run(&a, K2_HASH_END, span_empty());
        assert_int_equal(a.code, ERR_NONE);
    }
    extend(&a); /* it works */
}

/* --- who says that it may --- */

static void a_candidate_seals_nothing_whatever_is_asked_of_it(void **state)
{
    (void)state;
    static const struct {
        enum k2_verb verb;
        size_t size;
    } asked[] = {{K2_LOCK, 0},        {K2_ESTABLISHED, 0}, {K2_INFO, 4},      {K2_BUFFER_SIZE, 4}, {K2_EXPORT, 0},
                 {K2_EXPORT_READ, 4}, {K2_BUNDLE, 8},      {K2_POWER_OFF, 0}, {K2_LOCK, 0},        {K2_EXPORT, 0}};
    static const uint8_t zeros[8];
    give_the_right_one();
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        assert_int_equal(client_request(&b, asked[i].verb, span_of(zeros, asked[i].size)), ERR_NONE);
        assert_null(b.result.store.data);
        assert_int_equal(b.result.peer_count, 0);
        (void)client_response(&b);
        assert_int_equal(b.code, ERR_NONE);
    }
}

/* What a candidate knows is no secret but the root of exports: the host plays the manager, with a root key of its own. */
static void the_host_cannot_play_the_manager_to_a_candidate(void **state)
{
    (void)state;
    memset(b.manager.known.key, 0, sizeof b.manager.known.key);
    assert_int_equal(client_call(&b, INSTANCE_RESUME, span_empty()), ERR_CALL_STATE);
    give_the_right_one();
    assert_int_equal(client_call(&b, INSTANCE_RESUME, span_empty()), ERR_CALL_STATE);
    ask_to_redeem();
    assert_int_equal(client_call(&b, INSTANCE_RESUME, span_empty()), ERR_CALL_STATE);
    assert_int_equal(b.result.peer_count, 0);
}

static void nothing_moves_a_candidate_but_redeemed(void **state)
{
    (void)state;
    struct fake_message message;
    struct tpm_message m;
    give_the_right_one();
    ask_to_redeem();
    tpm_pcr_read(&m, PCR);
    assert_int_equal(client_request(&b, K2_COMMAND, tpm_message_span(&m)), ERR_CALL_BUSY);
    assert_int_equal(client_stop(&b, INSTANCE_STOP_OFF), ERR_CALL_BUSY);
    b.manager.asks = b.manager.commits = true;
    fake_manager_lease(&b.manager, &message);
    (void)client_tell(&b, &message);
    assert_null(b.result.record.data);
    b.manager.commit = (struct fake_state){0};
    fake_manager_anchor(&b.manager, &message);
    (void)client_tell(&b, &message);
    assert_null(b.result.record.data);
    assert_null(b.result.store.data);
}

static void redeemed_is_heard_once(void **state)
{
    (void)state;
    struct fake_message message;
    give_the_right_one();
    ask_to_redeem();
    fake_manager_redeem(&b.manager, &message);
    assert_int_equal(client_tell(&b, &message), ERR_NONE);
    assert_non_null(b.result.store.data);
    client_carry(&b);
    assert_int_not_equal(client_tell(&b, &message), ERR_NONE); /* the very record */
    client_resume(&b);                                         /* now it has the key for that */
    client_anchor(&b);
    assert_int_equal(tpm_response_code(client_response(&b)), 0);
}

/* --- what the permission to go back does not permit --- */

static int begin_allowed(void **state)
{
    (void)state;
    fake_runtime_reset();
    client_open(&a);
    a.manager.snapshots = PEER_SNAPSHOTS_ALLOWED;
    serve(&a);
    exports_read(&a, &taken);
    offered = taken;
    extend(&a);
    return 0;
}

static int finish_allowed(void **state)
{
    (void)state;
    client_close(&a);
    return 0;
}

static void assert_it_goes_on(void)
{
    extend(&a);
    exports_give(&a, &taken);
    assert_int_equal(exports_check(&a), ERR_NONE);
    extend(&a);
}

static void an_altered_snapshot_is_not_loaded(void **state)
{
    (void)state;
    for (size_t at = 0; at < taken.size; at += at < BLOB_HEADER_SIZE ? 7 : 2003) {
        offered.bytes[at] ^= 1;
        (void)offer_to(&a);
        offered.bytes[at] ^= 1;
    }
    assert_it_goes_on();
}

static void halves_of_two_snapshots_are_not_loaded(void **state)
{
    (void)state;
    static struct bundle newer;
    exports_read(&a, &newer);
    extend(&a);
    assert_int_equal(newer.permanent_size, taken.permanent_size);
    memcpy(offered.bytes, newer.bytes, newer.permanent_size);
    assert_int_equal(offer_to(&a), ERR_STATE_NOT_RECORDED);
    offered = newer;
    memcpy(offered.bytes, taken.bytes, taken.permanent_size);
    assert_int_equal(offer_to(&a), ERR_STATE_NOT_RECORDED);
    assert_it_goes_on();
}

static void a_snapshot_of_another_instance_is_not_loaded(void **state)
{
    (void)state;
    client_open(&other);
    serve(&other);
    exports_read(&other, &offered);
    assert_int_equal(offer_to(&a), ERR_STATE_OTHER_INSTANCE);
    memcpy(offered.bytes + BLOB_OFFSET_ID, taken.bytes + BLOB_OFFSET_ID, 16);
    memcpy(offered.bytes + offered.permanent_size + BLOB_OFFSET_ID, taken.bytes + BLOB_OFFSET_ID, 16);
    assert_int_equal(offer_to(&a), ERR_STATE_ALTERED);
    client_close(&other);
    assert_it_goes_on();
}

/* Another manager's name makes another root: that of nobody. */
static void a_snapshot_under_another_name_is_not_loaded(void **state)
{
    (void)state;
    offered.bytes[BLOB_OFFSET_MRENCLAVE] ^= 1;
    offered.bytes[taken.permanent_size + BLOB_OFFSET_MRENCLAVE] ^= 1;
    assert_int_equal(offer_to(&a), ERR_STATE_ALTERED);
    assert_it_goes_on();
}

static void what_an_owners_act_cut_off_is_not_loaded(void **state)
{
    (void)state;
    a.manager.known.epoch++;
    a.manager.era++;
    client_restart(&a);
    client_serve(&a);
    assert_int_equal(offer_to(&a), ERR_STATE_OLD);
    startup(&a);
    exports_read(&a, &taken);
    assert_it_goes_on();
}

static void a_tpm_12_is_never_told_that_it_may(void **state)
{
    (void)state;
    client_close(&a);
    client_open(&a);
    a.manager.snapshots = PEER_SNAPSHOTS_ALLOWED;
    a.manager.family = PEER_FAMILY_12;
    struct fake_message message;
    client_admit(&a);
    fake_manager_provision(&a.manager, &message);
    assert_int_equal(client_tell(&a, &message), ERR_BAD_VALUE);
}

/* Its commit is not recorded, and nothing comes out. */
static void a_holder_that_was_fenced_loads_nothing(void **state)
{
    (void)state;
    struct tpm_message m;
    exports_give(&a, &offered);
    assert_int_equal(client_request(&a, K2_RESET, span_empty()), ERR_NONE);
    assert_null(a.result.record.data);
    tpm_pcr_read(&m, PCR);
    assert_int_equal(client_request(&a, K2_COMMAND, tpm_message_span(&m)), ERR_CALL_BUSY);
    assert_int_equal(client_stop(&a, INSTANCE_STOP_OFF), ERR_CALL_BUSY);
}

/* What is learnt in one life is no use in the next: the same moment, and other bytes and nonces. */
static void two_loads_of_one_snapshot_draw_differently(void **state)
{
    (void)state;
    static uint8_t drawn[2][2][64];
    struct tpm_message draw[2];
    tpm_get_random(&draw[0], 32);
    tpm_start_policy(&draw[1]);
    for (size_t i = 0; i < 2; i++) {
        for (size_t life = 0; life < 2; life++) {
            exports_give(&a, &taken);
            assert_int_equal(exports_check(&a), ERR_NONE);
            struct span response = client_command(&a, &draw[i]);
            assert_int_equal(tpm_response_code(response), 0);
            assert_in_range(response.size, 20, sizeof drawn[i][life]);
            memcpy(drawn[i][life], response.data, response.size);
        }
        assert_memory_not_equal(drawn[i][0], drawn[i][1], sizeof drawn[i][0]);
    }
}

static uint32_t guess(const char *auth)
{
    struct tpm_message m;
    tpm_nv_read_with(&m, GUARDED_INDEX, 8, auth);
    const uint32_t code = tpm_response_code(client_command(&a, &m));
    return code == TPM_RC_RETRY ? tpm_response_code(client_command(&a, &m)) : code;
}

static void loading_gives_no_guess_back(void **state)
{
    (void)state;
    struct tpm_message m;
    tpm_nv_define_as(&m, GUARDED_INDEX, 8, 0x00040004u, "secret"); /* AUTHWRITE, AUTHREAD, guarded */
    assert_int_equal(tpm_response_code(client_command(&a, &m)), 0);
    exports_read(&a, &taken);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(guess("wrong"), TPM_RC_AUTH_FAIL);
        (void)client_run(&a, K2_POWER_OFF, span_empty());
        exports_give(&a, &taken);
        assert_int_equal(exports_check(&a), ERR_NONE);
    }
    assert_int_equal(guess("secret"), TPM_RC_LOCKOUT);
}

/* --- of two enclaves one --- */

static void the_source_answers_nothing_while_it_is_not_said_who_goes_on(void **state)
{
    (void)state;
    struct tpm_message m;
    give_the_right_one();
    ask_to_redeem();
    /* The manager says REDEEMED to the other one, and nothing to this one any more. */
    tpm_pcr_read(&m, PCR);
    assert_int_equal(client_request(&a, K2_COMMAND, tpm_message_span(&m)), ERR_NONE);
    assert_null(a.result.record.data);
    assert_int_equal(client_request(&a, K2_COMMAND, tpm_message_span(&m)), ERR_CALL_BUSY);
}

static void a_locality_that_there_is_not_is_refused_everywhere(void **state)
{
    (void)state;
    for (int verb = K2_COMMAND; verb <= K2_VERB_MAX; verb++) {
        const struct span record = client_seal(&a, (enum k2_verb)verb, 5, span_empty());
        assert_int_equal(client_call(&a, INSTANCE_RECORD, record), ERR_NONE);
        (void)client_response(&a);
        assert_int_equal(a.code, ERR_BAD_VALUE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_changed_byte_of_it_is_detected, begin, finish),
        cmocka_unit_test_setup_teardown(cuts_and_added_bytes_are_detected, begin, finish),
        cmocka_unit_test_setup_teardown(the_parts_in_the_wrong_order_or_twice_are_refused, begin, finish),
        cmocka_unit_test_setup_teardown(parts_of_two_exports_do_not_go_together, begin, finish),
        cmocka_unit_test_setup_teardown(an_altered_snapshot_is_not_loaded, begin_allowed, finish_allowed),
        cmocka_unit_test_setup_teardown(halves_of_two_snapshots_are_not_loaded, begin_allowed, finish_allowed),
        cmocka_unit_test_setup_teardown(a_snapshot_of_another_instance_is_not_loaded, begin_allowed, finish_allowed),
        cmocka_unit_test_setup_teardown(a_snapshot_under_another_name_is_not_loaded, begin_allowed, finish_allowed),
        cmocka_unit_test_setup_teardown(what_an_owners_act_cut_off_is_not_loaded, begin_allowed, finish_allowed),
        cmocka_unit_test_setup_teardown(a_tpm_12_is_never_told_that_it_may, begin_allowed, finish_allowed),
        cmocka_unit_test_setup_teardown(a_holder_that_was_fenced_loads_nothing, begin_allowed, finish_allowed),
        cmocka_unit_test_setup_teardown(two_loads_of_one_snapshot_draw_differently, begin_allowed, finish_allowed),
        cmocka_unit_test_setup_teardown(loading_gives_no_guess_back, begin_allowed, finish_allowed),
        cmocka_unit_test_setup_teardown(that_of_another_instance_is_refused, begin, finish),
        cmocka_unit_test_setup_teardown(a_sealed_state_is_no_export_and_an_export_no_state, begin, finish),
        cmocka_unit_test_setup_teardown(that_of_another_epoch_is_refused, begin, finish),
        cmocka_unit_test_setup_teardown(that_of_an_earlier_start_is_refused, begin, finish),
        cmocka_unit_test_setup_teardown(an_older_version_is_redeemed_as_what_it_is, begin, finish),
        cmocka_unit_test_setup_teardown(parts_that_do_not_follow_each_other_are_refused, begin, finish),
        cmocka_unit_test_setup_teardown(a_part_that_is_out_of_order_costs_those_before_it, begin, finish),
        cmocka_unit_test_setup_teardown(half_of_one_is_nothing, begin, finish),
        cmocka_unit_test_setup_teardown(one_that_was_forgotten_is_not_there, begin, finish),
        cmocka_unit_test_setup_teardown(junk_takes_nothing_from_one_that_was_checked, begin, finish),
        cmocka_unit_test_setup_teardown(a_candidate_takes_no_state_from_the_host, begin, finish),
        cmocka_unit_test_setup_teardown(it_is_read_at_any_offset_and_never_behind_its_end, begin, finish),
        cmocka_unit_test_setup_teardown(bytes_of_any_number_are_hashed, begin, finish),
        cmocka_unit_test_setup_teardown(a_candidate_seals_nothing_whatever_is_asked_of_it, begin, finish),
        cmocka_unit_test_setup_teardown(the_host_cannot_play_the_manager_to_a_candidate, begin, finish),
        cmocka_unit_test_setup_teardown(nothing_moves_a_candidate_but_redeemed, begin, finish),
        cmocka_unit_test_setup_teardown(redeemed_is_heard_once, begin, finish),
        cmocka_unit_test_setup_teardown(the_source_answers_nothing_while_it_is_not_said_who_goes_on, begin, finish),
        cmocka_unit_test_setup_teardown(a_locality_that_there_is_not_is_refused_everywhere, begin, finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
