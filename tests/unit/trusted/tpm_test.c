#include "tests/fakes/assertions.h"

#include <stdlib.h>
#include <string.h>

#include "abi/instance.h"
#include "tests/fakes/failing_tpm.h"
#include "tests/fakes/runtime.h"
#include "tests/fakes/tpm_commands.h"
#include "trusted/runtime/clock.h"
#include "trusted/tpm/tpm.h"

#define TPM_RC_INITIALIZE 0x100u
#define TPM_RC_FAILURE    0x101u
#define NV_INDEX          0x01800001u
#define NS_PER_S          UINT64_C(1000000000)

static struct tpm tpm;
static uint8_t response_buffer[4096];

static struct span run(const struct tpm_message *message)
{
    struct writer w = writer_of(response_buffer, sizeof response_buffer);
    assert_ok(tpm_command(&tpm, 0, tpm_message_span(message), &w));
    return writer_span(&w);
}

static struct span run_ok(const struct tpm_message *message)
{
    struct span response = run(message);
    assert_int_equal(tpm_response_code(response), 0);
    return response;
}

static void startup(uint16_t type)
{
    struct tpm_message m;
    tpm_startup(&m, type);
    run_ok(&m);
}

/* A copy of the newest permanent state; the caller frees it. */
static uint8_t *take_state(size_t *out_size)
{
    struct span permanent;
    assert_true(tpm_take_commit(&tpm, &permanent));
    uint8_t *copy = malloc(permanent.size);
    assert_non_null(copy);
    memcpy(copy, permanent.data, permanent.size);
    *out_size = permanent.size;
    return copy;
}

static void define_and_write(const char text[16])
{
    struct tpm_message m;
    tpm_nv_define(&m, NV_INDEX, 16);
    run_ok(&m);
    tpm_nv_write(&m, NV_INDEX, span_of(text, 16));
    run_ok(&m);
}

static void assert_nv(const char text[16])
{
    struct tpm_message m;
    tpm_nv_read(&m, NV_INDEX, 16);
    struct span parameters = tpm_response_parameters(run_ok(&m), 0);
    struct span data = tpm_take_2b(&parameters);
    assert_int_equal(data.size, 16);
    assert_memory_equal(data.data, text, 16);
}

static uint64_t tpm_clock(void)
{
    struct tpm_message m;
    tpm_read_clock(&m);
    struct span parameters = tpm_response_parameters(run_ok(&m), 0);
    uint64_t clock = 0;
    for (size_t i = 0; i < 8; i++)
        clock = clock << 8 | parameters.data[8 + i];
    return clock;
}

static int power_on_new(void **state)
{
    (void)state;
    fake_runtime_reset();
    clock_advance(1000 * NS_PER_S);
    return tpm_power_on_new(&tpm).code;
}

static int power_off(void **state)
{
    (void)state;
    if (tpm.on && tpm_power_off(&tpm).code) return 1;
    free(tpm.permanent);
    tpm = (struct tpm){0};
    return 0;
}

static void a_new_tpm_has_a_state_to_be_stored_once(void **state)
{
    (void)state;
    struct span permanent;
    assert_true(tpm_take_commit(&tpm, &permanent));
    assert_true(permanent.size > 0);
    assert_false(tpm_take_commit(&tpm, &permanent));
}

static void startup_is_the_clients(void **state)
{
    (void)state;
    struct tpm_message m;
    tpm_get_random(&m, 8);
    assert_int_equal(tpm_response_code(run(&m)), TPM_RC_INITIALIZE);
    startup(TPM_SU_CLEAR);
    run_ok(&m);
}

static void a_command_that_changes_nothing_commits_nothing(void **state)
{
    (void)state;
    struct tpm_message m;
    struct span permanent;
    startup(TPM_SU_CLEAR);
    assert_true(tpm_take_commit(&tpm, &permanent));
    tpm_get_random(&m, 8);
    run_ok(&m);
    tpm_pcr_extend(&m, 10);
    run_ok(&m);
    assert_false(tpm_take_commit(&tpm, &permanent));
}

static void state_goes_on_after_power_off(void **state)
{
    (void)state;
    struct tpm_message m;
    uint8_t before[512];
    startup(TPM_SU_CLEAR);
    define_and_write("sixteen bytes...");
    tpm_create_primary_ecc(&m, TPM_RH_OWNER, TPM_ECC_NIST_P256, TPM_KEY_SIGN);
    uint32_t handle = tpm_response_handle(run_ok(&m));
    tpm_evict_control(&m, handle, 0x81000001);
    run_ok(&m);
    tpm_read_public(&m, 0x81000001);
    struct span public = run_ok(&m);
    size_t public_size = public.size, size = 0;
    memcpy(before, public.data, public_size);
    assert_ok(tpm_power_off(&tpm));
    uint8_t *permanent = take_state(&size);
    free(tpm.permanent);

    assert_ok(tpm_power_on(&tpm, span_of(permanent, size)));
    startup(TPM_SU_CLEAR);
    assert_nv("sixteen bytes...");
    public = run_ok(&m);
    assert_int_equal(public.size, public_size);
    assert_memory_equal(public.data, before, public_size);
    free(permanent);
}

static void reset_is_over_the_newest_state(void **state)
{
    (void)state;
    struct tpm_message m;
    startup(TPM_SU_CLEAR);
    define_and_write("still here after");
    assert_ok(tpm_reset(&tpm));
    tpm_get_random(&m, 8);
    assert_int_equal(tpm_response_code(run(&m)), TPM_RC_INITIALIZE);
    startup(TPM_SU_CLEAR);
    assert_nv("still here after");
}

static void power_off_saves_what_a_resume_needs(void **state)
{
    (void)state;
    startup(TPM_SU_CLEAR);
    assert_ok(tpm_power_off(&tpm));
    assert_ok(tpm_reset(&tpm));
    startup(TPM_SU_STATE);
}

static void power_off_leaves_the_clients_shutdown_as_it_was(void **state)
{
    (void)state;
    struct tpm_message m;
    startup(TPM_SU_CLEAR);
    tpm_shutdown(&m, TPM_SU_CLEAR);
    run_ok(&m);
    assert_ok(tpm_power_off(&tpm));
    assert_ok(tpm_reset(&tpm));
    tpm_startup(&m, TPM_SU_STATE);
    assert_int_not_equal(tpm_response_code(run(&m)), 0);
}

static void an_off_tpm_answers_nothing(void **state)
{
    (void)state;
    struct tpm_message m;
    struct writer w = writer_of(response_buffer, sizeof response_buffer);
    assert_ok(tpm_power_off(&tpm));
    tpm_get_random(&m, 8);
    assert_err(tpm_command(&tpm, 0, tpm_message_span(&m), &w), TPM_OFF);
    assert_err(tpm_power_off(&tpm), TPM_OFF);
}

/* S5. PCR 20 may be extended at locality 2 and above only, PCR 16 at any. */
static void locality_is_the_arguments(void **state)
{
    (void)state;
    struct tpm_message m;
    startup(TPM_SU_CLEAR);
    tpm_pcr_extend(&m, 20);
    assert_int_not_equal(tpm_response_code(run(&m)), 0);
    struct writer w = writer_of(response_buffer, sizeof response_buffer);
    assert_ok(tpm_command(&tpm, 2, tpm_message_span(&m), &w));
    assert_int_equal(tpm_response_code(writer_span(&w)), 0);
    w = writer_of(response_buffer, sizeof response_buffer);
    assert_err(tpm_command(&tpm, 5, tpm_message_span(&m), &w), BAD_VALUE);
}

static void a_command_too_long_is_refused(void **state)
{
    (void)state;
    static uint8_t bytes[TPM_BUFFER_MAX + 1];
    struct writer w = writer_of(response_buffer, sizeof response_buffer);
    assert_err(tpm_command(&tpm, 0, span_of(bytes, sizeof bytes), &w), TOO_LARGE);
    assert_ok(tpm_command(&tpm, 0, span_of(bytes, sizeof bytes - 1), &w));
}

/* S3 */
static void a_rejected_state_makes_no_new_tpm(void **state)
{
    (void)state;
    size_t size = 0;
    uint8_t *permanent = take_state(&size);
    assert_ok(tpm_power_off(&tpm));
    free(tpm.permanent);
    struct span taken;
    for (size_t cut = 0; cut < size; cut += 13) {
        assert_err(tpm_power_on(&tpm, span_of(permanent, cut)), STATE_REJECTED);
        assert_false(tpm.on);
        assert_null(tpm.permanent);
        assert_false(tpm_take_commit(&tpm, &taken));
    }
    assert_ok(tpm_power_on(&tpm, span_of(permanent, size)));
    free(permanent);
}

/* S7: the state brings its generator along; what it draws must not be what it drew. */
static void two_lives_of_one_state_draw_differently(void **state)
{
    (void)state;
    struct tpm_message m;
    uint8_t first[64];
    size_t size = 0;
    uint8_t *permanent = take_state(&size);
    for (int life = 0; life < 2; life++) {
        assert_ok(tpm_power_off(&tpm));
        free(tpm.permanent);
        assert_ok(tpm_power_on(&tpm, span_of(permanent, size)));
        startup(TPM_SU_CLEAR);
        tpm_get_random(&m, 32);
        struct span response = run_ok(&m);
        assert_int_equal(response.size, 44);
        if (life == 0) memcpy(first, response.data, response.size);
        if (life == 1) assert_memory_not_equal(first, response.data, response.size);
    }
    free(permanent);
}

/* S4 */
static void the_tpms_clock_follows_the_enclaves_and_survives(void **state)
{
    (void)state;
    startup(TPM_SU_CLEAR);
    uint64_t start = tpm_clock();
    clock_advance(1060 * NS_PER_S);
    uint64_t later = tpm_clock();
    assert_in_range(later - start, 59000, 61000);
    clock_advance(5 * NS_PER_S);
    assert_true(tpm_clock() >= later);
    assert_ok(tpm_power_off(&tpm));
    assert_ok(tpm_reset(&tpm));
    startup(TPM_SU_CLEAR);
    assert_true(tpm_clock() >= later);
}

static uint32_t lockout_counter(void)
{
    struct tpm_message m;
    tpm_get_property(&m, 0x20e); /* TPM_PT_LOCKOUT_COUNTER */
    struct span p = tpm_response_parameters(run_ok(&m), 0);
    assert_true(p.size >= 17);
    return (uint32_t)p.data[13] << 24 | (uint32_t)p.data[14] << 16 | (uint32_t)p.data[15] << 8 | p.data[16];
}

/* A wrong lockout password locks that hierarchy until time or a reset passes, and a failed commit is a commit. */
static void a_wrong_lockout_password_is_committed(void **state)
{
    (void)state;
    struct tpm_message m;
    struct span permanent;
    startup(TPM_SU_CLEAR);
    assert_int_equal(lockout_counter(), 0);
    assert_true(tpm_take_commit(&tpm, &permanent));
    tpm_clear_lockout(&m, "wrong");
    assert_int_not_equal(tpm_response_code(run(&m)), 0);
    assert_true(tpm_take_commit(&tpm, &permanent));
    tpm_clear_lockout(&m, "");
    assert_int_not_equal(tpm_response_code(run(&m)), 0);
    assert_ok(tpm_reset(&tpm));
    startup(TPM_SU_CLEAR);
    assert_int_not_equal(tpm_response_code(run(&m)), 0);
}

static size_t stirred; /* bytes, by CryptRandomStir */

uint32_t __real_CryptRandomStir(uint16_t size, uint8_t *data);
uint32_t __wrap_CryptRandomStir(uint16_t size, uint8_t *data);
uint32_t __wrap_CryptRandomStir(uint16_t size, uint8_t *data)
{
    stirred += size;
    return __real_CryptRandomStir(size, data);
}

/* S7: TPM2_Startup reseeds too, but it is the client that sends it, or does not. */
static void each_power_on_stirs_before_any_command(void **state)
{
    (void)state;
    size_t size = 0;
    uint8_t *permanent = take_state(&size);
    stirred = 0;
    assert_ok(tpm_reset(&tpm));
    assert_int_equal(stirred, 48);
    assert_ok(tpm_power_off(&tpm));
    free(tpm.permanent);
    assert_ok(tpm_power_on(&tpm, span_of(permanent, size)));
    assert_int_equal(stirred, 96);
    free(permanent);
}

/* S3 */
static void a_reset_without_a_state_makes_no_new_tpm(void **state)
{
    (void)state;
    struct span taken;
    assert_ok(tpm_power_off(&tpm));
    free(tpm.permanent);
    tpm = (struct tpm){0};
    assert_err(tpm_reset(&tpm), STATE_REJECTED);
    assert_false(tpm.on);
    assert_false(tpm_take_commit(&tpm, &taken));
}

#define LARGE_INDEX_SIZE 2048u

/* As many of the largest indices as the TPM takes. */
static uint32_t fill_nv(const uint8_t data[1024])
{
    struct tpm_message m;
    for (uint32_t count = 0;; count++) {
        tpm_nv_define(&m, NV_INDEX + count, LARGE_INDEX_SIZE);
        if (tpm_response_code(run(&m))) return count;
        tpm_nv_write(&m, NV_INDEX + count, span_of(data, 1024));
        run_ok(&m);
    }
}

static void a_full_tpm_is_stored_whole(void **state)
{
    (void)state;
    struct tpm_message m;
    static uint8_t data[1024];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7);
    startup(TPM_SU_CLEAR);
    uint32_t count = fill_nv(data);
    assert_in_range(count, 40, 200);
    assert_in_range(tpm.permanent_size, count * LARGE_INDEX_SIZE, STATE_MAX - 1024);
    assert_ok(tpm_reset(&tpm));
    startup(TPM_SU_CLEAR);
    for (uint32_t i = 0; i < count; i++) {
        tpm_nv_read(&m, NV_INDEX + i, 1024);
        struct span parameters = tpm_response_parameters(run_ok(&m), 0);
        assert_memory_equal(tpm_take_2b(&parameters).data, data, sizeof data);
    }
}

static void random_bytes_are_answered(void **state)
{
    (void)state;
    startup(TPM_SU_CLEAR);
    srand(1);
    for (int i = 0; i < 20000; i++) {
        struct tpm_message m = {.size = 10 + (size_t)rand() % 200};
        for (size_t j = 0; j < m.size; j++)
            m.bytes[j] = (uint8_t)rand();
        /* a header that libtpms gets behind */
        struct writer head = writer_of(m.bytes, 10);
        assert_ok(write_be16(&head, rand() % 2 ? 0x8001 : 0x8002));
        assert_ok(write_be32(&head, (uint32_t)m.size));
        assert_ok(write_be32(&head, 0x11f + (uint32_t)rand() % 0x80));
        assert_in_range(run(&m).size, 10, TPM_BUFFER_MAX);
    }
}

static void failure_mode_is_seen_until_a_reset(void **state)
{
    (void)state;
    struct tpm_message m;
    startup(TPM_SU_CLEAR);
    assert_false(tpm_in_failure_mode(&tpm));
    tpm_get_random(&m, FAILING_RANDOM_SIZE);
    assert_int_equal(tpm_response_code(run(&m)), TPM_RC_FAILURE);
    assert_true(tpm_in_failure_mode(&tpm));
    assert_ok(tpm_reset(&tpm));
    assert_false(tpm_in_failure_mode(&tpm));
    startup(TPM_SU_CLEAR);
    tpm_get_random(&m, 8);
    run_ok(&m);
}

static void a_tpm_that_is_off_is_not_in_failure_mode(void **state)
{
    (void)state;
    struct tpm_message m;
    startup(TPM_SU_CLEAR);
    tpm_get_random(&m, FAILING_RANDOM_SIZE);
    run(&m);
    assert_ok(tpm_power_off(&tpm));
    assert_false(tpm_in_failure_mode(&tpm));
}

static void a_tpm_is_forgotten(void **state)
{
    (void)state;
    assert_ok(tpm_power_off(&tpm));
    assert_non_null(tpm.permanent);
    tpm_forget(&tpm);
    assert_null(tpm.permanent);
    assert_int_equal(tpm.permanent_size, 0);
}

int main(void)
{
#define TPM_TEST(test) cmocka_unit_test_setup_teardown(test, power_on_new, power_off)
    const struct CMUnitTest tests[] = {
        TPM_TEST(a_new_tpm_has_a_state_to_be_stored_once),
        TPM_TEST(startup_is_the_clients),
        TPM_TEST(a_command_that_changes_nothing_commits_nothing),
        TPM_TEST(state_goes_on_after_power_off),
        TPM_TEST(reset_is_over_the_newest_state),
        TPM_TEST(power_off_saves_what_a_resume_needs),
        TPM_TEST(power_off_leaves_the_clients_shutdown_as_it_was),
        TPM_TEST(an_off_tpm_answers_nothing),
        TPM_TEST(locality_is_the_arguments),
        TPM_TEST(a_command_too_long_is_refused),
        TPM_TEST(a_rejected_state_makes_no_new_tpm),
        TPM_TEST(two_lives_of_one_state_draw_differently),
        TPM_TEST(the_tpms_clock_follows_the_enclaves_and_survives),
        TPM_TEST(a_wrong_lockout_password_is_committed),
        TPM_TEST(each_power_on_stirs_before_any_command),
        TPM_TEST(a_reset_without_a_state_makes_no_new_tpm),
        TPM_TEST(a_full_tpm_is_stored_whole),
        TPM_TEST(random_bytes_are_answered),
        TPM_TEST(failure_mode_is_seen_until_a_reset),
        TPM_TEST(a_tpm_that_is_off_is_not_in_failure_mode),
        TPM_TEST(a_tpm_is_forgotten),
    };
    return cmocka_run_group_tests_name("tpm", tests, NULL, NULL);
}
