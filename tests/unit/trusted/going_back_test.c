/* Suspending and resuming, older states, a hostile clock: what a TPM may never say twice. */
#include "tests/fakes/assertions.h"

#include <stdlib.h>
#include <string.h>

#include "abi/instance.h"
#include "tests/fakes/failing_tpm.h"
#include "tests/fakes/runtime.h"
#include "tests/fakes/tpm_commands.h"
#include "trusted/runtime/clock.h"
#include "trusted/tpm/libtpms.h"
#include "trusted/tpm/lockout.h"
#include "trusted/tpm/tpm.h"

#define TPM_RC_INITIALIZE   0x100u
#define TPM_RC_REFERENCE_H0 0x910u
#define TPM_RC_LOCKOUT      0x921u
#define TPM_RC_RETRY        0x922u /* said once in each life: the use of a guarded authValue has been recorded */
#define TPM_RC_AUTH_FAIL    0x98eu
#define TPM_RC_INTEGRITY    0x1dfu /* of parameter 1 */
#define NV_INDEX            0x01800001u
#define OTHER_INDEX         0x01800002u
#define NEW_INDEX           0x01800003u
#define ORDERLY_INDEX       0x01800004u
#define COUNTER             0x02020012u /* OWNERWRITE, OWNERREAD, NO_DA, TPM_NT_COUNTER */
#define ORDERLY_COUNTER     (COUNTER | 0x04000000u)
#define GUARDED             0x00040004u /* AUTHWRITE, AUTHREAD, guarded against dictionary attacks */
#define NS_PER_S            UINT64_C(1000000000)
#define YEAR                (UINT64_C(365) * 24 * 3600 * NS_PER_S)

static struct tpm tpm;
static uint8_t response_buffer[4096];
static uint64_t host_time; /* ns */

struct state {
    uint8_t bytes[STATE_MAX];
    size_t size;
};

static struct state permanent, newer, suspended;

static void copy(struct state *out, struct span bytes)
{
    assert_in_range(bytes.size, 1, sizeof out->bytes);
    memcpy(out->bytes, bytes.data, bytes.size);
    out->size = bytes.size;
}

static struct span span_of_state(const struct state *state)
{
    return span_of(state->bytes, state->size);
}

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

static void shut_down(uint16_t type)
{
    struct tpm_message m;
    tpm_shutdown(&m, type);
    run_ok(&m);
}

static void reset_hard(void)
{
    assert_ok(tpm_reset(&tpm));
    startup(TPM_SU_CLEAR);
}

static void reset_soft(void)
{
    shut_down(TPM_SU_CLEAR);
    reset_hard();
}

/* The newest permanent state, as one that was stored. */
static void keep(struct state *out)
{
    struct span taken;
    (void)tpm_take_commit(&tpm, &taken);
    copy(out, span_of(tpm.permanent, tpm.permanent_size));
}

/* The enclave is gone; what it did not hand out before is lost. */
static void vanish(void)
{
    if (tpm.on) assert_ok(tpm_power_off(&tpm));
    tpm_forget(&tpm);
    tpm = (struct tpm){0};
}

static void power_on(const struct state *state)
{
    vanish();
    assert_ok(tpm_power_on(&tpm, span_of_state(state)));
}

static void suspend(void)
{
    struct span volatile_state;
    assert_ok(tpm_suspend(&tpm, STATE_MAX, &volatile_state));
    assert_false(tpm.on);
    copy(&suspended, volatile_state);
    keep(&permanent);
    tpm_forget(&tpm);
}

static void resume(void)
{
    vanish();
    assert_ok(tpm_resume(&tpm, span_of_state(&permanent), span_of_state(&suspended)));
}

static uint64_t be(const uint8_t *bytes, size_t size)
{
    uint64_t value = 0;
    for (size_t i = 0; i < size; i++)
        value = value << 8 | bytes[i];
    return value;
}

struct clock_info {
    uint64_t clock;
    uint32_t reset_count, restart_count;
    bool safe;
};

static struct clock_info clock_info(void)
{
    struct tpm_message m;
    tpm_read_clock(&m);
    struct span p = tpm_response_parameters(run_ok(&m), 0);
    assert_int_equal(p.size, 25);
    return (struct clock_info){.clock = be(p.data + 8, 8),
                               .reset_count = (uint32_t)be(p.data + 16, 4),
                               .restart_count = (uint32_t)be(p.data + 20, 4),
                               .safe = p.data[24]};
}

static uint32_t lockout_counter(void)
{
    struct tpm_message m;
    tpm_get_property(&m, 0x20e); /* TPM_PT_LOCKOUT_COUNTER */
    struct span p = tpm_response_parameters(run_ok(&m), 0);
    assert_int_equal(p.size, 17);
    return (uint32_t)be(p.data + 13, 4);
}

static uint64_t counter(uint32_t index)
{
    struct tpm_message m;
    tpm_nv_read(&m, index, 8);
    struct span p = tpm_response_parameters(run_ok(&m), 0);
    struct span data = tpm_take_2b(&p);
    assert_int_equal(data.size, 8);
    return be(data.data, 8);
}

static void define_counter(uint32_t index, uint32_t attributes)
{
    struct tpm_message m;
    tpm_nv_define_as(&m, index, 8, attributes, "");
    run_ok(&m);
}

static void increment(uint32_t index, int times)
{
    struct tpm_message m;
    tpm_nv_increment(&m, index);
    for (int i = 0; i < times; i++)
        run_ok(&m);
}

static void define_guarded(void)
{
    struct tpm_message m;
    tpm_nv_define_as(&m, NV_INDEX, 8, GUARDED, "secret");
    run_ok(&m);
}

/* Reads the guarded index; the code that it answers. */
static uint32_t guess(const char *auth)
{
    struct tpm_message m;
    tpm_nv_read_with(&m, NV_INDEX, 8, auth);
    uint32_t code = tpm_response_code(run(&m));
    return code == TPM_RC_RETRY ? tpm_response_code(run(&m)) : code;
}

static void fail_tries(int times)
{
    for (int i = 0; i < times; i++)
        assert_int_equal(guess("wrong"), TPM_RC_AUTH_FAIL);
}

static uint32_t clear_lockout(const char *auth)
{
    struct tpm_message m;
    tpm_clear_lockout(&m, auth);
    return tpm_response_code(run(&m));
}

static uint64_t audit_count(void)
{
    struct tpm_message m;
    tpm_get_audit_digest(&m);
    struct span p = tpm_response_parameters(run_ok(&m), 0);
    struct span info = tpm_take_2b(&p);
    struct reader r = reader_of(info);
    struct span skipped, sized;
    assert_ok(read_span(&r, 6, &skipped)); /* magic, type */
    sized = span_of(r.next, r.left);
    tpm_take_2b(&sized); /* qualifiedSigner */
    tpm_take_2b(&sized); /* extraData */
    assert_in_range(sized.size, 33, 200);
    return be(sized.data + 25, 8); /* behind clockInfo and firmwareVersion */
}

static int power_on_new(void **state)
{
    (void)state;
    fake_runtime_reset();
    lockout_set_heals(LOCKOUT_HEALS_TIME);
    host_time = 1000 * NS_PER_S;
    clock_advance(host_time);
    if (tpm_power_on_new(&tpm).code) return 1;
    startup(TPM_SU_CLEAR);
    return 0;
}

static int power_off(void **state)
{
    (void)state;
    vanish();
    return 0;
}

/* ---- suspending and resuming ---- */

static uint32_t create_primary(uint32_t hierarchy, enum tpm_key_use use)
{
    struct tpm_message m;
    tpm_create_primary_ecc(&m, hierarchy, TPM_ECC_NIST_P256, use);
    return tpm_response_handle(run_ok(&m));
}

static uint32_t start_policy(void)
{
    struct tpm_message m;
    tpm_start_policy(&m);
    return tpm_response_handle(run_ok(&m));
}

/* What the command answers now is what it answered at first, if there was a first. */
static void assert_same(const struct tpm_message *m, struct state *first)
{
    struct span response = run_ok(m);
    if (first->size == 0) copy(first, response);
    assert_int_equal(response.size, first->size);
    assert_memory_equal(response.data, first->bytes, first->size);
}

static void a_resumed_tpm_goes_on(void **state)
{
    (void)state;
    static struct state pcr, digest, public;
    struct tpm_message pcr_read, policy_digest, read_public, m;
    pcr.size = digest.size = public.size = 0;
    tpm_pcr_extend(&m, 10);
    run_ok(&m);
    uint32_t key = create_primary(TPM_RH_OWNER, TPM_KEY_SIGN);
    uint32_t session = start_policy();
    tpm_policy_auth_value(&m, session);
    run_ok(&m);
    define_counter(NV_INDEX, ORDERLY_COUNTER);
    increment(NV_INDEX, 3);
    tpm_pcr_read(&pcr_read, 10);
    tpm_policy_digest(&policy_digest, session);
    tpm_read_public(&read_public, key);
    for (int life = 0; life < 3; life++) {
        assert_same(&pcr_read, &pcr);
        assert_same(&policy_digest, &digest);
        assert_same(&read_public, &public);
        assert_int_equal(counter(NV_INDEX), 3);
        suspend();
        resume();
    }
    tpm_startup(&m, TPM_SU_CLEAR);
    assert_int_equal(tpm_response_code(run(&m)), TPM_RC_INITIALIZE);
}

static void a_resumed_tpm_is_shut_down_as_any(void **state)
{
    (void)state;
    suspend();
    resume();
    assert_ok(tpm_power_off(&tpm));
    keep(&permanent);
    power_on(&permanent);
    startup(TPM_SU_STATE);
}

static void resuming_leaves_the_clients_shutdown_as_it_was(void **state)
{
    (void)state;
    struct tpm_message m;
    shut_down(TPM_SU_CLEAR);
    suspend();
    resume();
    assert_ok(tpm_power_off(&tpm));
    keep(&permanent);
    power_on(&permanent);
    tpm_startup(&m, TPM_SU_STATE);
    assert_int_not_equal(tpm_response_code(run(&m)), 0);
}

static void a_tpm_that_was_not_started_is_resumed_not_started(void **state)
{
    (void)state;
    struct tpm_message m;
    assert_ok(tpm_reset(&tpm));
    suspend();
    resume();
    tpm_get_random(&m, 8);
    assert_int_equal(tpm_response_code(run(&m)), TPM_RC_INITIALIZE);
    startup(TPM_SU_CLEAR);
}

/* S7: bytes, nonces, ephemeral keys, and those of TPM2_Commit's kind, which libtpms derives from a nonce it keeps. */
static void two_resumes_of_one_state_draw_differently(void **state)
{
    (void)state;
    enum { COMMANDS = 4 };
    static struct state drawn[COMMANDS];
    struct tpm_message commands[COMMANDS];
    uint32_t key = create_primary(TPM_RH_OWNER, TPM_KEY_DECRYPT);
    tpm_get_random(&commands[0], 32);
    tpm_start_policy(&commands[1]);
    tpm_ecdh_keygen(&commands[2], key);
    tpm_ec_ephemeral(&commands[3], TPM_ECC_NIST_P256);
    suspend();
    for (int life = 0; life < 2; life++) {
        for (size_t i = 0; i < COMMANDS; i++) {
            resume(); /* each draws the first that there is */
            struct span response = run_ok(&commands[i]);
            if (life == 0) copy(&drawn[i], response);
            assert_int_equal(response.size, drawn[i].size);
            if (life == 1) assert_memory_not_equal(response.data, drawn[i].bytes, response.size);
        }
    }
}

/* libtpms would finish one with another nonce than it was begun with. */
static void a_commit_from_before_a_resume_is_forgotten(void **state)
{
    (void)state;
    static const uint8_t none[sizeof gr.commitArray];
    struct tpm_message m;
    tpm_ec_ephemeral(&m, TPM_ECC_NIST_P256);
    run_ok(&m);
    assert_memory_not_equal(gr.commitArray, none, sizeof none);
    suspend();
    resume();
    assert_memory_equal(gr.commitArray, none, sizeof none);
}

static size_t stirred; /* bytes, by CryptRandomStir */

uint32_t __real_CryptRandomStir(uint16_t size, uint8_t *data);
uint32_t __wrap_CryptRandomStir(uint16_t size, uint8_t *data);
uint32_t __wrap_CryptRandomStir(uint16_t size, uint8_t *data)
{
    stirred += size;
    return __real_CryptRandomStir(size, data);
}

static void each_load_stirs_before_any_command(void **state)
{
    (void)state;
    struct tpm_floors floors = {0};
    suspend();
    stirred = 0;
    resume();
    assert_int_equal(stirred, 48);
    vanish();
    stirred = 0;
    assert_ok(tpm_power_on_reverted(&tpm, span_of_state(&permanent), &floors));
    assert_int_equal(stirred, 48);
}

static void assert_not_resumed(struct span permanent_state, struct span volatile_state)
{
    struct span taken;
    assert_err(tpm_resume(&tpm, permanent_state, volatile_state), STATE_REJECTED);
    assert_false(tpm.on);
    assert_null(tpm.permanent);
    assert_false(tpm_take_commit(&tpm, &taken));
}

/* S7 */
static void a_volatile_state_that_does_not_belong_is_refused(void **state)
{
    (void)state;
    static struct state other;
    struct tpm_message m;
    suspend();
    other = suspended;
    resume();
    tpm_nv_define(&m, OTHER_INDEX, 8);
    run_ok(&m);
    assert_ok(tpm_power_off(&tpm));
    keep(&newer);
    tpm_forget(&tpm);
    assert_not_resumed(span_of_state(&newer), span_of_state(&suspended)); /* an older volatile state */

    assert_ok(tpm_power_on_new(&tpm));
    startup(TPM_SU_CLEAR);
    suspend();
    assert_not_resumed(span_of_state(&permanent), span_of_state(&other)); /* another TPM's */
    memcpy(other.bytes, suspended.bytes, 32);
    assert_not_resumed(span_of_state(&permanent), span_of_state(&other)); /* and libtpms would notice, too */
    resume();
}

static void a_cut_volatile_state_is_refused(void **state)
{
    (void)state;
    suspend();
    for (size_t cut = 0; cut < suspended.size; cut += 41)
        assert_not_resumed(span_of_state(&permanent), span_of(suspended.bytes, cut));
    for (size_t cut = 0; cut < permanent.size; cut += 41)
        assert_not_resumed(span_of(permanent.bytes, cut), span_of_state(&suspended));
    assert_not_resumed(span_of_state(&permanent), span_of_state(&permanent));
    power_on(&permanent); /* without it, as the caller may decide */
    startup(TPM_SU_CLEAR);
}

static size_t no_memory_for; /* a block of this many bytes */

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size)
{
    return size && size == no_memory_for ? NULL : __real_malloc(size);
}

/* libtpms would go on without it: with PCRs of 0 under a running machine. */
static void a_volatile_state_that_finds_no_memory_is_not_left_out(void **state)
{
    (void)state;
    suspend();
    no_memory_for = suspended.size - 32; /* as libtpms gets it */
    assert_err(tpm_resume(&tpm, span_of_state(&permanent), span_of_state(&suspended)), NO_MEMORY);
    no_memory_for = 0;
    assert_false(tpm.on);
    resume();
}

static void failure_mode_is_not_suspended(void **state)
{
    (void)state;
    struct tpm_message m;
    struct span volatile_state;
    tpm_get_random(&m, FAILING_RANDOM_SIZE);
    run(&m);
    assert_err(tpm_suspend(&tpm, STATE_MAX, &volatile_state), TPM_FAILED);
    assert_true(tpm.on);
    assert_ok(tpm_reset(&tpm));
    startup(TPM_SU_CLEAR);
    suspend();
    assert_err(tpm_suspend(&tpm, STATE_MAX, &volatile_state), TPM_OFF);
}

/* Nor is what its keeper has no room for; the TPM goes on, and the Clock that was saved on the way is to be stored. */
static void what_is_too_large_is_not_suspended(void **state)
{
    (void)state;
    struct span volatile_state;
    struct tpm_message m;
    suspend();
    size_t size = permanent.size + suspended.size;
    resume();
    assert_err(tpm_suspend(&tpm, size - 1, &volatile_state), TOO_LARGE);
    assert_true(tpm.on);
    assert_int_equal(tpm.suspended_size, 0);
    tpm_get_random(&m, 8);
    run_ok(&m);
    keep(&permanent);
    assert_ok(tpm_suspend(&tpm, size, &volatile_state));
    assert_false(tpm.on);
}

/* What libtpms keeps in memory only, and a suspend must not forget: with a recovery of 0, until the next startup. */
static void suspending_does_not_unlock_lockout_auth(void **state)
{
    (void)state;
    struct tpm_message m;
    tpm_da_parameters(&m, 32, 1000, 0);
    run_ok(&m);
    assert_int_equal(clear_lockout("wrong"), TPM_RC_AUTH_FAIL);
    suspend();
    resume();
    assert_int_equal(clear_lockout(""), TPM_RC_LOCKOUT);
}

/* ---- floors ---- */

static struct tpm_floors read_floors(void)
{
    struct tpm_floors floors;
    tpm_read_floors(&tpm, &floors);
    return floors;
}

static void encode(const struct tpm_floors *floors, uint8_t out[TPM_FLOORS_SIZE])
{
    struct writer w = writer_of(out, TPM_FLOORS_SIZE);
    assert_ok(tpm_floors_encode(floors, &w));
    assert_int_equal(w.size, TPM_FLOORS_SIZE);
}

static void assert_floors(const struct tpm_floors *expected)
{
    uint8_t is[TPM_FLOORS_SIZE], should_be[TPM_FLOORS_SIZE];
    struct tpm_floors floors = read_floors();
    encode(&floors, is);
    encode(expected, should_be);
    assert_memory_equal(is, should_be, TPM_FLOORS_SIZE);
}

/* The layout of libtpms' globals, against what its commands answer. */
static void floors_are_what_commands_answer(void **state)
{
    (void)state;
    struct tpm_message m;
    tpm_audit_get_random(&m);
    run_ok(&m);
    assert_int_equal(read_floors().audit_count, audit_count());
    tpm_get_random(&m, 8);
    run_ok(&m); /* begins a new digest */
    assert_int_equal(audit_count(), 1);
    assert_int_equal(read_floors().audit_count, 1);
    tpm_clock_set(&m, 0x123456789a);
    run_ok(&m);
    assert_int_equal(clock_info().clock, 0x123456789a);
    assert_int_equal(read_floors().clock, 0x123456789a + CLOCK_RESERVE);
    shut_down(TPM_SU_CLEAR);
    assert_int_equal(read_floors().clock, clock_info().clock);
    assert_ok(tpm_reset(&tpm));
    startup(TPM_SU_CLEAR);

    define_guarded();
    assert_int_equal(read_floors().failed_tries, lockout_counter());
    fail_tries(2);
    assert_int_equal(lockout_counter(), 2);
    assert_int_equal(read_floors().failed_tries, 3); /* with that of an end without TPM2_Shutdown */
    assert_false(read_floors().lockout_auth_locked);
    assert_int_equal(clear_lockout("wrong"), TPM_RC_AUTH_FAIL);
    assert_true(read_floors().lockout_auth_locked);
}

static void resets_are_counted_as_commands_count_them(void **state)
{
    (void)state;
    struct tpm_message m;
    for (uint32_t i = 0; i < 3; i++) {
        struct tpm_floors before = read_floors();
        shut_down(TPM_SU_CLEAR);
        assert_ok(tpm_reset(&tpm));
        startup(TPM_SU_CLEAR); /* a TPM Reset */
        assert_int_equal(read_floors().reset_count, clock_info().reset_count);
        assert_int_equal(read_floors().reset_count, before.reset_count + 1);
        assert_int_equal(read_floors().total_reset_count, before.total_reset_count + 1);
        assert_int_equal(read_floors().time_epoch, before.time_epoch + 1);
        before = read_floors();
        shut_down(TPM_SU_STATE);
        assert_ok(tpm_reset(&tpm));
        startup(TPM_SU_STATE); /* a TPM Resume: only the epoch of its time is new */
        assert_int_equal(read_floors().total_reset_count, before.total_reset_count);
        assert_int_equal(read_floors().time_epoch, before.time_epoch + 1);
    }
    struct tpm_floors before = read_floors();
    tpm_clear(&m);
    run_ok(&m);
    assert_int_equal(clock_info().reset_count, 0);
    assert_int_equal(read_floors().reset_count, 0);
    assert_int_equal(read_floors().total_reset_count, before.total_reset_count);
}

static void the_highest_counter_is_found(void **state)
{
    (void)state;
    struct tpm_message m;
    assert_int_equal(read_floors().nv_count, 0);
    tpm_nv_define(&m, NEW_INDEX, 64); /* no counter, and before them */
    run_ok(&m);
    uint32_t key = create_primary(TPM_RH_OWNER, TPM_KEY_SIGN);
    tpm_evict_control(&m, key, 0x81000001);
    run_ok(&m);
    define_counter(NV_INDEX, COUNTER);
    assert_int_equal(read_floors().nv_count, 0); /* not written */
    increment(NV_INDEX, 5);
    assert_int_equal(read_floors().nv_count, counter(NV_INDEX));
    tpm_nv_undefine(&m, NV_INDEX);
    run_ok(&m);
    assert_int_equal(read_floors().nv_count, 5);
    define_counter(OTHER_INDEX, ORDERLY_COUNTER);
    increment(OTHER_INDEX, 1);
    assert_int_equal(counter(OTHER_INDEX), 6);
    assert_int_equal(read_floors().nv_count, 0xff); /* as far as it may go without being stored */
    suspend();
    resume();
    assert_int_equal(read_floors().nv_count, 0xff);
}

static const struct tpm_floors high = {
    .total_reset_count = 0x1122334455667788,
    .clock = 0x0102030405060708,
    .audit_count = 0x1020304050607080,
    .nv_count = 0x99aabbccddeeff00,
    .reset_count = 0x11223344,
    .failed_tries = 3, /* as many as a new TPM takes */
    .time_epoch = 0x55667788,
    .lockout_auth_locked = true,
};

static void an_older_state_is_raised_to_each_floor(void **state)
{
    (void)state;
    struct tpm_message m;
    define_guarded();
    define_counter(OTHER_INDEX, COUNTER);
    increment(OTHER_INDEX, 1);
    shut_down(TPM_SU_STATE);
    keep(&permanent);
    vanish();
    assert_ok(tpm_power_on_reverted(&tpm, span_of_state(&permanent), &high));
    startup(TPM_SU_CLEAR);
    struct clock_info info = clock_info();
    assert_int_equal(info.reset_count, high.reset_count + 1);
    assert_int_equal(info.restart_count, 0);
    assert_true(info.clock >= high.clock);
    assert_false(info.safe);
    assert_int_equal(lockout_counter(), 3);
    assert_int_equal(guess("secret"), TPM_RC_LOCKOUT);
    assert_int_equal(clear_lockout(""), TPM_RC_LOCKOUT);
    assert_true(counter(OTHER_INDEX) == high.nv_count);
    define_counter(NEW_INDEX, COUNTER);
    increment(NEW_INDEX, 1);
    assert_true(counter(NEW_INDEX) == high.nv_count + 1);
    assert_true(audit_count() == high.audit_count);
    assert_true(read_floors().total_reset_count == high.total_reset_count + 1);
    assert_int_equal(read_floors().time_epoch, high.time_epoch + 1);
    tpm_get_random(&m, 8);
    run_ok(&m);
}

static void an_orderly_counter_is_raised_too(void **state)
{
    (void)state;
    define_counter(NV_INDEX, ORDERLY_COUNTER);
    increment(NV_INDEX, 2);
    shut_down(TPM_SU_CLEAR);
    keep(&permanent);
    vanish();
    assert_ok(tpm_power_on_reverted(&tpm, span_of_state(&permanent), &high));
    startup(TPM_SU_CLEAR);
    assert_true(counter(NV_INDEX) == high.nv_count);
}

static void floors_below_the_state_change_nothing(void **state)
{
    (void)state;
    struct tpm_message m;
    tpm_clock_set(&m, 5000000);
    run_ok(&m);
    define_counter(NV_INDEX, COUNTER);
    increment(NV_INDEX, 9);
    shut_down(TPM_SU_CLEAR);
    keep(&permanent);
    struct tpm_floors before = read_floors(), none = {0};
    vanish();
    assert_ok(tpm_power_on_reverted(&tpm, span_of_state(&permanent), &none));
    assert_floors(&before);
    startup(TPM_SU_CLEAR);
    assert_int_equal(counter(NV_INDEX), 9);
}

/* The raised state is the one to be stored: a reset or another start does not lose it. */
static void what_was_raised_is_committed(void **state)
{
    (void)state;
    struct span taken;
    shut_down(TPM_SU_CLEAR);
    keep(&permanent);
    vanish();
    assert_ok(tpm_power_on_reverted(&tpm, span_of_state(&permanent), &high));
    assert_true(tpm_take_commit(&tpm, &taken));
    copy(&permanent, taken);
    power_on(&permanent);
    assert_floors(&high);
}

static void a_revert_cannot_be_started_as_a_resume(void **state)
{
    (void)state;
    struct tpm_message m;
    struct tpm_floors none = {0};
    shut_down(TPM_SU_STATE);
    keep(&permanent);
    power_on(&permanent);
    startup(TPM_SU_STATE); /* it could be, without */
    vanish();
    assert_ok(tpm_power_on_reverted(&tpm, span_of_state(&permanent), &none));
    tpm_startup(&m, TPM_SU_STATE);
    assert_int_not_equal(tpm_response_code(run(&m)), 0);
    startup(TPM_SU_CLEAR);
}

/* A life that used a guarded authValue and was not shut down counts as a failed try: a revert is no way round it. */
static void a_revert_is_as_orderly_as_its_state(void **state)
{
    (void)state;
    struct tpm_floors none = {0};
    define_guarded();
    (void)guess("secret");
    keep(&newer);
    shut_down(TPM_SU_CLEAR);
    keep(&permanent);
    vanish();
    assert_ok(tpm_power_on_reverted(&tpm, span_of_state(&permanent), &none));
    startup(TPM_SU_CLEAR);
    assert_int_equal(lockout_counter(), 0);
    vanish();
    assert_ok(tpm_power_on_reverted(&tpm, span_of_state(&newer), &none));
    startup(TPM_SU_CLEAR);
    assert_int_equal(lockout_counter(), 1);
}

/* It was killed before the failed try was stored, and what is put back was shut down before it began. */
static void a_guess_that_was_cut_off_counts_after_a_revert(void **state)
{
    (void)state;
    define_guarded();
    shut_down(TPM_SU_CLEAR);
    keep(&permanent);
    power_on(&permanent);
    startup(TPM_SU_CLEAR);
    (void)guess("secret");
    const struct tpm_floors killed = read_floors();
    shut_down(TPM_SU_CLEAR);
    assert_int_equal(read_floors().failed_tries, 0);
    vanish();
    assert_ok(tpm_power_on_reverted(&tpm, span_of_state(&permanent), &killed));
    startup(TPM_SU_CLEAR);
    assert_int_equal(lockout_counter(), 1);
}

static void save_context(uint32_t handle, struct state *out)
{
    struct tpm_message m;
    tpm_context_save(&m, handle);
    copy(out, tpm_response_parameters(run_ok(&m), 0));
}

static uint32_t load_context(const struct state *context)
{
    struct tpm_message m;
    tpm_context_load(&m, span_of_state(context));
    return tpm_response_code(run(&m));
}

/*
 * A context of an object is bound to the number of resets and to a secret of its hierarchy. After a revert the number
 * comes again: the context of a key that was made in the time that is undone would load.
 */
static void saved_contexts_of_any_time_are_refused_after_a_revert(void **state)
{
    (void)state;
    static struct state before, after, session;
    save_context(create_primary(TPM_RH_OWNER, TPM_KEY_SIGN), &before);
    save_context(start_policy(), &session);
    shut_down(TPM_SU_STATE);
    keep(&permanent);
    power_on(&permanent);
    startup(TPM_SU_STATE); /* a TPM Resume, which keeps them */
    assert_int_equal(load_context(&before), 0);
    assert_int_equal(load_context(&session), 0);
    reset_soft();
    save_context(create_primary(TPM_RH_OWNER, TPM_KEY_SIGN), &after);
    struct tpm_floors floors = read_floors();

    power_on(&permanent); /* put back without the floors */
    startup(TPM_SU_STATE);
    reset_soft();
    assert_int_equal(load_context(&after), 0); /* it works */

    vanish();
    assert_ok(tpm_power_on_reverted(&tpm, span_of_state(&permanent), &floors));
    startup(TPM_SU_CLEAR);
    assert_int_equal(load_context(&before), TPM_RC_INTEGRITY);
    assert_int_equal(load_context(&after), TPM_RC_INTEGRITY);
    assert_int_equal(load_context(&session), TPM_RC_INTEGRITY);
}

/* Locked out: three failed tries, and lockoutAuth. */
static void lock_out(void)
{
    fail_tries(3);
    assert_int_equal(guess("secret"), TPM_RC_LOCKOUT);
    assert_int_equal(clear_lockout("wrong"), TPM_RC_AUTH_FAIL);
    assert_int_equal(clear_lockout(""), TPM_RC_LOCKOUT);
}

/* ---- a snapshot of the machine that was left since, and is gone back to while it runs ---- */

static void go_back(const struct tpm_floors *floors)
{
    vanish();
    assert_ok(tpm_go_back(&tpm, span_of_state(&permanent), span_of_state(&suspended), floors));
}

/* To what suspend took, from a later time that did this. */
static void go_back_from(void (*later)(void))
{
    suspend();
    resume();
    later();
    const struct tpm_floors floors = read_floors();
    go_back(&floors);
}

static void extend_and_define(void)
{
    struct tpm_message m;
    tpm_pcr_extend(&m, 10);
    run_ok(&m);
    tpm_nv_define(&m, OTHER_INDEX, 8);
    run_ok(&m);
}

static void a_tpm_that_went_back_goes_on_without_a_startup(void **state)
{
    (void)state;
    static struct state pcr, public;
    struct tpm_message pcr_read, read_public, m;
    pcr.size = public.size = 0;
    tpm_pcr_extend(&m, 10);
    run_ok(&m);
    tpm_pcr_read(&pcr_read, 10);
    tpm_read_public(&read_public, create_primary(TPM_RH_OWNER, TPM_KEY_SIGN));
    assert_same(&pcr_read, &pcr);
    assert_same(&read_public, &public);
    for (int i = 0; i < 2; i++) {
        go_back_from(extend_and_define);
        assert_same(&pcr_read, &pcr);
        assert_same(&read_public, &public);
        tpm_startup(&m, TPM_SU_CLEAR);
        assert_int_equal(tpm_response_code(run(&m)), TPM_RC_INITIALIZE);
        tpm_nv_read(&m, OTHER_INDEX, 8);
        assert_int_not_equal(tpm_response_code(run(&m)), 0); /* it is not there any more */
    }
}

static void what_goes_back_is_raised_to_each_floor(void **state)
{
    (void)state;
    struct tpm_message m;
    define_guarded();
    define_counter(OTHER_INDEX, COUNTER);
    increment(OTHER_INDEX, 1);
    define_counter(ORDERLY_INDEX, ORDERLY_COUNTER);
    increment(ORDERLY_INDEX, 2);
    suspend();
    go_back(&high);
    struct clock_info info = clock_info();
    assert_int_equal(info.reset_count, high.reset_count + 1);
    assert_true(info.clock >= high.clock);
    assert_false(info.safe);
    assert_int_equal(lockout_counter(), 3);
    assert_int_equal(guess("secret"), TPM_RC_LOCKOUT);
    assert_int_equal(clear_lockout(""), TPM_RC_LOCKOUT);
    assert_true(counter(OTHER_INDEX) == high.nv_count);
    assert_true(counter(ORDERLY_INDEX) == high.nv_count);
    increment(ORDERLY_INDEX, 1);
    assert_true(counter(ORDERLY_INDEX) == high.nv_count + 1);
    define_counter(NEW_INDEX, COUNTER);
    increment(NEW_INDEX, 1);
    assert_true(counter(NEW_INDEX) > high.nv_count);
    assert_true(audit_count() == high.audit_count);
    assert_true(read_floors().total_reset_count == high.total_reset_count + 1);
    assert_int_equal(read_floors().time_epoch, high.time_epoch + 1);
    tpm_get_random(&m, 8);
    run_ok(&m);
}

/* What a deleted counter had is all that is left of it. */
static void a_new_counter_begins_behind_all_that_there_were(void **state)
{
    (void)state;
    suspend();
    go_back(&high);
    define_counter(NEW_INDEX, COUNTER);
    increment(NEW_INDEX, 1);
    assert_true(counter(NEW_INDEX) == high.nv_count + 1);
}

static void nothing_happens(void)
{
}

static void each_going_back_to_one_snapshot_is_one_reset_more(void **state)
{
    (void)state;
    suspend();
    resume();
    for (int i = 0; i < 3; i++) {
        const struct tpm_floors before = read_floors();
        go_back(&before);
        assert_int_equal(clock_info().reset_count, before.reset_count + 1);
        assert_int_equal(read_floors().total_reset_count, before.total_reset_count + 1);
        assert_int_equal(read_floors().time_epoch, before.time_epoch + 1);
    }
}

/* A kill right behind it brings none of it back. */
static void what_went_back_is_committed_as_it_was_raised(void **state)
{
    (void)state;
    struct span taken;
    define_counter(ORDERLY_INDEX, ORDERLY_COUNTER);
    increment(ORDERLY_INDEX, 1);
    suspend();
    go_back(&high);
    assert_true(tpm_take_commit(&tpm, &taken));
    copy(&newer, taken);
    power_on(&newer);
    startup(TPM_SU_CLEAR);
    assert_int_equal(clock_info().reset_count, high.reset_count + 2);
    assert_true(clock_info().clock >= high.clock);
    assert_int_equal(lockout_counter(), 3);
    assert_true(counter(ORDERLY_INDEX) >= high.nv_count);
    assert_true(audit_count() == high.audit_count);
    assert_true(read_floors().total_reset_count == high.total_reset_count + 2);
}

/* Contexts of a key of the owner, of one of nobody, and of a session. */
static void save_contexts(struct state out[3])
{
    struct tpm_message m;
    const uint32_t keys[] = {create_primary(TPM_RH_OWNER, TPM_KEY_SIGN), create_primary(TPM_RH_NULL, TPM_KEY_DECRYPT)};
    for (size_t i = 0; i < 2; i++) {
        save_context(keys[i], &out[i]);
        tpm_flush(&m, keys[i]);
        run_ok(&m);
    }
    save_context(start_policy(), &out[2]);
}

static void sessions_and_contexts_of_both_times_end(void **state)
{
    (void)state;
    static struct state before[3], after[3];
    struct tpm_message m;
    save_contexts(before);
    const uint32_t loaded = start_policy();
    g_exclusiveAuditSession = loaded;
    suspend();
    resume();
    tpm_policy_digest(&m, loaded);
    run_ok(&m); /* where nothing was left it goes on, */
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(load_context(&before[i]), 0); /* and so do these */
    reset_soft();
    save_contexts(after);
    const struct tpm_floors floors = read_floors();
    go_back(&floors);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(load_context(&before[i]), TPM_RC_INTEGRITY);
        assert_int_equal(load_context(&after[i]), TPM_RC_INTEGRITY);
    }
    assert_int_equal(tpm_response_code(run(&m)), TPM_RC_REFERENCE_H0);
    assert_int_equal(g_exclusiveAuditSession, LIBTPMS_RH_UNASSIGNED);
    for (int i = 0; i < 3; i++) /* as many as can be loaded */
        (void)start_policy();
}

/* S7; and what protects a session's context depends on its number, which comes again. */
static void two_goings_back_to_one_snapshot_draw_differently(void **state)
{
    (void)state;
    enum { COMMANDS = 4 };
    static struct state drawn[COMMANDS];
    static uint8_t proof[sizeof gr.nullProof];
    struct tpm_message commands[COMMANDS];
    uint32_t key = create_primary(TPM_RH_OWNER, TPM_KEY_DECRYPT);
    tpm_get_random(&commands[0], 32);
    tpm_start_policy(&commands[1]);
    tpm_ecdh_keygen(&commands[2], key);
    tpm_ec_ephemeral(&commands[3], TPM_ECC_NIST_P256);
    memcpy(proof, gr.nullProof, sizeof proof);
    suspend();
    const struct tpm_floors floors = {0};
    for (int life = 0; life < 2; life++) {
        for (size_t i = 0; i < COMMANDS; i++) {
            go_back(&floors);
            assert_memory_not_equal(gr.nullProof, proof, sizeof proof);
            memcpy(proof, gr.nullProof, sizeof proof);
            struct span response = run_ok(&commands[i]);
            if (life == 0) copy(&drawn[i], response);
            assert_int_equal(response.size, drawn[i].size);
            if (life == 1) assert_memory_not_equal(response.data, drawn[i].bytes, response.size);
        }
    }
}

/* With its startup libtpms would take what it stored at the shutdown: the nonce of TPM2_Commit, too. */
static void what_went_back_is_never_started_as_a_resume(void **state)
{
    (void)state;
    struct tpm_message m;
    const struct tpm_floors none = {0};
    tpm_startup(&m, TPM_SU_STATE);
    shut_down(TPM_SU_STATE);
    suspend();
    resume();
    assert_ok(tpm_reset(&tpm));
    run_ok(&m); /* it could be, without */
    go_back(&none);
    assert_ok(tpm_reset(&tpm));
    assert_int_not_equal(tpm_response_code(run(&m)), 0);
    startup(TPM_SU_CLEAR);
}

static void one_that_was_not_started_is_started_anew(void **state)
{
    (void)state;
    struct tpm_message m;
    assert_ok(tpm_reset(&tpm));
    suspend();
    go_back(&high);
    tpm_get_random(&m, 8);
    assert_int_equal(tpm_response_code(run(&m)), TPM_RC_INITIALIZE);
    startup(TPM_SU_CLEAR);
    assert_true(clock_info().reset_count > high.reset_count);
    assert_int_equal(lockout_counter(), 3);
}

static void an_audit_that_was_begun_ends(void **state)
{
    (void)state;
    struct tpm_message m;
    tpm_audit_get_random(&m);
    run_ok(&m);
    tpm_get_random(&m, 8);
    run_ok(&m);
    go_back_from(nothing_happens);
    const uint64_t counted = read_floors().audit_count;
    tpm_get_random(&m, 8);
    run_ok(&m);
    assert_int_equal(audit_count(), counted + 1); /* a digest of its own */
}

/* The snapshot's memory says when the last try failed: before all those that count now. */
static void years_since_the_snapshot_heal_no_later_guess(void **state)
{
    (void)state;
    define_guarded();
    suspend();
    resume();
    clock_advance(host_time += 10 * YEAR);
    (void)clock_info();
    lock_out();
    const struct tpm_floors floors = read_floors();
    go_back(&floors);
    assert_int_equal(lockout_counter(), 3);
    assert_int_equal(guess("secret"), TPM_RC_LOCKOUT);
    assert_int_equal(clear_lockout(""), TPM_RC_LOCKOUT);
    clock_advance(host_time += 10 * YEAR);
    assert_int_equal(lockout_counter(), 0); /* as it would have, from then on */
}

static void a_guess_that_was_cut_off_counts_when_it_goes_back(void **state)
{
    (void)state;
    define_guarded();
    suspend();
    resume();
    static struct state killed, snapshot;
    snapshot = permanent;
    (void)guess("secret");
    keep(&killed);
    power_on(&killed); /* and no startup */
    const struct tpm_floors floors = read_floors();
    permanent = snapshot;
    go_back(&floors);
    assert_int_equal(lockout_counter(), 1);
}

static void what_does_not_belong_together_is_not_gone_back_to(void **state)
{
    (void)state;
    const struct tpm_floors none = {0};
    suspend();
    resume();
    extend_and_define();
    keep(&newer);
    vanish();
    assert_err(tpm_go_back(&tpm, span_of_state(&newer), span_of_state(&suspended), &none), STATE_REJECTED);
    assert_false(tpm.on);
    go_back(&none);
}

static void floors_have_a_form_of_fixed_size(void **state)
{
    (void)state;
    uint8_t bytes[TPM_FLOORS_SIZE], again[TPM_FLOORS_SIZE];
    struct tpm_floors read;
    encode(&high, bytes);
    struct reader r = reader_of(span_of(bytes, sizeof bytes));
    assert_ok(tpm_floors_decode(&r, &read));
    assert_ok(reader_end(&r));
    encode(&read, again);
    assert_memory_equal(again, bytes, sizeof bytes);
    for (size_t cut = 0; cut < TPM_FLOORS_SIZE; cut++) {
        r = reader_of(span_of(bytes, cut));
        assert_err(tpm_floors_decode(&r, &read), TRUNCATED);
    }
    bytes[TPM_FLOORS_SIZE - 1] = 2;
    r = reader_of(span_of(bytes, sizeof bytes));
    assert_err(tpm_floors_decode(&r, &read), BAD_VALUE);
}

/* ---- time ---- */

/* What a host may say about the time between two commands. */
static const int64_t tricks[] = {
    0, 1, 60 * (int64_t)NS_PER_S, -(int64_t)(500 * NS_PER_S), (int64_t)(9 * YEAR), -(int64_t)(5 * YEAR)};
#define TRICKS (sizeof tricks / sizeof tricks[0])

/* A new life of the enclave, whose clock begins at what the host says. */
static void new_life(void)
{
    fake_runtime_reset();
    clock_advance(host_time);
}

static void stop(void)
{
    assert_ok(tpm_power_off(&tpm));
    keep(&permanent);
}

static void restart(void)
{
    stop();
    new_life();
    power_on(&permanent);
    startup(TPM_SU_CLEAR);
}

static void restart_as_resume(void)
{
    stop();
    new_life();
    power_on(&permanent);
    startup(TPM_SU_STATE);
}

static void migrate(void)
{
    suspend();
    new_life();
    resume();
}

static void migrate_and_drop_the_volatile_state(void)
{
    suspend();
    new_life();
    power_on(&permanent);
    startup(TPM_SU_CLEAR);
}

static void revert(void)
{
    static struct state old;
    keep(&old);
    struct tpm_message m;
    tpm_nv_define(&m, NEW_INDEX, 8); /* a commit of the time that is undone */
    run_ok(&m);
    clock_advance(host_time += 10 * NS_PER_S);
    struct tpm_floors floors = (clock_info(), read_floors());
    vanish();
    new_life();
    assert_ok(tpm_power_on_reverted(&tpm, span_of_state(&old), &floors));
    startup(TPM_SU_CLEAR);
}

static void load_an_old_snapshot(void)
{
    suspend();
    resume();
    clock_advance(host_time += 10 * NS_PER_S);
    struct tpm_floors floors = (clock_info(), read_floors());
    vanish();
    new_life();
    assert_ok(tpm_go_back(&tpm, span_of_state(&permanent), span_of_state(&suspended), &floors));
}

/* S4 */
static void clock_never_goes_back(void **state)
{
    (void)state;
    static void (*const events[])(void) = {nothing_happens,
                                           restart,
                                           restart_as_resume,
                                           reset_hard,
                                           reset_soft,
                                           migrate,
                                           migrate_and_drop_the_volatile_state,
                                           revert,
                                           load_an_old_snapshot};
    uint64_t clock = clock_info().clock;
    for (size_t event = 0; event < sizeof events / sizeof events[0]; event++) {
        for (size_t trick = 0; trick < 2 * TRICKS; trick++) {
            /* once before what happens, once after it */
            if (tricks[trick / 2] < 0 && host_time < (uint64_t)-tricks[trick / 2])
                host_time = 0;
            else
                host_time += (uint64_t)tricks[trick / 2];
            if (trick % 2) clock_advance(host_time);
            events[event]();
            clock_advance(host_time);
            uint64_t now = clock_info().clock;
            if (now < clock) fail_msg("event %zu, trick %zu: %lu ms, was %lu", event, trick / 2, now, clock);
            clock = now;
        }
    }
}

/* The newest state that was handed out is all that is left of this life. */
static void be_killed(void)
{
    keep(&permanent);
    new_life();
    power_on(&permanent);
    startup(TPM_SU_CLEAR);
}

/* libtpms puts Clock into a commit now and then, but makes none for it. */
static void clock_does_not_go_back_when_the_enclave_is_killed(void **state)
{
    (void)state;
    static const uint64_t seconds[] = {1, 3, 5, 1000, 1040, 1048, 1049, 1100, 5000, 1000000};
    struct span taken;
    for (int shut = 0; shut < 2; shut++) {
        for (size_t i = 0; i < sizeof seconds / sizeof seconds[0]; i++) {
            clock_advance(host_time += seconds[i] * NS_PER_S);
            if (shut) shut_down(TPM_SU_CLEAR); /* and yet it goes on */
            clock_advance(host_time += 100000000);
            uint64_t clock = clock_info().clock;
            be_killed();
            assert_true(clock_info().clock >= clock);
        }
    }
    (void)tpm_take_commit(&tpm, &taken);
    for (int i = 0; i < 100; i++) { /* within the reserve */
        clock_advance(host_time += NS_PER_S);
        (void)clock_info();
        assert_false(tpm_take_commit(&tpm, &taken));
    }
    be_killed();
    suspend();
    resume();
    (void)clock_info();
    assert_false(tpm_take_commit(&tpm, &taken));
}

/* TPM2_Startup counts nothing by Clock: what a kill adds to it heals no lockout. */
static void being_killed_hurries_nothing(void **state)
{
    (void)state;
    define_guarded();
    lock_out();
    for (int i = 0; i < 3; i++) {
        be_killed();
        assert_int_equal(lockout_counter(), 3);
        assert_int_equal(clear_lockout(""), TPM_RC_LOCKOUT);
    }
}

static void clock_is_in_the_first_commit_after_a_reset(void **state)
{
    (void)state;
    clock_advance(host_time += 3 * NS_PER_S); /* libtpms' own interval is 4.096 s */
    uint64_t clock = clock_info().clock;
    assert_in_range(clock, 3000, 4000);
    reset_hard();
    keep(&permanent);
    assert_true(tpm.stored_clock >= clock);
}

static void clock_goes_on_after_a_resume_in_the_hosts_past(void **state)
{
    (void)state;
    host_time = 2 * YEAR;
    clock_advance(host_time);
    (void)clock_info();
    suspend();
    host_time = YEAR;
    new_life();
    resume();
    uint64_t clock = clock_info().clock;
    clock_advance(host_time += 60 * NS_PER_S);
    assert_in_range(clock_info().clock - clock, 59000, 61000);
}

/* Ten years pass in one go: in a running TPM, before its startup, while it is suspended, while it is off. */
static void years_while_running(void)
{
    clock_advance(host_time += 10 * YEAR);
}

static void years_before_startup(void)
{
    shut_down(TPM_SU_CLEAR);
    assert_ok(tpm_reset(&tpm));
    years_while_running();
    startup(TPM_SU_CLEAR);
}

static void years_while_suspended(void)
{
    suspend();
    years_while_running();
    resume();
}

static void (*const ways_to_spend_years[])(void) = {years_while_running, years_before_startup, years_while_suspended};
#define WAYS (sizeof ways_to_spend_years / sizeof ways_to_spend_years[0])

static void by_time_a_fast_clock_heals_lockout(void **state)
{
    (void)state;
    define_guarded();
    for (size_t way = 0; way < WAYS; way++) {
        lock_out();
        ways_to_spend_years[way]();
        assert_int_equal(lockout_counter(), 0);
        assert_int_not_equal(guess("secret"), TPM_RC_LOCKOUT);
        assert_int_equal(clear_lockout(""), 0);
    }
}

static void assert_years_heal_nothing(enum lockout_heals heals)
{
    lockout_set_heals(heals);
    define_guarded();
    lock_out();
    for (size_t way = 0; way < WAYS; way++) {
        ways_to_spend_years[way]();
        assert_int_equal(lockout_counter(), 3);
        assert_int_equal(guess("secret"), TPM_RC_LOCKOUT);
        assert_int_equal(clear_lockout(""), TPM_RC_LOCKOUT);
    }
}

/* S4 */
static void by_starts_only_no_time_heals_lockout(void **state)
{
    (void)state;
    assert_years_heal_nothing(LOCKOUT_HEALS_START_ONLY);
}

static void by_nothing_no_time_heals_lockout(void **state)
{
    (void)state;
    assert_years_heal_nothing(LOCKOUT_HEALS_NEVER);
    restart();
    assert_int_equal(lockout_counter(), 3);
    assert_int_equal(clear_lockout(""), TPM_RC_LOCKOUT);
}

static void a_start_heals_one_failed_try(void **state)
{
    (void)state;
    lockout_set_heals(LOCKOUT_HEALS_START_ONLY);
    define_guarded();
    lock_out();
    restart();
    assert_int_equal(lockout_counter(), 2);
    assert_int_equal(guess("wrong"), TPM_RC_AUTH_FAIL);
    assert_int_equal(guess("wrong"), TPM_RC_LOCKOUT);
    assert_int_equal(clear_lockout("wrong"), TPM_RC_AUTH_FAIL);
    for (uint32_t left = 2;; left--) {
        restart();
        assert_int_equal(lockout_counter(), left);
        if (left == 0) break;
    }
    restart();
    assert_int_equal(lockout_counter(), 0);
    assert_int_equal(clear_lockout(""), 0);
}

/* A life that guessed and crashed counts as a failed try: the next start heals that one. */
static void crashing_wins_no_guess(void **state)
{
    (void)state;
    lockout_set_heals(LOCKOUT_HEALS_START_ONLY);
    define_guarded();
    lock_out();
    keep(&permanent);
    for (int i = 0; i < 3; i++) {
        power_on(&permanent); /* as it was before the orderly power-off */
        startup(TPM_SU_CLEAR);
        assert_int_equal(lockout_counter(), 3);
        assert_int_equal(guess("secret"), TPM_RC_LOCKOUT);
    }
}

/* What the holder of lockoutAuth can do does not depend on time. */
static void lockout_auth_clears_lockout_under_each_policy(void **state)
{
    (void)state;
    struct tpm_message m;
    define_guarded();
    for (int heals = LOCKOUT_HEALS_TIME; heals <= LOCKOUT_HEALS_NEVER; heals++) {
        lockout_set_heals((enum lockout_heals)heals);
        fail_tries(3);
        assert_int_equal(clear_lockout(""), 0);
        assert_int_equal(lockout_counter(), 0);
        fail_tries(1);
        tpm_da_parameters(&m, 3, 0, 1000); /* no lockout any more */
        run_ok(&m);
        assert_int_equal(lockout_counter(), 0);
        tpm_da_parameters(&m, 3, 1000, 1000);
        run_ok(&m);
    }
}

int main(void)
{
#define TPM_TEST(test) cmocka_unit_test_setup_teardown(test, power_on_new, power_off)
    const struct CMUnitTest tests[] = {
        TPM_TEST(a_resumed_tpm_goes_on),
        TPM_TEST(a_resumed_tpm_is_shut_down_as_any),
        TPM_TEST(resuming_leaves_the_clients_shutdown_as_it_was),
        TPM_TEST(a_tpm_that_was_not_started_is_resumed_not_started),
        TPM_TEST(two_resumes_of_one_state_draw_differently),
        TPM_TEST(a_commit_from_before_a_resume_is_forgotten),
        TPM_TEST(each_load_stirs_before_any_command),
        TPM_TEST(a_volatile_state_that_does_not_belong_is_refused),
        TPM_TEST(a_cut_volatile_state_is_refused),
        TPM_TEST(a_volatile_state_that_finds_no_memory_is_not_left_out),
        TPM_TEST(failure_mode_is_not_suspended),
        TPM_TEST(what_is_too_large_is_not_suspended),
        TPM_TEST(suspending_does_not_unlock_lockout_auth),
        TPM_TEST(floors_are_what_commands_answer),
        TPM_TEST(resets_are_counted_as_commands_count_them),
        TPM_TEST(the_highest_counter_is_found),
        TPM_TEST(an_older_state_is_raised_to_each_floor),
        TPM_TEST(an_orderly_counter_is_raised_too),
        TPM_TEST(floors_below_the_state_change_nothing),
        TPM_TEST(what_was_raised_is_committed),
        TPM_TEST(a_revert_cannot_be_started_as_a_resume),
        TPM_TEST(a_revert_is_as_orderly_as_its_state),
        TPM_TEST(a_guess_that_was_cut_off_counts_after_a_revert),
        TPM_TEST(saved_contexts_of_any_time_are_refused_after_a_revert),
        TPM_TEST(a_tpm_that_went_back_goes_on_without_a_startup),
        TPM_TEST(what_goes_back_is_raised_to_each_floor),
        TPM_TEST(a_new_counter_begins_behind_all_that_there_were),
        TPM_TEST(each_going_back_to_one_snapshot_is_one_reset_more),
        TPM_TEST(what_went_back_is_committed_as_it_was_raised),
        TPM_TEST(sessions_and_contexts_of_both_times_end),
        TPM_TEST(two_goings_back_to_one_snapshot_draw_differently),
        TPM_TEST(what_went_back_is_never_started_as_a_resume),
        TPM_TEST(one_that_was_not_started_is_started_anew),
        TPM_TEST(an_audit_that_was_begun_ends),
        TPM_TEST(years_since_the_snapshot_heal_no_later_guess),
        TPM_TEST(a_guess_that_was_cut_off_counts_when_it_goes_back),
        TPM_TEST(what_does_not_belong_together_is_not_gone_back_to),
        TPM_TEST(floors_have_a_form_of_fixed_size),
        TPM_TEST(clock_never_goes_back),
        TPM_TEST(clock_does_not_go_back_when_the_enclave_is_killed),
        TPM_TEST(being_killed_hurries_nothing),
        TPM_TEST(clock_is_in_the_first_commit_after_a_reset),
        TPM_TEST(clock_goes_on_after_a_resume_in_the_hosts_past),
        TPM_TEST(by_time_a_fast_clock_heals_lockout),
        TPM_TEST(by_starts_only_no_time_heals_lockout),
        TPM_TEST(by_nothing_no_time_heals_lockout),
        TPM_TEST(a_start_heals_one_failed_try),
        TPM_TEST(crashing_wins_no_guess),
        TPM_TEST(lockout_auth_clears_lockout_under_each_policy),
    };
    return cmocka_run_group_tests_name("going_back", tests, NULL, NULL);
}
