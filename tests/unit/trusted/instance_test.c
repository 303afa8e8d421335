#include "tests/fakes/assertions.h"

#include <string.h>

#include "tests/fakes/instance_client.h"
#include "tests/fakes/runtime.h"

#define NV_INDEX          0x01800001u
#define PERSISTENT        0x81000001u
#define NS_PER_S          UINT64_C(1000000000)
#define TPM_RC_INITIALIZE 0x100u

static struct enclave_process enclave;
static struct enclave_result result;
static struct stored_state stored;

static int begin(void **state)
{
    (void)state;
    fake_runtime_reset();
    enclave_process_start(&enclave);
    return 0;
}

static int finish(void **state)
{
    (void)state;
    enclave_process_end(&enclave);
    return 0;
}

/* Ends the enclave's life and opens what is stored in a new one. */
static void reopen(uint64_t host_time)
{
    enclave_process_end(&enclave);
    enclave_process_start(&enclave);
    client_open(&enclave, host_time, &stored, &result);
    assert_int_equal(result.code, ERR_NONE);
}

static void call(uint32_t number)
{
    enclave_process_call(&enclave, number, 0, span_empty(), &result);
}

static struct span run(const struct tpm_message *message)
{
    client_command_stored(&enclave, message, &stored, &result);
    assert_int_equal(result.code, ERR_NONE);
    return result.reply;
}

static struct span run_ok(const struct tpm_message *message)
{
    struct span reply = run(message);
    assert_int_equal(tpm_response_code(reply), 0);
    return reply;
}

static void startup(void)
{
    struct tpm_message m;
    tpm_startup(&m, TPM_SU_CLEAR);
    run_ok(&m);
}

static void create_and_startup(uint64_t host_time)
{
    client_create(&enclave, host_time, &stored);
    startup();
}

static uint64_t tpm_clock(uint64_t host_time)
{
    struct tpm_message m;
    tpm_read_clock(&m);
    client_command(&enclave, host_time, &m, &result);
    if (client_keep(&result, &stored)) client_stored(&enclave, stored.number, &result);
    struct span parameters = tpm_response_parameters(result.reply, 0);
    uint64_t clock = 0;
    for (size_t i = 0; i < 8; i++)
        clock = clock << 8 | parameters.data[8 + i];
    return clock;
}

static void a_blank_enclave_knows_only_start(void **state)
{
    (void)state;
    struct tpm_message m;
    tpm_get_random(&m, 8);
    client_command(&enclave, 0, &m, &result);
    assert_int_equal(result.code, ERR_CALL_STATE);
    client_stored(&enclave, 1, &result);
    assert_int_equal(result.code, ERR_CALL_STATE);
    call(CALL_TPM_RESET);
    assert_int_equal(result.code, ERR_CALL_STATE);
    call(CALL_TPM_OFF);
    assert_int_equal(result.code, ERR_CALL_STATE);
    call(77);
    assert_int_equal(result.code, ERR_CALL_UNKNOWN);
    client_create(&enclave, 0, &stored);
}

static void create_draws_an_id_and_stores_version_1(void **state)
{
    (void)state;
    uint8_t first[INSTANCE_ID_SIZE];
    client_create(&enclave, 0, &stored);
    assert_int_equal(stored.number, 1);
    assert_int_equal(stored.instance[6] & 0xf0, 0x40);
    assert_int_equal(stored.instance[8] & 0xc0, 0x80);
    memcpy(first, stored.instance, sizeof first);
    enclave_process_end(&enclave);
    enclave_process_start(&enclave);
    client_create(&enclave, 0, &stored);
    assert_memory_not_equal(first, stored.instance, sizeof first);
}

static void start_with_a_bad_body_leaves_the_enclave_blank(void **state)
{
    (void)state;
    static uint8_t body[CALL_START_FIXED_SIZE + 8];
    struct span fixed = span_of(body, CALL_START_FIXED_SIZE);
    enclave_process_call(&enclave, CALL_START, 0, fixed, &result); /* mode 0 */
    assert_int_equal(result.code, ERR_BAD_VALUE);
    body[0] = START_CREATE;
    body[4] = 1; /* an id, which is the enclave's to draw */
    enclave_process_call(&enclave, CALL_START, 0, fixed, &result);
    assert_int_equal(result.code, ERR_BAD_VALUE);
    body[4] = 0;
    enclave_process_call(&enclave, CALL_START, 0, span_of(body, sizeof body), &result);
    assert_int_equal(result.code, ERR_TRAILING);
    enclave_process_call(&enclave, CALL_START, 0, span_of(body, CALL_START_FIXED_SIZE - 1), &result);
    assert_int_equal(result.code, ERR_TRUNCATED);
    body[CALL_START_FIXED_SIZE - 4] = 9; /* more state than there is */
    enclave_process_call(&enclave, CALL_START, 0, span_of(body, sizeof body), &result);
    assert_int_equal(result.code, ERR_TRUNCATED);
    body[CALL_START_FIXED_SIZE - 4] = 8; /* a state to a new TPM */
    enclave_process_call(&enclave, CALL_START, 0, span_of(body, sizeof body), &result);
    assert_int_equal(result.code, ERR_BAD_VALUE);
    client_create(&enclave, 0, &stored);
}

static void there_is_no_second_start(void **state)
{
    (void)state;
    client_create(&enclave, 0, &stored);
    client_open(&enclave, 0, &stored, &result);
    assert_int_equal(result.code, ERR_CALL_STATE);
}

/* S3: and a failed one is not tried again in the same enclave, nor made up for by a new TPM. */
static void start_without_a_state_creates_nothing(void **state)
{
    (void)state;
    struct stored_state nothing = {.size = 0};
    client_open(&enclave, 0, &nothing, &result);
    assert_int_equal(result.code, ERR_STATE_MISSING);
}

static void a_failed_start_is_the_end(void **state)
{
    (void)state;
    client_create(&enclave, 0, &stored);
    enclave_process_end(&enclave);
    enclave_process_start(&enclave);
    stored.blob[stored.size - 1] ^= 1;
    client_open(&enclave, 0, &stored, &result);
    assert_int_equal(result.code, ERR_STATE_ALTERED);
    assert_null(result.store.data);
    stored.blob[stored.size - 1] ^= 1;
    client_open(&enclave, 0, &stored, &result);
    assert_int_equal(result.code, ERR_ENCLAVE_DEAD);
}

static void a_reply_waits_for_its_store(void **state)
{
    (void)state;
    struct tpm_message m;
    create_and_startup(0);
    uint64_t number = stored.number;
    tpm_nv_define(&m, NV_INDEX, 16);
    client_command(&enclave, 0, &m, &result);
    assert_int_equal(result.code, ERR_NONE);
    assert_null(result.reply.data);
    assert_true(client_keep(&result, &stored));
    assert_int_equal(stored.number, number + 1);
    client_stored(&enclave, stored.number, &result);
    assert_int_equal(result.code, ERR_NONE);
    assert_int_equal(tpm_response_code(result.reply), 0);
}

static void only_the_number_of_the_store_releases_the_reply(void **state)
{
    (void)state;
    struct tpm_message m;
    create_and_startup(0);
    tpm_nv_define(&m, NV_INDEX, 16);
    client_command(&enclave, 0, &m, &result);
    assert_true(client_keep(&result, &stored));
    const uint64_t wrong[] = {0, stored.number - 1, stored.number + 1, UINT64_MAX};
    for (size_t i = 0; i < 4; i++) {
        client_stored(&enclave, wrong[i], &result);
        assert_int_equal(result.code, ERR_BAD_VALUE);
        assert_null(result.reply.data);
    }
    client_stored(&enclave, stored.number, &result);
    assert_non_null(result.reply.data);
}

static void a_store_is_confirmed_once(void **state)
{
    (void)state;
    create_and_startup(0);
    client_stored(&enclave, stored.number, &result);
    assert_int_equal(result.code, ERR_CALL_STATE);
    assert_null(result.reply.data);
}

static void everything_else_waits_for_the_store(void **state)
{
    (void)state;
    struct tpm_message m;
    create_and_startup(0);
    tpm_nv_define(&m, NV_INDEX, 16);
    client_command(&enclave, 0, &m, &result);
    assert_true(client_keep(&result, &stored));
    client_command(&enclave, 0, &m, &result);
    assert_int_equal(result.code, ERR_CALL_BUSY);
    call(CALL_TPM_RESET);
    assert_int_equal(result.code, ERR_CALL_BUSY);
    call(CALL_TPM_OFF);
    assert_int_equal(result.code, ERR_CALL_BUSY);
    client_open(&enclave, 0, &stored, &result);
    assert_int_equal(result.code, ERR_CALL_BUSY);
    client_stored(&enclave, stored.number, &result);
    assert_int_equal(tpm_response_code(result.reply), 0);
}

static void a_command_that_commits_nothing_is_answered_at_once(void **state)
{
    (void)state;
    struct tpm_message m;
    create_and_startup(0);
    tpm_get_random(&m, 32);
    client_command(&enclave, 0, &m, &result);
    assert_null(result.store.data);
    assert_int_equal(result.reply.size, 44);
}

static void a_locality_above_4_is_refused(void **state)
{
    (void)state;
    static const uint8_t body[] = {5, 0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7b, 0, 8};
    create_and_startup(0);
    enclave_process_call(&enclave, CALL_TPM_COMMAND, 0, span_of(body, sizeof body), &result);
    assert_int_equal(result.code, ERR_BAD_VALUE);
    enclave_process_call(&enclave, CALL_TPM_COMMAND, 0, span_empty(), &result);
    assert_int_equal(result.code, ERR_TRUNCATED);
}

static void the_tpm_goes_on_in_a_later_life(void **state)
{
    (void)state;
    struct tpm_message m;
    create_and_startup(0);
    tpm_nv_define(&m, NV_INDEX, 16);
    run_ok(&m);
    tpm_nv_write(&m, NV_INDEX, span_of("sixteen bytes...", 16));
    run_ok(&m);
    tpm_create_primary_ecc(&m, TPM_RH_OWNER, TPM_ECC_NIST_P256, TPM_KEY_SIGN);
    uint32_t handle = tpm_response_handle(run_ok(&m));
    tpm_evict_control(&m, handle, PERSISTENT);
    run_ok(&m);
    uint64_t version = stored.number;

    reopen(0);
    assert_int_equal(client_version(&result), version);
    assert_memory_equal(result.instance.data, stored.instance, INSTANCE_ID_SIZE);
    startup();
    tpm_nv_read(&m, NV_INDEX, 16);
    struct span parameters = tpm_response_parameters(run_ok(&m), 0);
    assert_memory_equal(tpm_take_2b(&parameters).data, "sixteen bytes...", 16);
    tpm_read_public(&m, PERSISTENT);
    run_ok(&m);
    assert_int_equal(stored.number, version + 1); /* Startup after no Shutdown */
}

static void an_unconfirmed_commit_is_not_there_if_the_host_kept_the_one_before(void **state)
{
    (void)state;
    struct tpm_message m;
    create_and_startup(0);
    tpm_nv_define(&m, NV_INDEX, 16);
    client_command(&enclave, 0, &m, &result);
    assert_non_null(result.store.data);
    reopen(0);
    startup();
    tpm_nv_read(&m, NV_INDEX, 16);
    assert_int_not_equal(tpm_response_code(run(&m)), 0);
}

/* S4 */
static void time_goes_on_from_the_highest_that_was_sealed(void **state)
{
    (void)state;
    client_create(&enclave, 1000 * NS_PER_S, &stored);
    startup();
    uint64_t before = tpm_clock(4000 * NS_PER_S);
    assert_in_range(before, 2999000, 3001000);
    call(CALL_TPM_OFF);
    assert_true(client_keep(&result, &stored));
    reopen(NS_PER_S); /* the host's clock was put back by more than an hour */
    startup();
    assert_true(tpm_clock(2 * NS_PER_S) >= before);
    uint64_t later = tpm_clock(4060 * NS_PER_S); /* 60 s after the sealed time */
    assert_in_range(later - before, 59000, 61000);
}

static void reset_needs_startup_again_and_keeps_state(void **state)
{
    (void)state;
    struct tpm_message m;
    create_and_startup(0);
    tpm_nv_define(&m, NV_INDEX, 16);
    run_ok(&m);
    call(CALL_TPM_RESET);
    assert_int_equal(result.code, ERR_NONE);
    tpm_get_random(&m, 8);
    assert_int_equal(tpm_response_code(run(&m)), TPM_RC_INITIALIZE);
    startup();
    tpm_nv_write(&m, NV_INDEX, span_of("sixteen bytes...", 16));
    run_ok(&m);
}

static void off_saves_and_reset_powers_on_again(void **state)
{
    (void)state;
    struct tpm_message m;
    create_and_startup(0);
    call(CALL_TPM_OFF);
    assert_int_equal(result.code, ERR_NONE);
    assert_true(client_keep(&result, &stored));
    assert_null(result.reply.data);
    client_stored(&enclave, stored.number, &result);
    assert_int_equal(result.code, ERR_NONE);
    assert_null(result.reply.data);
    tpm_get_random(&m, 8);
    client_command(&enclave, 0, &m, &result);
    assert_int_equal(result.code, ERR_TPM_OFF);
    call(CALL_TPM_OFF);
    assert_int_equal(result.code, ERR_TPM_OFF);
    call(CALL_TPM_RESET);
    assert_int_equal(result.code, ERR_NONE);
    tpm_startup(&m, TPM_SU_STATE);
    run_ok(&m);
}

/* A failed try counts although the command failed: the count is committed before the refusal is told. */
static void a_failed_authorisation_is_stored_before_it_is_told(void **state)
{
    (void)state;
    struct tpm_message m;
    create_and_startup(0);
    tpm_clear_lockout(&m, "wrong");
    client_command(&enclave, 0, &m, &result);
    assert_null(result.reply.data);
    assert_true(client_keep(&result, &stored));
    reopen(0); /* killed before the answer */
    startup();
    tpm_clear_lockout(&m, "");
    assert_int_not_equal(tpm_response_code(run(&m)), 0);
}

int main(void)
{
#define INSTANCE_TEST(test) cmocka_unit_test_setup_teardown(test, begin, finish)
    const struct CMUnitTest tests[] = {
        INSTANCE_TEST(a_blank_enclave_knows_only_start),
        INSTANCE_TEST(create_draws_an_id_and_stores_version_1),
        INSTANCE_TEST(start_with_a_bad_body_leaves_the_enclave_blank),
        INSTANCE_TEST(there_is_no_second_start),
        INSTANCE_TEST(start_without_a_state_creates_nothing),
        INSTANCE_TEST(a_failed_start_is_the_end),
        INSTANCE_TEST(a_reply_waits_for_its_store),
        INSTANCE_TEST(only_the_number_of_the_store_releases_the_reply),
        INSTANCE_TEST(a_store_is_confirmed_once),
        INSTANCE_TEST(everything_else_waits_for_the_store),
        INSTANCE_TEST(a_command_that_commits_nothing_is_answered_at_once),
        INSTANCE_TEST(a_locality_above_4_is_refused),
        INSTANCE_TEST(the_tpm_goes_on_in_a_later_life),
        INSTANCE_TEST(an_unconfirmed_commit_is_not_there_if_the_host_kept_the_one_before),
        INSTANCE_TEST(time_goes_on_from_the_highest_that_was_sealed),
        INSTANCE_TEST(reset_needs_startup_again_and_keeps_state),
        INSTANCE_TEST(off_saves_and_reset_powers_on_again),
        INSTANCE_TEST(a_failed_authorisation_is_stored_before_it_is_told),
    };
    return cmocka_run_group_tests_name("instance", tests, NULL, NULL);
}
