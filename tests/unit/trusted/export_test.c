#include "tests/fakes/assertions.h"

#include <string.h>

#include "tests/fakes/exports.h"
#include "tests/fakes/runtime.h"

#define PCR                     10u
#define NV_INDEX                0x01800001u
#define TPM_RC_INITIALIZE       0x100u
#define TPM_PT_MAX_COMMAND_SIZE 0x11eu
#define INFO_SPECIFICATION      1u

static struct client a, b; /* the enclave that exports, and the one that takes over */

static struct bundle taken;

struct answer {
    size_t size;
    uint8_t bytes[K2_MESSAGE_MAX];
};

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
    assert_int_equal(c->code, ERR_NONE);
}

static void read_pcr(struct client *c, struct answer *out)
{
    struct tpm_message m;
    tpm_pcr_read(&m, PCR);
    struct span response = client_command(c, &m);
    assert_int_equal(tpm_response_code(response), 0);
    out->size = response.size;
    memcpy(out->bytes, response.data, response.size);
}

static void assert_same(const struct answer *one, const struct answer *other)
{
    assert_int_equal(one->size, other->size);
    assert_memory_equal(one->bytes, other->bytes, one->size);
}

static void take_over_by(const struct tpm_message *m, struct answer *out)
{
    struct fake_message message;
    assert_int_equal(client_request(&b, K2_COMMAND, tpm_message_span(m)), ERR_NONE);
    client_carry(&b);
    assert_true(b.manager.redeems);
    assert_null(b.result.record.data);
    fake_manager_redeem(&b.manager, &message);
    assert_int_equal(client_tell(&b, &message), ERR_NONE);
    assert_null(b.result.record.data); /* nothing is answered before this enclave has committed */
    assert_non_null(b.result.store.data);
    client_carry(&b);
    client_anchor(&b);
    struct span response = client_response(&b);
    assert_int_equal(b.code, ERR_NONE);
    out->size = response.size;
    memcpy(out->bytes, response.data, response.size);
}

static int begin(void **state)
{
    (void)state;
    fake_runtime_reset();
    client_open(&a);
    client_serve(&a);
    startup(&a);
    extend(&a);
    return 0;
}

static int finish(void **state)
{
    (void)state;
    if (b.enclave.pid) client_close(&b); /* its process has the other one's channel open as well */
    memset(&b, 0, sizeof b);
    client_close(&a);
    return 0;
}

/* --- handing out --- */

static void an_export_is_the_state_that_was_committed_with_it(void **state)
{
    (void)state;
    uint64_t before = a.manager.recorded.version;
    exports_read(&a, &taken);
    assert_int_equal(a.manager.recorded.version, before + 1);
    struct bundle again;
    exports_read(&a, &again);
    assert_int_equal(a.manager.recorded.version, before + 1);
    assert_int_equal(again.size, taken.size);
    assert_memory_equal(again.bytes, taken.bytes, taken.size);
}

static void nothing_of_it_is_in_the_clear(void **state)
{
    (void)state;
    struct tpm_message m;
    static const uint8_t secret[] = "what the index holds, as it is";
    tpm_nv_define(&m, NV_INDEX, sizeof secret);
    assert_int_equal(tpm_response_code(client_command(&a, &m)), 0);
    tpm_nv_write(&m, NV_INDEX, span_of(secret, sizeof secret));
    assert_int_equal(tpm_response_code(client_command(&a, &m)), 0);
    exports_read(&a, &taken);
    assert_null(memmem(taken.bytes, taken.size, secret, sizeof secret));
}

static void a_tpm_that_is_off_exports_nothing(void **state)
{
    (void)state;
    (void)client_run(&a, K2_POWER_OFF, span_empty());
    assert_int_equal(exports_begin(&a, &taken), ERR_TPM_OFF);
    uint8_t bytes[4];
    (void)client_run(&a, K2_EXPORT_READ, u32_of(0, bytes));
    assert_int_equal(a.code, ERR_STATE_MISSING);
}

static void reading_behind_the_end_is_refused(void **state)
{
    (void)state;
    uint8_t bytes[4];
    assert_int_equal(exports_begin(&a, &taken), ERR_NONE);
    (void)client_run(&a, K2_EXPORT_READ, u32_of((uint32_t)taken.size, bytes));
    assert_int_equal(a.code, ERR_BAD_VALUE);
    (void)client_run(&a, K2_EXPORT_READ, u32_of(UINT32_MAX, bytes));
    assert_int_equal(a.code, ERR_BAD_VALUE);
}

/* --- taking back --- */

static void the_first_command_after_it_commits(void **state)
{
    (void)state;
    exports_read(&a, &taken);
    uint64_t version = a.manager.recorded.version;
    struct tpm_message m;
    tpm_pcr_read(&m, PCR); /* which changes nothing */
    assert_int_equal(client_request(&a, K2_COMMAND, tpm_message_span(&m)), ERR_NONE);
    assert_null(a.result.record.data);
    assert_non_null(a.result.store.data);
    client_carry(&a);
    client_anchor(&a);
    assert_int_equal(tpm_response_code(client_response(&a)), 0);
    assert_int_equal(a.manager.recorded.version, version + 1);
    assert_int_equal(client_request(&a, K2_COMMAND, tpm_message_span(&m)), ERR_NONE);
    assert_non_null(a.result.record.data); /* the second one does not */
}

static void every_request_that_decides_takes_back(void **state)
{
    (void)state;
    static const uint8_t data[] = "measured";
    static const struct {
        enum k2_verb verb;
        struct span body;
    } deciding[] = {
        {K2_RESET, {0}},    {K2_HASH_START, {0}},        {K2_HASH_DATA, {data, sizeof data}},
        {K2_HASH_END, {0}}, {K2_RESET_ESTABLISHED, {0}}, {K2_STORE_VOLATILE, {0}},
        {K2_LOCK, {0}},
    };
    for (size_t i = 0; i < sizeof deciding / sizeof deciding[0]; i++) {
        exports_read(&a, &taken);
        uint64_t version = a.manager.recorded.version;
        (void)client_run(&a, deciding[i].verb, deciding[i].body);
        assert_int_equal(a.manager.recorded.version, version + 1);
        if (deciding[i].verb == K2_RESET) startup(&a);
    }
}

static void asking_does_not_take_back(void **state)
{
    (void)state;
    uint8_t bytes[4];
    exports_read(&a, &taken);
    uint64_t version = a.manager.recorded.version;
    (void)client_run(&a, K2_ESTABLISHED, span_empty());
    (void)client_run(&a, K2_INFO, u32_of(INFO_SPECIFICATION, bytes));
    (void)client_run(&a, K2_BUFFER_SIZE, u32_of(0, bytes));
    assert_int_equal(a.manager.recorded.version, version);
}

static void power_off_and_stop_leave_the_export_open(void **state)
{
    (void)state;
    exports_read(&a, &taken);
    uint64_t version = a.manager.recorded.version;
    (void)client_run(&a, K2_POWER_OFF, span_empty());
    assert_int_equal(a.code, ERR_NONE);
    assert_int_equal(a.manager.recorded.version, version);
    assert_int_equal(client_stop(&a, INSTANCE_STOP_OFF), ERR_NONE);
    assert_null(a.result.store.data);
    assert_int_equal(a.result.receipt.size, PEER_RECEIPT_SIZE);
}

static void a_reset_after_power_off_takes_back(void **state)
{
    (void)state;
    struct tpm_message m;
    exports_read(&a, &taken);
    uint64_t version = a.manager.recorded.version;
    (void)client_run(&a, K2_POWER_OFF, span_empty());
    (void)client_run(&a, K2_RESET, span_empty());
    assert_int_equal(a.code, ERR_NONE);
    assert_int_equal(a.manager.recorded.version, version + 1);
    tpm_pcr_read(&m, PCR);
    assert_int_equal(tpm_response_code(client_command(&a, &m)), TPM_RC_INITIALIZE);
    startup(&a);
}

static void a_snapshot_that_was_not_left_is_gone_back_to(void **state)
{
    (void)state;
    struct answer before, after;
    read_pcr(&a, &before);
    exports_read(&a, &taken);
    (void)client_run(&a, K2_POWER_OFF, span_empty());
    exports_give(&a, &taken);
    assert_int_equal(exports_check(&a), ERR_NONE);
    read_pcr(&a, &after); /* without a startup */
    assert_same(&before, &after);
}

static void a_snapshot_that_was_left_is_refused_and_the_tpm_goes_on(void **state)
{
    (void)state;
    struct answer before, after;
    exports_read(&a, &taken);
    extend(&a);
    read_pcr(&a, &before);
    exports_give(&a, &taken);
    assert_int_equal(exports_check(&a), ERR_STATE_OLD);
    read_pcr(&a, &after);
    assert_same(&before, &after);
}

/* A machine that is saved to a file and ends; its TPM is started anew when it is brought back. */
static void save_and_start_again(void)
{
    exports_read(&a, &taken);
    (void)client_run(&a, K2_POWER_OFF, span_empty());
    assert_int_equal(client_stop(&a, INSTANCE_STOP_OFF), ERR_NONE);
    assert_int_equal(a.result.receipt.size, PEER_RECEIPT_SIZE);
    client_restart(&a);
    client_serve(&a);
}

static void what_a_start_left_is_gone_on_from_by_the_next_one(void **state)
{
    (void)state;
    struct answer before, after;
    read_pcr(&a, &before);
    save_and_start_again();
    uint64_t version = a.manager.recorded.version;
    (void)client_run(&a, K2_POWER_OFF, span_empty()); /* as QEMU does */
    exports_give(&a, &taken);
    assert_int_equal(exports_check(&a), ERR_NONE);
    read_pcr(&a, &after);
    assert_same(&before, &after);
    assert_int_equal(a.manager.recorded.version, version + 1);
    (void)client_run(&a, K2_POWER_OFF, span_empty());
    exports_give(&a, &taken);
    assert_int_equal(exports_check(&a), ERR_STATE_OLD); /* once */
}

static void a_start_that_was_called_off_leaves_it_to_the_next_one(void **state)
{
    (void)state;
    struct answer before, after;
    read_pcr(&a, &before);
    save_and_start_again();
    assert_int_equal(client_stop(&a, INSTANCE_STOP_OFF), ERR_NONE);
    assert_null(a.result.store.data);
    client_restart(&a);
    client_serve(&a);
    exports_give(&a, &taken);
    assert_int_equal(exports_check(&a), ERR_NONE);
    read_pcr(&a, &after);
    assert_same(&before, &after);
}

static void a_start_that_went_on_by_itself_does_not_go_back(void **state)
{
    (void)state;
    struct answer ignored;
    save_and_start_again();
    (void)client_run(&a, K2_RESET, span_empty());
    exports_give(&a, &taken);
    assert_int_equal(exports_check(&a), ERR_STATE_OLD);
    startup(&a);
    read_pcr(&a, &ignored);
    (void)client_run(&a, K2_POWER_OFF, span_empty());
    assert_int_equal(client_stop(&a, INSTANCE_STOP_OFF), ERR_NONE);
    client_carry(&a);
    if (a.manager.commits) client_anchor(&a);
    client_restart(&a);
    client_serve(&a); /* of which the version is another one */
    exports_give(&a, &taken);
    assert_int_equal(exports_check(&a), ERR_STATE_OLD);
}

/* --- going back to what was left, where the row allows it --- */

static int begin_allowed(void **state)
{
    (void)state;
    fake_runtime_reset();
    client_open(&a);
    a.manager.snapshots = PEER_SNAPSHOTS_ALLOWED;
    client_serve(&a);
    startup(&a);
    extend(&a);
    return 0;
}

static uint32_t reset_count(struct client *c)
{
    struct tpm_message m;
    tpm_read_clock(&m);
    struct span p = tpm_response_parameters(client_command(c, &m), 0);
    struct reader r = reader_of(span_of(p.data + 16, 4));
    uint32_t count = 0;
    assert_ok(read_be32(&r, &count));
    return count;
}

/* RESET over what was given: answered behind the commit that says so. */
static void load_what_was_left(struct client *c)
{
    const uint64_t version = c->manager.recorded.version;
    exports_give(c, &taken);
    assert_int_equal(client_request(c, K2_RESET, span_empty()), ERR_NONE);
    assert_null(c->result.record.data);
    assert_non_null(c->result.store.data);
    client_carry(c);
    assert_true(c->manager.commit.loaded);
    client_anchor(c);
    (void)client_response(c);
    assert_int_equal(c->code, ERR_NONE);
    assert_int_equal(c->manager.recorded.version, version + 1);
}

static void a_snapshot_that_was_left_is_loaded_again_and_again(void **state)
{
    (void)state;
    struct answer before, after;
    read_pcr(&a, &before);
    exports_read(&a, &taken);
    uint32_t resets = reset_count(&a);
    for (int i = 0; i < 3; i++) {
        extend(&a);
        (void)client_run(&a, K2_POWER_OFF, span_empty()); /* as QEMU does */
        load_what_was_left(&a);
        read_pcr(&a, &after); /* without a startup */
        assert_same(&before, &after);
        assert_int_equal(reset_count(&a), ++resets);
    }
    load_what_was_left(&a); /* with the power on, too */
    assert_int_equal(reset_count(&a), ++resets);
}

static void what_follows_a_load_is_a_commit_as_any(void **state)
{
    (void)state;
    struct tpm_message m;
    static struct bundle open;
    exports_read(&a, &taken);
    extend(&a);
    exports_read(&a, &open);
    load_what_was_left(&a);
    const uint64_t version = a.manager.recorded.version;
    extend(&a);
    assert_int_equal(a.manager.recorded.version, version); /* nothing is open that it would take back */
    tpm_nv_define(&m, NV_INDEX, 8);
    assert_int_equal(tpm_response_code(client_command(&a, &m)), 0);
    assert_int_equal(a.manager.recorded.version, version + 1);
    assert_false(a.manager.recorded.loaded);
}

static void what_was_not_left_is_no_load_there_either(void **state)
{
    (void)state;
    exports_read(&a, &taken);
    const uint64_t version = a.manager.recorded.version;
    (void)client_run(&a, K2_POWER_OFF, span_empty());
    exports_give(&a, &taken);
    assert_int_equal(exports_check(&a), ERR_NONE);
    assert_int_equal(a.manager.recorded.version, version);
    assert_int_equal(reset_count(&a), 1);
    assert_false(a.manager.recorded.loaded);
}

static void one_of_an_earlier_start_and_epoch_is_loaded(void **state)
{
    (void)state;
    struct answer before, after;
    read_pcr(&a, &before);
    exports_read(&a, &taken);
    extend(&a);
    a.manager.known.epoch++; /* its holder was declared dead */
    client_restart(&a);
    client_serve(&a);
    load_what_was_left(&a); /* before its startup */
    read_pcr(&a, &after);
    assert_same(&before, &after);
}

static void one_of_another_manager_image_is_loaded(void **state)
{
    (void)state;
    exports_read(&a, &taken);
    extend(&a);
    a.manager.MRENCLAVE[0] ^= 1;
    client_restart(&a);
    client_serve(&a);
    startup(&a);
    load_what_was_left(&a);
    extend(&a);
}

static void one_that_has_taken_over_loads_what_the_other_one_exported(void **state)
{
    (void)state;
    struct answer before, after;
    struct tpm_message m;
    static struct bundle newer;
    read_pcr(&a, &before);
    exports_read(&a, &taken);
    extend(&a);
    exports_read(&a, &newer);
    exports_open_candidate(&a, &b);
    exports_give(&b, &taken);
    assert_int_equal(exports_check(&b), ERR_NONE); /* it cannot know, and would be fenced */
    exports_give(&b, &newer);
    assert_int_equal(exports_check(&b), ERR_NONE);
    tpm_pcr_read(&m, PCR);
    take_over_by(&m, &after);
    load_what_was_left(&b);
    read_pcr(&b, &after);
    assert_same(&before, &after);
}

static void a_load_is_said_again_when_the_session_was_cut(void **state)
{
    (void)state;
    exports_read(&a, &taken);
    extend(&a);
    exports_give(&a, &taken);
    assert_int_equal(client_request(&a, K2_RESET, span_empty()), ERR_NONE);
    client_resume(&a); /* what was said before is lost */
    assert_true(a.manager.commits && a.manager.commit.loaded);
    client_anchor(&a);
    (void)client_response(&a);
    assert_int_equal(a.code, ERR_NONE);
    extend(&a);
}

static void what_was_loaded_opens_at_the_next_start(void **state)
{
    (void)state;
    exports_read(&a, &taken);
    const uint32_t resets = reset_count(&a);
    load_what_was_left(&a);
    client_restart(&a);
    client_serve(&a);
    startup(&a);
    assert_int_equal(reset_count(&a), resets + 2); /* that of the load, and that of the startup */
}

/* --- taking over --- */

static void another_enclave_goes_on_where_this_one_stopped(void **state)
{
    (void)state;
    struct answer before, after;
    struct tpm_message m;
    read_pcr(&a, &before);
    exports_read(&a, &taken);
    uint64_t version = a.manager.recorded.version;
    exports_open_candidate(&a, &b);
    exports_give(&b, &taken);
    assert_int_equal(exports_check(&b), ERR_NONE);
    tpm_pcr_read(&m, PCR);
    take_over_by(&m, &after);
    assert_same(&before, &after);
    assert_int_equal(b.manager.redeem[0], a.manager.known.epoch);
    assert_int_equal(b.manager.redeem[1], a.manager.known.start);
    assert_int_equal(b.manager.redeem[2], version);
    assert_int_equal(b.manager.recorded.version, version + 1);
    extend(&b);
    assert_int_equal(b.manager.recorded.version, version + 1);
}

static void what_it_took_over_opens_at_its_next_start(void **state)
{
    (void)state;
    struct answer ignored;
    struct tpm_message m;
    exports_read(&a, &taken);
    exports_open_candidate(&a, &b);
    exports_give(&b, &taken);
    assert_int_equal(exports_check(&b), ERR_NONE);
    tpm_nv_define(&m, NV_INDEX, 8);
    take_over_by(&m, &ignored);
    client_restart(&b);
    client_serve(&b);
    startup(&b);
    tpm_nv_define(&m, NV_INDEX, 8);
    assert_int_equal(tpm_response_code(client_command(&b, &m)), 0x14c); /* TPM_RC_NV_DEFINED */
}

static void it_resumes_its_session_once_it_holds(void **state)
{
    (void)state;
    struct answer ignored;
    struct tpm_message m;
    exports_read(&a, &taken);
    exports_open_candidate(&a, &b);
    exports_give(&b, &taken);
    assert_int_equal(exports_check(&b), ERR_NONE);
    tpm_pcr_read(&m, PCR);
    take_over_by(&m, &ignored);
    client_resume(&b);
    extend(&b);
}

static void nothing_runs_before_an_export_was_checked(void **state)
{
    (void)state;
    static const enum k2_verb verbs[] = {K2_COMMAND,   K2_RESET,    K2_ESTABLISHED, K2_HASH_START,
                                         K2_POWER_OFF, K2_HASH_END, K2_EXPORT,      K2_STORE_VOLATILE};
    exports_read(&a, &taken);
    exports_open_candidate(&a, &b);
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
        (void)client_run(&b, verbs[i], span_empty());
        assert_int_equal(b.code, ERR_TPM_OFF);
    }
    assert_int_equal(client_stop(&b, INSTANCE_STOP_OFF), ERR_CALL_STATE);
}

static void the_established_flag_is_told_before_it_holds(void **state)
{
    (void)state;
    exports_read(&a, &taken);
    exports_open_candidate(&a, &b);
    exports_give(&b, &taken);
    assert_int_equal(exports_check(&b), ERR_NONE);
    assert_int_equal(client_run(&b, K2_ESTABLISHED, span_empty()).size, 1);
    assert_false(b.manager.redeems);
}

static void it_hands_on_what_it_has_not_redeemed(void **state)
{
    (void)state;
    struct bundle on;
    exports_read(&a, &taken);
    exports_open_candidate(&a, &b);
    exports_give(&b, &taken);
    assert_int_equal(exports_check(&b), ERR_NONE);
    exports_read(&b, &on);
    assert_int_equal(on.size, taken.size);
    assert_int_equal(on.permanent_size, taken.permanent_size);
    assert_memory_equal(on.bytes, taken.bytes, taken.size);
}

static void a_reset_of_the_machine_may_be_the_first_word(void **state)
{
    (void)state;
    struct fake_message message;
    exports_read(&a, &taken);
    exports_open_candidate(&a, &b);
    exports_give(&b, &taken);
    assert_int_equal(exports_check(&b), ERR_NONE);
    (void)client_run(&b, K2_POWER_OFF, span_empty());
    assert_int_equal(client_request(&b, K2_RESET, span_empty()), ERR_NONE);
    client_carry(&b);
    fake_manager_redeem(&b.manager, &message);
    assert_int_equal(client_tell(&b, &message), ERR_NONE);
    client_carry(&b);
    fake_manager_lease(&b.manager, &message);
    assert_int_equal(client_tell(&b, &message), ERR_NONE);
    client_carry(&b);
    client_anchor(&b);
    (void)client_response(&b);
    assert_int_equal(b.code, ERR_NONE);
    startup(&b);
}

static void the_manager_cannot_redeem_what_was_not_asked(void **state)
{
    (void)state;
    struct fake_message message;
    exports_read(&a, &taken);
    exports_open_candidate(&a, &b);
    exports_give(&b, &taken);
    assert_int_equal(exports_check(&b), ERR_NONE);
    b.manager.redeems = true;
    fake_manager_redeem(&b.manager, &message);
    assert_int_equal(client_tell(&b, &message), ERR_LINK_ORDER);
}

/* --- what a chipset does, and what a TPM says of itself --- */

static void a_hash_before_startup_measures_the_crtm(void **state)
{
    (void)state;
    struct tpm_message m;
    static const uint8_t data[] = "the first code that runs";
    (void)client_run(&a, K2_RESET, span_empty());
    (void)client_run(&a, K2_HASH_START, span_empty());
    (void)client_run(&a, K2_HASH_DATA, span_of(data, sizeof data));
    (void)client_run(&a, K2_HASH_END, span_empty());
    assert_int_equal(a.code, ERR_NONE);
    startup(&a);
    tpm_pcr_read(&m, 0);
    struct span response = client_command(&a, &m);
    static const uint8_t zeros[32];
    assert_int_equal(tpm_response_code(response), 0);
    assert_memory_not_equal(response.data + response.size - sizeof zeros, zeros, sizeof zeros);
}

static void the_buffer_size_is_what_the_tpm_says(void **state)
{
    (void)state;
    uint8_t bytes[4];
    struct tpm_message m;
    (void)client_run(&a, K2_BUFFER_SIZE, u32_of(3968, bytes));
    assert_int_equal(a.code, ERR_VERB_STATE); /* it is on */
    (void)client_run(&a, K2_POWER_OFF, span_empty());
    struct span answer = client_run(&a, K2_BUFFER_SIZE, u32_of(3968, bytes));
    static const uint8_t expected[] = {0x80, 0x0f, 0, 0, 0xf8, 0x0a, 0, 0, 0, 0x10, 0, 0};
    assert_int_equal(answer.size, sizeof expected);
    assert_memory_equal(answer.data, expected, sizeof expected);
    (void)client_run(&a, K2_RESET, span_empty());
    startup(&a);
    tpm_get_property(&m, TPM_PT_MAX_COMMAND_SIZE);
    struct span response = client_command(&a, &m);
    static const uint8_t value[] = {0, 0, 0x0f, 0x80};
    assert_memory_equal(response.data + response.size - sizeof value, value, sizeof value);
}

static void it_describes_itself(void **state)
{
    (void)state;
    uint8_t bytes[4];
    static const char expected[] = "{\"TPMSpecification\":{\"family\":\"2.0\",\"level\":0,\"revision\":164}}";
    struct span text = client_run(&a, K2_INFO, u32_of(INFO_SPECIFICATION, bytes));
    assert_int_equal(text.size, sizeof expected);
    assert_memory_equal(text.data, expected, text.size);
}

static void what_is_to_be_kept_survives_the_orderly_end(void **state)
{
    (void)state;
    struct answer before, after;
    read_pcr(&a, &before);
    (void)client_run(&a, K2_STORE_VOLATILE, span_empty());
    (void)client_run(&a, K2_POWER_OFF, span_empty());
    assert_int_equal(client_stop(&a, INSTANCE_STOP_OFF), ERR_NONE);
    client_carry(&a);
    client_anchor(&a);
    assert_int_equal(a.result.receipt.size, PEER_RECEIPT_SIZE);
    client_restart(&a);
    client_serve(&a);
    read_pcr(&a, &after);
    assert_same(&before, &after);
}

static void and_a_reset_goes_on_with_it(void **state)
{
    (void)state;
    struct answer before, after;
    read_pcr(&a, &before);
    (void)client_run(&a, K2_STORE_VOLATILE, span_empty());
    (void)client_run(&a, K2_POWER_OFF, span_empty());
    (void)client_run(&a, K2_RESET, span_empty());
    read_pcr(&a, &after);
    assert_same(&before, &after);
}

static void a_command_after_it_ends_that(void **state)
{
    (void)state;
    struct tpm_message m;
    (void)client_run(&a, K2_STORE_VOLATILE, span_empty());
    extend(&a);
    (void)client_run(&a, K2_RESET, span_empty());
    tpm_pcr_read(&m, PCR);
    assert_int_equal(tpm_response_code(client_command(&a, &m)), TPM_RC_INITIALIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_export_is_the_state_that_was_committed_with_it, begin, finish),
        cmocka_unit_test_setup_teardown(nothing_of_it_is_in_the_clear, begin, finish),
        cmocka_unit_test_setup_teardown(a_tpm_that_is_off_exports_nothing, begin, finish),
        cmocka_unit_test_setup_teardown(reading_behind_the_end_is_refused, begin, finish),
        cmocka_unit_test_setup_teardown(the_first_command_after_it_commits, begin, finish),
        cmocka_unit_test_setup_teardown(every_request_that_decides_takes_back, begin, finish),
        cmocka_unit_test_setup_teardown(asking_does_not_take_back, begin, finish),
        cmocka_unit_test_setup_teardown(power_off_and_stop_leave_the_export_open, begin, finish),
        cmocka_unit_test_setup_teardown(a_reset_after_power_off_takes_back, begin, finish),
        cmocka_unit_test_setup_teardown(a_snapshot_that_was_not_left_is_gone_back_to, begin, finish),
        cmocka_unit_test_setup_teardown(a_snapshot_that_was_left_is_refused_and_the_tpm_goes_on, begin, finish),
        cmocka_unit_test_setup_teardown(what_a_start_left_is_gone_on_from_by_the_next_one, begin, finish),
        cmocka_unit_test_setup_teardown(a_start_that_was_called_off_leaves_it_to_the_next_one, begin, finish),
        cmocka_unit_test_setup_teardown(a_start_that_went_on_by_itself_does_not_go_back, begin, finish),
        cmocka_unit_test_setup_teardown(a_snapshot_that_was_left_is_loaded_again_and_again, begin_allowed, finish),
        cmocka_unit_test_setup_teardown(what_follows_a_load_is_a_commit_as_any, begin_allowed, finish),
        cmocka_unit_test_setup_teardown(what_was_not_left_is_no_load_there_either, begin_allowed, finish),
        cmocka_unit_test_setup_teardown(one_of_an_earlier_start_and_epoch_is_loaded, begin_allowed, finish),
        cmocka_unit_test_setup_teardown(one_of_another_manager_image_is_loaded, begin_allowed, finish),
        cmocka_unit_test_setup_teardown(one_that_has_taken_over_loads_what_the_other_one_exported, begin_allowed,
                                        finish),
        cmocka_unit_test_setup_teardown(a_load_is_said_again_when_the_session_was_cut, begin_allowed, finish),
        cmocka_unit_test_setup_teardown(what_was_loaded_opens_at_the_next_start, begin_allowed, finish),
        cmocka_unit_test_setup_teardown(another_enclave_goes_on_where_this_one_stopped, begin, finish),
        cmocka_unit_test_setup_teardown(what_it_took_over_opens_at_its_next_start, begin, finish),
        cmocka_unit_test_setup_teardown(it_resumes_its_session_once_it_holds, begin, finish),
        cmocka_unit_test_setup_teardown(nothing_runs_before_an_export_was_checked, begin, finish),
        cmocka_unit_test_setup_teardown(the_established_flag_is_told_before_it_holds, begin, finish),
        cmocka_unit_test_setup_teardown(it_hands_on_what_it_has_not_redeemed, begin, finish),
        cmocka_unit_test_setup_teardown(a_reset_of_the_machine_may_be_the_first_word, begin, finish),
        cmocka_unit_test_setup_teardown(the_manager_cannot_redeem_what_was_not_asked, begin, finish),
        cmocka_unit_test_setup_teardown(a_hash_before_startup_measures_the_crtm, begin, finish),
        cmocka_unit_test_setup_teardown(the_buffer_size_is_what_the_tpm_says, begin, finish),
        cmocka_unit_test_setup_teardown(it_describes_itself, begin, finish),
        cmocka_unit_test_setup_teardown(what_is_to_be_kept_survives_the_orderly_end, begin, finish),
        cmocka_unit_test_setup_teardown(and_a_reset_goes_on_with_it, begin, finish),
        cmocka_unit_test_setup_teardown(a_command_after_it_ends_that, begin, finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
