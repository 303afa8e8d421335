#include "tests/fakes/assertions.h"

#include <string.h>

#include "tests/fakes/failing_tpm.h"
#include "tests/fakes/instance_client.h"
#include "tests/fakes/runtime.h"
#include "trusted/state/blob.h"
#include "trusted/tpm/floors.h"

#define NV_INDEX            0x01800001u
#define PERSISTENT          0x81000001u
#define NS_PER_S            UINT64_C(1000000000)
#define TPM_RC_INITIALIZE   0x100u
#define TPM_RC_FAILURE      0x101u
#define TPM_RC_RETRY        0x922u
#define COUNTER             0x02020012u /* OWNERWRITE, OWNERREAD, NO_DA, TPM_NT_COUNTER */
#define GUARDED             0x00040006u

/* in PROVISION */
#define PROVISION_SUSPENDED 176u
#define PROVISION_FLOORS    (PROVISION_SUSPENDED + SHA256_SIZE)

static struct client c;
static struct fake_message message;

static int begin(void **state)
{
    (void)state;
    fake_runtime_reset();
    client_open(&c);
    return 0;
}

static int finish(void **state)
{
    (void)state;
    client_close(&c);
    return 0;
}

static struct span run(const struct tpm_message *m)
{
    struct span response = client_command(&c, m);
    assert_int_equal(c.code, ERR_NONE);
    return response;
}

static struct span run_ok(const struct tpm_message *m)
{
    struct span response = run(m);
    assert_int_equal(tpm_response_code(response), 0);
    return response;
}

static void startup(void)
{
    struct tpm_message m;
    tpm_startup(&m, TPM_SU_CLEAR);
    run_ok(&m);
}

static void serve(void)
{
    client_serve(&c);
    startup();
}

/* Ends the enclave's life and opens what is stored in a new one. */
static void reopen(void)
{
    client_restart(&c);
    client_serve(&c);
}

/* A command whose commit is under way and not recorded. */
static void begin_commit(void)
{
    struct tpm_message m;
    tpm_nv_define(&m, NV_INDEX, 16);
    assert_int_equal(client_request(&c, K2_COMMAND, tpm_message_span(&m)), ERR_NONE);
    assert_non_null(c.result.store.data);
    assert_int_equal(c.result.peer_count, 1);
    client_carry(&c);
    assert_true(c.manager.commits);
}

static uint16_t get_random(void)
{
    struct tpm_message m;
    tpm_get_random(&m, 8);
    return client_request(&c, K2_COMMAND, tpm_message_span(&m));
}

static uint16_t call(uint32_t number)
{
    return client_call(&c, number, span_empty());
}

static bool has_no_effect(void)
{
    const struct enclave_result *r = &c.result;
    return !r->peer_count && !r->record.data && !r->store.data && !r->receipt.data && !r->health.data;
}

static uint64_t tpm_clock(uint64_t host_time)
{
    struct tpm_message m;
    tpm_read_clock(&m);
    c.host_time = host_time;
    struct span parameters = tpm_response_parameters(run_ok(&m), 0);
    uint64_t clock = 0;
    for (size_t i = 0; i < 8; i++)
        clock = clock << 8 | parameters.data[8 + i];
    return clock;
}

/* --- the way to a running TPM --- */

static void a_blank_enclave_knows_only_start(void **state)
{
    (void)state;
    const uint32_t others[] = {INSTANCE_PEER, INSTANCE_LOAD, INSTANCE_RECORD, INSTANCE_STOP, INSTANCE_RESUME};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        assert_int_equal(call(others[i]), ERR_CALL_STATE);
    assert_int_equal(call(77), ERR_CALL_UNKNOWN);
    client_serve(&c);
}

static void start_with_a_bad_body_leaves_the_enclave_blank(void **state)
{
    (void)state;
    static uint8_t body[INSTANCE_START_SIZE + 1];
    assert_int_equal(client_call(&c, INSTANCE_START, span_of(body, sizeof body)), ERR_TOO_LARGE);
    assert_int_equal(client_call(&c, INSTANCE_START, span_of(body, sizeof body - 2)), ERR_TRUNCATED);
    client_serve(&c);
}

static void there_is_no_second_start(void **state)
{
    (void)state;
    client_serve(&c);
    assert_int_equal(client_start(&c), ERR_CALL_STATE);
}

static void each_enclave_has_a_holder_key_of_its_own(void **state)
{
    (void)state;
    uint8_t first[ED25519_PUBLIC_SIZE];
    client_admit(&c);
    memcpy(first, c.manager.known.holder, sizeof first);
    client_restart(&c);
    client_admit(&c);
    assert_memory_not_equal(first, c.manager.known.holder, sizeof first);
}

static void a_challenge_about_another_instance_is_refused(void **state)
{
    (void)state;
    assert_int_equal(client_start(&c), ERR_NONE);
    c.manager.known.instance.bytes[0] ^= 1;
    fake_manager_challenge(&c.manager, &message);
    assert_int_equal(client_tell(&c, &message), ERR_STATE_OTHER_INSTANCE);
    c.manager.known.instance.bytes[0] ^= 1;
    fake_manager_challenge(&c.manager, &message);
    assert_int_equal(client_tell(&c, &message), ERR_NONE);
}

/* Anything in ADMIT's place: the exchange is over, and a new CHALLENGE begins another. */
static void a_failed_admission_ends_the_exchange(void **state)
{
    (void)state;
    struct fake_message admit;
    assert_int_equal(client_start(&c), ERR_NONE);
    fake_manager_challenge(&c.manager, &message);
    assert_int_equal(client_tell(&c, &message), ERR_NONE);
    fake_manager_admit(&c.manager, c.result.peer[0], &admit);
    admit.bytes[admit.size - 1] ^= 1; /* of the REPORT's MAC */
    assert_int_equal(client_tell(&c, &admit), ERR_PEER_REPORT);
    admit.bytes[admit.size - 1] ^= 1;
    assert_int_not_equal(client_tell(&c, &admit), ERR_NONE);
    fake_manager_challenge(&c.manager, &message);
    assert_int_equal(client_tell(&c, &message), ERR_NONE);
}

static uint16_t provision_with(size_t offset, uint8_t change)
{
    uint8_t fields[PEER_PROVISION_SIZE];
    client_restart(&c);
    client_admit(&c);
    fake_manager_provision_fields(&c.manager, fields);
    fields[offset] ^= change;
    fake_manager_say(&c.manager, PEER_PROVISION, span_of(fields, sizeof fields), &message);
    return client_tell(&c, &message);
}

static void a_malformed_provision_is_not_accepted(void **state)
{
    (void)state;
    assert_int_equal(provision_with(0, 1), ERR_STATE_OTHER_INSTANCE);
    assert_int_equal(provision_with(24, 1), ERR_BAD_VALUE);                 /* another start than was proven */
    assert_int_equal(provision_with(32, PEER_MODE_NEW ^ 0), ERR_BAD_VALUE); /* no mode */
    assert_int_equal(provision_with(32, PEER_MODE_NEW ^ (PEER_MODE_INCOMING + 1)), ERR_BAD_VALUE);
    assert_int_equal(provision_with(32, PEER_MODE_NEW ^ PEER_MODE_OPEN), ERR_BAD_VALUE); /* to open what never was */
    assert_int_equal(provision_with(33, LINK_K2_NAMED ^ LINK_K1), ERR_BAD_VALUE);
    assert_int_equal(provision_with(32, PEER_MODE_NEW ^ PEER_MODE_REVERTED), ERR_BAD_VALUE);
    assert_int_equal(provision_with(34, PEER_LOCKOUT_TIME ^ 0), ERR_BAD_VALUE); /* what heals lockout */
    assert_int_equal(provision_with(34, PEER_LOCKOUT_TIME ^ (PEER_LOCKOUT_NEVER + 1)), ERR_BAD_VALUE);
    assert_int_equal(provision_with(35, PEER_FAMILY_12 + 1), ERR_BAD_VALUE); /* no family */
    assert_int_equal(provision_with(36, PEER_SNAPSHOTS_ALLOWED + 1), ERR_BAD_VALUE);
    for (size_t i = 37; i < 40; i++)
        assert_int_equal(provision_with(i, 1), ERR_BAD_VALUE); /* padding */
    assert_int_equal(provision_with(136, 1), ERR_BAD_VALUE);   /* a version of what never was */
    assert_int_equal(provision_with(PROVISION_SUSPENDED + 31, 1), ERR_BAD_VALUE);
    assert_int_equal(provision_with(PROVISION_FLOORS + PEER_FLOORS_SIZE - 1, 1), ERR_BAD_VALUE);
    assert_int_equal(call(INSTANCE_LOAD), ERR_CALL_STATE);
    fake_manager_challenge(&c.manager, &message);
    assert_int_equal(client_tell(&c, &message), ERR_NONE);
}

/* What was suspended is told to resume and for nothing else, and floors with an older state and nothing else. */
static void a_provision_tells_what_its_mode_needs(void **state)
{
    (void)state;
    client_serve(&c);
    assert_int_equal(provision_with(32, PEER_MODE_OPEN ^ PEER_MODE_NEW), ERR_BAD_VALUE);
    assert_int_equal(provision_with(32, PEER_MODE_OPEN ^ PEER_MODE_IMPORT), ERR_BAD_VALUE);
    assert_int_equal(provision_with(32, PEER_MODE_OPEN ^ PEER_MODE_RESUME), ERR_BAD_VALUE);
    assert_int_equal(provision_with(PROVISION_SUSPENDED, 1), ERR_BAD_VALUE);
    assert_int_equal(provision_with(PROVISION_FLOORS, 1), ERR_BAD_VALUE);
    fake_manager_revert(&c.manager, &(struct fake_state){0});
    assert_int_equal(provision_with(PROVISION_SUSPENDED, 1), ERR_BAD_VALUE);
    assert_int_equal(provision_with(PROVISION_FLOORS + PEER_FLOORS_SIZE - 1, 2), ERR_BAD_VALUE); /* no truth value */
    assert_int_equal(provision_with(PROVISION_FLOORS, 1), ERR_NONE);
}

static void a_front_end_of_small_order_is_not_accepted(void **state)
{
    (void)state;
    client_admit(&c);
    memset(c.manager.front_share, 0, X25519_SIZE);
    fake_manager_provision(&c.manager, &message);
    assert_int_equal(client_tell(&c, &message), ERR_AUTHENTICATION);
    assert_int_equal(call(INSTANCE_LOAD), ERR_CALL_STATE);
}

static void another_word_than_provision_is_not_accepted(void **state)
{
    (void)state;
    client_admit(&c);
    fake_manager_say(&c.manager, PEER_LEASE, span_of("12345678", 8), &message);
    assert_int_equal(client_tell(&c, &message), ERR_LINK_ORDER);
    assert_int_equal(call(INSTANCE_LOAD), ERR_CALL_STATE);
}

static void a_provision_is_accepted_once(void **state)
{
    (void)state;
    struct fake_message again;
    client_provision(&c);
    fake_manager_provision(&c.manager, &again);
    assert_int_equal(client_tell(&c, &again), ERR_CALL_STATE);
    assert_int_equal(client_load(&c, &c.stored), ERR_NONE);
    client_carry(&c);
    assert_int_equal(client_tell(&c, &again), ERR_LINK_ORDER);
    client_anchor(&c);
    client_carry(&c);
    assert_true(c.manager.ready);
    fake_manager_challenge(&c.manager, &message);
    assert_int_not_equal(client_tell(&c, &message), ERR_NONE);
    assert_true(has_no_effect());
}

static void a_new_tpm_is_recorded_before_it_is_ready(void **state)
{
    (void)state;
    client_provision(&c);
    assert_int_equal(client_load(&c, &c.stored), ERR_NONE);
    assert_non_null(c.result.store.data);
    assert_int_equal(c.given.version, 1);
    client_carry(&c);
    assert_true(c.manager.commits);
    assert_false(c.manager.ready);
    assert_int_equal(call(INSTANCE_RESUME), ERR_CALL_STATE);
    client_anchor(&c);
    client_carry(&c);
    assert_true(c.manager.ready);
}

static void a_stored_state_is_ready_at_once(void **state)
{
    (void)state;
    client_serve(&c);
    client_restart(&c);
    client_provision(&c);
    assert_int_equal(client_load(&c, &c.stored), ERR_NONE);
    assert_null(c.result.store.data);
    client_carry(&c);
    assert_true(c.manager.ready);
}

static void the_commit_names_the_very_bytes(void **state)
{
    (void)state;
    uint8_t digest[SHA256_SIZE];
    serve();
    begin_commit();
    struct span blob = span_of(c.given.blob, c.given.size);
    assert_ok(hash_sha256(fake_crypto(), &blob, 1, digest));
    assert_memory_equal(c.manager.commit.digest, digest, sizeof digest);
    assert_int_equal(c.manager.commit.version, c.given.version);
}

/* Nobody but who knows the root key reads the state, and its header says what the manager told. */
static void a_state_is_sealed_under_the_manager_that_provisioned(void **state)
{
    (void)state;
    uint8_t root[BLOB_ROOT_SIZE];
    struct blob opened;
    c.manager.known.epoch = 5;
    client_serve(&c);
    struct span blob = span_of(c.stored.blob, c.stored.size);
    assert_ok(blob_state_root(fake_crypto(), c.manager.root_key, c.manager.MRENCLAVE, root));
    assert_ok(blob_open(fake_crypto(), span_of(root, sizeof root), blob, BLOB_STATE, &opened));
    assert_memory_equal(&opened.header.id, &c.manager.known.instance, INSTANCE_ID_SIZE);
    assert_int_equal(opened.header.epoch, 5);
    assert_int_equal(opened.header.version, 1);
    assert_memory_equal(opened.header.manager, c.manager.MRENCLAVE, SGX_HASH_SIZE);
    blob_free(&opened);
}

/* After an upgrade the state names the old manager, and what is sealed next the new one. */
static void another_manager_opens_what_the_one_before_had_sealed(void **state)
{
    (void)state;
    struct tpm_message m;
    struct blob_header header;
    serve();
    tpm_nv_define(&m, NV_INDEX, 16);
    run_ok(&m);
    c.manager.MRENCLAVE[0] ^= 1;
    reopen();
    startup();
    tpm_nv_write(&m, NV_INDEX, span_of("sixteen bytes...", 16));
    run_ok(&m);
    assert_ok(blob_peek(span_of(c.stored.blob, c.stored.size), BLOB_STATE, &header));
    assert_memory_equal(header.manager, c.manager.MRENCLAVE, SGX_HASH_SIZE);
}

/* S3 */
static void a_missing_state_is_not_made_up_for(void **state)
{
    (void)state;
    static const struct stored_state nothing;
    serve();
    client_restart(&c);
    client_provision(&c);
    assert_int_equal(client_load(&c, &nothing), ERR_STATE_MISSING);
    assert_true(has_no_effect());
    assert_int_equal(client_load(&c, &c.stored), ERR_NONE);
    client_carry(&c);
    assert_true(c.manager.ready);
}

static void a_new_tpm_takes_no_state(void **state)
{
    (void)state;
    client_provision(&c);
    c.stored.size = 1;
    assert_int_equal(client_load(&c, &c.stored), ERR_BAD_VALUE);
    c.stored.size = 0;
    assert_int_equal(client_load(&c, &c.stored), ERR_NONE);
}

static void a_refused_state_leaves_room_for_the_right_one(void **state)
{
    (void)state;
    serve();
    client_restart(&c);
    client_provision(&c);
    c.stored.blob[c.stored.size - 1] ^= 1;
    assert_int_equal(client_load(&c, &c.stored), ERR_STATE_ALTERED);
    assert_true(has_no_effect());
    c.stored.blob[c.stored.size - 1] ^= 1;
    assert_int_equal(client_load(&c, &c.stored), ERR_NONE);
    client_carry(&c);
    client_link(&c);
    startup();
}

static void a_running_tpm_takes_no_second_state(void **state)
{
    (void)state;
    serve();
    assert_int_equal(client_load(&c, &c.stored), ERR_CALL_STATE);
    assert_int_equal(get_random(), ERR_NONE);
    client_response(&c);
    assert_int_equal(c.code, ERR_NONE);
}

/* --- commits --- */

static void a_response_waits_for_its_anchor(void **state)
{
    (void)state;
    serve();
    uint64_t version = c.stored.version;
    begin_commit();
    assert_null(c.result.record.data);
    assert_int_equal(c.given.version, version + 1);
    client_anchor(&c);
    assert_int_equal(tpm_response_code(client_response(&c)), 0);
}

static uint16_t tell_anchored(uint64_t version, const uint8_t digest[SHA256_SIZE])
{
    uint8_t fields[8 + SHA256_SIZE];
    struct writer w = writer_of(fields, sizeof fields);
    assert_ok(write_u64(&w, version));
    assert_ok(write_bytes(&w, digest, SHA256_SIZE));
    fake_manager_say(&c.manager, PEER_ANCHORED, writer_span(&w), &message);
    return client_tell(&c, &message);
}

static void only_the_very_state_releases_the_response(void **state)
{
    (void)state;
    serve();
    begin_commit();
    struct fake_state *commit = &c.manager.commit;
    const uint64_t wrong[] = {0, commit->version - 1, commit->version + 1, UINT64_MAX};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(tell_anchored(wrong[i], commit->digest), ERR_BAD_VALUE);
        assert_true(has_no_effect());
    }
    for (size_t i = 0; i < SHA256_SIZE; i++) {
        commit->digest[i] ^= 0x80;
        assert_int_equal(tell_anchored(commit->version, commit->digest), ERR_BAD_VALUE);
        assert_true(has_no_effect());
        commit->digest[i] ^= 0x80;
    }
    client_anchor(&c);
    assert_int_equal(tpm_response_code(client_response(&c)), 0);
}

/* What a host can make up: nothing, noise, and the anchor of the commit before. */
static void the_hosts_own_word_releases_nothing(void **state)
{
    (void)state;
    struct fake_message before;
    struct tpm_message m;
    serve();
    begin_commit();
    fake_manager_anchor(&c.manager, &before);
    assert_int_equal(client_tell(&c, &before), ERR_NONE);
    client_response(&c);
    tpm_nv_write(&m, NV_INDEX, span_of("sixteen bytes...", 16));
    assert_int_equal(client_request(&c, K2_COMMAND, tpm_message_span(&m)), ERR_NONE);
    assert_non_null(c.result.store.data);
    assert_int_equal(client_call(&c, INSTANCE_PEER, span_empty()), ERR_TRUNCATED);
    assert_int_equal(client_tell(&c, &before), ERR_LINK_RECORD);
    assert_true(has_no_effect());
    assert_int_equal(get_random(), ERR_CALL_BUSY);
}

static void an_anchor_is_told_once(void **state)
{
    (void)state;
    serve();
    begin_commit();
    client_anchor(&c);
    client_response(&c);
    assert_int_equal(tell_anchored(c.stored.version, c.manager.recorded.digest), ERR_NONE);
    assert_true(has_no_effect());
}

static void everything_else_waits_for_the_anchor(void **state)
{
    (void)state;
    struct tpm_message m;
    serve();
    begin_commit();
    tpm_get_random(&m, 8);
    struct span request = client_seal(&c, K2_COMMAND, 0, tpm_message_span(&m));
    assert_int_equal(client_call(&c, INSTANCE_RECORD, request), ERR_CALL_BUSY);
    assert_int_equal(client_stop(&c, INSTANCE_STOP_OFF), ERR_CALL_BUSY);
    assert_int_equal(call(INSTANCE_LOAD), ERR_CALL_BUSY);
    assert_int_equal(client_start(&c), ERR_CALL_BUSY);
    client_anchor(&c);
    assert_int_equal(tpm_response_code(client_response(&c)), 0);
    /* The record was not consumed. */
    assert_int_equal(client_call(&c, INSTANCE_RECORD, span_of(c.record, request.size)), ERR_NONE);
    assert_int_equal(tpm_response_code(client_response(&c)), 0);
}

static void a_command_that_commits_nothing_is_answered_at_once(void **state)
{
    (void)state;
    serve();
    assert_int_equal(get_random(), ERR_NONE);
    assert_null(c.result.store.data);
    assert_int_equal(c.result.peer_count, 0);
    assert_int_equal(client_response(&c).size, 20);
}

static void an_unanchored_commit_is_gone_with_its_enclave(void **state)
{
    (void)state;
    struct tpm_message m;
    serve();
    begin_commit();
    reopen();
    startup();
    tpm_nv_read(&m, NV_INDEX, 16);
    assert_int_not_equal(tpm_response_code(run(&m)), 0);
}

static void the_tpm_goes_on_in_a_later_life(void **state)
{
    (void)state;
    struct tpm_message m;
    serve();
    tpm_nv_define(&m, NV_INDEX, 16);
    run_ok(&m);
    tpm_nv_write(&m, NV_INDEX, span_of("sixteen bytes...", 16));
    run_ok(&m);
    tpm_create_primary_ecc(&m, TPM_RH_OWNER, TPM_ECC_NIST_P256, TPM_KEY_SIGN);
    uint32_t handle = tpm_response_handle(run_ok(&m));
    tpm_evict_control(&m, handle, PERSISTENT);
    run_ok(&m);
    uint64_t version = c.stored.version;

    reopen();
    startup();
    tpm_nv_read(&m, NV_INDEX, 16);
    struct span parameters = tpm_response_parameters(run_ok(&m), 0);
    assert_memory_equal(tpm_take_2b(&parameters).data, "sixteen bytes...", 16);
    tpm_read_public(&m, PERSISTENT);
    run_ok(&m);
    assert_int_equal(c.stored.version, version + 1); /* Startup after no Shutdown */
}

/* A failed try counts although the command failed: the count is recorded before the refusal is told. */
static void a_failed_authorisation_is_recorded_before_it_is_told(void **state)
{
    (void)state;
    struct tpm_message m;
    serve();
    tpm_clear_lockout(&m, "wrong");
    assert_int_equal(client_request(&c, K2_COMMAND, tpm_message_span(&m)), ERR_NONE);
    assert_null(c.result.record.data);
    client_carry(&c);
    fake_manager_anchor(&c.manager, &message);
    c.stored = c.given;
    reopen(); /* killed before the answer */
    startup();
    tpm_clear_lockout(&m, "");
    assert_int_not_equal(tpm_response_code(run(&m)), 0);
}

/* S4 */
static void time_goes_on_from_the_highest_that_was_sealed(void **state)
{
    (void)state;
    c.host_time = 1000 * NS_PER_S;
    serve();
    uint64_t before = tpm_clock(4000 * NS_PER_S);
    assert_in_range(before, 2999000, 3001000);
    client_run(&c, K2_POWER_OFF, span_empty());
    c.host_time = NS_PER_S; /* the host's clock was put back by more than an hour */
    reopen();
    startup();
    assert_true(tpm_clock(2 * NS_PER_S) >= before);
    uint64_t later = tpm_clock(4060 * NS_PER_S); /* 60 s after the sealed time */
    assert_in_range(later - before, 59000, 61000);
}

/* --- K2 --- */

static void a_record_before_finish_closes_the_link(void **state)
{
    (void)state;
    uint8_t forged[RECORD_OVERHEAD + 4] = {RECORD_DATA, [4] = 4};
    client_serve(&c);
    assert_int_equal(client_call(&c, INSTANCE_RECORD, span_of(forged, sizeof forged)), ERR_LINK_RECORD);
    assert_int_equal(get_random(), ERR_LINK_CLOSED);
}

static void a_second_finish_closes_the_link(void **state)
{
    (void)state;
    serve();
    c.link.finish_sent = false;
    struct writer w = writer_of(c.record, sizeof c.record);
    assert_ok(link_finish(&c.link, &w));
    assert_int_equal(client_call(&c, INSTANCE_RECORD, writer_span(&w)), ERR_LINK_ORDER);
    assert_int_equal(get_random(), ERR_LINK_CLOSED);
}

static void a_replayed_request_closes_the_link(void **state)
{
    (void)state;
    struct tpm_message m;
    serve();
    tpm_get_random(&m, 8);
    struct span request = client_seal(&c, K2_COMMAND, 0, tpm_message_span(&m));
    assert_int_equal(client_call(&c, INSTANCE_RECORD, request), ERR_NONE);
    assert_int_equal(client_call(&c, INSTANCE_RECORD, span_of(c.record, request.size)), ERR_LINK_RECORD);
    assert_int_equal(get_random(), ERR_LINK_CLOSED);
}

static void after_a_closed_link_the_tpm_can_still_be_stopped(void **state)
{
    (void)state;
    serve();
    assert_int_equal(client_call(&c, INSTANCE_RECORD, span_of("x", 1)), ERR_LINK_RECORD);
    assert_int_equal(client_stop(&c, INSTANCE_STOP_OFF), ERR_NONE);
    client_carry(&c);
    client_anchor(&c);
    assert_int_equal(c.result.receipt.size, PEER_RECEIPT_SIZE);
    assert_null(c.result.record.data);
}

static void the_end_of_the_link_is_answered(void **state)
{
    (void)state;
    enum link_event event;
    size_t size = 0;
    serve();
    struct writer w = writer_of(c.record, sizeof c.record);
    assert_ok(link_send_final(&c.link, &w));
    assert_int_equal(client_call(&c, INSTANCE_RECORD, writer_span(&w)), ERR_NONE);
    assert_ok(link_receive(&c.link, c.result.record, &event, c.response, &size));
    assert_int_equal(event, LINK_ENDED);
    assert_int_equal(client_call(&c, INSTANCE_RECORD, writer_span(&w)), ERR_LINK_CLOSED);
}

static void an_enrolled_front_end_links(void **state)
{
    (void)state;
    c.manager.link_kind = LINK_K2_ENROLLED;
    serve();
}

static void without_the_enrolled_key_there_is_no_link(void **state)
{
    (void)state;
    c.manager.link_kind = LINK_K2_ENROLLED;
    client_serve(&c);
    client_restart(&c);
    client_provision(&c);
    assert_int_equal(client_load(&c, &c.stored), ERR_NONE);
    client_carry(&c);
    const struct link_binding binding = {
        .kind = LINK_K2_ENROLLED, .instance = c.manager.known.instance, .start = c.manager.known.start};
    const struct link_keys keys = {
        .own = &c.key, .peer = c.manager.instance_share, .enrolled = c.key.private /* not the one */};
    struct writer w = writer_of(c.record, sizeof c.record);
    assert_ok(link_open(fake_crypto(), LINK_HOST, &binding, &keys, &c.link));
    assert_ok(link_finish(&c.link, &w));
    assert_int_equal(client_call(&c, INSTANCE_RECORD, writer_span(&w)), ERR_LINK_RECORD);
}

static uint16_t code_of_message(const uint8_t *bytes, size_t size)
{
    struct writer w = writer_of(c.record, sizeof c.record);
    assert_ok(link_send(&c.link, span_of(bytes, size), &w));
    assert_int_equal(client_call(&c, INSTANCE_RECORD, writer_span(&w)), ERR_NONE);
    client_response(&c);
    return c.code;
}

static void a_chipset_asks_for_tpm_establishment(void **state)
{
    (void)state;
    serve();
    assert_int_equal(code_of_message((const uint8_t[]){K2_ESTABLISHED, 0, 0, 0}, 4), ERR_NONE);
    assert_int_equal(c.response[4], 0); /* there was no dynamic launch */
    for (uint8_t locality = 0; locality <= 4; locality++)
        assert_int_equal(code_of_message((const uint8_t[]){K2_RESET_ESTABLISHED, locality, 0, 0}, 4),
                         locality < 3 ? ERR_BAD_VALUE : ERR_NONE);
    (void)client_run(&c, K2_POWER_OFF, span_empty());
    assert_int_equal(code_of_message((const uint8_t[]){K2_ESTABLISHED, 0, 0, 0}, 4), ERR_TPM_OFF);
    assert_int_equal(code_of_message((const uint8_t[]){K2_RESET_ESTABLISHED, 3, 0, 0}, 4), ERR_TPM_OFF);
}

static void a_malformed_request_is_answered_and_not_run(void **state)
{
    (void)state;
    serve();
    assert_int_equal(code_of_message((const uint8_t *)"", 0), ERR_TRUNCATED);
    assert_int_equal(code_of_message((const uint8_t[]){K2_COMMAND, 0, 0}, 3), ERR_TRUNCATED);
    assert_int_equal(code_of_message((const uint8_t[]){0, 0, 0, 0}, 4), ERR_BAD_VALUE);
    assert_int_equal(code_of_message((const uint8_t[]){K2_VERB_MAX + 1, 0, 0, 0}, 4), ERR_BAD_VALUE);
    assert_int_equal(code_of_message((const uint8_t[]){K2_COMMAND, 5, 0, 0, 0x80, 1}, 6), ERR_BAD_VALUE);
    assert_int_equal(code_of_message((const uint8_t[]){K2_COMMAND, 0, 1, 0, 0x80, 1}, 6), ERR_BAD_VALUE);
    assert_int_equal(code_of_message((const uint8_t[]){K2_RESET, 0, 0, 0, 1}, 5), ERR_TRAILING);
    assert_int_equal(code_of_message((const uint8_t[]){K2_POWER_OFF, 0, 0, 0, 1}, 5), ERR_TRAILING);
    assert_int_equal(code_of_message((const uint8_t[]){K2_ESTABLISHED, 0, 0, 0, 1}, 5), ERR_TRAILING);
    assert_int_equal(code_of_message((const uint8_t[]){K2_RESET_ESTABLISHED, 3, 0, 0, 1}, 5), ERR_TRAILING);
    assert_int_equal(get_random(), ERR_NONE);
    assert_int_equal(tpm_response_code(client_response(&c)), 0);
}

static void a_record_above_the_limit_is_refused_and_not_consumed(void **state)
{
    (void)state;
    static uint8_t large[RECORD_OVERHEAD + K2_MESSAGE_MAX + 1];
    serve();
    assert_int_equal(client_call(&c, INSTANCE_RECORD, span_of(large, sizeof large)), ERR_TOO_LARGE);
    assert_int_equal(get_random(), ERR_NONE);
}

static void the_largest_command_reaches_the_tpm(void **state)
{
    (void)state;
    static uint8_t command[TPM_BUFFER_MAX] = {0x80, 1, 0, 0, 0x10, 0, 0, 0, 1, 0x7b};
    serve();
    assert_int_equal(client_request(&c, K2_COMMAND, span_of(command, sizeof command)), ERR_NONE);
    assert_int_not_equal(tpm_response_code(client_response(&c)), 0);
    assert_int_equal(c.code, ERR_NONE);
}

static void off_saves_and_reset_powers_on_again(void **state)
{
    (void)state;
    struct tpm_message m;
    serve();
    uint64_t version = c.stored.version;
    client_run(&c, K2_POWER_OFF, span_empty());
    assert_int_equal(c.code, ERR_NONE);
    assert_int_equal(c.stored.version, version + 1);
    assert_int_equal(get_random(), ERR_NONE);
    client_response(&c);
    assert_int_equal(c.code, ERR_TPM_OFF);
    client_run(&c, K2_POWER_OFF, span_empty());
    assert_int_equal(c.code, ERR_TPM_OFF);
    client_run(&c, K2_RESET, span_empty());
    assert_int_equal(c.code, ERR_NONE);
    tpm_startup(&m, TPM_SU_STATE);
    run_ok(&m);
}

static void reset_needs_startup_again_and_keeps_state(void **state)
{
    (void)state;
    struct tpm_message m;
    serve();
    tpm_nv_define(&m, NV_INDEX, 16);
    run_ok(&m);
    client_run(&c, K2_RESET, span_empty());
    assert_int_equal(c.code, ERR_NONE);
    tpm_get_random(&m, 8);
    assert_int_equal(tpm_response_code(run(&m)), TPM_RC_INITIALIZE);
    startup();
    tpm_nv_write(&m, NV_INDEX, span_of("sixteen bytes...", 16));
    run_ok(&m);
}

/* --- leases: S6 --- */

static void ask_for_a_reset(void)
{
    assert_int_equal(client_request(&c, K2_RESET, span_empty()), ERR_NONE);
    assert_null(c.result.record.data);
    client_carry(&c);
    assert_true(c.manager.asks);
}

static void a_reset_waits_for_its_lease(void **state)
{
    (void)state;
    serve();
    ask_for_a_reset();
    assert_int_equal(client_stop(&c, INSTANCE_STOP_OFF), ERR_CALL_BUSY);
    fake_manager_lease(&c.manager, &message);
    assert_int_equal(client_tell(&c, &message), ERR_NONE);
    client_response(&c);
    assert_int_equal(c.code, ERR_NONE);
}

static void a_lease_of_before_allows_no_reset(void **state)
{
    (void)state;
    serve();
    ask_for_a_reset();
    uint64_t first = c.manager.number;
    fake_manager_lease(&c.manager, &message);
    assert_int_equal(client_tell(&c, &message), ERR_NONE);
    client_response(&c);
    ask_for_a_reset();
    assert_int_not_equal(c.manager.number, first);
    uint64_t second = c.manager.number;
    c.manager.number = first;
    fake_manager_lease(&c.manager, &message);
    assert_int_equal(client_tell(&c, &message), ERR_NONE);
    assert_true(has_no_effect());
    assert_int_equal(client_stop(&c, INSTANCE_STOP_OFF), ERR_CALL_BUSY);
    c.manager.asks = true;
    c.manager.number = second;
    fake_manager_lease(&c.manager, &message);
    assert_int_equal(client_tell(&c, &message), ERR_NONE);
    client_response(&c);
    assert_int_equal(c.code, ERR_NONE);
}

/* Runs commands that commit nothing until the budget is gone; returns how many were answered. */
static unsigned exhaust(void)
{
    for (unsigned count = 0;; count++) {
        assert_int_equal(get_random(), ERR_NONE);
        client_carry(&c);
        client_response(&c);
        if (c.code == ERR_LEASE) return count;
        assert_int_equal(c.code, ERR_NONE);
        assert_in_range(count, 0, INSTANCE_LEASE_COMMANDS);
    }
}

static void without_a_word_of_the_manager_commands_end(void **state)
{
    (void)state;
    serve();
    assert_int_equal(exhaust(), INSTANCE_LEASE_COMMANDS);
    assert_true(c.manager.asks);
    assert_int_equal(get_random(), ERR_NONE);
    client_response(&c);
    assert_int_equal(c.code, ERR_LEASE);
    fake_manager_lease(&c.manager, &message);
    assert_int_equal(client_tell(&c, &message), ERR_NONE);
    assert_int_equal(get_random(), ERR_NONE);
    assert_int_equal(tpm_response_code(client_response(&c)), 0);
}

static void run_random_commands(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(get_random(), ERR_NONE);
        client_response(&c);
        assert_int_equal(c.code, ERR_NONE);
        assert_int_equal(c.result.peer_count, 0);
    }
}

static void a_lease_is_asked_for_at_half_and_vouches_until_it_was_asked(void **state)
{
    (void)state;
    serve();
    run_random_commands(INSTANCE_LEASE_COMMANDS / 2 - 1);
    assert_int_equal(get_random(), ERR_NONE);
    assert_non_null(c.result.record.data);
    assert_int_equal(c.result.peer_count, 1);
    client_carry(&c);
    client_response(&c);
    assert_true(c.manager.asks);
    run_random_commands(1000); /* one question is enough */
    fake_manager_lease(&c.manager, &message);
    assert_int_equal(client_tell(&c, &message), ERR_NONE);
    assert_true(has_no_effect());
    /* The answer is to a question that is 1000 commands old. */
    assert_int_equal(exhaust(), INSTANCE_LEASE_COMMANDS - 1000);
}

static void an_anchor_vouches_too(void **state)
{
    (void)state;
    serve();
    run_random_commands(100);
    begin_commit();
    client_anchor(&c);
    client_response(&c);
    assert_int_equal(exhaust(), INSTANCE_LEASE_COMMANDS);
}

/* The manager has another start recorded and never answers this copy again. */
static void a_fenced_copy_commits_nothing(void **state)
{
    (void)state;
    serve();
    begin_commit();
    assert_int_equal(get_random(), ERR_CALL_BUSY);
    assert_int_equal(client_stop(&c, INSTANCE_STOP_OFF), ERR_CALL_BUSY);
    assert_true(has_no_effect());
}

/* --- the TPM's failure mode --- */

static uint32_t told_health(void)
{
    struct reader r = reader_of(c.result.health);
    uint32_t health = 0;
    if (c.result.health.size) assert_ok(read_u32(&r, &health));
    return health;
}

static void the_host_is_told_of_failure_mode_and_of_its_end(void **state)
{
    (void)state;
    struct tpm_message m;
    serve();
    tpm_get_random(&m, FAILING_RANDOM_SIZE);
    assert_int_equal(client_request(&c, K2_COMMAND, tpm_message_span(&m)), ERR_NONE);
    assert_int_equal(told_health(), INSTANCE_TPM_FAILURE_MODE);
    assert_int_equal(tpm_response_code(client_response(&c)), TPM_RC_FAILURE);
    assert_int_equal(get_random(), ERR_NONE);
    assert_int_equal(told_health(), 0); /* once */
    assert_int_equal(tpm_response_code(client_response(&c)), TPM_RC_FAILURE);
    client_run(&c, K2_RESET, span_empty());
    assert_int_equal(told_health(), INSTANCE_TPM_WORKS);
    startup();
}

/* --- the end --- */

static void check_receipt(struct span receipt)
{
    uint8_t expected[PEER_RECEIPT_SIGNED_SIZE];
    struct writer w = writer_of(expected, sizeof expected);
    assert_int_equal(receipt.size, PEER_RECEIPT_SIZE);
    assert_ok(write_bytes(&w, "vtpm receipt v1", 16));
    assert_ok(write_bytes(&w, c.manager.known.instance.bytes, INSTANCE_ID_SIZE));
    assert_ok(write_u64(&w, c.manager.known.epoch));
    assert_ok(write_u64(&w, c.manager.known.start));
    assert_ok(write_u64(&w, c.manager.recorded.version));
    assert_ok(write_bytes(&w, c.manager.recorded.digest, SHA256_SIZE));
    assert_memory_equal(receipt.data, expected, sizeof expected);
    assert_ok(ed25519_verify(fake_crypto(), c.manager.known.holder, writer_span(&w),
                             receipt.data + PEER_RECEIPT_SIGNED_SIZE));
}

static void stop_saves_and_gives_the_holders_receipt(void **state)
{
    (void)state;
    enum link_event event;
    size_t size = 0;
    serve();
    uint64_t version = c.stored.version;
    assert_int_equal(client_stop(&c, INSTANCE_STOP_OFF), ERR_NONE);
    assert_null(c.result.receipt.data);
    client_carry(&c);
    client_anchor(&c);
    assert_int_equal(c.stored.version, version + 1);
    check_receipt(c.result.receipt);
    assert_ok(link_receive(&c.link, c.result.record, &event, c.response, &size));
    assert_int_equal(event, LINK_ENDED);
}

static void stop_of_a_tpm_that_is_off_gives_the_receipt_at_once(void **state)
{
    (void)state;
    serve();
    client_run(&c, K2_POWER_OFF, span_empty());
    assert_int_equal(client_stop(&c, INSTANCE_STOP_OFF), ERR_NONE);
    assert_null(c.result.store.data);
    check_receipt(c.result.receipt);
}

static void a_stopped_enclave_takes_no_call(void **state)
{
    (void)state;
    serve();
    client_run(&c, K2_POWER_OFF, span_empty());
    assert_int_equal(client_stop(&c, INSTANCE_STOP_OFF), ERR_NONE);
    assert_int_equal(client_stop(&c, INSTANCE_STOP_OFF), ERR_CALL_STATE);
    assert_int_equal(call(INSTANCE_RESUME), ERR_CALL_STATE);
    assert_int_equal(client_load(&c, &c.stored), ERR_CALL_STATE);
    assert_int_equal(client_start(&c), ERR_CALL_STATE);
    assert_int_equal(client_call(&c, INSTANCE_RECORD, span_of("x", 1)), ERR_CALL_STATE);
}

static void a_stopped_tpm_resumes_in_a_later_life(void **state)
{
    (void)state;
    struct tpm_message m;
    serve();
    assert_int_equal(client_stop(&c, INSTANCE_STOP_OFF), ERR_NONE);
    client_carry(&c);
    client_anchor(&c);
    reopen();
    tpm_startup(&m, TPM_SU_STATE);
    run_ok(&m);
}

static void a_malformed_stop_stops_nothing(void **state)
{
    (void)state;
    uint8_t body[9] = {INSTANCE_STOP_OFF};
    serve();
    assert_int_equal(client_call(&c, INSTANCE_STOP, span_of(body, 7)), ERR_TRUNCATED);
    assert_int_equal(client_call(&c, INSTANCE_STOP, span_of(body, 9)), ERR_TOO_LARGE);
    body[7] = 1;
    assert_int_equal(client_call(&c, INSTANCE_STOP, span_of(body, 8)), ERR_BAD_VALUE);
    assert_int_equal(client_stop(&c, 0), ERR_BAD_VALUE);
    assert_int_equal(client_stop(&c, INSTANCE_STOP_SUSPEND + 1), ERR_BAD_VALUE);
    assert_true(has_no_effect());
    begin_commit();
}

/* --- suspending and resuming --- */

static void suspend(void)
{
    assert_int_equal(client_stop(&c, INSTANCE_STOP_SUSPEND), ERR_NONE);
    assert_null(c.result.receipt.data);
    assert_non_null(c.result.store.data);
    client_carry(&c);
    client_anchor(&c);
    check_receipt(c.result.receipt);
}

struct answer {
    uint8_t bytes[1024];
    size_t size;
};

static void ask(const struct tpm_message *m, struct answer *out)
{
    struct span response = run_ok(m);
    assert_in_range(response.size, 1, sizeof out->bytes);
    memcpy(out->bytes, response.data, response.size);
    out->size = response.size;
}

static void assert_still(const struct tpm_message *m, const struct answer *answer)
{
    struct answer now;
    ask(m, &now);
    assert_int_equal(now.size, answer->size);
    assert_memory_equal(now.bytes, answer->bytes, now.size);
}

static void a_suspended_tpm_goes_on_with_all_it_had(void **state)
{
    (void)state;
    struct tpm_message m, pcr_read, policy_digest, read_public[3];
    struct answer pcr, digest, public[3];
    serve();
    tpm_pcr_extend(&m, 10);
    run_ok(&m);
    for (size_t i = 0; i < 3; i++) {
        tpm_create_primary_ecc(&m, TPM_RH_OWNER, TPM_ECC_NIST_P384, TPM_KEY_SIGN);
        tpm_read_public(&read_public[i], tpm_response_handle(run_ok(&m)));
    }
    tpm_start_policy(&m);
    uint32_t session = tpm_response_handle(run_ok(&m));
    tpm_policy_auth_value(&m, session);
    run_ok(&m);
    tpm_pcr_read(&pcr_read, 10);
    tpm_policy_digest(&policy_digest, session);
    ask(&pcr_read, &pcr);
    ask(&policy_digest, &digest);
    for (size_t i = 0; i < 3; i++)
        ask(&read_public[i], &public[i]);
    for (int life = 0; life < 3; life++) {
        uint64_t version = c.stored.version;
        suspend();
        assert_int_equal(c.stored.version, version + 1);
        assert_in_range(c.stored.size, 1,
                        STATE_MAX / 8); /* of what the host keeps as one there is room for much more */
        reopen();
        assert_int_equal(c.stored.version, version + 1); /* nothing to be made durable first */
        assert_still(&pcr_read, &pcr);
        assert_still(&policy_digest, &digest);
        for (size_t i = 0; i < 3; i++)
            assert_still(&read_public[i], &public[i]);
    }
}

static void what_is_suspended_is_named_by_its_own_digest(void **state)
{
    (void)state;
    static const uint8_t none[SHA256_SIZE];
    struct span rest, blob;
    uint8_t digest[SHA256_SIZE], root[BLOB_ROOT_SIZE];
    struct blob_header header;
    struct blob opened;
    serve();
    assert_memory_equal(c.manager.recorded.suspended, none, sizeof none);
    assert_int_equal(client_stop(&c, INSTANCE_STOP_SUSPEND), ERR_NONE);
    client_carry(&c);
    struct reader r = reader_of(span_of(c.given.blob, c.given.size));
    assert_ok(blob_take(&r, BLOB_STATE, &blob));
    rest = span_of(r.next, r.left);
    assert_ok(hash_sha256(fake_crypto(), &blob, 1, digest));
    assert_memory_equal(c.manager.commit.digest, digest, sizeof digest);
    assert_ok(hash_sha256(fake_crypto(), &rest, 1, digest));
    assert_memory_equal(c.manager.commit.suspended, digest, sizeof digest);
    assert_ok(blob_peek(rest, BLOB_VOLATILE, &header));
    assert_memory_equal(&header.id, &c.manager.known.instance, INSTANCE_ID_SIZE);
    assert_int_equal(header.version, c.given.version);
    assert_int_equal(header.number, c.manager.known.start);
    assert_ok(blob_state_root(fake_crypto(), c.manager.root_key, c.manager.MRENCLAVE, root));
    assert_ok(blob_open(fake_crypto(), span_of(root, sizeof root), rest, BLOB_VOLATILE, &opened));
    blob_free(&opened);
    struct fake_state commit = c.manager.commit;
    client_resume(&c); /* said again, with the same words */
    assert_memory_equal(&c.manager.commit, &commit, sizeof commit);
    client_anchor(&c);
    check_receipt(c.result.receipt);
}

static void the_first_reset_after_a_resume_resets_nothing(void **state)
{
    (void)state;
    struct tpm_message m;
    serve();
    suspend();
    reopen();
    assert_int_equal(client_request(&c, K2_RESET, span_empty()), ERR_NONE);
    client_response(&c); /* without a lease */
    assert_int_equal(c.code, ERR_NONE);
    tpm_get_random(&m, 8);
    run_ok(&m);
    client_run(&c, K2_RESET, span_empty());
    assert_int_equal(tpm_response_code(run(&m)), TPM_RC_INITIALIZE);
}

static void a_second_reset_after_a_resume_resets(void **state)
{
    (void)state;
    struct tpm_message m;
    serve();
    suspend();
    reopen();
    client_run(&c, K2_RESET, span_empty());
    client_run(&c, K2_RESET, span_empty());
    tpm_get_random(&m, 8);
    assert_int_equal(tpm_response_code(run(&m)), TPM_RC_INITIALIZE);
}

static void a_reset_behind_a_command_or_a_power_off_resets(void **state)
{
    (void)state;
    struct tpm_message m;
    tpm_get_random(&m, 8);
    serve();
    suspend();
    reopen();
    run_ok(&m);
    client_run(&c, K2_RESET, span_empty());
    assert_int_equal(tpm_response_code(run(&m)), TPM_RC_INITIALIZE);
    startup();
    suspend();
    reopen();
    client_run(&c, K2_POWER_OFF, span_empty());
    client_run(&c, K2_RESET, span_empty());
    assert_int_equal(tpm_response_code(run(&m)), TPM_RC_INITIALIZE);
}

static void a_tpm_that_is_off_is_not_suspended(void **state)
{
    (void)state;
    serve();
    client_run(&c, K2_POWER_OFF, span_empty());
    assert_int_equal(client_stop(&c, INSTANCE_STOP_SUSPEND), ERR_TPM_OFF);
    assert_true(has_no_effect());
    client_run(&c, K2_RESET, span_empty());
    startup();
}

static void failure_mode_is_not_suspended(void **state)
{
    (void)state;
    struct tpm_message m;
    serve();
    tpm_get_random(&m, FAILING_RANDOM_SIZE);
    assert_int_equal(tpm_response_code(run(&m)), TPM_RC_FAILURE);
    assert_int_equal(client_stop(&c, INSTANCE_STOP_SUSPEND), ERR_TPM_FAILED);
    assert_true(has_no_effect());
    assert_int_equal(get_random(), ERR_NONE);
    assert_int_equal(tpm_response_code(client_response(&c)), TPM_RC_FAILURE);
    client_run(&c, K2_RESET, span_empty());
    startup();
    suspend();
}

/* Whatever is committed later does not go on from there. */
static void a_commit_after_a_resume_names_nothing_suspended(void **state)
{
    (void)state;
    static const uint8_t none[SHA256_SIZE];
    serve();
    suspend();
    reopen();
    begin_commit();
    assert_memory_equal(c.manager.commit.suspended, none, sizeof none);
    client_anchor(&c);
    client_response(&c);
    reopen();
    startup();
}

/* --- going back on purpose --- */

static uint32_t reset_count(void)
{
    struct tpm_message m;
    tpm_read_clock(&m);
    struct span parameters = tpm_response_parameters(run_ok(&m), 0);
    struct reader r = reader_of(parameters);
    struct span skipped;
    uint32_t count = 0;
    assert_ok(read_span(&r, 16, &skipped)); /* Time, Clock */
    assert_ok(read_be32(&r, &count));
    return count;
}

static uint64_t read_counter(void)
{
    struct tpm_message m;
    tpm_nv_read(&m, NV_INDEX, 8);
    struct span parameters = tpm_response_parameters(run_ok(&m), 0);
    struct span bytes = tpm_take_2b(&parameters);
    struct reader r = reader_of(bytes);
    uint32_t high = 0, low = 0;
    assert_ok(read_be32(&r, &high));
    assert_ok(read_be32(&r, &low));
    return (uint64_t)high << 32 | low;
}

static void increment(void)
{
    struct tpm_message m;
    tpm_nv_increment(&m, NV_INDEX);
    run_ok(&m);
}

static void a_reverted_tpm_is_raised_and_recorded_before_it_is_ready(void **state)
{
    (void)state;
    static struct stored_state older;
    struct tpm_message m;
    serve();
    tpm_nv_define_as(&m, NV_INDEX, 8, COUNTER, "");
    run_ok(&m);
    increment();
    older = c.stored;
    struct fake_state was = c.manager.recorded;
    for (int i = 0; i < 4; i++) {
        increment();
        client_run(&c, K2_RESET, span_empty());
        startup();
    }
    uint64_t count = read_counter();
    uint32_t resets = reset_count();
    uint64_t version = c.stored.version;

    fake_manager_revert(&c.manager, &was);
    client_restart(&c);
    client_provision(&c);
    assert_int_equal(client_load(&c, &c.stored), ERR_STATE_OLD); /* the newest one no more */
    assert_int_equal(client_load(&c, &older), ERR_NONE);
    client_carry(&c);
    assert_false(c.manager.ready);
    assert_true(c.manager.commits);
    assert_int_equal(c.given.version, version + 2); /* the owner's act was one, too */
    client_anchor(&c);
    client_carry(&c);
    assert_true(c.manager.ready);
    client_link(&c);
    startup();
    assert_int_equal(reset_count(), resets + 1);
    assert_true(read_counter() >= count);
    reopen();
    startup();
    assert_true(read_counter() >= count);
}

/* Those that are kept are of the very state: of one whose TPM was switched off, too. */
static void each_commit_names_the_floors_of_its_state(void **state)
{
    (void)state;
    struct tpm_floors floors, before;
    serve();
    struct reader r = reader_of(span_of(c.manager.recorded.floors, PEER_FLOORS_SIZE));
    assert_ok(tpm_floors_decode(&r, &before));
    c.host_time = 5000 * NS_PER_S;
    uint64_t clock = tpm_clock(5000 * NS_PER_S);
    assert_int_equal(client_stop(&c, INSTANCE_STOP_OFF), ERR_NONE);
    client_carry(&c);
    r = reader_of(span_of(c.manager.commit.floors, PEER_FLOORS_SIZE));
    assert_ok(tpm_floors_decode(&r, &floors));
    assert_int_equal(floors.reset_count, before.reset_count);
    assert_true(floors.total_reset_count > 0);
    assert_in_range(floors.clock, clock, clock + CLOCK_RESERVE / 2); /* after a shutdown there is no reserve */
    client_anchor(&c);
}

/* --- what heals lockout --- */

static uint32_t wrong_tries(void)
{
    struct tpm_message m;
    tpm_get_property(&m, 0x20e); /* TPM_PT_LOCKOUT_COUNTER */
    struct span parameters = tpm_response_parameters(run_ok(&m), 0);
    struct reader r = reader_of(parameters);
    struct span skipped;
    uint32_t tries = 0;
    assert_ok(read_span(&r, parameters.size - sizeof tries, &skipped));
    assert_ok(read_be32(&r, &tries));
    return tries;
}

static void try_wrongly(void)
{
    struct tpm_message m;
    tpm_nv_read_with(&m, NV_INDEX, 1, "wrong");
    while (tpm_response_code(run(&m)) == TPM_RC_RETRY)
        ;
}

/* Three failed tries, then years of the host's clock, then another start. */
static void tries_left(enum peer_lockout_heals heals, uint32_t after_years, uint32_t after_start)
{
    struct tpm_message m;
    c.host_time = 1000 * NS_PER_S;
    c.manager.lockout_heals = heals;
    serve();
    tpm_da_parameters(&m, 10, 100, 100);
    run_ok(&m);
    tpm_nv_define_as(&m, NV_INDEX, 1, GUARDED, "secret");
    run_ok(&m);
    for (int i = 0; i < 3; i++)
        try_wrongly();
    assert_int_equal(wrong_tries(), 3);
    c.host_time += 30000000 * NS_PER_S;
    assert_int_equal(wrong_tries(), after_years);
    assert_int_equal(client_stop(&c, INSTANCE_STOP_OFF), ERR_NONE);
    client_carry(&c);
    client_anchor(&c);
    reopen();
    startup();
    assert_int_equal(wrong_tries(), after_start);
}

static void time_heals_lockout(void **state)
{
    (void)state;
    tries_left(PEER_LOCKOUT_TIME, 0, 0);
}

static void only_a_start_heals_lockout(void **state)
{
    (void)state;
    tries_left(PEER_LOCKOUT_START_ONLY, 3, 2);
}

static void nothing_heals_lockout(void **state)
{
    (void)state;
    tries_left(PEER_LOCKOUT_NEVER, 3, 3);
}

/* --- a new connection to the manager --- */

static void a_session_is_resumed_while_running(void **state)
{
    (void)state;
    serve();
    client_resume(&c);
    assert_int_equal(c.result.peer_count, 1);
    begin_commit();
    client_anchor(&c);
    assert_int_equal(tpm_response_code(client_response(&c)), 0);
}

static void a_commit_is_said_again_on_the_new_session(void **state)
{
    (void)state;
    serve();
    begin_commit();
    struct fake_state commit = c.manager.commit;
    client_resume(&c);
    assert_int_equal(c.result.peer_count, 2);
    assert_null(c.result.store.data); /* the host has it */
    assert_true(c.manager.commits);
    assert_int_equal(c.manager.commit.version, commit.version);
    assert_memory_equal(c.manager.commit.digest, commit.digest, sizeof commit.digest);
    client_anchor(&c);
    assert_int_equal(tpm_response_code(client_response(&c)), 0);
}

static void an_anchor_of_the_old_session_is_refused_on_the_new_one(void **state)
{
    (void)state;
    struct fake_message old;
    serve();
    begin_commit();
    struct fake_state commit = c.manager.commit;
    fake_manager_anchor(&c.manager, &old);
    client_resume(&c);
    assert_int_equal(client_tell(&c, &old), ERR_LINK_RECORD);
    assert_true(has_no_effect());
    client_resume(&c); /* that closed the session, and it is mended */
    assert_memory_equal(&c.manager.commit, &commit, sizeof commit);
    client_anchor(&c);
    client_response(&c);
}

static void a_question_is_asked_again_on_the_new_session(void **state)
{
    (void)state;
    serve();
    ask_for_a_reset();
    client_resume(&c);
    assert_int_equal(c.result.peer_count, 2);
    fake_manager_lease(&c.manager, &message);
    assert_int_equal(client_tell(&c, &message), ERR_NONE);
    client_response(&c);
    assert_int_equal(c.code, ERR_NONE);
}

static void a_failed_resumption_leaves_the_old_session(void **state)
{
    (void)state;
    struct client *other = &c;
    struct peer old;
    serve();
    begin_commit();
    old = other->manager.peer;
    memset(&other->manager.peer, 0, sizeof other->manager.peer); /* its buffers stay old's */
    assert_int_equal(call(INSTANCE_RESUME), ERR_NONE);
    fake_manager_accept(&c.manager, c.result.peer[0], &message);
    message.bytes[message.size - 1] ^= 1;
    assert_int_equal(client_tell(&c, &message), ERR_AUTHENTICATION);
    message.bytes[message.size - 1] ^= 1;
    assert_int_equal(client_tell(&c, &message), ERR_LINK_ORDER);
    peer_close(&c.manager.peer);
    c.manager.peer = old;
    c.manager.commits = true;
    client_anchor(&c);
    assert_int_equal(tpm_response_code(client_response(&c)), 0);
}

static void a_resumption_may_be_tried_again(void **state)
{
    (void)state;
    serve();
    assert_int_equal(call(INSTANCE_RESUME), ERR_NONE);
    assert_int_equal(call(INSTANCE_RESUME), ERR_NONE);
    client_resume(&c);
    client_resume(&c);
    begin_commit();
    client_anchor(&c);
    client_response(&c);
}

static void another_resumption_key_resumes_nothing(void **state)
{
    (void)state;
    serve();
    assert_int_equal(call(INSTANCE_RESUME), ERR_NONE);
    c.manager.known.key[0] ^= 1;
    fake_manager_accept(&c.manager, c.result.peer[0], &message);
    assert_int_equal(client_tell(&c, &message), ERR_AUTHENTICATION);
}

static void a_spoilt_session_costs_no_commit(void **state)
{
    (void)state;
    struct tpm_message m;
    serve();
    assert_int_equal(client_call(&c, INSTANCE_PEER, span_of("\2garbage", 8)), ERR_LINK_RECORD);
    tpm_nv_define(&m, NV_INDEX, 16);
    assert_int_equal(client_request(&c, K2_COMMAND, tpm_message_span(&m)), ERR_NONE);
    assert_non_null(c.result.store.data);
    assert_int_equal(c.result.peer_count, 0);
    client_resume(&c);
    assert_true(c.manager.commits);
    client_anchor(&c);
    assert_int_equal(tpm_response_code(client_response(&c)), 0);
}

/* A word that the manager does not say. */
static void an_unexpected_word_changes_nothing(void **state)
{
    (void)state;
    serve();
    fake_manager_say(&c.manager, PEER_COMMIT, span_of("", 0), &message);
    assert_int_equal(client_tell(&c, &message), ERR_LINK_ORDER);
    fake_manager_say(&c.manager, PEER_LEASE, span_of("123456789", 9), &message);
    assert_int_equal(client_tell(&c, &message), ERR_TRAILING);
    begin_commit();
    fake_manager_say(&c.manager, PEER_ANCHORED, span_of("", 0), &message);
    assert_int_equal(client_tell(&c, &message), ERR_TRUNCATED);
    client_anchor(&c);
    client_response(&c);
}

/* --- import --- */

static struct blob source; /* a state with something in it, as libtpms wrote it */

/* Makes it with an instance of its own, then opens another one that waits for it. */
static void await_import(void)
{
    uint8_t root[BLOB_ROOT_SIZE];
    struct tpm_message m;
    serve();
    tpm_nv_define(&m, NV_INDEX, 5);
    run_ok(&m);
    tpm_nv_write(&m, NV_INDEX, span_of("known", 5));
    run_ok(&m);
    assert_ok(blob_state_root(fake_crypto(), c.manager.root_key, c.manager.MRENCLAVE, root));
    assert_ok(blob_open(fake_crypto(), span_of(root, sizeof root), span_of(c.stored.blob, c.stored.size), BLOB_STATE,
                        &source));
    client_close(&c);
    client_open(&c);
    c.manager.imports = true;
    client_serve(&c);
    assert_int_equal(c.manager.recorded.version, 0);
}

static int finish_import(void **state)
{
    blob_free(&source);
    return finish(state);
}

/* One part; the code of the call. */
static uint16_t give_part(uint32_t whole, uint32_t offset, struct span bytes)
{
    uint8_t part[K2_MESSAGE_MAX];
    struct writer w = writer_of(part, sizeof part);
    assert_ok(write_u32(&w, whole));
    assert_ok(write_u32(&w, offset));
    assert_ok(write_span(&w, bytes));
    return client_request(&c, K2_IMPORT, writer_span(&w));
}

static uint16_t answer_to_part(uint32_t whole, uint32_t offset, struct span bytes)
{
    assert_int_equal(give_part(whole, offset, bytes), ERR_NONE);
    assert_true(c.result.record.data && !c.result.store.data);
    assert_int_equal(client_response(&c).size, 0);
    return c.code;
}

/* All but the last part, which the result of the call is then for. */
static void give_state(struct span state)
{
    uint32_t offset = 0;
    for (; state.size - offset > 700; offset += 700)
        assert_int_equal(answer_to_part((uint32_t)state.size, offset, span_of(state.data + offset, 700)), ERR_NONE);
    assert_int_equal(give_part((uint32_t)state.size, offset, span_of(state.data + offset, state.size - offset)),
                     ERR_NONE);
}

static struct span source_state(void)
{
    return span_of(source.plaintext, source.plaintext_size);
}

static void the_known_index_is_there(void)
{
    struct tpm_message m;
    startup();
    tpm_nv_read(&m, NV_INDEX, 5);
    struct span parameters = tpm_response_parameters(run_ok(&m), 0);
    assert_memory_equal(tpm_take_2b(&parameters).data, "known", 5);
}

static void record_import(void)
{
    client_carry(&c);
    assert_true(c.manager.commits);
    client_anchor(&c);
    assert_int_equal(client_response(&c).size, 0);
    assert_int_equal(c.code, ERR_NONE);
    assert_int_equal(c.manager.recorded.version, 1);
}

static void an_imported_state_is_recorded_before_it_is_answered(void **state)
{
    (void)state;
    await_import();
    give_state(source_state());
    assert_null(c.result.record.data);
    assert_non_null(c.result.store.data);
    assert_int_equal(c.result.peer_count, 1);
    record_import();
    the_known_index_is_there();
    assert_int_equal(client_request(&c, K2_IMPORT, span_of("", 0)), ERR_NONE);
    client_response(&c);
    assert_int_equal(c.code, ERR_VERB_STATE);
    reopen();
    the_known_index_is_there();
}

static void an_unrecorded_import_is_gone_with_its_enclave(void **state)
{
    (void)state;
    await_import();
    give_state(source_state());
    assert_non_null(c.result.store.data);
    reopen();
    assert_int_equal(get_random(), ERR_NONE);
    client_response(&c);
    assert_int_equal(c.code, ERR_TPM_OFF);
    give_state(source_state());
    record_import();
    the_known_index_is_there();
}

/* Nor does a stop of it: the receipt is over no state at all. */
static void what_waits_for_its_state_makes_no_tpm(void **state)
{
    (void)state;
    static const enum k2_verb verbs[] = {K2_COMMAND, K2_RESET, K2_POWER_OFF};
    await_import();
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        assert_int_equal(client_request(&c, verbs[i], span_empty()), ERR_NONE);
        assert_true(c.result.record.data && !c.result.store.data && !c.result.peer_count);
        client_response(&c);
        assert_int_equal(c.code, ERR_TPM_OFF);
    }
    assert_int_equal(client_stop(&c, INSTANCE_STOP_OFF), ERR_NONE);
    assert_null(c.result.store.data);
    check_receipt(c.result.receipt);
}

static void a_state_that_libtpms_refuses_leaves_room_for_the_right_one(void **state)
{
    (void)state;
    await_import();
    struct span garbled = source_state();
    source.plaintext[3] ^= 1;
    give_state(garbled);
    assert_null(c.result.store.data);
    client_response(&c);
    assert_int_equal(c.code, ERR_STATE_REJECTED);
    source.plaintext[3] ^= 1;
    give_state(span_of(garbled.data, garbled.size - 1)); /* cut off */
    client_response(&c);
    assert_int_equal(c.code, ERR_STATE_REJECTED);
    give_state(garbled);
    record_import();
    the_known_index_is_there();
}

static void parts_come_in_order_and_are_of_one_whole(void **state)
{
    (void)state;
    await_import();
    const struct span two = span_of("ab", 2);
    assert_int_equal(answer_to_part(0, 0, two), ERR_TOO_LARGE);
    assert_int_equal(answer_to_part(STATE_MAX, 0, two), ERR_TOO_LARGE);
    assert_int_equal(answer_to_part(UINT32_MAX, 0, two), ERR_TOO_LARGE);
    assert_int_equal(answer_to_part(1, 0, two), ERR_BAD_VALUE);
    assert_int_equal(answer_to_part(9, 0, span_empty()), ERR_BAD_VALUE);
    assert_int_equal(answer_to_part(9, 2, two), ERR_BAD_VALUE); /* nothing was begun */
    const struct {
        uint32_t whole, offset;
    } wrong[] = {{9, 3}, {9, 1}, {8, 2}, {9, UINT32_MAX}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(answer_to_part(9, 0, two), ERR_NONE);
        assert_int_equal(answer_to_part(wrong[i].whole, wrong[i].offset, two), ERR_BAD_VALUE);
        assert_int_equal(answer_to_part(9, 2, two), ERR_BAD_VALUE); /* and nothing was kept */
    }
    give_state(source_state());
    assert_non_null(c.result.store.data);
}

static void an_instance_that_was_made_here_takes_no_state_over_k2(void **state)
{
    (void)state;
    serve();
    assert_int_equal(answer_to_part(9, 0, span_of("ab", 2)), ERR_VERB_STATE);
}

int main(void)
{
#define INSTANCE_TEST(test) cmocka_unit_test_setup_teardown(test, begin, finish)
#define IMPORT_TEST(test)   cmocka_unit_test_setup_teardown(test, begin, finish_import)
    const struct CMUnitTest tests[] = {
        INSTANCE_TEST(a_blank_enclave_knows_only_start),
        INSTANCE_TEST(start_with_a_bad_body_leaves_the_enclave_blank),
        INSTANCE_TEST(there_is_no_second_start),
        INSTANCE_TEST(each_enclave_has_a_holder_key_of_its_own),
        INSTANCE_TEST(a_challenge_about_another_instance_is_refused),
        INSTANCE_TEST(a_failed_admission_ends_the_exchange),
        INSTANCE_TEST(a_malformed_provision_is_not_accepted),
        INSTANCE_TEST(a_provision_tells_what_its_mode_needs),
        INSTANCE_TEST(a_front_end_of_small_order_is_not_accepted),
        INSTANCE_TEST(another_word_than_provision_is_not_accepted),
        INSTANCE_TEST(a_provision_is_accepted_once),
        INSTANCE_TEST(a_new_tpm_is_recorded_before_it_is_ready),
        INSTANCE_TEST(a_stored_state_is_ready_at_once),
        INSTANCE_TEST(the_commit_names_the_very_bytes),
        INSTANCE_TEST(a_state_is_sealed_under_the_manager_that_provisioned),
        INSTANCE_TEST(another_manager_opens_what_the_one_before_had_sealed),
        INSTANCE_TEST(a_missing_state_is_not_made_up_for),
        INSTANCE_TEST(a_new_tpm_takes_no_state),
        INSTANCE_TEST(a_refused_state_leaves_room_for_the_right_one),
        INSTANCE_TEST(a_running_tpm_takes_no_second_state),
        INSTANCE_TEST(a_response_waits_for_its_anchor),
        INSTANCE_TEST(only_the_very_state_releases_the_response),
        INSTANCE_TEST(the_hosts_own_word_releases_nothing),
        INSTANCE_TEST(an_anchor_is_told_once),
        INSTANCE_TEST(everything_else_waits_for_the_anchor),
        INSTANCE_TEST(a_command_that_commits_nothing_is_answered_at_once),
        INSTANCE_TEST(an_unanchored_commit_is_gone_with_its_enclave),
        INSTANCE_TEST(the_tpm_goes_on_in_a_later_life),
        INSTANCE_TEST(a_failed_authorisation_is_recorded_before_it_is_told),
        INSTANCE_TEST(time_goes_on_from_the_highest_that_was_sealed),
        INSTANCE_TEST(a_record_before_finish_closes_the_link),
        INSTANCE_TEST(a_second_finish_closes_the_link),
        INSTANCE_TEST(a_replayed_request_closes_the_link),
        INSTANCE_TEST(after_a_closed_link_the_tpm_can_still_be_stopped),
        INSTANCE_TEST(the_end_of_the_link_is_answered),
        INSTANCE_TEST(an_enrolled_front_end_links),
        INSTANCE_TEST(without_the_enrolled_key_there_is_no_link),
        INSTANCE_TEST(a_chipset_asks_for_tpm_establishment),
        INSTANCE_TEST(a_malformed_request_is_answered_and_not_run),
        INSTANCE_TEST(a_record_above_the_limit_is_refused_and_not_consumed),
        INSTANCE_TEST(the_largest_command_reaches_the_tpm),
        INSTANCE_TEST(off_saves_and_reset_powers_on_again),
        INSTANCE_TEST(reset_needs_startup_again_and_keeps_state),
        INSTANCE_TEST(a_reset_waits_for_its_lease),
        INSTANCE_TEST(a_lease_of_before_allows_no_reset),
        INSTANCE_TEST(without_a_word_of_the_manager_commands_end),
        INSTANCE_TEST(a_lease_is_asked_for_at_half_and_vouches_until_it_was_asked),
        INSTANCE_TEST(an_anchor_vouches_too),
        INSTANCE_TEST(a_fenced_copy_commits_nothing),
        INSTANCE_TEST(the_host_is_told_of_failure_mode_and_of_its_end),
        INSTANCE_TEST(stop_saves_and_gives_the_holders_receipt),
        INSTANCE_TEST(stop_of_a_tpm_that_is_off_gives_the_receipt_at_once),
        INSTANCE_TEST(a_stopped_enclave_takes_no_call),
        INSTANCE_TEST(a_stopped_tpm_resumes_in_a_later_life),
        INSTANCE_TEST(a_malformed_stop_stops_nothing),
        INSTANCE_TEST(a_suspended_tpm_goes_on_with_all_it_had),
        INSTANCE_TEST(what_is_suspended_is_named_by_its_own_digest),
        INSTANCE_TEST(the_first_reset_after_a_resume_resets_nothing),
        INSTANCE_TEST(a_second_reset_after_a_resume_resets),
        INSTANCE_TEST(a_reset_behind_a_command_or_a_power_off_resets),
        INSTANCE_TEST(a_tpm_that_is_off_is_not_suspended),
        INSTANCE_TEST(failure_mode_is_not_suspended),
        INSTANCE_TEST(a_commit_after_a_resume_names_nothing_suspended),
        INSTANCE_TEST(a_reverted_tpm_is_raised_and_recorded_before_it_is_ready),
        INSTANCE_TEST(each_commit_names_the_floors_of_its_state),
        INSTANCE_TEST(time_heals_lockout),
        INSTANCE_TEST(only_a_start_heals_lockout),
        INSTANCE_TEST(nothing_heals_lockout),
        INSTANCE_TEST(a_session_is_resumed_while_running),
        INSTANCE_TEST(a_commit_is_said_again_on_the_new_session),
        INSTANCE_TEST(an_anchor_of_the_old_session_is_refused_on_the_new_one),
        INSTANCE_TEST(a_question_is_asked_again_on_the_new_session),
        INSTANCE_TEST(a_failed_resumption_leaves_the_old_session),
        INSTANCE_TEST(a_resumption_may_be_tried_again),
        INSTANCE_TEST(another_resumption_key_resumes_nothing),
        INSTANCE_TEST(a_spoilt_session_costs_no_commit),
        INSTANCE_TEST(an_unexpected_word_changes_nothing),
        IMPORT_TEST(an_imported_state_is_recorded_before_it_is_answered),
        IMPORT_TEST(an_unrecorded_import_is_gone_with_its_enclave),
        IMPORT_TEST(what_waits_for_its_state_makes_no_tpm),
        IMPORT_TEST(a_state_that_libtpms_refuses_leaves_room_for_the_right_one),
        IMPORT_TEST(parts_come_in_order_and_are_of_one_whole),
        INSTANCE_TEST(an_instance_that_was_made_here_takes_no_state_over_k2),
    };
    return cmocka_run_group_tests_name("instance", tests, NULL, NULL);
}
